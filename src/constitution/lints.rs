//! Lints: what a constitution may say and probably should not. Each has a name, by which a file or a principle allows it.
//!
//! They look at words, not at meaning: a lint that is wrong about a text is allowed there, with a comment that says why.

mod contradiction;
mod question;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Findings, Located, Place, Text};
use super::document::{Document, Mixed};
use super::entry::Entry;
use crate::error::nearest;
use words::{content_words, overlap, tokens_about};

/// The names of all lints, with what each is about.
pub const ALL: [(&str, &str); 9] = [
    (
        NEAR_DUPLICATE,
        "two principles ask for the same in nearly the same words",
    ),
    (
        contradiction::NAME,
        "one principle says always, another never, of the same thing",
    ),
    (
        question::UNDECIDED,
        "a judge question does not say which answer should win",
    ),
    (question::INVERTED, "a judge question asks for the worse answer"),
    (
        question::LENGTH,
        "a judge question speaks of length, which judges favour anyway",
    ),
    (question::POSITION, "a judge question speaks of the place of an answer"),
    (OVER_BUDGET, "a request is longer than a model will follow"),
    (LONE_TAG, "a tag stands on one principle only"),
    (UNUSED_VARIABLE, "a variable that no text uses"),
];

const NEAR_DUPLICATE: &str = "near-duplicate";
const OVER_BUDGET: &str = "over-budget";
const LONE_TAG: &str = "lone-tag";
const UNUSED_VARIABLE: &str = "unused-variable";

/// Share of content words in common from which two texts are near-duplicates.
const ALIKE: f64 = 0.8;

/// Tokens of a request from which it is too long.
pub const BUDGET: usize = 128;

/// How findings of one file's lints are told.
struct Lints<'a> {
    findings: &'a Findings,
    /// Only what stands here is told: what is inherited is told where it stands.
    text: &'a Arc<Text>,
    allow: &'a [Located<String>],
    /// Of a mixture: what of it comes with which part, and where the part is named.
    parts: Vec<(&'a Entry, &'a Place)>,
}

impl Lints<'_> {
    fn tell(&self, of: &[&Entry], mut diagnostic: Diagnostic) {
        let part = |entry: &Entry| self.parts.iter().find(|(other, _)| std::ptr::eq(*other, entry));
        if let [first, second] = of
            && let (Some((_, place)), Some((_, other))) = (part(first), part(second))
        {
            // What is wrong within a part is told in its own file.
            if place.range == other.range {
                return;
            }
            diagnostic.place = (*place).clone();
        }
        let allows = |allow: &[Located<String>]| allow.iter().any(|lint| lint.value == diagnostic.name);
        let here = Arc::ptr_eq(&diagnostic.place.text, self.text);
        if here && !allows(self.allow) && !of.iter().any(|entry| allows(&entry.allow)) {
            self.findings.add(diagnostic);
        }
    }
}

/// The names that `allow` gives, each of a lint.
pub fn known(names: Vec<Located<String>>, findings: &Findings) -> Vec<Located<String>> {
    for name in &names {
        if ALL.iter().any(|(lint, _)| *lint == name.value) {
            continue;
        }
        let message = format!("there is no lint `{}`", name.value);
        let lints = || ALL.iter().map(|(lint, _)| *lint);
        findings.add(match nearest(&name.value, lints()) {
            Some(near) => Diagnostic::error(
                "unknown-lint",
                name.at.clone(),
                message,
                format!("did you mean `{near}`?"),
            )
            .replace(format!("\"{near}\"")),
            None => {
                let all: Vec<&str> = lints().collect();
                let help = format!("the lints are: {}", all.join(", "));
                Diagnostic::error("unknown-lint", name.at.clone(), message, help)
            }
        });
    }
    names
}

