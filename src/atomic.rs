//! Writing a file so that it is there whole or not at all, whatever moment the machine stops at.
//!
//! Knows nothing of what the bytes mean. One process at a time may write a given name.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `bytes` under a temporary name beside `path`, makes them durable, and renames.
///
/// The temporary name is fixed, so that what a killed process left is overwritten by the next.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// The same for what is too large to be held in memory once more: `fill` writes it piece by piece.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let temporary = temporary(path)?;
    let failed = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "the directory does not exist: make it, or give another path",
            _ => {
                "what was finished before is untouched; free some space or fix the rights, and run the same command again"
            }
        };
        Error::io("write", path, error).help(help)
    };
    let written = File::create(&temporary)
        .and_then(|mut file| {
            fill(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    sync_directory(parent(path))
}

/// Makes a directory and those above it that are missing, every new name durable.
pub fn create_directories(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    create_directories(parent(dir))?;
    match fs::create_dir(dir) {
        // Another process may have been faster.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists || !dir.is_dir() => {
            return Err(Error::io("create", dir, error).or_help("choose a directory that can be written"));
        }
        _ => {}
    }
    sync_directory(parent(dir))
}

/// Makes the names in a directory durable.
pub fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::io("make durable", dir, error))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::config(format!("{} does not name a file", path.display())).help("give the name of a file")
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".partial");
    Ok(path.with_file_name(hidden))
}
