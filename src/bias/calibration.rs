//! Whether a judge that is 80 % sure is right 80 % of the time: reliability bins, and the expected calibration error
//! (Naeini et al. 2015; Guo et al. 2017, equation 5).

use serde::{Deserialize, Serialize};

/// Bins of equal width between one half, below which no confidence in the likelier answer lies, and 1.
pub const BINS: usize = 10;

/// The verdicts of one range of confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub n: u64,
    /// Means over the verdicts in it; 0 where there are none.
    pub confidence: f64,
    pub accuracy: f64,
}

/// The reliability bins of confidences (in the likelier answer, 0.5 to 1) and of whether that answer is the better: 1, 0,
/// or one half where neither is likelier.
pub fn bins(verdicts: impl Iterator<Item = (f64, f64)>) -> Vec<Bin> {
    let edge = |index: usize| 0.5 + 0.5 * index as f64 / BINS as f64;
    let mut bins: Vec<Bin> = (0..BINS)
        .map(|index| Bin {
            from: edge(index),
            to: edge(index + 1),
            ..Bin::default()
        })
        .collect();
    for (confidence, right) in verdicts {
        let place = ((confidence - 0.5) * 2.0 * BINS as f64) as usize;
        let bin = &mut bins[place.min(BINS - 1)];
        bin.n += 1;
        bin.confidence += confidence;
        bin.accuracy += right;
    }
    for bin in bins.iter_mut().filter(|bin| bin.n > 0) {
        bin.confidence /= bin.n as f64;
        bin.accuracy /= bin.n as f64;
    }
    bins
}

/// The mean distance of confidence and accuracy over the bins, weighted by their verdicts.
pub fn error(bins: &[Bin]) -> f64 {
    let n: u64 = bins.iter().map(|bin| bin.n).sum();
    let distance = |bin: &Bin| bin.n as f64 * (bin.confidence - bin.accuracy).abs();
    bins.iter().map(distance).sum::<f64>() / n.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: confidences in the wrong bin, or bins that weigh alike whatever is in them.
    #[test]
    fn the_error_is_the_mean_distance() {
        // Ten verdicts at 0.9 of which seven are right, thirty at 0.61 of which eighteen are.
        let sure = (0..10).map(|index| (0.92, f64::from(index < 7)));
        let unsure = (0..30).map(|index| (0.61, f64::from(index < 18)));
        let bins = bins(sure.chain(unsure));
        assert_eq!(
            bins.iter().map(|bin| bin.n).collect::<Vec<_>>(),
            [0, 0, 30, 0, 0, 0, 0, 0, 10, 0]
        );
        assert!((error(&bins) - (0.25 * 0.22 + 0.75 * 0.01)).abs() < 1e-12);
        assert_eq!(error(&[]), 0.0);
    }

    #[test]
    fn certainty_has_a_bin() {
        let bins = bins([(1.0, 1.0), (0.5, 0.5)].into_iter());
        assert_eq!((bins[0].n, bins[BINS - 1].n), (1, 1));
    }
}
