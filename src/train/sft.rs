//! Supervised fine-tuning on demonstrations: the negative log-likelihood of the completions.
//!
//! The loss of a step is a mean over all of its learnt tokens, in however many batches they come: a batch with few of them
//! counts for few.

use serde::{Deserialize, Serialize};

use super::accumulation;
use super::batch::{BatchSize, Example, accumulated, plan};
use super::foresight::Foresight;
use super::loss;
use super::mixture::{self, Part};
use super::optim::{OptimConfig, Schedule};
use super::run::{Beside, Run, Setup};
use super::turns::Learn;
use crate::bounds;
use crate::error::{Error, Result};
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::seed::Seed;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct SftConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = Self::default().learning_rate, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = Self::default().epochs)]
    pub epochs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = Self::default().batch_size)]
    pub batch_size: usize,
    /// Tokens to a batch at most, instead of a number of rows: rows are packed end to end, none sees another, and a longer
    /// row is refused.
    #[arg(long)]
    pub batch_tokens: Option<usize>,
    /// Batches to a step: their gradients are added up, in the memory of one, as if they were one batch.
    #[arg(long, default_value_t = Self::default().gradient_accumulation_steps, value_name = "N", value_parser = bounds::count)]
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub gradient_accumulation_steps: usize,
    /// What of a conversation is learnt: the answer that ends it, or every turn of the assistant's. What users and system
    /// say is not.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "Learn::is_default")]
    pub learn: Learn,
    /// Loss weight of the prompt's tokens; 0 learns completions only.
    #[arg(long, default_value_t = Self::default().prompt_loss_weight, value_parser = bounds::amount::<f32>)]
    pub prompt_loss_weight: f32,
    /// Measure the loss on --eval-data after every so many steps, besides at the end.
    #[arg(long, value_name = "N", value_parser = bounds::count)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            learning_rate: 2e-5,
            epochs: 1,
            batch_size: 16,
            batch_tokens: None,
            gradient_accumulation_steps: 1,
            learn: Learn::default(),
            prompt_loss_weight: 0.0,
            eval_steps: None,
            optim: OptimConfig::default(),
        }
    }
}

impl SftConfig {
    /// An error if a setting would do nothing, with or without held-out data and data that enter in the decay.
    pub fn check(&self, held_out: bool, decay: bool) -> Result<()> {
        self.optim.check()?;
        if self.eval_steps.is_some() && !held_out {
            return Err(Error::config("--eval-steps has nothing to measure").help("give --eval-data"));
        }
        if decay && self.optim.lr_scheduler != Schedule::Wsd {
            return Err(Error::config("--decay-mix has no effect").help("it goes with --lr-scheduler wsd"));
        }
        Ok(())
    }
}

pub(super) fn one() -> usize {
    1
}

pub(super) fn is_one(count: &usize) -> bool {
    *count == 1
}

/// What a run learns, and what it only looks at.
#[derive(Debug, Clone, Copy)]
pub struct SftData<'a> {
    /// Those of all parts, one part after the other.
    pub examples: &'a [Example],
    /// The data sets of the mixture; the first is the one that passes are counted by.
    pub parts: &'a [Part],
    /// Data sets that enter in the decay of the learning rate, beside the rows that are learnt then (Hu et al. 2024).
    pub decay: &'a [Part],
    /// Examples whose loss is measured and which are not learnt.
    pub held_out: &'a [Example],
}

/// Trains a copy of `decoder` on `examples`.
pub fn train(
    setup: Setup<'_>,
    config: &SftConfig,
    decoder: &Decoder,
    examples: &[Example],
    seed: Seed,
) -> Result<Decoder> {
    let parts = [Part {
        rows: examples.len(),
        per_row: None,
    }];
    let data = SftData {
        examples,
        parts: &parts,
        decay: &[],
        held_out: &[],
    };
    train_on(setup, config, decoder, data, seed)
}

/// Trains a copy of `decoder` on a mixture.
pub fn train_on(
    setup: Setup<'_>,
    config: &SftConfig,
    decoder: &Decoder,
    data: SftData<'_>,
    seed: Seed,
) -> Result<Decoder> {
    config.check(!data.held_out.is_empty(), !data.decay.is_empty())?;
    let Planned { steps, optim, .. } = planned(config, &data, seed);
    let mut run = Run::begin(
        setup,
        (&optim, config.learning_rate),
        decoder,
        Beside::default(),
        steps.len(),
    )?;
    let tokens_of = |step: &Vec<Vec<usize>>| -> usize {
        let rows = step.iter().flatten();
        rows.map(|row| data.examples[*row].sequence.tokens.len()).sum()
    };
    let mut tokens: usize = steps[..run.step()].iter().map(tokens_of).sum();
    while let Some(step) = run.next_step()? {
        run.learns_from(&steps[step].concat());
        let batches: Vec<Vec<&Example>> = steps[step]
            .iter()
            .map(|batch| batch.iter().map(|row| &data.examples[*row]).collect())
            .collect();
        let (nll, foresight) = accumulate(&mut run, &batches)?;
        let (norm, rate) = run.update()?;
        tokens += tokens_of(&steps[step]);
        let [accuracy, entropy] = foresight.means();
        let mut figures = vec![
            ("loss", nll),
            ("learning_rate", rate),
            ("grad_norm", norm),
            ("num_tokens", tokens as f64),
            ("mean_token_accuracy", accuracy),
            ("entropy", entropy),
            ("epoch", run.epoch(config.epochs)),
        ];
        let due = config.eval_steps.is_some_and(|every| (step + 1).is_multiple_of(every));
        if !data.held_out.is_empty() && (due || step + 1 == steps.len()) {
            let (loss, foresight) = evaluate(&run.decoder, data.held_out)?;
            let [accuracy, entropy] = foresight.means();
            figures.extend([
                ("eval_loss", loss),
                ("eval_mean_token_accuracy", accuracy),
                ("eval_entropy", entropy),
            ]);
            run.keep_if_best(loss)?;
        }
        run.end_step(&figures, &format!("loss {nll:.3}"))?;
    }
    Ok(run.finish()?.0)
}

