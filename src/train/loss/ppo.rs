//! Proximal policy optimisation (Schulman et al. 2017): the clipped losses of policy and values, and their statistics.

use candle_core::{Result, Tensor};

use super::ops::masked_mean;
use super::surrogate::{Moved, RatioClip, surrogate};

/// The clipping of [`loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipping {
    pub ratio: RatioClip,
    /// `None` leaves the value function unclipped.
    pub clip_range_value: Option<f64>,
    pub vf_coef: f64,
}

/// Tensors `(B, T)` of a batch; `mask` is 1 for the tokens of a completion.
pub struct PpoBatch<'a> {
    pub logprobs: &'a Tensor,
    pub old_logprobs: &'a Tensor,
    pub advantages: &'a Tensor,
    pub values: &'a Tensor,
    pub old_values: &'a Tensor,
    pub returns: &'a Tensor,
    pub mask: &'a Tensor,
}

/// What [`loss`] computes: scalars.
pub struct PpoLoss {
    /// `policy_loss + vf_coef · value_loss`.
    pub loss: Tensor,
    pub policy_loss: Tensor,
    pub value_loss: Tensor,
    pub value_clipfrac: Tensor,
    pub moved: Moved,
}

/// The mean over tokens of `max(-A·r, -A·clip(r, 1±ε))`, and half that of the (clipped) squared error
/// of the values.
pub fn loss(batch: &PpoBatch<'_>, clipping: Clipping) -> Result<PpoLoss> {
    let mask = batch.mask;
    // Masked out first: beyond a completion's end there is nothing to trust.
    let log_ratio = ((batch.logprobs - batch.old_logprobs)? * mask)?;
    let advantages = (batch.advantages * mask)?;
    let surrogate = surrogate(&log_ratio, &advantages, clipping.ratio)?;
    let policy_loss = masked_mean(&surrogate.loss, mask)?;
    let (value_loss, value_clipfrac) = value_loss(batch, clipping.clip_range_value)?;
    let loss = (&policy_loss + (&value_loss * clipping.vf_coef)?)?;
    Ok(PpoLoss {
        loss,
        policy_loss,
        value_loss,
        value_clipfrac,
        moved: Moved::of(&surrogate, &log_ratio, mask)?,
    })
}

fn value_loss(batch: &PpoBatch<'_>, clip_range: Option<f64>) -> Result<(Tensor, Tensor)> {
    let mask = batch.mask;
    let values = (batch.values * mask)?;
    let old_values = (batch.old_values * mask)?;
    let returns = (batch.returns * mask)?;
    let plain = (&values - &returns)?.sqr()?;
    let Some(range) = clip_range else {
        return Ok(((masked_mean(&plain, mask)? * 0.5)?, mask.zeros_like()?.mean_all()?));
    };
    let moved = (&values - &old_values)?.clamp(-range, range)?;
    let clipped = ((old_values + moved)? - returns)?.sqr()?;
    let share = masked_mean(&clipped.gt(&plain)?.to_dtype(mask.dtype())?, mask)?;
    Ok(((masked_mean(&plain.maximum(&clipped)?, mask)? * 0.5)?, share))
}
