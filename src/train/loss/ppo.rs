//! Proximal policy optimisation (Schulman et al. 2017): advantages, the clipped losses and their
//! statistics.

use candle_core::{Result, Tensor};

use super::ops::masked_mean;

/// Log ratios beyond this are cut before the exponential, which would overflow; the clipped ratio has
/// long lost its gradient there.
const MAX_LOG_RATIO: f64 = 20.0;

/// Advantages and returns of one completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    pub advantages: Vec<f32>,
    pub returns: Vec<f32>,
}

/// Generalised advantage estimation (Schulman et al. 2016, equation 16) over the tokens of one
/// completion; the value after the last token is 0.
pub fn gae(rewards: &[f32], values: &[f32], gamma: f64, lambda: f64) -> Estimates {
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut running) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let value = f64::from(values[t]);
        let delta = f64::from(rewards[t]) + gamma * next_value - value;
        running = delta + gamma * lambda * running;
        advantages[t] = running as f32;
        next_value = value;
    }
    let returns = advantages
        .iter()
        .zip(values)
        .map(|(advantage, value)| advantage + value)
        .collect();
    Estimates { advantages, returns }
}

/// Shifts and scales the values of all rows together to mean 0 and (unbiased) variance 1.
pub fn whiten(rows: &mut [Vec<f32>]) {
    let count: usize = rows.iter().map(Vec::len).sum();
    if count < 2 {
        return;
    }
    let all = || rows.iter().flatten().map(|value| f64::from(*value));
    let mean = all().sum::<f64>() / count as f64;
    let variance = all().map(|value| (value - mean).powi(2)).sum::<f64>() / (count as f64 - 1.0);
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for value in rows.iter_mut().flatten() {
        *value = ((f64::from(*value) - mean) * scale) as f32;
    }
}

/// The clipping of [`loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipping {
    pub clip_range: f64,
    /// `None` leaves the value function unclipped.
    pub clip_range_value: Option<f64>,
    pub vf_coef: f64,
}

/// Tensors `(B, T)` of a batch; `mask` is 1 for the tokens of a completion.
pub struct PpoBatch<'a> {
    pub logprobs: &'a Tensor,
    pub old_logprobs: &'a Tensor,
    pub advantages: &'a Tensor,
    pub values: &'a Tensor,
    pub old_values: &'a Tensor,
    pub returns: &'a Tensor,
    pub mask: &'a Tensor,
}

/// What [`loss`] computes: scalars.
pub struct PpoLoss {
    /// `policy_loss + vf_coef · value_loss`.
    pub loss: Tensor,
    pub policy_loss: Tensor,
    pub value_loss: Tensor,
    /// Share of tokens whose ratio is clipped.
    pub clipfrac: Tensor,
    pub value_clipfrac: Tensor,
    /// `mean((log π - log π_old)²) / 2`.
    pub approx_kl: Tensor,
}

/// The mean over tokens of `max(-A·r, -A·clip(r, 1±ε))`, and half that of the (clipped) squared error
/// of the values.
pub fn loss(batch: &PpoBatch<'_>, clipping: Clipping) -> Result<PpoLoss> {
    let mask = batch.mask;
    // Masked out first: beyond a completion's end there is nothing to trust.
    let log_ratio = ((batch.logprobs - batch.old_logprobs)? * mask)?;
    let advantages = (batch.advantages * mask)?;
    let ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)?.exp()?;
    let clipped = ratio.clamp(1.0 - clipping.clip_range, 1.0 + clipping.clip_range)?;
    let plain_loss = (&advantages * &ratio)?.neg()?;
    let clipped_loss = (&advantages * clipped)?.neg()?;
    let policy_loss = masked_mean(&plain_loss.maximum(&clipped_loss)?, mask)?;
    let clipfrac = masked_mean(&clipped_loss.gt(&plain_loss)?.to_dtype(mask.dtype())?, mask)?;
    let (value_loss, value_clipfrac) = value_loss(batch, clipping.clip_range_value)?;
    let loss = (&policy_loss + (&value_loss * clipping.vf_coef)?)?;
    Ok(PpoLoss {
        loss,
        policy_loss,
        value_loss,
        clipfrac,
        value_clipfrac,
        approx_kl: (masked_mean(&log_ratio.sqr()?, mask)? * 0.5)?,
    })
}

fn value_loss(batch: &PpoBatch<'_>, clip_range: Option<f64>) -> Result<(Tensor, Tensor)> {
    let mask = batch.mask;
    let values = (batch.values * mask)?;
    let old_values = (batch.old_values * mask)?;
    let returns = (batch.returns * mask)?;
    let plain = (&values - &returns)?.sqr()?;
    let Some(range) = clip_range else {
        return Ok(((masked_mean(&plain, mask)? * 0.5)?, mask.zeros_like()?.mean_all()?));
    };
    let moved = (&values - &old_values)?.clamp(-range, range)?;
    let clipped = ((old_values + moved)? - returns)?.sqr()?;
    let share = masked_mean(&clipped.gt(&plain)?.to_dtype(mask.dtype())?, mask)?;
    Ok(((masked_mean(&plain.maximum(&clipped)?, mask)? * 0.5)?, share))
}

/// Per-token estimates of KL(policy ‖ reference) on tokens drawn from the policy (Schulman 2020).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlEstimator {
    /// `log π - log π_ref`: unbiased, may be negative.
    K1,
    /// `r - 1 - log r` with `r = π_ref / π`: unbiased, never negative.
    K3,
}

impl KlEstimator {
    pub fn estimate(self, logprob: f32, reference: f32) -> f32 {
        let log_ratio = f64::from(logprob) - f64::from(reference);
        match self {
            Self::K1 => log_ratio as f32,
            Self::K3 => ((-log_ratio).exp_m1() + log_ratio) as f32,
        }
    }
}
