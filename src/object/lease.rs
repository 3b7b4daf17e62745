//! One owner of a store's directory at a time: an object that names the owner, and that it renews.
//!
//! ```text
//! take     PUT .lock if there is none
//!          or, if its owner gave it back, is a dead process of this machine, or has not renewed it for
//!          the lease's length: PUT .lock if it still is as it was read
//! renew    every quarter of that length, PUT .lock if it still is as this owner wrote it
//! ```
//!
//! How old a lock is, is told by the store's clock alone: its last change against an object that is
//! written now. Of several that take over, the condition lets one win, and an owner that was taken over
//! fails its next renewal. The lease saves work; that nothing is lost without it is for the conditions of
//! the writes themselves; taking it tries whether the store has any. It is given back by a last write, never by deletion: that has no condition.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::store::{Condition, Store, Version, Written};
use super::{block_on, runtime};
use crate::error::{Error, Result};
use crate::http::{sleep, unless_interrupted};
use crate::progress::Progress;

/// The object.
pub const NAME: &str = ".lock";
/// What the objects begin with that tell the store's time.
pub const CLOCKS: &str = ".lock-clock-";
/// How long giving back may take.
const RELEASE: Duration = Duration::from_secs(5);

/// A process that works in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    pub host: String,
}

impl Owner {
    pub fn this_process() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
        let host = host.trim();
        Self {
            pid: std::process::id(),
            host: if host.is_empty() { "this host" } else { host }.to_owned(),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// A process beyond doubt, so that its machine can tell that it is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// Random, of this boot of the machine.
    boot: String,
    /// Numbers of processes count within it.
    namespace: String,
    /// In ticks since the boot.
    started: u64,
}

impl Process {
    /// The process of a number, or `self`.
    fn read(process: &str) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name of the program may hold anything; the 20th field after it is the start.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self {
            boot: boot.trim().to_owned(),
            namespace: namespace.display().to_string(),
            started,
        })
    }
}

/// What the object holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lock {
    owner: Owner,
    process: Option<Process>,
    /// Which lease it is, among those of one process.
    lease: String,
    /// How long it lasts without a renewal.
    seconds: u64,
    renewals: u64,
    released: bool,
}

impl Lock {
    /// Whether its owner has given it back, or is known to be dead.
    fn is_free(&self) -> bool {
        let (Some(there), Some(here)) = (&self.process, Process::read("self")) else {
            return self.released;
        };
        let same_machine = (&there.boot, &there.namespace) == (&here.boot, &here.namespace);
        self.released || (same_machine && Process::read(&self.owner.pid.to_string()).as_ref() != Some(there))
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(|error| Error::unexpected("the lock").because(error))?;
        Ok([&json[..], b"\n"].concat())
    }
}

/// The right to write to a directory, renewed until it is dropped.
pub struct Lease {
    held: Arc<Held>,
    renewal: JoinHandle<()>,
    /// Who left the directory without giving it back.
    pub taken_over: Option<Owner>,
}

struct Held {
    store: Arc<Store>,
    key: Path,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    lock: Lock,
    version: Version,
    /// Who has it now, if this owner has lost it.
    lost: Option<String>,
}

impl Lease {
    /// Takes the lease of the store's location. It waits while an owner that may be dead has time to
    /// renew, and is an error if the owner does.
    pub fn take(store: &Arc<Store>, lease: &str, length: Duration, progress: &dyn Progress) -> Result<Self> {
        let mut lock = Lock {
            owner: Owner::this_process(),
            process: Process::read("self"),
            lease: lease.to_owned(),
            seconds: length.as_secs().max(1),
            renewals: 0,
            released: false,
        };
        let key = store.location.child(NAME)?;
        let (version, taken_over) = block_on(unless_interrupted(async {
            let (version, taken_over) = acquire(store, &key, &lock, progress).await?;
            let version = check_conditions(store, &key, &mut lock, version).await?;
            Ok::<_, Error>((version, taken_over))
        }))???;
        let held = Arc::new(Held {
            store: store.clone(),
            key,
            state: Mutex::new(State {
                lock,
                version,
                lost: None,
            }),
        });
        let renewal = runtime()?.spawn(renew(held.clone(), length / 4));
        Ok(Self {
            held,
            renewal,
            taken_over,
        })
    }

