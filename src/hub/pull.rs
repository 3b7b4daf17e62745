//! A model's files from the hub, into the cache or into a directory.
//!
//! The revision becomes a commit first, and every file is one of that commit. Finished files are found
//! again, and those under way are gone on with.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::cache::{Cache, create};
use super::client::{Client, Listing};
use super::download::{Remote, Wanted};
use super::names::Repository;
use super::select::Choice;
use super::settings::Settings;
use crate::atomic;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What a directory made by `--out` was pulled from.
const RECORD: &str = "pull.json";
/// Where files under way lie in such a directory.
const PARTIAL: &str = ".partial";

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    pub repository: Repository,
    pub commit: String,
    pub dir: PathBuf,
    pub files: Vec<PulledFile>,
    /// Bytes that came over the network this time.
    pub fetched: u64,
}

#[derive(Debug)]
pub struct PulledFile {
    pub name: String,
    pub size: u64,
    /// SHA-256, or for small files the SHA-1 of their git blob.
    pub checksum: String,
}

/// Where files go.
enum Place<'a> {
    Cache(&'a Cache),
    /// Plain files in a directory.
    Directory(&'a Path),
}

/// Brings the chosen files of a repository.
pub fn pull(repository: &Repository, choice: &Choice, out: Option<&Path>, progress: &dyn Progress) -> Result<Pulled> {
    let settings = Settings::from_env()?;
    let cache = match (Cache::from_env(), out) {
        (Err(error), None) => return Err(error),
        (cache, _) => cache.ok(),
    };
    let by_hand = cache.as_ref().map_or_else(
        || "copy the files from a machine with a network".to_owned(),
        |cache| cache.by_hand(&repository.id),
    );
    if settings.offline {
        return offline(repository, cache.as_ref().filter(|_| out.is_none()), &by_hand, progress);
    }
    let place = match (out, &cache) {
        (Some(dir), _) => Place::Directory(dir),
        (None, Some(cache)) => Place::Cache(cache),
        (None, None) => return Err(Error::unexpected("there is no place for the files")),
    };
    let client = Client::new(settings, by_hand)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::unexpected("the download cannot be started").because(error))?;
    runtime.block_on(fetch(&client, repository, choice, &place, progress))
}

/// What the cache has, where nothing may be asked.
fn offline(repository: &Repository, cache: Option<&Cache>, by_hand: &str, progress: &dyn Progress) -> Result<Pulled> {
    let Some(dir) = cache.and_then(|cache| cache.snapshot(repository)) else {
        return Err(
            Error::config(format!("HF_HUB_OFFLINE is set, and {repository} is not in the cache"))
                .help(format!("unset HF_HUB_OFFLINE; or {by_hand}")),
        );
    };
    progress.note("HF_HUB_OFFLINE is set: this is what the cache has, which may not be the newest or whole");
    let commit = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Pulled {
        repository: repository.clone(),
        commit,
        dir,
        files: Vec::new(),
        fetched: 0,
    })
}

async fn fetch(
    client: &Client,
    repository: &Repository,
    choice: &Choice,
    place: &Place<'_>,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let Listing { commit, files } = client.listing(repository).await?;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let chosen: BTreeSet<&str> = choice.select(repository, &names)?.into_iter().collect();
    let mut wanted = Vec::new();
    for file in files.iter().filter(|file| chosen.contains(file.name.as_str())) {
        let (size, checksum) = match &file.content {
            Some(content) => content.clone(),
            None => client.content(repository, &commit, &file.name).await?,
        };
        wanted.push(Wanted {
            name: file.name.clone(),
            size,
            checksum,
        });
    }
    let remote = Remote {
        client,
        repository,
        commit: &commit,
        progress,
    };
    place.prepare(&remote, &wanted)?;
    let fetched = download_all(&remote, place, &wanted).await?;
    let dir = place.finish(&remote, &wanted)?;
    let files = wanted.into_iter().map(|file| PulledFile {
        checksum: file.checksum.digits().to_owned(),
        name: file.name,
        size: file.size,
    });
    Ok(Pulled {
        repository: repository.clone(),
        files: files.collect(),
        commit,
        dir,
        fetched,
    })
}

/// Brings the files that are not there, four at a time; answers how many bytes came.
async fn download_all(remote: &Remote<'_>, place: &Place<'_>, wanted: &[Wanted]) -> Result<u64> {
    let id = &remote.repository.id;
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    let mut total = 0;
    for file in wanted {
        let target = place.target(id, file);
        if !seen.insert(target.clone()) || place.has(&target, file)? {
            continue;
        }
        let partial = place.partial(id, file);
        let there = fs::metadata(&partial).map_or(0, |found| found.len());
        total += file.size.saturating_sub(there);
        missing.push((file, partial, target));
    }
    if missing.is_empty() {
        return Ok(0);
    }
    remote.progress.start("pull", total, "bytes");
    let next = Cell::new(0);
    let work = async || -> Result<()> {
        while let Some((file, partial, target)) = missing.get(next.replace(next.get() + 1)) {
            for path in [partial, target] {
                path.parent().map_or(Ok(()), create)?;
            }
            // Held until the file is there.
            let _lock = match place {
                Place::Cache(cache) => Some(cache.lock(id, file.checksum.digits())?),
                Place::Directory(_) => None,
            };
            remote.progress.figure(&file.name);
            remote.download(file, partial, target).await?;
        }
        Ok(())
    };
    let done = tokio::try_join!(work(), work(), work(), work());
    if done.is_ok() {
        remote.progress.figure("");
        remote.progress.finish();
    }
    done.map(|_| total)
}

