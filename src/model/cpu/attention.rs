//! Causal attention of one head over one sequence, forward and backward.
//!
//! The scores of a block of queries exist at a time, and only for the keys that the block may see, so
//! that a window saves its work and a long sequence its memory.

use super::kernels::{Mat, MatMut, Write, dot_lanes, matmul, simd, softmax_row, tanh};
use crate::model::config::Attention;

/// Queries whose scores are held at a time.
const BLOCK: usize = 512;

/// One head of one sequence: `keys` and `values` are `(keys, head_dim)` views, the queries the last
/// `n` positions of them.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub queries: Mat<'a>,
    pub keys: Mat<'a>,
    pub values: Mat<'a>,
    pub attention: Attention,
}

/// Buffers reused from head to head.
#[derive(Default)]
pub struct AttentionScratch {
    pub scores: Vec<f32>,
    dscores: Vec<f32>,
    /// The derivative of the soft-cap at each score.
    slopes: Vec<f32>,
}

/// Some of the queries, with the keys that any of them sees.
struct Block<'a> {
    head: Head<'a>,
    /// The first query, and the first key, in the whole head.
    query: usize,
    key: usize,
}

impl<'a> Head<'a> {
    fn offset(&self) -> usize {
        self.keys.rows - self.queries.rows
    }

    fn blocks(self) -> impl Iterator<Item = Block<'a>> {
        let rows = self.queries.rows;
        (0..rows).step_by(BLOCK).map(move |query| {
            let count = BLOCK.min(rows - query);
            let first = self.offset() + query;
            let key = first - first.min(self.attention.window.map_or(first, |window| window - 1));
            let seen = first + count - key;
            let head = Head {
                queries: self.queries.range(query, count),
                keys: self.keys.range(key, seen),
                values: self.values.range(key, seen),
                ..self
            };
            Block { head, query, key }
        })
    }

    /// Causal attention into `out (queries, head_dim)`; `scores` is scratch.
    pub fn attend(&self, scores: &mut Vec<f32>, mut out: MatMut<'_>) {
        for Block { head, query, .. } in self.blocks() {
            let (queries, keys) = (head.queries.rows, head.keys.rows);
            let out = out.range(query, queries);
            head.scores(scores);
            if let Some(cap) = self.attention.softcap {
                softcap(scores, self.attention.scale, cap);
            }
            head.softmax(scores);
            matmul(out, Mat::new(scores, queries, keys), head.values, Write::Overwrite);
        }
    }

    /// Products `(queries, keys)` of queries and keys, not scaled.
    fn scores(&self, scores: &mut Vec<f32>) {
        let (queries, keys) = (self.queries.rows, self.keys.rows);
        scores.resize(queries * keys, 0.0);
        matmul(
            MatMut::new(scores, queries, keys),
            self.queries,
            self.keys.t(),
            Write::Overwrite,
        );
    }

    /// What is still to multiply the scores: a soft-cap has already scaled them.
    fn remaining_scale(&self) -> f32 {
        match self.attention.softcap {
            Some(_) => 1.0,
            None => self.attention.scale,
        }
    }

    /// Softmax of `scores (queries, keys)` in place over the keys that each query sees; the others get
    /// probability 0.
    fn softmax(&self, scores: &mut [f32]) {
        let (offset, scale) = (self.offset(), self.remaining_scale());
        let window = self.attention.window.unwrap_or(usize::MAX);
        simd(|| {
            for (i, row) in scores.chunks_exact_mut(self.keys.rows).enumerate() {
                let end = offset + i + 1;
                let start = end - end.min(window);
                row[..start].fill(0.0);
                softmax_row(&mut row[start..end], scale);
                row[end..].fill(0.0);
            }
        });
    }

    /// Backward of [`attend`](Self::attend) over a whole sequence, for the output gradient `dout`:
    /// overwrites `dqueries`, adds to `dkeys` and `dvalues` (several query heads may share them).
    pub fn attend_backward(
        &self,
        scratch: &mut AttentionScratch,
        dout: Mat<'_>,
        mut dqueries: MatMut<'_>,
        mut dkeys: MatMut<'_>,
        mut dvalues: MatMut<'_>,
    ) {
        for Block { head, query, key } in self.blocks() {
            let (queries, keys) = (head.queries.rows, head.keys.rows);
            let dout = dout.range(query, queries);
            head.probabilities_and_slopes(scratch);
            let AttentionScratch {
                scores,
                dscores,
                slopes,
            } = scratch;
            let probabilities = Mat::new(scores, queries, keys);
            matmul(dvalues.range(key, keys), probabilities.t(), dout, Write::Accumulate);
            dscores.resize(queries * keys, 0.0);
            matmul(
                MatMut::new(dscores, queries, keys),
                dout,
                head.values.t(),
                Write::Overwrite,
            );
            let scale = self.attention.scale;
            simd(|| {
                for (p, d) in scores.chunks_exact(keys).zip(dscores.chunks_exact_mut(keys)) {
                    let mean = dot_lanes(p, d);
                    d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean) * scale);
                }
                dscores.iter_mut().zip(slopes.iter()).for_each(|(d, s)| *d *= s);
            });
            let dscores = Mat::new(dscores, queries, keys);
            matmul(dqueries.range(query, queries), dscores, head.keys, Write::Overwrite);
            matmul(dkeys.range(key, keys), dscores.t(), head.queries, Write::Accumulate);
        }
    }

    /// Attention probabilities into `scores`; with a soft-cap its derivatives into `slopes`, which is
    /// else empty.
    fn probabilities_and_slopes(&self, scratch: &mut AttentionScratch) {
        let AttentionScratch { scores, slopes, .. } = scratch;
        self.scores(scores);
        slopes.clear();
        if let Some(cap) = self.attention.softcap {
            softcap(scores, self.attention.scale, cap);
            slopes.extend(scores.iter().map(|score| 1.0 - (score / cap) * (score / cap)));
        }
        self.softmax(scores);
    }
}

/// `x = cap · tanh(x · scale / cap)`.
fn softcap(x: &mut [f32], scale: f32, cap: f32) {
    simd(|| x.iter_mut().for_each(|x| *x = cap * tanh(*x * scale / cap)));
}
