//! Instructions with their answers: Alpaca, self-instruct, distilabel, OpenRLHF.
//!
//! An `input` follows its `instruction` after a line break, as LLaMA-Factory joins them; Alpaca's own
//! headings belong to its prompt template, not to the data.

use serde_json::Value;

use super::fields::{list, optional, string, wrong_type};
use super::trl::Pair;
use super::{Object, Reason};
use crate::record::Message;

fn question(instruction: &str, input: Option<&str>) -> Message {
    match input {
        Some(input) => Message::user(format!("{instruction}\n{input}")),
        None => Message::user(instruction),
    }
}

/// `system`, the turns of `history`, then `instruction` with `input`.
pub(super) fn alpaca_prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    let mut prompt: Vec<Message> = optional(object, "system")?.map(Message::system).into_iter().collect();
    match object.get("history") {
        None | Some(Value::Null) => {}
        Some(_) => {
            for (index, round) in list(object, "history", "a list of rounds")?.iter().enumerate() {
                match round.as_array().map(Vec::as_slice) {
                    Some([Value::String(question), Value::String(answer)]) => {
                        prompt.extend([Message::user(question), Message::assistant(answer)]);
                    }
                    _ => {
                        return Err(wrong_type(
                            &format!("history[{index}]"),
                            "a question and its answer",
                            round,
                        ));
                    }
                }
            }
        }
    }
    prompt.push(question(string(object, "instruction")?, optional(object, "input")?));
    Ok(prompt)
}

pub(super) fn alpaca(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    Ok((alpaca_prompt(object)?, string(object, "output")?.to_owned()))
}

pub(super) fn alpaca_pair(object: &Object) -> Result<Pair, Reason> {
    let answer = |key| string(object, key).map(|text| vec![Message::assistant(text)]);
    Ok(Pair {
        prompt: alpaca_prompt(object)?,
        chosen: answer("chosen")?,
        rejected: answer("rejected")?,
    })
}

/// The one instance of a task. A row is one answer, so a task with several cannot be one.
fn instance(object: &Object) -> Result<&Object, Reason> {
    match list(object, "instances", "a list of instances")? {
        [Value::Object(instance)] => Ok(instance),
        [other] => Err(wrong_type("instances[0]", "an instance", other)),
        [] => Err("`instances` is empty".into()),
        several => Err(format!(
            "`instances` holds {}, and a row is made of one: write each to a row of its own",
            several.len()
        )),
    }
}

pub(super) fn task_prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    let input = optional(instance(object)?, "input").map_err(|reason| format!("`instances[0]`: {reason}"))?;
    Ok(vec![question(string(object, "instruction")?, input)])
}

pub(super) fn task(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    let output = string(instance(object)?, "output").map_err(|reason| format!("`instances[0]`: {reason}"))?;
    Ok((task_prompt(object)?, output.to_owned()))
}

pub(super) fn distilabel_prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    let system = optional(object, "system_prompt")?.map(Message::system);
    let question = Message::user(string(object, "instruction")?);
    Ok(system.into_iter().chain([question]).collect())
}

pub(super) fn distilabel(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    Ok((distilabel_prompt(object)?, string(object, "generation")?.to_owned()))
}

/// OpenRLHF's `input` and `output`: strings, or an input of messages.
pub(super) fn input_prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    match object.get("input") {
        Some(Value::Array(_)) => super::fields::messages(object, "input"),
        _ => Ok(vec![Message::user(string(object, "input")?)]),
    }
}

pub(super) fn input_output(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    let prompt = input_prompt(object)?;
    let output = super::trl::continuation(object, "output", &prompt)?;
    Ok((prompt, super::trl::answer(output, "output")?))
}
