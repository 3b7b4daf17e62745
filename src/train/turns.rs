//! Conversations of several turns for SFT: every turn of the assistant is learnt, and nothing else.
//!
//! Where a turn begins and ends in tokens is not searched for in a text. Each turn is encoded as the answer to what
//! stands before it, as generation would see it, up to the token that ends the turn. Where that is how the conversation
//! itself goes on, the turns are spans of one sequence. Where it is not (the template leaves the reasoning of earlier turns
//! out; a transcript has no token at the end of a turn that is followed by another), the turn is a sequence of its own.
//! What users write is never a turn of the assistant's, whatever its text looks like: the turns are those of the messages.

use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::batch::{Encoder, Example};
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;
use crate::record::Demonstration;

/// What of a conversation is learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Learn {
    /// The answer that ends it. What the assistant has said before is part of the prompt: of revised answers to
    /// red-team conversations it is what nobody wants to be said.
    #[default]
    LastTurn,
    /// Every turn of the assistant's that answers a user.
    AllTurns,
}

impl Learn {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The places of the turns before the last that can be learnt: each answers a user.
pub fn earlier(row: &Demonstration) -> impl Iterator<Item = usize> {
    let roles = |at: usize| row.prompt[at].role.as_str();
    (1..row.prompt.len()).filter(move |at| roles(*at) == "assistant" && roles(at - 1) == "user")
}

impl Encoder<'_> {
    /// What a row of SFT data teaches; tokens that are not learnt get the weight `prompt_weight`.
    pub fn learnt(&self, row: &Demonstration, learn: Learn, prompt_weight: f32) -> Result<Vec<Example>> {
        if learn == Learn::LastTurn || earlier(row).next().is_none() {
            return Ok(vec![self.demonstration(row, prompt_weight)?]);
        }
        let mut turns = Vec::new();
        for at in earlier(row) {
            turns.push(self.answer(&row.prompt[..at], &row.prompt[at].content)?);
        }
        turns.push(self.answer(&row.prompt, &row.completion)?);
        let sequences = joined(turns).into_iter();
        Ok(sequences
            .map(|(tokens, spans)| weighted(tokens, &spans, row.weight, prompt_weight))
            .collect())
    }
}

/// The turns as spans of as few sequences as they are the beginnings of.
fn joined(turns: Vec<Sequence>) -> Vec<(Vec<u32>, Vec<Range<usize>>)> {
    let mut sequences: Vec<(Vec<u32>, Vec<Range<usize>>)> = Vec::new();
    for turn in turns {
        let span = turn.completion..turn.tokens.len();
        match sequences.last_mut() {
            Some((tokens, spans)) if turn.tokens[..turn.completion].starts_with(tokens) => {
                *tokens = turn.tokens;
                spans.push(span);
            }
            _ => sequences.push((turn.tokens, vec![span])),
        }
    }
    sequences
}

/// A sequence of which the tokens in `spans` weigh `weight`, all others `other`.
fn weighted(tokens: Vec<u32>, spans: &[Range<usize>], weight: f32, other: f32) -> Example {
    // Nothing predicts the first token of a sequence.
    let first = spans.first().map_or(tokens.len(), |span| span.start);
    let completion = if other == 0.0 { first.max(1) } else { 1 };
    let learnt = |at: usize| spans.iter().any(|span| span.contains(&at));
    let weights = (completion..tokens.len())
        .map(|at| if learnt(at) { weight } else { other })
        .collect();
    Example {
        weights,
        sequence: Sequence { tokens, completion },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(tokens: &[u32], completion: usize) -> Sequence {
        Sequence {
            tokens: tokens.to_vec(),
            completion,
        }
    }

    /// Catches: a turn lost or learnt twice, one that the conversation writes otherwise taken for a part of it, and a
    /// turn whose tokens are those of a longer one.
    #[test]
    fn turns_that_go_on_are_one_sequence() {
        let turns = vec![
            turn(&[1, 2, 3], 2),
            turn(&[1, 2, 3, 4, 5], 4),
            turn(&[1, 2, 9, 4, 5, 6], 5),
        ];
        let [both, alone] = joined(turns).try_into().unwrap();
        assert_eq!(both, (vec![1, 2, 3, 4, 5], vec![2..3, 4..5]));
        assert_eq!(alone.0, [1, 2, 9, 4, 5, 6]);
        assert_eq!(alone.1.as_slice(), std::slice::from_ref(&(5..6)));
        // The end of the first turn is inside of the second's answer.
        let overlapping = vec![turn(&[1, 2, 3], 2), turn(&[1, 2, 3, 4], 2)];
        assert_eq!(joined(overlapping).len(), 2);
    }

    /// Catches: weights beside their tokens, prompts that are learnt, a first token that has a weight.
    #[test]
    fn what_lies_between_the_turns_is_masked() {
        let example = weighted(vec![1, 2, 3, 4, 5, 6], &[1..2, 4..6], 0.5, 0.0);
        assert_eq!(example.sequence.completion, 1);
        assert_eq!(example.weights, [0.5, 0.0, 0.0, 0.5, 0.5]);
        let last = std::slice::from_ref(&(3..4));
        let late = weighted(vec![1, 2, 3, 4], last, 1.0, 0.0);
        assert_eq!((late.sequence.completion, late.weights), (3, vec![1.0]));
        let all = weighted(vec![1, 2, 3, 4], last, 1.0, 0.1);
        assert_eq!((all.sequence.completion, all.weights), (1, vec![0.1, 0.1, 1.0]));
    }
}
