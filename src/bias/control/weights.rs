//! `weight` weighs pairs so that verdict and length go together no more: inverse propensity weights (Rosenbaum and Rubin
//! 1983), the propensity being the probability that the longer answer is the one chosen, given how decided the label is
//! and how unlike the lengths are.
//!
//! Labels stay what they are. Weights have mean 1 and are cut at a tenth of and at ten times it, so that no single pair can rule.

use crate::bias::interval::{self, Estimate};
use crate::bias::logistic::{self, Observation};
use crate::bias::measure::sigmoid;
use crate::error::Result;
use crate::progress::Progress;
use crate::record::{Preference, messages_id};
use crate::seed::Seed;

use super::Unit;

/// Weights are cut here, and at the inverse.
const MOST: f64 = 10.0;

/// Bounds the coefficients where one side is never chosen.
const RIDGE: f64 = 1e-2;

/// What the weights were found to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// One a row.
    pub weights: Vec<f64>,
    /// Pairs of equal weight that would tell as much (Kish 1965).
    pub effective: f64,
    /// How often the longer of two answers is the chosen one; without an interval all weights are 1.
    pub longer: Option<Estimate>,
}

/// Weights of the rows. Where the longer answer is chosen about as often as the other, or that cannot be said, all are 1.
/// `progress` hears of [`RESAMPLES`](interval::RESAMPLES) rounds.
pub fn fit(rows: &[Preference], seed: Seed, progress: &dyn Progress) -> Result<Weights> {
    let unit = Unit::of(rows);
    let unequal: Vec<(usize, f64, bool)> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (index, unit.difference(row)))
        .filter(|(_, difference)| *difference != 0.0)
        .map(|(index, difference)| (index, difference.abs(), difference > 0.0))
        .collect();
    let mut weights = vec![1.0; rows.len()];
    let longer = longer(rows, &unequal, seed, progress)?;
    if longer.is_some_and(|share| share.is_above(0.5) || share.is_below(0.5)) {
        let scale = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value * value, n + 1.0));
            (sum / f64::max(n, 1.0)).sqrt().max(1e-9)
        };
        let length = scale(&mut unequal.iter().map(|(_, difference, _)| *difference));
        let margin = scale(&mut rows.iter().map(|row| f64::from(row.margin)));
        let features =
            |index: usize, difference: f64| [1.0, difference / length, f64::from(rows[index].margin) / margin];
        let points: Vec<Observation<3>> = unequal
            .iter()
            .map(|(index, difference, longer)| Observation {
                x: features(*index, *difference),
                offset: 0.0,
                target: f64::from(u8::from(*longer)),
            })
            .collect();
        // With the ridge there is a fit, whatever the labels; were there none, all would weigh alike.
        if let Ok(propensity) = logistic::fit(&points, |_| 1.0, &[RIDGE; 3], [0.0; 3]) {
            for ((index, _, longer), point) in unequal.iter().zip(&points) {
                let p = sigmoid(point.log_odds(&propensity));
                weights[*index] = 0.5 / if *longer { p } else { 1.0 - p };
            }
            normalise(&mut weights);
        }
    }
    let (sum, squares) = weights
        .iter()
        .fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
    Ok(Weights {
        effective: if squares > 0.0 { sum * sum / squares } else { 0.0 },
        weights,
        longer,
    })
}

/// The share of pairs of unequal length in which the longer answer is chosen.
fn longer(
    rows: &[Preference],
    unequal: &[(usize, f64, bool)],
    seed: Seed,
    progress: &dyn Progress,
) -> Result<Option<Estimate>> {
    let clusters = interval::clusters(unequal.iter().map(|(index, ..)| messages_id(&rows[*index].prompt)));
    interval::estimate(&clusters, seed, progress, |drawn| {
        let longer = drawn.iter().filter(|index| unequal[**index].2).count();
        (!drawn.is_empty()).then(|| longer as f64 / drawn.len() as f64)
    })
}

fn normalise(weights: &mut [f64]) {
    for _ in 0..2 {
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        for weight in weights.iter_mut() {
            *weight = (*weight / mean).clamp(1.0 / MOST, MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::residual::tests::planted;
    use super::*;
    use crate::bias::measure::prefer_longer;
    use crate::progress::Silent;
    use crate::record::Message;

    fn fit(rows: &[Preference], seed: u64) -> Weights {
        super::fit(rows, Seed::new(seed), &Silent).unwrap()
    }

    fn weighted(rows: &[Preference], weights: &[f64]) -> f64 {
        let comparisons = rows
            .iter()
            .zip(weights)
            .map(|(row, weight)| crate::bias::measure::Comparison {
                weight: *weight,
                ..Unit::Tokens.comparison(row)
            });
        prefer_longer(comparisons, Unit::Tokens.equal_length()).unwrap()
    }

    /// Catches: weights that leave the longer answer ahead, or that one pair rules.
    #[test]
    fn weighed_labels_lean_to_neither_side() {
        let rows = planted(0.7, 0.5, 3);
        let found = fit(&rows, 1);
        assert!(weighted(&rows, &vec![1.0; rows.len()]) > 0.6);
        let after = weighted(&rows, &found.weights);
        assert!((after - 0.5).abs() < 0.05, "{after}");
        assert!((found.weights.iter().sum::<f64>() / rows.len() as f64 - 1.0).abs() < 0.05);
        assert!(
            found.effective < rows.len() as f64 && found.effective > 100.0,
            "{}",
            found.effective
        );
    }

    #[test]
    fn labels_without_a_bias_weigh_alike() {
        let found = fit(&planted(0.0, 0.5, 4), 1);
        assert!(found.weights.iter().all(|weight| *weight == 1.0));
    }

    /// Catches: weights by a share of which nobody can say that it is none of chance.
    #[test]
    fn labels_of_one_prompt_weigh_alike() {
        let mut rows = planted(0.7, 0.5, 3);
        rows.iter_mut().for_each(|row| row.prompt = vec![Message::user("hi")]);
        let found = fit(&rows, 1);
        assert!(found.weights.iter().all(|weight| *weight == 1.0));
        assert!(found.longer.unwrap().value > 0.6 && found.longer.unwrap().interval.is_none());
    }
}
