//! An engine that writes down what passes through it: what the model read, and what it answered.
//!
//! For showing prompts to people. It changes no answer, and what it writes down is the engine's own reading
//! ([`Engine::read`]): after the chat template, where the engine knows that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, ScoreRequest, Usage, plain};
use crate::error::{ErrorKind, Result};
use crate::prompt::{Request, Style};

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    /// Exactly what the model read.
    pub prompt: String,
    pub answer: Said,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A completion.
    Text(String),
    /// The continuations that were scored, with their log-probabilities.
    Scores(Vec<(String, f32)>),
    /// Why there is no answer.
    Refused(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Scores(scores) => {
                for (index, (continuation, logprob)) in scores.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{continuation} {logprob:.3}")?;
                }
                Ok(())
            }
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

/// An engine with a pen beside it.
pub struct Recording<'a> {
    inner: Arc<dyn Engine + Send + 'a>,
    exchanges: Mutex<Vec<Exchange>>,
}

impl<'a> Recording<'a> {
    pub fn new(inner: Arc<dyn Engine + Send + 'a>) -> Self {
        Self {
            inner,
            exchanges: Mutex::default(),
        }
    }

    /// What was written down since the last call, in the order of the requests.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.page())
    }

    fn page(&self) -> MutexGuard<'_, Vec<Exchange>> {
        // A panic in another thread leaves whole exchanges behind.
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<A>(&self, prompt: &Request, answer: &Result<A, Refusal>, said: impl FnOnce(&A) -> Said) -> Result<()> {
        let prompt = match self.inner.read(prompt) {
            // A conversation that the template does not take was read by nobody; it is shown as it was asked.
            Err(error) if error.kind() == ErrorKind::Input => plain(prompt),
            read => read?,
        };
        let answer = match answer {
            Ok(answer) => said(answer),
            Err(Refusal(reason)) => Said::Refused(reason.clone()),
        };
        self.page().push(Exchange { prompt, answer });
        Ok(())
    }
}

impl Engine for Recording<'_> {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        let answers = self.inner.generate(requests)?;
        for (request, answer) in requests.iter().zip(&answers) {
            self.write(&request.prompt, answer, |generation| {
                Said::Text(generation.text.clone())
            })?;
        }
        Ok(answers)
    }

    fn stream(&self, request: &GenerateRequest, told: &(dyn Fn(&str) + Sync)) -> Result<Result<Generation, Refusal>> {
        let answer = self.inner.stream(request, told)?;
        self.write(&request.prompt, &answer, |generation| {
            Said::Text(generation.text.clone())
        })?;
        Ok(answer)
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        let answers = self.inner.score(requests)?;
        for (request, answer) in requests.iter().zip(&answers) {
            self.write(&request.prompt, answer, |logprobs| {
                Said::Scores(
                    request
                        .continuations
                        .iter()
                        .cloned()
                        .zip(logprobs.iter().copied())
                        .collect(),
                )
            })?;
        }
        Ok(answers)
    }

    fn scores(&self, style: Style) -> Result<bool> {
        self.inner.scores(style)
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        self.inner.count_tokens(text)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn style(&self) -> Style {
        self.inner.style()
    }

    fn identity(&self) -> ModelIdentity {
        self.inner.identity()
    }

    fn conditions(&self) -> String {
        self.inner.conditions()
    }

    fn read(&self, prompt: &Request) -> Result<String> {
        self.inner.read(prompt)
    }
}
