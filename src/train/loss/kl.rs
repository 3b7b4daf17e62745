//! KL(policy ‖ reference): estimates of it on tokens drawn from the policy, and what its penalty weighs.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::surrogate::MAX_LOG_RATIO;

/// Per-token estimates of KL(policy ‖ reference) on tokens drawn from the policy (Schulman 2020, "Approximating KL
/// divergence"), with `l = log π - log π_ref`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum KlEstimator {
    /// `l`: unbiased, may be negative.
    #[default]
    K1,
    /// `l² / 2`: biased, never negative, the same for either direction.
    K2,
    /// `exp(-l) - 1 + l`: unbiased, never negative.
    K3,
}

impl KlEstimator {
    pub fn estimate(self, logprob: f32, reference: f32) -> f32 {
        let log_ratio = f64::from(logprob) - f64::from(reference);
        match self {
            Self::K1 => log_ratio as f32,
            Self::K2 => (0.5 * log_ratio * log_ratio) as f32,
            Self::K3 => ((-log_ratio).exp_m1() + log_ratio) as f32,
        }
    }

    /// The same `(B, T)`, differentiably, where the penalty is a part of the loss; 0 where `mask` is.
    pub fn penalty(self, logprobs: &Tensor, reference: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let log_ratio = ((logprobs - reference)? * mask)?;
        match self {
            Self::K1 => Ok(log_ratio),
            Self::K2 => log_ratio.sqr()? * 0.5,
            Self::K3 => {
                let inverse = log_ratio.neg()?.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)?.exp()?;
                (inverse + log_ratio)? - 1.0
            }
        }
    }
}

/// Who sets the weight of a KL penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KlController {
    Fixed,
    /// Moves it towards a KL of `target` nats a completion (Ziegler et al. 2019, section 2.2).
    Adaptive {
        target: f64,
        /// Completions over which an error of a fifth grows the weight by a factor of about `e^(1/5)`.
        horizon: f64,
    },
}

/// A relative error beyond this counts as this.
const MAX_ERROR: f64 = 0.2;

impl KlController {
    /// The weight after an iteration of so many completions, with a mean KL of `kl`: `β (1 + e n / horizon)` with
    /// `e = clip(kl / target - 1, -1/5, 1/5)`. A KL that is no number changes nothing.
    pub fn next(self, coefficient: f64, kl: f64, completions: usize) -> f64 {
        match self {
            Self::Adaptive { target, horizon } if kl.is_finite() => {
                let error = (kl / target - 1.0).clamp(-MAX_ERROR, MAX_ERROR);
                coefficient * (1.0 + error * completions as f64 / horizon)
            }
            Self::Adaptive { .. } | Self::Fixed => coefficient,
        }
    }
}
