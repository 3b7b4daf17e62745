//! The reward model: a scalar head on the decoder, trained on preferences (Bradley-Terry).
//!
//! With length control something beside the model explains what lengths alone do to the labels; it is gone when the
//! rewards are standardised, and no file knows of it.

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::batch::{BatchSize, plan};
use super::length::{self, RewardLength, RewardLengthConfig};
use super::loss;
use super::loss::length::{TwoHeads, decorrelation, residual_margin};
use super::loss::ops::SoftLabels;
use super::optim::OptimConfig;
use super::pairs::{self, Pair, sequences};
use super::run::{Auxiliary, Beside, Run, Setup};
use super::seam::Leaves;
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
    pub length: RewardLengthConfig,
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
    let aid = Aid::new(config.length.choice(), decoder.config.hidden, seed)?;
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        decoder,
        Beside {
            head: Some((aid.first_head(decoder.config.hidden, seed)?, config.head_rate)),
            auxiliary: aid.auxiliary(config),
        },
        batches.len(),
    )?;
    let tokens_of = |rows: &Vec<usize>| rows.iter().map(|row| lengths[*row]).sum::<usize>();
    let mut tokens: usize = batches[..run.step()].iter().map(tokens_of).sum();
    while let Some(step) = run.next_step()? {
        run.learns_from(&batches[step]);
        let batch: Vec<&Pair> = batches[step].iter().map(|row| &pairs[*row]).collect();
        let p_chosen: Vec<f32> = batch.iter().map(|pair| pair.p_chosen).collect();
        let p_chosen = Tensor::from_vec(p_chosen, batch.len(), &Device::Cpu)?;
        let weights = pairs::weights(&batch)?;
        let labels = SoftLabels {
            p_chosen: &p_chosen,
            weights: weights.as_ref(),
        };
        let head = run.head.clone().expect("the run was begun with a head");
        let (mut figures, store) = run.accumulate(&sequences(&batch), Wanted::LastHidden, |leaves| {
            objective(leaves, &head, &aid, labels, config.centre_coef)
        })?;
        let (norm, rate) = run.update(&store)?;
        tokens += tokens_of(&batches[step]);
        figures.extend([("learning_rate", rate), ("grad_norm", norm)]);
        figures.extend([("num_tokens", tokens as f64), ("epoch", run.epoch(config.epochs))]);
        run.end_step(&figures, &format!("accuracy {:.2}", figures[1].1))?;
    }
    let (decoder, head) = run.finish()?;
    let mut model = RewardModel {
        decoder,
        head: head.expect("the run was begun with a head"),
    };
    model.standardise(&sequences(&pairs.iter().collect::<Vec<_>>()))?;
    Ok(model)
}

/// What explains lengths during training.
enum Aid {
    Nothing,
    /// A coefficient on the effect of the difference in tokens.
    Slope {
        slope: Var,
        scale: f64,
        rate: f64,
    },
    /// A second head; its bias, which no difference and no correlation sees, stays at 0.
    Head {
        head: ScalarHead,
        length_coef: f64,
        orthogonal_coef: f64,
    },
}

impl Aid {
    fn new(control: RewardLength, hidden: usize, seed: Seed) -> Result<Self> {
        Ok(match control {
            RewardLength::None => Self::Nothing,
            RewardLength::Residual { scale, rate } => Self::Slope {
                slope: Var::zeros(1, candle_core::DType::F32, &Device::Cpu)?,
                scale,
                rate,
            },
            RewardLength::Decorrelated {
                length_coef,
                orthogonal_coef,
            } => Self::Head {
                head: ScalarHead::random(hidden, seed.child("length-head"))?,
                length_coef,
                orthogonal_coef,
            },
        })
    }

    /// The head that is kept, as it begins. Beside a second head it is not 0, where no correlation has a gradient.
    fn first_head(&self, hidden: usize, seed: Seed) -> Result<ScalarHead> {
        match self {
            Self::Nothing | Self::Slope { .. } => ScalarHead::zeros(hidden),
            Self::Head { .. } => ScalarHead::random(hidden, seed.child("head")),
        }
    }

