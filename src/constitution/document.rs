//! From the files to the principles: one file, what it extends, what it mixes, and the variables filled in.
//!
//! Every mistake is a finding at its place, and reading goes on: what comes out is as much as could be understood, and
//! to be used only if there was no error.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::builtin::{self, BUILTIN_PREFIX};
use super::diagnostic::{Diagnostic, Findings, Located, Place, Text};
use super::entry::{self, Entry};
use super::few_shots::{BUILTIN, CritiqueExample, Example, FewShots, JudgeExample};
use super::keys;
use super::table::{self, Table};
use super::{lints, variables};
use crate::error::nearest;

/// Examples that a constitution names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    pub critique: Option<FewShots<CritiqueExample>>,
    pub judge: Option<FewShots<JudgeExample>>,
    pub judge_reasoning: Option<FewShots<JudgeExample>>,
}

/// One part of a mixture.
#[derive(Debug, Clone)]
pub struct Mixed {
    pub document: Document,
    pub weight: Located<f64>,
    /// Where it is named.
    pub at: Place,
}

/// A constitution as its files have it.
#[derive(Debug, Clone)]
pub struct Document {
    pub text: Arc<Text>,
    pub name: String,
    pub version: String,
    pub description: Option<String>,
    pub entries: Vec<Entry>,
    pub mix: Vec<Mixed>,
    /// By name, with the place of the name.
    pub variables: BTreeMap<String, (Place, Located<String>)>,
    /// Those of them that a text has a placeholder for.
    pub used: BTreeSet<String>,
    pub examples: Examples,
    pub allow: Vec<Located<String>>,
    /// Every file that was read, this one first.
    pub files: Vec<PathBuf>,
}

/// Reads a text and everything that it needs. `given` holds variables that are told from outside.
pub fn read(text: &Arc<Text>, given: &BTreeMap<String, String>, findings: &Findings) -> Document {
    let mut document = load(text, &Trail::begin(canonical(&text.path)), findings);
    check_given(&document, given, findings);
    document.fill(given, findings);
    document.check_whole(findings);
    document
}

/// The way to a file: those being read, the innermost last, and those that were read before.
#[derive(Clone)]
struct Trail {
    files: Vec<PathBuf>,
    known: Rc<RefCell<BTreeMap<PathBuf, Document>>>,
}

impl Trail {
    fn begin(address: PathBuf) -> Self {
        Self {
            files: vec![address],
            known: Rc::default(),
        }
    }

    /// The document at an address, read by `load` unless it was before: many may extend the same one.
    fn read(&self, address: PathBuf, load: impl FnOnce(&Self) -> Document) -> Document {
        if let Some(known) = self.known.borrow().get(&address) {
            return known.clone();
        }
        let mut trail = self.clone();
        trail.files.push(address.clone());
        let document = load(&trail);
        self.known.borrow_mut().insert(address, document.clone());
        document
    }
}

/// Reads one file with what it extends and mixes.
fn load(text: &Arc<Text>, chain: &Trail, findings: &Findings) -> Document {
    table::document(text, findings, &keys::CONSTITUTION, |table| {
        document(text, table, chain)
    })
}

fn document(text: &Arc<Text>, table: &Table<'_>, chain: &Trail) -> Document {
    let findings = table.findings();
    let told = |key: &str, help: &str| {
        table
            .required_text(key, help)
            .map(|text| text.value)
            .unwrap_or_default()
    };
    let mut document = Document {
        text: text.clone(),
        name: told("name", "name the constitution: `name = \"harmless\"`"),
        version: told("version", "give it a version: `version = \"1.0.0\"`"),
        description: table.string("description").map(|text| text.value),
        entries: Vec::new(),
        mix: Vec::new(),
        variables: BTreeMap::new(),
        used: BTreeSet::new(),
        examples: Examples::default(),
        allow: lints::known(table.texts("allow"), findings),
        files: vec![text.path.clone()],
    };
    let mut bases = BTreeSet::new();
    for reference in table.texts("extends") {
        if !bases.insert(reference.value.clone()) {
            findings.error(
                "duplicate-base",
                reference.at.clone(),
                format!("`extends` names {} twice", reference.value),
                "name it once",
            );
        }
        document.inherit(&reference, chain, findings);
    }
    document.remove(&table.texts("remove"), table.has("extends"), findings);
    document.own_principles(table);
    let own = table.names("variables");
    for (name, (place, _)) in &own {
        variables::check_name(name, place, findings);
    }
    document.variables.extend(own);
    document.own_examples(table);
    for part in table.tables("mix", &keys::MIX) {
        document.mix_in(&part, chain);
    }
    document.check_examples(table);
    if !document.mix.is_empty() && (!document.entries.is_empty() || table.has("extends")) {
        findings.error(
            "mixed-and-own",
            table.key_place("mix"),
            "a mixture has no principles of its own and extends nothing",
            "put the principles into a file, and mix that as well",
        );
    }
    document
}

