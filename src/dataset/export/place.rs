//! The directory of an export: whose it is, and how it becomes complete.
//!
//! Everything is written in a hidden directory inside it and moved out at the end, the record (for Arrow:
//! the manifest) last. A killed export leaves the hidden directory, which tells the same command that it
//! may begin again; another command is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sink::DATA;
use super::{Format, Lengths};
use crate::atomic;
use crate::dataset::row::Kind;
use crate::dataset::{MANIFEST, Manifest, Provenance, Shard, Source};
use crate::error::{Error, Result};

/// The record of an export.
pub const RECORD: &str = "export.json";

const STAGING: &str = ".partial";
const REQUEST: &str = "request.json";
const REJECTS: &str = "rejects";

/// What was asked for: the same request on the same directory writes the export anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub reference: String,
    pub format: Format,
    /// What the rows were read as.
    pub kind: Kind,
    /// What else decides the rows, by name.
    pub settings: BTreeMap<String, String>,
}

impl Request {
    pub fn provenance(&self) -> Provenance {
        let mut provenance = Provenance::new("data-convert", 0);
        provenance.inputs.push(Source {
            reference: self.reference.clone(),
            sha256: String::new(),
        });
        let mut set = |name: &str, value: &str| provenance.settings.insert(name.to_owned(), value.into());
        set("format", self.format.as_str());
        set("kind", self.kind.as_str());
        for (name, value) in &self.settings {
            set(name, value);
        }
        provenance
    }
}

/// What an export left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`Record::FORMAT`].
    pub format: String,
    pub request: Request,
    /// How the input was named, and the hash of its content.
    pub input: Source,
    /// What the input was taken for, in words.
    pub read_as: String,
    pub kind: Kind,
    pub rows: u64,
    pub rejects: u64,
    pub files: Vec<Shard>,
    /// Configurations and the card.
    pub configurations: Vec<String>,
    /// How to train, in the directory of the export.
    pub commands: Vec<String>,
    pub losses: Vec<LossRecord>,
    /// In characters.
    pub lengths: BTreeMap<String, Lengths>,
    /// Settings that the tool has no name for.
    pub not_carried: Vec<String>,
}

impl Record {
    pub const FORMAT: &'static str = "bylaw-export";

    /// Reads the record of a directory, if it has one.
    fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(RECORD);
        match fs::read(&path) {
            Err(_) => Ok(None),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::input("this is not the record of an export")
                    .at_file(&path)
                    .help("give another --out")
                    .because(error)
            }),
        }
    }
}

/// Something that a tool does not see, and of how many rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRecord {
    pub loss: String,
    pub rows: u64,
    pub meaning: String,
}

/// What a directory holds from before: `None` if nothing of ours, otherwise the differences from
/// `request`, of which there are none if it is the same.
pub fn earlier(dir: &Path, request: &Request) -> Result<Option<Vec<String>>> {
    let here = request.provenance();
    let difference = |there: &Provenance| {
        let mut there = there.clone();
        for input in &mut there.inputs {
            // The content may have changed: then it is converted again.
            input.sha256.clear();
        }
        here.difference(&there)
    };
    if let Ok(bytes) = fs::read(dir.join(STAGING).join(REQUEST))
        && let Ok(unfinished) = serde_json::from_slice::<Request>(&bytes)
    {
        return Ok(Some(difference(&unfinished.provenance())));
    }
    if let Some(record) = Record::read(dir)? {
        return Ok(Some(difference(&record.request.provenance())));
    }
    if Manifest::exists(dir) {
        return Ok(Some(difference(&Manifest::read(dir)?.provenance)));
    }
    Ok(None)
}

/// A claimed directory.
pub struct Place {
    dir: PathBuf,
    staging: PathBuf,
}

impl Place {
    /// Takes the directory for `request`. That it is free, or holds an earlier export of the same
    /// request, is for the caller to see to: [`earlier`].
    pub fn claim(dir: &Path, request: &Request) -> Result<Self> {
        let staging = dir.join(STAGING);
        let failed = |error| {
            Error::io("make the directory", &staging, error).help("choose a directory that can be written, with --out")
        };
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(failed)?;
        }
        atomic::create_directories(&staging)?;
        let request =
            serde_json::to_vec_pretty(request).map_err(|error| Error::unexpected("the request").because(error))?;
        atomic::write(&staging.join(REQUEST), &request)?;
        Ok(Self {
            dir: dir.to_owned(),
            staging,
        })
    }

    /// Where everything is written first.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Moves everything to its place.
    pub fn commit(self, record: &Record) -> Result<()> {
        let failed = |path: &Path, error| {
            Error::io("move into place", path, error).help("fix the rights, and run the same command again")
        };
        self.remove_earlier()?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.staging).map_err(|error| failed(&self.staging, error))? {
            let name = entry.map_err(|error| failed(&self.staging, error))?.file_name();
            if name != REQUEST && name != MANIFEST {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let to = self.dir.join(&name);
            fs::rename(self.staging.join(&name), &to).map_err(|error| failed(&to, error))?;
        }
        atomic::sync_directory(&self.dir)?;
        // Last, because it says that the rest is there.
        if record.request.format == Format::Arrow {
            let to = self.dir.join(MANIFEST);
            fs::rename(self.staging.join(MANIFEST), &to).map_err(|error| failed(&to, error))?;
        } else {
            let mut text =
                serde_json::to_vec_pretty(record).map_err(|error| Error::unexpected("the record").because(error))?;
            text.push(b'\n');
            atomic::write(&self.dir.join(RECORD), &text)?;
        }
        fs::remove_dir_all(&self.staging).map_err(|error| failed(&self.staging, error))?;
        atomic::sync_directory(&self.dir)
    }

    /// Removes what an earlier export of the same request left, and nothing else: a model trained in the
    /// directory stays.
    fn remove_earlier(&self) -> Result<()> {
        let mut names = vec![
            RECORD.to_owned(),
            MANIFEST.to_owned(),
            DATA.to_owned(),
            REJECTS.to_owned(),
        ];
        if let Ok(manifest) = Manifest::read(&self.dir) {
            names.extend(manifest.shards.into_iter().map(|shard| shard.file));
        }
        for name in names {
            let path = self.dir.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Err(_) => Ok(()),
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
            };
            removed.map_err(|error| Error::io("remove", &path, error).help("fix the rights, or give another --out"))?;
        }
        Ok(())
    }

    /// Leaves nothing behind. Best effort: the error that stopped the export is the one to tell.
    pub fn abandon(self) {
        let _ = fs::remove_dir_all(&self.staging);
    }
}
