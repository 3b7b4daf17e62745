//! Statistics of rows: what a person wants to know of data before training on it.
//!
//! Rows go by once, and a second time for the few that may be near duplicates; what is kept of each takes
//! about 900 bytes (a MinHash signature of 512, and two hashes in tables). Nothing here reads files or prints.

pub mod columns;
pub mod effect;
pub mod languages;
pub mod lengths;
pub mod minhash;
mod near;
mod specimen;
mod stats;
pub mod usage;
pub mod words;

use std::collections::{BTreeMap, HashMap};

use rand::Rng as _;
use sha2::{Digest, Sha256};

pub use self::near::{DuplicateStats, Near, NearGroup, Repeated};
pub use self::specimen::{Answer, Sameness, Specimen, Surveyed};
pub use self::stats::{AnswerStats, Interval, LanguageStats, PreferenceStats, RejectReason, SurveyStats, TextStats};

use self::columns::Columns;
use self::languages::Failure;
use self::lengths::Lengths;
use self::minhash::MinHash;
use crate::bias::measure::{Comparison, EQUAL_LENGTH, prefer_longer};
use crate::error::{Error, Result};
use crate::record::{Reject, content_id};
use crate::seed::Seed;

/// Counts the tokens of a text.
pub type CountTokens<'a> = &'a dyn Fn(&str) -> Result<usize>;

pub struct SurveyConfig<'a> {
    /// Rows of at least this similarity (Jaccard, of runs of five words) are near duplicates; in 0..=1.
    pub near: f64,
    /// Without it, tokens are not counted.
    pub tokens: Option<CountTokens<'a>>,
    /// Chooses the sample rows.
    pub seed: Seed,
    /// Rows to keep as a sample.
    pub samples: usize,
}

/// Collects statistics of rows of one kind.
pub struct Survey<'a, R> {
    config: SurveyConfig<'a>,
    rows: u64,
    columns: Columns,
    roles: BTreeMap<String, u64>,
    turns: BTreeMap<usize, u64>,
    sources: BTreeMap<String, u64>,
    tags: BTreeMap<String, u64>,
    /// By name, in the order of the first row.
    texts: Vec<(&'static str, Measured)>,
    answers: Vec<AnswerStats>,
    languages: BTreeMap<&'static str, LanguageStats>,
    rejects: u64,
    reasons: BTreeMap<String, RejectReason>,
    /// By the hash of the content: the first row with it, and how many there are.
    contents: HashMap<u128, (u32, u32)>,
    prompts: HashMap<u128, u32>,
    signatures: MinHash,
    labels: Labels,
    /// The rows whose ids have the lowest hashes.
    samples: Vec<(u64, R)>,
}

#[derive(Default)]
struct Measured {
    chars: Lengths,
    words: Lengths,
    tokens: Lengths,
}

/// What is counted of soft labels.
#[derive(Default)]
struct Labels {
    /// `p_chosen` from 0.5 in steps of 0.05.
    bins: [u64; 10],
    rows: u64,
    ties: u64,
    compared: u64,
    longer: f64,
}

impl<'a, R: Surveyed> Survey<'a, R> {
    pub fn new(config: SurveyConfig<'a>) -> Self {
        Self {
            // The permutations are no choice of the user's: the same data give the same groups.
            signatures: MinHash::new(Seed::new(0)),
            config,
            rows: 0,
            columns: Columns::default(),
            roles: BTreeMap::new(),
            turns: BTreeMap::new(),
            sources: BTreeMap::new(),
            tags: BTreeMap::new(),
            texts: Vec::new(),
            answers: Vec::new(),
            languages: BTreeMap::new(),
            rejects: 0,
            reasons: BTreeMap::new(),
            contents: HashMap::new(),
            prompts: HashMap::new(),
            labels: Labels::default(),
            samples: Vec::new(),
        }
    }

    /// Takes the next row.
    pub fn add(&mut self, row: &R) -> Result<()> {
        let index = u32::try_from(self.rows).map_err(|_| {
            Error::input("more than four thousand million rows").help("inspect the shards of a part of the data")
        })?;
        self.rows += 1;
        let value = serde_json::to_value(row).map_err(|error| Error::unexpected("a row").because(error))?;
        self.columns.add(&value);
        let specimen = row.specimen();
        self.conversation(&specimen);
        let lengths = self.lengths(&specimen)?;
        self.outcomes(&specimen);
        self.label(&specimen, &lengths);
        self.duplicates(index, &specimen);
        let key = self.config.seed.child(specimen.id).rng().random();
        self.sample(key, row);
        Ok(())
    }

    /// Takes a row that could not be used.
    pub fn reject(&mut self, reject: &Reject) {
        self.rejects += 1;
        let language = languages::of(&reject.raw);
        self.languages.entry(language).or_default().rejects += 1;
        let reason = general(&reject.reason);
        let entry = self.reasons.entry(format!("{}: {reason}", reject.stage));
        let found = entry.or_insert_with(|| RejectReason {
            stage: reject.stage.clone(),
            reason,
            count: 0,
            example: excerpt(&reject.raw),
        });
        found.count += 1;
    }

    fn conversation(&mut self, specimen: &Specimen<'_>) {
        for message in specimen.prompt {
            count(&mut self.roles, &message.role);
        }
        *self.turns.entry(specimen.prompt.len()).or_default() += 1;
        if let Some(source) = specimen.source {
            count(&mut self.sources, source);
        }
        for tag in specimen.tags.into_iter().flatten() {
            count(&mut self.tags, tag);
        }
    }

