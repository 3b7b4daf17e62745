//! The ledger of length: the same few numbers at every stage of a run, from labels to policies, so that one sees
//! whether an improvement is real or merely longer.
//!
//! What is measured where a stage ran comes in as [`Entry`]s; this module knows how they are computed and
//! what they say together, not where they are kept.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::control::Unit;
use super::interval::{self, Estimate};
use super::measure::{self, Comparison, LengthEffect};
use crate::error::Result;
use crate::progress::Silent;
use crate::record::{Preference, messages_id};
use crate::seed::Seed;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Labels,
    RewardModel,
    Policy,
}

/// The numbers of one stage. What was not measured is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The stage's name in the recipe, or the policy's.
    pub name: String,
    pub subject: Subject,
    /// What the lengths are counted in.
    pub unit: Unit,
    /// Labels, pairs or answers behind the entry.
    pub n: u64,
    /// Mean length of the answers; of chosen and rejected ones for labels.
    pub mean_length: Option<f64>,
    pub mean_length_rejected: Option<f64>,
    /// Of pairs of unequal length, the share that prefers the longer.
    pub prefer_longer: Option<Estimate>,
    /// What an answer longer by the typical difference gains at equal quality: log-odds, or reward.
    pub length_effect: Option<Estimate>,
    /// Correlation of the preference with the difference of lengths.
    pub correlation: Option<Estimate>,
    /// The fitted effect, for what follows from it.
    pub effect: Option<LengthEffect>,
    /// Of a policy against its baseline.
    pub against: Option<Against>,
    /// Of the policy against others, or by other judges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Against>,
}

/// A policy beside the one it was trained from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Against {
    pub baseline: String,
    /// The stage that measured the win rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How much longer its answers to the same prompts are.
    pub longer_by: Option<Estimate>,
    pub win_rate: Option<Estimate>,
    pub length_controlled_win_rate: Option<Estimate>,
    /// By the reward model, on the same prompts.
    pub reward_gain: Option<Estimate>,
    /// What a reward that reads the length alone would give for the same answers: the reward model's effect of length at equal
    /// quality, at the differences of length that there are.
    pub reward_gain_of_length: Option<Estimate>,
}

impl Against {
    /// The share of the reward gain that length alone explains, where there is a gain.
    pub fn share_of_length(&self) -> Option<f64> {
        let (gain, length) = (self.reward_gain?, self.reward_gain_of_length?);
        gain.is_above(0.0).then(|| length.value / gain.value)
    }

    /// Not known to be no longer than its baseline.
    fn is_longer(&self) -> bool {
        self.longer_by.is_none_or(|by| by.value > 0.0)
    }

    /// What the numbers say together.
    pub fn reading(&self) -> Reading {
        match (self.win_rate, self.length_controlled_win_rate) {
            (_, Some(controlled)) if controlled.is_above(0.5) => Reading::Better,
            // A controlled rate without an interval says nothing, not even that the lead is gone.
            (Some(raw), Some(controlled)) if raw.is_above(0.5) && controlled.interval.is_some() && self.is_longer() => {
                Reading::MerelyLonger
            }
            (_, Some(controlled)) if controlled.is_below(0.5) => Reading::Worse,
            (_, Some(_)) => Reading::Undecided,
            (_, None) => match (self.reward_gain, self.share_of_length()) {
                (Some(gain), Some(share)) if gain.is_above(0.0) && share < 0.5 => Reading::Better,
                (Some(gain), Some(_)) if gain.is_above(0.0) => Reading::MerelyLonger,
                (Some(gain), _) if gain.is_below(0.0) => Reading::Worse,
                _ => Reading::Undecided,
            },
        }
    }
}

/// Whether an improvement is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Better,
    MerelyLonger,
    Worse,
    Undecided,
}

impl Reading {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better, at equal length too",
            Self::MerelyLonger => "longer rather than better",
            Self::Worse => "worse at equal length",
            Self::Undecided => "no clear difference at equal length",
        }
    }
}

/// All entries of a run, in the order of its stages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub entries: Vec<Entry>,
}

impl Ledger {
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// A preference between two answers, as the ledger needs it: of labels, or of rewards.
#[derive(Debug, Clone, Copy)]
pub struct Compared<'a> {
    pub prompt: &'a str,
    pub comparison: Comparison,
    /// Of the chosen and of the rejected answer.
    pub lengths: [f64; 2],
}

/// The entry of a label set.
pub fn labels(name: &str, rows: &[Preference], seed: Seed) -> Result<Entry> {
    let unit = Unit::of(rows);
    let prompts: Vec<String> = rows.iter().map(|row| messages_id(&row.prompt)).collect();
    let compared: Vec<Compared<'_>> = rows
        .iter()
        .zip(&prompts)
        .map(|(row, prompt)| Compared {
            prompt,
            comparison: unit.comparison(row),
            lengths: unit.lengths(row),
        })
        .collect();
    compared_entry(name, Subject::Labels, unit, &compared, seed)
}

