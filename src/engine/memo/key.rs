//! What a request is known by: a hash over everything that decides its answer.
//!
//! Knows nothing of answers. Every part stands after its length, so that no two requests run into the same bytes, and
//! the settings are taken apart by name: a new one that is left out does not compile.

use sha2::{Digest, Sha256};

use crate::engine::{Engine, GenerateRequest, Sampling, ScoreRequest};
use crate::prompt::Request;
use crate::record::Message;

/// Goes into every hash: to be raised where what is hashed, or what an answer holds, changes its meaning.
pub const FORMAT: &str = "bylaw memo 1";

pub type Key = [u8; 32];

/// The model whose answers these are, and the conditions of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The hash of the model; its reference, where it has none.
    pub model: String,
    pub conditions: String,
}

impl Scope {
    pub fn of(engine: &dyn Engine) -> Self {
        let identity = engine.identity();
        Self {
            model: match identity.sha256.is_empty() {
                true => identity.reference,
                false => identity.sha256,
            },
            conditions: engine.conditions(),
        }
    }

    pub fn generation(&self, request: &GenerateRequest) -> Key {
        let GenerateRequest {
            prompt,
            sampling,
            stop,
            seed,
        } = request;
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            max_new_tokens,
        } = sampling;
        let mut parts = self.parts("generate", prompt);
        for number in [temperature, top_p, min_p, repetition_penalty] {
            parts.part(&number.to_bits().to_le_bytes());
        }
        for count in [top_k, max_new_tokens] {
            parts.count(*count);
        }
        parts.texts(stop);
        parts.part(seed.bytes());
        parts.key()
    }

    pub fn score(&self, request: &ScoreRequest) -> Key {
        let ScoreRequest { prompt, continuations } = request;
        let mut parts = self.parts("score", prompt);
        parts.texts(continuations);
        parts.key()
    }

    /// What every request has: whom it goes to, what is asked, and the prompt.
    fn parts(&self, asked: &str, prompt: &Request) -> Parts {
        let Self { model, conditions } = self;
        let mut parts = Parts(Sha256::new());
        for text in [FORMAT, model, conditions, asked] {
            parts.part(text.as_bytes());
        }
        match prompt {
            Request::Text(text) => {
                parts.part(b"text");
                parts.part(text.as_bytes());
            }
            Request::Chat { messages, prefix } => {
                parts.part(b"chat");
                parts.count(messages.len());
                for Message { role, content } in messages {
                    parts.part(role.as_bytes());
                    parts.part(content.as_bytes());
                }
                parts.part(prefix.as_bytes());
            }
        }
        parts
    }
}

struct Parts(Sha256);

impl Parts {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.count(texts.len());
        texts.iter().for_each(|text| self.part(text.as_bytes()));
    }

    fn key(self) -> Key {
        self.0.finalize().into()
    }
}
