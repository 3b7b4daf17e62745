//! Principles that contradict each other's wording: `always` here, `never` there, of the same thing.

use super::super::diagnostic::{Diagnostic, Located};
use super::super::entry::Entry;
use super::Lints;
use super::words::{content_words, words};
use std::collections::BTreeSet;

pub const NAME: &str = "contradiction";

const ALWAYS: [&str; 3] = ["always", "must always", "in every case"];
const NEVER: [&str; 6] = [
    "never",
    "must not",
    "do not ever",
    "don't ever",
    "under no circumstances",
    "in no case",
];

/// Words after the adverb that are looked at.
const REACH: usize = 6;
/// Share of the shorter clause's content words that the other has too.
const SAME: f64 = 0.75;

/// What a text wants always or never.
struct Demand<'a> {
    entry: &'a Entry,
    text: &'a Located<String>,
    always: bool,
    /// The clause, as it was found.
    clause: String,
    about: BTreeSet<String>,
}

pub fn check(lints: &Lints<'_>, entries: &[&Entry]) {
    let demands: Vec<Demand<'_>> = entries.iter().flat_map(|entry| demands(entry)).collect();
    for (index, later) in demands.iter().enumerate() {
        let opposite = demands[..index]
            .iter()
            .find(|earlier| earlier.always != later.always && same(&earlier.about, &later.about));
        let Some(earlier) = opposite else { continue };
        let message = format!(
            "`{}` says \"{}\", and `{}` says \"{}\"",
            later.entry.id.value, later.clause, earlier.entry.id.value, earlier.clause
        );
        let help = "a model that is asked both learns neither; say in which case each holds";
        let place = later
            .text
            .at
            .of_part(later.clause.split(' ').next().unwrap_or_default());
        lints.tell(
            &[later.entry, earlier.entry],
            Diagnostic::warning(NAME, place, message, help),
        );
    }
}

fn demands(entry: &Entry) -> Vec<Demand<'_>> {
    let mut found = Vec::new();
    for (_, text) in entry.texts() {
        for sentence in text.value.split(['.', ';', '?', '!', '\n']) {
            let lower = words(sentence).collect::<Vec<_>>();
            for (adverbs, always) in [(&ALWAYS[..], true), (&NEVER[..], false)] {
                let Some(start) = adverbs.iter().find_map(|adverb| position(&lower, adverb)) else {
                    continue;
                };
                let clause = &lower[start.0..lower.len().min(start.1 + REACH)];
                let about = content_words(&lower[start.1..lower.len().min(start.1 + REACH)].join(" "));
                found.push(Demand {
                    entry,
                    text,
                    always,
                    clause: clause.join(" "),
                    about,
                });
            }
        }
    }
    found
}

/// Where the words of `phrase` stand one after the other: from the first to behind the last.
fn position(words: &[String], phrase: &str) -> Option<(usize, usize)> {
    let phrase: Vec<&str> = phrase.split(' ').collect();
    let start = words
        .windows(phrase.len())
        .position(|window| window.iter().zip(&phrase).all(|(word, wanted)| word == wanted))?;
    Some((start, start + phrase.len()))
}

fn same(a: &BTreeSet<String>, b: &BTreeSet<String>) -> bool {
    let shorter = a.len().min(b.len());
    shorter > 0 && a.intersection(b).count() as f64 >= SAME * shorter as f64
}