    /// An error if another owner has taken over.
    pub fn check(&self) -> Result<()> {
        match self.held.state().lost {
            None => Ok(()),
            Some(other) => Err(Error::remote(format!("{other} has taken over this directory"))
                .at_file(self.held.store.location.to_string())
                .help(
                    "this process was not heard of for longer than its lease; finished work is kept: let the other \
                     finish, or end it and run the same command again",
                )),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        let mut state = self.held.state();
        if state.lost.is_some() {
            return;
        }
        state.lock.released = true;
        state.lock.renewals += 1;
        let Ok(bytes) = state.lock.bytes() else { return };
        // Best effort: a lock that stays is taken over by the next. A renewal that was cut off may have
        // come through; then the condition fails, and the state is read again.
        let release = async {
            for _ in 0..2 {
                let condition = Condition::Unchanged(state.version.clone());
                match self.held.store.write(&self.held.key, bytes.clone(), &condition).await {
                    Ok(Written::Lost(_)) => match self.held.own().await {
                        Some(version) => state.version = version,
                        None => return,
                    },
                    _ => return,
                }
            }
        };
        let _ = block_on(async { tokio::time::timeout(RELEASE, release).await });
    }
}

impl Held {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of the lock, if it still is this lease's.
    async fn own(&self) -> Option<Version> {
        let (lock, meta) = read(&self.store, &self.key).await.ok()??;
        (lock.lease == self.state().lock.lease).then(|| Version::of(&meta))
    }
}

async fn renew(held: Arc<Held>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let mut state = held.state();
        state.lock.renewals += 1;
        let Ok(bytes) = state.lock.bytes() else { return };
        let condition = Condition::Unchanged(state.version.clone());
        match held.store.write(&held.key, bytes, &condition).await {
            Ok(Written::Done(version)) => state.version = version,
            Ok(Written::Lost(_)) => match read(&held.store, &held.key).await {
                // An earlier renewal whose answer never came.
                Ok(Some((lock, meta))) if lock.lease == state.lock.lease => state.version = Version::of(&meta),
                Ok(Some((lock, _))) => state.lost = Some(lock.owner.to_string()),
                Ok(None) => state.lost = Some("whoever removed the lock".to_owned()),
                Err(_) => continue,
            },
            // The store cannot be reached: the next renewal tells whether somebody else could.
            Err(_) => continue,
        }
        let lost = state.lost.is_some();
        *held.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        if lost {
            return;
        }
    }
}

async fn acquire(store: &Store, key: &Path, lock: &Lock, progress: &dyn Progress) -> Result<(Version, Option<Owner>)> {
    let mut waiting: Option<Version> = None;
    loop {
        if let Written::Done(version) = store.write(key, lock.bytes()?, &Condition::Absent).await? {
            return Ok((version, None));
        }
        let Some((there, meta)) = read(store, key).await? else {
            continue;
        };
        let version = Version::of(&meta);
        if !there.is_free() {
            let clock = store.location.child(&format!("{CLOCKS}{}", lock.lease))?;
            let age = store.now(&clock).await? - meta.last_modified.timestamp_millis();
            let length = i64::try_from(there.seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
            if age <= length {
                match &waiting {
                    Some(seen) if seen.tag() != version.tag() => return Err(in_use(store, &there.owner)),
                    Some(_) => {}
                    None => progress.note(&format!(
                        "{}: {} was at work here {} s ago; waiting whether it still is, for {} s at most",
                        store.location,
                        there.owner,
                        age.max(0) / 1000,
                        (length - age) / 1000 + 1
                    )),
                }
                waiting = Some(version);
                sleep(Duration::from_millis(there.seconds.saturating_mul(1000) / 16)).await?;
                continue;
            }
        }
        let condition = Condition::Unchanged(version);
        match store.write(key, lock.bytes()?, &condition).await? {
            Written::Done(version) => return Ok((version, (!there.released).then_some(there.owner))),
            // Another was faster, or the owner lives.
            Written::Lost(_) => continue,
        }
    }
}

/// Makes sure that the store honours conditions: some servers take no notice of them, and two writers
/// would never know of each other. `held` is the state that this owner wrote.
async fn check_conditions(store: &Store, key: &Path, lock: &mut Lock, held: Version) -> Result<Version> {
    lock.renewals += 1;
    let renewed = store
        .write(key, lock.bytes()?, &Condition::Unchanged(held.clone()))
        .await?;
    let Written::Done(version) = renewed else {
        return Err(in_use(store, "another process"));
    };
    for wrong in [Condition::Absent, Condition::Unchanged(held)] {
        if let Written::Done(_) = store.write(key, lock.bytes()?, &wrong).await? {
            return Err(Error::remote("the store takes no notice of conditions on writes")
                .at_file(store.address(key))
                .help(
                    "two jobs could overwrite each other's files there: use a store that honours If-Match and \
                     If-None-Match, or write to a local directory and copy it",
                ));
        }
    }
    Ok(version)
}

async fn read(store: &Store, key: &Path) -> Result<Option<(Lock, object_store::ObjectMeta)>> {
    let Some((bytes, meta)) = store.read(key).await? else {
        return Ok(None);
    };
    let lock = serde_json::from_slice(&bytes).map_err(|error| {
        Error::input("this object is no lock of bylaw")
            .at_file(store.address(key))
            .because(error)
            .help("give another address, or delete the object if nothing needs it")
    })?;
    Ok(Some((lock, meta)))
}

fn in_use(store: &Store, owner: impl fmt::Display) -> Error {
    Error::config(format!("{owner} is at work in this directory"))
        .at_file(store.location.to_string())
        .help("wait for it, or give another address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock {
            owner: Owner::this_process(),
            process: Process::read("self"),
            lease: "l".into(),
            seconds: 60,
            renewals: 0,
            released: false,
        }
    }

    /// Catches: a living process taken for a dead one; a dead one of this machine that is waited for; a
    /// number that another process has now; a process of another machine or container looked up here.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_dead_process_of_this_machine_is_known() {
        let alive = lock();
        assert!(!alive.is_free());
        let mut dead = lock();
        dead.owner.pid = u32::MAX;
        assert!(dead.is_free());
        let mut reused = lock();
        reused.process.as_mut().unwrap().started += 1;
        assert!(reused.is_free());
        let mut machine = dead.clone();
        machine.process.as_mut().unwrap().boot.push('x');
        let mut container = dead;
        container.process.as_mut().unwrap().namespace.push('x');
        for mut elsewhere in [machine, container] {
            assert!(!elsewhere.is_free());
            elsewhere.released = true;
            assert!(elsewhere.is_free());
        }
    }
}
