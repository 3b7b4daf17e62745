//! Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, equation 3): the clipped surrogate with one
//! advantage a completion and the KL penalty in the loss.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::kl::KlEstimator;
use super::ops::masked_mean;
use super::surrogate::{Moved, RatioClip, surrogate};

/// What a batch of token losses comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    // The mean over all tokens of the batch (DAPO, Yu et al. 2025): a token counts the same in every completion.
    #[default]
    Token,
    // The mean over completions of the means over their tokens (Shao et al. 2024): a token of a long completion counts less.
    Sequence,
    // The sum over tokens, divided by the room that all completions have (Dr. GRPO, Liu et al. 2025).
    Constant,
}

impl Aggregation {
    /// A scalar of losses `(B, T)`; `room` is how many tokens a completion may have.
    pub fn of(self, losses: &Tensor, mask: &Tensor, room: usize) -> Result<Tensor> {
        match self {
            Self::Token => masked_mean(losses, mask),
            // No completion of a batch is empty: a rollout has left those out.
            Self::Sequence => (losses * mask)?.sum(1)?.div(&mask.sum(1)?)?.mean_all(),
            Self::Constant => (losses * mask)?.sum_all()? / (mask.dim(0)? * room.max(1)) as f64,
        }
    }
}

/// Tensors `(B, T)` of a batch; `mask` is 1 for the tokens of a completion.
pub struct GrpoBatch<'a> {
    pub logprobs: &'a Tensor,
    pub old_logprobs: &'a Tensor,
    pub reference_logprobs: &'a Tensor,
    /// The same for all tokens of a completion.
    pub advantages: &'a Tensor,
    pub mask: &'a Tensor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoTerms {
    pub ratio: RatioClip,
    pub kl_coef: f64,
    pub kl_estimator: KlEstimator,
    pub aggregation: Aggregation,
    /// Tokens that a completion may have.
    pub room: usize,
}

/// What [`loss`] computes: scalars.
pub struct GrpoLoss {
    /// `policy_loss + kl_coef · kl`.
    pub loss: Tensor,
    pub policy_loss: Tensor,
    /// Mean over tokens of the estimated KL to the reference.
    pub kl: Tensor,
    pub moved: Moved,
}

pub fn loss(batch: &GrpoBatch<'_>, terms: GrpoTerms) -> Result<GrpoLoss> {
    let mask = batch.mask;
    let log_ratio = ((batch.logprobs - batch.old_logprobs)? * mask)?;
    let surrogate = surrogate(&log_ratio, &(batch.advantages * mask)?, terms.ratio)?;
    let penalty = terms
        .kl_estimator
        .penalty(batch.logprobs, batch.reference_logprobs, mask)?;
    let gather = |losses: &Tensor| terms.aggregation.of(losses, mask, terms.room);
    let policy_loss = gather(&surrogate.loss)?;
    Ok(GrpoLoss {
        loss: (&policy_loss + (gather(&penalty)? * terms.kl_coef)?)?,
        policy_loss,
        kl: masked_mean(&penalty, mask)?.detach(),
        moved: Moved::of(&surrogate, &log_ratio, mask)?,
    })
}
