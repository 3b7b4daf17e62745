//! `manifest.json`: what a dataset's directory holds, and where it comes from.
//!
//! Knows the file and its fields; how a stage fills in its provenance, and what happens when two
//! differ, is for the caller.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::migrate;
use super::row::Kind;
use super::shard::Shard;
use crate::atomic;
use crate::error::{Error, Result};
use crate::record::hex;

pub const FILE: &str = "manifest.json";
const FORMAT: &str = "bylaw-dataset";

/// Whether all rows are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Running,
    Complete,
}

/// Something a dataset was made from: how it was named, and what its content was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub reference: String,
    pub sha256: String,
}

/// Everything that decides the content of a dataset: the same provenance gives the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub stage: String,
    /// Name and version of the program.
    pub program: String,
    pub model: Option<Source>,
    pub constitution: Option<Source>,
    /// SHA-256 of each prompt template, by name.
    pub prompts: BTreeMap<String, String>,
    pub inputs: Vec<Source>,
    pub settings: serde_json::Map<String, Value>,
    pub seed: u64,
    /// The part of the input that was worked on, if it was not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
}

/// One of several equal parts of an input, each of neighbouring rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Counted from 0.
    pub index: usize,
    pub of: usize,
}

impl Slice {
    /// More parts than anybody has machines.
    const MOST: usize = 100_000;

    fn is_sound(self) -> bool {
        self.index < self.of && self.of <= Self::MOST
    }

    /// The rows of the slice, of `rows` in all. The slices of an input follow one another without gaps.
    pub fn range(self, rows: usize) -> std::ops::Range<usize> {
        let bound = |index: usize| (index as u128 * rows as u128 / self.of as u128) as usize;
        bound(self.index)..bound(self.index + 1)
    }
}

impl std::fmt::Display for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl std::str::FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not I/N with I from 0 to N - 1, such as 0/8");
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let slice = Self {
            index: index.parse().map_err(|_| wrong())?,
            of: of.parse().map_err(|_| wrong())?,
        };
        if slice.index < slice.of {
            Ok(slice)
        } else {
            Err(wrong())
        }
    }
}

impl Provenance {
    /// A provenance of this program with nothing but its stage and seed.
    pub fn new(stage: impl Into<String>, seed: u64) -> Self {
        Self {
            stage: stage.into(),
            program: concat!("bylaw ", env!("CARGO_PKG_VERSION")).to_owned(),
            model: None,
            constitution: None,
            prompts: BTreeMap::new(),
            inputs: Vec::new(),
            settings: serde_json::Map::new(),
            seed,
            slice: None,
        }
    }

    /// A short hash of everything in it.
    pub fn fingerprint(&self) -> Result<String> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::unexpected("the provenance cannot be recorded").because(error))?;
        Ok(hex(&Sha256::digest(bytes)[..8]))
    }

    /// The fields in which `other` ("there", usually on disk) differs from `self` ("here").
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let value = |provenance| serde_json::to_value(provenance).unwrap_or(Value::Null);
        differ("", Some(&value(other)), Some(&value(self)), &mut lines);
        lines
    }
}

fn differ(path: &str, there: Option<&Value>, here: Option<&Value>, lines: &mut Vec<String>) {
    match (there, here) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let further = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(further) {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                differ(&path, a.get(key), b.get(key), lines);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                differ(&format!("{path}[{index}]"), a.get(index), b.get(index), lines);
            }
        }
        _ if there == here => {}
        _ => {
            let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
            lines.push(format!("{path}: {} there, {} here", text(there), text(here)));
        }
    }
}

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    schema_version: u32,
    pub kind: Kind,
    pub status: Status,
    /// Sum of the shards' rows.
    pub rows: u64,
    pub shards: Vec<Shard>,
    pub provenance: Provenance,
    /// What some rows were made under before the inputs changed and the change was accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
}

/// An earlier provenance of a dataset, and the rows that were made under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    pub provenance: Provenance,
    /// First row and the row after the last, of each run of rows; not known before the dataset is
    /// complete.
    pub rows: Vec<[u64; 2]>,
}

impl Manifest {
    pub fn new(kind: Kind, status: Status, shards: Vec<Shard>, provenance: Provenance) -> Self {
        Self {
            format: FORMAT.to_owned(),
            schema_version: migrate::CURRENT,
            kind,
            status,
            rows: shards.iter().map(|shard| shard.rows).sum(),
            shards,
            provenance,
            revisions: Vec::new(),
        }
    }

    /// The same manifest with earlier revisions.
    #[must_use]
    pub fn with_revisions(self, revisions: Vec<Revision>) -> Self {
        Self { revisions, ..self }
    }

    /// Identifies the content: the same rows in the same shards have the same hash.
    pub fn sha256(&self) -> String {
        super::combined_sha256(self.shards.iter().map(|shard| shard.sha256.as_str()))
    }

    /// Whether `dir` holds a manifest.
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// Writes `dir/manifest.json`, durably and atomically.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::unexpected("cannot encode the manifest").because(error))?;
        text.push('\n');
        atomic::write(&dir.join(FILE), text.as_bytes())
    }

    /// Reads and checks `dir/manifest.json`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|error| {
            Error::io("read", &path, error)
                .help("a dataset is a directory with a `manifest.json`; name the directory itself")
        })?;
        let broken = |message: String| {
            Error::input(message).at_file(&path).help(
                "restore the file from where the dataset was made, or run the command that made it into a new directory",
            )
        };
        let malformed = |error: serde_json::Error| broken(format!("this is not a manifest of a dataset: {error}"));
        let value: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        let Some(format) = value.get("format") else {
            return Err(broken(
                "this is not a manifest of a dataset: `format` is missing".into(),
            ));
        };
        if format != FORMAT {
            return Err(broken(format!("the format is {format}, expected {FORMAT:?}")));
        }
        let written = value["schema_version"].as_u64().unwrap_or_default() as u32;
        let value = migrate::manifest(value).map_err(|reason| {
            Error::input(reason)
                .at_file(&path)
                .help("use the version of bylaw that wrote it, or a newer one")
        })?;
        // Of the text if it may be, whose errors have their place.
        let manifest: Self = match written {
            migrate::CURRENT => serde_json::from_slice(&bytes),
            _ => serde_json::from_value(value),
        }
        .map_err(malformed)?;
        manifest.check().map_err(broken)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let rows = self
            .shards
            .iter()
            .try_fold(0u64, |sum, shard| sum.checked_add(shard.rows));
        if rows != Some(self.rows) {
            return Err(format!("`rows` is {}, but the shards do not add up to it", self.rows));
        }
        if let Some(slice) = self.provenance.slice.filter(|slice| !slice.is_sound()) {
            return Err(format!("the slice is {slice}, expected I/N with I from 0 to N - 1"));
        }
        for (index, shard) in self.shards.iter().enumerate() {
            // A manifest from elsewhere must not make us read outside of its directory.
            let mut components = Path::new(&shard.file).components();
            if !matches!(
                (components.next(), components.next()),
                (Some(Component::Normal(_)), None)
            ) {
                return Err(format!("the shard {:?} is not a plain file name", shard.file));
            }
            if self.shards[..index].iter().any(|other| other.file == shard.file) {
                return Err(format!("the shard {:?} is listed twice", shard.file));
            }
        }
        Ok(())
    }
}
