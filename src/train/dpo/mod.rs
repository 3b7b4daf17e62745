//! Direct preference optimisation and its kin: soft labels, an optional anchor to the chosen answers, length control.
//!
//! Each loss is in [`loss`](super::loss); this is the loop that all of them share.

mod config;
mod objective;

pub use config::{DpoConfig, PreferenceLoss};

use super::accumulation::{Figures, Part};
use super::batch::{BatchSize, accumulated, plan};
use super::foresight::Foresight;
use super::loss::kto;
use super::loss::length::PairWeights;
use super::pairs::{Pair, alternate};
use super::reference::{self, Reference};
use super::run::{Beside, Run, Setup};
use crate::error::{Error, Result};
use crate::model::cpu::trunk::{Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::seed::Seed;
use objective::{Targets, objective};

/// Trains a copy of `policy`, which is also the reference.
pub fn train(setup: Setup<'_>, config: &DpoConfig, policy: &Decoder, pairs: &[Pair], seed: Seed) -> Result<Decoder> {
    let config = &config.settled()?;
    let plan = Plan::new(config, policy, pairs, seed)?;
    let reference = plan.reference(&setup, policy)?;
    let mut run = Run::begin(
        setup,
        (&config.optim, config.learning_rate),
        policy,
        Beside::default(),
        plan.steps.len(),
    )?;
    let mut tokens: usize = (0..run.step()).map(|step| plan.tokens(step)).sum();
    while let Some(step) = run.next_step()? {
        run.learns_from(&plan.rows(step));
        let mut figures = accumulate(&mut run, &plan, reference.as_ref(), step, seed)?;
        let (norm, rate) = run.update()?;
        tokens += plan.tokens(step);
        figures.extend([
            ("learning_rate", rate),
            ("grad_norm", norm),
            ("num_tokens", tokens as f64),
            ("epoch", run.epoch(config.epochs)),
        ]);
        run.end_step(&figures, &format!("accuracy {:.2}", figures[3].1))?;
    }
    Ok(run.finish()?.0)
}

/// Adds the gradients of the batches of a step, each by its share of the pairs. Answers the figures as means over all of
/// them.
fn accumulate(
    run: &mut Run<'_>,
    plan: &Plan<'_>,
    reference: Option<&Reference>,
    step: usize,
    seed: Seed,
) -> Result<Figures> {
    let (config, pairs) = (plan.config, plan.pairs);
    let (epoch, batches) = &plan.steps[step];
    let point = match reference {
        Some(reference) if config.loss == PreferenceLoss::Kto => {
            reference_point(&run.decoder, reference, &plan.mismatched(step))?
        }
        _ => 0.0,
    };
    let control = objective::control(config);
    // A seed of the row and the epoch alone: a resumed run draws the same tokens.
    let weigh = |row: &usize| {
        let seed = seed.child("length").index(*row as u64).index(*epoch);
        let (chosen, rejected) = (&pairs[*row].chosen, &pairs[*row].rejected);
        control.weigh(chosen.completion_len(), rejected.completion_len(), seed)
    };
    let mut targets = Vec::with_capacity(batches.len());
    for rows in batches {
        let batch = plan.pick(rows);
        let weights: Vec<PairWeights> = rows.iter().map(weigh).collect();
        let of_reference = reference.map(|found| found.of(&batch)).transpose()?;
        targets.push(Targets::new(&batch, weights, of_reference.as_deref(), point, config)?);
    }
    let shares = objective::share(&mut targets)?;
    let parts = batches.iter().zip(targets.iter().zip(shares));
    let parts = parts.map(|(rows, (targets, share))| Part {
        of: targets,
        sequences: objective::sequences(&plan.pick(rows), config),
        share,
    });
    let mut foresight = <[Foresight; 2]>::default();
    let wanted = Wanted::Logprobs { temperature: 1.0 };
    let sum = run.accumulate(wanted, parts, |leaves, targets| {
        targets.foresee(leaves, &mut foresight);
        let (loss, figures) = objective(leaves, targets, config)?;
        Ok((loss, figures, ()))
    })?;
    let mut figures = sum.figures;
    let [[accuracy, _], [_, entropy]] = foresight.map(|foresight| foresight.means());
    figures.extend([("mean_token_accuracy", accuracy), ("entropy", entropy)]);
    Ok(figures)
}

/// Where the policy stands, by answers to other prompts.
fn reference_point(policy: &Decoder, reference: &Reference, mismatched: &[Sequence]) -> Result<f64> {
    let sum = |logprobs: &[f32]| logprobs.iter().sum::<f32>();
    let of_policy: Vec<f32> = reference::logprobs_of(policy, mismatched)?
        .iter()
        .map(|logprobs| sum(logprobs))
        .collect();
    let of_reference = mismatched
        .iter()
        .map(|sequence| reference.logprobs(sequence).map(sum))
        .collect::<Result<Vec<f32>>>()?;
    Ok(kto::reference_point(&of_policy, &of_reference))
}

/// Which pairs are in which step, known before the first one.
struct Plan<'a> {
    config: &'a DpoConfig,
    pairs: &'a [Pair],
    /// The longest sequence allowed.
    context: usize,
    /// The epoch of each step, and the rows of each of its batches.
    steps: Vec<(u64, Vec<Vec<usize>>)>,
}

