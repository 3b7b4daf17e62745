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
    /// As many rows as this many tokens hold; a longer row alone.
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
///
/// Rows of a batch stand end to end without padding, and none sees another, so a number of tokens is what a batch costs.
pub fn plan(lengths: &[usize], size: BatchSize, seed: Seed) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut seed.rng());
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut tokens = 0;
    for row in order {
        let full = match size {
            BatchSize::Rows(rows) => batch.len() >= rows,
            BatchSize::Tokens(limit) => tokens + lengths[row] > limit,
        };
        if full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            tokens = 0;
        }
        batch.push(row);
        tokens += lengths[row];
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The batches of each step, so many of them together; a pass over the data ends with a step.
pub fn accumulated(batches: Vec<Vec<usize>>, together: usize) -> Vec<Vec<Vec<usize>>> {
    batches.chunks(together.max(1)).map(<[Vec<usize>]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Catches: a batch with more tokens than it may have, a row lost or taken twice, an order that does not
        /// follow from the seed, a batch closed although the next row would have fitted.
        #[test]
        fn a_batch_of_tokens_never_has_more(
            lengths in proptest::collection::vec(1_usize..40, 0..60),
            limit in 40_usize..120,
            seed in 0_u64..100,
        ) {
            let planned = plan(&lengths, BatchSize::Tokens(limit), Seed::new(seed));
            let tokens = |batch: &Vec<usize>| batch.iter().map(|row| lengths[*row]).sum::<usize>();
            prop_assert!(planned.iter().all(|batch| tokens(batch) <= limit));
            prop_assert!(planned.windows(2).all(|pair| tokens(&pair[0]) + lengths[pair[1][0]] > limit));
            let mut rows = planned.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(plan(&lengths, BatchSize::Tokens(limit), Seed::new(seed)), planned);
        }
    }

    /// Catches: a long row that is left out, or an empty batch before it.
    #[test]
    fn a_row_of_more_tokens_is_a_batch() {
        let planned = plan(&[50, 3, 50], BatchSize::Tokens(10), Seed::new(1));
        assert_eq!(planned.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }

    /// Catches: batches of two passes in one step, and the last ones of a pass left out.
    #[test]
    fn steps_end_with_the_pass() {
        let batches = vec![vec![0], vec![1], vec![2]];
        assert_eq!(accumulated(batches.clone(), 2), [vec![vec![0], vec![1]], vec![vec![2]]]);
        assert_eq!(accumulated(batches, 1).len(), 3);
    }
}
