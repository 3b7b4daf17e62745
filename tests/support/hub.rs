//! A server on loopback that answers as the Hugging Face hub does, with one repository, and fails as it
//! is told to. Small files come from the hub itself; large ones are redirected to storage at another
//! address. One thread and one request a connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What is wrong with the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Status(u16, &'static str),
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// After these bytes nothing comes for a long time.
    Stall(usize),
    /// The first byte is another.
    Corrupt,
    /// The range is not heeded.
    Whole,
}

/// What the hub has.
#[derive(Default)]
pub struct Repository {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// More names that it lists, without content.
    pub names: Vec<String>,
    /// The listing says nothing of sizes and checksums, as with some mirrors.
    pub bare: bool,
}

type Plan = Box<dyn Fn(&Asked, usize) -> Option<Fault> + Send + Sync>;

pub struct Hub {
    port: u16,
    state: Arc<State>,
}

struct State {
    repository: Mutex<Repository>,
    log: Mutex<Vec<Asked>>,
    plan: Plan,
    storage: u16,
}

/// Files of this many bytes are large.
const LARGE: usize = 4096;

pub fn sha256(bytes: &[u8]) -> String {
    digits(&Sha256::digest(bytes))
}

/// As `git hash-object` has it.
pub fn git_sha1(bytes: &[u8]) -> String {
    let mut hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    digits(&hash.finalize())
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    pub fn start(repository: Repository) -> Self {
        Self::faulty(repository, |_, _| None)
    }

    /// `plan` says what is wrong with the answer to a request, given how often the same came before.
    pub fn faulty(
        repository: Repository,
        plan: impl Fn(&Asked, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let [hub, storage] = [(), ()].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let port = hub.local_addr().unwrap().port();
        let state = Arc::new(State {
            repository: Mutex::new(repository),
            log: Mutex::default(),
            plan: Box::new(plan),
            storage: storage.local_addr().unwrap().port(),
        });
        for listener in [hub, storage] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || {
                        let _ = state.serve(&stream);
                    });
                }
            });
        }
        Self { port, state }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }

    /// The requests for a file's bytes.
    pub fn asked(&self, name: &str) -> Vec<Asked> {
        let about = |asked: &Asked| asked.method == "GET" && asked.path.ends_with(&format!("/{name}"));
        self.log().into_iter().filter(about).collect()
    }

    /// The repository moves on.
    pub fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.state.repository.lock().unwrap());
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let Some(asked) = read(&mut BufReader::new(stream))? else {
            return Ok(());
        };
        let before = {
            let mut log = self.log.lock().unwrap();
            let same = |other: &&Asked| other.method == asked.method && other.path == asked.path;
            let before = log.iter().filter(same).count();
            log.push(asked.clone());
            before
        };
        let fault = (self.plan)(&asked, before);
        if let Some(Fault::Status(status, code)) = fault {
            let header = format!("x-error-code: {code}\r\nx-error-message: no, says the hub\r\n");
            return send(stream, status, &header, b"", asked.method == "HEAD", None);
        }
        let repository = self.repository.lock().unwrap();
        if asked.path.starts_with("/api/models/org/name/revision/") {
            let body = repository.listing().to_string();
            return send(stream, 200, "", body.as_bytes(), false, fault);
        }
        let (place, name) = asked.path.rsplit_once('/').unwrap();
        let Some(content) = repository.files.get(name).cloned() else {
            let body = br#"{"error": "Entry not found"}"#;
            return send(stream, 404, "x-error-code: EntryNotFound\r\n", body, false, None);
        };
        drop(repository);
        let large = content.len() >= LARGE;
        if large && !place.starts_with("/storage") {
            let header = format!(
                "location: http://127.0.0.1:{}/storage/{name}\r\nx-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n",
                self.storage,
                sha256(&content),
                content.len()
            );
            return send(stream, 302, &header, b"", asked.method == "HEAD", None);
        }
        self.send_file(stream, &asked, content, fault)
    }

    fn send_file(
        &self,
        stream: &TcpStream,
        asked: &Asked,
        mut content: Vec<u8>,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let header = format!("etag: \"{}\"\r\n", git_sha1(&content));
        if fault == Some(Fault::Corrupt) {
            content[0] ^= 1;
        }
        let from = asked.range.as_ref().filter(|_| fault != Some(Fault::Whole));
        let from = from.map(|range| {
            range
                .strip_prefix("bytes=")
                .unwrap()
                .trim_end_matches('-')
                .parse()
                .unwrap()
        });
        let head = asked.method == "HEAD";
        match from {
            Some(from) => {
                let range = format!(
                    "content-range: bytes {from}-{}/{}\r\n",
                    content.len() - 1,
                    content.len()
                );
                send(stream, 206, &(header + &range), &content[from..], head, fault)
            }
            None => send(stream, 200, &header, &content, head, fault),
        }
    }
}

impl Repository {
    pub fn of(commit: u8, files: &[(&str, &[u8])]) -> Self {
        Self {
            commit: format!("{commit:02x}").repeat(20),
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect(),
            ..Self::default()
        }
    }

    fn listing(&self) -> Value {
        let files = self.files.iter().map(|(name, content)| {
            let mut file = json!({ "rfilename": name });
            if !self.bare {
                file["size"] = content.len().into();
                file["blobId"] = git_sha1(content).into();
                if content.len() >= LARGE {
                    file["lfs"] = json!({ "sha256": sha256(content), "size": content.len(), "pointerSize": 134 });
                    // Of the pointer.
                    file["blobId"] = git_sha1(b"pointer").into();
                }
            }
            file
        });
        let names = self
            .names
            .iter()
            .map(|name| json!({ "rfilename": name, "size": 1, "blobId": git_sha1(b"x") }));
        json!({ "id": "org/name", "sha": self.commit, "siblings": files.chain(names).collect::<Vec<_>>() })
    }
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut asked = Asked {
        method,
        path: path.split('?').next().unwrap().to_owned(),
        range: None,
        authorization: None,
    };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            return Ok(Some(asked));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn send(
    mut stream: &TcpStream,
    status: u16,
    header: &str,
    body: &[u8],
    head: bool,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    match fault {
        _ if head => Ok(()),
        Some(Fault::Cut(bytes)) => stream.write_all(&body[..bytes.min(length)]),
        Some(Fault::Stall(bytes)) => {
            stream.write_all(&body[..bytes.min(length)])?;
            stream.flush()?;
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        _ => stream.write_all(body),
    }
}
