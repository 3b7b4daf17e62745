//! Proximal policy optimisation of a policy against a reward model.
//!
//! Where this differs from InstructGPT: the value head reads the policy's own hidden states and its
//! gradient stops there; rewards are standardised by the reward model and clipped; the sampled token
//! ids are kept from rollout to update (decoding and encoding again changes them).
//!
//! Length control changes the rewards of a rollout before advantages are estimated. Whether longer answers get more
//! cannot be told across prompts, where some ask for longer answers than others; so `reward_length_residual` draws
//! two completions of a prompt, and its slope is that of differences within these pairs, iteration by iteration.

use candle_core::Tensor;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::length::correlation;
use super::loss::length::slope;
use super::loss::ppo::{Clipping, KlEstimator, PpoBatch, PpoLoss, gae, loss as ppo_loss, whiten};
use super::optim::OptimConfig;
use super::reward::{RewardModel, scalar};
use super::run::{Beside, Run, Setup};
use super::seam::Leaves;
use crate::bounds;
use crate::engine::Sampling;
use crate::engine::local::{Job, draw_all};
use crate::error::Result;
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::tokenizer::Tokenizer;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct PpoConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 3e-6, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Rounds of rollout and update.
    #[arg(long, default_value_t = 100)]
    pub iterations: usize,
    /// Completions drawn in an iteration.
    #[arg(long, default_value_t = 64)]
    pub rollouts: usize,
    /// Passes over the completions of an iteration.
    #[arg(long, default_value_t = 4)]
    pub ppo_epochs: usize,
    /// Completions to an update.
    #[arg(long, default_value_t = 32)]
    pub minibatch_rows: usize,
    /// Tokens of a completion at most.
    #[arg(long, default_value_t = 256, value_parser = bounds::count)]
    pub max_new_tokens: usize,
    /// Temperature of sampling.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::positive::<f32>)]
    pub temperature: f32,
    /// Weight of the per-token KL penalty to the reference.
    #[arg(long, default_value_t = 0.05, value_parser = bounds::amount::<f32>)]
    pub kl_coef: f32,
    /// Discount.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::share::<f64>)]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation.
    #[arg(long, default_value_t = 0.95, value_parser = bounds::share::<f64>)]
    pub gae_lambda: f64,
    /// Clipping of the probability ratio.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range: f64,
    /// Clipping of the values; 0 for none.
    #[arg(long, default_value_t = 0.2, value_parser = bounds::amount::<f64>)]
    pub clip_range_value: f64,
    /// Weight of the value loss.
    #[arg(long, default_value_t = 0.1, value_parser = bounds::amount::<f64>)]
    pub vf_coef: f64,
    /// Standardised rewards are clipped to plus and minus this.
    #[arg(long, default_value_t = 4.0, value_parser = bounds::amount::<f32>)]
    pub reward_clip: f32,
    /// The reward of a completion that does not end by itself.
    #[arg(long, default_value_t = -1.0, value_parser = bounds::finite::<f32>)]
    pub missing_eos_reward: f32,
    /// How many times faster the value head learns than the policy.
    #[arg(long, default_value_t = 5.0, value_parser = bounds::amount::<f64>)]
    pub head_rate: f64,
    /// Taken from the standardised reward of a completion of max-new-tokens tokens; of shorter ones in proportion.
    #[arg(long, default_value_t = 0.0, value_parser = bounds::amount::<f32>)]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length_penalty: f32,
    /// Take out of the rewards what length explains: prompts are drawn with two completions each, and the slope of reward on tokens within these pairs (a weighted median) is removed.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reward_length_residual: bool,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// The fixed parts of a run.
pub struct Actors<'a> {
    pub policy: &'a Decoder,
    pub reward_model: &'a RewardModel,
    pub tokenizer: &'a Tokenizer,
    /// Prompts in tokens, ready for an answer.
    pub prompts: &'a [Vec<u32>],
    pub stop: &'a [String],
}

/// Completions of one iteration, with what the update needs of them; all inner vectors are one value
/// a token.
struct Rollout {
    sequences: Vec<Sequence>,
    old_logprobs: Vec<Vec<f32>>,
    old_values: Vec<Vec<f32>>,
    advantages: Vec<Vec<f32>>,
    returns: Vec<Vec<f32>>,
    stats: RolloutStats,
}

/// Means over the completions of an iteration.
#[derive(Debug, Clone, Copy, Default)]
struct RolloutStats {
    reward: f64,
    kl: f64,
    tokens: f64,
    unended: f64,
    length: LengthStats,
}

