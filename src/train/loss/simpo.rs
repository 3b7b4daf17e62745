//! Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6): no reference, the mean log-probability
//! of an answer's tokens as its reward, and a margin by which the better one has to win.

use candle_core::Result;

use super::dpo::{DpoLoss, PairLogps};
use super::ops::{SoftLabels, log_sigmoid};

/// `-(p log σ(d - γ) + (1-p) log σ(-d - γ))` with `d = β (log π(chosen) - log π(rejected))`, of logps `(B)` that are means
/// over tokens.
///
/// Whichever answer the label takes for the better has to win by `γ`. TRL's `label_smoothing` keeps the margin on the side
/// of the chosen answer, so that a pair of even chances is pushed to it all the same.
pub fn loss<'a>(policy: PairLogps<'_>, labels: impl Into<SoftLabels<'a>>, beta: f64, gamma: f64) -> Result<DpoLoss> {
    let (chosen_rewards, rejected_rewards) = ((policy.chosen * beta)?, (policy.rejected * beta)?);
    let difference = (&chosen_rewards - &rejected_rewards)?;
    let labels = labels.into();
    let won = log_sigmoid(&difference.affine(1.0, -gamma)?)?;
    let lost = log_sigmoid(&difference.affine(-1.0, -gamma)?)?;
    let per_row = labels.expected(&won, &lost)?.neg()?;
    Ok(DpoLoss {
        loss: labels.mean(&per_row)?,
        per_row,
        chosen_rewards,
        rejected_rewards,
    })
}
