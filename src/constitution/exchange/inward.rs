//! From the files of others to principles and examples.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::json::{Cursor, Json};
use super::originals::{Fingerprints, Originals};
use super::{Entry, Format, Item, Part};
use crate::constitution::few_shots::{CritiqueExample, Example, FewShots, JudgeExample};
use crate::constitution::write::{self, Written};
use crate::constitution::{Constitution, Principle};
use crate::error::{Error, Result};

/// What files come to, together.
#[derive(Debug, Default)]
pub struct Import {
    pub files: Vec<Imported>,
    pub principles: Vec<Principle>,
    pub critique: Vec<CritiqueExample>,
    pub judge: Vec<JudgeExample>,
    pub judge_reasoning: Vec<JudgeExample>,
    pub originals: Originals,
    /// Ids of principles, and what the ids of those of one key have in common.
    ids: BTreeSet<String>,
}

/// One of the files.
#[derive(Debug)]
pub struct Imported {
    pub path: PathBuf,
    pub format: Format,
    pub items: usize,
}

/// Reads the texts of files, each with its path. No two may hold the same part of a constitution.
pub fn import(files: &[(PathBuf, String)]) -> Result<Import> {
    let mut import = Import::default();
    let mut given: BTreeMap<Part, (usize, &Path, Format)> = BTreeMap::new();
    for (index, (path, text)) in files.iter().enumerate() {
        let json = Json::parse(text, path)?;
        let format = Format::recognise(&json)?;
        let entries = format.entries(&json)?;
        for entry in &entries {
            let (place, first, of) = *given.entry(entry.item.part()).or_insert((index, path, format));
            if (place, of) != (index, format) {
                return Err(Error::input(format!(
                    "this file ({}) and {} ({}) are the same part of a constitution",
                    format.name(),
                    first.display(),
                    of.name()
                ))
                .at_file(json.path())
                .help("import them into two constitutions, and a third with `extends` or [[mix]] joins them"));
            }
        }
        if entries.is_empty() {
            return Err(json.root().error("there is nothing in it").help(format!(
                "a file of {} looks like {}",
                format.name(),
                format.shape()
            )));
        }
        import.files.push(Imported {
            path: path.clone(),
            format,
            items: entries.len(),
        });
        import.take(&json, format, entries)?;
    }
    if import.principles.is_empty() {
        return Err(
            Error::config("these are examples alone, and a constitution needs principles")
                .help("give the file of requests or of questions as well: bylaw constitution import A.json B.json --out FILE.toml"),
        );
    }
    Ok(import)
}

impl Import {
    /// Takes over the items of one file, and remembers what they would not be written as.
    fn take(&mut self, json: &Json, format: Format, entries: Vec<Entry<'_>>) -> Result<()> {
        let mut fingerprints = Fingerprints::default();
        for (index, Entry { mut item, key, at }) in entries.into_iter().enumerate() {
            if let Item::Requests { id, critiques, .. } = &mut item {
                *id = self.free_id(wanted_id(id, index), critiques.len());
                if let Some(key) = key.filter(|key| key != id) {
                    self.originals.keep(format, Originals::of_key(id), key.into());
                }
            }
            let fingerprint = fingerprints.next(&format.known_by(&item));
            if !format.holds(&item) || !is(format.written(&item).as_ref(), at.value) {
                self.originals.keep(format, fingerprint, at.value.clone());
            }
            self.add(item, &at)?;
        }
        if let (Format::Hf, Value::Object(object)) = (format, json.root().value) {
            let keys: Value = object.keys().cloned().collect();
            if !is(Some(&json!([super::CONSTITUTIONS, super::SYSTEM_CHAT])), &keys) {
                self.originals.keep(format, Originals::KEYS.into(), keys);
            }
        }
        Ok(())
    }

