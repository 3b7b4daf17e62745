//! Direct preference optimisation with soft labels, an optional anchor to the chosen answers, and length control.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, plan};
use super::length::{self, DpoLengthConfig};
use super::loss;
use super::loss::dpo::PairLogps;
use super::loss::length::{PairWeights, weighted_logps};
use super::loss::ops::SoftLabels;
use super::optim::OptimConfig;
use super::pairs::{self, Pair, sequences};
use super::reward::{scalar, share_positive};
use super::run::{Beside, Run, Setup};
use super::seam::Leaves;
use crate::bounds;
use crate::engine::local::logprobs_all;
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
    pub length: DpoLengthConfig,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

/// What the loss of a batch knows besides the policy.
struct Targets {
    /// Log-probabilities of the reference `(B)`, weighted as those of the policy.
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    p_chosen: Tensor,
    /// What the pairs weigh `(B)`.
    pair_weights: Option<Tensor>,
    /// The weights of the tokens, one row a sequence: the chosen answers, then the rejected.
    weights: Vec<Vec<f32>>,
    margin: Option<Tensor>,
}

/// Trains a copy of `policy`, which is also the reference.
pub fn train(setup: Setup<'_>, config: &DpoConfig, policy: &Decoder, pairs: &[Pair], seed: Seed) -> Result<Decoder> {
    let lengths: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
    let size = BatchSize::Rows(config.batch_size);
    let batches: Vec<(u64, Vec<usize>)> = (0..config.epochs as u64)
        .flat_map(|epoch| (plan(&lengths, size, seed.index(epoch)).into_iter()).map(move |rows| (epoch, rows)))
        .collect();
    setup.progress.note("log-probabilities of the reference, once");
    let chosen: Vec<Sequence> = pairs.iter().map(|pair| pair.chosen.clone()).collect();
    let rejected: Vec<Sequence> = pairs.iter().map(|pair| pair.rejected.clone()).collect();
    let reference = (logprobs_all(policy, &chosen)?, logprobs_all(policy, &rejected)?);
    let control = config.length.choice();
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        policy,
        Beside::default(),
        batches.len(),
    )?;
    while let Some(step) = run.next_step()? {
        let (epoch, rows) = &batches[step];
        run.learns_from(rows);
        let batch: Vec<&Pair> = rows.iter().map(|row| &pairs[*row]).collect();
        // A seed of the row and the epoch alone: a resumed run draws the same tokens.
        let weigh = |row: &usize| {
            let seed = seed.child("length").index(*row as u64).index(*epoch);
            let (chosen, rejected) = (&pairs[*row].chosen, &pairs[*row].rejected);
            control.weigh(chosen.completion_len(), rejected.completion_len(), seed)
        };
        let weights: Vec<PairWeights> = rows.iter().map(weigh).collect();
        let of_rows =
            |logprobs: &'_ [Vec<f32>]| -> Vec<Vec<f32>> { rows.iter().map(|row| logprobs[*row].clone()).collect() };
        let targets = Targets::new(
            (&of_rows(&reference.0), &of_rows(&reference.1)),
            weights,
            (labels(&batch, config.label_smoothing)?, pairs::weights(&batch)?),
        )?;
        let wanted = Wanted::Logprobs { temperature: 1.0 };
        let (figures, store) =
            run.accumulate(&sequences(&batch), wanted, |leaves| objective(leaves, &targets, config))?;
        let (norm, rate) = run.update(&store)?;
        let mut all = figures.clone();
        all.extend([("learning_rate", rate), ("grad_norm", norm)]);
        run.end_step(&all, &format!("accuracy {:.2}", figures[3].1))?;
    }
    Ok(run.finish()?.0)
}

