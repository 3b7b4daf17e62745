//! The one durable loop: rows in, units of work, a dataset out.
//!
//! Input is cut into units by its content ([`unit`]); a finished unit is one file, there whole or not at
//! all, and when all are there the dataset is written from them ([`finish`]). Killed at any instant, the
//! same call goes on with the units that are missing, to the same bytes. What a unit does is given as a
//! function; nothing here knows of models.
//!
//! ```text
//! DIR/manifest.json            first `running`, last `complete`
//! DIR/data-*.arrow, rejects/   the dataset, when complete
//! DIR/.job/lock                who is at work
//! DIR/.job/status.json         how far
//! DIR/.job/units/KEY.unit      finished units, until the dataset is complete
//! DIR/.job/units.json          how the dataset's rows fell to units
//! ```

mod claim;
mod copies;
mod finish;
pub mod lock;
mod merge;
mod status;
mod unit;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use claim::{Changes, Claimed, claim, hold, keep_whole, other_run, refuse_foreign};
pub use merge::{Merged, merge};
pub use status::{LastError, Price, State, StatusFile};

use self::copies::Copies;
use self::finish::Finish;
use self::status::Reporter;
use self::unit::{Made, Tally, Unit};
use crate::atomic;
use crate::dataset::{Dataset, MANIFEST, Manifest, Provenance, Revision, Row, Slice, Status, rejects_dir};
use crate::engine::Usage;
use crate::error::Result;
use crate::interrupt;
use crate::object::{Placed, Replica};
use crate::progress::Progress;
use crate::record::Reject;

/// The working files of a job, inside of its directory.
const STATE: &str = ".job";
const LOCK: &str = "lock";

pub fn state_dir(dir: &Path) -> PathBuf {
    dir.join(STATE)
}

fn units_dir(dir: &Path) -> PathBuf {
    state_dir(dir).join("units")
}

/// Where a job writes, and what makes it the same job.
pub struct Job<'a> {
    pub dir: &'a Path,
    pub provenance: Provenance,
    /// Input rows to a unit, at most.
    pub unit_rows: usize,
    /// The part of the input to work on, if not all of it.
    pub slice: Option<Slice>,
    /// The input is that part already, and not all of it.
    pub sliced_input: bool,
    pub changes: Changes,
    pub label: &'a str,
    pub progress: &'a dyn Progress,
    /// What the engine behind the work was asked so far.
    pub usage: &'a dyn Fn() -> Usage,
    /// What an endpoint takes for it.
    pub price: Option<Price>,
    /// A copy of the directory that is kept level, file by file; the caller has brought the directory level
    /// with it.
    pub replica: Option<&'a dyn Replica>,
}

/// What a finished job left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub rows: u64,
    pub rejects: u64,
}

impl<'a> Job<'a> {
    /// A job over all of its input, in one unit if it is not cut further.
    pub fn new(dir: &'a Path, provenance: Provenance, label: &'a str, progress: &'a dyn Progress) -> Self {
        Self {
            dir,
            provenance,
            unit_rows: crate::dataset::SHARD_ROWS,
            slice: None,
            sliced_input: false,
            changes: Changes::Refuse,
            label,
            progress,
            usage: &Usage::default,
            price: None,
            replica: None,
        }
    }

    /// Runs `work` over the units of `inputs` that are not done yet. `work` answers any number of
    /// rows and rejects for its unit, in the order of the input. `unread` are rows that could not even
    /// be read; they come first among the rejects.
    pub fn run<I: Row, R: Row>(
        &self,
        inputs: &[I],
        unread: &[Reject],
        work: impl Fn(&[I]) -> Result<Vec<Result<R, Reject>>>,
    ) -> Result<Finished> {
        let claimed = claim(self.dir, self.progress)?;
        let mut provenance = self.provenance.clone();
        provenance.slice = self.slice;
        let Some(revisions) = self.revisions::<R>(&provenance, claimed.manifest)? else {
            self.progress.note(&format!("{}: already complete", self.label));
            finish::remove_units(self.copies())?;
            status::settle(self.dir)?;
            return self.finished();
        };
        let mut reporter = Reporter::new(self.dir, &provenance.stage, self.price);
        let (inputs, unread) = match self.slice.filter(|_| !self.sliced_input) {
            // What could not be read comes before all rows, so it belongs to the first part.
            Some(slice) if slice.index > 0 => (&inputs[slice.range(inputs.len())], &[][..]),
            Some(slice) => (&inputs[slice.range(inputs.len())], unread),
            None => (inputs, unread),
        };
        let done = self
            .units::<I, R>(inputs, &provenance, &mut reporter, work)
            .and_then(|units| {
                let finish = Finish {
                    copies: self.copies(),
                    provenance: &provenance,
                    revisions: &revisions,
                    unread,
                    units: &units,
                };
                finish.write::<R>()?;
                reporter.write(State::Complete)
            });
        match done {
            Ok(()) => self.finished(),
            Err(error) => {
                reporter.ended(&error);
                Err(error)
            }
        }
    }

