//! Training: the decoder's forward and explicit backward pass.
//!
//! This is the seam of training. What leaves the trunk is small: the log-probability of each token
//! of each completion, and hidden states where a head asks for them. A loss is plain autograd over
//! those tensors and hands back their gradient; the trunk turns it into gradients of the weights, in
//! buffers that the trainer owns. No graph is kept, the logits exist in chunks only, and a loss never
//! sees a model.

use rayon::prelude::*;

use super::adapter::AdapterBackward;
use super::attention::{AttentionScratch, attend_packed, attend_packed_backward};
use super::kernels::{self, Mat, MatMut, Rotation, Write};
use super::{LayerActivations, Weights, gather_rows};
use crate::error::Result;
use crate::model::decoder::{Decoder, LayerLayout, LinearLayout};

/// A sequence of tokens of which those from `completion` on are learnt or scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// Index of the first token of the completion; at least 1, for nothing predicts the first token.
    pub completion: usize,
}

impl Sequence {
    pub fn completion_len(&self) -> usize {
        self.tokens.len() - self.completion
    }
}

/// What a pass is asked to give. `temperature` divides the logits before the softmax; 1 is the
/// model's own distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// The log-probability of each token of the completion.
    Logprobs { temperature: f32 },
    /// The same, and the hidden state before each token of the completion.
    LogprobsAndHidden { temperature: f32 },
    /// The hidden state after the last token of each sequence.
    LastHidden,
}

impl Wanted {
    fn temperature(self) -> Option<f32> {
        match self {
            Self::Logprobs { temperature } | Self::LogprobsAndHidden { temperature } => Some(temperature),
            Self::LastHidden => None,
        }
    }

    fn hidden(self) -> bool {
        match self {
            Self::Logprobs { .. } => false,
            Self::LogprobsAndHidden { .. } | Self::LastHidden => true,
        }
    }
}

/// What leaves the trunk, sequence by sequence; also the shape of its gradient.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Log-probabilities of the completion's tokens.
    pub logprobs: Vec<Vec<f32>>,
    /// Normed hidden states, `(1 or completion tokens, hidden)`.
    pub hidden: Vec<Vec<f32>>,
}

/// Gradients of every parameter, in the decoder's order; empty for one that is frozen.
pub struct Gradients(pub Vec<Vec<f32>>);

impl Gradients {
    pub fn zeros(decoder: &Decoder) -> Self {
        Self(
            decoder
                .parameters
                .iter()
                .map(|parameter| match parameter.frozen {
                    true => Vec::new(),
                    false => vec![0.0; parameter.weight.elem_count()],
                })
                .collect(),
        )
    }

    /// Those of the parameters that learn, in order.
    pub fn learning(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.0.iter_mut().filter(|gradient| !gradient.is_empty())
    }

    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|gradient| gradient.fill(0.0));
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            kernels::add(mine, theirs);
        }
    }
}

/// What the backward pass needs of a forward pass.
pub struct Tape {
    shards: Vec<Shard>,
    wanted: Wanted,
}

/// A part of the batch, worked on by one thread.
struct Shard {
    packed: Packed,
    layers: Vec<LayerActivations>,
    /// The residual stream after the last layer, before the final norm.
    stream: Vec<f32>,
    /// Normed hidden states at `packed.rows`.
    hidden: Vec<f32>,
    /// Log of the softmax's denominator at each of `packed.rows`, if log-probabilities were wanted.
    log_sums: Vec<f32>,
}

/// Several sequences end to end.
struct Packed {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// First row of each sequence, and the end.
    starts: Vec<usize>,
    /// The rows whose hidden state leaves the trunk.
    rows: Vec<usize>,
    /// How many of `rows` each sequence has.
    counts: Vec<usize>,
    /// The token that each of `rows` predicts.
    targets: Vec<u32>,
}

/// Into how many shards a batch is cut. It does not follow the machine, so that sums come out in the
/// same order everywhere.
const SHARDS: usize = 2;
/// Rows of logits held at a time.
const HEAD_CHUNK: usize = 256;

