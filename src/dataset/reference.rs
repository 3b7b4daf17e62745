//! A data reference, as users write it, to the rows behind it: a dataset, a directory of files, a
//! `.arrow` or `.jsonl` file, or a glob.
//!
//! Decides which files are read and in which order; what their rows look like is for `shape`. A row
//! that cannot be used becomes a [`Reject`] with its line and reason: never dropped, never guessed.

use std::fs;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use serde_json::Value;

use super::manifest::{Manifest, Status};
use super::row::{self, Kind, Row};
use super::shape::{self, Native, Object, Shape};
use super::{UniqueIds, combined_sha256, jsonl, reject, shard};
use crate::error::{Error, Result};
use crate::record::{Candidates, Demonstration, Preference, Prompt, Reject, Revision};

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

/// Prompts: from prompts, or from the `prompt` of revisions, candidates and preferences.
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

/// Demonstrations for SFT: also the final answers of revisions, and the first completions of
/// candidates, as a control.
pub fn read_demonstrations(reference: &str) -> Result<Loaded<Demonstration>> {
    read(reference)
}

const READABLE: &str =
    "bylaw reads a `.jsonl` file, a `.arrow` file, a directory of them, a dataset, or a glob such as `data/*.jsonl`";

fn read<R: Shape>(reference: &str) -> Result<Loaded<R>> {
    let mut reader = Reader::<R> {
        rows: Vec::new(),
        rejects: Vec::new(),
        ids: UniqueIds::default(),
        reject_ids: UniqueIds::default(),
        prefix: String::new(),
    };
    let files = match locate(reference)? {
        Location::Dataset(dir) => reader.dataset(&dir)?,
        Location::Files(files) => {
            let several = files.len() > 1;
            let hashes = files.iter().map(|file| {
                reader.prefix = if several {
                    format!("{}, ", name(file))
                } else {
                    String::new()
                };
                reader.file(file)
            });
            hashes.collect::<Result<Vec<_>>>()?
        }
    };
    let Reader { rows, rejects, .. } = reader;
    if let ([], Some(first)) = (rows.as_slice(), rejects.first()) {
        return Err(Error::input(format!(
            "none of its {} rows can be read as {}; the first: {}",
            rejects.len(),
            R::KIND,
            first.reason
        ))
        .at_file(reference)
        .help(format!("{} are read from {}", R::KIND, R::SHAPES)));
    }
    Ok(Loaded {
        rows,
        rejects,
        sha256: combined_sha256(files.iter().map(String::as_str)),
    })
}

enum Location {
    Dataset(PathBuf),
    Files(Vec<PathBuf>),
}

fn locate(reference: &str) -> Result<Location> {
    let path = Path::new(reference);
    if path.is_dir() {
        return if Manifest::exists(path) {
            Ok(Location::Dataset(path.to_owned()))
        } else {
            directory(path).map(Location::Files)
        };
    }
    if path.is_file() {
        check_extension(path)?;
        return Ok(Location::Files(vec![path.to_owned()]));
    }
    if reference.contains(['*', '?']) {
        return glob(path).map(Location::Files);
    }
    Err(Error::input("there is no such file or directory")
        .at_file(reference)
        .help(READABLE))
}

/// The readable files of a directory that is not a dataset.
fn directory(dir: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = names(dir)?
        .into_iter()
        .map(|name| dir.join(name))
        .filter(|path| is_readable(path) && path.is_file())
        .collect();
    if files.is_empty() {
        return Err(Error::input("the directory has no `.arrow` or `.jsonl` file")
            .at_file(dir)
            .help(READABLE));
    }
    Ok(files)
}

