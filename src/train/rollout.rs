//! Completions drawn from the policy that learns, and what they are worth: the half that all online methods share.
//!
//! A method draws ([`collect`]), estimates advantages in its own way, and updates on minibatches of the rollout. The
//! sampled token ids are kept from rollout to update: decoding and encoding again changes them.

mod length;

use candle_core::DType;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use self::length::{LengthStats, Outcome, control_length};
use super::batch::{BatchSize, plan};
use super::loss::kl::KlEstimator;
use super::optim::OptimConfig;
use super::run::Run;
use super::sources::{Completions, Sources};
use crate::bounds;
use crate::engine::Sampling;
use crate::engine::local::{Job, draw_all};
use crate::error::{Error, Result};
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::tokenizer::Tokenizer;
use crate::record::Message;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RolloutConfig {
    /// Rounds of rollout and update.
    #[arg(long, default_value_t = 100)]
    pub iterations: usize,
    /// Completions drawn in an iteration.
    #[arg(long, default_value_t = 64)]
    pub rollouts: usize,
    /// Completions to an update.
    #[arg(long, default_value_t = 32)]
    pub minibatch_rows: usize,
    /// Completions that go forward and back at once: the gradients of an update's parts are added up, in the memory of one, as if it were one batch [default: all of an update].
    #[arg(long, value_name = "ROWS", value_parser = bounds::count)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<usize>,
    /// Tokens of a completion at most.
    #[arg(long, default_value_t = 256, value_parser = bounds::count)]
    pub max_new_tokens: usize,
    /// Temperature of sampling.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::positive::<f32>)]
    pub temperature: f32,
    /// Rewards are clipped to plus and minus this.
    #[arg(long, default_value_t = 4.0, value_parser = bounds::amount::<f32>)]
    pub reward_clip: f32,
    /// The reward of a completion that does not end by itself.
    #[arg(long, default_value_t = -1.0, value_parser = bounds::finite::<f32>)]
    pub missing_eos_reward: f32,
    /// Taken from the standardised reward of a completion of max-new-tokens tokens; of shorter ones in proportion.
    #[arg(long, default_value_t = 0.0, value_parser = bounds::amount::<f32>)]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length_penalty: f32,
    /// Take out of the rewards what length explains: prompts are drawn with two completions at least, and the slope of reward on tokens within a prompt (a weighted median) is removed.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reward_length_residual: bool,
    /// Leave the rest of an iteration's updates out once the policy has moved this far from the one that drew: Schulman's mean((log ratio)²)/2 of a minibatch [default: no limit].
    #[arg(long, value_name = "KL", value_parser = bounds::positive::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kl_step: Option<f64>,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

impl RolloutConfig {
    /// Updates of an iteration at most.
    pub fn updates(&self, epochs: usize) -> usize {
        epochs * self.rollouts.div_ceil(self.minibatch_rows.max(1))
    }
}

/// The fixed parts of a run.
pub struct Actors<'a> {
    /// Where training begins, and the reference.
    pub policy: &'a Decoder,
    pub sources: &'a Sources,
    pub tokenizer: &'a Tokenizer,
    /// Prompts in tokens, ready for an answer.
    pub prompts: &'a [Vec<u32>],
    /// The same as conversations, for sources that read texts; may be empty where there are none.
    pub conversations: &'a [Vec<Message>],
    pub stop: &'a [String],
}

/// Completions of one iteration, in their order. Those without a token are left out: nothing can be learnt from them.
/// Inner vectors are one value a token.
pub struct Rollout {
    pub sequences: Vec<Sequence>,
    pub texts: Vec<String>,
    pub ended: Vec<bool>,
    /// Completions of one number answer the same drawing of a prompt.
    pub groups: Vec<usize>,
    /// By the reward sources, clipped; that of completions without an end is set.
    pub scores: Vec<f32>,
    /// The scores after length control.
    pub rewards: Vec<f32>,
    /// Of the policy that drew; empty until they are known.
    pub old_logprobs: Vec<Vec<f32>>,
    pub reference_logprobs: Vec<Vec<f32>>,
    /// Hidden states before each token, if they were wanted.
    pub hidden: Vec<Vec<f32>>,
    /// Of each reward source, its mean.
    of_sources: Vec<(String, f64)>,
    drawn: usize,
    length: LengthStats,
    controlled: bool,
}

/// What a method wants of a rollout.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Completions to a drawing of a prompt.
    pub per_prompt: usize,
    /// Whether a head will read the hidden states.
    pub hidden: bool,
    /// Whether the log-probabilities of the policy that drew are wanted before the first update: where there is one only,
    /// its own forward has them.
    pub logprobs: bool,
}

