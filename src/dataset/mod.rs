//! Datasets: directories of Arrow shards with a manifest, and the references that name data.
//!
//! The one place that knows Arrow. Stages, losses and trainers see rows only.

mod background;
mod columns;
mod detected;
pub mod export;
mod ids;
mod locate;
mod manifest;
mod mapping;
pub mod migrate;
mod objects;
mod recorded;
mod reference;
mod row;
mod rows;
mod scale;
mod shape;
pub mod shard;
mod soundness;
mod source;
mod stream;
pub mod validate;
mod writer;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

pub use detected::{Detected, Found};
pub(crate) use ids::UniqueIds;
pub use manifest::{FILE as MANIFEST, Manifest, Provenance, Revision, Slice, Source, Status};
pub use mapping::Mapping;
pub use objects::{RawRecord, read_objects, text_of};
pub use recorded::{RecordedPair, read_pairs, read_recorded};
pub use reference::{
    Loaded, read_candidates, read_demonstrations, read_preferences, read_prompts, read_revisions,
    read_unpaired_preferences,
};
pub use row::{Kind, Row, describe, from_batch, to_batch};
pub use rows::Rows;
pub use scale::Scale;
pub use shape::{Form, Native, Shape};
pub use shard::Shard;
pub use source::Format;
pub use stream::{Options, Position, RowStream, detect, stream};
pub use writer::{SHARD_ROWS, Shards, Writer, write_all};

use crate::error::{Error, Result};
use crate::record::{Reject, content_id};

/// The columns of a kind, each with its type in the notation of [`describe`].
pub fn columns(kind: Kind) -> Vec<(String, String)> {
    let schema = kind.schema();
    let columns = schema.fields().iter();
    columns
        .map(|field| (field.name().clone(), describe(field.data_type())))
        .collect()
}

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

    /// The rows one after the other, checksums verified, in the memory of two shards.
    pub fn rows(&self) -> Result<Rows<R>> {
        Rows::new(&self.dir, &self.manifest.shards)
    }

    pub fn read_all(&self) -> Result<Vec<R>> {
        let mut rows = Vec::with_capacity(self.manifest.rows.min(SHARD_ROWS as u64) as usize);
        for row in self.rows()? {
            rows.push(row?);
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

/// Bytes that a reject keeps of what was read. Rejects are held until the dataset is written.
const RAW: usize = 1 << 20;

/// A row that could not be read.
fn reject(reason: String, mut raw: String) -> Reject {
    let id = content_id(["read", raw.as_str()]);
    if raw.len() > RAW {
        raw.truncate(raw.floor_char_boundary(RAW));
        raw.push_str(" …");
        raw.shrink_to_fit();
    }
    Reject {
        id,
        stage: "read".into(),
        reason,
        raw,
    }
}
