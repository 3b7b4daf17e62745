//! Whose a directory is: empty, this very run's, or somebody else's.

use std::fs;
use std::path::{Path, PathBuf};

use super::lock::Lock;
use crate::atomic;
use crate::dataset::{Manifest, Provenance};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What to do with a directory whose run had other inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Changes {
    #[default]
    Refuse,
    /// Go on: rows keep what they were made under, what is not done yet is done anew.
    Accept,
}

/// A directory held by this process, and the manifest of the job in it, if one was begun.
#[derive(Debug)]
pub struct Claimed {
    pub lock: Lock,
    pub manifest: Option<Manifest>,
}

/// Takes the lock of `dir`, which must be empty or hold a dataset of this stage.
pub fn claim(dir: &Path, progress: &dyn Progress) -> Result<Claimed> {
    if !Manifest::exists(dir) {
        refuse_foreign(dir)?;
    }
    let lock = hold(dir, progress)?;
    let manifest = match Manifest::exists(dir) {
        true => Some(Manifest::read(dir)?),
        false => None,
    };
    Ok(Claimed { lock, manifest })
}

/// Takes the lock of a directory, and tells if it was left by a process that did not finish.
pub fn hold(dir: &Path, progress: &dyn Progress) -> Result<Lock> {
    let lock = Lock::take(dir)?;
    if let Some(owner) = &lock.taken_over {
        progress.note(&format!("{}: {owner} did not finish here; going on", dir.display()));
    }
    Ok(lock)
}

/// The error for a directory that holds a run with another provenance.
pub fn other_run(dir: &Path, difference: &[String]) -> Error {
    Error::config(format!(
        "the output directory holds another run: {}",
        difference.join("; ")
    ))
    .at_file(dir)
    .help(
        "give another --out to run it beside this one, or --accept-changes to go on in this directory \
         with what has changed",
    )
}

/// Decides on a result that is either kept whole or made anew, such as a training run: under
/// [`Changes::Accept`], another run's is moved aside. Answers whether the result here is this run's.
pub fn keep_whole(
    dir: &Path,
    here: &Provenance,
    there: &Provenance,
    changes: Changes,
    progress: &dyn Progress,
) -> Result<bool> {
    let difference = here.difference(there);
    if difference.is_empty() {
        return Ok(true);
    }
    if changes == Changes::Refuse || here.stage != there.stage {
        return Err(other_run(dir, &difference));
    }
    let aside = set_aside(dir)?;
    progress.note(&format!(
        "{}: made anew ({}); what was there is in {}",
        dir.display(),
        difference.join("; "),
        aside.display()
    ));
    Ok(false)
}

/// Moves what is in a directory into a new one beside it, `NAME.1`, `NAME.2` …
fn set_aside(dir: &Path) -> Result<PathBuf> {
    let aside = (1..)
        .map(|number| {
            let mut name = dir.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        })
        .find(|path| !path.exists())
        .ok_or_else(|| Error::unexpected("no free name").at_file(dir))?;
    let failed = |error| Error::io("move aside", dir, error);
    atomic::create_directories(&aside)?;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The lock stays where its holder expects it.
        if entry.file_name() != super::STATE {
            fs::rename(entry.path(), aside.join(entry.file_name())).map_err(failed)?;
        }
    }
    atomic::sync_directory(&aside)?;
    atomic::sync_directory(dir)?;
    Ok(aside)
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
    let Ok(entries) = fs::read_dir(dir) else {
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
