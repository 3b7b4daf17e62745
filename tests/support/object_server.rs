//! A server on loopback that answers as S3 does, as Google Cloud Storage's XML interface, which differs in
//! some headers, and as Azure ([`azure`]), and fails as it is told to.
//!
//! Path-style addresses, one connection a request. Conditions (`If-Match`, `If-None-Match`) hold under one
//! lock, so they are as atomic as a store's. Signatures are not checked; requests are kept as they came.
//! Its clock is its own.

#[path = "object_azure.rs"]
mod azure;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

pub const BUCKET: &str = "bucket";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// Below the bucket, decoded.
    pub key: String,
    pub query: HashMap<String, String>,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The user metadata of that name, with any provider's prefix.
    fn owner(&self) -> Option<String> {
        let of = |provider| self.header(&format!("x-{provider}-meta-owner"));
        ["amz", "goog", "ms"].into_iter().find_map(of).map(str::to_owned)
    }

    /// The object that is to be copied, if one is: `BUCKET/KEY`, or an address that ends so.
    fn copied(&self) -> Option<String> {
        let of = |provider| self.header(&format!("x-{provider}-copy-source"));
        let source = decoded(["amz", "goog", "ms"].into_iter().find_map(of)?);
        let (_, key) = source.split_once(&format!("{BUCKET}/"))?;
        Some(key.to_owned())
    }

    /// Such as `PUT a/b`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.key)
    }
}

/// What goes wrong with one answer.
pub enum Fault {
    /// A status and a code, and nothing is done.
    Status(u16, &'static str),
    /// The connection ends before anything is done.
    Reset,
    /// All is done, but the answer is lost.
    Lost,
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// The body has only this many bytes, and the headers say so.
    Short(usize),
    /// The body is the whole object, whatever part was asked for.
    Whole,
    /// Conditions are not looked at.
    Careless,
    /// The answer takes its time.
    Slow(Duration),
    /// Just before, another client writes this object.
    Race(String, Vec<u8>),
}

#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Vec<u8>,
    pub etag: String,
    modified: u64,
    owner: Option<String>,
    generation: u64,
}

type Plan = Box<dyn Fn(&Asked, usize) -> Option<Fault> + Send + Sync>;

#[derive(Default)]
struct Upload {
    parts: BTreeMap<u32, Vec<u8>>,
    owner: Option<String>,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Object>,
    uploads: HashMap<String, Upload>,
    /// Azure's, by key and name.
    blocks: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Writes so far.
    generation: u64,
    log: Vec<Asked>,
    /// Seconds that the clock is ahead.
    ahead: u64,
}

struct State {
    store: Mutex<Store>,
    plan: Mutex<Plan>,
    /// Names to a page of a listing.
    page: usize,
}

#[derive(Clone)]
pub struct Server {
    port: u16,
    state: Arc<State>,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            store: Mutex::default(),
            plan: Mutex::new(Box::new(|_, _| None)),
            page: 3,
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || {
                    let _ = state.serve(&stream);
                });
            }
        });
        Self { port, state }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `plan` says what is wrong with the answer to a request, given how often the same line came since.
    pub fn plan(&self, plan: impl Fn(&Asked, usize) -> Option<Fault> + Send + Sync + 'static) {
        self.state.store.lock().unwrap().log.clear();
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    pub fn log(&self) -> Vec<Asked> {
        self.state.store.lock().unwrap().log.clone()
    }

    pub fn count(&self, line: &str) -> usize {
        self.log().iter().filter(|asked| asked.line() == line).count()
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let store = self.state.store.lock().unwrap();
        store.objects.get(key).map(|object| object.bytes.clone())
    }

    pub fn names(&self) -> Vec<String> {
        self.state.store.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Another client writes.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.state
            .store
            .lock()
            .unwrap()
            .put(key, bytes.to_vec(), Some("elsewhere-7-0".into()));
    }

    pub fn delete(&self, key: &str) {
        self.state.store.lock().unwrap().objects.remove(key);
    }

    /// The server's clock jumps.
    pub fn advance(&self, seconds: u64) {
        self.state.store.lock().unwrap().ahead += seconds;
    }
}

impl Store {
    fn put(&mut self, key: &str, bytes: Vec<u8>, owner: Option<String>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let digest = Sha256::digest(&bytes);
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = format!("\"{digits}\"");
        self.generation += 1;
        let object = Object {
            generation: self.generation,
            bytes,
            etag: etag.clone(),
            modified: now + self.ahead,
            owner,
        };
        self.objects.insert(key.to_owned(), object);
        etag
    }

    /// What stands against a conditional write.
    fn refusal(&self, asked: &Asked) -> Option<Answer> {
        let there = self.objects.get(&asked.key);
        if asked.header("if-none-match") == Some("*") && there.is_some() {
            return Some(error(412, "PreconditionFailed"));
        }
        // Google's condition; of no object, it is 0.
        if let Some(wanted) = asked.header("x-goog-if-generation-match")
            && wanted != there.map_or(0, |object| object.generation).to_string()
        {
            return Some(error(412, "PreconditionFailed"));
        }
        match (asked.header("if-match"), there) {
            (Some(_), None) => Some(error(404, "NoSuchKey")),
            (Some(wanted), Some(object)) if wanted != object.etag => Some(error(412, "PreconditionFailed")),
            _ => None,
        }
    }

