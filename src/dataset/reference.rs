//! A data reference with all its rows in memory: [`stream`](super::stream) collected.

use super::shape::Shape;
use super::stream::{Options, stream};
use crate::error::Result;
use crate::record::{Candidates, Demonstration, Preference, Prompt, Reject, Revision, UnpairedPreference};

/// What a reference led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded<R> {
    /// In file order, files by name; ids are unique.
    pub rows: Vec<R>,
    /// What could not be used, with the line and the reason.
    pub rejects: Vec<Reject>,
    /// Identifies the content of the files.
    pub sha256: String,
}

/// Prompts: from prompts, or from what other rows ask.
pub fn read_prompts(reference: &str) -> Result<Loaded<Prompt>> {
    read(reference)
}

pub fn read_revisions(reference: &str) -> Result<Loaded<Revision>> {
    read(reference)
}

pub fn read_candidates(reference: &str) -> Result<Loaded<Candidates>> {
    read(reference)
}

pub fn read_preferences(reference: &str) -> Result<Loaded<Preference>> {
    read(reference)
}

pub fn read_unpaired_preferences(reference: &str) -> Result<Loaded<UnpairedPreference>> {
    read(reference)
}

/// Demonstrations for SFT: also the final answers of revisions, and the first completions of
/// candidates, as a control.
pub fn read_demonstrations(reference: &str) -> Result<Loaded<Demonstration>> {
    read(reference)
}

fn read<R: Shape>(reference: &str) -> Result<Loaded<R>> {
    let mut stream = stream::<R>(reference, &Options::default())?;
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for row in &mut stream {
        match row? {
            Ok(row) => rows.push(row),
            Err(reject) => rejects.push(reject),
        }
    }
    Ok(Loaded {
        rows,
        rejects,
        sha256: stream.sha256().unwrap_or_default().to_owned(),
    })
}
