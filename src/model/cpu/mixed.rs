//! Products of training in mixed precision: operands rounded to bf16, sums in `f32`.
//!
//! The three products of a linear map (output, gradient of the input, gradient of the weights) read
//! their operands along different axes. So both are packed, and rounded while they are: panels of
//! neighbouring rows (columns) whose inner index goes in pairs, as AVX512-BF16 multiplies them. The
//! blocking is that of Goto and van de Geijn (2008). Weights and activations stay `f32`, which makes this
//! what torch calls autocast.
//!
//! Where that instruction is missing, or no faster than multiplying in `f32`, rounded copies go through the product of `f32`.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::halves::{has_pairs, round};
use super::kernels::{self, Mat, MatMut, Write, simd};

/// Rows and columns of a tile: 24 vectors of sums.
const TILE_ROWS: usize = 12;
const TILE_COLS: usize = 32;
/// Pairs of the inner index in a block, at most: a panel of columns stays in the first cache.
const DEPTH: usize = 320;
/// Rows in a block, which stays in the second cache, and columns in a block.
const BLOCK_ROWS: usize = 16 * TILE_ROWS;
const BLOCK_COLS: usize = 48 * TILE_COLS;

type Sums = [[f32; TILE_COLS]; TILE_ROWS];

/// Rows, columns and inner indices that are rounded at a time where products are those of `f32`.
const ROUNDED: usize = 1024;

/// How rounded operands are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By AVX512-BF16, two at a time.
    Pairs,
    /// As `f32`, after rounding.
    Copies,
}

/// The faster way of this machine. Intel's processors multiply pairs at half the rate of `f32` (an Emerald Rapids core: 82
/// GFLOP/s, 169 by FMA), AMD's at one and a half times it.
static WAY: LazyLock<Way> = LazyLock::new(|| match has_pairs() && !is_intel() {
    true => Way::Pairs,
    false => Way::Copies,
});

fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let id = std::arch::x86_64::__cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// `dst = lhs · rhs` or `dst += lhs · rhs`, of operands rounded to bf16, on up to `threads` threads.
pub fn matmul(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write, threads: usize) {
    assert_eq!(
        (dst.rows, dst.cols, lhs.cols),
        (lhs.rows, rhs.cols, rhs.rows),
        "matmul shapes"
    );
    by(*WAY, dst, lhs, rhs, write, threads);
}

fn by(way: Way, mut dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write, threads: usize) {
    if write == Write::Overwrite {
        dst.fill(0.0);
    }
    match way {
        Way::Pairs => add_by_pairs(dst, lhs, rhs, threads),
        Way::Copies => add_by_copies(dst, lhs, rhs, threads),
    }
}

fn add_by_pairs(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, threads: usize) {
    // Whole tiles for each thread: where they are cut does not change a sum.
    let share = dst.rows.div_ceil(threads.max(1)).next_multiple_of(TILE_ROWS);
    if threads < 2 || share >= dst.rows {
        return pairs_of_one_thread(dst, lhs, rhs);
    }
    let (cols, stride) = (dst.cols, dst.row_stride);
    let parts = dst.data.par_chunks_mut(share * stride).enumerate();
    parts.for_each(|(part, data)| {
        let first = part * share;
        if let Some(rows) = dst.rows.checked_sub(first).filter(|rows| *rows > 0) {
            let rows = rows.min(share);
            pairs_of_one_thread(MatMut::strided(data, rows, cols, stride), lhs.band(first, rows), rhs);
        }
    });
}

fn pairs_of_one_thread(mut dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    let (rows, cols) = (dst.rows, dst.cols);
    let pairs = lhs.cols.div_ceil(2);
    // Blocks of one depth: a thin last one would pay for a whole tile.
    let depth = pairs.div_ceil(pairs.div_ceil(DEPTH).max(1)).max(1);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for col in (0..cols).step_by(BLOCK_COLS) {
        let width = BLOCK_COLS.min(cols - col);
        for start in (0..pairs).step_by(depth) {
            let depth = depth.min(pairs - start);
            pack::<TILE_COLS>(rhs.t(), (col, width), (start, depth), &mut right);
            for row in (0..rows).step_by(BLOCK_ROWS) {
                let height = BLOCK_ROWS.min(rows - row);
                pack::<TILE_ROWS>(lhs, (row, height), (start, depth), &mut left);
                let block = Block {
                    left: &left,
                    right: &right,
                    depth,
                };
                block.add_to(dst.part((row, height), (col, width)));
            }
        }
    }
}

