//! What a reward model is worth on pairs that it has not learnt: how often it is right and how sure one can be of that,
//! whether its own sureness means anything, and how much of its reward is length.
//!
//! Prompts are drawn again for the intervals, not pairs, for pairs of one prompt share their answers. A confidence is the
//! Bradley-Terry probability of the answer that gets the higher reward, `σ(|r_1 - r_2|)`, of the rewards as they were
//! learnt, before they were standardised. A soft label counts as what it is: a model that follows a label of 0.7 is right in
//! 0.7 of a pair by calibration, and in the whole pair by accuracy, which asks only which answer is the likelier.

use serde::{Deserialize, Serialize};

use super::comparisons::Comparisons;
use super::length::correlation;
use super::pairs::Pair;
use super::reward::RewardModel;
use crate::bias::calibration::{self, Bin};
use crate::bias::interval::{Estimate, clusters, estimate};
use crate::error::{Error, Result};
use crate::progress::Silent;
use crate::seed::Seed;

/// Equally large parts of all answers, by their length.
const QUANTILES: usize = 5;

/// The figures; `None` where no pair can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub pairs: u64,
    pub prompts: u64,
    /// Pairs whose label is for neither answer; they are in the loss and in the calibration alone.
    pub undecided: u64,
    /// How often the likelier answer gets the higher reward; equal rewards are half right.
    pub accuracy: Option<Estimate>,
    /// The mean cross-entropy of the labels, without a margin and before standardisation.
    pub loss: f64,
    /// The mean reward of chosen answers less that of rejected ones, standardised.
    pub margin: f64,
    pub calibration: Calibration,
    pub length: Length,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The expected calibration error.
    pub error: f64,
    pub bins: Vec<Bin>,
}

/// What rewards have to do with lengths, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// Correlation of the reward of an answer with its length, over all answers.
    pub reward_correlation: Option<Estimate>,
    /// Correlation of the difference of the rewards of a pair with that of the lengths: at one prompt.
    pub margin_correlation: Option<Estimate>,
    /// The accuracy where the better answer is the shorter, and where it is the longer.
    pub accuracy_shorter_better: Option<Estimate>,
    pub accuracy_longer_better: Option<Estimate>,
    /// From the shortest answers to the longest.
    pub quantiles: Vec<Quantile>,
}

/// Answers of about one length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    pub from: u64,
    pub to: u64,
    pub n: u64,
    pub mean_reward: f64,
}

/// A pair with its standardised rewards; the chosen answer comes first.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored<P> {
    pub prompt: P,
    pub rewards: [f64; 2],
    pub tokens: [usize; 2],
    pub p_chosen: f64,
}

impl<P> Scored<P> {
    fn difference(&self) -> f64 {
        self.rewards[0] - self.rewards[1]
    }

    fn longer(&self) -> f64 {
        self.tokens[0] as f64 - self.tokens[1] as f64
    }

    /// 1 where the chosen answer has the higher reward, and one half where neither has.
    fn right(&self) -> f64 {
        match self.difference() {
            above if above > 0.0 => 1.0,
            below if below < 0.0 => 0.0,
            _ => 0.5,
        }
    }

    /// That of the label, of the rewards as they were learnt.
    fn cross_entropy(&self, scale: f64) -> f64 {
        let raw = self.difference() * scale;
        self.p_chosen * softplus(-raw) + (1.0 - self.p_chosen) * softplus(raw)
    }
}

/// Scores pairs, and says what the scores are worth.
pub fn evaluate(model: &RewardModel, pairs: &[Pair], seed: Seed) -> Result<Evaluation> {
    let compared = Comparisons::pairs(&pairs.iter().collect::<Vec<_>>());
    let rewards = model.score(&compared.sequences)?;
    if rewards.iter().any(|reward| !reward.is_finite()) {
        return Err(
            Error::input("the reward model gives rewards that are no finite numbers")
                .help("its training diverged: train it again with a lower --learning-rate"),
        );
    }
    let [chosen, rejected] = compared.split(&rewards);
    let scored: Vec<Scored<&[u32]>> = pairs
        .iter()
        .zip(chosen.iter().zip(&rejected))
        .map(|(pair, (chosen, rejected))| Scored {
            prompt: pair.prompt(),
            rewards: [f64::from(*chosen), f64::from(*rejected)],
            tokens: [pair.chosen.completion_len(), pair.rejected.completion_len()],
            p_chosen: f64::from(pair.p_chosen),
        })
        .collect();
    tally(&scored, f64::from(model.head.scale), seed)
}

