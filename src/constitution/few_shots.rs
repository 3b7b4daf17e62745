//! Few-shot examples, from TOML: comparisons that a judge is shown before it judges (Bai et al. 2022, appendix E: five
//! with the bare answer, six with a chain of thought), and answers with their critiques and revisions.
//!
//! Their texts are data as all others: the templates quote them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::diagnostic::{Diagnostic, Findings, Place, Text};
use super::keys::{self, Group};
use super::table::{self, Table};
use crate::error::{Error, Result};
use crate::record::{Message, hex};
use crate::small;

/// The name that stands for the examples inside the program.
pub const BUILTIN: &str = "builtin";

const CRITIQUE: &str = include_str!("../../prompts/few-shots/critique.toml");
const JUDGE: &str = include_str!("../../prompts/few-shots/judge.toml");
const JUDGE_COT: &str = include_str!("../../prompts/few-shots/judge-cot.toml");

/// What a file has examples of.
pub trait Example: Sized + Serialize {
    const FILE: &'static Group;
    const TABLE: &'static Group;

    /// The examples inside the program; `reasoning` where the model is to reason.
    fn builtin(reasoning: bool) -> &'static str;

    /// Reads one; what is wrong with it is among the table's findings.
    fn read(table: &Table<'_>) -> Option<Self>;
}

/// Examples in the order in which they are shown.
#[derive(Debug, Clone)]
pub struct FewShots<E> {
    examples: Vec<E>,
    sha256: String,
    path: PathBuf,
}

/// One comparison and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeExample {
    pub messages: Vec<Message>,
    pub question: String,
    pub answer_a: String,
    pub answer_b: String,
    pub answer: Answer,
    /// Empty where there is none.
    pub reasoning: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Answer {
    A,
    B,
}

impl Answer {
    pub fn letter(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
        }
    }
}

/// An answer with its critique and its revision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CritiqueExample {
    pub messages: Vec<Message>,
    pub answer: String,
    pub critique_request: String,
    pub critique: String,
    pub revision_request: String,
    pub revision: String,
}

/// Where they stand is no difference.
impl<E> PartialEq for FewShots<E> {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl<E: Example> FewShots<E> {
    /// Reads a text as if it stood in the file `path`.
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let findings = Findings::default();
        let text = Text::new(path, text);
        let found = Self::read(&text, &findings);
        match findings.sorted(&text.path).first() {
            Some(first) => Err(first.to_error()),
            None => Ok(found),
        }
    }

    /// What a user names: a file, or `builtin`.
    fn find(reference: &str, reasoning: bool) -> Result<Self> {
        match reference {
            BUILTIN => Self::parse(E::builtin(reasoning), BUILTIN),
            path => {
                let remedy = "give the path of a TOML file with [[example]] tables, or `builtin`";
                Self::parse(&small::read_to_string(Path::new(path), remedy)?, path)
            }
        }
    }

    /// Reads a file that a constitution names, with everything that is wrong with it among the findings.
    pub(super) fn read(text: &Arc<Text>, findings: &Findings) -> Self {
        let examples = table::document(text, findings, E::FILE, |table| {
            let tables = table.tables("example", E::TABLE);
            if tables.is_empty() {
                findings.error(
                    "no-example",
                    table.key_place("example"),
                    "there is no example in it",
                    "write at least one [[example]], or do without the file",
                );
            }
            tables.iter().filter_map(E::read).collect()
        });
        let examples: Vec<E> = examples;
        Self {
            sha256: hex(&Sha256::digest(serde_json::json!(examples).to_string())),
            examples,
            path: text.path.clone(),
        }
    }

    pub fn examples(&self) -> &[E] {
        &self.examples
    }

    /// Of the examples, however their file lays them out.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl FewShots<JudgeExample> {
    /// What a user names: a file, or `builtin`, which are those with a reasoning where one is asked for.
    pub fn resolve(reference: &str, reasoning: bool) -> Result<Self> {
        let found = Self::find(reference, reasoning)?;
        match found.silent().filter(|_| reasoning) {
            Some(index) => Err(Error::config(format!(
                "example {} has no `reasoning`, which this judge is asked for",
                index + 1
            ))
            .at_file(&found.path)
            .help("add `reasoning` to each example")),
            None => Ok(found),
        }
    }

