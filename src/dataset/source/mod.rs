//! Files to records, in bounded memory: each format has a reader that holds one record, one Arrow block
//! or 1,024 rows of Parquet at a time.
//!
//! Knows formats and places, not what the columns mean. A bad record never ends the reading; a damaged
//! file does, with the reason.

mod columns;
mod delimited;
mod elements;
mod ipc;
mod json;
mod lines;
mod packed;
mod tap;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

use self::delimited::Table;
use self::elements::Elements;
use self::ipc::Blocks;
use self::lines::Lines;
use self::packed::RowGroups;
use super::row::{self, Kind};
use crate::error::Result;

pub use delimited::type_cells;
pub use lines::type_name;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object to a line.
    Jsonl,
    /// One list of JSON objects, or objects one after the other.
    Json,
    Csv,
    Tsv,
    Parquet,
    /// The Arrow IPC file format and its stream format, told apart by their first bytes.
    Arrow,
}

impl Format {
    pub const ALL: [Self; 6] = [
        Self::Jsonl,
        Self::Json,
        Self::Csv,
        Self::Tsv,
        Self::Parquet,
        Self::Arrow,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// Other endings of the same format.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Jsonl => &["ndjson"],
            Self::Arrow => &["feather"],
            Self::Json | Self::Csv | Self::Tsv | Self::Parquet => &[],
        }
    }

    /// The format that a file's ending announces.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == extension || format.aliases().contains(&extension))
    }

    /// Whether all cells are text, whatever they stand for.
    pub fn is_text_only(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv)
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one line, JSON object or CSV record; a longer one becomes a reject.
    pub record: usize,
    /// What separates the cells of a CSV file; by its ending where this is absent.
    pub delimiter: Option<u8>,
}

/// Where a record stands in its file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Line(usize),
    Row(usize),
    /// A record that may span lines, and the line where it begins.
    RowAtLine(usize, usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::RowAtLine(row, line) => write!(f, "row {row} at line {line}"),
        }
    }
}

/// A record of another program, or of a format that our own datasets do not use.
pub struct Record {
    pub place: Place,
    pub object: Result<Map<String, Value>, String>,
    /// As it was read, with U+FFFD for bytes that are not UTF-8. Columns have no text of their own: the
    /// object stands for them.
    text: Option<String>,
}

impl Record {
    fn text(place: Place, object: Result<Map<String, Value>, String>, raw: String) -> Self {
        Self {
            place,
            object,
            text: Some(raw),
        }
    }

    /// What was read.
    pub fn raw(self) -> String {
        match (self.text, self.object) {
            (Some(text), _) => text,
            (None, Ok(object)) => serde_json::to_string(&object).unwrap_or_default(),
            (None, Err(_)) => String::new(),
        }
    }
}

/// What a file holds next.
pub enum Piece {
    Record(Record),
    /// Rows of our own datasets, and how many came before them.
    Rows(Kind, RecordBatch, usize),
}

/// Rows of a batch that are made objects at a time.
const SLICE_ROWS: usize = 1024;

/// One file, opened.
pub struct Reader {
    path: PathBuf,
    size: u64,
    input: Input,
    /// What is left of the batch last read.
    batch: Option<RecordBatch>,
    ready: VecDeque<Record>,
    /// Rows of batches so far.
    rows: usize,
}

enum Input {
    Lines(Lines),
    Elements(Elements),
    Table(Box<Table>),
    Blocks(Box<Blocks>),
    RowGroups(Box<RowGroups>),
}

impl Reader {
    pub fn open(path: &Path, format: Format, limits: &Limits) -> Result<Self> {
        let input = match format {
            Format::Jsonl => Input::Lines(Lines::open(path, limits.record)?),
            Format::Json => Input::Elements(Elements::open(path, limits.record)?),
            Format::Csv | Format::Tsv => Input::Table(Box::new(Table::open(path, format, limits)?)),
            Format::Parquet => Input::RowGroups(Box::new(RowGroups::open(path)?)),
            Format::Arrow => Input::Blocks(Box::new(Blocks::open(path)?)),
        };
        Ok(Self {
            path: path.to_owned(),
            size: size(path)?,
            input,
            batch: None,
            ready: VecDeque::new(),
            rows: 0,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that were read so far, blocks that were decoded included.
    pub fn bytes(&self) -> u64 {
        match &self.input {
            Input::Lines(input) => input.tap().bytes(),
            Input::Elements(input) => input.tap().bytes(),
            Input::Table(input) => input.tap().bytes(),
            Input::Blocks(input) => input.bytes(),
            Input::RowGroups(input) => input.bytes(),
        }
    }

    /// The hash of the file, after its last piece.
    pub fn sha256(&mut self) -> Result<String> {
        match &mut self.input {
            Input::Lines(input) => Ok(input.tap().sha256()),
            Input::Elements(input) => Ok(input.tap().sha256()),
            Input::Table(input) => Ok(input.tap().sha256()),
            Input::Blocks(input) => input.sha256(),
            Input::RowGroups(input) => input.sha256(),
        }
    }

    pub fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(record) = self.ready.pop_front() {
            return Ok(Some(Piece::Record(record)));
        }
        let (batch, strict) = match &mut self.input {
            Input::Lines(input) => return input.next().map(|record| record.map(Piece::Record)),
            Input::Elements(input) => return input.next().map(|record| record.map(Piece::Record)),
            Input::Table(input) => return input.next().map(|record| record.map(Piece::Record)),
            Input::Blocks(input) => (next_batch(&mut self.batch, || input.next())?, true),
            Input::RowGroups(input) => (next_batch(&mut self.batch, || input.next())?, false),
        };
        let Some(batch) = batch else { return Ok(None) };
        let before = self.rows;
        self.rows += batch.num_rows();
        if let Some(kind) = row::kind_of_batch(&batch)
            // Parquet is written by programs that widen numbers; those rows are read one by one.
            && (strict || row::fits(kind, &batch))
        {
            return Ok(Some(Piece::Rows(kind, batch, before)));
        }
        self.ready = columns::objects(&batch)
            .into_iter()
            .zip(before + 1..)
            .map(|(object, row)| Record {
                place: Place::Row(row),
                object: Ok(object),
                text: None,
            })
            .collect();
        Ok(self.ready.pop_front().map(Piece::Record))
    }
}

fn size(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|error| tap::failed(path, error))?;
    Ok(metadata.len())
}

/// The next rows of a batch, or of the next batch that has some.
fn next_batch(
    rest: &mut Option<RecordBatch>,
    mut read: impl FnMut() -> Result<Option<RecordBatch>>,
) -> Result<Option<RecordBatch>> {
    let batch = loop {
        match rest.take() {
            Some(batch) if batch.num_rows() > 0 => break batch,
            _ => match read()? {
                None => return Ok(None),
                batch => *rest = batch,
            },
        }
    };
    let count = batch.num_rows().min(SLICE_ROWS);
    *rest = Some(batch.slice(count, batch.num_rows() - count));
    Ok(Some(batch.slice(0, count)))
}
