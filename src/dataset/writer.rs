//! Writing a dataset row by row in bounded memory.
//!
//! Rows become columns as they come; one thread encodes and hashes the columns, another brings each
//! finished shard to the disk. Where rows are cut into batches and shards depends on their number
//! alone, so the bytes are a function of the sequence of rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::record_batch::RecordBatch;

use super::background::Background;
use super::manifest::{FILE as MANIFEST, Manifest, Provenance, Status};
use super::row::{BatchBuilder, Kind, Row};
use super::shard::{self, BATCH_ROWS, Encoder, Shard};
use crate::atomic;
use crate::error::{Error, Result};

/// Rows to a shard.
pub const SHARD_ROWS: usize = 8192;

const _: () = assert!(SHARD_ROWS.is_multiple_of(BATCH_ROWS));

/// Writes the shards of a dataset, without its manifest. Dropped before [`Shards::finish`], it leaves
/// shards that the next attempt replaces.
pub struct Shards<R: Row> {
    dir: PathBuf,
    total: Option<u64>,
    rows: u64,
    batch: BatchBuilder<R>,
    sink: Sink,
}

impl<R: Row> Shards<R> {
    /// Begins to write in `dir`. With the number of rows known, each shard has its name at once;
    /// otherwise hidden ones, until the end. Shards of an unfinished write are removed; `listed` stay.
    pub fn create(dir: &Path, total_rows: Option<u64>, listed: &[Shard]) -> Result<Self> {
        remove_leftovers(dir, listed)?;
        Ok(Self {
            dir: dir.to_owned(),
            total: total_rows,
            rows: 0,
            batch: BatchBuilder::new(),
            sink: Sink::start(dir, R::KIND, total_rows.map(shard_count))?,
        })
    }

    pub fn push(&mut self, row: &R) -> Result<()> {
        self.rows += 1;
        if self.total.is_some_and(|total| self.rows > total) {
            return Err(self.other_total());
        }
        self.batch.push(row)?;
        if self.batch.rows() == BATCH_ROWS {
            self.sink.send(Some(self.batch.finish()?))?;
        }
        Ok(())
    }

    pub fn extend<'a>(&mut self, rows: impl IntoIterator<Item = &'a R>) -> Result<()> {
        rows.into_iter().try_for_each(|row| self.push(row))
    }

    /// Writes what is left; answers the shards, for a manifest.
    pub fn finish(mut self) -> Result<Vec<Shard>> {
        if self.total.is_some_and(|total| self.rows != total) {
            return Err(self.other_total());
        }
        if self.batch.rows() > 0 {
            self.sink.send(Some(self.batch.finish()?))?;
        }
        self.sink.send(None)?;
        let mut shards = self.sink.wait()?;
        if self.total.is_none() {
            rename_all(&self.dir, &mut shards)?;
        }
        Ok(shards)
    }

    fn other_total(&self) -> Error {
        Error::unexpected(format!(
            "a dataset of {} {} got {} or more",
            self.total.unwrap_or(0),
            R::KIND,
            self.rows
        ))
        .at_file(&self.dir)
        .help("this is a mistake of the program, please report it")
    }
}

/// Writes a dataset; see [`Writer::create`]. Dropped before [`Writer::finish`], it leaves shards
/// without a manifest, which the next attempt replaces.
pub struct Writer<R: Row> {
    dir: PathBuf,
    provenance: Provenance,
    shards: Shards<R>,
}

impl<R: Row> Writer<R> {
    /// Begins a dataset in `dir`, of so many rows if that is known.
    ///
    /// May be called again after a crash at any point: the same rows give the same files, and the
    /// manifest comes last. A complete dataset of the same provenance is taken away first, one with
    /// another provenance is refused. The manifest of a running job, and the shards that it lists,
    /// stay until the manifest is replaced.
    pub fn create(dir: &Path, provenance: Provenance, total_rows: Option<u64>) -> Result<Self> {
        atomic::create_directories(dir)?;
        let listed = claim(dir, R::KIND, &provenance)?;
        Ok(Self {
            dir: dir.to_owned(),
            provenance,
            shards: Shards::create(dir, total_rows, &listed)?,
        })
    }

    pub fn push(&mut self, row: &R) -> Result<()> {
        self.shards.push(row)
    }

    pub fn extend<'a>(&mut self, rows: impl IntoIterator<Item = &'a R>) -> Result<()> {
        self.shards.extend(rows)
    }

    /// Writes what is left, and the manifest of the complete dataset.
    pub fn finish(self) -> Result<Manifest> {
        let shards = self.shards.finish()?;
        let manifest = Manifest::new(R::KIND, Status::Complete, shards, self.provenance);
        manifest.write(&self.dir)?;
        Ok(manifest)
    }
}

/// Writes a complete dataset of `rows` to `dir`, and returns its manifest; see [`Writer::create`].
pub fn write_all<R: Row>(dir: &Path, rows: &[R], provenance: Provenance) -> Result<Manifest> {
    let mut writer = Writer::create(dir, provenance, Some(rows.len() as u64))?;
    writer.extend(rows)?;
    writer.finish()
}

