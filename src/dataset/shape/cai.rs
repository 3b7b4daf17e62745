//! Rows of the constitutional AI recipe of Hugging Face: one answer, one critique, one revision.

use super::fields::{optional, string};
use super::trl::Pair;
use super::{Object, Reason};
use crate::record::{Message, Revision, Round, messages_id};

pub(super) fn prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    string(object, "init_prompt").map(|text| vec![Message::user(text)])
}

pub(super) fn demonstration(object: &Object) -> Result<(Vec<Message>, String), Reason> {
    Ok((prompt(object)?, string(object, "revision_response")?.to_owned()))
}

/// The revision over the answer that it revises.
pub(super) fn pair(object: &Object) -> Result<Pair, Reason> {
    let (initial, revision) = (string(object, "init_response")?, string(object, "revision_response")?);
    if initial == revision {
        return Err("`revision_response` is the same text as `init_response`: the revision changed nothing".into());
    }
    Ok(Pair {
        prompt: prompt(object)?,
        chosen: vec![Message::assistant(revision)],
        rejected: vec![Message::assistant(initial)],
    })
}

/// One round. The recipe does not say which principle was drawn, so `principle_id` stays empty.
pub(super) fn revision(object: &Object) -> Result<Revision, Reason> {
    let prompt = prompt(object)?;
    let text = |key| string(object, key).map(str::to_owned);
    let (initial, revision) = (text("init_response")?, text("revision_response")?);
    let request = |key| Ok::<_, Reason>(optional(object, key)?.unwrap_or_default().to_owned());
    let round = Round {
        principle_id: String::new(),
        critique_request: request("critic_prompt")?,
        critique: request("critic_response")?,
        revision_request: request("revision_prompt")?,
        changed: initial != revision,
        revision: revision.clone(),
        principle_hash: String::new(),
    };
    let messages = prompt.iter().cloned().chain([Message::assistant(&revision)]);
    Ok(Revision {
        id: messages_id(&prompt),
        messages: messages.collect(),
        prompt,
        initial,
        rounds: vec![round],
        final_answer: revision,
        // Nobody counted; 0 keeps the columns free of nulls.
        prompt_tokens: 0,
        initial_tokens: 0,
        final_tokens: 0,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "stop".into(),
    })
}
