//! CSV and TSV files with a header. Cells are text; [`type_cells`] reads those that stand for more.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::lines::text;
use super::tap::{self, BLOCK, Tap};
use super::{Format, Limits, Place, Record};
use crate::error::{Error, Result};

pub struct Table {
    reader: csv::Reader<Tap>,
    header: Vec<String>,
    delimiter: u8,
    limit: usize,
    size: u64,
    /// Lines end with "\r\n", of which the parser takes the second part for the next line.
    two_part_ends: bool,
    rows: usize,
    record: ByteRecord,
}

impl Table {
    pub fn open(path: &Path, format: Format, limits: &Limits) -> Result<Self> {
        let size = tap::open(path)?.metadata().map_or(0, |metadata| metadata.len());
        let delimiter = limits.delimiter.unwrap_or(match format {
            Format::Tsv => b'\t',
            _ => b',',
        });
        let reader = ReaderBuilder::new()
            .has_headers(false)
            // Records of another length than the header are told from those that are sound.
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(BLOCK)
            .from_reader(Tap::open(path)?);
        let mut table = Self {
            reader,
            header: Vec::new(),
            delimiter,
            limit: limits.record,
            size,
            two_part_ends: two_part_ends(path)?,
            rows: 0,
            record: ByteRecord::new(),
        };
        if table.read()? {
            table.header = table.names()?;
            table.check_header()?;
        }
        Ok(table)
    }

    pub fn tap(&self) -> &Tap {
        self.reader.get_ref()
    }

    fn names(&self) -> Result<Vec<String>> {
        let names = self
            .record
            .iter()
            .map(|name| std::str::from_utf8(name).map(|name| name.trim().to_owned()));
        names.collect::<Result<_, _>>().map_err(|_| {
            self.broken("the header is not UTF-8".into())
                .help("save the file as UTF-8")
        })
    }

    fn check_header(&self) -> Result<()> {
        let help = "the first line of a CSV file names its columns, each once, separated as its rows are";
        for (index, name) in self.header.iter().enumerate() {
            if name.is_empty() && self.header.len() > 1 && index > 0 {
                return Err(self.broken(format!("column {} has no name", index + 1)).help(help));
            }
            if self.header[..index].contains(name) {
                return Err(self.broken(format!("two columns are named `{name}`")).help(help));
            }
        }
        match &self.header[..] {
            [only] if only.contains([';', '\t', ',', '|']) => Err(self
                .broken(format!("the header has one column, {only:?}"))
                .help("if another character separates the cells, name it in a mapping file: `delimiter = \";\"`")),
            _ => Ok(()),
        }
    }

    fn broken(&self, message: String) -> Error {
        Error::input(message).at_file(self.tap().path())
    }

    /// Reads one record; false at the end.
    fn read(&mut self) -> Result<bool> {
        let line = self.reader.position().line();
        // The parser holds a record whole; an open quote would make it read to the end of the file.
        self.reader.get_mut().allow(self.limit as u64 + BLOCK as u64);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(more) => Ok(more),
            Err(error) => match error.into_kind() {
                csv::ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Err(self
                    .broken(format!(
                        "the record at line {line} is longer than the limit of {} bytes",
                        self.limit
                    ))
                    .help("a quote may be left open there: quotes inside of a quoted cell are doubled")),
                csv::ErrorKind::Io(error) => Err(self.tap().failed(error)),
                other => Err(self.broken(format!("is not CSV: {other:?}")).help("check the file")),
            },
        }
    }

    pub fn next(&mut self) -> Result<Option<Record>> {
        if self.header.is_empty() || !self.read()? {
            return Ok(None);
        }
        self.rows += 1;
        let (start, line) = self
            .record
            .position()
            .map_or((0, 0), |position| (position.byte(), position.line()));
        let line = line + u64::from(self.two_part_ends);
        let place = Place::RowAtLine(self.rows, usize::try_from(line).unwrap_or(usize::MAX));
        let last = self.reader.position().byte() >= self.size;
        let object = match last && self.open_quote(start)? {
            true => Err("a quote is left open: it takes the rest of the file into one cell".to_owned()),
            false => self.object(),
        };
        let cells: Vec<String> = self.record.iter().map(text).collect();
        let raw = serde_json::to_string(&cells).unwrap_or_default();
        Ok(Some(Record::text(place, object, raw)))
    }

    fn object(&self) -> Result<Map<String, Value>, String> {
        if self.record.len() != self.header.len() {
            return Err(format!(
                "has {} cells, the header has {}",
                self.record.len(),
                self.header.len()
            ));
        }
        let cells = self.header.iter().zip(&self.record).map(|(name, cell)| {
            let cell = std::str::from_utf8(cell)
                .map_err(|error| format!("the column `{name}` is not UTF-8 at byte {}", error.valid_up_to() + 1))?;
            Ok((name.clone(), Value::String(cell.to_owned())))
        });
        cells.collect()
    }

    /// Whether a quote that opens after `start` is never closed. The parser takes the rows behind it for
    /// the text of a cell, and does not say so.
    fn open_quote(&self, start: u64) -> Result<bool> {
        let path = self.tap().path();
        let failed = |error| tap::failed(path, error);
        let mut file: File = tap::open(path)?;
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let (mut cell, mut buffer) = (Cell::Begins, vec![0; BLOCK]);
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(cell == Cell::Quoted),
                count => {
                    cell = buffer[..count]
                        .iter()
                        .fold(cell, |cell, byte| cell.next(*byte, self.delimiter));
                }
            }
        }
    }
}

