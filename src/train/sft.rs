//! Supervised fine-tuning on demonstrations: the negative log-likelihood of the completions.

use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, Example, plan};
use super::loss;
use super::optim::OptimConfig;
use super::run::{Run, Setup};
use super::seam;
use crate::error::Result;
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    pub epochs: usize,
    pub batch: BatchSize,
    /// Loss weight of the prompt's tokens; 0 learns completions only.
    pub prompt_loss_weight: f32,
    #[serde(flatten)]
    pub optim: OptimConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch: BatchSize::Rows(16),
            prompt_loss_weight: 0.0,
            optim: OptimConfig::default(),
        }
    }
}

/// Trains a copy of `decoder` on `examples`.
pub fn train(
    setup: Setup<'_>,
    config: &SftConfig,
    decoder: &Decoder,
    examples: &[Example],
    seed: Seed,
) -> Result<Decoder> {
    let lengths: Vec<usize> = examples.iter().map(|example| example.sequence.tokens.len()).collect();
    let batches: Vec<Vec<usize>> = (0..config.epochs)
        .flat_map(|epoch| plan(&lengths, config.batch, seed.index(epoch as u64)))
        .collect();
    let mut run = Run::begin(setup, &config.optim, decoder, None, batches.len())?;
    while let Some(step) = run.next_step()? {
        let batch: Vec<&Example> = batches[step].iter().map(|row| &examples[*row]).collect();
        let sequences: Vec<_> = batch.iter().map(|example| example.sequence.clone()).collect();
        let wanted = Wanted::Logprobs { temperature: 1.0 };
        let (nll, store) = seam::accumulate(&run.decoder, &sequences, wanted, &mut run.gradients, |leaves| {
            let weights = leaves.pad(batch.iter().map(|example| example.weights.clone()))?;
            let loss = loss::sft::loss(leaves.logprobs.as_tensor(), &weights)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            Ok((loss, value))
        })?;
        let (norm, rate) = run.update(&store)?;
        let tokens: usize = batch.iter().map(|example| example.sequence.tokens.len()).sum();
        run.end_step(
            &[
                ("loss", nll),
                ("learning_rate", rate),
                ("grad_norm", norm),
                ("tokens", tokens as f64),
            ],
            &format!("loss {nll:.3}"),
        )?;
    }
    Ok(run.finish()?.0)
}
