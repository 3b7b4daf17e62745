//! The inner loops of the decoder on the CPU, over plain `f32` slices.
//!
//! Each loop is written once, in safe Rust, and compiled for every instruction set by `pulp`, which
//! picks the best at run time. Row-major everywhere. The only unsafe code is the call into `gemm`,
//! behind bounds checks, in [`matrix`]. Nothing here knows of layers or models.

mod matrix;

use std::sync::LazyLock;

use crate::model::config::Activation;

pub use matrix::{Mat, MatMut, Write, matmul, matmul_by};

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Evaluates an expression compiled for the best instruction set of this machine. A macro, for a closure
/// that the optimiser does not happen to inline is compiled apart, without the vector instructions.
macro_rules! simd {
    ($body:expr) => {
        $crate::model::cpu::kernels::vectorised(
            #[inline(always)]
            || $body,
        )
    };
}
pub(super) use simd;

/// Runs `f`, written for vectors of any width, on the widest of this machine.
pub(super) fn vectorised<F: pulp::WithSimd>(f: F) -> F::Output {
    ARCH.dispatch(f)
}

/// What the order of sums follows besides the model: the kind of processor, and the vectors that it has.
pub fn arithmetic() -> String {
    let vectors = format!("{:?}", *ARCH);
    let vectors = vectors.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let pairs = if super::halves::has_pairs() {
        " with bf16 pairs"
    } else {
        ""
    };
    format!("{} {vectors}{pairs}", std::env::consts::ARCH)
}

/// `exp(x)` to about 2e-7 relative, without a branch, so that loops over it vectorise.
/// Arguments below -87 give about 1e-38 and above 88 about 1e38.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Round x / ln 2 to an integer by the addition of 1.5 * 2^23, then a polynomial on the rest.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let k = shifted - 12_582_912.0;
    let r = x - k * 0.693_145_75 - k * 1.428_606_8e-6;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (0.166_666_55 + r * (0.041_665_795 + r * (8.333_45e-3 + r * 1.388_9e-3)))));
    // The integer stands in the sum's low bits; `k as i32` would saturate, which does not vectorise.
    let exponent = shifted
        .to_bits()
        .wrapping_sub(12_582_912f32.to_bits())
        .wrapping_add(127);
    f32::from_bits(exponent << 23) * p
}

/// `tanh(x)` to about 2e-7 relative, without a branch. Near 0 the odd polynomial of Cephes' `tanhf`
/// (Moshier 1992), where the quotient of exponentials would lose digits.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -0.333_332_8 + z * (0.133_314_42 + z * (-0.053_739_715 + z * (0.020_639_09 - z * 5.704_988_7e-3)));
    let near = x + x * z * p;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

const LANES: usize = 32;

/// `a · b`.
#[inline(always)]
pub(super) fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
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
    simd!(a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
}

/// `a += factor · b`.
pub fn add_scaled(a: &mut [f32], b: &[f32], factor: f32) {
    simd!(a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b));
}

/// Adds `bias (D)` to every row of `x (N, D)`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    simd!({
        for row in x.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
}

/// Adds every row of `grad (N, D)` to `out (D)`: the gradient of a bias.
pub fn add_rows(out: &mut [f32], grad: &[f32]) {
    simd!({
        for row in grad.chunks_exact(out.len()) {
            out.iter_mut().zip(row).for_each(|(o, g)| *o += g);
        }
    });
}

/// What an RMSNorm adds: `eps` to the mean square, `offset` to the weights (1 in Gemma, else 0).
#[derive(Debug, Clone, Copy)]
pub struct NormConstants {
    pub eps: f32,
    pub offset: f32,
}

/// RMSNorm (Zhang and Sennrich 2019): `y = x / sqrt(mean(x²) + eps) · (offset + weight)`, over rows of
/// `x (N, D)`.
pub fn rms_norm(x: &[f32], weight: &[f32], NormConstants { eps, offset }: NormConstants, y: &mut [f32]) {
    let width = weight.len();
    simd!({
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * (offset + w);
            }
        }
    });
}

/// Backward of [`rms_norm`] for the output gradient `dy`: adds to `dx (N, D)` and `dweight (D)`.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    NormConstants { eps, offset }: NormConstants,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    let width = weight.len();
    simd!({
        for ((x, dy), dx) in x
            .chunks_exact(width)
            .zip(dy.chunks_exact(width))
            .zip(dx.chunks_exact_mut(width))
        {
            let scale = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            let mut projection = 0.0;
            for i in 0..width {
                projection += dy[i] * (offset + weight[i]) * x[i];
                dweight[i] += dy[i] * x[i] * scale;
            }
            let correction = projection * scale * scale * scale / width as f32;
            for i in 0..width {
                dx[i] += dy[i] * (offset + weight[i]) * scale - x[i] * correction;
            }
        }
    });
}

