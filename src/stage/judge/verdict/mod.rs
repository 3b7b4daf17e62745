//! Reads what a judge wrote: which of two options it names, how it rates one, how it ranks several.
//!
//! The rules, in the order of what is trusted: a verdict in the form that was asked for, `[[A]]`, the last one
//! that is meant; a verdict in another fixed form (JSON, a tag); a labelled one (`Verdict: A`); a sentence that
//! says which is better, concluding ones before others. Where two claims of the same standing differ, nothing is
//! read. So a judge that says nothing, refuses, or contradicts itself yields [`Read::Unparsed`], never a guess.
//!
//! Only the judge's own words come here, never the answers that it compares; what it quotes of them is not
//! taken for its verdict. Exchanging the options' names in a text exchanges the verdict.

mod claims;
mod fixed;
mod grades;
mod tokens;

use self::claims::Claim;
use self::tokens::{Sentence, Token, sentences};

/// What a text says.
#[derive(Debug, Clone, PartialEq)]
pub enum Read<T> {
    Clear(T),
    /// Nothing, or two things.
    Unparsed {
        raw: String,
    },
}

/// One of two options, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    A,
    B,
    Tie,
}

impl Pick {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            Self::Tie => Self::Tie,
        }
    }
}

impl<T> Read<T> {
    fn of(found: Option<T>, raw: &str) -> Self {
        found.map_or_else(|| Self::Unparsed { raw: raw.to_owned() }, Self::Clear)
    }
}

/// What is found at one level of trust.
enum Found<T> {
    Nothing,
    One(T),
    /// Claims of equal standing that differ, or one that is no answer to the question.
    Unclear,
}

impl<T> Found<T> {
    /// What this level says, or else the next one. A level that is unclear ends the search.
    fn or(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Nothing => next(),
            found => found,
        }
    }

    fn clear(self) -> Option<T> {
        match self {
            Self::One(found) => Some(found),
            Self::Nothing | Self::Unclear => None,
        }
    }
}

/// Which of two answers a text calls better. Without `ties` the judge was not offered to call them equal, and
/// if it does nothing is read.
pub fn choice(text: &str, ties: bool) -> Read<Pick> {
    let found = marked(text, fixed::pick)
        .or(|| fixed::structured(text, fixed::CHOICE_KEYS, |value| fixed::pick(value.as_str()?)))
        .or(|| stated(text));
    Read::of(found.clear().filter(|pick| ties || *pick != Pick::Tie), text)
}

/// How a text rates an answer, from 1 to `best`.
pub fn rating(text: &str, best: usize) -> Read<usize> {
    let whole = |text: &str| fixed::rating(text, best);
    let found = marked(text, |inside| Some(whole(inside)))
        .or(|| {
            fixed::structured(text, fixed::RATING_KEYS, |value| match value {
                serde_json::Value::Number(number) => Some(whole(&number.to_string())),
                value => Some(whole(value.as_str()?)),
            })
        })
        .or(|| grades::rating(text, best));
    // A mark that is no rating (`[[7]]`) is a claim that cannot be used.
    Read::of(found.clear().flatten(), text)
}

/// How a text ranks `count` options: the rank of each, 0 the best, equal ones the same.
pub fn ranking(text: &str, count: usize) -> Read<Vec<usize>> {
    let chain = |text: &str| fixed::ranking(text, count);
    let found = marked(text, chain)
        .or(|| {
            fixed::structured(text, fixed::RANKING_KEYS, |value| match value {
                serde_json::Value::Array(items) => {
                    let letters: Option<Vec<&str>> = items.iter().map(serde_json::Value::as_str).collect();
                    chain(&letters?.join(">"))
                }
                value => chain(value.as_str()?),
            })
        })
        .or(|| grades::ranking(text, count));
    Read::of(found.clear(), text)
}

/// The last `[[…]]` that is meant. Two different ones with nothing said between them are a contradiction.
fn marked<T: PartialEq + Clone>(text: &str, read: impl Fn(&str) -> Option<T>) -> Found<T> {
    let marks = fixed::marks(text);
    // What the judge quotes counts only if it marks nothing itself.
    let own = marks.iter().any(|mark| !mark.quoted);
    let meant: Vec<_> = marks
        .iter()
        .filter(|mark| mark.quoted != own)
        .filter_map(|mark| Some((mark, read(mark.inside)?)))
        .collect();
    match meant.as_slice() {
        [] => Found::Nothing,
        [(_, found)] => Found::One(found.clone()),
        [.., (before, one), (last, other)] => {
            if one != other && !fixed::says_something(&text[before.end..last.start]) {
                Found::Unclear
            } else {
                Found::One(other.clone())
            }
        }
    }
}

/// The claim of the highest standing; if several have it they must agree.
fn highest<T: PartialEq + Copy>(claims: &[Claim<T>]) -> Found<T> {
    let Some(standing) = claims.iter().map(|claim| claim.standing).max() else {
        return Found::Nothing;
    };
    let mut best = claims
        .iter()
        .filter(|claim| claim.standing == standing)
        .map(|claim| claim.what);
    match best.next() {
        Some(first) if best.all(|other| other == first) => Found::One(first),
        _ => Found::Unclear,
    }
}

/// What the sentences of a text claim.
fn stated(text: &str) -> Found<Pick> {
    let sentences = sentences(text);
    let count = sentences.len();
    let claims: Vec<Claim<Pick>> = sentences
        .iter()
        .enumerate()
        .flat_map(|(index, sentence)| claims::of_sentence(sentence, index + 1 == count))
        .collect();
    highest(&claims)
}
