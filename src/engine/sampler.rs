//! Drawing a token from logits.

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

/// Draws from `logits (vocab)`, which are overwritten. The same `rng` state draws the same token.
pub fn draw(logits: &mut [f32], sampling: &Sampling, rng: &mut Rng) -> Drawn {
    let log_sum = kernels::log_sum_exp(logits);
    let drawn = |logits: &[f32], token: usize| (token, logits[token] - log_sum);
    let (token, logprob) = if sampling.temperature == 0.0 {
        drawn(logits, argmax(logits))
    } else {
        let original = sampling.temperature != 1.0 || sampling.top_k > 0 || sampling.top_p < 1.0;
        let kept = original.then(|| logits.to_vec());
        kernels::softmax(logits, sampling.temperature);
        cut(logits, sampling);
        let token = pick(logits, rng);
        match kept {
            Some(kept) => drawn(&kept, token),
            None => (token, logits[token].ln()),
        }
    };
    Drawn {
        token: token as u32,
        logprob,
    }
}

/// The first of the largest.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Sets the probabilities outside top-k and top-p to 0.
fn cut(probabilities: &mut [f32], sampling: &Sampling) {
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        return;
    }
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_unstable_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b)));
    let mut keep = if sampling.top_k == 0 {
        order.len()
    } else {
        sampling.top_k.min(order.len())
    };
    let mut sum = 0.0;
    for (rank, token) in order[..keep].iter().enumerate() {
        sum += probabilities[*token];
        if sum >= sampling.top_p {
            keep = rank + 1;
            break;
        }
    }
    for token in &order[keep..] {
        probabilities[*token] = 0.0;
    }
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
            counts[draw(&mut logits, sampling, &mut rng).token as usize] += 1.0 / 20_000.0;
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
                &mut rng,
            );
            let expected = (0.1 * (drawn.token as f32 + 1.0)).ln();
            assert!((drawn.logprob - expected).abs() < 1e-6);
        }
    }
}
