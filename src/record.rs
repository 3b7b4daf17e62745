//! The rows that flow between stages. Field names are the columns of the Arrow datasets.
//!
//! Plain data: nothing here knows how a row is stored, made or used.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One turn of a conversation. `role` is `system`, `user` or `assistant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user".into(),
            content: content.into(),
        }
    }

    pub fn system(content: impl Into<String>) -> Self {
        Self {
            role: "system".into(),
            content: content.into(),
        }
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: "assistant".into(),
            content: content.into(),
        }
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End-of-sequence token or a stop string.
    Stop,
    /// `max_new_tokens` or the end of the context.
    Length,
}

impl FinishReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A conversation that ends with a user turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub id: String,
    pub messages: Vec<Message>,
    pub source: String,
    pub tags: Vec<String>,
}

/// One round of critique and revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub principle_id: String,
    pub critique_request: String,
    pub critique: String,
    pub revision_request: String,
    pub revision: String,
    pub changed: bool,
    /// The hash of the principle's texts when it was asked, 16 hexadecimal digits; empty where nobody recorded it, as in
    /// rows before schema version 3.
    #[serde(default)]
    pub principle_hash: String,
}

/// An answer and its revisions; `messages` is the prompt with the final answer, ready for SFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    pub id: String,
    pub prompt: Vec<Message>,
    pub initial: String,
    pub rounds: Vec<Round>,
    #[serde(rename = "final")]
    pub final_answer: String,
    pub messages: Vec<Message>,
    pub prompt_tokens: u32,
    pub initial_tokens: u32,
    pub final_tokens: u32,
    pub initial_finish_reason: String,
    pub final_finish_reason: String,
}

/// One sampled answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub text: String,
    pub tokens: u32,
    pub finish_reason: String,
    /// Sum of the log-probabilities of its tokens under the sampling distribution at temperature 1; 0 if
    /// nobody scored them.
    pub logprob: f32,
    pub sample: u32,
}

/// Several answers to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidates {
    pub id: String,
    pub prompt: Vec<Message>,
    pub completions: Vec<Completion>,
}

/// Which option a judge's verdict names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    A,
    B,
    /// Neither is better.
    Tie,
    /// What the judge wrote names no option, or two of them.
    Unparsed,
}

impl Verdict {
    pub const NAMES: [&str; 4] = ["a", "b", "tie", "unparsed"];

    /// What a probability of option (A) names; nothing where it is no number.
    pub fn of_probability(p_a: f32) -> Self {
        match p_a.partial_cmp(&0.5) {
            Some(Ordering::Greater) => Self::A,
            Some(Ordering::Less) => Self::B,
            Some(Ordering::Equal) => Self::Tie,
            None => Self::Unparsed,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Tie => "tie",
            Self::Unparsed => "unparsed",
        }
    }
}

/// The `order` of a vote whose option (A) is the chosen answer.
pub const CHOSEN_FIRST: &str = "chosen_first";
/// The `order` of a vote whose option (A) is the rejected answer.
pub const REJECTED_FIRST: &str = "rejected_first";

/// How the `cot` of a vote begins that comes of ratings of each answer alone.
pub const EXPECTED_RATINGS: &str = "Expected ratings:";

/// The reason of a reject whose pair the judge finds equally good.
pub const TIE: &str = "the judge's verdict is a tie";

/// One question put to the judge, in one order of the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredVote")]
pub struct Vote {
    pub principle_id: String,
    /// `chosen_first` or `rejected_first`: which answer stood at (A).
    pub order: String,
    /// 0, as `logprob_b` is, where the judge gave words alone.
    pub logprob_a: f32,
    pub logprob_b: f32,
    /// Probability of option (A) that the vote counts with: normalised, and clamped after a reasoning; of one
    /// verdict in words 3/4 or 1/4, as half counts have it; 0.5 of a tie and where nothing could be read.
    pub p_a: f32,
    /// What the judge wrote, whole: its reasoning or explanation. Of ratings, the expected ones before it.
    pub cot: Option<String>,
    /// The option that the verdict names: `a`, `b`, `tie`, or `unparsed`, which counts for nothing.
    pub verdict: String,
    /// The hash of the principle's texts when it was asked, as a [`Round`] has it.
    pub principle_hash: String,
}