impl<'a> Plan<'a> {
    /// Tokens of both answers with their prompts, of the pairs of a step.
    fn tokens(&self, step: usize) -> usize {
        self.rows(step).iter().map(|row| self.pairs[*row].tokens()).sum()
    }

    fn rows(&self, step: usize) -> Vec<usize> {
        self.steps[step].1.concat()
    }

    fn pick(&self, rows: &[usize]) -> Vec<&'a Pair> {
        rows.iter().map(|row| &self.pairs[*row]).collect()
    }

    fn new(config: &'a DpoConfig, policy: &Decoder, pairs: &'a [Pair], seed: Seed) -> Result<Self> {
        if config.loss == PreferenceLoss::Kto && pairs.len() < 2 {
            return Err(Error::input("--loss kto wants more than one pair to learn from")
                .help("it measures how far the policy is from the reference on answers to other prompts"));
        }
        let lengths: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
        let size = BatchSize::Rows(config.batch_size);
        let steps = (0..config.epochs as u64)
            .flat_map(|epoch| {
                let batches = plan(&lengths, size, seed.index(epoch));
                let steps = accumulated(batches, config.gradient_accumulation_steps);
                steps.into_iter().map(move |step| (epoch, step))
            })
            .collect();
        Ok(Self {
            config,
            pairs,
            context: policy.config.context,
            steps,
        })
    }

    /// What the reference gives to all answers of the run, unless the loss has none.
    fn reference(&self, setup: &Setup<'_>, policy: &Decoder) -> Result<Option<Reference>> {
        if !self.config.loss.needs_reference() {
            return Ok(None);
        }
        let place = reference::Place {
            run: &setup.dir,
            from: self.config.reference_logprobs.as_deref(),
            progress: setup.progress,
        };
        let answers = self.pairs.iter().flat_map(|pair| alternate(&[pair], Clone::clone));
        let others: Box<dyn Iterator<Item = Sequence>> = match self.config.loss {
            PreferenceLoss::Kto => Box::new((0..self.steps.len()).flat_map(|step| self.mismatched(step))),
            _ => Box::new(std::iter::empty()),
        };
        let rows: usize = (0..self.steps.len()).map(|step| self.rows(step).len()).sum();
        let total = match self.config.loss {
            PreferenceLoss::Kto => 2 * (self.pairs.len() + rows),
            _ => 2 * self.pairs.len(),
        };
        Reference::compute(&place, policy, total, answers.chain(others)).map(Some)
    }

    /// The prompts of a step, each with the answers of the pair before its own in the step, as far as they fit. A step of
    /// one pair takes them from the step before.
    fn mismatched(&self, step: usize) -> Vec<Sequence> {
        let rows = self.rows(step);
        let before = match rows.len() {
            1 => step.checked_sub(1).and_then(|step| self.rows(step).last().copied()),
            _ => rows.last().copied(),
        };
        let others = before.as_ref().or(rows.last()).into_iter().chain(&rows);
        let pairs = rows.iter().zip(others).flat_map(|(row, other)| {
            let (pair, other) = (&self.pairs[*row], &self.pairs[*other]);
            [(&pair.chosen, &other.chosen), (&pair.rejected, &other.rejected)]
        });
        pairs
            .map(|(own, other)| {
                let mut tokens = own.tokens[..own.completion].to_vec();
                tokens.extend(&other.tokens[other.completion..]);
                tokens.truncate(self.context);
                Sequence {
                    tokens,
                    completion: own.completion,
                }
            })
            .collect()
    }
}
