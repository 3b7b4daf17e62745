//! Transcripts of "\n\nHuman:" and "\n\nAssistant:" turns, as hh-rlhf has them (Bai et al. 2022,
//! arXiv 2204.05862).

use super::Reason;
use super::trl::Pair;
use crate::record::Message;

/// The two sides of an hh-rlhf row, which share everything up to the last answer.
pub(super) fn pair(chosen: &str, rejected: &str) -> Result<Pair, Reason> {
    let sides = [("chosen", chosen), ("rejected", rejected)].map(|(key, text)| {
        let (prompt, answer) = text
            .rsplit_once(ASSISTANT)
            .ok_or_else(|| format!("`{key}` has no {ASSISTANT:?}"))?;
        let turns = turns(prompt).map_err(|reason| format!("`{key}` {reason}"))?;
        Ok::<_, Reason>((prompt, turns, answer))
    });
    let [chosen, rejected] = sides;
    let ((shared, prompt, chosen), (other, _, rejected)) = (chosen?, rejected?);
    if shared != other {
        return Err("`chosen` and `rejected` do not share their conversation up to the last answer".into());
    }
    // An answer that opens a human turn of its own is two turns under one label.
    for (key, answer) in [("chosen", chosen), ("rejected", rejected)] {
        if answer.contains(HUMAN) {
            return Err(format!("`{key}` does not end with an assistant turn"));
        }
    }
    Ok(Pair {
        prompt,
        chosen: vec![Message::assistant(chosen.trim())],
        rejected: vec![Message::assistant(rejected.trim())],
    })
}

pub(super) const HUMAN: &str = "\n\nHuman:";
pub(super) const ASSISTANT: &str = "\n\nAssistant:";

/// The turns of "\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ...", which must alternate and end with a
/// human one.
pub(super) fn turns(text: &str) -> Result<Vec<Message>, Reason> {
    if !text.starts_with(HUMAN) {
        return Err(format!("does not begin with {HUMAN:?}"));
    }
    let mut turns = Vec::new();
    let (mut rest, mut human) = (&text[HUMAN.len()..], true);
    loop {
        let end = [rest.find(HUMAN), rest.find(ASSISTANT)].into_iter().flatten().min();
        let content = rest[..end.unwrap_or(rest.len())].trim();
        turns.push(if human {
            Message::user(content)
        } else {
            Message::assistant(content)
        });
        match end {
            None if human => return Ok(turns),
            None => return Err("has no human turn before its last answer: the turns do not alternate".into()),
            Some(end) => {
                let label = if human { ASSISTANT } else { HUMAN };
                rest = rest[end..]
                    .strip_prefix(label)
                    .ok_or_else(|| format!("has two {} turns in a row", if human { "human" } else { "assistant" }))?;
                human = !human;
            }
        }
    }
}
