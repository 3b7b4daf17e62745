//! Judge (RL-CAI, Bai et al. 2022, arXiv 2212.08073, section 4): which of two answers is better under a
//! principle?
//!
//! A judge is asked in one of three forms, and its verdict is read from the log-probabilities of the options'
//! tokens or from what it writes:
//!
//! - [`choice`]: which of two? In both orders, averaged as log-odds, so that a liking for a position cancels; at
//!   wish after a reasoning (chain of thought).
//! - [`rating`]: how good is one answer, from 1 to 5? Pairs follow from the two distributions.
//! - [`list`]: which of all answers of a row? In as many rotations; the labels of a row are transitive.
//!
//! Each step is a request and a reading, both pure. [`verdict`] reads texts, [`label`] makes preferences of votes.

pub mod choice;
pub mod label;
pub mod list;
pub mod rating;
pub mod verdict;

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{Context, Outcome, reject};
use crate::constitution::{Constitution, Principle};
use crate::engine::{Generation, Refusal, Sampling};
use crate::error::Result;
use crate::record::{Candidates, Completion, FinishReason, Message, Preference, content_id};

const STAGE: &str = "judge";

/// The bounds of a probability after a reasoning: chains of thought make a judge sure of itself, and 40 to 60 %
/// is what the paper holds it to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    pub low: f32,
    pub high: f32,
}

impl Clamp {
    pub const PAPER: Self = Self { low: 0.4, high: 0.6 };
    pub const NONE: Self = Self { low: 0.0, high: 1.0 };
}

impl Default for Clamp {
    fn default() -> Self {
        Self::PAPER
    }
}

impl FromStr for Clamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f32>().ok();
        let bounds = text.split_once(',').map(|(low, high)| (number(low), number(high)));
        match bounds {
            Some((Some(low), Some(high))) if (0.0..0.5).contains(&low) && high > 0.5 && high <= 1.0 => {
                Ok(Self { low, high })
            }
            _ => Err("expected LO,HI with 0 <= LO < 0.5 < HI <= 1, as in 0.4,0.6; 0,1 is no clamp".into()),
        }
    }
}

impl fmt::Display for Clamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.low, self.high)
    }
}

impl Serialize for Clamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the judge is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    // Which of two answers is better.
    #[default]
    Choice,
    // How good each answer is, alone.
    Rating,
    // Which of all answers of a row is the best.
    List,
}

/// What a verdict is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    /// The log-probabilities of the options' tokens.
    #[default]
    Logprobs,
    /// What the judge writes.
    Text,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JudgeConfig {
    /// Principles asked about each pair, all different; their log-odds are averaged. All of the constitution's
    /// where it has no more.
    pub principles_per_pair: usize,
    pub form: Form,
    pub reading: Reading,
    /// The judge reasons before the options of a choice are scored. Verdicts in words are explained anyway.
    pub reasoning: bool,
    /// Bounds of the probabilities after a reasoning.
    pub clamp: Clamp,
    /// Verdicts sampled of each question in each order where they are read as text.
    pub votes: usize,
    /// How reasonings and verdicts in words are drawn.
    pub sampling: Sampling,
    /// Of the pairs of a row, compare only so many whose lengths are most alike.
    pub closest: Option<usize>,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            principles_per_pair: 1,
            form: Form::Choice,
            reading: Reading::Logprobs,
            reasoning: false,
            clamp: Clamp::PAPER,
            votes: 3,
            sampling: Sampling::default(),
            closest: None,
        }
    }
}

/// Two answers to compare: `first` stands at (A) in the first order.
#[derive(Debug, Clone)]
pub struct Contest {
    pub id: String,
    pub prompt: Vec<Message>,
    pub first: Completion,
    pub second: Completion,
}

/// The contests of one row: answers to the same prompt, which are rated or ranked together.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    pub id: &'a str,
    pub contests: &'a [Contest],
}

