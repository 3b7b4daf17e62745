//! Where rewards come from: reward models, rules and a judge, each with a weight; their sum is the reward.

use super::reward::RewardModel;
use super::rules::WeighedRule;
use crate::constitution::Constitution;
use crate::engine::{Engine, Refusal, ScoreRequest};
use crate::error::{Error, Result};
use crate::model::cpu::trunk::Sequence;
use crate::model::heads::ScalarHead;
use crate::prompt::Templates;
use crate::record::Message;
use crate::seed::Seed;

/// Completions to be scored, in their order.
pub struct Completions<'a> {
    pub sequences: &'a [Sequence],
    pub texts: &'a [String],
    /// The place in `conversations` of what each answers.
    pub prompts: &'a [usize],
    pub conversations: &'a [Vec<Message>],
    pub seed: Seed,
}

/// One source.
pub enum Source {
    Model(Box<RewardModel>),
    Rule(WeighedRule),
    Judge(Box<Judge>),
}

/// The sources of a run: each with its name and weight. There is one at least.
pub struct Sources(Vec<(String, f32, Source)>);

/// The rewards of completions.
pub struct Scores {
    pub total: Vec<f32>,
    /// Of each source, before its weight.
    pub parts: Vec<(String, Vec<f32>)>,
}

impl Scores {
    /// The mean of each source.
    pub fn means(&self) -> Vec<(String, f64)> {
        let mean =
            |scores: &[f32]| scores.iter().map(|score| f64::from(*score)).sum::<f64>() / scores.len().max(1) as f64;
        self.parts
            .iter()
            .map(|(name, scores)| (name.clone(), mean(scores)))
            .collect()
    }
}

impl Sources {
    pub fn new(sources: Vec<(String, f32, Source)>) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::config("there is nothing to give a reward").help(
                "name a reward model with --reward-model, a rule with --reward-rule, or a judge with --reward-judge",
            ));
        }
        Ok(Self(sources))
    }

    pub fn model(model: RewardModel) -> Self {
        Self(vec![("reward_model".into(), 1.0, Source::Model(Box::new(model)))])
    }

    /// The reward models, with their weights.
    pub fn models(&self) -> impl Iterator<Item = (f32, &RewardModel)> {
        self.0.iter().filter_map(|(_, weight, source)| match source {
            Source::Model(model) => Some((*weight, model.as_ref())),
            Source::Rule(_) | Source::Judge(_) => None,
        })
    }

    /// The weighted sum of what all reward models' heads read in a hidden state of `width`: where a value head can begin.
    /// Nothing where there is no model, or one of another width.
    pub fn head(&self, width: usize) -> Result<Option<ScalarHead>> {
        let heads: Vec<(f32, &ScalarHead)> = self.models().map(|(weight, model)| (weight, &model.head)).collect();
        match heads.is_empty() || heads.iter().any(|(_, head)| head.width() != width) {
            true => Ok(None),
            false => Ok(Some(ScalarHead::weighted_sum(&heads)?)),
        }
    }

    pub fn score(&self, completions: &Completions<'_>) -> Result<Scores> {
        let mut total = vec![0.0; completions.sequences.len()];
        let mut parts = Vec::with_capacity(self.0.len());
        for (name, weight, source) in &self.0 {
            let scores = match source {
                Source::Model(model) => model.score(completions.sequences)?,
                Source::Rule(weighed) => {
                    let answers = completions.texts.iter().zip(completions.sequences);
                    answers
                        .map(|(text, sequence)| weighed.rule.score(text, sequence.completion_len()))
                        .collect()
                }
                Source::Judge(judge) => judge.score(completions)?,
            };
            for (total, score) in total.iter_mut().zip(&scores) {
                *total += weight * score;
            }
            parts.push((name.clone(), scores));
        }
        Ok(Scores { total, parts })
    }
}

/// A language model that says how well an answer satisfies the principles of a constitution: the expected rating from 1
/// to 5, under one principle drawn for the answer, as a share from 0 to 1.
pub struct Judge {
    pub engine: Box<dyn Engine + Send>,
    pub templates: Templates,
    pub constitution: Constitution,
}

/// The best rating, as judges are asked for it.
const BEST: usize = crate::stage::judge::rating::BEST;

impl Judge {
    fn score(&self, completions: &Completions<'_>) -> Result<Vec<f32>> {
        let mut requests = Vec::with_capacity(completions.texts.len());
        for (row, text) in completions.texts.iter().enumerate() {
            let prompt = completions
                .conversations
                .get(completions.prompts[row])
                .ok_or_else(|| Error::unexpected("a judge without the conversation"))?;
            let drawn = self.constitution.draw_judge(completions.seed.index(row as u64))?;
            let question = drawn.judge.as_deref();
            let question = question.ok_or_else(|| Error::unexpected("a principle without a question was drawn"))?;
            requests.push(ScoreRequest {
                prompt: self.templates.rate(prompt, question, text)?,
                continuations: (1..=BEST).map(|rating| rating.to_string()).collect(),
            });
        }
        self.engine.score(&requests)?.into_iter().map(satisfied).collect()
    }
}

/// The expected rating of log-probabilities of the ratings, as a share. An answer that cannot be judged has no reward,
/// and none is made up.
fn satisfied(logprobs: Result<Vec<f32>, Refusal>) -> Result<f32> {
    let unusable = |reason: String| {
        Error::input(format!("the judge cannot rate an answer: {reason}"))
            .help("give prompts and answers less room, or a judge with a longer context")
    };
    let logprobs = logprobs.map_err(|Refusal(reason)| unusable(reason))?;
    if logprobs.len() != BEST || !logprobs.iter().all(|logprob| logprob.is_finite()) {
        return Err(unusable(format!("its log-probabilities are {logprobs:?}")));
    }
    let most = logprobs.iter().copied().fold(f32::MIN, f32::max);
    let shares: Vec<f64> = logprobs.iter().map(|logprob| f64::from(logprob - most).exp()).collect();
    let sum: f64 = shares.iter().sum();
    let expected: f64 = shares
        .iter()
        .enumerate()
        .map(|(rating, share)| rating as f64 * share / sum)
        .sum();
    Ok((expected / (BEST - 1) as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: ratings from 1 instead of 0 in the share, a softmax that is not normalised, a missing rating made up.
    #[test]
    fn a_rating_is_a_share() {
        let of = |logprobs: [f32; 5]| satisfied(Ok(logprobs.to_vec()));
        assert_eq!(of([-2.0; 5]).unwrap(), 0.5);
        assert_eq!(of([-100.0, -100.0, -100.0, -100.0, 0.0]).unwrap(), 1.0);
        assert_eq!(of([-1.0, -200.0, -200.0, -200.0, -200.0]).unwrap(), 0.0);
        let half = of([-3.0, -200.0, -3.0, -200.0, -200.0]).unwrap();
        assert!((half - 0.25).abs() < 1e-6, "{half}");
        assert!(of([f32::NAN; 5]).is_err());
        assert!(satisfied(Err(Refusal("too long".into()))).is_err());
    }
}
