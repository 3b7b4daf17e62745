//! TRL's columns: `prompt`, `completion`, `chosen`, `rejected`, `messages`, as strings or messages, and
//! the scores that other programs put beside a pair.

use serde_json::Value;

use super::fields::{check_completion, messages, number, wrong_type};
use super::transcript::{self, ASSISTANT, HUMAN};
use super::{Object, Reason};
use crate::record::Message;

/// Two answers to one prompt.
pub(super) struct Pair {
    pub prompt: Vec<Message>,
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
}

/// `prompt`, `chosen` and `rejected`.
pub(super) fn explicit_pair(object: &Object) -> Result<Pair, Reason> {
    let prompt = prompt(object)?;
    Ok(Pair {
        chosen: continuation(object, "chosen", &prompt)?,
        rejected: continuation(object, "rejected", &prompt)?,
        prompt,
    })
}

/// `chosen` and `rejected`, both whole conversations.
pub(super) fn implicit_pair(object: &Object) -> Result<Pair, Reason> {
    let (prompt, chosen) = last_turn(messages(object, "chosen")?, "chosen")?;
    let (other, rejected) = last_turn(messages(object, "rejected")?, "rejected")?;
    if prompt != other {
        return Err("`chosen` and `rejected` do not share their conversation up to the last turn".into());
    }
    Ok(Pair {
        prompt,
        chosen: vec![chosen],
        rejected: vec![rejected],
    })
}

/// The names under which programs put the scores of the two sides.
const SCORES: [(&str, &str); 3] = [
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_score", "rejected_score"),
];

/// Refuses a pair whose scores do not say what its columns say.
pub(super) fn check_scores(object: &Object) -> Result<(), Reason> {
    let given = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    for (key, other) in SCORES {
        if !(given(key) && given(other)) {
            continue;
        }
        let (chosen, rejected) = (number(object.get(key), key)?, number(object.get(other), other)?);
        if chosen == rejected {
            return Err(format!(
                "`{key}` and `{other}` are both {chosen}: neither answer is preferred"
            ));
        }
        if chosen < rejected {
            return Err(format!(
                "`{key}` is {chosen}, less than the {rejected} of `{other}`: the scores contradict the columns"
            ));
        }
    }
    Ok(())
}

/// How much better the chosen answer is, where a column says it.
pub(super) fn margin(object: &Object) -> Result<Option<f32>, Reason> {
    match object.get("margin") {
        None | Some(Value::Null) => Ok(None),
        given => Ok(Some(number(given, "margin")? as f32)),
    }
}

/// A whole conversation at `key`: what was asked, and the answer that ends it.
pub(super) fn conversation(object: &Object, key: &str) -> Result<(Vec<Message>, String), Reason> {
    let (prompt, answer) = last_turn(messages(object, key)?, key)?;
    Ok((prompt, answer.content))
}

pub(super) fn last_turn(mut messages: Vec<Message>, key: &str) -> Result<(Vec<Message>, Message), Reason> {
    match messages.pop() {
        Some(last) if last.role == "assistant" => Ok((messages, last)),
        _ => Err(format!("`{key}` does not end with an assistant turn")),
    }
}

/// `prompt`: a question, an hh-rlhf transcript that waits for its answer, or messages.
pub(super) fn prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    match object.get("prompt") {
        None => Err("`prompt` is missing".into()),
        Some(Value::Array(_)) => messages(object, "prompt"),
        Some(Value::String(text)) => match text.strip_suffix(ASSISTANT) {
            Some(turns) if turns.starts_with(HUMAN) => {
                transcript::turns(turns).map_err(|reason| format!("`prompt` {reason}"))
            }
            _ => Ok(vec![Message::user(text)]),
        },
        Some(other) => Err(wrong_type("prompt", "a string or messages", other)),
    }
}

/// What follows `prompt` at `key`: a string, messages, or the whole conversation again, as some
/// data sets repeat it.
pub(super) fn continuation(object: &Object, key: &str, prompt: &[Message]) -> Result<Vec<Message>, Reason> {
    match object.get(key) {
        None => Err(format!("`{key}` is missing")),
        Some(Value::String(text)) => Ok(vec![Message::assistant(text)]),
        Some(Value::Array(_)) => {
            let mut messages = messages(object, key)?;
            if messages.starts_with(prompt) {
                messages.drain(..prompt.len());
            }
            check_completion(&messages, key)?;
            Ok(messages)
        }
        Some(other) => Err(wrong_type(key, "a string or messages", other)),
    }
}

/// The text of a completion that must be one assistant turn.
pub(super) fn answer(messages: Vec<Message>, key: &str) -> Result<String, Reason> {
    let count = messages.len();
    let mut messages = messages.into_iter();
    match (messages.next(), messages.next()) {
        (Some(message), None) if message.role == "assistant" => Ok(message.content),
        _ => Err(format!("`{key}` has {count} messages, expected one of the assistant")),
    }
}
