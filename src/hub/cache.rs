//! The cache of huggingface_hub: `models--org--name/{blobs, refs, snapshots}` below `$HF_HOME/hub`.
//!
//! A blob is named by its checksum. A snapshot is a commit's directory, with links to blobs; a ref is a
//! file that holds the commit of a branch. A download under way is `blobs/CHECKSUM.partial`, guarded by
//! a lock that Python's huggingface_hub takes too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::names::{PREFIX, Repository, is_commit};
use super::settings::{home, set};
use crate::atomic;
use crate::error::{Error, Result};

pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn from_env() -> Result<Self> {
        let given = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        Ok(Self {
            dir: match given {
                Some(dir) => dir.into(),
                None => home()?.join("hub"),
            },
        })
    }

    /// The directory of a repository, all revisions together.
    pub fn repository(&self, id: &str) -> PathBuf {
        self.dir.join(format!("models--{}", id.replace('/', "--")))
    }

    /// The directory of a revision, if it is there.
    pub fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        let dir = self.repository(&repository.id);
        let commit = fs::read_to_string(dir.join("refs").join(&repository.revision));
        let commit = commit.map_or_else(|_| repository.revision.clone(), |commit| commit.trim().to_owned());
        let snapshot = dir.join("snapshots").join(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Where the model of a revision lies: its snapshot, or the one GGUF file in it.
    pub fn model(&self, repository: &Repository) -> Result<PathBuf> {
        let snapshot = self.snapshot(repository).ok_or_else(|| {
            Error::input(format!(
                "{PREFIX}{repository} is not in the cache of models, {}",
                self.dir.display()
            ))
            .help(format!(
                "fetch it: bylaw model pull {repository}; or {}",
                self.by_hand(&repository.id)
            ))
        })?;
        if snapshot.join("config.json").exists() {
            return Ok(snapshot);
        }
        let entries = fs::read_dir(&snapshot).map_err(|error| Error::io("read", &snapshot, error))?;
        let gguf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(gguf)
            .collect();
        files.sort();
        match files.as_slice() {
            [] => Ok(snapshot),
            [file] => Ok(file.clone()),
            [first, ..] => Err(Error::config(format!(
                "{PREFIX}{repository} holds {} GGUF files, and which is meant is not said",
                files.len()
            ))
            .help(format!("name one by its path: {}", first.display()))),
        }
    }

    /// What to do without a network.
    pub fn by_hand(&self, id: &str) -> String {
        format!(
            "on a machine with a network, run `bylaw model pull {id} --out DIR`, copy DIR here and give it as the \
             model (it holds config.json, tokenizer.json, tokenizer_config.json, generation_config.json and \
             *.safetensors); or copy {} from that machine's cache to {}",
            self.repository(id).file_name().unwrap_or_default().display(),
            self.dir.display()
        )
    }

    pub fn blob(&self, id: &str, checksum: &str) -> PathBuf {
        self.repository(id).join("blobs").join(checksum)
    }

    /// Waits for nobody: whoever holds the lock of a blob is downloading it.
    pub fn lock(&self, id: &str, checksum: &str) -> Result<File> {
        let folder = self.repository(id);
        let locks = self.dir.join(".locks").join(folder.file_name().unwrap_or_default());
        create(&locks)?;
        let path = locks.join(format!("{checksum}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| Error::io("open the lock", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(Error::config("another process is downloading this file")
                .at_file(self.blob(id, checksum))
                .help("wait until it is through and run the same command again: finished files are found")),
            // File systems without locks are none the worse for it.
            Err(fs::TryLockError::Error(_)) => Ok(file),
        }
    }

    /// The directory of a commit.
    pub fn snapshot_dir(&self, id: &str, commit: &str) -> PathBuf {
        self.repository(id).join("snapshots").join(commit)
    }

    /// Makes `name` of a commit's snapshot a link to its blob.
    pub fn link(&self, id: &str, commit: &str, name: &str, checksum: &str) -> Result<()> {
        let path = self.snapshot_dir(id, commit).join(name);
        let up = "../".repeat(name.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{checksum}"));
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            create(parent)?;
        }
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(|error| Error::io("replace", &path, error))?;
        }
        symlink(&target, &path).map_err(|error| Error::io("link", &path, error))
    }

    /// Writes down which commit a branch or a tag is at.
    pub fn remember(&self, repository: &Repository, commit: &str) -> Result<()> {
        if repository.revision == commit {
            return Ok(());
        }
        let path = self.repository(&repository.id).join("refs").join(&repository.revision);
        if let Some(parent) = path.parent() {
            create(parent)?;
        }
        atomic::write(&path, commit.as_bytes())
    }
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Where links need rights of their own, a copy, as huggingface_hub makes it.
#[cfg(not(unix))]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::copy(parent.join(target), path).map(drop)
}

pub fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| Error::io("create", dir, error))
}