/// The argument `h(x)` of the sigmoid in `x · sigmoid(h(x))`, and its derivative: SiLU, and GELU's tanh
/// approximation through `(1 + tanh(u)) / 2 = sigmoid(2u)`.
#[inline(always)]
fn silu_argument(x: f32) -> (f32, f32) {
    (x, 1.0)
}

#[inline(always)]
fn gelu_argument(x: f32) -> (f32, f32) {
    /// `2 · sqrt(2 / π)`.
    const TWO_ROOT: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    let square = CUBIC * x * x;
    (TWO_ROOT * x * (1.0 + square), TWO_ROOT * (1.0 + 3.0 * square))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// SwiGLU and GeGLU (Shazeer 2020): `gate = activation(gate) · up`.
pub fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => simd!({
            for (g, u) in gate.iter_mut().zip(up) {
                *g = *g / (1.0 + exp(-*g)) * u;
            }
        }),
        Activation::GeluTanh => simd!({
            for (g, u) in gate.iter_mut().zip(up) {
                *g = *g * sigmoid(gelu_argument(*g).0) * u;
            }
        }),
    }
}

/// Backward of [`gated`]: turns `gate` and `up` into their own gradients.
pub fn gated_backward(activation: Activation, gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
    match activation {
        Activation::Silu => gated_backward_by(silu_argument, gate, up, dout),
        Activation::GeluTanh => gated_backward_by(gelu_argument, gate, up, dout),
    }
}

