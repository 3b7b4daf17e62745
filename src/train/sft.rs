//! Supervised fine-tuning on demonstrations: the negative log-likelihood of the completions.

use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, Example, plan};
use super::loss;
use super::optim::OptimConfig;
use super::run::{Beside, Run, Setup};
use crate::bounds;
use crate::error::Result;
use crate::model::cpu::trunk::Wanted;
use crate::model::decoder::Decoder;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct SftConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 2e-5, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Tokens to a batch, instead of a number of rows.
    #[arg(long)]
    pub batch_tokens: Option<usize>,
    /// Loss weight of the prompt's tokens; 0 learns completions only.
    #[arg(long, default_value_t = 0.0, value_parser = bounds::amount::<f32>)]
    pub prompt_loss_weight: f32,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
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
    let size = config
        .batch_tokens
        .map_or(BatchSize::Rows(config.batch_size), BatchSize::Tokens);
    let batches: Vec<Vec<usize>> = (0..config.epochs)
        .flat_map(|epoch| plan(&lengths, size, seed.index(epoch as u64)))
        .collect();
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        decoder,
        Beside::default(),
        batches.len(),
    )?;
    let tokens_of = |rows: &Vec<usize>| rows.iter().map(|row| lengths[*row]).sum::<usize>();
    let mut tokens: usize = batches[..run.step()].iter().map(tokens_of).sum();
    while let Some(step) = run.next_step()? {
        run.learns_from(&batches[step]);
        let batch: Vec<&Example> = batches[step].iter().map(|row| &examples[*row]).collect();
        let sequences: Vec<_> = batch.iter().map(|example| example.sequence.clone()).collect();
        let wanted = Wanted::Logprobs { temperature: 1.0 };
        let (nll, store) = run.accumulate(&sequences, wanted, |leaves| {
            let weights = leaves.pad(batch.iter().map(|example| example.weights.clone()))?;
            let loss = loss::sft::loss(leaves.logprobs.as_tensor(), &weights)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            Ok((loss, value))
        })?;
        let (norm, rate) = run.update(&store)?;
        tokens += tokens_of(&batches[step]);
        let epoch = run.epoch(config.epochs);
        run.end_step(
            &[
                ("loss", nll),
                ("learning_rate", rate),
                ("grad_norm", norm),
                ("num_tokens", tokens as f64),
                ("epoch", epoch),
            ],
            &format!("loss {nll:.3}"),
        )?;
    }
    Ok(run.finish()?.0)
}
