//! From what leaves the trunk to the loss of a batch of pairs and its figures.
//!
//! Sequences stand pair by pair, the chosen answer first. Their log-probabilities begin with those of the prompt where
//! the loss has a use for them; the weights of tokens are 0 there.

use candle_core::{Device, Tensor};

use super::config::{DpoConfig, PreferenceLoss};
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;
use crate::train::accumulation::Figures;
use crate::train::foresight::Foresight;
use crate::train::length;
use crate::train::loss;
use crate::train::loss::dpo::{DpoLoss, PairLogps, implied_rewards};
use crate::train::loss::kto::KtoWeights;
use crate::train::loss::length::{DpoLength, PairWeights, weighted_logps};
use crate::train::loss::ops::SoftLabels;
use crate::train::pairs::{self, Pair, alternate};
use crate::train::reward::{scalar, share_positive};
use crate::train::seam::Leaves;

/// What the loss of a batch of `B` pairs knows besides the policy.
pub struct Targets {
    p_chosen: Tensor,
    /// What the pairs weigh `(B)`.
    pair_weights: Option<Tensor>,
    /// The weights of the tokens in the loss, one row a sequence.
    weights: Vec<Vec<f32>>,
    /// 1 for the tokens of the answers.
    answers: Vec<Vec<f32>>,
    /// The weights of the tokens in the likelihood, for the loss that has one of its own.
    likelihood: Option<Vec<Vec<f32>>>,
    /// By what that likelihood, a mean over tokens, is multiplied where the batch is a part of a step.
    likelihood_factor: f64,
    margin: Option<Tensor>,
    reference: Option<ReferenceLogps>,
    /// How far the policy is from the reference on answers to other prompts, for the loss that asks.
    reference_point: f64,
}

/// Log-probabilities of the reference `(B)`.
struct ReferenceLogps {
    /// Weighted as those of the policy.
    chosen: Tensor,
    rejected: Tensor,
    /// Of whole answers.
    whole: [Tensor; 2],
}

/// How the tokens of a pair are weighed; a loss that averages over tokens is a matter of weights as well.
pub fn control(config: &DpoConfig) -> DpoLength {
    if config.loss.averages() {
        DpoLength::Normalised
    } else {
        config.length.choice()
    }
}

/// The sequences of a batch as the policy runs them: from the first token on where prompts are learnt too.
pub fn sequences(batch: &[&Pair], config: &DpoConfig) -> Vec<Sequence> {
    let mut sequences = pairs::sequences(batch);
    if learns_prompts(config) {
        sequences.iter_mut().for_each(|sequence| sequence.completion = 1);
    }
    sequences
}

fn learns_prompts(config: &DpoConfig) -> bool {
    config.prompt_loss_weight.is_some_and(|weight| weight > 0.0)
}

impl Targets {
    /// `reference` holds the log-probabilities of the batch's answers, the chosen and the rejected of each pair.
    pub fn new(
        batch: &[&Pair],
        weights: Vec<PairWeights>,
        reference: Option<&[[&[f32]; 2]]>,
        reference_point: f64,
        config: &DpoConfig,
    ) -> Result<Self> {
        let margins: Vec<f32> = weights.iter().map(|pair| pair.margin).collect();
        let reference = reference
            .map(|logprobs| ReferenceLogps::new(logprobs, &weights))
            .transpose()?;
        let prompts: Vec<usize> = pairs::sequences(batch)
            .iter()
            .map(|sequence| {
                if learns_prompts(config) {
                    sequence.completion - 1
                } else {
                    0
                }
            })
            .collect();
        let rows = |of_answers: Vec<Vec<f32>>, of_prompt: f32| -> Vec<Vec<f32>> {
            let rows = prompts.iter().zip(of_answers);
            rows.map(|(prompt, answer)| [vec![of_prompt; *prompt], answer].concat())
                .collect()
        };
        let ones = || alternate(batch, |sequence| vec![1.0; sequence.completion_len()]);
        let likelihood =
            (config.loss == PreferenceLoss::Orpo).then(|| rows(ones(), config.prompt_loss_weight.unwrap_or(0.0)));
        Ok(Self {
            p_chosen: labels(batch, config)?,
            pair_weights: pairs::weights(batch)?,
            answers: rows(ones(), 0.0),
            likelihood,
            likelihood_factor: 1.0,
            margin: (margins.iter().any(|margin| *margin != 0.0))
                .then(|| vector(margins))
                .transpose()?,
            weights: rows(
                weights
                    .into_iter()
                    .flat_map(|pair| [pair.chosen, pair.rejected])
                    .collect(),
                0.0,
            ),
            reference,
            reference_point,
        })
    }

