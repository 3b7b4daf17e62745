//! Supervised fine-tuning: weighted negative log-likelihood.

use candle_core::{Result, Tensor};

/// `-Σ w·log p / Σ w` over the tokens of a batch; `logprobs` and `weights` are of one shape.
pub fn loss(logprobs: &Tensor, weights: &Tensor) -> Result<Tensor> {
    (logprobs * weights)?.sum_all()?.div(&weights.sum_all()?)?.neg()
}
