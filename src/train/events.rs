//! The figures of a run as TensorBoard reads them: a file of events beside `metrics.jsonl`.
//!
//! The file is a function of the log: the same lines give the same bytes, whenever and in however many goes the run was
//! done. So an event's time of day is no time of day but its step in seconds; how long steps took is told elsewhere.
//!
//! A file is a sequence of records (TFRecord): length, checksum of the length, data, checksum of the data, all in little
//! endian; a checksum is the CRC-32C (Castagnoli), turned by 15 bits and moved by a constant. The data are a message
//! `Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }` in the encoding of
//! protocol buffers, with `Summary { repeated Value value = 1; }` and `Value { string tag = 1; float simple_value = 2; }`
//! (tensorflow/core/lib/io/record_writer.h, core/util/event.proto and core/framework/summary.proto). Tags and steps are
//! those of transformers' `TensorBoardCallback`: `train/` before a name, the first step is 1.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::atomic;
use crate::error::{Error, Result};

/// The name of the file: `tfevents` is what TensorBoard looks for.
pub const FILE: &str = "events.out.tfevents.0.bylaw";

pub struct EventLog {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventLog {
    /// Writes the events of the lines that there are, and is ready for more.
    pub fn begin(dir: &Path, rows: &[Map<String, Value>]) -> Result<Self> {
        let path = dir.join(FILE);
        let mut bytes = record(&version());
        rows.iter().for_each(|row| bytes.extend(record(&event(row))));
        atomic::write(&path, &bytes)?;
        let out = File::options()
            .append(true)
            .open(&path)
            .map_err(|error| Error::io("write", &path, error))?;
        Ok(Self {
            out: BufWriter::new(out),
            path,
        })
    }

    pub fn log(&mut self, row: &Map<String, Value>) -> Result<()> {
        self.out
            .write_all(&record(&event(row)))
            .and_then(|()| self.out.flush())
            .map_err(|error| Error::io("write", &self.path, error))
    }

    pub fn sync(&mut self) -> Result<()> {
        self.out
            .get_ref()
            .sync_all()
            .map_err(|error| Error::io("write", &self.path, error))
    }
}

/// The first event, which says what the others are.
fn version() -> Vec<u8> {
    let mut event = fixed64(1, 0.0);
    event.extend(delimited(3, b"brain.Event:2"));
    event
}

/// The event of a line of the log. A figure that was not finite is `null` there and NaN here.
fn event(row: &Map<String, Value>) -> Vec<u8> {
    let step = row.get("step").and_then(Value::as_u64).unwrap_or(0) + 1;
    let mut summary = Vec::new();
    for (name, figure) in row.iter().filter(|(name, _)| *name != "step") {
        let mut value = delimited(1, format!("train/{name}").as_bytes());
        value.extend(fixed32(2, figure.as_f64().map_or(f32::NAN, |figure| figure as f32)));
        summary.extend(delimited(1, &value));
    }
    let mut event = fixed64(1, step as f64);
    event.extend(key(2, VARINT));
    event.extend(varint(step));
    event.extend(delimited(5, &summary));
    event
}

// The encoding of protocol buffers.

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn fixed64(field: u64, number: f64) -> Vec<u8> {
    [key(field, FIXED_64), number.to_le_bytes().to_vec()].concat()
}

fn fixed32(field: u64, number: f32) -> Vec<u8> {
    [key(field, FIXED_32), number.to_le_bytes().to_vec()].concat()
}

fn delimited(field: u64, bytes: &[u8]) -> Vec<u8> {
    [key(field, DELIMITED), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

// The framing of records.

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked(crc32c(&length)).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked(crc32c(data)).to_le_bytes());
    bytes
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Bit by bit: a line is a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4. Catches: the other CRC-32, or its bits in the other order.
    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Catches: bytes of a number in the wrong order, a last byte that says that more follow.
    #[test]
    fn varints_are_of_seven_bits() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [127]);
        assert_eq!(varint(300), [0xac, 0x02]);
    }
}
