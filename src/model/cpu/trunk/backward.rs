//! The backward pass: shards go through the layers in step.
//!
//! The first shard adds to the gradients themselves, the others to buffers of the parameters that the step
//! concerns, which are then added in order. So the sums come out the same on any machine, and besides the
//! gradients there is a copy of one layer's (or of the head's) for every further shard.

use rayon::prelude::*;

use super::head::{self, Logits};
use super::{Activations, Gradients, Kept, Outputs, Packed, Shard, Tape, Wanted, forward_layer};
use super::{Weights, gather_rows, threads_of_a_shard};
use crate::error::Result;
use crate::model::cpu::adapter::AdapterBackward;
use crate::model::cpu::attention::{AttentionScratch, attend_packed_backward};
use crate::model::cpu::kernels::{self, Mat, MatMut, Rotation, Write};
use crate::model::decoder::{Decoder, LayerLayout, LinearLayout};

/// Adds to `gradients` those that follow from the gradient of the outputs.
pub fn backward(decoder: &Decoder, tape: Tape, output_gradient: &Outputs, gradients: &mut Gradients) -> Result<()> {
    let weights = Weights::training(decoder, threads_of_a_shard())?;
    let layout = &decoder.layout;
    let wanted = tape.wanted;
    let mut flights: Vec<Flight> = tape.shards.into_iter().map(Flight::new).collect();
    in_step(
        &weights,
        &mut flights,
        gradients,
        [layout.head, layout.norm],
        |backward, flight| {
            let logprobs = flight.shard.packed.gather(&output_gradient.logprobs);
            let hidden = flight.shard.packed.gather(&output_gradient.hidden);
            flight.dstream = backward.outputs(&flight.shard, wanted, &logprobs, hidden);
        },
    );
    for layer in layout.layers[decoder.lowest_learning()..].iter().rev() {
        in_step(
            &weights,
            &mut flights,
            gradients,
            layer.parameters(),
            |backward, flight| {
                if let Some(kept) = flight.shard.layers.pop() {
                    backward.layer(layer, kept, &flight.shard.packed, &mut flight.dstream);
                }
            },
        );
    }
    let width = decoder.config.hidden;
    let dembedding = &mut gradients.0[layout.embedding];
    if dembedding.is_empty() {
        return Ok(());
    }
    for mut flight in flights {
        if let Some(scale) = weights.embedding_scale() {
            kernels::scale(&mut flight.dstream, scale);
        }
        for (token, gradient) in flight
            .shard
            .packed
            .tokens
            .iter()
            .zip(flight.dstream.chunks_exact(width))
        {
            kernels::add(&mut dembedding[*token as usize * width..][..width], gradient);
        }
    }
    Ok(())
}

/// A shard on its way back.
struct Flight {
    shard: Shard,
    /// The gradient of the residual stream where the shard is now.
    dstream: Vec<f32>,
}

impl Flight {
    fn new(shard: Shard) -> Self {
        Self {
            shard,
            dstream: Vec::new(),
        }
    }
}

/// Numbers that are added at a time.
const ADDED: usize = 1 << 16;

/// One step of every shard, which concerns the gradients of `parameters` alone.
fn in_step(
    weights: &Weights<'_>,
    flights: &mut [Flight],
    gradients: &mut Gradients,
    parameters: impl IntoIterator<Item = usize>,
    step: impl Fn(&mut Backward<'_>, &mut Flight) + Sync,
) {
    let mut parameters: Vec<usize> = parameters.into_iter().collect();
    parameters.sort_unstable();
    parameters.dedup();
    let of_first: Vec<Vec<f32>> = parameters
        .iter()
        .map(|index| std::mem::take(&mut gradients.0[*index]))
        .collect();
    let others = (1..flights.len()).map(|_| of_first.iter().map(|buffer| vec![0.0; buffer.len()]).collect());
    let mut sums: Vec<Vec<Vec<f32>>> = others.collect();
    sums.insert(0, of_first);
    flights
        .par_iter_mut()
        .zip(&mut sums)
        .enumerate()
        .for_each(|(index, (flight, buffers))| {
            let mut backward = Backward {
                weights: &weights.of_shard(index),
                parameters: &parameters,
                buffers,
            };
            step(&mut backward, flight);
        });
    let mut sums = sums.into_iter();
    let Some(mut first) = sums.next() else { return };
    for other in sums {
        for (sum, other) in first.iter_mut().zip(&other) {
            let chunks = sum.par_chunks_mut(ADDED).zip(other.par_chunks(ADDED));
            chunks.for_each(|(sum, other)| kernels::add(sum, other));
        }
    }
    for (index, sum) in parameters.iter().zip(first) {
        gradients.0[*index] = sum;
    }
}

/// The backward pass of one shard, adding to gradients of its own.
struct Backward<'a> {
    weights: &'a Weights<'a>,
    /// The parameters that the step concerns, in order, and their gradients.
    parameters: &'a [usize],
    buffers: &'a mut [Vec<f32>],
}

