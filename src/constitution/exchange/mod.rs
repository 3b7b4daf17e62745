//! Constitutions and few-shot examples in the files of others, and back without loss.
//!
//! A file is a sequence of items, each a value of its JSON. [`paper`] and [`hugging_face`] know the forms of single items;
//! here is what holds for all: which format a file is, what its items become ([`inward`]), what of a constitution a
//! format holds ([`outward`]), and what an import has to remember ([`originals`]). Reads and writes no file.

mod hugging_face;
mod inward;
mod json;
mod originals;
mod outward;
mod paper;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::few_shots::{Answer, CritiqueExample, JudgeExample};
use crate::error::Result;
use json::{Cursor, Json};

#[cfg(test)]
pub use tests::hostile;

pub use inward::{Import, Imported, import};
pub use originals::Originals;
pub use outward::{Export, export, variables};

/// The question of examples whose format has none: it puts in the one that is being asked.
pub const STAND_IN: &str = "Which of the two answers is more helpful, honest and harmless?";

const CONSTITUTIONS: &str = "constitutions";
const SYSTEM_CHAT: &str = "system_chat";
const SAMPLES: &str = "samples";

/// A file of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The paper's critique and revision requests, by key.
    PaperCritiques,
    /// The paper's comparison questions, a list.
    PaperJudge,
    /// The paper's examples of critiques and revisions, a list of transcripts.
    #[value(alias = "paper-few-shots")]
    PaperCritiqueFewShots,
    /// The paper's examples of comparisons.
    PaperJudgeFewShots,
    /// The paper's examples of comparisons with a chain of thought.
    PaperReasoningFewShots,
    /// Requests and examples of Hugging Face's recipe (llm-swarm).
    Hf,
    /// Examples of NeMo-Aligner's recipe, whose requests are the paper's file.
    NemoFewShots,
}

/// What an item is an item of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Requests,
    Questions,
    CritiqueExamples,
    JudgeExamples,
    ReasoningExamples,
}

/// One value of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Critique requests, one of which is drawn, and the revision request that goes with each. The id is empty where
    /// the format has none.
    Requests {
        id: String,
        critiques: Vec<String>,
        revise: String,
    },
    Question(String),
    Critique(CritiqueExample),
    Comparison(JudgeExample),
}

/// An item of a file that is being read.
struct Entry<'a> {
    item: Item,
    /// In an object.
    key: Option<&'a str>,
    at: Cursor<'a>,
}

/// An item of a file that is being written.
struct Valued {
    part: Part,
    /// Where the file is an object.
    key: String,
    value: Value,
}

impl Format {
    pub const ALL: [Self; 7] = [
        Self::PaperCritiques,
        Self::PaperJudge,
        Self::PaperCritiqueFewShots,
        Self::PaperJudgeFewShots,
        Self::PaperReasoningFewShots,
        Self::Hf,
        Self::NemoFewShots,
    ];

