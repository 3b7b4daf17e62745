//! How long texts are: exact quantiles, and bars for a histogram.

use std::collections::BTreeMap;

use serde::Serialize;

/// How often each length occurs. Takes memory by the number of different lengths.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    counts: BTreeMap<u32, u64>,
    total: u64,
    sum: u64,
}

/// A range of lengths, both ends in it; the last one may be open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bin {
    pub from: u32,
    pub to: u32,
    pub count: u64,
}

/// The distribution of a length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    pub count: u64,
    pub mean: f64,
    pub min: u32,
    pub p10: u32,
    pub median: u32,
    pub p90: u32,
    pub p99: u32,
    pub max: u32,
    /// Of equal width, but for the last, which holds the long tail.
    pub bins: Vec<Bin>,
}

impl Lengths {
    pub fn add(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        *self.counts.entry(length).or_default() += 1;
        self.total += 1;
        self.sum += u64::from(length);
    }

    /// The smallest length that at least the share `p` of all does not exceed.
    fn quantile(&self, p: f64) -> u32 {
        let rank = ((p * self.total as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (length, count) in &self.counts {
            below += count;
            if below >= rank {
                return *length;
            }
        }
        0
    }

    /// `None` without lengths. At most `most` bins and one for the tail.
    pub fn distribution(&self, most: u32) -> Option<Distribution> {
        let (min, max) = (*self.counts.first_key_value()?.0, *self.counts.last_key_value()?.0);
        Some(Distribution {
            count: self.total,
            mean: self.sum as f64 / self.total as f64,
            min,
            p10: self.quantile(0.1),
            median: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max,
            bins: self.bins(min, self.quantile(0.98), max, most.max(1)),
        })
    }

    fn bins(&self, min: u32, high: u32, max: u32, most: u32) -> Vec<Bin> {
        let width = nice((high - min) / most + 1);
        let start = min / width * width;
        let count = ((high - start) / width + 1).min(most);
        let mut bins: Vec<Bin> = (0..count)
            .map(|index| Bin {
                from: start + index * width,
                to: (start + index * width).saturating_add(width - 1),
                count: 0,
            })
            .collect();
        let end = bins.last().map_or(0, |last| last.to);
        if max > end {
            bins.push(Bin {
                from: end + 1,
                to: max,
                count: 0,
            });
        }
        let last = bins.len() - 1;
        for (length, found) in &self.counts {
            bins[(((length - start) / width) as usize).min(last)].count += found;
        }
        bins
    }
}

/// The next of 1, 2, 5, 10, 20, 50, ...
fn nice(width: u32) -> u32 {
    let mut unit = 1_u32;
    loop {
        for step in [1, 2, 5] {
            let found = unit.saturating_mul(step);
            if found >= width || found == u32::MAX {
                return found;
            }
        }
        unit = unit.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: impl IntoIterator<Item = usize>) -> Distribution {
        let mut all = Lengths::default();
        for length in lengths {
            all.add(length);
        }
        all.distribution(10).unwrap()
    }

    /// Catches: ranks off by one, and a length in no bin or in two.
    #[test]
    fn quantiles_and_bins() {
        let found = of(1..=100);
        assert_eq!(
            (found.min, found.p10, found.median, found.p90, found.max),
            (1, 10, 50, 90, 100)
        );
        assert_eq!(found.mean, 50.5);
        assert_eq!(found.bins.iter().map(|bin| bin.count).sum::<u64>(), 100);
        assert!(found.bins.windows(2).all(|pair| pair[0].to + 1 == pair[1].from));
        assert_eq!(
            of([7]).bins,
            [Bin {
                from: 7,
                to: 7,
                count: 1
            }]
        );
    }

    /// Catches: one very long text that makes all other bars vanish, and overflow at the end of the range.
    #[test]
    fn a_long_tail_is_one_bin() {
        let found = of((0..1000).map(|length| length % 50).chain([4_000_000_000, usize::MAX]));
        assert_eq!(found.bins.len(), 11);
        assert_eq!(found.bins[10].count, 2);
        assert_eq!(
            found.bins[0],
            Bin {
                from: 0,
                to: 4,
                count: 100
            }
        );
        assert_eq!(Lengths::default().distribution(10), None);
    }
}
