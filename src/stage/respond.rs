//! Respond: one answer to each prompt.

use super::Context;
use crate::engine::{GenerateRequest, Generation, Refusal, Sampling};
use crate::error::Result;
use crate::record::Prompt;

/// Draws the `sample`-th answer to every prompt.
pub fn respond(
    context: Context<'_>,
    prompts: &[Prompt],
    sampling: &Sampling,
    sample: u64,
) -> Result<Vec<Result<Generation, Refusal>>> {
    let stop = context.templates.stop_strings();
    let requests = prompts
        .iter()
        .map(|prompt| {
            Ok(GenerateRequest {
                prompt: context.templates.respond(&prompt.messages)?,
                sampling: sampling.clone(),
                stop: stop.clone(),
                seed: context.seed.child(&prompt.id).child("respond").index(sample),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    context.engine.generate(&requests)
}
