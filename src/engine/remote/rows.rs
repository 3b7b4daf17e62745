//! One row of each kind of request: its question, what the endpoint does not serve of it, its result.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::client::{Client, Health, Unanswered};
use super::protocol::{Answer, FEWER, Question, TOP};
use crate::engine::{GenerateRequest, Generation, Refusal, ScoreRequest};
use crate::error::{Error, Result};
use crate::http::{self, backoff};
use crate::prompt::Request;

/// Health checks of an endpoint before the run gives it up for now.
const FIRST_CHECKS: u32 = 3;

/// What the tasks of a run share.
pub struct Shared {
    pub client: Client,
    /// Whether the endpoints take `logprobs` with a generation, as far as is known.
    logprobs: AtomicBool,
    /// Whether they take a `top_p` of 1.
    top_p: AtomicBool,
    /// Log-probabilities a position that they list.
    top: AtomicU32,
    pub unscored: AtomicU64,
    pub floors: AtomicU64,
    pub options: AtomicU64,
    /// Prompt tokens of a request about one token.
    overhead: OnceCell<Option<u32>>,
}

impl Shared {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            logprobs: AtomicBool::new(true),
            top_p: AtomicBool::new(true),
            top: AtomicU32::new(TOP),
            unscored: AtomicU64::new(0),
            floors: AtomicU64::new(0),
            options: AtomicU64::new(0),
            overhead: OnceCell::new(),
        }
    }

    /// Looks at an endpoint, a few times if it does not answer.
    pub async fn first_health(&self, index: usize) -> Result<Health> {
        let mut attempt = 1;
        loop {
            let health = self.client.health(index).await;
            if attempt == FIRST_CHECKS || !matches!(health, Health::Dead(_)) {
                return Ok(health);
            }
            http::sleep(backoff::full_jitter(Duration::from_millis(500), attempt)).await?;
            attempt += 1;
        }
    }

    /// Asks, and asks again without a `top_p` of 1 where that is refused, as by TGI. What an endpoint does
    /// not take is remembered once leaving it out has helped: a refusal may quote the prompt.
    async fn ask(&self, question: &Question) -> Result<Answer, Unanswered> {
        if self.top_p.load(Ordering::Relaxed) {
            match self.client.ask(question).await {
                Err(Unanswered::Rejected(words)) if words.contains("top_p") && question.takes_all() => {}
                other => return other,
            }
        }
        let answer = self.client.ask(&question.clone().without_neutral_top_p()).await;
        if answer.is_ok() {
            self.top_p.store(false, Ordering::Relaxed);
        }
        answer
    }

    pub async fn generate(&self, request: &GenerateRequest) -> Result<Result<Generation, Refusal>> {
        let model = &self.client.endpoints.model;
        let logprobs = self.logprobs.load(Ordering::Relaxed);
        let question = Question::generation(model, request, logprobs);
        let answer = match self.ask(&question).await {
            Err(Unanswered::Rejected(words)) if logprobs && refuses_logprobs(&words) => {
                let answer = self.ask(&question.clone().without_logprobs()).await;
                if answer.is_ok() {
                    self.logprobs.store(false, Ordering::Relaxed);
                }
                answer
            }
            other => other,
        };
        answered(&question, answer).map(|answer| {
            let answer = answer?;
            let finish_reason = answer.finish().map_err(Refusal)?;
            if answer.logprob.is_none() {
                self.unscored.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Generation {
                finish_reason,
                tokens: answer
                    .completion_tokens
                    .unwrap_or_else(|| estimated_tokens(&answer.text)),
                prompt_tokens: answer.prompt_tokens.unwrap_or(0),
                logprob: answer.logprob.unwrap_or(0.0) as f32,
                text: answer.text,
            })
        })
    }

    pub async fn score(&self, request: &ScoreRequest) -> Result<Result<Vec<f32>, Refusal>> {
        let none = |why: String| Refusal(format!("the endpoint serves no log-probabilities{why}"));
        let model = &self.client.endpoints.model;
        let mut top = self.top.load(Ordering::Relaxed);
        let answer = loop {
            let question = Question::scoring(model, &request.prompt, top);
            match self.ask(&question).await {
                Err(Unanswered::Rejected(words)) if refuses_logprobs(&words) => {
                    if top == FEWER {
                        return Ok(Err(none(format!(": {words}"))));
                    }
                    top = FEWER;
                }
                other => break answered(&question, other)?,
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(list) = answer.top else {
            return Ok(Err(none(String::new())));
        };
        self.top.store(top, Ordering::Relaxed);
        Ok(list.score(&request.continuations).map_err(Refusal).map(|scores| {
            self.floors.fetch_add(scores.floors, Ordering::Relaxed);
            self.options.fetch_add(scores.logprobs.len() as u64, Ordering::Relaxed);
            scores.logprobs
        }))
    }

    /// Whether the endpoint lists the options (A) and (B) of a question among the next tokens. An endpoint that
    /// does not answer is an error: it has not said that it cannot.
    pub async fn scores(&self, prompt: &Request) -> Result<bool> {
        match self
            .ask(&Question::scoring(&self.client.endpoints.model, prompt, FEWER))
            .await
        {
            Ok(answer) => Ok(answer
                .top
                .is_some_and(|list| list.score(&["A".into(), "B".into()]).is_ok())),
            Err(Unanswered::Rejected(_)) => Ok(false),
            Err(Unanswered::GivenUp(cause)) => Err(Error::remote(format!(
                "whether the endpoint serves log-probabilities cannot be told: {cause}"
            ))
            .help("try again, or say how verdicts are read: --read logprobs or --read text")),
            Err(Unanswered::End(error)) => Err(error),
        }
    }

    /// The server's count of a prompt's tokens, if it gives one.
    async fn prompt_tokens(&self, prompt: &Request) -> Result<Option<u32>> {
        let question = Question::counting(&self.client.endpoints.model, prompt);
        Ok(answered(&question, self.ask(&question).await)?
            .ok()
            .and_then(|answer| answer.prompt_tokens))
    }

    /// The tokens of `text`: see the engine's `count_tokens`.
    pub async fn count_tokens(&self, text: &str, prompt: impl Fn(&str) -> Request) -> Result<u32> {
        let letter = prompt("a");
        let overhead = self.overhead.get_or_try_init(|| async {
            let tokens = self.prompt_tokens(&letter).await?;
            Ok::<_, Error>(tokens.map(|tokens| tokens.saturating_sub(1)))
        });
        let counted = match *overhead.await? {
            Some(overhead) => {
                let tokens = self.prompt_tokens(&prompt(text)).await?;
                tokens.map(|tokens| tokens.saturating_sub(overhead))
            }
            None => None,
        };
        Ok(counted.unwrap_or_else(|| estimated_tokens(text)))
    }
}

/// The answer, the row's refusal, or the end of the run.
fn answered(question: &Question, answer: Result<Answer, Unanswered>) -> Result<Result<Answer, Refusal>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(Unanswered::End(error)) => Err(error),
        Err(Unanswered::GivenUp(cause)) => Ok(Err(Refusal(cause))),
        Err(Unanswered::Rejected(words)) => {
            let fields = ["continue_final_message", "add_generation_prompt"];
            let refused = question.continues() && fields.iter().any(|field| words.contains(field));
            Ok(Err(Refusal(if refused {
                format!(
                    "the endpoint cannot continue the assistant's turn (with --prompt-style transcript it need not): {words}"
                )
            } else {
                words
            })))
        }
    }
}

/// Whether a refusal is of log-probabilities, or of that many; TGI names its own field.
fn refuses_logprobs(words: &str) -> bool {
    words.contains("logprob") || words.contains("top_n_tokens")
}

/// For servers that do not count: English text has about four bytes to a token.
fn estimated_tokens(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
}
