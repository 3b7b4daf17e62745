//! Shares and means over rows that are not all independent, in a bounded memory.
//!
//! A figure is a ratio of two sums. Rows of one prompt hang together, so what is kept is the sums of [`GROUPS`] groups of
//! prompts, drawn by the prompts' hashes; how much the groups differ says how sure the figure is (the method of random
//! groups, Wolter 1985, Introduction to Variance Estimation, chapter 2). A share has the interval of Wilson (1927) of as
//! many independent rows as would be as sure (Kish 1965, Survey Sampling, section 8.2): it stays wide where nothing was
//! seen yet, as a bootstrap of the same rows would not.

use crate::bias::interval::{Estimate, Interval, LEAST_CLUSTERS};
use crate::survey::stats::{Z, wilson_ends};

/// Groups of prompts. With fewer prompts nearly each is a group of its own.
const GROUPS: usize = 512;

/// The sums of what was added, in groups.
#[derive(Debug, Clone, Default)]
pub struct Ratio {
    n: u64,
    /// Numerator and denominator of each group; empty before the first addition.
    sums: Vec<[f64; 2]>,
}

/// What the groups say together.
struct Spread {
    value: f64,
    denominator: f64,
    /// Groups that something was added to.
    groups: usize,
    /// The sum of the squared deviations of the groups' numerators from `value` times their denominators.
    squares: f64,
}

impl Ratio {
    /// One observation of the prompt with this hash.
    pub fn add(&mut self, prompt: u64, numerator: f64, denominator: f64) {
        self.sums.resize(GROUPS, [0.0; 2]);
        let sums = &mut self.sums[(prompt % GROUPS as u64) as usize];
        sums[0] += numerator;
        sums[1] += denominator;
        self.n += 1;
    }

    /// An observation that has the property or does not.
    pub fn count(&mut self, prompt: u64, has: bool) {
        self.add(prompt, f64::from(u8::from(has)), 1.0);
    }

    pub fn n(&self) -> u64 {
        self.n
    }

    fn spread(&self) -> Option<Spread> {
        let sum = |index: usize| self.sums.iter().map(|sums| sums[index]).sum::<f64>();
        let (numerator, denominator) = (sum(0), sum(1));
        if denominator <= 0.0 {
            return None;
        }
        let value = numerator / denominator;
        let filled = self.sums.iter().filter(|sums| **sums != [0.0; 2]);
        Some(Spread {
            value,
            denominator,
            groups: filled.clone().count(),
            squares: filled.map(|[top, bottom]| (top - value * bottom).powi(2)).sum(),
        })
    }

    /// The share of observations that have the property. `None` of none.
    pub fn share(&self) -> Option<Estimate> {
        let Spread {
            value, groups, squares, ..
        } = self.spread()?;
        let (n, groups) = (self.n as f64, groups as f64);
        let independent = if value == 0.0 || value == 1.0 || groups < 2.0 {
            groups
        } else {
            // Where each observation is a group of its own, exactly `n`.
            let few = if groups < n { groups / (groups - 1.0) } else { 1.0 };
            n / (few * squares / (n * value * (1.0 - value))).max(1.0)
        };
        let few_groups = groups < n && groups < LEAST_CLUSTERS as f64;
        let independent = if few_groups {
            independent.min(groups)
        } else {
            independent
        };
        let (low, high) = wilson_ends(value, independent);
        Some(Estimate {
            value,
            interval: Some(Interval { low, high }),
            n: self.n,
        })
    }

    /// The mean of what was added, weighted by the denominators. Of few prompts it has no interval.
    pub fn mean(&self) -> Option<Estimate> {
        let Spread {
            value,
            denominator,
            groups,
            squares,
        } = self.spread()?;
        let interval = (groups >= LEAST_CLUSTERS).then(|| {
            let groups = groups as f64;
            let half = Z * (squares * groups / (groups - 1.0)).sqrt() / denominator;
            Interval {
                low: value - half,
                high: value + half,
            }
        });
        Some(Estimate {
            value,
            interval,
            n: self.n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(estimate: Option<Estimate>) -> [f64; 3] {
        let estimate = estimate.unwrap();
        let interval = estimate.interval.unwrap();
        [estimate.value, interval.low, interval.high]
    }

    fn near(found: [f64; 3], expected: [f64; 3], within: f64) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < within);
        assert!(close, "{found:?}, expected {expected:?}");
    }

    /// Catches: another interval than Wilson's for rows that are independent. The numbers are method 3 of table I of
    /// Newcombe (1998, Statistics in Medicine 17, 857-872).
    #[test]
    fn independent_rows_have_wilsons_interval() {
        let of = |successes: u64, n: u64| {
            let mut ratio = Ratio::default();
            (0..n).for_each(|row| ratio.count(row, row < successes));
            ends(ratio.share())
        };
        near(of(81, 263), [81.0 / 263.0, 0.2553, 0.3662], 5e-5);
        near(of(15, 148), [15.0 / 148.0, 0.0624, 0.1605], 5e-5);
        near(of(0, 20), [0.0, 0.0, 0.1611], 5e-5);
        assert_eq!(Ratio::default().share(), None);
    }

    /// Catches: rows of one prompt taken for independent ones. Twenty copies of each of 20 prompts are as sure as 20
    /// rows, but for the factor 20/19 of so few groups: 19 rows.
    #[test]
    fn copies_tell_nothing_new() {
        let mut copied = Ratio::default();
        (0..400).for_each(|row| copied.count(row % 20, row % 20 < 7));
        let (low, high) = wilson_ends(0.35, 19.0);
        near(ends(copied.share()), [0.35, low, high], 1e-12);
        let mut never = Ratio::default();
        (0..400).for_each(|row| never.count(row % 20, false));
        near(ends(never.share()), [0.0, 0.0, 0.1611], 5e-5);
        let mut one = Ratio::default();
        (0..400).for_each(|row| one.count(5, row < 200));
        let (low, high) = wilson_ends(0.5, 1.0);
        near(ends(one.share()), [0.5, low, high], 1e-12);
    }

    /// Catches: a mean whose interval is that of a share, or the standard deviation instead of that of the mean.
    #[test]
    fn a_mean_has_the_interval_of_its_variance() {
        let mut ratio = Ratio::default();
        [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
            .into_iter()
            .zip(0..)
            .for_each(|(x, row)| ratio.add(row, x, 1.0));
        // Deviations from 4: 9 + 4 + 1 + 0 + 1 + 25 = 40; 40 / 5 / 6 is the variance of the mean.
        let half = Z * (40.0f64 / 30.0).sqrt();
        near(ends(ratio.mean()), [4.0, 4.0 - half, 4.0 + half], 1e-12);
        let mut few = Ratio::default();
        (0..5).for_each(|row| few.add(row, 1.0, 2.0));
        assert_eq!((few.mean().unwrap().value, few.mean().unwrap().interval), (0.5, None));
    }
}
