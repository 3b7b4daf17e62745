//! Results that go to an object store: `--out s3://bucket/dir`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place;
use super::session::Session;
use super::stages::{Done, Stage};
use crate::error::{Error, Result};
use crate::object::{Location, Mirror, Replica, Settings, is_url};

/// The job's own files that are the business of one machine.
const LOCAL: [&str; 2] = [".job/lock", ".job/status.json"];

/// Runs a stage, with its result in a directory or in an object store.
///
/// In a store, the stage works in a directory of the cache that is a copy of the store's: what another machine
/// has finished is fetched first, and what is finished here is put there, each file under a condition.
pub fn run(session: &Session, stage: &dyn Stage, out: &Path) -> Result<Done> {
    let address = out.to_string_lossy();
    if !is_url(&address) {
        place::check(out)?;
        return stage.run(session, out);
    }
    let mut mirror = Mirror::open(&Location::parse(&address)?, &Settings::from_env()?, &LOCAL)?;
    mirror.hold(session.progress())?;
    mirror.pull()?;
    let mirror = Arc::new(mirror);
    let done = stage.run(&session.storing(mirror.clone()), mirror.dir())?;
    // A job has put its files itself; what else a stage makes is there whole now.
    for name in files(mirror.dir())? {
        mirror.settle(&name)?;
    }
    Ok(done)
}

/// Refuses an object store where a local directory is needed.
pub fn refuse_url(dir: &Path, why: &str) -> Result<()> {
    match is_url(&dir.to_string_lossy()) {
        true => Err(Error::config(why).at_file(dir).help("give a local directory")),
        false => Ok(()),
    }
}

/// The files under `dir` but for a job's own, manifests last: they say that all else is there.
fn files(dir: &Path) -> Result<Vec<String>> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        let failed = |error| Error::io("list", &folder, error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            match path.is_dir() {
                _ if hidden => {}
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    let mut names: Vec<String> = found
        .iter()
        .filter_map(|path| Some(path.strip_prefix(dir).ok()?.to_string_lossy().into_owned()))
        .collect();
    names.sort_by_key(|name| {
        (
            name.ends_with("manifest.json") || name.ends_with("train.json"),
            name.clone(),
        )
    });
    Ok(names)
}