#[inline(always)]
fn gated_backward_by(argument: impl Fn(f32) -> (f32, f32), gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
    simd!({
        for ((gate, up), d) in gate.iter_mut().zip(up.iter_mut()).zip(dout) {
            let (h, slope) = argument(*gate);
            let sigmoid = sigmoid(h);
            let activated = *gate * sigmoid;
            let dgate = d * *up * (sigmoid + activated * (1.0 - sigmoid) * slope);
            *up = d * activated;
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
/// `x (N, heads · head_dim)`. `angles` gives the cosines and sines `(rotated / 2)` of a position; of each
/// head the first `rotated` numbers turn.
pub fn rope<'a>(
    x: &mut [f32],
    head_dim: usize,
    width: usize,
    positions: &[u32],
    angles: impl Fn(u32) -> (&'a [f32], &'a [f32]),
    rotation: Rotation,
) {
    let sign = if rotation == Rotation::Forward { 1.0 } else { -1.0 };
    simd!({
        for (row, position) in x.chunks_exact_mut(width).zip(positions) {
            let (cos, sin) = angles(*position);
            let half = cos.len();
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (x, y) = (a[i], b[i]);
                    a[i] = x * cos[i] - sign * y * sin[i];
                    b[i] = y * cos[i] + sign * x * sin[i];
                }
            }
        }
    });
}

/// Softmax of `row · scale`, in place.
#[inline(always)]
pub(super) fn softmax_row(row: &mut [f32], scale: f32) {
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

/// `x = cap · tanh(x · scale / cap)`: the soft-cap of scores and logits (Gemma 2).
pub fn softcap(x: &mut [f32], scale: f32, cap: f32) {
    simd!(x.iter_mut().for_each(|x| *x = cap * tanh(*x * scale / cap)));
}

/// Turns the gradient `dy` of capped numbers `y` into that of the scaled numbers before [`softcap`].
pub fn softcap_backward(y: &[f32], cap: f32, dy: &mut [f32]) {
    simd!({
        for (d, y) in dy.iter_mut().zip(y) {
            let tanh = y / cap;
            *d *= 1.0 - tanh * tanh;
        }
    });
}

/// `log Σ exp(x)`.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    simd!({
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

/// What a row of logits says of its distribution.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub max: f32,
    /// [`log_sum_exp`], to the bit.
    pub log_sum: f32,
    /// `-Σ p log p`, in nats.
    pub entropy: f32,
}

/// The summary of a row, in the two passes that [`log_sum_exp`] takes.
pub fn summary(x: &[f32]) -> Summary {
    simd!({
        let max = max_lanes(x);
        let (mut sums, mut moments) = ([0f32; LANES], [0f32; LANES]);
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        let tail: f32 = rest.iter().map(|x| exp(x - max)).sum();
        let tail_moment: f32 = rest.iter().map(|x| (x - max) * exp(x - max)).sum();
        for chunk in chunks {
            for i in 0..LANES {
                let (below, weight) = (chunk[i] - max, exp(chunk[i] - max));
                sums[i] += weight;
                moments[i] += below * weight;
            }
        }
        let sum = sums.iter().sum::<f32>() + tail;
        let moment = moments.iter().sum::<f32>() + tail_moment;
        Summary {
            max,
            log_sum: max + sum.ln(),
            entropy: sum.ln() - moment / sum,
        }
    })
}

/// The index of the largest, the first of equals.
pub fn argmax(x: &[f32]) -> usize {
    simd!({
        let max = max_lanes(x);
        x.iter().position(|value| *value == max).unwrap_or(0)
    })
}

/// Turns a row of logits into `-weight · softmax`, given its [`log_sum_exp`].
pub fn negative_softmax(logits: &mut [f32], log_sum: f32, weight: f32) {
    simd!(logits.iter_mut().for_each(|x| *x = -weight * exp(*x - log_sum)));
}

/// Turns a row of logits into probabilities at `temperature`, in place.
pub fn softmax(logits: &mut [f32], temperature: f32) {
    simd!(softmax_row(logits, 1.0 / temperature));
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    simd!(x.iter_mut().for_each(|x| *x *= factor));
}

/// `Σ x²`, in blocks whose sums are added in double precision.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    simd!(x.chunks(4096).map(|block| f64::from(dot_lanes(block, block))).sum())
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
    simd!({
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((value, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            *m = c.beta1 * *m + (1.0 - c.beta1) * g;
            *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
            let denominator = (*v / c.correction2).sqrt() + c.epsilon;
            *value = *value * c.keep - c.rate * (*m / c.correction1) / denominator;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Mat, MatMut, Write, log_sum_exp, matmul_by, summary, tanh};
    use crate::model::cpu::mixed;
    use crate::model::decoder::normal;
    use crate::seed::Seed;

    /// Catches: an inner sum that is cut between threads, so that training gives other bits on another machine.
    #[test]
    fn threads_change_no_bit_of_a_product() {
        let (rows, inner, cols) = (301, 1027, 419);
        let lhs = normal(rows * inner, 1.0, Seed::new(1));
        let rhs = normal(inner * cols, 1.0, Seed::new(2));
        let product = |threads: usize, halves: bool| {
            let mut out = vec![0.0; rows * cols];
            let dst = MatMut::new(&mut out, rows, cols);
            let (lhs, rhs) = (Mat::new(&lhs, rows, inner), Mat::new(&rhs, inner, cols));
            match halves {
                true => mixed::matmul(dst, lhs, rhs, Write::Overwrite, threads),
                false => matmul_by(dst, lhs, rhs, Write::Overwrite, threads),
            }
            out
        };
        for halves in [false, true] {
            let alone = product(1, halves);
            for threads in [2, 3, 8] {
                assert!(alone == product(threads, halves), "{threads} threads, bf16 {halves}");
            }
        }
    }

    /// Catches: a denominator that changes by a bit where the entropy is asked for too; an entropy with the wrong sign, in
    /// bits, or of the vectors' whole part alone; logits far from 0 and from each other.
    #[test]
    fn a_summary_is_the_log_sum_and_the_entropy() {
        for (count, spread, shift) in [
            (1, 1.0, 0.0),
            (31, 3.0, 0.0),
            (64, 0.1, -100.0),
            (1000, 2.0, 100.0),
            (77, 60.0, 0.0),
        ] {
            let mut logits = normal(count, spread, Seed::new(5).index(count as u64));
            logits.iter_mut().for_each(|x| *x += shift);
            let found = summary(&logits);
            assert_eq!(found.log_sum.to_bits(), log_sum_exp(&logits).to_bits(), "{count}");
            assert_eq!(found.max, logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let max = f64::from(found.max);
            let weights: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let entropy: f64 = weights
                .iter()
                .map(|w| w / sum)
                .filter(|p| *p > 0.0)
                .map(|p| -p * p.ln())
                .sum();
            let error = (f64::from(found.entropy) - entropy).abs();
            assert!(
                error <= 3e-6 * entropy.max(1.0),
                "{count}: {} for {entropy}",
                found.entropy
            );
        }
    }

    /// Catches: a tanh that loses digits near 0 or where its two forms meet, or overflows.
    #[test]
    fn tanh_is_exact_to_rounding() {
        let mut x = 1e-6f32;
        while x < 200.0 {
            for x in [x, -x] {
                let exact = f64::from(x).tanh();
                let error = (f64::from(tanh(x)) - exact) / exact;
                assert!(error.abs() <= 4e-7, "tanh({x}) is off by {error:.1e}");
            }
            x *= 1.001;
        }
    }
}
