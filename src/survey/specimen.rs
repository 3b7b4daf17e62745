//! What the kinds of rows have in common, for whoever looks at rows without caring for their kind: a
//! prompt, answers to it, and what is known about them.

use std::borrow::Cow;

use serde::Serialize;

use super::words;
use crate::record::{
    Candidates, Demonstration, Message, Preference, Prompt, ReferenceLogprobs, Reject, Revision, Round,
    UnpairedPreference,
};

/// A row, seen in one way whatever its kind.
#[derive(Debug, Clone)]
pub struct Specimen<'a> {
    pub id: &'a str,
    pub prompt: &'a [Message],
    /// A raw prefix in place of a prompt.
    pub prefix: &'a str,
    pub answers: Vec<Answer<'a>>,
    pub rounds: &'a [Round],
    pub source: Option<&'a str>,
    pub tags: Option<&'a [String]>,
    pub p_chosen: Option<f32>,
    /// What else a reader of the row wants to see, by name.
    pub facts: Vec<(&'static str, String)>,
}

/// One answer of a row.
#[derive(Debug, Clone)]
pub struct Answer<'a> {
    /// The column: `final`, `chosen`, `completions`.
    pub name: &'static str,
    pub text: Cow<'a, str>,
    /// Whether this is what the row is there to teach: if it fails, the row does.
    pub result: bool,
    /// Whether it was cut off at the limit of its length.
    pub truncated: bool,
}

impl<'a> Answer<'a> {
    fn new(name: &'static str, text: impl Into<Cow<'a, str>>, result: bool) -> Self {
        Self {
            name,
            text: text.into(),
            result,
            truncated: false,
        }
    }

    fn ended(mut self, finish_reason: &str) -> Self {
        self.truncated = finish_reason == "length";
        self
    }
}

/// Rows that can be looked at, selected from and compared.
pub trait Surveyed: Serialize + Clone {
    fn specimen(&self) -> Specimen<'_>;
}

/// What two rows must share to be kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// The whole conversation up to the answer, system turns left out.
    Prompt,
    /// The first turn of the user: conversations that go on differently stay together.
    Opening,
}

impl Specimen<'_> {
    fn of<'a>(id: &'a str, prompt: &'a [Message], answers: Vec<Answer<'a>>) -> Specimen<'a> {
        Specimen {
            id,
            prompt,
            prefix: "",
            answers,
            rounds: &[],
            source: None,
            tags: None,
            p_chosen: None,
            facts: Vec::new(),
        }
    }

    /// The prompt in one spelling ([`words::normalised`]). A row of raw text has itself for a prompt.
    pub fn key(&self, sameness: Sameness) -> String {
        let turns = self.prompt.iter().filter(|message| message.role != "system");
        let most = match sameness {
            Sameness::Prompt => usize::MAX,
            Sameness::Opening => 1,
        };
        let turns: Vec<String> = turns
            .skip_while(|message| sameness == Sameness::Opening && message.role != "user")
            .take(most)
            .map(|message| format!("{}: {}", message.role, words::normalised(&message.content)))
            .collect();
        if !turns.is_empty() {
            return turns.join("\n");
        }
        match (self.prefix, self.answers.first()) {
            ("", Some(text)) => words::normalised(&text.text),
            (prefix, _) => words::normalised(prefix),
        }
    }

    /// All that was said, prompt and answers, one text after the other.
    pub fn content(&self) -> String {
        let prompt = self.prompt.iter().map(|message| message.content.as_str());
        let answers = self.answers.iter().map(|answer| answer.text.as_ref());
        let texts: Vec<&str> = prompt.chain([self.prefix]).chain(answers).collect();
        texts.join("\n").trim().to_owned()
    }

    /// The prompt as one text, for measuring and for its language.
    pub fn prompt_text(&self) -> String {
        let texts: Vec<&str> = self.prompt.iter().map(|message| message.content.as_str()).collect();
        match texts.is_empty() {
            true => self.prefix.to_owned(),
            false => texts.join("\n"),
        }
    }
}

