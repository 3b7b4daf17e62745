//! Direct preference optimisation with soft labels, and an optional anchor to the chosen answers.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, plan};
use super::loss::{self, dpo::PairLogps};
use super::optim::OptimConfig;
use super::pairs::{Pair, sequences};
use super::reward::{scalar, share_positive};
use super::run::{Run, Setup};
use super::seam::{self, Leaves};
use crate::bounds;
use crate::engine::local::score_all;
use crate::error::Result;
use crate::model::cpu::trunk::{Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct DpoConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-6, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Strength of the pull towards the reference.
    #[arg(long, default_value_t = 0.1, value_parser = bounds::positive::<f64>)]
    pub beta: f64,
    /// Moves labels this far towards the opposite (conservative DPO).
    #[arg(long, default_value_t = 0.0, value_parser = bounds::share::<f32>)]
    pub label_smoothing: f32,
    /// Weight of the chosen answers' mean token NLL, which keeps DPO from lowering the likelihood of both answers (RPO, Pang et al. 2024).
    #[arg(long, default_value_t = 0.0, value_parser = bounds::amount::<f64>)]
    pub sft_coef: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

/// Trains a copy of `policy`, which is also the reference.
pub fn train(setup: Setup<'_>, config: &DpoConfig, policy: &Decoder, pairs: &[Pair], seed: Seed) -> Result<Decoder> {
    let lengths: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
    let batches: Vec<Vec<usize>> = (0..config.epochs)
        .flat_map(|epoch| plan(&lengths, BatchSize::Rows(config.batch_size), seed.index(epoch as u64)))
        .collect();
    setup.progress.note("log-probabilities of the reference, once");
    let chosen: Vec<Sequence> = pairs.iter().map(|pair| pair.chosen.clone()).collect();
    let rejected: Vec<Sequence> = pairs.iter().map(|pair| pair.rejected.clone()).collect();
    let reference = (score_all(policy, &chosen)?, score_all(policy, &rejected)?);
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        policy,
        None,
        batches.len(),
    )?;
    while let Some(step) = run.next_step()? {
        let rows = &batches[step];
        let batch: Vec<&Pair> = rows.iter().map(|row| &pairs[*row]).collect();
        let of_batch = |values: &[f32]| -> Result<Tensor> {
            let values: Vec<f32> = rows.iter().map(|row| values[*row]).collect();
            Ok(Tensor::from_vec(values, rows.len(), &Device::Cpu)?)
        };
        let (reference_chosen, reference_rejected) = (of_batch(&reference.0)?, of_batch(&reference.1)?);
        let p_chosen = labels(&batch, config.label_smoothing)?;
        let wanted = Wanted::Logprobs { temperature: 1.0 };
        let (figures, store) =
            seam::accumulate(&run.decoder, &sequences(&batch), wanted, &mut run.gradients, |leaves| {
                let reference = PairLogps {
                    chosen: &reference_chosen,
                    rejected: &reference_rejected,
                };
                objective(leaves, reference, &p_chosen, config)
            })?;
        let (norm, rate) = run.update(&store)?;
        let mut all = figures.clone();
        all.extend([("learning_rate", rate), ("grad_norm", norm)]);
        run.end_step(&all, &format!("accuracy {:.2}", figures[3].1))?;
    }
    Ok(run.finish()?.0)
}

fn labels(batch: &[&Pair], smoothing: f32) -> Result<Tensor> {
    let labels: Vec<f32> = batch
        .iter()
        .map(|pair| pair.p_chosen * (1.0 - smoothing) + (1.0 - pair.p_chosen) * smoothing)
        .collect();
    Ok(Tensor::from_vec(labels, batch.len(), &Device::Cpu)?)
}

type Figures = Vec<(&'static str, f64)>;

/// The DPO loss of a batch whose first half are the chosen answers.
fn objective(
    leaves: &Leaves,
    reference: PairLogps<'_>,
    p_chosen: &Tensor,
    config: &DpoConfig,
) -> Result<(Tensor, Figures)> {
    let rows = p_chosen.dim(0)?;
    let logps = leaves.logps()?;
    let (chosen, rejected) = (logps.narrow(0, 0, rows)?, logps.narrow(0, rows, rows)?);
    let policy = PairLogps {
        chosen: &chosen,
        rejected: &rejected,
    };
    let dpo = loss::dpo::loss(policy, reference, p_chosen, config.beta)?;
    let lengths = leaves.mask.narrow(0, 0, rows)?.sum(1)?;
    let nll = chosen.div(&lengths)?.neg()?.mean_all()?;
    let loss = (&dpo.loss + (&nll * config.sft_coef)?)?;
    let margins = (&dpo.chosen_rewards - &dpo.rejected_rewards)?;
    let figures = vec![
        ("loss", scalar(&loss)?),
        ("rewards/chosen", scalar(&dpo.chosen_rewards.mean_all()?)?),
        ("rewards/rejected", scalar(&dpo.rejected_rewards.mean_all()?)?),
        ("rewards/accuracies", share_positive(&margins)?),
        ("rewards/margins", scalar(&margins.mean_all()?)?),
        ("logps/chosen", scalar(&chosen.mean_all()?)?),
        ("logps/rejected", scalar(&rejected.mean_all()?)?),
        ("nll", scalar(&nll)?),
    ];
    Ok((loss, figures))
}
