//! The rows that flow between stages. Field names are the columns of the Arrow datasets.
//!
//! Plain data: nothing here knows how a row is stored, made or used.

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

/// One question put to the judge, in one order of the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    pub principle_id: String,
    /// `chosen_first` or `rejected_first`: which answer stood at (A).
    pub order: String,
    pub logprob_a: f32,
    pub logprob_b: f32,
    /// Normalised probability of option (A).
    pub p_a: f32,
    pub cot: Option<String>,
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

    #[test]
    fn ids_see_the_borders_between_parts() {
        assert_ne!(content_id(["ab", "c"]), content_id(["a", "bc"]));
        assert_eq!(content_id(["ab", "c"]).len(), 32);
    }
}
