//! The Arrow schema of each kind of row, and the way between rows and record batches.
//!
//! Schemas are written down, never traced from data: a dataset with no votes in it has the same
//! columns as one with many. Reading looks columns up by name, so their order is free and further
//! columns are ignored. Nothing here knows about files beyond the path it puts into an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::columns::{Null, Record, record};
use super::migrate;
use crate::error::{Error, Result};
use crate::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, ReferenceLogprobs, Reject, Revision, Round,
    UnpairedPreference, Vote,
};

/// What the rows of a dataset are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Prompts,
    Revisions,
    Candidates,
    Preferences,
    Rejects,
    Demonstrations,
    #[serde(rename = "unpaired")]
    UnpairedPreferences,
    /// What a trainer computed once, beside its run.
    ReferenceLogprobs,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Prompts,
        Self::Revisions,
        Self::Candidates,
        Self::Preferences,
        Self::Rejects,
        Self::Demonstrations,
        Self::UnpairedPreferences,
        Self::ReferenceLogprobs,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Revisions => "revisions",
            Self::Candidates => "candidates",
            Self::Preferences => "preferences",
            Self::Rejects => "rejects",
            Self::Demonstrations => "demonstrations",
            Self::UnpairedPreferences => "unpaired",
            Self::ReferenceLogprobs => "reference_logprobs",
        }
    }

    /// The kind that a set of column names announces, if it announces one.
    ///
    /// Each kind is known by the columns that only it has. So a file with `p_chosen` is held to the
    /// whole schema of preferences, and its soft labels cannot be mistaken for a plain pair.
    pub(crate) fn of_columns(has: impl Fn(&str) -> bool) -> Option<Self> {
        let all = |names: &[&str]| names.iter().all(|name| has(name));
        if has(super::shape::ID) {
            // An export for another program: its shape, with our columns beside it.
            None
        } else if has("p_chosen") {
            Some(Self::Preferences)
        } else if all(&["rounds", "final"]) {
            Some(Self::Revisions)
        } else if all(&["id", "completions"]) {
            Some(Self::Candidates)
        } else if all(&["id", "prefix", "completion"]) {
            Some(Self::Demonstrations)
        } else if all(&["id", "completion", "label", "weight"]) {
            Some(Self::UnpairedPreferences)
        } else if all(&["id", "stage", "reason", "raw"]) {
            Some(Self::Rejects)
        } else if all(&["id", "messages", "source", "tags"]) {
            Some(Self::Prompts)
        } else {
            None
        }
    }

    /// The columns of the kind. Only `cot` may be null.
    pub fn schema(self) -> SchemaRef {
        let columns = match self {
            Self::Prompts => Prompt::fields(),
            Self::Revisions => Revision::fields(),
            Self::Candidates => Candidates::fields(),
            Self::Preferences => Preference::fields(),
            Self::Rejects => Reject::fields(),
            Self::Demonstrations => Demonstration::fields(),
            Self::UnpairedPreferences => UnpairedPreference::fields(),
            Self::ReferenceLogprobs => ReferenceLogprobs::fields(),
        };
        let schema = Schema::new(columns);
        Arc::new(match self.changed_in() {
            1 => schema,
            version => schema.with_metadata([(migrate::KEY.to_owned(), version.to_string())]),
        })
    }

    /// The schema version that changed the columns of the kind last; those of version 1 do not say so.
    fn changed_in(self) -> u32 {
        match self {
            Self::Preferences | Self::Revisions => 3,
            Self::Prompts
            | Self::Candidates
            | Self::Rejects
            | Self::Demonstrations
            | Self::UnpairedPreferences
            | Self::ReferenceLogprobs => 1,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

record! { Message {
    role: String,
    content: String,
} }

record! { Prompt {
    id: String,
    messages: Vec<Message>,
    source: String,
    tags: Vec<String>,
} }

record! { Round {
    principle_id: String,
    critique_request: String,
    critique: String,
    revision_request: String,
    revision: String,
    changed: bool,
    principle_hash: String,
} }

record! { Revision {
    id: String,
    prompt: Vec<Message>,
    initial: String,
    rounds: Vec<Round>,
    final_answer as "final": String,
    messages: Vec<Message>,
    prompt_tokens: u32,
    initial_tokens: u32,
    final_tokens: u32,
    initial_finish_reason: String,
    final_finish_reason: String,
} }

record! { Completion {
    text: String,
    tokens: u32,
    finish_reason: String,
    logprob: f32,
    sample: u32,
} }

record! { Candidates {
    id: String,
    prompt: Vec<Message>,
    completions: Vec<Completion>,
} }

record! { Vote {
    principle_id: String,
    order: String,
    logprob_a: f32,
    logprob_b: f32,
    p_a: f32,
    cot: Option<String>,
    verdict: String,
    principle_hash: String,
} }

record! { Preference {
    id: String,
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    p_chosen: f32,
    margin: f32,
    weight: f32,
    source: String,
    votes: Vec<Vote>,
    chosen_tokens: u32,
    rejected_tokens: u32,
    chosen_chars: u32,
    rejected_chars: u32,
    p_raw: f32,
} }

record! { Reject {
    id: String,
    stage: String,
    reason: String,
    raw: String,
} }

record! { Demonstration {
    id: String,
    prompt: Vec<Message>,
    prefix: String,
    completion: String,
    weight: f32,
} }

record! { UnpairedPreference {
    id: String,
    prompt: Vec<Message>,
    completion: Vec<Message>,
    label: bool,
    weight: f32,
} }

record! { ReferenceLogprobs {
    id: String,
    logprobs: Vec<f32>,
} }

/// A row of a dataset.
pub trait Row: Record + Serialize + DeserializeOwned + Clone {
    const KIND: Kind;

    fn id(&self) -> &str;

    /// Gives the row another id; for readers, which make repeated ids unique.
    fn set_id(&mut self, id: String);
}

macro_rules! rows {
    ($($row:ty => $kind:ident),* $(,)?) => {$(
        impl Row for $row {
            const KIND: Kind = Kind::$kind;

            fn id(&self) -> &str {
                &self.id
            }

            fn set_id(&mut self, id: String) {
                self.id = id;
            }
        }
    )*};
}

rows! {
    Prompt => Prompts,
    Revision => Revisions,
    Candidates => Candidates,
    Preference => Preferences,
    Reject => Rejects,
    Demonstration => Demonstrations,
    UnpairedPreference => UnpairedPreferences,
    ReferenceLogprobs => ReferenceLogprobs,
}

/// The rows as one record batch, with the schema of their kind.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch> {
    let mut builder = BatchBuilder::new();
    rows.iter().try_for_each(|row| builder.push(row))?;
    builder.finish()
}

/// A record batch that grows row by row.
pub(super) struct BatchBuilder<R: Row> {
    columns: R::Columns,
    rows: usize,
}

impl<R: Row> BatchBuilder<R> {
    pub(super) fn new() -> Self {
        Self {
            columns: R::Columns::default(),
            rows: 0,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn push(&mut self, row: &R) -> Result<()> {
        self.rows += 1;
        Record::append(row, &mut self.columns).map_err(|error| self.failed(error))
    }

    /// The rows so far; leaves the builder empty.
    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        let batch = <R as Record>::finish(&mut self.columns)
            .and_then(|columns| RecordBatch::try_new(R::KIND.schema(), columns))
            .map_err(|error| self.failed(error))?;
        self.rows = 0;
        Ok(batch)
    }

    fn failed(&self, error: ArrowError) -> Error {
        Error::unexpected(format!("{} {} cannot be written as Arrow", self.rows, R::KIND))
            .help("an Arrow column holds at most 2 GiB of text to 1024 rows: shorten the longest texts")
            .because(error)
    }
}

/// The rows of a record batch that was read from `path`.
pub fn from_batch<R: Row>(batch: &RecordBatch, path: &Path) -> Result<Vec<R>> {
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in BatchRows::new(batch, path)? {
        rows.push(row?);
    }
    Ok(rows)
}

/// The rows of a record batch, made one at a time.
pub(super) struct BatchRows<R: Row> {
    readers: R::Readers,
    next: usize,
    count: usize,
    path: PathBuf,
}

impl<R: Row> BatchRows<R> {
    /// Checks the columns of `batch`, which was read from `path`.
    pub(super) fn new(batch: &RecordBatch, path: &Path) -> Result<Self> {
        let batch = &migrate::batch(R::KIND, batch.clone()).map_err(|reason| {
            Error::input(reason)
                .at_file(path)
                .help("read it with the version of bylaw that wrote it, or a newer one")
        })?;
        let found = batch.schema();
        for expected in R::fields() {
            let (_, field) = found
                .column_with_name(expected.name())
                .ok_or_else(|| missing_column(R::KIND, &expected, &found, path))?;
            if let Some(mismatch) = mismatch(expected.name(), expected.data_type(), field.data_type()) {
                return Err(Error::input(mismatch).at_file(path).help(format!(
                    "a file of {} has the column `{}: {}`",
                    R::KIND,
                    expected.name(),
                    describe(expected.data_type())
                )));
            }
        }
        let readers = R::readers(|name| batch.column_by_name(name))
            .map_err(|error| Error::input(format!("cannot be read as {}: {error}", R::KIND)).at_file(path))?;
        Ok(Self {
            readers,
            next: 0,
            count: batch.num_rows(),
            path: path.to_owned(),
        })
    }
}

impl<R: Row> Iterator for BatchRows<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        if self.next == self.count {
            return None;
        }
        let row = <R as Record>::get(&self.readers, self.next);
        self.next += 1;
        Some(row.map_err(|Null(column)| {
            Error::input(format!(
                "cannot be read as {}: `{column}` is null in row {} of its record batch",
                R::KIND,
                self.next
            ))
            .at_file(&self.path)
            .help("only `cot` may be null; write the file again without such values")
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

/// The kind that a batch's columns announce, if they announce one.
pub(crate) fn kind_of_batch(batch: &RecordBatch) -> Option<Kind> {
    let schema = batch.schema();
    Kind::of_columns(|name| match schema.field_with_name(name).map(Field::data_type) {
        Err(_) => false,
        // `completions` of strings is the shape of other programs.
        Ok(DataType::List(item) | DataType::LargeList(item)) if name == "completions" => {
            matches!(item.data_type(), DataType::Struct(_))
        }
        Ok(_) => true,
    })
}

/// Whether [`from_batch`] finds every column of `kind` with a type that it reads.
pub(crate) fn fits(kind: Kind, batch: &RecordBatch) -> bool {
    let found = batch.schema();
    kind.schema().fields().iter().all(|expected| {
        found
            .column_with_name(expected.name())
            .is_some_and(|(_, field)| mismatch(expected.name(), expected.data_type(), field.data_type()).is_none())
    })
}

fn missing_column(kind: Kind, expected: &Field, found: &Schema, path: &Path) -> Error {
    let names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
    Error::input(format!(
        "the column `{}` ({}) of {kind} is missing; found {}",
        expected.name(),
        describe(expected.data_type()),
        if names.is_empty() {
            "no columns".to_owned()
        } else {
            names.join(", ")
        },
    ))
    .at_file(path)
    .help(format!(
        "check that the file holds {kind}, or write it again with `bylaw`"
    ))
}

/// What stands in the way of reading `found` as `expected`.
///
/// Strings and lists have several encodings in Arrow that mean the same (polars writes large ones);
/// those are let through. Nullability is judged by the values, not by the flag.
fn mismatch(column: &str, expected: &DataType, found: &DataType) -> Option<String> {
    match (expected, found) {
        (DataType::Utf8, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => None,
        (DataType::List(expected), DataType::List(found) | DataType::LargeList(found)) => {
            mismatch(&format!("{column}[]"), expected.data_type(), found.data_type())
        }
        (DataType::Struct(expected), DataType::Struct(found)) => expected.iter().find_map(|expected| {
            let column = format!("{column}.{}", expected.name());
            match found.find(expected.name()) {
                Some((_, found)) => mismatch(&column, expected.data_type(), found.data_type()),
                None => Some(format!("`{column}` ({}) is missing", describe(expected.data_type()))),
            }
        }),
        _ if expected == found => None,
        _ => Some(format!(
            "the column `{column}` should be {}, but is {}",
            describe(expected),
            describe(found)
        )),
    }
}

/// A type in the notation of the documentation: `list<struct<role: string, content: string>>`.
pub fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".into(),
        DataType::UInt32 => "u32".into(),
        DataType::Float32 => "f32".into(),
        DataType::Boolean => "bool".into(),
        DataType::List(item) => format!("list<{}>", describe(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{}: {}", field.name(), describe(field.data_type())))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        other => other.to_string(),
    }
}
