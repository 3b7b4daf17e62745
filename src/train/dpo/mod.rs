//! Direct preference optimisation and its kin: soft labels, an optional anchor to the chosen answers, length control.
//!
//! Each loss is in [`loss`](super::loss); this is the loop that all of them share.

mod config;
mod objective;

pub use config::{DpoConfig, PreferenceLoss};

use rand::seq::SliceRandom as _;

use super::accumulation::{Figures, Part};
use super::batch::{BatchSize, accumulated, plan};
use super::foresight::Foresight;
use super::loss::kto;
use super::loss::length::PairWeights;
use super::pairs::{Pair, alternate};
use super::reference::{self, Reference};
use super::run::{Beside, Run, Setup};
use super::seam::Leaves;
use crate::error::{Error, Result};
use crate::model::cpu::trunk::{self, Outputs, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::seed::Seed;
use objective::{Targets, objective};

/// Trains a copy of `policy`, which is also the reference.
pub fn train(setup: Setup<'_>, config: &DpoConfig, policy: &Decoder, pairs: &[Pair], seed: Seed) -> Result<Decoder> {
    train_beside(setup, config, policy, (pairs, &[]), seed)
}

/// The same, with pairs that are not learnt, on which the policy is measured on its way.
pub fn train_beside(
    setup: Setup<'_>,
    config: &DpoConfig,
    policy: &Decoder,
    (pairs, held_out): (&[Pair], &[Pair]),
    seed: Seed,
) -> Result<Decoder> {
    let config = &config.settled()?;
    if config.eval_steps.is_some() && held_out.is_empty() {
        return Err(Error::config("--eval-steps has nothing to measure").help("give --eval-data or --eval-fraction"));
    }
    let plan = Plan::new(config, policy, (pairs, held_out), seed)?;
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
        let due = config.eval_steps.is_some_and(|every| (step + 1).is_multiple_of(every));
        let measured = match !held_out.is_empty() && (due || step + 1 == plan.steps.len()) {
            true => evaluate(&run.decoder, &plan, reference.as_ref(), seed)?,
            false => Figures::new(),
        };
        if let Some((_, loss)) = measured.iter().find(|(name, _)| *name == "loss") {
            run.keep_if_best(*loss)?;
        }
        let shown = format!("accuracy {:.2}", figures[3].1);
        let measured: Vec<(String, f64)> = measured
            .into_iter()
            .map(|(name, value)| (format!("eval_{name}"), value))
            .collect();
        let mut told: Vec<(&str, f64)> = figures;
        told.extend(measured.iter().map(|(name, value)| (name.as_str(), *value)));
        run.end_step(&told, &shown)?;
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
    let point = reference_point(&run.decoder, plan, reference, || plan.mismatched(step))?;
    let (epoch, batches) = &plan.steps[step];
    // A seed of the row and the epoch alone: a resumed run draws the same tokens.
    let seed_of = |row: usize| seed.child("length").index(row as u64).index(*epoch);
    let batches: Vec<Batch<'_>> = batches
        .iter()
        .map(|rows| rows.iter().map(|row| (&plan.pairs[*row], seed_of(*row))).collect())
        .collect();
    let mut foresight = <[Foresight; 2]>::default();
    let parts = parts(plan.config, &batches, reference, point)?;
    let sum = run.accumulate(WANTED, parts, |leaves, targets| {
        targets.foresee(leaves, &mut foresight);
        let (loss, figures) = objective(leaves, targets, plan.config)?;
        Ok((loss, figures, ()))
    })?;
    Ok(foreseen(sum.figures, &foresight))
}

/// Sequences of one pass of an evaluation.
const EVAL_ROWS: usize = 16;

/// The same figures of all pairs that are not learnt.
fn evaluate(policy: &Decoder, plan: &Plan<'_>, reference: Option<&Reference>, seed: Seed) -> Result<Figures> {
    let point = reference_point(policy, plan, reference, || plan.mismatched_held_out())?;
    // The same tokens each time: what changes between two evaluations is the policy.
    let seed = seed.child("length").child("held-out");
    let pairs: Batch<'_> = (plan.held_out.iter().enumerate())
        .map(|(row, pair)| (pair, seed.index(row as u64)))
        .collect();
    let (mut figures, mut foresight) = (Figures::new(), <[Foresight; 2]>::default());
    for Part { of, sequences, .. } in parts(plan.config, &[pairs], reference, point)? {
        let mut outputs = Outputs::default();
        for rows in sequences.chunks(EVAL_ROWS) {
            let found = trunk::infer(policy, rows, WANTED)?;
            outputs.logprobs.extend(found.logprobs);
            outputs.outlooks.extend(found.outlooks);
        }
        let lengths = sequences.iter().map(Sequence::completion_len).collect();
        let leaves = Leaves::new(&outputs, lengths, policy.config.hidden)?;
        of.foresee(&leaves, &mut foresight);
        figures = objective(&leaves, &of, plan.config)?.1;
    }
    Ok(foreseen(figures, &foresight))
}

/// What losses of pairs are made of.
const WANTED: Wanted = Wanted::Logprobs { temperature: 1.0 };

/// Pairs, each with the seed of the tokens that length control draws.
type Batch<'p> = Vec<(&'p Pair, Seed)>;

