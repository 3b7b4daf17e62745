//! Checking datasets on disk: what the manifest says is there, and every row keeps its promises.
//!
//! All findings are collected, shard by shard, in memory for one shard and 16 bytes for each id. A shard
//! that is damaged is one finding: what its bytes decode to is not looked at.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::{FILE, Manifest, Status};
use super::migrate;
use super::row::{Kind, Row};
use super::shard::{self, Shard};
use super::soundness::{Promise, Sound};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::record::{
    Candidates, Demonstration, Preference, Prompt, ReferenceLogprobs, Reject, Revision, UnpairedPreference,
};

/// Rows that a finding names one by one.
const NAMED: usize = 5;

/// Datasets of fewer shards are checked before anyone asks how long it takes.
const WORTH_TELLING: usize = 8;

/// Directories deeper than this are not looked into.
const DEEPEST: usize = 16;

/// Files of these types beside a dataset's shards could be taken for a part of it.
const DATA: [&str; 9] = [
    "arrow", "parquet", "jsonl", "ndjson", "csv", "tsv", "feather", "ipc", "partial",
];

/// What was checked and what was found.
#[derive(Debug, Default, Serialize)]
pub struct Validation {
    pub datasets: Vec<Checked>,
    pub findings: Vec<Finding>,
}

/// A dataset that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub path: PathBuf,
    pub kind: Option<Kind>,
    pub rows: u64,
    pub shards: usize,
    pub bytes: u64,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// The path that was to be checked, or one below it.
    Path,
    Manifest,
    /// The run that writes the dataset has not finished.
    Unfinished,
    Shard,
    /// A file that the manifest does not know.
    Foreign,
    /// A write that was cut off.
    Temporary,
    /// Promises of rows.
    #[serde(untagged)]
    Rows(Promise),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub path: PathBuf,
    pub about: About,
    pub message: String,
    pub help: String,
    /// How many rows have it; 0 where it is not about rows.
    pub count: u64,
    /// The first of them, counted from 1 over all shards.
    pub rows: Vec<u64>,
}

impl Finding {
    fn new(path: &Path, about: About, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            about,
            message: message.into(),
            help: help.into(),
            count: 0,
            rows: Vec::new(),
        }
    }

    fn of(path: &Path, about: About, error: &Error) -> Self {
        let mut message = error.message().to_owned();
        if let Some(source) = std::error::Error::source(error) {
            message = format!("{message}: {source}");
        }
        Self::new(path, about, message, error.help_text().unwrap_or("look at the file"))
    }
}

impl Validation {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, path: &Path, about: About, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding::new(path, about, message, help));
    }
}

/// Checks the dataset in `path`, or all datasets below it.
pub fn validate(path: &Path, progress: &dyn Progress) -> Result<Validation> {
    let mut validation = Validation::default();
    match fs::metadata(path) {
        Err(error) => unreadable(&mut validation, path, &error),
        Ok(metadata) if !metadata.is_dir() => validation.find(
            path,
            About::Path,
            "this is a file, not the directory of a dataset",
            "name the directory that has the `manifest.json`; `bylaw data inspect` looks at single files",
        ),
        Ok(_) => {
            let mut walk = Walk {
                validation: &mut validation,
                progress,
                // A link may also lead to what the path itself is in.
                above: fs::canonicalize(path)
                    .map(|real| real.ancestors().skip(1).map(Path::to_owned).collect())
                    .unwrap_or_default(),
                depth: 0,
                seen: HashSet::new(),
            };
            walk.directory(path, false)?;
            if validation.datasets.is_empty() && validation.findings.is_empty() {
                validation.find(
                    path,
                    About::Path,
                    "there is no dataset in it or below it",
                    "name a directory with a `manifest.json`, or one that has such directories",
                );
            }
        }
    }
    Ok(validation)
}

fn unreadable(validation: &mut Validation, path: &Path, error: &std::io::Error) {
    let (message, help) = match error.raw_os_error() {
        Some(libc::ELOOP) => (
            "the symbolic link leads back to itself".to_owned(),
            "remove the link, or let it lead to the data",
        ),
        _ if error.kind() == std::io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => (
            "the symbolic link leads nowhere".to_owned(),
            "remove the link, or put back what it leads to",
        ),
        _ => (format!("cannot be read: {error}"), "check the path and the rights"),
    };
    validation.find(path, About::Path, message, help);
}

/// Looks for datasets in a directory and below it.
struct Walk<'a> {
    validation: &'a mut Validation,
    progress: &'a dyn Progress,
    /// The directories that the present one is in, as they really are.
    above: Vec<PathBuf>,
    /// How many of them are below the path that is checked.
    depth: usize,
    /// Directories that were looked at, so that two links to one do not count it twice.
    seen: HashSet<PathBuf>,
}

/// An entry of a directory.
struct Entry {
    name: String,
    path: PathBuf,
    is_dir: bool,
}

