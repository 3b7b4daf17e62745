//! The decoder's arithmetic on the CPU.
//!
//! Sequences are packed: the tokens of a batch stand one after another without padding, each with
//! its own position, so `(N, width)` is the shape of everything. [`cache`] is inference with a
//! key/value cache, [`trunk`] is training with an explicit backward pass; both run the halves
//! of a layer below and differ in what a query may attend to.

mod adapter;
pub mod attention;
pub mod cache;
mod halves;
pub mod kernels;
pub mod mixed;
pub mod paged;
mod pages;
pub mod product;
pub mod quantised;
pub mod team;
pub mod trunk;

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Storage, Tensor, WithDType};
use half::{bf16, f16};

use self::adapter::Dropout;
use self::kernels::{Mat, MatMut, NormConstants, Rotation, Write};
use self::product::Rows;
use self::quantised::Coding;
use super::config::DecoderConfig;
use super::decoder::{Decoder, LayerLayout, LinearLayout, Parameter, Weight};
use crate::error::{Error, Result};

/// The data of a contiguous CPU tensor, borrowed.
pub struct View<'a, T> {
    storage: Box<dyn Deref<Target = Storage> + Sync + 'a>,
    range: Range<usize>,
    element: PhantomData<T>,
}

impl<'a, T: WithDType> View<'a, T> {
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = layout.contiguous_offsets();
        match (range, &*storage) {
            (Some((start, end)), Storage::Cpu(cpu)) if cpu.as_slice::<T>().is_ok() => Ok(Self {
                storage: Box::new(storage),
                range: start..end,
                element: PhantomData,
            }),
            _ => Err(Error::unexpected(format!(
                "expected a contiguous tensor of {:?} on the CPU",
                T::DTYPE
            ))),
        }
    }
}

impl<T: WithDType> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &**self.storage {
            Storage::Cpu(cpu) => &cpu.as_slice::<T>().expect("checked by the constructor")[self.range.clone()],
            _ => unreachable!("checked by the constructor"),
        }
    }
}

/// The data of a weight as it is stored.
enum Stored<'a> {
    F32(View<'a, f32>),
    F16(View<'a, f16>),
    Bf16(View<'a, bf16>),
    Quantised(Coding, Cow<'a, [u8]>),
}

impl<'a> Stored<'a> {
    fn new(parameter: &'a Parameter) -> Result<Self> {
        let name = &parameter.name;
        match &parameter.weight {
            Weight::Dense(tensor) => match tensor.dtype() {
                DType::F16 => Ok(Self::F16(View::new(tensor)?)),
                DType::BF16 if tensor.dims().last().is_some_and(|width| width.is_multiple_of(2)) => {
                    Ok(Self::Bf16(View::new(tensor)?))
                }
                DType::BF16 => Err(Error::config(format!(
                    "`{name}` has rows of odd length, which cannot be used in bf16"
                ))
                .help("give --dtype f32")),
                _ => Ok(Self::F32(View::new(tensor)?)),
            },
            Weight::Quantised(tensor) => {
                let coding = match tensor.dtype() {
                    GgmlDType::Q4_0 => Coding::Q4_0,
                    GgmlDType::Q8_0 => Coding::Q8_0,
                    GgmlDType::Q4K => Coding::Q4K,
                    GgmlDType::Q5K => Coding::Q5K,
                    GgmlDType::Q6K => Coding::Q6K,
                    other => {
                        return Err(
                            Error::input(format!("`{name}` is stored as {other:?}, which is not supported"))
                                .help("supported in a GGUF file: F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K"),
                        );
                    }
                };
                Ok(Self::Quantised(coding, tensor.data()?))
            }
        }
    }

    fn rows(&self) -> Rows<'_> {
        match self {
            Self::F32(values) => Rows::F32(values),
            Self::F16(values) => Rows::Coded(Coding::F16, bytemuck::cast_slice(values)),
            Self::Bf16(values) => Rows::Bf16(bytemuck::cast_slice(values)),
            Self::Quantised(coding, bytes) => Rows::Coded(*coding, bytes),
        }
    }
}

/// All parameters of a decoder, borrowed for a pass over it.
pub struct Weights<'a> {
    pub decoder: &'a Decoder,
    stored: Stock<'a>,
    purpose: Purpose,
    /// What the adapters leave out of their inputs, if they do.
    dropout: Option<Dropout>,
}

/// Parameters in the decoder's order.
enum Stock<'a> {
    Own(Vec<Stored<'a>>),
    Lent(&'a [Stored<'a>]),
}