fn glob(pattern: &Path) -> Result<Vec<PathBuf>> {
    let dir = match pattern.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if dir.to_string_lossy().contains(['*', '?']) {
        return Err(
            Error::config("`*` and `?` are understood in the last part of a path only")
                .at_file(pattern)
                .help("name one directory, or pass the files of one directory at a time"),
        );
    }
    let wanted: Vec<char> = name(pattern).chars().collect();
    let files: Vec<PathBuf> = names(dir)?
        .into_iter()
        .filter(|name| matches(&wanted, &name.chars().collect::<Vec<_>>()))
        .map(|name| dir.join(name))
        .filter(|path| path.is_file())
        .collect();
    if files.is_empty() {
        return Err(Error::input("no file matches the pattern")
            .at_file(pattern)
            .help(READABLE));
    }
    files.iter().try_for_each(|file| check_extension(file))?;
    Ok(files)
}

/// Whether a name matches a pattern of `*` (any characters) and `?` (one character).
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the characters after the last `*` turn out not to match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// The names in a directory, sorted, without hidden ones (among them are half-written shards).
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", dir, error).help(READABLE);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        // A name that is not UTF-8 cannot end in `.jsonl` or `.arrow` as we spell them in a manifest.
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn is_readable(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "jsonl" || extension == "arrow")
}

fn check_extension(path: &Path) -> Result<()> {
    if is_readable(path) {
        return Ok(());
    }
    let found = match path.extension() {
        Some(extension) => format!("`.{}` files are not read", extension.to_string_lossy()),
        None => "the file has no extension, so its format is unknown".to_owned(),
    };
    Err(Error::input(found).at_file(path).help(READABLE))
}

/// Collects the rows of one reference.
struct Reader<R> {
    rows: Vec<R>,
    rejects: Vec<Reject>,
    ids: UniqueIds,
    reject_ids: UniqueIds,
    /// The file's name in reasons, where there are several files.
    prefix: String,
}

impl<R: Shape> Reader<R> {
    fn take(&mut self, row: Result<R, String>, place: impl Fn() -> String, raw: impl FnOnce() -> String) {
        match row {
            Ok(mut row) => {
                let id = self.ids.claim(row.id());
                row.set_id(id);
                self.rows.push(row);
            }
            Err(reason) => {
                let mut row = reject(format!("{}{}: {reason}", self.prefix, place()), raw());
                row.id = self.reject_ids.claim(&row.id);
                self.rejects.push(row);
            }
        }
    }

    /// Reads a complete dataset; returns the hashes of its shards.
    fn dataset(&mut self, dir: &Path) -> Result<Vec<String>> {
        let manifest = Manifest::read(dir)?;
        if manifest.status == Status::Running {
            return Err(
                Error::input("the dataset is not complete: the run that writes it was stopped or goes on")
                    .at_file(dir)
                    .help("run the same command again to finish it"),
            );
        }
        if manifest.rows == 0 {
            return Err(empty(dir));
        }
        let mut number = 0;
        for shard in &manifest.shards {
            match manifest.kind {
                Kind::Prompts => self.natives(shard::read(dir, shard)?, Native::Prompt, &mut number, dir)?,
                Kind::Revisions => self.natives(shard::read(dir, shard)?, Native::Revision, &mut number, dir)?,
                Kind::Candidates => self.natives(shard::read(dir, shard)?, Native::Candidates, &mut number, dir)?,
                Kind::Preferences => self.natives(shard::read(dir, shard)?, Native::Preference, &mut number, dir)?,
                Kind::Demonstrations => {
                    self.natives(shard::read(dir, shard)?, Native::Demonstration, &mut number, dir)?;
                }
                kind @ (Kind::Rejects | Kind::UnpairedPreferences) => return Err(wrong_kind::<R>(kind, dir)),
            }
        }
        Ok(manifest.shards.into_iter().map(|shard| shard.sha256).collect())
    }

    /// Takes the rows of one of our own kinds; `number` counts the rows of the file or dataset.
    fn natives<N: Row>(&mut self, rows: Vec<N>, wrap: fn(N) -> Native, number: &mut usize, path: &Path) -> Result<()> {
        for native in rows {
            *number += 1;
            let raw = native.clone();
            let row = R::from_native(wrap(native)).ok_or_else(|| wrong_kind::<R>(N::KIND, path))?;
            let row = row.and_then(|row| row.check().map(|()| row));
            self.take(
                row,
                || format!("row {number}"),
                || serde_json::to_string(&raw).unwrap_or_default(),
            );
        }
        Ok(())
    }

