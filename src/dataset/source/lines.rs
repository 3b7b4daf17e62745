//! JSON Lines: one JSON object to a line, and the lines that are not.
//!
//! Knows nothing of what the objects mean. A bad line never ends the reading, and a line of any length
//! takes no more memory than the limit.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use super::tap::{BLOCK, Tap};
use super::{Place, Record, json};
use crate::error::Result;

/// Bytes of a record over the limit that its reject keeps.
const KEPT: usize = 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub struct Lines {
    reader: BufReader<Tap>,
    limit: usize,
    /// Lines read so far, blank ones included.
    number: usize,
    buffer: Vec<u8>,
}

impl Lines {
    pub fn open(path: &Path, limit: usize) -> Result<Self> {
        Ok(Self {
            reader: BufReader::with_capacity(BLOCK, Tap::open(path)?),
            limit,
            number: 0,
            buffer: Vec::new(),
        })
    }

    pub fn tap(&self) -> &Tap {
        self.reader.get_ref()
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let length = self.line()?;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            let place = Place::Line(self.number);
            let bytes = match self.number {
                // Some editors put a byte-order mark in front.
                1 => self.buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.buffer),
                _ => &self.buffer,
            };
            if length > self.limit {
                return Ok(Some(too_long("line", place, bytes, length, self.limit)));
            }
            let bytes = bytes.trim_ascii();
            if !bytes.is_empty() {
                let object = object(bytes, None);
                return Ok(Some(Record::text(place, object, text(bytes))));
            }
        }
    }

    /// Reads one line into the buffer, the head of it where it is over the limit; returns how long it is.
    fn line(&mut self) -> Result<usize> {
        self.buffer.clear();
        // One long line must not take its room to the end of the file.
        self.buffer.shrink_to(BLOCK);
        let mut length = 0;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.reader.get_ref().failed(error)),
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            length += taken;
            keep(&mut self.buffer, &available[..taken], length <= self.limit);
            self.reader.consume(taken);
            if end.is_some() || taken == 0 {
                return Ok(length);
            }
        }
    }
}

/// Takes `bytes` of a record into its buffer; of one over the limit only its head is kept.
pub fn keep(buffer: &mut Vec<u8>, bytes: &[u8], within_limit: bool) {
    if within_limit {
        buffer.extend_from_slice(bytes);
        return;
    }
    let missing = KEPT.saturating_sub(buffer.len()).min(bytes.len());
    buffer.extend_from_slice(&bytes[..missing]);
    if buffer.len() > KEPT {
        buffer.truncate(KEPT);
        buffer.shrink_to_fit();
    }
}

/// The reject of a record of which only the beginning was kept.
pub fn too_long(what: &str, place: Place, head: &[u8], length: usize, limit: usize) -> Record {
    let reason = format!("the {what} has {length} bytes, more than the limit of {limit}");
    let head = &head[..head.len().min(KEPT)];
    Record::text(place, Err(reason), format!("{} …", text(head)))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The object that `bytes` spell. `start` is the line and the column, from 0, where they begin, if they may
/// span several lines.
pub fn object(bytes: &[u8], start: Option<(usize, usize)>) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))?;
    match json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("expected a JSON object, found {}", type_name(&other))),
        Err(error) => Err(invalid(text, start, &error)),
    }
}

fn invalid(text: &str, start: Option<(usize, usize)>, error: &serde_json::Error) -> String {
    // serde_json counts lines from the start of this text.
    let found = format!(" at line {} column {}", error.line(), error.column());
    let place = match start {
        None => format!(" at column {}", error.column()),
        Some((line, column)) => {
            let before = if error.line() == 1 { column } else { 0 };
            format!(
                " at line {} column {}",
                line + error.line() - 1,
                before + error.column()
            )
        }
    };
    let reason = error.to_string().replace(&found, &place);
    if reason.starts_with(json::REPEATED) {
        return reason;
    }
    // Python's json writes these, and they are not JSON.
    let at = text
        .lines()
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default()
        .as_bytes();
    let at = at.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let name = ["NaN", "Infinity", "-Infinity"]
        .into_iter()
        .find(|name| at.starts_with(name.as_bytes()) || at.starts_with(&name.as_bytes()[1..]));
    match name {
        Some(name) => format!("not valid JSON: {reason}: {name} is not a number of JSON"),
        None => format!("not valid JSON: {reason}"),
    }
}

/// The JSON name of a value's type, with its article.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