impl<'a> Deref for Stock<'a> {
    type Target = [Stored<'a>];

    fn deref(&self) -> &[Stored<'a>] {
        match self {
            Self::Own(stored) => stored,
            Self::Lent(stored) => stored,
        }
    }
}

/// What a pass is for, which decides how products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Many rows of `f32`: packed products by this many threads, of operands rounded to bf16 if `halves`.
    Training { halves: bool, threads: usize },
    /// Any number of rows, weights of any type: [`product`], by this many threads.
    Serving { threads: usize },
}

/// What attention reads.
#[derive(Default)]
pub struct Projected {
    /// `(N, heads · head_dim)`, rotated.
    pub query: Vec<f32>,
    /// `(N, kv_heads · head_dim)`, rotated.
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    /// Queries and keys before their norms; empty when the model has none.
    pub before_qk_norms: [Vec<f32>; 2],
}

/// What a layer computed after attention.
pub struct Mixed {
    /// `(N, hidden)`: the residual stream between attention and MLP.
    pub middle: Vec<f32>,
    /// `(N, intermediate)`; may be empty when nothing is learnt.
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// The projected outputs `(N, hidden)` of attention and MLP before their norms; empty when the
    /// model has none.
    pub before_post_norms: [Vec<f32>; 2],
}

impl<'a> Weights<'a> {
    /// For training, and for whatever else takes whole sequences of `f32`.
    pub fn training(decoder: &'a Decoder, threads: usize) -> Result<Self> {
        decoder
            .parameters
            .iter()
            .try_for_each(|parameter| match parameter.weight.dense()?.dtype() {
                DType::F32 => Ok(()),
                other => Err(Error::unexpected(format!(
                    "`{}` is {other:?}; training needs f32",
                    parameter.name
                ))),
            })?;
        let halves = decoder.training.halves;
        Self::borrow(decoder, Purpose::Training { halves, threads })
    }

    /// For inference on `threads` threads.
    pub fn serving(decoder: &'a Decoder, threads: usize) -> Result<Self> {
        Self::borrow(decoder, Purpose::Serving { threads })
    }

    fn borrow(decoder: &'a Decoder, purpose: Purpose) -> Result<Self> {
        let stored = decoder.parameters.iter().map(Stored::new).collect::<Result<_>>()?;
        Ok(Self {
            decoder,
            stored: Stock::Own(stored),
            purpose,
            dropout: None,
        })
    }

