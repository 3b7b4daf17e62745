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
//! and the two texts differ. Then less is replaced: first all but the words that the template could
//! look for, then only the characters with which control tokens begin and end, for a match that
//! neither begins nor ends in a content is markup. A word left in its place that is itself a control
//! token counts as data in the whole conversation. If the texts still differ, the conversation is
//! refused. No content is ever encoded with control tokens recognised.
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
    /// ends the turn. It begins with the tokens of the prompt: where the tokenizer would join the end of
    /// the prompt to the answer (`Assistant: ` and `A`), the answer's tokens begin anew, as they do in
    /// generation; an error if the tokenizer cannot do that.
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
        let border = prompt.text.len();
        let (prompt, mut tokens) = (self.tokens(&prompt)?, self.tokens(&whole)?);
        if !tokens.starts_with(&prompt) && self.tokenizer.cuts_cleanly()? {
            tokens = self.tokenizer.encode_cut(&whole.text, &whole.controls, border)?;
        }
        if end.is_none() {
            tokens.push(self.tokenizer.special().eos);
        }
        if !tokens.starts_with(&prompt) {
            return Err(Error::input(
                "the tokens of the prompt are not the first of those with the answer: the tokenizer joins their border",
            )
            .help("train in transcripts (--prompt-style transcript), or with a template whose prompt ends otherwise"));
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
        let conversation = Conversation {
            messages,
            generation,
            suffix,
        };
        let text = self.render(&conversation, str::to_owned)?;
        if let Some(traced) = self.unmask(&conversation, &Kept::default(), &text) {
            return Ok(traced);
        }
        let edges = self.tokenizer.control_edges();
        let soft = self.tokenizer.soft_controls();
        let harmless = |word: &String| !word.trim().is_empty() && !word.contains(|c| edges.contains(&c));
        let literals = self.template.literals().into_iter().filter(harmless);
        let words = literals.chain(soft.iter().cloned()).collect();
        if let Some(traced) = self.unmask(&conversation, &Kept { words, but: None }, &text) {
            return Ok(traced);
        }
        let kept = Kept {
            words: soft,
            but: Some(edges),
        };
        if let Some(mut traced) = self.unmask(&conversation, &kept, &text) {
            // Too little is disguised for the end of the last content to be seen.
            let last = conversation.contents().rfind(|content| !content.trim().is_empty());
            let last = last.unwrap_or_default().trim();
            traced.contents_end = text.rfind(last).map_or(text.len(), |at| at + last.len());
            return Ok(traced);
        }
        Err(
            Error::input("the chat template rewrites its messages so that markup and content cannot be told apart")
                .help(
                    "prompt the model as a transcript, or leave the characters of its control tokens out of this text",
                ),
        )
    }

    /// The text of a conversation, its contents replaced.
    fn render(&self, conversation: &Conversation<'_>, replace: impl Fn(&str) -> String) -> Result<String> {
        let messages = conversation.messages.iter().map(|message| Message {
            role: message.role.clone(),
            content: replace(&message.content),
        });
        let messages: Vec<Message> = messages.collect();
        let mut text = self
            .template
            .render(Value::from(Serde(&messages)), conversation.generation)?;
        text.push_str(&replace(conversation.suffix));
        Ok(text)
    }

    /// The markup of `text`, found in the same conversation under a disguise; nothing if the template
    /// treats the disguised one differently.
    fn unmask(&self, conversation: &Conversation<'_>, kept: &Kept, text: &str) -> Option<Traced> {
        let disguise = Disguise::new(text, conversation, kept)?;
        let disguised = self
            .render(conversation, |content| disguise.apply(content, kept))
            .ok()?;
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
        let doubtful = conversation.controls_among(&kept.words);
        let controls = self.tokenizer.find_controls(&disguised).into_iter();
        let controls = controls.map(|control| Control {
            range: places[control.range.start]..places[control.range.end],
            ..control
        });
        Some(Traced {
            controls: controls
                .filter(|control| !doubtful.contains(text[control.range.clone()].trim()))
                .collect(),
            text: text.to_owned(),
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

/// A conversation to be rendered; `suffix` follows it as data.
struct Conversation<'a> {
    messages: &'a [Message],
    generation: bool,
    suffix: &'a str,
}

impl Conversation<'_> {
    fn contents(&self) -> impl DoubleEndedIterator<Item = &str> {
        let contents = self.messages.iter().map(|message| message.content.as_str());
        contents.chain([self.suffix])
    }

    /// Those of `words` that a content has.
    fn controls_among<'w>(&self, words: &'w BTreeSet<String>) -> BTreeSet<&'w str> {
        let said = |word: &&str| self.contents().any(|content| content.contains(*word));
        words.iter().map(String::as_str).filter(said).collect()
    }
}

/// What of the contents is not replaced.
#[derive(Default)]
struct Kept {
    /// Words that stay wherever they stand.
    words: BTreeSet<String>,
    /// Every character but these.
    but: Option<BTreeSet<char>>,
}

/// Stand-ins for the characters of contents.
struct Disguise {
    stand_ins: BTreeMap<char, char>,
    behind: BTreeMap<char, char>,
}

impl Disguise {
    /// Stand-ins none of which is in `text` or the conversation; nothing if there are too few.
    fn new(text: &str, conversation: &Conversation<'_>, kept: &Kept) -> Option<Self> {
        let said: BTreeSet<char> = conversation.contents().flat_map(str::chars).collect();
        let taken: BTreeSet<char> = text.chars().chain(said.iter().copied()).collect();
        // Planes 15 and 16 are private; the last two points of a plane are no characters.
        let mut free = ('\u{F0000}'..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|c| !taken.contains(c));
        let replaced = |c: &char| kept.but.as_ref().map_or(!is_space(*c), |but| but.contains(c));
        let stand_ins: BTreeMap<char, char> = said
            .into_iter()
            .filter(replaced)
            .map(|c| Some((c, free.next()?)))
            .collect::<Option<_>>()?;
        Some(Self {
            behind: stand_ins.iter().map(|(c, stand_in)| (*stand_in, *c)).collect(),
            stand_ins,
        })
    }

    fn apply(&self, content: &str, kept: &Kept) -> String {
        let mut out = String::with_capacity(content.len() * 2);
        let mut rest = content;
        while let Some(c) = rest.chars().next() {
            // The longest, for one word may begin another.
            let words = kept.words.iter().filter(|word| rest.starts_with(word.as_str()));
            let taken = match words.max_by_key(|word| word.len()) {
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
}

/// White space to Python, which templates strip.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
