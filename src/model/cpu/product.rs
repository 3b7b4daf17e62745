//! The product of inference, `y = x · Wᵀ`, over weights of any stored type.
//!
//! Every element of `y` is one running sum over the inputs, in vector lanes that depend on the
//! machine alone: not on how many rows `x` has, on which of them stand together, or on which thread
//! computes the element. So a row gives the same bits alone and in any batch, and a prefix computed
//! for one row serves another. Weights are read once for up to eight rows, in a few long streams,
//! which is what a decoding step is bound by; for many rows the same loop runs near the peak of the
//! multipliers, without packing.

use pulp::{Simd, WithSimd};

use super::quantised::{self, Coding};
use super::{halves, pages, team};

/// The weights `(outputs, inputs)` of a linear map, row after row.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    F32(&'a [f32]),
    /// Two neighbouring inputs a word, the first in its low half: the bytes of bf16 numbers on a
    /// little-endian machine.
    Bf16(&'a [u32]),
    /// Anything that is decoded row by row.
    Coded(Coding, &'a [u8]),
}

impl<'a> Rows<'a> {
    /// Decodes row `index` of `out.len()` numbers.
    pub fn decode(&self, index: usize, out: &mut [f32]) {
        let inputs = out.len();
        match self {
            Self::F32(values) => out.copy_from_slice(&values[index * inputs..][..inputs]),
            Self::Bf16(pairs) => {
                let row = &pairs[index * inputs / 2..][..inputs / 2];
                for (pair, out) in row.iter().zip(out.chunks_exact_mut(2)) {
                    out[0] = f32::from_bits(pair << 16);
                    out[1] = f32::from_bits(pair & 0xffff_0000);
                }
            }
            Self::Coded(coding, bytes) => quantised::decode_row(*coding, bytes, index, out),
        }
    }
}

/// Rows of `x` that stay in the second-level cache while the weights pass by, in numbers.
const RESIDENT: usize = 128 * 1024;

/// Products of fewer multiplications are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 20;

/// `y = x · Wᵀ` for each of `weights`, on up to `threads` threads: `x (N, inputs)`, `ys` as many
/// `(N, outputs)`. `then` gets what a thread computed, the same columns of every row of each of `ys`.
pub fn products(
    x: &[f32],
    inputs: usize,
    weights: &[Rows<'_>],
    ys: &mut [Vec<f32>],
    threads: usize,
    then: impl Fn(&mut [Vec<&mut [f32]>]) + Sync,
) {
    let rows = x.len() / inputs;
    if rows == 0 {
        return;
    }
    let halved = weights.iter().any(|weights| matches!(weights, Rows::Bf16(_)));
    let x = Operand {
        values: x,
        pairs: if halved { halves::pairs(x) } else { Vec::new() },
        inputs,
    };
    let widths: Vec<usize> = ys.iter().map(|y| y.len() / rows).collect();
    let parts = if rows * inputs * widths.iter().sum::<usize>() < WORTH_A_THREAD {
        1
    } else {
        threads
    };
    // Part p of every row of every y.
    let mut shares: Vec<Vec<Vec<&mut [f32]>>> = (0..parts).map(|_| Vec::with_capacity(ys.len())).collect();
    for (y, width) in ys.iter_mut().zip(widths.iter().copied()) {
        let mut columns: Vec<Vec<&mut [f32]>> = (0..parts).map(|_| Vec::with_capacity(rows)).collect();
        for mut row in y.chunks_exact_mut(width) {
            for (part, columns) in columns.iter_mut().enumerate() {
                let (mine, rest) = row.split_at_mut(border(width, part + 1, parts) - border(width, part, parts));
                columns.push(mine);
                row = rest;
            }
        }
        shares
            .iter_mut()
            .zip(columns)
            .for_each(|(share, columns)| share.push(columns));
    }
    let work = |(part, mut share): (usize, Vec<Vec<&mut [f32]>>)| {
        let mut scratch = Vec::new();
        for ((weights, y), width) in weights.iter().zip(&mut share).zip(&widths) {
            super::kernels::vectorised(Product {
                x: &x,
                weights: *weights,
                first: border(*width, part, parts),
                y,
                scratch: &mut scratch,
            });
        }
        then(&mut share);
    };
    match parts {
        1 => shares.into_iter().enumerate().for_each(work),
        _ => team::share(shares.into_iter().enumerate().collect(), work),
    }
}

/// Where part `part` of `width` columns begins.
fn border(width: usize, part: usize, parts: usize) -> usize {
    width * part / parts
}

/// `x (N, inputs)`, and the same in bf16 if some weights are.
struct Operand<'a> {
    values: &'a [f32],
    pairs: Vec<u32>,
    inputs: usize,
}

/// The outputs `first..first + width` of every row: `y` has one slice a row, each `width` long.
/// `scratch` is reused between calls.
struct Product<'a, 'y> {
    x: &'a Operand<'a>,
    weights: Rows<'a>,
    first: usize,
    y: &'a mut [&'y mut [f32]],
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let block = (RESIDENT / self.x.inputs).max(8);
        let (rows, width) = (self.y.len(), self.y.first().map_or(0, |row| row.len()));
        // Accumulators must fit the registers: 24 of 32, or 12 of 16.
        let columns = match rows {
            _ if S::REGISTER_COUNT < 32 => 2,
            7 | 8 => 3,
            _ => 4,
        };
        let mut pass = Pass {
            simd,
            product: self,
            stride: width / columns,
            staged: Vec::new(),
            pairs: halves::has_pairs(),
        };
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + block);
            match columns {
                2 => pass.columns::<2>(start, end),
                3 => pass.columns::<3>(start, end),
                _ => pass.columns::<4>(start, end),
            }
            // What is left when the columns do not divide.
            pass.stride = 1;
            for column in width / columns * columns..width {
                pass.column::<1>(start, end, column, 0);
                pass.flush::<1>(start, end, column, 1);
            }
            pass.stride = width / columns;
            start = end;
        }
    }
}

