//! From a constitution to the files of others, with everything that they cannot hold told by name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::originals::{Fingerprints, Originals};
use super::{Format, Item, Part, STAND_IN, Valued};
use crate::constitution::diagnostic::Findings;
use crate::constitution::document::{self, Document};
use crate::constitution::few_shots::FewShots;
use crate::constitution::{Constitution, Principle};
use crate::error::{Error, Result};

/// A file of others, and what is not in it.
#[derive(Debug)]
pub struct Export {
    pub value: Value,
    pub items: usize,
    pub notes: Vec<String>,
}

/// Writes what a format holds of a constitution. Items that were imported and are unchanged are as they were.
pub fn export(constitution: &Constitution, format: Format, originals: &Originals) -> Result<Export> {
    let mut notes = Vec::new();
    let mut named = Vec::new();
    for part in format.parts() {
        named.extend(items(constitution, format, *part, &mut notes));
    }
    if !named.iter().any(|(_, item)| item.part() == format.parts()[0]) {
        return Err(Error::config(format!(
            "the constitution `{}` has nothing for a file of {}",
            constitution.name,
            format.name()
        ))
        .help(format!(
            "{}; `bylaw constitution show` tells what it has",
            needs(format.parts()[0])
        )));
    }
    left_behind(constitution, format, &mut notes);
    let mut fingerprints = Fingerprints::default();
    let mut values: Vec<Valued> = Vec::with_capacity(named.len());
    let mut restored = 0;
    for (name, item) in &named {
        let fingerprint = fingerprints.next(&format.known_by(item));
        let original = originals.find(format, &fingerprint);
        restored += usize::from(original.is_some());
        let usual = || format.written(item).filter(|_| format.holds(item));
        let Some(value) = original.cloned().or_else(usual) else {
            return Err(unfit(constitution, name, format));
        };
        let key = originals.find(format, &Originals::of_key(name)).and_then(Value::as_str);
        let key = key.unwrap_or(name).to_owned();
        if format == Format::PaperCritiques && values.iter().any(|other| other.key == key) {
            return Err(at(
                constitution,
                Error::config(format!("two principles would have the key {key:?}")),
            )
            .help("rename one of them, or remove the file of originals beside the constitution"));
        }
        let part = item.part();
        values.push(Valued { part, key, value });
    }
    if restored < originals.count(format) {
        notes.push(format!(
            "{} imported with other space or wording around their texts have other texts now: they are written in the \
             usual form",
            counted(originals.count(format) - restored, "item")
        ));
    }
    Ok(Export {
        items: values.len(),
        value: format.document(values, originals.find(format, Originals::KEYS)),
        notes,
    })
}

/// The variables that stand in the texts of a constitution, which an export fills in.
pub fn variables(reference: &str, given: &BTreeMap<String, String>) -> Result<Vec<String>> {
    fn used(document: &Document, names: &mut BTreeSet<String>) {
        let braces = |name: &&String| {
            let text = document.variables.get(*name);
            text.is_some_and(|(_, text)| text.value == "{{")
        };
        names.extend(document.used.iter().filter(|name| !braces(name)).cloned());
        for part in &document.mix {
            used(&part.document, names);
        }
    }
    let document = document::read(&crate::constitution::text(reference)?, given, &Findings::default());
    let mut names = BTreeSet::new();
    used(&document, &mut names);
    Ok(names.into_iter().collect())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The error at the constitution's file.
fn at(constitution: &Constitution, error: Error) -> Error {
    match &constitution.path {
        Some(path) => error.at_file(path),
        None => error,
    }
}

fn needs(part: Part) -> &'static str {
    match part {
        Part::Requests => "it needs principles with `critique` and `revise` and a positive weight",
        Part::Questions => "it needs principles with `judge` and a positive weight",
        Part::CritiqueExamples => "it needs `critique` under [few_shots]",
        Part::JudgeExamples => "it needs `judge` under [few_shots]",
        Part::ReasoningExamples => "it needs `judge_reasoning` under [few_shots]",
    }
}

fn unfit(constitution: &Constitution, name: &str, format: Format) -> Error {
    let error = Error::config(format!(
        "{name}: a text in it looks like a mark of the format {}, and would be read as another",
        format.name()
    ));
    at(constitution, error).help(format!(
        "reword it; what stands around texts there is seen in {}",
        format.shape()
    ))
}

