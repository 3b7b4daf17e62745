//! Constitutions: the principles that critiques, revisions and judgements draw on.
//!
//! Reads TOML into a validated [`Constitution`], resolving `extends`, mixtures and variables, and draws principles by
//! weight. Every mistake is reported at its place in the file, because editing these files is what people do here. Knows
//! nothing of prompts, models or stages: a principle is three texts and a weight.

mod builtin;
pub mod compare;
mod diagnostic;
mod document;
mod entry;
pub mod exchange;
pub mod few_shots;
mod keys;
mod lints;
pub mod schema;
mod syntax;
mod table;
mod template;
mod variables;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng as _;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::record::hex;
use crate::seed::Seed;

pub use builtin::names as builtin_names;
pub use diagnostic::{Diagnostic, Fix, Severity};
pub use document::Examples;
pub use lints::{ALL as LINTS, BUDGET};
pub use template::new_file;

use builtin::BUILTIN_PREFIX;
use diagnostic::{Findings, Text};
use document::Document;
use entry::Entry;

/// One rule: how to criticise an answer by it, how to revise one, how to compare two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Principle {
    /// Lower-case letters, digits and hyphens; unique. In a mixture after the name of its constitution, `harmless/law`.
    pub id: String,
    /// Why it is there. No model reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// The critique request; there is one exactly if there is a `revise`.
    pub critique: Option<String>,
    /// The revision request.
    pub revise: Option<String>,
    /// The comparison question.
    pub judge: Option<String>,
    /// How often it is drawn, relative to the others of its file.
    pub weight: f64,
    pub tags: Vec<String>,
}

impl Principle {
    /// The beginning of the SHA-256 of what a model reads of it: the same for the same texts, wherever they stand,
    /// however often they are drawn, and whatever they are called.
    pub fn hash(&self) -> String {
        let texts = serde_json::json!([self.critique, self.revise, self.judge]);
        hex(&Sha256::digest(texts.to_string())[..8])
    }
}

/// A set of principles, its `extends` resolved: inherited principles first, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Constitution {
    pub name: String,
    pub version: String,
    pub description: Option<String>,
    pub principles: Vec<Principle>,
    pub examples: Examples,
    /// The file it was read from; `None` for a built-in one.
    pub path: Option<PathBuf>,
    /// Every file that it was read from.
    pub files: Vec<PathBuf>,
    /// SHA-256 of what models read and how often: ids, texts, weights, few-shot examples. What only people read (names,
    /// versions, rationales, tags, comments, layout) and where it stands do not change it.
    pub hash: String,
    /// Of a mixture, its parts with their weights.
    pub parts: Vec<(String, f64)>,
    /// The names of the variables that it has.
    pub variables: BTreeSet<String>,
    shares: Shares,
}

/// How often each principle is drawn: its weight, and in a mixture the part's share of it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Shares {
    critique: Vec<f64>,
    judge: Vec<f64>,
}

/// What there is to say of a constitution file.
#[derive(Debug)]
pub struct Checked {
    /// If it has no errors.
    pub constitution: Option<Constitution>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// Errors and warnings, those of the file itself first and from its top.
    pub findings: Vec<Diagnostic>,
}