/// Batches as parts of one mean.
fn parts(
    config: &DpoConfig,
    batches: &[Batch<'_>],
    reference: Option<&Reference>,
    point: f64,
) -> Result<Vec<Part<Targets>>> {
    let control = objective::control(config);
    let weigh = |(pair, seed): &(&Pair, Seed)| -> PairWeights {
        control.weigh(pair.chosen.completion_len(), pair.rejected.completion_len(), *seed)
    };
    let (mut targets, mut sequences) = (Vec::with_capacity(batches.len()), Vec::with_capacity(batches.len()));
    for batch in batches {
        let weights: Vec<PairWeights> = batch.iter().map(weigh).collect();
        let pairs: Vec<&Pair> = batch.iter().map(|(pair, _)| *pair).collect();
        let of_reference = reference.map(|found| found.of(&pairs)).transpose()?;
        targets.push(Targets::new(&pairs, weights, of_reference.as_deref(), point, config)?);
        sequences.push(objective::sequences(&pairs, config));
    }
    let shares = objective::share(&mut targets)?;
    let parts = targets.into_iter().zip(sequences).zip(shares);
    Ok(parts
        .map(|((of, sequences), share)| Part { of, sequences, share })
        .collect())
}

/// The figures with how tokens were foreseen: accuracy of the chosen answers', entropy of all.
fn foreseen(mut figures: Figures, foresight: &[Foresight; 2]) -> Figures {
    let [[accuracy, _], [_, entropy]] = foresight.each_ref().map(Foresight::means);
    figures.extend([("mean_token_accuracy", accuracy), ("entropy", entropy)]);
    figures
}

/// Where the policy stands, by answers to other prompts, for the loss that asks.
fn reference_point(
    policy: &Decoder,
    plan: &Plan<'_>,
    reference: Option<&Reference>,
    mismatched: impl FnOnce() -> Vec<Sequence>,
) -> Result<f64> {
    let Some(reference) = reference.filter(|_| plan.config.loss == PreferenceLoss::Kto) else {
        return Ok(0.0);
    };
    let mismatched = mismatched();
    let sum = |logprobs: &[f32]| logprobs.iter().sum::<f32>();
    let of_policy: Vec<f32> = reference::logprobs_of(policy, &mismatched)?
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
    /// Pairs that are only looked at.
    held_out: &'a [Pair],
    /// Their places in an order in which pairs of one prompt do not stand together, as they may in the data.
    mixed: Vec<usize>,
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

    fn new(
        config: &'a DpoConfig,
        policy: &Decoder,
        (pairs, held_out): (&'a [Pair], &'a [Pair]),
        seed: Seed,
    ) -> Result<Self> {
        if config.loss == PreferenceLoss::Kto && (pairs.len() < 2 || held_out.len() == 1) {
            let held_out = if pairs.len() < 2 {
                "to learn from"
            } else {
                "that is held out"
            };
            return Err(Error::input(format!("--loss kto wants more than one pair {held_out}"))
                .help("it measures how far the policy is from the reference on answers to other prompts"));
        }
        let mut mixed: Vec<usize> = (0..held_out.len()).collect();
        mixed.shuffle(&mut seed.child("held-out").rng());
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
            held_out,
            mixed,
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
        let pairs = || self.pairs.iter().chain(self.held_out);
        let answers = pairs().flat_map(|pair| alternate(&[pair], Clone::clone));
        let others: Box<dyn Iterator<Item = Sequence>> = match self.config.loss {
            PreferenceLoss::Kto => {
                let of_steps = (0..self.steps.len()).flat_map(|step| self.mismatched(step));
                Box::new(of_steps.chain(self.mismatched_held_out()))
            }
            _ => Box::new(std::iter::empty()),
        };
        let rows: usize = (0..self.steps.len()).map(|step| self.rows(step).len()).sum();
        let total = match self.config.loss {
            PreferenceLoss::Kto => 2 * (pairs().count() + rows + self.held_out.len()),
            _ => 2 * pairs().count(),
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
        let pairs = rows.iter().zip(others);
        self.exchanged(pairs.map(|(row, other)| (&self.pairs[*row], &self.pairs[*other])))
    }

    /// The prompts of the pairs that are held out, each with the answers of the pair before in the mixed order; the first with
    /// those of the last.
    fn mismatched_held_out(&self) -> Vec<Sequence> {
        let others = self.mixed.last().into_iter().chain(&self.mixed);
        let pairs = self.mixed.iter().zip(others);
        self.exchanged(pairs.map(|(row, other)| (&self.held_out[*row], &self.held_out[*other])))
    }

    /// The prompts of pairs with the answers of others, as far as they fit.
    fn exchanged<'p>(&self, pairs: impl Iterator<Item = (&'p Pair, &'p Pair)>) -> Vec<Sequence> {
        let sides = pairs.flat_map(|(pair, other)| [(&pair.chosen, &other.chosen), (&pair.rejected, &other.rejected)]);
        sides
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