impl Targets {
    fn new(
        (chosen, rejected): (&[Vec<f32>], &[Vec<f32>]),
        weights: Vec<PairWeights>,
        (p_chosen, pair_weights): (Tensor, Option<Tensor>),
    ) -> Result<Self> {
        let margins: Vec<f32> = weights.iter().map(|pair| pair.margin).collect();
        let weigh = |weights: &[f32], logprobs: &[f32]| weights.iter().zip(logprobs).map(|(w, p)| w * p).sum::<f32>();
        let of_chosen = weights
            .iter()
            .zip(chosen)
            .map(|(pair, logprobs)| weigh(&pair.chosen, logprobs));
        let of_rejected = weights
            .iter()
            .zip(rejected)
            .map(|(pair, logprobs)| weigh(&pair.rejected, logprobs));
        let (reference_chosen, reference_rejected) = (vector(of_chosen)?, vector(of_rejected)?);
        let (chosen, rejected): (Vec<_>, Vec<_>) = weights.into_iter().map(|pair| (pair.chosen, pair.rejected)).unzip();
        Ok(Self {
            reference_chosen,
            reference_rejected,
            p_chosen,
            pair_weights,
            weights: [chosen, rejected].concat(),
            margin: (margins.iter().any(|margin| *margin != 0.0))
                .then(|| vector(margins))
                .transpose()?,
        })
    }
}

fn vector(values: impl IntoIterator<Item = f32>) -> Result<Tensor> {
    let values: Vec<f32> = values.into_iter().collect();
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

fn labels(batch: &[&Pair], smoothing: f32) -> Result<Tensor> {
    vector((batch.iter()).map(|pair| pair.p_chosen * (1.0 - smoothing) + (1.0 - pair.p_chosen) * smoothing))
}

type Figures = Vec<(&'static str, f64)>;

/// The DPO loss of a batch whose first half are the chosen answers.
fn objective(leaves: &Leaves, targets: &Targets, config: &DpoConfig) -> Result<(Tensor, Figures)> {
    let rows = targets.p_chosen.dim(0)?;
    let halves =
        |all: &Tensor| -> Result<(Tensor, Tensor)> { Ok((all.narrow(0, 0, rows)?, all.narrow(0, rows, rows)?)) };
    let weights = leaves.pad(targets.weights.iter().cloned())?;
    let (chosen, rejected) = halves(&weighted_logps(leaves.logprobs.as_tensor(), &weights)?)?;
    let policy = PairLogps {
        chosen: &chosen,
        rejected: &rejected,
    };
    let reference = PairLogps {
        chosen: &targets.reference_chosen,
        rejected: &targets.reference_rejected,
    };
    let dpo = loss::dpo::loss(
        policy,
        reference,
        SoftLabels {
            p_chosen: &targets.p_chosen,
            weights: targets.pair_weights.as_ref(),
        },
        targets.margin.as_ref(),
        config.beta,
    )?;
    // The anchor and the figures are of whole answers, whatever the loss weighs.
    let (chosen, rejected) = halves(&leaves.logps()?)?;
    let lengths = leaves.mask.narrow(0, 0, rows)?.sum(1)?;
    let nll = chosen.div(&lengths)?.neg()?.mean_all()?;
    let loss = (&dpo.loss + (&nll * config.sft_coef)?)?;
    let margins = (&dpo.chosen_rewards - &dpo.rejected_rewards)?;
    let mut figures = vec![
        ("loss", scalar(&loss)?),
        ("rewards/chosen", scalar(&dpo.chosen_rewards.mean_all()?)?),
        ("rewards/rejected", scalar(&dpo.rejected_rewards.mean_all()?)?),
        ("rewards/accuracies", share_positive(&margins)?),
        ("rewards/margins", scalar(&margins.mean_all()?)?),
        ("logps/chosen", scalar(&chosen.mean_all()?)?),
        ("logps/rejected", scalar(&rejected.mean_all()?)?),
        ("nll", scalar(&nll)?),
    ];
    let (of_chosen, of_rejected) = leaves.lengths.split_at(rows);
    figures.extend(length::figures(&margins.to_vec1()?, of_chosen, of_rejected));
    Ok((loss, figures))
}
