//! The inner loops of the decoder on the CPU, over plain `f32` slices.
//!
//! Each loop is written once, in safe Rust, and compiled for every instruction set by `pulp`, which
//! picks the best at run time. Row-major everywhere. The only unsafe code is the call into `gemm`,
//! behind bounds checks. Nothing here knows of layers or models.

use std::sync::LazyLock;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f` compiled for the best instruction set of this machine.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// Runs `f`, written for vectors of any width, on the widest of this machine.
pub fn vectorised<F: pulp::WithSimd>(f: F) -> F::Output {
    ARCH.dispatch(f)
}

/// A view of a matrix inside a slice: element `(i, j)` is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A dense `(rows, cols)` matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A `(rows, cols)` matrix whose rows begin `row_stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix view exceeds its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// The writable counterpart of [`Mat`], rows contiguous.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix view exceeds its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (row_stride >= cols && (rows - 1) * row_stride + cols <= len)
}

/// What happens to the old content of a product's destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Overwrite,
    Accumulate,
}

/// `dst = lhs · rhs` or `dst += lhs · rhs`.
pub fn matmul(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write) {
    assert_eq!(
        (dst.rows, dst.cols, lhs.cols),
        (lhs.rows, rhs.cols, rhs.rows),
        "matmul shapes"
    );
    #[expect(unsafe_code, reason = "the SIMD kernels of gemm take pointers")]
    // SAFETY: the constructors of `Mat` and `MatMut` checked that every element addressed by
    // (rows, cols, strides) lies inside its slice, `t()` keeps the set of addressed elements, and
    // `dst` is borrowed exclusively, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            lhs.cols,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            write == Write::Accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `exp(x)` to about 2e-7 relative, without a branch, so that loops over it vectorise.
/// Arguments below -87 give about 1e-38 and above 88 about 1e38.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Round x / ln 2 to an integer by the addition of 1.5 * 2^23, then a polynomial on the rest.
    let k = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - k * 0.693_145_75 - k * 1.428_606_8e-6;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (0.166_666_55 + r * (0.041_665_795 + r * (8.333_45e-3 + r * 1.388_9e-3)))));
    f32::from_bits(((k as i32 + 127) << 23) as u32) * p
}

const LANES: usize = 32;

#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `a += b`.
pub fn add(a: &mut [f32], b: &[f32]) {
    simd(|| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
}

/// Adds `bias (D)` to every row of `x (N, D)`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    simd(|| {
        for row in x.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
}

/// Adds every row of `grad (N, D)` to `out (D)`: the gradient of a bias.
pub fn add_rows(out: &mut [f32], grad: &[f32]) {
    simd(|| {
        for row in grad.chunks_exact(out.len()) {
            out.iter_mut().zip(row).for_each(|(o, g)| *o += g);
        }
    });
}

/// RMSNorm (Zhang and Sennrich 2019): `y = x / sqrt(mean(x²) + eps) · weight`, over rows of `x (N, D)`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    simd(|| {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    });
}

/// Backward of [`rms_norm`] for the output gradient `dy`: adds to `dx (N, D)` and `dweight (D)`.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    let width = weight.len();
    simd(|| {
        for ((x, dy), dx) in x
            .chunks_exact(width)
            .zip(dy.chunks_exact(width))
            .zip(dx.chunks_exact_mut(width))
        {
            let scale = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            let mut projection = 0.0;
            for i in 0..width {
                projection += dy[i] * weight[i] * x[i];
                dweight[i] += dy[i] * x[i] * scale;
            }
            let correction = projection * scale * scale * scale / width as f32;
            for i in 0..width {
                dx[i] += dy[i] * weight[i] * scale - x[i] * correction;
            }
        }
    });
}

/// SwiGLU (Shazeer 2020): `out = silu(gate) · up`.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    simd(|| {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    });
}

/// Backward of [`swiglu`]: turns `gate` and `up` into their own gradients.
pub fn swiglu_backward(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
    simd(|| {
        for ((gate, up), d) in gate.iter_mut().zip(up.iter_mut()).zip(dout) {
            let sigmoid = 1.0 / (1.0 + exp(-*gate));
            let silu = *gate * sigmoid;
            let dgate = d * *up * (sigmoid + silu * (1.0 - sigmoid));
            *up = d * silu;
            *gate = dgate;
        }
    });
}

