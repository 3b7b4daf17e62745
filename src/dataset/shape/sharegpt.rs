//! ShareGPT conversations: turns of `from` and `value`, and what LLaMA-Factory adds to them.

use serde_json::Value;

use super::fields::{label, list, optional, string, wrong_type};
use super::trl::{Pair, last_turn};
use super::{Object, Reason};
use crate::record::Message;

/// The roles of ShareGPT's exports and of the data sets made after it.
fn role(from: &str) -> Option<&'static str> {
    match from {
        "human" | "user" => Some("user"),
        "gpt" | "assistant" | "chatgpt" | "model" | "bot" => Some("assistant"),
        "system" => Some("system"),
        _ => None,
    }
}

fn turn(item: &Value, place: &str) -> Result<Message, Reason> {
    let Value::Object(item) = item else {
        return Err(wrong_type(place, "a turn", item));
    };
    let field = |name| string(item, name).map_err(|reason| format!("`{place}`: {reason}"));
    // Some data sets keep the name of the column but write OpenAI's keys into it.
    let (from, content) = match item.contains_key("role") && !item.contains_key("from") {
        true => (field("role")?, field("content")?),
        false => (field("from")?, field("value")?),
    };
    let role = role(from).ok_or_else(|| {
        format!("`{place}` is from {from:?}, expected human, gpt or system; a mapping file can rename roles")
    })?;
    Ok(Message {
        role: role.to_owned(),
        content: content.to_owned(),
    })
}

/// `conversations`, after `system` if there is one.
pub(super) fn turns(object: &Object) -> Result<Vec<Message>, Reason> {
    let system = optional(object, "system")?.map(Message::system);
    let turns = list(object, "conversations", "a conversation")?.iter().enumerate();
    let turns = turns.map(|(index, item)| turn(item, &format!("conversations[{index}]")));
    system.map(Ok).into_iter().chain(turns).collect()
}

/// What the conversation asks: without the answer that may end it.
pub(super) fn prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    let mut turns = turns(object)?;
    turns.pop_if(|last| last.role == "assistant");
    Ok(turns)
}

pub(super) fn demonstration(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    let (prompt, answer) = last_turn(turns(object)?, "conversations")?;
    Ok((prompt, answer.content))
}

/// A conversation that waits for its answer, and two answers.
pub(super) fn pair(object: &Object) -> Result<Pair, Reason> {
    let answer = |key: &str| match object.get(key) {
        Some(Value::String(text)) => Ok(Message::assistant(text)),
        Some(item) => turn(item, key),
        None => Err(format!("`{key}` is missing")),
    };
    Ok(Pair {
        prompt: turns(object)?,
        chosen: vec![answer("chosen")?],
        rejected: vec![answer("rejected")?],
    })
}

/// The answer that ends a conversation, and whether it is a good one.
pub(super) fn unpaired(object: &Object) -> Result<(Vec<Message>, Vec<Message>, bool), Reason> {
    let (prompt, answer) = last_turn(turns(object)?, "conversations")?;
    Ok((prompt, vec![answer], label(object, "kto_tag")?))
}
