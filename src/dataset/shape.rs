//! What a JSON object may look like, and the row it becomes: our own rows, messages, TRL's columns,
//! and the transcripts of hh-rlhf (Bai et al. 2022, arXiv 2204.05862).
//!
//! Pure functions. An object that fits no shape is refused with the reason; nothing is guessed.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::jsonl::type_name;
use super::row::{Kind, Row};
use crate::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Revision, content_id, messages_id,
};

pub type Object = Map<String, Value>;

/// Why an object is not a row.
pub type Reason = String;

/// A kind of row that data references can be read as.
pub trait Shape: Row {
    /// What is read as such a row, for help texts.
    const SHAPES: &'static str;

    /// From an object in one of the shapes that other programs write. `file` names its source.
    fn from_foreign(object: &Object, file: &str) -> Result<Self, Reason>;

    /// From a row of one of our datasets; `None` if rows of its kind cannot become `Self`.
    fn from_native(row: Native) -> Option<Result<Self, Reason>>;

    /// What a well-typed row may still have wrong.
    fn check(&self) -> Result<(), Reason>;
}

/// A row of one of our own datasets.
pub enum Native {
    Prompt(Prompt),
    Revision(Revision),
    Candidates(Candidates),
    Preference(Preference),
    Demonstration(Demonstration),
}

/// The kind of our own row that an object holds, if it announces one.
pub fn kind_of(object: &Object) -> Option<Kind> {
    Kind::of_columns(|name| match object.get(name) {
        // `completions` of strings is the shape of other programs.
        Some(Value::Array(items)) if name == "completions" => items.first().is_some_and(Value::is_object),
        found => found.is_some(),
    })
}

/// Reads an object as one of our own rows; `None` for kinds that nothing is made from.
pub fn native(kind: Kind, object: Object) -> Option<Result<Native, Reason>> {
    fn typed<R: DeserializeOwned>(kind: Kind, object: Object, wrap: fn(R) -> Native) -> Result<Native, Reason> {
        serde_json::from_value(Value::Object(object))
            .map(wrap)
            .map_err(|error| format!("not a row of {kind}: {error}"))
    }
    match kind {
        Kind::Prompts => Some(typed(kind, object, Native::Prompt)),
        Kind::Revisions => Some(typed(kind, object, Native::Revision)),
        Kind::Candidates => Some(typed(kind, object, Native::Candidates)),
        Kind::Preferences => Some(typed(kind, object, Native::Preference)),
        Kind::Demonstrations => Some(typed(kind, object, Native::Demonstration)),
        Kind::Rejects | Kind::UnpairedPreferences => None,
    }
}

/// Reads an object of any shape.
pub fn row<R: Shape>(object: Object, file: &str) -> Result<R, Reason> {
    let row = match kind_of(&object) {
        None => R::from_foreign(&object, file),
        Some(kind) => match native(kind, object) {
            None => Err(cannot_become::<R>(kind)),
            Some(native) => R::from_native(native?).unwrap_or_else(|| Err(cannot_become::<R>(kind))),
        },
    }?;
    row.check()?;
    Ok(row)
}

fn cannot_become<R: Row>(kind: Kind) -> Reason {
    format!("rows of {kind} cannot be read as {}", R::KIND)
}

impl Shape for Prompt {
    const SHAPES: &'static str = "`prompt` (a string or messages), `messages`, or `chosen` and `rejected`";

