//! How much a preference leans towards the longer answer.

use serde::{Deserialize, Serialize};

/// A comparison: how strongly the first answer is preferred (log-odds or a reward difference), how much longer it
/// is, and what the comparison weighs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    pub preference: f64,
    pub length_difference: f64,
    pub weight: f64,
}

/// Answers of which neither is longer by more than this many tokens count as equally long.
pub const EQUAL_LENGTH: f64 = 5.0;

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Log-odds of a probability; those of certainty are cut at the odds of a million to one.
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

/// The share of comparisons of unequal length that prefer the longer answer; one half is no bias. An
/// exact tie counts one half. Lengths no further apart than `equal` are equal. `None` without such comparisons.
pub fn prefer_longer(comparisons: impl IntoIterator<Item = Comparison>, equal: f64) -> Option<f64> {
    let (mut weights, mut longer) = (0.0, 0.0);
    for comparison in comparisons {
        if comparison.length_difference.abs() <= equal {
            continue;
        }
        weights += comparison.weight;
        let towards_longer = comparison.preference * comparison.length_difference.signum();
        longer += comparison.weight
            * match towards_longer.total_cmp(&0.0) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
    }
    (weights > 0.0).then(|| longer / weights)
}

/// Fewer comparisons of unequal length than this make no share worth telling.
const FEW: usize = 20;

/// The share of [`prefer_longer`], where there are enough comparisons for one.
pub fn prefer_longer_if_many(comparisons: &[Comparison], equal: f64) -> Option<f64> {
    let unequal = |comparison: &&Comparison| comparison.length_difference.abs() > equal;
    let many = comparisons.iter().filter(unequal).count() >= FEW;
    many.then(|| prefer_longer(comparisons.iter().copied(), equal))
        .flatten()
}

/// What length alone does to a preference: `slope · tanh(difference / scale)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LengthEffect {
    /// Log-odds that an answer gains by being much longer.
    pub slope: f64,
    /// Difference of lengths at which the effect levels off.
    pub scale: f64,
}

impl LengthEffect {
    pub fn at(self, length_difference: f64) -> f64 {
        if self.slope == 0.0 || self.scale == 0.0 {
            return 0.0;
        }
        self.slope * (length_difference / self.scale).tanh()
    }
}

/// Residuals beyond some of these are differences in quality; in parts of the mean preference.
const BANDWIDTH: f64 = 0.3;

/// Scales that are tried, in root mean squares of the length differences.
const SCALES: [f64; 3] = [0.5, 1.0, 2.0];

const MOST_ROUNDS: usize = 100;

/// The effect of length at equal quality, from preferences between answers of whatever quality.
///
/// The line is laid through the crowd of comparisons that lie near it: a Welsch M-estimator (Dennis and Welsch 1978) through
/// the origin, begun at no effect, with the bandwidth in proportion to the mean preference. Where answers differ in quality
/// the comparison lies far from any such line and loses its say, so that better answers that happen to be longer do
/// not pass for a liking of length. Least squares and least absolute deviations take them for one.
/// `None` where no two answers differ in length, or no preference from indifference.
pub fn effect(comparisons: &[Comparison]) -> Option<LengthEffect> {
    let spread = typical(comparisons);
    let bandwidth = BANDWIDTH * mean(comparisons, |comparison| comparison.preference.abs());
    if !(spread > 0.0 && bandwidth > 0.0) {
        return None;
    }
    SCALES
        .into_iter()
        .map(|share| welsch(comparisons, share * spread, bandwidth))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(effect, _)| effect)
}

/// Of the preferences, those that must lie near the line for it to be one of equal quality.
const LEAST_NEAR: f64 = 0.1;

/// Why preferences do not tell what length does at equal quality, though a line can be laid through them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Untold {
    /// Only this share of them lies anywhere near the line: no answers seem equally good.
    FewNear(f64),
    /// Length would gain as much as a whole preference, of this strength on average.
    AsStrong(f64),
}

/// Whether `effect`, as it was fitted on the comparisons, can be one at equal quality.
pub fn told(comparisons: &[Comparison], effect: LengthEffect) -> Result<(), Untold> {
    let strength = mean(comparisons, |comparison| comparison.preference.abs());
    let near = mean(comparisons, |comparison| {
        let residual = comparison.preference - effect.at(comparison.length_difference);
        f64::from(u8::from(residual.abs() < 0.6 * strength))
    });
    if near < LEAST_NEAR {
        return Err(Untold::FewNear(near));
    }
    match effect.at(typical(comparisons)).abs() > strength {
        true => Err(Untold::AsStrong(strength)),
        false => Ok(()),
    }
}

/// The root mean square of the length differences.
pub fn typical(comparisons: &[Comparison]) -> f64 {
    mean(comparisons, |comparison| comparison.length_difference.powi(2)).sqrt()
}

/// The weighted mean of a value; not a number where nothing weighs.
pub fn mean(comparisons: &[Comparison], value: impl Fn(&Comparison) -> f64) -> f64 {
    let sum = |value: &dyn Fn(&Comparison) -> f64| comparisons.iter().map(value).sum::<f64>();
    sum(&|comparison| comparison.weight * value(comparison)) / sum(&|comparison| comparison.weight)
}

