//! Sample: several answers to each prompt, the candidates of a comparison.

use super::respond::respond;
use super::{Context, Outcome, reject};
use crate::engine::Sampling;
use crate::error::Result;
use crate::record::{Candidates, Completion, Prompt};

const STAGE: &str = "sample";

pub fn sample(
    context: Context<'_>,
    prompts: &[Prompt],
    per_prompt: usize,
    sampling: &Sampling,
) -> Result<Vec<Outcome<Candidates>>> {
    // All samples in one call: an engine fills its batch across prompts and samples.
    let mut columns = Vec::with_capacity(per_prompt);
    for sample in 0..per_prompt {
        columns.push(respond(context, prompts, sampling, sample as u64)?.into_iter());
    }
    Ok(prompts
        .iter()
        .map(|prompt| {
            // All of them are taken before the first is looked at: an early return must not leave the
            // later columns a row behind, with answers to another prompt.
            let answers: Vec<_> = columns.iter_mut().filter_map(Iterator::next).collect();
            let mut completions = Vec::with_capacity(per_prompt);
            for (sample, answer) in answers.into_iter().enumerate() {
                let answer = context
                    .accept("an answer", answer)
                    .map_err(|why| reject(&prompt.id, STAGE, why))?;
                completions.push(Completion {
                    text: answer.text,
                    tokens: answer.tokens,
                    finish_reason: answer.finish_reason.as_str().into(),
                    logprob: answer.logprob,
                    sample: sample as u32,
                });
            }
            Ok(Candidates {
                id: prompt.id.clone(),
                prompt: prompt.messages.clone(),
                completions,
            })
        })
        .collect())
}