    fn from_foreign(object: &Object, file: &str) -> Result<Self, Reason> {
        let messages = if object.contains_key("prompt") {
            prompt(object)?
        } else if object.contains_key("messages") {
            let mut messages = messages(object, "messages")?;
            // A demonstration's own answer is not part of its question.
            messages.pop_if(|last| last.role == "assistant");
            messages
        } else if object.contains_key("chosen") && object.contains_key("rejected") {
            pair(object)?.prompt
        } else {
            return Err(missing(object, Self::SHAPES));
        };
        Ok(Self {
            id: messages_id(&messages),
            messages,
            source: match object.get("source") {
                Some(_) => string(object, "source")?.to_owned(),
                None => file.to_owned(),
            },
            tags: match object.get("tags") {
                Some(_) => strings(object, "tags")?,
                None => Vec::new(),
            },
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        let (messages, source) = match row {
            Native::Prompt(prompt) => return Some(Ok(prompt)),
            Native::Revision(row) => (row.prompt, Kind::Revisions),
            Native::Candidates(row) => (row.prompt, Kind::Candidates),
            Native::Preference(row) => (row.prompt, Kind::Preferences),
            Native::Demonstration(_) => return None,
        };
        Some(Ok(Self {
            id: messages_id(&messages),
            messages,
            source: source.to_string(),
            tags: Vec::new(),
        }))
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.messages)
    }
}

impl Shape for Revision {
    const SHAPES: &'static str = "the columns of revisions, as `bylaw revise` writes them";

    fn from_foreign(object: &Object, _: &str) -> Result<Self, Reason> {
        Err(missing(object, Self::SHAPES))
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Revision(revision) => Some(Ok(revision)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.prompt)?;
        check_roles(&self.messages, "messages")
    }
}

impl Shape for Candidates {
    const SHAPES: &'static str = "`prompt` and `completions` (strings), or `chosen` and `rejected`";

