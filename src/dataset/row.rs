//! The Arrow schema of each kind of row, and the way between rows and record batches.
//!
//! Schemas are written down, never traced from data: a dataset with no votes in it has the same
//! columns as one with many. Reading looks columns up by name, so their order is free and further
//! columns are ignored. Nothing here knows about files beyond the path it puts into an error.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{Candidates, Demonstration, Preference, Prompt, Reject, Revision, UnpairedPreference};

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
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Prompts,
        Self::Revisions,
        Self::Candidates,
        Self::Preferences,
        Self::Rejects,
        Self::Demonstrations,
        Self::UnpairedPreferences,
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
            Self::Prompts => vec![
                string("id"),
                messages("messages"),
                string("source"),
                list("tags", DataType::Utf8),
            ],
            Self::Revisions => revision_columns(),
            Self::Candidates => vec![
                string("id"),
                messages("prompt"),
                structs(
                    "completions",
                    vec![
                        string("text"),
                        count("tokens"),
                        string("finish_reason"),
                        number("logprob"),
                        count("sample"),
                    ],
                ),
            ],
            Self::Preferences => preference_columns(),
            Self::Rejects => vec![string("id"), string("stage"), string("reason"), string("raw")],
            Self::Demonstrations => vec![
                string("id"),
                messages("prompt"),
                string("prefix"),
                string("completion"),
                number("weight"),
            ],
            Self::UnpairedPreferences => vec![
                string("id"),
                messages("prompt"),
                messages("completion"),
                Field::new("label", DataType::Boolean, false),
                number("weight"),
            ],
        };
        Arc::new(Schema::new(columns))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn revision_columns() -> Vec<Field> {
    let round = vec![
        string("principle_id"),
        string("critique_request"),
        string("critique"),
        string("revision_request"),
        string("revision"),
        Field::new("changed", DataType::Boolean, false),
    ];
    vec![
        string("id"),
        messages("prompt"),
        string("initial"),
        structs("rounds", round),
        string("final"),
        messages("messages"),
        count("prompt_tokens"),
        count("initial_tokens"),
        count("final_tokens"),
        string("initial_finish_reason"),
        string("final_finish_reason"),
    ]
}

fn preference_columns() -> Vec<Field> {
    let vote = vec![
        string("principle_id"),
        string("order"),
        number("logprob_a"),
        number("logprob_b"),
        number("p_a"),
        Field::new("cot", DataType::Utf8, true),
    ];
    vec![
        string("id"),
        messages("prompt"),
        messages("chosen"),
        messages("rejected"),
        number("p_chosen"),
        number("margin"),
        number("weight"),
        string("source"),
        structs("votes", vote),
        count("chosen_tokens"),
        count("rejected_tokens"),
        count("chosen_chars"),
        count("rejected_chars"),
        number("p_raw"),
    ]
}

fn string(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn count(name: &str) -> Field {
    Field::new(name, DataType::UInt32, false)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Float32, false)
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false)
}

fn structs(name: &str, fields: Vec<Field>) -> Field {
    list(name, DataType::Struct(Fields::from(fields)))
}

fn messages(name: &str) -> Field {
    structs(name, vec![string("role"), string("content")])
}

/// A row of a dataset.
pub trait Row: Serialize + DeserializeOwned + Clone {
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
}

/// The rows as one record batch, with the schema of their kind.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch> {
    let schema = R::KIND.schema();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::unexpected(format!("{} {} cannot be written as Arrow", rows.len(), R::KIND))
            .help("an Arrow column holds at most 2 GiB of text: write fewer rows to a shard")
            .because(error)
    };
    let columns = serde_arrow::to_arrow(schema.fields(), rows).map_err(|error| failed(error.into()))?;
    RecordBatch::try_new(schema, columns).map_err(|error| failed(error.into()))
}

/// The rows of a record batch that was read from `path`.
pub fn from_batch<R: Row>(batch: &RecordBatch, path: &Path) -> Result<Vec<R>> {
    let schema = R::KIND.schema();
    let found = batch.schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for expected in schema.fields() {
        let (index, field) = found
            .column_with_name(expected.name())
            .ok_or_else(|| missing_column(R::KIND, expected, &found, path))?;
        if let Some(mismatch) = mismatch(expected.name(), expected.data_type(), field.data_type()) {
            return Err(Error::input(mismatch).at_file(path).help(format!(
                "a file of {} has the column `{}: {}`",
                R::KIND,
                expected.name(),
                describe(expected.data_type())
            )));
        }
        columns.push(index);
    }
    batch
        .project(&columns)
        .map_err(|error| unreadable::<R>(path, error.into()))
        .and_then(|batch| serde_arrow::from_record_batch(&batch).map_err(|error| unreadable::<R>(path, error.into())))
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

fn unreadable<R: Row>(path: &Path, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::input(format!("cannot be read as {}: {error}", R::KIND))
        .at_file(path)
        .help("only `cot` may be null, and counts may not be negative; write the file again without such values")
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
