//! The arithmetic of adapters: `y += scale · (D(x) · Aᵀ) · Bᵀ`, and back.
//!
//! `D` leaves inputs out in training (Srivastava et al. 2014): the mask follows from the run's seed, the updates done,
//! the shard, the module and the place alone, so that the backward pass and a resumed run draw it again. While a
//! model serves, a row gives the same bits alone and in a batch, as every product of inference does.

use std::borrow::Cow;

use rand::Rng as _;

use super::kernels::{self, Mat, MatMut, Write};
use super::{Purpose, Weights};
use crate::model::decoder::{Decoder, LinearLayout};
use crate::model::lora::Adapter;
use crate::seed::Seed;

/// What the adapters of a shard leave out of their inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    rate: f64,
    seed: Seed,
}

impl Dropout {
    /// Of shard `shard` in the decoder's next update; nothing where it has no adapters, or they leave nothing out.
    pub fn new(decoder: &Decoder, shard: usize) -> Option<Self> {
        let adapters = decoder
            .adapters
            .as_ref()
            .filter(|adapters| adapters.config.dropout > 0.0)?;
        let seed = adapters.seed.child("dropout").index(adapters.updates);
        Some(Self {
            rate: adapters.config.dropout,
            seed: seed.index(shard as u64),
        })
    }

    /// Leaves numbers of `x (N, width)` out and stretches the others, so that the mean stays.
    fn apply(&self, adapter: &Adapter, x: &mut [f32], width: usize) {
        let keys: [u32; 3] = self.seed.index(adapter.a as u64).rng().random();
        let threshold = (self.rate * 2f64.powi(32)) as u32;
        let stretch = (1.0 / (1.0 - self.rate)) as f32;
        kernels::simd!({
            for (row, x) in x.chunks_exact_mut(width).enumerate() {
                let key = mix(row as u32 ^ keys[0], keys[1]) ^ keys[2];
                for (column, x) in x.iter_mut().enumerate() {
                    let kept = mix(column as u32, key) >= threshold;
                    *x *= if kept { stretch } else { 0.0 };
                }
            }
        });
    }
}

/// A number of which every bit depends on all bits of `counter` and `key`: the finaliser of MurmurHash3 (Appleby 2011),
/// keyed.
#[inline(always)]
fn mix(counter: u32, key: u32) -> u32 {
    let mut h = counter.wrapping_mul(0x9e37_79b9) ^ key;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35).wrapping_add(key);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h ^ (h >> 13)
}

impl Weights<'_> {
    /// Adds to `y (N, outputs)` what an adapter makes of `x (N, inputs)`.
    pub(super) fn adapt(&self, x: &[f32], layout: &LinearLayout, adapter: &Adapter, y: &mut [f32]) {
        let (a, b) = ((adapter.a, adapter.rank), (adapter.b, layout.outputs));
        match self.purpose {
            Purpose::Serving { .. } => {
                let [inner] = self.products(x, layout.inputs, [a]);
                let [mut added] = self.products(&inner, adapter.rank, [b]);
                kernels::scale(&mut added, adapter.scale);
                kernels::add(y, &added);
            }
            Purpose::Training { .. } => {
                let inner = self.inner(&self.dropped(x, layout, adapter), layout, adapter);
                kernels::matmul(
                    MatMut::new(y, inner.len() / adapter.rank, layout.outputs),
                    Mat::new(&inner, inner.len() / adapter.rank, adapter.rank),
                    Mat::new(self.get(adapter.b), layout.outputs, adapter.rank).t(),
                    Write::Accumulate,
                );
            }
        }
    }

    /// `D(x)`.
    fn dropped<'x>(&self, x: &'x [f32], layout: &LinearLayout, adapter: &Adapter) -> Cow<'x, [f32]> {
        let Some(dropout) = &self.dropout else {
            return Cow::Borrowed(x);
        };
        let mut x = x.to_vec();
        dropout.apply(adapter, &mut x, layout.inputs);
        Cow::Owned(x)
    }

    /// `scale · D(x) · Aᵀ`: `(N, rank)`.
    fn inner(&self, x: &[f32], layout: &LinearLayout, adapter: &Adapter) -> Vec<f32> {
        let [mut inner] = self.products(x, layout.inputs, [(adapter.a, adapter.rank)]);
        kernels::scale(&mut inner, adapter.scale);
        inner
    }
}

/// The way back through one adapter.
pub(super) struct AdapterBackward<'a> {
    weights: &'a Weights<'a>,
    layout: &'a LinearLayout,
    adapter: &'a Adapter,
    /// `D(x) (N, inputs)`.
    x: Cow<'a, [f32]>,
    /// `(N, outputs)`.
    dy: &'a [f32],
    /// The gradient of `D(x) · Aᵀ`: `scale · dy · B (N, rank)`.
    dinner: Vec<f32>,
}

