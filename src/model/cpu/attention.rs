//! Causal attention, forward and backward: of one head over one sequence, and of every head over a batch
//! of packed sequences.
//!
//! The scores of a block of queries exist at a time, and only for the keys that the block may see, so
//! that a window saves its work and a long sequence its memory.

use std::borrow::Cow;
use std::ops::Range;

use super::head_columns;
use super::kernels::{self, Mat, MatMut, Write, dot_lanes, matmul, simd, softcap, softmax_row};
use super::trunk::Segment;
use crate::model::config::{Attention, DecoderConfig};

/// Queries whose scores are held at a time: the smaller, the fewer products with keys that none of them sees.
const BLOCK: usize = 128;

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
        simd!({
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
            simd!({
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

/// The keys and values that a segment reads: those of its own rows, or gathered with those of its prompt.
struct Read<'a> {
    keys: Cow<'a, [f32]>,
    values: Cow<'a, [f32]>,
    count: usize,
}

/// The rows of `x (N, width)` that `segment` reads.
fn read<'a>(x: &'a [f32], width: usize, segment: &Segment) -> Cow<'a, [f32]> {
    let rows = |range: &Range<usize>| &x[range.start * width..range.end * width];
    match segment.prefix.is_empty() {
        true => Cow::Borrowed(rows(&segment.own)),
        false => Cow::Owned([rows(&segment.prefix), rows(&segment.own)].concat()),
    }
}

impl<'a> Read<'a> {
    fn new(config: &DecoderConfig, segment: &Segment, [key, value]: [&'a [f32]; 2]) -> Self {
        Self {
            keys: read(key, config.kv_width(), segment),
            values: read(value, config.kv_width(), segment),
            count: segment.prefix.len() + segment.own.len(),
        }
    }

    /// Head `head` of the segment's queries.
    fn head<'h>(
        &'h self,
        config: &DecoderConfig,
        attention: Attention,
        head: usize,
        segment: &Segment,
        query: &'h [f32],
    ) -> Head<'h> {
        let (column, kv_column) = head_columns(config, head);
        let (dim, query_width, kv_width) = (config.head_dim, config.query_width(), config.kv_width());
        let at = segment.own.start * query_width + column;
        Head {
            queries: Mat::strided(&query[at..], segment.own.len(), dim, query_width),
            keys: Mat::strided(&self.keys[kv_column..], self.count, dim, kv_width),
            values: Mat::strided(&self.values[kv_column..], self.count, dim, kv_width),
            attention,
        }
    }
}

/// Causal attention within each segment, and to its prompt where that stands elsewhere.
pub fn attend_packed(
    config: &DecoderConfig,
    attention: Attention,
    segments: &[Segment],
    [query, key, value]: [&[f32]; 3],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let (dim, width) = (config.head_dim, config.query_width());
    for segment in segments {
        let read = Read::new(config, segment, [key, value]);
        for head in 0..config.heads {
            let at = segment.own.start * width + head_columns(config, head).0;
            let out = MatMut::strided(&mut out[at..], segment.own.len(), dim, width);
            read.head(config, attention, head, segment, query)
                .attend(&mut scratch.scores, out);
        }
    }
}

/// Backward of [`attend_packed`] for the output gradient `dout`: the gradients of queries, keys and values.
pub fn attend_packed_backward(
    config: &DecoderConfig,
    attention: Attention,
    segments: &[Segment],
    tensors: [&[f32]; 3],
    dout: &[f32],
) -> [Vec<f32>; 3] {
    let (query_width, kv_width, dim) = (config.query_width(), config.kv_width(), config.head_dim);
    let [query, key, value] = tensors;
    let [mut dquery, mut dkey, mut dvalue] = tensors.map(|tensor| vec![0.0; tensor.len()]);
    let mut scratch = AttentionScratch::default();
    for segment in segments {
        let read = Read::new(config, segment, [key, value]);
        let mut dread = [(); 2].map(|()| vec![0.0; read.count * kv_width]);
        for head in 0..config.heads {
            let (column, kv_column) = head_columns(config, head);
            let at = segment.own.start * query_width + column;
            let [dkeys, dvalues] = &mut dread;
            read.head(config, attention, head, segment, query).attend_backward(
                &mut scratch,
                Mat::strided(&dout[at..], segment.own.len(), dim, query_width),
                MatMut::strided(&mut dquery[at..], segment.own.len(), dim, query_width),
                MatMut::strided(&mut dkeys[kv_column..], read.count, dim, kv_width),
                MatMut::strided(&mut dvalues[kv_column..], read.count, dim, kv_width),
            );
        }
        for (all, dread) in [&mut dkey, &mut dvalue].into_iter().zip(&dread) {
            let (of_prompt, of_own) = dread.split_at(segment.prefix.len() * kv_width);
            kernels::add(
                &mut all[segment.prefix.start * kv_width..][..of_prompt.len()],
                of_prompt,
            );
            kernels::add(&mut all[segment.own.start * kv_width..][..of_own.len()], of_own);
        }
    }
    [dquery, dkey, dvalue]
}
