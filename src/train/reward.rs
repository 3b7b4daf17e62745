//! The reward model: a scalar head on the decoder, trained on preferences (Bradley-Terry).
//!
//! With length control something beside the model explains what lengths alone do to the labels; it is gone when the
//! rewards are standardised, and no file knows of it.

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::accumulation::{Figures, Part};
use super::batch::{BatchSize, accumulated, plan};
use super::comparisons::{Comparisons, by_prompt};
use super::length::{self, RewardLength, RewardLengthConfig};
use super::loss;
use super::loss::length::{TwoHeads, decorrelation, residual_margin};
use super::loss::ops::SoftLabels;
use super::optim::OptimConfig;
use super::pairs::{Pair, sequences};
use super::run::{Auxiliary, Beside, Run, Setup};
use super::seam::Leaves;
use super::sft::{is_one, one};
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RewardConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = Self::default().learning_rate, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = Self::default().epochs)]
    pub epochs: usize,
    /// Rows to a batch; prompts with --k-wise.
    #[arg(long, default_value_t = Self::default().batch_size)]
    pub batch_size: usize,
    /// Batches to a step: their gradients are added up, in the memory of one.
    #[arg(long, default_value_t = Self::default().gradient_accumulation_steps, value_name = "N", value_parser = bounds::count)]
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub gradient_accumulation_steps: usize,
    /// Keep all pairs of a prompt in one batch, score each of its answers once, and weigh each pair one over their number
    /// (InstructGPT): for rankings of several answers.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub k_wise: bool,
    /// Ask of each pair that the chosen answer is better by its margin: the column `margin` of the data, or the log-odds of
    /// a judge's label (Llama 2). The label itself is then taken for certain.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub margin: bool,
    /// Weight of the mean squared sum of a pair's rewards, which keeps them near 0.
    #[arg(long, default_value_t = Self::default().centre_coef, value_parser = bounds::amount::<f64>)]
    pub centre_coef: f64,
    /// Measure loss and accuracy on held-out pairs after every so many steps as well, and after the last: eval_loss and
    /// eval_accuracy in metrics.jsonl.
    #[arg(long, value_name = "N", value_parser = bounds::count)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    /// How many times faster the fresh head learns than the decoder.
    #[arg(long, default_value_t = Self::default().head_rate, value_parser = bounds::amount::<f64>)]
    pub head_rate: f64,
    #[serde(flatten)]
    #[command(flatten)]
    pub length: RewardLengthConfig,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            epochs: 1,
            batch_size: 16,
            gradient_accumulation_steps: 1,
            k_wise: false,
            margin: false,
            centre_coef: 0.01,
            eval_steps: None,
            head_rate: 1.0,
            length: RewardLengthConfig::default(),
            optim: OptimConfig::default(),
        }
    }
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
    train_beside(setup, config, decoder, (pairs, &[]), seed)
}