    fn answer(&mut self, asked: &Asked, page: usize) -> Answer {
        if let Some(answer) = self.azure(asked, page) {
            return answer;
        }
        let query = |name: &str| asked.query.get(name).map(String::as_str);
        match asked.method.as_str() {
            "GET" if query("list-type") == Some("2") => self.list(asked, page),
            "GET" | "HEAD" => self.get(asked),
            "PUT" if query("partNumber").is_some() => self.put_part(asked),
            "PUT" => {
                if let Some(refusal) = self.refusal(asked) {
                    return refusal;
                }
                let bytes = match asked.copied().map(|key| self.objects.get(&key)) {
                    Some(None) => return error(404, "NoSuchKey"),
                    Some(Some(object)) => object.bytes.clone(),
                    None => asked.body.clone(),
                };
                let etag = self.put(&asked.key, bytes, asked.owner());
                let generation = self.generation;
                ok(
                    format!("ETag: {etag}\r\nx-goog-generation: {generation}\r\n"),
                    Vec::new(),
                )
            }
            "POST" if query("uploads").is_some() => {
                let id = format!("upload-{}", self.uploads.len());
                let owner = asked.owner();
                let upload = Upload {
                    owner,
                    ..Upload::default()
                };
                self.uploads.insert(id.clone(), upload);
                let (bucket, key) = (BUCKET, &asked.key);
                xml(format!(
                    "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                ))
            }
            "POST" => self.complete(asked),
            "DELETE" if query("uploadId").is_some() => {
                self.uploads.remove(query("uploadId").unwrap());
                Answer::empty(204)
            }
            "DELETE" => {
                self.objects.remove(&asked.key);
                Answer::empty(204)
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn get(&self, asked: &Asked) -> Answer {
        let Some(object) = self.objects.get(&asked.key) else {
            return error(404, "NoSuchKey");
        };
        let mut headers = format!("ETag: {}\r\nLast-Modified: {}\r\n", object.etag, date(object.modified));
        headers += &format!("x-goog-generation: {}\r\n", object.generation);
        if let Some(owner) = &object.owner {
            for provider in ["amz", "goog", "ms"] {
                headers += &format!("x-{provider}-meta-owner: {owner}\r\n");
            }
        }
        let size = object.bytes.len();
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((start, end)) = range.and_then(|range| range.split_once('-')) else {
            return ok(headers, object.bytes.clone());
        };
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(size, |end: usize| (end + 1).min(size));
        if start >= size {
            return error(416, "InvalidRange");
        }
        Answer {
            status: 206,
            headers: headers + &format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1),
            body: object.bytes[start..end].to_vec(),
        }
    }

    fn put_part(&mut self, asked: &Asked) -> Answer {
        let copied = asked.copied();
        let bytes = match copied.as_ref().map(|key| self.objects.get(key)) {
            Some(None) => return error(404, "NoSuchKey"),
            Some(Some(object)) => object.bytes.clone(),
            None => asked.body.clone(),
        };
        let Some(Upload { parts, .. }) = self.uploads.get_mut(&asked.query["uploadId"]) else {
            return error(404, "NoSuchUpload");
        };
        let number = asked.query["partNumber"].parse().unwrap();
        parts.insert(number, bytes);
        match copied {
            Some(_) => xml(format!("<CopyPartResult><ETag>\"{number}\"</ETag></CopyPartResult>")),
            None => ok(format!("ETag: \"{number}\"\r\n"), Vec::new()),
        }
    }

    fn complete(&mut self, asked: &Asked) -> Answer {
        if let Some(refusal) = self.refusal(asked) {
            return refusal;
        }
        let Some(Upload { parts, owner }) = self.uploads.remove(&asked.query["uploadId"]) else {
            return error(404, "NoSuchUpload");
        };
        let parts: Vec<Vec<u8>> = parts.into_values().collect();
        let bytes = parts.concat();
        let etag = self.put(&asked.key, bytes, owner);
        xml(format!(
            "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
            etag.replace('"', "&quot;")
        ))
    }

    /// The next names of a listing, and where it goes on.
    fn page(&self, asked: &Asked, marker: &str, page: usize) -> (Vec<String>, Option<String>) {
        let empty = String::new();
        let prefix = asked.query.get("prefix").unwrap_or(&empty);
        let after = asked.query.get(marker).unwrap_or(&empty);
        let below = |key: &&String| key.starts_with(prefix.as_str()) && (after.is_empty() || *key > after);
        let mut names: Vec<String> = self.objects.keys().filter(below).cloned().collect();
        let more = names.len() > page;
        names.truncate(page);
        let marker = more.then(|| names[page - 1].clone());
        (names, marker)
    }

    fn list(&self, asked: &Asked, page: usize) -> Answer {
        let (names, marker) = self.page(asked, "continuation-token", page);
        let mut text = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
        if let Some(marker) = marker {
            text += &format!("<NextContinuationToken>{marker}</NextContinuationToken>");
        }
        let (files, folders) = folded(asked, names);
        for name in files {
            let object = &self.objects[&name];
            text += &format!(
                "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                object.bytes.len(),
                iso(object.modified),
                object.etag.replace('"', "&quot;")
            );
        }
        for folder in folders {
            text += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
        }
        xml(text + "</ListBucketResult>")
    }
}

/// Names, and the folders that some of them fall to if the request has a delimiter.
fn folded(asked: &Asked, names: Vec<String>) -> (Vec<String>, Vec<String>) {
    let prefix = asked.query.get("prefix").map_or(0, String::len);
    let folder = |name: &str| {
        asked.query.get("delimiter")?;
        Some(name[..prefix + name[prefix..].find('/')? + 1].to_owned())
    };
    let mut folders: Vec<String> = names.iter().filter_map(|name| folder(name)).collect();
    folders.dedup();
    let files = names.into_iter().filter(|name| folder(name).is_none()).collect();
    (files, folders)
}

impl State {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let Some(mut asked) = read(&mut BufReader::new(stream))? else {
            return Ok(());
        };
        let before = {
            let log = &mut self.store.lock().unwrap().log;
            let before = log.iter().filter(|other| other.line() == asked.line()).count();
            log.push(asked.clone());
            before
        };
        let fault = (self.plan.lock().unwrap())(&asked, before);
        let mut cut = None;
        match &fault {
            Some(Fault::Status(status, code)) => {
                let mut answer = error(*status, code);
                if asked.method == "HEAD" {
                    answer.body.clear();
                }
                return send(stream, &answer, None);
            }
            Some(Fault::Reset) => return Ok(()),
            Some(Fault::Careless) => asked.headers.retain(|name, _| !name.contains("if-")),
            Some(Fault::Whole) => drop(asked.headers.remove("range")),
            Some(Fault::Slow(wait)) => std::thread::sleep(*wait),
            Some(Fault::Race(key, bytes)) => {
                let other = Some("elsewhere-7-0".to_owned());
                self.store.lock().unwrap().put(key, bytes.clone(), other);
            }
            _ => {}
        }
        let mut answer = self.store.lock().unwrap().answer(&asked, self.page);
        match fault {
            Some(Fault::Lost) => return Ok(()),
            Some(Fault::Cut(bytes)) => cut = Some(bytes),
            Some(Fault::Short(bytes)) => answer.body.truncate(bytes),
            _ => {}
        }
        if asked.method == "HEAD" {
            answer.headers += &format!("Content-Length: {}\r\n", answer.body.len());
            return head(stream, &answer);
        }
        send(stream, &answer, cut)
    }
}

impl Answer {
    fn empty(status: u16) -> Self {
        Self {
            status,
            headers: String::new(),
            body: Vec::new(),
        }
    }
}

fn ok(headers: String, body: Vec<u8>) -> Answer {
    Answer {
        status: 200,
        headers,
        body,
    }
}

fn xml(text: String) -> Answer {
    ok("Content-Type: application/xml\r\n".into(), text.into_bytes())
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>says the store</Message></Error>");
    Answer {
        status,
        headers: "Content-Type: application/xml\r\n".into(),
        body: body.into_bytes(),
    }
}

fn send(mut stream: &TcpStream, answer: &Answer, cut: Option<usize>) -> std::io::Result<()> {
    let Answer { status, headers, body } = answer;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body[..cut.unwrap_or(length).min(length)])?;
    stream.flush()
}

fn head(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let Answer { status, headers, .. } = answer;
    write!(stream, "HTTP/1.1 {status} x\r\n{headers}Connection: close\r\n\r\n")?;
    stream.flush()
}

fn read(stream: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = decoded(path.trim_start_matches('/'));
    let key = key
        .strip_prefix(BUCKET)
        .unwrap_or(&key)
        .trim_start_matches('/')
        .to_owned();
    let query = query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    });
    Ok(Some(Asked {
        method,
        key,
        query: query.collect(),
        headers,
        body,
    }))
}

/// Percent signs and pluses undone.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        match (first, others) {
            (b'%', [a, b, others @ ..]) => {
                let digits = [*a, *b];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = others;
            }
            (byte, others) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Year, month, day, and the seconds of the day, of seconds since 1970 (H. Hinnant's `civil_from_days`).
fn civil(seconds: u64) -> (u64, u64, u64, u64) {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    (era * 400 + year + u64::from(month <= 2), month, day, seconds % 86_400)
}

fn iso(seconds: u64) -> String {
    let (year, month, day, rest) = civil(seconds);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (year, month, day, rest) = civil(seconds);
    let weekday = DAYS[(seconds / 86_400 % 7) as usize];
    let month = MONTHS[month as usize - 1];
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}
