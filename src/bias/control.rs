//! Length control of soft labels: `residual` takes out of each label's log-odds what the lengths
//! alone explain.
//!
//! With `x = tanh((tokens_chosen - tokens_rejected) / scale)` the log-odds are modelled as
//! `slope · x + rest`, and the rest is kept. The slope minimises the absolute deviation: pairs with a
//! real difference in quality lie far from the line on both sides, and least squares would let them
//! tilt it, or, fitted on near-ties alone, over-correct.

use crate::record::{Preference, Vote};

/// Token difference at which the effect of length levels off.
pub const SCALE: f32 = 10.0;

/// Pairs of nearly equal length say nothing about the slope.
const LEAST_EFFECT: f32 = 0.05;

/// The effect of a token difference, in (-1, 1).
pub fn length_effect(difference: f32) -> f32 {
    (difference / SCALE).tanh()
}

fn effect_of(row: &Preference) -> f32 {
    length_effect(row.chosen_tokens as f32 - row.rejected_tokens as f32)
}

/// The slope of least absolute deviation of log-odds on the length effect, through the origin: the
/// median of `log-odds / x`, weighted by `|x|`. 0 when no pair differs in length.
pub fn slope(rows: &[Preference]) -> f32 {
    let mut ratios: Vec<(f32, f32)> = rows
        .iter()
        .map(|row| (row.margin, effect_of(row)))
        .filter(|(_, effect)| effect.abs() > LEAST_EFFECT)
        .map(|(margin, effect)| (margin / effect, effect.abs()))
        .collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = ratios.iter().map(|(_, weight)| weight).sum::<f32>() / 2.0;
    let mut sum = 0.0;
    for (ratio, weight) in &ratios {
        sum += weight;
        if sum >= half {
            return *ratio;
        }
    }
    0.0
}

/// The rows with `slope · x` taken out of their log-odds. A label that changes sign has its answers
/// swapped, so `p_chosen` stays at least one half; `p_raw` keeps what the judge said.
pub fn residual(rows: &[Preference], slope: f32) -> Vec<Preference> {
    rows.iter().map(|row| without_length(row, slope)).collect()
}

fn without_length(row: &Preference, slope: f32) -> Preference {
    let margin = row.margin - slope * effect_of(row);
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
mod tests {
    use super::*;
    use crate::record::Message;
    use proptest::prelude::*;
    use rand::Rng as _;

    fn row(log_odds_first: f32, first_tokens: u32, second_tokens: u32) -> Preference {
        let first = Preference {
            id: "x".into(),
            prompt: vec![Message::user("q")],
            chosen: vec![Message::assistant("first")],
            rejected: vec![Message::assistant("second")],
            p_chosen: 1.0 / (1.0 + (-log_odds_first.abs()).exp()),
            margin: log_odds_first.abs(),
            weight: 1.0,
            source: "judge".into(),
            votes: Vec::new(),
            chosen_tokens: first_tokens,
            rejected_tokens: second_tokens,
            chosen_chars: 0,
            rejected_chars: 0,
            p_raw: 1.0 / (1.0 + (-log_odds_first.abs()).exp()),
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

    /// Labels with a planted length effect of `bias` and a quality that length knows nothing of.
    fn planted(bias: f32) -> Vec<Preference> {
        let mut rng = crate::seed::Seed::new(5).rng();
        (0..600)
            .map(|_| {
                let (a, b) = (rng.random_range(10..60u32), rng.random_range(10..60u32));
                let quality = [-3.0, 0.0, 0.0, 3.0][rng.random_range(0..4)] + rng.random_range(-0.2..0.2f32);
                row(quality + bias * length_effect(a as f32 - b as f32), a, b)
            })
            .collect()
    }

    #[test]
    fn the_slope_is_the_planted_one_despite_real_differences() {
        for bias in [0.0, 0.7, -0.5] {
            let found = slope(&planted(bias));
            assert!((found - bias).abs() < 0.1, "planted {bias}, found {found}");
        }
    }

    #[test]
    fn nothing_is_left_to_take_out() {
        let rows = residual(&planted(0.7), slope(&planted(0.7)));
        assert!(slope(&rows).abs() < 0.1);
        assert!(rows.iter().all(|row| row.p_chosen >= 0.5 && row.margin >= 0.0));
    }

    proptest! {
        /// Telling a pair from the other side changes nothing but the side.
        #[test]
        fn swapping_the_answers_swaps_the_label(log_odds in -5.0f32..5.0, a in 1u32..80, b in 1u32..80, slope in -2.0f32..2.0) {
            let one = without_length(&row(log_odds, a, b), slope);
            let other = without_length(&row(-log_odds, b, a), slope);
            let signed = |row: &Preference, first: &str| if row.chosen[0].content == first { row.margin } else { -row.margin };
            prop_assert!((signed(&one, "first") - signed(&other, "second")).abs() < 1e-4);
        }
    }
}
