//! REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740): several completions of a prompt,
//! each judged against the mean of the others. No value function; the KL to the reference is a part of the reward.

use serde::{Deserialize, Serialize};

use super::loss::advantage::leave_one_out;
use super::loss::kl::{KlController, KlEstimator};
use super::loss::rloo::{RlooBatch, loss as rloo_loss};
use super::loss::surrogate::RatioClip;
use super::online::{Basics, Batch, KlIn, Method, Objective, Over};
use super::rollout::{self, Rollout, RolloutConfig};
use crate::bounds;
use crate::error::Result;
use crate::model::heads::ScalarHead;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RlooConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-6, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub rollout: RolloutConfig,
    /// Completions of a prompt that are judged against each other.
    #[arg(long, default_value_t = 4, value_name = "K")]
    pub num_generations: usize,
    /// Passes over the completions of an iteration.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// Weight of the KL to the reference in the reward of a completion.
    #[arg(long, default_value_t = 0.05, value_parser = bounds::amount::<f64>)]
    pub kl_coef: f64,
    /// How the KL of a token is estimated: k1 = l, k2 = l²/2, k3 = exp(-l) - 1 + l, with l = log π - log π_ref.
    #[arg(long, value_enum, default_value_t)]
    pub kl_estimator: KlEstimator,
    /// Clipping of the probability ratio of completions, where there is more than one update to a rollout.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range: f64,
}

impl Method for RlooConfig {
    const KIND: &'static str = "train-rloo";
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
            kl_estimator: self.kl_estimator,
            kl_controller: KlController::Fixed,
            kl_in: KlIn::Reward,
        }
    }

    fn check(&self) -> Result<()> {
        rollout::check_groups(&self.rollout, self.num_generations)
    }

    fn estimate(&self, rollout: &Rollout, kl_coef: f64, _head: Option<&ScalarHead>) -> Result<Vec<f32>> {
        let rewards = penalised(&rollout.rewards, &rollout.kl(self.kl_estimator), kl_coef);
        Ok(leave_one_out(&rewards, &rollout.groups))
    }

    fn loss_over(&self) -> Over {
        Over::Completions
    }

    fn objective(&self, of: &Batch<'_, Vec<f32>>) -> Result<Objective> {
        let batch = RlooBatch {
            logprobs: of.leaves.logprobs.as_tensor(),
            old_logprobs: &of.old_logprobs()?,
            advantages: &of.of_completions(of.estimate)?,
            mask: &of.leaves.mask,
        };
        let clip = RatioClip {
            clip_range: self.clip_range,
            dual_clip: None,
        };
        let result = rloo_loss(&batch, clip)?;
        let policy_loss = result.loss.detach();
        let mut objective = Objective::new(result.loss);
        objective.tell("loss/policy_avg", &policy_loss, Over::Completions)?;
        objective.tell_moved(&result.moved, Over::Completions)?;
        Ok(objective)
    }
}

/// The reward of each completion less the penalty of its KL.
fn penalised(rewards: &[f32], kl: &[Vec<f32>], kl_coef: f64) -> Vec<f32> {
    let of_completion = |(reward, kl): (&f32, &Vec<f32>)| {
        let sum: f64 = kl.iter().map(|kl| f64::from(*kl)).sum();
        (f64::from(*reward) - kl_coef * sum) as f32
    };
    rewards.iter().zip(kl).map(of_completion).collect()
}
