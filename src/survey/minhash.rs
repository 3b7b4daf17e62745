//! Near duplicates: texts of which most runs of words are the same.
//!
//! MinHash (Broder 1997) estimates the Jaccard similarity of two sets of shingles by the share of
//! permutations under which both have the same smallest member; bands of the signature
//! (locality-sensitive hashing, Indyk and Motwani 1998) bring similar rows together without comparing
//! all pairs. What comes out are candidates; they are verified on the shingles themselves.

use std::ops::Range;

use rand::Rng as _;

use super::words::jaccard;
use crate::seed::Seed;

/// Numbers to a signature.
pub const PERMUTATIONS: usize = 128;

/// A pair at the threshold is found with at least this probability.
const RECALL: f64 = 0.99;

/// What an estimate may be off by, in standard deviations.
const DEVIATIONS: f64 = 3.0;

/// In one bucket a row is compared with at most so many others that are not already known to be alike:
/// thousands of rows that share a long template would take forever else.
const MOST_COMPARED: usize = 32;

/// Signatures of rows: 512 bytes each.
pub struct MinHash {
    multipliers: Vec<u64>,
    offsets: Vec<u64>,
    rows: Vec<u32>,
    signatures: Vec<u32>,
}

/// Two rows that may be alike.
pub type Pair = (u32, u32);

/// Rows that are alike, each to at least one other of the group.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Ascending.
    pub rows: Vec<u32>,
    /// The lowest similarity of the pairs that hold it together.
    pub similarity: f64,
}

impl MinHash {
    pub fn new(seed: Seed) -> Self {
        let mut rng = seed.child("minhash").rng();
        // Odd multipliers: multiply-shift hashing (Dietzfelbinger et al. 1997).
        let multipliers = (0..PERMUTATIONS).map(|_| rng.random::<u64>() | 1).collect();
        let offsets = (0..PERMUTATIONS).map(|_| rng.random()).collect();
        Self {
            multipliers,
            offsets,
            rows: Vec::new(),
            signatures: Vec::new(),
        }
    }

    /// Adds a row by the shingles of its text. A text without words is like no other.
    pub fn add(&mut self, row: u32, shingles: &[u64]) {
        if shingles.is_empty() {
            return;
        }
        self.rows.push(row);
        let hashes = self.multipliers.iter().zip(&self.offsets);
        self.signatures.extend(hashes.map(|(multiplier, offset)| {
            let hash = |shingle: &u64| (shingle.wrapping_mul(*multiplier).wrapping_add(*offset) >> 32) as u32;
            shingles.iter().map(hash).min().unwrap_or(u32::MAX)
        }));
    }

    fn signature(&self, index: u32) -> &[u32] {
        let start = index as usize * PERMUTATIONS;
        &self.signatures[start..start + PERMUTATIONS]
    }

    fn estimate(&self, a: u32, b: u32) -> f64 {
        let pairs = self.signature(a).iter().zip(self.signature(b));
        pairs.filter(|(a, b)| a == b).count() as f64 / PERMUTATIONS as f64
    }

