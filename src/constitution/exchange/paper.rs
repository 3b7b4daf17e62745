//! The files of the supplement of "Constitutional AI" (Bai et al. 2022, arXiv:2212.08073; the repository
//! anthropics/ConstitutionalHarmlessnessPaper, `prompts/`): texts with what stands around them in a prompt.
//!
//! - requests: an object of `{"prompt": [critique request, ...], "edit_request": revision request}` by key;
//! - questions: a list of comparison questions, each with `Options:` behind it;
//! - examples of critiques: a list of transcripts;
//! - examples of comparisons: a list of `{"prompt": transcript, "corrects": [answer], "incorrects": [answer]}`;
//! - the same with a reasoning: a list of `{"prompt": transcript}`, the question in it `{}`.
//!
//! Each reader has its writer beside it. White space around the texts is not kept here: [`super::originals`] does that.

use serde_json::{Value, json};

use super::json::Cursor;
use super::{Item, STAND_IN};
use crate::constitution::few_shots::{Answer, CritiqueExample, JudgeExample};
use crate::error::Result;
use crate::record::Message;

const CRITIQUE_REQUEST: &str = "CritiqueRequest:";
const CRITIQUE: &str = "Critique:";
const REVISION_REQUEST: &str = "RevisionRequest:";
const REVISION: &str = "Revision:";
const OPTIONS: &str = "Options:";
const HUMAN: &str = "Human:";
const ASSISTANT: &str = "Assistant:";

/// Marks of a comparison with a reasoning.
const HEADER: &str = "Consider the following conversation between a human (H) and an assistant (A):";
const OPTION_A: &str = "\n (A) [[[";
const OPTION_B: &str = "]]]\n (B) [[[";
const REASONING: &str = "]]]\n\nAssistant: Let's think step by step:";
const VERDICT: &str = "\n\nHuman:\nSo the answer is: (";

/// Whether a text looks like an example of a critique.
pub fn is_transcript(text: &str) -> bool {
    text.trim_start().starts_with(HUMAN) && text.contains(CRITIQUE_REQUEST)
}

pub fn is_question(text: &str) -> bool {
    text.trim_end().ends_with(OPTIONS)
}

pub fn read_requests(key: &str, item: &Cursor<'_>) -> Result<Item> {
    let [prompts, revise] = item.fields(["prompt", "edit_request"])?;
    let critiques = prompts.list()?;
    if critiques.is_empty() {
        return Err(prompts
            .error("there is no critique request")
            .help("write at least one: [\"\\n\\nCritiqueRequest: ...\\n\\nCritique:\"]"));
    }
    let critiques = critiques
        .iter()
        .map(|critique| unwrapped(critique, CRITIQUE_REQUEST, CRITIQUE));
    Ok(Item::Requests {
        id: key.to_owned(),
        critiques: critiques.collect::<Result<_>>()?,
        revise: unwrapped(&revise, REVISION_REQUEST, REVISION)?,
    })
}

pub fn requests(critiques: &[String], revise: &str) -> Value {
    let prompts = critiques
        .iter()
        .map(|critique| format!("\n\n{CRITIQUE_REQUEST} {critique}\n\n{CRITIQUE}"));
    json!({
        "prompt": prompts.collect::<Vec<_>>(),
        "edit_request": format!("\n\n{REVISION_REQUEST} {revise}\n\n{REVISION}"),
    })
}

/// What stands between two marks.
fn unwrapped(cursor: &Cursor<'_>, before: &str, behind: &str) -> Result<String> {
    let text = cursor.text()?.trim();
    let help = || format!("write it as \"\\n\\n{before} ...\\n\\n{behind}\"");
    let Some(text) = text.strip_prefix(before) else {
        return Err(cursor
            .error(format!("the text does not begin with `{before}`"))
            .help(help()));
    };
    let Some(text) = text.strip_suffix(behind) else {
        return Err(cursor
            .error(format!("the text does not end with `{behind}`"))
            .help(help()));
    };
    something(cursor, text, &help())
}

/// A text without the space around it, which has to leave something.
fn something(cursor: &Cursor<'_>, text: &str, help: &str) -> Result<String> {
    match text.trim() {
        "" => Err(cursor.error("a text in it is empty").help(help)),
        text => Ok(text.to_owned()),
    }
}

pub fn read_question(item: &Cursor<'_>) -> Result<Item> {
    let help = format!("write it as \"\\nWhich answer is ...? {OPTIONS}\", without the answers");
    let Some(text) = item.text()?.trim().strip_suffix(OPTIONS) else {
        return Err(item
            .error(format!("the question does not end with `{OPTIONS}`"))
            .help(help));
    };
    Ok(Item::Question(something(item, text, &help)?))
}

