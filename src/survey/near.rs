//! The second look at rows: those that may be copies of each other, compared on all their words.

use std::collections::HashMap;

use serde::Serialize;

use super::minhash::{self, Pair};
use super::{Survey, Surveyed, excerpt, words};

/// Groups that are shown with examples, and examples to a group.
const SHOWN: usize = 5;
const EXAMPLES: usize = 3;

/// What is kept of a row that is looked at again.
struct Seen {
    id: String,
    shingles: Vec<u64>,
    excerpt: String,
}

/// The rows to look at again.
pub struct Near {
    threshold: f64,
    pairs: Vec<Pair>,
    wanted: HashMap<u32, Option<Seen>>,
    /// The first row and the number of the most frequent contents.
    exact: Vec<(u32, u32)>,
    /// Contents that occur more than once, and the rows that repeat one.
    exact_groups: u64,
    exact_rows: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DuplicateStats {
    /// Contents that occur more than once.
    pub exact_groups: u64,
    /// Rows whose prompt and answers an earlier row has as well.
    pub exact_rows: u64,
    /// The most frequent of them.
    pub exact: Vec<Repeated>,
    /// Rows whose prompt, in one spelling, an earlier row has as well.
    pub prompt_rows: u64,
    pub near_threshold: f64,
    pub near_groups: u64,
    /// Rows in those groups but one of each.
    pub near_rows: u64,
    /// The largest of them.
    pub near: Vec<NearGroup>,
}

/// A content that several rows have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repeated {
    pub rows: u32,
    pub id: String,
    pub text: String,
}

/// Rows of which most runs of words are the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NearGroup {
    pub rows: usize,
    /// The lowest Jaccard similarity of the pairs that hold the group together.
    pub similarity: f64,
    /// Ids and beginnings of the first few.
    pub examples: Vec<(String, String)>,
}

impl<R: Surveyed> Survey<'_, R> {
    /// The rows to show again, by [`Near::add`].
    pub fn near(&self) -> Near {
        let repeated = self.contents.values().filter(|(_, count)| *count > 1);
        let mut exact: Vec<(u32, u32)> = repeated.copied().collect();
        let (exact_groups, exact_rows) = (
            exact.len() as u64,
            exact.iter().map(|(_, count)| u64::from(count - 1)).sum(),
        );
        exact.sort_by_key(|(first, count)| (std::cmp::Reverse(*count), *first));
        exact.truncate(SHOWN);
        let pairs = self.signatures.candidates(self.config.near);
        let rows = pairs.iter().flat_map(|(a, b)| [*a, *b]);
        let rows = rows.chain(exact.iter().map(|(first, _)| *first));
        Near {
            threshold: self.config.near,
            wanted: rows.map(|row| (row, None)).collect(),
            pairs,
            exact,
            exact_groups,
            exact_rows,
        }
    }
}

impl Near {
    /// Whether any row is to be shown again.
    pub fn wants_rows(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Looks at row `index`, counted from 0 in the same order as before.
    pub fn add(&mut self, index: u32, row: &impl Surveyed) {
        if let Some(seen) = self.wanted.get_mut(&index) {
            let specimen = row.specimen();
            let content = specimen.content();
            *seen = Some(Seen {
                id: specimen.id.to_owned(),
                shingles: words::shingles(&content),
                excerpt: excerpt(&content),
            });
        }
    }

    fn seen(&self, row: u32) -> Option<&Seen> {
        self.wanted.get(&row).and_then(Option::as_ref)
    }

    pub(super) fn finish(self, prompt_rows: u64) -> DuplicateStats {
        let groups = minhash::groups(&self.pairs, self.threshold, |row| {
            self.seen(row).map_or(&[], |seen| &seen.shingles[..])
        });
        let example = |row: &u32| self.seen(*row).map(|seen| (seen.id.clone(), seen.excerpt.clone()));
        let near = groups.iter().take(SHOWN).map(|group| NearGroup {
            rows: group.rows.len(),
            similarity: group.similarity,
            examples: group.rows.iter().take(EXAMPLES).filter_map(example).collect(),
        });
        let exact = self.exact.iter().filter_map(|(first, count)| {
            let (id, text) = example(first)?;
            Some(Repeated { rows: *count, id, text })
        });
        DuplicateStats {
            exact_groups: self.exact_groups,
            exact_rows: self.exact_rows,
            exact: exact.collect(),
            prompt_rows,
            near_threshold: self.threshold,
            near_groups: groups.len() as u64,
            near_rows: groups.iter().map(|group| group.rows.len() as u64 - 1).sum(),
            near: near.collect(),
        }
    }
}
