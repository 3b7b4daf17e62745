//! How well preferences agree with the ground truth, and how much they lean towards the longer of two
//! equally good answers: for a judge's labels and for a reward model.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::asked;
use crate::bias::control::matching::Caliper;
use crate::bias::control::residual::{self, Fitted, without_length};
use crate::bias::control::{Unit, weights};
use crate::bias::measure::{Comparison, EQUAL_LENGTH, mean, prefer_longer, sigmoid};
use crate::error::{Error, Result};
use crate::progress::Silent;
use crate::record::{CHOSEN_FIRST, Candidates, Preference, REJECTED_FIRST, Vote};
use crate::report::JudgeFigures;
use crate::seed::Seed;
use crate::train::batch::Encoder;
use crate::train::pairs::answer_text;
use crate::train::reward::RewardModel;
use crate::world::Oracle;

/// How one reward model does on pairs of known quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardScore {
    /// Share of clear pairs on which the better answer gets the higher reward.
    pub accuracy: f64,
    pub prefer_longer_on_ties: Option<f64>,
    /// Clear pairs, and equally good ones.
    pub clear: u64,
    pub ties: u64,
}

/// Scores labels that a judge gave to pairs of known quality: on clear pairs, how often the better
/// answer wins in both orders (`accuracy`) and how often both orders agree; on equally good ones, how
/// often the longer wins, before and after length control as `fitted` on other pairs.
pub fn judge(oracle: &Oracle, labels: &[Preference], fitted: Option<&Fitted>) -> Result<JudgeFigures> {
    let (mut clear, mut right, mut consistent) = (0u32, 0u32, 0u32);
    let mut ties = Vec::new();
    for row in labels {
        let pair = asked(oracle, &row.prompt)?;
        let (chosen, rejected) = (answer_text(&row.chosen), answer_text(&row.rejected));
        let truth = oracle.compare(pair, &chosen, &rejected);
        if truth == Ordering::Equal {
            ties.push(row.clone());
            continue;
        }
        let orders = by_order(&row.votes);
        let all = |wanted: Option<bool>| !orders.is_empty() && orders.iter().all(|order| *order == wanted);
        clear += 1;
        consistent += u32::from(all(Some(true)) || all(Some(false)));
        right += u32::from(all(Some(truth == Ordering::Greater)));
    }
    let share = |count: u32| (clear > 0).then(|| f64::from(count) / f64::from(clear));
    Ok(JudgeFigures {
        accuracy: share(right),
        order_consistency: share(consistent),
        prefer_longer_on_ties_before: prefer_longer(ties.iter().map(comparison), EQUAL_LENGTH),
        prefer_longer_on_ties_after: fitted.and_then(|fitted| {
            let after = ties.iter().map(|row| comparison(&without_length(row, fitted)));
            prefer_longer(after, EQUAL_LENGTH)
        }),
    })
}

/// Whether the votes of each order that was asked are for the chosen answer; `None` of an order that cannot tell.
fn by_order(votes: &[Vote]) -> Vec<Option<bool>> {
    let order = |order: &str| {
        let log_odds: Vec<f32> = votes
            .iter()
            .filter(|vote| vote.order == order)
            .map(|vote| vote.log_odds_chosen().unwrap_or(0.0))
            .collect();
        let told = (!log_odds.is_empty()).then(|| log_odds.iter().sum::<f32>().partial_cmp(&0.0));
        told.map(|told| match told {
            Some(Ordering::Greater) => Some(true),
            Some(Ordering::Less) => Some(false),
            Some(Ordering::Equal) | None => None,
        })
    };
    [CHOSEN_FIRST, REJECTED_FIRST].into_iter().filter_map(order).collect()
}

/// What one length control makes of labels of known quality; it is fitted on the labels alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlFigures {
    pub control: String,
    pub labels: u64,
    /// How often the longer of two equally good answers is preferred, by weight.
    pub prefer_longer_on_ties: Option<f64>,
    /// The mean probability of the longer of the two.
    pub longer_probability_on_ties: Option<f64>,
    /// How often the better answer of a clear pair is the chosen one, by weight.
    pub accuracy: Option<f64>,
}