pub fn question(text: &str) -> Value {
    format!("\n{text} {OPTIONS}").into()
}

pub fn read_critique_example(item: &Cursor<'_>) -> Result<Item> {
    const HELP: &str = "write it as \"\\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nCritiqueRequest: ...\\n\\nCritique: \
                        ...\\n\\nRevisionRequest: ...\\n\\nRevision: ...\\n\\nHuman:\"";
    let text = item.text()?.trim();
    // The paragraph of the next turn, which most of them end with.
    let mut rest = text
        .strip_suffix(HUMAN)
        .filter(|rest| rest.ends_with("\n\n"))
        .unwrap_or(text);
    let mut parts = Vec::new();
    for mark in [CRITIQUE_REQUEST, CRITIQUE, REVISION_REQUEST, REVISION] {
        let Some((part, behind)) = rest.split_once(&format!("\n\n{mark}")) else {
            return Err(item
                .error(format!("there is no paragraph `{mark}` where it belongs"))
                .help(HELP));
        };
        parts.push(part);
        rest = behind;
    }
    let [conversation, critique_request, critique, revision_request] = parts[..] else {
        return Err(item.error("the text has other parts").help(HELP));
    };
    let mut messages = turns(item, conversation, [HUMAN, ASSISTANT], HELP)?;
    let answer = match messages.pop() {
        Some(last) if last.role == "assistant" && ends_with_user(&messages) => last.content,
        _ => {
            return Err(item
                .error("an answer of the assistant has to stand before the critique, and a question before that")
                .help(HELP));
        }
    };
    Ok(Item::Critique(CritiqueExample {
        messages,
        answer,
        critique_request: something(item, critique_request, HELP)?,
        critique: something(item, critique, HELP)?,
        revision_request: something(item, revision_request, HELP)?,
        revision: something(item, rest, HELP)?,
    }))
}

pub fn critique_example(example: &CritiqueExample) -> Value {
    let CritiqueExample {
        messages,
        answer,
        critique_request,
        critique,
        revision_request,
        revision,
    } = example;
    let parts = [
        (ASSISTANT, answer),
        (CRITIQUE_REQUEST, critique_request),
        (CRITIQUE, critique),
        (REVISION_REQUEST, revision_request),
        (REVISION, revision),
    ];
    let mut text = transcript(messages, [HUMAN, ASSISTANT]);
    for (mark, part) in parts {
        text.push_str(&format!("\n\n{mark} {part}"));
    }
    text.push_str(&format!("\n\n{HUMAN}"));
    text.into()
}

/// `index` decides at which place the better answer stands: the file draws it, here it alternates.
pub fn read_comparison(item: &Cursor<'_>, index: usize) -> Result<Item> {
    const HELP: &str = "write it as {\"prompt\": \"\\n\\nHuman: ...\\n\\nAssistant:\", \"corrects\": [\"...\"], \
                        \"incorrects\": [\"...\"]}";
    let [prompt, corrects, incorrects] = item.fields(["prompt", "corrects", "incorrects"])?;
    let Some(conversation) = prompt.text()?.trim().strip_suffix(ASSISTANT) else {
        return Err(prompt
            .error(format!("the conversation does not end with `{ASSISTANT}`"))
            .help(HELP));
    };
    let messages = turns(&prompt, conversation, [HUMAN, ASSISTANT], HELP)?;
    if !ends_with_user(&messages) {
        return Err(prompt
            .error("the last turn before the answers is not the human's")
            .help(HELP));
    }
    let answer = |list: &Cursor<'_>| {
        let only = list.single()?;
        something(&only, only.text()?, HELP)
    };
    let (better, worse) = (answer(&corrects)?, answer(&incorrects)?);
    let (answer, answer_a, answer_b) = match index % 2 {
        0 => (Answer::A, better, worse),
        _ => (Answer::B, worse, better),
    };
    Ok(Item::Comparison(JudgeExample {
        messages,
        question: STAND_IN.into(),
        answer_a,
        answer_b,
        answer,
        reasoning: String::new(),
    }))
}

pub fn comparison(example: &JudgeExample) -> Value {
    let prompt = format!("{}\n\n{ASSISTANT}", transcript(&example.messages, [HUMAN, ASSISTANT]));
    let (better, worse) = super::ranked(example);
    json!({ "prompt": prompt, "corrects": [better], "incorrects": [worse] })
}