/// The same, with pairs that are not learnt, on which the model is measured on its way.
pub fn train_beside(
    setup: Setup<'_>,
    config: &RewardConfig,
    decoder: &Decoder,
    (pairs, held_out): (&[Pair], &[Pair]),
    seed: Seed,
) -> Result<RewardModel> {
    config.optim.check()?;
    if config.eval_steps.is_some() && held_out.is_empty() {
        return Err(Error::config("--eval-steps has nothing to measure").help("give --eval-data or --eval-fraction"));
    }
    let groups: Vec<Vec<usize>> = match config.k_wise {
        true => by_prompt(pairs),
        false => (0..pairs.len()).map(|place| vec![place]).collect(),
    };
    let steps = steps(config, pairs, &groups, seed);
    let aid = Aid::new(config.length.choice(), decoder.config.hidden, seed)?;
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        decoder,
        Beside {
            head: Some((aid.first_head(decoder.config.hidden, seed)?, config.head_rate)),
            auxiliary: aid.auxiliary(config),
        },
        steps.len(),
    )?;
    let tokens_of = |step: &Vec<Vec<usize>>| -> usize {
        let rows = rows_of(&groups, step);
        rows.iter().map(|row| pairs[*row].tokens()).sum()
    };
    let mut tokens: usize = steps[..run.step()].iter().map(tokens_of).sum();
    while let Some(step) = run.next_step()? {
        run.learns_from(&rows_of(&groups, &steps[step]));
        let batches: Vec<Comparisons> = steps[step]
            .iter()
            .map(|batch| compared(config, pairs, batch.iter().map(|place| &groups[*place])))
            .collect();
        let mut figures = accumulate(&mut run, config, &aid, batches)?;
        let (norm, rate) = run.update()?;
        tokens += tokens_of(&steps[step]);
        figures.extend([("learning_rate", rate), ("grad_norm", norm)]);
        figures.extend([("num_tokens", tokens as f64), ("epoch", run.epoch(config.epochs))]);
        let due = |every: usize| (step + 1).is_multiple_of(every) || step + 1 == steps.len();
        if config.eval_steps.is_some_and(due) {
            let head = run.head.clone().expect("the run was begun with a head");
            let [loss, accuracy] = measure(&run.decoder, &head, held_out)?;
            figures.extend([("eval_loss", loss), ("eval_accuracy", accuracy)]);
            run.keep_if_best(loss)?;
        }
        run.end_step(&figures, &format!("accuracy {:.2}", figures[1].1))?;
    }
    let (decoder, head) = run.finish()?;
    let mut model = RewardModel {
        decoder,
        head: head.expect("the run was begun with a head"),
    };
    let answers = match config.k_wise {
        true => compared(config, pairs, groups.iter()).sequences,
        false => sequences(&pairs.iter().collect::<Vec<_>>()),
    };
    model.standardise(&answers)?;
    Ok(model)
}

/// The mean cross-entropy of the labels of pairs that are not learnt, and how many of their chosen answers win. The head is
/// as it learns, not standardised yet.
fn measure(decoder: &Decoder, head: &ScalarHead, pairs: &[Pair]) -> Result<[f64; 2]> {
    let compared = Comparisons::pairs(&pairs.iter().collect::<Vec<_>>());
    let mut rewards = Vec::with_capacity(compared.sequences.len());
    for batch in compared.sequences.chunks(SCORE_ROWS) {
        let outputs = trunk::infer(decoder, batch, Wanted::LastHidden)?;
        rewards.extend(head.apply(&outputs.hidden)?);
    }
    let count = rewards.len();
    let [chosen, rejected] = compared.sides(&Tensor::from_vec(rewards, count, &Device::Cpu)?)?;
    let p_chosen = Tensor::new(compared.p_chosen.as_slice(), &Device::Cpu)?;
    let loss = loss::reward::loss(&chosen, &rejected, &p_chosen, None, 0.0)?.loss;
    Ok([scalar(&loss)?, share_positive(&(chosen - rejected)?)?])
}

/// The pairs of a step.
fn rows_of(groups: &[Vec<usize>], step: &[Vec<usize>]) -> Vec<usize> {
    let places = step.iter().flatten();
    places.flat_map(|place| groups[*place].iter().copied()).collect()
}

/// The groups of each batch of each step.
fn steps(config: &RewardConfig, pairs: &[Pair], groups: &[Vec<usize>], seed: Seed) -> Vec<Vec<Vec<usize>>> {
    let tokens = |group: &Vec<usize>| group.iter().map(|place| pairs[*place].tokens()).sum();
    let lengths: Vec<usize> = groups.iter().map(tokens).collect();
    let size = BatchSize::Rows(config.batch_size);
    (0..config.epochs)
        .flat_map(|epoch| {
            let batches = plan(&lengths, size, seed.index(epoch as u64));
            accumulated(batches, config.gradient_accumulation_steps)
        })
        .collect()
}