/// No rows make one empty shard, so that other tools find the columns.
fn shard_count(rows: u64) -> usize {
    rows.div_ceil(SHARD_ROWS as u64).max(1) as usize
}

/// The name of a shard while the number of all is unknown.
fn hidden_name(index: usize) -> String {
    format!(".data-{index:05}.arrow")
}

fn rename_all(dir: &Path, shards: &mut [Shard]) -> Result<()> {
    let count = shards.len();
    for (index, shard) in shards.iter_mut().enumerate() {
        let (from, file) = (dir.join(&shard.file), shard::file_name(index, count));
        fs::rename(&from, dir.join(&file)).map_err(|error| {
            Error::io("rename", &from, error).help("fix the rights, and run the same command again")
        })?;
        shard.file = file;
    }
    atomic::sync_directory(dir)
}

/// Makes sure that `dir` holds no other dataset; answers the shards of a job that still runs.
fn claim(dir: &Path, kind: Kind, provenance: &Provenance) -> Result<Vec<Shard>> {
    if !Manifest::exists(dir) {
        return Ok(Vec::new());
    }
    let there = Manifest::read(dir)?;
    let mut difference = provenance.difference(&there.provenance);
    if there.kind != kind {
        difference.insert(0, format!("kind: {} there, {kind} here", there.kind));
    }
    if !difference.is_empty() {
        return Err(Error::config(format!(
            "the directory holds another dataset: {}",
            difference.join("; ")
        ))
        .at_file(dir)
        .help("choose another `--out`, or delete the directory if it is no longer needed"));
    }
    if there.status == Status::Running {
        return Ok(there.shards);
    }
    let path = dir.join(MANIFEST);
    fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
    atomic::sync_directory(dir)?;
    Ok(Vec::new())
}

/// Removes the shards of an unfinished write, whose count may have been another.
fn remove_leftovers(dir: &Path, listed: &[Shard]) -> Result<()> {
    let failed = |error| Error::io("clear", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let finished = name.starts_with("data-") && name.contains("-of-") && name.ends_with(".arrow");
        // Hidden names, and what `atomic` puts before any name.
        let unfinished = name.starts_with(".data-") || name.starts_with("..data-");
        if (finished || unfinished) && listed.iter().all(|shard| shard.file != name) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// The thread that makes shards of record batches. `None` ends the dataset; to hang up without it
/// abandons the shard that is not full.
struct Sink {
    // Before the thread, which waits for it.
    batches: SyncSender<Option<RecordBatch>>,
    thread: Option<Background<Vec<Shard>>>,
}

impl Sink {
    /// `count` is the number of shards, if it is known.
    fn start(dir: &Path, kind: Kind, count: Option<usize>) -> Result<Self> {
        let (batches, receiver) = sync_channel(1);
        let dir = dir.to_owned();
        let thread = Background::start("dataset-encode", move || encode(&dir, kind, count, &receiver))?;
        Ok(Self {
            batches,
            thread: Some(thread),
        })
    }

    fn send(&mut self, batch: Option<RecordBatch>) -> Result<()> {
        match self.batches.send(batch) {
            Ok(()) => Ok(()),
            // It has ended before its time, and its answer says why.
            Err(_) => self.wait().and_then(|_| Err(after_failure())),
        }
    }

    fn wait(&mut self) -> Result<Vec<Shard>> {
        self.thread
            .take()
            .map_or_else(|| Err(after_failure()), Background::wait)
    }
}

fn after_failure() -> Error {
    Error::unexpected("a dataset cannot go on after a failed write")
}

/// Makes shards of the batches that come, and names them; at most one is on its way to the disk.
fn encode(dir: &Path, kind: Kind, count: Option<usize>, batches: &Receiver<Option<RecordBatch>>) -> Result<Vec<Shard>> {
    let mut shards = Vec::new();
    let mut encoder = Encoder::new(kind)?;
    let mut on_its_way: Option<Background<()>> = None;
    while let Ok(batch) = batches.recv() {
        if let Some(batch) = &batch {
            encoder.push(batch)?;
        }
        let rows = encoder.rows();
        let last = batch.is_none() && (rows > 0 || shards.is_empty());
        if last || rows == SHARD_ROWS as u64 {
            let index = shards.len();
            let file = count.map_or_else(|| hidden_name(index), |count| shard::file_name(index, count));
            let (bytes, shard) = std::mem::replace(&mut encoder, Encoder::new(kind)?).finish(&file)?;
            shards.push(shard);
            on_its_way.take().map_or(Ok(()), Background::wait)?;
            let path = dir.join(file);
            on_its_way = Some(Background::start("dataset-write", move || {
                atomic::write(&path, &bytes)
            })?);
        }
        if batch.is_none() {
            break;
        }
    }
    on_its_way.map_or(Ok(()), Background::wait)?;
    Ok(shards)
}