/// The steps of a run.
pub struct Planned {
    /// The examples of each batch of each step.
    pub steps: Vec<Vec<Vec<usize>>>,
    /// The steps before the decay, if something enters in it.
    pub stable: usize,
    optim: OptimConfig,
}

/// Plans a run. What enters in the decay makes it longer: its steps are those that the rows of both need.
pub fn planned(config: &SftConfig, data: &SftData<'_>, seed: Seed) -> Planned {
    let passes = mixture::passes(data.parts, config.epochs, seed);
    let passes = passes.iter().enumerate();
    let mut steps: Vec<Vec<Vec<usize>>> = passes
        .flat_map(|(epoch, rows)| batches(config, data, rows, seed.index(epoch as u64)))
        .collect();
    let mut optim = config.optim.clone();
    let mut stable = steps.len();
    if !data.decay.is_empty() {
        stable -= optim.decaying(steps.len());
        let mut rows: Vec<usize> = steps.drain(stable..).flatten().flatten().collect();
        let first = data.parts.iter().map(|part| part.rows).sum();
        rows.extend(mixture::beside(data.decay, first, rows.len(), seed));
        steps.extend(batches(config, data, &rows, seed.child("decay")));
        (optim.decay_steps, optim.decay_ratio) = (Some(steps.len() - stable), None);
    }
    Planned { steps, stable, optim }
}

/// One pass over some rows.
fn batches(config: &SftConfig, data: &SftData<'_>, rows: &[usize], seed: Seed) -> Vec<Vec<Vec<usize>>> {
    let size = config
        .batch_tokens
        .map_or(BatchSize::Rows(config.batch_size), BatchSize::Tokens);
    let lengths: Vec<usize> = rows
        .iter()
        .map(|row| data.examples[*row].sequence.tokens.len())
        .collect();
    let named = plan(&lengths, size, seed)
        .into_iter()
        .map(|batch| batch.into_iter().map(|place| rows[place]).collect());
    accumulated(named.collect(), config.gradient_accumulation_steps)
}

/// What the tokens of a batch weigh together.
fn weight(batch: &[&Example]) -> f64 {
    let weights = batch.iter().flat_map(|example| &example.weights);
    weights.map(|weight| f64::from(*weight)).sum()
}

/// Adds the gradients of the batches of a step, each by its share of the learnt tokens; answers the loss of all of them, and
/// how their tokens were foreseen.
fn accumulate(run: &mut Run<'_>, batches: &[Vec<&Example>]) -> Result<(f64, Foresight)> {
    let total: f64 = batches.iter().map(|batch| weight(batch)).sum();
    // A batch of which nothing is learnt has no mean to divide by. A weight that is no number goes on to the loss, where the
    // run sees it.
    let learnt = batches.iter().filter(|batch| weight(batch) != 0.0);
    let parts = learnt.map(|batch| accumulation::Part {
        of: batch,
        sequences: batch.iter().map(|example| example.sequence.clone()).collect(),
        share: weight(batch) / total,
    });
    let mut foresight = Foresight::default();
    let wanted = Wanted::Logprobs { temperature: 1.0 };
    let sum = run.accumulate(wanted, parts, |leaves, batch| {
        let weights = leaves.pad(batch.iter().map(|example| example.weights.clone()))?;
        for (outlooks, example) in leaves.outlooks.iter().zip(*batch) {
            foresight.add(outlooks, &example.weights);
        }
        let loss = loss::sft::loss(leaves.logprobs.as_tensor(), &weights)?;
        Ok((loss, Vec::new(), ()))
    })?;
    Ok((sum.loss, foresight))
}

/// Sequences in one pass of an evaluation.
const EVAL_ROWS: usize = 16;

/// `-Σ w·log p / Σ w` over all learnt tokens of `examples`.
pub fn held_out_loss(decoder: &Decoder, examples: &[Example]) -> Result<f64> {
    Ok(evaluate(decoder, examples)?.0)
}

/// That loss, and how the tokens were foreseen.
fn evaluate(decoder: &Decoder, examples: &[Example]) -> Result<(f64, Foresight)> {
    let (mut sum, mut weights, mut foresight) = (0.0, 0.0, Foresight::default());
    for batch in examples.chunks(EVAL_ROWS) {
        let sequences: Vec<Sequence> = batch.iter().map(|example| example.sequence.clone()).collect();
        let outputs = trunk::infer(decoder, &sequences, Wanted::Logprobs { temperature: 1.0 })?;
        for (example, (logprobs, outlooks)) in batch.iter().zip(outputs.logprobs.iter().zip(&outputs.outlooks)) {
            foresight.add(outlooks, &example.weights);
            for (weight, logprob) in example.weights.iter().zip(logprobs) {
                sum -= f64::from(*weight) * f64::from(*logprob);
                weights += f64::from(*weight);
            }
        }
    }
    Ok((sum / weights, foresight))
}