impl Backward<'_> {
    /// Whether parameter `index` gets a gradient.
    fn learns(&mut self, index: usize) -> bool {
        !self.gradient(index).is_empty()
    }

    /// The gradient of parameter `index`; empty for one that is frozen.
    fn gradient(&mut self, index: usize) -> &mut [f32] {
        let place = self.parameters.binary_search(&index);
        &mut self.buffers[place.expect("a step names every parameter that it concerns")]
    }

    /// From the gradients of what left the trunk to that of the last layer's output.
    fn outputs(&mut self, shard: &Shard, wanted: Wanted, dlogprobs: &[f32], dhidden: Vec<f32>) -> Vec<f32> {
        let layout = &self.weights.decoder.layout;
        let width = self.weights.config().hidden;
        let mut dhidden = match dhidden.is_empty() {
            true => vec![0.0; shard.hidden.len()],
            false => dhidden,
        };
        if let Some(temperature) = wanted.temperature()
            && !dlogprobs.is_empty()
        {
            self.head(shard, temperature, dlogprobs, &mut dhidden);
        }
        let stream = gather_rows(&shard.stream, &shard.packed.rows, width);
        let mut dselected = vec![0.0; stream.len()];
        self.norm(layout.norm, &stream, &dhidden, &mut dselected);
        let mut dstream = vec![0.0; shard.stream.len()];
        for (row, gradient) in shard.packed.rows.iter().zip(dselected.chunks_exact(width)) {
            kernels::add(&mut dstream[row * width..][..width], gradient);
        }
        dstream
    }

    /// The output projection and the log-softmax. A frozen one left its derivative; for one that learns the logits are
    /// computed again, chunk by chunk.
    fn head(&mut self, shard: &Shard, temperature: f32, dlogprobs: &[f32], dhidden: &mut [f32]) {
        let (weights, config) = (self.weights, self.weights.config());
        let (width, vocab) = (config.hidden, config.vocab);
        if !shard.slopes.is_empty() {
            let rows = dhidden.chunks_exact_mut(width).zip(shard.slopes.chunks_exact(width));
            for ((dhidden, slope), coefficient) in rows.zip(dlogprobs) {
                kernels::add_scaled(dhidden, slope, *coefficient);
            }
            return;
        }
        let head = weights.decoder.layout.head;
        for start in (0..dlogprobs.len()).step_by(head::CHUNK) {
            let end = (start + head::CHUNK).min(dlogprobs.len());
            let hidden = &shard.hidden[start * width..end * width];
            let tokens = (start..end).map(|at| (shard.log_sums[at], shard.packed.targets[at], dlogprobs[at]));
            let dlogits = Logits::new(weights, hidden, temperature, true).into_gradient(tokens);
            head::add_dhidden(weights, &dlogits, &mut dhidden[start * width..end * width]);
            if self.learns(head) {
                let rows = end - start;
                weights.multiply(
                    MatMut::new(self.gradient(head), vocab, width),
                    Mat::new(&dlogits, rows, vocab).t(),
                    Mat::new(hidden, rows, width),
                    Write::Accumulate,
                );
            }
        }
    }

    /// Turns `dstream` from the gradient of a layer's output into that of its input.
    fn layer(&mut self, layer: &LayerLayout, kept: Kept, packed: &Packed, dstream: &mut [f32]) {
        let Kept { input, activations } = kept;
        let Activations {
            projected,
            attended,
            mixed,
        } = activations.unwrap_or_else(|| self.again(layer, packed, &input));
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

    /// What a layer computed, a second time: what its backward pass needs alone.
    fn again(&self, layer: &LayerLayout, packed: &Packed, input: &[f32]) -> Activations {
        let mut scratch = AttentionScratch::default();
        let (activated, mut activations) = forward_layer(self.weights, layer, packed, input, &mut scratch);
        if layer.post_norms.is_some() {
            self.weights.feed_forward(layer, &activated, &mut activations.mixed);
        }
        activations
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
            &packed.segments,
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
        let weights = self.weights;
        let (outputs, inputs) = (layout.outputs, layout.inputs);
        let rows = x.len() / inputs;
        if self.learns(layout.weight) {
            weights.multiply(
                MatMut::new(self.gradient(layout.weight), outputs, inputs),
                Mat::new(dy, rows, outputs).t(),
                Mat::new(x, rows, inputs),
                Write::Accumulate,
            );
        }
        if let Some(bias) = layout.bias
            && self.learns(bias)
        {
            kernels::add_rows(self.gradient(bias), dy);
        }
        if let Some(adapter) = &layout.adapter {
            let back = AdapterBackward::new(weights, layout, adapter, x, dy);
            back.add_a(self.gradient(adapter.a));
            back.add_b(self.gradient(adapter.b));
            back.add_input(dx);
        }
        weights.multiply(
            MatMut::new(dx, rows, inputs),
            Mat::new(dy, rows, outputs),
            Mat::new(weights.get(layout.weight), outputs, inputs),
            Write::Accumulate,
        );
    }

    /// Adds the gradients of an RMSNorm to those of its weights, and to `dx`.
    fn norm(&mut self, index: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let constants = self.weights.norm_constants();
        let weight = self.weights.get(index);
        let mut unread = Vec::new();
        let mut gradient = self.gradient(index);
        if gradient.is_empty() {
            unread.resize(weight.len(), 0.0);
            gradient = &mut unread;
        }
        kernels::rms_norm_backward(x, weight, constants, dy, dx, gradient);
    }
}
