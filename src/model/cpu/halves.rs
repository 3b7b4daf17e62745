//! Tiles of products in bf16: both sides rounded to bf16, sums in `f32`.
//!
//! Processors with AVX512-BF16 multiply two pairs at a time; the safe twin below computes the same on
//! any other, and on these for the test that compares them.

use pulp::Simd;

use super::kernels::simd;

/// Whether this processor multiplies pairs of bf16 numbers.
pub fn has_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Neighbouring numbers as pairs of bf16 numbers, the first in the low half. The length is even.
pub fn pairs(x: &[f32]) -> Vec<u32> {
    let mut out = vec![0; x.len() / 2];
    simd!({
        for (pair, out) in x.chunks_exact(2).zip(&mut out) {
            *out = round(pair[0]) | round(pair[1]) << 16;
        }
    });
    out
}

/// The bits of the bf16 number nearest to `x`, ties to even; written without a branch, so that loops
/// over it vectorise.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding could carry a NaN into an infinity.
    if x.is_nan() { bits >> 16 | 0x40 } else { nearest }
}

/// Products of `R` rows of pairs with `C` rows of pairs, all of one length; `AHEAD` begins to bring in
/// what follows the latter in memory.
///
/// # Panics
/// If the processor cannot (see [`has_pairs`]).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn tile<const R: usize, const C: usize, const AHEAD: bool>(x: [&[u32]; R], w: [&[u32]; C]) -> [[f32; C]; R] {
    assert!(has_pairs(), "this processor has no AVX512-BF16");
    #[expect(unsafe_code, reason = "a SIMD kernel")]
    // SAFETY: the processor has the features that the kernel is compiled for.
    unsafe {
        avx512::tile::<R, C, AHEAD>(x, w)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn tile<const R: usize, const C: usize, const AHEAD: bool>(_: [&[u32]; R], _: [&[u32]; C]) -> [[f32; C]; R] {
    unreachable!("`has_pairs` is false")
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm_add_ps, _mm256_add_ps, _mm256_castpd_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps512_ps256,
        _mm512_dpbf16_ps, _mm512_extractf64x4_pd, _mm512_loadu_si512, _mm512_setzero_ps, _mm512_setzero_si512,
        _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use crate::model::cpu::pages;

    const LANES: usize = 16;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    pub fn tile<const R: usize, const C: usize, const AHEAD: bool>(x: [&[u32]; R], w: [&[u32]; C]) -> [[f32; C]; R] {
        let vectors = w[0].len() / LANES;
        // Far enough ahead for the memory to answer in time: short rows are passed too quickly.
        let ahead = if vectors < 32 { 2 * vectors } else { vectors };
        let mut xs: [&[[u32; LANES]]; R] = [&[]; R];
        for r in 0..R {
            xs[r] = &x[r].as_chunks().0[..vectors];
        }
        let mut ws: [&[[u32; LANES]]; C] = [&[]; C];
        for c in 0..C {
            ws[c] = &w[c].as_chunks().0[..vectors];
        }
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for i in 0..vectors {
            let mut weights = [_mm512_setzero_si512(); C];
            for c in 0..C {
                weights[c] = load(&ws[c][i]);
                if AHEAD {
                    pages::prefetch(ws[c].as_ptr().wrapping_add(i + ahead));
                }
            }
            for r in 0..R {
                let row = pairs(load(&xs[r][i]));
                for c in 0..C {
                    sums[r][c] = _mm512_dpbf16_ps(sums[r][c], row, pairs(weights[c]));
                }
            }
        }
        let mut out = [[0.0; C]; R];
        for r in 0..R {
            let mut four = [_mm512_setzero_ps(); 4];
            four[..C].copy_from_slice(&sums[r]);
            let totals = reduce(four);
            out[r].copy_from_slice(&totals[..C]);
            for c in 0..C {
                for i in vectors * LANES..w[c].len() {
                    out[r][c] += super::product_of_pair(x[r][i], w[c][i]);
                }
            }
        }
        out
    }

    /// The sum of each of four vectors, at less than half the cost of four single ones.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn reduce([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        let quarters = _mm512_add_ps(low, high);
        let halves = _mm256_add_ps(
            _mm512_castps512_ps256(quarters),
            _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(quarters))),
        );
        let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
        #[expect(unsafe_code, reason = "two types of one size")]
        // SAFETY: both types are 16 bytes for which every bit pattern is valid.
        unsafe {
            std::mem::transmute(sums)
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load(words: &[u32; LANES]) -> __m512i {
        #[expect(unsafe_code, reason = "a SIMD load")]
        // SAFETY: the array has the 64 bytes that are read, and the load needs no alignment.
        unsafe {
            _mm512_loadu_si512(words.as_ptr().cast())
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

/// What a pair adds to a sum.
#[inline(always)]
fn product_of_pair(x: u32, w: u32) -> f32 {
    let low = |pair: u32| f32::from_bits(pair << 16);
    let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    low(x) * low(w) + high(x) * high(w)
}

/// The safe twin of [`tile`], for any vectors.
#[inline(always)]
pub fn portable_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: [&[u32]; R],
    w: [&[u32]; C],
) -> [[f32; C]; R] {
    let vectors = w[0].len() / S::F32_LANES;
    let mut xs: [&[S::u32s]; R] = [&[]; R];
    for r in 0..R {
        xs[r] = &S::as_simd_u32s(x[r]).0[..vectors];
    }
    let mut ws: [&[S::u32s]; C] = [&[]; C];
    for c in 0..C {
        ws[c] = &S::as_simd_u32s(w[c]).0[..vectors];
    }
    let (top, half) = (simd.splat_u32s(0xffff_0000), simd.splat_u32s(16));
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    for i in 0..vectors {
        let mut low = [simd.splat_f32s(0.0); C];
        let mut high = [simd.splat_f32s(0.0); C];
        for c in 0..C {
            low[c] = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(ws[c][i], half));
            high[c] = simd.transmute_f32s_u32s(simd.and_u32s(ws[c][i], top));
        }
        for r in 0..R {
            let row = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(xs[r][i], half));
            for c in 0..C {
                sums[r][c] = simd.mul_add_e_f32s(row, low[c], sums[r][c]);
            }
            let row = simd.transmute_f32s_u32s(simd.and_u32s(xs[r][i], top));
            for c in 0..C {
                sums[r][c] = simd.mul_add_e_f32s(row, high[c], sums[r][c]);
            }
        }
    }
    let mut out = [[0.0; C]; R];
    for r in 0..R {
        for c in 0..C {
            out[r][c] = simd.reduce_sum_f32s(sums[r][c]);
            for i in vectors * S::F32_LANES..w[c].len() {
                out[r][c] += product_of_pair(x[r][i], w[c][i]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::model::decoder::normal;
    use crate::seed::Seed;

    struct Twin<'a>([&'a [u32]; 3], [&'a [u32]; 4]);

    impl WithSimd for Twin<'_> {
        type Output = [[f32; 4]; 3];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            portable_tile(simd, self.0, self.1)
        }
    }

    /// Catches: a rounding that is not to nearest even, or loses a NaN or an infinity.
    #[test]
    fn numbers_are_rounded_as_half_rounds_them() {
        let mut x = normal(4096, 3.0, Seed::new(3));
        let odd = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-40,
        ];
        x.extend(odd);
        x.extend((0..4096).map(|i| f32::from_bits(0x3f80_0000 + (i << 4))));
        x.push(1.0);
        let rounded = pairs(&x);
        for (x, pair) in x.chunks_exact(2).zip(rounded) {
            let expected = [x[0], x[1]].map(|x| u32::from(half::bf16::from_f32(x).to_bits()));
            assert_eq!([pair & 0xffff, pair >> 16], expected, "{x:?}");
        }
        let nan = pairs(&[f32::NAN, f32::from_bits(0x7fff_ffff)])[0];
        assert!(f32::from_bits(nan << 16).is_nan() && f32::from_bits(nan & 0xffff_0000).is_nan());
    }

    /// Catches: a kernel that pairs the wrong numbers, or leaves out a tail.
    #[test]
    fn the_kernel_agrees_with_its_safe_twin() {
        if !has_pairs() {
            println!("skipped: this processor has no AVX512-BF16");
            return;
        }
        for length in [2, 30, 32, 34, 576, 1538] {
            let (x, w) = (
                normal(3 * length, 1.0, Seed::new(1)),
                normal(4 * length, 1.0, Seed::new(2)),
            );
            let (x, w) = (pairs(&x), pairs(&w));
            let rows = [0, 1, 2].map(|row| &x[row * length / 2..][..length / 2]);
            let columns = [0, 1, 2, 3].map(|row| &w[row * length / 2..][..length / 2]);
            let (fast, slow) = (
                tile::<3, 4, true>(rows, columns),
                Twin(rows, columns).with_simd(pulp::Scalar),
            );
            for (fast, slow) in fast.as_flattened().iter().zip(slow.as_flattened()) {
                assert!(
                    (fast - slow).abs() <= 1e-6 * length as f32,
                    "{length}: {fast} and {slow}"
                );
            }
        }
    }
}