/// What length has to do with the rewards of an iteration, before any control: over completions that end.
#[derive(Debug, Clone, Copy, Default)]
struct LengthStats {
    /// Of the rewards on tokens, by pairs: of a prompt where prompts are drawn twice, else of all completions.
    slope: f64,
    correlation: f64,
    /// Mean of what control took out of the rewards.
    taken: f64,
}

/// Trains a copy of the policy; the policy itself is the reference.
pub fn train(setup: Setup<'_>, config: &PpoConfig, actors: &Actors<'_>, seed: Seed) -> Result<Decoder> {
    let head = ScalarHead::zeros(actors.policy.config.hidden)?;
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        actors.policy,
        Beside::head(head, config.head_rate),
        config.iterations,
    )?;
    while let Some(iteration) = run.next_step()? {
        let seed = seed.index(iteration as u64);
        let rollout = collect(config, actors, &run, seed)?;
        let mut last = Vec::new();
        for epoch in 0..config.ppo_epochs {
            let lengths: Vec<usize> = rollout.sequences.iter().map(|sequence| sequence.tokens.len()).collect();
            let size = super::batch::BatchSize::Rows(config.minibatch_rows);
            for rows in super::batch::plan(&lengths, size, seed.child("update").index(epoch as u64)) {
                last = update(config, &mut run, &rollout, &rows)?;
            }
        }
        let stats = rollout.stats;
        let mut figures = vec![
            ("objective/scores", stats.reward),
            ("objective/kl", stats.kl),
            ("val/mean_tokens", stats.tokens),
            ("val/unended", stats.unended),
            // Completions that stopped before their first token: nothing to learn from.
            ("val/empty", (config.rollouts - rollout.sequences.len()) as f64),
            ("objective/length_slope", stats.length.slope),
            ("objective/length_correlation", stats.length.correlation),
        ];
        if config.length_penalty != 0.0 || config.reward_length_residual {
            figures.push(("objective/length_taken", stats.length.taken));
        }
        figures.extend(last);
        run.end_step(&figures, &format!("reward {:.2} kl {:.2}", stats.reward, stats.kl))?;
    }
    Ok(run.finish()?.0)
}

/// Draws completions from the current policy and estimates their advantages.
fn collect(config: &PpoConfig, actors: &Actors<'_>, run: &Run<'_>, seed: Seed) -> Result<Rollout> {
    let mut rng = seed.child("prompts").rng();
    let mut prompt = 0;
    let jobs: Vec<Job> = (0..config.rollouts)
        .map(|row| Job {
            prompt: {
                if !config.reward_length_residual || row % 2 == 0 {
                    prompt = rng.random_range(0..actors.prompts.len());
                }
                actors.prompts[prompt].clone()
            },
            sampling: Sampling {
                temperature: config.temperature,
                max_new_tokens: config.max_new_tokens,
                ..Sampling::default()
            },
            stop: actors.stop.to_vec(),
            seed: seed.child("rollout").index(row as u64),
        })
        .collect();
    let drawings = draw_all(&run.decoder, actors.tokenizer, &jobs)?;
    let mut sequences = Vec::new();
    let mut ended = Vec::new();
    let mut draws = Vec::new();
    for (row, (job, drawing)) in jobs.into_iter().zip(drawings).enumerate() {
        let Some(last) = drawing.tokens.last() else { continue };
        ended.push(actors.tokenizer.is_eos(*last));
        draws.push(row);
        let completion = job.prompt.len();
        let mut tokens = job.prompt;
        tokens.extend(drawing.tokens);
        sequences.push(Sequence { tokens, completion });
    }
    let scores = score(config, actors, &sequences, &ended)?;
    let outcomes: Vec<Outcome> = (scores.iter().zip(&sequences).zip(ended.iter().zip(draws)))
        .map(|((score, sequence), (ended, draw))| Outcome {
            score: *score,
            tokens: sequence.completion_len(),
            ended: *ended,
            prompt: config.reward_length_residual.then_some(draw / 2),
        })
        .collect();
    let (rewards, length) = control_length(config, &outcomes);
    let mut rollout = estimate(config, actors, run, sequences, &rewards, &ended)?;
    rollout.stats.reward =
        outcomes.iter().map(|outcome| f64::from(outcome.score)).sum::<f64>() / outcomes.len().max(1) as f64;
    rollout.stats.length = length;
    Ok(rollout)
}

/// What came of one completion.
struct Outcome {
    score: f32,
    tokens: usize,
    ended: bool,
    /// Completions are compared with others of this prompt alone, if there is one.
    prompt: Option<usize>,
}

