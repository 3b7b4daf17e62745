//! Percentile bootstrap intervals (Efron 1979): how far a figure would move with another sample.
//!
//! What is drawn again, with replacement, is whole clusters (all pairs of one prompt), because pairs of
//! one prompt are not independent. A statistic that a resample leaves undefined (no pair of unequal length in it) is left
//! out of the percentiles; if that happens to most resamples there is no interval. There is none of few clusters
//! either. An estimate without an interval says nothing for certain, and nothing may be decided by it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::interrupt;
use crate::progress::Progress;
use crate::seed::Seed;

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 1000;

/// Probability that an interval is meant to cover the truth.
pub const LEVEL: f64 = 0.95;

/// Clusters of which there can be an interval. Five that all lie on one side do so by chance once in sixteen times,
/// oftener than [`LEVEL`] allows, and their resamples would all be on that side.
pub const LEAST_CLUSTERS: usize = 6;

/// Where the truth is likely to lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub fn covers(self, truth: f64) -> bool {
        self.low <= truth && truth <= self.high
    }
}

/// An estimate with its interval, if there is one, and the number of observations it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Estimate {
    pub value: f64,
    pub interval: Option<Interval>,
    /// Observations behind the value.
    pub n: u64,
}

/// An estimate as files have it: both ends are null where there is no interval.
#[derive(Serialize, Deserialize)]
struct Stored {
    value: f64,
    low: Option<f64>,
    high: Option<f64>,
    n: u64,
}

impl From<Stored> for Estimate {
    fn from(stored: Stored) -> Self {
        let Stored { value, low, high, n } = stored;
        let interval = low.zip(high).map(|(low, high)| Interval { low, high });
        Self { value, interval, n }
    }
}

impl From<Estimate> for Stored {
    fn from(estimate: Estimate) -> Self {
        let Estimate { value, interval, n } = estimate;
        Self {
            value,
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
            n,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self.interval {
            Some(Interval { low, high }) => format!("{:.2} [{low:.2}, {high:.2}]", self.value),
            None => format!("{:.2} (no interval)", self.value),
        })
    }
}

impl Estimate {
    /// Whether the whole interval lies above. Without one nothing does.
    pub fn is_above(&self, truth: f64) -> bool {
        self.interval.is_some_and(|interval| interval.low > truth)
    }

    /// Whether the whole interval lies below. Without one nothing does.
    pub fn is_below(&self, truth: f64) -> bool {
        self.interval.is_some_and(|interval| interval.high < truth)
    }
}

/// Groups the indices of `keys` by equal key, in the order of first appearance.
pub fn clusters<K: Eq + Hash>(keys: impl IntoIterator<Item = K>) -> Vec<Vec<usize>> {
    let mut places = HashMap::new();
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for (index, key) in keys.into_iter().enumerate() {
        let place = *places.entry(key).or_insert_with(|| {
            clusters.push(Vec::new());
            clusters.len() - 1
        });
        clusters[place].push(index);
    }
    clusters
}

/// The statistic of each of [`RESAMPLES`] resamples of the clusters, in their order. The statistic is given the indices of
/// the observations drawn, repeated ones included. Each round has a seed of its own, so the threads decide nothing.
/// `progress` hears of every round. An error is an interruption.
pub fn resample<T: Send>(
    clusters: &[Vec<usize>],
    seed: Seed,
    progress: &dyn Progress,
    statistic: impl Fn(&[usize]) -> T + Sync,
) -> Result<Vec<T>> {
    (0..RESAMPLES)
        .into_par_iter()
        .map_init(Vec::new, |drawn, round| {
            interrupt::check()?;
            let mut rng = seed.index(round as u64).rng();
            drawn.clear();
            for _ in 0..clusters.len() {
                drawn.extend_from_slice(&clusters[rng.random_range(0..clusters.len())]);
            }
            let value = statistic(drawn);
            progress.advance(1);
            Ok(value)
        })
        .collect()
}

