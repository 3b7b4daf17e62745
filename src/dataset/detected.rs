//! What the rows of a reference turned out to be, for telling the user.

use std::fmt;

use super::mapping::Mapping;
use super::row::Kind;
use super::shape::{CARRIED, Form, ID, Object};

/// What the rows of a reference turned out to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detected {
    /// The forms of the rows, in the order in which they appear.
    pub forms: Vec<Found>,
    /// The columns that nothing was read from, each once.
    pub unused: Vec<String>,
}

/// Rows of one form.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub form: Form,
    /// The columns that the rows were made from.
    pub columns: Vec<&'static str>,
    pub rows: u64,
}

impl Detected {
    /// What most of the rows are first of all: what they are imported as if nobody says.
    pub fn kind(&self) -> Option<Kind> {
        let most = self.forms.iter().max_by_key(|found| found.rows)?;
        Some(most.form.kind())
    }

    pub(super) fn note(&mut self, form: Form, kind: Kind, object: Option<&Object>) {
        let index = self
            .forms
            .iter()
            .position(|found| found.form == form)
            .unwrap_or_else(|| {
                self.forms.push(Found {
                    form,
                    columns: form.columns().to_vec(),
                    rows: 0,
                });
                self.forms.len() - 1
            });
        let found = &mut self.forms[index];
        found.rows += 1;
        let Some(row) = object.filter(|_| !matches!(form, Form::Own(_))) else {
            return;
        };
        for (key, value) in row {
            if found.columns.contains(&key.as_str()) {
                continue;
            }
            let of_prompts: &[&'static str] = if kind == Kind::Prompts {
                &["source", "tags"]
            } else {
                &[]
            };
            let carried: &[&'static str] = if row.contains_key(ID) { &CARRIED } else { &[] };
            let mut read = form
                .optional_columns()
                .iter()
                .chain(of_prompts)
                .chain(carried)
                .chain(&[ID]);
            match read.find(|column| *column == key) {
                Some(column) if !value.is_null() => found.columns.push(column),
                Some(_) => {}
                None if self.unused.contains(key) => {}
                None => self.unused.push(key.clone()),
            }
        }
    }

    /// Notes the columns of `object` that the mapping does not name.
    pub(super) fn unused_of(&mut self, object: &Object, mapping: &Mapping) {
        for key in object.keys() {
            if !mapping.reads(key) && !self.unused.contains(key) {
                self.unused.push(key.clone());
            }
        }
    }
}

impl fmt::Display for Detected {
    /// `ShareGPT conversations (conversations, system), 1200 rows`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, found) in self.forms.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{}", found.form)?;
            if !found.columns.is_empty() {
                write!(f, " ({})", found.columns.join(", "))?;
            }
            let s = if found.rows == 1 { "" } else { "s" };
            write!(f, ", {} row{s}", found.rows)?;
        }
        Ok(())
    }
}
