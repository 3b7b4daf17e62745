//! The reward model's loss: Bradley-Terry (1952) with soft labels.

use candle_core::{Result, Tensor};

use super::ops::log_sigmoid;

/// What [`loss`] computes. Shapes: scalar, then `(B)`.
pub struct RewardLoss {
    /// The mean of `per_row`, and the centring term.
    pub loss: Tensor,
    pub per_row: Tensor,
}

/// `-(p log σ(d) + (1-p) log σ(-d))` with `d = r_chosen - r_rejected - margin`, and
/// `centre · mean((r_chosen + r_rejected)²)`, which keeps rewards near 0 (Eisenstein et al. 2023).
/// `chosen`, `rejected`, `p_chosen` and `margin` are `(B)`.
pub fn loss(
    chosen: &Tensor,
    rejected: &Tensor,
    p_chosen: &Tensor,
    margin: Option<&Tensor>,
    centre: f64,
) -> Result<RewardLoss> {
    let mut difference = (chosen - rejected)?;
    if let Some(margin) = margin {
        difference = (difference - margin)?;
    }
    let won = (p_chosen * log_sigmoid(&difference)?)?;
    let lost = (p_chosen.affine(-1.0, 1.0)? * log_sigmoid(&difference.neg()?)?)?;
    let per_row = (won + lost)?.neg()?;
    let mut loss = per_row.mean_all()?;
    if centre > 0.0 {
        loss = (loss + ((chosen + rejected)?.sqr()?.mean_all()? * centre)?)?;
    }
    Ok(RewardLoss { loss, per_row })
}