    /// The first example without a reasoning.
    pub(super) fn silent(&self) -> Option<usize> {
        self.examples.iter().position(|example| example.reasoning.is_empty())
    }
}

impl FewShots<CritiqueExample> {
    /// What a user names: a file, or `builtin`.
    pub fn resolve(reference: &str) -> Result<Self> {
        Self::find(reference, false)
    }
}

impl Example for JudgeExample {
    const FILE: &'static Group = &keys::JUDGE_EXAMPLES;
    const TABLE: &'static Group = &keys::JUDGE_EXAMPLE;

    fn builtin(reasoning: bool) -> &'static str {
        if reasoning { JUDGE_COT } else { JUDGE }
    }

    fn read(table: &Table<'_>) -> Option<Self> {
        let messages = conversation(table);
        let question = text(table, "question");
        let (answer_a, answer_b) = (text(table, "answer_a"), text(table, "answer_b"));
        let answer = table.required_text("answer", "say which answer wins: answer = \"A\" or answer = \"B\"");
        let answer = answer.and_then(|answer| match answer.value.as_str() {
            "A" => Some(Answer::A),
            "B" => Some(Answer::B),
            other => {
                let message = format!("the answer is `{other}`, and a judge answers A or B");
                let found = Diagnostic::error("judge-format", answer.at.clone(), message, "write \"A\" or \"B\"");
                let letter = other
                    .trim_matches(|c: char| !c.is_ascii_alphabetic())
                    .to_ascii_uppercase();
                table.findings().add(match letter.as_str() {
                    "A" | "B" => found.replace(format!("\"{letter}\"")),
                    _ => found,
                });
                None
            }
        });
        let reasoning = table.string("reasoning");
        if let (Some(answer), Some(reasoning)) = (answer, &reasoning) {
            contradicts(table.findings(), answer, &reasoning.value, &reasoning.at);
        }
        Some(Self {
            messages: messages?,
            question: question?,
            answer_a: answer_a?,
            answer_b: answer_b?,
            answer: answer?,
            reasoning: reasoning.map(|reasoning| reasoning.value).unwrap_or_default(),
        })
    }
}