/// Draws completions from `decoder` and scores them.
pub fn collect(
    config: &RolloutConfig,
    actors: &Actors<'_>,
    decoder: &Decoder,
    draw: Draw,
    seed: Seed,
) -> Result<Rollout> {
    let per_prompt = match config.reward_length_residual {
        true => draw.per_prompt.max(2),
        false => draw.per_prompt,
    };
    let (asked, jobs) = jobs(config, actors, per_prompt, seed);
    let drawings = match decoder.training.halves {
        // As training computes, which rounds both sides of each product; and half as much to read for each token.
        true => draw_all(&decoder.to_dtype(DType::BF16)?, actors.tokenizer, &jobs)?,
        false => draw_all(decoder, actors.tokenizer, &jobs)?,
    };
    let mut rollout = Rollout::empty(config);
    let mut prompts = Vec::new();
    for (row, (job, drawing)) in jobs.into_iter().zip(drawings).enumerate() {
        let Some(last) = drawing.tokens.last() else { continue };
        rollout.ended.push(actors.tokenizer.is_eos(*last));
        rollout.texts.push(drawing.text(actors.tokenizer)?);
        rollout.groups.push(row / per_prompt);
        prompts.push(asked[row]);
        let completion = job.prompt.len();
        let mut tokens = job.prompt;
        tokens.extend(drawing.tokens);
        rollout.sequences.push(Sequence { tokens, completion });
    }
    if rollout.sequences.is_empty() {
        return Ok(rollout);
    }
    let scored = actors.sources.score(&Completions {
        sequences: &rollout.sequences,
        texts: &rollout.texts,
        prompts: &prompts,
        conversations: actors.conversations,
        seed: seed.child("judge"),
    })?;
    rollout.scores = settled(config, &scored.total, &rollout.ended);
    rollout.of_sources = scored.means();
    (rollout.rewards, rollout.length) = control_length(config, &rollout.outcomes(per_prompt > 1));
    let temperature = config.temperature;
    let wanted = match draw.hidden {
        true => Wanted::LogprobsAndHidden { temperature },
        false => Wanted::Logprobs { temperature },
    };
    if draw.logprobs || draw.hidden {
        let old = trunk::infer(decoder, &rollout.sequences, wanted)?;
        (rollout.old_logprobs, rollout.hidden) = (old.logprobs, old.hidden);
    }
    rollout.reference_logprobs =
        trunk::infer(actors.policy, &rollout.sequences, Wanted::Logprobs { temperature })?.logprobs;
    Ok(rollout)
}

/// Whether completions can be divided into groups of `size`, each of one prompt.
pub fn check_groups(config: &RolloutConfig, size: usize) -> Result<()> {
    if size < 2 {
        return Err(
            Error::config("--num-generations is less than 2: there is nothing to compare a completion with")
                .help("4 or 8 completions of a prompt are usual"),
        );
    }
    if !config.rollouts.is_multiple_of(size) {
        return Err(Error::config(format!(
            "--rollouts {} is no multiple of --num-generations {size}",
            config.rollouts
        ))
        .help("an iteration draws whole groups"));
    }
    Ok(())
}

/// What is to be drawn, and the prompt that each completion answers.
fn jobs(config: &RolloutConfig, actors: &Actors<'_>, per_prompt: usize, seed: Seed) -> (Vec<usize>, Vec<Job>) {
    let mut rng = seed.child("prompts").rng();
    let mut prompt = 0;
    (0..config.rollouts)
        .map(|row| {
            if row % per_prompt == 0 {
                prompt = rng.random_range(0..actors.prompts.len());
            }
            let job = Job {
                prompt: actors.prompts[prompt].clone(),
                sampling: Sampling {
                    temperature: config.temperature,
                    max_new_tokens: config.max_new_tokens,
                    ..Sampling::default()
                },
                stop: actors.stop.to_vec(),
                seed: seed.child("rollout").index(row as u64),
            };
            (prompt, job)
        })
        .unzip()
}

/// Clipped scores; a completion that was cut short is not judged by its text.
pub fn settled(config: &RolloutConfig, scores: &[f32], ended: &[bool]) -> Vec<f32> {
    let settle = |(score, ended): (&f32, &bool)| match ended {
        true => score.clamp(-config.reward_clip, config.reward_clip),
        false => config.missing_eos_reward,
    };
    scores.iter().zip(ended).map(settle).collect()
}

impl Rollout {
    fn empty(config: &RolloutConfig) -> Self {
        Self {
            sequences: Vec::new(),
            texts: Vec::new(),
            ended: Vec::new(),
            groups: Vec::new(),
            scores: Vec::new(),
            rewards: Vec::new(),
            old_logprobs: Vec::new(),
            reference_logprobs: Vec::new(),
            hidden: Vec::new(),
            of_sources: Vec::new(),
            drawn: config.rollouts,
            length: LengthStats::default(),
            controlled: config.length_penalty != 0.0 || config.reward_length_residual,
        }
    }

