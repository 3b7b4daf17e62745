//! An engine that answers from a function: the deterministic double of tests and `--dry-run`.

use super::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, ScoreRequest};
use crate::error::Result;
use crate::prompt::{Request, Style};
use crate::record::FinishReason;

/// Answers generation with `reply(prompt)` and scores a continuation by `score(prompt, continuation)`.
pub struct ScriptedEngine<G, S> {
    pub reply: G,
    pub score: S,
}

fn text(request: &Request) -> String {
    match request {
        Request::Text(text) => text.clone(),
        Request::Chat { messages, prefix } => {
            let turns: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            format!("{}\n\n{prefix}", turns.join("\n\n"))
        }
    }
}

impl<G, S> Engine for ScriptedEngine<G, S>
where
    G: Fn(&str) -> Result<(String, FinishReason), Refusal> + Sync,
    S: Fn(&str, &str) -> f32 + Sync,
{
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        Ok(requests
            .iter()
            .map(|request| {
                let prompt = text(&request.prompt);
                (self.reply)(&prompt).map(|(text, finish_reason)| Generation {
                    tokens: text.split_whitespace().count() as u32,
                    prompt_tokens: prompt.split_whitespace().count() as u32,
                    logprob: 0.0,
                    text,
                    finish_reason,
                })
            })
            .collect())
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        Ok(requests
            .iter()
            .map(|request| {
                let prompt = text(&request.prompt);
                Ok(request
                    .continuations
                    .iter()
                    .map(|continuation| (self.score)(&prompt, continuation))
                    .collect())
            })
            .collect())
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(text.split_whitespace().count() as u32)
    }

    fn style(&self) -> Style {
        Style::Transcript
    }

    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            reference: "scripted".into(),
            sha256: String::new(),
        }
    }
}
