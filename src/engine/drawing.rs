//! A completion as it is drawn: one token at a time, until something ends it.

use super::Sampling;
use super::batch::{Ask, Listener, Task};
use super::sampler::draw;
use crate::error::Result;
use crate::model::tokenizer::Tokenizer;
use crate::record::FinishReason;
use crate::seed::Rng;

/// Tokens at the end of a completion in which a stop text is looked for; more for a longer one, for a
/// token may be a single byte.
const STOP_WINDOW: usize = 24;

/// A drawn completion, in tokens; the end-of-sequence token, if drawn, is the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    pub tokens: Vec<u32>,
    /// The model's log-probability of each token at temperature 1.
    pub logprobs: Vec<f32>,
    pub finish_reason: FinishReason,
    /// Bytes at the end of the tokens' text that belong to a stop text: a token may hold the end of
    /// the answer and the beginning of the stop text.
    pub overhang: usize,
}

impl Drawing {
    /// The text before the stop text, without space at its ends.
    pub fn text(&self, tokenizer: &Tokenizer) -> Result<String> {
        let text = tokenizer.decode(&self.tokens)?;
        Ok(text[..text.len().saturating_sub(self.overhang)].trim().to_owned())
    }
}

/// A completion under way.
pub struct Progress<'a> {
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    sampling: &'a Sampling,
    stop: &'a [String],
    listener: Option<Listener<'a>>,
    rng: Rng,
    limit: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    overhang: usize,
    ended: Option<FinishReason>,
}

impl<'a> Progress<'a> {
    /// The beginning of a task's completion, if it asks for one.
    pub fn of(task: &'a Task<'a>, context: usize) -> Option<Self> {
        let Ask::Draw {
            sampling,
            stop,
            seed,
            tokenizer,
            listener,
        } = &task.ask
        else {
            return None;
        };
        Some(Self {
            tokenizer,
            prompt: &task.tokens,
            sampling,
            stop,
            listener: *listener,
            rng: seed.rng(),
            limit: sampling.max_new_tokens.min(context.saturating_sub(task.tokens.len())),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            overhang: 0,
            ended: None,
        })
    }

    /// Draws the next token from `logits (vocab)`, which are overwritten.
    pub fn advance(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.limit == 0 {
            self.ended = Some(FinishReason::Length);
            return Ok(());
        }
        let seen = self.prompt.iter().chain(&self.tokens);
        let drawn = draw(logits, self.sampling, seen, &mut self.rng);
        self.tokens.push(drawn.token);
        self.logprobs.push(drawn.logprob);
        if self.tokenizer.is_eos(drawn.token) || self.stopped()? {
            self.ended = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.limit {
            self.ended = Some(FinishReason::Length);
        }
        if let Some(listener) = self.listener {
            listener(&self.tokens);
        }
        Ok(())
    }

    pub fn ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The token drawn last, if the completion goes on after it.
    pub fn next(&self) -> Option<u32> {
        self.tokens.last().copied().filter(|_| !self.ended())
    }

    /// The completion; one that has not ended yet counts as cut off.
    pub fn drawing(self) -> Drawing {
        Drawing {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish_reason: self.ended.unwrap_or(FinishReason::Length),
            overhang: self.overhang,
        }
    }

    /// Whether a stop text has appeared; if so, the tokens that hold nothing else are cut off.
    fn stopped(&mut self) -> Result<bool> {
        let Some(longest) = self.stop.iter().map(String::len).max() else {
            return Ok(false);
        };
        let window = self.tokens.len().saturating_sub(STOP_WINDOW.max(longest));
        let tail = self.tokenizer.decode(&self.tokens[window..])?;
        let Some(at) = self.stop.iter().filter_map(|stop| tail.find(stop.as_str())).min() else {
            return Ok(false);
        };
        // The fewest tokens that hold the answer. Compared by content: half a character decodes to more
        // bytes than a whole one.
        let answer = &tail[..at];
        let mut keep = self.tokens.len();
        while keep > window
            && self
                .tokenizer
                .decode(&self.tokens[window..keep - 1])?
                .starts_with(answer)
        {
            keep -= 1;
        }
        self.overhang = self.tokenizer.decode(&self.tokens[window..keep])?.len() - at;
        self.tokens.truncate(keep);
        self.logprobs.truncate(keep);
        Ok(true)
    }
}
