//! Proximal policy optimisation (Schulman et al. 2017) of a policy against its rewards.
//!
//! Where this differs from InstructGPT: the value head reads the policy's own hidden states and its
//! gradient stops there; rewards are standardised by the reward model and clipped.
//!
//! With one trunk for both, a value function that begins as the reward model can only begin as its head: the head's
//! weights, with the standardisation of the rewards folded in, read the policy's hidden states. Where the reward model
//! was trained from the policy (as in the recipes) the two trunks are near each other and so is what the head reads.

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};

use super::loss::advantage::{gae, scale_to_unit_variance, whiten};
use super::loss::kl::{KlController, KlEstimator};
use super::loss::ppo::{Clipping, PpoBatch, PpoLoss, loss as ppo_loss};
use super::loss::surrogate::{RatioClip, entropy_surrogate};
use super::monitor::{Monitor, Watch};
use super::reward::scalar;
use super::rollout::{self, APPROX_KL, Actors, Draw, Method, RATIO, Rollout, RolloutConfig, Updates, mean_kl};
use super::run::{Beside, Run, Setup};
use super::seam::Leaves;
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::seed::Seed;

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
}

/// One value a token for each completion of a rollout.
struct Estimated {
    old_values: Vec<Vec<f32>>,
    advantages: Vec<Vec<f32>>,
    returns: Vec<Vec<f32>>,
}

/// The name of the penalty's weight among what a run keeps.
const KL_COEF: &str = "kl_coef";

impl Method for PpoConfig {
    const KIND: &'static str = "train-ppo";