impl Constitution {
    /// Reads a file, with everything it extends.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::read(&Text::read(path)?, &BTreeMap::new(), Some(path))
    }

    /// Reads a text as if it stood in the file `path`, which need not exist.
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        Self::read(&Text::new(&path, text), &BTreeMap::new(), Some(&path))
    }

    /// A constitution inside the program.
    pub fn builtin(name: &str) -> Result<Self> {
        Self::resolve(&format!("{BUILTIN_PREFIX}{name}"))
    }

    /// The constitution that a user names: `builtin:NAME`, or a path.
    pub fn resolve(reference: &str) -> Result<Self> {
        Self::resolve_with(reference, &BTreeMap::new())
    }

    /// The same with values for its variables.
    pub fn resolve_with(reference: &str, variables: &BTreeMap<String, String>) -> Result<Self> {
        let path = (!reference.starts_with(BUILTIN_PREFIX)).then(|| Path::new(reference));
        Self::read(&text(reference)?, variables, path)
    }

    fn read(text: &Arc<Text>, variables: &BTreeMap<String, String>, path: Option<&Path>) -> Result<Self> {
        let findings = Findings::default();
        let document = document::read(text, variables, &findings);
        let findings = findings.sorted(&text.path);
        let Some(first) = findings.first() else {
            return Ok(Self::new(document, path));
        };
        let error = first.to_error();
        Err(match findings.len() {
            1 => error,
            count => error.help(format!(
                "{} ({} more: bylaw constitution check {})",
                first.help,
                count - 1,
                text.path.display()
            )),
        })
    }

    fn new(document: Document, path: Option<&Path>) -> Self {
        let mut read = Self {
            name: document.name.clone(),
            version: document.version.clone(),
            description: document.description.clone(),
            files: document.files.clone(),
            path: path.map(Path::to_owned),
            principles: Vec::new(),
            examples: Examples::default(),
            hash: String::new(),
            parts: Vec::new(),
            variables: BTreeSet::new(),
            shares: Shares::default(),
        };
        document.declared(&mut read.variables);
        read.take_over(document, "", 1.0, 1.0);
        read.hash = read.canonical_hash();
        read
    }

    /// Adds the principles of a document, with their ids after `prefix`, and its examples; those that are there stay. A
    /// share of a principle is its weight times the factor of its kind.
    fn take_over(&mut self, document: Document, prefix: &str, critique: f64, judge: f64) {
        let Examples {
            critique: critiques,
            judge: judgements,
            judge_reasoning,
        } = document.examples.clone();
        let examples = &mut self.examples;
        examples.critique = examples.critique.take().or(critiques);
        examples.judge = examples.judge.take().or(judgements);
        examples.judge_reasoning = examples.judge_reasoning.take().or(judge_reasoning);
        for part in document.mix {
            let (document, weight) = (part.document, part.weight.value);
            let factor = |outer: f64, key: &str| match document.total(key) {
                0.0 => 0.0,
                total => outer * weight / total,
            };
            let (critique, judge) = (factor(critique, "critique"), factor(judge, "judge"));
            let prefix = format!("{prefix}{}/", document.name);
            self.parts.push((prefix.trim_end_matches('/').to_owned(), weight));
            self.take_over(document, &prefix, critique, judge);
        }
        for entry in document.entries {
            let mut principle = principle(entry, prefix);
            if critique == 0.0 && judge == 0.0 {
                // Of a part of a mixture that is never drawn.
                principle.weight = 0.0;
            }
            self.shares.critique.push(principle.weight * critique);
            self.shares.judge.push(principle.weight * judge);
            self.principles.push(principle);
        }
    }

    fn canonical_hash(&self) -> String {
        let texts = |principle: &Principle| {
            let Principle {
                id,
                critique,
                revise,
                judge,
                ..
            } = principle;
            serde_json::json!([id, critique, revise, judge])
        };
        let mut principles: Vec<_> = self
            .principles
            .iter()
            .zip(self.shares.critique.iter().zip(&self.shares.judge))
            .map(|(principle, (critique, judge))| serde_json::json!([texts(principle), critique, judge]))
            .map(|principle| principle.to_string())
            .collect();
        // They are drawn by weight, wherever they stand.
        principles.sort_unstable();
        let examples = [
            self.examples.critique.as_ref().map(few_shots::FewShots::sha256),
            self.examples.judge.as_ref().map(few_shots::FewShots::sha256),
            self.examples.judge_reasoning.as_ref().map(few_shots::FewShots::sha256),
        ];
        let content = serde_json::json!([principles, examples]);
        hex(&Sha256::digest(content.to_string()))
    }

    /// The same with one of its principles only, which is always drawn.
    pub fn only(&self, id: &str) -> Option<Self> {
        let index = self.principles.iter().position(|principle| principle.id == id)?;
        let principle = self.principles[index].clone();
        let mut one = Self {
            principles: vec![Principle {
                weight: 1.0,
                ..principle
            }],
            shares: Shares {
                critique: vec![1.0],
                judge: vec![1.0],
            },
            ..self.clone()
        };
        one.hash = one.canonical_hash();
        Some(one)
    }

    /// The principle with the id, for rows that name one.
    pub fn principle(&self, id: &str) -> Option<&Principle> {
        self.principles.iter().find(|principle| principle.id == id)
    }

    /// Draws a principle to criticise and revise by, in proportion to the weights.
    pub fn draw_critique(&self, seed: Seed) -> Result<&Principle> {
        let fits = |principle: &Principle| principle.critique.is_some() && principle.revise.is_some();
        let first = self.race(seed, &self.shares.critique, fits).into_iter().next();
        first.ok_or_else(|| self.nothing_to_draw("critique` and `revise", "revision"))
    }

    /// Draws a principle to compare by, in proportion to the weights.
    pub fn draw_judge(&self, seed: Seed) -> Result<&Principle> {
        let first = self.race_of_judges(seed).into_iter().next();
        first.ok_or_else(|| self.nothing_to_draw("judge", "judging"))
    }

    /// Draws `count` different principles to compare by, one after the other in proportion to the weights of
    /// those that are left; the first is the one that [`draw_judge`](Self::draw_judge) draws. Each has the share 1.
    ///
    /// Where there are no more than `count`, nothing is drawn: all come in their order, and their shares are in
    /// proportion to their weights, with the mean 1.
    pub fn draw_judges(&self, seed: Seed, count: usize) -> Result<Vec<(&Principle, f32)>> {
        let all: Vec<(&Principle, f64)> = self
            .principles
            .iter()
            .zip(self.shares.judge.iter().copied())
            .filter(|(principle, share)| principle.judge.is_some() && *share > 0.0)
            .collect();
        if all.is_empty() {
            return Err(self.nothing_to_draw("judge", "judging"));
        }
        if all.len() <= count {
            let mean = all.iter().map(|(_, share)| share).sum::<f64>() / all.len() as f64;
            return Ok(all
                .into_iter()
                .map(|(principle, share)| (principle, (share / mean) as f32))
                .collect());
        }
        let drawn = self.race_of_judges(seed).into_iter().take(count);
        Ok(drawn.map(|principle| (principle, 1.0)).collect())
    }

    /// How often each principle is asked about a pair, relative to the others: its weight, and in a mixture the part's
    /// share of it.
    pub fn judge_shares(&self) -> &[f64] {
        &self.shares.judge
    }

    fn race_of_judges(&self, seed: Seed) -> Vec<&Principle> {
        self.race(seed, &self.shares.judge, |principle| principle.judge.is_some())
    }

    /// The principles that fit, in the order in which they are drawn.
    ///
    /// Each one arrives after an exponential time with its share as rate, so that whoever is left is next in proportion
    /// to its share (Efraimidis & Spirakis 2006). A time depends on the seed and the principle's id alone: an edit of the
    /// constitution changes the draws of the principles that it touches, and leaves all others as they were.
    fn race(&self, seed: Seed, shares: &[f64], fits: impl Fn(&Principle) -> bool) -> Vec<&Principle> {
        let running = self.principles.iter().zip(shares.iter().copied());
        let mut times: Vec<(f64, &Principle)> = running
            .filter(|(principle, share)| fits(principle) && *share > 0.0)
            .map(|(principle, share)| {
                // In (0, 1]: the logarithm is finite.
                let uniform = 1.0 - seed.child(&principle.id).rng().random::<f64>();
                (-uniform.ln() / share, principle)
            })
            .collect();
        times.sort_by(|(a, first), (b, second)| a.total_cmp(b).then_with(|| first.id.cmp(&second.id)));
        times.into_iter().map(|(_, principle)| principle).collect()
    }

    fn nothing_to_draw(&self, texts: &str, stage: &str) -> Error {
        let error = Error::config(format!(
            "the constitution `{}` has no principle with `{texts}` and a positive weight, which {stage} needs",
            self.name
        ));
        let error = error.help(format!(
            "add `{texts}` to at least one principle, or use another constitution"
        ));
        match &self.path {
            Some(path) => error.at_file(path),
            None => error,
        }
    }
}

