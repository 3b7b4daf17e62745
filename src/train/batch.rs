//! From rows to batches: tokens, what of them is learnt, and in which order.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::chat::{Answered, Chat};
use crate::model::cpu::trunk::Sequence;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::{Request, Style, Templates};
use crate::record::{Demonstration, Message};
use crate::seed::Seed;

/// How large a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    Rows(usize),
    /// As many rows as it takes to reach this many tokens.
    Tokens(usize),
}

/// A sequence with the loss weight of each token of its completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub sequence: Sequence,
    pub weights: Vec<f32>,
}

/// Turns conversations and completions into sequences.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub templates: &'a Templates,
    /// The longest sequence allowed.
    pub context: usize,
}

impl Encoder<'_> {
    /// The tokens of a prompt, ready for an answer.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        match self.templates.respond(messages)? {
            Request::Text(text) => self.tokenizer.encode_prompt(&text),
            Request::Chat { messages, prefix } => self.chat()?.prompt(&messages, &prefix),
        }
    }

    fn chat(&self) -> Result<Chat<'_>> {
        self.tokenizer.chat().ok_or_else(|| {
            Error::config("the model has no chat template").help("use --prompt-style transcript, or a chat model")
        })
    }

    /// A prompt and its answer, ended by EOS or by the token that ends a turn in the chat template.
    pub fn answer(&self, messages: &[Message], answer: &str) -> Result<Sequence> {
        if self.templates.style() == Style::Chat {
            let Answered { tokens, completion } = self.chat()?.answer(messages, answer)?;
            return self.check(Sequence { tokens, completion });
        }
        let mut tokens = self.prompt(messages)?;
        let completion = tokens.len();
        let text = format!("{}{}", self.templates.completion_prefix(), answer.trim());
        tokens.extend(self.tokenizer.encode(&text)?);
        tokens.push(self.tokenizer.special().eos);
        self.check(Sequence { tokens, completion })
    }

    /// A row of SFT data; tokens of its prefix get the weight `prompt_weight`.
    pub fn demonstration(&self, row: &Demonstration, prompt_weight: f32) -> Result<Example> {
        let sequence = if row.prompt.is_empty() {
            let mut tokens = self.tokenizer.encode_prompt(&row.prefix)?;
            let completion = tokens.len();
            tokens.extend(self.tokenizer.encode(&row.completion)?);
            tokens.push(self.tokenizer.special().eos);
            self.check(Sequence { tokens, completion })?
        } else {
            self.answer(&row.prompt, &row.completion)?
        };
        // Nothing predicts the first token of a sequence.
        let completion = sequence.completion.max(1);
        if prompt_weight == 0.0 {
            return Ok(Example {
                weights: vec![row.weight; sequence.tokens.len() - completion],
                sequence: Sequence { completion, ..sequence },
            });
        }
        let mut weights = vec![prompt_weight; completion - 1];
        weights.resize(sequence.tokens.len() - 1, row.weight);
        Ok(Example {
            weights,
            sequence: Sequence {
                completion: 1,
                ..sequence
            },
        })
    }

    fn check(&self, sequence: Sequence) -> Result<Sequence> {
        if sequence.tokens.len() > self.context {
            return Err(Error::input(format!(
                "a row has {} tokens; the longest sequence allowed has {}",
                sequence.tokens.len(),
                self.context
            )));
        }
        Ok(sequence)
    }
}

/// The batches of one pass over `lengths.len()` rows, shuffled by `seed`.
pub fn plan(lengths: &[usize], size: BatchSize, seed: Seed) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut seed.rng());
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut tokens = 0;
    for row in order {
        batch.push(row);
        tokens += lengths[row];
        let full = match size {
            BatchSize::Rows(rows) => batch.len() >= rows,
            BatchSize::Tokens(limit) => tokens >= limit,
        };
        if full {
            batches.push(std::mem::take(&mut batch));
            tokens = 0;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}