    fn auxiliary(&self, config: &RewardConfig) -> Option<Auxiliary> {
        match self {
            Self::Nothing => None,
            // The rate of a coefficient is its own, whatever that of the decoder.
            Self::Slope { slope, rate, .. } => Some(Auxiliary {
                name: "length.slope",
                var: slope.clone(),
                rate_factor: if config.learning_rate > 0.0 {
                    rate / config.learning_rate
                } else {
                    0.0
                },
            }),
            Self::Head { head, .. } => Some(Auxiliary {
                name: "length.weight",
                var: head.weight.clone(),
                rate_factor: config.head_rate,
            }),
        }
    }

    /// What lengths explain of the difference of each pair (as a margin), and what is added to the loss.
    fn explain(
        &self,
        leaves: &Leaves,
        head: &ScalarHead,
        rewards: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let rows = leaves.lengths.len() / 2;
        match self {
            Self::Nothing => Ok((None, None)),
            Self::Slope { slope, scale, .. } => {
                let [chosen, rejected] = pairs::split(&leaves.lengths);
                let effect = |(c, r): (&usize, &usize)| (((*c as f64 - *r as f64) / scale).tanh()) as f32;
                let effects: Vec<f32> = chosen.iter().zip(&rejected).map(effect).collect();
                let effects = Tensor::from_vec(effects, rows, &Device::Cpu)?;
                Ok((Some(residual_margin(&effects, slope.as_tensor())?), None))
            }
            Self::Head {
                head: length_head,
                length_coef,
                orthogonal_coef,
            } => {
                let of_length = leaves.apply_head(Some(length_head))?;
                let tokens: Vec<f32> = leaves.lengths.iter().map(|length| *length as f32).collect();
                let heads = TwoHeads {
                    quality: rewards,
                    length: &of_length,
                    tokens: &Tensor::from_vec(tokens, 2 * rows, &Device::Cpu)?,
                    quality_weight: head.weight.as_tensor(),
                    length_weight: length_head.weight.as_tensor(),
                };
                let penalty = decorrelation(&heads, *length_coef, *orthogonal_coef)?;
                let [chosen, rejected] = pairs::sides(&of_length)?;
                Ok((Some((rejected - chosen)?), Some(penalty)))
            }
        }
    }
}

type Figures = Vec<(&'static str, f64)>;

/// The loss of a batch of pairs. The figures are of the rewards that are kept.
fn objective(
    leaves: &Leaves,
    head: &ScalarHead,
    aid: &Aid,
    labels: SoftLabels<'_>,
    centre_coef: f64,
) -> Result<(Tensor, Figures)> {
    let rewards = leaves.apply_head(Some(head))?;
    let [chosen, rejected] = pairs::sides(&rewards)?;
    let (explained, penalty) = aid.explain(leaves, head, &rewards)?;
    let mut loss = loss::reward::loss(&chosen, &rejected, labels, explained.as_ref(), centre_coef)?.loss;
    if let Some(penalty) = penalty {
        loss = (loss + penalty)?;
    }
    let margins = (chosen - rejected)?.detach();
    let mut figures = vec![
        ("loss", scalar(&loss)?),
        ("accuracy", share_positive(&margins)?),
        ("margin", scalar(&margins.mean_all()?)?),
        ("mean_reward", scalar(&rewards.mean_all()?)?),
        ("min_reward", scalar(&rewards.min_all()?)?),
        ("max_reward", scalar(&rewards.max_all()?)?),
    ];
    let [of_chosen, of_rejected] = pairs::split(&leaves.lengths);
    figures.extend(length::figures(&margins.to_vec1()?, &of_chosen, &of_rejected));
    if let Aid::Slope { slope, .. } = aid {
        figures.push(("length/slope", scalar(&slope.as_tensor().squeeze(0)?)?));
    }
    Ok((loss, figures))
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
