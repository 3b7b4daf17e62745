//! AdamW (Loshchilov and Hutter 2019), gradient clipping and the learning-rate schedule.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::error::{Error, Result};
use crate::model::cpu::kernels::{self, AdamStep};

/// The shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    Constant,
    Linear,
    Cosine,
    /// Warm-up, a stable stretch, and a decay at the end (Hu et al. 2024, arXiv 2404.06395).
    Wsd,
}

/// How the learning rate falls in the decay of [`Schedule::Wsd`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    #[default]
    Linear,
    /// `1 - sqrt(progress)` (Hägele et al. 2024, arXiv 2405.18392).
    #[value(name = "1-sqrt")]
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// The share of all steps that decays where nothing else is said; Hu et al. find a tenth enough.
const DECAY_RATIO: f64 = 0.1;

/// The optimiser and its schedule; the learning rate belongs to the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct OptimConfig {
    /// Adam's decay of the first moment.
    #[arg(long, default_value_t = Self::default().adam_beta1, value_parser = bounds::share::<f64>)]
    pub adam_beta1: f64,
    /// Adam's decay of the second moment.
    #[arg(long, default_value_t = Self::default().adam_beta2, value_parser = bounds::share::<f64>)]
    pub adam_beta2: f64,
    /// Added to Adam's denominator.
    #[arg(long, default_value_t = Self::default().adam_epsilon, value_parser = bounds::amount::<f64>)]
    pub adam_epsilon: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = Self::default().weight_decay, value_parser = bounds::amount::<f64>)]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[arg(long, default_value_t = Self::default().max_grad_norm)]
    pub max_grad_norm: f64,
    /// Shape of the learning rate after warm-up. wsd: stable until the last steps, over which it decays.
    #[arg(long, value_enum, default_value_t = Self::default().lr_scheduler)]
    pub lr_scheduler: Schedule,
    /// Steps over which the learning rate rises to its full value.
    #[arg(long, default_value_t = Self::default().warmup_steps)]
    pub warmup_steps: usize,
    /// The same as a share of all steps, rounded up.
    #[arg(long, value_name = "SHARE", value_parser = bounds::share::<f64>, conflicts_with = "warmup_steps")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// For wsd: steps at the end over which the learning rate decays.
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<usize>,
    /// For wsd: the same as a share of all steps, rounded up [default: 0.1].
    #[arg(long, value_name = "SHARE", value_parser = bounds::share::<f64>, conflicts_with = "decay_steps")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_ratio: Option<f64>,
    /// For wsd: how it decays; 1-sqrt falls faster at first [default: linear].
    #[arg(long, value_enum, value_name = "SHAPE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_shape: Option<Decay>,
    /// Where the schedule ends, as a share of the learning rate.
    #[arg(long, default_value_t = Self::default().min_lr_ratio, value_parser = bounds::amount::<f64>)]
    pub min_lr_ratio: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            lr_scheduler: Schedule::Linear,
            warmup_steps: 0,
            warmup_ratio: None,
            decay_steps: None,
            decay_ratio: None,
            decay_shape: None,
            min_lr_ratio: 0.0,
        }
    }
}