/// The direction of a rotation: forward, or back for gradients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    Forward,
    Back,
}

/// Rotary position embedding in the half-split layout of Hugging Face checkpoints, in place, over
/// `x (N, heads · head_dim)`; `cos` and `sin` are `(positions, head_dim / 2)`.
pub fn rope(
    x: &mut [f32],
    head_dim: usize,
    width: usize,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    rotation: Rotation,
) {
    let half = head_dim / 2;
    let sign = if rotation == Rotation::Forward { 1.0 } else { -1.0 };
    simd(|| {
        for (row, position) in x.chunks_exact_mut(width).zip(positions) {
            let table = *position as usize * half..(*position as usize + 1) * half;
            let (cos, sin) = (&cos[table.clone()], &sin[table]);
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = head.split_at_mut(half);
                for i in 0..half {
                    let (x, y) = (a[i], b[i]);
                    a[i] = x * cos[i] - sign * y * sin[i];
                    b[i] = y * cos[i] + sign * x * sin[i];
                }
            }
        }
    });
}

/// Causal softmax of `scores (queries, keys)` in place, after scaling: query `i` sees the keys up to
/// `offset + i`; the others get probability 0.
fn softmax_causal(scores: &mut [f32], keys: usize, offset: usize, scale: f32) {
    simd(|| {
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, unseen) = row.split_at_mut(offset + i + 1);
            softmax_row(seen, scale);
            unseen.fill(0.0);
        }
    });
}

/// Softmax of `row` times `scale`, in place.
#[inline(always)]
pub fn softmax_row(row: &mut [f32], scale: f32) {
    let max = max_lanes(row);
    for x in row.iter_mut() {
        *x = exp((*x - max) * scale);
    }
    let norm = 1.0 / sum_lanes(row);
    row.iter_mut().for_each(|x| *x *= norm);
}

#[inline(always)]
fn sum_lanes(row: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[inline(always)]
fn max_lanes(row: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for i in 0..LANES {
            maxima[i] = if chunk[i] > maxima[i] { chunk[i] } else { maxima[i] };
        }
    }
    maxima.iter().copied().fold(tail, f32::max)
}

/// One head of one sequence: `keys` and `values` are `(keys, head_dim)` views, the queries the last
/// `n` positions of them.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub queries: Mat<'a>,
    pub keys: Mat<'a>,
    pub values: Mat<'a>,
}

