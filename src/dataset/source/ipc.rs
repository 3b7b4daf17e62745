//! Arrow IPC files and streams, one block at a time.
//!
//! Lengths in the file are checked before they are believed. Inside of a block arrow asserts what it
//! should check, so decoding runs where a panic becomes a reason.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::buffer::{Buffer, MutableBuffer};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, StreamDecoder, read_footer_length};
use arrow::ipc::{Block, Message, root_as_footer, root_as_message};
use arrow::record_batch::RecordBatch;

use super::tap;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"ARROW1";
/// What a message of the stream format begins with.
const CONTINUATION: &[u8] = b"\xff\xff\xff\xff";

pub struct Blocks {
    path: PathBuf,
    file: File,
    size: u64,
    bytes: u64,
    decoder: Decoder,
}

enum Decoder {
    /// The blocks that are still to come, last first.
    File(FileDecoder, Vec<Block>),
    Stream(StreamDecoder),
}

impl Blocks {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = tap::open(path)?;
        let size = file.metadata().map_err(|error| tap::failed(path, error))?.len();
        let mut magic = Vec::new();
        (&mut file)
            .take(8)
            .read_to_end(&mut magic)
            .map_err(|error| tap::failed(path, error))?;
        let decoder = match () {
            () if magic.starts_with(MAGIC) => {
                guarded(|| footer(&mut file, size)).map_err(|reason| damaged(path, &reason))?
            }
            () if magic.starts_with(CONTINUATION) => Decoder::Stream(StreamDecoder::new()),
            () => return Err(foreign(path, &magic)),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            bytes: 0,
            decoder,
        })
    }

    /// Bytes of the blocks read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn sha256(&mut self) -> Result<String> {
        tap::hash(&mut self.file, &self.path)
    }

    pub fn next(&mut self) -> Result<Option<RecordBatch>> {
        let (file, bytes, size) = (&mut self.file, &mut self.bytes, self.size);
        let next = match &mut self.decoder {
            Decoder::File(decoder, blocks) => guarded(|| match blocks.pop() {
                None => Ok(None),
                Some(block) => {
                    let data = read_block(file, size, &block)?;
                    *bytes = (*bytes + data.len() as u64).min(size);
                    let batch = decoder
                        .read_record_batch(&block, &data)
                        .map_err(|error| error.to_string())?;
                    batch.ok_or_else(|| "a record batch is missing".to_owned()).map(Some)
                }
            }),
            Decoder::Stream(decoder) => guarded(|| stream(file, bytes, size, decoder)),
        };
        next.map_err(|reason| damaged(&self.path, &reason))
    }
}

/// Runs a decoder of which nothing is used any more once it has failed.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("its columns do not fit together".to_owned()))
}

fn damaged(path: &Path, reason: &str) -> Error {
    // Flatbuffers tell the way to the field on further lines.
    let reason = reason.lines().next().unwrap_or_default();
    Error::input(format!("the Arrow file is damaged: {reason}"))
        .at_file(path)
        .help("copy the file again if it was cut short, or write it again")
}

fn foreign(path: &Path, magic: &[u8]) -> Error {
    let found = match magic {
        [] => "the file is empty",
        [b'P', b'A', b'R', b'1', ..] => "this is a Parquet file: name it `.parquet`",
        _ => "this is not an Arrow file",
    };
    Error::input(found)
        .at_file(path)
        .help("bylaw reads the Arrow IPC file format and its stream format")
}

fn footer(file: &mut File, size: u64) -> Result<Decoder, String> {
    let trailer_start = size.checked_sub(10).ok_or("it is cut short")?;
    let trailer: [u8; 10] = read_at(file, trailer_start, 10)?
        .as_slice()
        .try_into()
        .map_err(|_| "it is cut short")?;
    let length = read_footer_length(trailer).map_err(|_| "it is cut short")?;
    let start = trailer_start
        .checked_sub(length as u64)
        .ok_or("its footer is longer than the file")?;
    let bytes = read_at(file, start, length)?;
    let footer = root_as_footer(&bytes).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("it has no schema")?;
    let schema = try_fb_to_schema(schema).map_err(|error| error.to_string())?;
    let mut decoder = FileDecoder::new(Arc::new(schema), footer.version());
    for block in footer.dictionaries().iter().flatten() {
        let data = read_block(file, size, block)?;
        decoder
            .read_dictionary(block, &data)
            .map_err(|error| error.to_string())?;
    }
    let blocks = footer.recordBatches().iter().flatten().rev().copied().collect();
    Ok(Decoder::File(decoder, blocks))
}