/// The slope at one scale, and how much of the comparisons it gathers.
fn welsch(comparisons: &[Comparison], scale: f64, bandwidth: f64) -> (LengthEffect, f64) {
    let points: Vec<(f64, &Comparison)> = comparisons
        .iter()
        .map(|comparison| ((comparison.length_difference / scale).tanh(), comparison))
        .collect();
    let say = |slope: f64, x: f64, comparison: &Comparison| {
        let residual = (comparison.preference - slope * x) / bandwidth;
        comparison.weight * (-0.5 * residual * residual).exp()
    };
    let mut slope = 0.0;
    for _ in 0..MOST_ROUNDS {
        let (mut product, mut square) = (0.0, 0.0);
        for (x, comparison) in &points {
            let say = say(slope, *x, comparison);
            product += say * x * comparison.preference;
            square += say * x * x;
        }
        let next = if square > 0.0 { product / square } else { 0.0 };
        let settled = (next - slope).abs() < 1e-6;
        slope = next;
        if settled {
            break;
        }
    }
    let gathered = points.iter().map(|(x, comparison)| say(slope, *x, comparison)).sum();
    (LengthEffect { slope, scale }, gathered)
}

/// Pearson's correlation of preference and length difference. Which answer of a pair is the first means nothing, so
/// both means are 0. `None` where either never varies.
pub fn correlation(comparisons: &[Comparison]) -> Option<f64> {
    let (mut product, mut preference, mut length) = (0.0, 0.0, 0.0);
    for comparison in comparisons {
        product += comparison.weight * comparison.preference * comparison.length_difference;
        preference += comparison.weight * comparison.preference * comparison.preference;
        length += comparison.weight * comparison.length_difference * comparison.length_difference;
    }
    (preference > 0.0 && length > 0.0).then(|| product / (preference * length).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Rng, Seed};
    use rand::Rng as _;

    fn pair(preference: f64, length_difference: f64) -> Comparison {
        Comparison {
            preference,
            length_difference,
            weight: 1.0,
        }
    }

    #[test]
    fn both_sides_of_a_pair_say_the_same() {
        let share = |pairs: &[Comparison]| prefer_longer(pairs.iter().copied(), EQUAL_LENGTH);
        assert_eq!(
            share(&[pair(1.0, 10.0), pair(-1.0, -10.0), pair(0.5, -9.0), pair(1.0, 3.0)]),
            Some(2.0 / 3.0)
        );
        assert_eq!(share(&[pair(1.0, 1.0)]), None);
        assert_eq!(share(&[pair(0.0, 20.0)]), Some(0.5));
    }

    /// Comparisons of which `equal` are equally good; of the others the better is the longer with the probability.
    fn planted(bias: f64, equal: f64, better_longer: f64, rng: &mut Rng) -> Vec<Comparison> {
        (0..600)
            .map(|_| {
                let difference: f64 = rng.random_range(-30.0..30.0);
                let noise: f64 = (0..6).map(|_| rng.random_range(-0.2..0.2)).sum();
                let quality = match rng.random_bool(equal) {
                    true => 0.0,
                    false if rng.random_bool(better_longer) => 2.1 * difference.signum(),
                    false => -2.1 * difference.signum(),
                };
                pair(quality + bias * (difference / 17.0).tanh() + noise, difference)
            })
            .collect()
    }

    /// Catches: quality that goes with length taken for a liking of length, the error of fits that ask all pairs alike.
    #[test]
    fn the_effect_is_the_planted_one_whatever_the_quality() {
        for (bias, equal, better_longer) in [
            (0.0, 0.7, 0.5),
            (0.0, 0.4, 0.74),
            (0.0, 0.25, 0.74),
            (0.5, 0.7, 0.5),
            (0.5, 0.4, 0.74),
            (-0.5, 0.4, 0.74),
            (1.0, 0.4, 0.6),
        ] {
            let mut rng = Seed::new(7).rng();
            let found = effect(&planted(bias, equal, better_longer, &mut rng)).unwrap();
            // Scales differ, so the effects are compared where most pairs are.
            let expected = bias * (15.0_f64 / 17.0).tanh();
            assert!(
                (found.at(15.0) - expected).abs() < 0.1,
                "planted {expected}, found {} ({found:?}) at {equal} {better_longer}",
                found.at(15.0)
            );
        }
    }

    #[test]
    fn where_nothing_differs_there_is_no_effect() {
        assert_eq!(effect(&[]), None);
        assert_eq!(effect(&[pair(1.0, 0.0)]), None);
        assert_eq!(effect(&[pair(0.0, 5.0)]), None);
        assert_eq!(correlation(&[pair(1.0, 0.0)]), None);
    }

    #[test]
    fn the_sigmoid_is_exact_at_the_ends() {
        assert_eq!(sigmoid(1000.0), 1.0);
        assert_eq!(sigmoid(-1000.0), 0.0);
        assert_eq!(sigmoid(0.0), 0.5);
    }
}