/// Columns that are staged before they are written: a cache line.
const STAGE: usize = 16;

/// One product under way.
struct Pass<'a, 'y, S> {
    simd: S,
    product: Product<'a, 'y>,
    /// How far apart the columns of a tile are: each then runs through the weights in one long
    /// stream, which the hardware's prefetcher follows.
    stride: usize,
    /// Results `(rows, C, STAGE)`. The rows of `y` are often a power of two apart: written one number at
    /// a time, they would push each other out of the cache.
    staged: Vec<f32>,
    /// Whether the processor multiplies pairs of bf16 numbers.
    pairs: bool,
}

impl<S: Simd> Pass<'_, '_, S> {
    #[inline(always)]
    fn columns<const C: usize>(&mut self, start: usize, end: usize) {
        for first in (0..self.stride).step_by(STAGE) {
            let count = STAGE.min(self.stride - first);
            for place in 0..count {
                self.column::<C>(start, end, first + place, place);
            }
            self.flush::<C>(start, end, first, count);
        }
    }

    /// All rows from `start` to `end` for `C` columns, `column` the first of them.
    #[inline(always)]
    fn column<const C: usize>(&mut self, start: usize, end: usize, column: usize, place: usize) {
        self.decode::<C>(column);
        self.staged.resize((end - start) * C * STAGE, 0.0);
        let most = if C == 3 { 8 } else { 6 };
        let mut row = start;
        while row < end {
            let count = most.min(end - row);
            let staged = row - start;
            // The first tile brings in the next column while it computes this one. Three rows compute too
            // little to cover the fetching, and the hardware's own prefetcher keeps up with them.
            match count {
                1 => self.tile::<1, C, false>(row, staged, column, place),
                2 => self.tile::<2, C, false>(row, staged, column, place),
                3 => self.tile::<3, C, false>(row, staged, column, place),
                4 => self.tile::<4, C, true>(row, staged, column, place),
                5 => self.tile::<5, C, true>(row, staged, column, place),
                7 => self.tile::<7, C, true>(row, staged, column, place),
                8 => self.tile::<8, C, true>(row, staged, column, place),
                _ if row == start => self.tile::<6, C, true>(row, staged, column, place),
                _ => self.tile::<6, C, false>(row, staged, column, place),
            }
            row += count;
        }
    }

    /// Writes `count` staged columns, `first` the first of each stream.
    #[inline(always)]
    fn flush<const C: usize>(&mut self, start: usize, end: usize, first: usize, count: usize) {
        let rows = self.product.y[start..end].iter_mut();
        for (y, staged) in rows.zip(self.staged.chunks_exact(C * STAGE)) {
            for (c, staged) in staged.chunks_exact(STAGE).enumerate() {
                y[first + c * self.stride..][..count].copy_from_slice(&staged[..count]);
            }
        }
    }

    /// Decodes the weights of `C` columns into the scratch, if they need it.
    #[inline(always)]
    fn decode<const C: usize>(&mut self, column: usize) {
        let (inputs, stride) = (self.product.x.inputs, self.stride);
        if let Rows::Coded(coding, bytes) = self.product.weights {
            self.product.scratch.resize(4 * inputs, 0.0);
            for (c, out) in self.product.scratch.chunks_exact_mut(inputs).take(C).enumerate() {
                quantised::decode_row_here(coding, bytes, self.product.first + column + c * stride, out);
            }
        }
    }

