//! Inputs out of a store: a file, or the files of a directory, into the cache of copies.
//!
//! What is here in the same state is not brought again. A directory is not brought as of one moment: if
//! it is written to meanwhile, its manifest's checksums tell.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use object_store::ObjectMeta;

use super::block_on;
use super::download::download;
use super::index::Copy;
use super::lease::Owner;
use super::location::Location;
use super::settings::Settings;
use super::store::{Store, Version, is_internal};
use crate::error::{Error, Result};
use crate::http::unless_interrupted;

/// Which files of a directory are wanted.
enum Choice {
    All,
    /// Those directly in it that are not hidden.
    Direct,
    /// Of those, the ones whose names match.
    Matching(Vec<char>),
}

impl Choice {
    fn takes(&self, name: &str) -> bool {
        let direct = !name.contains('/') && !name.starts_with('.');
        match self {
            Self::All => !is_internal(name),
            Self::Direct => direct,
            Self::Matching(pattern) => direct && matches(pattern, &name.chars().collect::<Vec<_>>()),
        }
    }
}

/// Brings a file, or a directory with all that is in it, and answers where it lies.
pub fn fetch(location: &Location, settings: &Settings) -> Result<PathBuf> {
    bring(location, &Choice::All, settings)
}

/// Where the files of an address lie locally; see [`localise`](super::localise).
pub fn localise_in(reference: &str, settings: &Settings) -> Result<PathBuf> {
    let location = Location::parse(reference)?;
    match location.pattern()? {
        None => bring(&location, &Choice::Direct, settings),
        Some((directory, pattern)) => {
            let choice = Choice::Matching(pattern.chars().collect());
            Ok(bring(&directory, &choice, settings)?.join(pattern))
        }
    }
}

fn bring(location: &Location, choice: &Choice, settings: &Settings) -> Result<PathBuf> {
    let store = Store::open(location, settings, &Owner::this_process().pid.to_string())?;
    if !matches!(choice, Choice::Matching(_))
        && !location.path.as_ref().is_empty()
        && let Some((meta, _)) = block_on(unless_interrupted(store.head(&location.path)))???
        // Some tools make an empty object in the place of a directory.
        && meta.size > 0
    {
        return file(&store, meta, settings);
    }
    let mut copy = Copy::of_input(location, settings)?;
    let listing = async {
        match choice {
            Choice::All => store.list().await,
            Choice::Direct | Choice::Matching(_) => store.list_here().await,
        }
    };
    let listed = named(location, block_on(unless_interrupted(listing))???);
    let listed: BTreeMap<_, _> = listed.into_iter().filter(|(name, _)| choice.takes(name)).collect();
    if listed.is_empty() {
        return Err(nothing(location, choice));
    }
    for name in copy.names()? {
        // What the store has no more would be taken for a part of the directory.
        if choice.takes(&name) && !listed.contains_key(&name) && !is_partial(&name) {
            let path = copy.file(&name);
            std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            copy.forget(&name)?;
        }
    }
    let dir = copy.dir.clone();
    block_on(download_missing(&store, &mut copy, &listed))??;
    Ok(dir)
}

fn file(store: &Store, meta: ObjectMeta, settings: &Settings) -> Result<PathBuf> {
    let location = &store.location;
    let mut copy = Copy::of_input(location, settings)?;
    let name = location.name();
    let target = copy.file(name);
    if !copy.has(name, meta.size, &Version::of(&meta)) {
        let version = block_on(download(store, &location.path, meta, &target))??;
        copy.level(name, version)?;
    }
    Ok(target)
}

fn nothing(location: &Location, choice: &Choice) -> Error {
    let what = match choice {
        Choice::Matching(_) => "no object in this directory matches the pattern",
        Choice::All | Choice::Direct => "there is nothing at this address",
    };
    Error::input(what)
        .at_file(location.to_string())
        .help("correct the address; names of buckets and paths are case-sensitive")
}

/// Objects by their names relative to the location; others cannot be files. So cannot the empty objects
/// that some tools make in the place of directories.
pub fn named(location: &Location, listed: Vec<ObjectMeta>) -> BTreeMap<String, ObjectMeta> {
    let named = listed
        .into_iter()
        .filter_map(|meta| Some((location.relative(&meta.location)?, meta)));
    let mut named: BTreeMap<String, ObjectMeta> = named.collect();
    let folders: BTreeSet<String> = named
        .keys()
        .flat_map(|name| name.match_indices('/').map(|(end, _)| name[..end].to_owned()))
        .collect();
    named.retain(|name, meta| meta.size > 0 || !folders.contains(name));
    named
}

/// Whether a file is a download under way.
pub fn is_partial(name: &str) -> bool {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    name.starts_with('.') && name.ends_with(".partial")
}

/// Brings what is not here in the listed state, several objects at a time.
pub async fn download_missing(store: &Store, copy: &mut Copy, listed: &BTreeMap<String, ObjectMeta>) -> Result<()> {
    let missing: Vec<_> = listed
        .iter()
        .filter(|(name, meta)| !copy.has(name, meta.size, &Version::of(meta)))
        .collect();
    let copy = RefCell::new(copy);
    let next = Cell::new(0);
    let work = async || -> Result<()> {
        while let Some((name, meta)) = missing.get(next.replace(next.get() + 1)) {
            let target = copy.borrow().file(name);
            let version = download(store, &meta.location, (*meta).clone(), &target).await?;
            copy.borrow_mut().level(name, version)?;
        }
        Ok(())
    };
    tokio::try_join!(work(), work(), work(), work()).map(drop)
}

/// Whether a name matches a pattern of `*` (any characters) and `?` (one character).
fn matches(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', pattern @ ..], _) => (0..=name.len()).any(|taken| matches(pattern, &name[taken..])),
        ([wanted, pattern @ ..], [found, name @ ..]) => (*wanted == '?' || wanted == found) && matches(pattern, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a pattern that matches a part of a name, hidden files taken for inputs, a local path that is
    /// asked of a store.
    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, wanted) in [
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", ".jsonl", false),
            ("*.jsonl", "a.jsonl.gz", false),
            ("*.jsonl", "sub/a.jsonl", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*ab*ab", "xababab", true),
        ] {
            let choice = Choice::Matching(pattern.chars().collect());
            assert_eq!(choice.takes(name), wanted, "{pattern} {name}");
        }
        assert_eq!(
            super::super::localise("data/*.jsonl").unwrap(),
            std::path::Path::new("data/*.jsonl")
        );
    }
}
