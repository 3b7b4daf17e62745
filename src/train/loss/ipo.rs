//! Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17): regression to a fixed difference,
//! where DPO with sure labels drives it to infinity.

use candle_core::Result;

use super::dpo::{DpoLoss, PairLogps, implied_rewards};
use super::ops::SoftLabels;

/// `p (h - 1/(2β))² + (1-p) (h + 1/(2β))²`, where `h` is the difference of the log-ratios of both answers to the
/// reference, and `β` the `τ` of the paper. Its minimum is at `h = (2p - 1) / (2β)`.
///
/// The logps `(B)` are means over tokens ([`DpoLength::Normalised`](super::length::DpoLength)): the paper does not say
/// so, TRL does, after asking its authors.
pub fn loss<'a>(
    policy: PairLogps<'_>,
    reference: PairLogps<'_>,
    labels: impl Into<SoftLabels<'a>>,
    beta: f64,
) -> Result<DpoLoss> {
    let [chosen_ratios, rejected_ratios] = implied_rewards(policy, reference, 1.0)?;
    let difference = (&chosen_ratios - &rejected_ratios)?;
    let target = 1.0 / (2.0 * beta);
    let labels = labels.into();
    let won = difference.affine(1.0, -target)?.sqr()?;
    let lost = difference.affine(1.0, target)?.sqr()?;
    let per_row = labels.expected(&won, &lost)?;
    Ok(DpoLoss {
        loss: labels.mean(&per_row)?,
        per_row,
        chosen_rewards: (chosen_ratios * beta)?,
        rejected_rewards: (rejected_ratios * beta)?,
    })
}