impl Document {
    /// Takes over what a constitution in `extends` has.
    fn inherit(&mut self, reference: &Located<String>, chain: &Trail, findings: &Findings) {
        let Some(base) = other(&self.text, reference, "extends", chain, findings) else {
            return;
        };
        if !base.mix.is_empty() {
            findings.error(
                "extends-mixture",
                reference.at.clone(),
                "a mixture cannot be extended",
                "extend its parts, or mix it: [[mix]] with `constitution` and `weight`",
            );
        }
        for entry in base.entries {
            match self.entries.iter_mut().find(|other| other.id.value == entry.id.value) {
                Some(earlier) => *earlier = entry,
                None => self.entries.push(entry),
            }
        }
        self.variables.extend(base.variables);
        self.add_files(base.files);
        let Examples {
            critique,
            judge,
            judge_reasoning,
        } = base.examples;
        let examples = &mut self.examples;
        examples.critique = critique.or(examples.critique.take());
        examples.judge = judge.or(examples.judge.take());
        examples.judge_reasoning = judge_reasoning.or(examples.judge_reasoning.take());
    }

    /// Each once.
    fn add_files(&mut self, files: Vec<PathBuf>) {
        for file in files {
            if !self.files.contains(&file) {
                self.files.push(file);
            }
        }
    }

    fn remove(&mut self, ids: &[Located<String>], extends: bool, findings: &Findings) {
        for id in ids {
            match self.entries.iter().position(|entry| entry.id.value == id.value) {
                Some(index) => {
                    self.entries.remove(index);
                }
                // What cannot be read is told already.
                None if extends && self.entries.is_empty() => {}
                None => findings.add(unknown_id(id, &self.entries)),
            }
        }
    }

    fn own_principles(&mut self, table: &Table<'_>) {
        let findings = table.findings();
        let mut own: Vec<String> = Vec::new();
        let inherited_ids: Vec<String> = self.entries.iter().map(|entry| entry.id.value.clone()).collect();
        for item in table.tables("principle", &keys::PRINCIPLE) {
            let Some(entry) = entry::read(&item) else { continue };
            let id = entry.id.value.clone();
            if own.contains(&id) {
                let taken = |free: &String| self.entries.iter().any(|entry| entry.id.value == *free);
                let free = (2..).map(|number| format!("{id}-{number}")).find(|free| !taken(free));
                let found = Diagnostic::error(
                    "duplicate-id",
                    entry.id.at.clone(),
                    format!("the id `{id}` is used twice"),
                    "give each principle its own id: rows refer to principles by it",
                );
                findings.add(found.replace(format!("\"{}\"", free.unwrap_or_default())));
                continue;
            }
            own.push(id.clone());
            let inherited = self.entries.iter_mut().find(|other| other.id.value == id);
            let merged = match inherited {
                Some(inherited) => {
                    inherited.override_by(entry);
                    inherited.clone()
                }
                None => {
                    self.entries.push(entry.clone());
                    entry
                }
            };
            entry::check_texts(&merged, &item, &inherited_ids);
        }
    }

    fn own_examples(&mut self, table: &Table<'_>) {
        let Some(few_shots) = table.table("few_shots", &keys::FEW_SHOTS) else {
            return;
        };
        let findings = table.findings();
        if let Some(reference) = few_shots.string("critique") {
            self.examples.critique = self
                .examples_of(&reference, false, findings)
                .or(self.examples.critique.take());
        }
        if let Some(reference) = few_shots.string("judge") {
            self.examples.judge = self
                .examples_of(&reference, false, findings)
                .or(self.examples.judge.take());
        }
        if let Some(reference) = few_shots.string("judge_reasoning") {
            let found = self.examples_of::<JudgeExample>(&reference, true, findings);
            if let Some(index) = found.as_ref().and_then(FewShots::silent) {
                findings.error(
                    "judge-format",
                    reference.at.clone(),
                    format!(
                        "example {} has no `reasoning`, which a judge that reasons is shown",
                        index + 1
                    ),
                    "add `reasoning` to each example of that file",
                );
            }
            self.examples.judge_reasoning = found.or(self.examples.judge_reasoning.take());
        }
    }