    /// Tokens in the mean of the likelihood: a label says how far an answer takes part.
    fn likelihood_tokens(&self) -> Result<f64> {
        let Some(rows) = &self.likelihood else { return Ok(0.0) };
        let tokens = |row: &Vec<f32>| row.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        let of_pairs = self
            .p_chosen
            .to_vec1::<f32>()?
            .into_iter()
            .map(f64::from)
            .zip(rows.chunks(2));
        Ok(of_pairs
            .map(|(p, pair)| p * tokens(&pair[0]) + (1.0 - p) * tokens(&pair[1]))
            .sum())
    }

    /// How the tokens of the answers were foreseen: of those that were chosen, and of all.
    pub fn foresee(&self, leaves: &Leaves, [chosen, all]: &mut [Foresight; 2]) {
        for (at, (outlooks, counts)) in leaves.outlooks.iter().zip(&self.answers).enumerate() {
            all.add(outlooks, counts);
            if at.is_multiple_of(2) {
                chosen.add(outlooks, counts);
            }
        }
    }
}

/// Makes the batches of a step parts of one mean; answers the share of each in the step's loss, which is that of its pairs.
/// A likelihood is a mean over tokens, of which the share is another.
pub fn share(batches: &mut [Targets]) -> Result<Vec<f64>> {
    let tokens = batches
        .iter()
        .map(Targets::likelihood_tokens)
        .collect::<Result<Vec<_>>>()?;
    let pairs: Vec<f64> = batches.iter().map(|batch| batch.answers.len() as f64 / 2.0).collect();
    let (all_tokens, all_pairs) = (tokens.iter().sum::<f64>(), pairs.iter().sum::<f64>());
    let shares: Vec<f64> = pairs.iter().map(|pairs| pairs / all_pairs).collect();
    if all_tokens > 0.0 {
        for (batch, (tokens, share)) in batches.iter_mut().zip(tokens.iter().zip(&shares)) {
            batch.likelihood_factor = tokens / all_tokens / share;
        }
    }
    Ok(shares)
}

impl ReferenceLogps {
    fn new(logprobs: &[[&[f32]; 2]], weights: &[PairWeights]) -> Result<Self> {
        let weigh = |weights: &[f32], logprobs: &[f32]| weights.iter().zip(logprobs).map(|(w, p)| w * p).sum::<f32>();
        let pairs = || logprobs.iter().zip(weights);
        let whole = |side: usize| vector(logprobs.iter().map(|pair| pair[side].iter().sum::<f32>()));
        Ok(Self {
            chosen: vector(pairs().map(|(logprobs, weights)| weigh(&weights.chosen, logprobs[0])))?,
            rejected: vector(pairs().map(|(logprobs, weights)| weigh(&weights.rejected, logprobs[1])))?,
            whole: [whole(0)?, whole(1)?],
        })
    }
}

fn vector(values: impl IntoIterator<Item = f32>) -> Result<Tensor> {
    let values: Vec<f32> = values.into_iter().collect();
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

/// Smoothed towards the opposite, but for the loss to which smoothing is a share of wrong labels.
fn labels(batch: &[&Pair], config: &DpoConfig) -> Result<Tensor> {
    let smoothing = match config.loss {
        PreferenceLoss::Robust => 0.0,
        _ => config.label_smoothing,
    };
    vector((batch.iter()).map(|pair| pair.p_chosen * (1.0 - smoothing) + (1.0 - pair.p_chosen) * smoothing))
}

/// The loss of a batch, and its figures under TRL's names.
pub fn objective(leaves: &Leaves, targets: &Targets, config: &DpoConfig) -> Result<(Tensor, Figures)> {
    let logprobs = leaves.logprobs.as_tensor();
    let logps_of = |rows: &[Vec<f32>]| -> Result<[Tensor; 2]> {
        pairs::sides(&weighted_logps(logprobs, &leaves.pad(rows.iter().cloned())?)?)
    };
    let [chosen, rejected] = logps_of(&targets.weights)?;
    let policy = PairLogps {
        chosen: &chosen,
        rejected: &rejected,
    };
    let mut term = pair_term(leaves, targets, policy, config)?;
    // The anchor and the figures are of whole answers, whatever the loss weighs.
    let whole = logps_of(&targets.answers)?;
    let lengths = answer_lengths(targets);
    let of_chosen: Vec<f32> = lengths.iter().step_by(2).map(|length| *length as f32).collect();
    let nll = whole[0].div(&vector(of_chosen)?)?.neg()?.mean_all()?;
    let loss = (&term.loss + (&nll * config.sft_coef)?)?;
    // As TRL tells them: rewards of whole answers for IPO, means over tokens where there is no reference.
    if config.loss == PreferenceLoss::Ipo
        && let Some(reference) = &targets.reference
    {
        term.rewards = implied_rewards(pair_of(&whole), pair_of(&reference.whole), config.beta())?;
    }
    let logps = if config.loss.needs_reference() {
        &whole
    } else {
        &[chosen.clone(), rejected.clone()]
    };
    let margins = (&term.rewards[0] - &term.rewards[1])?;
    let mut figures = vec![
        ("loss", scalar(&loss)?),
        ("rewards/chosen", scalar(&term.rewards[0].mean_all()?)?),
        ("rewards/rejected", scalar(&term.rewards[1].mean_all()?)?),
        ("rewards/accuracies", share_positive(&margins)?),
        ("rewards/margins", scalar(&margins.mean_all()?)?),
        ("logps/chosen", scalar(&logps[0].mean_all()?)?),
        ("logps/rejected", scalar(&logps[1].mean_all()?)?),
        ("nll", scalar(&nll)?),
    ];
    figures.extend(term.figures);
    let [of_chosen, of_rejected] = pairs::split(&lengths);
    figures.extend(length::figures(&margins.to_vec1()?, &of_chosen, &of_rejected));
    Ok((loss, figures))
}

/// The part of the loss that is about pairs.
struct Term {
    loss: Tensor,
    /// `(B)`, of the chosen and the rejected answers.
    rewards: [Tensor; 2],
    /// What the loss tells besides.
    figures: Figures,
}

impl From<DpoLoss> for Term {
    fn from(loss: DpoLoss) -> Self {
        Self {
            loss: loss.loss,
            rewards: [loss.chosen_rewards, loss.rejected_rewards],
            figures: Vec::new(),
        }
    }
}

fn pair_of(logps: &[Tensor; 2]) -> PairLogps<'_> {
    PairLogps {
        chosen: &logps[0],
        rejected: &logps[1],
    }
}

