//! The answers of one model on disk: a file that only grows.
//!
//! ```text
//! CHECKSUM {"format":"bylaw memo 1","model":"…","conditions":"…"}
//! CHECKSUM {"key":"…","generation":{"text":"…","tokens":7,"prompt_tokens":31,"logprob":3242196992,"finish_reason":"stop"}}
//! CHECKSUM {"key":"…","scores":[3204448256,3212836864]}
//! ```
//!
//! A line is a record, and its checksum (the beginning of the SHA-256 of what follows it) says that it is whole.
//! Log-probabilities are the bits of their numbers. What stands after the last sound line was being written when a
//! process was killed, and is cut off. A damaged line before it costs its answer alone: each record stands for itself,
//! the question can be asked again, and a run of hours does not fail for that; so it is passed over and told.
//!
//! One process at a time has the file, by the system's lock on it, which ends with the process. What is in memory of an
//! answer is its place in the file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::{FORMAT, Key, Scope};
use super::{Answer, hex_key};
use crate::atomic;
use crate::error::{Error, Result};
use crate::record::hex;

/// Hexadecimal digits of a line's checksum.
const CHECKSUM: usize = 16;

/// A line of the file, between its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    bytes: usize,
}

#[derive(Debug)]
pub struct MemoFile {
    file: File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
}

/// What was found in a file.
pub struct Found {
    pub file: MemoFile,
    pub places: HashMap<Key, Place>,
    /// Lines before the last sound one that are not.
    pub damaged: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    #[serde(flatten)]
    answer: Answer,
}

impl MemoFile {
    /// Opens the file of a model in `dir`, which is made if it is not there, and finds its records.
    pub fn open(dir: &Path, scope: &Scope) -> Result<Found> {
        atomic::create_directories(dir)?;
        let header = line(&serde_json::json!({
            "format": FORMAT,
            "model": scope.model,
            "conditions": scope.conditions,
        }))?;
        let name = hex(&Sha256::digest(&header)[..8]);
        let path = dir.join(format!("{name}.memo"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        lock(&file, &path)?;
        let mut memo = Self { file, path, end: 0 };
        if !memo.has_header(&header)? {
            memo.cut()?;
            memo.append(&header)?;
            atomic::sync_directory(dir)?;
        }
        let (places, damaged) = memo.scan()?;
        memo.cut()?;
        Ok(Found {
            file: memo,
            places,
            damaged,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file begins with its header; not if even that was being written. Any other beginning is an error.
    fn has_header(&mut self, header: &[u8]) -> Result<bool> {
        let mut begun = Vec::new();
        (&self.file)
            .take(header.len() as u64)
            .read_to_end(&mut begun)
            .map_err(|error| self.failed("read", error))?;
        if begun == header {
            self.end = header.len() as u64;
            return Ok(true);
        }
        match header.starts_with(&begun) {
            true => Ok(false),
            false => Err(
                Error::input("the file does not begin as the remembered answers of this model do")
                    .at_file(&self.path)
                    .help("delete it: its answers will be asked for again"),
            ),
        }
    }

    /// The places of the records after the header, of which the end is that of the last sound one; and how many lines
    /// among them are damaged.
    fn scan(&mut self) -> Result<(HashMap<Key, Place>, usize)> {
        let mut places = HashMap::new();
        let (mut damaged, mut doubtful) = (0, 0);
        let mut at = self.end;
        let failed = |error| Error::io("read", &self.path, error);
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        reader.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes).map_err(failed)?;
            if read == 0 {
                break;
            }
            match record(&bytes) {
                Some((key, _)) => {
                    let place = Place {
                        offset: at,
                        bytes: read,
                    };
                    places.insert(key, place);
                    self.end = at + read as u64;
                    damaged += doubtful;
                    doubtful = 0;
                }
                // Only a sound line after it tells damage from what was being written.
                None => doubtful += 1,
            }
            at += read as u64;
        }
        Ok((places, damaged))
    }

    /// Cuts off what stands after the end.
    fn cut(&self) -> Result<()> {
        self.file.set_len(self.end).map_err(|error| self.failed("write", error))
    }

    /// Writes records after the others, all of them durable when this returns; answers their places.
    pub fn keep(&mut self, answers: &[(Key, Answer)]) -> Result<Vec<Place>> {
        let mut lines = Vec::new();
        let mut places = Vec::with_capacity(answers.len());
        for (key, answer) in answers {
            let line = line(&Record {
                key: hex(key),
                answer: answer.clone(),
            })?;
            places.push(Place {
                offset: self.end + lines.len() as u64,
                bytes: line.len(),
            });
            lines.extend(line);
        }
        self.append(&lines)?;
        Ok(places)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Best effort: the next to open the file cuts off the rest, and the error that matters is this one.
            let _ = self.cut();
            return Err(self.failed("write", error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The answer at a place that was found or kept.
    pub fn read(&mut self, key: &Key, place: Place) -> Result<Answer> {
        let mut bytes = vec![0; place.bytes];
        self.file
            .seek(SeekFrom::Start(place.offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| self.failed("read", error))?;
        match record(&bytes) {
            Some((found, answer)) if found == *key => Ok(answer),
            _ => Err(Error::input("a remembered answer was changed while it was in use")
                .at_file(&self.path)
                .help("run the same command again; what is damaged will be asked for once more")),
        }
    }

    fn failed(&self, action: &str, error: std::io::Error) -> Error {
        Error::io(action, &self.path, error).or_help("what was remembered is kept; give another directory to --cache")
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::config(
            "another process remembers answers of this model here",
        )
        .at_file(path)
        .help("wait until it is done, or give another directory to --cache: parts of a job that run side by side each need their own")),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path, error)
            .or_help("give a directory to --cache on a file system that has locks")),
    }
}

/// A record as a line of the file.
fn line(record: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_string(record)
        .map_err(|error| Error::unexpected("an answer cannot be written down").because(error))?;
    Ok(format!("{} {json}\n", checksum(json.as_bytes())).into_bytes())
}

fn checksum(json: &[u8]) -> String {
    hex(&Sha256::digest(json)[..CHECKSUM / 2])
}

/// What a line says, if it is whole.
fn record(line: &[u8]) -> Option<(Key, Answer)> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(CHECKSUM)?;
    let json = json.strip_prefix(b" ")?;
    if checksum(json).as_bytes() != sum {
        return None;
    }
    let Record { key, answer } = serde_json::from_slice(json).ok()?;
    Some((hex_key(&key)?, answer))
}