impl Walk<'_> {
    /// `unfinished`: a dataset around this one is still being written.
    fn directory(&mut self, dir: &Path, unfinished: bool) -> Result<()> {
        interrupt::check()?;
        let real = match fs::canonicalize(dir) {
            Ok(real) => real,
            Err(error) => {
                unreadable(self.validation, dir, &error);
                return Ok(());
            }
        };
        if self.above.contains(&real) {
            self.validation.find(
                dir,
                About::Path,
                "the symbolic link leads back to a directory that it is in",
                "remove the link",
            );
            return Ok(());
        }
        if self.depth > DEEPEST || !self.seen.insert(real.clone()) {
            return Ok(());
        }
        let Some(entries) = self.entries(dir) else {
            return Ok(());
        };
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        let shards = entries.iter().any(|entry| !entry.is_dir && is_shard(&entry.name));
        let mut running = unfinished;
        if has(FILE) {
            running |= self.dataset(dir, &entries)?;
        } else if shards && !unfinished {
            self.validation.find(
                dir,
                About::Manifest,
                "there are shards, but no `manifest.json`",
                "the run that writes them was stopped early: run the same command again; or read the files by themselves, as `DIR/*.arrow`",
            );
        }
        self.above.push(real);
        self.depth += 1;
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            self.directory(&entry.path, running)?;
        }
        self.depth -= 1;
        self.above.pop();
        Ok(())
    }

    /// What is in the directory, by name; `None` if it cannot be listed.
    fn entries(&mut self, dir: &Path) -> Option<Vec<Entry>> {
        let listed = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                unreadable(self.validation, dir, &error);
                return None;
            }
        };
        let mut entries = Vec::new();
        for entry in listed {
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(metadata) => entries.push(Entry {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    is_dir: metadata.is_dir(),
                    path,
                }),
                Err(error) => unreadable(self.validation, &path, &error),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Some(entries)
    }

    /// Checks the dataset in `dir`; answers whether it is still being written.
    fn dataset(&mut self, dir: &Path, entries: &[Entry]) -> Result<bool> {
        let path = dir.join(FILE);
        let (kind, status, shards) = match Manifest::read(dir) {
            Ok(manifest) => (Some(manifest.kind), Some(manifest.status), manifest.shards),
            Err(error) => {
                self.validation
                    .findings
                    .push(Finding::of(&path, About::Manifest, &error));
                let Some((kind, shards)) = salvaged(&path) else {
                    return Ok(false);
                };
                (kind, None, shards)
            }
        };
        self.validation.datasets.push(Checked {
            path: dir.to_owned(),
            kind,
            rows: shards.iter().map(|shard| shard.rows).sum(),
            shards: shards.len(),
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
        });
        let running = status == Some(Status::Running);
        if running {
            self.validation.find(
                &path,
                About::Unfinished,
                "the dataset is not complete: its status is `running`",
                "if nothing writes it now, run the command that made it again: it goes on where it was stopped",
            );
        }
        let named = dir.file_name().is_some_and(|name| name == "rejects");
        if let Some(kind) = kind
            && named
            && kind != Kind::Rejects
        {
            self.validation.find(
                &path,
                About::Manifest,
                format!("the directory of the rejects holds {kind}"),
                "move it to a place of its own",
            );
        }
        // A manifest that is not sound may leave out what belongs to the dataset, as one that grows does.
        if status == Some(Status::Complete) {
            self.strangers(&shards, entries);
        }
        match kind {
            None => {}
            Some(Kind::Prompts) => self.rows::<Prompt>(dir, &shards)?,
            Some(Kind::Revisions) => self.rows::<Revision>(dir, &shards)?,
            Some(Kind::Candidates) => self.rows::<Candidates>(dir, &shards)?,
            Some(Kind::Preferences) => self.rows::<Preference>(dir, &shards)?,
            Some(Kind::Rejects) => self.rows::<Reject>(dir, &shards)?,
            Some(Kind::Demonstrations) => self.rows::<Demonstration>(dir, &shards)?,
            Some(Kind::UnpairedPreferences) => self.rows::<UnpairedPreference>(dir, &shards)?,
            Some(Kind::ReferenceLogprobs) => self.rows::<ReferenceLogprobs>(dir, &shards)?,
        }
        Ok(running)
    }

    /// Files that could be taken for data and are not in the manifest.
    fn strangers(&mut self, shards: &[Shard], entries: &[Entry]) {
        for Entry { name, path, is_dir } in entries {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            if *is_dir {
                continue;
            }
            if name == "rejects" {
                self.validation.find(
                    path,
                    About::Path,
                    "this is a file, where the directory of the rejects belongs",
                    "move it elsewhere",
                );
            }
            if !extension.is_some_and(|extension| DATA.contains(&extension))
                || shards.iter().any(|shard| shard.file == *name)
            {
                continue;
            }
            if name.starts_with('.') || extension == Some("partial") {
                self.validation.find(
                    path,
                    About::Temporary,
                    "what a write left that was cut off",
                    "delete the file: nothing refers to it",
                );
            } else {
                self.validation.find(
                    path,
                    About::Foreign,
                    "the manifest does not list this file",
                    "move it elsewhere: readers that take all files of the directory would read it",
                );
            }
        }
    }

    /// Reads shard after shard and checks the rows.
    fn rows<R: Sound>(&mut self, dir: &Path, shards: &[Shard]) -> Result<()> {
        let mut ids = HashSet::new();
        let mut before = 0;
        let tell = shards.len() >= WORTH_TELLING;
        if tell {
            self.progress
                .start(&dir.display().to_string(), shards.len() as u64, "shards");
        }
        for shard in shards {
            interrupt::check()?;
            let path = dir.join(&shard.file);
            match read::<R>(dir, shard) {
                Err(finding) => self.validation.findings.push(finding),
                Ok(rows) => {
                    let found = broken(&path, &rows, before, &mut ids);
                    self.validation.findings.extend(found);
                }
            }
            before += shard.rows;
            if tell {
                self.progress.advance(1);
            }
        }
        if tell {
            self.progress.finish();
        }
        Ok(())
    }
}

