//! Inference with a key/value cache.
//!
//! The cache is a fixed number of blocks of [`BLOCK`] positions each. A sequence is a list of blocks,
//! its table; sequences with a common prefix may share the blocks that hold it, for what a block
//! holds depends on the tokens up to its end and on nothing else, to the bit (see
//! [`product`](super::product)). A pass takes any number of new tokens for any of the sequences: a
//! whole prompt here, one sampled token there. Who owns which block is not known here.

use super::paged::{PADDING, Queries};
use super::{Projected, Weights};
use super::{kernels, pages, team};
use crate::model::config::{Attention, DecoderConfig};
use crate::model::decoder::Decoder;

/// Positions in a block.
pub const BLOCK: usize = 32;

/// Tokens that are worth reading the weights once more for.
const PART_TOKENS: usize = 64;

/// Tokens of one sequence that one thread attends from at a time.
const TASK_TOKENS: usize = 32;

/// Attention with fewer products of a query and a key is not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 11;

/// Keys and values of one layer. Keys are transposed within a block, so that scores need no sums
/// across a vector: `(blocks, kv_heads, head_dim, BLOCK)`. Values are `(blocks, kv_heads, BLOCK,
/// padded head_dim)`.
pub struct LayerCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

pub struct KvCache {
    layers: Vec<LayerCache>,
    blocks: usize,
}

/// New tokens for a sequence.
#[derive(Clone, Copy)]
pub struct Extension<'a> {
    /// The blocks of the sequence, those of the new tokens included.
    pub table: &'a [u32],
    /// Tokens that the sequence holds already.
    pub start: usize,
    pub tokens: &'a [u32],
}

/// Sizes of a block of one layer, in numbers.
#[derive(Clone, Copy)]
pub struct BlockShape {
    pub kv_heads: usize,
    pub head_dim: usize,
    /// `head_dim` rounded up to whole vectors.
    pub padded: usize,
}

impl BlockShape {
    fn new(config: &DecoderConfig) -> Self {
        Self {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            padded: config.head_dim.next_multiple_of(PADDING),
        }
    }

    fn key_block(self) -> usize {
        self.kv_heads * self.head_dim * BLOCK
    }

    fn value_block(self) -> usize {
        self.kv_heads * self.padded * BLOCK
    }

    /// The keys `(head_dim, BLOCK)` of a head in a block.
    pub fn keys(self, layer: &LayerCache, block: u32, head: usize) -> &[f32] {
        let size = self.head_dim * BLOCK;
        &layer.keys[block as usize * self.key_block() + head * size..][..size]
    }

    /// The values `(BLOCK, padded)` of a head in a block.
    pub fn values(self, layer: &LayerCache, block: u32, head: usize) -> &[f32] {
        let size = self.padded * BLOCK;
        &layer.values[block as usize * self.value_block() + head * size..][..size]
    }
}

impl KvCache {
    /// A cache of `blocks` blocks. Its memory does not grow afterwards.
    pub fn new(decoder: &Decoder, blocks: usize) -> Self {
        let shape = BlockShape::new(&decoder.config);
        let layers = (0..decoder.config.layers)
            .map(|_| LayerCache {
                keys: vec![0.0; blocks * shape.key_block()],
                values: vec![0.0; blocks * shape.value_block()],
            })
            .collect::<Vec<LayerCache>>();
        for layer in &layers {
            pages::reserve(&layer.keys);
            pages::reserve(&layer.values);
        }
        Self { layers, blocks }
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of one block, all layers together.
    pub fn block_bytes(config: &DecoderConfig) -> usize {
        let shape = BlockShape::new(config);
        config.layers * (shape.key_block() + shape.value_block()) * size_of::<f32>()
    }

    /// Makes block `to` a copy of block `from`.
    pub fn copy_block(&mut self, config: &DecoderConfig, from: u32, to: u32) {
        let shape = BlockShape::new(config);
        let copy = |values: &mut [f32], size: usize| {
            let start = from as usize * size;
            values.copy_within(start..start + size, to as usize * size);
        };
        for layer in &mut self.layers {
            copy(&mut layer.keys, shape.key_block());
            copy(&mut layer.values, shape.value_block());
        }
    }

    /// Runs the new tokens through the decoder. Answers the residual stream `(N, hidden)` after every
    /// new token, before the final norm.
    ///
    /// # Panics
    /// If a table is too short for its tokens, or an extension is empty.
    pub fn extend(&mut self, weights: &Weights<'_>, extensions: &[Extension<'_>]) -> Vec<f32> {
        let mut parts = parts(extensions, weights.threads());
        let weights = &weights.with_threads(weights.threads().div_ceil(parts.len().max(1)));
        let config = weights.config();
        team::share(parts.iter_mut().collect(), |part: &mut Part<'_>| {
            part.x = weights.embed(&part.tokens());
        });
        for (layout, cache) in weights.decoder.layout.layers.iter().zip(&mut self.layers) {
            team::share(parts.iter_mut().collect(), |part: &mut Part<'_>| {
                part.projected = weights.project(layout, &part.x, &part.positions);
            });
            for part in &parts {
                cache.append(config, &part.extensions, &part.projected);
            }
            team::share(parts.iter_mut().collect(), |part: &mut Part<'_>| {
                let query = &part.projected.query;
                let mut attended = vec![0.0; query.len()];
                cache.attend(weights, layout.attention, &part.extensions, query, &mut attended);
                let (activated, mut mixed) = weights.mix(layout, &part.x, &attended);
                part.x = weights.feed_forward(layout, &activated, &mut mixed);
            });
        }
        parts.into_iter().flat_map(|part| part.x).collect()
    }
}

