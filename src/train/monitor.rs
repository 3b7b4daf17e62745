//! Watches a policy while it learns from rewards: does it get better, or only better at the reward?
//!
//! A reward model is right near the answers it was trained on. Far from them the policy finds what the model takes for
//! good: its reward rises, the truth falls (Gao et al. 2023, arXiv 2210.10760, over the distance `sqrt(KL)`). A second
//! reward model that no reward comes from stands for the truth. Beside it stand the signs of a policy that has
//! collapsed or run away: little entropy or much, the same words in every answer, boilerplate, refusals, lengths, and a
//! distance at which no reward model knows what it says.
//!
//! An evaluation costs no drawing: it reads the completions of the iteration. Alarms compare the last evaluations with
//! earlier ones, and each comes with its reason. What an alarm says is a function of the evaluations alone, so a run
//! that was stopped and goes on raises the same ones.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::text::Answers;
use super::checkpoint;
use super::reward::RewardModel;
use super::rollout::{Rollout, RolloutConfig, settled};
use super::run::Run;
use crate::atomic;
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;

pub mod alarm;
pub mod text;

pub use alarm::{Alarm, alarms};

/// The alarms of a run, one JSON object a line.
pub const FILE: &str = "alarms.jsonl";

/// The name under which evaluations are in a checkpoint, and that of the best one's index.
const KEPT: &str = "monitor";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct MonitorConfig {
    /// Look for over-optimisation and collapse every so many iterations; 0 never.
    #[arg(long, default_value_t = Self::default().eval_steps, value_name = "N")]
    pub eval_steps: usize,
    /// Evaluations that an alarm looks back over, and compares with as many earlier ones.
    #[arg(long, default_value_t = Self::default().alarm_patience, value_name = "N", value_parser = bounds::count)]
    pub alarm_patience: usize,
    /// End the run at the first alarm, with the weights that the held-out reward model liked best.
    #[arg(long, requires = "held_out_reward_model")]
    pub stop_on_alarm: bool,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            eval_steps: 1,
            alarm_patience: 5,
            stop_on_alarm: false,
        }
    }
}

impl MonitorConfig {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a run is watched.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub config: &'a MonitorConfig,
    /// A reward model that gives no reward.
    pub held_out: Option<&'a RewardModel>,
}

/// What an evaluation finds. Rewards are means over completions; the rest is as [`text`] says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    pub step: f64,
    pub proxy: f64,
    /// NaN without a held-out reward model.
    pub held_out: f64,
    /// The variances of these two means. Completions of one prompt are one observation.
    pub proxy_variance: f64,
    pub held_out_variance: f64,
    /// Square root of the KL to the reference in nats a completion, the distance of Gao et al.
    pub sqrt_kl: f64,
    /// That KL, in nats a token.
    pub kl_per_token: f64,
    /// Mean of `-log π` over the tokens that were drawn.
    pub entropy: f64,
    pub distinct_1: f64,
    pub distinct_2: f64,
    pub boilerplate: f64,
    pub refusals: f64,
    pub tokens: f64,
}

/// Numbers of an evaluation.
const WIDTH: usize = 13;

impl Evaluation {
    fn numbers(&self) -> [f64; WIDTH] {
        [
            self.step,
            self.proxy,
            self.held_out,
            self.proxy_variance,
            self.held_out_variance,
            self.sqrt_kl,
            self.kl_per_token,
            self.entropy,
            self.distinct_1,
            self.distinct_2,
            self.boilerplate,
            self.refusals,
            self.tokens,
        ]
    }

    fn from_numbers(numbers: &[f64]) -> Option<Self> {
        let [
            step,
            proxy,
            held_out,
            proxy_variance,
            held_out_variance,
            sqrt_kl,
            kl_per_token,
            entropy,
            distinct_1,
            distinct_2,
            boilerplate,
            refusals,
            tokens,
        ] = *<&[f64; WIDTH]>::try_from(numbers).ok()?;
        Some(Self {
            step,
            proxy,
            held_out,
            proxy_variance,
            held_out_variance,
            sqrt_kl,
            kl_per_token,
            entropy,
            distinct_1,
            distinct_2,
            boilerplate,
            refusals,
            tokens,
        })
    }

    fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = vec![
            ("monitor/proxy_reward", self.proxy),
            ("monitor/sqrt_kl", self.sqrt_kl),
            ("monitor/entropy", self.entropy),
            ("monitor/distinct_1", self.distinct_1),
            ("monitor/distinct_2", self.distinct_2),
            ("monitor/boilerplate", self.boilerplate),
            ("monitor/refusal_rate", self.refusals),
            ("monitor/tokens", self.tokens),
        ];
        if self.held_out.is_finite() {
            figures.insert(1, ("monitor/held_out_reward", self.held_out));
        }
        figures
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// The monitor of one run.
pub struct Monitor<'a> {
    watch: Watch<'a>,
    seen: Vec<Evaluation>,
    stops: bool,
}

impl<'a> Monitor<'a> {
    /// Begins, or goes on after what the run's checkpoint has seen.
    pub fn begin(watch: Watch<'a>, run: &Run<'_>) -> Result<Self> {
        let kept = run.kept(KEPT).unwrap_or_default();
        let seen: Option<Vec<Evaluation>> = kept.chunks(WIDTH).map(Evaluation::from_numbers).collect();
        let seen = seen.ok_or_else(|| {
            Error::input("the checkpoint's evaluations are of another version of the monitor")
                .at_file(run.dir())
                .help("remove the directory to train from the beginning")
        })?;
        forget_later(&run.dir().join(FILE), run.step())?;
        Ok(Self {
            stops: false,
            seen,
            watch,
        })
    }

    /// Evaluates the iteration's completions if it is time to. Answers the figures; alarms are written and told.
    pub fn observe(
        &mut self,
        run: &mut Run<'_>,
        config: &RolloutConfig,
        rollout: &Rollout,
        kl: f64,
    ) -> Result<Vec<(String, f64)>> {
        let (step, every) = (run.step(), self.watch.config.eval_steps);
        if every == 0 || !(step + 1).is_multiple_of(every) || rollout.sequences.is_empty() {
            return Ok(Vec::new());
        }
        let evaluation = self.evaluate(config, rollout, step, kl)?;
        let patience = self.watch.config.alarm_patience;
        let before = alarms(&self.seen, patience);
        self.seen.push(evaluation);
        let raised: Vec<Alarm> = alarms(&self.seen, patience)
            .into_iter()
            .filter(|alarm| before.iter().all(|known| known.kind != alarm.kind))
            .collect();
        let mut figures = evaluation.figures();
        for alarm in &raised {
            figures.push((format!("alarm/{}", alarm.kind.name()), 1.0));
            run.note(&format!(
                "alarm at iteration {}: {}: {}",
                step + 1,
                alarm.kind.name(),
                alarm.reason
            ));
        }
        write_alarms(run.dir(), step, &raised)?;
        if self.watch.config.stop_on_alarm {
            if alarm::best(&self.seen, patience) == Some(self.seen.len() - 1) {
                checkpoint::save_best(run.dir(), weights(&run.decoder)?.into_iter())?;
            }
            self.stops = !raised.is_empty();
        }
        run.keep(KEPT, self.seen.iter().flat_map(Evaluation::numbers).collect());
        Ok(figures)
    }

    fn evaluate(&self, config: &RolloutConfig, rollout: &Rollout, step: usize, kl: f64) -> Result<Evaluation> {
        let (held_out, held_out_variance) = match self.watch.held_out {
            Some(model) => {
                let rewards = settled(config, &model.score(&rollout.sequences)?, &rollout.ended);
                mean_and_variance(&rewards, &rollout.groups)
            }
            None => (f64::NAN, f64::NAN),
        };
        let (proxy, proxy_variance) = mean_and_variance(&rollout.scores, &rollout.groups);
        let tokens: Vec<&[u32]> = (rollout.sequences.iter())
            .map(|sequence| &sequence.tokens[sequence.completion..])
            .collect();
        let answers = Answers {
            tokens: &tokens,
            texts: &rollout.texts,
            groups: &rollout.groups,
        };
        let count = rollout.tokens() as f64;
        let surprise: f64 = rollout
            .old_logprobs
            .iter()
            .flatten()
            .map(|logprob| -f64::from(*logprob))
            .sum();
        Ok(Evaluation {
            step: step as f64,
            proxy,
            held_out,
            proxy_variance,
            held_out_variance,
            sqrt_kl: kl.max(0.0).sqrt(),
            kl_per_token: kl * rollout.sequences.len() as f64 / count.max(1.0),
            entropy: surprise / count.max(1.0),
            distinct_1: answers.distinct(1),
            distinct_2: answers.distinct(2),
            boilerplate: answers.boilerplate(),
            refusals: answers.refusals(),
            tokens: count / rollout.sequences.len() as f64,
        })
    }