    /// Reads one file; returns its hash.
    fn file(&mut self, path: &Path) -> Result<String> {
        if path.extension().is_some_and(|extension| extension == "arrow") {
            return self.arrow_file(path);
        }
        let source = name(path);
        let (count, sha256) = jsonl::read(path, |line| {
            let row = line.object.and_then(|object| shape::row(object, &source));
            self.take(row, || format!("line {}", line.number), || line.raw);
        })?;
        if count == 0 {
            return Err(empty(path));
        }
        Ok(sha256)
    }

    fn arrow_file(&mut self, path: &Path) -> Result<String> {
        let (batches, sha256) = shard::read_batches(path)?;
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Err(empty(path));
        }
        let mut number = 0;
        for batch in &batches {
            self.batch(batch, &mut number, path)?;
        }
        Ok(sha256)
    }

    fn batch(&mut self, batch: &RecordBatch, number: &mut usize, path: &Path) -> Result<()> {
        match kind_of(&batch.schema()) {
            Some(Kind::Prompts) => self.natives(row::from_batch(batch, path)?, Native::Prompt, number, path),
            Some(Kind::Revisions) => self.natives(row::from_batch(batch, path)?, Native::Revision, number, path),
            Some(Kind::Candidates) => self.natives(row::from_batch(batch, path)?, Native::Candidates, number, path),
            Some(Kind::Preferences) => self.natives(row::from_batch(batch, path)?, Native::Preference, number, path),
            Some(Kind::Demonstrations) => {
                self.natives(row::from_batch(batch, path)?, Native::Demonstration, number, path)
            }
            Some(kind @ (Kind::Rejects | Kind::UnpairedPreferences)) => Err(wrong_kind::<R>(kind, path)),
            None => self.foreign(batch, number, path),
        }
    }

    /// A batch that another program wrote: its rows have the shapes of JSON objects.
    fn foreign(&mut self, batch: &RecordBatch, number: &mut usize, path: &Path) -> Result<()> {
        let source = name(path);
        let objects: Vec<Object> = serde_arrow::from_record_batch(batch).map_err(|error| {
            Error::input("its columns have types that are not read")
                .at_file(path)
                .help(format!("{} are read from {}", R::KIND, R::SHAPES))
                .because(error)
        })?;
        for object in objects {
            *number += 1;
            let raw = Value::Object(object.clone());
            self.take(
                shape::row(object, &source),
                || format!("row {number}"),
                || raw.to_string(),
            );
        }
        Ok(())
    }
}

fn kind_of(schema: &Schema) -> Option<Kind> {
    Kind::of_columns(
        |name| match schema.field_with_name(name).map(arrow::datatypes::Field::data_type) {
            Err(_) => false,
            // `completions` of strings is the shape of other programs.
            Ok(DataType::List(item) | DataType::LargeList(item)) if name == "completions" => {
                matches!(item.data_type(), DataType::Struct(_))
            }
            Ok(_) => true,
        },
    )
}

fn wrong_kind<R: Shape>(found: Kind, path: &Path) -> Error {
    Error::input(format!("holds {found}, which cannot be read as {}", R::KIND))
        .at_file(path)
        .help(format!("{} are read from {}", R::KIND, R::SHAPES))
}

fn empty(path: &Path) -> Error {
    Error::input("is empty: it has no rows")
        .at_file(path)
        .help("name data with at least one row")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_does() {
        let matches = |pattern: &str, name: &str| {
            matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
        };
        for (pattern, name) in [
            ("*.jsonl", "a.jsonl"),
            ("a?c*", "abc"),
            ("*", ""),
            ("*a*b", "xaybab"),
            ("é?", "éü"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.jsonl", "a.json"),
            ("a?c", "ac"),
            ("?", ""),
            ("*a*b", "ba"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
