//! What a JSON object may look like, and the row it becomes.
//!
//! Pure functions. `form` tells from the columns which program wrote a row, one file a family reads its
//! columns, and `kinds` makes our rows of them. An object that fits no form is refused with the reason;
//! nothing is guessed.

mod cai;
mod carried;
mod fields;
mod form;
mod instruct;
mod kinds;
mod rated;
mod sharegpt;
mod transcript;
mod trl;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use carried::COLUMNS as CARRIED;
pub use form::Form;

use super::row::{Kind, Row};
use crate::record::{Candidates, Demonstration, Preference, Prompt, Revision, UnpairedPreference};

pub type Object = Map<String, Value>;

/// Why an object is not a row.
pub type Reason = String;

/// A kind of row that data references can be read as.
pub trait Shape: Row {
    /// What is read as such a row, for help texts.
    const SHAPES: &'static str;

    /// From an object of a form that other programs write. `file` names its source.
    fn from_foreign(form: Form, object: &Object, file: &str) -> Result<Self, Reason>;

    /// From a row of one of our datasets; `None` if rows of its kind cannot become `Self`.
    fn from_native(row: Native) -> Option<Result<Self, Reason>>;

    /// Takes what an export of ours carries beside the columns of its form: those of [`CARRIED`].
    fn carry(&mut self, _: &Object) -> Result<(), Reason> {
        Ok(())
    }

    /// What a well-typed row may still have wrong.
    fn check(&self) -> Result<(), Reason>;
}

/// A row of one of our own datasets.
pub enum Native {
    Prompt(Prompt),
    Revision(Revision),
    Candidates(Candidates),
    Preference(Preference),
    UnpairedPreference(UnpairedPreference),
    Demonstration(Demonstration),
}

/// The column under which a row of another form carries the id that it is to keep.
pub const ID: &str = "bylaw_id";

/// The kind of our own row that an object holds, if it announces one.
pub fn kind_of(object: &Object) -> Option<Kind> {
    Kind::of_columns(|name| match object.get(name) {
        // `completions` of strings is the shape of other programs.
        Some(Value::Array(items)) if name == "completions" => items.first().is_some_and(Value::is_object),
        found => found.is_some(),
    })
}

/// Reads an object as one of our own rows; `None` for kinds that nothing is made from.
fn native(kind: Kind, object: &Object) -> Option<Result<Native, Reason>> {
    fn typed<R: DeserializeOwned>(kind: Kind, object: &Object, wrap: fn(R) -> Native) -> Result<Native, Reason> {
        R::deserialize(object)
            .map(wrap)
            .map_err(|error| match culprit::<R>(object, &error) {
                Some(column) => format!("not a row of {kind}: `{column}`: {error}"),
                None => format!("not a row of {kind}: {error}"),
            })
    }
    match kind {
        Kind::Prompts => Some(typed(kind, object, Native::Prompt)),
        Kind::Revisions => Some(typed(kind, object, Native::Revision)),
        Kind::Candidates => Some(typed(kind, object, Native::Candidates)),
        Kind::Preferences => Some(typed(kind, object, Native::Preference)),
        Kind::UnpairedPreferences => Some(typed(kind, object, Native::UnpairedPreference)),
        Kind::Demonstrations => Some(typed(kind, object, Native::Demonstration)),
        Kind::Rejects | Kind::ReferenceLogprobs => None,
    }
}

/// The column at which reading fails: without it, reading fails elsewhere.
fn culprit<R: DeserializeOwned>(object: &Object, error: &serde_json::Error) -> Option<String> {
    let whole = error.to_string();
    if whole.starts_with("missing field") {
        return None;
    }
    let fails_elsewhere = |key: &&String| {
        let mut rest = object.clone();
        rest.shift_remove(*key);
        R::deserialize(Value::Object(rest))
            .err()
            .is_none_or(|error| error.to_string() != whole)
    };
    object.keys().find(fails_elsewhere).cloned()
}

/// Reads an object of any form; says which it was.
pub fn row<R: Shape>(object: &Object, file: &str) -> Result<(R, Form), Reason> {
    let (row, form) = match kind_of(object) {
        Some(kind) => match native(kind, object) {
            None => return Err(cannot_become::<R>(kind)),
            Some(native) => match R::from_native(native?) {
                None => return Err(cannot_become::<R>(kind)),
                Some(row) => (row?, Form::Own(kind)),
            },
        },
        None => {
            let form = Form::detect(object, R::KIND).ok_or_else(|| fields::missing(object, R::SHAPES))?;
            let mut row = R::from_foreign(form, object, file)?;
            if let Some(id) = fields::optional(object, ID)? {
                row.set_id(id.to_owned());
                row.carry(object)?;
            }
            (row, form)
        }
    };
    row.check()?;
    Ok((row, form))
}

fn cannot_become<R: Row>(kind: Kind) -> Reason {
    format!("rows of {kind} cannot be read as {}", R::KIND)
}
