//! The loop of the methods that learn from what the policy draws while it learns: draw and score ([`rollout`]), estimate
//! what each completion was worth, update on minibatches, watch.
//!
//! A method says how it estimates and what its loss is; all else is here, once.

mod updates;

use candle_core::{Device, Tensor};
use serde::Serialize;

use self::updates::Updates;
use super::accumulation::{Accumulated, Part};
use super::loss::advantage::share_without_difference;
use super::loss::kl::{KlController, KlEstimator};
use super::loss::surrogate::Moved;
use super::monitor::{Monitor, Watch};
use super::reward::scalar;
use super::rollout::{self, Actors, Draw, Rollout, RolloutConfig, mean_kl};
use super::run::{Beside, Run, Setup};
use super::seam::Leaves;
use crate::error::Result;
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::seed::Seed;

/// What the methods are called in recipes and reports.
pub const METHODS: [&str; 3] = ["ppo", "rloo", "grpo"];

/// A method that learns from completions which the policy draws while it learns. Its settings are flags.
pub trait Method: clap::Args + Serialize {
    /// The command, in words joined by `-`.
    const KIND: &'static str;

    /// What the updates of an iteration learn from beside the rollout: advantages, returns.
    type Estimate;

    fn rollout(&self) -> &RolloutConfig;

    fn basics(&self) -> Basics;

    /// The settings of PPO, which has more than the others.
    fn ppo(&self) -> Option<&super::ppo::PpoConfig> {
        None
    }

    /// Whether the settings fit each other.
    fn check(&self) -> Result<()>;

    /// A value function as it begins, and how many times faster than the policy it learns.
    fn value_head(&self, _actors: &Actors<'_>) -> Result<Option<(ScalarHead, f64)>> {
        Ok(None)
    }

    /// What an iteration's completions are worth. `kl_coef` is the weight that the KL's penalty has in it.
    fn estimate(&self, rollout: &Rollout, kl_coef: f64, head: Option<&ScalarHead>) -> Result<Self::Estimate>;

    /// What the loss is a mean over.
    fn loss_over(&self) -> Over;

    /// The loss of some completions.
    fn objective(&self, batch: &Batch<'_, Self::Estimate>) -> Result<Objective>;
}

/// What every method has.
#[derive(Debug, Clone, Copy)]
pub struct Basics {
    /// The peak.
    pub learning_rate: f64,
    /// Passes over the completions of an iteration.
    pub epochs: usize,
    /// Completions to a drawing of a prompt.
    pub per_prompt: usize,
    /// The weight of the penalty for the KL to the reference, as it begins.
    pub kl_coef: f64,
    pub kl_estimator: KlEstimator,
    pub kl_controller: KlController,
    pub kl_in: KlIn,
}

/// Where the penalty for the KL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlIn {
    /// It must be known before the first update.
    Reward,
    Loss,
}

/// What a mean is over: which share of it a part of a minibatch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Tokens,
    Completions,
}

/// What a method makes of a batch.
pub struct Objective {
    pub loss: Tensor,
    /// Each with what it is a mean over.
    pub figures: Vec<(&'static str, f64, Over)>,
}

impl Objective {
    pub fn new(loss: Tensor) -> Self {
        Self {
            loss,
            figures: Vec::new(),
        }
    }

    /// Adds a figure.
    pub fn tell(&mut self, name: &'static str, value: &Tensor, over: Over) -> Result<()> {
        self.figures.push((name, scalar(value)?, over));
        Ok(())
    }

    /// Adds what every method tells of the step that it is about to make.
    pub fn tell_moved(&mut self, moved: &Moved, over: Over) -> Result<()> {
        self.tell(updates::APPROX_KL, &moved.approx_kl, over)?;
        self.tell("policy/clipfrac_avg", &moved.clipfrac, over)?;
        self.tell(updates::RATIO, &moved.ratio, over)
    }
}

/// Some completions of a rollout as they come out of the trunk.
pub struct Batch<'a, E> {
    pub leaves: &'a Leaves,
    pub rollout: &'a Rollout,
    pub estimate: &'a E,
    pub head: Option<&'a ScalarHead>,
    rows: &'a [usize],
}

impl<E> Batch<'_, E> {
    /// `(B, T)` of values that all completions of the rollout have for each of their tokens.
    pub fn of_tokens(&self, values: &[Vec<f32>]) -> Result<Tensor> {
        self.leaves.pad(self.rows.iter().map(|row| values[*row].clone()))
    }

    /// `(B)` of one value for each completion of the rollout.
    pub fn of_completions(&self, values: &[f32]) -> Result<Tensor> {
        let picked: Vec<f32> = self.rows.iter().map(|row| values[*row]).collect();
        Ok(Tensor::from_vec(picked, self.rows.len(), &Device::Cpu)?)
    }

    /// `(B, T)`: that value for every token of its completion.
    pub fn spread(&self, values: &[f32]) -> Result<Tensor> {
        let rows = self.rows.iter().zip(&self.leaves.lengths);
        self.leaves.pad(rows.map(|(row, length)| vec![values[*row]; *length]))
    }

    /// `(B, T)`: log-probabilities of the policy that drew. Where this is the only update, it is the policy that learns.
    pub fn old_logprobs(&self) -> Result<Tensor> {
        match self.rollout.old_logprobs.is_empty() {
            true => Ok(self.leaves.logprobs.as_tensor().detach()),
            false => self.of_tokens(&self.rollout.old_logprobs),
        }
    }
}

