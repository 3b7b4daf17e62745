//! A TOML table under reading: its values with their places, and every mistake in it as a finding.
//!
//! Walks the spanned tree by hand, by the keys of [`super::keys`]: a derived reader would stop at the first line that
//! does not fit and could not point inside of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::{Diagnostic, Findings, Located, Place, Text};
use super::keys::Group;
use super::syntax;
use crate::error::nearest;

/// Weights of such sizes can be added and divided without a loss that anybody would notice.
const SMALLEST: f64 = 1e-6;
const LARGEST: f64 = 1e6;

/// One table of a file.
pub struct Table<'a> {
    table: &'a DeTable<'a>,
    group: &'static Group,
    /// Of the whole table; empty for the document.
    span: Range<usize>,
    text: &'a Arc<Text>,
    findings: &'a Findings,
}

/// Reads a document and hands its table to `read`; what is not TOML is a finding.
pub fn document<T>(
    text: &Arc<Text>,
    findings: &Findings,
    group: &'static Group,
    read: impl FnOnce(&Table<'_>) -> T,
) -> T {
    let (root, errors) = DeTable::parse_recoverable(&text.text);
    let lines = syntax::tell(&errors, text, findings);
    let table = Table {
        table: root.get_ref(),
        group,
        span: 0..0,
        text,
        findings,
    };
    let before = findings.len();
    table.deny_unknown();
    let read = read(&table);
    if !lines.is_empty() {
        // What seems to be missing, or to belong elsewhere, may only stand in the broken part.
        let follows = ["missing-key", "unknown-key", "half-a-pair", "no-text", "no-principle"];
        findings.retain_after(before, |found| {
            let here = Arc::ptr_eq(&found.place.text, text);
            !here || !(follows.contains(&found.name) || lines.contains(&found.place.line()))
        });
    }
    read
}

impl<'a> Table<'a> {
    pub fn findings(&self) -> &'a Findings {
        self.findings
    }

    /// The whole table.
    pub fn at(&self) -> Place {
        self.text.at(self.span.clone())
    }

    fn unknown(&self) -> impl Iterator<Item = &'a Spanned<DeString<'a>>> {
        let group = self.group;
        let keys = self.table.keys();
        keys.filter(move |key| !group.names().any(|known| known == key.get_ref().as_ref()))
    }

    fn deny_unknown(&self) {
        let group = self.group;
        for key in self.unknown() {
            let message = format!("{} has no key `{}`", group.what, key.get_ref());
            let place = self.text.at(key.span());
            self.findings.add(match nearest(key.get_ref(), group.names()) {
                Some(near) => {
                    Diagnostic::error("unknown-key", place, message, format!("did you mean `{near}`?")).replace(near)
                }
                None => {
                    let known: Vec<&str> = group.names().collect();
                    let help = format!("the keys of {} are: {}", group.what, known.join(", "));
                    Diagnostic::error("unknown-key", place, message, help)
                }
            });
        }
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether the table has the key, or one that is taken for it and told as misspelt.
    pub fn means(&self, key: &str) -> bool {
        let mut unknown = self.unknown();
        self.has(key) || unknown.any(|unknown| nearest(unknown.get_ref(), self.group.names()) == Some(key))
    }

    /// Where the name of `key` stands, or the table without one.
    pub fn key_place(&self, key: &str) -> Place {
        let span = self.table.get_key_value(key);
        self.text.at(span.map_or(self.span.clone(), |(key, _)| key.span()))
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, key: &str, expected: &str, example: &str) {
        self.findings.error(
            "wrong-type",
            self.text.at(value.span()),
            format!("`{key}` should be {expected}, but is {}", article(value.get_ref())),
            format!("write it like `{example}`"),
        );
    }

    fn located<T>(&self, value: T, span: Range<usize>) -> Located<T> {
        Located {
            value,
            at: self.text.at(span),
        }
    }

    /// A text with something in it, without the space at its ends.
    pub fn string(&self, key: &str) -> Option<Located<String>> {
        let value = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, key, "a text", &format!("{key} = \"...\""));
            return None;
        };
        // A text over several lines is the same wherever its file was checked out.
        let written = self.text.text.get(value.span()).unwrap_or_default();
        let text = match written.contains("\r\n") {
            true => text.trim().replace("\r\n", "\n"),
            false => text.trim().to_owned(),
        };
        if text.is_empty() {
            self.findings.error(
                "empty-text",
                self.text.at(value.span()),
                format!("`{key}` is empty"),
                format!("write the text, or remove `{key}`"),
            );
            return None;
        }
        Some(self.located(text, value.span()))
    }

    pub fn required_text(&self, key: &str, help: &str) -> Option<Located<String>> {
        if !self.means(key) {
            self.findings
                .error("missing-key", self.at(), format!("`{key}` is missing"), help);
        }
        self.string(key)
    }

    /// A list of texts, each with its place; empty without the key.
    pub fn texts(&self, key: &str) -> Vec<Located<String>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let example = format!("{key} = [\"...\"]");
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(value, key, "a list of texts", &example);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_str().map(str::trim) {
                None => self.wrong_type(item, key, "a list of texts", &example),
                Some("") => self.findings.error(
                    "empty-text",
                    self.text.at(item.span()),
                    format!("`{key}` has an empty text"),
                    "write it or remove it",
                ),
                Some(text) => texts.push(self.located(text.to_owned(), item.span())),
            }
        }
        texts
    }

    fn inner(&self, value: &'a Spanned<DeValue<'a>>, table: &'a DeTable<'a>, group: &'static Group) -> Self {
        let table = Table {
            table,
            group,
            span: value.span(),
            ..*self
        };
        table.deny_unknown();
        table
    }

    /// An array of tables; empty without the key.
    pub fn tables(&self, key: &str, group: &'static Group) -> Vec<Self> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let example = format!("[[{key}]]");
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(value, key, "a list of tables", &example);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => tables.push(self.inner(item, table, group)),
                None => self.wrong_type(item, key, "a list of tables", &example),
            }
        }
        tables
    }

    pub fn table(&self, key: &str, group: &'static Group) -> Option<Self> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(self.inner(value, table, group)),
            None => {
                self.wrong_type(value, key, "a table", &format!("[{key}]"));
                None
            }
        }
    }

    /// A table of texts under names of the user's, each with the place of its name and its text.
    pub fn names(&self, key: &str) -> BTreeMap<String, (Place, Located<String>)> {
        let Some(value) = self.get(key) else {
            return BTreeMap::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, key, "a table", &format!("[{key}]"));
            return BTreeMap::new();
        };
        let inner = Table {
            table,
            span: value.span(),
            ..*self
        };
        let mut names = BTreeMap::new();
        for name in table.keys() {
            if let Some(text) = inner.string(name.get_ref()) {
                names.insert(name.get_ref().to_string(), (self.text.at(name.span()), text));
            }
        }
        names
    }

    /// A number of at least 0.
    pub fn weight(&self) -> Option<Located<f64>> {
        let value = self.get("weight")?;
        let weight = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(|n| n as f64),
            _ => {
                self.wrong_type(value, "weight", "a number", "weight = 1.0");
                return None;
            }
        };
        let sound = |weight: &f64| *weight == 0.0 || (SMALLEST..=LARGEST).contains(weight);
        match weight.filter(sound) {
            Some(weight) => Some(self.located(weight, value.span())),
            None => {
                self.findings.error(
                    "bad-weight",
                    self.text.at(value.span()),
                    "`weight` should be 0, or a number from 0.000001 to 1000000",
                    "1.0 is the usual weight; 2.0 is drawn twice as often, 0.0 never",
                );
                None
            }
        }
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