/// The figures of scored pairs; `scale` is by what the rewards were divided when they were standardised.
pub fn tally<P: Eq + std::hash::Hash + Sync>(pairs: &[Scored<P>], scale: f64, seed: Seed) -> Result<Evaluation> {
    let by_prompt = clusters(pairs.iter().map(|pair| &pair.prompt));
    let of = |name: &str, statistic: &(dyn Fn(&[usize]) -> Option<f64> + Sync)| {
        estimate(&by_prompt, seed.child(name), &Silent, statistic)
    };
    let accuracy = |name: &str, counts: &(dyn Fn(&Scored<P>) -> bool + Sync)| -> Result<Option<Estimate>> {
        let decided = |pair: &Scored<P>| pair.p_chosen != 0.5 && counts(pair);
        let found = of(name, &|drawn| {
            mean(
                drawn
                    .iter()
                    .map(|place| &pairs[*place])
                    .filter(|pair| decided(pair))
                    .map(Scored::right),
            )
        })?;
        let n = pairs.iter().filter(|pair| decided(pair)).count() as u64;
        Ok(found.map(|found| Estimate { n, ..found }))
    };
    let correlated = |name: &str, points: &(dyn Fn(&Scored<P>) -> Vec<[f64; 2]> + Sync)| {
        of(name, &|drawn| {
            let [x, y] = [0, 1].map(|axis| -> Vec<f64> {
                drawn
                    .iter()
                    .flat_map(|place| points(&pairs[*place]))
                    .map(|point| point[axis])
                    .collect()
            });
            Some(correlation(&x, &y)).filter(|value| value.is_finite())
        })
    };
    Ok(Evaluation {
        pairs: pairs.len() as u64,
        prompts: by_prompt.len() as u64,
        undecided: pairs.iter().filter(|pair| pair.p_chosen == 0.5).count() as u64,
        accuracy: accuracy("accuracy", &|_| true)?,
        loss: mean(pairs.iter().map(|pair| pair.cross_entropy(scale))).unwrap_or(f64::NAN),
        margin: mean(pairs.iter().map(Scored::difference)).unwrap_or(f64::NAN),
        calibration: calibrated(pairs, scale),
        length: Length {
            reward_correlation: correlated("reward-length", &|pair| {
                [0, 1]
                    .map(|side| [pair.rewards[side], pair.tokens[side] as f64])
                    .to_vec()
            })?,
            margin_correlation: correlated("margin-length", &|pair| vec![[pair.difference(), pair.longer()]])?,
            accuracy_shorter_better: accuracy("shorter", &|pair| pair.longer() < 0.0)?,
            accuracy_longer_better: accuracy("longer", &|pair| pair.longer() > 0.0)?,
            quantiles: quantiles(pairs),
        },
    })
}