/// Every pair of different, whole answers to a prompt. Identical ones are rejected, for nothing can be
/// learnt from them, and truncated ones unless `keep_truncated`.
pub fn contests(row: &Candidates, keep_truncated: bool) -> Vec<Outcome<Contest>> {
    let mut out = Vec::new();
    for (index, first) in row.completions.iter().enumerate() {
        for second in &row.completions[index + 1..] {
            let id = content_id([row.id.as_str(), &first.sample.to_string(), &second.sample.to_string()]);
            let truncated = |answer: &&Completion| answer.finish_reason == FinishReason::Length.as_str();
            let cut = [first, second].into_iter().find(truncated).filter(|_| !keep_truncated);
            out.push(if let Some(cut) = cut {
                Err(reject(&id, STAGE, ("an answer is truncated".into(), cut.text.clone())))
            } else if first.text.trim() == second.text.trim() {
                Err(reject(
                    &id,
                    STAGE,
                    ("the two answers are identical".into(), first.text.clone()),
                ))
            } else {
                Ok(Contest {
                    id,
                    prompt: row.prompt.clone(),
                    first: first.clone(),
                    second: second.clone(),
                })
            });
        }
    }
    if out.is_empty() {
        let reason = format!("a comparison needs two answers; the row has {}", row.completions.len());
        out.push(Err(reject(&row.id, STAGE, (reason, String::new()))));
    }
    out
}

/// Leaves of the contests of one row the `count` whose answers differ least in tokens, in their order. What was refused
/// already stays.
pub fn closest(contests: Vec<Outcome<Contest>>, count: usize) -> Vec<Outcome<Contest>> {
    let difference = |contest: &Contest| contest.first.tokens.abs_diff(contest.second.tokens);
    let mut differences: Vec<u32> = contests.iter().flatten().map(difference).collect();
    differences.sort_unstable();
    let (mut left, Some(most)) = (count, differences.get(count.wrapping_sub(1)).copied()) else {
        return contests;
    };
    // Ties at the border go to the earlier pairs.
    let below = differences.iter().filter(|difference| **difference < most).count();
    left -= below;
    let mut keep = |contest: &Outcome<Contest>| match contest {
        Err(_) => true,
        Ok(contest) if difference(contest) == most => {
            let keep = left > 0;
            left -= usize::from(keep);
            keep
        }
        Ok(contest) => difference(contest) < most,
    };
    contests.into_iter().filter(|contest| keep(contest)).collect()
}

/// The labels of contests that have nothing to do with each other, in their order.
pub fn judge<'c>(
    context: Context<'_>,
    constitution: &Constitution,
    contests: &'c [Contest],
    config: &JudgeConfig,
) -> Result<Vec<Outcome<Preference>>> {
    let group = |contest: &'c Contest| Group {
        id: &contest.id,
        contests: std::slice::from_ref(contest),
    };
    let groups: Vec<Group<'c>> = contests.iter().map(group).collect();
    judge_groups(context, constitution, &groups, config)
}

/// The labels of the contests of all groups, in their order.
pub fn judge_groups(
    context: Context<'_>,
    constitution: &Constitution,
    groups: &[Group<'_>],
    config: &JudgeConfig,
) -> Result<Vec<Outcome<Preference>>> {
    match config.form {
        Form::Choice => choice::judge(context, constitution, groups, config),
        Form::Rating => rating::judge(context, constitution, groups, config),
        Form::List => list::judge(context, constitution, groups, config),
    }
}

/// A principle that is asked about, and how much its verdict counts.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    principle: &'a Principle,
    share: f32,
}

impl<'a> Asked<'a> {
    /// The principles for the contest or group `id`.
    fn draw(context: Context<'_>, constitution: &'a Constitution, id: &str, count: usize) -> Result<Vec<Self>> {
        let drawn = constitution.draw_judges(context.seed.child(id).child("principle"), count)?;
        Ok(drawn
            .into_iter()
            .map(|(principle, share)| Self { principle, share })
            .collect())
    }

