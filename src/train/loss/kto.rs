//! Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, equation 7): each answer by itself is wanted
//! or unwanted, and is worth less the further it is from where the policy stands.
//!
//! Of a pair, the better answer is wanted and the other is not; which is which, the label says.

use candle_core::{Result, Tensor};

use super::dpo::{DpoLoss, PairLogps, implied_rewards};
use super::ops::{SoftLabels, log_sigmoid};

/// What wanted and unwanted answers weigh: `λ_D` and `λ_U` of the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoWeights {
    pub desirable: f64,
    pub undesirable: f64,
}

/// Where the policy stands: the mean of `log π - log π_ref` over answers to other prompts, at least 0. An estimate of
/// KL(policy ‖ reference) without a gradient, as in TRL.
pub fn reference_point(policy: &[f32], reference: &[f32]) -> f64 {
    let ratios = policy.iter().zip(reference).map(|(p, r)| f64::from(*p) - f64::from(*r));
    (ratios.sum::<f64>() / policy.len().max(1) as f64).max(0.0)
}

/// For an answer with the log-ratio `r` to the reference that is wanted with probability `q`:
/// `q λ_D (1 - σ(β (r - z))) + (1-q) λ_U (1 - σ(β (z - r)))`, with the reference point `z`. `q` is `p` for the chosen
/// answer and `1-p` for the rejected one; a row `(B)` is the mean of both.
pub fn loss<'a>(
    policy: PairLogps<'_>,
    reference: PairLogps<'_>,
    labels: impl Into<SoftLabels<'a>>,
    reference_point: f64,
    beta: f64,
    weights: KtoWeights,
) -> Result<DpoLoss> {
    let [chosen_rewards, rejected_rewards] = implied_rewards(policy, reference, beta)?;
    let labels = labels.into();
    let [(chosen_wanted, chosen_not), (rejected_wanted, rejected_not)] = [
        values(&chosen_rewards, beta * reference_point, weights)?,
        values(&rejected_rewards, beta * reference_point, weights)?,
    ];
    let won = (chosen_wanted + rejected_not)?;
    let lost = (chosen_not + rejected_wanted)?;
    let per_row = (labels.expected(&won, &lost)? * 0.5)?;
    Ok(DpoLoss {
        loss: labels.mean(&per_row)?,
        per_row,
        chosen_rewards,
        rejected_rewards,
    })
}

/// What answers of these rewards cost if they are wanted, and if they are not. `1 - σ(x) = σ(-x) = exp log σ(-x)`, exact
/// where it is small.
fn values(rewards: &Tensor, point: f64, weights: KtoWeights) -> Result<(Tensor, Tensor)> {
    let wanted = log_sigmoid(&rewards.affine(-1.0, point)?)?.exp()?;
    let unwanted = log_sigmoid(&rewards.affine(1.0, -point)?)?.exp()?;
    Ok(((wanted * weights.desirable)?, (unwanted * weights.undesirable)?))
}
