//! Percentile bootstrap intervals (Efron 1979): how far a figure would move with another sample.
//!
//! What is drawn again, with replacement, is whole clusters (all pairs of one prompt), because pairs of
//! one prompt are not independent. A statistic that a resample leaves undefined (no pair of unequal length in it) is left
//! out of the percentiles; if that happens to most resamples there is no interval.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::seed::Seed;

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 1000;

/// Probability that an interval is meant to cover the truth.
pub const LEVEL: f64 = 0.95;

/// An estimate with its interval and the number of observations it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Observations behind the value.
    pub n: u64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.value, self.low, self.high)
    }
}

impl Estimate {
    pub fn covers(&self, truth: f64) -> bool {
        self.low <= truth && truth <= self.high
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

/// The statistic of each of [`RESAMPLES`] resamples of the clusters; `None` where it is undefined. The
/// statistic is given the indices of the observations drawn, repeated ones included.
pub fn resample<T>(clusters: &[Vec<usize>], seed: Seed, mut statistic: impl FnMut(&[usize]) -> T) -> Vec<T> {
    let mut drawn = Vec::new();
    (0..RESAMPLES)
        .map(|round| {
            let mut rng = seed.index(round as u64).rng();
            drawn.clear();
            for _ in 0..clusters.len() {
                drawn.extend_from_slice(&clusters[rng.random_range(0..clusters.len())]);
            }
            statistic(&drawn)
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

/// A statistic of all observations, with its bootstrap interval. `None` if it is undefined on them.
/// Where the interval cannot be had, it is the value alone.
pub fn estimate(
    clusters: &[Vec<usize>],
    seed: Seed,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Estimate> {
    let all: Vec<usize> = clusters.iter().flatten().copied().collect();
    let value = statistic(&all)?;
    let resampled = resample(clusters, seed, |drawn| statistic(drawn).unwrap_or(f64::NAN));
    let (low, high) = percentiles(resampled).unwrap_or((value, value));
    Some(Estimate {
        value,
        low,
        high,
        n: all.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = estimate(&alone, Seed::new(trial), mean(&values)).unwrap();
            covered += u32::from(found.covers(0.65));
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
        let once = estimate(&clusters(0..30), Seed::new(1), mean(&values)).unwrap();
        let by_prompt = clusters((0..300).map(|index| index / 10));
        let tenfold = estimate(&by_prompt, Seed::new(1), mean(&repeated)).unwrap();
        assert_eq!((once.low, once.high), (tenfold.low, tenfold.high));
        assert_eq!((once.n, tenfold.n), (30, 300));
    }

    #[test]
    fn what_is_undefined_has_no_estimate() {
        assert_eq!(estimate(&clusters(0..3), Seed::new(1), |_| None), None);
    }
}