    fn examples_of<E: Example>(
        &mut self,
        reference: &Located<String>,
        reasoning: bool,
        findings: &Findings,
    ) -> Option<FewShots<E>> {
        if reference.value == BUILTIN {
            return Some(FewShots::read(&Text::new(BUILTIN, E::builtin(reasoning)), findings));
        }
        let path = beside(&self.text, &reference.value);
        match Text::read(&path) {
            Ok(text) => {
                self.files.push(path);
                Some(FewShots::read(&text, findings))
            }
            Err(error) => {
                findings.error(
                    "missing-file",
                    reference.at.clone(),
                    error.message(),
                    "`few_shots` holds paths relative to this file, or `builtin`",
                );
                None
            }
        }
    }

    /// Parts of a mixture with different examples, of which the mixture does not say which hold.
    fn check_examples(&self, table: &Table<'_>) {
        let of = |examples: &Examples| {
            let Examples {
                critique,
                judge,
                judge_reasoning,
            } = examples;
            let sha =
                |judge: &Option<FewShots<JudgeExample>>| judge.as_ref().map(|examples| examples.sha256().to_owned());
            [
                (
                    "critique",
                    critique.as_ref().map(|examples| examples.sha256().to_owned()),
                ),
                ("judge", sha(judge)),
                ("judge_reasoning", sha(judge_reasoning)),
            ]
        };
        for (index, (key, own)) in of(&self.examples).into_iter().enumerate() {
            let parts = self
                .mix
                .iter()
                .filter_map(|part| of(&part.document.examples)[index].1.clone());
            let different: BTreeSet<String> = parts.collect();
            if own.is_none() && different.len() > 1 {
                table.findings().error(
                    "different-examples",
                    table.key_place("mix"),
                    format!("parts of the mixture have different few-shot examples for `{key}`"),
                    format!("say which hold: [few_shots], and under it {key} = \"...\""),
                );
            }
        }
    }

    fn mix_in(&mut self, part: &Table<'_>, chain: &Trail) {
        let findings = part.findings();
        let reference = part.required_text("constitution", "name the part: `constitution = \"builtin:harmless\"`");
        let weight = part.weight().unwrap_or(Located {
            value: 1.0,
            at: part.at(),
        });
        let Some(reference) = reference else { return };
        let Some(mut document) = other(&self.text, &reference, "constitution", chain, findings) else {
            return;
        };
        let twin = self.mix.iter().find(|other| other.document.name == document.name);
        if let Some(twin) = twin {
            findings.error(
                "duplicate-part",
                reference.at.clone(),
                format!("two parts of the mixture are called `{}`", twin.document.name),
                "name each constitution otherwise, or mix it once with the sum of the weights",
            );
        }
        if !document.name.is_empty() && !entry::is_id(&document.name) {
            findings.error(
                "bad-part-name",
                reference.at.clone(),
                format!(
                    "the name {:?} of this part has other characters than lower-case letters, digits and hyphens",
                    document.name
                ),
                "its principles are called NAME/ID in the mixture: change the `name` in its file",
            );
        }
        document.check_whole(findings);
        self.add_files(std::mem::take(&mut document.files));
        self.mix.push(Mixed {
            document,
            weight,
            at: reference.at,
        });
    }

    /// Adds the names of its variables, and of its parts'.
    pub fn declared(&self, names: &mut BTreeSet<String>) {
        names.extend(self.variables.keys().cloned());
        self.mix.iter().for_each(|part| part.document.declared(names));
    }

    /// Puts the variables into the texts: those of a mixture before those of its parts.
    fn fill(&mut self, given: &BTreeMap<String, String>, findings: &Findings) {
        let mut values: BTreeMap<String, String> = self
            .variables
            .iter()
            .map(|(name, (_, text))| (name.clone(), text.value.clone()))
            .collect();
        values.extend(given.iter().map(|(name, text)| (name.clone(), text.clone())));
        for entry in &mut self.entries {
            for text in [&mut entry.critique, &mut entry.revise, &mut entry.judge]
                .into_iter()
                .flatten()
            {
                variables::fill(text, &values, &mut self.used, findings);
            }
        }
        for part in &mut self.mix {
            part.document.fill(&values, findings);
        }
    }

