//! The one durable loop: rows in, units of work, shards on disk.
//!
//! Input is cut into units by position; a finished unit is two files (rows and rejects) and an entry
//! in the manifest, each whole or absent. The same command on the same directory goes on after the
//! last finished unit; a directory that holds anything else is refused. What a unit does is given as
//! a function; nothing here knows of models.

use std::path::Path;

use crate::dataset::{Dataset, Manifest, Provenance, Row, Shard, Status, rejects_dir, shard};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::record::Reject;

/// Where a job writes, and what makes it the same job.
pub struct Job<'a> {
    pub dir: &'a Path,
    pub provenance: Provenance,
    /// Input rows to a unit.
    pub unit_rows: usize,
    pub label: &'a str,
    pub progress: &'a dyn Progress,
}

/// What a finished job left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub rows: u64,
    pub rejects: u64,
}

impl Job<'_> {
    /// Runs `work` over the units of `inputs` that are not done yet. `work` answers any number of
    /// rows and rejects for its unit. `unread` are rows that could not even be read; they join the
    /// rejects.
    pub fn run<I, R: Row>(
        &self,
        inputs: &[I],
        unread: &[Reject],
        work: impl Fn(&[I]) -> Result<Vec<Result<R, Reject>>>,
    ) -> Result<Finished> {
        let units = inputs.len().div_ceil(self.unit_rows).max(1);
        let mut shards = match claim(self.dir, &self.provenance)? {
            Some(manifest) if manifest.status == Status::Complete => {
                self.progress.note(&format!("{}: already complete", self.label));
                return self.finished();
            }
            Some(manifest) => verified::<R>(self.dir, &manifest.shards)?,
            None => Vec::new(),
        };
        // The manifest first: from then on the directory is known as this job's.
        self.write_manifest::<R>(&shards, Status::Running)?;
        let rejects = rejects_dir(self.dir);
        std::fs::create_dir_all(&rejects).map_err(|error| Error::io("create", &rejects, error))?;
        self.progress.start(self.label, inputs.len() as u64, "rows");
        self.progress
            .advance((shards.len() * self.unit_rows).min(inputs.len()) as u64);
        for unit in shards.len()..units {
            interrupt::check()?;
            let start = unit * self.unit_rows;
            let rows = &inputs[start..inputs.len().min(start + self.unit_rows)];
            let (done, mut refused) = split(work(rows)?);
            if unit == 0 {
                refused.extend_from_slice(unread);
            }
            let file = shard::file_name(unit, units);
            shard::write(&rejects, &file, &refused)?;
            shards.push(shard::write(self.dir, &file, &done)?);
            self.write_manifest::<R>(&shards, Status::Running)?;
            self.progress.advance(rows.len() as u64);
        }
        self.progress.finish();
        self.complete::<R>(&shards, units)
    }

    fn write_manifest<R: Row>(&self, shards: &[Shard], status: Status) -> Result<()> {
        Manifest::new(R::KIND, status, shards.to_vec(), self.provenance.clone()).write(self.dir)
    }

    /// Writes the manifest of the rejects, then marks the dataset complete.
    fn complete<R: Row>(&self, shards: &[Shard], units: usize) -> Result<Finished> {
        let dir = rejects_dir(self.dir);
        let refused = (0..units)
            .map(|unit| shard::describe::<Reject>(&dir, &shard::file_name(unit, units)))
            .collect::<Result<Vec<_>>>()?;
        let mut provenance = self.provenance.clone();
        provenance.stage = format!("{} rejects", provenance.stage);
        Manifest::new(Reject::KIND, Status::Complete, refused, provenance).write(&dir)?;
        self.write_manifest::<R>(shards, Status::Complete)?;
        self.finished()
    }

    fn finished(&self) -> Result<Finished> {
        Ok(Finished {
            rows: Manifest::read(self.dir)?.rows,
            rejects: Manifest::read(&rejects_dir(self.dir))?.rows,
        })
    }
}

fn split<R>(results: Vec<Result<R, Reject>>) -> (Vec<R>, Vec<Reject>) {
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(row) => rows.push(row),
            Err(reject) => rejects.push(reject),
        }
    }
    (rows, rejects)
}

/// The shards of an unfinished job, checked on disk.
fn verified<R: Row>(dir: &Path, shards: &[Shard]) -> Result<Vec<Shard>> {
    for shard in shards {
        shard::read::<R>(dir, shard)?;
    }
    Ok(shards.to_vec())
}

/// Makes sure that `dir` is empty or holds this very job; answers the job's manifest if there is one.
pub fn claim(dir: &Path, provenance: &Provenance) -> Result<Option<Manifest>> {
    if Manifest::exists(dir) {
        let manifest = Manifest::read(dir)?;
        let difference = provenance.difference(&manifest.provenance);
        if difference.is_empty() {
            return Ok(Some(manifest));
        }
        return Err(other_run(dir, &difference));
    }
    refuse_foreign(dir)?;
    std::fs::create_dir_all(dir).map_err(|error| Error::io("create", dir, error))?;
    Ok(None)
}

/// The error for a directory that holds a run with another provenance.
pub fn other_run(dir: &Path, difference: &[String]) -> Error {
    Error::config(format!(
        "the output directory holds another run: {}",
        difference.join("; ")
    ))
    .at_file(dir)
    .help("give another --out, or remove the directory to run again")
}

/// Refuses a directory with files that are not ours, and a path that leads through a file. Hidden files
/// may be what a killed process left.
pub fn refuse_foreign(dir: &Path) -> Result<()> {
    const REMEDY: &str = "give an empty or new directory as --out";
    if let Some(file) = dir.ancestors().find(|ancestor| ancestor.is_file()) {
        return Err(Error::config("the output directory cannot be made: this is a file")
            .at_file(file)
            .help(REMEDY));
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    match names.first() {
        Some(name) => Err(Error::config(format!(
            "the output directory is not empty and holds no run of bylaw (found `{name}`)"
        ))
        .at_file(dir)
        .help(REMEDY)),
        None => Ok(()),
    }
}

/// Reads a dataset that a stage of a run wrote.
pub fn read_all<R: Row>(dir: &Path) -> Result<Vec<R>> {
    Dataset::open(dir)?.read_all()
}