    /// Whether the run is to end now.
    pub fn stops(&self) -> bool {
        self.stops
    }

    /// The weights to keep: those of the end, or the best if an alarm ended the run.
    pub fn choose(&self, dir: &Path, decoder: Decoder) -> Result<Decoder> {
        if self.stops {
            checkpoint::restore_best(dir, weights(&decoder)?.into_iter())?;
        }
        Ok(decoder)
    }
}

fn weights(decoder: &Decoder) -> Result<Vec<(&str, &candle_core::Tensor)>> {
    let parameters = decoder.parameters.iter();
    parameters
        .map(|parameter| Ok((parameter.name.as_str(), parameter.weight.dense()?)))
        .collect()
}

/// The mean of rewards, and the variance of that mean. `groups` says which completions answer the same prompt, in runs:
/// rewards of one prompt are alike, and to count each as an observation would make the mean look surer than it is.
fn mean_and_variance(rewards: &[f32], groups: &[usize]) -> (f64, f64) {
    let mean = rewards.iter().map(|reward| f64::from(*reward)).sum::<f64>() / rewards.len() as f64;
    let mut sums: Vec<(usize, f64)> = Vec::new();
    for (reward, group) in rewards.iter().zip(groups) {
        let deviation = f64::from(*reward) - mean;
        match sums.last_mut().filter(|(last, _)| last == group) {
            Some((_, sum)) => *sum += deviation,
            None => sums.push((*group, deviation)),
        }
    }
    let (count, clusters) = (rewards.len() as f64, sums.len() as f64);
    let squares: f64 = sums.iter().map(|(_, sum)| sum * sum).sum();
    (mean, squares / (count * count) * clusters / (clusters - 1.0).max(1.0))
}

/// Appends alarms to the run's file, durably.
fn write_alarms(dir: &Path, step: usize, alarms: &[Alarm]) -> Result<()> {
    if alarms.is_empty() {
        return Ok(());
    }
    let path = dir.join(FILE);
    let fault = |error| Error::io("write", &path, error);
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(fault)?;
    for alarm in alarms {
        let line = json!({ "step": step, "alarm": alarm.kind.name(), "reason": alarm.reason });
        writeln!(file, "{line}").map_err(fault)?;
    }
    file.sync_all().map_err(fault)?;
    atomic::sync_directory(dir)
}

/// Leaves of a run's alarms those before `step`: what came after the checkpoint will come again. A line that is none
/// was being written when the machine stopped, after the checkpoint.
fn forget_later(path: &Path, step: usize) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let before = |line: &&str| {
        let alarm = serde_json::from_str::<Value>(line).ok();
        alarm
            .and_then(|alarm| alarm["step"].as_u64())
            .is_some_and(|at| at < step as u64)
    };
    let kept: Vec<&str> = text.split_inclusive('\n').filter(before).collect();
    if kept.is_empty() {
        return fs::remove_file(path).map_err(|error| Error::io("remove", path, error));
    }
    match kept.concat() {
        kept if kept == text => Ok(()),
        kept => atomic::write(path, kept.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: completions of a prompt counted as so many observations. Two prompts of two equal rewards are two rewards.
    #[test]
    fn completions_of_a_prompt_are_one_observation() {
        let alone = mean_and_variance(&[1.0, 3.0, 2.0, 6.0], &[0, 1, 2, 3]);
        // The variance of 1, 3, 2, 6 is 14/3, and a quarter of it that of their mean.
        assert_eq!(alone.0, 3.0);
        assert!((alone.1 - 14.0 / 12.0).abs() < 1e-12, "{alone:?}");
        let doubled = mean_and_variance(&[1.0, 1.0, 3.0, 3.0, 2.0, 2.0, 6.0, 6.0], &[0, 0, 1, 1, 2, 2, 3, 3]);
        assert!((doubled.1 - alone.1).abs() < 1e-12, "{doubled:?}");
        assert_eq!(mean_and_variance(&[2.0], &[0]), (2.0, 0.0));
    }

    /// Catches: numbers that change places between a checkpoint and the run that goes on from it.
    #[test]
    fn an_evaluation_survives_its_numbers() {
        let numbers: Vec<f64> = (0..WIDTH).map(|at| at as f64).collect();
        let evaluation = Evaluation::from_numbers(&numbers).unwrap();
        assert_eq!(evaluation.numbers().to_vec(), numbers);
        assert_eq!((evaluation.step, evaluation.tokens), (0.0, 12.0));
        assert_eq!(Evaluation::from_numbers(&numbers[1..]), None);
    }
}
