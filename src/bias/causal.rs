//! What length alone does to a judge, found by experiment: the same answer made longer without a word that matters.
//!
//! Two questions are put for every change of an answer. Against itself unchanged: what does the judge give for
//! the length? Against the other answer of its pair: how often does the verdict turn? Nothing is assumed
//! about quality, because it is the same on both sides.

use std::fmt;

use rand::Rng as _;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use super::interval::{self, Estimate};
use super::measure::sigmoid;
use crate::error::Result;
use crate::progress::Progress;
use crate::record::{Candidates, Completion, FinishReason, Message, content_id};
use crate::seed::{Rng, Seed};

/// A way to make an answer longer, or look longer, that adds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Sentences that say nothing follow it.
    Padded,
    /// It is said twice.
    Repeated,
    /// Its sentences become a list.
    Listed,
}

/// Sentences that are added to a padded answer.
const SENTENCES: usize = 3;

impl Change {
    pub const ALL: [Self; 3] = [Self::Padded, Self::Repeated, Self::Listed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Padded => "padded",
            Self::Repeated => "repeated",
            Self::Listed => "listed",
        }
    }

    /// The answer changed; nothing where there is nothing to change.
    pub fn apply(self, answer: &str, padding: &[String], rng: &mut Rng) -> Option<String> {
        let answer = answer.trim();
        if answer.is_empty() {
            return None;
        }
        match self {
            Self::Padded => {
                let added: Vec<&str> = padding.choose_multiple(rng, SENTENCES).map(String::as_str).collect();
                (!added.is_empty()).then(|| format!("{answer} {}", added.join(" ")))
            }
            Self::Repeated => {
                let between = if answer.contains('\n') { "\n\n" } else { " " };
                Some(format!("{answer}{between}{answer}"))
            }
            Self::Listed => {
                let sentences = sentences(answer);
                (sentences.len() > 1).then(|| format!("- {}", sentences.join("\n- ")))
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sentences of a text, by full stops, question and exclamation marks before a space, and by lines.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    for line in text.lines() {
        let mut begin = 0;
        let mut ended = false;
        for (at, character) in line.char_indices() {
            if ended && character.is_whitespace() {
                sentences.push(line[begin..at].trim());
                begin = at;
            }
            ended = matches!(character, '.' | '!' | '?');
        }
        sentences.push(line[begin..].trim());
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Two answers to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub id: String,
    pub prompt: Vec<Message>,
    pub answers: [Completion; 2],
}

impl Pair {
    /// The pair as a row for the judge.
    pub fn row(&self) -> Candidates {
        self.compared(self.answers.clone(), "")
    }

    fn compared(&self, mut answers: [Completion; 2], what: &str) -> Candidates {
        for (sample, answer) in (0..).zip(&mut answers) {
            answer.sample = sample;
        }
        Candidates {
            id: content_id([self.id.as_str(), what]),
            prompt: self.prompt.clone(),
            completions: answers.to_vec(),
        }
    }
}

/// An answer whose tokens nobody has counted.
pub fn answer(text: String) -> Completion {
    Completion {
        text,
        tokens: 0,
        finish_reason: FinishReason::Stop.as_str().into(),
        logprob: 0.0,
        sample: 0,
    }
}

/// One answer of a pair changed: the comparisons that the judge is asked for. The changed answer is the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The place of the pair among those planned for.
    pub pair: usize,
    pub change: Change,
    /// Which answer of the pair is changed.
    pub side: usize,
    pub against_other: Candidates,
    pub against_itself: Candidates,
}

/// Every change of every pair, of one answer drawn for each; changes that leave an answer as it is are none.
pub fn plan(pairs: &[Pair], changes: &[Change], padding: &[String], seed: Seed) -> Vec<Changed> {
    let mut planned = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        for change in changes {
            let mut rng = seed.child(&pair.id).child(change.as_str()).rng();
            let side = usize::from(rng.random_bool(0.5));
            let (unchanged, other) = (&pair.answers[side], &pair.answers[1 - side]);
            let Some(text) = change.apply(&unchanged.text, padding, &mut rng) else {
                continue;
            };
            planned.push(Changed {
                pair: index,
                change: *change,
                side,
                against_other: pair.compared([answer(text.clone()), other.clone()], change.as_str()),
                against_itself: pair.compared([answer(text), unchanged.clone()], &format!("{change} itself")),
            });
        }
    }
    planned
}

/// What the judge said of one pair and of its first answer changed, in log-odds; 0 is a tie, and nothing what
/// could not be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub prompt: String,
    pub change: Change,
    /// Of the first answer over the second.
    pub before: Option<f64>,
    /// Of the changed first answer over the second.
    pub after: Option<f64>,
    /// Of the changed first answer over itself unchanged.
    pub over_itself: Option<f64>,
}