    fn from_foreign(object: &Object, _: &str) -> Result<Self, Reason> {
        let (prompt, texts) = if object.contains_key("completions") {
            (prompt(object)?, strings(object, "completions")?)
        } else if object.contains_key("chosen") && object.contains_key("rejected") {
            let Pair {
                prompt,
                chosen,
                rejected,
            } = pair(object)?;
            (prompt, vec![answer(chosen, "chosen")?, answer(rejected, "rejected")?])
        } else {
            return Err(missing(object, Self::SHAPES));
        };
        let completions = texts.into_iter().zip(0..).map(|(text, sample)| Completion {
            text,
            // Nobody counted the tokens or scored them; 0 keeps the columns free of nulls and NaN.
            tokens: 0,
            finish_reason: "stop".into(),
            logprob: 0.0,
            sample,
        });
        let completions: Vec<Completion> = completions.collect();
        let texts = completions.iter().map(|completion| completion.text.as_str());
        Ok(Self {
            id: content_id(parts(&prompt).chain(texts)),
            prompt,
            completions,
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Candidates(candidates) => Some(Ok(candidates)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        if self.completions.is_empty() {
            return Err("`completions` is empty".into());
        }
        check_prompt(&self.prompt)
    }
}

impl Shape for Preference {
    const SHAPES: &'static str =
        "`chosen` and `rejected`, with `prompt` or as whole conversations, or the columns of preferences";

    fn from_foreign(object: &Object, _: &str) -> Result<Self, Reason> {
        if !(object.contains_key("chosen") && object.contains_key("rejected")) {
            return Err(missing(object, Self::SHAPES));
        }
        let Pair {
            prompt,
            chosen,
            rejected,
        } = pair(object)?;
        let chars = |messages: &[Message]| {
            let count: usize = messages.iter().map(|message| message.content.chars().count()).sum();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let p_chosen = 1.0;
        Ok(Self {
            id: content_id(
                parts(&prompt)
                    .chain(["chosen"])
                    .chain(parts(&chosen))
                    .chain(["rejected"])
                    .chain(parts(&rejected)),
            ),
            p_chosen,
            margin: margin(p_chosen),
            weight: 1.0,
            source: "human".into(),
            votes: Vec::new(),
            chosen_tokens: 0,
            rejected_tokens: 0,
            chosen_chars: chars(&chosen),
            rejected_chars: chars(&rejected),
            p_raw: p_chosen,
            prompt,
            chosen,
            rejected,
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Preference(preference) => Some(Ok(preference)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.prompt)?;
        check_completion(&self.chosen, "chosen")?;
        check_completion(&self.rejected, "rejected")?;
        if !(0.5..=1.0).contains(&self.p_chosen) {
            return Err(format!("`p_chosen` is {}, expected 0.5 to 1", self.p_chosen));
        }
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return Err(format!("`weight` is {}, expected a number of at least 0", self.weight));
        }
        Ok(())
    }
}

impl Shape for Demonstration {
    const SHAPES: &'static str = "`prompt` and `completion`, `messages` that end with an assistant turn, `text`, or rows of revisions or candidates";

    fn from_foreign(object: &Object, _: &str) -> Result<Self, Reason> {
        let (prompt, completion) = if object.contains_key("completion") {
            let prompt = prompt(object)?;
            let completion = answer(continuation(object, "completion", &prompt)?, "completion")?;
            (prompt, completion)
        } else if object.contains_key("messages") {
            let mut messages = messages(object, "messages")?;
            match messages.pop() {
                Some(last) if last.role == "assistant" => (messages, last.content),
                _ => return Err("`messages` does not end with an assistant turn".into()),
            }
        } else if object.contains_key("text") {
            (Vec::new(), string(object, "text")?.to_owned())
        } else {
            return Err(missing(object, Self::SHAPES));
        };
        Ok(demonstration(
            content_id(parts(&prompt).chain(["completion", completion.as_str()])),
            prompt,
            completion,
        ))
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Demonstration(row) => Some(Ok(row)),
            Native::Revision(row) => Some(Ok(demonstration(row.id, row.prompt, row.final_answer))),
            Native::Candidates(row) => Some(match row.completions.into_iter().next() {
                Some(first) => Ok(demonstration(row.id, row.prompt, first.text)),
                None => Err("`completions` is empty".into()),
            }),
            Native::Prompt(_) | Native::Preference(_) => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return Err(format!("`weight` is {}, expected a number of at least 0", self.weight));
        }
        if self.prompt.is_empty() {
            // A raw text: all of it is there to learn, or a prefix and what follows it.
            return match self.completion.is_empty() {
                true => Err("the text is empty".into()),
                false => Ok(()),
            };
        }
        check_prompt(&self.prompt)
    }
}

fn demonstration(id: String, prompt: Vec<Message>, completion: String) -> Demonstration {
    Demonstration {
        id,
        prompt,
        prefix: String::new(),
        completion,
        weight: 1.0,
    }
}

/// Log-odds of `p`, held finite: a certain label must not bring infinities into later arithmetic.
pub fn margin(p: f32) -> f32 {
    let p = p.clamp(f32::EPSILON, 1.0 - f32::EPSILON);
    (p / (1.0 - p)).ln()
}

/// Two answers to one prompt.
struct Pair {
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
}

/// `chosen` and `rejected`: with `prompt`, or both sides whole conversations.
fn pair(object: &Object) -> Result<Pair, Reason> {
    if object.contains_key("prompt") {
        let prompt = prompt(object)?;
        Ok(Pair {
            chosen: continuation(object, "chosen", &prompt)?,
            rejected: continuation(object, "rejected", &prompt)?,
            prompt,
        })
    } else if object.get("chosen").is_some_and(Value::is_array) {
        let (prompt, chosen) = last_turn(messages(object, "chosen")?, "chosen")?;
        let (other, rejected) = last_turn(messages(object, "rejected")?, "rejected")?;
        if prompt != other {
            return Err("`chosen` and `rejected` do not share their conversation up to the last turn".into());
        }
        Ok(Pair {
            prompt,
            chosen,
            rejected,
        })
    } else {
        transcript_pair(string(object, "chosen")?, string(object, "rejected")?)
    }
}

fn last_turn(mut messages: Vec<Message>, key: &str) -> Result<(Vec<Message>, Vec<Message>), Reason> {
    match messages.pop() {
        Some(last) if last.role == "assistant" => Ok((messages, vec![last])),
        _ => Err(format!("`{key}` does not end with an assistant turn")),
    }
}

/// The two sides of an hh-rlhf row, which share everything up to the last answer.
fn transcript_pair(chosen: &str, rejected: &str) -> Result<Pair, Reason> {
    let sides = [("chosen", chosen), ("rejected", rejected)].map(|(key, text)| {
        let (prompt, answer) = text
            .rsplit_once(ASSISTANT)
            .ok_or_else(|| format!("`{key}` has no {ASSISTANT:?}"))?;
        let turns = transcript(prompt).map_err(|reason| format!("`{key}` {reason}"))?;
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

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// The turns of "\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ...", which must alternate and end with a
/// human one.
fn transcript(text: &str) -> Result<Vec<Message>, Reason> {
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

/// `prompt`: a question, an hh-rlhf transcript that waits for its answer, or messages.
fn prompt(object: &Object) -> Result<Vec<Message>, Reason> {
    match object.get("prompt") {
        None => Err("`prompt` is missing".into()),
        Some(Value::Array(_)) => messages(object, "prompt"),
        Some(Value::String(text)) => match text.strip_suffix(ASSISTANT) {
            Some(turns) if turns.starts_with(HUMAN) => transcript(turns).map_err(|reason| format!("`prompt` {reason}")),
            _ => Ok(vec![Message::user(text)]),
        },
        Some(other) => Err(wrong_type("prompt", "a string or messages", other)),
    }
}

/// What follows `prompt` at `key`: a string, messages, or the whole conversation again, as some
/// data sets repeat it.
fn continuation(object: &Object, key: &str, prompt: &[Message]) -> Result<Vec<Message>, Reason> {
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
fn answer(messages: Vec<Message>, key: &str) -> Result<String, Reason> {
    let count = messages.len();
    let mut messages = messages.into_iter();
    match (messages.next(), messages.next()) {
        (Some(message), None) if message.role == "assistant" => Ok(message.content),
        _ => Err(format!("`{key}` has {count} messages, expected one of the assistant")),
    }
}

fn messages(object: &Object, key: &str) -> Result<Vec<Message>, Reason> {
    let items = match object.get(key) {
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(key, "messages", other)),
        None => return Err(format!("`{key}` is missing")),
    };
    let messages = items.iter().enumerate().map(|(index, item)| {
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

fn string<'a>(object: &'a Object, key: &str) -> Result<&'a str, Reason> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(key, "a string", other)),
        None => Err(format!("`{key}` is missing")),
    }
}

fn strings(object: &Object, key: &str) -> Result<Vec<String>, Reason> {
    let items = match object.get(key) {
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(key, "a list of strings", other)),
        None => return Err(format!("`{key}` is missing")),
    };
    let texts = items.iter().enumerate().map(|(index, item)| match item {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(&format!("{key}[{index}]"), "a string", other)),
    });
    texts.collect()
}

fn wrong_type(key: &str, expected: &str, found: &Value) -> Reason {
    format!("`{key}` should be {expected}, but is {}", type_name(found))
}

fn missing(object: &Object, expected: &str) -> Reason {
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    let keys = if keys.is_empty() {
        "no keys".to_owned()
    } else {
        keys.join(", ")
    };
    format!("expected {expected}; found {keys}")
}

fn check_roles(messages: &[Message], key: &str) -> Result<(), Reason> {
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

fn check_prompt(messages: &[Message]) -> Result<(), Reason> {
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

fn check_completion(messages: &[Message], key: &str) -> Result<(), Reason> {
    check_roles(messages, key)?;
    match messages.first() {
        None => Err(format!("`{key}` is empty")),
        Some(first) if first.role != "assistant" => Err(format!("`{key}` does not begin with an assistant turn")),
        Some(_) => Ok(()),
    }
}

fn parts(messages: &[Message]) -> impl Iterator<Item = &str> {
    messages
        .iter()
        .flat_map(|message| [message.role.as_str(), message.content.as_str()])
}