    #[inline(always)]
    fn tile<const R: usize, const C: usize, const AHEAD: bool>(
        &mut self,
        row: usize,
        staged: usize,
        column: usize,
        place: usize,
    ) {
        let sums = match self.product.weights {
            Rows::Bf16(pairs) => {
                let (x, w) = (
                    self.pairs_of::<R>(row),
                    self.weights_of::<u32, C>(pairs, self.product.x.inputs / 2, column),
                );
                if self.pairs {
                    halves::tile::<R, C, AHEAD>(x, w)
                } else {
                    halves::portable_tile(self.simd, x, w)
                }
            }
            Rows::F32(values) => {
                let w = self.weights_of(values, self.product.x.inputs, column);
                tile::<S, R, C, AHEAD>(self.simd, self.rows_of(row), w)
            }
            Rows::Coded(..) => {
                let inputs = self.product.x.inputs;
                let mut w: [&[f32]; C] = [&[]; C];
                for (c, w) in w.iter_mut().enumerate() {
                    *w = &self.product.scratch[c * inputs..][..inputs];
                }
                tile::<S, R, C, false>(self.simd, self.rows_of(row), w)
            }
        };
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                self.staged[((staged + r) * C + c) * STAGE + place] = *sum;
            }
        }
    }

    #[inline(always)]
    fn rows_of<const R: usize>(&self, row: usize) -> [&[f32]; R] {
        let Operand { values, inputs, .. } = self.product.x;
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, to) in rows.iter_mut().enumerate() {
            *to = &values[(row + r) * inputs..][..*inputs];
        }
        rows
    }

    #[inline(always)]
    fn pairs_of<const R: usize>(&self, row: usize) -> [&[u32]; R] {
        let Operand { pairs, inputs, .. } = self.product.x;
        let mut rows: [&[u32]; R] = [&[]; R];
        for (r, to) in rows.iter_mut().enumerate() {
            *to = &pairs[(row + r) * (inputs / 2)..][..inputs / 2];
        }
        rows
    }

    /// The weights of `C` columns, `length` words each, out of all.
    #[inline(always)]
    fn weights_of<'w, T, const C: usize>(&self, all: &'w [T], length: usize, column: usize) -> [&'w [T]; C] {
        let mut weights: [&[T]; C] = [&[]; C];
        for (c, to) in weights.iter_mut().enumerate() {
            *to = &all[(self.product.first + column + c * self.stride) * length..][..length];
        }
        weights
    }
}

// Explicit loops below: closures given to `map` or `from_fn` would be compiled without the vector
// instructions unless the optimiser happens to inline them.

#[inline(always)]
fn tile<S: Simd, const R: usize, const C: usize, const AHEAD: bool>(
    simd: S,
    x: [&[f32]; R],
    w: [&[f32]; C],
) -> [[f32; C]; R] {
    let inputs = x[0].len();
    let vectors = inputs / S::F32_LANES;
    let mut xs: [&[S::f32s]; R] = [&[]; R];
    for r in 0..R {
        xs[r] = &S::as_simd_f32s(x[r]).0[..vectors];
    }
    let mut ws: [&[S::f32s]; C] = [&[]; C];
    for c in 0..C {
        ws[c] = &S::as_simd_f32s(w[c]).0[..vectors];
    }
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    for i in 0..vectors {
        let mut weight = [simd.splat_f32s(0.0); C];
        for c in 0..C {
            weight[c] = ws[c][i];
            if AHEAD {
                pages::prefetch(ws[c].as_ptr().wrapping_add(i + vectors));
            }
        }
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = simd.mul_add_e_f32s(xs[r][i], weight[c], sums[r][c]);
            }
        }
    }
    if vectors * S::F32_LANES < inputs {
        for r in 0..R {
            let tail = simd.partial_load_f32s(&x[r][vectors * S::F32_LANES..]);
            for c in 0..C {
                let weight = simd.partial_load_f32s(&w[c][vectors * S::F32_LANES..]);
                sums[r][c] = simd.mul_add_e_f32s(tail, weight, sums[r][c]);
            }
        }
    }
    reduce(simd, sums)
}