fn calibrated<P>(pairs: &[Scored<P>], scale: f64) -> Calibration {
    let bins = calibration::bins(pairs.iter().map(|pair| {
        let right = pair.right();
        (
            sigmoid((pair.difference() * scale).abs()),
            right * pair.p_chosen + (1.0 - right) * (1.0 - pair.p_chosen),
        )
    }));
    Calibration {
        error: calibration::error(&bins),
        bins,
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

fn quantiles<P>(pairs: &[Scored<P>]) -> Vec<Quantile> {
    let both = |pair: &Scored<P>| [0, 1].map(|side| (pair.tokens[side] as u64, pair.rewards[side]));
    let mut answers: Vec<(u64, f64)> = pairs.iter().flat_map(both).collect();
    answers.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let edge = |part: usize| part * answers.len() / QUANTILES;
    (0..QUANTILES)
        .map(|part| &answers[edge(part)..edge(part + 1)])
        .filter(|part| !part.is_empty())
        .map(|part| Quantile {
            from: part[0].0,
            to: part[part.len() - 1].0,
            n: part.len() as u64,
            mean_reward: part.iter().map(|(_, reward)| reward).sum::<f64>() / part.len() as f64,
        })
        .collect()
}

impl Evaluation {
    /// The figures for people, a line each.
    pub fn lines(&self) -> Vec<String> {
        let told = |estimate: &Option<Estimate>| match estimate {
            Some(estimate) => format!("{estimate} of {} pairs", estimate.n),
            None => "no pair can tell".to_owned(),
        };
        let correlated = |estimate: &Option<Estimate>| {
            estimate.map_or_else(
                || "one of the two does not vary".to_owned(),
                |estimate| estimate.to_string(),
            )
        };
        let length = &self.length;
        let mut lines = vec![
            format!("{} held-out pairs of {} prompts", self.pairs, self.prompts),
            format!("accuracy                    {}", told(&self.accuracy)),
            format!("  shorter answer better     {}", told(&length.accuracy_shorter_better)),
            format!("  longer answer better      {}", told(&length.accuracy_longer_better)),
            format!("loss                        {:.3}", self.loss),
            format!("calibration error           {:.3}", self.calibration.error),
            format!("reward with length          {}", correlated(&length.reward_correlation)),
            format!("  at one prompt             {}", correlated(&length.margin_correlation)),
        ];
        for part in &length.quantiles {
            let range = format!("{} to {} tokens", part.from, part.to);
            lines.push(format!(
                "  {range:<25} mean reward {:+.2} ({} answers)",
                part.mean_reward, part.n
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;

    fn scored(prompt: u32, rewards: [f64; 2], tokens: [usize; 2], p_chosen: f64) -> Scored<u32> {
        Scored {
            prompt,
            rewards,
            tokens,
            p_chosen,
        }
    }

    /// Catches: ties counted as right or wrong, pairs without a decision in the accuracy, a soft label rounded in the
    /// calibration or in the loss, confidences of standardised rewards, shorter and longer mixed up.
    #[test]
    fn figures_are_those_by_hand() {
        let pairs = [
            scored(0, [1.0, 0.0], [5, 9], 1.0),
            scored(0, [0.0, 1.0], [9, 5], 0.7),
            scored(1, [0.5, 0.5], [4, 8], 1.0),
            scored(2, [2.0, 0.0], [7, 7], 0.5),
        ];
        let found = tally(&pairs, 2.0, Seed::new(1)).unwrap();
        assert_eq!((found.pairs, found.prompts, found.undecided), (4, 3, 1));
        let accuracy = found.accuracy.unwrap();
        assert_eq!((accuracy.value, accuracy.n, accuracy.interval), (0.5, 3, None));
        assert_eq!(found.length.accuracy_shorter_better.unwrap().value, 0.75);
        assert_eq!(found.length.accuracy_longer_better.unwrap().value, 0.0);
        let log_loss = |d: f64, p: f64| -(p * sigmoid(d).ln() + (1.0 - p) * sigmoid(-d).ln());
        let loss = (log_loss(2.0, 1.0) + log_loss(-2.0, 0.7) + log_loss(0.0, 1.0) + log_loss(4.0, 0.5)) / 4.0;
        assert!((found.loss - loss).abs() < 1e-12);
        assert!((found.margin - (1.0 - 1.0 + 0.0 + 2.0) / 4.0).abs() < 1e-12);
        // σ(2) = 0.88 is in one bin with a right and a 0.3-right pair.
        let bin = found.calibration.bins.iter().find(|bin| bin.n == 2).unwrap();
        assert!((bin.accuracy - 0.65).abs() < 1e-12 && (bin.confidence - sigmoid(2.0)).abs() < 1e-12);
        assert_eq!(found.length.quantiles.iter().map(|part| part.n).sum::<u64>(), 8);
        assert!(found.length.quantiles.windows(2).all(|pair| pair[0].to <= pair[1].from));
    }

    /// Catches: intervals over pairs, which promise too much where a prompt has many, and intervals that cover nothing.
    #[test]
    fn the_interval_covers_the_truth_of_prompts() {
        let mut covered = 0;
        for trial in 0..60 {
            let mut rng = Seed::new(trial).rng();
            let pairs: Vec<Scored<u32>> = (0..40)
                .flat_map(|prompt| {
                    // All pairs of a prompt are right, or all are wrong.
                    let reward = if rng.random_bool(0.7) { 1.0 } else { -1.0 };
                    (0..6).map(move |_| scored(prompt, [reward, 0.0], [3, 3], 1.0))
                })
                .collect();
            let accuracy = tally(&pairs, 1.0, Seed::new(trial)).unwrap().accuracy.unwrap();
            covered += u32::from(accuracy.interval.unwrap().covers(0.7));
        }
        assert!(
            (50..=60).contains(&covered),
            "{covered} of 60 intervals cover the truth"
        );
    }

    /// Catches: a reward that is nothing but length and is not seen to be.
    #[test]
    fn a_reward_of_length_alone_is_seen() {
        let mut rng = Seed::new(1).rng();
        let pairs: Vec<Scored<u32>> = (0..80)
            .map(|prompt| {
                let tokens = [rng.random_range(5..50), rng.random_range(5..50)];
                scored(prompt, tokens.map(|tokens: usize| tokens as f64 / 10.0), tokens, 1.0)
            })
            .collect();
        let length = tally(&pairs, 1.0, Seed::new(1)).unwrap().length;
        assert!(length.reward_correlation.unwrap().value > 0.999);
        assert!(length.margin_correlation.unwrap().is_above(0.9));
        assert_eq!(length.accuracy_shorter_better.unwrap().value, 0.0);
        assert_eq!(length.accuracy_longer_better.unwrap().value, 1.0);
    }
}
