//! The output projection in training: from hidden states to the log-probabilities of selected tokens, and back.
//!
//! The logits exist a chunk of rows at a time. Where the projection is frozen (adapters), its derivative is taken while they
//! are at hand: `d log p(t) / d hidden = (W[t] - Σ p(v) W[v]) / temperature`, of which a loss scales the rows. So the way
//! back needs no logits. Where it learns, their gradient is needed whole, and they are computed again.

use super::super::Weights;
use super::super::kernels::{self, Mat, MatMut, Write};

/// Rows of logits held at a time.
pub const CHUNK: usize = 256;

/// How the model stood before a token that it was to predict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Of the distribution over the vocabulary, in nats.
    pub entropy: f32,
    /// Whether it held the token for the likeliest; of equals the first is.
    pub likeliest: bool,
}

/// What is known of the selected tokens after a forward pass. A token each.
#[derive(Default)]
pub struct Selected {
    pub logprobs: Vec<f32>,
    /// Logs of the softmax's denominators.
    pub log_sums: Vec<f32>,
    pub outlooks: Vec<Outlook>,
    /// `(M, hidden)`: the derivatives of the log-probabilities by the hidden states, if they were asked for.
    pub slopes: Vec<f32>,
}

/// Of the tokens `targets` after each hidden state `(M, hidden)`.
pub fn select(weights: &Weights<'_>, hidden: &[f32], targets: &[u32], temperature: f32, slopes: bool) -> Selected {
    let config = weights.config();
    let (width, vocab) = (config.hidden, config.vocab);
    let mut selected = Selected::default();
    if slopes {
        selected.slopes = vec![0.0; hidden.len()];
    }
    for (chunk, (hidden, targets)) in hidden.chunks(CHUNK * width).zip(targets.chunks(CHUNK)).enumerate() {
        let logits = Logits::new(weights, hidden, temperature, slopes);
        let first = chunk * CHUNK;
        for (row, target) in logits.values.chunks_exact(vocab).zip(targets) {
            let target = *target as usize;
            let summary = kernels::summary(row);
            selected.log_sums.push(summary.log_sum);
            selected.logprobs.push(row[target] - summary.log_sum);
            selected.outlooks.push(Outlook {
                entropy: summary.entropy,
                likeliest: row[target] == summary.max && row[..target].iter().all(|other| *other < summary.max),
            });
        }
        if slopes {
            let log_sums = &selected.log_sums[first..];
            let tokens = log_sums
                .iter()
                .zip(targets)
                .map(|(log_sum, target)| (*log_sum, *target, 1.0));
            let gradient = logits.into_gradient(tokens);
            let out = &mut selected.slopes[first * width..][..hidden.len()];
            add_dhidden(weights, &gradient, out);
        }
    }
    selected
}

/// Adds `dlogits · W` to the gradient of hidden states.
pub fn add_dhidden(weights: &Weights<'_>, dlogits: &[f32], dhidden: &mut [f32]) {
    let (width, vocab) = (weights.config().hidden, weights.config().vocab);
    let rows = dhidden.len() / width;
    weights.multiply(
        MatMut::new(dhidden, rows, width),
        Mat::new(dlogits, rows, vocab),
        Mat::new(weights.get(weights.decoder.layout.head), vocab, width),
        Write::Accumulate,
    );
}

/// Logits of a chunk, after the soft-cap if there is one, divided by the temperature.
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
    temperature: f32,
    /// The cap, and the logits before they were divided, if they will go back.
    capped: Option<(f32, Vec<f32>)>,
}

impl Logits {
    pub fn new(weights: &Weights<'_>, hidden: &[f32], temperature: f32, goes_back: bool) -> Self {
        let config = weights.config();
        let mut values = weights.logits(hidden);
        let capped = config.final_softcap.filter(|_| goes_back);
        let capped = capped.map(|cap| (cap, values.clone()));
        if temperature != 1.0 {
            values.iter_mut().for_each(|x| *x /= temperature);
        }
        Self {
            values,
            vocab: config.vocab,
            temperature,
            capped,
        }
    }

    /// Of a sum of log-probabilities, the gradient with respect to the logits before cap and temperature:
    /// `d log p(t) / d logits = onehot(t) - softmax`. A row's log denominator, its token and its coefficient.
    pub fn into_gradient(self, tokens: impl Iterator<Item = (f32, u32, f32)>) -> Vec<f32> {
        let mut gradient = self.values;
        for (row, (log_sum, target, coefficient)) in gradient.chunks_exact_mut(self.vocab).zip(tokens) {
            let coefficient = coefficient / self.temperature;
            kernels::negative_softmax(row, log_sum, coefficient);
            row[target as usize] += coefficient;
        }
        if let Some((cap, capped)) = self.capped {
            kernels::softcap_backward(&capped, cap, &mut gradient);
        }
        gradient
    }
}