    fn add(&mut self, item: Item, at: &Cursor<'_>) -> Result<()> {
        match item {
            Item::Requests { id, critiques, revise } => {
                let count = critiques.len();
                for (index, critique) in critiques.into_iter().enumerate() {
                    let (id, weight) = match count {
                        1 => (id.clone(), 1.0),
                        // One of them is drawn once the key is.
                        _ => (format!("{id}-{}", index + 1), 1.0 / count as f64),
                    };
                    self.principles
                        .push(principle(id, Some(critique), Some(revise.clone()), None, weight));
                }
            }
            Item::Question(text) => {
                let id = self.free_id(format!("judge-{}", self.questions() + 1), 1);
                self.principles.push(principle(id, None, None, Some(text), 1.0));
            }
            Item::Critique(example) => {
                usable(std::slice::from_ref(&example), write::critique_examples, at)?;
                self.critique.push(example);
            }
            Item::Comparison(example) => {
                usable(std::slice::from_ref(&example), write::judge_examples, at)?;
                match example.reasoning.is_empty() {
                    true => self.judge.push(example),
                    false => self.judge_reasoning.push(example),
                }
            }
        }
        Ok(())
    }

    fn questions(&self) -> usize {
        let questions = self.principles.iter().filter(|principle| principle.judge.is_some());
        questions.count()
    }

    /// An id like the one that is wanted, for `count` principles: with more than one, each has a number behind it.
    fn free_id(&mut self, wanted: String, count: usize) -> String {
        let numbers = if count == 1 { 0 } else { count };
        let free = |id: &str| {
            let taken = |id: &str| self.ids.contains(id);
            !taken(id) && (1..=numbers).all(|number| !taken(&format!("{id}-{number}")))
        };
        let numbered = (2..).map(|number| format!("{wanted}-{number}"));
        let mut all = std::iter::once(wanted.clone()).chain(numbered);
        let id = all.find(|id| free(id)).unwrap_or(wanted);
        self.ids.extend((1..=numbers).map(|number| format!("{id}-{number}")));
        self.ids.insert(id.clone());
        id
    }

    /// The text of the constitution; `few_shots` are keys and files of its examples.
    pub fn constitution(&self, name: &str, few_shots: &[(&str, &Path)]) -> Result<String> {
        let files: Vec<String> = self
            .files
            .iter()
            .map(|file| file.path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        let description = format!("Imported from {}.", files.join(", "));
        let written = Written {
            name,
            version: "1.0.0",
            description: Some(&description),
            few_shots: &[],
            principles: &self.principles,
        };
        // Nothing else is done with a text that says something else.
        let read = Constitution::parse(&write::constitution(&written), "")?;
        if read.principles != self.principles {
            return Err(
                Error::unexpected("the principles cannot be written so that they are read as they were")
                    .help("please report this with the files"),
            );
        }
        Ok(write::constitution(&Written { few_shots, ..written }))
    }
}

/// An id like a key; a number where the key says nothing.
fn wanted_id(key: &str, index: usize) -> String {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !key.is_empty() && key.bytes().all(plain) {
        return key.to_owned();
    }
    let words: String = key
        .to_lowercase()
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { ' ' })
        .collect();
    let words: Vec<&str> = words.split_whitespace().collect();
    match words.is_empty() {
        true => format!("principle-{}", index + 1),
        false => words.join("-"),
    }
}

/// The same to the order of the keys.
fn is(written: Option<&Value>, original: &Value) -> bool {
    // Objects are equal in any order, their texts are not.
    let original = original.to_string();
    written.map(Value::to_string) == Some(original)
}

fn principle(
    id: String,
    critique: Option<String>,
    revise: Option<String>,
    judge: Option<String>,
    weight: f64,
) -> Principle {
    Principle {
        id,
        rationale: None,
        critique,
        revise,
        judge,
        weight,
        tags: Vec::new(),
    }
}

/// Whether an example can be read once it is written: a reasoning that contradicts its answer cannot.
fn usable<E: Example>(example: &[E], write: impl Fn(&[E]) -> String, at: &Cursor<'_>) -> Result<()> {
    FewShots::<E>::parse(&write(example), "").map_err(|error| {
        let help = error.help_text().unwrap_or("change it").to_owned();
        at.error(error.message()).help(help)
    })?;
    Ok(())
}