/// The ends of the central interval of [`LEVEL`] among the values, which are sorted on the way. `None` with fewer than
/// half of [`RESAMPLES`] values that are numbers.
pub fn percentiles(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.retain(|value| value.is_finite());
    if values.len() * 2 < RESAMPLES {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        // Linear between neighbours, as numpy's default.
        let place = share * (values.len() - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        values[below] + (values[above] - values[below]) * (place - place.floor())
    };
    let tail = (1.0 - LEVEL) / 2.0;
    Some((at(tail), at(1.0 - tail)))
}

/// A statistic of all observations, with its bootstrap interval. `None` if it is undefined on them. `progress` hears of
/// [`RESAMPLES`] rounds, done or not. An error is an interruption.
pub fn estimate(
    clusters: &[Vec<usize>],
    seed: Seed,
    progress: &dyn Progress,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Result<Option<Estimate>> {
    let all: Vec<usize> = clusters.iter().flatten().copied().collect();
    let value = statistic(&all);
    let interval = if value.is_some() && clusters.len() >= LEAST_CLUSTERS {
        percentiles(resample(clusters, seed, progress, |drawn| {
            statistic(drawn).unwrap_or(f64::NAN)
        })?)
    } else {
        progress.advance(RESAMPLES as u64);
        None
    };
    Ok(value.map(|value| Estimate {
        value,
        interval: interval.map(|(low, high)| Interval { low, high }),
        n: all.len() as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn estimate(
        clusters: &[Vec<usize>],
        seed: u64,
        statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
    ) -> Option<Estimate> {
        super::estimate(clusters, Seed::new(seed), &Silent, statistic).unwrap()
    }

    fn mean(values: &[f64]) -> impl Fn(&[usize]) -> Option<f64> {
        |drawn: &[usize]| Some(drawn.iter().map(|index| values[*index]).sum::<f64>() / drawn.len() as f64)
    }

    /// Catches: percentiles of the wrong tails, or resamples that are all alike.
    #[test]
    fn intervals_of_a_mean_cover_it_as_often_as_they_say() {
        let mut covered = 0;
        for trial in 0..100 {
            let mut rng = Seed::new(trial).rng();
            let values: Vec<f64> = (0..60).map(|_| f64::from(u8::from(rng.random_bool(0.65)))).collect();
            let alone = clusters(0..values.len());
            let found = estimate(&alone, trial, mean(&values)).unwrap();
            covered += u32::from(found.interval.unwrap().covers(0.65));
        }
        assert!(
            (88..=100).contains(&covered),
            "{covered} of 100 intervals cover the truth"
        );
    }

    /// Catches: pairs of one prompt taken for independent ones.
    #[test]
    fn copies_of_an_observation_tell_nothing_new() {
        let values: Vec<f64> = (0..30).map(|index| f64::from(index % 2)).collect();
        let repeated: Vec<f64> = values.iter().flat_map(|value| [*value; 10]).collect();
        let once = estimate(&clusters(0..30), 1, mean(&values)).unwrap();
        let by_prompt = clusters((0..300).map(|index| index / 10));
        let tenfold = estimate(&by_prompt, 1, mean(&repeated)).unwrap();
        assert_eq!(once.interval, tenfold.interval);
        assert!(once.is_above(0.2) && once.is_below(0.8) && !once.is_below(0.5));
        assert_eq!((once.n, tenfold.n), (30, 300));
    }

    #[test]
    fn what_is_undefined_has_no_estimate() {
        assert_eq!(estimate(&clusters(0..30), 1, |_| None), None);
    }

    /// Catches: a value of few prompts, or of what few resamples define, passed off as one without any doubt.
    #[test]
    fn few_clusters_and_few_resamples_have_no_interval() {
        let values = [1.0; 60];
        let of = |clusters: &[Vec<usize>]| estimate(clusters, 1, mean(&values)).unwrap();
        let one = of(&clusters([0; 60]));
        assert_eq!((one.value, one.interval, one.n), (1.0, None, 60));
        assert!(!one.is_above(0.5) && !one.is_below(1.5));
        assert_eq!(of(&clusters((0..60).map(|index| index % 5))).interval, None);
        assert!(of(&clusters((0..60).map(|index| index % 6))).is_above(0.5));
        let all = |drawn: &[usize]| drawn.contains(&0) && drawn.contains(&1);
        let rare = estimate(&clusters(0..60), 1, |drawn| all(drawn).then_some(1.0)).unwrap();
        assert_eq!((rare.value, rare.interval), (1.0, None));
    }

    /// Catches: an absent interval that becomes one on its way through a file, a document of an earlier release that cannot be read.
    #[test]
    fn an_absent_interval_is_null_in_files() {
        let text = r#"{"value":0.5,"low":null,"high":null,"n":3}"#;
        let none: Estimate = serde_json::from_str(text).unwrap();
        assert_eq!(none.interval, None);
        assert_eq!(serde_json::to_string(&none).unwrap(), text);
        assert_eq!(none.to_string(), "0.50 (no interval)");
        let some: Estimate = serde_json::from_str(r#"{"value":0.5,"low":0.25,"high":0.75,"n":3}"#).unwrap();
        assert_eq!(some.to_string(), "0.50 [0.25, 0.75]");
    }

    /// Catches: resamples that depend on how many threads draw them.
    #[test]
    fn threads_decide_nothing() {
        let values: Vec<f64> = (0..40).map(|index| f64::from(index * index % 7)).collect();
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let several = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let drawn = || resample(&clusters(0..40), Seed::new(3), &Silent, mean(&values)).unwrap();
        assert_eq!(alone.install(drawn), several.install(drawn));
    }
}
