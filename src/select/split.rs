//! Splitting rows for training and testing so that no prompt is on both sides.
//!
//! The side of a row is decided by the hash of its prompt alone: rows added later move no other.

use std::collections::HashMap;

use super::number;
use crate::seed::Seed;
use crate::survey::minhash::{self, MinHash};
use crate::survey::{Sameness, Surveyed, words};

#[derive(Debug, Clone)]
pub struct SplitConfig {
    /// The share of prompts for testing, in 0..=1.
    pub test: f64,
    pub by: Sameness,
    /// Keep prompts of at least this similarity on one side as well. Then a prompt added later can join
    /// two groups, and move one of them.
    pub near: Option<f64>,
    pub seed: Seed,
}

/// Which side each row is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Whether a row is for testing.
    pub test: Vec<bool>,
    /// Different prompts, normalised.
    pub prompts: usize,
    /// Groups of near-duplicate prompts that were kept together; 0 without `near`.
    pub near_groups: usize,
}

pub fn split<R: Surveyed>(rows: &[R], config: &SplitConfig) -> Split {
    let keys: Vec<String> = rows.iter().map(|row| row.specimen().key(config.by)).collect();
    // The number of each prompt, and the prompts in the order of their first rows.
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut prompts: Vec<&str> = Vec::new();
    for key in &keys {
        numbers.entry(key).or_insert_with(|| {
            prompts.push(key);
            prompts.len() as u32 - 1
        });
    }
    let seed = config.seed.child("split");
    let mut hashes: Vec<u64> = prompts.iter().map(|prompt| number(&seed, prompt)).collect();
    let groups = config
        .near
        .map_or_else(Vec::new, |threshold| alike(&prompts, threshold));
    for group in &groups {
        // A group goes where the prompt with the lowest hash goes: whatever order the rows are in.
        let lowest = group.rows.iter().map(|row| hashes[*row as usize]).min();
        for row in &group.rows {
            hashes[*row as usize] = lowest.unwrap_or(0);
        }
    }
    Split {
        test: keys
            .iter()
            .map(|key| below(hashes[numbers[key.as_str()] as usize], config.test))
            .collect(),
        prompts: prompts.len(),
        near_groups: groups.len(),
    }
}

/// Whether a hash falls into the share `test` of all hashes.
fn below(hash: u64, test: f64) -> bool {
    (hash as f64) < test * 2.0_f64.powi(64)
}

fn alike(prompts: &[&str], threshold: f64) -> Vec<minhash::Group> {
    let sets: Vec<Vec<u64>> = prompts.iter().map(|prompt| words::shingles(prompt)).collect();
    let mut index = MinHash::new(Seed::new(0));
    for (row, set) in (0..).zip(&sets) {
        index.add(row, set);
    }
    minhash::groups(&index.candidates(threshold), threshold, |row| &sets[row as usize])
}

/// Prompts that are on both sides: zero, or the split leaks.
pub fn leaks<'a, R: Surveyed + 'a>(
    train: impl IntoIterator<Item = &'a R>,
    test: impl IntoIterator<Item = &'a R>,
    by: Sameness,
) -> usize {
    let keys = |rows: Vec<&R>| -> std::collections::HashSet<String> {
        rows.into_iter().map(|row| row.specimen().key(by)).collect()
    };
    let (train, test) = (keys(train.into_iter().collect()), keys(test.into_iter().collect()));
    train.intersection(&test).count()
}
