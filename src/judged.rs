//! Pairs of answers, and which of the two was named better: by a judge in one order or both, and by
//! people.
//!
//! Plain data, whatever it came from: a judge asked just now, a set of labels, or a file in which somebody
//! recorded verdicts.

use serde::{Deserialize, Serialize};

/// Which of two answers is named better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    First,
    Second,
    Tie,
    /// The judge said something else, or nothing.
    Unparsed,
}

impl Winner {
    /// The same verdict with the answers exchanged.
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            other => other,
        }
    }

    /// 1 for the first answer, 0 for the second, nothing if no answer is named.
    pub fn names_first(self) -> Option<bool> {
        match self {
            Self::First => Some(true),
            Self::Second => Some(false),
            Self::Tie | Self::Unparsed => None,
        }
    }
}

/// What a judge said of a pair, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Whether the first answer stood at (A), if that is known.
    pub first_at_a: Option<bool>,
    pub winner: Winner,
    /// Probability that the first answer is better, where the judge gives one.
    pub p_first: Option<f64>,
    /// The principle that was asked about, if any.
    pub principle_id: String,
    /// Whether each answer was rated alone, so that no order of the two can decide.
    #[serde(default)]
    pub alone: bool,
}

/// Two answers and all that was said of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedPair {
    pub id: String,
    /// The prompt, or what stands for it. Pairs of one prompt are not independent.
    pub prompt: String,
    /// Characters of both answers.
    pub lengths: [u32; 2],
    pub judgements: Vec<Judgement>,
    /// Log-odds that the first answer is better, as the label made of the judgements has it.
    pub label: Option<f64>,
    /// Weight of the label.
    pub weight: f64,
    /// What people say, or who knows the truth.
    pub gold: Option<Winner>,
    /// Where one of the answers is the judge's own: whether it is the first.
    pub own_first: Option<bool>,
}

impl JudgedPair {
    /// A pair of which nothing was said yet.
    pub fn new(id: impl Into<String>, prompt: impl Into<String>, lengths: [u32; 2]) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into(),
            lengths,
            judgements: Vec::new(),
            label: None,
            weight: 1.0,
            gold: None,
            own_first: None,
        }
    }

    /// Whether the first answer is the longer; nothing if both are of one length.
    pub fn first_is_longer(&self) -> Option<bool> {
        let [first, second] = self.lengths;
        (first != second).then_some(first > second)
    }
}
