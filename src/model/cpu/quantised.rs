//! Rows of weights stored in fewer bits, back to numbers.
//!
//! The block formats are those of GGUF files (ggml's `block_q4_0` … `block_q6_K`); every decoded
//! number is exactly the one that candle's dequantisation gives, which a test checks. Products are
//! computed from the decoded weights, so a quantised model differs from its file by rounding alone:
//! ggml's own kernels also round the activations, to 8 bits.

use super::kernels::simd;

/// How a row of weights is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    F16,
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers in a block of the 32-wide types and of the k-quants.
const BLOCK: usize = 32;
const SUPER: usize = 256;

impl Coding {
    /// Numbers in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F16 => (1, 2),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4K => (SUPER, 144),
            Self::Q5K => (SUPER, 176),
            Self::Q6K => (SUPER, 210),
        }
    }
}

/// Decodes row `index` of a matrix whose rows have `out.len()` numbers, a whole number of blocks.
pub fn decode_row(coding: Coding, bytes: &[u8], index: usize, out: &mut [f32]) {
    simd!(decode_row_here(coding, bytes, index, out));
}

/// [`decode_row`], compiled with the vector instructions of the caller.
#[inline(always)]
pub(super) fn decode_row_here(coding: Coding, bytes: &[u8], index: usize, out: &mut [f32]) {
    let (numbers, size) = coding.block();
    let row_bytes = out.len() / numbers * size;
    let row = &bytes[index * row_bytes..][..row_bytes];
    if coding == Coding::F16 {
        for (bytes, out) in row.chunks_exact(2).zip(out) {
            *out = half([bytes[0], bytes[1]]);
        }
        return;
    }
    let blocks = row.chunks_exact(size).zip(out.chunks_exact_mut(numbers));
    match coding {
        Coding::F16 => unreachable!("decoded above"),
        Coding::Q4_0 => blocks.for_each(|(block, out)| q4_0(block, out)),
        Coding::Q8_0 => blocks.for_each(|(block, out)| q8_0(block, out)),
        Coding::Q4K => blocks.for_each(|(block, out)| q4_k(block, out)),
        Coding::Q5K => blocks.for_each(|(block, out)| q5_k(block, out)),
        Coding::Q6K => blocks.for_each(|(block, out)| q6_k(block, out)),
    }
}

/// A number in half precision, as the processor's own instruction converts it; inline and without a
/// branch, so that loops over it vectorise.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    // The exponent's bias is 112 less; multiplied, subnormal numbers come out right too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let magnitude = if bits & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits(sign | magnitude)
}

/// A scale, then 32 signed bytes.
#[inline(always)]
fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half([block[0], block[1]]);
    for (byte, out) in block[2..34].iter().zip(out) {
        *out = f32::from(*byte as i8) * scale;
    }
}

/// A scale, then 16 bytes: low nibbles are the first half, high ones the second, less 8.
#[inline(always)]
fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half([block[0], block[1]]);
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((byte, low), high) in block[2..18].iter().zip(low).zip(high) {
        *low = f32::from((byte & 15) as i8 - 8) * scale;
        *high = f32::from((byte >> 4) as i8 - 8) * scale;
    }
}

/// The 6-bit scale and minimum of sub-block `index` out of the 12 bytes that hold eight of each.
#[inline(always)]
fn scale_and_minimum(scales: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (scales[index] & 63, scales[index + 4] & 63)
    } else {
        (
            (scales[index + 4] & 15) | ((scales[index - 4] >> 6) << 4),
            (scales[index + 4] >> 4) | ((scales[index] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Two scales, packed sub-scales, then nibbles: 64 numbers from 32 bytes at a time.
#[inline(always)]
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half([block[0], block[1]]), half([block[2], block[3]]));
    let (scales, nibbles) = block[4..].split_at(12);
    for (group, (bytes, out)) in nibbles.chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        let (s, m) = scale_and_minimum(scales, 2 * group);
        let (s, m) = (scale * s, minimum * m);
        for (byte, out) in bytes.iter().zip(low) {
            *out = s * f32::from(byte & 15) - m;
        }
        let (s, m) = scale_and_minimum(scales, 2 * group + 1);
        let (s, m) = (scale * s, minimum * m);
        for (byte, out) in bytes.iter().zip(high) {
            *out = s * f32::from(byte >> 4) - m;
        }
    }
}

/// As Q4_K, with the fifth bits of all numbers in 32 bytes of their own.
#[inline(always)]
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half([block[0], block[1]]), half([block[2], block[3]]));
    let (scales, rest) = block[4..].split_at(12);
    let (fifths, nibbles) = rest.split_at(32);
    for (group, (bytes, out)) in nibbles.chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        let (s, m) = scale_and_minimum(scales, 2 * group);
        let (s, m) = (scale * s, minimum * m);
        for ((byte, fifth), out) in bytes.iter().zip(fifths).zip(low) {
            *out = s * f32::from((byte & 15) + (((fifth >> (2 * group)) & 1) << 4)) - m;
        }
        let (s, m) = scale_and_minimum(scales, 2 * group + 1);
        let (s, m) = (scale * s, minimum * m);
        for ((byte, fifth), out) in bytes.iter().zip(fifths).zip(high) {
            *out = s * f32::from((byte >> 4) + (((fifth >> (2 * group + 1)) & 1) << 4)) - m;
        }
    }
}

/// Nibbles, two more bits for each, a signed scale for every 16, and one scale for all.
#[inline(always)]
fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half([block[208], block[209]]);
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let scales = &rest[..16];
    for (part, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&low[64 * part..], &high[32 * part..], &scales[8 * part..]);
        for quarter in 0..4 {
            let out = &mut out[32 * quarter..][..32];
            for (i, out) in out.iter_mut().enumerate() {
                let byte = low[i + 32 * (quarter % 2)];
                let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
                let bits = (high[i] >> (2 * quarter)) & 3;
                let number = (nibble | (bits << 4)) as i8 - 32;
                *out = scale * f32::from(scales[i / 16 + 2 * quarter] as i8) * f32::from(number);
            }
        }
    }
}
