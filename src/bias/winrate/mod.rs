//! The length-controlled win rate: how often a model would be preferred to a baseline, were its answers as long.
//!
//! Dubois et al. 2024 (arXiv 2404.04475), the model of AlpacaEval 2. For the comparisons of one model with the
//! baseline, on soft targets and without a further intercept,
//!
//! ```text
//! logit q = theta + phi · tanh((len_model - len_baseline) / sd) + psi · gamma
//! ```
//!
//! `sd` is the sample standard deviation (n - 1) of the length difference over the model's comparisons, which is not
//! centred: equal lengths are 0 and stay it. `gamma` is the difficulty of the instruction, estimated on the other models
//! that answered it ([`difficulty`]); with one model alone the term is left out. The length-controlled win rate is the
//! mean of `q` over the model's comparisons with `phi`'s term at 0.
//!
//! The penalty is `l2 / 2 · (phi² + psi²)`. `theta` has none, so the mean of the fitted `q` *with* the length term is the
//! raw win rate, and all that length control moves is the length term's work. Where the differences from AlpacaEval's own
//! program lie: it has an L1 penalty of a strength found by cross-validation, ties `phi` to that of its baseline prompted
//! to be terse and verbose, and has the difficulties of its 805 instructions in a file. None of that is there for
//! anybody's prompts. Knows nothing of judges, texts or files.

mod difficulty;

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::difficulty::{Trial, difficulties};
use super::interval::{self, Estimate, Interval, LEVEL};
use super::logistic::{Failure, Observation, fit};
use super::measure::sigmoid;
use crate::error::{Error, Result};
use crate::progress::Silent;
use crate::seed::Seed;

/// Comparisons below which there is no fit.
pub const LEAST_PAIRS: usize = 10;

/// The penalty unless another is asked for: a normal prior of variance one half on the coefficients. In simulations of 200
/// and 805 pairs it errs no more than 1 does, and by some points less than 5 and 10 do; on the AlpacaEval leaderboard it
/// comes nearer to the published rates than 0 and 1 do. Where pairs are few it leaves the raw win rate rather than a wild
/// extrapolation. docs/LOG.md has the figures.
pub const DEFAULT_L2: f64 = 2.0;

/// A longer answer than any there is; beyond it squares overflow.
const LONGEST: f64 = 1e12;

/// One comparison of a model's answer with the baseline's.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPair {
    pub model: String,
    /// Which instruction was answered: any text that is the same for the same one.
    pub instruction: String,
    pub len_model: f64,
    pub len_baseline: f64,
    /// Probability that the model's answer is the better one.
    pub p: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WinRateConfig {
    /// Strength of the penalty on the coefficients of length and difficulty; 0 is none.
    pub l2: f64,
}

impl Default for WinRateConfig {
    fn default() -> Self {
        Self { l2: DEFAULT_L2 }
    }
}

/// The coefficients of a fit, in log-odds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coefficients {
    /// `theta`: the model itself.
    pub model: f64,
    /// `phi`: what a much longer answer gains.
    pub length: f64,
    /// `psi`: of the instruction's difficulty, if there is the term.
    pub difficulty: Option<f64>,
}

/// The win rate with length controlled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Controlled {
    pub rate: Estimate,
    /// `None` where all lengths are equal, so that there was nothing to control.
    pub coefficients: Option<Coefficients>,
    /// Every answer is longer than the baseline's, or every one shorter: equal length was never seen.
    pub extrapolated: bool,
}

/// Why there is no length-controlled win rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untrusted {
    /// Fewer than [`LEAST_PAIRS`] comparisons.
    TooFew,
    /// The model wins every comparison for certain, or loses every one: length explains nothing of that.
    OneSided,
    /// All length differences are the same: the effect of length cannot be told from the model's.
    ConstantDifference,
    /// Without a penalty, length (or difficulty) separates wins from losses: the coefficients have no end.
    Separated,
    /// Length and difficulty rise and fall together.
    Collinear,
    /// Newton's method did not come to rest.
    Unsettled,
    /// There is a fit, but most of its resamples have none.
    Unstable,
}

