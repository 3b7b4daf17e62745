//! A mapping file: which columns of other data are which of the columns that bylaw reads.
//!
//! ```toml
//! format = "csv"           # if the file's ending does not say
//! delimiter = ";"          # of CSV
//!
//! [columns]                # ours = theirs, dotted paths into objects, numbers into lists
//! prompt = "question"
//! chosen = "better.text"
//! rejected = "answers.1"
//!
//! [roles]                  # theirs = system, user or assistant
//! human = "user"
//!
//! [messages]               # the keys of a turn
//! role = "speaker"
//! content = "utterance"
//! ```
//!
//! With `[columns]`, only the columns that it names are read: whatever else a row has cannot change what
//! it is taken for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::shape::{Form, ID, Object};
use super::source::Format;
use crate::error::{Error, Result, nearest};
use crate::record::hex;
use crate::small;

/// A mapping file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    path: PathBuf,
    text: String,
    pub format: Option<Format>,
    pub delimiter: Option<u8>,
    columns: Vec<Column>,
    roles: BTreeMap<String, String>,
    keys: Keys,
}

#[derive(Debug, Clone, PartialEq)]
struct Column {
    /// Our name.
    name: String,
    /// Their path, in its parts.
    parts: Vec<String>,
    /// Where the file names it.
    span: Range<usize>,
}

/// What the keys of a turn are called.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    role: Option<String>,
    content: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Option<Spanned<String>>,
    delimiter: Option<Spanned<String>>,
    #[serde(default)]
    columns: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    roles: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    messages: Keys,
}

/// A column of the mapping that a row does not have.
pub struct Absent {
    pub reason: String,
    /// Where the mapping names it.
    span: Range<usize>,
}

impl Mapping {
    pub fn load(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let text = small::read_to_string(&path, "name a mapping file: TOML with a table [columns]")?;
        Self::parse(text, path)
    }

    /// Reads a text as if it stood in the file `path`, which need not exist.
    pub fn parse(text: impl Into<String>, path: impl Into<PathBuf>) -> Result<Self> {
        let (text, path) = (text.into(), path.into());
        let file: File = toml::from_str(&text).map_err(|error| {
            Error::config(format!("not a mapping: {}", error.message()))
                .at_span(&path, &text, error.span().unwrap_or_default())
                .help(
                    "a mapping has `format`, `delimiter`, and the tables [columns] (ours = \"theirs\"), [roles] \
                     (theirs = \"user\") and [messages]",
                )
        })?;
        let at = Places {
            path: &path,
            text: &text,
        };
        Ok(Self {
            format: file.format.as_ref().map(|name| at.format(name)).transpose()?,
            delimiter: file.delimiter.as_ref().map(|text| at.delimiter(text)).transpose()?,
            columns: at.columns(file.columns)?,
            roles: at.roles(file.roles)?,
            keys: file.messages,
            text,
            path,
        })
    }

    /// Identifies the content, for provenance.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.text))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a top-level column of other data is read, or something in it.
    pub(super) fn reads(&self, name: &str) -> bool {
        let mut columns = self.columns.iter();
        columns.any(|column| column.parts.first().is_some_and(|first| first == name) || column.parts.join(".") == name)
    }

    /// Whether rows keep their own columns.
    pub(super) fn keeps_columns(&self) -> bool {
        self.columns.is_empty()
    }

    /// A row with our columns, or the column that it lacks.
    pub(super) fn apply(&self, object: Object) -> Result<Object, Absent> {
        let mut mapped = match self.columns.is_empty() {
            true => object,
            false => {
                let columns = self.columns.iter().map(|column| {
                    let value = column.find(&object).ok_or_else(|| column.absent(&object))?;
                    Ok((column.name.clone(), value.clone()))
                });
                columns.collect::<Result<_, _>>()?
            }
        };
        if !self.roles.is_empty() || self.keys != Keys::default() {
            mapped.values_mut().for_each(|value| self.rename(value));
        }
        Ok(mapped)
    }

    /// Renames keys and roles of the turns in `value`.
    fn rename(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.rename(item)),
            Value::Object(turn) => {
                for (ours, theirs) in [("role", &self.keys.role), ("content", &self.keys.content)] {
                    if let Some(theirs) = theirs
                        && let Some(value) = turn.remove(theirs)
                    {
                        turn.insert(ours.to_owned(), value);
                    }
                }
                for key in ["role", "from"] {
                    if let Some(Value::String(role)) = turn.get_mut(key)
                        && let Some(ours) = self.roles.get(role)
                    {
                        role.clone_from(ours);
                    }
                }
            }
            _ => {}
        }
    }

    /// The error of data of which no row has the column.
    pub(super) fn error(&self, absent: &Absent) -> Error {
        Error::config(absent.reason.clone())
            .at_span(&self.path, &self.text, absent.span.clone())
            .help("name a column of the data, with dots into objects and numbers into lists: `answers.0.text`")
    }
}

