//! Preference pairs in tokens, for the reward model and DPO.

use candle_core::{Device, Tensor};

use super::batch::Encoder;
use crate::error::Result;
use crate::model::cpu::trunk::Sequence;
use crate::record::{Message, Preference};

#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub chosen: Sequence,
    pub rejected: Sequence,
    pub p_chosen: f32,
    /// How much better the chosen answer is, in log-odds: of the label, or as the data say it.
    pub margin: f32,
    /// What the pair weighs in the loss.
    pub weight: f32,
}

impl Pair {
    pub fn tokens(&self) -> usize {
        self.chosen.tokens.len() + self.rejected.tokens.len()
    }

    /// The tokens of what both answer.
    pub fn prompt(&self) -> &[u32] {
        &self.chosen.tokens[..self.chosen.completion]
    }
}

/// Whether a row says how much better its chosen answer is: its label is not certain, or its margin is not that of a
/// certain label.
pub fn has_margin(row: &Preference) -> bool {
    let certain = 1.0 - f32::EPSILON;
    row.margin != (certain / (1.0 - certain)).ln()
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
        margin: row.margin,
        weight: row.weight,
    })
}

/// What the pairs of a batch weigh; `None` where all weigh 1.
pub fn weights(batch: &[&Pair]) -> Result<Option<Tensor>> {
    if batch.iter().all(|pair| pair.weight == 1.0) {
        return Ok(None);
    }
    let weights: Vec<f32> = batch.iter().map(|pair| pair.weight).collect();
    Ok(Some(Tensor::from_vec(weights, batch.len(), &Device::Cpu)?))
}

/// The sequences of a batch of pairs, each chosen answer beside its rejected one: neighbours share their prompt.
pub fn sequences(batch: &[&Pair]) -> Vec<Sequence> {
    alternate(batch, Clone::clone)
}

/// One value a sequence, in the order of [`sequences`].
pub fn alternate<T>(batch: &[&Pair], of: impl Fn(&Sequence) -> T) -> Vec<T> {
    batch
        .iter()
        .flat_map(|pair| [of(&pair.chosen), of(&pair.rejected)])
        .collect()
}

/// What belongs to the chosen and to the rejected answers `(B, ...)`, from values `(2B, ...)` in the order of
/// [`sequences`].
pub fn sides(values: &Tensor) -> Result<[Tensor; 2]> {
    let dims = values.dims();
    let shape = [&[dims[0] / 2, 2], &dims[1..]].concat();
    let pairs = values.reshape(shape)?;
    Ok([pairs.narrow(1, 0, 1)?.squeeze(1)?, pairs.narrow(1, 1, 1)?.squeeze(1)?])
}

/// The same of plain values.
pub fn split<T: Copy>(values: &[T]) -> [Vec<T>; 2] {
    [0, 1].map(|side| values.iter().skip(side).step_by(2).copied().collect())
}
