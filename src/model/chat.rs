//! Conversations in tokens, with the contents of messages kept as data.
//!
//! The text of a conversation is markup, written by the template, and contents, written by people and
//! models. A control token (`<|im_start|>`) is recognised in markup only. Which character is which is
//! found by rendering twice: once as it is, and once with every character of the contents replaced by a
//! stand-in, a private-use character that occurs nowhere else. What is no stand-in in the second text
//! is markup; and with the stand-ins put back, it must be the first text to the byte. White space is
//! not replaced, so that a template trims and splits as it would.
//!
//! A template that looks for words in a message (`'</think>' in content`) finds none among stand-ins,
//! and the two texts differ. Then the words that the template could look for are left as they are; a
//! control token among them counts as data everywhere in this conversation. If the texts still differ,
//! contents that share no character with the ends of any control token are harmless, and anything else
//! is refused. No content is ever encoded with control tokens recognised.
//!
//! Where no content has the text of a control token, the tokens are those that transformers computes:
//! `tokenizer(apply_chat_template(...), add_special_tokens=False)`. The template alone decides whether
//! the text begins with BOS; none is added, as in vLLM and transformers.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::value::{Serde, Value};

use super::template::ChatTemplate;
use super::tokenizer::{Control, Tokenizer};
use crate::error::{Error, Result};
use crate::record::Message;

/// A model's template and tokenizer, together.
#[derive(Clone, Copy)]
pub struct Chat<'a> {
    pub template: &'a ChatTemplate,
    pub tokenizer: &'a Tokenizer,
}

/// A conversation as text, and what in it is markup.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// What the model reads.
    pub text: String,
    /// The control tokens that the template wrote, in order: byte ranges of `text`.
    pub controls: Vec<Control>,
    /// The byte at which the last content ends.
    pub contents_end: usize,
}

/// An assistant's answer after its prompt, in tokens; it ends with the token that ends a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub tokens: Vec<u32>,
    /// The first token that is not the prompt's.
    pub completion: usize,
}

impl Chat<'_> {
    /// The tokens of a conversation up to the assistant's next turn, which begins with `prefix`.
    pub fn prompt(&self, messages: &[Message], prefix: &str) -> Result<Vec<u32>> {
        self.tokens(&self.trace(messages, true, prefix)?)
    }

    /// A conversation and the assistant's answer to it, as the template writes them, up to the token that
    /// ends the turn. An error unless it begins with the tokens of the prompt.
    pub fn answer(&self, messages: &[Message], answer: &str) -> Result<Answered> {
        let prompt = self.trace(messages, true, "")?;
        let mut all = messages.to_vec();
        all.push(Message::assistant(answer.trim()));
        let mut whole = self.trace(&all, false, "")?;
        let from = whole.contents_end.max(prompt.text.len());
        let end = whole.controls.iter().find(|control| control.range.start >= from);
        let end = end.map(|control| (control.range.end, control.id));
        if whole.text.starts_with(&prompt.text) {
            whole.truncate(end.map_or(whole.contents_end, |(end, _)| end));
        } else {
            // The template writes a turn that is over otherwise than one to be written: it leaves out
            // the reasoning that the prompt opens, for instance. The turn goes on from the prompt.
            whole = self.trace(messages, true, answer.trim())?;
            if let Some((_, id)) = end {
                let text = self.tokenizer.name(id).unwrap_or_default();
                let start = whole.text.len();
                whole.text.push_str(&text);
                let range = start..whole.text.len();
                whole.controls.push(Control { range, id });
            }
        }
        let (prompt, mut tokens) = (self.tokens(&prompt)?, self.tokens(&whole)?);
        if end.is_none() {
            tokens.push(self.tokenizer.special().eos);
        }
        if !tokens.starts_with(&prompt) {
            return Err(Error::input(
                "the tokens of the prompt are not the first of those with the answer: the tokenizer joins their border",
            )
            .help("an answer that begins with another character can be trained on"));
        }
        Ok(Answered {
            tokens,
            completion: prompt.len(),
        })
    }

    /// The control token that the template writes after an assistant's message.
    pub fn end_of_turn(&self) -> Option<u32> {
        let probe = [Message::user("Hello"), Message::assistant("World")];
        let traced = self.trace(&probe, false, "").ok()?;
        let end = traced
            .controls
            .iter()
            .find(|control| control.range.start >= traced.contents_end)?;
        Some(end.id)
    }

    /// The text of a conversation with its markup told apart; `suffix` follows it as data.
    pub fn trace(&self, messages: &[Message], generation: bool, suffix: &str) -> Result<Traced> {
        if let Some(message) = messages.iter().find(|message| !ROLES.contains(&message.role.as_str())) {
            return Err(Error::input(format!(
                "unknown role `{}`: expected user, assistant or system",
                message.role
            )));
        }
        let mut text = self.template.render(Value::from(Serde(messages)), generation)?;
        text.push_str(suffix);
        if let Some(everything) = Disguise::new(&text, messages, suffix, &BTreeSet::new())
            && let Some(traced) = self.unmask(&everything, messages, generation, suffix, &text)
        {
            return Ok(traced);
        }
        let soft = self.tokenizer.soft_controls();
        let edges: BTreeSet<char> = self.tokenizer.control_edges();
        let harmless = |word: &String| !word.trim().is_empty() && !word.contains(|c| edges.contains(&c));
        let mut words: BTreeSet<String> = self.template.literals().into_iter().filter(harmless).collect();
        words.extend(soft.iter().cloned());
        if let Some(partly) = Disguise::new(&text, messages, suffix, &words)
            && let Some(mut traced) = self.unmask(&partly, messages, generation, suffix, &text)
        {
            let kept = partly.kept(&soft);
            traced.controls.retain(|control| {
                let written = &text[control.range.clone()];
                !kept.contains(written.trim())
            });
            return Ok(traced);
        }
        let contents = || messages.iter().map(|message| message.content.as_str()).chain([suffix]);
        if contents().all(|content| !content.contains(|c| edges.contains(&c))) {
            let last = contents().rfind(|content| !content.trim().is_empty()).unwrap_or_default();
            let contents_end = text.rfind(last.trim()).map_or(text.len(), |at| at + last.trim().len());
            return Ok(Traced {
                controls: self.tokenizer.find_controls(&text),
                contents_end,
                text,
            });
        }
        Err(
            Error::input("the chat template rewrites its messages so that markup and content cannot be told apart")
                .help("prompt the model as a transcript, or leave the characters of its control tokens out of this text"),
        )
    }

    /// The markup of `text`, found in the same conversation under a disguise; nothing if the template
    /// treats the disguised one differently.
    fn unmask(
        &self,
        disguise: &Disguise,
        messages: &[Message],
        generation: bool,
        suffix: &str,
        text: &str,
    ) -> Option<Traced> {
        let masked: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: message.role.clone(),
                content: disguise.apply(&message.content),
            })
            .collect();
        let mut disguised = self.template.render(Value::from(Serde(&masked)), generation).ok()?;
        disguised.push_str(&disguise.apply(suffix));
        // The byte of `text` for each byte of `disguised`, at the borders of characters.
        let mut places = vec![0; disguised.len() + 1];
        let mut contents_end = 0;
        let mut rest = text;
        for (at, c) in disguised.char_indices() {
            places[at] = text.len() - rest.len();
            let real = disguise.behind(c);
            rest = rest.strip_prefix(real.unwrap_or(c))?;
            if real.is_some() {
                contents_end = text.len() - rest.len();
            }
        }
        if !rest.is_empty() {
            return None;
        }
        places[disguised.len()] = text.len();
        let controls = self.tokenizer.find_controls(&disguised);
        Some(Traced {
            text: text.to_owned(),
            controls: controls
                .into_iter()
                .map(|control| Control {
                    range: places[control.range.start]..places[control.range.end],
                    ..control
                })
                .collect(),
            contents_end,
        })
    }

    /// The tokens of a traced conversation.
    pub fn tokens(&self, traced: &Traced) -> Result<Vec<u32>> {
        if self.tokenizer.find_controls(&traced.text) == traced.controls {
            return self.tokenizer.encode_markup(&traced.text);
        }
        self.tokenizer.encode_around(&traced.text, &traced.controls)
    }
}

