//! One shard: rows in the Arrow IPC *file* format, written whole or not at all.
//!
//! Knows nothing of manifests or of the other shards. Reading trusts no byte: each length in the
//! file is checked before it is used, because files are cut short by full disks and copied badly.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::FileWriter;
use arrow::ipc::{Block, root_as_footer};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::row::{self, Kind, Row};
use crate::atomic;
use crate::error::{Error, Result};
use crate::record::hex;

/// Rows to a record batch inside a shard: what a reader of a part of a shard has to decode.
pub(super) const BATCH_ROWS: usize = 1024;

const MAGIC: &[u8] = b"ARROW1";

/// A shard as the manifest records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Name in the dataset's directory.
    pub file: String,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// The name of shard `index` of `count`.
pub fn file_name(index: usize, count: usize) -> String {
    format!("data-{index:05}-of-{count:05}.arrow")
}

/// Writes `rows` to `dir/file`, durably and atomically. The same rows give the same bytes.
pub fn write<R: Row>(dir: &Path, file: &str, rows: &[R]) -> Result<Shard> {
    let (bytes, shard) = encode(file, rows)?;
    atomic::write(&dir.join(file), &bytes)?;
    Ok(shard)
}

fn encode<R: Row>(file: &str, rows: &[R]) -> Result<(Vec<u8>, Shard)> {
    let mut encoder = Encoder::new(R::KIND)?;
    for chunk in rows.chunks(BATCH_ROWS) {
        encoder.push(&row::to_batch(chunk)?)?;
    }
    encoder.finish(file)
}

/// A shard in the making: the bytes so far, hashed while they are still in the cache.
pub(super) struct Encoder {
    writer: FileWriter<Hashed>,
    kind: Kind,
    rows: u64,
}

impl Encoder {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let writer =
            FileWriter::try_new(Hashed::default(), &kind.schema()).map_err(|error| unencodable(kind, 0, error))?;
        Ok(Self { writer, kind, rows: 0 })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let written = self.writer.write(batch);
        written.map_err(|error| unencodable(self.kind, self.rows, error))
    }

    /// The shard's bytes, and what a manifest records of them under the name `file`.
    pub(super) fn finish(self, file: &str) -> Result<(Vec<u8>, Shard)> {
        let written = self.writer.into_inner();
        let Hashed { bytes, sha256 } = written.map_err(|error| unencodable(self.kind, self.rows, error))?;
        let shard = Shard {
            file: file.to_owned(),
            rows: self.rows,
            bytes: bytes.len() as u64,
            sha256: hex(&sha256.finalize()),
        };
        Ok((bytes, shard))
    }
}

fn unencodable(kind: Kind, rows: u64, error: ArrowError) -> Error {
    Error::unexpected(format!("cannot encode {rows} {kind} as Arrow")).because(error)
}

/// Bytes in memory and their hash.
#[derive(Default)]
struct Hashed {
    bytes: Vec<u8>,
    sha256: Sha256,
}

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a shard and checks it against what the manifest says: size, checksum, rows.
pub fn read<R: Row>(dir: &Path, shard: &Shard) -> Result<Vec<R>> {
    rows_of(&read_verified(dir, shard)?, &dir.join(&shard.file))
}

/// The record batches of a shard, checked against what the manifest says. They share the memory of
/// the whole file, and have any schema.
pub(super) fn read_verified(dir: &Path, shard: &Shard) -> Result<Vec<RecordBatch>> {
    let path = dir.join(&shard.file);
    let broken = |message: String| {
        Error::input(message).at_file(&path).help(
            "copy the file again from where it was made, or delete it and run the command that made the dataset again",
        )
    };
    // Before it is read: what lies there may be of any size, or never end.
    let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
    if !metadata.is_file() {
        return Err(broken("the shard is not a file".to_owned()));
    }
    if metadata.len() != shard.bytes {
        return Err(broken(format!(
            "the shard has {} bytes, its manifest says {}",
            metadata.len(),
            shard.bytes
        )));
    }
    let contents = read_bytes(&path)?;
    let sha256 = hex(&Sha256::digest(&contents));
    if sha256 != shard.sha256 {
        return Err(broken(format!(
            "the shard's checksum is {sha256}, its manifest says {}",
            shard.sha256
        )));
    }
    let batches = decode(contents, &path)?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows as u64 != shard.rows {
        return Err(broken(format!(
            "the shard has {rows} rows, its manifest says {}",
            shard.rows
        )));
    }
    Ok(batches)
}

