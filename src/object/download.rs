//! One object into one file: what an earlier attempt left is gone on from, and the file has its name only
//! once all bytes of one state of the object are there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path as LocalPath, PathBuf};
use std::pin::Pin;

use futures_util::{Stream, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use sha2::{Digest, Sha256};

use super::failure::is_range_refused;
use super::store::{Store, Version};
use crate::atomic;
use crate::error::{Error, Result};
use crate::http::backoff::full_jitter;
use crate::http::{sleep, unless_interrupted};
use crate::record::hex;

/// Attempts in a row without a byte gained.
const ATTEMPTS: u32 = 4;
/// How often an object may change while it is fetched.
const CHANGES: u32 = 5;

/// How one attempt ended.
enum Ended {
    Whole,
    /// The object is in another state now.
    Changed(ObjectMeta),
    Broken(Error),
}

/// A download under way.
struct Partial<'a> {
    store: &'a Store,
    key: &'a Path,
    wanted: ObjectMeta,
    path: PathBuf,
    have: u64,
}

/// Brings an object to `target`; answers the state that came. `wanted` is the state that was seen last.
pub async fn download(store: &Store, key: &Path, wanted: ObjectMeta, target: &LocalPath) -> Result<Version> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    }
    let mut partial = Partial::open(store, key, wanted, target);
    let (mut failures, mut changes) = (0, 0);
    loop {
        let before = partial.have;
        match partial.attempt().await? {
            Ended::Whole => break,
            Ended::Changed(meta) => {
                let _ = fs::remove_file(&partial.path);
                changes += 1;
                if changes > CHANGES {
                    return Err(Error::remote("the object changes while it is read")
                        .at_file(store.address(key))
                        .help("wait until its writer is through, and run the same command again"));
                }
                partial = Partial::open(store, key, meta, target);
            }
            Ended::Broken(error) => {
                // A connection that brings something is not hopeless, however often it breaks.
                failures = if partial.have > before { 1 } else { failures + 1 };
                if failures > ATTEMPTS {
                    return Err(error);
                }
                sleep(full_jitter(store.backoff(), failures)).await?;
            }
        }
    }
    let failed = |error| Error::io("keep", target, error);
    File::open(&partial.path)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    fs::rename(&partial.path, target).map_err(failed)?;
    target.parent().map_or(Ok(()), atomic::sync_directory)?;
    Ok(Version::of(&partial.wanted))
}

impl<'a> Partial<'a> {
    fn open(store: &'a Store, key: &'a Path, wanted: ObjectMeta, target: &LocalPath) -> Self {
        // The name has the state, so that what is left of another state is not gone on from.
        let version = Version::of(&wanted);
        let state = format!("{} {}", version.tag().unwrap_or_default(), wanted.size);
        let state = &hex(&Sha256::digest(state.as_bytes()))[..12];
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{state}.partial"));
        let have = match version.tag() {
            Some(_) => fs::metadata(&path).map_or(0, |found| found.len()),
            None => 0,
        };
        Self {
            store,
            key,
            have: if have > wanted.size { 0 } else { have },
            wanted,
            path,
        }
    }

    /// One connection, from where the last one ended.
    async fn attempt(&mut self) -> Result<Ended> {
        let written = |error| Error::io("write", &self.path, error);
        let options = &mut File::options();
        let file = options.create(true).write(true).truncate(false).open(&self.path);
        let mut file = file.map_err(written)?;
        file.set_len(self.have).map_err(written)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(written)?;
        if self.have == self.wanted.size && self.have > 0 {
            return Ok(Ended::Whole);
        }
        // The client has tried again where that may help.
        let found = match unless_interrupted(self.store.get(self.key, self.have)).await? {
            Ok(found) => found,
            Err(error) if self.have > 0 && is_range_refused(&error) => {
                self.have = 0;
                return Ok(Ended::Broken(self.store.explain(self.key, &error)));
            }
            Err(error) => return Err(self.store.explain(self.key, &error)),
        };
        let there = Version::of(&found.meta);
        if there.tag() != Version::of(&self.wanted).tag() {
            return Ok(Ended::Changed(found.meta));
        }
        if found.meta.size != self.wanted.size {
            return Ok(Ended::Broken(self.truncated(found.meta.size)));
        }
        // The answer's own tag and generation are what a condition can name.
        self.wanted = found.meta.clone();
        let mut stream = found.into_stream();
        loop {
            match next(&mut stream).await? {
                Ok(Some(chunk)) => {
                    if self.have + chunk.len() as u64 > self.wanted.size {
                        self.have = 0;
                        return Ok(Ended::Broken(self.truncated(self.wanted.size + 1)));
                    }
                    file.write_all(&chunk).map_err(|error| {
                        Error::io("write", &self.path, error).help("free some space and run the same command again")
                    })?;
                    self.have += chunk.len() as u64;
                }
                Ok(None) if self.have == self.wanted.size => return Ok(Ended::Whole),
                Ok(None) => return Ok(Ended::Broken(self.truncated(self.have))),
                Err(error) => return Ok(Ended::Broken(self.store.explain(self.key, &error))),
            }
        }
    }

    fn truncated(&self, came: u64) -> Error {
        Error::remote(format!(
            "the object came with another length than the store lists: {came} bytes in the place of {}",
            self.wanted.size
        ))
        .at_file(self.store.address(self.key))
        .help("run the same command again; if that does not help, a proxy changes what it passes on")
    }
}

type Chunks<T> = Pin<Box<dyn Stream<Item = object_store::Result<T>> + Send>>;

async fn next<T>(stream: &mut Chunks<T>) -> Result<object_store::Result<Option<T>>> {
    unless_interrupted(stream.try_next()).await
}