/// A vote as files have it: those of schema version 1 have no `verdict`, those before version 3 no `principle_hash`.
#[derive(Deserialize)]
struct StoredVote {
    principle_id: String,
    order: String,
    logprob_a: f32,
    logprob_b: f32,
    p_a: f32,
    cot: Option<String>,
    verdict: Option<String>,
    #[serde(default)]
    principle_hash: String,
}

impl From<StoredVote> for Vote {
    fn from(stored: StoredVote) -> Self {
        Self {
            verdict: stored
                .verdict
                .unwrap_or_else(|| Verdict::of_probability(stored.p_a).as_str().to_owned()),
            principle_id: stored.principle_id,
            order: stored.order,
            logprob_a: stored.logprob_a,
            logprob_b: stored.logprob_b,
            p_a: stored.p_a,
            cot: stored.cot,
            principle_hash: stored.principle_hash,
        }
    }
}

impl Vote {
    /// Whether the vote is for the chosen answer; `None` of a tie and of what could not be read.
    pub fn prefers_chosen(&self) -> Option<bool> {
        match self.verdict.as_str() {
            "a" => Some(self.chosen_first()),
            "b" => Some(!self.chosen_first()),
            _ => None,
        }
    }

    /// The log-odds of the chosen answer that the vote counts with; `None` where nothing could be read.
    pub fn log_odds_chosen(&self) -> Option<f32> {
        if self.verdict == "unparsed" {
            return None;
        }
        let told = self.logprob_a - self.logprob_b;
        // The log-probabilities say it more exactly where `p_a` is theirs, not clamped and not counted.
        let theirs = told.is_finite() && (1.0 / (1.0 + (-told).exp()) - self.p_a).abs() < 1e-6;
        let log_odds_a = if theirs {
            told
        } else {
            (self.p_a / (1.0 - self.p_a)).ln()
        };
        Some(if self.chosen_first() { log_odds_a } else { -log_odds_a })
    }

    /// Probability that the chosen answer is better, as the vote counts.
    pub fn p_chosen(&self) -> f32 {
        if self.chosen_first() { self.p_a } else { 1.0 - self.p_a }
    }

    /// Whether it comes of ratings of each answer alone: then its order is none that a judge saw.
    pub fn of_ratings(&self) -> bool {
        self.cot.as_ref().is_some_and(|cot| cot.starts_with(EXPECTED_RATINGS))
    }

    /// The vote about the same answers told from the other's side: what was chosen is rejected.
    pub fn turn(&mut self) {
        self.order = if self.chosen_first() {
            REJECTED_FIRST
        } else {
            CHOSEN_FIRST
        }
        .to_owned();
    }

    fn chosen_first(&self) -> bool {
        self.order == CHOSEN_FIRST
    }
}

/// Two answers to one prompt with a soft label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    pub id: String,
    pub prompt: Vec<Message>,
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
    /// Probability that `chosen` is the better answer, at least 0.5.
    pub p_chosen: f32,
    /// Log-odds of `p_chosen`.
    pub margin: f32,
    pub weight: f32,
    /// `judge`, `revision` or `human`.
    pub source: String,
    pub votes: Vec<Vote>,
    pub chosen_tokens: u32,
    pub rejected_tokens: u32,
    pub chosen_chars: u32,
    pub rejected_chars: u32,
    /// Probability that `chosen` is better before length control.
    pub p_raw: f32,
}

/// One answer to a prompt, and whether it is a good one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnpairedPreference {
    pub id: String,
    pub prompt: Vec<Message>,
    pub completion: Vec<Message>,
    pub label: bool,
    pub weight: f32,
}

