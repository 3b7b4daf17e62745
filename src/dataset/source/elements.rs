//! JSON files of one list of objects, or of objects one after the other, read an object at a time.
//!
//! The borders of the objects are found by brackets and quotes alone; serde_json then reads each. So an
//! object that is not valid JSON becomes a reject, and the reading goes on behind it.

use std::io::{BufRead, BufReader};
use std::path::Path;

use super::lines::{keep, object, text, too_long};
use super::tap::{BLOCK, Tap};
use super::{Place, Record};
use crate::error::{Error, Result};

pub struct Elements {
    reader: BufReader<Tap>,
    limit: usize,
    /// Whether the file is one list; known once its first byte was seen.
    list: Option<bool>,
    ended: bool,
    rows: usize,
    at: Spot,
}

impl Elements {
    pub fn open(path: &Path, limit: usize) -> Result<Self> {
        Ok(Self {
            reader: BufReader::with_capacity(BLOCK, Tap::open(path)?),
            limit,
            list: None,
            ended: false,
            rows: 0,
            at: Spot { line: 1, column: 0 },
        })
    }

    pub fn tap(&self) -> &Tap {
        self.reader.get_ref()
    }

    pub fn next(&mut self) -> Result<Option<Record>> {
        if self.list.is_none() && !self.begin()? {
            return Ok(None);
        }
        loop {
            match self.peek()? {
                None => return Ok(self.unfinished()),
                Some(byte) if byte.is_ascii_whitespace() || (byte == b',' && self.list == Some(true)) => {
                    self.skip(byte);
                }
                Some(b']') if self.list == Some(true) && !self.ended => {
                    self.skip(b']');
                    self.ended = true;
                }
                Some(_) => return self.element().map(Some),
            }
        }
    }

    /// Skips what may stand before the first object; whether there is anything.
    fn begin(&mut self) -> Result<bool> {
        if self.peek()? == Some(0xef) {
            // A byte-order mark, which some editors put in front.
            self.reader.consume(3.min(self.reader.buffer().len()));
        }
        loop {
            match self.peek()? {
                None => return Ok(false),
                Some(byte) if byte.is_ascii_whitespace() => self.skip(byte),
                Some(b'[') => {
                    self.skip(b'[');
                    self.list = Some(true);
                    return Ok(true);
                }
                Some(b'{') => {
                    self.list = Some(false);
                    return Ok(true);
                }
                Some(byte) => {
                    return Err(Error::input(format!(
                        "is not JSON of rows: it begins with {:?}, expected a list or an object",
                        char::from(byte)
                    ))
                    .at_file(self.tap().path())
                    .help("write one list of objects, or one object to a line in a `.jsonl` file"));
                }
            }
        }
    }

    /// A list that the file does not close was cut short: its last rows are missing, which is told once.
    fn unfinished(&mut self) -> Option<Record> {
        (self.list == Some(true) && !self.ended).then(|| {
            self.ended = true;
            self.rows += 1;
            let reason = "the file ends before its list does: it was cut short".to_owned();
            Record::text(Place::RowAtLine(self.rows, self.at.line), Err(reason), String::new())
        })
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(available) => return Ok(available.first().copied()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.reader.get_ref().failed(error)),
            }
        }
    }

    fn skip(&mut self, byte: u8) {
        self.at.pass(&[byte]);
        self.reader.consume(1);
    }

    fn element(&mut self) -> Result<Record> {
        self.rows += 1;
        let place = Place::RowAtLine(self.rows, self.at.line);
        let start = (self.at.line, self.at.column);
        let mut border = Border::default();
        let (mut bytes, mut length) = (Vec::new(), 0);
        loop {
            if self.peek()?.is_none() {
                break;
            }
            let available = self.reader.buffer();
            let (taken, ended) = border.find(available);
            length += taken;
            keep(&mut bytes, &available[..taken], length <= self.limit);
            self.at.pass(&available[..taken]);
            self.reader.consume(taken);
            if ended {
                break;
            }
        }
        if length > self.limit {
            return Ok(too_long("object", place, &bytes, length, self.limit));
        }
        let bytes = bytes.trim_ascii();
        let object = match self.ended {
            true => Err("stands behind the end of the list".to_owned()),
            false => object(bytes, Some(start)),
        };
        Ok(Record::text(place, object, text(bytes)))
    }
}

/// A place in the file: lines from 1, columns from 0.
struct Spot {
    line: usize,
    column: usize,
}

impl Spot {
    fn pass(&mut self, bytes: &[u8]) {
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            None => self.column += bytes.len(),
            Some(last) => {
                self.line += bytes.iter().filter(|byte| **byte == b'\n').count();
                self.column = bytes.len() - last - 1;
            }
        }
    }
}

/// Where an element ends: brackets are counted outside of strings.
#[derive(Default)]
struct Border {
    depth: usize,
    in_string: bool,
    escaped: bool,
    began: bool,
}

impl Border {
    /// How many of `bytes` belong to the element, at least one at its beginning, and whether it ends there.
    fn find(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (index + 1, true);
                    }
                }
                // Something that is no object ends where the list goes on.
                b',' | b']' | b'\n' if self.depth == 0 && self.began => return (index, true),
                _ => {}
            }
            self.began = true;
        }
        (bytes.len(), false)
    }
}
