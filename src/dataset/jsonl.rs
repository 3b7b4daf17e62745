//! JSON Lines: one JSON object to a line, and the lines that are not.
//!
//! Knows nothing of what the objects mean. A bad line never ends the reading.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::record::hex;

/// A line that holds something.
pub struct Line {
    /// Counted from 1, blank lines included.
    pub number: usize,
    pub object: Result<Map<String, Value>, String>,
    /// The line as it was read; bytes that are not UTF-8 are replaced by U+FFFD.
    pub raw: String,
}

/// Calls `each` for every line that is not blank; returns how many there were, and the file's SHA-256.
pub fn read(path: &Path, mut each: impl FnMut(Line)) -> Result<(usize, String)> {
    let failed = |error| Error::io("read", path, error).help("check the path and the rights");
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut hash = Sha256::new();
    let (mut number, mut count) = (0, 0);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        if reader.read_until(b'\n', &mut buffer).map_err(failed)? == 0 {
            return Ok((count, hex(&hash.finalize())));
        }
        hash.update(&buffer);
        number += 1;
        let bytes = match number {
            // Some editors put a byte-order mark in front.
            1 => buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&buffer),
            _ => &buffer,
        };
        let bytes = bytes.trim_ascii();
        if !bytes.is_empty() {
            count += 1;
            each(line(number, bytes));
        }
    }
}

fn line(number: usize, bytes: &[u8]) -> Line {
    let object = match std::str::from_utf8(bytes) {
        Ok(text) => object(text),
        Err(error) => Err(format!("not UTF-8 at byte {}", error.valid_up_to() + 1)),
    };
    Line {
        number,
        object,
        raw: String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("expected a JSON object, found {}", type_name(&other))),
        // serde_json counts lines from the start of this text, which is always line 1.
        Err(error) => Err(format!(
            "not valid JSON: {}",
            error.to_string().replace(" at line 1 column ", " at column ")
        )),
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