    /// The same weights for fewer or more threads.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Weights<'_> {
        let purpose = match self.purpose {
            Purpose::Training { halves, .. } => Purpose::Training { halves, threads },
            Purpose::Serving { .. } => Purpose::Serving { threads },
        };
        Weights {
            decoder: self.decoder,
            stored: Stock::Lent(&self.stored),
            purpose,
            dropout: self.dropout,
        }
    }

    /// The same weights for shard `index` of a batch that is learnt from: its adapters leave inputs out.
    #[must_use]
    pub fn of_shard(&self, index: usize) -> Weights<'_> {
        Weights {
            dropout: Dropout::new(self.decoder, index),
            ..self.with_threads(self.threads())
        }
    }

    pub fn config(&self) -> &'a DecoderConfig {
        &self.decoder.config
    }

    /// Moves the weights to large pages where the system has them; worth it once before many passes.
    pub fn settle(&self) {
        for stored in self.stored.iter() {
            match stored {
                Stored::F32(values) => pages::gather(values),
                Stored::F16(values) => pages::gather(values),
                Stored::Bf16(values) => pages::gather(values),
                Stored::Quantised(_, bytes) => pages::gather(bytes),
            }
        }
    }

    /// Threads that a pass may use.
    pub fn threads(&self) -> usize {
        match self.purpose {
            Purpose::Training { threads, .. } | Purpose::Serving { threads } => threads,
        }
    }

    /// The values of parameter `index`, which is `f32`: every norm and bias is, and in training all.
    pub fn get(&self, index: usize) -> &[f32] {
        match &self.stored[index] {
            Stored::F32(values) => values,
            _ => unreachable!("norms and biases are loaded as f32, and training checks the rest"),
        }
    }

    /// Embeddings of `tokens`: `(N, hidden)`.
    pub fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let width = self.config().hidden;
        let table = self.stored[self.decoder.layout.embedding].rows();
        let mut x = vec![0.0; tokens.len() * width];
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            table.decode(*token as usize, x);
        }
        if let Some(scale) = self.embedding_scale() {
            kernels::scale(&mut x, scale);
        }
        x
    }

    /// What embeddings are multiplied by (Gemma): `sqrt(hidden)`, rounded to the type of the embedding
    /// as transformers rounds it.
    pub fn embedding_scale(&self) -> Option<f32> {
        let scale = (self.config().hidden as f64).sqrt() as f32;
        let dtype = match &self.decoder.parameters[self.decoder.layout.embedding].weight {
            Weight::Dense(table) => table.dtype(),
            Weight::Quantised(_) => DType::F32,
        };
        self.config().scaled_embedding.then(|| match dtype {
            DType::BF16 => bf16::from_f32(scale).to_f32(),
            DType::F16 => f16::from_f32(scale).to_f32(),
            _ => scale,
        })
    }

    /// `x · Wᵀ (+ bias)` for `x (N, inputs)`.
    pub fn linear(&self, x: &[f32], layout: &LinearLayout) -> Vec<f32> {
        let [y] = self.linears(x, [layout]);
        y
    }

    /// Several linear maps of one `x`.
    pub fn linears<const N: usize>(&self, x: &[f32], layouts: [&LinearLayout; N]) -> [Vec<f32>; N] {
        let matrices = layouts.map(|layout| (layout.weight, layout.outputs));
        let mut all = self.products(x, layouts[0].inputs, matrices);
        for (y, layout) in all.iter_mut().zip(layouts) {
            if let Some(bias) = layout.bias {
                kernels::add_bias(y, self.get(bias));
            }
            if let Some(adapter) = &layout.adapter {
                self.adapt(x, layout, adapter, y);
            }
        }
        all
    }

    /// `x · Wᵀ` for several matrices `(outputs, inputs)` given by parameter and outputs.
    fn products<const N: usize>(&self, x: &[f32], inputs: usize, matrices: [(usize, usize); N]) -> [Vec<f32>; N] {
        let rows = x.len() / inputs;
        let mut all = matrices.map(|(_, outputs)| vec![0.0; rows * outputs]);
        match self.purpose {
            Purpose::Training { .. } => {
                for (y, (weight, outputs)) in all.iter_mut().zip(matrices) {
                    self.multiply(
                        MatMut::new(y, rows, outputs),
                        Mat::new(x, rows, inputs),
                        Mat::new(self.get(weight), outputs, inputs).t(),
                        Write::Overwrite,
                    );
                }
            }
            Purpose::Serving { threads } => {
                let weights = matrices.map(|(weight, _)| self.stored[weight].rows());
                product::products(x, inputs, &weights, &mut all, threads, |_| ());
            }
        }
        all
    }

    /// RMSNorm with the weights of parameter `index`, over rows as long as the weights.
    pub fn norm(&self, x: &[f32], index: usize) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        kernels::rms_norm(x, self.get(index), self.norm_constants(), &mut y);
        y
    }

    fn norm_constants(&self) -> NormConstants {
        NormConstants {
            eps: self.config().rms_eps,
            offset: self.config().norm_offset(),
        }
    }

    /// Replaces `x` by its norm and answers what it was; without a norm, leaves it and answers nothing.
    fn normed(&self, x: &mut Vec<f32>, norm: Option<usize>) -> Vec<f32> {
        match norm {
            Some(index) => {
                let y = self.norm(x, index);
                std::mem::replace(x, y)
            }
            None => Vec::new(),
        }
    }

    /// Rotates the heads of `x (N, width)` by the rotary embedding `rope` of the decoder.
    pub fn rotate(&self, x: &mut [f32], rope: usize, width: usize, positions: &[u32], rotation: Rotation) {
        let table = &self.decoder.ropes[rope];
        let angles = |position| table.at(position);
        kernels::rope(x, self.config().head_dim, width, positions, angles, rotation);
    }

    /// The first half of a layer, over the packed residual stream `input (N, hidden)`.
    pub fn project(&self, layer: &LayerLayout, input: &[f32], positions: &[u32]) -> Projected {
        let config = self.config();
        let normed = self.norm(input, layer.attention_norm);
        let [mut query, mut key, value] = self.linears(&normed, [&layer.query, &layer.key, &layer.value]);
        let before_qk_norms = [
            self.normed(&mut query, layer.qk_norms.map(|norms| norms[0])),
            self.normed(&mut key, layer.qk_norms.map(|norms| norms[1])),
        ];
        for (x, width) in [(&mut query, config.query_width()), (&mut key, config.kv_width())] {
            self.rotate(x, layer.rope, width, positions, Rotation::Forward);
        }
        Projected {
            query,
            key,
            value,
            before_qk_norms,
        }
    }

    /// The second half up to the activated MLP `(N, intermediate)`, from the attention's output
    /// `(N, heads · head_dim)`.
    pub fn mix(&self, layer: &LayerLayout, input: &[f32], attended: &[f32]) -> (Vec<f32>, Mixed) {
        let mut middle = self.linear(attended, &layer.output);
        let attention_output = self.normed(&mut middle, layer.post_norms.map(|norms| norms[0]));
        kernels::add(&mut middle, input);
        let normed = self.norm(&middle, layer.mlp_norm);
        let (activated, [gate, up]) = self.gated(&normed, layer);
        let mixed = Mixed {
            middle,
            gate,
            up,
            before_post_norms: [attention_output, Vec::new()],
        };
        (activated, mixed)
    }

    /// The rest of it: to the new residual stream.
    pub fn feed_forward(&self, layer: &LayerLayout, activated: &[f32], mixed: &mut Mixed) -> Vec<f32> {
        let mut output = self.linear(activated, &layer.down);
        mixed.before_post_norms[1] = self.normed(&mut output, layer.post_norms.map(|norms| norms[1]));
        kernels::add(&mut output, &mixed.middle);
        output
    }

    /// A product of training.
    fn multiply(&self, dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write) {
        match self.purpose {
            Purpose::Training { halves: true, threads } => mixed::matmul(dst, lhs, rhs, write, threads),
            _ => kernels::matmul_by(dst, lhs, rhs, write, self.threads()),
        }
    }

    /// The activated gate times the up projection; in training also the two themselves.
    fn gated(&self, x: &[f32], layer: &LayerLayout) -> (Vec<f32>, [Vec<f32>; 2]) {
        let activation = self.config().activation;
        let layouts = [&layer.gate, &layer.up];
        match self.purpose {
            Purpose::Serving { threads } if layouts.iter().all(|layout| layout.is_plain()) => {
                let rows = x.len() / layer.gate.inputs;
                let mut both = layouts.map(|layout| vec![0.0; rows * layout.outputs]);
                let weights = layouts.map(|layout| self.stored[layout.weight].rows());
                product::products(x, layer.gate.inputs, &weights, &mut both, threads, |share| {
                    let (gate, up) = share.split_at_mut(1);
                    for (gate, up) in gate[0].iter_mut().zip(&up[0]) {
                        kernels::gated(activation, gate, up);
                    }
                });
                let [activated, _] = both;
                (activated, [Vec::new(), Vec::new()])
            }
            _ => {
                let [gate, up] = self.linears(x, layouts);
                let mut activated = gate.clone();
                kernels::gated(activation, &mut activated, &up);
                (activated, [gate, up])
            }
        }
    }

    /// Logits `(M, vocab)` of normed hidden states `(M, hidden)`, after the soft-cap if there is one.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let config = self.config();
        let head = (self.decoder.layout.head, config.vocab);
        let [mut logits] = self.products(hidden, config.hidden, [head]);
        if let Some(cap) = config.final_softcap {
            kernels::softcap(&mut logits, 1.0, cap);
        }
        logits
    }
}

/// The columns of query head `head` in a row, and those of the key/value head it reads.
pub fn head_columns(config: &DecoderConfig, head: usize) -> (usize, usize) {
    let group = config.heads / config.kv_heads;
    (head * config.head_dim, head / group * config.head_dim)
}

/// The rows `indices` of `x (N, width)`.
pub fn gather_rows(x: &[f32], indices: &[usize], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(indices.len() * width);
    for index in indices {
        out.extend_from_slice(&x[index * width..][..width]);
    }
    out
}