impl OptimConfig {
    /// An error if a setting would do nothing.
    pub fn check(&self) -> Result<()> {
        let of_the_decay = [
            ("--decay-steps", self.decay_steps.is_some()),
            ("--decay-ratio", self.decay_ratio.is_some()),
            ("--decay-shape", self.decay_shape.is_some()),
        ];
        match of_the_decay.iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.lr_scheduler != Schedule::Wsd => {
                Err(Error::config(format!("{flag} has no effect")).help("it goes with --lr-scheduler wsd"))
            }
            _ => Ok(()),
        }
    }

    /// The learning rate of step `step` (from 0) of `total`, from its full value `peak`.
    pub fn rate(&self, peak: f64, step: usize, total: usize) -> f64 {
        let warmup_steps = self.warmup_ratio.map_or(self.warmup_steps, |ratio| share(ratio, total));
        let warmup = ((step + 1) as f64 / (warmup_steps.max(1)) as f64).min(1.0);
        let progress = step as f64 / total.max(1) as f64;
        let shape = match self.lr_scheduler {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Wsd => self.decayed(step, total),
        };
        peak * warmup * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * shape)
    }

    /// The steps at the end of `total` over which [`Schedule::Wsd`] decays.
    pub fn decaying(&self, total: usize) -> usize {
        let ratio = self.decay_ratio.unwrap_or(DECAY_RATIO);
        self.decay_steps.unwrap_or_else(|| share(ratio, total)).min(total)
    }

    /// What the decay of the last steps leaves: 1 at its first step, and never 0 before the end.
    fn decayed(&self, step: usize, total: usize) -> f64 {
        let steps = self.decaying(total);
        let done = step.saturating_sub(total - steps);
        let progress = done as f64 / steps.max(1) as f64;
        match self.decay_shape.unwrap_or_default() {
            Decay::Linear => 1.0 - progress,
            Decay::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

/// A share of all steps, rounded up.
fn share(ratio: f64, total: usize) -> usize {
    // A product a rounding error above a whole number is that number.
    (ratio * total as f64 - 1e-9).ceil() as usize
}

/// Numbers that a thread works on at a time.
const CHUNK: usize = 1 << 16;

/// A parameter's place in the optimiser.
struct Slot {
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    decays: bool,
    /// Multiplies the learning rate.
    rate_factor: f64,
}

pub struct AdamW {
    config: OptimConfig,
    slots: Vec<Slot>,
    /// Steps done.
    pub step: usize,
}

impl AdamW {
    /// For `parameters` in this order. Matrices decay; norms and biases do not.
    pub fn new<'a>(config: OptimConfig, parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let slots = parameters
            .into_iter()
            .map(|tensor| Slot {
                first_moment: vec![0.0; tensor.elem_count()],
                second_moment: vec![0.0; tensor.elem_count()],
                decays: tensor.rank() > 1,
                rate_factor: 1.0,
            })
            .collect();
        Self { config, slots, step: 0 }
    }

    /// Multiplies the learning rate of the parameters from `first` on: a fresh head learns faster.
    #[must_use]
    pub fn with_rate_factor(mut self, first: usize, factor: f64) -> Self {
        self.slots[first..]
            .iter_mut()
            .for_each(|slot| slot.rate_factor = factor);
        self
    }

    /// Clips the gradients, then moves every parameter. Answers the gradients' norm before clipping. If that is not
    /// finite, nothing is touched: neither parameters nor moments nor the step.
    pub fn update(&mut self, parameters: &[&Tensor], gradients: &mut [&mut Vec<f32>], rate: f64) -> Result<f64> {
        let norm = clip(gradients, self.config.max_grad_norm);
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.step += 1;
        let (beta1, beta2) = (self.config.adam_beta1, self.config.adam_beta2);
        for ((slot, tensor), gradient) in self.slots.iter_mut().zip(parameters).zip(gradients) {
            let decay = if slot.decays { self.config.weight_decay } else { 0.0 };
            let constants = AdamStep {
                rate: (rate * slot.rate_factor) as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                epsilon: self.config.adam_epsilon as f32,
                keep: (1.0 - rate * slot.rate_factor * decay) as f32,
                correction1: (1.0 - beta1.powi(self.step as i32)) as f32,
                correction2: (1.0 - beta2.powi(self.step as i32)) as f32,
            };
            tensor.inplace_op1(&Update {
                constants,
                state: Mutex::new((slot, gradient)),
            })?;
        }
        Ok(norm)
    }

    /// The moments, parameter by parameter, for a checkpoint.
    pub fn moments(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.slots
            .iter()
            .map(|slot| (slot.first_moment.as_slice(), slot.second_moment.as_slice()))
    }

    /// Restores moment vectors saved by [`moments`](Self::moments).
    pub fn restore(&mut self, step: usize, moments: Vec<(Vec<f32>, Vec<f32>)>) {
        self.step = step;
        for (slot, (first, second)) in self.slots.iter_mut().zip(moments) {
            slot.first_moment = first;
            slot.second_moment = second;
        }
    }
}

/// The update of one tensor in place.
struct Update<'a> {
    constants: AdamStep,
    state: Mutex<(&'a mut Slot, &'a mut Vec<f32>)>,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("adamw wants contiguous f32 parameters")
        };
        let Ok(mut state) = self.state.lock() else {
            bail!("adamw's state is poisoned")
        };
        let (slot, gradient) = &mut *state;
        values[start..end]
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(slot.first_moment.par_chunks_mut(CHUNK))
            .zip(slot.second_moment.par_chunks_mut(CHUNK))
            .for_each(|(((values, gradient), first), second)| {
                kernels::adamw(values, gradient, first, second, self.constants);
            });
        Ok(())
    }
}

/// Scales the gradients to a global norm of at most `max_norm`; answers their norm before.
pub fn clip(gradients: &mut [&mut Vec<f32>], max_norm: f64) -> f64 {
    // Summed in order: the same on any number of threads.
    let squares: f64 = gradients
        .iter()
        .flat_map(|gradient| {
            let chunks = gradient.par_chunks(CHUNK).map(kernels::sum_of_squares);
            chunks.collect::<Vec<f64>>()
        })
        .sum();
    let norm = squares.sqrt();
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        for gradient in gradients {
            gradient
                .par_chunks_mut(CHUNK)
                .for_each(|gradient| kernels::scale(gradient, factor as f32));
        }
    }
    norm
}