impl Untrusted {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooFew => "too_few_pairs",
            Self::OneSided => "one_sided",
            Self::ConstantDifference => "constant_length_difference",
            Self::Separated => "separated",
            Self::Collinear => "collinear",
            Self::Unsettled => "not_converged",
            Self::Unstable => "unstable",
        }
    }

    /// The reason, and what to do about it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooFew => "fewer than 10 pairs: judge more prompts",
            Self::OneSided => {
                "every pair has the same certain winner, which length cannot explain: read the raw win rate, or compare \
                 with a nearer baseline"
            }
            Self::ConstantDifference => {
                "all length differences are the same, so the effect of length cannot be told from the model's: check the \
                 lengths"
            }
            Self::Separated => "length or difficulty separates wins from losses: give --l2 above 0",
            Self::Collinear => "length and difficulty cannot be told apart: give --l2 above 0, or more prompts",
            Self::Unsettled => "the fit did not converge: give a larger --l2",
            Self::Unstable => "most resamples of the instructions have no fit: give --l2 above 0, or more prompts",
        }
    }
}

/// What the comparisons of one model say.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRates {
    pub model: String,
    /// Comparisons.
    pub n: usize,
    /// Different instructions among them.
    pub instructions: usize,
    /// The mean of `p`.
    pub raw: Estimate,
    pub controlled: Result<Controlled, Untrusted>,
    /// Mean length of the model's answers, and of the baseline's.
    pub mean_length: f64,
    pub baseline_mean_length: f64,
}

/// Rates of all models, by name. The order of the comparisons changes nothing.
pub fn rates(pairs: &[ModelPair], config: WinRateConfig, seed: Seed) -> Result<Vec<ModelRates>> {
    if !config.l2.is_finite() || config.l2 < 0.0 {
        return Err(
            Error::config(format!("the penalty {} is not a number of at least 0", config.l2))
                .help("give --l2 0 for none, or leave it out"),
        );
    }
    for (index, pair) in pairs.iter().enumerate() {
        check(pair).map_err(|reason| {
            Error::input(format!("pair {}: {reason}", index + 1)).help("lengths are counts, p is from 0 to 1")
        })?;
    }
    let mut sorted: Vec<&ModelPair> = pairs.iter().collect();
    sorted.sort_by(|a, b| {
        let names = (&a.model, &a.instruction).cmp(&(&b.model, &b.instruction));
        let lengths = || a.len_model.total_cmp(&b.len_model);
        let baselines = || a.len_baseline.total_cmp(&b.len_baseline);
        names
            .then_with(lengths)
            .then_with(baselines)
            .then_with(|| a.p.total_cmp(&b.p))
    });
    let samples: Vec<Sample<'_>> = sorted.chunk_by(|a, b| a.model == b.model).map(Sample::new).collect();
    let gammas = shared_difficulties(&samples);
    samples
        .par_iter()
        .zip(gammas)
        .map(|(sample, gammas)| sample.rates(gammas.as_deref(), config, seed))
        .collect()
}

fn check(pair: &ModelPair) -> Result<(), String> {
    for (name, length) in [("model", pair.len_model), ("baseline", pair.len_baseline)] {
        if !(0.0..=LONGEST).contains(&length) {
            return Err(format!("the length of the {name}'s answer is {length}"));
        }
    }
    match (0.0..=1.0).contains(&pair.p) {
        true => Ok(()),
        false => Err(format!("p is {}", pair.p)),
    }
}

/// The comparisons of one model.
struct Sample<'a> {
    pairs: &'a [&'a ModelPair],
    /// tanh of each standardised length difference; 0 where the differences do not vary.
    effects: Vec<f64>,
    varies: bool,
}

