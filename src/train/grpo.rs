//! Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): several completions of a prompt, the
//! advantage of each its reward against the group's. No value function; the KL to the reference is a part of the loss.
//!
//! `--scale-rewards none` with `--loss-aggregation constant` is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), which
//! shows that dividing by the group's deviation favours prompts that are nearly settled, and dividing by a completion's
//! length favours long wrong ones. The aggregation over all tokens is DAPO's (Yu et al. 2025, arXiv 2503.14476).

use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};

use super::loss::advantage::{ScaleRewards, normalised, share_without_difference};
use super::loss::grpo::{Aggregation, GrpoBatch, GrpoTerms, loss as grpo_loss};
use super::loss::kl::KlEstimator;
use super::loss::surrogate::RatioClip;
use super::monitor::{Monitor, Watch};
use super::reward::scalar;
use super::rollout::{self, APPROX_KL, Actors, Draw, Method, RATIO, Rollout, RolloutConfig, Updates, mean_kl};
use super::run::{Beside, Run, Setup};
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::seed::Seed;

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

impl Method for GrpoConfig {
    const KIND: &'static str = "train-grpo";

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
        if self.dual_clip.is_some_and(|times| times <= 1.0) {
            return Err(Error::config("--dual-clip is 1 or less, which would clip every loss").help("leave it out"));
        }
        rollout::check_groups(&self.rollout, self.num_generations)
    }

    fn train(&self, setup: Setup<'_>, actors: &Actors<'_>, watch: Watch<'_>, seed: Seed) -> Result<Decoder> {
        train(setup, self, actors, watch, seed)
    }
}

/// Trains a copy of the policy; the policy itself is the reference.
pub fn train(
    setup: Setup<'_>,
    config: &GrpoConfig,
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
            logprobs: config.epochs > 1 || config.rollout.minibatch_rows < config.rollout.rollouts,
        };
        let mut rollout = rollout::collect(&config.rollout, actors, &run.decoder, draw, seed)?;
        let advantages = normalised(&rollout.rewards, &rollout.groups, config.scale_rewards);
        let mut updates = Updates::default();
        for rows in rollout.minibatches(&config.rollout, config.epochs, seed) {
            let ((figures, logprobs), store) = gradient(config, &mut run, &rollout, &advantages, &rows)?;
            rollout.remember(&rows, logprobs);
            if updates.beyond(config.rollout.max_kl_step, &figures) {
                run.gradients.clear();
                break;
            }
            updates.add(figures, run.update(&store)?);
        }
        let kl = rollout.kl(ESTIMATOR);
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

/// What a minibatch comes to: its figures, and the log-probabilities of its rows.
type Gradient = (Vec<(&'static str, f64)>, Vec<Vec<f32>>);

/// Adds the gradient of a minibatch of the rollout's rows to the run's; answers figures and the rows' log-probabilities.
fn gradient(
    config: &GrpoConfig,
    run: &mut Run<'_>,
    rollout: &Rollout,
    advantages: &[f32],
    rows: &[usize],
) -> Result<(Gradient, GradStore)> {
    let terms = GrpoTerms {
        ratio: RatioClip {
            clip_range: config.clip_range,
            dual_clip: config.dual_clip,
        },
        kl_coef: config.kl_coef,
        kl_estimator: ESTIMATOR,
        aggregation: config.loss_aggregation,
        room: config.rollout.max_new_tokens,
    };
    let wanted = Wanted::Logprobs {
        temperature: config.rollout.temperature,
    };
    run.accumulate(&rollout.pick(rows), wanted, |leaves| {
        let pick = |values: &[Vec<f32>]| leaves.pad(rows.iter().map(|row| values[*row].clone()));
        let reference = pick(&rollout.reference_logprobs)?;
        // Where this is the only update, the policy that drew is the policy that learns.
        let old_logprobs = match rollout.old_logprobs.is_empty() {
            true => leaves.logprobs.as_tensor().detach(),
            false => pick(&rollout.old_logprobs)?,
        };
        let of_tokens = |(row, length): (&usize, &usize)| vec![advantages[*row]; *length];
        let batch = GrpoBatch {
            logprobs: leaves.logprobs.as_tensor(),
            old_logprobs: &old_logprobs,
            reference_logprobs: &reference,
            advantages: &leaves.pad(rows.iter().zip(&leaves.lengths).map(of_tokens))?,
            mask: &leaves.mask,
        };
        let result = grpo_loss(&batch, terms)?;
        let figures = vec![
            ("loss/policy_avg", scalar(&result.policy_loss)?),
            ("loss/kl_avg", scalar(&result.kl)?),
            (APPROX_KL, scalar(&result.moved.approx_kl)?),
            ("policy/clipfrac_avg", scalar(&result.moved.clipfrac)?),
            (RATIO, scalar(&result.moved.ratio)?),
        ];
        Ok((result.loss, (figures, leaves.rows()?)))
    })
}