/// The comparisons of some groups of pairs.
fn compared<'g>(config: &RewardConfig, pairs: &[Pair], groups: impl Iterator<Item = &'g Vec<usize>>) -> Comparisons {
    let of = |group: &Vec<usize>| -> Vec<&Pair> { group.iter().map(|place| &pairs[*place]).collect() };
    let groups: Vec<Vec<&Pair>> = groups.map(of).collect();
    let mut compared = match config.k_wise {
        true => Comparisons::prompts(&groups),
        false => Comparisons::pairs(&groups.concat()),
    };
    if config.margin {
        compared.p_chosen.fill(1.0);
    } else {
        compared.margins.clear();
    }
    compared
}

/// Adds the gradients of the batches of a step, each by its share of the pairs (or prompts). Answers the figures as means
/// over all of them.
fn accumulate(run: &mut Run<'_>, config: &RewardConfig, aid: &Aid, batches: Vec<Comparisons>) -> Result<Figures> {
    let head = run.head.clone().expect("the run was begun with a head");
    let units: usize = batches.iter().map(|batch| batch.units).sum();
    let parts = batches.into_iter().map(|mut batch| Part {
        sequences: std::mem::take(&mut batch.sequences),
        share: batch.units as f64 / units as f64,
        of: batch,
    });
    let sum = run.accumulate(Wanted::LastHidden, parts, |leaves, batch| {
        let (loss, figures) = objective(leaves, &head, aid, batch, config.centre_coef)?;
        Ok((loss, figures, ()))
    })?;
    Ok(sum.figures)
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
        compared: &Comparisons,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        match self {
            Self::Nothing => Ok((None, None)),
            Self::Slope { slope, scale, .. } => {
                let [chosen, rejected] = compared.split(&leaves.lengths);
                let effect = |(c, r): (&usize, &usize)| (((*c as f64 - *r as f64) / scale).tanh()) as f32;
                let effects: Vec<f32> = chosen.iter().zip(&rejected).map(effect).collect();
                let effects = Tensor::new(effects, &Device::Cpu)?;
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
                    tokens: &Tensor::new(tokens, &Device::Cpu)?,
                    quality_weight: head.weight.as_tensor(),
                    length_weight: length_head.weight.as_tensor(),
                };
                let penalty = decorrelation(&heads, *length_coef, *orthogonal_coef)?;
                let [chosen, rejected] = compared.sides(&of_length)?;
                Ok((Some((rejected - chosen)?), Some(penalty)))
            }
        }
    }
}

/// The loss of a batch. The figures are of the rewards that are kept.
fn objective(
    leaves: &Leaves,
    head: &ScalarHead,
    aid: &Aid,
    compared: &Comparisons,
    centre_coef: f64,
) -> Result<(Tensor, Figures)> {
    let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu);
    let p_chosen = tensor(&compared.p_chosen)?;
    let weights = compared.weighed().map(|weights| tensor(&weights)).transpose()?;
    let labels = SoftLabels {
        p_chosen: &p_chosen,
        weights: weights.as_ref(),
    };
    let rewards = leaves.apply_head(Some(head))?;
    let [chosen, rejected] = compared.sides(&rewards)?;
    let (explained, penalty) = aid.explain(leaves, head, &rewards, compared)?;
    let margin = match (compared.margins.is_empty(), explained) {
        (true, explained) => explained,
        (false, None) => Some(tensor(&compared.margins)?),
        (false, Some(explained)) => Some((explained + tensor(&compared.margins)?)?),
    };
    let mut loss = loss::reward::loss(&chosen, &rejected, labels, margin.as_ref(), 0.0)?.loss;
    if centre_coef > 0.0 {
        let squares = ((&chosen + &rejected)?.sqr()? * tensor(&compared.shares)?)?;
        loss = (loss + (squares.mean_all()? * centre_coef)?)?;
    }
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
    let [of_chosen, of_rejected] = compared.split(&leaves.lengths);
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
