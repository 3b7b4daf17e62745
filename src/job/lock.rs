//! One process to a directory: a lock that names its owner and ends with it.
//!
//! The lock is the system's own on an open file (`flock`), so a process that is killed releases it, on
//! network file systems too. The file says who holds it. What a dead owner left is taken over.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::{LOCK, state_dir};
use crate::atomic;
use crate::error::{Error, Result};
use crate::object::Owner;

/// Whether an owner may still be at work, where the file system cannot tell: a process of this host is
/// looked up, one of another host is believed.
fn may_live(owner: &Owner) -> bool {
    let me = Owner::this_process();
    owner.host != me.host || (owner.pid != me.pid && Path::new(&format!("/proc/{}", owner.pid)).exists())
}

/// The right to write in a directory, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// Who left the directory without giving it back.
    pub taken_over: Option<Owner>,
}

impl Lock {
    /// Takes the lock of `dir`; an error if another process holds it.
    pub fn take(dir: &Path) -> Result<Self> {
        let state = state_dir(dir);
        atomic::create_directories(&state)?;
        let path = state.join(LOCK);
        let failed = |error| Error::io("lock", &path, error);
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            let previous = owner(&mut file);
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(dir, previous.as_ref(), &path)),
                // A file system without locks: what the file says is all there is.
                Err(TryLockError::Error(_)) if previous.as_ref().is_some_and(may_live) => {
                    return Err(in_use(dir, previous.as_ref(), &path));
                }
                Err(TryLockError::Error(_)) => {}
            }
            // Its owner may have removed the file between our opening and our locking it.
            if !is_same_file(&file, &path) {
                continue;
            }
            sign(&mut file).map_err(failed)?;
            return Ok(Self {
                file,
                path,
                taken_over: previous,
            });
        }
    }

    /// Who holds the lock of `dir` now.
    pub fn holder(dir: &Path) -> Option<Owner> {
        let mut file = File::open(state_dir(dir).join(LOCK)).ok()?;
        let owner = owner(&mut file)?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => Some(owner),
            Err(TryLockError::Error(_)) => may_live(&owner).then_some(owner),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort: a file that stays is taken over by the next.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn owner(file: &mut File) -> Option<Owner> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn sign(file: &mut File) -> std::io::Result<()> {
    let text = serde_json::to_string(&Owner::this_process())?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

fn in_use(dir: &Path, owner: Option<&Owner>, path: &Path) -> Error {
    let who = owner.map_or_else(|| "another process".to_owned(), Owner::to_string);
    Error::config(format!("{who} is at work in this directory"))
        .at_file(dir)
        .help(format!(
            "`bylaw status {}` tells how far it is; wait for it, or give another --out. \
             If that process is gone for certain, delete {}",
            dir.display(),
            path.display()
        ))
}
