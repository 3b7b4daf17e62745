//! From finished units to the dataset, and back when a finished job is to go on.
//!
//! The dataset's files follow from the sequence of its rows alone: shards of [`SHARD_ROWS`] rows, however
//! the work was cut and however often it was interrupted. So parts of a job merge to the bytes of the
//! whole. Everything here can be cut off at any moment and done again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copies::Copies;
use super::unit::{self, Made, Tally};
use super::{state_dir, units_dir};
use crate::atomic;
use crate::dataset::{Dataset, MANIFEST, Manifest, Provenance, Revision, Row, Shards, Status, rejects_dir};
use crate::error::{Error, Result};
use crate::record::Reject;

/// The units of a finished job: how its rows fell to them.
const INDEX: &str = "units.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// Rejects that come before those of the first unit: rows that could not be read.
    unread: u64,
    units: Vec<Tally>,
}

/// What a dataset is finished from.
pub(super) struct Finish<'a> {
    pub copies: Copies<'a>,
    pub provenance: &'a Provenance,
    /// Earlier provenances under which units may have been made.
    pub revisions: &'a [Revision],
    pub unread: &'a [Reject],
    /// The units in the order of their input.
    pub units: &'a [Tally],
}

impl Finish<'_> {
    /// Writes the dataset of all units, then marks it complete.
    pub fn write<R: Row>(&self) -> Result<()> {
        let dir = self.copies.dir;
        let rejects = rejects_dir(dir);
        atomic::create_directories(&rejects)?;
        let total = |count: fn(&Tally) -> u64| self.units.iter().map(count).sum::<u64>();
        let refused = self.unread.len() as u64 + total(|tally| tally.rejects);
        let mut rows = Shards::<R>::create(dir, Some(total(|tally| tally.rows)), &[])?;
        let mut rejected = Shards::<Reject>::create(&rejects, Some(refused), &[])?;
        rejected.extend(self.unread)?;
        for tally in self.units {
            let made = self.made::<R>(&tally.key)?;
            rows.extend(&made.rows)?;
            rejected.extend(&made.rejects)?;
        }
        let mut provenance = self.provenance.clone();
        provenance.stage = format!("{} rejects", provenance.stage);
        let rejected = Manifest::new(Reject::KIND, Status::Complete, rejected.finish()?, provenance);
        self.commit(&rejects, &rejected)?;
        let index = Index {
            unread: self.unread.len() as u64,
            units: self.units.to_vec(),
        };
        let json = serde_json::to_vec(&index).map_err(|error| Error::unexpected("the units' index").because(error))?;
        let path = index_path(dir);
        atomic::write(&path, &json)?;
        self.copies.put(&path)?;
        let rows = Manifest::new(R::KIND, Status::Complete, rows.finish()?, self.provenance.clone());
        self.commit(dir, &rows.with_revisions(self.rows_by_revision()?))?;
        remove_units(self.copies)
    }

    /// Writes the manifest of shards that are there.
    fn commit(&self, dir: &Path, manifest: &Manifest) -> Result<()> {
        for shard in &manifest.shards {
            self.copies.put(&dir.join(&shard.file))?;
        }
        manifest.write(dir)?;
        self.copies.put(&dir.join(MANIFEST))
    }

    /// A unit that was found whole before.
    fn made<R: Row>(&self, key: &str) -> Result<Made<R>> {
        let dir = units_dir(self.copies.dir);
        let mut reason = "it is gone".to_owned();
        unit::read(&dir, key, |_, damage| damage.clone_into(&mut reason))?.ok_or_else(|| {
            Error::unexpected(format!("a finished unit cannot be read again: {reason}"))
                .at_file(dir.join(unit::file_name(key)))
                .help("check the disk; the same command makes the unit again")
        })
    }

    /// The earlier revisions that have rows, with these.
    fn rows_by_revision(&self) -> Result<Vec<Revision>> {
        let mut found = Vec::new();
        for revision in self.revisions {
            let name = revision.provenance.fingerprint()?;
            let mut rows: Vec<[u64; 2]> = Vec::new();
            let mut next = 0;
            for tally in self.units {
                let range = [next, next + tally.rows];
                next = range[1];
                match rows.last_mut() {
                    _ if tally.revision != name || tally.rows == 0 => {}
                    Some(last) if last[1] == range[0] => last[1] = range[1],
                    _ => rows.push(range),
                }
            }
            if !rows.is_empty() {
                found.push(Revision {
                    provenance: revision.provenance.clone(),
                    rows,
                });
            }
        }
        Ok(found)
    }
}

fn index_path(dir: &Path) -> PathBuf {
    state_dir(dir).join(INDEX)
}

/// The units of a finished job become files again, so that the job can go on with other inputs. A
/// dataset without an index (a merged one) has no units: all is done anew.
pub(super) fn reopen<R: Row>(copies: Copies<'_>) -> Result<()> {
    let dir = copies.dir;
    let path = index_path(dir);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(());
    };
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        Error::input("not the index of a job's units")
            .at_file(&path)
            .help("delete the file; all units are then made anew")
            .because(error)
    })?;
    let dataset = Dataset::<R>::open(dir)?;
    let rejects = Dataset::<Reject>::open(rejects_dir(dir))?;
    let mut rows = dataset.shards();
    let mut refused = rejects.shards();
    let (mut row_buffer, mut reject_buffer) = (Vec::new(), Vec::new());
    take(&mut refused, &mut reject_buffer, index.unread)?;
    let units = units_dir(dir);
    atomic::create_directories(&units)?;
    for tally in index.units {
        let made = Made {
            rows: take(&mut rows, &mut row_buffer, tally.rows)?,
            rejects: take(&mut refused, &mut reject_buffer, tally.rejects)?,
            tally,
        };
        copies.put(&unit::write(&units, &made)?)?;
    }
    Ok(())
}

/// The next `count` rows of a sequence of shards; `buffer` keeps what is read beyond them.
fn take<R>(shards: &mut impl Iterator<Item = Result<Vec<R>>>, buffer: &mut Vec<R>, count: u64) -> Result<Vec<R>> {
    let count = count as usize;
    while buffer.len() < count {
        let rows = shards
            .next()
            .ok_or_else(|| Error::input("the index of a job's units names more rows than there are"))??;
        buffer.extend(rows);
    }
    let rest = buffer.split_off(count);
    Ok(std::mem::replace(buffer, rest))
}

/// Removes what a finished job no longer needs.
pub(super) fn remove_units(copies: Copies<'_>) -> Result<()> {
    remove_others(copies, &BTreeSet::new())?;
    let units = units_dir(copies.dir);
    match fs::remove_dir(&units) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("clear", &units, error)),
        _ => Ok(()),
    }
}

/// Removes the files of units that the plan does not have: their input changed.
pub(super) fn remove_others(copies: Copies<'_>, keep: &BTreeSet<String>) -> Result<()> {
    let units = units_dir(copies.dir);
    let failed = |error| Error::io("clear", &units, error);
    let entries = match fs::read_dir(&units) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
            copies.remove(&entry.path())?;
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}
