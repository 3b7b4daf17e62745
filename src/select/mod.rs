//! Choosing rows: mixtures of sources, and splits that leak no prompt.
//!
//! Pure functions: which rows, and in which order. Every choice follows from the seed and from what is in
//! a row, never from how many rows stand around it.

pub mod mix;
pub mod split;

use rand::Rng as _;

use crate::seed::Seed;

/// Cuts `total` into whole parts in the proportion of `weights`, by the largest remainder (Hamilton's
/// method): no part is off by one or more. Equal remainders go to the earlier part.
pub fn largest_remainder(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return vec![0; weights.len()];
    }
    let ideal: Vec<f64> = weights.iter().map(|weight| total as f64 * (weight / sum)).collect();
    let mut parts: Vec<u64> = ideal.iter().map(|ideal| ideal.floor() as u64).collect();
    let given: u64 = parts.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).filter(|part| weights[*part] > 0.0).collect();
    order.sort_by(|a, b| ideal[*b].fract().total_cmp(&ideal[*a].fract()));
    for part in order.into_iter().cycle().take(total.saturating_sub(given) as usize) {
        parts[part] += 1;
    }
    parts
}

/// A number for a thing named `label`, evenly spread over all of them.
fn number(seed: &Seed, label: &str) -> u64 {
    seed.child(label).rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Catches: rows lost to rounding, and rounding that favours one part by more than one row.
    #[test]
    fn parts_add_up() {
        assert_eq!(largest_remainder(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(largest_remainder(100, &[0.5, 0.3, 0.2]), [50, 30, 20]);
        assert_eq!(largest_remainder(1, &[1.0, 3.0, 0.0]), [0, 1, 0]);
        assert_eq!(largest_remainder(0, &[1.0]), [0]);
        assert!(largest_remainder(5, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn no_part_is_off_by_one(total in 0_u64..100_000, weights in proptest::collection::vec(0.001_f64..1000.0, 1..20)) {
            let parts = largest_remainder(total, &weights);
            prop_assert_eq!(parts.iter().sum::<u64>(), total);
            let sum: f64 = weights.iter().sum();
            for (part, weight) in parts.iter().zip(&weights) {
                prop_assert!((*part as f64 - total as f64 * weight / sum).abs() < 1.0 + 1e-6);
            }
        }
    }
}
