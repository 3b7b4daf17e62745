//! The hinge loss of SLiC (Zhao et al. 2023, arXiv 2305.10425) on the rewards of DPO, as Liu et al. (2024, RSO, arXiv
//! 2309.06657) and TRL have it: a pair that is won by a margin of 1 is left alone.

use candle_core::{Result, Tensor};

use super::dpo::{DpoLoss, PairLogps, implied_rewards};
use super::ops::SoftLabels;

/// `p max(0, 1 - Δ) + (1-p) max(0, 1 + Δ)`, where `Δ` is the difference of the rewards of [`dpo`](super::dpo), and
/// `margin (B)` is added to it if there is one.
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
    let won = difference.affine(-1.0, 1.0)?.relu()?;
    let lost = difference.affine(1.0, 1.0)?.relu()?;
    let per_row = labels.expected(&won, &lost)?;
    Ok(DpoLoss {
        loss: labels.mean(&per_row)?,
        per_row,
        chosen_rewards,
        rejected_rewards,
    })
}