impl Traced {
    fn truncate(&mut self, end: usize) {
        self.text.truncate(end);
        self.controls.retain(|control| control.range.end <= end);
    }
}

/// The roles that a message can have.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Stand-ins for the characters of contents.
struct Disguise {
    stand_ins: BTreeMap<char, char>,
    behind: BTreeMap<char, char>,
    /// Words that are left as they are, longest first.
    words: Vec<String>,
    /// The contents after the replacement.
    contents: Vec<String>,
}

impl Disguise {
    /// Stand-ins for the characters of `messages` and `suffix`, none of which is in `text`; nothing if there
    /// are too few.
    fn new(text: &str, messages: &[Message], suffix: &str, words: &BTreeSet<String>) -> Option<Self> {
        let contents: Vec<&str> = messages
            .iter()
            .map(|message| message.content.as_str())
            .chain([suffix])
            .collect();
        let taken: BTreeSet<char> = text
            .chars()
            .chain(contents.iter().flat_map(|content| content.chars()))
            .collect();
        // Planes 15 and 16 are private; the last two points of a plane are no characters.
        let mut free = ('\u{F0000}'..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|c| !taken.contains(c));
        let mut words: Vec<String> = words.iter().cloned().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let mut disguise = Self {
            stand_ins: BTreeMap::new(),
            behind: BTreeMap::new(),
            words,
            contents: Vec::new(),
        };
        for c in contents.iter().flat_map(|content| content.chars()) {
            if !is_space(c) && !disguise.stand_ins.contains_key(&c) {
                let stand_in = free.next()?;
                disguise.stand_ins.insert(c, stand_in);
                disguise.behind.insert(stand_in, c);
            }
        }
        disguise.contents = contents.iter().map(|content| disguise.apply(content)).collect();
        Some(disguise)
    }

    fn apply(&self, content: &str) -> String {
        let mut out = String::with_capacity(content.len() * 2);
        let mut rest = content;
        while let Some(c) = rest.chars().next() {
            let word = self.words.iter().find(|word| rest.starts_with(word.as_str()));
            let taken = match word {
                Some(word) => {
                    out.push_str(word);
                    word.len()
                }
                None => {
                    out.push(*self.stand_ins.get(&c).unwrap_or(&c));
                    c.len_utf8()
                }
            };
            rest = &rest[taken..];
        }
        out
    }

    /// The character for which `c` stands.
    fn behind(&self, c: char) -> Option<char> {
        self.behind.get(&c).copied()
    }

    /// Those of `controls` that a content still shows.
    fn kept(&self, controls: &BTreeSet<String>) -> BTreeSet<String> {
        let shown = |control: &&String| self.contents.iter().any(|content| content.contains(control.as_str()));
        controls.iter().filter(shown).cloned().collect()
    }
}

/// White space to Python, which templates strip.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