/// A reasoning that gives an answer itself, which the judge's answer follows.
fn contradicts(findings: &Findings, answer: Answer, reasoning: &str, at: &Place) {
    const SAID: &str = "answer is";
    let Some(said) = reasoning.to_lowercase().rfind(SAID) else {
        return;
    };
    let rest = reasoning.get(said + SAID.len()..).unwrap_or_default();
    let named = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let names = |letter: &str| {
        named.starts_with(letter) && !named[letter.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    let (right, other) = match answer {
        Answer::A => ("A", "B"),
        Answer::B => ("B", "A"),
    };
    if names(other) {
        findings.error(
            "judge-format",
            at.of_part(rest.trim_end()),
            format!("the reasoning names ({other}), and the answer is ({right})"),
            "let the reasoning lead to the answer",
        );
    }
}

impl Example for CritiqueExample {
    const FILE: &'static Group = &keys::CRITIQUE_EXAMPLES;
    const TABLE: &'static Group = &keys::CRITIQUE_EXAMPLE;

    fn builtin(_reasoning: bool) -> &'static str {
        CRITIQUE
    }

    fn read(table: &Table<'_>) -> Option<Self> {
        let messages = conversation(table);
        let texts = ["answer", "critique_request", "critique", "revision_request", "revision"];
        let [answer, critique_request, critique, revision_request, revision] = texts.map(|key| text(table, key));
        Some(Self {
            messages: messages?,
            answer: answer?,
            critique_request: critique_request?,
            critique: critique?,
            revision_request: revision_request?,
            revision: revision?,
        })
    }
}

fn text(table: &Table<'_>, key: &str) -> Option<String> {
    let help = format!("an example needs it: {key} = \"...\"");
    table.required_text(key, &help).map(|text| text.value)
}

/// `prompt` or `messages`.
fn conversation(table: &Table<'_>) -> Option<Vec<Message>> {
    if table.has("prompt") == table.has("messages") {
        table.findings().error(
            "judge-format",
            table.at(),
            "an example has either `prompt` or `messages`",
            "give one of them",
        );
        return None;
    }
    if table.has("prompt") {
        return table.string("prompt").map(|prompt| vec![Message::user(prompt.value)]);
    }
    let turns = table.tables("messages", &keys::MESSAGE);
    let messages: Option<Vec<Message>> = turns.iter().map(message).collect();
    let messages = messages?;
    if messages.last().is_none_or(|last| last.role != "user") {
        table.findings().error(
            "judge-format",
            table.key_place("messages"),
            "the conversation of an example does not end with a user's turn",
            "the answers under comparison or criticism follow the last turn of the user",
        );
        return None;
    }
    Some(messages)
}

fn message(table: &Table<'_>) -> Option<Message> {
    let role = table.required_text("role", "say who speaks: role = \"user\"");
    let content = table.required_text("content", "say what: content = \"...\"");
    let (role, content) = (role?, content?);
    if !["system", "user", "assistant"].contains(&role.value.as_str()) {
        table.findings().error(
            "judge-format",
            role.at,
            format!("there is no role `{}`", role.value),
            "roles are system, user and assistant",
        );
        return None;
    }
    Some(Message {
        role: role.value,
        content: content.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: shipped examples that teach a place or a length, or that cannot be read.
    #[test]
    fn the_shipped_examples_teach_no_place_and_no_length() {
        for (reasoning, count) in [(false, 5), (true, 6)] {
            let few_shots = FewShots::<JudgeExample>::resolve(BUILTIN, reasoning).unwrap();
            assert_eq!(few_shots.examples.len(), count);
            let at_a = few_shots
                .examples
                .iter()
                .filter(|example| example.answer == Answer::A)
                .count();
            let longer = few_shots.examples.iter().filter(|example| {
                let (a, b) = (example.answer_a.chars().count(), example.answer_b.chars().count());
                (example.answer == Answer::A) == (a > b)
            });
            for (what, share) in [("(A)", at_a), ("the longer", longer.count())] {
                assert!(share.abs_diff(count - share) <= 1, "{what} wins {share} of {count}");
            }
        }
    }

    /// Catches: mistakes in a file that are taken over, or told without their place.
    #[test]
    fn mistakes_in_a_file_are_told_at_their_place() {
        let good =
            "[[example]]\nprompt = \"Hi\"\nquestion = \"Which?\"\nanswer_a = \"a\"\nanswer_b = \"b\"\nanswer = \"A\"\n";
        assert!(FewShots::<JudgeExample>::parse(good, "f.toml").is_ok());
        for (from, to, place) in [
            ("\"A\"", "\"C\"", "f.toml:6:"),
            ("answer_b", "answer_c", "f.toml:"),
            ("\"A\"\n", "\"A\"\nreasoning = \"So the answer is (B).\"\n", "f.toml:7:"),
            ("prompt = \"Hi\"", "messages = []", "f.toml:2:"),
            (
                "prompt = \"Hi\"",
                "messages = [{role = \"robot\", content = \"Hi\"}]",
                "f.toml:2:",
            ),
            ("prompt = \"Hi\"\n", "", "f.toml:1:"),
        ] {
            let error = FewShots::<JudgeExample>::parse(&good.replacen(from, to, 1), "f.toml").unwrap_err();
            assert!(
                error.to_string().starts_with(place) && error.help_text().is_some(),
                "{error}"
            );
        }
        assert!(FewShots::<JudgeExample>::parse("example = []", "f.toml").is_err());
    }

    /// Catches: examples without a reasoning shown to a judge that must reason.
    #[test]
    fn a_reasoning_is_there_where_one_is_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[[example]]\nprompt = \"Hi\"\nquestion = \"Which?\"\nanswer_a = \"a\"\nanswer_b = \"b\"\nanswer = \"A\"\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        assert!(FewShots::<JudgeExample>::resolve(path, false).is_ok());
        assert!(
            FewShots::<JudgeExample>::resolve(path, true)
                .unwrap_err()
                .to_string()
                .contains("example 1 has no `reasoning`")
        );
    }
}
