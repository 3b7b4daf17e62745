//! Evaluation: policies, judges and reward models on the proving ground, whose ground truth is known.
//! Nothing else asks the oracle.

pub mod policy;
pub mod preference;

use crate::error::{Error, Result};
use crate::record::Message;
use crate::world::{Oracle, Pair};

/// What is asked in a conversation, by the grammar of the proving ground.
fn asked(oracle: &Oracle, messages: &[Message]) -> Result<Pair> {
    let question = messages.last().map_or("", |message| message.content.as_str());
    oracle.question(question).ok_or_else(|| {
        Error::input(format!("the proving ground does not know the question: {question}"))
            .help("evaluation needs prompts of the proving ground: `bylaw world prompts --split evaluation`")
    })
}
