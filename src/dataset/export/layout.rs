//! Which columns each format has for each kind of row, and how a row fills them.
//!
//! A layout is one list of columns, from which both the schema and the rows come. Columns that a tool
//! does not read stay beside the ones it does, as long as their names mean nothing to it: `margin` becomes
//! `log_odds`, because reward trainers take a `margin` as one of rewards, which our log-odds are not.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};

use super::{Format, Loss};
use crate::dataset::Row;
use crate::dataset::shape::ID;
use crate::error::{Error, Result};
use crate::record::{Candidates, Demonstration, Message, Preference, Prompt, Revision, UnpairedPreference, Vote};

/// Whether a file of rows is conversations or plain text; tools read one or the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Conversation,
    Text,
}

impl Form {
    pub fn describe(self) -> &'static str {
        match self {
            Self::Conversation => "a conversation",
            Self::Text => "plain text",
        }
    }
}

/// Why a format cannot hold a row.
type Reason = String;

/// A row that can be exported.
pub trait Exported: Row {
    /// The columns in a tool's format; never asked for formats that keep our own columns, nor for kinds
    /// that the tool has no use for.
    fn columns(format: Format, form: Form) -> Vec<Column<Self>>;

    fn form(&self) -> Form {
        Form::Conversation
    }

    /// Whether the tool reads such a row as it is meant.
    fn fits(&self, _: Format) -> Result<(), Reason> {
        Ok(())
    }

    /// What a tool will not see of the row.
    fn losses(&self) -> Vec<Loss> {
        Vec::new()
    }

    /// Lengths in characters, by name.
    fn lengths(&self) -> Vec<(&'static str, usize)>;
}

/// A column of an export.
pub struct Column<R> {
    field: Field,
    /// `None`: the row's own column of that name.
    value: Option<fn(&R) -> Value>,
}

impl<R> Column<R> {
    fn new(field: Field, value: fn(&R) -> Value) -> Self {
        Self {
            field,
            value: Some(value),
        }
    }
}

/// The fields of the columns of `R` in a format.
pub fn schema<R: Exported>(format: Format, form: Form) -> Fields {
    if format.is_native() {
        return R::KIND.schema().fields().clone();
    }
    R::columns(format, form)
        .into_iter()
        .map(|column| column.field)
        .collect()
}

/// The rows in a tool's columns.
pub fn batch<R: Exported>(rows: &[R], format: Format, form: Form) -> Result<RecordBatch> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::unexpected(format!("{} cannot be written for {}", R::KIND, format.title())).because(error)
    };
    let columns = R::columns(format, form);
    let mut objects = Vec::with_capacity(rows.len());
    for row in rows {
        let mut own = match serde_json::to_value(row) {
            Ok(Value::Object(own)) => own,
            Ok(_) => return Err(failed("a row is not an object".into())),
            Err(error) => return Err(failed(error.into())),
        };
        let object: serde_json::Map<String, Value> = columns
            .iter()
            .map(|column| {
                let name = column.field.name();
                let value = match column.value {
                    Some(value) => value(row),
                    None => own.swap_remove(name).unwrap_or(Value::Null),
                };
                (name.clone(), value)
            })
            .collect();
        objects.push(object);
    }
    let fields: Vec<Arc<Field>> = columns.into_iter().map(|column| Arc::new(column.field)).collect();
    serde_arrow::to_record_batch(&fields, &objects).map_err(|error| failed(error.into()))
}

/// The row's own columns, without some.
fn own<R: Row>(without: &[&str]) -> Vec<Column<R>> {
    R::KIND
        .schema()
        .fields()
        .iter()
        .filter(|field| !without.contains(&field.name().as_str()))
        .map(|field| Column {
            field: field.as_ref().clone(),
            value: None,
        })
        .collect()
}

/// The row's own columns beside the shape of another program, without some: the id under the name by
/// which our readers know it again.
fn carried<R: Row>(without: &[&str]) -> Vec<Column<R>> {
    let mut columns = own(&[&["id"], without].concat());
    columns.insert(0, Column::new(text(ID), |row: &R| json!(row.id())));
    columns
}

/// Columns in front of others.
fn before<R>(mut front: Vec<Column<R>>, rest: Vec<Column<R>>) -> Vec<Column<R>> {
    front.extend(rest);
    front
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

/// A message whose fields have the names `role` and `content`, or ShareGPT's `from` and `value`.
fn message(names: [&str; 2]) -> DataType {
    DataType::Struct(names.iter().map(|name| text(name)).collect())
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false)
}

fn messages(name: &str) -> Field {
    list(name, message(["role", "content"]))
}

const SHAREGPT: [&str; 2] = ["from", "value"];