/// What a reference model gives to one answer: the log-probability of each of its tokens. The id is the hash of the
/// tokens, of where the answer begins, and of the model's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceLogprobs {
    pub id: String,
    pub logprobs: Vec<f32>,
}

/// A row that could not be used, kept with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reject {
    pub id: String,
    pub stage: String,
    pub reason: String,
    /// What was read or generated, unchanged.
    pub raw: String,
}

/// A prompt and the text to learn, for SFT. `text` rows have an empty prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    pub id: String,
    pub prompt: Vec<Message>,
    /// A raw prefix, used as it is when `prompt` is empty.
    pub prefix: String,
    pub completion: String,
    /// Weight of the completion's tokens in the loss.
    pub weight: f32,
}

/// A stable id of 32 hexadecimal digits for the content `parts`, of which no two sequences collide.
pub fn content_id<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize()[..16])
}

/// The id of a conversation.
pub fn messages_id(messages: &[Message]) -> String {
    content_id(
        messages
            .iter()
            .flat_map(|message| [message.role.as_str(), message.content.as_str()]),
    )
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(order: &str, p_a: f32, logprobs: [f32; 2]) -> Vote {
        Vote {
            principle_id: "kind".into(),
            order: order.into(),
            logprob_a: logprobs[0],
            logprob_b: logprobs[1],
            p_a,
            cot: None,
            verdict: Verdict::of_probability(p_a).as_str().into(),
            principle_hash: String::new(),
        }
    }

    /// Catches: a vote counted for the wrong answer, a tie counted for one of them, the log-odds of a clamped
    /// probability taken from the log-probabilities, of a sure one from the rounded probability.
    #[test]
    fn a_vote_is_for_the_answer_that_stood_there() {
        let sure = [-0.0, -30.0];
        assert_eq!(vote(CHOSEN_FIRST, 1.0, sure).log_odds_chosen(), Some(30.0));
        assert_eq!(vote(REJECTED_FIRST, 1.0, sure).log_odds_chosen(), Some(-30.0));
        assert_eq!(vote(CHOSEN_FIRST, 1.0, sure).prefers_chosen(), Some(true));
        assert_eq!(vote(REJECTED_FIRST, 0.2, [0.0, 0.0]).prefers_chosen(), Some(true));
        let clamped = vote(REJECTED_FIRST, 0.6, sure).log_odds_chosen().unwrap();
        assert!((clamped + 1.5f32.ln()).abs() < 1e-6, "{clamped}");
        let tie = vote(CHOSEN_FIRST, 0.5, [0.0, 0.0]);
        assert_eq!((tie.prefers_chosen(), tie.log_odds_chosen()), (None, Some(0.0)));
        let unread = Vote {
            verdict: "unparsed".into(),
            ..tie
        };
        assert_eq!((unread.prefers_chosen(), unread.log_odds_chosen()), (None, None));
        let mut turned = vote(CHOSEN_FIRST, 1.0, sure);
        turned.turn();
        assert_eq!(turned, vote(REJECTED_FIRST, 1.0, sure));
    }

    /// Catches: votes in JSON of version 1 refused, or read as ties.
    #[test]
    fn a_vote_without_a_verdict_has_that_of_its_probability() {
        for (p_a, verdict) in [(0.7, "a"), (0.2, "b"), (0.5, "tie")] {
            let old = serde_json::json!({
                "principle_id": "kind", "order": "chosen_first", "logprob_a": -0.5, "logprob_b": -1.0, "p_a": p_a, "cot": null,
            });
            let read: Vote = serde_json::from_value(old).unwrap();
            assert_eq!((read.verdict.as_str(), read.principle_hash.as_str()), (verdict, ""));
        }
    }

    #[test]
    fn ids_see_the_borders_between_parts() {
        assert_ne!(content_id(["ab", "c"]), content_id(["a", "bc"]));
        assert_eq!(content_id(["ab", "c"]).len(), 32);
    }
}