/// New tokens that go through the layers together.
#[derive(Default)]
struct Part<'a> {
    extensions: Vec<Extension<'a>>,
    positions: Vec<u32>,
    /// The residual stream `(N, hidden)`.
    x: Vec<f32>,
    projected: Projected,
}

impl Part<'_> {
    fn tokens(&self) -> Vec<u32> {
        self.extensions
            .iter()
            .flat_map(|extension| extension.tokens)
            .copied()
            .collect()
    }
}

/// Cuts a pass into parts of at least [`PART_TOKENS`], for `threads` threads. Many tokens are shared out:
/// each thread takes its own through a whole layer. Of few, every thread computes some columns of
/// each product, so that each weight is read once.
///
/// # Panics
/// If a table is too short for its tokens, or an extension is empty.
fn parts<'a>(extensions: &[Extension<'a>], threads: usize) -> Vec<Part<'a>> {
    let total: usize = extensions.iter().map(|extension| extension.tokens.len()).sum();
    let size = total.div_ceil((total / PART_TOKENS).clamp(1, threads));
    let mut parts = Vec::new();
    let mut room = 0;
    for extension in extensions {
        let end = extension.start + extension.tokens.len();
        assert!(!extension.tokens.is_empty(), "an extension without tokens");
        assert!(end <= extension.table.len() * BLOCK, "the table is too short");
        let mut rest = *extension;
        while !rest.tokens.is_empty() {
            if room == 0 {
                parts.push(Part::default());
                room = size;
            }
            let (now, later) = rest.tokens.split_at(room.min(rest.tokens.len()));
            let part: &mut Part<'a> = parts.last_mut().expect("pushed when there was no room");
            part.extensions.push(Extension { tokens: now, ..rest });
            let next = rest.start + now.len();
            part.positions
                .extend((rest.start..next).map(|position| position as u32));
            rest = Extension {
                start: next,
                tokens: later,
                ..rest
            };
            room -= now.len();
        }
    }
    parts
}

/// Some tokens of one extension at one key/value head.
struct Task {
    extension: usize,
    head: usize,
    /// The first of the tokens, within its extension and within the pass.
    token: usize,
    row: usize,
    count: usize,
}

impl LayerCache {
    /// Writes the new keys and values `(N, kv_heads · head_dim)` into their blocks.
    fn append(&mut self, config: &DecoderConfig, extensions: &[Extension<'_>], projected: &Projected) {
        let Projected { key, value, .. } = projected;
        let shape = BlockShape::new(config);
        let width = config.kv_width();
        let mut rows = key.chunks_exact(width).zip(value.chunks_exact(width));
        for extension in extensions {
            for position in extension.start..extension.start + extension.tokens.len() {
                let Some((key, value)) = rows.next() else { return };
                let block = extension.table[position / BLOCK] as usize;
                let place = position % BLOCK;
                let keys = &mut self.keys[block * shape.key_block()..][..shape.key_block()];
                for (key, column) in key.iter().zip(keys.chunks_exact_mut(BLOCK)) {
                    column[place] = *key;
                }
                let values = &mut self.values[block * shape.value_block()..][..shape.value_block()];
                for (value, head) in value
                    .chunks_exact(shape.head_dim)
                    .zip(values.chunks_exact_mut(shape.padded * BLOCK))
                {
                    head[place * shape.padded..][..shape.head_dim].copy_from_slice(value);
                }
            }
        }
    }

    /// Attends from every query `(N, heads · head_dim)` to its own sequence, into `out`.
    fn attend(
        &self,
        weights: &Weights<'_>,
        attention: Attention,
        extensions: &[Extension<'_>],
        query: &[f32],
        out: &mut [f32],
    ) {
        let (config, threads) = (weights.config(), weights.threads());
        let (tasks, work) = tasks(config, extensions);
        let group = config.heads / config.kv_heads * config.head_dim;
        let solve = |task: &Task, out: &mut Vec<f32>| {
            out.resize(task.count * group, 0.0);
            kernels::vectorised(Queries {
                cache: self,
                shape: BlockShape::new(config),
                attention,
                table: extensions[task.extension].table,
                head: task.head,
                queries: &query[task.row * config.query_width() + task.head * group..],
                row_stride: config.query_width(),
                group: config.heads / config.kv_heads,
                position: extensions[task.extension].start + task.token,
                out,
            });
        };
        let mut solved = vec![Vec::new(); tasks.len()];
        let share = match work {
            _ if work < WORTH_A_THREAD || threads == 1 => tasks.len().max(1),
            _ => tasks.len().div_ceil(4 * threads),
        };
        let shares = tasks.chunks(share).zip(solved.chunks_mut(share)).collect();
        team::share(shares, |(tasks, solved): (&[Task], &mut [Vec<f32>])| {
            tasks.iter().zip(solved).for_each(|(task, out)| solve(task, out));
        });
        for (task, solved) in tasks.iter().zip(solved) {
            let rows = out[task.row * config.query_width()..].chunks_mut(config.query_width());
            for (row, solved) in rows.zip(solved.chunks_exact(group)) {
                row[task.head * group..][..group].copy_from_slice(solved);
            }
        }
    }
}

/// The attention of a pass in pieces, and how many products of a query and a key it has.
fn tasks(config: &DecoderConfig, extensions: &[Extension<'_>]) -> (Vec<Task>, usize) {
    let mut tasks = Vec::new();
    let (mut row, mut work) = (0, 0);
    for (index, extension) in extensions.iter().enumerate() {
        let new = extension.tokens.len();
        work += new * (extension.start + new) * config.heads;
        for token in (0..new).step_by(TASK_TOKENS) {
            tasks.extend((0..config.kv_heads).map(|head| Task {
                extension: index,
                head,
                token,
                row: row + token,
                count: TASK_TOKENS.min(new - token),
            }));
        }
        row += new;
    }
    (tasks, work)
}