    /// As `--format` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PaperCritiques => "paper-critiques",
            Self::PaperJudge => "paper-judge",
            Self::PaperCritiqueFewShots => "paper-critique-few-shots",
            Self::PaperJudgeFewShots => "paper-judge-few-shots",
            Self::PaperReasoningFewShots => "paper-reasoning-few-shots",
            Self::Hf => "hf",
            Self::NemoFewShots => "nemo-few-shots",
        }
    }

    /// What a file of it looks like.
    fn shape(self) -> &'static str {
        match self {
            Self::PaperCritiques => {
                r#"{"harmful0": {"prompt": ["\n\nCritiqueRequest: ...\n\nCritique:"], "edit_request": "..."}, ...}"#
            }
            Self::PaperJudge => r#"["\nWhich answer is ...? Options:", ...]"#,
            Self::PaperCritiqueFewShots => r#"["\n\nHuman: ...\n\nAssistant: ...\n\nCritiqueRequest: ...", ...]"#,
            Self::PaperJudgeFewShots => r#"[{"prompt": "...", "corrects": ["..."], "incorrects": ["..."]}, ...]"#,
            Self::PaperReasoningFewShots => {
                r#"[{"prompt": "\n\nHuman: Consider the following conversation ..."}, ...]"#
            }
            Self::Hf => r#"{"constitutions": [{"critic": "...", "revision": "..."}, ...], "system_chat": [...]}"#,
            Self::NemoFewShots => r#"{"samples": [[{"role": "user", "content": "..."}, ...], ...]}"#,
        }
    }

    /// What a file of it may hold.
    fn parts(self) -> &'static [Part] {
        match self {
            Self::PaperCritiques => &[Part::Requests],
            Self::PaperJudge => &[Part::Questions],
            Self::PaperCritiqueFewShots | Self::NemoFewShots => &[Part::CritiqueExamples],
            Self::PaperJudgeFewShots => &[Part::JudgeExamples],
            Self::PaperReasoningFewShots => &[Part::ReasoningExamples],
            Self::Hf => &[Part::Requests, Part::CritiqueExamples],
        }
    }

    /// Which format a file is of.
    fn recognise(json: &Json) -> Result<Self> {
        let found = match json.root().value {
            Value::Object(object) => Self::of_object(object),
            Value::Array(list) => Self::of_list(list),
            _ => None,
        };
        found.ok_or_else(|| {
            let known: Vec<String> = Self::ALL
                .map(|format| format!("{} {}", format.name(), format.shape()))
                .into();
            json.root()
                .error("this is none of the files that can be imported")
                .help(format!("these shapes are known:\n{}", known.join("\n")))
        })
    }

    fn of_object(object: &Map<String, Value>) -> Option<Self> {
        let list = |key: &str| object.get(key).is_some_and(Value::is_array);
        let requests = |value: &Value| value.get("prompt").is_some() || value.get("edit_request").is_some();
        if list(CONSTITUTIONS) {
            Some(Self::Hf)
        } else if list(SAMPLES) {
            Some(Self::NemoFewShots)
        } else if object.values().any(requests) {
            Some(Self::PaperCritiques)
        } else {
            None
        }
    }

    fn of_list(list: &[Value]) -> Option<Self> {
        let texts = || list.iter().filter_map(Value::as_str);
        let has = |key: &str| list.iter().any(|item| item.get(key).is_some());
        if texts().next().is_some() && texts().all(paper::is_transcript) {
            Some(Self::PaperCritiqueFewShots)
        } else if texts().any(paper::is_question) {
            Some(Self::PaperJudge)
        } else if texts().any(paper::is_transcript) {
            Some(Self::PaperCritiqueFewShots)
        } else if has("corrects") || has("incorrects") {
            Some(Self::PaperJudgeFewShots)
        } else if has("prompt") {
            Some(Self::PaperReasoningFewShots)
        } else {
            None
        }
    }

    /// The items of a file.
    fn entries(self, json: &Json) -> Result<Vec<Entry<'_>>> {
        let root = json.root();
        match self {
            Self::PaperCritiques => root
                .entries()?
                .into_iter()
                .map(|(key, at)| {
                    Ok(Entry {
                        item: paper::read_requests(key, &at)?,
                        key: Some(key),
                        at,
                    })
                })
                .collect(),
            Self::PaperJudge => entries(&root, |item, _| paper::read_question(item)),
            Self::PaperCritiqueFewShots => entries(&root, |item, _| paper::read_critique_example(item)),
            Self::PaperJudgeFewShots => entries(&root, paper::read_comparison),
            Self::PaperReasoningFewShots => entries(&root, |item, _| paper::read_reasoned(item)),
            Self::Hf => {
                let mut all = Vec::new();
                for (key, at) in root.entries()? {
                    all.append(&mut match key {
                        CONSTITUTIONS => entries(&at, |item, _| hugging_face::read_requests(item))?,
                        SYSTEM_CHAT => entries(&at, |item, _| hugging_face::read_conversation(item))?,
                        _ => {
                            return Err(at
                                .error("this key is not known here")
                                .help(format!("the keys are {CONSTITUTIONS} and {SYSTEM_CHAT}")));
                        }
                    });
                }
                Ok(all)
            }
            Self::NemoFewShots => {
                let [samples] = root.fields([SAMPLES])?;
                entries(&samples, |item, _| hugging_face::read_conversation(item))
            }
        }
    }

    /// The usual form of an item; none of one that the format has no place for.
    fn written(self, item: &Item) -> Option<Value> {
        match (self, item) {
            (Self::PaperCritiques, Item::Requests { critiques, revise, .. }) => {
                Some(paper::requests(critiques, revise))
            }
            (Self::PaperJudge, Item::Question(text)) => Some(paper::question(text)),
            (Self::PaperCritiqueFewShots, Item::Critique(example)) => Some(paper::critique_example(example)),
            (Self::PaperJudgeFewShots, Item::Comparison(example)) => Some(paper::comparison(example)),
            (Self::PaperReasoningFewShots, Item::Comparison(example)) => Some(paper::reasoned(example)),
            (Self::Hf, Item::Requests { critiques, revise, .. }) => match &critiques[..] {
                [only] => Some(hugging_face::requests(only, revise)),
                _ => None,
            },
            (Self::Hf | Self::NemoFewShots, Item::Critique(example)) => Some(hugging_face::conversation(example)),
            _ => None,
        }
    }

    /// A file of these items; `keys` are those of Hugging Face's in the order that they had.
    fn document(self, items: Vec<Valued>, keys: Option<&Value>) -> Value {
        let values = |items: Vec<Valued>| -> Value { items.into_iter().map(|item| item.value).collect() };
        match self {
            Self::PaperCritiques => Value::Object(items.into_iter().map(|item| (item.key, item.value)).collect()),
            Self::Hf => {
                let (requests, examples): (Vec<_>, Vec<_>) =
                    items.into_iter().partition(|item| item.part == Part::Requests);
                let (requests, mut examples) = (values(requests), Some(values(examples)));
                let none = examples.as_ref() == Some(&json!([]));
                let mut object = Map::new();
                // The examples first or not at all, if that is how they came.
                match keys.and_then(Value::as_array).map(Vec::as_slice) {
                    Some([_]) if none => examples = None,
                    Some([first, _]) if first == SYSTEM_CHAT => {
                        object.insert(SYSTEM_CHAT.into(), examples.take().unwrap_or_default());
                    }
                    _ => {}
                }
                object.insert(CONSTITUTIONS.into(), requests);
                if let Some(examples) = examples {
                    object.insert(SYSTEM_CHAT.into(), examples);
                }
                Value::Object(object)
            }
            Self::NemoFewShots => json!({ SAMPLES: values(items) }),
            Self::PaperJudge
            | Self::PaperCritiqueFewShots
            | Self::PaperJudgeFewShots
            | Self::PaperReasoningFewShots => values(items),
        }
    }

    /// Whether an item in its usual form is read as what it is.
    fn holds(self, item: &Item) -> bool {
        let Some(value) = self.written(item) else {
            return false;
        };
        let alone = Valued {
            part: item.part(),
            key: "key".into(),
            value,
        };
        let text = self.document(vec![alone], None).to_string();
        let read_back = || -> Result<bool> {
            let json = Json::parse(&text, "")?;
            let same = Self::recognise(&json)? == self;
            let entries = self.entries(&json)?;
            Ok(same && matches!(&entries[..], [only] if only.item.content() == item.content()))
        };
        read_back().unwrap_or(false)
    }

    /// What an item is known by again: its texts, and its id where the file has it.
    fn known_by(self, item: &Item) -> Value {
        match item {
            Item::Requests { id, .. } if self == Self::PaperCritiques => json!([id, item.content()]),
            _ => item.content(),
        }
    }
}

