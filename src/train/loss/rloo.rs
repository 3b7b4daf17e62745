//! REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740): a completion is one action.

use candle_core::{Result, Tensor};

use super::surrogate::{Moved, RatioClip, surrogate};

/// `logprobs` and `old_logprobs` are `(B, T)`, `advantages` are `(B)`; `mask (B, T)` is 1 for the tokens of a completion.
pub struct RlooBatch<'a> {
    pub logprobs: &'a Tensor,
    pub old_logprobs: &'a Tensor,
    pub advantages: &'a Tensor,
    pub mask: &'a Tensor,
}

/// What [`loss`] computes: scalars.
pub struct RlooLoss {
    pub loss: Tensor,
    /// Of whole completions.
    pub moved: Moved,
}

/// The mean over completions of the clipped surrogate, its ratio that of whole completions. Where nothing has moved yet
/// its gradient is that of REINFORCE, `-A ∇ log π`; a second pass over the same completions needs the ratio.
pub fn loss(batch: &RlooBatch<'_>, clip: RatioClip) -> Result<RlooLoss> {
    let log_ratio = ((batch.logprobs - batch.old_logprobs)? * batch.mask)?.sum(1)?;
    let surrogate = surrogate(&log_ratio, batch.advantages, clip)?;
    let all = batch.advantages.ones_like()?;
    Ok(RlooLoss {
        loss: surrogate.loss.mean_all()?,
        moved: Moved::of(&surrogate, &log_ratio, &all)?,
    })
}
