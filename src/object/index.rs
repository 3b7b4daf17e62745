//! What a local copy holds: which state of which object each file is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::location::Location;
use super::settings::Settings;
use super::store::Version;
use crate::atomic;
use crate::error::{Error, Result};
use crate::http::TICK;
use crate::interrupt;
use crate::record::hex;

const FORMAT: u32 = 1;

/// A file as the file system tells it: another write of it has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    inode: u64,
}

/// A file that is the same here and in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    e_tag: Option<String>,
    generation: Option<String>,
    stamp: Stamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    format: u32,
    /// For people: what this is a copy of.
    location: String,
    files: BTreeMap<String, Entry>,
    /// Committed here, and not known to be in the store.
    pending: BTreeSet<String>,
}

/// The place of a location's copy, for this process alone while it is open.
pub struct Copy {
    /// Where the files are.
    pub dir: PathBuf,
    path: PathBuf,
    content: Content,
    _lock: File,
}

impl Copy {
    /// Opens the copy of an input, waiting for whoever has it open.
    pub fn of_input(location: &Location, settings: &Settings) -> Result<Self> {
        Self::open("inputs", location, settings, |_| {
            interrupt::check()?;
            std::thread::sleep(TICK);
            Ok(())
        })
    }

    /// Opens the copy of an output; an error if another process has it open.
    pub fn of_output(location: &Location, settings: &Settings) -> Result<Self> {
        Self::open("mirror", location, settings, |lock| {
            Err(
                Error::config("another process of this machine is at work in this directory")
                    .at_file(location.to_string())
                    .help(format!(
                        "wait for it, or give another address; it holds {}",
                        lock.display()
                    )),
            )
        })
    }

    fn open(
        kind: &str,
        location: &Location,
        settings: &Settings,
        in_use: impl Fn(&Path) -> Result<()>,
    ) -> Result<Self> {
        let identity = format!("{location} {}", settings.origin(location));
        let digest = hex(&Sha256::digest(identity.as_bytes()));
        let place = settings.cache.join(kind).join(&digest[..32]);
        let dir = place.join(location.name());
        let remedy = "set XDG_CACHE_HOME to a directory that can be written";
        fs::create_dir_all(&dir).map_err(|error| Error::io("create", &dir, error).help(remedy))?;
        let lock = place.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(|error| Error::io("open the lock", &lock, error).help(remedy))?;
        // File systems without locks are none the worse for it.
        while let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            in_use(&lock)?;
        }
        let path = place.join("index.json");
        // An index that cannot be read is none: the files are brought again.
        let content = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let content = content.filter(|content: &Content| content.format == FORMAT);
        Ok(Self {
            dir,
            path,
            content: content.unwrap_or_else(|| Content {
                format: FORMAT,
                location: location.to_string(),
                ..Content::default()
            }),
            _lock: file,
        })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The state of the store's object that is known here.
    pub fn version(&self, name: &str) -> Option<Version> {
        let entry = self.content.files.get(name)?;
        Some(Version {
            e_tag: entry.e_tag.clone(),
            generation: entry.generation.clone(),
        })
    }

    /// Whether the file here is the store's object in this state.
    pub fn has(&self, name: &str, bytes: u64, version: &Version) -> bool {
        let stamp = fs::metadata(self.file(name)).ok().map(|found| stamp(&found));
        self.content.files.get(name).is_some_and(|entry| {
            let known = entry.e_tag.as_deref().map(|tag| tag.trim_matches('"'));
            known.is_some() && known == version.tag() && Some(entry.stamp) == stamp && entry.stamp.bytes == bytes
        })
    }

    /// Whether a file is as it was when it was last the same here and there.
    pub fn is_level(&self, name: &str) -> bool {
        let stamp = fs::metadata(self.file(name)).ok().map(|found| stamp(&found));
        stamp.is_some() && self.content.files.get(name).map(|entry| entry.stamp) == stamp
    }

    /// Whether everything that is known here is in the store as it was.
    pub fn is_base_of(&self, listed: &BTreeMap<String, Version>) -> bool {
        let known = &self.content.files;
        !known.is_empty()
            && known.iter().all(|(name, entry)| {
                let there = listed.get(name).and_then(Version::tag);
                there.is_some() && there == entry.e_tag.as_deref().map(|tag| tag.trim_matches('"'))
            })
    }

    pub fn pending(&self) -> BTreeSet<String> {
        self.content.pending.clone()
    }

    /// Remembers that a file is on its way to the store.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        if !self.content.pending.insert(name.to_owned()) {
            return Ok(());
        }
        self.save()
    }

    /// Remembers that a file is the same here and there.
    pub fn level(&mut self, name: &str, version: Version) -> Result<()> {
        let path = self.file(name);
        let found = fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        let entry = Entry {
            e_tag: version.e_tag,
            generation: version.generation,
            stamp: stamp(&found),
        };
        self.content.pending.remove(name);
        self.content.files.insert(name.to_owned(), entry);
        self.save()
    }

    /// Forgets a file, here or there.
    pub fn forget(&mut self, name: &str) -> Result<()> {
        let known = self.content.files.remove(name).is_some();
        if !self.content.pending.remove(name) && !known {
            return Ok(());
        }
        self.save()
    }

    fn save(&self) -> Result<()> {
        let json = serde_json::to_vec(&self.content)
            .map_err(|error| Error::unexpected("the index of a copy").because(error))?;
        atomic::write(&self.path, &json)
    }

    /// The files here, by names with `/`.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        walk(&self.dir, "", &mut names)?;
        names.sort();
        Ok(names)
    }
}

fn walk(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let failed = |error| Error::io("list", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

fn stamp(found: &Metadata) -> Stamp {
    let modified = found.modified().ok();
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(found);
    #[cfg(not(unix))]
    let inode = 0;
    Stamp {
        bytes: found.len(),
        modified: modified.map_or(0, |since| since.as_nanos()),
        inode,
    }
}
