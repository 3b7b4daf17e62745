//! The reward model's loss: Bradley-Terry (1952) with soft labels.

use candle_core::{Result, Tensor};

use super::ops::SoftLabels;

/// What [`loss`] computes. Shapes: scalar, then `(B)`.
pub struct RewardLoss {
    /// The mean of `per_row`, and the centring term.
    pub loss: Tensor,
    pub per_row: Tensor,
}

/// `-(p log σ(d) + (1-p) log σ(-d))` with `d = r_chosen - r_rejected - margin`, and
/// `centre · mean((r_chosen + r_rejected)²)`, which keeps rewards near 0 (Eisenstein et al. 2023).
/// `chosen`, `rejected`, the labels and `margin` are `(B)`.
pub fn loss<'a>(
    chosen: &Tensor,
    rejected: &Tensor,
    labels: impl Into<SoftLabels<'a>>,
    margin: Option<&Tensor>,
    centre: f64,
) -> Result<RewardLoss> {
    let mut difference = (chosen - rejected)?;
    if let Some(margin) = margin {
        difference = (difference - margin)?;
    }
    let labels = labels.into();
    let per_row = labels.cross_entropy(&difference)?;
    let mut loss = labels.mean(&per_row)?;
    if centre > 0.0 {
        loss = (loss + ((chosen + rejected)?.sqr()?.mean_all()? * centre)?)?;
    }
    Ok(RewardLoss { loss, per_row })
}