/// Runs a batch through the decoder and keeps what [`backward`] needs.
pub fn forward(decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> Result<(Outputs, Tape)> {
    let (outputs, shards) = run(decoder, batch, wanted, Keep::Activations)?;
    Ok((outputs, Tape { shards, wanted }))
}

/// Runs a batch through the decoder for its outputs alone, holding one layer at a time.
pub fn infer(decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> Result<Outputs> {
    Ok(run(decoder, batch, wanted, Keep::Nothing)?.0)
}

/// What a forward pass leaves for a backward pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Activations,
    Nothing,
}

fn run(decoder: &Decoder, batch: &[Sequence], wanted: Wanted, keep: Keep) -> Result<(Outputs, Vec<Shard>)> {
    let weights = Weights::new(decoder)?;
    for sequence in batch {
        assert!(!sequence.tokens.is_empty(), "a sequence without tokens");
        decoder.check_length(sequence.tokens.len())?;
    }
    let (outputs, shards): (Vec<_>, Vec<_>) = split(batch)
        .into_par_iter()
        .enumerate()
        .map(|(index, part)| match keep {
            Keep::Activations => forward_shard(&weights.of_shard(index), part, wanted, keep),
            Keep::Nothing => forward_shard(&weights, part, wanted, keep),
        })
        .unzip();
    let mut all = Outputs::default();
    for part in outputs {
        all.logprobs.extend(part.logprobs);
        all.hidden.extend(part.hidden);
    }
    Ok((all, shards))
}

/// Adds to `gradients` those that follow from the gradient of the outputs.
pub fn backward(decoder: &Decoder, tape: Tape, output_gradient: &Outputs, gradients: &mut Gradients) -> Result<()> {
    let weights = Weights::new(decoder)?;
    let wanted = tape.wanted;
    let mut start = 0;
    let parts: Vec<_> = tape
        .shards
        .into_iter()
        .map(|shard| {
            let range = start..start + shard.packed.counts.len();
            start = range.end;
            (shard, range)
        })
        .collect();
    let partial: Vec<Gradients> = parts
        .into_par_iter()
        .enumerate()
        .map(|(index, (shard, range))| {
            let mut gradients = Gradients::zeros(decoder);
            let mut backward = Backward {
                weights: &weights.of_shard(index),
                gradients: &mut gradients,
            };
            let logprobs = output_gradient.logprobs.get(range.clone()).unwrap_or_default().concat();
            let hidden = output_gradient.hidden.get(range).unwrap_or_default().concat();
            backward.shard(shard, wanted, &logprobs, &hidden);
            gradients
        })
        .collect();
    partial.iter().for_each(|part| gradients.add(part));
    Ok(())
}

/// Contiguous parts of about equally many tokens.
fn split(batch: &[Sequence]) -> Vec<&[Sequence]> {
    let total: usize = batch.iter().map(|sequence| sequence.tokens.len()).sum();
    let mut parts = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, sequence) in batch.iter().enumerate() {
        tokens += sequence.tokens.len();
        if tokens * SHARDS >= total * (parts.len() + 1) {
            parts.push(&batch[start..=index]);
            start = index + 1;
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn pack(batch: &[Sequence], wanted: Wanted) -> Packed {
    let mut packed = Packed {
        tokens: Vec::new(),
        positions: Vec::new(),
        starts: vec![0],
        rows: Vec::new(),
        counts: Vec::new(),
        targets: Vec::new(),
    };
    for sequence in batch {
        let start = packed.tokens.len();
        packed.tokens.extend_from_slice(&sequence.tokens);
        packed.positions.extend(0..sequence.tokens.len() as u32);
        packed.starts.push(packed.tokens.len());
        let before = packed.rows.len();
        if wanted == Wanted::LastHidden {
            packed.rows.push(packed.tokens.len() - 1);
        } else {
            assert!(sequence.completion > 0, "a completion needs a token before it");
            packed
                .rows
                .extend(start + sequence.completion - 1..packed.tokens.len() - 1);
            packed
                .targets
                .extend_from_slice(&sequence.tokens[sequence.completion..]);
        }
        packed.counts.push(packed.rows.len() - before);
    }
    packed
}

fn forward_shard(weights: &Weights<'_>, batch: &[Sequence], wanted: Wanted, keep: Keep) -> (Outputs, Shard) {
    let packed = pack(batch, wanted);
    let layout = &weights.decoder.layout;
    let mut stream = weights.embed(&packed.tokens);
    let mut layers = Vec::with_capacity(layout.layers.len());
    let mut scratch = AttentionScratch::default();
    for layer in &layout.layers {
        let projected = weights.project(layer, &stream, &packed.positions);
        let mut attended = vec![0.0; projected.query.len()];
        attend_packed(
            weights.config(),
            layer.attention,
            &packed.starts,
            [&projected.query, &projected.key, &projected.value],
            &mut attended,
            &mut scratch,
        );
        let (output, mixed) = weights.mix(layer, &stream, &attended);
        let input = std::mem::replace(&mut stream, output);
        if keep == Keep::Activations {
            layers.push(LayerActivations {
                input,
                projected,
                attended,
                mixed,
            });
        }
    }
    let width = weights.config().hidden;
    let hidden = weights.norm(&gather_rows(&stream, &packed.rows, width), layout.norm);
    let mut outputs = Outputs::default();
    let mut log_sums = Vec::new();
    if let Some(temperature) = wanted.temperature() {
        let logprobs = selected_logprobs(weights, &hidden, &packed.targets, temperature, &mut log_sums);
        outputs.logprobs = by_sequence(&logprobs, &packed.counts, 1);
    }
    if wanted.hidden() {
        outputs.hidden = by_sequence(&hidden, &packed.counts, width);
    }
    let shard = Shard {
        packed,
        layers,
        stream,
        hidden,
        log_sums,
    };
    (outputs, shard)
}

/// Cuts `values` into one vector a sequence, `count · width` long.
fn by_sequence(values: &[f32], counts: &[usize], width: usize) -> Vec<Vec<f32>> {
    let mut start = 0;
    counts
        .iter()
        .map(|count| {
            let end = start + count * width;
            let part = values[start..end].to_vec();
            start = end;
            part
        })
        .collect()
}

/// `log p(target)` after each hidden state `(M, hidden)`; keeps the log denominators.
fn selected_logprobs(
    weights: &Weights<'_>,
    hidden: &[f32],
    targets: &[u32],
    temperature: f32,
    log_sums: &mut Vec<f32>,
) -> Vec<f32> {
    let (width, vocab) = (weights.config().hidden, weights.config().vocab);
    let mut logprobs = Vec::with_capacity(targets.len());
    for (hidden, targets) in hidden.chunks(HEAD_CHUNK * width).zip(targets.chunks(HEAD_CHUNK)) {
        let mut logits = weights.logits(hidden);
        for (row, target) in logits.chunks_exact_mut(vocab).zip(targets) {
            scale(row, temperature);
            let log_sum = kernels::log_sum_exp(row);
            log_sums.push(log_sum);
            logprobs.push(row[*target as usize] - log_sum);
        }
    }
    logprobs
}

fn scale(row: &mut [f32], temperature: f32) {
    if temperature != 1.0 {
        row.iter_mut().for_each(|x| *x /= temperature);
    }
}

/// The backward pass of one shard, adding to its own gradients.
struct Backward<'a> {
    weights: &'a Weights<'a>,
    gradients: &'a mut Gradients,
}

impl Backward<'_> {
    fn shard(&mut self, shard: Shard, wanted: Wanted, dlogprobs: &[f32], dhidden_out: &[f32]) {
        let weights = self.weights;
        let layout = &weights.decoder.layout;
        let width = weights.config().hidden;
        let mut dhidden = vec![0.0; shard.hidden.len()];
        if !dhidden_out.is_empty() {
            dhidden.copy_from_slice(dhidden_out);
        }
        if let Some(temperature) = wanted.temperature()
            && !dlogprobs.is_empty()
        {
            self.head(&shard, temperature, dlogprobs, &mut dhidden);
        }
        let stream = gather_rows(&shard.stream, &shard.packed.rows, width);
        let mut dselected = vec![0.0; stream.len()];
        self.norm(layout.norm, &stream, &dhidden, &mut dselected);
        let mut dstream = vec![0.0; shard.stream.len()];
        for (row, gradient) in shard.packed.rows.iter().zip(dselected.chunks_exact(width)) {
            kernels::add(&mut dstream[row * width..][..width], gradient);
        }
        let lowest = weights.decoder.lowest_learning();
        let layers = layout.layers.iter().zip(shard.layers).rev();
        for (layer, activations) in layers.take(layout.layers.len() - lowest) {
            self.layer(layer, activations, &shard.packed, &mut dstream);
        }
        if !self.learns(layout.embedding) {
            return;
        }
        if let Some(scale) = weights.embedding_scale() {
            kernels::scale(&mut dstream, scale);
        }
        let dembedding = &mut self.gradients.0[layout.embedding];
        for (token, gradient) in shard.packed.tokens.iter().zip(dstream.chunks_exact(width)) {
            kernels::add(&mut dembedding[*token as usize * width..][..width], gradient);
        }
    }

    /// The output projection and the log-softmax, logits recomputed chunk by chunk:
    /// `d log p(t) / d logits = onehot(t) - softmax`.
    fn head(&mut self, shard: &Shard, temperature: f32, dlogprobs: &[f32], dhidden: &mut [f32]) {
        let config = self.weights.config();
        let (width, vocab) = (config.hidden, config.vocab);
        let head = self.weights.decoder.layout.head;
        for start in (0..dlogprobs.len()).step_by(HEAD_CHUNK) {
            let end = (start + HEAD_CHUNK).min(dlogprobs.len());
            let hidden = &shard.hidden[start * width..end * width];
            let mut logits = self.weights.logits(hidden);
            let capped = config.final_softcap.map(|cap| (cap, logits.clone()));
            for (row, index) in logits.chunks_exact_mut(vocab).zip(start..end) {
                scale(row, temperature);
                let gradient = dlogprobs[index] / temperature;
                kernels::negative_softmax(row, shard.log_sums[index], gradient);
                row[shard.packed.targets[index] as usize] += gradient;
            }
            if let Some((cap, capped)) = capped {
                kernels::softcap_backward(&capped, cap, &mut logits);
            }
            let rows = end - start;
            let dlogits = Mat::new(&logits, rows, vocab);
            kernels::matmul(
                MatMut::new(&mut dhidden[start * width..end * width], rows, width),
                dlogits,
                Mat::new(self.weights.get(head), vocab, width),
                Write::Accumulate,
            );
            if self.learns(head) {
                kernels::matmul(
                    MatMut::new(&mut self.gradients.0[head], vocab, width),
                    dlogits.t(),
                    Mat::new(hidden, rows, width),
                    Write::Accumulate,
                );
            }
        }
    }

    /// Whether parameter `index` gets a gradient.
    fn learns(&self, index: usize) -> bool {
        !self.gradients.0[index].is_empty()
    }

    /// Turns `dstream` from the gradient of a layer's output into that of its input.
    fn layer(&mut self, layer: &LayerLayout, activations: LayerActivations, packed: &Packed, dstream: &mut [f32]) {
        let LayerActivations {
            input,
            projected,
            attended,
            mixed,
        } = activations;
        let [attention_output, mlp_output] = &mixed.before_post_norms;
        let [attention_norm, mlp_norm] = [0, 1].map(|which| layer.post_norms.map(|norms| norms[which]));
        let doutput = self.before_norm(mlp_norm, mlp_output, dstream);
        self.mlp(
            layer,
            &mixed.middle,
            [mixed.gate, mixed.up],
            doutput.as_deref(),
            dstream,
        );
        let doutput = self.before_norm(attention_norm, attention_output, dstream);
        let tensors = [&projected.query[..], &projected.key, &projected.value];
        let gradients = self.attention(layer, &attended, tensors, packed, doutput.as_deref().unwrap_or(dstream));
        self.queries_and_keys(layer, &input, projected.before_qk_norms, gradients, packed, dstream);
    }

    /// The gradient of what a norm read, if there is the norm.
    fn before_norm(&mut self, norm: Option<usize>, x: &[f32], dy: &[f32]) -> Option<Vec<f32>> {
        norm.map(|index| {
            let mut dx = vec![0.0; x.len()];
            self.norm(index, x, dy, &mut dx);
            dx
        })
    }

    /// The MLP of which the output's gradient is `doutput`, or `dstream` itself; adds to `dstream`.
    /// What is cheap to compute again was not kept.
    fn mlp(
        &mut self,
        layer: &LayerLayout,
        middle: &[f32],
        [mut gate, mut up]: [Vec<f32>; 2],
        doutput: Option<&[f32]>,
        dstream: &mut [f32],
    ) {
        let weights = self.weights;
        let activation = weights.config().activation;
        let mut activated = gate.clone();
        kernels::gated(activation, &mut activated, &up);
        let mut dactivated = vec![0.0; activated.len()];
        self.linear(&layer.down, &activated, doutput.unwrap_or(dstream), &mut dactivated);
        kernels::gated_backward(activation, &mut gate, &mut up, &dactivated);
        let normed = weights.norm(middle, layer.mlp_norm);
        let mut dnormed = vec![0.0; normed.len()];
        self.linear(&layer.gate, &normed, &gate, &mut dnormed);
        self.linear(&layer.up, &normed, &up, &mut dnormed);
        self.norm(layer.mlp_norm, middle, &dnormed, dstream);
    }

    /// The gradients of rotated queries and keys and of values.
    fn attention(
        &mut self,
        layer: &LayerLayout,
        attended: &[f32],
        tensors: [&[f32]; 3],
        packed: &Packed,
        doutput: &[f32],
    ) -> [Vec<f32>; 3] {
        let mut dattended = vec![0.0; attended.len()];
        self.linear(&layer.output, attended, doutput, &mut dattended);
        attend_packed_backward(
            self.weights.config(),
            layer.attention,
            &packed.starts,
            tensors,
            &dattended,
        )
    }

    /// From the gradients of queries, keys and values to that of the layer's input, added to `dstream`.
    fn queries_and_keys(
        &mut self,
        layer: &LayerLayout,
        input: &[f32],
        before_norms: [Vec<f32>; 2],
        [mut dquery, mut dkey, dvalue]: [Vec<f32>; 3],
        packed: &Packed,
        dstream: &mut [f32],
    ) {
        let weights = self.weights;
        let widths = [weights.config().query_width(), weights.config().kv_width()];
        for (which, gradient) in [&mut dquery, &mut dkey].into_iter().enumerate() {
            let width = widths[which];
            weights.rotate(gradient, layer.rope, width, &packed.positions, Rotation::Back);
            let norm = layer.qk_norms.map(|norms| norms[which]);
            if let Some(before) = self.before_norm(norm, &before_norms[which], gradient) {
                *gradient = before;
            }
        }
        let normed = weights.norm(input, layer.attention_norm);
        let mut dnormed = vec![0.0; normed.len()];
        self.linear(&layer.query, &normed, &dquery, &mut dnormed);
        self.linear(&layer.key, &normed, &dkey, &mut dnormed);
        self.linear(&layer.value, &normed, &dvalue, &mut dnormed);
        self.norm(layer.attention_norm, input, &dnormed, dstream);
    }

    /// Adds the gradients of `y = x · Wᵀ (+ bias) (+ adapter)` to those of its parameters, and to `dx`.
    fn linear(&mut self, layout: &LinearLayout, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let weight = self.weights.get(layout.weight);
        let (outputs, inputs) = (layout.outputs, layout.inputs);
        let rows = x.len() / inputs;
        if self.learns(layout.weight) {
            kernels::matmul(
                MatMut::new(&mut self.gradients.0[layout.weight], outputs, inputs),
                Mat::new(dy, rows, outputs).t(),
                Mat::new(x, rows, inputs),
                Write::Accumulate,
            );
        }
        if let Some(bias) = layout.bias.filter(|bias| self.learns(*bias)) {
            kernels::add_rows(&mut self.gradients.0[bias], dy);
        }
        if let Some(adapter) = &layout.adapter {
            let back = AdapterBackward::new(self.weights, layout, adapter, x, dy);
            back.add_a(&mut self.gradients.0[adapter.a]);
            back.add_b(&mut self.gradients.0[adapter.b]);
            back.add_input(dx);
        }
        kernels::matmul(
            MatMut::new(dx, rows, inputs),
            Mat::new(dy, rows, outputs),
            Mat::new(weight, outputs, inputs),
            Write::Accumulate,
        );
    }

    /// Adds the gradients of an RMSNorm to those of its weights, and to `dx`.
    fn norm(&mut self, index: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let constants = self.weights.norm_constants();
        let weight = self.weights.get(index);
        let mut unread = Vec::new();
        let mut gradient = &mut self.gradients.0[index];
        if gradient.is_empty() {
            unread.resize(weight.len(), 0.0);
            gradient = &mut unread;
        }
        kernels::rms_norm_backward(x, weight, constants, dy, dx, gradient);
    }
}