/// The items of one part, each with what it is called in messages.
fn items(constitution: &Constitution, format: Format, part: Part, notes: &mut Vec<String>) -> Vec<(String, Item)> {
    let examples = &constitution.examples;
    let numbered = |item: (usize, Item)| (format!("example {}", item.0 + 1), item.1);
    match part {
        Part::Requests => requests(constitution, format, notes),
        Part::Questions => {
            let drawn = drawn(constitution, &constitution.shares.judge, has_question, notes);
            tell_weights(
                drawn.iter().map(|(principle, share)| (principle.id.as_str(), *share)),
                notes,
            );
            let questions = drawn.into_iter().filter_map(|(principle, _)| {
                let text = principle.judge.clone()?;
                Some((principle.id.clone(), Item::Question(text)))
            });
            questions.collect()
        }
        Part::CritiqueExamples => {
            let examples = examples.critique.iter().flat_map(FewShots::examples);
            let items = examples.cloned().map(Item::Critique);
            items.enumerate().map(numbered).collect()
        }
        Part::JudgeExamples => {
            let examples = examples.judge.iter().flat_map(FewShots::examples);
            // A reasoning has no place there; that is told.
            let bare = examples.cloned().map(|mut example| {
                example.reasoning.clear();
                Item::Comparison(example)
            });
            bare.enumerate().map(numbered).collect()
        }
        Part::ReasoningExamples => {
            let examples = examples.judge_reasoning.iter().flat_map(FewShots::examples);
            let items = examples.cloned().map(Item::Comparison);
            items.enumerate().map(numbered).collect()
        }
    }
}

fn has_requests(principle: &Principle) -> bool {
    principle.critique.is_some() && principle.revise.is_some()
}

fn has_question(principle: &Principle) -> bool {
    principle.judge.is_some()
}

/// The principles that can be drawn, with how often.
fn drawn<'a>(
    constitution: &'a Constitution,
    shares: &'a [f64],
    fits: fn(&Principle) -> bool,
    notes: &mut Vec<String>,
) -> Vec<(&'a Principle, f64)> {
    let all = || constitution.principles.iter().zip(shares.iter().copied());
    let without = all().filter(|(principle, _)| !fits(principle));
    tell(
        "left out, having no text for it",
        without.map(|(p, _)| p.id.as_str()),
        notes,
    );
    let never = all().filter(|(principle, share)| fits(principle) && *share == 0.0);
    tell(
        "left out, having the weight 0",
        never.map(|(p, _)| p.id.as_str()),
        notes,
    );
    all()
        .filter(|(principle, share)| fits(principle) && *share > 0.0)
        .collect()
}

fn requests(constitution: &Constitution, format: Format, notes: &mut Vec<String>) -> Vec<(String, Item)> {
    let drawn = drawn(constitution, &constitution.shares.critique, has_requests, notes);
    let mut items: Vec<(Item, f64)> = Vec::new();
    let mut rest = &drawn[..];
    while let Some((first, _)) = rest.first() {
        let (base, count) = match format {
            Format::PaperCritiques => group(rest).unwrap_or((&first.id, 1)),
            _ => (first.id.as_str(), 1),
        };
        let (own, others) = rest.split_at(count);
        let critiques = own.iter().filter_map(|(principle, _)| principle.critique.clone());
        let item = Item::Requests {
            id: base.to_owned(),
            critiques: critiques.collect(),
            revise: first.revise.clone().unwrap_or_default(),
        };
        items.push((item, own.iter().map(|(_, share)| share).sum()));
        rest = others;
    }
    let named: Vec<(String, f64, Item)> = items
        .into_iter()
        .map(|(item, share)| match &item {
            Item::Requests { id, .. } => (id.clone(), share, item),
            _ => (String::new(), share, item),
        })
        .collect();
    tell_weights(named.iter().map(|(id, share, _)| (id.as_str(), *share)), notes);
    named.into_iter().map(|(id, _, item)| (id, item)).collect()
}