/// The name of the penalty's weight among what a run keeps.
const KL_COEF: &str = "kl_coef";

/// Trains a copy of the policy; the policy itself is the reference.
pub fn train<M: Method>(
    setup: Setup<'_>,
    method: &M,
    actors: &Actors<'_>,
    watch: Watch<'_>,
    seed: Seed,
) -> Result<Decoder> {
    let (config, basics) = (method.rollout(), method.basics());
    let beside = Beside {
        head: method.value_head(actors)?,
        ..Beside::default()
    };
    let peak_rate = (&config.optim, basics.learning_rate);
    let mut run = Run::begin(setup, peak_rate, actors.policy, beside, config.iterations)?;
    let mut monitor = Monitor::begin(watch, &run)?;
    let mut kl_coef = match run.kept(KL_COEF) {
        Some([kept]) => *kept,
        _ => basics.kl_coef,
    };
    while let Some(iteration) = run.next_step()? {
        let seed = seed.index(iteration as u64);
        let draw = Draw {
            per_prompt: basics.per_prompt,
            hidden: run.head.is_some(),
            logprobs: basics.kl_in == KlIn::Reward || config.updates(basics.epochs) > 1,
        };
        let mut rollout = rollout::collect(config, actors, &run.decoder, draw, seed)?;
        let updates = update(method, &mut run, &mut rollout, kl_coef, seed)?;
        let kl = rollout.kl(basics.kl_estimator);
        let mut figures = rollout.figures(&kl, kl_coef, iteration);
        if basics.per_prompt > 1 {
            let share = share_without_difference(&rollout.rewards, &rollout.groups);
            figures.push(("frac_reward_zero_std".into(), share));
        }
        figures.extend(updates.figures(config.max_kl_step));
        figures.extend(monitor.observe(&mut run, config, &rollout, mean_kl(&kl))?);
        kl_coef = basics.kl_controller.next(kl_coef, mean_kl(&kl), config.rollouts);
        run.keep(KL_COEF, vec![kl_coef]);
        rollout.end_step(&mut run, &figures, mean_kl(&kl))?;
        if monitor.stops() {
            break;
        }
    }
    let dir = run.dir().to_owned();
    monitor.choose(&dir, run.finish()?.0)
}

/// The updates of an iteration, until they are done or the policy has moved too far.
fn update<M: Method>(
    method: &M,
    run: &mut Run<'_>,
    rollout: &mut Rollout,
    kl_coef: f64,
    seed: Seed,
) -> Result<Updates> {
    let config = method.rollout();
    let estimate = method.estimate(rollout, kl_coef, run.head.as_ref())?;
    let mut updates = Updates::default();
    for rows in rollout.minibatches(config, method.basics().epochs, seed) {
        let Accumulated { figures, told, .. } = accumulate(method, run, rollout, &estimate, &rows)?;
        rollout.remember(&rows, told.concat());
        if updates.beyond(config.max_kl_step, &figures) {
            run.discard();
            break;
        }
        updates.add(figures, run.update()?);
    }
    Ok(updates)
}

/// Adds the gradient of a minibatch of the rollout's rows to the run's, a part at a time. Each part tells the
/// log-probabilities of its rows.
fn accumulate<M: Method>(
    method: &M,
    run: &mut Run<'_>,
    rollout: &Rollout,
    estimate: &M::Estimate,
    rows: &[usize],
) -> Result<Accumulated<Vec<Vec<f32>>>> {
    let config = method.rollout();
    let temperature = config.temperature;
    let head = run.head.clone();
    let wanted = match head {
        Some(_) => Wanted::LogprobsAndHidden { temperature },
        None => Wanted::Logprobs { temperature },
    };
    let share = |part: &[usize], over: Over| match over {
        Over::Tokens => rollout.tokens_of(part) as f64 / rollout.tokens_of(rows) as f64,
        Over::Completions => part.len() as f64 / rows.len() as f64,
    };
    let of_loss = method.loss_over();
    let parts = rows.chunks(config.micro_batch_rows.unwrap_or(rows.len()));
    let parts = parts.map(|part| Part {
        of: part,
        sequences: rollout.pick(part),
        share: share(part, of_loss),
    });
    run.accumulate(wanted, parts, |leaves, part| {
        let objective = method.objective(&Batch {
            leaves,
            rollout,
            estimate,
            head: head.as_ref(),
            rows: part,
        })?;
        // Every figure is going to count by the share of the loss.
        let stretch = |over: Over| match over == of_loss {
            true => 1.0,
            false => share(part, over) / share(part, of_loss),
        };
        let figures = objective.figures.into_iter();
        let figures = figures.map(|(name, value, over)| (name, value * stretch(over)));
        Ok((objective.loss, figures.collect(), leaves.rows()?))
    })
}