impl<'a> AdapterBackward<'a> {
    pub fn new(
        weights: &'a Weights<'a>,
        layout: &'a LinearLayout,
        adapter: &'a Adapter,
        x: &'a [f32],
        dy: &'a [f32],
    ) -> Self {
        let (rows, rank) = (x.len() / layout.inputs, adapter.rank);
        let mut dinner = vec![0.0; rows * rank];
        kernels::matmul(
            MatMut::new(&mut dinner, rows, rank),
            Mat::new(dy, rows, layout.outputs),
            Mat::new(weights.get(adapter.b), layout.outputs, rank),
            Write::Overwrite,
        );
        kernels::scale(&mut dinner, adapter.scale);
        Self {
            weights,
            layout,
            adapter,
            x: weights.dropped(x, layout, adapter),
            dy,
            dinner,
        }
    }

    fn rows(&self) -> usize {
        self.dinner.len() / self.adapter.rank
    }

    /// Adds the gradient of A.
    pub fn add_a(&self, gradient: &mut [f32]) {
        let (rows, rank, inputs) = (self.rows(), self.adapter.rank, self.layout.inputs);
        kernels::matmul(
            MatMut::new(gradient, rank, inputs),
            Mat::new(&self.dinner, rows, rank).t(),
            Mat::new(&self.x, rows, inputs),
            Write::Accumulate,
        );
    }

    /// Adds the gradient of B.
    pub fn add_b(&self, gradient: &mut [f32]) {
        let (rows, rank, outputs) = (self.rows(), self.adapter.rank, self.layout.outputs);
        // Computed again: cheaper than to keep it for every map of every layer.
        let inner = self.weights.inner(&self.x, self.layout, self.adapter);
        kernels::matmul(
            MatMut::new(gradient, outputs, rank),
            Mat::new(self.dy, rows, outputs).t(),
            Mat::new(&inner, rows, rank),
            Write::Accumulate,
        );
    }

    /// Adds the gradient of the input.
    pub fn add_input(self, dx: &mut [f32]) {
        let (rows, rank, inputs) = (self.rows(), self.adapter.rank, self.layout.inputs);
        let a = Mat::new(self.weights.get(self.adapter.a), rank, inputs);
        let dinner = Mat::new(&self.dinner, rows, rank);
        match &self.weights.dropout {
            None => kernels::matmul(MatMut::new(dx, rows, inputs), dinner, a, Write::Accumulate),
            Some(dropout) => {
                let mut dropped = vec![0.0; dx.len()];
                kernels::matmul(MatMut::new(&mut dropped, rows, inputs), dinner, a, Write::Overwrite);
                dropout.apply(self.adapter, &mut dropped, inputs);
                kernels::add(dx, &dropped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(dropout: &Dropout, a: usize, rows: usize, width: usize) -> Vec<f32> {
        let adapter = Adapter {
            a,
            b: a + 1,
            rank: 1,
            scale: 1.0,
        };
        let mut x = vec![1.0; rows * width];
        dropout.apply(&adapter, &mut x, width);
        x
    }

    /// Catches: a rate that is off, columns or rows that are left out together, the same mask for two modules, and one
    /// that is not the same when it is drawn again.
    #[test]
    fn masks_are_even_and_independent() {
        let dropout = Dropout {
            rate: 0.25,
            seed: Seed::new(1),
        };
        let (rows, width) = (400, 250);
        let mask = masked(&dropout, 7, rows, width);
        assert_eq!(mask, masked(&dropout, 7, rows, width));
        assert!(mask.iter().all(|x| *x == 0.0 || (*x - 4.0 / 3.0).abs() < 1e-6));
        let share = |mask: &mut dyn Iterator<Item = bool>| {
            let (mut left_out, mut count) = (0, 0);
            for out in mask {
                left_out += usize::from(out);
                count += 1;
            }
            left_out as f64 / f64::from(count)
        };
        // Five standard deviations.
        let within = |share: f64, expected: f64, count: usize| {
            let deviation = (expected * (1.0 - expected) / count as f64).sqrt();
            assert!(
                (share - expected).abs() < 5.0 * deviation,
                "{share}, expected {expected}"
            );
        };
        within(share(&mut mask.iter().map(|x| *x == 0.0)), 0.25, rows * width);
        for column in 0..width {
            within(
                share(&mut (0..rows).map(|row| mask[row * width + column] == 0.0)),
                0.25,
                rows,
            );
        }
        for row in mask.chunks_exact(width) {
            within(share(&mut row.iter().map(|x| *x == 0.0)), 0.25, width);
        }
        let both = |a: &[f32], b: &[f32]| share(&mut a.iter().zip(b).map(|(a, b)| *a == 0.0 && *b == 0.0));
        let other = masked(&dropout, 9, rows, width);
        within(both(&mask, &other), 0.0625, rows * width);
        for apart in [1, 2, width - 1, width, width + 1, 16 * width] {
            within(both(&mask, &mask[apart..]), 0.0625, rows * width - apart);
        }
    }
}