    fn question(&self) -> &'a str {
        self.principle.judge.as_deref().unwrap_or_default()
    }
}

/// The different answers of a group, sorted: however a row lists its answers, the same is asked.
fn answers_of<'a>(group: &Group<'a>) -> Vec<&'a str> {
    let both = |contest: &'a Contest| [contest.first.text.trim(), contest.second.text.trim()];
    let mut answers: Vec<&str> = group.contests.iter().flat_map(both).collect();
    answers.sort_unstable();
    answers.dedup();
    answers
}

/// Where the two answers of a contest stand among those of its group.
fn places(contest: &Contest, answers: &[&str]) -> [usize; 2] {
    // Both are there: the answers are the contests'.
    [&contest.first, &contest.second].map(|answer| answers.partition_point(|other| *other < answer.text.trim()))
}

/// What a judge wrote: its words, and whether they came to their end.
#[derive(Debug, Clone, PartialEq)]
pub struct Words {
    text: String,
    whole: bool,
}

impl Words {
    fn of(context: Context<'_>, generation: Generation) -> Self {
        Self {
            whole: context.keep_truncated || generation.finish_reason == FinishReason::Stop,
            text: generation.text,
        }
    }

    /// What `read` finds in the words. Without their end nothing is found: the verdict comes last.
    fn read<T>(&self, read: impl FnOnce(&str) -> verdict::Read<T>) -> Option<T> {
        match read(&self.text) {
            verdict::Read::Clear(found) if self.whole => Some(found),
            _ => None,
        }
    }

    /// For a vote: nothing where nothing was written.
    fn kept(&self) -> Option<String> {
        (!self.text.is_empty()).then(|| self.text.clone())
    }
}

/// The answers of an engine, or why one of them is missing.
fn served<T>(answers: impl IntoIterator<Item = Result<T, Refusal>>) -> Result<Vec<T>, String> {
    answers
        .into_iter()
        .map(|answer| answer.map_err(|Refusal(reason)| reason))
        .collect()
}

/// Log-probabilities that can be compared.
fn comparable(logprobs: Vec<f32>, count: usize) -> Result<Vec<f32>, String> {
    if logprobs.len() == count && logprobs.iter().all(|logprob| logprob.is_finite()) {
        Ok(logprobs)
    } else {
        Err(format!("the judge's log-probabilities are unusable: {logprobs:?}"))
    }
}

/// The texts that a reject keeps.
fn together<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("\n\n---\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sample: u32, tokens: u32) -> Completion {
        Completion {
            text: sample.to_string(),
            tokens,
            finish_reason: FinishReason::Stop.as_str().into(),
            logprob: 0.0,
            sample,
        }
    }

    /// Catches: pairs chosen by anything but length, more than were asked for at a tie, a refused pair lost.
    #[test]
    fn the_closest_pairs_are_those_most_alike_in_length() {
        let mut row = Candidates {
            id: "row".into(),
            prompt: vec![Message::user("q")],
            completions: [10, 30, 31, 11, 50]
                .into_iter()
                .zip(0..)
                .map(|(tokens, sample)| answer(sample, tokens))
                .collect(),
        };
        let chosen = |row: &Candidates, count| -> Vec<(u32, u32)> {
            let kept = closest(contests(row, true), count).into_iter();
            kept.filter_map(Result::ok)
                .map(|pair| (pair.first.sample, pair.second.sample))
                .collect()
        };
        assert_eq!(chosen(&row, 1), [(0, 3)]);
        assert_eq!(chosen(&row, 2), [(0, 3), (1, 2)]);
        assert_eq!(chosen(&row, 4).len(), 4);
        assert_eq!(chosen(&row, 99).len(), 10);
        row.completions[4].text = "0".into();
        assert_eq!(
            closest(contests(&row, true), 1)
                .iter()
                .filter(|pair| pair.is_err())
                .count(),
            1
        );
    }
}
