//! REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740): several completions of a prompt,
//! each judged against the mean of the others. No value function; the KL to the reference is a part of the reward.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::loss::advantage::{leave_one_out, share_without_difference};
use super::loss::kl::KlEstimator;
use super::loss::rloo::{RlooBatch, loss as rloo_loss};
use super::loss::surrogate::RatioClip;
use super::monitor::{Monitor, Watch};
use super::reward::scalar;
use super::rollout::{self, APPROX_KL, Actors, Draw, Method, RATIO, Rollout, RolloutConfig, Updates, mean_kl};
use super::run::{Beside, Run, Setup};
use crate::bounds;
use crate::error::Result;
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::seed::Seed;

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

    fn rollout(&self) -> &RolloutConfig {
        &self.rollout
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn epochs(&self) -> usize {
        self.epochs
    }

    fn per_prompt(&self) -> usize {
        self.num_generations
    }

    fn kl_coef(&self) -> f64 {
        self.kl_coef
    }

    fn check(&self) -> Result<()> {
        rollout::check_groups(&self.rollout, self.num_generations)
    }

    fn train(&self, setup: Setup<'_>, actors: &Actors<'_>, watch: Watch<'_>, seed: Seed) -> Result<Decoder> {
        train(setup, self, actors, watch, seed)
    }
}

/// Trains a copy of the policy; the policy itself is the reference.
pub fn train(
    setup: Setup<'_>,
    config: &RlooConfig,
    actors: &Actors<'_>,
    watch: Watch<'_>,
    seed: Seed,
) -> Result<Decoder> {
    let mut run = Run::begin(
        setup,
        (&config.rollout.optim, config.learning_rate),
        actors.policy,
        Beside::default(),
        config.rollout.iterations,
    )?;
    let mut monitor = Monitor::begin(watch, &run)?;
    while let Some(iteration) = run.next_step()? {
        let seed = seed.index(iteration as u64);
        let draw = Draw {
            per_prompt: config.num_generations,
            hidden: false,
            logprobs: true,
        };
        let rollout = rollout::collect(&config.rollout, actors, &run.decoder, draw, seed)?;
        let kl = rollout.kl(config.kl_estimator);
        let rewards = penalised(&rollout.rewards, &kl, config.kl_coef);
        let advantages = leave_one_out(&rewards, &rollout.groups);
        let mut updates = Updates::default();
        for rows in rollout.minibatches(&config.rollout, config.epochs, seed) {
            let (figures, store) = gradient(config, &mut run, &rollout, &advantages, &rows)?;
            if updates.beyond(config.rollout.max_kl_step, &figures) {
                run.gradients.clear();
                break;
            }
            updates.add(figures, run.update(&store)?);
        }
        let mut figures = rollout.figures(&kl, config.kl_coef, iteration);
        figures.push((
            "frac_reward_zero_std".into(),
            share_without_difference(&rollout.rewards, &rollout.groups),
        ));
        figures.extend(updates.figures(config.rollout.max_kl_step));
        figures.extend(monitor.observe(&mut run, &config.rollout, &rollout, mean_kl(&kl))?);
        rollout.end_step(&mut run, &figures, mean_kl(&kl))?;
        if monitor.stops() {
            break;
        }
    }
    let dir = run.dir().to_owned();
    monitor.choose(&dir, run.finish()?.0)
}

/// The reward of each completion less the penalty of its KL.
fn penalised(rewards: &[f32], kl: &[Vec<f32>], kl_coef: f64) -> Vec<f32> {
    let of_completion = |(reward, kl): (&f32, &Vec<f32>)| {
        let sum: f64 = kl.iter().map(|kl| f64::from(*kl)).sum();
        (f64::from(*reward) - kl_coef * sum) as f32
    };
    rewards.iter().zip(kl).map(of_completion).collect()
}

/// Adds the gradient of a minibatch of the rollout's rows to the run's.
fn gradient(
    config: &RlooConfig,
    run: &mut Run<'_>,
    rollout: &Rollout,
    advantages: &[f32],
    rows: &[usize],
) -> Result<(Vec<(&'static str, f64)>, GradStore)> {
    let advantages: Vec<f32> = rows.iter().map(|row| advantages[*row]).collect();
    let advantages = Tensor::from_vec(advantages, rows.len(), &Device::Cpu)?;
    let wanted = Wanted::Logprobs {
        temperature: config.rollout.temperature,
    };
    run.accumulate(&rollout.pick(rows), wanted, |leaves| {
        let old_logprobs = leaves.pad(rows.iter().map(|row| rollout.old_logprobs[*row].clone()))?;
        let batch = RlooBatch {
            logprobs: leaves.logprobs.as_tensor(),
            old_logprobs: &old_logprobs,
            advantages: &advantages,
            mask: &leaves.mask,
        };
        let clip = RatioClip {
            clip_range: config.clip_range,
            dual_clip: None,
        };
        let result = rloo_loss(&batch, clip)?;
        let figures = vec![
            ("loss/policy_avg", scalar(&result.loss)?),
            (APPROX_KL, scalar(&result.moved.approx_kl)?),
            ("policy/clipfrac_avg", scalar(&result.moved.clipfrac)?),
            (RATIO, scalar(&result.moved.ratio)?),
        ];
        Ok((result.loss, figures))
    })
}
