//! A data reference as a stream of rows, in memory that does not grow with the files: one record, or one
//! block of Arrow, and 16 bytes for each id that was seen.
//!
//! A row that cannot be used becomes a [`Reject`] with its place and reason: never dropped, never
//! guessed. So the rows and the rejects are together as many as the rows of the files.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::vec;

use super::detected::{Detected, Found};
use super::ids::UniqueIds;
use super::locate::{Location, locate, name};
use super::manifest::{Manifest, Status};
use super::mapping::{Absent, Mapping};
use super::row::{self, Kind, Row};
use super::shape::{self, Form, Native, Shape};
use super::shard::{self, Shard};
use super::source::{Format, Limits, Piece, Reader, Record, type_cells};
use super::{combined_sha256, reject};
use crate::error::{Error, Result};
use crate::record::Reject;

/// How a reference is read.
#[derive(Debug, Clone)]
pub struct Options {
    /// For columns that bylaw does not know by themselves.
    pub mapping: Option<Mapping>,
    /// Bytes of the longest line, JSON object or CSV record; a longer one becomes a reject.
    pub record_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mapping: None,
            record_limit: 64 << 20,
        }
    }
}

impl Options {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            record: self.record_limit,
            delimiter: self.mapping.as_ref().and_then(|mapping| mapping.delimiter),
        }
    }
}

/// How far a stream is, in bytes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub bytes: u64,
    pub total: u64,
}

/// Opens a reference as rows of kind `R`. Files are opened when their turn comes.
pub fn stream<R: Shape>(reference: &str, options: &Options) -> Result<RowStream<R>> {
    let files = files::<R>(reference, options)?;
    let total = files.iter().map(File::size).sum();
    Ok(RowStream {
        reference: reference.to_owned(),
        options: options.clone(),
        several: files.len() > 1,
        files: files.into_iter(),
        open: None,
        ready: VecDeque::new(),
        ids: UniqueIds::default(),
        reject_ids: UniqueIds::default(),
        detected: Detected::default(),
        hashes: Vec::new(),
        sha256: None,
        rows: 0,
        rejects: 0,
        unreadable: 0,
        first_reason: None,
        first_absent: None,
        finished: 0,
        total,
        ended: false,
    })
}

fn files<R: Shape>(reference: &str, options: &Options) -> Result<Vec<File>> {
    let format = options.mapping.as_ref().and_then(|mapping| mapping.format);
    let dir = match locate(reference, format)? {
        Location::Files(files) => {
            return Ok(files
                .into_iter()
                .map(|(path, format)| File::Foreign(path, format))
                .collect());
        }
        Location::Dataset(dir) => dir,
    };
    let manifest = Manifest::read(&dir)?;
    if manifest.status == Status::Running {
        return Err(
            Error::input("the dataset is not complete: the run that writes it was stopped or goes on")
                .at_file(&dir)
                .help("run the same command again to finish it"),
        );
    }
    if manifest.rows == 0 {
        return Err(empty(&dir));
    }
    if matches!(manifest.kind, Kind::Rejects | Kind::ReferenceLogprobs) {
        return Err(wrong_kind::<R>(manifest.kind, &dir));
    }
    let shards = manifest.shards.into_iter();
    Ok(shards
        .map(|shard| File::Shard(dir.clone(), manifest.kind, shard))
        .collect())
}

enum File {
    /// A file that no manifest vouches for.
    Foreign(PathBuf, Format),
    Shard(PathBuf, Kind, Shard),
}

impl File {
    fn size(&self) -> u64 {
        match self {
            Self::Foreign(path, _) => path.metadata().map_or(0, |metadata| metadata.len()),
            Self::Shard(_, _, shard) => shard.bytes,
        }
    }
}

/// The rows of a reference, in file order, files by name. The outer error is about a file and ends the
/// stream; the inner one is a row that could not be used.
pub struct RowStream<R> {
    reference: String,
    options: Options,
    several: bool,
    files: vec::IntoIter<File>,
    open: Option<Open>,
    ready: VecDeque<Result<R, Reject>>,
    ids: UniqueIds,
    reject_ids: UniqueIds,
    detected: Detected,
    hashes: Vec<String>,
    sha256: Option<String>,
    rows: u64,
    rejects: u64,
    /// How many of the rejects are not even JSON objects.
    unreadable: u64,
    first_reason: Option<String>,
    first_absent: Option<Absent>,
    /// Bytes of the files that were read to their end.
    finished: u64,
    total: u64,
    ended: bool,
}

/// A file in reading.
struct Open {
    reader: Reader,
    format: Format,
    /// Its name, as the source of prompts.
    source: String,
    /// Its name in reasons, where there are several files.
    prefix: String,
    any: bool,
}

