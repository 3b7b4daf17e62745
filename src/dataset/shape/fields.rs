//! Fields of a JSON object with their types checked: strings, numbers, labels, messages.
//!
//! Every failure is a reason that names the field and what it held.

use serde_json::Value;

use super::form::Form;
use super::{Object, Reason};
use crate::dataset::source::type_name;
use crate::record::Message;

pub(super) fn messages(object: &Object, key: &str) -> Result<Vec<Message>, Reason> {
    let messages = list(object, key, "messages")?.iter().enumerate().map(|(index, item)| {
        let place = format!("{key}[{index}]");
        let Value::Object(item) = item else {
            return Err(wrong_type(&place, "a message", item));
        };
        let field = |name| {
            string(item, name)
                .map(str::to_owned)
                .map_err(|reason| format!("`{place}`: {reason}"))
        };
        Ok(Message {
            role: field("role")?,
            content: field("content")?,
        })
    });
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    check_roles(&messages, key)?;
    Ok(messages)
}

pub(super) fn string<'a>(object: &'a Object, key: &str) -> Result<&'a str, Reason> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(key, "a string", other)),
        None => Err(format!("`{key}` is missing")),
    }
}

pub(super) fn strings(object: &Object, key: &str) -> Result<Vec<String>, Reason> {
    let texts = list(object, key, "a list of strings")?
        .iter()
        .enumerate()
        .map(|(index, item)| match item {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong_type(&format!("{key}[{index}]"), "a string", other)),
        });
    texts.collect()
}

pub(super) fn wrong_type(key: &str, expected: &str, found: &Value) -> Reason {
    format!("`{key}` should be {expected}, but is {}", type_name(found))
}

pub(super) fn check_roles(messages: &[Message], key: &str) -> Result<(), Reason> {
    match messages
        .iter()
        .find(|message| !matches!(message.role.as_str(), "system" | "user" | "assistant"))
    {
        None => Ok(()),
        Some(message) => Err(format!(
            "`{key}` has the role {:?}, expected system, user or assistant",
            message.role
        )),
    }
}

pub(super) fn check_prompt(messages: &[Message]) -> Result<(), Reason> {
    check_roles(messages, "prompt")?;
    match messages.last() {
        None => Err("the prompt is empty".into()),
        Some(last) if last.role != "user" => Err(format!(
            "the prompt ends with a turn of the {}, expected the user",
            last.role
        )),
        Some(last) if last.content.trim().is_empty() => Err("the prompt is empty: its last turn has no text".into()),
        Some(_) => Ok(()),
    }
}

pub(super) fn check_completion(messages: &[Message], key: &str) -> Result<(), Reason> {
    check_roles(messages, key)?;
    match messages.first() {
        None => Err(format!("`{key}` is empty")),
        Some(first) if first.role != "assistant" => Err(format!("`{key}` does not begin with an assistant turn")),
        Some(_) => Ok(()),
    }
}

pub(super) fn parts(messages: &[Message]) -> impl Iterator<Item = &str> {
    messages
        .iter()
        .flat_map(|message| [message.role.as_str(), message.content.as_str()])
}

/// A string that may be absent, null or empty, which all mean that there is none.
pub(super) fn optional<'a>(object: &'a Object, key: &str) -> Result<Option<&'a str>, Reason> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => string(object, key).map(|text| (!text.is_empty()).then_some(text)),
    }
}

pub(super) fn list<'a>(object: &'a Object, key: &str, expected: &str) -> Result<&'a [Value], Reason> {
    match object.get(key) {
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(wrong_type(key, expected, other)),
        None => Err(format!("`{key}` is missing")),
    }
}

/// A finite number. Columns of other programs hold NaN where a rating failed; their readers spell it
/// as a string, because JSON has no such number.
pub(super) fn number(value: Option<&Value>, place: &str) -> Result<f64, Reason> {
    match value {
        None => Err(format!("`{place}` is missing")),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(format!("`{place}` is {number}, expected a finite number")),
        },
        Some(Value::String(text)) if matches!(text.as_str(), "NaN" | "inf" | "-inf") => {
            Err(format!("`{place}` is {text}, expected a finite number"))
        }
        Some(other) => Err(wrong_type(place, "a number", other)),
    }
}

/// A yes or no: a boolean, or 0 and 1.
pub(super) fn label(object: &Object, key: &str) -> Result<bool, Reason> {
    match object.get(key) {
        None => Err(format!("`{key}` is missing")),
        Some(Value::Bool(label)) => Ok(*label),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ => Err(format!("`{key}` is {number}, expected true or false")),
        },
        Some(Value::String(text)) => Err(format!("`{key}` is {text:?}, expected true or false")),
        Some(other) => Err(wrong_type(key, "true or false", other)),
    }
}

/// What `object` was expected to be, what it has, and what it seems to be.
pub(super) fn missing(object: &Object, expected: &str) -> Reason {
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    match (keys.is_empty(), Form::detect_any(object)) {
        (true, _) => format!("expected {expected}; found no keys"),
        (false, None) => match inner_rows(object) {
            None => format!("expected {expected}; found {}", keys.join(", ")),
            Some(key) => format!(
                "expected {expected}; found {}: the rows seem to be inside of `{key}`: write them as a list of their own",
                keys.join(", ")
            ),
        },
        (false, Some(form)) => format!("expected {expected}; found {form}: {}", keys.join(", ")),
    }
}

/// The column that holds objects which have a form, where the object around them has none.
fn inner_rows(object: &Object) -> Option<&str> {
    let holds_rows = |value: &Value| match value {
        Value::Array(items) => matches!(items.first(), Some(Value::Object(item)) if Form::detect_any(item).is_some()),
        _ => false,
    };
    let (key, _) = object.iter().find(|(_, value)| holds_rows(value))?;
    Some(key)
}
