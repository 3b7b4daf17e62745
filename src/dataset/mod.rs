//! Datasets: directories of Arrow shards with a manifest, and the references that name data.
//!
//! The one place that knows Arrow. Stages, losses and trainers see rows only.

pub mod export;
mod ids;
mod locate;
mod manifest;
mod mapping;
mod reference;
mod row;
mod shape;
pub mod shard;
mod source;
mod stream;

use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

pub use manifest::{FILE as MANIFEST, Manifest, Provenance, Revision, Slice, Source, Status};
pub use mapping::Mapping;
pub use reference::{
    Loaded, read_candidates, read_demonstrations, read_preferences, read_prompts, read_revisions,
    read_unpaired_preferences,
};
pub use row::{Kind, Row, describe, from_batch, to_batch};
pub use shape::{Form, Native, Shape};
pub use shard::Shard;
pub use source::Format;
pub use stream::{Detected, Found, Options, Position, RowStream, detect, stream};

use crate::atomic;
use crate::error::{Error, Result};
use crate::record::{Reject, content_id};

/// Rows to a shard.
pub const SHARD_ROWS: usize = 8192;

/// The directory of the rejected rows of the dataset in `dir`.
pub fn rejects_dir(dir: &Path) -> PathBuf {
    dir.join("rejects")
}

/// A dataset on disk, opened for reading.
#[derive(Debug)]
pub struct Dataset<R> {
    dir: PathBuf,
    manifest: Manifest,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> Dataset<R> {
    /// Reads the manifest; an error if the rows are of another kind. A dataset that is still being
    /// written opens too, with the rows so far: see [`Manifest::status`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let manifest = Manifest::read(&dir)?;
        if manifest.kind != R::KIND {
            return Err(
                Error::input(format!("the dataset holds {}, expected {}", manifest.kind, R::KIND))
                    .at_file(&dir)
                    .help(format!("name a dataset of {}", R::KIND)),
            );
        }
        Ok(Self {
            dir,
            manifest,
            row: PhantomData,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The rows of one shard after the other, checksums verified.
    pub fn shards(&self) -> impl Iterator<Item = Result<Vec<R>>> + '_ {
        self.manifest.shards.iter().map(|shard| shard::read(&self.dir, shard))
    }

    pub fn read_all(&self) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        for shard in self.shards() {
            rows.extend(shard?);
        }
        Ok(rows)
    }

    /// The rows that could not be used, kept beside the dataset.
    pub fn rejects(&self) -> Result<Vec<Reject>> {
        let dir = rejects_dir(&self.dir);
        if Manifest::exists(&dir) {
            Dataset::open(dir)?.read_all()
        } else {
            Ok(Vec::new())
        }
    }

    /// Identifies the content: the same rows in the same shards have the same hash.
    pub fn sha256(&self) -> String {
        self.manifest.sha256()
    }
}

/// One hash for the files of a reference: a single file's own, so that `sha256sum` confirms it.
fn combined_sha256<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let files: Vec<&str> = files.collect();
    match files[..] {
        [file] => file.to_owned(),
        _ => {
            use sha2::{Digest, Sha256};
            crate::record::hex(&Sha256::digest(files.join("\n")))
        }
    }
}

/// Writes the shards of a dataset as rows come: files that follow from the sequence of rows alone.
pub struct Shards<R> {
    dir: PathBuf,
    /// Rows in all, and files.
    total: u64,
    count: usize,
    pending: Vec<R>,
    shards: Vec<Shard>,
}

impl<R: Row> Shards<R> {
    /// For `total` rows; other shards that an unfinished write left in `dir` are removed.
    pub fn create(dir: &Path, total: u64) -> Result<Self> {
        // No rows make one empty shard, so that other tools find the columns.
        let count = (total as usize).div_ceil(SHARD_ROWS).max(1);
        remove_shards(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            total,
            count,
            pending: Vec::new(),
            shards: Vec::with_capacity(count),
        })
    }

    pub fn extend(&mut self, rows: impl IntoIterator<Item = R>) -> Result<()> {
        for row in rows {
            self.pending.push(row);
            if self.pending.len() == SHARD_ROWS {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let file = shard::file_name(self.shards.len(), self.count);
        self.shards.push(shard::write(&self.dir, &file, &self.pending)?);
        self.pending.clear();
        Ok(())
    }

    /// The shards, for a manifest.
    pub fn finish(mut self) -> Result<Vec<Shard>> {
        if !self.pending.is_empty() || self.shards.is_empty() {
            self.flush()?;
        }
        let rows: u64 = self.shards.iter().map(|shard| shard.rows).sum();
        if rows != self.total {
            return Err(
                Error::unexpected(format!("{rows} rows were written instead of {}", self.total)).at_file(&self.dir),
            );
        }
        Ok(self.shards)
    }
}

/// Writes a complete dataset of `rows` to `dir`, and returns its manifest.
///
/// The manifest comes last: a directory without one is an unfinished write, which the same call
/// makes good. A dataset with another provenance is never overwritten.
pub fn write_all<R: Row>(dir: &Path, rows: &[R], provenance: Provenance) -> Result<Manifest> {
    fs::create_dir_all(dir)
        .map_err(|error| Error::io("make the directory", dir, error).help("choose a directory that can be written"))?;
    if Manifest::exists(dir) {
        refuse_other(dir, R::KIND, &provenance)?;
        let path = dir.join(MANIFEST);
        fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        atomic::sync_directory(dir)?;
    }
    let mut shards = Shards::create(dir, rows.len() as u64)?;
    shards.extend(rows.iter().cloned())?;
    let manifest = Manifest::new(R::KIND, Status::Complete, shards.finish()?, provenance);
    manifest.write(dir)?;
    Ok(manifest)
}

fn refuse_other(dir: &Path, kind: Kind, provenance: &Provenance) -> Result<()> {
    let there = Manifest::read(dir)?;
    let mut difference = provenance.difference(&there.provenance);
    if there.kind != kind {
        difference.insert(0, format!("kind: {} there, {kind} here", there.kind));
    }
    if difference.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "the directory holds another dataset: {}",
        difference.join("; ")
    ))
    .at_file(dir)
    .help("choose another `--out`, or delete the directory if it is no longer needed"))
}

/// Removes the shards of an unfinished write, whose count may have been another.
fn remove_shards(dir: &Path) -> Result<()> {
    let failed = |error| Error::io("clear", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("data-") && name.contains("-of-") && name.ends_with(".arrow") {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// A row that could not be read.
fn reject(reason: String, raw: String) -> Reject {
    Reject {
        id: content_id(["read", raw.as_str()]),
        stage: "read".into(),
        reason,
        raw,
    }
}