/// The rows of a shard, or what is wrong with it as a whole.
fn read<R: Row>(dir: &Path, shard: &Shard) -> Result<Vec<R>, Finding> {
    let path = dir.join(&shard.file);
    let remedy =
        "copy the file again from where it was made, or delete it and run the command that made the dataset again";
    let finding = |message: String| Finding::new(&path, About::Shard, message, remedy);
    match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(finding("the shard is missing; the manifest lists it".to_owned()));
        }
        Ok(metadata) if metadata.is_dir() => {
            return Err(finding("the shard is a directory, expected a file".to_owned()));
        }
        Ok(metadata) if !metadata.is_file() => {
            return Err(finding("the shard is a device or a pipe, expected a file".to_owned()));
        }
        // Before it is read: what lies there may be of any size.
        Ok(metadata) if metadata.len() != shard.bytes => {
            return Err(finding(format!(
                "the shard has {} bytes, its manifest says {}",
                metadata.len(),
                shard.bytes
            )));
        }
        _ => {}
    }
    shard::read(dir, shard).map_err(|error| Finding::of(&path, About::Shard, &error))
}

/// What the rows of a shard promise and do not keep; one finding to a message, but for its numbers.
fn broken<R: Sound>(path: &Path, rows: &[R], before: u64, ids: &mut HashSet<u128>) -> Vec<Finding> {
    // With whether the rows of a finding have different values.
    let mut found: BTreeMap<(Promise, String), (Finding, bool)> = BTreeMap::new();
    for (row, number) in rows.iter().zip(before + 1..) {
        let mut broken = |promise: Promise, message: String| {
            let (finding, differ) = found.entry((promise, general(&message))).or_insert_with(|| {
                let finding = Finding::new(path, About::Rows(promise), message.clone(), promise.remedy());
                (finding, false)
            });
            *differ |= finding.message != message;
            finding.count += 1;
            if finding.rows.len() < NAMED && finding.rows.last() != Some(&number) {
                finding.rows.push(number);
            }
        };
        let digest = Sha256::digest(row.id());
        let id = digest[..16].iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
        match row.id() {
            "" => broken(Promise::Id, "the id is empty".into()),
            text if !ids.insert(id) => broken(Promise::Id, format!("the id {text:?} is that of an earlier row")),
            _ => {}
        }
        row.check(&mut broken);
    }
    let mut found: Vec<Finding> = found
        .into_values()
        .map(|(mut finding, differ)| {
            if differ {
                finding.message.push_str(" (the first of them)");
            }
            finding
        })
        .collect();
    found.sort_by_key(|finding| finding.rows.first().copied());
    found
}

/// A message without the values of one row: what stands in quotes, and numbers.
fn general(message: &str) -> String {
    let mut quoted = false;
    let mut part = |character: char| {
        quoted ^= character == '"';
        !quoted && !character.is_ascii_digit() && !matches!(character, '.' | '-')
    };
    message.chars().filter(|character| part(*character)).collect()
}

/// What can still be checked by a manifest that is not sound: its kind, and the shards that it names
/// properly. Nothing if it is not JSON, or of another version.
fn salvaged(path: &Path) -> Option<(Option<Kind>, Vec<Shard>)> {
    let value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let value = migrate::manifest(value).ok()?;
    let kind = serde_json::from_value(value.get("kind")?.clone()).ok();
    let mut names = HashSet::new();
    let shards = value.get("shards")?.as_array()?.iter();
    let shards = shards
        .filter_map(|shard| serde_json::from_value::<Shard>(shard.clone()).ok())
        .filter(|shard| {
            Path::new(&shard.file)
                .file_name()
                .is_some_and(|name| name == shard.file.as_str())
        })
        .filter(|shard| names.insert(shard.file.clone()));
    Some((kind, shards.collect()))
}

fn is_shard(name: &str) -> bool {
    name.starts_with("data-") && name.contains("-of-") && name.ends_with(".arrow")
}