/// Looks through a document that has no errors and whose variables are filled in.
pub fn check(document: &Document, budget: usize, findings: &Findings) {
    let lints = Lints {
        findings,
        text: &document.text,
        allow: &document.allow,
        parts: document.mix.iter().flat_map(parts).collect(),
    };
    let of_parts = lints.parts.iter().map(|(entry, _)| *entry);
    let entries: Vec<&Entry> = document.entries.iter().chain(of_parts).collect();
    near_duplicates(&lints, &entries);
    contradiction::check(&lints, &entries);
    for entry in &entries {
        question::check(&lints, entry);
        over_budget(&lints, entry, budget);
    }
    lone_tags(&lints, &entries);
    unused_variables(&lints, document);
}

/// The principles of a part, with those of its own parts, and where it is named.
fn parts(part: &Mixed) -> Vec<(&Entry, &Place)> {
    fn entries<'a>(document: &'a Document, found: &mut Vec<&'a Entry>) {
        found.extend(&document.entries);
        document.mix.iter().for_each(|part| entries(&part.document, found));
    }
    let mut found = Vec::new();
    entries(&part.document, &mut found);
    found.into_iter().map(|entry| (entry, &part.at)).collect()
}

fn near_duplicates(lints: &Lints<'_>, entries: &[&Entry]) {
    for (index, later) in entries.iter().enumerate() {
        for key in ["critique", "judge"] {
            let of = |entry: &Entry| {
                entry
                    .texts()
                    .find(|(found, _)| *found == key)
                    .map(|(_, text)| text.clone())
            };
            let Some(text) = of(later) else { continue };
            let words = content_words(&text.value);
            let twin = entries[..index].iter().find_map(|earlier| {
                let other = of(earlier)?;
                let alike = overlap(&words, &content_words(&other.value));
                let alike = if text.value == other.value { 1.0 } else { alike };
                (alike >= ALIKE).then_some((*earlier, alike))
            });
            let Some((earlier, alike)) = twin else { continue };
            let message = format!(
                "the `{key}` of `{}` says nearly the same as that of `{}`: {:.0} % of their words are the same",
                later.id.value,
                earlier.id.value,
                alike * 100.0
            );
            let help = "keep one of the two with the sum of their weights, or say how they differ";
            lints.tell(
                &[later, earlier],
                Diagnostic::warning(NEAR_DUPLICATE, text.at, message, help),
            );
        }
    }
}

fn over_budget(lints: &Lints<'_>, entry: &Entry, budget: usize) {
    for (key, text) in entry.texts() {
        let tokens = tokens_about(&text.value);
        if tokens > budget {
            let message = format!("`{key}` has about {tokens} tokens, and the budget is {budget}");
            let help = "say one thing in it; a second thought is a second principle";
            lints.tell(
                &[entry],
                Diagnostic::warning(OVER_BUDGET, text.at.clone(), message, help),
            );
        }
    }
}

fn lone_tags(lints: &Lints<'_>, entries: &[&Entry]) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tag in entries.iter().flat_map(|entry| entry.tags()) {
        *counts.entry(&tag.value).or_default() += 1;
    }
    // Of one principle there is nothing to group.
    if entries.len() < 2 {
        return;
    }
    for entry in entries {
        for tag in entry.tags().iter().filter(|tag| counts[tag.value.as_str()] == 1) {
            let message = format!("the tag `{}` stands on `{}` alone", tag.value, entry.id.value);
            let near = nearest(&tag.value, counts.keys().copied().filter(|other| *other != tag.value));
            let help = match near {
                Some(near) => {
                    format!("did you mean `{near}`? A group needs two; what one principle covers has no stand-in")
                }
                None => "cover it by a second principle, or leave the tag away".to_owned(),
            };
            lints.tell(&[entry], Diagnostic::warning(LONE_TAG, tag.at.clone(), message, help));
        }
    }
}

fn unused_variables(lints: &Lints<'_>, document: &Document) {
    fn uses(document: &Document, name: &str) -> bool {
        document.used.contains(name) || document.mix.iter().any(|part| uses(&part.document, name))
    }
    for (name, (place, _)) in &document.variables {
        if !uses(document, name) {
            let message = format!("no text has a placeholder for the variable `{name}`");
            let help = format!("write {{{{ {name} }}}} where it belongs, or remove it");
            lints.tell(&[], Diagnostic::warning(UNUSED_VARIABLE, place.clone(), message, help));
        }
    }
}