/// Tries every control of `balance`, and none, on labels of known quality.
pub fn controls(oracle: &Oracle, labels: &[Preference], seed: Seed) -> Result<Vec<ControlFigures>> {
    let unit = Unit::of(labels);
    let caliper = Caliper { unit, most: None };
    let mut tried = vec![control_figures(oracle, "none", labels)?];
    // Where the labels cannot tell, `balance` refuses them, and there is nothing to try.
    if let Ok(fitted) = residual::fit(labels, seed, &Silent)? {
        let after: Vec<Preference> = labels.iter().map(|row| without_length(row, &fitted)).collect();
        tried.push(control_figures(oracle, "residual", &after)?);
    }
    let alike: Vec<Preference> = labels
        .iter()
        .filter(|row| caliper.refuses(row).is_none())
        .cloned()
        .collect();
    tried.push(control_figures(oracle, "match", &alike)?);
    let found = weights::fit(labels, seed, &Silent)?.weights;
    let weighed = labels.iter().zip(found).map(|(row, weight)| Preference {
        weight: row.weight * weight as f32,
        ..row.clone()
    });
    tried.push(control_figures(oracle, "weight", &weighed.collect::<Vec<_>>())?);
    Ok(tried)
}

fn control_figures(oracle: &Oracle, control: &str, labels: &[Preference]) -> Result<ControlFigures> {
    let unit = Unit::of(labels);
    let mut ties = Vec::new();
    let (mut right, mut clear) = (0.0, 0.0);
    for row in labels {
        let pair = asked(oracle, &row.prompt)?;
        let weight = f64::from(row.weight);
        match oracle.compare(pair, &answer_text(&row.chosen), &answer_text(&row.rejected)) {
            Ordering::Equal => ties.push(unit.comparison(row)),
            truth => {
                clear += weight;
                right += weight * f64::from(u8::from(truth == Ordering::Greater));
            }
        }
    }
    let unequal: Vec<Comparison> = ties
        .iter()
        .copied()
        .filter(|tie| tie.length_difference != 0.0)
        .collect();
    let longer = |tie: &Comparison| sigmoid(tie.preference * tie.length_difference.signum());
    Ok(ControlFigures {
        control: control.to_owned(),
        labels: labels.len() as u64,
        prefer_longer_on_ties: prefer_longer(ties, unit.equal_length()),
        longer_probability_on_ties: (!unequal.is_empty()).then(|| mean(&unequal, longer)),
        accuracy: (clear > 0.0).then(|| right / clear),
    })
}

fn comparison(row: &Preference) -> Comparison {
    Unit::Tokens.comparison(row)
}

/// Scores a reward model on pairs of known quality.
pub fn reward(
    oracle: &Oracle,
    model: &RewardModel,
    encoder: &Encoder<'_>,
    contests: &[Candidates],
) -> Result<RewardScore> {
    let mut sequences = Vec::with_capacity(2 * contests.len());
    for row in contests {
        let [first, second] = row.completions.as_slice() else {
            return Err(Error::input(format!(
                "the contest {} does not have two answers",
                row.id
            )));
        };
        for completion in [first, second] {
            sequences.push(encoder.answer(&row.prompt, &completion.text)?);
        }
    }
    let rewards = model.score(&sequences)?;
    let (mut clear, mut right) = (0u32, 0u32);
    let mut ties = Vec::new();
    for (index, row) in contests.iter().enumerate() {
        let pair = asked(oracle, &row.prompt)?;
        let (first, second) = (2 * index, 2 * index + 1);
        let difference = rewards[first] - rewards[second];
        match oracle.compare(pair, &row.completions[0].text, &row.completions[1].text) {
            Ordering::Equal => ties.push(Comparison {
                preference: f64::from(difference),
                length_difference: sequences[first].completion_len() as f64 - sequences[second].completion_len() as f64,
                weight: 1.0,
            }),
            truth => {
                clear += 1;
                right += u32::from(difference.total_cmp(&0.0) == truth);
            }
        }
    }
    Ok(RewardScore {
        accuracy: f64::from(right) / f64::from(clear.max(1)),
        prefer_longer_on_ties: prefer_longer(ties.iter().copied(), EQUAL_LENGTH),
        clear: u64::from(clear),
        ties: ties.len() as u64,
    })
}
