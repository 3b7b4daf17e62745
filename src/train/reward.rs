//! The reward model: a scalar head on the decoder, trained on preferences (Bradley-Terry).

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, plan};
use super::loss;
use super::optim::OptimConfig;
use super::pairs::{Pair, sequences};
use super::run::{Run, Setup};
use super::seam;
use crate::bounds;
use crate::error::Result;
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RewardConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-5, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Weight of the mean squared sum of a pair's rewards, which keeps them near 0.
    #[arg(long, default_value_t = 0.01, value_parser = bounds::amount::<f64>)]
    pub centre_coef: f64,
    /// How many times faster the fresh head learns than the decoder.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::amount::<f64>)]
    pub head_rate: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

/// A decoder with the head that reads its last hidden state.
pub struct RewardModel {
    pub decoder: Decoder,
    pub head: ScalarHead,
}

/// Sequences scored in one pass.
const SCORE_ROWS: usize = 64;

impl RewardModel {
    /// The standardised reward of each sequence.
    pub fn score(&self, sequences: &[Sequence]) -> Result<Vec<f32>> {
        let mut rewards = Vec::with_capacity(sequences.len());
        for batch in sequences.chunks(SCORE_ROWS) {
            let outputs = trunk::infer(&self.decoder, batch, Wanted::LastHidden)?;
            rewards.extend(self.head.apply(&outputs.hidden)?);
        }
        Ok(rewards)
    }

    /// Sets the head's mean and scale so that the rewards of `sequences` have mean 0 and deviation 1.
    fn standardise(&mut self, sequences: &[Sequence]) -> Result<()> {
        let rewards = self.score(sequences)?;
        let count = rewards.len().max(1) as f32;
        let mean = rewards.iter().sum::<f32>() / count;
        let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f32>() / count;
        self.head.mean = mean;
        self.head.scale = variance.sqrt().max(1e-6);
        Ok(())
    }
}

/// Trains a reward model from a copy of `decoder`.
pub fn train(
    setup: Setup<'_>,
    config: &RewardConfig,
    decoder: &Decoder,
    pairs: &[Pair],
    seed: Seed,
) -> Result<RewardModel> {
    let lengths: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
    let batches: Vec<Vec<usize>> = (0..config.epochs)
        .flat_map(|epoch| plan(&lengths, BatchSize::Rows(config.batch_size), seed.index(epoch as u64)))
        .collect();
    let head = ScalarHead::zeros(decoder.config.hidden)?;
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        decoder,
        Some((head, config.head_rate)),
        batches.len(),
    )?;
    while let Some(step) = run.next_step()? {
        let batch: Vec<&Pair> = batches[step].iter().map(|row| &pairs[*row]).collect();
        let rows = batch.len();
        let p_chosen: Vec<f32> = batch.iter().map(|pair| pair.p_chosen).collect();
        let p_chosen = Tensor::from_vec(p_chosen, rows, &Device::Cpu)?;
        let head = run.head.clone();
        let (figures, store) = seam::accumulate(
            &run.decoder,
            &sequences(&batch),
            Wanted::LastHidden,
            &mut run.gradients,
            |leaves| {
                let rewards = leaves.apply_head(head.as_ref())?;
                let (chosen, rejected) = (rewards.narrow(0, 0, rows)?, rewards.narrow(0, rows, rows)?);
                let loss = loss::reward::loss(&chosen, &rejected, &p_chosen, None, config.centre_coef)?.loss;
                let margin = (chosen - rejected)?.detach();
                let figures = [
                    ("loss", scalar(&loss)?),
                    ("rewards/accuracies", share_positive(&margin)?),
                    ("rewards/margins", scalar(&margin.mean_all()?)?),
                ];
                Ok((loss, figures))
            },
        )?;
        let (norm, rate) = run.update(&store)?;
        let mut all = figures.to_vec();
        all.extend([("learning_rate", rate), ("grad_norm", norm)]);
        run.end_step(&all, &format!("accuracy {:.2}", figures[1].1))?;
    }
    let (decoder, head) = run.finish()?;
    let mut model = RewardModel {
        decoder,
        head: head.expect("the run was begun with a head"),
    };
    model.standardise(&sequences(&pairs.iter().collect::<Vec<_>>()))?;
    Ok(model)
}

/// The value of a scalar tensor.
pub fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(f64::from(tensor.to_scalar::<f32>()?))
}

/// The share of positive elements.
pub fn share_positive(tensor: &Tensor) -> Result<f64> {
    let values = tensor.to_vec1::<f32>()?;
    Ok(values.iter().filter(|value| **value > 0.0).count() as f64 / values.len().max(1) as f64)
}
