//! Proximal policy optimisation (Schulman et al. 2017) of a policy against its rewards.
//!
//! Where this differs from InstructGPT: the value head reads the policy's own hidden states and its
//! gradient stops there; rewards are standardised by the reward model and clipped.
//!
//! With one trunk for both, a value function that begins as the reward model can only begin as its head: the head's
//! weights, with the standardisation of the rewards folded in, read the policy's hidden states. Where the reward model
//! was trained from the policy (as in the recipes) the two trunks are near each other and so is what the head reads.

use serde::{Deserialize, Serialize};

use super::loss::advantage::{gae, scale_to_unit_variance, whiten};
use super::loss::kl::{KlController, KlEstimator};
use super::loss::ppo::{Clipping, PpoBatch, loss as ppo_loss};
use super::loss::surrogate::{RatioClip, entropy_surrogate};
use super::online::{Basics, Batch, KlIn, Method, Objective, Over};
use super::rollout::{Actors, Rollout, RolloutConfig};
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::heads::ScalarHead;

/// How the value head begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ValueInit {
    // It expects nothing.
    #[default]
    Zero,
    // As the reward model's head, where that is as wide as the policy.
    Reward,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct PpoConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 3e-6, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub rollout: RolloutConfig,
    /// Passes over the completions of an iteration.
    #[arg(long, default_value_t = 4)]
    pub ppo_epochs: usize,
    /// Weight of the per-token KL penalty to the reference; where it begins, with --kl-target.
    #[arg(long, default_value_t = 0.05, value_parser = bounds::amount::<f32>)]
    pub kl_coef: f32,
    /// How the KL of a token is estimated: k1 = l, k2 = l²/2, k3 = exp(-l) - 1 + l, with l = log π - log π_ref.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub kl_estimator: KlEstimator,
    /// Let the weight of the penalty follow the KL, towards this many nats a completion [default: it is fixed].
    #[arg(long, value_name = "NATS", value_parser = bounds::positive::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_target: Option<f64>,
    /// Completions over which the weight follows: fewer are faster [default: 10000].
    #[arg(long, value_name = "N", value_parser = bounds::positive::<f64>, requires = "kl_target")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_horizon: Option<f64>,
    /// Discount.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::share::<f64>)]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation.
    #[arg(long, default_value_t = 0.95, value_parser = bounds::share::<f64>)]
    pub gae_lambda: f64,
    /// Clipping of the probability ratio.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range: f64,
    /// Clip the loss where the advantage is negative at this many times its size, more than 1: 3 in the paper [default: off].
    #[arg(long, value_name = "TIMES", value_parser = bounds::positive::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
    /// Clipping of the values; 0 for none.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range_value: f64,
    /// Weight of the value loss.
    #[arg(long, default_value_t = 0.1, value_parser = bounds::amount::<f64>)]
    pub vf_coef: f64,
    /// How the value head begins: at zero, or as the reward model's head.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub value_init: ValueInit,
    /// How many times faster the value head learns than the policy.
    #[arg(long, default_value_t = 5.0, value_parser = bounds::amount::<f64>)]
    pub head_rate: f64,
    /// Scale the rewards of an iteration's tokens, KL penalty included, to variance 1.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whiten_rewards: bool,
    /// Leave advantages as they are, instead of shifting and scaling those of an iteration to mean 0 and variance 1.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_whiten_advantages: bool,
    /// Weight of a bonus for entropy, estimated on the tokens that were drawn.
    #[arg(long, default_value_t = 0.0, value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub entropy_coef: f64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Completions after which the adaptive controller has followed, unless told otherwise (Ziegler et al. 2019).
const KL_HORIZON: f64 = 10_000.0;

impl PpoConfig {
    fn controller(&self) -> KlController {
        match self.kl_target {
            Some(target) => KlController::Adaptive {
                target,
                horizon: self.kl_horizon.unwrap_or(KL_HORIZON),
            },
            None => KlController::Fixed,
        }
    }

    fn clipping(&self) -> Clipping {
        Clipping {
            ratio: RatioClip {
                clip_range: self.clip_range,
                dual_clip: self.dual_clip,
            },
            clip_range_value: (self.clip_range_value > 0.0).then_some(self.clip_range_value),
            vf_coef: self.vf_coef,
        }
    }
}

/// One value a token for each completion of a rollout.
#[derive(Default)]
pub struct Estimated {
    old_values: Vec<Vec<f32>>,
    advantages: Vec<Vec<f32>>,
    returns: Vec<Vec<f32>>,
}

impl Method for PpoConfig {
    const KIND: &'static str = "train-ppo";
    type Estimate = Estimated;