fn add_by_copies(mut dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, threads: usize) {
    let (rows, cols, inner) = (dst.rows, dst.cols, lhs.cols);
    let blocks = |count: usize| {
        let starts = (0..count).step_by(ROUNDED);
        starts.map(move |start| (start, ROUNDED.min(count - start)))
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for depth in blocks(inner) {
        for columns in blocks(cols) {
            let right = rounded(rhs, depth, columns, &mut right, threads);
            for band in blocks(rows) {
                let left = rounded(lhs, band, depth, &mut left, threads);
                kernels::matmul_by(dst.part(band, columns), left, right, Write::Accumulate, threads);
            }
        }
    }
}

/// Some rows and columns of `x` (where they begin, and how many) rounded to bf16, laid out as they are.
fn rounded<'b>(
    x: Mat<'_>,
    rows: (usize, usize),
    cols: (usize, usize),
    out: &'b mut Vec<f32>,
    threads: usize,
) -> Mat<'b> {
    if x.col_stride != 1 {
        return rounded(x.t(), cols, rows, out, threads).t();
    }
    out.resize(rows.1 * cols.1, 0.0);
    let line = |(row, out): (usize, &mut [f32])| {
        let values = &x.data[(rows.0 + row) * x.row_stride + cols.0..][..cols.1];
        simd!(for (out, value) in out.iter_mut().zip(values) {
            *out = f32::from_bits(round(*value) << 16);
        });
    };
    match threads {
        0 | 1 => out.chunks_exact_mut(cols.1).enumerate().for_each(line),
        _ => out.par_chunks_exact_mut(cols.1).enumerate().for_each(line),
    }
    Mat::new(out, rows.1, cols.1)
}

impl Mat<'_> {
    /// The rows from `first` on, `count` of them, whichever way the matrix is laid out.
    fn band(self, first: usize, count: usize) -> Self {
        Self {
            data: &self.data[first * self.row_stride..],
            rows: count,
            ..self
        }
    }
}

impl MatMut<'_> {
    fn fill(&mut self, value: f32) {
        for row in 0..self.rows {
            self.data[row * self.row_stride..][..self.cols].fill(value);
        }
    }

    /// `rows` rows and `cols` columns from a corner on.
    fn part(&mut self, (row, rows): (usize, usize), (col, cols): (usize, usize)) -> MatMut<'_> {
        MatMut::strided(
            &mut self.data[row * self.row_stride + col..],
            rows,
            cols,
            self.row_stride,
        )
    }
}

/// Packed panels of rows and of columns whose products belong to one part of the destination.
struct Block<'a> {
    left: &'a [u32],
    right: &'a [u32],
    depth: usize,
}

