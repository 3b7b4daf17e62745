//! The decoder's arithmetic on the CPU.
//!
//! Sequences are packed: the tokens of a batch stand one after another without padding, each with
//! its own position, so `(N, width)` is the shape of everything. [`cache`] is inference with a
//! key/value cache, [`trunk`] is training with an explicit backward pass; both run the one layer
//! below and differ in what a query may attend to.

pub mod attention;
pub mod cache;
pub mod kernels;
pub mod trunk;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Storage, Tensor};

use self::kernels::{Mat, MatMut, NormConstants, Rotation, Write};
use super::config::DecoderConfig;
use super::decoder::{Decoder, LayerLayout, LinearLayout, Weight};
use crate::error::{Error, Result};

/// The `f32` data of a contiguous CPU tensor, borrowed.
pub struct View<'a> {
    storage: Box<dyn Deref<Target = Storage> + Sync + 'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = layout.contiguous_offsets();
        let is_f32 = matches!(&*storage, Storage::Cpu(CpuStorage::F32(_)));
        match range {
            Some((start, end)) if is_f32 => Ok(Self {
                storage: Box::new(storage),
                range: start..end,
            }),
            _ => Err(Error::unexpected("expected a contiguous f32 tensor on the CPU")),
        }
    }
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked by the constructor"),
        }
    }
}

/// All parameters of a decoder, borrowed for a pass over it.
pub struct Weights<'a> {
    pub decoder: &'a Decoder,
    views: Vec<View<'a>>,
}

/// What a layer computed on the way, as its backward pass needs it.
pub struct LayerActivations {
    /// `(N, hidden)`: the input of the layer.
    pub input: Vec<f32>,
    /// `(N, heads · head_dim)`, rotated.
    pub query: Vec<f32>,
    /// `(N, kv_heads · head_dim)`, rotated.
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    /// Queries and keys before their norms; empty when the model has none.
    pub before_qk_norms: [Vec<f32>; 2],
    /// `(N, heads · head_dim)`: the attention's output.
    pub attended: Vec<f32>,
    /// `(N, hidden)`: the residual stream between attention and MLP.
    pub middle: Vec<f32>,
    /// `(N, intermediate)`.
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// The projected outputs `(N, hidden)` of attention and MLP before their norms; empty when the
    /// model has none.
    pub before_post_norms: [Vec<f32>; 2],
}

impl<'a> Weights<'a> {
    pub fn new(decoder: &'a Decoder) -> Result<Self> {
        let views = decoder
            .parameters
            .iter()
            .map(|parameter| View::new(parameter.weight.dense()?))
            .collect::<Result<_>>()?;
        Ok(Self { decoder, views })
    }

    pub fn config(&self) -> &'a DecoderConfig {
        &self.decoder.config
    }

    /// The values of parameter `index`.
    pub fn get(&self, index: usize) -> &[f32] {
        &self.views[index]
    }

    /// Embeddings of `tokens`: `(N, hidden)`.
    pub fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let width = self.config().hidden;
        let table = self.get(self.decoder.layout.embedding);
        let mut x = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            x.extend_from_slice(&table[*token as usize * width..][..width]);
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
            DType::BF16 => half::bf16::from_f32(scale).to_f32(),
            DType::F16 => half::f16::from_f32(scale).to_f32(),
            _ => scale,
        })
    }

    /// `x · Wᵀ (+ bias)` for `x (N, inputs)`.
    pub fn linear(&self, x: &[f32], layout: &LinearLayout) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / layout.inputs * layout.outputs];
        matmul_transposed(&mut y, x, self.get(layout.weight), layout.outputs, layout.inputs);
        if let Some(bias) = layout.bias {
            kernels::add_bias(&mut y, self.get(bias));
        }
        y
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

    /// One layer over the packed residual stream `input (N, hidden)`. `attend` maps queries, keys and
    /// values to the attention's output. Answers the new residual stream and what was computed.
    pub fn layer(
        &self,
        layer: &LayerLayout,
        input: Vec<f32>,
        positions: &[u32],
        attend: impl FnOnce(&[f32], &[f32], &[f32], &mut [f32]),
    ) -> (Vec<f32>, LayerActivations) {
        let config = self.config();
        let normed = self.norm(&input, layer.attention_norm);
        let mut query = self.linear(&normed, &layer.query);
        let mut key = self.linear(&normed, &layer.key);
        let value = self.linear(&normed, &layer.value);
        let before_qk_norms = [
            self.normed(&mut query, layer.qk_norms.map(|norms| norms[0])),
            self.normed(&mut key, layer.qk_norms.map(|norms| norms[1])),
        ];
        self.rotate(
            &mut query,
            layer.rope,
            config.query_width(),
            positions,
            Rotation::Forward,
        );
        self.rotate(&mut key, layer.rope, config.kv_width(), positions, Rotation::Forward);
        let mut attended = vec![0.0; query.len()];
        attend(&query, &key, &value, &mut attended);
        let mut middle = self.linear(&attended, &layer.output);
        let attention_output = self.normed(&mut middle, layer.post_norms.map(|norms| norms[0]));
        kernels::add(&mut middle, &input);
        let normed = self.norm(&middle, layer.mlp_norm);
        let gate = self.linear(&normed, &layer.gate);
        let up = self.linear(&normed, &layer.up);
        let mut activated = vec![0.0; gate.len()];
        kernels::gated(config.activation, &gate, &up, &mut activated);
        let mut output = self.linear(&activated, &layer.down);
        let mlp_output = self.normed(&mut output, layer.post_norms.map(|norms| norms[1]));
        kernels::add(&mut output, &middle);
        let activations = LayerActivations {
            input,
            query,
            key,
            value,
            before_qk_norms,
            attended,
            middle,
            gate,
            up,
            before_post_norms: [attention_output, mlp_output],
        };
        (output, activations)
    }

    /// Logits `(M, vocab)` of normed hidden states `(M, hidden)`, after the soft-cap if there is one.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let config = self.config();
        let mut logits = vec![0.0; hidden.len() / config.hidden * config.vocab];
        let head = self.get(self.decoder.layout.head);
        matmul_transposed(&mut logits, hidden, head, config.vocab, config.hidden);
        if let Some(cap) = config.final_softcap {
            kernels::softcap(&mut logits, 1.0, cap);
        }
        logits
    }
}

/// `y (N, outputs) = x (N, inputs) · weight (outputs, inputs)ᵀ`.
fn matmul_transposed(y: &mut [f32], x: &[f32], weight: &[f32], outputs: usize, inputs: usize) {
    let rows = x.len() / inputs;
    kernels::matmul(
        MatMut::new(y, rows, outputs),
        Mat::new(x, rows, inputs),
        Mat::new(weight, outputs, inputs).t(),
        Write::Overwrite,
    );
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
