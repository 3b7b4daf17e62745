//! The engine: continues texts and scores continuations. It knows models, not constitutions.
//!
//! [`Engine`] is the seam behind which inference happens; stages see nothing else of it. One request
//! that cannot be served (a prompt longer than the context) is refused by itself and does not fail
//! the others.

pub mod batch;
pub mod blocks;
pub mod drawing;
pub mod encode;
pub mod local;
pub mod memo;
pub mod recording;
pub mod remote;
pub mod sampler;
pub mod scripted;

use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::error::{Error, Result};
use crate::prompt::{Request, Style};
use crate::record::FinishReason;
use crate::seed::Seed;

/// How a completion is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct Sampling {
    /// Temperature of sampling; 0 is greedy.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::amount::<f32>)]
    pub temperature: f32,
    /// Draw from the `top_k` most likely tokens only; 0 is all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the most likely tokens that together reach this probability; 1 is all.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::share::<f32>)]
    pub top_p: f32,
    /// Draw from the tokens only that are at least this share as likely as the likeliest; 0 is all.
    #[arg(long, default_value_t = 0.0, value_parser = bounds::share::<f32>)]
    pub min_p: f32,
    /// Divide the logits of tokens that occurred before (multiply negative ones); 1 is off.
    #[arg(long, default_value_t = 1.0, value_parser = bounds::positive::<f32>)]
    pub repetition_penalty: f32,
    /// Tokens of a completion at most.
    #[arg(long, default_value_t = 512, value_parser = bounds::count)]
    pub max_new_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 512,
        }
    }
}

/// One completion to be drawn.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub prompt: Request,
    pub sampling: Sampling,
    /// Texts that end the completion and are not part of it.
    pub stop: Vec<String>,
    pub seed: Seed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The completion, without space at its ends.
    pub text: String,
    pub tokens: u32,
    pub prompt_tokens: u32,
    /// Sum of the model's log-probabilities of the tokens, at temperature 1; 0 where an endpoint serves
    /// none, which its engine reports.
    pub logprob: f32,
    pub finish_reason: FinishReason,
}

/// Continuations of one prefix to be scored.
#[derive(Debug, Clone)]
pub struct ScoreRequest {
    pub prompt: Request,
    pub continuations: Vec<String>,
}

/// A request that cannot be served, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal(pub String);

/// What was asked of an engine so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Usage {
    pub fn tokens(self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
    }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            prompt_tokens: self.prompt_tokens - earlier.prompt_tokens,
            completion_tokens: self.completion_tokens - earlier.completion_tokens,
        }
    }
}

/// Counts usage; engines own one.
#[derive(Debug, Default)]
pub struct Meter(std::sync::Mutex<Usage>);

impl Meter {
    pub fn add(&self, usage: Usage) {
        // A panic in another thread must not stop the counting.
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += usage;
    }

    pub fn read(&self) -> Usage {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The model behind an engine, for provenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    pub reference: String,
    pub sha256: String,
}

/// A request as people read it: a text as it stands, a conversation as `role: content`, turn by turn, and the
/// beginning of the assistant's next one, if it has one.
pub fn plain(prompt: &Request) -> String {
    match prompt {
        Request::Text(text) => text.clone(),
        Request::Chat { messages, prefix } => {
            let turns = messages
                .iter()
                .map(|message| (message.role.as_str(), message.content.as_str()));
            let begun = (!prefix.is_empty()).then_some(("assistant", prefix.as_str()));
            let turns = turns.chain(begun).map(|(role, content)| format!("{role}: {content}"));
            turns.collect::<Vec<_>>().join("\n\n")
        }
    }
}

/// The answer to a single request.
fn only<T>(mut answers: Vec<T>) -> Result<T> {
    answers
        .pop()
        .ok_or_else(|| Error::unexpected("a request without an answer"))
}

pub trait Engine: Sync {
    /// Draws one completion a request, in order.
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>>;

    /// As [`Engine::generate`] of one request. `told` hears the beginning of the text as it grows, if the
    /// engine can tell it before the end.
    fn stream(&self, request: &GenerateRequest, _told: &(dyn Fn(&str) + Sync)) -> Result<Result<Generation, Refusal>> {
        only(self.generate(std::slice::from_ref(request))?)
    }

    /// The summed log-probability of each continuation after its prefix, request by request.
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>>;

    /// Whether [`Engine::score`] can be used at all: an endpoint may serve no log-probabilities, or may not
    /// continue a turn that has begun, as a judge's question in a chat asks for.
    fn scores(&self, _style: Style) -> Result<bool> {
        Ok(true)
    }

    /// How many tokens a text has.
    fn count_tokens(&self, text: &str) -> Result<u32>;

    /// What has been asked of the engine since it was made; nothing where it does not count.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn style(&self) -> Style;

    fn identity(&self) -> ModelIdentity;

    /// What besides the model and the request decides an answer to the bit, in words: a number format, the day that
    /// a template takes for today. Two engines of one model that differ in it are not asked for each other's answers.
    fn conditions(&self) -> String {
        String::new()
    }

    /// What the model reads of a prompt, as text. An engine that knows its model's chat template shows what that
    /// makes of a conversation; others show the turns as they are sent ([`plain`]).
    fn read(&self, prompt: &Request) -> Result<String> {
        Ok(plain(prompt))
    }
}
