//! Attention over the blocks of a cache: the inner loops.
//!
//! As in [`product`](super::product), what a query gets depends on its own sequence alone: every
//! score is one running sum over the head's dimensions, every output one over the keys in order,
//! whichever queries are computed together.

use pulp::{Simd, WithSimd};

use super::cache::{BLOCK, BlockShape, LayerCache};
use super::{kernels, pages};
use crate::model::config::Attention;

/// Values are padded to a multiple of this, which every vector's length divides.
pub const PADDING: usize = 16;

/// Queries computed together.
const TILE: usize = 6;

/// Queries that compute too little to cover the fetching of the next block, so that it is begun early. A
/// block is too short for the hardware's prefetcher to catch on.
const FEW: usize = 3;

/// Consecutive tokens of one sequence at one key/value head, with all query heads that read it.
pub struct Queries<'a> {
    pub cache: &'a LayerCache,
    pub shape: BlockShape,
    pub attention: Attention,
    pub table: &'a [u32],
    pub head: usize,
    /// The first token's first query; the next token's is `row_stride` further.
    pub queries: &'a [f32],
    pub row_stride: usize,
    /// Query heads that read this key/value head.
    pub group: usize,
    /// The first token's position.
    pub position: usize,
    /// `(tokens, group, head_dim)`.
    pub out: &'a mut [f32],
}

impl WithSimd for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.out.len() / self.shape.head_dim;
        let mut scratch = Scratch::default();
        let mut row = 0;
        while row < rows {
            match rows - row {
                1 => self.tile::<S, 1>(simd, row, &mut scratch),
                2 => self.tile::<S, 2>(simd, row, &mut scratch),
                3 => self.tile::<S, 3>(simd, row, &mut scratch),
                4 => self.tile::<S, 4>(simd, row, &mut scratch),
                5 => self.tile::<S, 5>(simd, row, &mut scratch),
                _ => self.tile::<S, TILE>(simd, row, &mut scratch),
            }
            row += TILE;
        }
    }
}

#[derive(Default)]
struct Scratch {
    /// `(TILE, keys)`.
    scores: Vec<f32>,
    /// `(TILE, padded)`.
    out: Vec<f32>,
}

/// The keys that a tile of queries sees, in whole blocks.
struct Span {
    /// The first block, and the first beyond.
    blocks: std::ops::Range<usize>,
    /// The position of the first block's first key.
    base: usize,
    /// Keys of all blocks.
    width: usize,
    /// The first position beyond what the last query sees.
    end: usize,
}

