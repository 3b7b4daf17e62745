//! Direct preference optimisation (Rafailov et al. 2023, equation 7) with soft labels.

use candle_core::{Result, Tensor};

use super::ops::SoftLabels;

/// Log-probabilities `(B)` of both answers of a pair: sums over tokens, as [`length`](super::length) weighs them.
#[derive(Clone, Copy)]
pub struct PairLogps<'a> {
    pub chosen: &'a Tensor,
    pub rejected: &'a Tensor,
}

/// What a loss of pairs with a reference computes. Shapes: scalar, then `(B)`.
pub struct DpoLoss {
    pub loss: Tensor,
    pub per_row: Tensor,
    /// `beta · (log π - log π_ref)` of the chosen answer.
    pub chosen_rewards: Tensor,
    pub rejected_rewards: Tensor,
}

/// `beta · (log π - log π_ref)` of both answers `(B)`: the rewards that a policy implies.
pub fn implied_rewards(policy: PairLogps<'_>, reference: PairLogps<'_>, beta: f64) -> Result<[Tensor; 2]> {
    let chosen = ((policy.chosen - reference.chosen)? * beta)?;
    let rejected = ((policy.rejected - reference.rejected)? * beta)?;
    Ok([chosen, rejected])
}

/// `-(p log σ(Δ) + (1-p) log σ(-Δ))`, where `Δ` is the difference of the rewards, and `margin (B)` is added to it
/// if there is one. The `p (B)` of the labels is 1 for a hard label; `1 - ε` is the conservative DPO of Mitchell (2023).
pub fn loss<'a>(
    policy: PairLogps<'_>,
    reference: PairLogps<'_>,
    labels: impl Into<SoftLabels<'a>>,
    margin: Option<&Tensor>,
    beta: f64,
) -> Result<DpoLoss> {
    let [chosen_rewards, rejected_rewards] = implied_rewards(policy, reference, beta)?;
    let mut difference = (&chosen_rewards - &rejected_rewards)?;
    if let Some(margin) = margin {
        difference = (difference + margin)?;
    }
    let labels = labels.into();
    let per_row = labels.cross_entropy(&difference)?;
    Ok(DpoLoss {
        loss: labels.mean(&per_row)?,
        per_row,
        chosen_rewards,
        rejected_rewards,
    })
}
