//! Few-shot examples of comparisons, from TOML: what a judge is shown before it judges (Bai et al. 2022, appendix E:
//! five with the bare answer, six with a chain of thought).
//!
//! Their texts are data as all others: the templates quote them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::judging::Comparison;
use crate::error::{Error, Result};
use crate::record::{Message, hex};
use crate::small;

/// The name that stands for the examples inside the program.
const BUILTIN: &str = "builtin";

const JUDGE: &str = include_str!("../../prompts/few-shots/judge.toml");
const JUDGE_COT: &str = include_str!("../../prompts/few-shots/judge-cot.toml");

/// Comparisons with their answers, in the order in which they are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct FewShots {
    examples: Vec<Example>,
    sha256: String,
    path: PathBuf,
}

/// One comparison and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    messages: Vec<Message>,
    question: String,
    answer_a: String,
    answer_b: String,
    pub answer: Answer,
    reasoning: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    example: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    question: String,
    answer_a: String,
    answer_b: String,
    answer: Answer,
    reasoning: Option<String>,
}

impl FewShots {
    /// What a user names: a file, or `builtin`, which are those with a reasoning where one is asked for.
    pub fn resolve(reference: &str, reasoning: bool) -> Result<Self> {
        let found = match reference {
            BUILTIN if reasoning => Self::parse(JUDGE_COT, BUILTIN),
            BUILTIN => Self::parse(JUDGE, BUILTIN),
            path => {
                let remedy = "give the path of a TOML file with [[example]] tables, or `builtin`";
                Self::parse(&small::read_to_string(Path::new(path), remedy)?, path)
            }
        }?;
        let silent = found.examples.iter().position(|example| example.reasoning.is_none());
        match silent.filter(|_| reasoning) {
            Some(index) => Err(Error::config(format!(
                "example {} has no `reasoning`, which this judge is asked for",
                index + 1
            ))
            .at_file(&found.path)
            .help("add `reasoning` to each example")),
            None => Ok(found),
        }
    }

    /// Reads a text as if it stood in the file `path`.
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file: File = toml::from_str(text).map_err(|error| {
            let wrong = Error::config(format!("not a file of few-shot examples: {}", error.message().trim()));
            let wrong = match error.span() {
                Some(span) => wrong.at_span(&path, text, span),
                None => wrong.at_file(&path),
            };
            wrong.help(
                "an [[example]] has `prompt` (or `messages`), `question`, `answer_a`, `answer_b`, `answer` = \"A\" or \
                 \"B\", and may have `reasoning`",
            )
        })?;
        if file.example.is_empty() {
            return Err(Error::config("there is no example in it")
                .at_file(&path)
                .help("write at least one [[example]], or leave --few-shots away"));
        }
        let examples = file
            .example
            .into_iter()
            .map(|entry| {
                let span = entry.span();
                example(entry.into_inner())
                    .map_err(|(what, help)| Error::config(what).at_span(&path, text, span).help(help))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            examples,
            sha256: hex(&Sha256::digest(text)),
            path,
        })
    }

    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl Example {
    pub fn comparison(&self) -> Comparison<'_> {
        Comparison {
            messages: &self.messages,
            question: &self.question,
            answer_a: &self.answer_a,
            answer_b: &self.answer_b,
        }
    }

    /// Empty where there is none, which [`FewShots::resolve`] excludes where one is asked for.
    pub fn reasoning(&self) -> &str {
        self.reasoning.as_deref().unwrap_or_default()
    }
}

fn example(entry: Entry) -> Result<Example, (&'static str, &'static str)> {
    let messages = match (entry.prompt, entry.messages) {
        (Some(prompt), None) => vec![Message::user(prompt)],
        (None, Some(messages)) => messages,
        _ => {
            return Err(("an example has either `prompt` or `messages`", "give one of them"));
        }
    };
    let known = |message: &Message| ["system", "user", "assistant"].contains(&message.role.as_str());
    if !messages.iter().all(known) || messages.last().is_none_or(|last| last.role != "user") {
        return Err((
            "the conversation of an example does not end with a user's turn, or has an unknown role",
            "roles are system, user and assistant; the answers under comparison follow the last turn of the user",
        ));
    }
    Ok(Example {
        messages,
        question: entry.question,
        answer_a: entry.answer_a,
        answer_b: entry.answer_b,
        answer: entry.answer,
        reasoning: entry.reasoning,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: shipped examples that teach a place or a length, or that cannot be read.
    #[test]
    fn the_shipped_examples_teach_no_place_and_no_length() {
        for (reasoning, count) in [(false, 5), (true, 6)] {
            let few_shots = FewShots::resolve(BUILTIN, reasoning).unwrap();
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
        assert!(FewShots::parse(good, "f.toml").is_ok());
        for (from, to, place) in [
            ("\"A\"", "\"C\"", "f.toml:6:"),
            ("answer_b", "answer_c", "f.toml:"),
            ("prompt = \"Hi\"", "messages = []", "f.toml:1:"),
            (
                "prompt = \"Hi\"",
                "messages = [{role = \"robot\", content = \"Hi\"}]",
                "f.toml:1:",
            ),
            ("prompt = \"Hi\"\n", "", "f.toml:1:"),
        ] {
            let error = FewShots::parse(&good.replacen(from, to, 1), "f.toml").unwrap_err();
            assert!(
                error.to_string().starts_with(place) && error.help_text().is_some(),
                "{error}"
            );
        }
        assert!(FewShots::parse("example = []", "f.toml").is_err());
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
        assert!(FewShots::resolve(path, false).is_ok());
        assert!(
            FewShots::resolve(path, true)
                .unwrap_err()
                .to_string()
                .contains("example 1 has no `reasoning`")
        );
    }
}
