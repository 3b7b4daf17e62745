//! The constitution files of Hugging Face's recipe (huggingface/llm-swarm, `examples/constitutional-ai/`):
//! `{"constitutions": [{"critic", "revision"}], "system_chat": [conversation]}`, and the file of examples of NeMo-Aligner's
//! recipe (NVIDIA/NeMo-Aligner, `examples/nlp/cai/`): `{"samples": [conversation]}`. (Its requests are the paper's file.)
//!
//! A conversation is a list of `{"role", "content"}`: what leads to an answer, the answer, the critique request, the
//! critique, the revision request, the revision.

use serde_json::{Value, json};

use super::Item;
use super::json::Cursor;
use crate::constitution::few_shots::CritiqueExample;
use crate::error::{Error, Result};
use crate::record::Message;

/// Roles of the end of a conversation, from the answer on.
const ROLES: [&str; 5] = ["assistant", "user", "assistant", "user", "assistant"];

pub fn read_requests(item: &Cursor<'_>) -> Result<Item> {
    let [critic, revision] = item.fields(["critic", "revision"])?;
    Ok(Item::Requests {
        id: String::new(),
        critiques: vec![text(&critic)?],
        revise: text(&revision)?,
    })
}

pub fn requests(critique: &str, revise: &str) -> Value {
    json!({ "critic": critique, "revision": revise })
}

pub fn read_conversation(item: &Cursor<'_>) -> Result<Item> {
    const HELP: &str = "write a question of the user, the answer, the critique request, the critique, the revision \
                        request and the revision, each as {\"role\": \"user\" or \"assistant\", \"content\": \"...\"}";
    let turns = item.list()?;
    let mut messages = turns.iter().map(message).collect::<Result<Vec<_>>>()?;
    let wrong = |message: &str| -> Error { item.error(message).help(HELP) };
    if messages.len() <= ROLES.len() {
        return Err(wrong("the conversation is too short for a critique and a revision"));
    }
    let end = messages.split_off(messages.len() - ROLES.len());
    let roles = end.iter().map(|message| message.role.as_str());
    if !roles.eq(ROLES) || messages.last().is_none_or(|last| last.role != "user") {
        return Err(wrong(
            "the last six turns are not the user's and the assistant's in alternation",
        ));
    }
    let Ok([answer, critique_request, critique, revision_request, revision]) =
        <[Message; 5]>::try_from(end).map(|end| end.map(|message| message.content))
    else {
        return Err(wrong("the conversation has another length"));
    };
    Ok(Item::Critique(CritiqueExample {
        messages,
        answer,
        critique_request,
        critique,
        revision_request,
        revision,
    }))
}

fn message(item: &Cursor<'_>) -> Result<Message> {
    let [role, content] = item.fields(["role", "content"])?;
    let name = role.text()?;
    if !["system", "user", "assistant"].contains(&name) {
        return Err(role
            .error(format!("there is no role {name:?}"))
            .help("roles are system, user and assistant"));
    }
    Ok(Message {
        role: name.into(),
        content: text(&content)?,
    })
}

pub fn conversation(example: &CritiqueExample) -> Value {
    let CritiqueExample {
        messages,
        answer,
        critique_request,
        critique,
        revision_request,
        revision,
    } = example;
    let end = [answer, critique_request, critique, revision_request, revision];
    let leading = messages.iter().map(|message| (message.role.as_str(), &message.content));
    let turns = leading.chain(ROLES.into_iter().zip(end));
    turns
        .map(|(role, content)| json!({ "role": role, "content": content }))
        .collect()
}

fn text(cursor: &Cursor<'_>) -> Result<String> {
    match cursor.text()?.trim() {
        "" => Err(cursor.error("the text is empty").help("write it, or remove the item")),
        text => Ok(text.to_owned()),
    }
}