    /// Measures the texts; answers the length of each answer in tokens, or words where nobody counts tokens.
    fn lengths(&mut self, specimen: &Specimen<'_>) -> Result<Vec<f32>> {
        let prompt = specimen.prompt_text();
        if !prompt.is_empty() {
            self.measure("prompt", &prompt)?;
        }
        let answers = specimen.answers.iter();
        answers.map(|answer| self.measure(answer.name, &answer.text)).collect()
    }

    fn measure(&mut self, name: &'static str, text: &str) -> Result<f32> {
        let tokens = self.config.tokens.map(|count| count(text)).transpose()?;
        let words = words::count(text);
        let measured = entry(
            &mut self.texts,
            |(other, _)| *other == name,
            || (name, Measured::default()),
        );
        measured.1.chars.add(text.chars().count());
        measured.1.words.add(words);
        if let Some(tokens) = tokens {
            measured.1.tokens.add(tokens);
        }
        Ok(tokens.unwrap_or(words) as f32)
    }

    /// Counts failures of the answers, by the language of the prompt or, if it is unsure, of the whole row.
    fn outcomes(&mut self, specimen: &Specimen<'_>) {
        let mut failed = false;
        for answer in &specimen.answers {
            let failure = languages::failure(&answer.text);
            let stats = entry(
                &mut self.answers,
                |stats| stats.name == answer.name,
                || AnswerStats::new(answer.name),
            );
            stats.count += 1;
            stats.empty += u64::from(failure == Some(Failure::Empty));
            stats.refusals += u64::from(failure == Some(Failure::Refusal));
            stats.truncated += u64::from(answer.truncated);
            failed |= answer.result && failure.is_some();
        }
        // A short prompt alone says little; with its answers it may say enough.
        let language = match languages::of(&specimen.prompt_text()) {
            languages::UNSURE => languages::of(&specimen.content()),
            language => language,
        };
        let language = self.languages.entry(language).or_default();
        language.rows += 1;
        language.failures += u64::from(failed);
    }

    fn label(&mut self, specimen: &Specimen<'_>, lengths: &[f32]) {
        let (Some(p), [chosen, rejected]) = (specimen.p_chosen, lengths) else {
            return;
        };
        let labels = &mut self.labels;
        labels.rows += 1;
        labels.ties += u64::from(p == 0.5);
        // NaN and what is out of range are for `data validate`; here they stand at an end.
        labels.bins[(((p - 0.5) * 20.0).max(0.0) as usize).min(9)] += 1;
        let comparison = Comparison {
            preference: f64::from(p - 0.5),
            length_difference: f64::from(chosen - rejected),
            weight: 1.0,
        };
        if let Some(longer) = prefer_longer([comparison], EQUAL_LENGTH) {
            labels.compared += 1;
            labels.longer += longer;
        }
    }

    fn duplicates(&mut self, index: u32, specimen: &Specimen<'_>) {
        let parts = specimen
            .prompt
            .iter()
            .flat_map(|message| [message.role.as_str(), message.content.as_str()])
            .chain(["answers", specimen.prefix])
            .chain(specimen.answers.iter().map(|answer| answer.text.as_ref()));
        let found = self.contents.entry(hash(&content_id(parts))).or_insert((index, 0));
        found.1 += 1;
        if found.1 == 1 {
            // Exact copies are known; only the first is compared with other texts.
            self.signatures.add(index, &words::shingles(&specimen.content()));
        }
        *self.prompts.entry(hash(&specimen.key(Sameness::Prompt))).or_default() += 1;
    }

    fn sample(&mut self, key: u64, row: &R) {
        let place = self.samples.partition_point(|(other, _)| *other <= key);
        if place < self.config.samples {
            self.samples.insert(place, (key, row.clone()));
            self.samples.truncate(self.config.samples);
        }
    }
}

fn hash(text: &str) -> u128 {
    let digest = Sha256::digest(text);
    digest[..16].iter().fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

/// The first that `is` it, or a new one at the end.
fn entry<T>(all: &mut Vec<T>, is: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let index = all.iter().position(is).unwrap_or_else(|| {
        all.push(new());
        all.len() - 1
    });
    &mut all[index]
}

/// A reason without what it says of one row: the place before it, and numbers.
fn general(reason: &str) -> String {
    let place = |text: &str| {
        let last = text.rsplit(", ").next().unwrap_or(text);
        ["line ", "row "].iter().any(|word| last.starts_with(word))
    };
    let reason = match reason.split_once(": ") {
        Some((before, rest)) if place(before) => rest,
        _ => reason,
    };
    let mut general = String::with_capacity(reason.len());
    for character in reason.chars() {
        match character.is_ascii_digit() {
            true if general.ends_with('N') => {}
            true => general.push('N'),
            false => general.push(character),
        }
    }
    general
}

/// The beginning of a text, on one line.
fn excerpt(text: &str) -> String {
    const CHARS: usize = 100;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: reasons that differ in a line number alone listed one by one.
    #[test]
    fn reasons_are_told_without_their_place() {
        assert_eq!(general("line 12: `prompt` is missing"), "`prompt` is missing");
        assert_eq!(general("a.jsonl, row 3: has 12 of 5"), "has N of N");
        assert_eq!(general("the answer: cut off"), "the answer: cut off");
    }
}
