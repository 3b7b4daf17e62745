//! A job's directory and its copy in a store, kept level.
//!
//! The job works in a local directory; what it commits there is put to the store file by file. A new
//! machine, or the same one after a crash, begins with [`Mirror::pull`]. The guarantees:
//!
//! - A file that is created is created once, whoever tries; the others get its bytes. Up to 64 MiB that is
//!   one conditional request; above, parts are sent under another name and a conditional copy (S3: the
//!   conditional completion of an upload that copies; Google, Azure: their own) gives the name. Where a
//!   store has no such copy, it is one conditional request of any size.
//! - A file that is replaced is replaced only if it is as this process saw it last. Above 64 MiB that is
//!   looked at before the parts are sent and not again: only a lease keeps two writers apart there.
//! - A failed or interrupted put leaves the old state or the new one, never a part of a file. What was
//!   committed here and not put is put by the next pull on this machine, unless the store was changed by
//!   somebody else meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::ObjectMeta;

use super::download::download;
use super::fetch::{download_missing, is_partial, named};
use super::index::Copy;
use super::lease::{Lease, Owner};
use super::location::Location;
use super::settings::Settings;
use super::store::{Condition, Store, Version, Written, finish, is_internal, is_upload};
use super::{Placed, Replica, block_on};
use crate::error::{Error, Result};
use crate::http::unless_interrupted;
use crate::progress::Progress;

/// A local directory and its copy.
pub struct Mirror {
    // Given back before the local directory is.
    lease: Option<Lease>,
    store: Arc<Store>,
    copy: Mutex<Copy>,
    dir: PathBuf,
    local: Vec<String>,
    name: String,
    length: Duration,
}

impl Mirror {
    /// The mirror of a directory in a store, at a place of its own in the cache. `local` are names of files
    /// that are this machine's business: they are neither removed nor missed.
    pub fn open(location: &Location, settings: &Settings, local: &[&str]) -> Result<Self> {
        if location.path.as_ref().is_empty() {
            return Err(Error::config("the address is a whole bucket")
                .at_file(location.to_string())
                .help("name a directory in it"));
        }
        let owner = Owner::this_process();
        // Nobody else's: a new `RandomState` has keys of its own.
        let nonce = RandomState::new().hash_one(owner.pid);
        let host: String = owner.host.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("{host}-{}-{nonce:016x}", owner.pid);
        let store = Arc::new(Store::open(location, settings, &name)?);
        let copy = Copy::of_output(location, settings)?;
        Ok(Self {
            lease: None,
            store,
            dir: copy.dir.clone(),
            copy: Mutex::new(copy),
            local: local.iter().map(|&name| name.to_owned()).collect(),
            name,
            length: settings.lease,
        })
    }

    /// Takes the lease of the directory, until the mirror is dropped.
    pub fn hold(&mut self, progress: &dyn Progress) -> Result<()> {
        let lease = Lease::take(&self.store, &self.name, self.length, progress)?;
        if let Some(owner) = &lease.taken_over {
            progress.note(&format!(
                "{}: {owner} did not finish here; going on",
                self.store.location
            ));
        }
        self.lease = Some(lease);
        Ok(())
    }

    /// Where the job works.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a file that has changed since it was put, or never was.
    pub fn settle(&self, name: &str) -> Result<()> {
        let level = self.copy().is_level(name);
        if level { Ok(()) } else { self.replace(name) }
    }

    pub fn location(&self) -> &Location {
        &self.store.location
    }

    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process may still write.
    fn check(&self) -> Result<()> {
        self.lease.as_ref().map_or(Ok(()), Lease::check)
    }

    fn is_local(&self, name: &str) -> bool {
        self.local.iter().any(|local| local == name) || is_partial(name) || is_internal(name)
    }

    /// What the store has, without what mirrors keep for themselves and what is no file.
    fn listed(&self) -> Result<BTreeMap<String, ObjectMeta>> {
        let mut listed = named(&self.store.location, block_on(unless_interrupted(self.store.list()))???);
        if self.lease.is_some() {
            // Left by an owner that did not finish; nobody else is at work.
            for (_, meta) in listed.iter().filter(|(name, _)| is_upload(name)) {
                block_on(unless_interrupted(self.store.remove(&meta.location)))???;
            }
        }
        listed.retain(|name, _| !self.is_local(name));
        Ok(listed)
    }

    /// The conditional write of a file that nobody may have put.
    async fn put_new(&self, name: &str, path: &Path) -> Result<Written> {
        let key = self.store.location.child(name)?;
        if size(path)? > self.store.large {
            return self.store.create_large(&key, path).await;
        }
        self.store.write(&key, read(path)?, &Condition::Absent).await
    }