fn conversations() -> Field {
    list("conversations", message(SHAREGPT))
}

/// A message of ShareGPT.
fn said(role: &str, content: &str) -> Value {
    let from = match role {
        "user" => "human",
        "assistant" => "gpt",
        other => other,
    };
    json!({ "from": from, "value": content })
}

fn sharegpt(messages: &[Message]) -> Vec<Value> {
    messages
        .iter()
        .map(|message| said(&message.role, &message.content))
        .collect()
}

/// ShareGPT's conversation of a prompt and its answer.
fn answered(prompt: &[Message], answer: &str) -> Value {
    let mut turns = sharegpt(prompt);
    turns.push(said("assistant", answer));
    Value::Array(turns)
}

fn with_answer(prompt: &[Message], answer: &str) -> Value {
    let mut turns = prompt.to_vec();
    turns.push(Message::assistant(answer));
    json!(turns)
}

fn one_answer(answer: &str) -> Value {
    json!([Message::assistant(answer)])
}

fn chars(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.chars().count()).sum()
}

/// LLaMA-Factory leaves out, with a line in its log, conversations whose turns do not alternate from
/// the user on, after one system turn at most.
fn alternates(prompt: &[Message]) -> Result<(), Reason> {
    let turns = match prompt {
        [first, rest @ ..] if first.role == "system" => rest,
        all => all,
    };
    let expected = ["user", "assistant"].iter().cycle();
    match turns.iter().zip(expected).position(|(turn, role)| turn.role != *role) {
        None => Ok(()),
        Some(turn) => Err(format!(
            "LLaMA-Factory takes turns that alternate between user and assistant only; turn {} is of the {}",
            turn + 1,
            turns[turn].role
        )),
    }
}

/// Tools that learn one answer to a side would take the last turn of several alone.
fn one_turn(side: &[Message], name: &str, format: Format) -> Result<(), Reason> {
    match side.len() {
        1 => Ok(()),
        turns => Err(format!(
            "`{name}` has {turns} turns; {} reads one answer to a side",
            format.title()
        )),
    }
}

fn check_turns(prompt: &[Message], format: Format) -> Result<(), Reason> {
    match format {
        Format::LlamaFactory if !prompt.is_empty() => alternates(prompt),
        _ => Ok(()),
    }
}

fn weight(weight: f32) -> Option<Loss> {
    (weight != 1.0).then_some(Loss::Weight)
}

impl Exported for Prompt {
    fn columns(_: Format, _: Form) -> Vec<Column<Self>> {
        before(
            vec![Column::new(messages("prompt"), |row| json!(row.messages))],
            carried(&["messages"]),
        )
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        vec![("prompt", chars(&self.messages))]
    }
}

impl Exported for Candidates {
    fn columns(_: Format, _: Form) -> Vec<Column<Self>> {
        own(&[])
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        let answers = self
            .completions
            .iter()
            .map(|one| ("completion", one.text.chars().count()));
        std::iter::once(("prompt", chars(&self.prompt)))
            .chain(answers)
            .collect()
    }
}

impl Exported for Demonstration {
    fn columns(format: Format, form: Form) -> Vec<Column<Self>> {
        let rest = || carried(&["prompt", "prefix", "completion"]);
        let whole = Column::new(text("text"), |row: &Self| {
            json!(format!("{}{}", row.prefix, row.completion))
        });
        let answer = Column::new(messages("completion"), |row: &Self| one_answer(&row.completion));
        match (form, format) {
            (Form::Text, _) => before(vec![whole], rest()),
            (_, Format::AlignmentHandbook | Format::Axolotl) => before(
                vec![Column::new(messages("messages"), |row: &Self| {
                    with_answer(&row.prompt, &row.completion)
                })],
                rest(),
            ),
            (_, Format::LlamaFactory) => before(
                vec![Column::new(conversations(), |row: &Self| {
                    answered(&row.prompt, &row.completion)
                })],
                rest(),
            ),
            (_, Format::Trl | Format::Openrlhf | Format::Parquet | Format::Jsonl | Format::Arrow) => {
                before(vec![answer], carried(&["prefix", "completion"]))
            }
        }
    }

    fn form(&self) -> Form {
        if self.prompt.is_empty() {
            Form::Text
        } else {
            Form::Conversation
        }
    }

    fn fits(&self, format: Format) -> Result<(), Reason> {
        check_turns(&self.prompt, format)
    }

    fn losses(&self) -> Vec<Loss> {
        let prefix = (!self.prefix.is_empty() && self.prompt.is_empty()).then_some(Loss::Prefix);
        weight(self.weight).into_iter().chain(prefix).collect()
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("prompt", chars(&self.prompt) + self.prefix.chars().count()),
            ("completion", self.completion.chars().count()),
        ]
    }
}