impl Head<'_> {
    fn offset(&self) -> usize {
        self.keys.rows - self.queries.rows
    }

    fn scale(&self) -> f32 {
        1.0 / (self.queries.cols as f32).sqrt()
    }

    /// Attention probabilities `(queries, keys)` into `scores`.
    fn probabilities<'s>(&self, scores: &'s mut Vec<f32>) -> &'s mut [f32] {
        let (queries, keys) = (self.queries.rows, self.keys.rows);
        scores.resize(queries * keys, 0.0);
        matmul(
            MatMut::new(scores, queries, keys),
            self.queries,
            self.keys.t(),
            Write::Overwrite,
        );
        softmax_causal(scores, keys, self.offset(), self.scale());
        scores
    }

    /// Causal attention into `out (queries, head_dim)`; `scores` is scratch.
    pub fn attend(&self, scores: &mut Vec<f32>, out: MatMut<'_>) {
        if self.queries.rows == 1 {
            return self.attend_one(scores, out);
        }
        let (queries, keys) = (self.queries.rows, self.keys.rows);
        let probabilities = self.probabilities(scores);
        matmul(
            out,
            Mat::new(probabilities, queries, keys),
            self.values,
            Write::Overwrite,
        );
    }

    /// The decoding step: one query, for which packing matrices would cost more than the product.
    fn attend_one(&self, scores: &mut Vec<f32>, out: MatMut<'_>) {
        let (keys, dim) = (self.keys.rows, self.queries.cols);
        scores.resize(keys, 0.0);
        simd(|| {
            let query = &self.queries.data[..dim];
            for (j, score) in scores.iter_mut().enumerate() {
                *score = dot_lanes(query, &self.keys.data[j * self.keys.row_stride..][..dim]);
            }
            softmax_row(scores, self.scale());
            let out = &mut out.data[..dim];
            out.fill(0.0);
            for (j, p) in scores.iter().enumerate() {
                let value = &self.values.data[j * self.values.row_stride..][..dim];
                out.iter_mut().zip(value).for_each(|(o, v)| *o += p * v);
            }
        });
    }

    /// Backward of [`attend`](Self::attend) over a whole sequence, for the output gradient `dout`:
    /// overwrites `dqueries`, adds to `dkeys` and `dvalues` (several query heads may share them).
    pub fn attend_backward(
        &self,
        scratch: &mut AttentionScratch,
        dout: Mat<'_>,
        dqueries: MatMut<'_>,
        dkeys: MatMut<'_>,
        dvalues: MatMut<'_>,
    ) {
        let (queries, keys) = (self.queries.rows, self.keys.rows);
        let probabilities = self.probabilities(&mut scratch.scores);
        matmul(
            dvalues,
            Mat::new(probabilities, queries, keys).t(),
            dout,
            Write::Accumulate,
        );
        let dscores = &mut scratch.dscores;
        dscores.resize(queries * keys, 0.0);
        matmul(
            MatMut::new(dscores, queries, keys),
            dout,
            self.values.t(),
            Write::Overwrite,
        );
        let scale = self.scale();
        simd(|| {
            for (p, d) in probabilities.chunks_exact(keys).zip(dscores.chunks_exact_mut(keys)) {
                let mean = dot_lanes(p, d);
                d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean) * scale);
            }
        });
        let dscores = Mat::new(dscores, queries, keys);
        matmul(dqueries, dscores, self.keys, Write::Overwrite);
        matmul(dkeys, dscores.t(), self.queries, Write::Accumulate);
    }
}

/// Buffers reused from head to head.
#[derive(Default)]
pub struct AttentionScratch {
    pub scores: Vec<f32>,
    dscores: Vec<f32>,
}

/// `log Σ exp(x)`.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    simd(|| {
        let max = max_lanes(x);
        let mut sums = [0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let tail: f32 = chunks.remainder().iter().map(|x| exp(x - max)).sum();
        for chunk in chunks {
            for i in 0..LANES {
                sums[i] += exp(chunk[i] - max);
            }
        }
        max + (sums.iter().sum::<f32>() + tail).ln()
    })
}

/// The index of the largest, the first of equals.
pub fn argmax(x: &[f32]) -> usize {
    simd(|| {
        let max = max_lanes(x);
        x.iter().position(|value| *value == max).unwrap_or(0)
    })
}

/// Turns a row of logits into `-weight · softmax`, given its [`log_sum_exp`].
pub fn negative_softmax(logits: &mut [f32], log_sum: f32, weight: f32) {
    simd(|| logits.iter_mut().for_each(|x| *x = -weight * exp(*x - log_sum)));
}

/// Turns a row of logits into probabilities at `temperature`, in place.
pub fn softmax(logits: &mut [f32], temperature: f32) {
    simd(|| softmax_row(logits, 1.0 / temperature));
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    simd(|| x.iter_mut().for_each(|x| *x *= factor));
}

/// `Σ x²`, in blocks whose sums are added in double precision.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    simd(|| x.chunks(4096).map(|block| f64::from(dot_lanes(block, block))).sum())
}

/// The constants of one AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    pub rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// What weight decay leaves of a parameter.
    pub keep: f32,
    /// `1 - beta^step`.
    pub correction1: f32,
    pub correction2: f32,
}

/// One AdamW step over a parameter and its moments, all of one length.
pub fn adamw(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], c: AdamStep) {
    simd(|| {
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((value, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            *m = c.beta1 * *m + (1.0 - c.beta1) * g;
            *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
            let denominator = (*v / c.correction2).sqrt() + c.epsilon;
            *value = *value * c.keep - c.rate * (*m / c.correction1) / denominator;
        }
    });
}