    /// The pairs whose similarity may be `threshold` or more; in a group of very similar rows, enough of
    /// them to hold it together.
    pub fn candidates(&self, threshold: f64) -> Vec<Pair> {
        let width = band_width(threshold);
        // An estimate is the mean of so many draws that succeed with the similarity as probability.
        let margin = DEVIATIONS * (threshold * (1.0 - threshold) / PERMUTATIONS as f64).sqrt();
        // Near 1 no estimate is sure: texts that differ in a word have the signature of equal ones.
        let sure = if threshold > 0.95 {
            f64::INFINITY
        } else {
            (threshold + margin).min(1.0)
        };
        let unsure = threshold - margin..sure;
        let mut joined = Joined::new(self.rows.len());
        let mut pairs = Vec::new();
        for band in 0..PERMUTATIONS / width {
            let key = |index: u32| {
                let part = &self.signature(index)[band * width..(band + 1) * width];
                part.iter()
                    .fold(0, |key, value| super::words::mix(key ^ u64::from(*value)))
            };
            // One band at a time, so that the buckets take 16 bytes a row and no more.
            let mut buckets: Vec<(u64, u32)> = (0..self.rows.len() as u32).map(|row| (key(row), row)).collect();
            buckets.sort_unstable();
            for bucket in buckets.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
                self.compare(bucket, &unsure, &mut joined, &mut pairs);
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let row = |index: u32| self.rows[index as usize];
        pairs.into_iter().map(|(a, b)| (row(a), row(b))).collect()
    }

    fn compare(&self, bucket: &[(u64, u32)], unsure: &Range<f64>, joined: &mut Joined, pairs: &mut Vec<Pair>) {
        let mut apart: Vec<u32> = Vec::new();
        for &(_, row) in bucket {
            let mut alike = false;
            for &other in apart.iter().rev().take(MOST_COMPARED) {
                if joined.root(row) == joined.root(other) {
                    alike = true;
                    break;
                }
                let estimate = self.estimate(row, other);
                if estimate >= unsure.start {
                    pairs.push((other.min(row), other.max(row)));
                }
                // So sure that further pairs of the two's groups need not be looked at.
                if estimate >= unsure.end {
                    joined.join(row, other);
                    alike = true;
                    break;
                }
            }
            if !alike {
                apart.push(row);
            }
        }
    }
}

/// Rows of a signature to a band: the most that still find a pair at the threshold.
fn band_width(threshold: f64) -> usize {
    let recall = |width: usize| {
        let bands = (PERMUTATIONS / width) as i32;
        1.0 - (1.0 - threshold.powi(width as i32)).powi(bands)
    };
    (1..=16).rev().find(|width| recall(*width) >= RECALL).unwrap_or(1)
}

/// The groups that the candidates make, of those pairs that are alike by the shingles themselves.
/// `shingles` answers those of a row that stands in a pair.
pub fn groups<'a>(pairs: &[Pair], threshold: f64, shingles: impl Fn(u32) -> &'a [u64]) -> Vec<Group> {
    let mut rows: Vec<u32> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    rows.sort_unstable();
    rows.dedup();
    // Both rows are in the list.
    let place = |row: u32| rows.partition_point(|other| *other < row) as u32;
    let mut joined = Joined::new(rows.len());
    let mut similarity = vec![f64::NAN; rows.len()];
    let mut alike: Vec<(u32, f64)> = Vec::new();
    for &(a, b) in pairs {
        let found = jaccard(shingles(a), shingles(b));
        if found >= threshold {
            joined.join(place(a), place(b));
            alike.push((place(a), found));
        }
    }
    for (row, found) in alike {
        let root = joined.root(row) as usize;
        similarity[root] = similarity[root].min(found);
    }
    let mut groups: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
    for index in 0..rows.len() as u32 {
        let root = joined.root(index);
        groups.entry(root).or_default().push(rows[index as usize]);
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .filter(|(_, rows)| rows.len() > 1)
        .map(|(root, rows)| Group {
            rows,
            similarity: similarity[root as usize],
        })
        .collect();
    groups.sort_by_key(|group| (std::cmp::Reverse(group.rows.len()), group.rows[0]));
    groups
}

/// Which rows belong together (union-find); the root of a group is its first row.
struct Joined(Vec<u32>);

impl Joined {
    fn new(rows: usize) -> Self {
        Self((0..rows as u32).collect())
    }

    fn root(&mut self, mut row: u32) -> u32 {
        while self.0[row as usize] != row {
            let parent = self.0[row as usize];
            self.0[row as usize] = self.0[parent as usize];
            row = parent;
        }
        row
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::words::shingles;

    /// A text of 200 words, and a copy in which the last `new` words are others: with shingles of five
    /// words, 196 of them, `196 - new` are common to both.
    fn copies(row: u32, new: usize) -> [String; 2] {
        let words: Vec<String> = (0..200).map(|index| format!("w{row}x{index}")).collect();
        let mut copy = words.clone();
        for word in &mut copy[200 - new..] {
            word.push('z');
        }
        [words.join(" "), copy.join(" ")]
    }

    fn found(new: usize, threshold: f64) -> (usize, f64) {
        let texts: Vec<String> = (0..100).flat_map(|row| copies(row, new)).collect();
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text)).collect();
        let mut index = MinHash::new(Seed::new(1));
        for (row, set) in (0..).zip(&sets) {
            index.add(row, set);
        }
        let groups = groups(&index.candidates(threshold), threshold, |row| &sets[row as usize]);
        assert!(
            groups
                .iter()
                .all(|group| group.rows[0] + 1 == group.rows[1] && group.rows.len() == 2)
        );
        (groups.len(), jaccard(&sets[0], &sets[1]))
    }

    /// Catches: bands too narrow or too wide for the threshold, estimates taken for the truth.
    #[test]
    fn planted_pairs_are_found_and_others_are_not() {
        for (new, similarity, pairs) in [(10, 0.9, 100), (20, 0.81, 100), (23, 0.79, 0), (65, 0.5, 0)] {
            let (groups, jaccard) = found(new, 0.8);
            assert!((jaccard - similarity).abs() < 0.01, "{jaccard}");
            assert_eq!(groups, pairs, "at a similarity of {jaccard}");
        }
        // At the threshold itself one in a hundred may be missed.
        assert!(found(65, 0.5).0 >= 98, "at a lower threshold");
    }

    /// Catches: a thousand copies compared with each other, or cut into several groups.
    #[test]
    fn many_alike_are_one_group() {
        let sets: Vec<Vec<u64>> = (0..1000)
            .map(|row| {
                let mut words: Vec<String> = (0..300).map(|index| format!("w{index}")).collect();
                words.push(format!("own{row}"));
                shingles(&words.join(" "))
            })
            .collect();
        let mut index = MinHash::new(Seed::new(1));
        for (row, set) in (0..).zip(&sets) {
            index.add(row, set);
        }
        index.add(5000, &[]);
        let pairs = index.candidates(0.8);
        assert!(pairs.len() < 30_000, "{}", pairs.len());
        let groups = groups(&pairs, 0.8, |row| &sets[row as usize]);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].rows, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn the_width_of_a_band_follows_the_threshold() {
        assert_eq!([0.5, 0.8, 0.95].map(band_width), [3, 6, 16]);
    }
}