impl Place<'_> {
    /// Where a file's bytes end up.
    fn target(&self, id: &str, file: &Wanted) -> PathBuf {
        match self {
            Self::Cache(cache) => cache.blob(id, file.checksum.digits()),
            Self::Directory(dir) => dir.join(&file.name),
        }
    }

    /// Where they are until all have come. The name has the checksum, so a file that has changed begins
    /// anew.
    fn partial(&self, id: &str, file: &Wanted) -> PathBuf {
        let digits = file.checksum.digits();
        match self {
            Self::Cache(cache) => cache.blob(id, &format!("{digits}.partial")),
            Self::Directory(dir) => dir
                .join(PARTIAL)
                .join(format!("{}.{digits}", file.name.replace('/', "--"))),
        }
    }

    /// Whether a file is there. A blob got its name when its checksum was right.
    fn has(&self, target: &Path, file: &Wanted) -> Result<bool> {
        match self {
            Self::Cache(_) => Ok(fs::metadata(target).is_ok_and(|found| found.len() == file.size)),
            Self::Directory(_) => file.is_at(target),
        }
    }

    /// Makes a directory known as this repository's, before anything is in it.
    fn prepare(&self, remote: &Remote<'_>, wanted: &[Wanted]) -> Result<()> {
        let Self::Directory(dir) = self else { return Ok(()) };
        let record = dir.join(RECORD);
        let repository = remote.repository;
        if let Some(old) = read_record(dir, &record, repository)? {
            if old["commit"] != remote.commit {
                let old = old["commit"].as_str().unwrap_or("another commit");
                remote
                    .progress
                    .note(&format!("{repository} has moved from {old} to {}", remote.commit));
            }
            // A file that the new commit does not have would be taken for its own.
            let kept: BTreeSet<&str> = wanted.iter().map(|file| file.name.as_str()).collect();
            let old = old["files"].as_object().into_iter().flat_map(serde_json::Map::keys);
            for name in old.filter(|name| super::names::is_inside(name) && !kept.contains(name.as_str())) {
                let _ = fs::remove_file(dir.join(name));
            }
        }
        create(dir)?;
        let files = wanted.iter().map(|file| {
            let digits = file.checksum.digits();
            let content = serde_json::json!({ "size": file.size, "checksum": digits });
            (file.name.clone(), content)
        });
        let json = serde_json::json!({
            "repository": repository.id,
            "revision": repository.revision,
            "commit": remote.commit,
            "files": files.collect::<serde_json::Map<_, _>>(),
        });
        atomic::write(&record, format!("{json:#}\n").as_bytes())
    }

    /// Gives the files their names; answers the directory that has them all.
    fn finish(&self, remote: &Remote<'_>, wanted: &[Wanted]) -> Result<PathBuf> {
        match self {
            Self::Cache(cache) => {
                let id = &remote.repository.id;
                for file in wanted {
                    cache.link(id, remote.commit, &file.name, file.checksum.digits())?;
                }
                cache.remember(remote.repository, remote.commit)?;
                Ok(cache.snapshot_dir(id, remote.commit))
            }
            Self::Directory(dir) => {
                // Also what other commits left under way.
                let _ = fs::remove_dir_all(dir.join(PARTIAL));
                Ok(dir.to_path_buf())
            }
        }
    }
}

/// The record of an earlier pull into a directory; an error if it holds something else.
fn read_record(dir: &Path, record: &Path, repository: &Repository) -> Result<Option<serde_json::Value>> {
    const REMEDY: &str = "give an empty or new directory as --out";
    let text = match fs::read_to_string(record) {
        Ok(text) => text,
        Err(_) if dir.is_file() => return Err(Error::config("--out is a file").at_file(dir).help(REMEDY)),
        Err(_) => {
            let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
            return match entries.find(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
                Some(entry) => Err(Error::config(format!(
                    "the directory is not empty and was not made by a pull (found `{}`)",
                    entry.file_name().display()
                ))
                .at_file(dir)
                .help(REMEDY)),
                None => Ok(None),
            };
        }
    };
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Error::input("not JSON").at_file(record).because(error))?;
    match json["repository"].as_str() {
        Some(id) if id == repository.id => Ok(Some(json)),
        other => Err(Error::config(format!(
            "the directory holds another model, {}",
            other.unwrap_or("without a name")
        ))
        .at_file(dir)
        .help(REMEDY)),
    }
}
