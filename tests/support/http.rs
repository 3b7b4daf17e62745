//! A server on loopback that answers as an OpenAI-compatible endpoint does, and fails as it is told to.
//!
//! Its model is a hash: the same request gives the same answer, from whichever server. Small HTTP/1.1:
//! one thread a connection, `Content-Length` bodies, connections kept open.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
    /// How often the same body came before, to any server with the same `Attempts`.
    pub attempt: usize,
    pub at: Instant,
}

pub enum Reply {
    /// Status, one more header, body.
    Json(u16, Option<(&'static str, String)>, Value),
    /// The connection ends after this many bytes of a good answer; 0 is no answer at all.
    Cut(usize, Value),
    /// Whole HTTP, half of the JSON.
    HalfJson(Value),
    Slow(Duration, Value),
}

pub fn ok(body: Value) -> Reply {
    Reply::Json(200, None, body)
}

pub fn error(status: u16, message: &str) -> Reply {
    Reply::Json(status, None, json!({ "error": { "message": message } }))
}

/// Counts of requests by body.
pub type Attempts = Arc<Mutex<HashMap<String, usize>>>;

pub struct Server {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    stopped: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    log: Mutex<Vec<Asked>>,
    attempts: Attempts,
    in_flight: AtomicUsize,
    peak: AtomicUsize,
}

type Answering = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

impl Server {
    /// A server that answers `answering` to every POST, and serves the model `m`.
    pub fn start(answering: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(0, &Attempts::default(), answering)
    }

    pub fn start_at(
        port: u16,
        attempts: &Attempts,
        answering: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
            log: Mutex::default(),
            attempts: attempts.clone(),
            in_flight: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        let answering: Answering = Arc::new(answering);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let (shared, answering) = (shared.clone(), answering.clone());
                std::thread::spawn(move || {
                    let _ = serve(&stream, &shared, &answering);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, state }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn reference(&self) -> String {
        format!("{}#m", self.address())
    }

    /// The POST requests so far.
    pub fn log(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }

    /// The most requests that were in flight at once.
    pub fn peak(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// Dies: open connections break, new ones are refused.
    pub fn kill(&self) {
        self.state.kill(self.port);
    }

    /// Something that kills this server.
    pub fn killer(&self) -> impl Fn() + Send + Sync + 'static {
        let (state, port) = (self.state.clone(), self.port);
        move || state.kill(port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl State {
    fn kill(&self, port: u16) {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        // Wakes the listener, which then closes its port.
        let _ = TcpStream::connect(("127.0.0.1", port));
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn serve(stream: &TcpStream, state: &State, answering: &Answering) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let Some((method, path, authorization, body)) = read_request(&mut reader)? else {
            return Ok(());
        };
        if method == "GET" {
            let list = json!({ "object": "list", "data": [{ "id": "m" }, { "id": "other-model" }] });
            send(stream, 200, None, &list.to_string())?;
            continue;
        }
        let in_flight = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.peak.fetch_max(in_flight, Ordering::SeqCst);
        let attempt = {
            let mut attempts = state.attempts.lock().unwrap();
            let count = attempts.entry(body.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let asked = Asked {
            path,
            authorization,
            body: serde_json::from_str(&body).unwrap(),
            attempt,
            at: Instant::now(),
        };
        state.log.lock().unwrap().push(asked.clone());
        let reply = answering(&asked);
        // Before the answer goes out: with it, the client may send its next request.
        state.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !respond(stream, reply)? {
            return Ok(());
        }
    }
}

type Request = (String, String, Option<String>, String);

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((method, path, authorization, String::from_utf8(body).unwrap())))
}

/// Whether the connection goes on.
fn respond(stream: &TcpStream, reply: Reply) -> std::io::Result<bool> {
    match reply {
        Reply::Json(status, header, body) => send(stream, status, header, &body.to_string())?,
        Reply::HalfJson(body) => {
            let body = body.to_string();
            send(stream, 200, None, &body[..body.len() / 2])?;
        }
        Reply::Slow(wait, body) => {
            // The head at once, the body late.
            let body = body.to_string();
            write!(
                &mut &*stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )?;
            std::thread::sleep(wait);
            (&mut &*stream).write_all(body.as_bytes())?;
        }
        Reply::Cut(bytes, body) => {
            let whole = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.to_string().len()
            );
            (&mut &*stream).write_all(&whole.as_bytes()[..bytes.min(whole.len() - 1)])?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn send(
    mut stream: &TcpStream,
    status: u16,
    header: Option<(&'static str, String)>,
    body: &str,
) -> std::io::Result<()> {
    let header = header.map_or_else(String::new, |(name, value)| format!("{name}: {value}\r\n"));
    let head = format!("HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{header}");
    let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(whole.as_bytes())
}

// ---- the model -----------------------------------------------------------------------------------

/// FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The good answer to a request: a text that follows from prompt and seed, with log-probabilities if they
/// are asked for, in the layout of the path.
pub fn model(asked: &Asked) -> Value {
    let body = &asked.body;
    let prompt = if body["messages"].is_null() {
        &body["prompt"]
    } else {
        &body["messages"]
    }
    .to_string();
    let hash = hash(&format!("{prompt}{}", body["seed"]));
    let chat = asked.path.ends_with("/chat/completions");
    // A judge's question has one token for an answer: what is drawn is of no account, as the list is.
    let p = 0.05 + 0.8 * (self::hash(&prompt) % 1000) as f64 / 1000.0;
    let top = [(" A", p * 0.25), ("A", p * 0.75), ("B", 0.9 - p), ("The", 0.1)].map(|(token, p)| (token, p.ln()));
    let drawn = top[attempt_draw(asked)];
    let list = |(token, logprob): (&str, f64)| json!({ "token": token, "logprob": logprob });
    let logprobs = match (&body["logprobs"], chat) {
        (Value::Null, _) => Value::Null,
        (_, true) => {
            let mut token = list(drawn);
            token["top_logprobs"] = top.map(list).to_vec().into();
            json!({ "content": [token] })
        }
        (_, false) => json!({
            "tokens": [drawn.0], "token_logprobs": [drawn.1],
            "top_logprobs": [top.iter().map(|(token, p)| ((*token).to_owned(), json!(p))).collect::<serde_json::Map<_, _>>()],
        }),
    };
    let text = format!(" word{} and {:04x}", hash % 7, hash >> 48);
    let mut choice = json!({ "index": 0, "finish_reason": "stop", "logprobs": logprobs });
    if chat {
        choice["message"] = json!({ "role": "assistant", "content": text });
    } else {
        choice["text"] = text.into();
    }
    let tokens = 3 + prompt.split_whitespace().count();
    json!({ "choices": [choice], "usage": { "prompt_tokens": tokens, "completion_tokens": 4 } })
}

/// For a generation the log-probability follows the request; for a judge's question any draw will do.
fn attempt_draw(asked: &Asked) -> usize {
    if asked.body["max_tokens"] == 1 {
        asked.attempt % 4
    } else {
        0
    }
}

/// The seeded plan of faults: about every other request has up to two, then it is answered.
pub fn faulty(seed: u64, slow: Duration) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| {
        let answer = model(asked);
        if asked.attempt >= 2 {
            return ok(answer);
        }
        match hash(&format!("{seed} {} {}", asked.attempt, asked.body)) >> 13 & 15 {
            0 => Reply::Json(429, Some(("retry-after", "0".to_owned())), json!({ "error": "busy" })),
            1 => error(429, "busy"),
            2 => error(500, "a kernel failed"),
            3 => error(503, "loading"),
            4 => Reply::HalfJson(answer),
            5 => Reply::Cut(0, answer),
            6 => Reply::Cut(60, answer),
            7 => Reply::Slow(slow, answer),
            8 => Reply::Json(200, None, json!({ "error": { "message": "cancelled" } })),
            _ => ok(answer),
        }
    }
}