    fn outcomes(&self, by_prompt: bool) -> Vec<Outcome> {
        (0..self.sequences.len())
            .map(|row| Outcome {
                score: self.scores[row],
                tokens: self.sequences[row].completion_len(),
                ended: self.ended[row],
                prompt: by_prompt.then_some(self.groups[row]),
            })
            .collect()
    }

    /// The estimated KL to the reference of each token.
    pub fn kl(&self, estimator: KlEstimator) -> Vec<Vec<f32>> {
        let of_tokens = |(policy, reference): (&Vec<f32>, &Vec<f32>)| {
            let tokens = policy.iter().zip(reference);
            tokens.map(|(p, r)| estimator.estimate(*p, *r)).collect()
        };
        self.old_logprobs
            .iter()
            .zip(&self.reference_logprobs)
            .map(of_tokens)
            .collect()
    }

    /// The rows of each update of an iteration: `epochs` passes, each in an order of its own.
    pub fn minibatches(&self, config: &RolloutConfig, epochs: usize, seed: Seed) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = self.sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let size = BatchSize::Rows(config.minibatch_rows);
        let seed = seed.child("update");
        (0..epochs)
            .flat_map(|epoch| plan(&lengths, size, seed.index(epoch as u64)))
            .collect()
    }

    /// Takes the log-probabilities of all its rows, in the order of `rows`, if they are not known yet.
    pub fn remember(&mut self, rows: &[usize], logprobs: Vec<Vec<f32>>) {
        if self.old_logprobs.is_empty() && rows.len() == self.sequences.len() {
            self.old_logprobs = vec![Vec::new(); rows.len()];
            for (row, values) in rows.iter().zip(logprobs) {
                self.old_logprobs[*row] = values;
            }
        }
    }

    /// The sequences of some rows.
    pub fn pick(&self, rows: &[usize]) -> Vec<Sequence> {
        rows.iter().map(|row| self.sequences[*row].clone()).collect()
    }

    /// What an iteration tells of its completions, under TRL's names where it has one. `kl` is what the method
    /// penalises, with the weight `kl_coef`. Entropies are estimates: `-log π` of the tokens that were drawn.
    pub fn figures(&self, kl: &[Vec<f32>], kl_coef: f64, iteration: usize) -> Vec<(String, f64)> {
        let count = self.sequences.len().max(1) as f64;
        let mean_of = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let sums = |rows: &[Vec<f32>]| rows.iter().flatten().map(|value| f64::from(*value)).sum::<f64>();
        let tokens = self.tokens() as f64;
        let unended = self.ended.iter().filter(|ended| !**ended).count() as f64;
        let (score, kl) = (mean_of(&self.scores), mean_kl(kl));
        let surprise = -sums(&self.old_logprobs);
        let mut figures = vec![
            ("objective/scores", score),
            ("objective/kl", kl),
            ("objective/kl_coef", kl_coef),
            ("objective/non_score_reward", -kl_coef * kl),
            ("objective/rlhf_reward", mean_of(&self.rewards) - kl_coef * kl),
            ("objective/entropy", surprise / count),
            ("policy/entropy_avg", surprise / tokens.max(1.0)),
            ("val/mean_tokens", tokens / count),
            ("val/unended", unended / count),
            ("val/num_eos_tokens", self.ended.len() as f64 - unended),
            // Completions that stopped before their first token: nothing to learn from.
            ("val/empty", (self.drawn - self.sequences.len()) as f64),
            ("objective/length_slope", self.length.slope),
            ("objective/length_correlation", self.length.correlation),
        ];
        if self.controlled {
            figures.push(("objective/length_taken", self.length.taken));
        }
        figures.push(("episode", ((iteration + 1) * self.drawn) as f64));
        let mut figures: Vec<(String, f64)> = figures
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if self.of_sources.len() > 1 {
            let mean = |(name, mean): &(String, f64)| (format!("rewards/{name}/mean"), *mean);
            figures.extend(self.of_sources.iter().map(mean));
        }
        figures
    }

    /// Ends the iteration: logs its figures and shows what people look at.
    pub fn end_step(&self, run: &mut Run<'_>, figures: &[(String, f64)], kl: f64) -> Result<()> {
        let figures: Vec<(&str, f64)> = figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        run.end_step(&figures, &format!("reward {:.2} kl {kl:.2}", self.mean_score()))
    }

    /// Tokens of all completions.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::completion_len).sum()
    }

    /// Tokens of some completions.
    pub fn tokens_of(&self, rows: &[usize]) -> usize {
        rows.iter().map(|row| self.sequences[*row].completion_len()).sum()
    }

    pub fn mean_score(&self) -> f64 {
        self.scores.iter().map(|score| f64::from(*score)).sum::<f64>() / self.scores.len().max(1) as f64
    }
}

/// Mean over completions of the sum over tokens.
pub fn mean_kl(kl: &[Vec<f32>]) -> f64 {
    let sum: f64 = kl.iter().map(|row| f64::from(row.iter().sum::<f32>())).sum();
    sum / kl.len().max(1) as f64
}