/// The entry of preferences between answers to one prompt.
pub fn compared_entry(name: &str, subject: Subject, unit: Unit, pairs: &[Compared<'_>], seed: Seed) -> Result<Entry> {
    let clusters = interval::clusters(pairs.iter().map(|pair| pair.prompt));
    let all: Vec<Comparison> = pairs.iter().map(|pair| pair.comparison).collect();
    let typical = measure::typical(&all);
    let estimate = |what: &str, statistic: &(dyn Fn(&[Comparison]) -> Option<f64> + Sync)| {
        interval::estimate(&clusters, seed.child(what), &Silent, |drawn| {
            let sample: Vec<Comparison> = drawn.iter().map(|index| all[*index]).collect();
            statistic(&sample)
        })
    };
    // Labels that do not tell it are no news; a reward model's rewards are what they are.
    let effect =
        measure::effect(&all).filter(|effect| subject != Subject::Labels || measure::told(&all, *effect).is_ok());
    let weights: f64 = all.iter().map(|comparison| comparison.weight).sum();
    let mean = |side: usize| {
        let sum: f64 = pairs
            .iter()
            .map(|pair| pair.comparison.weight * pair.lengths[side])
            .sum();
        (weights > 0.0).then(|| sum / weights)
    };
    Ok(Entry {
        name: name.to_owned(),
        subject,
        unit,
        n: pairs.len() as u64,
        mean_length: mean(0),
        mean_length_rejected: mean(1),
        prefer_longer: estimate("prefer_longer", &|sample| {
            measure::prefer_longer_if_many(sample, unit.equal_length())
        })?,
        length_effect: match effect {
            Some(_) => estimate("length_effect", &|sample| Some(measure::effect(sample)?.at(typical)))?,
            None => None,
        },
        correlation: estimate("correlation", &measure::correlation)?,
        effect,
        against: None,
        others: Vec::new(),
    })
}

/// One answer of a policy to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub prompt: String,
    pub tokens: u32,
    pub reward: Option<f64>,
}

/// The entry of a policy. What it is beside others comes of [`against`].
pub fn policy(name: &str, answers: &[Answered]) -> Entry {
    let tokens: f64 = answers.iter().map(|answer| f64::from(answer.tokens)).sum();
    Entry {
        name: name.to_owned(),
        subject: Subject::Policy,
        unit: Unit::Tokens,
        n: answers.len() as u64,
        mean_length: (!answers.is_empty()).then(|| tokens / answers.len() as f64),
        mean_length_rejected: None,
        prefer_longer: None,
        length_effect: None,
        correlation: None,
        effect: None,
        against: None,
        others: Vec::new(),
    }
}

/// Answers beside those of the baseline to the same prompts. `effect` is the reward model's.
pub fn against(
    answers: &[Answered],
    baseline: &str,
    others: &[Answered],
    effect: Option<LengthEffect>,
    seed: Seed,
) -> Result<Against> {
    let others: HashMap<&str, &Answered> = others.iter().map(|other| (other.prompt.as_str(), other)).collect();
    let pairs: Vec<(&Answered, &Answered)> = answers
        .iter()
        .filter_map(|answer| Some((answer, *others.get(answer.prompt.as_str())?)))
        .collect();
    let clusters = interval::clusters(pairs.iter().map(|(answer, _)| answer.prompt.as_str()));
    let longer = |index: usize| f64::from(pairs[index].0.tokens) - f64::from(pairs[index].1.tokens);
    let mean = |what: &str, value: &(dyn Fn(usize) -> Option<f64> + Sync)| {
        interval::estimate(&clusters, seed.child(what), &Silent, |drawn| {
            let values: Option<Vec<f64>> = drawn.iter().map(|index| value(*index)).collect();
            let values = values.filter(|values| !values.is_empty())?;
            Some(values.iter().sum::<f64>() / values.len() as f64)
        })
    };
    let gain = mean("reward_gain", &|index| {
        Some(pairs[index].0.reward? - pairs[index].1.reward?)
    })?;
    let of_length = match effect.filter(|_| gain.is_some()) {
        Some(effect) => mean("reward_gain_of_length", &|index| Some(effect.at(longer(index))))?,
        None => None,
    };
    Ok(Against {
        baseline: baseline.to_owned(),
        longer_by: mean("longer_by", &|index| Some(longer(index)))?,
        reward_gain: gain,
        reward_gain_of_length: of_length,
        ..Against::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::interval::Interval;
    use super::*;

    fn answers(tokens: u32, reward: f64) -> Vec<Answered> {
        (0..40)
            .map(|index| Answered {
                prompt: index.to_string(),
                tokens: tokens + index % 3,
                reward: Some(reward + 0.01 * f64::from(index % 5)),
            })
            .collect()
    }

    /// Catches: a gain that length explains told as a real one, and the other way round.
    #[test]
    fn a_gain_that_is_length_is_said_to_be_length() {
        let effect = Some(LengthEffect {
            slope: 1.0,
            scale: 10.0,
        });
        let base = answers(20, 0.0);
        let told = |policy: &[Answered]| {
            let against = against(policy, "sft", &base, effect, Seed::new(1)).unwrap();
            (against.reading(), against.share_of_length())
        };
        let (reading, share) = told(&answers(30, 0.8));
        assert_eq!(reading, Reading::MerelyLonger);
        assert!((share.unwrap() - 1.0_f64.tanh() / 0.8).abs() < 1e-6);
        assert_eq!(told(&answers(20, 0.8)), (Reading::Better, Some(0.0)));
        assert_eq!(told(&answers(30, -0.5)).0, Reading::Worse);
    }

    #[test]
    fn win_rates_decide_where_there_are_some() {
        let estimate = |value: f64| {
            Some(Estimate {
                value,
                interval: Some(Interval {
                    low: value - 0.05,
                    high: value + 0.05,
                }),
                n: 100,
            })
        };
        let reading = |raw, controlled| {
            Against {
                win_rate: estimate(raw),
                length_controlled_win_rate: estimate(controlled),
                ..Against::default()
            }
            .reading()
        };
        assert_eq!(reading(0.7, 0.65), Reading::Better);
        assert_eq!(reading(0.7, 0.52), Reading::MerelyLonger);
        assert_eq!(reading(0.5, 0.5), Reading::Undecided);
        assert_eq!(reading(0.6, 0.4), Reading::MerelyLonger);
        assert_eq!(reading(0.4, 0.4), Reading::Worse);
    }
}