impl Document {
    /// The sum of the weights of the principles with a request of one kind.
    fn total(&self, key: &str) -> f64 {
        let own = self
            .entries
            .iter()
            .filter(|entry| entry.texts().any(|(found, _)| found == key));
        let own: f64 = own.map(Entry::weight).sum();
        let parts = self.mix.iter().filter(|part| part.document.total(key) > 0.0);
        own + parts.map(|part| part.weight.value).sum::<f64>()
    }
}

fn principle(entry: Entry, prefix: &str) -> Principle {
    let weight = entry.weight();
    let text = |text: Option<diagnostic::Located<String>>| text.map(|text| text.value);
    Principle {
        id: format!("{prefix}{}", entry.id.value),
        weight,
        tags: entry
            .tags
            .unwrap_or_default()
            .into_iter()
            .map(|tag| tag.value)
            .collect(),
        rationale: text(entry.rationale),
        critique: text(entry.critique),
        revise: text(entry.revise),
        judge: text(entry.judge),
    }
}

fn text(reference: &str) -> Result<Arc<Text>> {
    match reference.strip_prefix(BUILTIN_PREFIX) {
        Some(name) => Ok(Text::new(reference, builtin::text(name)?)),
        None => Text::read(Path::new(reference)),
    }
}

/// Reads what a user names (`builtin:NAME`, or a path) and tells everything that is wrong or doubtful with it. Requests
/// of more than `budget` tokens are doubtful.
pub fn check(reference: &str, variables: &BTreeMap<String, String>, budget: usize) -> Result<Checked> {
    let path = (!reference.starts_with(BUILTIN_PREFIX)).then(|| Path::new(reference));
    Ok(checked(&text(reference)?, variables, budget, path))
}

/// The same of a text, as if it stood in the file `path`, which need not exist.
pub fn check_text(
    text: &str,
    path: impl Into<PathBuf>,
    variables: &BTreeMap<String, String>,
    budget: usize,
) -> Checked {
    let path = path.into();
    checked(&Text::new(&path, text), variables, budget, Some(&path))
}

fn checked(text: &Arc<Text>, variables: &BTreeMap<String, String>, budget: usize, path: Option<&Path>) -> Checked {
    let findings = Findings::default();
    let document = document::read(text, variables, &findings);
    // Lints of a file that cannot be used would be noise.
    let usable = !findings.any_error();
    if usable {
        lints::check(&document, budget, &findings);
    }
    Checked {
        files: document.files.clone(),
        constitution: usable.then(|| Constitution::new(document, path)),
        findings: findings.sorted(&text.path),
    }
}

#[cfg(test)]
mod tests;
