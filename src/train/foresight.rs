//! How well a model foresaw the tokens that count: TRL's `mean_token_accuracy` and `entropy`.
//!
//! Both come of the pass that gives the log-probabilities, and of no other. A token counts or does not; what it weighs in the
//! loss does not matter here, as it does not in TRL.

use crate::model::cpu::trunk::Outlook;

/// Sums over the tokens that count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Foresight {
    tokens: u64,
    likeliest: u64,
    entropy: f64,
}

impl Foresight {
    /// Takes the tokens of a completion whose weight is not 0.
    pub fn add(&mut self, outlooks: &[Outlook], weights: &[f32]) {
        for (outlook, _) in outlooks.iter().zip(weights).filter(|(_, weight)| **weight != 0.0) {
            self.tokens += 1;
            self.likeliest += u64::from(outlook.likeliest);
            self.entropy += f64::from(outlook.entropy);
        }
    }

    /// The share of tokens that were the likeliest, and the mean entropy before a token; 0 where no token counts.
    pub fn means(&self) -> [f64; 2] {
        let tokens = self.tokens.max(1) as f64;
        [self.likeliest as f64 / tokens, self.entropy / tokens]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: tokens of a prompt that count, weights that weigh, a mean of means.
    #[test]
    fn means_are_over_the_tokens_that_count() {
        let outlook = |entropy, likeliest| Outlook { entropy, likeliest };
        let mut foresight = Foresight::default();
        assert_eq!(foresight.means(), [0.0, 0.0]);
        foresight.add(
            &[outlook(9.0, true), outlook(1.0, true), outlook(2.0, false)],
            &[0.0, 1.0, 0.5],
        );
        foresight.add(&[outlook(3.0, false)], &[2.0]);
        assert_eq!(foresight.means(), [1.0 / 3.0, 2.0]);
    }
}