    /// The conditional write of a file whose state in the store is known.
    async fn put_over(&self, name: &str, path: &Path, known: Version) -> Result<Written> {
        let key = self.store.location.child(name)?;
        if size(path)? > self.store.large {
            return self.store.replace_large(&key, path, &known).await;
        }
        self.store.write(&key, read(path)?, &Condition::Unchanged(known)).await
    }

    /// The state of the store's file, if it has these bytes.
    async fn same(&self, name: &str, path: &Path) -> Result<Option<Version>> {
        let key = self.store.location.child(name)?;
        let there = match size(path)? > self.store.large {
            true => None,
            false => self.store.read(&key).await?,
        };
        let Some((there, meta)) = there else { return Ok(None) };
        Ok((there == read(path)?).then(|| Version::of(&meta)))
    }

    /// Brings the store's file in the place of the local one.
    fn take(&self, name: &str) -> Result<()> {
        let key = self.store.location.child(name)?;
        let path = self.dir.join(name);
        let version = block_on(async {
            let Some((meta, _)) = unless_interrupted(self.store.head(&key)).await?? else {
                return Err(Error::remote("the object was there, and is gone")
                    .at_file(self.store.address(&key))
                    .help("somebody removes files while this job runs: end it, and run the same command again"));
            };
            download(&self.store, &key, meta, &path).await
        })??;
        self.copy().level(name, version)
    }

    fn overtaken(&self, name: &str, other: Option<&str>) -> Error {
        let who = match other {
            Some(token) => match token.splitn(3, '-').collect::<Vec<_>>()[..] {
                [host, pid, _] => format!("process {pid} on {host}"),
                _ => "another program".to_owned(),
            },
            None => "another process".to_owned(),
        };
        Error::remote(format!("{who} has written this file meanwhile"))
            .at_file(format!("{}/{name}", self.store.location))
            .help("only one job may write to a directory: end the other one, and run the same command again")
    }
}

impl Replica for Mirror {
    fn pull(&self) -> Result<()> {
        self.check()?;
        let listed = self.listed()?;
        let states: BTreeMap<String, Version> = listed
            .iter()
            .map(|(name, meta)| (name.clone(), Version::of(meta)))
            .collect();
        // What was committed here belongs to the store's state only if nobody else has changed that.
        let goes_on = self.copy().is_base_of(&states);
        let pending = self.copy().pending();
        let names = self.copy().names()?;
        for name in names
            .iter()
            .filter(|name| !listed.contains_key(*name) && !self.is_local(name))
        {
            if goes_on && pending.contains(name) {
                self.create(name)?;
                continue;
            }
            let path = self.dir.join(name);
            fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            self.copy().forget(name)?;
        }
        for name in pending.iter().filter(|name| !names.contains(name)) {
            self.copy().forget(name)?;
        }
        let mut copy = self.copy();
        block_on(download_missing(&self.store, &mut copy, &listed))?
    }

    fn create(&self, name: &str) -> Result<Placed> {
        self.check()?;
        let path = self.dir.join(name);
        self.copy().begin(name)?;
        match block_on(finish(self.put_new(name, &path)))?? {
            Written::Done(version) => {
                self.copy().level(name, version)?;
                Ok(Placed::Created)
            }
            Written::Lost(_) => {
                self.take(name)?;
                Ok(Placed::Existed)
            }
        }
    }

    fn replace(&self, name: &str) -> Result<()> {
        self.check()?;
        let path = self.dir.join(name);
        let mut known = self.copy().version(name);
        let key = self.store.location.child(name)?;
        let written = block_on(finish(async {
            loop {
                let written = match known.clone() {
                    None => self.put_new(name, &path).await?,
                    Some(known) => self.put_over(name, &path, known).await?,
                };
                let Written::Lost(there) = &written else {
                    return Ok(written);
                };
                // What was to be there may be there, by an earlier try of ours.
                if let Some(version) = self.same(name, &path).await? {
                    return Ok(Written::Done(version));
                }
                // Another file of ours, of which no answer came, is no other's.
                match self.store.head(&key).await? {
                    Some((meta, token))
                        if token == *there && token.as_ref().is_some_and(|token| self.store.is_own(token)) =>
                    {
                        known = Some(Version::of(&meta));
                    }
                    _ => return Ok(written),
                }
            }
        }))??;
        match written {
            Written::Done(version) => self.copy().level(name, version),
            Written::Lost(other) => Err(self.overtaken(name, other.as_deref())),
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.check()?;
        let key = self.store.location.child(name)?;
        block_on(finish(self.store.remove(&key)))??;
        self.copy().forget(name)
    }
}

fn size(path: &Path) -> Result<u64> {
    let found = fs::metadata(path).map_err(|error| Error::io("read", path, error))?;
    Ok(found.len())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io("read", path, error))
}
