//! A cache whose sequences each own a fixed run of blocks: the simplest owner there is.

use bylaw::model::cpu::cache::{self, BLOCK, KvCache};
use bylaw::model::cpu::{Weights, gather_rows};
use bylaw::model::decoder::Decoder;

pub struct Slots {
    cache: KvCache,
    tables: Vec<Vec<u32>>,
    lengths: Vec<usize>,
}

/// New tokens for a slot.
pub struct Extension<'a> {
    pub slot: usize,
    pub tokens: &'a [u32],
}

impl Slots {
    /// Room for `slots` sequences of at most `capacity` tokens.
    pub fn new(decoder: &Decoder, slots: usize, capacity: usize) -> Self {
        let each = capacity.div_ceil(BLOCK) as u32;
        Self {
            cache: KvCache::new(decoder, slots * each as usize),
            // Taken from the end, so that a table is not simply 0, 1, 2.
            tables: (0..slots as u32)
                .map(|slot| (slot * each..(slot + 1) * each).rev().collect())
                .collect(),
            lengths: vec![0; slots],
        }
    }

    #[allow(dead_code, reason = "not every test that shares this module reuses a slot")]
    pub fn clear(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// The normed hidden state `(E, hidden)` after the last token of each extension.
    pub fn extend(&mut self, weights: &Weights<'_>, extensions: &[Extension<'_>]) -> Vec<f32> {
        let all = self.extend_all(weights, extensions);
        let mut end = 0;
        let last: Vec<usize> = extensions
            .iter()
            .map(|extension| {
                end += extension.tokens.len();
                end - 1
            })
            .collect();
        let width = weights.config().hidden;
        weights.norm(&gather_rows(&all, &last, width), weights.decoder.layout.norm)
    }

    /// The residual stream after every new token, before the final norm.
    pub fn extend_all(&mut self, weights: &Weights<'_>, extensions: &[Extension<'_>]) -> Vec<f32> {
        let placed: Vec<cache::Extension<'_>> = extensions
            .iter()
            .map(|extension| cache::Extension {
                table: &self.tables[extension.slot],
                start: self.lengths[extension.slot],
                tokens: extension.tokens,
            })
            .collect();
        let stream = self.cache.extend(weights, &placed);
        for extension in extensions {
            self.lengths[extension.slot] += extension.tokens.len();
        }
        stream
    }
}
