//! What was asked already: answers of models and verdicts on pairs, each a durable job beside the result, until the
//! figures are there. An interrupted win rate goes on where it was.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::session::Session;
use crate::dataset::{Dataset, Provenance, Row};
use crate::engine::Usage;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::record::Reject;
use crate::stage::Outcome;

/// The directory of the jobs. Hidden, so that the directory of the result is known as empty until there is a result.
const WORK: &str = ".work";

/// Rows to a unit: what is lost when the program is killed.
const UNIT: usize = 64;

pub struct Work<'a> {
    pub session: &'a Session,
    pub out: &'a Path,
    /// Of the result; what its work is told by.
    pub provenance: Provenance,
}

/// The rows of a job, and its rejects, by id.
pub struct Outcomes<R>(HashMap<String, Outcome<R>>);

impl<R> Outcomes<R> {
    /// What came of the row with the id.
    pub fn take(&mut self, id: &str) -> Result<Outcome<R>> {
        self.0
            .remove(id)
            .ok_or_else(|| Error::unexpected(format!("nothing came of the row {id}")))
    }
}

impl Work<'_> {
    /// Does what is missing of a job, and answers what came of all rows.
    pub fn outcomes<I: Row, R: Row>(
        &self,
        name: &str,
        label: &str,
        inputs: &[I],
        usage: &dyn Fn() -> Usage,
        work: impl Fn(&[I]) -> Result<Vec<Outcome<R>>>,
    ) -> Result<Outcomes<R>> {
        let dir = directory(self.out).join(name);
        let provenance = Provenance {
            stage: "winrate work".into(),
            ..self.provenance.clone()
        };
        let job = Job {
            unit_rows: UNIT,
            changes: self.session.changes,
            usage,
            ..Job::new(&dir, provenance, label, self.session.progress())
        };
        job.run(inputs, &[], work)?;
        let dataset = Dataset::<R>::open(&dir)?;
        let rows = dataset
            .read_all()?
            .into_iter()
            .map(|row| (row.id().to_owned(), Ok(row)));
        let refused = |reject: Reject| (reject.id.clone(), Err(reject));
        Ok(Outcomes(
            rows.chain(dataset.rejects()?.into_iter().map(refused)).collect(),
        ))
    }
}

fn directory(out: &Path) -> PathBuf {
    out.join(WORK)
}

/// Takes the work away, once the result made of it is there.
pub fn clear(out: &Path) -> Result<()> {
    let dir = directory(out);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &dir, error)),
        _ => Ok(()),
    }
}