impl Exported for Revision {
    fn columns(format: Format, _: Form) -> Vec<Column<Self>> {
        match format {
            // `messages` is what they read.
            Format::AlignmentHandbook | Format::Axolotl => own(&[]),
            Format::LlamaFactory => before(
                vec![Column::new(conversations(), |row: &Self| {
                    answered(&row.prompt, &row.final_answer)
                })],
                own(&[]),
            ),
            Format::Trl | Format::Openrlhf | Format::Parquet | Format::Jsonl | Format::Arrow => before(
                vec![Column::new(messages("completion"), |row: &Self| {
                    one_answer(&row.final_answer)
                })],
                own(&[]),
            ),
        }
    }

    fn fits(&self, format: Format) -> Result<(), Reason> {
        check_turns(&self.prompt, format)
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("prompt", chars(&self.prompt)),
            ("initial", self.initial.chars().count()),
            ("final", self.final_answer.chars().count()),
        ]
    }
}

/// Our columns beside a pair; the margin, which is our log-odds, under a name of its own.
fn pair_columns(without: &[&str]) -> Vec<Column<Preference>> {
    let mut columns = carried(without);
    columns.push(Column::new(
        Field::new("log_odds", DataType::Float32, false),
        |row: &Preference| json!(row.margin),
    ));
    columns
}

impl Exported for Preference {
    fn columns(format: Format, _: Form) -> Vec<Column<Self>> {
        let side = |name: &str| Field::new(name, message(SHAREGPT), false);
        fn last(side: &[Message]) -> Value {
            side.last()
                .map_or(Value::Null, |message| said(&message.role, &message.content))
        }
        match format {
            Format::LlamaFactory => before(
                vec![
                    Column::new(conversations(), |row: &Self| Value::Array(sharegpt(&row.prompt))),
                    Column::new(side("chosen"), |row: &Self| last(&row.chosen)),
                    Column::new(side("rejected"), |row: &Self| last(&row.rejected)),
                ],
                pair_columns(&["prompt", "chosen", "rejected", "margin"]),
            ),
            Format::Trl
            | Format::AlignmentHandbook
            | Format::Openrlhf
            | Format::Axolotl
            | Format::Parquet
            | Format::Jsonl
            | Format::Arrow => pair_columns(&["margin"]),
        }
    }

    fn fits(&self, format: Format) -> Result<(), Reason> {
        if matches!(format, Format::LlamaFactory | Format::Axolotl) {
            one_turn(&self.chosen, "chosen", format)?;
            one_turn(&self.rejected, "rejected", format)?;
        }
        // The columns of tools pass through JSON, which has no such numbers.
        let finite = |vote: &Vote| [vote.logprob_a, vote.logprob_b, vote.p_a].iter().all(|x| x.is_finite());
        if !self.votes.iter().all(finite) {
            return Err("a vote has a probability that is not a number; `--to parquet` keeps it".into());
        }
        check_turns(&self.prompt, format)
    }

    fn losses(&self) -> Vec<Loss> {
        let label = match self.p_chosen {
            0.5 => Some(Loss::Tie),
            p if p < 1.0 => Some(Loss::SoftLabel),
            _ => None,
        };
        weight(self.weight).into_iter().chain(label).collect()
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("prompt", chars(&self.prompt)),
            ("chosen", chars(&self.chosen)),
            ("rejected", chars(&self.rejected)),
        ]
    }
}

impl Exported for UnpairedPreference {
    fn columns(format: Format, _: Form) -> Vec<Column<Self>> {
        match format {
            Format::LlamaFactory => before(
                vec![
                    Column::new(conversations(), |row: &Self| {
                        Value::Array([sharegpt(&row.prompt), sharegpt(&row.completion)].concat())
                    }),
                    Column::new(Field::new("kto_tag", DataType::Boolean, false), |row: &Self| {
                        json!(row.label)
                    }),
                ],
                carried(&["prompt", "completion", "label"]),
            ),
            Format::Trl
            | Format::AlignmentHandbook
            | Format::Openrlhf
            | Format::Axolotl
            | Format::Parquet
            | Format::Jsonl
            | Format::Arrow => own(&[]),
        }
    }

    fn fits(&self, format: Format) -> Result<(), Reason> {
        if format == Format::LlamaFactory {
            one_turn(&self.completion, "completion", format)?;
        }
        check_turns(&self.prompt, format)
    }

    fn losses(&self) -> Vec<Loss> {
        weight(self.weight).into_iter().collect()
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        vec![("prompt", chars(&self.prompt)), ("completion", chars(&self.completion))]
    }
}