impl<R: Shape> Iterator for RowStream<R> {
    type Item = Result<Result<R, Reject>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    self.sha256 = Some(combined_sha256(self.hashes.iter().map(String::as_str)));
                    if let Some(error) = self.nothing_read() {
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<R> RowStream<R> {
    /// What the rows so far turned out to be.
    pub fn detected(&self) -> &Detected {
        &self.detected
    }

    /// Identifies the content of the files; known at the end of the stream.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Rows so far that could be used, and that could not.
    pub fn counts(&self) -> (u64, u64) {
        (self.rows, self.rejects)
    }

    pub fn position(&self) -> Position {
        let open = self.open.as_ref().map_or(0, |open| open.reader.bytes());
        Position {
            bytes: (self.finished + open).min(self.total),
            total: self.total,
        }
    }
}

impl<R: Shape> RowStream<R> {
    /// Makes the next rows ready; false at the end of the last file.
    fn advance(&mut self) -> Result<bool> {
        let Some(open) = &mut self.open else {
            return match self.files.next() {
                None => Ok(false),
                Some(File::Shard(dir, kind, shard)) => self.shard(&dir, kind, &shard).map(|()| true),
                Some(File::Foreign(path, format)) => {
                    let file_name = name(&path);
                    self.open = Some(Open {
                        reader: Reader::open(&path, format, &self.options.limits())?,
                        format,
                        prefix: match self.several {
                            true => format!("{file_name}, "),
                            false => String::new(),
                        },
                        source: file_name,
                        any: false,
                    });
                    Ok(true)
                }
            };
        };
        match open.reader.next()? {
            Some(Piece::Record(record)) => {
                open.any = true;
                self.record(record);
            }
            Some(Piece::Rows(kind, batch, before)) => {
                open.any = true;
                let path = open.reader.path().to_owned();
                self.batch(kind, &batch, before, &path)?;
            }
            None => {
                if !open.any {
                    return Err(empty(open.reader.path()));
                }
                self.hashes.push(open.reader.sha256()?);
                self.finished += open.reader.size();
                self.open = None;
            }
        }
        Ok(true)
    }

    /// A record of another program.
    fn record(&mut self, mut record: Record) {
        let Some(open) = &self.open else { return };
        let mapping = self.options.mapping.as_ref();
        let place = format!("{}{}", open.prefix, record.place);
        let row = match (&mut record.object, mapping) {
            (Err(reason), _) => {
                self.unreadable += u64::from(matches!(open.format, Format::Jsonl | Format::Json));
                Err(reason.clone())
            }
            (Ok(object), None) => {
                if open.format.is_text_only() {
                    type_cells(object);
                }
                shape::row::<R>(object, &open.source).inspect(|(_, form)| {
                    self.detected.note(*form, R::KIND, Some(object));
                })
            }
            (Ok(object), Some(mapping)) => match mapping.apply(object.clone()) {
                Err(absent) => {
                    let reason = absent.reason.clone();
                    self.first_absent.get_or_insert(absent);
                    Err(reason)
                }
                Ok(mut mapped) => {
                    if open.format.is_text_only() {
                        type_cells(&mut mapped);
                    }
                    if !mapping.keeps_columns() {
                        self.detected.unused_of(object, mapping);
                    }
                    shape::row::<R>(&mapped, &open.source).inspect(|(_, form)| {
                        self.detected.note(*form, R::KIND, Some(&mapped));
                    })
                }
            },
        };
        self.take(row.map(|(row, _)| row), || place, || record.raw());
    }

    fn shard(&mut self, dir: &Path, kind: Kind, shard: &Shard) -> Result<()> {
        let before = usize::try_from(self.rows + self.rejects).unwrap_or(usize::MAX);
        match kind {
            Kind::Prompts => self.natives(shard::read(dir, shard)?, Native::Prompt, before, dir)?,
            Kind::Revisions => self.natives(shard::read(dir, shard)?, Native::Revision, before, dir)?,
            Kind::Candidates => self.natives(shard::read(dir, shard)?, Native::Candidates, before, dir)?,
            Kind::Preferences => self.natives(shard::read(dir, shard)?, Native::Preference, before, dir)?,
            Kind::UnpairedPreferences => {
                self.natives(shard::read(dir, shard)?, Native::UnpairedPreference, before, dir)?;
            }
            Kind::Demonstrations => self.natives(shard::read(dir, shard)?, Native::Demonstration, before, dir)?,
            Kind::Rejects | Kind::ReferenceLogprobs => return Err(wrong_kind::<R>(kind, dir)),
        }
        self.hashes.push(shard.sha256.clone());
        self.finished += shard.bytes;
        Ok(())
    }

    fn batch(
        &mut self,
        kind: Kind,
        batch: &arrow::record_batch::RecordBatch,
        before: usize,
        path: &Path,
    ) -> Result<()> {
        match kind {
            Kind::Prompts => self.natives(row::from_batch(batch, path)?, Native::Prompt, before, path),
            Kind::Revisions => self.natives(row::from_batch(batch, path)?, Native::Revision, before, path),
            Kind::Candidates => self.natives(row::from_batch(batch, path)?, Native::Candidates, before, path),
            Kind::Preferences => self.natives(row::from_batch(batch, path)?, Native::Preference, before, path),
            Kind::UnpairedPreferences => {
                self.natives(row::from_batch(batch, path)?, Native::UnpairedPreference, before, path)
            }
            Kind::Demonstrations => self.natives(row::from_batch(batch, path)?, Native::Demonstration, before, path),
            Kind::Rejects | Kind::ReferenceLogprobs => Err(wrong_kind::<R>(kind, path)),
        }
    }

    /// Takes the rows of one of our own kinds, of which `before` came before them.
    fn natives<N: Row>(&mut self, rows: Vec<N>, wrap: fn(N) -> Native, before: usize, path: &Path) -> Result<()> {
        if let Some(mapping) = self.options.mapping.as_ref().filter(|mapping| !mapping.keeps_columns()) {
            return Err(Error::config(format!(
                "these are rows of bylaw ({}), whose columns are known",
                N::KIND
            ))
            .at_file(path)
            .help(format!("leave the mapping {} out", mapping.path().display())));
        }
        let prefix = self.open.as_ref().map_or(String::new(), |open| open.prefix.clone());
        for (native, number) in rows.into_iter().zip(before + 1..) {
            // Of a row of another kind, what is read is not all that was there.
            let other = (N::KIND != R::KIND).then(|| native.clone());
            let row = R::from_native(wrap(native)).ok_or_else(|| wrong_kind::<R>(N::KIND, path))?;
            let (row, raw) = match row {
                Err(reason) => (Err(reason), json(&other)),
                Ok(row) => match (row.check(), other) {
                    (Ok(()), _) => (Ok(row), String::new()),
                    (Err(reason), None) => (Err(reason), json(&row)),
                    (Err(reason), Some(other)) => (Err(reason), json(&other)),
                },
            };
            if row.is_ok() {
                self.detected.note(Form::Own(N::KIND), R::KIND, None);
            }
            self.take(row, || format!("{prefix}row {number}"), || raw);
        }
        Ok(())
    }

    fn take(&mut self, row: Result<R, String>, place: impl FnOnce() -> String, raw: impl FnOnce() -> String) {
        self.ready.push_back(match row {
            Ok(mut row) => {
                self.rows += 1;
                let id = self.ids.claim(row.id());
                row.set_id(id);
                Ok(row)
            }
            Err(reason) => {
                self.rejects += 1;
                let mut row = reject(format!("{}: {reason}", place()), raw());
                row.id = self.reject_ids.claim(&row.id);
                self.first_reason.get_or_insert_with(|| row.reason.clone());
                Err(row)
            }
        });
    }

    /// Data of which no row can be used is the wrong data, or the wrong mapping.
    fn nothing_read(&self) -> Option<Error> {
        let first = self.first_reason.as_ref().filter(|_| self.rows == 0)?;
        if let (Some(absent), Some(mapping)) = (&self.first_absent, &self.options.mapping) {
            return Some(mapping.error(absent));
        }
        let message = format!(
            "none of its {} rows can be read as {}; the first: {first}",
            self.rejects,
            R::KIND
        );
        let help = match () {
            () if self.unreadable == self.rejects => {
                "rows are JSON objects in UTF-8, one to a line in a `.jsonl` file; unpack what is compressed".to_owned()
            }
            // The reason has told the columns.
            () if first.contains(R::SHAPES) => {
                "rename the columns, or say in a mapping file which of them are meant".to_owned()
            }
            () => format!("{} are read from {}", R::KIND, R::SHAPES),
        };
        Some(Error::input(message).at_file(&self.reference).help(help))
    }
}

/// What a reference seems to hold, from its first `rows` rows: the form that says most about each, and no
/// row made of it.
pub fn detect(reference: &str, options: &Options, rows: usize) -> Result<Detected> {
    let mut detected = Detected::default();
    let format = options.mapping.as_ref().and_then(|mapping| mapping.format);
    let files = match locate(reference, format)? {
        Location::Files(files) => files,
        Location::Dataset(dir) => {
            let manifest = Manifest::read(&dir)?;
            detected.forms.push(Found {
                form: Form::Own(manifest.kind),
                columns: Vec::new(),
                rows: manifest.rows,
            });
            return Ok(detected);
        }
    };
    let mut seen = 0;
    for (path, format) in files {
        if seen >= rows {
            break;
        }
        let mut reader = Reader::open(&path, format, &options.limits())?;
        while seen < rows
            && let Some(piece) = reader.next()?
        {
            seen += 1;
            let Some(object) = (match piece {
                Piece::Rows(kind, batch, _) => {
                    (0..batch.num_rows()).for_each(|_| detected.note(Form::Own(kind), kind, None));
                    continue;
                }
                Piece::Record(record) => record.object.ok(),
            }) else {
                continue;
            };
            let object = match &options.mapping {
                None => Some(object),
                Some(mapping) => mapping.apply(object).ok(),
            };
            if let Some(mut object) = object {
                if format.is_text_only() {
                    type_cells(&mut object);
                }
                if let Some(form) = Form::detect_any(&object) {
                    detected.note(form, form.kind(), Some(&object));
                }
            }
        }
    }
    Ok(detected)
}

fn json(row: &impl serde::Serialize) -> String {
    serde_json::to_string(row).unwrap_or_default()
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