pub fn read_reasoned(item: &Cursor<'_>) -> Result<Item> {
    const HELP: &str = "write it as \"\\n\\nHuman: Consider the following conversation between a human (H) and an \
                        assistant (A):\\n\\nH: ...\\n\\n{}\\n (A) [[[...]]]\\n (B) [[[...]]]\\n\\nAssistant: Let's \
                        think step by step: ...\\n\\nHuman:\\nSo the answer is: (A)\"";
    let [prompt] = item.fields(["prompt"])?;
    let lacks = |mark: &str| {
        prompt
            .error(format!("there is no {mark:?} where it belongs"))
            .help(HELP)
    };
    let text = prompt.text()?.trim();
    let (text, verdict) = text.rsplit_once(VERDICT).ok_or_else(|| lacks(VERDICT))?;
    let answer = match verdict {
        "A)" => Answer::A,
        "B)" => Answer::B,
        _ => return Err(lacks("(A)")),
    };
    let (asked, text) = text.split_once(OPTION_A).ok_or_else(|| lacks(OPTION_A))?;
    let (answer_a, text) = text.split_once(OPTION_B).ok_or_else(|| lacks(OPTION_B))?;
    let (answer_b, reasoning) = text.split_once(REASONING).ok_or_else(|| lacks(REASONING))?;
    let (conversation, question) = asked.rsplit_once("\n\n").ok_or_else(|| lacks("\n\n{}"))?;
    let question = match question.trim() {
        "{}" => STAND_IN,
        question => question,
    };
    let (header, conversation) = conversation.split_at(conversation.find("\n\n").unwrap_or(0));
    if !header.starts_with(HUMAN) || !header.ends_with(':') {
        return Err(prompt
            .error("the text does not begin with `Human:` and what the human is to consider")
            .help(HELP));
    }
    let messages = turns(&prompt, conversation, ["H:", "A:"], HELP)?;
    if !ends_with_user(&messages) {
        return Err(prompt.error("the last turn before the answers is not H's").help(HELP));
    }
    Ok(Item::Comparison(JudgeExample {
        messages,
        question: something(&prompt, question, HELP)?,
        answer_a: something(&prompt, answer_a, HELP)?,
        answer_b: something(&prompt, answer_b, HELP)?,
        answer,
        reasoning: something(&prompt, reasoning, HELP)?,
    }))
}

pub fn reasoned(example: &JudgeExample) -> Value {
    let JudgeExample {
        messages,
        question,
        answer_a,
        answer_b,
        answer,
        reasoning,
    } = example;
    let question = match question.as_str() {
        STAND_IN => "{}",
        question => question,
    };
    let conversation = transcript(messages, ["H:", "A:"]);
    json!({
        "prompt": format!(
            "\n\n{HUMAN} {HEADER}{conversation}\n\n{question}{OPTION_A}{answer_a}{OPTION_B}{answer_b}{REASONING} \
             {reasoning}{VERDICT}{})",
            answer.letter()
        ),
    })
}

fn ends_with_user(messages: &[Message]) -> bool {
    messages.last().is_some_and(|last| last.role == "user")
}

/// The turns of a conversation, each a paragraph that begins with one of two labels: the user's, the assistant's.
fn turns(cursor: &Cursor<'_>, text: &str, labels: [&str; 2], help: &str) -> Result<Vec<Message>> {
    let roles = [("user", labels[0]), ("assistant", labels[1])];
    let begins = |text: &str| roles.into_iter().find(|(_, label)| text.starts_with(label));
    let mut rest = text.trim();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let Some((role, label)) = begins(rest) else {
            return Err(cursor
                .error(format!(
                    "a turn begins with neither `{}` nor `{}`",
                    labels[0], labels[1]
                ))
                .help(help));
        };
        let content = &rest[label.len()..];
        let paragraphs = content.match_indices("\n\n").map(|(at, _)| at);
        let end = paragraphs
            .into_iter()
            .find(|at| begins(content[at + 2..].trim_start()).is_some())
            .unwrap_or(content.len());
        messages.push(Message {
            role: role.into(),
            content: something(cursor, &content[..end], help)?,
        });
        rest = content[end..].trim_start();
    }
    Ok(messages)
}

/// A role that has no label here is written as it is, which no reader takes for a turn.
fn transcript(messages: &[Message], labels: [&str; 2]) -> String {
    let turns = messages.iter().map(|message| {
        let label = match message.role.as_str() {
            "user" => labels[0].to_owned(),
            "assistant" => labels[1].to_owned(),
            other => format!("{other}:"),
        };
        format!("\n\n{label} {}", message.content)
    });
    turns.collect()
}
