//! How a policy answers: rates of harmful, engaged and evasive answers to harmful prompts, of helpful
//! and wrong ones to benign prompts, and how far it has moved from its reference.

use serde::{Deserialize, Serialize};

use super::asked;
use crate::engine::Sampling;
use crate::engine::drawing::Drawing;
use crate::engine::local::{Job, draw_all, score_all};
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;
use crate::model::decoder::Decoder;
use crate::model::files::Model;
use crate::record::{Message, Prompt};
use crate::report::PolicyFigures;
use crate::seed::Seed;
use crate::train::batch::Encoder;
use crate::train::reward::RewardModel;
use crate::world::{Kind, Label, Oracle};

/// An answer and what the oracle calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    pub id: String,
    pub prompt: String,
    pub answer: String,
    pub label: Label,
    pub kind: Kind,
    pub tokens: u32,
    /// By the reward model that was given, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
}

/// The content of `eval.json` for a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyEval {
    /// Rates over harmful prompts (`harmful`, `engaged`, `evasive`) and benign ones (`wrong`, `helpful`);
    /// `kl` is KL(policy ‖ reference) in nats a completion, estimated on the policy's own completions.
    pub figures: PolicyFigures,
    pub answers: Vec<Labelled>,
}

/// Draws one answer to each prompt and has the oracle read it.
pub fn evaluate(
    model: &Model,
    reference: Option<&Decoder>,
    encoder: &Encoder<'_>,
    oracle: &Oracle,
    prompts: &[Prompt],
    sampling: &Sampling,
    seed: Seed,
) -> Result<PolicyEval> {
    let stop = encoder.templates.stop_strings();
    let jobs = prompts
        .iter()
        .map(|prompt| {
            Ok(Job {
                prompt: encoder.prompt(&prompt.messages)?,
                sampling: sampling.clone(),
                stop: stop.clone(),
                seed: seed.child(&prompt.id),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let drawings = draw_all(&model.decoder, &model.tokenizer, &jobs)?;
    let mut answers = Vec::with_capacity(prompts.len());
    for (prompt, drawing) in prompts.iter().zip(&drawings) {
        let text = drawing.text(&model.tokenizer)?;
        answers.push(label(
            oracle,
            &prompt.id,
            &prompt.messages,
            &text,
            drawing.tokens.len() as u32,
        )?);
    }
    let kl = match reference {
        Some(reference) => Some(divergence(&model.decoder, reference, jobs, drawings)?),
        None => None,
    };
    Ok(tally(answers, kl))
}

/// Has the oracle read one answer.
pub fn label(oracle: &Oracle, id: &str, prompt: &[Message], answer: &str, tokens: u32) -> Result<Labelled> {
    let pair = asked(oracle, prompt)?;
    Ok(Labelled {
        id: id.to_owned(),
        prompt: prompt
            .last()
            .map_or_else(String::new, |message| message.content.clone()),
        answer: answer.to_owned(),
        label: oracle.judge(pair, answer).label,
        kind: oracle.kind(pair),
        tokens,
        reward: None,
    })
}

/// Gives every answer its reward.
pub fn score(
    reward_model: &RewardModel,
    encoder: &Encoder<'_>,
    prompts: &[Prompt],
    eval: &mut PolicyEval,
) -> Result<()> {
    let sequences = prompts
        .iter()
        .zip(&eval.answers)
        .map(|(prompt, answer)| encoder.answer(&prompt.messages, &answer.answer))
        .collect::<Result<Vec<_>>>()?;
    for (answer, reward) in eval.answers.iter_mut().zip(reward_model.score(&sequences)?) {
        answer.reward = Some(reward);
    }
    Ok(())
}

/// The rates over labelled answers.
pub fn tally(answers: Vec<Labelled>, kl: Option<f64>) -> PolicyEval {
    let rate = |kind: Kind, label: Label| {
        let of_kind = answers.iter().filter(|answer| answer.kind == kind);
        let count = of_kind.clone().count();
        let labelled = of_kind.filter(|answer| answer.label == label).count();
        (count > 0).then(|| labelled as f64 / count as f64)
    };
    let tokens: f64 = answers.iter().map(|answer| f64::from(answer.tokens)).sum();
    let figures = PolicyFigures {
        harmful: rate(Kind::Harmful, Label::Harmful),
        engaged: rate(Kind::Harmful, Label::Engaged),
        evasive: rate(Kind::Harmful, Label::Evasive),
        wrong: rate(Kind::Benign, Label::Wrong),
        helpful: rate(Kind::Benign, Label::Helpful),
        mean_tokens: (!answers.is_empty()).then(|| tokens / answers.len() as f64),
        kl,
        n: answers.len() as u64,
    };
    PolicyEval { figures, answers }
}

/// The mean of `log π - log π_ref` over completions drawn from π.
fn divergence(policy: &Decoder, reference: &Decoder, jobs: Vec<Job>, drawings: Vec<Drawing>) -> Result<f64> {
    let sequences: Vec<Sequence> = jobs
        .into_iter()
        .zip(drawings)
        .filter(|(_, drawing)| !drawing.tokens.is_empty())
        .map(|(job, drawing)| {
            let completion = job.prompt.len();
            let mut tokens = job.prompt;
            tokens.extend(drawing.tokens);
            Sequence { tokens, completion }
        })
        .collect();
    let (ours, theirs) = (score_all(policy, &sequences)?, score_all(reference, &sequences)?);
    let sum: f64 = ours.iter().zip(theirs).map(|(p, r)| f64::from(p - r)).sum();
    Ok(sum / sequences.len().max(1) as f64)
}
