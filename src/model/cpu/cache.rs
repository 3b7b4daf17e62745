//! Inference with a key/value cache.
//!
//! The cache has a fixed number of slots, each as long as its sequence may become; a pass takes any
//! number of new tokens for any of the slots (a whole prompt here, one sampled token there) and
//! answers the hidden state after each slot's last. Slots never see each other.

use super::attention::Head;
use super::kernels::{Mat, MatMut};
use super::{Weights, gather_rows, head_columns};
use crate::model::config::Attention;
use crate::model::decoder::Decoder;

/// Keys and values of one layer, `(slots, capacity, kv_heads · head_dim)` each.
struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Tokens that each slot holds.
    lengths: Vec<usize>,
    capacity: usize,
}

/// New tokens for a slot.
pub struct Extension<'a> {
    pub slot: usize,
    pub tokens: &'a [u32],
}

impl KvCache {
    /// Room for `slots` sequences of at most `capacity` tokens.
    pub fn new(decoder: &Decoder, slots: usize, capacity: usize) -> Self {
        let size = slots * capacity * decoder.config.kv_width();
        let layers = (0..decoder.config.layers)
            .map(|_| LayerCache {
                keys: vec![0.0; size],
                values: vec![0.0; size],
            })
            .collect();
        Self {
            layers,
            lengths: vec![0; slots],
            capacity,
        }
    }

    /// Bytes that one slot of `capacity` tokens takes.
    pub fn slot_bytes(decoder: &Decoder, capacity: usize) -> usize {
        2 * decoder.config.layers * capacity * decoder.config.kv_width() * size_of::<f32>()
    }

    /// Empties a slot for its next sequence.
    pub fn clear(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// Runs the new tokens through the decoder. Answers the normed hidden state `(E, hidden)` after
    /// the last token of each extension.
    ///
    /// # Panics
    /// If a slot would exceed its capacity, or an extension is empty.
    pub fn extend(&mut self, weights: &Weights<'_>, extensions: &[Extension<'_>]) -> Vec<f32> {
        let all = self.extend_all(weights, extensions);
        let width = weights.config().hidden;
        let mut last = Vec::with_capacity(extensions.len());
        let mut end = 0;
        for extension in extensions {
            end += extension.tokens.len();
            last.push(end - 1);
        }
        weights.norm(&gather_rows(&all, &last, width), weights.decoder.layout.norm)
    }

    /// Like [`extend`](Self::extend), but answers the residual stream after every new token,
    /// before the final norm.
    pub fn extend_all(&mut self, weights: &Weights<'_>, extensions: &[Extension<'_>]) -> Vec<f32> {
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        for extension in extensions {
            let start = self.lengths[extension.slot];
            assert!(!extension.tokens.is_empty(), "an extension without tokens");
            assert!(start + extension.tokens.len() <= self.capacity, "the slot is full");
            tokens.extend_from_slice(extension.tokens);
            positions.extend((start..start + extension.tokens.len()).map(|position| position as u32));
        }
        let mut x = weights.embed(&tokens);
        let Self {
            layers,
            lengths,
            capacity,
        } = self;
        for (layout, cache) in weights.decoder.layout.layers.iter().zip(layers) {
            x = weights
                .layer(layout, x, &positions, |query, key, value, out| {
                    let slots = (&lengths[..], *capacity);
                    cache.attend(weights, layout.attention, slots, extensions, [query, key, value], out);
                })
                .0;
        }
        for extension in extensions {
            lengths[extension.slot] += extension.tokens.len();
        }
        x
    }
}

impl LayerCache {
    /// Appends the new keys and values to their slots, then attends from each new query to its slot.
    fn attend(
        &mut self,
        weights: &Weights<'_>,
        attention: Attention,
        (lengths, capacity): (&[usize], usize),
        extensions: &[Extension<'_>],
        [query, key, value]: [&[f32]; 3],
        out: &mut [f32],
    ) {
        let config = weights.config();
        let (query_width, kv_width, dim) = (config.query_width(), config.kv_width(), config.head_dim);
        let mut scores = Vec::new();
        let mut row = 0;
        for extension in extensions {
            let (new, old) = (extension.tokens.len(), lengths[extension.slot]);
            let slot = extension.slot * capacity * kv_width;
            let written = slot + old * kv_width..slot + (old + new) * kv_width;
            self.keys[written.clone()].copy_from_slice(&key[row * kv_width..][..new * kv_width]);
            self.values[written].copy_from_slice(&value[row * kv_width..][..new * kv_width]);
            for head in 0..config.heads {
                let (column, kv_column) = head_columns(config, head);
                let at = row * query_width + column;
                let seen = slot + kv_column;
                Head {
                    queries: Mat::strided(&query[at..], new, dim, query_width),
                    keys: Mat::strided(&self.keys[seen..], old + new, dim, kv_width),
                    values: Mat::strided(&self.values[seen..], old + new, dim, kv_width),
                    attention,
                }
                .attend(&mut scores, MatMut::strided(&mut out[at..], new, dim, query_width));
            }
            row += new;
        }
    }
}