/// The rewards after length control, and what length had to do with them before. The reward of a completion that
/// does not end is no judgement of its text, so the slope neither sees nor changes it; the penalty does.
fn control_length(config: &PpoConfig, outcomes: &[Outcome]) -> (Vec<f32>, LengthStats) {
    let ended: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.ended).collect();
    let scores: Vec<f64> = ended.iter().map(|outcome| f64::from(outcome.score)).collect();
    let tokens: Vec<f64> = ended.iter().map(|outcome| outcome.tokens as f64).collect();
    let pairs = (0..ended.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    let slope = slope(
        pairs
            .filter(|(first, second)| ended[*first].prompt == ended[*second].prompt)
            .map(|(first, second)| (scores[first] - scores[second], tokens[first] - tokens[second])),
    );
    let mean = tokens.iter().sum::<f64>() / tokens.len().max(1) as f64;
    let removed = if config.reward_length_residual { slope } else { 0.0 };
    let rewards: Vec<f32> = (outcomes.iter())
        .map(|outcome| {
            let residual = if outcome.ended {
                removed * (outcome.tokens as f64 - mean)
            } else {
                0.0
            };
            let share = outcome.tokens as f32 / config.max_new_tokens as f32;
            outcome.score - residual as f32 - config.length_penalty * share
        })
        .collect();
    let taken = outcomes
        .iter()
        .zip(&rewards)
        .map(|(outcome, reward)| f64::from(outcome.score - reward));
    let stats = LengthStats {
        slope,
        correlation: correlation(&scores, &tokens),
        taken: taken.sum::<f64>() / outcomes.len().max(1) as f64,
    };
    (rewards, stats)
}

/// One clipped reward a completion.
fn score(config: &PpoConfig, actors: &Actors<'_>, sequences: &[Sequence], ended: &[bool]) -> Result<Vec<f32>> {
    let rewards = actors.reward_model.score(sequences)?;
    Ok(rewards
        .into_iter()
        .zip(ended)
        .map(|(reward, ended)| match ended {
            true => reward.clamp(-config.reward_clip, config.reward_clip),
            false => config.missing_eos_reward,
        })
        .collect())
}

fn estimate(
    config: &PpoConfig,
    actors: &Actors<'_>,
    run: &Run<'_>,
    sequences: Vec<Sequence>,
    scores: &[f32],
    ended: &[bool],
) -> Result<Rollout> {
    let temperature = config.temperature;
    let old = trunk::infer(&run.decoder, &sequences, Wanted::LogprobsAndHidden { temperature })?;
    let reference = trunk::infer(actors.policy, &sequences, Wanted::Logprobs { temperature })?;
    let head = run.head.as_ref().expect("the run was begun with a value head");
    let (mut old_values, mut advantages, mut returns) = (Vec::new(), Vec::new(), Vec::new());
    let mut stats = RolloutStats::default();
    for (row, score) in scores.iter().enumerate() {
        let values = head.apply(std::slice::from_ref(&old.hidden[row]))?;
        let logprobs = old.logprobs[row].iter().zip(&reference.logprobs[row]);
        let kl: Vec<f32> = logprobs.map(|(p, r)| KlEstimator::K1.estimate(*p, *r)).collect();
        let mut rewards: Vec<f32> = kl.iter().map(|kl| -config.kl_coef * kl).collect();
        if let Some(last) = rewards.last_mut() {
            *last += score;
        }
        let estimates = gae(&rewards, &values, config.gamma, config.gae_lambda);
        stats.kl += f64::from(kl.iter().sum::<f32>());
        stats.tokens += rewards.len() as f64;
        stats.unended += f64::from(u8::from(!ended[row]));
        old_values.push(values);
        advantages.push(estimates.advantages);
        returns.push(estimates.returns);
    }
    whiten(&mut advantages);
    let count = scores.len().max(1) as f64;
    Ok(Rollout {
        sequences,
        old_logprobs: old.logprobs,
        old_values,
        advantages,
        returns,
        stats: RolloutStats {
            kl: stats.kl / count,
            tokens: stats.tokens / count,
            unended: stats.unended / count,
            ..stats
        },
    })
}

