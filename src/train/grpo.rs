//! Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): several completions of a prompt, the
//! advantage of each its reward against the group's. No value function; the KL to the reference is a part of the loss.
//!
//! `--scale-rewards none` with `--loss-aggregation constant` is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), which
//! shows that dividing by the group's deviation favours prompts that are nearly settled, and dividing by a completion's
//! length favours long wrong ones. The aggregation over all tokens is DAPO's (Yu et al. 2025, arXiv 2503.14476).

use serde::{Deserialize, Serialize};

use super::loss::advantage::{ScaleRewards, normalised};
use super::loss::grpo::{Aggregation, GrpoBatch, GrpoTerms, loss as grpo_loss};
use super::loss::kl::{KlController, KlEstimator};
use super::loss::surrogate::RatioClip;
use super::online::{Basics, Batch, KlIn, Method, Objective, Over};
use super::rollout::{self, Rollout, RolloutConfig};
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::heads::ScalarHead;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct GrpoConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-6, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub rollout: RolloutConfig,
    /// Completions of a prompt that make a group.
    #[arg(long, default_value_t = 8, value_name = "G")]
    pub num_generations: usize,
    /// Passes over the completions of an iteration.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// Weight of the KL to the reference in the loss, by the estimator k3.
    #[arg(long, default_value_t = 0.04, value_parser = bounds::amount::<f64>)]
    pub kl_coef: f64,
    /// What advantages are divided by: the deviation of the group's rewards, of the batch's, or nothing.
    #[arg(long, value_enum, default_value_t)]
    pub scale_rewards: ScaleRewards,
    /// What token losses come to: the mean over all tokens, over completions of the means over theirs, or the sum over the room that completions have.
    #[arg(long, value_enum, default_value_t)]
    pub loss_aggregation: Aggregation,
    /// Clipping of the probability ratio.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range: f64,
    /// Clip the loss where the advantage is negative at this many times its size, more than 1 [default: off].
    #[arg(long, value_name = "TIMES", value_parser = bounds::positive::<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
}

/// The estimator of the paper: in a loss, the gradient of k1 would be that of nothing, for its mean is 0.
const ESTIMATOR: KlEstimator = KlEstimator::K3;

impl GrpoConfig {
    fn terms(&self) -> GrpoTerms {
        GrpoTerms {
            ratio: RatioClip {
                clip_range: self.clip_range,
                dual_clip: self.dual_clip,
            },
            kl_coef: self.kl_coef,
            kl_estimator: ESTIMATOR,
            aggregation: self.loss_aggregation,
            room: self.rollout.max_new_tokens,
        }
    }
}

impl Method for GrpoConfig {
    const KIND: &'static str = "train-grpo";
    /// The advantage of each completion.
    type Estimate = Vec<f32>;

    fn rollout(&self) -> &RolloutConfig {
        &self.rollout
    }

    fn basics(&self) -> Basics {
        Basics {
            learning_rate: self.learning_rate,
            epochs: self.epochs,
            per_prompt: self.num_generations,
            kl_coef: self.kl_coef,
            kl_estimator: ESTIMATOR,
            kl_controller: KlController::Fixed,
            kl_in: KlIn::Loss,
        }
    }

    fn check(&self) -> Result<()> {
        if self.dual_clip.is_some_and(|times| times <= 1.0) {
            return Err(Error::config("--dual-clip is 1 or less, which would clip every loss").help("leave it out"));
        }
        rollout::check_groups(&self.rollout, self.num_generations)
    }

    fn estimate(&self, rollout: &Rollout, _kl_coef: f64, _head: Option<&ScalarHead>) -> Result<Vec<f32>> {
        Ok(normalised(&rollout.rewards, &rollout.groups, self.scale_rewards))
    }

    fn loss_over(&self) -> Over {
        match self.loss_aggregation {
            Aggregation::Token => Over::Tokens,
            Aggregation::Sequence | Aggregation::Constant => Over::Completions,
        }
    }

    fn objective(&self, of: &Batch<'_, Vec<f32>>) -> Result<Objective> {
        let batch = GrpoBatch {
            logprobs: of.leaves.logprobs.as_tensor(),
            old_logprobs: &of.old_logprobs()?,
            reference_logprobs: &of.of_tokens(&of.rollout.reference_logprobs)?,
            advantages: &of.spread(of.estimate)?,
            mask: &of.leaves.mask,
        };
        let result = grpo_loss(&batch, self.terms())?;
        let mut objective = Objective::new(result.loss);
        objective.tell("loss/policy_avg", &result.policy_loss, self.loss_over())?;
        objective.tell("loss/kl_avg", &result.kl, Over::Tokens)?;
        objective.tell_moved(&result.moved, Over::Tokens)?;
        Ok(objective)
    }
}