impl<'a> Sample<'a> {
    fn new(pairs: &'a [&'a ModelPair]) -> Self {
        let differences: Vec<f64> = pairs.iter().map(|pair| pair.len_model - pair.len_baseline).collect();
        let mean = mean(&differences);
        let squares: f64 = differences.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (squares / (pairs.len() as f64 - 1.0)).sqrt();
        let varies = sd > 1e-9 * mean.abs().max(1e-3);
        let effect = |difference: &f64| if varies { (difference / sd).tanh() } else { 0.0 };
        Self {
            effects: differences.iter().map(effect).collect(),
            pairs,
            varies,
        }
    }

    fn rates(&self, gammas: Option<&[f64]>, config: WinRateConfig, seed: Seed) -> Result<ModelRates> {
        let pairs = self.pairs;
        let model = pairs[0].model.clone();
        let clusters = interval::clusters(pairs.iter().map(|pair| pair.instruction.as_str()));
        let seed = seed.child("winrate").child(&model);
        let length = |of: fn(&ModelPair) -> f64| mean(&pairs.iter().map(|pair| of(pair)).collect::<Vec<_>>());
        Ok(ModelRates {
            n: pairs.len(),
            instructions: clusters.len(),
            raw: self.raw(&clusters, seed)?,
            controlled: self.controlled(gammas, config, &clusters, seed)?,
            mean_length: length(|pair| pair.len_model),
            baseline_mean_length: length(|pair| pair.len_baseline),
            model,
        })
    }

    fn raw(&self, clusters: &[Vec<usize>], seed: Seed) -> Result<Estimate> {
        let p = |drawn: &[usize]| drawn.iter().map(|index| self.pairs[*index].p).sum::<f64>() / drawn.len() as f64;
        let all: Vec<usize> = (0..self.pairs.len()).collect();
        let value = p(&all);
        let resampled = interval::resample(clusters, seed, &Silent, p)?;
        Ok(self.estimate(value, clusters, resampled).unwrap_or(Estimate {
            value,
            interval: Some(Interval { low: 0.0, high: 1.0 }),
            n: self.pairs.len() as u64,
        }))
    }

    /// An estimate with its interval. One instruction says nothing of others, and a model that never loses may: where
    /// resamples are all alike, the interval is the exact one of a proportion (Clopper and Pearson 1934).
    fn estimate(&self, value: f64, clusters: &[Vec<usize>], resampled: Vec<f64>) -> Option<Estimate> {
        let (low, high) = interval::percentiles(resampled)?;
        let widest = ((1.0 - LEVEL) / 2.0).powf(1.0 / clusters.len() as f64);
        let (low, high) = match self.one_sided() {
            _ if clusters.len() == 1 => (0.0, 1.0),
            Some(true) => (widest, 1.0),
            Some(false) => (0.0, 1.0 - widest),
            None => (low, high),
        };
        Some(Estimate {
            value,
            interval: Some(Interval { low, high }),
            n: self.pairs.len() as u64,
        })
    }

    /// Whether the model wins every comparison for certain (`true`), or loses every one.
    fn one_sided(&self) -> Option<bool> {
        one_sided(self.pairs.iter().map(|pair| pair.p))
    }

    fn controlled(
        &self,
        gammas: Option<&[f64]>,
        config: WinRateConfig,
        clusters: &[Vec<usize>],
        seed: Seed,
    ) -> Result<Result<Controlled, Untrusted>> {
        if self.pairs.len() < LEAST_PAIRS {
            return Ok(Err(Untrusted::TooFew));
        }
        if self.pairs.iter().all(|pair| pair.len_model == pair.len_baseline) {
            return Ok(Ok(Controlled {
                rate: self.raw(clusters, seed)?,
                coefficients: None,
                extrapolated: false,
            }));
        }
        if !self.varies {
            return Ok(Err(Untrusted::ConstantDifference));
        }
        if self.one_sided().is_some() {
            return Ok(Err(Untrusted::OneSided));
        }
        let fitted = match gammas {
            None => {
                let columns = |index: usize| [1.0, self.effects[index]];
                let fitted = self.regress(clusters, seed, [0.0, config.l2], columns)?;
                fitted.map(|(rate, [model, length])| (rate, model, length, None))
            }
            Some(gammas) => {
                let columns = |index: usize| [1.0, self.effects[index], gammas[index]];
                let penalty = [0.0, config.l2, config.l2];
                let fitted = self.regress(clusters, seed, penalty, columns)?;
                fitted.map(|(rate, [model, length, difficulty])| (rate, model, length, Some(difficulty)))
            }
        };
        let sign = |pair: &ModelPair| pair.len_model.total_cmp(&pair.len_baseline);
        Ok(fitted.map(|(rate, model, length, difficulty)| Controlled {
            rate,
            coefficients: Some(Coefficients {
                model,
                length,
                difficulty,
            }),
            extrapolated: self.pairs[1..].iter().all(|pair| sign(pair) == sign(self.pairs[0])),
        }))
    }

    /// Fits the columns, of which the second is length, and answers the mean prediction without it.
    fn regress<const K: usize>(
        &self,
        clusters: &[Vec<usize>],
        seed: Seed,
        penalty: [f64; K],
        columns: impl Fn(usize) -> [f64; K],
    ) -> Result<Result<(Estimate, [f64; K]), Untrusted>> {
        let rows: Vec<Observation<K>> = (0..self.pairs.len())
            .map(|index| Observation {
                x: columns(index),
                offset: 0.0,
                target: self.pairs[index].p,
            })
            .collect();
        let predicted = |beta: &[f64; K], row: &Observation<K>| sigmoid(row.log_odds(beta) - beta[1] * row.x[1]);
        let beta = match fit(&rows, |_| 1.0, &penalty, [0.0; K]) {
            Ok(beta) => beta,
            Err(failure) => return Ok(Err(untrusted(failure))),
        };
        let value = rows.iter().map(|row| predicted(&beta, row)).sum::<f64>() / rows.len() as f64;
        let resampled = interval::resample(clusters, seed, &Silent, |drawn| {
            let mut counts = vec![0.0; rows.len()];
            for index in drawn {
                counts[*index] += 1.0;
            }
            if let Some(wins) = one_sided(drawn.iter().map(|index| rows[*index].target)) {
                return f64::from(u8::from(wins));
            }
            let Ok(beta) = fit(&rows, |index| counts[index], &penalty, beta) else {
                // Left out of the percentiles.
                return f64::NAN;
            };
            let rates = drawn.iter().map(|index| predicted(&beta, &rows[*index]));
            rates.sum::<f64>() / drawn.len() as f64
        })?;
        let rate = self.estimate(value, clusters, resampled);
        Ok(rate.map(|rate| (rate, beta)).ok_or(Untrusted::Unstable))
    }
}

