//! The files of an export, written row by row in bounded memory.
//!
//! All of them are written in a directory that nobody sees yet, each made durable when it is closed.
//! How many there will be is not known before the last row, so they get their names at the end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use super::layout::{self, Exported, Form};
use super::{Container, Format};
use crate::atomic;
use crate::dataset::row::{self, Kind, Row};
use crate::dataset::{Manifest, Provenance, SHARD_ROWS, Shard, Status, shard};
use crate::error::{Error, Result};
use crate::record::hex;

/// The directory of the rows, in an export for a tool. `load_dataset` takes the files in it for the split
/// `train`, both of this directory and of the one above.
pub const DATA: &str = "data";

/// A file is closed when it has this many bytes, a row group when this many are waiting.
const FILE_BYTES: u64 = 512 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| {
        Error::io("write", &path, error).help("free some space or fix the rights, and run the same command again")
    }
}

/// Where the rows go.
pub enum Sink<R> {
    Files(Files),
    Arrow(ArrowFiles<R>),
}

impl<R: Exported> Sink<R> {
    pub fn new(format: Format, staging: &Path) -> Result<Self> {
        if format.container() == Container::Arrow {
            return Ok(Self::Arrow(ArrowFiles::new(staging)));
        }
        let dir = staging.join(DATA);
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        Ok(Self::Files(Files {
            dir,
            format,
            open: None,
            closed: Vec::new(),
        }))
    }

    pub fn write(&mut self, rows: &[R], form: Form) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        match self {
            Self::Arrow(files) => rows.iter().try_for_each(|row| files.push(row.clone())),
            Self::Files(files) => files.write(rows, form),
        }
    }

    /// Closes the files and gives them their names.
    pub fn finish(self) -> Result<Vec<Shard>> {
        match self {
            Self::Arrow(files) => files.finish(),
            Self::Files(files) => files.finish(),
        }
    }
}

/// Parquet or JSON Lines.
pub struct Files {
    dir: PathBuf,
    format: Format,
    open: Option<Open>,
    closed: Vec<Shard>,
}

struct Open {
    path: PathBuf,
    rows: u64,
    writer: Writer,
}

enum Writer {
    Parquet(Box<ArrowWriter<Hashed>>),
    Jsonl(Hashed),
}

impl Files {
    fn write<R: Exported>(&mut self, rows: &[R], form: Form) -> Result<()> {
        let (dir, format, index) = (&self.dir, self.format, self.closed.len());
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(dir.join(unnamed(index)), format, layout::schema::<R>(format, form))?,
        };
        match &mut open.writer {
            Writer::Parquet(writer) => {
                let batch = match format.is_native() {
                    true => row::to_batch(rows)?,
                    false => layout::batch(rows, format, form)?,
                };
                writer
                    .write(&batch)
                    .and_then(|()| match writer.in_progress_size() >= ROW_GROUP_BYTES {
                        true => writer.flush(),
                        false => Ok(()),
                    })
                    .map_err(|error| not_parquet(&open.path, error))?;
            }
            Writer::Jsonl(writer) => {
                for row in rows {
                    let mut line = serde_json::to_vec(row)
                        .map_err(|error| Error::unexpected("a row cannot be written as JSON").because(error))?;
                    line.push(b'\n');
                    writer.write_all(&line).map_err(failed(&open.path))?;
                }
            }
        }
        open.rows += rows.len() as u64;
        if open.bytes() >= FILE_BYTES {
            self.closed.push(open.close()?);
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Shard>> {
        if let Some(open) = self.open.take() {
            self.closed.push(open.close()?);
        }
        let extension = match self.format.container() {
            Container::Parquet => "parquet",
            Container::Jsonl => "jsonl",
            Container::Arrow => "arrow",
        };
        let mut files = name(&self.dir, self.closed, |index, count| {
            format!("train-{index:05}-of-{count:05}.{extension}")
        })?;
        for file in &mut files {
            file.file = format!("{DATA}/{}", file.file);
        }
        Ok(files)
    }
}

impl Open {
    fn new(path: PathBuf, format: Format, fields: arrow::datatypes::Fields) -> Result<Self> {
        let file = Hashed::create(&path)?;
        let writer = match format.container() {
            Container::Parquet => {
                // Level 3 is Zstandard's own default; all readers of Parquet in use have it.
                let level = ZstdLevel::try_new(3).map_err(|error| not_parquet(&path, error))?;
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(level))
                    .build();
                let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
                let writer =
                    ArrowWriter::try_new(file, schema, Some(properties)).map_err(|error| not_parquet(&path, error))?;
                Writer::Parquet(Box::new(writer))
            }
            Container::Jsonl | Container::Arrow => Writer::Jsonl(file),
        };
        Ok(Self { path, rows: 0, writer })
    }

