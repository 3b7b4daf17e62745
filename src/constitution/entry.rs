//! One `[[principle]]` as the files have it, and whether it can be used.

use super::diagnostic::{Diagnostic, Located, Place};
use super::lints;
use super::table::Table;
use crate::error::nearest;

/// A principle as the files have it, each part at its place.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: Located<String>,
    pub rationale: Option<Located<String>>,
    pub critique: Option<Located<String>>,
    pub revise: Option<Located<String>>,
    pub judge: Option<Located<String>>,
    pub weight: Option<Located<f64>>,
    pub tags: Option<Vec<Located<String>>>,
    pub allow: Vec<Located<String>>,
    /// The table.
    pub at: Place,
}

impl Entry {
    /// The texts that models read, with their keys.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &Located<String>)> {
        let all = [
            ("critique", &self.critique),
            ("revise", &self.revise),
            ("judge", &self.judge),
        ];
        all.into_iter()
            .filter_map(|(key, text)| text.as_ref().map(|text| (key, text)))
    }

    pub fn weight(&self) -> f64 {
        self.weight.as_ref().map_or(1.0, |weight| weight.value)
    }

    pub fn tags(&self) -> &[Located<String>] {
        self.tags.as_deref().unwrap_or_default()
    }

    /// Takes over what an entry with the same id gives.
    pub fn override_by(&mut self, own: Self) {
        fn put<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        put(&mut self.rationale, own.rationale);
        put(&mut self.critique, own.critique);
        put(&mut self.revise, own.revise);
        put(&mut self.judge, own.judge);
        put(&mut self.weight, own.weight);
        put(&mut self.tags, own.tags);
        self.allow.extend(own.allow);
        self.id = own.id;
        self.at = own.at;
    }
}

/// Reads a `[[principle]]`; without an id there is none.
pub fn read(table: &Table<'_>) -> Option<Entry> {
    let findings = table.findings();
    let id = table.required_text("id", "name the principle: `id = \"no-illegal-help\"`");
    let entry = id.map(|id| Entry {
        rationale: table.string("rationale"),
        critique: table.string("critique"),
        revise: table.string("revise"),
        judge: table.string("judge"),
        weight: table.weight(),
        tags: table.has("tags").then(|| table.texts("tags")),
        allow: lints::known(table.texts("allow"), findings),
        at: table.at(),
        id,
    })?;
    let id = &entry.id;
    if !is_id(&id.value) {
        let suggested = suggested_id(&id.value);
        let found = Diagnostic::error(
            "bad-id",
            id.at.clone(),
            format!(
                "the id {:?} has other characters than lower-case letters, digits and hyphens",
                id.value
            ),
            format!("write it like `{suggested}`"),
        );
        findings.add(found.replace(format!("\"{suggested}\"")));
    }
    Some(entry)
}

/// Whether a principle, with what it inherits, can be used. A text that is there and wrong is told already.
pub fn check_texts(entry: &Entry, own: &Table<'_>, inherited: &[String]) {
    let findings = own.findings();
    let (id, has) = (&entry.id, |key: &str| {
        own.means(key) || entry.texts().any(|(found, _)| found == key)
    });
    for (key, other) in [("critique", "revise"), ("revise", "critique")] {
        if has(key) && !has(other) {
            findings.error(
                "half-a-pair",
                own.key_place(key),
                format!("the principle `{}` has `{key}` without `{other}`", id.value),
                format!("add `{other}`: a critique and its revision go together (or keep only `judge`)"),
            );
        }
    }
    if !has("critique") && !has("revise") && !has("judge") {
        const HELP: &str = "add `judge`, or `critique` and `revise`, or all three";
        let message = format!("the principle `{}` has no text", id.value);
        findings.add(match nearest(&id.value, inherited.iter().map(String::as_str)) {
            Some(near) => {
                let help = format!("{HELP}; or did you mean the inherited `{near}`?");
                Diagnostic::error("no-text", id.at.clone(), message, help).replace(format!("\"{near}\""))
            }
            None => Diagnostic::error("no-text", id.at.clone(), message, HELP),
        });
    }
}

/// Lower-case letters, digits and hyphens.
pub fn is_id(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn suggested_id(id: &str) -> String {
    let words: String = id
        .to_lowercase()
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { ' ' })
        .collect();
    match words.split_whitespace().collect::<Vec<_>>().join("-") {
        empty if empty.is_empty() => "no-illegal-help".into(),
        id => id,
    }
}
