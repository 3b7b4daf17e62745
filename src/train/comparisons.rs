//! A batch of the reward model: answers, and which of them are compared.
//!
//! Pairs may stand for themselves, or all pairs of a prompt come together with each answer scored once (InstructGPT:
//! Ouyang et al. 2022, arXiv 2203.02155, equation 1): the K answers of a prompt make up to `K (K-1) / 2` pairs that are
//! anything but independent, and each of them weighs one over their number.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::pairs::Pair;
use crate::bias::interval::clusters;
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;

/// `N` answers and `P` pairs of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparisons {
    pub sequences: Vec<Sequence>,
    /// `(P)`: the places of both answers in `sequences`.
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    /// `(P)`.
    pub p_chosen: Vec<f32>,
    pub margins: Vec<f32>,
    /// `(P)`: what each pair weighs in the mean over all pairs; of the data, then of its prompt.
    pub weights: Vec<f32>,
    pub shares: Vec<f32>,
    /// What is counted: pairs, or prompts.
    pub units: usize,
}

impl Comparisons {
    /// Each pair for itself, its answers side by side.
    pub fn pairs(batch: &[&Pair]) -> Self {
        let mut all = Self::default();
        for pair in batch {
            let place = all.sequences.len() as u32;
            all.sequences.extend([pair.chosen.clone(), pair.rejected.clone()]);
            all.compare(pair, [place, place + 1], 1.0);
        }
        all.units = batch.len();
        all
    }

    /// The pairs of each prompt together, each answer once.
    pub fn prompts(groups: &[Vec<&Pair>]) -> Self {
        let mut all = Self::default();
        let pairs: usize = groups.iter().map(Vec::len).sum();
        for group in groups {
            let mut known: HashMap<&[u32], u32> = HashMap::new();
            let share = pairs as f32 / (groups.len() * group.len()) as f32;
            for pair in group {
                let places = [&pair.chosen, &pair.rejected].map(|answer| {
                    *known.entry(&answer.tokens).or_insert_with(|| {
                        all.sequences.push(answer.clone());
                        all.sequences.len() as u32 - 1
                    })
                });
                all.compare(pair, places, share);
            }
        }
        all.units = groups.len();
        all
    }

    fn compare(&mut self, pair: &Pair, [chosen, rejected]: [u32; 2], share: f32) {
        self.chosen.push(chosen);
        self.rejected.push(rejected);
        self.p_chosen.push(pair.p_chosen);
        self.margins.push(pair.margin);
        self.weights.push(pair.weight);
        self.shares.push(share);
    }

    /// `(P)` values of the chosen and of the rejected answers, from those `(N)` of all.
    pub fn sides(&self, values: &Tensor) -> Result<[Tensor; 2]> {
        let side = |places: &[u32]| -> Result<Tensor> {
            let places = Tensor::new(places, &Device::Cpu)?;
            Ok(values.index_select(&places, 0)?)
        };
        Ok([side(&self.chosen)?, side(&self.rejected)?])
    }

    /// The same of plain values.
    pub fn split<T: Copy>(&self, values: &[T]) -> [Vec<T>; 2] {
        [&self.chosen, &self.rejected].map(|places| places.iter().map(|place| values[*place as usize]).collect())
    }

    /// What each pair weighs in the loss; nothing where all weigh 1.
    pub fn weighed(&self) -> Option<Vec<f32>> {
        let both = self.weights.iter().zip(&self.shares);
        let weights: Vec<f32> = both.map(|(weight, share)| weight * share).collect();
        weights.iter().any(|weight| *weight != 1.0).then_some(weights)
    }
}

/// The pairs of each prompt, by their places, in the order of first appearance.
pub fn by_prompt(pairs: &[Pair]) -> Vec<Vec<usize>> {
    clusters(pairs.iter().map(Pair::prompt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(prompt: u32, chosen: u32, rejected: u32) -> Pair {
        let answer = |token: u32| Sequence {
            tokens: vec![prompt, token],
            completion: 1,
        };
        Pair {
            chosen: answer(chosen),
            rejected: answer(rejected),
            p_chosen: 1.0,
            margin: 0.0,
            weight: 1.0,
        }
    }

    /// Catches: an answer scored twice or mixed up with that of another prompt, weights that do not add up to a prompt,
    /// a prompt of many pairs that counts for many.
    #[test]
    fn the_pairs_of_a_prompt_share_their_answers() {
        let pairs = [pair(7, 1, 2), pair(8, 1, 2), pair(7, 1, 3), pair(7, 2, 3)];
        let groups = by_prompt(&pairs);
        assert_eq!(groups, [vec![0, 2, 3], vec![1]]);
        let groups: Vec<Vec<&Pair>> = groups
            .iter()
            .map(|group| group.iter().map(|place| &pairs[*place]).collect())
            .collect();
        let all = Comparisons::prompts(&groups);
        assert_eq!(all.sequences.len(), 5);
        assert_eq!(all.chosen, [0, 0, 1, 3]);
        assert_eq!(all.rejected, [1, 2, 2, 4]);
        // The mean over four pairs of share times loss is the mean over two prompts.
        let third = 4.0 / 6.0;
        assert_eq!(all.shares, [third, third, third, 2.0]);
        assert_eq!(all.units, 2);
    }

    /// Catches: K-wise comparisons of two answers that are not the pairs themselves, to the order of the sequences.
    #[test]
    fn two_answers_are_a_pair() {
        let pairs = [pair(7, 1, 2), pair(8, 3, 2)];
        let batch: Vec<&Pair> = pairs.iter().collect();
        let groups: Vec<Vec<&Pair>> = batch.iter().map(|pair| vec![*pair]).collect();
        assert_eq!(Comparisons::pairs(&batch), Comparisons::prompts(&groups));
        assert_eq!(Comparisons::pairs(&batch).weighed(), None);
    }
}