fn pair_term(leaves: &Leaves, targets: &Targets, policy: PairLogps<'_>, config: &DpoConfig) -> Result<Term> {
    let labels = SoftLabels {
        p_chosen: &targets.p_chosen,
        weights: targets.pair_weights.as_ref(),
    };
    let (beta, margin) = (config.beta(), targets.margin.as_ref());
    let Some(reference) = &targets.reference else {
        return without_reference(leaves, targets, policy, labels, config);
    };
    let reference = PairLogps {
        chosen: &reference.chosen,
        rejected: &reference.rejected,
    };
    Ok(match config.loss {
        PreferenceLoss::Robust => {
            let noise = f64::from(config.label_smoothing);
            loss::robust::loss(policy, reference, labels, margin, beta, noise)?.into()
        }
        PreferenceLoss::Hinge => loss::hinge::loss(policy, reference, labels, margin, beta)?.into(),
        PreferenceLoss::Ipo => loss::ipo::loss(policy, reference, labels, beta)?.into(),
        PreferenceLoss::Kto => {
            let weights = KtoWeights {
                desirable: config.desirable_weight.unwrap_or(1.0),
                undesirable: config.undesirable_weight.unwrap_or(1.0),
            };
            let found = loss::kto::loss(policy, reference, labels, targets.reference_point, beta, weights)?;
            Term {
                figures: vec![("kl", targets.reference_point)],
                ..found.into()
            }
        }
        PreferenceLoss::Sigmoid | PreferenceLoss::Simpo | PreferenceLoss::Orpo => {
            loss::dpo::loss(policy, reference, labels, margin, beta)?.into()
        }
    })
}

fn without_reference(
    leaves: &Leaves,
    targets: &Targets,
    policy: PairLogps<'_>,
    labels: SoftLabels<'_>,
    config: &DpoConfig,
) -> Result<Term> {
    let Some(likelihood) = &targets.likelihood else {
        let gamma = config.simpo_gamma.unwrap_or(0.0);
        return Ok(loss::simpo::loss(policy, labels, config.beta(), gamma)?.into());
    };
    let [chosen, rejected] = pairs::sides(leaves.logprobs.as_tensor())?;
    let [of_chosen, of_rejected] = pairs::sides(&leaves.pad(likelihood.iter().cloned())?)?;
    let nll = loss::orpo::nll((&chosen, &of_chosen), (&rejected, &of_rejected), labels)?;
    let nll = (nll * targets.likelihood_factor)?;
    let found = loss::orpo::loss(policy, &nll, labels, config.beta())?;
    Ok(Term {
        figures: vec![
            ("nll_loss", scalar(&nll)?),
            ("log_odds_ratio", scalar(&found.log_sigmoid.mean_all()?)?),
            ("log_odds_chosen", scalar(&found.log_odds_ratio.mean_all()?)?),
        ],
        loss: found.loss,
        rewards: [found.chosen_rewards, found.rejected_rewards],
    })
}

/// Tokens of each answer, pair by pair.
fn answer_lengths(targets: &Targets) -> Vec<usize> {
    let counted = |row: &Vec<f32>| row.iter().filter(|counts| **counts > 0.0).count();
    targets.answers.iter().map(counted).collect()
}