impl Block<'_> {
    /// Adds the products to `dst`.
    ///
    /// # Panics
    /// If the processor cannot (see [`has_pairs`]).
    #[cfg(target_arch = "x86_64")]
    fn add_to(&self, dst: MatMut<'_>) {
        assert!(has_pairs(), "this processor has no AVX512-BF16");
        #[expect(unsafe_code, reason = "a SIMD kernel")]
        // SAFETY: the processor has the features that the kernel is compiled for.
        unsafe {
            avx512::block(self, dst);
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn add_to(&self, _: MatMut<'_>) {
        unreachable!("`has_pairs` is false")
    }

    /// The same, tile by tile.
    #[inline(always)]
    fn add_tiles(&self, dst: MatMut<'_>, tile: impl Fn(&[u32], &[u32]) -> Sums) {
        for (column, right) in self.right.chunks_exact(self.depth * TILE_COLS).enumerate() {
            let col = column * TILE_COLS;
            let width = TILE_COLS.min(dst.cols - col);
            for (panel, left) in self.left.chunks_exact(self.depth * TILE_ROWS).enumerate() {
                let row = panel * TILE_ROWS;
                let sums = tile(left, right);
                let height = TILE_ROWS.min(dst.rows - row);
                for (index, sums) in sums.iter().enumerate().take(height) {
                    let out = &mut dst.data[(row + index) * dst.row_stride + col..][..width];
                    match <&mut [f32; TILE_COLS]>::try_from(&mut *out) {
                        Ok(out) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                        Err(_) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                    }
                }
            }
        }
    }
}

/// Packs rows `first..first + count` of `x`, of whose columns the pairs `start..start + depth`, into panels of
/// `W` rows: pair after pair, the `W` rows side by side. What is beyond the matrix is 0.
fn pack<const W: usize>(
    x: Mat<'_>,
    (first, count): (usize, usize),
    (start, depth): (usize, usize),
    out: &mut Vec<u32>,
) {
    let panels = count.div_ceil(W);
    out.resize(panels * depth * W, 0);
    for (panel, out) in out.chunks_exact_mut(depth * W).enumerate() {
        let row = first + panel * W;
        let rows = W.min(first + count - row);
        let columns = 2 * start..(2 * (start + depth)).min(x.cols);
        if rows < W || columns.len() < 2 * depth {
            out.fill(0);
        }
        if x.col_stride == 1 {
            pack_along_rows::<W>(x, row, rows, columns, out);
        } else {
            pack_across_rows::<W>(x, row, rows, columns, out);
        }
    }
}

/// Pairs that are turned at a time.
const TURNED: usize = 16;

/// Of a matrix whose rows are contiguous: rounded along them, then turned while they are in the registers' reach.
fn pack_along_rows<const W: usize>(
    x: Mat<'_>,
    row: usize,
    rows: usize,
    columns: std::ops::Range<usize>,
    out: &mut [u32],
) {
    simd!({
        let mut square = [[0u32; TURNED]; W];
        for (block, out) in out.chunks_mut(TURNED * W).enumerate() {
            let first = columns.start + 2 * TURNED * block;
            let last = columns.end.min(first + 2 * TURNED);
            for (index, line) in square.iter_mut().enumerate().take(rows) {
                let values = &x.data[(row + index) * x.row_stride..][first..last];
                match <&[f32; 2 * TURNED]>::try_from(values) {
                    Ok(values) => {
                        for i in 0..TURNED {
                            line[i] = round(values[2 * i]) | round(values[2 * i + 1]) << 16;
                        }
                    }
                    Err(_) => {
                        for (pair, out) in values.chunks(2).zip(line) {
                            *out = round(pair[0]) | pair.get(1).map_or(0, |high| round(*high) << 16);
                        }
                    }
                }
            }
            for (pair, out) in out.chunks_exact_mut(W).enumerate() {
                for index in 0..rows {
                    out[index] = square[index][pair];
                }
            }
        }
    });
}

/// Of a matrix whose columns are contiguous.
fn pack_across_rows<const W: usize>(
    x: Mat<'_>,
    row: usize,
    rows: usize,
    columns: std::ops::Range<usize>,
    out: &mut [u32],
) {
    let column = |index: usize| &x.data[index * x.col_stride + row * x.row_stride..][..rows];
    simd!({
        for (pair, out) in out.chunks_exact_mut(W).enumerate() {
            let low = columns.start + 2 * pair;
            if low + 1 < columns.end {
                let (low, high) = (column(low), column(low + 1));
                if let (Ok(low), Ok(high)) = (<&[f32; W]>::try_from(low), <&[f32; W]>::try_from(high)) {
                    for i in 0..W {
                        out[i] = round(low[i]) | round(high[i]) << 16;
                    }
                } else {
                    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                        *out = round(*low) | round(*high) << 16;
                    }
                }
            } else if low < columns.end {
                for (out, low) in out.iter_mut().zip(column(low)) {
                    *out = round(*low);
                }
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    use super::{Block, MatMut, Sums, TILE_COLS, TILE_ROWS};

    const LANES: usize = 16;
    const VECTORS: usize = TILE_COLS / LANES;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub fn block(block: &Block<'_>, dst: MatMut<'_>) {
        block.add_tiles(dst, |left, right| tile(left, right));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    pub fn tile(left: &[u32], right: &[u32]) -> Sums {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE_ROWS];
        let (lefts, rights) = (left.as_chunks::<TILE_ROWS>().0, right.as_chunks::<TILE_COLS>().0);
        for (left, right) in lefts.iter().zip(rights) {
            let columns = [load(right, 0), load(right, LANES)];
            for row in 0..TILE_ROWS {
                let pair = pairs(_mm512_set1_epi32(left[row].cast_signed()));
                for vector in 0..VECTORS {
                    sums[row][vector] = _mm512_dpbf16_ps(sums[row][vector], pair, pairs(columns[vector]));
                }
            }
        }
        let mut out = [[0.0; TILE_COLS]; TILE_ROWS];
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                store(out, sum);
            }
        }
        out
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load(words: &[u32; TILE_COLS], at: usize) -> __m512i {
        let words: &[u32] = &words[at..at + LANES];
        #[expect(unsafe_code, reason = "a SIMD load")]
        // SAFETY: the slice has the 64 bytes that are read, and the load needs no alignment.
        unsafe {
            _mm512_loadu_si512(words.as_ptr().cast())
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn store(out: &mut [f32; LANES], sums: __m512) {
        #[expect(unsafe_code, reason = "a SIMD store")]
        // SAFETY: the array has the 64 bytes that are written, and the store needs no alignment.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums);
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn pairs(words: __m512i) -> __m512bh {
        #[expect(unsafe_code, reason = "two vector types of one size")]
        // SAFETY: both types are 64 bytes for which every bit pattern is valid.
        unsafe {
            std::mem::transmute(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decoder::normal;
    use crate::seed::Seed;

    fn rounded(x: f32) -> f64 {
        f64::from(half::bf16::from_f32(x).to_f32())
    }

    /// Those that this processor has.
    fn ways() -> Vec<Way> {
        match has_pairs() {
            true => vec![Way::Copies, Way::Pairs],
            false => vec![Way::Copies],
        }
    }

    /// Catches: operands read along the wrong axis, an inner index of odd length, blocks that overlap or leave gaps,
    /// tiles that write beyond the matrix, an accumulation that overwrites.
    #[test]
    fn products_of_every_orientation_and_shape() {
        let shapes = [
            (1, 1, 1),
            (12, 32, 2),
            (13, 33, 7),
            (5, 70, 515),
            (200, 40, 64),
            (31, 1600, 9),
        ];
        for (rows, cols, inner) in shapes {
            let lhs = normal(rows * inner, 1.0, Seed::new(1));
            let rhs = normal(inner * cols, 1.0, Seed::new(2));
            // The same contents, laid out the other way.
            let turned = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
            };
            let (lhs_t, rhs_t) = (turned(&lhs, rows, inner), turned(&rhs, inner, cols));
            let before = normal(rows * cols, 1.0, Seed::new(3));
            for orientation in 0..4 {
                let left = match orientation & 1 {
                    0 => Mat::new(&lhs, rows, inner),
                    _ => Mat::new(&lhs_t, inner, rows).t(),
                };
                let right = match orientation & 2 {
                    0 => Mat::new(&rhs, inner, cols),
                    _ => Mat::new(&rhs_t, cols, inner).t(),
                };
                let writes = [(Write::Overwrite, 1), (Write::Accumulate, 1), (Write::Accumulate, 3)];
                for (way, (write, threads)) in ways().into_iter().flat_map(|way| writes.map(|write| (way, write))) {
                    let mut out = before.clone();
                    by(way, MatMut::new(&mut out, rows, cols), left, right, write, threads);
                    for (index, out) in out.iter().enumerate() {
                        let (row, col) = (index / cols, index % cols);
                        let mut exact: f64 = (0..inner)
                            .map(|k| rounded(lhs[row * inner + k]) * rounded(rhs[k * cols + col]))
                            .sum();
                        if write == Write::Accumulate {
                            exact += f64::from(before[index]);
                        }
                        let error = (f64::from(*out) - exact).abs();
                        assert!(
                            error <= 1e-6 * (inner as f64 + 4.0),
                            "{way:?} {rows}x{inner}x{cols} {orientation}: {error:.1e}"
                        );
                    }
                }
            }
        }
    }

    /// Catches: a kernel that pairs the wrong numbers, or drops a block: its safe twin is the way by copies.
    #[test]
    fn both_ways_agree() {
        if !has_pairs() {
            println!("skipped: this processor has no AVX512-BF16");
            return;
        }
        let (rows, cols) = (ROUNDED + 3, 2 * TILE_COLS + 1);
        for inner in [1, 2, 37, 2 * DEPTH + 5, ROUNDED + 1] {
            let lhs = normal(rows * inner, 1.0, Seed::new(4));
            let rhs = normal(inner * cols, 1.0, Seed::new(5));
            let [pairs, copies] = [Way::Pairs, Way::Copies].map(|way| {
                let mut out = vec![1.0; rows * cols];
                let (lhs, rhs) = (Mat::new(&lhs, rows, inner), Mat::new(&rhs, inner, cols));
                by(way, MatMut::new(&mut out, rows, cols), lhs, rhs, Write::Accumulate, 1);
                out
            });
            for (a, b) in pairs.iter().zip(&copies) {
                assert!((a - b).abs() <= 2e-6 * inner as f32, "{inner}: {a} and {b}");
            }
        }
    }
}