impl Column {
    fn find<'a>(&self, object: &'a Object) -> Option<&'a Value> {
        // A column whose name has dots in it is meant before a path is.
        if let Some(value) = object.get(&self.parts.join(".")) {
            return Some(value);
        }
        let (first, rest) = self.parts.split_first()?;
        rest.iter().try_fold(object.get(first)?, |value, part| match value {
            Value::Object(object) => object.get(part),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    fn absent(&self, object: &Object) -> Absent {
        let mut paths = Vec::new();
        object
            .iter()
            .for_each(|(name, value)| list_paths(name, value, &mut paths));
        let path = self.parts.join(".");
        let hint = match nearest(&path, paths.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean `{near}`?"),
            None => format!(
                "; the row has {}",
                object.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
        };
        Absent {
            reason: format!(
                "the row has no `{path}`, which the mapping names for `{}`{hint}",
                self.name
            ),
            span: self.span.clone(),
        }
    }
}

/// The paths of a row to suggest: its columns, and the keys of objects in them.
fn list_paths(path: &str, value: &Value, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    if let Value::Object(object) = value {
        for (name, value) in object {
            list_paths(&format!("{path}.{name}"), value, paths);
        }
    }
}

/// The text of the file, for errors that point into it.
struct Places<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Places<'_> {
    fn error(&self, message: String, span: Range<usize>) -> Error {
        Error::config(message).at_span(self.path, self.text, span)
    }

    fn format(&self, name: &Spanned<String>) -> Result<Format> {
        let formats = Format::ALL.map(Format::as_str);
        let found = Format::ALL.into_iter().find(|format| format.as_str() == name.get_ref());
        found.ok_or_else(|| {
            self.error(format!("the format {:?} is not read", name.get_ref()), name.span())
                .help(format!("the formats are {}", formats.join(", ")))
        })
    }

    fn delimiter(&self, text: &Spanned<String>) -> Result<u8> {
        match text.get_ref().as_bytes() {
            [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
            _ => Err(self
                .error(format!("{:?} cannot separate cells", text.get_ref()), text.span())
                .help("write one ASCII character: \",\", \";\", \"\\t\" or \"|\"")),
        }
    }

    fn columns(&self, columns: BTreeMap<Spanned<String>, Spanned<String>>) -> Result<Vec<Column>> {
        let known = known_columns();
        let mut checked = Vec::new();
        for (name, source) in columns {
            if !known.contains(&name.get_ref().as_str()) {
                let near = nearest(name.get_ref(), known.iter().copied());
                return Err(self
                    .error(format!("no row has a column `{}`", name.get_ref()), name.span())
                    .help(match near {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the columns are {}", known.join(", ")),
                    }));
            }
            let parts: Vec<String> = source.get_ref().split('.').map(str::to_owned).collect();
            if parts.iter().any(String::is_empty) {
                return Err(self
                    .error(
                        format!("{:?} is not the path of a column", source.get_ref()),
                        source.span(),
                    )
                    .help("write the name of a column, with dots into objects: \"better.text\""));
            }
            checked.push(Column {
                name: match name.get_ref().as_str() {
                    "id" => ID.to_owned(),
                    name => name.to_owned(),
                },
                parts,
                span: source.span(),
            });
        }
        Ok(checked)
    }

    fn roles(&self, roles: BTreeMap<String, Spanned<String>>) -> Result<BTreeMap<String, String>> {
        roles
            .into_iter()
            .map(|(theirs, ours)| match ours.get_ref().as_str() {
                "system" | "user" | "assistant" => Ok((theirs, ours.into_inner())),
                other => Err(self
                    .error(format!("there is no role {other:?}"), ours.span())
                    .help("the roles are system, user and assistant: `human = \"user\"`")),
            })
            .collect()
    }
}

/// The columns that some form reads.
fn known_columns() -> Vec<&'static str> {
    let columns = Form::FOREIGN
        .iter()
        .flat_map(|form| form.columns().iter().chain(form.optional_columns()));
    let mut columns: Vec<&str> = columns.copied().chain(["id", "source", "tags"]).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}