    fn rollout(&self) -> &RolloutConfig {
        &self.rollout
    }

    fn basics(&self) -> Basics {
        Basics {
            learning_rate: self.learning_rate,
            epochs: self.ppo_epochs,
            per_prompt: 1,
            kl_coef: f64::from(self.kl_coef),
            kl_estimator: self.kl_estimator,
            kl_controller: self.controller(),
            kl_in: KlIn::Reward,
        }
    }

    fn ppo(&self) -> Option<&PpoConfig> {
        Some(self)
    }

    fn check(&self) -> Result<()> {
        if self.dual_clip.is_some_and(|times| times <= 1.0) {
            return Err(Error::config("--dual-clip is 1 or less, which would clip every loss")
                .help("3 is the paper's; leave it out for none"));
        }
        if self.kl_target.is_some() && self.kl_coef == 0.0 {
            return Err(
                Error::config("--kl-target with --kl-coef 0: nothing times anything is nothing")
                    .help("give a --kl-coef to begin with, such as 0.05"),
            );
        }
        Ok(())
    }

    fn value_head(&self, actors: &Actors<'_>) -> Result<Option<(ScalarHead, f64)>> {
        let width = actors.policy.config.hidden;
        let head = match self.value_init {
            ValueInit::Zero => ScalarHead::zeros(width)?,
            ValueInit::Reward => actors.sources.head(width)?.ok_or_else(|| {
                Error::config("--value-init reward: no reward model is as wide as the policy")
                    .help("leave it out, and the value head begins at zero")
            })?,
        };
        Ok(Some((head, self.head_rate)))
    }

    /// The advantages and returns of a rollout's tokens: the KL penalty at every token, the reward at the last.
    fn estimate(&self, rollout: &Rollout, kl_coef: f64, head: Option<&ScalarHead>) -> Result<Estimated> {
        let head = head.ok_or_else(|| Error::unexpected("PPO without a value head"))?;
        let mut rewards = rewards_of_tokens(rollout, &rollout.kl(self.kl_estimator), kl_coef as f32);
        if self.whiten_rewards {
            scale_to_unit_variance(&mut rewards);
        }
        let mut estimated = Estimated::default();
        for (row, rewards) in rewards.iter().enumerate() {
            let values = head.apply(std::slice::from_ref(&rollout.hidden[row]))?;
            let estimates = gae(rewards, &values, self.gamma, self.gae_lambda);
            estimated.old_values.push(values);
            estimated.advantages.push(estimates.advantages);
            estimated.returns.push(estimates.returns);
        }
        if !self.no_whiten_advantages {
            whiten(&mut estimated.advantages);
        }
        Ok(estimated)
    }

    fn loss_over(&self) -> Over {
        Over::Tokens
    }

    fn objective(&self, of: &Batch<'_, Estimated>) -> Result<Objective> {
        let leaves = of.leaves;
        let values = leaves.scatter(&leaves.apply_head_detached(of.head)?)?;
        let batch = PpoBatch {
            logprobs: leaves.logprobs.as_tensor(),
            old_logprobs: &of.old_logprobs()?,
            advantages: &of.of_tokens(&of.estimate.advantages)?,
            values: &values,
            old_values: &of.of_tokens(&of.estimate.old_values)?,
            returns: &of.of_tokens(&of.estimate.returns)?,
            mask: &leaves.mask,
        };
        let mut result = ppo_loss(&batch, self.clipping())?;
        if self.entropy_coef != 0.0 {
            let bonus = entropy_surrogate(batch.logprobs, batch.old_logprobs, batch.mask)?;
            result.loss = (result.loss - (bonus * self.entropy_coef)?)?;
        }
        let mut objective = Objective::new(result.loss);
        objective.tell("loss/policy_avg", &result.policy_loss, Over::Tokens)?;
        objective.tell("loss/value_avg", &result.value_loss, Over::Tokens)?;
        objective.tell("val/clipfrac_avg", &result.value_clipfrac, Over::Tokens)?;
        objective.tell_moved(&result.moved, Over::Tokens)?;
        Ok(objective)
    }
}

/// The penalty at every token, the reward of the completion at its last.
fn rewards_of_tokens(rollout: &Rollout, kl: &[Vec<f32>], kl_coef: f32) -> Vec<Vec<f32>> {
    let mut rewards: Vec<Vec<f32>> = kl
        .iter()
        .map(|row| row.iter().map(|kl| -kl_coef * kl).collect())
        .collect();
    for (tokens, reward) in rewards.iter_mut().zip(&rollout.rewards) {
        if let Some(last) = tokens.last_mut() {
            *last += reward;
        }
    }
    rewards
}