    /// What holds for a constitution as a whole, but need not for one that others extend.
    fn check_whole(&self, findings: &Findings) {
        if !self.mix.is_empty() {
            let weights = self.mix.iter().map(|part| (part.weight.value, &part.weight.at));
            all_zero(
                weights,
                "every part of the mixture has the weight 0, so that none can be drawn",
                findings,
            );
            return;
        }
        if self.entries.is_empty() {
            if !findings.any_error() {
                let end = self.text.text.len();
                findings.error(
                    "no-principle",
                    self.text.at(end.saturating_sub(1)..end),
                    "the constitution has no principles",
                    "add at least one `[[principle]]` with an `id` and a `judge` text, or with `critique` and `revise`",
                );
            }
            return;
        }
        for key in ["critique", "judge"] {
            let used = self
                .entries
                .iter()
                .filter(|entry| entry.texts().any(|(found, _)| found == key));
            let weights = used.map(|entry| {
                let at = entry.weight.as_ref().map_or(&entry.at, |weight| &weight.at);
                (entry.weight(), at)
            });
            let message = format!("every principle with `{key}` has the weight 0, so that none can be drawn");
            all_zero(weights, &message, findings);
        }
    }
}

fn all_zero<'a>(weights: impl Iterator<Item = (f64, &'a Place)>, message: &str, findings: &Findings) {
    let weights: Vec<(f64, &Place)> = weights.collect();
    if let Some((_, first)) = weights.first()
        && weights.iter().all(|(weight, _)| *weight == 0.0)
    {
        findings.error(
            "no-weight",
            (*first).clone(),
            message,
            "give at least one of them a positive weight",
        );
    }
}

/// A constitution that this file names under `key`.
fn other(
    text: &Arc<Text>,
    reference: &Located<String>,
    key: &str,
    chain: &Trail,
    findings: &Findings,
) -> Option<Document> {
    let (base, address) = match reference.value.strip_prefix(BUILTIN_PREFIX) {
        Some(name) => match builtin::text(name) {
            Ok(text) => (Text::new(&reference.value, text), PathBuf::from(&reference.value)),
            Err(error) => {
                let help = error.help_text().unwrap_or_default();
                findings.error("missing-file", reference.at.clone(), error.message(), help);
                return None;
            }
        },
        None => {
            let path = beside(text, &reference.value);
            if !path.is_file() {
                findings.error(
                    "missing-file",
                    reference.at.clone(),
                    format!("the file {} does not exist", path.display()),
                    format!("`{key}` holds a path relative to this file, or `builtin:NAME`"),
                );
                return None;
            }
            match Text::read(&path) {
                Ok(text) => (text, canonical(&path)),
                Err(error) => {
                    let help = error.help_text().unwrap_or_default();
                    findings.error("missing-file", reference.at.clone(), error.message(), help);
                    return None;
                }
            }
        }
    };
    if chain.files.contains(&address) {
        let names = chain
            .files
            .iter()
            .chain([&address])
            .map(|path| path.display().to_string());
        let names: Vec<String> = names.collect();
        findings.error(
            "circle",
            reference.at.clone(),
            format!("`{key}` goes in a circle: {}", names.join(" -> ")),
            format!("remove one of the `{key}`"),
        );
        return None;
    }
    Some(chain.read(address, |chain| load(&base, chain, findings)))
}

fn beside(text: &Text, reference: &str) -> PathBuf {
    text.path.parent().unwrap_or(Path::new("")).join(reference)
}

/// The same file has the same address, however it is spelled.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn unknown_id(id: &Located<String>, entries: &[Entry]) -> Diagnostic {
    let message = format!("no inherited principle has the id `{}`", id.value);
    let ids = || entries.iter().map(|entry| entry.id.value.as_str());
    match nearest(&id.value, ids()) {
        Some(near) => {
            let help = format!("did you mean `{near}`?");
            Diagnostic::error("unknown-id", id.at.clone(), message, help).replace(format!("\"{near}\""))
        }
        None => {
            let all: Vec<&str> = ids().collect();
            let help = match all.is_empty() {
                true => "`remove` leaves out what `extends` brings in; there is nothing here".to_owned(),
                false => format!("the inherited principles are: {}", all.join(", ")),
            };
            Diagnostic::error("unknown-id", id.at.clone(), message, help)
        }
    }
}

/// Variables that nothing has.
fn check_given(document: &Document, given: &BTreeMap<String, String>, findings: &Findings) {
    let mut names = BTreeSet::new();
    document.declared(&mut names);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in given.keys().filter(|name| !names.contains(&name.as_str())) {
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "it has no [variables]; leave --variable away".to_owned(),
            None => format!("its variables are: {}", names.join(", ")),
        };
        findings.error(
            "unknown-variable",
            document.text.at(0..0),
            format!("the constitution has no variable `{name}`, which --variable gives"),
            help,
        );
    }
}