/// One step on a minibatch of the rollout's rows.
fn update(
    config: &PpoConfig,
    run: &mut Run<'_>,
    rollout: &Rollout,
    rows: &[usize],
) -> Result<Vec<(&'static str, f64)>> {
    let pick = |values: &[Vec<f32>]| -> Vec<Vec<f32>> { rows.iter().map(|row| values[*row].clone()).collect() };
    let sequences: Vec<Sequence> = rows.iter().map(|row| rollout.sequences[*row].clone()).collect();
    let head = run.head.clone();
    let wanted = Wanted::LogprobsAndHidden {
        temperature: config.temperature,
    };
    let (figures, store) = run.accumulate(&sequences, wanted, |leaves| {
        let values = leaves.scatter(&leaves.apply_head_detached(head.as_ref())?)?;
        let result = minibatch_loss(
            config,
            leaves,
            &values,
            [
                leaves.pad(pick(&rollout.old_logprobs))?,
                leaves.pad(pick(&rollout.advantages))?,
                leaves.pad(pick(&rollout.old_values))?,
                leaves.pad(pick(&rollout.returns))?,
            ],
        )?;
        let figures = vec![
            ("loss/policy_avg", scalar(&result.policy_loss)?),
            ("loss/value_avg", scalar(&result.value_loss)?),
            ("policy/approxkl_avg", scalar(&result.approx_kl)?),
            ("policy/clipfrac_avg", scalar(&result.clipfrac)?),
            ("val/clipfrac_avg", scalar(&result.value_clipfrac)?),
        ];
        Ok((result.loss, figures))
    })?;
    let (norm, rate) = run.update(&store)?;
    let mut figures = figures;
    figures.extend([("learning_rate", rate), ("grad_norm", norm)]);
    Ok(figures)
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
        clip_range: config.clip_range,
        clip_range_value: (config.clip_range_value > 0.0).then_some(config.clip_range_value),
        vf_coef: config.vf_coef,
    };
    Ok(ppo_loss(&batch, clipping)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: PpoConfig,
    }

    fn config(flags: &[&str]) -> PpoConfig {
        let given = ["ppo", "--max-new-tokens", "100"].iter().chain(flags);
        Flags::parse_from(given).config
    }

    /// Two prompts: the second asks for long answers and gets less for them, but within each a token is worth 0.1.
    fn outcomes(by_prompt: bool) -> Vec<Outcome> {
        let outcome = |score: f32, tokens: usize, prompt: usize| Outcome {
            score,
            tokens,
            ended: true,
            prompt: by_prompt.then_some(prompt),
        };
        let unended = Outcome {
            ended: false,
            ..outcome(-1.0, 100, 1)
        };
        let all = [(2.0, 10, 0), (3.0, 20, 0), (-3.0, 50, 1), (-2.0, 60, 1)];
        let mut all: Vec<Outcome> = all
            .into_iter()
            .map(|(score, tokens, prompt)| outcome(score, tokens, prompt))
            .collect();
        all.push(unended);
        all
    }

    /// Catches: a slope across prompts, whose sign is that of the prompts; one that counts answers cut short.
    #[test]
    fn the_slope_is_within_prompts() {
        let (rewards, stats) = control_length(&config(&["--reward-length-residual"]), &outcomes(true));
        assert!((stats.slope - 0.1).abs() < 1e-6, "{}", stats.slope);
        assert!((rewards[0] - rewards[1]).abs() < 1e-5 && (rewards[2] - rewards[3]).abs() < 1e-5);
        assert_eq!(rewards[4], -1.0);
        // The mean stays, so that the value function has nothing to follow.
        assert!((rewards.iter().sum::<f32>() - -1.0).abs() < 1e-5);
        let (_, across) = control_length(&config(&[]), &outcomes(false));
        assert!(across.slope < 0.0 && across.correlation < 0.0);
    }

    /// Catches: a penalty of the whole length, of answers that end alone, or with the wrong sign; rewards that change
    /// by a bit without any control.
    #[test]
    fn the_penalty_is_in_proportion_to_the_room() {
        let before: Vec<f32> = outcomes(false).iter().map(|outcome| outcome.score).collect();
        let (untouched, stats) = control_length(&config(&[]), &outcomes(false));
        assert_eq!(untouched, before);
        assert_eq!(stats.taken, 0.0);
        let (rewards, stats) = control_length(&config(&["--length-penalty", "2"]), &outcomes(false));
        let taken: Vec<f32> = before
            .iter()
            .zip(&rewards)
            .map(|(before, after)| before - after)
            .collect();
        for (taken, expected) in taken.iter().zip([0.2, 0.4, 1.0, 1.2, 2.0]) {
            assert!((taken - expected).abs() < 1e-6, "{taken}, expected {expected}");
        }
        assert!((stats.taken - 4.8 / 5.0).abs() < 1e-6);
    }
}