impl Surveyed for Prompt {
    fn specimen(&self) -> Specimen<'_> {
        Specimen {
            source: Some(&self.source),
            tags: Some(&self.tags),
            ..Specimen::of(&self.id, &self.messages, Vec::new())
        }
    }
}

impl Surveyed for Revision {
    fn specimen(&self) -> Specimen<'_> {
        let answers = vec![
            Answer::new("initial", &self.initial, false).ended(&self.initial_finish_reason),
            Answer::new("final", &self.final_answer, true).ended(&self.final_finish_reason),
        ];
        Specimen {
            rounds: &self.rounds,
            ..Specimen::of(&self.id, &self.prompt, answers)
        }
    }
}

impl Surveyed for Candidates {
    fn specimen(&self) -> Specimen<'_> {
        let answers = self
            .completions
            .iter()
            .map(|completion| Answer::new("completions", &completion.text, true).ended(&completion.finish_reason));
        Specimen::of(&self.id, &self.prompt, answers.collect())
    }
}

impl Surveyed for Preference {
    fn specimen(&self) -> Specimen<'_> {
        let answers = vec![
            Answer::new("chosen", joined(&self.chosen), true),
            Answer::new("rejected", joined(&self.rejected), false),
        ];
        let mut facts = vec![("p_chosen", format!("{:.3}", self.p_chosen))];
        if self.p_raw != self.p_chosen {
            facts.push(("p_raw", format!("{:.3}", self.p_raw)));
        }
        if !self.votes.is_empty() {
            let votes = self.votes.iter().map(|vote| match vote.log_odds_chosen() {
                Some(_) => format!("{} {:.2}", vote.principle_id, vote.p_chosen()),
                None => format!("{} unparsed", vote.principle_id),
            });
            facts.push(("votes", votes.collect::<Vec<_>>().join(", ")));
        }
        Specimen {
            source: Some(&self.source),
            p_chosen: Some(self.p_chosen),
            facts,
            ..Specimen::of(&self.id, &self.prompt, answers)
        }
    }
}

/// The text of one turn as it is; of several, with their roles.
fn joined(messages: &[Message]) -> Cow<'_, str> {
    match messages {
        [message] => message.content.as_str().into(),
        messages => {
            let turns: Vec<String> = messages
                .iter()
                .map(|message| format!("{}: {}", message.role, message.content))
                .collect();
            turns.join("\n").into()
        }
    }
}

impl Surveyed for Demonstration {
    fn specimen(&self) -> Specimen<'_> {
        let answers = vec![Answer::new("completion", &self.completion, true)];
        Specimen {
            prefix: &self.prefix,
            ..Specimen::of(&self.id, &self.prompt, answers)
        }
    }
}

impl Surveyed for UnpairedPreference {
    fn specimen(&self) -> Specimen<'_> {
        Specimen {
            facts: vec![("label", self.label.to_string())],
            ..Specimen::of(
                &self.id,
                &self.prompt,
                vec![Answer::new("completion", joined(&self.completion), self.label)],
            )
        }
    }
}

impl Surveyed for Reject {
    fn specimen(&self) -> Specimen<'_> {
        Specimen {
            facts: vec![("stage", self.stage.clone()), ("reason", self.reason.clone())],
            ..Specimen::of(&self.id, &[], vec![Answer::new("raw", &self.raw, false)])
        }
    }
}

impl Surveyed for ReferenceLogprobs {
    fn specimen(&self) -> Specimen<'_> {
        let sum: f32 = self.logprobs.iter().sum();
        Specimen {
            facts: vec![
                ("tokens", self.logprobs.len().to_string()),
                ("logp", format!("{sum:.3}")),
            ],
            ..Specimen::of(&self.id, &[], Vec::new())
        }
    }
}
