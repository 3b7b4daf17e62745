//! Units of work: how input is cut into them, and the file that a finished one is.
//!
//! Input is cut by its content, so that rows inserted into it leave the units around them as they
//! were. A unit is one file, named by the hash of its input rows: it is there whole or not at all, and
//! the finished work of a job is the set of these files.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::dataset::{Kind, Row, shard};
use crate::engine::Usage;
use crate::error::{Error, Result};
use crate::record::{Reject, hex};

const FORMAT: &str = "bylaw-unit";
const VERSION: u32 = 1;

/// Hexadecimal digits of a SHA-256.
const DIGEST: usize = 64;

/// Input rows that are worked on together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub rows: Range<usize>,
    /// Hash of the input rows.
    pub key: String,
}

/// Cuts `inputs` into units of at most `most` rows. A unit ends after a row whose hash says so, from a
/// quarter of `most` on, so cuts before and after an inserted row fall where they fell.
pub fn cut<I: Row>(inputs: &[I], most: usize) -> Result<Vec<Unit>> {
    let (least, spread) = ((most / 4).max(1), (most / 2).max(1) as u64);
    let mut units = Vec::new();
    let (mut start, mut hash) = (0, Sha256::new());
    for (index, input) in inputs.iter().enumerate() {
        let row = serde_json::to_vec(input).map_err(|error| {
            Error::unexpected(format!("the input row `{}` cannot be hashed", input.id())).because(error)
        })?;
        let digest = Sha256::digest(row);
        hash.update(digest);
        let length = index + 1 - start;
        let mark = digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte));
        if length >= most || (length >= least && mark.is_multiple_of(spread)) || index + 1 == inputs.len() {
            units.push(Unit {
                rows: start..index + 1,
                key: hex(&hash.finalize_reset()[..16]),
            });
            start = index + 1;
        }
    }
    Ok(units)
}

/// What was counted of a finished unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    pub key: String,
    /// Hash of the provenance under which the unit was made.
    pub revision: String,
    pub rows: u64,
    pub rejects: u64,
    pub usage: Usage,
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    kind: Kind,
    tally: Tally,
    /// Bytes of the rows; the rejects follow to the end.
    row_bytes: u64,
}

/// A finished unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Made<R> {
    pub tally: Tally,
    pub rows: Vec<R>,
    pub rejects: Vec<Reject>,
}

pub fn file_name(key: &str) -> String {
    format!("{key}.unit")
}

/// Commits a unit: from the rename on it is done.
pub fn write<R: Row>(dir: &Path, made: &Made<R>) -> Result<PathBuf> {
    let rows = shard::to_bytes(&made.rows)?;
    let header = Header {
        format: FORMAT.into(),
        version: VERSION,
        kind: R::KIND,
        tally: made.tally.clone(),
        row_bytes: rows.len() as u64,
    };
    let mut body = serde_json::to_vec(&header).map_err(|error| Error::unexpected("a unit's header").because(error))?;
    body.push(b'\n');
    body.extend_from_slice(&rows);
    body.extend_from_slice(&shard::to_bytes(&made.rejects)?);
    let mut bytes = hex(&Sha256::digest(&body)).into_bytes();
    bytes.push(b'\n');
    bytes.append(&mut body);
    let path = dir.join(file_name(&made.tally.key));
    atomic::write(&path, &bytes)?;
    Ok(path)
}

/// Reads a unit; `None` if there is none, or a damaged one, which `damaged` is told.
pub fn read<R: Row>(dir: &Path, key: &str, damaged: impl FnOnce(&Path, &str)) -> Result<Option<Made<R>>> {
    let path = dir.join(file_name(key));
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    match parse(&bytes, &path, key) {
        Ok(made) => Ok(Some(made)),
        Err(reason) => {
            damaged(&path, &reason);
            Ok(None)
        }
    }
}

fn parse<R: Row>(bytes: &[u8], path: &Path, key: &str) -> Result<Made<R>, String> {
    let (digest, rest) = bytes.split_at_checked(DIGEST).ok_or("it is cut short")?;
    let body = rest.strip_prefix(b"\n").ok_or("it does not begin with a checksum")?;
    if hex(&Sha256::digest(body)).as_bytes() != digest {
        return Err("its checksum is another".into());
    }
    let end = body.iter().position(|byte| *byte == b'\n').ok_or("it has no header")?;
    let header: Header = serde_json::from_slice(&body[..end]).map_err(|error| error.to_string())?;
    if (header.format.as_str(), header.version, header.kind) != (FORMAT, VERSION, R::KIND) || header.tally.key != key {
        return Err("it is the unit of another job".into());
    }
    let contents = &body[end + 1..];
    let cut = usize::try_from(header.row_bytes)
        .ok()
        .filter(|cut| *cut <= contents.len());
    let (rows, rejects) = contents.split_at(cut.ok_or("its header names more bytes than there are")?);
    let (rows, rejects) = (
        shard::from_bytes(rows.to_vec(), path).map_err(|error| error.to_string())?,
        shard::from_bytes(rejects.to_vec(), path).map_err(|error| error.to_string())?,
    );
    Ok(Made {
        tally: header.tally,
        rows,
        rejects,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Message, Prompt, messages_id};

    fn prompts(range: Range<usize>) -> Vec<Prompt> {
        let prompt = |number| {
            let messages = vec![Message::user(format!("question {number}"))];
            Prompt {
                id: messages_id(&messages),
                messages,
                source: "test".into(),
                tags: Vec::new(),
            }
        };
        range.map(prompt).collect()
    }

    /// Catches: rows in no unit or in two, units above the limit, a row inserted at the front that
    /// changes more than the units around it.
    #[test]
    fn cuts_follow_the_content() {
        let rows = prompts(0..2000);
        let units = cut(&rows, 64).unwrap();
        let mut next = 0;
        for unit in &units {
            assert_eq!(unit.rows.start, next);
            assert!((1..=64).contains(&unit.rows.len()));
            next = unit.rows.end;
        }
        assert_eq!(next, 2000);
        let mut longer = prompts(5000..5001);
        longer.extend(rows);
        let changed = cut(&longer, 64).unwrap();
        let known = changed
            .iter()
            .filter(|unit| units.iter().any(|old| old.key == unit.key));
        assert!(changed.len() - known.count() <= 3, "{} units", changed.len());
    }

    /// Catches: a damaged unit that is taken for a whole one, wherever the damage is.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let dir = tempfile::TempDir::new().unwrap();
        let made = Made {
            tally: Tally {
                key: "k".into(),
                revision: "r".into(),
                rows: 2,
                rejects: 0,
                usage: Usage::default(),
                seconds: 0.5,
            },
            rows: prompts(0..2),
            rejects: Vec::new(),
        };
        let path = write(dir.path(), &made).unwrap();
        let read = || read::<Prompt>(dir.path(), "k", |_, _| {}).unwrap();
        assert_eq!(read(), Some(made));
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(read(), None, "cut at {at}");
        }
    }
}