    /// The earlier revisions of a job that goes on, after its manifest says that it runs; `None` if all
    /// is done.
    fn revisions<R: Row>(&self, here: &Provenance, there: Option<Manifest>) -> Result<Option<Vec<Revision>>> {
        let mut revisions = Vec::new();
        let mut status = Status::Running;
        if let Some(there) = there {
            status = there.status;
            let difference = here.difference(&there.provenance);
            if !difference.is_empty() {
                if self.changes == Changes::Refuse || here.stage != there.provenance.stage {
                    return Err(other_run(self.dir, &difference));
                }
                if status == Status::Complete {
                    finish::reopen::<R>(self.copies())?;
                    status = Status::Running;
                }
                self.progress.note(&format!(
                    "{}: going on with changes: {}",
                    self.label,
                    difference.join("; ")
                ));
                revisions.push(Revision {
                    provenance: there.provenance,
                    rows: Vec::new(),
                });
            }
            revisions.extend(there.revisions);
            revisions.retain(|earlier| &earlier.provenance != here);
        }
        if status == Status::Complete {
            return Ok(None);
        }
        // The manifest first: from then on the directory is known as this job's.
        atomic::create_directories(&units_dir(self.dir))?;
        Manifest::new(R::KIND, Status::Running, Vec::new(), here.clone())
            .with_revisions(revisions.clone())
            .write(self.dir)?;
        self.copies().put(&self.dir.join(MANIFEST))?;
        Ok(Some(revisions))
    }

    fn copies(&self) -> Copies<'_> {
        Copies {
            dir: self.dir,
            replica: self.replica,
        }
    }

    /// Does what is missing of the units, and answers all of them.
    fn units<I: Row, R: Row>(
        &self,
        inputs: &[I],
        provenance: &Provenance,
        reporter: &mut Reporter<'_>,
        work: impl Fn(&[I]) -> Result<Vec<Result<R, Reject>>>,
    ) -> Result<Vec<Tally>> {
        let plan = unit::cut(inputs, self.unit_rows)?;
        let dir = units_dir(self.dir);
        let keep: BTreeSet<String> = plan.iter().map(|unit| unit::file_name(&unit.key)).collect();
        finish::remove_others(self.copies(), &keep)?;
        let revision = provenance.fingerprint()?;
        reporter.file.inputs = inputs.len() as u64;
        reporter.file.units = plan.len() as u64;
        let mut tallies: Vec<Option<Tally>> = Vec::with_capacity(plan.len());
        for unit in &plan {
            let made = unit::read::<R>(&dir, &unit.key, |path, reason| self.tell_damage(path, reason))?;
            if let Some(made) = &made {
                reporter.count(unit.rows.len() as u64, &made.tally, false);
            }
            tallies.push(made.map(|made| made.tally));
        }
        reporter.write(State::Running)?;
        self.progress.start(self.label, inputs.len() as u64, "rows");
        self.progress.advance(reporter.file.inputs_done);
        for (unit, tally) in plan.iter().zip(&mut tallies) {
            if tally.is_some() {
                continue;
            }
            interrupt::check()?;
            let made = self.make(unit, &inputs[unit.rows.clone()], &revision, &work)?;
            let path = unit::write(&dir, &made)?;
            let made = match self.copies().create(&path)? {
                Placed::Created => made,
                // Another process made the unit meanwhile; the store has theirs, and so has the disk now.
                Placed::Existed => {
                    unit::read::<R>(&dir, &unit.key, |path, reason| self.tell_damage(path, reason))?.unwrap_or(made)
                }
            };
            reporter.count(unit.rows.len() as u64, &made.tally, true);
            reporter.write(State::Running)?;
            self.progress.advance(unit.rows.len() as u64);
            *tally = Some(made.tally);
        }
        self.progress.finish();
        Ok(tallies.into_iter().flatten().collect())
    }

    fn tell_damage(&self, path: &Path, reason: &str) {
        self.progress
            .note(&format!("{}: {reason}; the unit is made again", path.display()));
    }

    fn make<I: Row, R: Row>(
        &self,
        unit: &Unit,
        inputs: &[I],
        revision: &str,
        work: &impl Fn(&[I]) -> Result<Vec<Result<R, Reject>>>,
    ) -> Result<Made<R>> {
        let (begun, before) = (Instant::now(), (self.usage)());
        let (mut rows, mut rejects) = (Vec::new(), Vec::new());
        for result in work(inputs)? {
            match result {
                Ok(row) => rows.push(row),
                Err(reject) => rejects.push(reject),
            }
        }
        Ok(Made {
            tally: Tally {
                key: unit.key.clone(),
                revision: revision.to_owned(),
                rows: rows.len() as u64,
                rejects: rejects.len() as u64,
                usage: (self.usage)() - before,
                seconds: begun.elapsed().as_secs_f64(),
            },
            rows,
            rejects,
        })
    }

    fn finished(&self) -> Result<Finished> {
        Ok(Finished {
            rows: Manifest::read(self.dir)?.rows,
            rejects: Manifest::read(&rejects_dir(self.dir))?.rows,
        })
    }
}

/// Reads a dataset that a stage of a run wrote.
pub fn read_all<R: Row>(dir: &Path) -> Result<Vec<R>> {
    Dataset::open(dir)?.read_all()
}
