//! `residual` takes out of each label's log-odds what the lengths alone explain, `slope · tanh(difference / scale)`, and
//! keeps the rest.
//!
//! The effect is the one at equal quality ([`effect`]), so that a better answer that is longer stays better. An effect
//! that may as well be none, by its bootstrap interval, is none: unbiased labels come out as they went in, and so do
//! labels that are too few for an interval.

use serde::{Deserialize, Serialize};

use super::Unit;
use crate::bias::interval::{self, Estimate};
use crate::bias::measure::{Comparison, LengthEffect, Untold, effect, told, typical};
use crate::error::Result;
use crate::progress::Progress;
use crate::record::{Preference, Vote, messages_id};
use crate::seed::Seed;

/// What the lengths were found to do to the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// What is taken out; the slope is 0 where nothing is.
    pub effect: LengthEffect,
    pub unit: Unit,
    /// Log-odds that an answer longer by the typical difference gains.
    pub found: Option<Estimate>,
    /// The root mean square of the length differences.
    pub typical: f64,
}

/// Fits the effect of length on the labels. `progress` hears of [`RESAMPLES`](interval::RESAMPLES) rounds.
///
/// The inner error tells why the labels do not say what length does to them at equal quality.
pub fn fit(rows: &[Preference], seed: Seed, progress: &dyn Progress) -> Result<Result<Fitted, String>> {
    let unit = Unit::of(rows);
    let comparisons: Vec<Comparison> = rows.iter().map(|row| unit.comparison(row)).collect();
    let typical = typical(&comparisons);
    let none = Fitted {
        effect: LengthEffect::default(),
        unit,
        found: None,
        typical,
    };
    let Some(effect) = effect(&comparisons) else {
        return Ok(Ok(none));
    };
    let told = told(&comparisons, effect);
    if let Err(Untold::FewNear(near)) = told {
        return Ok(Err(format!(
            "only {:.0} % of the labels are anywhere near undecided: what length does to equally good answers cannot be told",
            100.0 * near
        )));
    }
    let clusters = interval::clusters(rows.iter().map(|row| messages_id(&row.prompt)));
    let found = interval::estimate(&clusters, seed, progress, |drawn| {
        let sample: Vec<Comparison> = drawn.iter().map(|index| comparisons[*index]).collect();
        self::effect(&sample).map(|effect| effect.at(typical))
    })?;
    let none = Fitted { found, ..none };
    // An effect that may be none is none, and so is one of which it cannot be said.
    let Some(found) = found.filter(|found| found.is_above(0.0) || found.is_below(0.0)) else {
        return Ok(Ok(none));
    };
    Ok(match told {
        Err(Untold::AsStrong(strength)) => Err(format!(
            "the longer answer would gain {found} log-odds, as much as a whole label ({strength:.2} on average): length \
             and quality cannot be told apart here"
        )),
        Ok(()) | Err(Untold::FewNear(_)) => Ok(Fitted { effect, ..none }),
    })
}

/// The row with the effect taken out of its log-odds. A label that changes sign has its answers swapped, so `p_chosen`
/// stays at least one half; `p_raw` keeps what the judge said.
pub fn without_length(row: &Preference, fitted: &Fitted) -> Preference {
    if fitted.effect.slope == 0.0 {
        return row.clone();
    }
    let margin = row.margin - fitted.effect.at(fitted.unit.difference(row)) as f32;
    let mut row = if margin < 0.0 { swapped(row) } else { row.clone() };
    row.margin = margin.abs();
    row.p_chosen = 1.0 / (1.0 + (-row.margin).exp());
    row
}