/// The bytes of a block, if they lie inside of the file.
fn read_block(file: &mut File, size: u64, block: &Block) -> Result<Buffer, String> {
    let bounds = || {
        let start = u64::try_from(block.offset()).ok()?;
        let metadata = u64::try_from(block.metaDataLength()).ok()?;
        // The decoder takes the first eight bytes of the metadata for its length prefix.
        let length = metadata.checked_add(u64::try_from(block.bodyLength()).ok()?)?;
        let inside = metadata >= 8 && start.checked_add(length)? <= size;
        inside.then_some((start, usize::try_from(length).ok()?))
    };
    let (start, length) = bounds().ok_or("a record batch lies outside of the file")?;
    let data = read_at(file, start, length)?;
    let metadata = usize::try_from(block.metaDataLength()).unwrap_or_default();
    // Files older than Arrow 0.15 have no marker before the length of a message.
    let prefix = if data.starts_with(CONTINUATION) { 8 } else { 4 };
    let message = root_as_message(&data[prefix..metadata]).map_err(|error| error.to_string())?;
    check_sizes(&message, &data[metadata..])?;
    Ok(data.into())
}

fn read_at(file: &mut File, start: u64, length: usize) -> Result<MutableBuffer, String> {
    // Arrow's own buffers are aligned as its columns want them.
    let mut bytes = MutableBuffer::from_len_zeroed(length);
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The next batch of a stream. Its messages are taken apart here, so that no length is believed before it
/// was compared with what is left of the file.
fn stream(
    file: &mut File,
    bytes: &mut u64,
    size: u64,
    decoder: &mut StreamDecoder,
) -> Result<Option<RecordBatch>, String> {
    loop {
        let Some(mut message) = next_message(file, *bytes, size)? else {
            // What follows the end of a stream is not of it.
            *bytes = size;
            return decoder.finish().map(|()| None).map_err(|_| CUT_SHORT.to_owned());
        };
        *bytes += message.len() as u64;
        if let Some(batch) = decoder.decode(&mut message).map_err(|error| error.to_string())? {
            return Ok(Some(batch));
        }
    }
}

const CUT_SHORT: &str = "the stream is cut short";

/// The bytes of the message at `start`; `None` at the end of the stream.
fn next_message(file: &mut File, start: u64, size: u64) -> Result<Option<Buffer>, String> {
    let left = size - start;
    if left == 0 {
        return Ok(None);
    }
    let prefix = read_at(file, start, usize::try_from(left.min(PREFIX)).unwrap_or_default())?;
    let length = match prefix.as_slice() {
        [0xff, 0xff, 0xff, 0xff, a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        _ if left < PREFIX => return Err(CUT_SHORT.into()),
        _ => return Err("a message does not begin where it should".into()),
    };
    if length == 0 {
        return Ok(None);
    }
    if length > left - PREFIX {
        return Err(CUT_SHORT.into());
    }
    let metadata = read_at(file, start, (PREFIX + length) as usize)?;
    let message = root_as_message(&metadata[PREFIX as usize..]).map_err(|error| error.to_string())?;
    let body = u64::try_from(message.bodyLength()).map_err(|_| "a message has a negative length")?;
    if body > left - PREFIX - length {
        return Err(CUT_SHORT.into());
    }
    let data = read_at(file, start, (PREFIX + length + body) as usize)?;
    check_sizes(&message, &data[(PREFIX + length) as usize..])?;
    Ok(Some(data.into()))
}

/// Bytes of the marker and the length before a message.
const PREFIX: u64 = 8;

/// Bytes that one block may be unpacked to.
const UNPACKED: u64 = 2 << 30;

/// Refuses compressed buffers that claim to be larger than any that is written: they would be allocated
/// before they are unpacked.
fn check_sizes(message: &Message<'_>, body: &[u8]) -> Result<(), String> {
    let batch = message.header_as_record_batch().or_else(|| {
        message
            .header_as_dictionary_batch()
            .and_then(|dictionary| dictionary.data())
    });
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else {
        return Ok(());
    };
    let mut total = 0_u64;
    for buffer in batch.buffers().iter().flatten().filter(|buffer| buffer.length() > 0) {
        // The length of a compressed buffer stands before it; -1 says that it is not compressed.
        let length = usize::try_from(buffer.offset())
            .ok()
            .and_then(|start| body.get(start..start.checked_add(8)?))
            .and_then(|bytes| bytes.try_into().ok().map(i64::from_le_bytes))
            .ok_or("a column lies outside of its block")?;
        total = total.saturating_add(u64::try_from(length).unwrap_or(0));
    }
    match total <= UNPACKED {
        true => Ok(()),
        false => Err(format!(
            "a block claims to unpack to {total} bytes, more than {UNPACKED}"
        )),
    }
}