/// What one change does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    pub change: Change,
    /// Trials in which something could be judged, and those in which nothing could.
    pub trials: u64,
    pub unjudged: u64,
    /// Log-odds that the changed answer has over itself unchanged.
    pub gain: Option<Estimate>,
    /// How often the changed answer is preferred to itself unchanged; a tie is one half.
    pub preferred: Option<Estimate>,
    /// The mean probability that it is the better of the two.
    pub probability: Option<Estimate>,
    /// Of the answers that had lost, those that win when they are changed.
    pub flips: Option<Estimate>,
    /// Of the answers that had won, those that lose when they are changed.
    pub flips_back: Option<Estimate>,
    /// The mean change of the log-odds over the other answer.
    pub shift: Option<Estimate>,
}

/// The effect of each change that was tried.
pub fn effects(trials: &[Trial], seed: Seed, progress: &dyn Progress) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    for change in Change::ALL {
        let trials: Vec<&Trial> = trials.iter().filter(|trial| trial.change == change).collect();
        if !trials.is_empty() {
            effects.push(effect(change, &trials, seed.child(change.as_str()), progress)?);
        }
    }
    Ok(effects)
}

/// Figures of an [`Effect`] that have intervals.
const FIGURES: usize = 6;

/// Rounds that `progress` hears of for each change that was tried.
pub const ROUNDS: u64 = (FIGURES * interval::RESAMPLES) as u64;

fn effect(change: Change, trials: &[&Trial], seed: Seed, progress: &dyn Progress) -> Result<Effect> {
    let clusters = interval::clusters(trials.iter().map(|trial| trial.prompt.as_str()));
    // The mean of what a trial tells, over those that tell it.
    let mean = |name: &str, value: &(dyn Fn(&Trial) -> Option<f64> + Sync)| -> Result<Option<Estimate>> {
        let estimate = interval::estimate(&clusters, seed.child(name), progress, |drawn| {
            let (mut sum, mut count) = (0.0, 0);
            for value in drawn.iter().filter_map(|index| value(trials[*index])) {
                sum += value;
                count += 1;
            }
            (count > 0).then(|| sum / f64::from(count))
        })?;
        let n = trials.iter().filter(|trial| value(trial).is_some()).count() as u64;
        Ok(estimate.map(|estimate| Estimate { n, ..estimate }))
    };
    let judged = |trial: &&&Trial| trial.over_itself.is_some() || trial.after.is_some();
    let judged = trials.iter().filter(judged).count();
    let turned = |lost: bool| {
        move |trial: &Trial| {
            let (before, after) = (trial.before?, trial.after?);
            let (before, after) = if lost { (before, after) } else { (-before, -after) };
            (before < 0.0).then(|| f64::from(u8::from(after > 0.0)))
        }
    };
    Ok(Effect {
        change,
        trials: judged as u64,
        unjudged: (trials.len() - judged) as u64,
        gain: mean("gain", &|trial| trial.over_itself)?,
        preferred: mean("preferred", &|trial| {
            trial.over_itself.map(|odds| match odds.total_cmp(&0.0) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 1.0,
            })
        })?,
        probability: mean("probability", &|trial| trial.over_itself.map(sigmoid))?,
        flips: mean("flips", &turned(true))?,
        flips_back: mean("flips_back", &turned(false))?,
        shift: mean("shift", &|trial| Some(trial.after? - trial.before?))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn changes_add_nothing() {
        let mut rng = Seed::new(1).rng();
        let padding = ["One.", "Two.", "Three.", "Four."].map(String::from);
        let padded = Change::Padded
            .apply("Yes. It is 3.5 m long!", &padding, &mut rng)
            .unwrap();
        assert!(padded.starts_with("Yes. It is 3.5 m long! "), "{padded}");
        assert_eq!(padded.split(' ').count(), 9, "{padded}");
        assert_eq!(Change::Repeated.apply("Yes.", &[], &mut rng).unwrap(), "Yes. Yes.");
        assert_eq!(
            Change::Listed
                .apply("Yes. It is 3.5 m long! Sure?\nOk", &[], &mut rng)
                .unwrap(),
            "- Yes.\n- It is 3.5 m long!\n- Sure?\n- Ok"
        );
        assert_eq!(Change::Listed.apply("Yes.", &[], &mut rng), None);
        assert_eq!(Change::Padded.apply("Yes.", &[], &mut rng), None);
        assert_eq!(Change::Repeated.apply("  ", &[], &mut rng), None);
    }

    /// Catches: flips counted over all trials instead of over the answers that had lost, or had won.
    #[test]
    fn flips_are_shares_of_those_that_can_flip() {
        let trial = |before: f64, after: f64| Trial {
            prompt: format!("{before} {after}"),
            change: Change::Padded,
            before: Some(before),
            after: Some(after),
            over_itself: Some(0.4),
        };
        let trials = [
            trial(-1.0, 0.5),
            trial(-1.0, -0.5),
            trial(1.0, 2.0),
            trial(0.5, -0.5),
            trial(0.0, 1.0),
        ];
        let effect = &effects(&trials, Seed::new(1), &Silent).unwrap()[0];
        assert_eq!(effect.flips.unwrap().value, 0.5);
        assert_eq!(effect.flips_back.unwrap().value, 0.5);
        assert_eq!((effect.flips.unwrap().n, effect.gain.unwrap().n), (2, 5));
        assert!((effect.gain.unwrap().value - 0.4).abs() < 1e-12);
        assert_eq!(effect.preferred.unwrap().value, 1.0);
    }
}