impl Queries<'_> {
    /// The positions that row `row` sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> std::ops::Range<usize> {
        let end = self.position + row / self.group + 1;
        let start = self.attention.window.map_or(0, |window| end.saturating_sub(window));
        start..end
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, simd: S, row: usize, scratch: &mut Scratch) {
        let (first, last) = (self.seen(row), self.seen(row + R - 1));
        let blocks = first.start / BLOCK..last.end.div_ceil(BLOCK);
        let span = Span {
            base: blocks.start * BLOCK,
            width: blocks.len() * BLOCK,
            end: last.end,
            blocks,
        };
        scratch.scores.resize(TILE * span.width, 0.0);
        self.scores::<S, R>(simd, row, &span, &mut scratch.scores);
        for (r, scores) in scratch.scores.chunks_exact_mut(span.width).take(R).enumerate() {
            let seen = self.seen(row + r);
            let (start, end) = (seen.start - span.base, seen.end - span.base);
            self.probabilities(&mut scores[start..end]);
            scores[..start].fill(0.0);
            scores[end..].fill(0.0);
        }
        let padded = self.shape.padded;
        scratch.out.resize(TILE * padded, 0.0);
        self.mix::<S, R>(simd, &span, &scratch.scores, &mut scratch.out);
        for (r, mixed) in scratch.out.chunks_exact(padded).take(R).enumerate() {
            let dim = self.shape.head_dim;
            self.out[(row + r) * dim..][..dim].copy_from_slice(&mixed[..dim]);
        }
    }

    /// Products of the queries with all keys of the span.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "indices run over several arrays, and must unroll"
    )]
    fn scores<S: Simd, const R: usize>(&self, simd: S, row: usize, span: &Span, scores: &mut [f32]) {
        let dim = self.shape.head_dim;
        let vectors = BLOCK / S::F32_LANES;
        let mut queries: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            let (token, head) = ((row + r) / self.group, (row + r) % self.group);
            queries[r] = &self.queries[token * self.row_stride + head * dim..][..dim];
        }
        let blocks = &self.table[span.blocks.clone()];
        for (index, block) in blocks.iter().enumerate() {
            let keys = S::as_simd_f32s(self.shape.keys(self.cache, *block, self.head)).0;
            let next = match blocks.get(index + 1) {
                Some(next) => S::as_simd_f32s(self.shape.keys(self.cache, *next, self.head)).0,
                None => S::as_simd_f32s(self.shape.values(self.cache, blocks[0], self.head)).0,
            };
            for vector in (0..vectors).step_by(2) {
                let mut sums = [[simd.splat_f32s(0.0); 2]; R];
                for d in 0..dim {
                    if R <= FEW {
                        pages::prefetch(next.as_ptr().wrapping_add(d * vectors + vector));
                        pages::prefetch(next.as_ptr().wrapping_add(d * vectors + vector + 1));
                    }
                    let low = keys[d * vectors + vector];
                    let high = keys[d * vectors + vector + 1];
                    for r in 0..R {
                        let query = simd.splat_f32s(queries[r][d]);
                        sums[r][0] = simd.mul_add_e_f32s(query, low, sums[r][0]);
                        sums[r][1] = simd.mul_add_e_f32s(query, high, sums[r][1]);
                    }
                }
                for r in 0..R {
                    let at = r * span.width + index * BLOCK + vector * S::F32_LANES;
                    let to = S::as_mut_simd_f32s(&mut scores[at..at + 2 * S::F32_LANES]).0;
                    to[0] = sums[r][0];
                    to[1] = sums[r][1];
                }
            }
        }
    }

    /// Softmax of the scores that one query sees.
    #[inline(always)]
    fn probabilities(&self, scores: &mut [f32]) {
        let Attention { scale, softcap, .. } = self.attention;
        match softcap {
            None => kernels::softmax_row(scores, scale),
            Some(cap) => {
                for score in scores.iter_mut() {
                    *score = cap * kernels::tanh(*score * scale / cap);
                }
                kernels::softmax_row(scores, 1.0);
            }
        }
    }

    /// The values, weighted: `out (R, padded)`.
    #[inline(always)]
    fn mix<S: Simd, const R: usize>(&self, simd: S, span: &Span, weights: &[f32], out: &mut [f32]) {
        let vectors = self.shape.padded / S::F32_LANES;
        let mut vector = 0;
        while vector < vectors {
            if R <= FEW && vector + 4 <= vectors {
                self.mix_vectors::<S, R, 4>(simd, span, weights, vector, out);
                vector += 4;
            } else if vector + 2 <= vectors {
                self.mix_vectors::<S, R, 2>(simd, span, weights, vector, out);
                vector += 2;
            } else {
                self.mix_vectors::<S, R, 1>(simd, span, weights, vector, out);
                vector += 1;
            }
        }
    }

    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "indices run over several arrays, and must unroll"
    )]
    fn mix_vectors<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        span: &Span,
        weights: &[f32],
        vector: usize,
        out: &mut [f32],
    ) {
        let padded = self.shape.padded;
        let vectors = padded / S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let blocks = &self.table[span.blocks.clone()];
        for (index, block) in blocks.iter().enumerate() {
            let values = S::as_simd_f32s(self.shape.values(self.cache, *block, self.head)).0;
            let next = blocks.get(index + 1).map_or(values, |next| {
                S::as_simd_f32s(self.shape.values(self.cache, *next, self.head)).0
            });
            let first = index * BLOCK;
            // Positions beyond the last query's hold whatever the block held before.
            let keys = BLOCK.min(span.end - span.base - first);
            for key in 0..keys {
                for v in 0..V {
                    if R <= FEW {
                        pages::prefetch(next.as_ptr().wrapping_add(key * vectors + vector + v));
                    }
                    let value = values[key * vectors + vector + v];
                    for r in 0..R {
                        let weight = simd.splat_f32s(weights[r * span.width + first + key]);
                        sums[r][v] = simd.mul_add_e_f32s(weight, value, sums[r][v]);
                    }
                }
            }
        }
        for r in 0..R {
            let at = r * padded + vector * S::F32_LANES;
            let to = S::as_mut_simd_f32s(&mut out[at..at + V * S::F32_LANES]).0;
            to[..V].copy_from_slice(&sums[r]);
        }
    }
}