/// The same comparison told from the other answer's side.
fn swapped(row: &Preference) -> Preference {
    let mut votes = row.votes.clone();
    votes.iter_mut().for_each(Vote::turn);
    Preference {
        chosen: row.rejected.clone(),
        rejected: row.chosen.clone(),
        chosen_tokens: row.rejected_tokens,
        rejected_tokens: row.chosen_tokens,
        chosen_chars: row.rejected_chars,
        rejected_chars: row.chosen_chars,
        p_raw: 1.0 - row.p_raw,
        votes,
        ..row.clone()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::record::Message;
    use proptest::prelude::*;
    use rand::Rng as _;

    fn fit(rows: &[Preference], seed: u64) -> Result<Fitted, String> {
        super::fit(rows, Seed::new(seed), &Silent).unwrap()
    }

    pub fn row(log_odds_first: f32, first_tokens: u32, second_tokens: u32) -> Preference {
        let p = 1.0 / (1.0 + (-log_odds_first.abs()).exp());
        let first = Preference {
            id: "x".into(),
            prompt: vec![Message::user(format!(
                "{log_odds_first} {first_tokens} {second_tokens}"
            ))],
            chosen: vec![Message::assistant("first")],
            rejected: vec![Message::assistant("second")],
            p_chosen: p,
            margin: log_odds_first.abs(),
            weight: 1.0,
            source: "judge".into(),
            votes: Vec::new(),
            chosen_tokens: first_tokens,
            rejected_tokens: second_tokens,
            chosen_chars: 0,
            rejected_chars: 0,
            p_raw: p,
        };
        if log_odds_first < 0.0 {
            Preference {
                p_raw: first.p_raw,
                ..swapped(&first)
            }
        } else {
            first
        }
    }

    /// Labels with a planted length effect of `bias`; half of the pairs are equally good, and of the others
    /// the better is the longer with the probability.
    pub fn planted(bias: f64, better_longer: f64, seed: u64) -> Vec<Preference> {
        let mut rng = Seed::new(seed).rng();
        (0..600)
            .map(|_| {
                let (a, b) = (rng.random_range(10..60u32), rng.random_range(10..60u32));
                let difference = f64::from(a) - f64::from(b);
                let better = match rng.random_bool(better_longer) {
                    true => difference.signum(),
                    false => -difference.signum(),
                };
                let quality = if rng.random_bool(0.5) { 0.0 } else { 3.0 * better };
                let noise: f64 = (0..4).map(|_| rng.random_range(-0.2..0.2)).sum();
                row((quality + bias * (difference / 20.0).tanh() + noise) as f32, a, b)
            })
            .collect()
    }

    /// Catches: true differences in quality taken out with the length.
    #[test]
    fn the_effect_is_the_planted_one_despite_real_differences() {
        for bias in [0.7, -0.5] {
            for better_longer in [0.5, 0.7] {
                let fitted = fit(&planted(bias, better_longer, 5), 1).unwrap();
                let expected = bias * (fitted.typical / 20.0).tanh();
                let found = fitted.effect.at(fitted.typical);
                assert!((found - expected).abs() < 0.1, "planted {expected}, found {found}");
            }
        }
    }

    /// The test that matters: where there is no bias, no label moves by a bit, also if longer answers are better.
    /// An interval of 95 % misses the truth now and then.
    #[test]
    fn labels_without_a_bias_are_left_alone() {
        let mut touched = 0;
        for seed in 0..10 {
            let rows = planted(0.0, 0.5 + 0.02 * seed as f64, seed);
            let fitted = fit(&rows, seed).unwrap();
            let after: Vec<Preference> = rows.iter().map(|row| without_length(row, &fitted)).collect();
            touched += u32::from(after != rows);
        }
        assert!(touched <= 2, "{touched} of 10 unbiased label sets were changed");
    }

    #[test]
    fn nothing_is_left_to_take_out() {
        let rows = planted(0.7, 0.6, 5);
        let fitted = fit(&rows, 1).unwrap();
        let rows: Vec<Preference> = rows.iter().map(|row| without_length(row, &fitted)).collect();
        let left = fit(&rows, 2).unwrap();
        assert_eq!(left.effect.slope, 0.0, "{left:?}");
        assert!(rows.iter().all(|row| row.p_chosen >= 0.5 && row.margin >= 0.0));
    }

    /// Catches: hard labels, or none near a tie, from which a slope would be made up.
    #[test]
    fn labels_that_cannot_tell_are_refused() {
        let hard: Vec<Preference> = planted(0.7, 0.8, 5)
            .iter()
            .map(|row| Preference {
                margin: 15.9,
                ..row.clone()
            })
            .collect();
        let error = fit(&hard, 1).unwrap_err();
        assert!(error.contains("cannot be told"), "{error}");
    }

    /// Catches: labels changed by an effect that was found on a prompt or two, as if it were certain.
    #[test]
    fn labels_of_one_prompt_are_left_alone() {
        let mut rows = planted(0.7, 0.6, 5);
        rows.iter_mut().for_each(|row| row.prompt = vec![Message::user("hi")]);
        let fitted = fit(&rows, 1).unwrap();
        assert_eq!(fitted.effect.slope, 0.0);
        let found = fitted.found.unwrap();
        assert!(found.value > 0.3 && found.interval.is_none(), "{found}");
        assert!(rows.iter().all(|row| without_length(row, &fitted) == *row));
    }

    proptest! {
        /// Telling a pair from the other side changes nothing but the side.
        #[test]
        fn swapping_the_answers_swaps_the_label(log_odds in -5.0f32..5.0, a in 1u32..80, b in 1u32..80, slope in -2.0f64..2.0) {
            let fitted = Fitted {
                effect: LengthEffect { slope, scale: 12.0 },
                unit: Unit::Tokens,
                found: None,
                typical: 12.0,
            };
            let one = without_length(&row(log_odds, a, b), &fitted);
            let other = without_length(&row(-log_odds, b, a), &fitted);
            let signed = |row: &Preference, first: &str| if row.chosen[0].content == first { row.margin } else { -row.margin };
            prop_assert!((signed(&one, "first") - signed(&other, "second")).abs() < 1e-4);
        }
    }
}
