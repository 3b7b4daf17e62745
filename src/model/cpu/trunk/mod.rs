//! Training: the decoder's forward and explicit backward pass.
//!
//! This is the seam of training. What leaves the trunk is small: the log-probability of each token
//! of each completion, and hidden states where a head asks for them. A loss is plain autograd over
//! those tensors and hands back their gradient; the trunk turns it into gradients of the weights, in
//! buffers that the trainer owns. No graph is kept, the logits exist in chunks only, and a loss never
//! sees a model.

//! Sequences of a batch that begin with the same prompt share its rows (`packing`), and the shards go through
//! the layers in step (`backward`), so that there is one set of gradients and a copy of one layer's.

mod backward;
mod head;
mod packing;

use rayon::prelude::*;

pub use self::backward::backward;
pub use self::head::Outlook;
use self::head::Selected;
use self::packing::Packed;
pub use self::packing::Segment;
use super::attention::{AttentionScratch, attend_packed};
use super::{Mixed, Projected, Weights, gather_rows};
use crate::error::Result;
use crate::model::decoder::{Decoder, LayerLayout};

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
    /// How the model stood before each of the completion's tokens, where their log-probabilities were wanted; no gradient
    /// has these.
    pub outlooks: Vec<Vec<Outlook>>,
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
}

/// What the backward pass needs of a forward pass.
pub struct Tape {
    shards: Vec<Shard>,
    wanted: Wanted,
}

/// A part of the batch, worked on by one thread.
struct Shard {
    packed: Packed,
    layers: Vec<Kept>,
    /// The residual stream after the last layer, before the final norm.
    stream: Vec<f32>,
    /// Normed hidden states at `packed.rows`.
    hidden: Vec<f32>,
    /// Log of the softmax's denominator at each of `packed.rows`, if log-probabilities were wanted.
    log_sums: Vec<f32>,
    /// The derivative of each log-probability by its hidden state, if the head is frozen.
    slopes: Vec<f32>,
}

/// What is left of a layer for its backward pass: its input, and what it computed unless that is to be
/// computed again (Chen et al. 2016).
struct Kept {
    input: Vec<f32>,
    activations: Option<Activations>,
}

/// What a layer computed on the way, as its backward pass needs it.
struct Activations {
    projected: Projected,
    /// `(N, heads · head_dim)`: the attention's output.
    attended: Vec<f32>,
    mixed: Mixed,
}

/// Runs a batch through the decoder and keeps what [`backward`] needs.
pub fn forward(decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> Result<(Outputs, Tape)> {
    let keep = match decoder.training.recompute {
        true => Keep::Inputs,
        false => Keep::Activations,
    };
    let (outputs, shards) = run(decoder, batch, wanted, keep)?;
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
    Inputs,
    Nothing,
}

fn run(decoder: &Decoder, batch: &[Sequence], wanted: Wanted, keep: Keep) -> Result<(Outputs, Vec<Shard>)> {
    let weights = Weights::training(decoder, threads_of_a_shard())?;
    for sequence in batch {
        assert!(!sequence.tokens.is_empty(), "a sequence without tokens");
        decoder.check_length(sequence.tokens.len())?;
    }
    let parts: Vec<(Told, Shard)> = packing::split(batch)
        .into_par_iter()
        .enumerate()
        .map(|(index, groups)| {
            let packed = packing::pack(batch, &groups, wanted);
            match keep {
                Keep::Nothing => forward_shard(&weights, packed, wanted, keep),
                Keep::Activations | Keep::Inputs => forward_shard(&weights.of_shard(index), packed, wanted, keep),
            }
        })
        .collect();
    let rows = |wanted: bool| if wanted { batch.len() } else { 0 };
    let (logprobs, hidden) = (rows(wanted.temperature().is_some()), rows(wanted.hidden()));
    let mut outputs = Outputs {
        logprobs: vec![Vec::new(); logprobs],
        hidden: vec![Vec::new(); hidden],
        outlooks: vec![Vec::new(); logprobs],
    };
    for ((logprobs, outlooks), shard) in &parts {
        shard.packed.scatter(logprobs, 1, &mut outputs.logprobs);
        shard.packed.scatter(outlooks, 1, &mut outputs.outlooks);
        shard
            .packed
            .scatter(&shard.hidden, decoder.config.hidden, &mut outputs.hidden);
    }
    Ok((outputs, parts.into_iter().map(|(_, shard)| shard).collect()))
}

/// Threads for the products of one shard.
fn threads_of_a_shard() -> usize {
    (rayon::current_num_threads() / packing::SHARDS).max(1)
}

/// The log-probabilities at `packed.rows`, and how the model stood there.
type Told = (Vec<f32>, Vec<Outlook>);

/// What is told of the tokens at `packed.rows` if it is wanted, and the shard.
fn forward_shard(weights: &Weights<'_>, packed: Packed, wanted: Wanted, keep: Keep) -> (Told, Shard) {
    let layout = &weights.decoder.layout;
    let mut stream = weights.embed(&packed.tokens);
    let mut layers = Vec::with_capacity(layout.layers.len());
    let mut scratch = AttentionScratch::default();
    for layer in &layout.layers {
        let (activated, mut activations) = forward_layer(weights, layer, &packed, &stream, &mut scratch);
        let output = weights.feed_forward(layer, &activated, &mut activations.mixed);
        let input = std::mem::replace(&mut stream, output);
        if keep != Keep::Nothing {
            layers.push(Kept {
                input,
                activations: (keep == Keep::Activations).then_some(activations),
            });
        }
    }
    let width = weights.config().hidden;
    let hidden = weights.norm(&gather_rows(&stream, &packed.rows, width), layout.norm);
    let selected = match wanted.temperature() {
        Some(temperature) => {
            let slopes = keep != Keep::Nothing && weights.decoder.parameters[layout.head].frozen;
            head::select(weights, &hidden, &packed.targets, temperature, slopes)
        }
        None => Selected::default(),
    };
    let shard = Shard {
        packed,
        layers,
        stream,
        hidden,
        log_sums: selected.log_sums,
        slopes: selected.slopes,
    };
    ((selected.logprobs, selected.outlooks), shard)
}

/// A layer up to its activated MLP, which is what the projection down reads.
fn forward_layer(
    weights: &Weights<'_>,
    layer: &LayerLayout,
    packed: &Packed,
    input: &[f32],
    scratch: &mut AttentionScratch,
) -> (Vec<f32>, Activations) {
    let projected = weights.project(layer, input, &packed.positions);
    let mut attended = vec![0.0; projected.query.len()];
    attend_packed(
        weights.config(),
        layer.attention,
        &packed.segments,
        [&projected.query, &projected.key, &projected.value],
        &mut attended,
        scratch,
    );
    let (activated, mixed) = weights.mix(layer, input, &attended);
    let activations = Activations {
        projected,
        attended,
        mixed,
    };
    (activated, activations)
}
