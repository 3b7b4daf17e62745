//! A result that is one JSON file in a directory of its own: an evaluation, an audit.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read_if_there;
use crate::atomic;
use crate::cli::session::Session;
use crate::dataset::Provenance;
use crate::error::{Error, Result};
use crate::job;

/// The content of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    pub provenance: Provenance,
    /// What was measured, in reports: a policy's name.
    pub name: String,
    /// The figures, and what they were counted on.
    pub result: Value,
}

impl Kept {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::input("not a result of bylaw").at_file(path).because(error))
    }
}

/// The result in `file` of `out`, measured unless it is there already. A directory that holds something else is refused, but for
/// what the measuring itself leaves in `out/work` before it ends.
pub fn keep_with_work(
    session: &Session,
    (out, file, work): (&Path, &str, &str),
    provenance: Provenance,
    name: &str,
    measure: impl FnOnce() -> Result<Value>,
) -> Result<Value> {
    if out.join(work).exists() || out.join(file).exists() {
        return kept(session, &out.join(file), provenance, name, measure);
    }
    keep(session, out, file, provenance, name, measure)
}

/// The result in `file` of `out`, measured unless it is there already.
pub fn keep(
    session: &Session,
    out: &Path,
    file: &str,
    provenance: Provenance,
    name: &str,
    measure: impl FnOnce() -> Result<Value>,
) -> Result<Value> {
    let path = out.join(file);
    if !path.exists() {
        job::refuse_foreign(out)?;
    }
    kept(session, &path, provenance, name, measure)
}

fn kept(
    session: &Session,
    path: &Path,
    provenance: Provenance,
    name: &str,
    measure: impl FnOnce() -> Result<Value>,
) -> Result<Value> {
    let out = path.parent().unwrap_or(path);
    let progress = session.progress();
    let _lock = job::hold(out, progress)?;
    if let Some(text) = read_if_there(path)? {
        let there = Kept::parse(path, &text)?;
        if job::keep_whole(out, &provenance, &there.provenance, session.changes, progress)? {
            progress.note(&format!("{}: already complete", provenance.stage));
            return Ok(there.result);
        }
    }
    let kept = Kept {
        provenance,
        name: name.to_owned(),
        result: measure()?,
    };
    let json = serde_json::to_vec_pretty(&kept).map_err(|error| Error::unexpected("a result").because(error))?;
    atomic::write(path, &json)?;
    Ok(kept.result)
}
