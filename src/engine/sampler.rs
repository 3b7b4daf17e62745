//! Drawing a token from logits.

use std::collections::HashSet;

use rand::Rng as _;

use super::Sampling;
use crate::model::cpu::kernels;
use crate::seed::Rng;

/// A drawn token and the model's own log-probability of it (temperature 1, nothing cut off).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    pub token: u32,
    pub logprob: f32,
}

/// Draws from `logits (vocab)`, which are overwritten; `seen` are the tokens of the row so far, for the
/// repetition penalty. The same `rng` state draws the same token.
///
/// The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p.
pub fn draw<'a>(logits: &mut [f32], sampling: &Sampling, seen: impl Iterator<Item = &'a u32>, rng: &mut Rng) -> Drawn {
    let log_sum = kernels::log_sum_exp(logits);
    if sampling.temperature == 0.0 && sampling.repetition_penalty == 1.0 {
        let token = kernels::argmax(logits);
        return Drawn {
            token: token as u32,
            logprob: logits[token] - log_sum,
        };
    }
    let original = (!sampling.is_plain()).then(|| logits.to_vec());
    if sampling.repetition_penalty != 1.0 {
        penalise(logits, sampling.repetition_penalty, seen);
    }
    let token = if sampling.temperature == 0.0 {
        kernels::argmax(logits)
    } else {
        kernels::softmax(logits, sampling.temperature);
        cut(logits, sampling);
        pick(logits, rng)
    };
    Drawn {
        token: token as u32,
        logprob: match original {
            Some(original) => original[token] - log_sum,
            None => logits[token].ln(),
        },
    }
}

impl Sampling {
    /// Whether the model's own distribution is drawn from, unchanged.
    fn is_plain(&self) -> bool {
        self.temperature == 1.0
            && self.top_k == 0
            && self.top_p >= 1.0
            && self.min_p == 0.0
            && self.repetition_penalty == 1.0
    }
}

/// The repetition penalty (Keskar et al. 2019, CTRL) of every token that occurred, once.
fn penalise<'a>(logits: &mut [f32], penalty: f32, seen: impl Iterator<Item = &'a u32>) {
    let seen: HashSet<u32> = seen.copied().collect();
    for token in seen {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
        };
    }
}

/// Sets the probabilities outside top-k, top-p and min-p to 0.
fn cut(probabilities: &mut [f32], sampling: &Sampling) {
    let vocab = probabilities.len();
    let (top_k, top_p) = (sampling.top_k, sampling.top_p);
    if top_k > 0 || top_p < 1.0 {
        // Sorting all of a large vocabulary would cost more than the model. What is left out here has
        // less than 1 - top_p of the mass together, so the nucleus does not reach it.
        let negligible = if top_k == 0 { (1.0 - top_p) / vocab as f32 } else { 0.0 };
        let mut order: Vec<usize> = (0..vocab).filter(|token| probabilities[*token] > negligible).collect();
        let by_rank = |a: &usize, b: &usize| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b));
        if top_k > 0 && top_k < order.len() {
            order.select_nth_unstable_by(top_k - 1, by_rank);
            order.truncate(top_k);
        }
        order.sort_unstable_by(by_rank);
        let mass = if top_k > 0 {
            order.iter().map(|token| probabilities[*token]).sum()
        } else {
            1.0
        };
        order.truncate(nucleus(probabilities, &order, top_p * mass));
        let kept: Vec<(usize, f32)> = order.iter().map(|token| (*token, probabilities[*token])).collect();
        probabilities.fill(0.0);
        kept.into_iter().for_each(|(token, p)| probabilities[token] = p);
    }
    if sampling.min_p > 0.0 {
        let least = sampling.min_p * probabilities.iter().copied().fold(0.0, f32::max);
        probabilities.iter_mut().filter(|p| **p < least).for_each(|p| *p = 0.0);
    }
}

/// How many of `order`, the likeliest first, reach `mass` together.
fn nucleus(probabilities: &[f32], order: &[usize], mass: f32) -> usize {
    let mut sum = 0.0;
    let reached = order.iter().position(|token| {
        sum += probabilities[*token];
        sum >= mass
    });
    reached.map_or(order.len(), |last| last + 1)
}

/// Draws an index in proportion to `weights`.
fn pick(weights: &[f32], rng: &mut Rng) -> usize {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let mut rest = rng.random::<f64>() * total;
    let mut last = 0;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            last = index;
            rest -= f64::from(*weight);
            if rest < 0.0 {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    fn frequencies(sampling: &Sampling) -> [f64; 4] {
        let mut rng = Seed::new(3).rng();
        let mut counts = [0.0; 4];
        for _ in 0..20_000 {
            let mut logits = [0.1f32.ln(), 0.2f32.ln(), 0.3f32.ln(), 0.4f32.ln()];
            counts[draw(&mut logits, sampling, [].iter(), &mut rng).token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        let close = |counts: [f64; 4], expected: [f64; 4]| {
            for (count, expected) in counts.iter().zip(expected) {
                assert!((count - expected).abs() < 0.015, "{counts:?}");
            }
        };
        let plain = Sampling::default();
        close(frequencies(&plain), [0.1, 0.2, 0.3, 0.4]);
        close(
            frequencies(&Sampling {
                top_k: 2,
                ..plain.clone()
            }),
            [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
        close(
            frequencies(&Sampling {
                top_p: 0.65,
                ..plain.clone()
            }),
            [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
        close(
            frequencies(&Sampling {
                temperature: 0.5,
                ..plain.clone()
            }),
            [1.0 / 30.0, 4.0 / 30.0, 0.3, 16.0 / 30.0],
        );
        close(
            frequencies(&Sampling {
                temperature: 0.0,
                ..plain
            }),
            [0.0, 0.0, 0.0, 1.0],
        );
    }

    #[test]
    fn the_log_probability_is_the_models_own() {
        let mut rng = Seed::new(3).rng();
        for temperature in [0.0, 0.5, 1.0] {
            let mut logits = [0.1f32.ln(), 0.2f32.ln(), 0.3f32.ln(), 0.4f32.ln()];
            let drawn = draw(
                &mut logits,
                &Sampling {
                    temperature,
                    ..Sampling::default()
                },
                [].iter(),
                &mut rng,
            );
            let expected = (0.1 * (drawn.token as f32 + 1.0)).ln();
            assert!((drawn.logprob - expected).abs() < 1e-6);
        }
    }
}