    fn rollout(&self) -> &RolloutConfig {
        &self.rollout
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn epochs(&self) -> usize {
        self.ppo_epochs
    }

    fn per_prompt(&self) -> usize {
        1
    }

    fn kl_coef(&self) -> f64 {
        f64::from(self.kl_coef)
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

    fn train(&self, setup: Setup<'_>, actors: &Actors<'_>, watch: Watch<'_>, seed: Seed) -> Result<Decoder> {
        train(setup, self, actors, watch, seed)
    }
}

/// Trains a copy of the policy; the policy itself is the reference.
pub fn train(
    setup: Setup<'_>,
    config: &PpoConfig,
    actors: &Actors<'_>,
    watch: Watch<'_>,
    seed: Seed,
) -> Result<Decoder> {
    let mut run = Run::begin(
        setup,
        (&config.rollout.optim, config.learning_rate),
        actors.policy,
        Beside::head(first_head(config, actors)?, config.head_rate),
        config.rollout.iterations,
    )?;
    let mut monitor = Monitor::begin(watch, &run)?;
    let mut kl_coef = match run.kept(KL_COEF) {
        Some([kept]) => *kept,
        _ => f64::from(config.kl_coef),
    };
    while let Some(iteration) = run.next_step()? {
        let seed = seed.index(iteration as u64);
        let draw = Draw {
            per_prompt: 1,
            hidden: true,
            logprobs: true,
        };
        let rollout = rollout::collect(&config.rollout, actors, &run.decoder, draw, seed)?;
        let kl = rollout.kl(config.kl_estimator);
        let estimated = estimate(config, &run, &rollout, &kl, kl_coef as f32)?;
        let mut updates = Updates::default();
        for rows in rollout.minibatches(&config.rollout, config.ppo_epochs, seed) {
            let (figures, store) = gradient(config, &mut run, &rollout, &estimated, &rows)?;
            if updates.beyond(config.rollout.max_kl_step, &figures) {
                run.gradients.clear();
                break;
            }
            updates.add(figures, run.update(&store)?);
        }
        let mut figures = rollout.figures(&kl, kl_coef, iteration);
        figures.extend(updates.figures(config.rollout.max_kl_step));
        figures.extend(monitor.observe(&mut run, &config.rollout, &rollout, mean_kl(&kl))?);
        kl_coef = config.controller().next(kl_coef, mean_kl(&kl), config.rollout.rollouts);
        run.keep(KL_COEF, vec![kl_coef]);
        rollout.end_step(&mut run, &figures, mean_kl(&kl))?;
        if monitor.stops() {
            break;
        }
    }
    let dir = run.dir().to_owned();
    monitor.choose(&dir, run.finish()?.0)
}

fn first_head(config: &PpoConfig, actors: &Actors<'_>) -> Result<ScalarHead> {
    let width = actors.policy.config.hidden;
    match config.value_init {
        ValueInit::Zero => ScalarHead::zeros(width),
        ValueInit::Reward => actors.sources.head(width)?.ok_or_else(|| {
            Error::config("--value-init reward: no reward model is as wide as the policy")
                .help("leave it out, and the value head begins at zero")
        }),
    }
}

/// The advantages and returns of a rollout's tokens: the KL penalty at every token, the reward at the last.
fn estimate(config: &PpoConfig, run: &Run<'_>, rollout: &Rollout, kl: &[Vec<f32>], kl_coef: f32) -> Result<Estimated> {
    let head = run.head.as_ref().expect("the run was begun with a value head");
    let mut rewards: Vec<Vec<f32>> = kl
        .iter()
        .map(|row| row.iter().map(|kl| -kl_coef * kl).collect())
        .collect();
    for (tokens, reward) in rewards.iter_mut().zip(&rollout.rewards) {
        if let Some(last) = tokens.last_mut() {
            *last += reward;
        }
    }
    if config.whiten_rewards {
        scale_to_unit_variance(&mut rewards);
    }
    let mut estimated = Estimated {
        old_values: Vec::new(),
        advantages: Vec::new(),
        returns: Vec::new(),
    };
    for (row, rewards) in rewards.iter().enumerate() {
        let values = head.apply(std::slice::from_ref(&rollout.hidden[row]))?;
        let estimates = gae(rewards, &values, config.gamma, config.gae_lambda);
        estimated.old_values.push(values);
        estimated.advantages.push(estimates.advantages);
        estimated.returns.push(estimates.returns);
    }
    if !config.no_whiten_advantages {
        whiten(&mut estimated.advantages);
    }
    Ok(estimated)
}

/// Adds the gradient of a minibatch of the rollout's rows to the run's.
fn gradient(
    config: &PpoConfig,
    run: &mut Run<'_>,
    rollout: &Rollout,
    estimated: &Estimated,
    rows: &[usize],
) -> Result<(Vec<(&'static str, f64)>, GradStore)> {
    let pick = |values: &[Vec<f32>]| -> Vec<Vec<f32>> { rows.iter().map(|row| values[*row].clone()).collect() };
    let sequences = rollout.pick(rows);
    let head = run.head.clone();
    let wanted = Wanted::LogprobsAndHidden {
        temperature: config.rollout.temperature,
    };
    run.accumulate(&sequences, wanted, |leaves| {
        let values = leaves.scatter(&leaves.apply_head_detached(head.as_ref())?)?;
        let result = minibatch_loss(
            config,
            leaves,
            &values,
            [
                leaves.pad(pick(&rollout.old_logprobs))?,
                leaves.pad(pick(&estimated.advantages))?,
                leaves.pad(pick(&estimated.old_values))?,
                leaves.pad(pick(&estimated.returns))?,
            ],
        )?;
        let figures = vec![
            ("loss/policy_avg", scalar(&result.policy_loss)?),
            ("loss/value_avg", scalar(&result.value_loss)?),
            (APPROX_KL, scalar(&result.moved.approx_kl)?),
            ("policy/clipfrac_avg", scalar(&result.moved.clipfrac)?),
            ("val/clipfrac_avg", scalar(&result.value_clipfrac)?),
            (RATIO, scalar(&result.moved.ratio)?),
        ];
        Ok((result.loss, figures))
    })
}

fn minibatch_loss(
    config: &PpoConfig,
    leaves: &Leaves,
    values: &Tensor,
    [old_logprobs, advantages, old_values, returns]: [Tensor; 4],
) -> Result<PpoLoss> {
    let batch = PpoBatch {
        logprobs: leaves.logprobs.as_tensor(),
        old_logprobs: &old_logprobs,
        advantages: &advantages,
        values,
        old_values: &old_values,
        returns: &returns,
        mask: &leaves.mask,
    };
    let clipping = Clipping {
        ratio: RatioClip {
            clip_range: config.clip_range,
            dual_clip: config.dual_clip,
        },
        clip_range_value: (config.clip_range_value > 0.0).then_some(config.clip_range_value),
        vf_coef: config.vf_coef,
    };
    let mut result = ppo_loss(&batch, clipping)?;
    if config.entropy_coef != 0.0 {
        let bonus = entropy_surrogate(batch.logprobs, batch.old_logprobs, batch.mask)?;
        result.loss = (result.loss - (bonus * config.entropy_coef)?)?;
    }
    Ok(result)
}
