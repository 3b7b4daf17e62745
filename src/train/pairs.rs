//! Preference pairs in tokens, for the reward model and DPO.

use super::batch::Encoder;
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;
use crate::record::{Message, Preference};

#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub chosen: Sequence,
    pub rejected: Sequence,
    pub p_chosen: f32,
}

impl Pair {
    pub fn tokens(&self) -> usize {
        self.chosen.tokens.len() + self.rejected.tokens.len()
    }
}

/// The text of an answer given as messages.
pub fn answer_text(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|message| message.content.as_str())
        .collect::<Vec<_>>()
        .join("\n\n")
}

pub fn encode(encoder: &Encoder<'_>, row: &Preference) -> Result<Pair> {
    Ok(Pair {
        chosen: encoder.answer(&row.prompt, &answer_text(&row.chosen))?,
        rejected: encoder.answer(&row.prompt, &answer_text(&row.rejected))?,
        p_chosen: row.p_chosen,
    })
}

/// The sequences of a batch of pairs: all chosen answers, then all rejected ones.
pub fn sequences(batch: &[&Pair]) -> Vec<Sequence> {
    let chosen = batch.iter().map(|pair| pair.chosen.clone());
    let rejected = batch.iter().map(|pair| pair.rejected.clone());
    chosen.chain(rejected).collect()
}