fn entries<'a>(list: &Cursor<'a>, read: impl Fn(&Cursor<'a>, usize) -> Result<Item>) -> Result<Vec<Entry<'a>>> {
    let items = list.list()?.into_iter().enumerate();
    items
        .map(|(index, at)| {
            Ok(Entry {
                item: read(&at, index)?,
                key: None,
                at,
            })
        })
        .collect()
}

impl Item {
    fn part(&self) -> Part {
        match self {
            Self::Requests { .. } => Part::Requests,
            Self::Question(_) => Part::Questions,
            Self::Critique(_) => Part::CritiqueExamples,
            Self::Comparison(example) if example.reasoning.is_empty() => Part::JudgeExamples,
            Self::Comparison(_) => Part::ReasoningExamples,
        }
    }

    /// What the formats hold of it. Examples without a reasoning have no question and no order there.
    fn content(&self) -> Value {
        match self {
            Self::Requests { critiques, revise, .. } => json!(["requests", critiques, revise]),
            Self::Question(text) => json!(["question", text]),
            Self::Critique(example) => json!([
                "critique",
                example.messages,
                example.answer,
                example.critique_request,
                example.critique,
                example.revision_request,
                example.revision,
            ]),
            Self::Comparison(example) if example.reasoning.is_empty() => {
                let (better, worse) = ranked(example);
                json!(["comparison", example.messages, better, worse])
            }
            Self::Comparison(example) => json!([
                "reasoning",
                example.messages,
                example.question,
                example.answer_a,
                example.answer_b,
                example.answer.letter().to_string(),
                example.reasoning,
            ]),
        }
    }
}

/// The better answer and the worse one.
fn ranked(example: &JudgeExample) -> (&str, &str) {
    match example.answer {
        Answer::A => (&example.answer_a, &example.answer_b),
        Answer::B => (&example.answer_b, &example.answer_a),
    }
}