/// What the principles at the beginning are together, if they are `n` critique requests of one revision request: ids
/// that end in -1 to -n, the weight 1/n each. So an import writes a key with several.
fn group<'a>(principles: &[(&'a Principle, f64)]) -> Option<(&'a str, usize)> {
    let (first, _) = principles.first()?;
    let base = first.id.strip_suffix("-1")?;
    let count = (1.0 / first.weight).round();
    if !(2.0..=1e6).contains(&count) || count as usize > principles.len() {
        return None;
    }
    let own = &principles[..count as usize];
    let belongs = |(index, (principle, _)): (usize, &(&Principle, f64))| {
        principle.id == format!("{base}-{}", index + 1)
            && principle.weight == 1.0 / count
            && principle.revise == first.revise
    };
    own.iter().enumerate().all(belongs).then_some((base, count as usize))
}

/// These formats draw all with the same chance.
fn tell_weights<'a>(shares: impl Iterator<Item = (&'a str, f64)>, notes: &mut Vec<String>) {
    let shares: Vec<(&str, f64)> = shares.collect();
    let Some((_, first)) = shares.first() else { return };
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    if shares.iter().any(|(_, share)| (share - first).abs() > 1e-9 * first) {
        let each = shares
            .iter()
            .map(|(id, share)| format!("{id} {:.3} %", 100.0 * share / total));
        notes.push(format!(
            "all principles are drawn equally often there, and here in these shares: {}",
            each.collect::<Vec<_>>().join(", ")
        ));
    }
}

fn tell<'a>(what: &str, names: impl Iterator<Item = &'a str>, notes: &mut Vec<String>) {
    let names: Vec<&str> = names.collect();
    if !names.is_empty() {
        notes.push(format!("{what}: {}", names.join(", ")));
    }
}

/// What is in the constitution and in no item.
fn left_behind(constitution: &Constitution, format: Format, notes: &mut Vec<String>) {
    let parts = format.parts();
    let all = &constitution.principles;
    let ids = |has: fn(&Principle) -> bool| all.iter().filter(move |p| has(p)).map(|p| p.id.as_str());
    if parts.contains(&Part::Requests) {
        tell(
            "judge questions are another file (--format paper-judge)",
            ids(|p| has_requests(p) && has_question(p)),
            notes,
        );
    }
    if parts.contains(&Part::Questions) {
        tell(
            "critique and revision requests are another file (--format paper-critiques)",
            ids(|p| has_requests(p) && has_question(p)),
            notes,
        );
    }
    if parts
        .iter()
        .any(|part| matches!(part, Part::Requests | Part::Questions))
    {
        tell("tags are not in it", ids(|p| !p.tags.is_empty()), notes);
        tell("rationales are not in it", ids(|p| p.rationale.is_some()), notes);
        if format != Format::PaperCritiques {
            notes.push("ids are not in it: an import numbers the principles".into());
        }
    } else {
        notes.push("principles are other files (--format paper-critiques, paper-judge or hf)".into());
    }
    examples_left(constitution, format, notes);
    let about = match constitution.description {
        Some(_) => "name, version and description",
        None => "name and version",
    };
    notes.push(format!("{about} are not in it"));
}

fn examples_left(constitution: &Constitution, format: Format, notes: &mut Vec<String>) {
    let examples = &constitution.examples;
    let files = [
        (
            Part::CritiqueExamples,
            examples.critique.is_some(),
            "paper-critique-few-shots",
        ),
        (Part::JudgeExamples, examples.judge.is_some(), "paper-judge-few-shots"),
        (
            Part::ReasoningExamples,
            examples.judge_reasoning.is_some(),
            "paper-reasoning-few-shots",
        ),
    ];
    let others = files
        .into_iter()
        .filter(|(part, there, _)| *there && !format.parts().contains(part));
    tell(
        "examples are other files (--format)",
        others.map(|(_, _, name)| name),
        notes,
    );
    if format == Format::PaperJudgeFewShots {
        let judge = || examples.judge.iter().flat_map(FewShots::examples);
        if judge().any(|example| example.question != STAND_IN) {
            notes.push("questions of examples are not in it: the one that is asked is put there".into());
        }
        if judge().any(|example| !example.reasoning.is_empty()) {
            notes.push("reasonings of examples are not in it (--format paper-reasoning-few-shots)".into());
        }
        notes.push("the place of the better answer, (A) or (B), is not in it".into());
    }
}