/// `rows` as the bytes of an Arrow file. The same rows give the same bytes.
pub fn to_bytes<R: Row>(rows: &[R]) -> Result<Vec<u8>> {
    Ok(encode("", rows)?.0)
}

/// The rows of the bytes of an Arrow file, which were read from `path`.
pub fn from_bytes<R: Row>(contents: Vec<u8>, path: &Path) -> Result<Vec<R>> {
    rows_of(&decode(contents, path)?, path)
}

/// Reads an Arrow file that no manifest vouches for.
pub fn read_unverified<R: Row>(path: &Path) -> Result<Vec<R>> {
    rows_of(&read_batches(path)?.0, path)
}

/// The record batches of an Arrow file of any schema, and the file's SHA-256.
pub fn read_batches(path: &Path) -> Result<(Vec<RecordBatch>, String)> {
    let contents = read_bytes(path)?;
    let sha256 = hex(&Sha256::digest(&contents));
    Ok((decode(contents, path)?, sha256))
}

fn rows_of<R: Row>(batches: &[RecordBatch], path: &Path) -> Result<Vec<R>> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        rows.extend(row::from_batch::<R>(batch, path)?);
    }
    Ok(rows)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io("read", path, error).help("check the path; a shard named by a manifest must stay beside it")
}

fn decode(contents: Vec<u8>, path: &Path) -> Result<Vec<RecordBatch>> {
    let broken = |reason: String| {
        Error::input(reason).at_file(path).help(
            "bylaw reads Arrow IPC files (`.arrow`, not the stream format, uncompressed); \
             copy the file again if it was cut short, or write it again in that format",
        )
    };
    if !contents.starts_with(MAGIC) {
        return Err(broken(foreign(&contents).to_owned()));
    }
    // Inside of a record batch, arrow asserts what it should check: buffers that overlap their end,
    // odd lengths. Nothing is shared with the closure, so there is nothing that a panic could leave
    // half-done.
    std::panic::catch_unwind(|| decode_file(&Buffer::from_vec(contents)))
        .unwrap_or_else(|_| Err("its columns do not fit together".to_owned()))
        .map_err(|reason| broken(format!("the Arrow file is damaged: {reason}")))
}

/// What a file without Arrow's magic bytes seems to be.
fn foreign(contents: &[u8]) -> &'static str {
    match contents {
        [] => "the file is empty",
        [0xff, 0xff, 0xff, 0xff, ..] => "this is the Arrow stream format",
        [b'P', b'A', b'R', b'1', ..] => "this is a Parquet file",
        _ => "this is not an Arrow file",
    }
}

/// Decodes through the low-level reader: arrow's own `FileReader` unwraps and allocates by lengths
/// that a damaged file may make negative or huge.
fn decode_file(file: &Buffer) -> Result<Vec<RecordBatch>, String> {
    let trailer_start = file.len().checked_sub(10).ok_or("it is cut short")?;
    let trailer: [u8; 10] = file[trailer_start..].try_into().map_err(|_| "it is cut short")?;
    let footer_length = read_footer_length(trailer).map_err(|_| "it is cut short")?;
    let footer_start = trailer_start
        .checked_sub(footer_length)
        .ok_or("its footer is longer than the file")?;
    let footer = root_as_footer(&file[footer_start..trailer_start]).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("it has no schema")?;
    let schema = try_fb_to_schema(schema).map_err(|error| error.to_string())?;
    let mut decoder = FileDecoder::new(Arc::new(schema), footer.version());
    for block in footer.dictionaries().iter().flatten() {
        let data = slice(file, block)?;
        decoder
            .read_dictionary(block, &data)
            .map_err(|error| error.to_string())?;
    }
    let mut batches = Vec::new();
    for block in footer.recordBatches().iter().flatten() {
        let data = slice(file, block)?;
        let batch = decoder
            .read_record_batch(block, &data)
            .map_err(|error| error.to_string())?;
        batches.push(batch.ok_or("a record batch is missing")?);
    }
    Ok(batches)
}

/// The bytes of a block, if they lie inside the file.
fn slice(file: &Buffer, block: &Block) -> Result<Buffer, String> {
    let length = |value: i64| usize::try_from(value).ok();
    let bounds = || {
        let start = length(block.offset())?;
        let metadata = length(block.metaDataLength().into())?;
        // The decoder takes the first eight bytes of the metadata for its length prefix.
        let size = metadata.checked_add(length(block.bodyLength())?)?;
        (metadata >= 8 && start.checked_add(size)? <= file.len()).then_some((start, size))
    };
    let (start, size) = bounds().ok_or("a record batch lies outside of the file")?;
    Ok(file.slice_with_length(start, size))
}