/// How the first line of a file ends.
fn two_part_ends(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    tap::open(path)?
        .take(BLOCK as u64)
        .read_to_end(&mut head)
        .map_err(|error| tap::failed(path, error))?;
    let end = head.iter().position(|byte| *byte == b'\n');
    Ok(end.is_some_and(|end| end > 0 && head[end - 1] == b'\r'))
}

/// Where in a cell a byte stands, as RFC 4180 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Begins,
    Bare,
    Quoted,
    /// Behind a quote inside of a quoted cell: the first of a pair, or the end.
    Quote,
}

impl Cell {
    fn next(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) | (Self::Quote | Self::Begins, b'"') => Self::Quoted,
            (_, byte) if byte == delimiter || byte == b'\n' || byte == b'\r' => Self::Begins,
            _ => Self::Bare,
        }
    }
}

/// Columns of lists, which a cell spells as JSON.
const LISTS: [&str; 11] = [
    "messages",
    "conversations",
    "completions",
    "generations",
    "ratings",
    "instances",
    "history",
    "tags",
    "rounds",
    "votes",
    "responses",
];

/// Columns of texts that may be messages too.
const TEXTS_OR_MESSAGES: [&str; 6] = ["prompt", "chosen", "rejected", "completion", "input", "output"];

/// Columns of numbers and labels.
const NUMBERS: [&str; 24] = [
    "label",
    "kto_tag",
    "score_chosen",
    "score_rejected",
    "chosen_score",
    "rejected_score",
    "chosen_rating",
    "rejected_rating",
    "annotator1",
    "annotator2",
    "annotator3",
    "p_chosen",
    "p_raw",
    "margin",
    "weight",
    "chosen_tokens",
    "rejected_tokens",
    "chosen_chars",
    "rejected_chars",
    "prompt_tokens",
    "initial_tokens",
    "final_tokens",
    "tokens",
    "logprob",
];

/// Reads the cells of a text-only format that stand for lists, messages, numbers or labels. A cell that
/// spells none of these stays text, so that the reason for its reject can quote its type; an empty one
/// is absent.
pub fn type_cells(object: &mut Map<String, Value>) {
    for name in LISTS.iter().chain(&NUMBERS) {
        if object.get(*name) == Some(&Value::String(String::new())) {
            object.shift_remove(*name);
        }
    }
    for (name, cell) in object.iter_mut() {
        let Value::String(text) = cell else { continue };
        let name = name.as_str();
        let read = if LISTS.contains(&name) {
            parse(text).filter(Value::is_array)
        } else if TEXTS_OR_MESSAGES.contains(&name) {
            parse(text).filter(is_messages)
        } else if NUMBERS.contains(&name) {
            number(text)
        } else {
            None
        };
        if let Some(read) = read {
            *cell = read;
        }
    }
}

fn parse(text: &str) -> Option<Value> {
    text.trim_start()
        .starts_with(['[', '{'])
        .then(|| serde_json::from_str(text).ok())?
}

fn is_messages(value: &Value) -> bool {
    let turn =
        |item: &Value| (item.get("role").is_some() && item.get("content").is_some()) || item.get("value").is_some();
    match value {
        Value::Array(items) => !items.is_empty() && items.iter().all(turn),
        other => other.is_object() && turn(other),
    }
}

fn number(text: &str) -> Option<Value> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "nan" => Some("NaN".into()),
        number => serde_json::from_str(number).ok().filter(Value::is_number),
    }
}