fn one_sided(targets: impl Iterator<Item = f64> + Clone) -> Option<bool> {
    let all = |value: f64| targets.clone().all(|p| p == value);
    match (all(1.0), all(0.0)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn untrusted(failure: Failure) -> Untrusted {
    match failure {
        Failure::Separated => Untrusted::Separated,
        Failure::Collinear => Untrusted::Collinear,
        Failure::Unsettled => Untrusted::Unsettled,
    }
}

/// For each model, the difficulty of the instruction of each of its comparisons, in their order; `None` where the other
/// models answered too few of them to say something. An instruction that no other model answered is of mean difficulty.
fn shared_difficulties(samples: &[Sample<'_>]) -> Vec<Option<Vec<f64>>> {
    if samples.len() < 2 {
        return vec![None; samples.len()];
    }
    let mut places = HashMap::new();
    let mut trials = Vec::new();
    for (model, sample) in samples.iter().enumerate() {
        for (pair, x) in sample.pairs.iter().zip(&sample.effects) {
            let next = places.len();
            trials.push(Trial {
                model,
                instruction: *places.entry(pair.instruction.as_str()).or_insert(next),
                x: *x,
                target: pair.p,
            });
        }
    }
    let Some(values) = difficulties(&trials, samples.len(), places.len()) else {
        return vec![None; samples.len()];
    };
    let mut rest = values.as_slice();
    samples
        .iter()
        .map(|sample| {
            let (own, others) = rest.split_at(sample.pairs.len());
            rest = others;
            let known = own.iter().flatten().count();
            let values = || own.iter().flatten().copied();
            // What is left of rounding is no difficulty.
            let varies = values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min) > 1e-9;
            (known >= LEAST_PAIRS && varies).then(|| own.iter().map(|value| value.unwrap_or(0.0)).collect())
        })
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests;