    fn bytes(&self) -> u64 {
        match &self.writer {
            Writer::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            Writer::Jsonl(file) => file.bytes,
        }
    }

    fn close(self) -> Result<Shard> {
        let file = match self.writer {
            Writer::Parquet(writer) => writer.into_inner().map_err(|error| not_parquet(&self.path, error))?,
            Writer::Jsonl(file) => file,
        };
        let (bytes, sha256) = file.finish().map_err(failed(&self.path))?;
        Ok(Shard {
            file: file_name(&self.path),
            rows: self.rows,
            bytes,
            sha256,
        })
    }
}

/// A full disk also arrives as an error of the Parquet writer.
fn not_parquet(path: &Path, error: parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => failed(path)(*inner),
            Err(inner) => Error::unexpected("the Parquet file cannot be written").because(inner),
        },
        other => Error::unexpected("the Parquet file cannot be written").because(other),
    }
}

/// A file whose bytes are counted and hashed on the way.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            file: BufWriter::new(File::create(path).map_err(failed(path))?),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// Makes the file durable; answers its length and SHA-256.
    fn finish(self) -> io::Result<(u64, String)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.bytes, hex(&self.hash.finalize())))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Shards of a dataset of bylaw.
pub struct ArrowFiles<R> {
    dir: PathBuf,
    waiting: Vec<R>,
    closed: Vec<Shard>,
}

impl<R: Row> ArrowFiles<R> {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            waiting: Vec::new(),
            closed: Vec::new(),
        }
    }

    pub fn push(&mut self, row: R) -> Result<()> {
        self.waiting.push(row);
        match self.waiting.len() {
            SHARD_ROWS => self.close(),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(failed(&self.dir))?;
        let file = unnamed(self.closed.len());
        self.closed.push(shard::write(&self.dir, &file, &self.waiting)?);
        self.waiting.clear();
        Ok(())
    }

    /// The shards; none if there were no rows.
    pub fn finish(mut self) -> Result<Vec<Shard>> {
        if !self.waiting.is_empty() {
            self.close()?;
        }
        if self.closed.is_empty() {
            return Ok(self.closed);
        }
        name(&self.dir, self.closed, shard::file_name)
    }
}

fn unnamed(index: usize) -> String {
    format!("part-{index:05}")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Gives the files in `dir` the names that their number decides.
fn name(dir: &Path, mut files: Vec<Shard>, named: impl Fn(usize, usize) -> String) -> Result<Vec<Shard>> {
    let count = files.len();
    for (index, file) in files.iter_mut().enumerate() {
        let to = named(index, count);
        fs::rename(dir.join(&file.file), dir.join(&to)).map_err(failed(&dir.join(&to)))?;
        file.file = to;
    }
    atomic::sync_directory(dir)?;
    Ok(files)
}

/// Writes the manifest of the shards in `dir`.
pub fn manifest(dir: &Path, kind: Kind, shards: Vec<Shard>, provenance: Provenance) -> Result<()> {
    Manifest::new(kind, Status::Complete, shards, provenance).write(dir)
}

/// Writes a text file.
pub fn text(path: &Path, text: &str, executable: bool) -> Result<()> {
    atomic::write(path, text.as_bytes())?;
    #[cfg(unix)]
    if executable {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed(path))?;
    }
    Ok(())
}
