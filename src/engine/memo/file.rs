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
//! A file has one writer, by the system's lock on it, which ends with the process. A process that finds the first file
//! taken reads it and writes the next, so that the parts of a job that run side by side share a directory. What is in
//! memory of an answer is its place.

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

/// A line of one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    file: usize,
    offset: u64,
    bytes: usize,
}

/// The files of one model in a directory.
#[derive(Debug)]
pub struct Shelf {
    files: Vec<MemoFile>,
    /// The one that this process writes.
    own: usize,
}

/// What was found in a directory.
pub struct Found {
    pub shelf: Shelf,
    pub places: HashMap<Key, Place>,
    /// Files with lines before the last sound one that are not, and how many.
    pub damaged: Vec<(PathBuf, usize)>,
}

#[derive(Debug)]
struct MemoFile {
    file: File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
}

/// The sound lines of a file, and how many before the last of them are damaged.
struct Scanned {
    lines: Vec<(Key, u64, usize)>,
    damaged: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    #[serde(flatten)]
    answer: Answer,
}

impl Shelf {
    /// Opens the files of a model in `dir`, which is made if it is not there, and finds their records.
    pub fn open(dir: &Path, scope: &Scope) -> Result<Found> {
        atomic::create_directories(dir)?;
        let header = line(&serde_json::json!({
            "format": FORMAT,
            "model": scope.model,
            "conditions": scope.conditions,
        }))?;
        let name = hex(&Sha256::digest(&header)[..8]);
        let (mut files, mut own) = (Vec::new(), None);
        let (mut places, mut damaged) = (HashMap::new(), Vec::new());
        for number in 0.. {
            let path = dir.join(format!("{name}-{number}.memo"));
            if own.is_some() && !path.exists() {
                break;
            }
            let mut file = MemoFile::open(path, own.is_none())?;
            let writes = own.is_none() && file.lock()?;
            let scanned = file.scan(&header)?;
            if writes {
                file.prepare(&header)?;
                atomic::sync_directory(dir)?;
                own = Some(number);
            }
            let place = |(key, offset, bytes)| {
                let file = number;
                (key, Place { file, offset, bytes })
            };
            places.extend(scanned.lines.into_iter().map(place));
            if scanned.damaged > 0 {
                damaged.push((file.path.clone(), scanned.damaged));
            }
            files.push(file);
        }
        let own = own.ok_or_else(|| Error::unexpected("no file could be had for answers"))?;
        Ok(Found {
            shelf: Self { files, own },
            places,
            damaged,
        })
    }

    /// Writes records after the others, all of them durable when this returns; answers their places.
    pub fn keep(&mut self, answers: &[(Key, Answer)]) -> Result<Vec<Place>> {
        let file = &mut self.files[self.own];
        let mut lines = Vec::new();
        let mut places = Vec::with_capacity(answers.len());
        for (key, answer) in answers {
            let line = line(&Record {
                key: hex(key),
                answer: answer.clone(),
            })?;
            places.push(Place {
                file: self.own,
                offset: file.end + lines.len() as u64,
                bytes: line.len(),
            });
            lines.extend(line);
        }
        file.append(&lines)?;
        Ok(places)
    }

    /// The answer at a place that was found or kept.
    pub fn read(&mut self, key: &Key, place: Place) -> Result<Answer> {
        self.files[place.file].read(key, place)
    }
}

impl MemoFile {
    fn open(path: PathBuf, create: bool) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error).or_help("give a directory of your own to --cache"))?;
        Ok(Self { file, path, end: 0 })
    }

    /// Takes the right to write; not if another process has it.
    fn lock(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &self.path, error)
                .or_help("give a directory to --cache on a file system that has locks")),
        }
    }

    /// Cuts off what was being written when a process was killed, so that records can follow.
    fn prepare(&mut self, header: &[u8]) -> Result<()> {
        self.cut()?;
        match self.end {
            0 => self.append(header),
            _ => Ok(()),
        }
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

    /// Finds the records. The end is that of the last sound one; 0 if not even the header is whole.
    fn scan(&mut self, header: &[u8]) -> Result<Scanned> {
        let (mut lines, mut damaged, mut doubtful) = (Vec::new(), 0, 0);
        if !self.has_header(header)? {
            return Ok(Scanned { lines, damaged });
        }
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
                    lines.push((key, at, read));
                    self.end = at + read as u64;
                    damaged += doubtful;
                    doubtful = 0;
                }
                // Only a sound line after it tells damage from what was being written.
                None => doubtful += 1,
            }
            at += read as u64;
        }
        Ok(Scanned { lines, damaged })
    }

    /// Cuts off what stands after the end.
    fn cut(&self) -> Result<()> {
        self.file.set_len(self.end).map_err(|error| self.failed("write", error))
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

    fn read(&mut self, key: &Key, place: Place) -> Result<Answer> {
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
