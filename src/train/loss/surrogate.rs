//! The clipped surrogate of policy gradients (Schulman et al. 2017, equation 7), which PPO, GRPO and RLOO share, with
//! the dual clip of Ye et al. (2020, arXiv 1912.09729, equation 5).

use candle_core::{Result, Tensor};

use super::ops::masked_mean;

/// Log ratios beyond this are cut before the exponential, which would overflow; the clipped ratio has
/// long lost its gradient there.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// How the probability ratio is clipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatioClip {
    /// Of the ratio to `1 ± clip_range`.
    pub clip_range: f64,
    /// Of the loss where the advantage is negative, at this many times its size: without it a ratio that is far above
    /// 1 has a gradient without bound.
    pub dual_clip: Option<f64>,
}

/// What [`surrogate`] computes, in the shape of the ratios.
pub struct Surrogate {
    /// `max(-A·r, -A·clip(r, 1±ε))`; with a dual clip of `c` at most `-A·c` where `A < 0`.
    pub loss: Tensor,
    pub ratio: Tensor,
    /// 1 where the ratio is clipped.
    pub clipped: Tensor,
}

/// The loss of each element, from log ratios `log π - log π_old` and advantages. What is masked is 0 in both.
pub fn surrogate(log_ratio: &Tensor, advantages: &Tensor, clip: RatioClip) -> Result<Surrogate> {
    let ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)?.exp()?;
    let held = ratio.clamp(1.0 - clip.clip_range, 1.0 + clip.clip_range)?;
    let plain_loss = (advantages * &ratio)?.neg()?;
    let clipped_loss = (advantages * held)?.neg()?;
    let mut loss = plain_loss.maximum(&clipped_loss)?;
    if let Some(times) = clip.dual_clip {
        let bound = (advantages * -times)?;
        loss = advantages.lt(0.0)?.where_cond(&loss.minimum(&bound)?, &loss)?;
    }
    Ok(Surrogate {
        loss,
        ratio,
        clipped: clipped_loss.gt(&plain_loss)?.to_dtype(advantages.dtype())?,
    })
}

/// What an update tells of the step that it is about to make: scalars, means over tokens (of completions, where ratios
/// are of completions).
pub struct Moved {
    /// Share of the ratios that are clipped.
    pub clipfrac: Tensor,
    /// `mean((log π - log π_old)²) / 2`.
    pub approx_kl: Tensor,
    pub ratio: Tensor,
}

impl Moved {
    pub fn of(surrogate: &Surrogate, log_ratio: &Tensor, mask: &Tensor) -> Result<Self> {
        Ok(Self {
            clipfrac: masked_mean(&surrogate.clipped, mask)?,
            approx_kl: (masked_mean(&log_ratio.sqr()?, mask)? * 0.5)?,
            ratio: masked_mean(&surrogate.ratio, mask)?.detach(),
        })
    }
}

/// A scalar whose gradient estimates that of the policy's entropy, on tokens that it drew: `∇H = -E[log π ∇ log π]`, with
/// the weights `log π` those at the time of drawing. Its value is nothing in particular.
pub fn entropy_surrogate(logprobs: &Tensor, old_logprobs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    masked_mean(&(logprobs * old_logprobs)?.neg()?, mask)
}