#[inline(always)]
fn reduce<S: Simd, const R: usize, const C: usize>(simd: S, sums: [[S::f32s; C]; R]) -> [[f32; C]; R] {
    let mut out = [[0.0; C]; R];
    for r in 0..R {
        for c in 0..C {
            out[r][c] = simd.reduce_sum_f32s(sums[r][c]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::model::decoder::normal;
    use crate::seed::Seed;

    const SHAPES: [(usize, usize, usize); 6] = [
        (1, 64, 5),
        (3, 40, 17),
        (8, 130, 33),
        (13, 24, 4),
        (31, 96, 70),
        (200, 1600, 9),
    ];

    /// The stored forms of some weights, and the numbers that each stands for.
    fn stored(weights: &[f32]) -> Vec<(&'static str, Vec<u32>, Vec<f32>)> {
        let halves: Vec<bf16> = weights.iter().map(|w| bf16::from_f32(*w)).collect();
        let pairs = halves
            .chunks(2)
            .map(|pair| u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16)
            .collect();
        let exact = halves.iter().map(|w| w.to_f32()).collect();
        vec![("f32", Vec::new(), weights.to_vec()), ("bf16", pairs, exact)]
    }

    fn rows<'a>(kind: &str, pairs: &'a [u32], values: &'a [f32]) -> Rows<'a> {
        match kind {
            "bf16" => Rows::Bf16(pairs),
            _ => Rows::F32(values),
        }
    }

    fn product(x: &[f32], inputs: usize, weights: Rows<'_>, outputs: usize, threads: usize) -> Vec<f32> {
        let mut ys = [vec![0.0; x.len() / inputs * outputs]];
        products(x, inputs, &[weights], &mut ys, threads, |_| ());
        let [y] = ys;
        y
    }

    /// Catches: rows or columns left out or mixed up at the edges of tiles, blocks and threads; a wrong
    /// pairing of halves; a tail of inputs dropped.
    #[test]
    fn products_are_sums() {
        for (count, inputs, outputs) in SHAPES {
            let x = normal(count * inputs, 1.0, Seed::new(1));
            let weights = normal(outputs * inputs, 1.0, Seed::new(2));
            for (kind, pairs, values) in stored(&weights) {
                let y = product(&x, inputs, rows(kind, &pairs, &values), outputs, 3);
                // In bf16 both sides are rounded.
                let round = |x: &f32| {
                    if kind == "bf16" {
                        bf16::from_f32(*x).to_f32()
                    } else {
                        *x
                    }
                };
                let x: Vec<f32> = x.iter().map(round).collect();
                for (index, y) in y.iter().enumerate() {
                    let (row, column) = (&x[index / outputs * inputs..], &values[index % outputs * inputs..]);
                    let terms = row
                        .iter()
                        .zip(column)
                        .take(inputs)
                        .map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!(
                        (f64::from(*y) - sum).abs() <= 1e-6 * size,
                        "{kind} {count}x{inputs}x{outputs}"
                    );
                }
            }
        }
    }

    /// Catches: a sum whose order follows the batch or the threads, which would make a row's text depend
    /// on its company.
    #[test]
    fn a_row_gives_the_same_bits_in_any_batch() {
        for (count, inputs, outputs) in SHAPES {
            let x = normal(count * inputs, 1.0, Seed::new(3));
            let weights = normal(outputs * inputs, 1.0, Seed::new(4));
            for (kind, pairs, values) in stored(&weights) {
                let weights = rows(kind, &pairs, &values);
                let together = product(&x, inputs, weights, outputs, 1);
                assert_eq!(product(&x, inputs, weights, outputs, 3), together, "{kind}: threads");
                for start in [0, count / 2, count - 1] {
                    for end in start + 1..=count.min(start + 9) {
                        let part = product(&x[start * inputs..end * inputs], inputs, weights, outputs, 2);
                        assert_eq!(part, together[start * outputs..end * outputs], "{kind} {start}..{end}");
                    }
                }
            }
        }
    }

    /// Catches: a kernel that is right for the vectors of one machine only.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn instruction_sets_agree_within_rounding() {
        fn run<V: Copy>(version: V, run: impl Fn(V, Product<'_, '_>), values: &[f32], x: &Operand<'_>) -> Vec<f32> {
            let mut y = vec![0.0; 7 * 11];
            let mut rows: Vec<&mut [f32]> = y.chunks_mut(11).collect();
            run(
                version,
                Product {
                    x,
                    weights: Rows::F32(values),
                    first: 0,
                    y: &mut rows,
                    scratch: &mut Vec::new(),
                },
            );
            y
        }
        let (x, weights) = (normal(7 * 200, 1.0, Seed::new(5)), normal(11 * 200, 1.0, Seed::new(6)));
        let x = Operand {
            values: &x,
            pairs: Vec::new(),
            inputs: 200,
        };
        let portable = run(pulp::Scalar, |scalar, product| product.with_simd(scalar), &weights, &x);
        let close = |other: Vec<f32>| {
            let worst = portable
                .iter()
                .zip(&other)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-4, "{worst}");
        };
        if let Some(avx2) = pulp::x86::V3::try_new() {
            close(run(avx2, |simd, product| Simd::vectorize(simd, product), &weights, &x));
        }
        if let Some(avx512) = pulp::x86::V4::try_new() {
            close(run(
                avx512,
                |simd, product| Simd::vectorize(simd, product),
                &weights,
                &x,
            ));
        }
    }
}
