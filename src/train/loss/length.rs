//! Length control inside the losses: what a preference owes to lengths alone is kept from being learnt.
//!
//! For DPO all variants are one mechanism, `logps = Σ_t w_t log π_t`, with the weights `w` of an answer's
//! tokens and a margin inside the sigmoid. With the lengths `c` and `r` of the chosen and the rejected answer:
//!
//! | | w of the answer of length n | margin |
//! |---|---|---|
//! | none | 1 | 0 |
//! | normalised (LN-DPO: Lambert et al. 2024, Tülu 3, equation 6) | 1/n | 0 |
//! | margin (R-DPO: Park et al. 2024, arXiv 2403.19159) | 1 | α (c - r) |
//! | desensitised (LD-DPO: Liu et al. 2024, arXiv 2409.06411) | 1, and α from token min(c, r) on | 0 |
//! | down-sampled (SamPO: Lu et al. 2024, arXiv 2406.10957) | 1 for min(c, r) tokens drawn at random, else 0 | 0 |
//!
//! Policy and reference get the same weights, as in TRL 1.16 (`ld_alpha`, `loss_type: sigmoid_norm`).
//!
//! For the reward model what length explains is a part of the difference of a pair during training, and is left
//! out of what is kept: a coefficient on the length difference (a product of experts: Shen et al. 2023, arXiv
//! 2310.05199), or a second head (ODIN: Chen et al. 2024, arXiv 2402.07319). For PPO it is a slope of the rewards
//! of a rollout.

use candle_core::{Result, Tensor};
use rand::seq::index;

use crate::seed::Seed;

/// Added to sums of squares before their root: rewards that do not differ have a correlation of 0.
const EPSILON: f64 = 1e-8;

/// How DPO is kept from learning length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DpoLength {
    None,
    Normalised,
    Margin { alpha: f64 },
    Desensitised { alpha: f64 },
    DownSampled,
}

/// What the lengths of a pair make of it: a weight for each token, and a shift of the difference of the rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct PairWeights {
    pub chosen: Vec<f32>,
    pub rejected: Vec<f32>,
    /// Added to the difference: a longer winner has won a part already, and is pushed less.
    pub margin: f32,
}

impl DpoLength {
    /// The weights of a pair with answers of so many tokens; `seed` draws the tokens where they are drawn.
    pub fn weigh(self, chosen: usize, rejected: usize, seed: Seed) -> PairWeights {
        let shared = chosen.min(rejected);
        let each = |weigh: &dyn Fn(usize) -> Vec<f32>, margin: f64| PairWeights {
            chosen: weigh(chosen),
            rejected: weigh(rejected),
            margin: margin as f32,
        };
        match self {
            Self::None => each(&|length| vec![1.0; length], 0.0),
            Self::Normalised => each(&|length| vec![1.0 / length.max(1) as f32; length], 0.0),
            Self::Margin { alpha } => each(&|length| vec![1.0; length], alpha * (chosen as f64 - rejected as f64)),
            Self::Desensitised { alpha } => {
                let weight = |token: usize| if token < shared { 1.0 } else { alpha as f32 };
                each(&|length| (0..length).map(weight).collect(), 0.0)
            }
            Self::DownSampled => each(&|length| drawn(length, shared, seed), 0.0),
        }
    }
}

/// `length` weights, 1 for `count` of them drawn at random.
fn drawn(length: usize, count: usize, seed: Seed) -> Vec<f32> {
    if count == length {
        return vec![1.0; length];
    }
    let mut weights = vec![0.0; length];
    for token in index::sample(&mut seed.rng(), length, count) {
        weights[token] = 1.0;
    }
    weights
}

/// `(B)`: `Σ_t w_t log π_t`, from log-probabilities and weights `(B, T)`.
pub fn weighted_logps(logprobs: &Tensor, weights: &Tensor) -> Result<Tensor> {
    (logprobs * weights)?.sum(1)
}

/// `(B)`: the margin that leaves `slope · x` of a pair's difference to length. `effects (B)` is `x`, the effect of
/// the difference of the lengths, chosen less rejected; `slope (1)` is learnt with the model.
///
/// With it the loss of the reward model sees `r_chosen - r_rejected + slope · x`: a product of two experts, of
/// which only the first is kept. Where Shen et al. train a network on the answers as the second expert, this is the
/// length itself, which cannot learn anything else.
pub fn residual_margin(effects: &Tensor, slope: &Tensor) -> Result<Tensor> {
    effects.broadcast_mul(slope)?.neg()
}

/// The heads of [`decorrelation`] and what they read in a batch.
pub struct TwoHeads<'a> {
    /// `(N)`: rewards of the head that is kept, and of that which is left out.
    pub quality: &'a Tensor,
    pub length: &'a Tensor,
    /// `(N)`: tokens of each answer.
    pub tokens: &'a Tensor,
    /// `(hidden, 1)`.
    pub quality_weight: &'a Tensor,
    pub length_weight: &'a Tensor,
}

/// `c_length (|ρ(quality, tokens)| - ρ(length, tokens)) + c_orthogonal |cos(w_quality, w_length)|`, where ρ is
/// Pearson's correlation over the batch: one head is kept from length, the other is sent after it.
///
/// Chen et al. 2024 keep both weights at a fixed norm; here only their angle is in the loss.
pub fn decorrelation(heads: &TwoHeads<'_>, length_coef: f64, orthogonal_coef: f64) -> Result<Tensor> {
    let of_quality = correlation(heads.quality, heads.tokens)?.abs()?;
    let of_length = correlation(heads.length, heads.tokens)?;
    let (quality, length) = (unit(heads.quality_weight)?, unit(heads.length_weight)?);
    let angle = (quality * length)?.sum_all()?.abs()?;
    ((of_quality - of_length)? * length_coef)? + (angle * orthogonal_coef)?
}

/// Pearson's correlation of two tensors `(N)`; 0 where one does not vary.
pub fn correlation(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let centred = |values: &Tensor| unit(&values.broadcast_sub(&values.mean_all()?)?);
    (centred(x)? * centred(y)?)?.sum_all()
}

fn unit(values: &Tensor) -> Result<Tensor> {
    values.broadcast_div(&(values.sqr()?.sum_all()? + EPSILON)?.sqrt()?)
}

/// The slope of least absolute deviation of reward on tokens, from pairs (difference of the rewards, difference of
/// the tokens): the median of their ratio, weighted by the tokens. 0 when no pair differs in length.
///
/// Answers of real difference in quality lie far from the line on both sides, and a median does not follow them.
pub fn slope(pairs: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    let mut ratios: Vec<(f64, f64)> = pairs
        .into_iter()
        .filter(|(_, tokens)| *tokens != 0.0)
        .map(|(reward, tokens)| (reward / tokens, tokens.abs()))
        .collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = ratios.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    for (ratio, weight) in &ratios {
        sum += weight;
        if sum >= half {
            return *ratio;
        }
    }
    0.0
}
