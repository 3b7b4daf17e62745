//! What must hold for every row of a kind, beyond its types.
//!
//! Readers of references ask less (`shape`): they take what other programs write. These are the promises
//! of our own datasets, for `validate`.

use crate::record::{
    Candidates, Demonstration, Message, Preference, Prompt, ReferenceLogprobs, Reject, Revision, UnpairedPreference,
    Verdict, Vote,
};

use super::row::Row;

/// What a row promises and does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// An id that no other row has.
    Id,
    /// Roles are system, user and assistant.
    Role,
    /// A prompt ends with words of the user.
    Prompt,
    /// Answers are there.
    Answer,
    /// Columns that follow from others agree with them.
    Derived,
    /// Probabilities and weights are numbers in their range.
    Number,
    /// Counts are possible.
    Count,
    /// Names are from their list: finish reasons, orders.
    Name,
}

impl Promise {
    /// What the user can do about rows that break it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Id => "make the ids unique; `bylaw` gives every row its own when it reads the data as files",
            Self::Role => "rename the roles to system, user and assistant",
            Self::Prompt | Self::Answer => "take the rows out, or complete them where they were made",
            Self::Derived => "write the rows again with the command that made them; one of the columns was edited",
            Self::Number => "take the rows out, or label them again",
            Self::Count => "write the rows again with the command that made them",
            Self::Name => "use the names that `bylaw` writes",
        }
    }
}

/// More tokens than any context holds.
const MOST_TOKENS: u32 = 1 << 24;

/// Rounding of sums of log-probabilities.
const ABOVE_ZERO: f32 = 1e-3;

/// Collects what is wrong with a row.
pub type Broken<'a> = &'a mut dyn FnMut(Promise, String);

/// A row whose promises can be checked.
pub trait Sound: Row {
    fn check(&self, broken: Broken<'_>);
}

impl Sound for Prompt {
    fn check(&self, broken: Broken<'_>) {
        conversation("messages", &self.messages, broken);
    }
}

impl Sound for Revision {
    fn check(&self, broken: Broken<'_>) {
        conversation("prompt", &self.prompt, broken);
        let derived = match self.messages.split_last() {
            Some((last, prompt)) => {
                prompt == self.prompt && last.role == "assistant" && last.content == self.final_answer
            }
            None => false,
        };
        if !derived {
            broken(
                Promise::Derived,
                "`messages` is not `prompt` and then `final` as a turn of the assistant".into(),
            );
        }
        let mut answer = &self.initial;
        for (number, round) in (1..).zip(&self.rounds) {
            hash("rounds[].principle_hash", &round.principle_hash, broken);
            if round.changed != (round.revision != *answer) {
                broken(
                    Promise::Derived,
                    format!("`changed` of round {number} does not say whether its revision differs"),
                );
            }
            answer = &round.revision;
        }
        if *answer != self.final_answer {
            let last = if self.rounds.is_empty() {
                "`initial`"
            } else {
                "the last revision"
            };
            broken(Promise::Derived, format!("`final` is not {last}"));
        }
        for (name, reason) in [
            ("initial_finish_reason", &self.initial_finish_reason),
            ("final_finish_reason", &self.final_finish_reason),
        ] {
            finish_reason(name, reason, broken);
        }
        for (name, count) in [
            ("prompt_tokens", self.prompt_tokens),
            ("initial_tokens", self.initial_tokens),
            ("final_tokens", self.final_tokens),
        ] {
            tokens(name, count, broken);
        }
    }
}

impl Sound for Candidates {
    fn check(&self, broken: Broken<'_>) {
        conversation("prompt", &self.prompt, broken);
        if self.completions.is_empty() {
            broken(Promise::Answer, "`completions` is empty".into());
        }
        let mut samples: Vec<u32> = self.completions.iter().map(|completion| completion.sample).collect();
        samples.sort_unstable();
        if let Some(twice) = samples.windows(2).find(|pair| pair[0] == pair[1]) {
            broken(
                Promise::Count,
                format!("two completions have the `sample` {}", twice[0]),
            );
        }
        for completion in &self.completions {
            finish_reason("finish_reason", &completion.finish_reason, broken);
            tokens("tokens", completion.tokens, broken);
            logprob("logprob", completion.logprob, broken);
        }
    }
}

impl Sound for Preference {
    fn check(&self, broken: Broken<'_>) {
        conversation("prompt", &self.prompt, broken);
        for (name, messages, chars, count) in [
            ("chosen", &self.chosen, self.chosen_chars, self.chosen_tokens),
            ("rejected", &self.rejected, self.rejected_chars, self.rejected_tokens),
        ] {
            roles(name, messages, broken);
            if messages.first().is_none_or(|first| first.role != "assistant") {
                broken(
                    Promise::Answer,
                    format!("`{name}` does not begin with a turn of the assistant"),
                );
            }
            tokens(&format!("{name}_tokens"), count, broken);
            let found: usize = messages.iter().map(|message| message.content.chars().count()).sum();
            if chars != 0 && chars as usize != found {
                broken(
                    Promise::Count,
                    format!("`{name}_chars` is {chars}, but `{name}` has {found} characters"),
                );
            }
        }
        if self.chosen == self.rejected {
            broken(Promise::Answer, "`chosen` and `rejected` are the same".into());
        }
        within("p_chosen", self.p_chosen, 0.5, 1.0, broken);
        within("p_raw", self.p_raw, 0.0, 1.0, broken);
        for (name, value) in [("margin", self.margin), ("weight", self.weight)] {
            if !(value.is_finite() && value >= 0.0) {
                broken(
                    Promise::Number,
                    format!("`{name}` is {value}, expected a number of at least 0"),
                );
            }
        }
        for vote in &self.votes {
            within("votes[].p_a", vote.p_a, 0.0, 1.0, broken);
            logprob("votes[].logprob_a", vote.logprob_a, broken);
            logprob("votes[].logprob_b", vote.logprob_b, broken);
            name(
                "votes[].order",
                &vote.order,
                &["chosen_first", "rejected_first"],
                broken,
            );
            name("votes[].verdict", &vote.verdict, &Verdict::NAMES, broken);
            verdict(vote, broken);
            hash("votes[].principle_hash", &vote.principle_hash, broken);
        }
    }
}

impl Sound for Demonstration {
    fn check(&self, broken: Broken<'_>) {
        if !self.prompt.is_empty() {
            conversation("prompt", &self.prompt, broken);
        } else if self.completion.is_empty() {
            broken(Promise::Answer, "the text is empty".into());
        }
        weight(self.weight, broken);
    }
}

impl Sound for UnpairedPreference {
    fn check(&self, broken: Broken<'_>) {
        conversation("prompt", &self.prompt, broken);
        roles("completion", &self.completion, broken);
        if self.completion.first().is_none_or(|first| first.role != "assistant") {
            broken(
                Promise::Answer,
                "`completion` does not begin with a turn of the assistant".into(),
            );
        }
        weight(self.weight, broken);
    }
}

impl Sound for Reject {
    fn check(&self, broken: Broken<'_>) {
        if self.stage.is_empty() || self.reason.is_empty() {
            broken(Promise::Answer, "`stage` or `reason` is empty".into());
        }
    }
}

impl Sound for ReferenceLogprobs {
    fn check(&self, broken: Broken<'_>) {
        if let Some(wrong) = self
            .logprobs
            .iter()
            .find(|logprob| !logprob.is_finite() || **logprob > ABOVE_ZERO)
        {
            broken(Promise::Number, format!("`logprobs` holds {wrong}"));
        }
    }
}

/// A verdict says what its probability says; one half belongs to ties and to what could not be read.
fn verdict(vote: &Vote, broken: Broken<'_>) {
    let told = match Verdict::of_probability(vote.p_a) {
        Verdict::A => ["a"].as_slice(),
        Verdict::B => &["b"],
        Verdict::Tie => &["tie", "unparsed"],
        Verdict::Unparsed => return,
    };
    if Verdict::NAMES.contains(&vote.verdict.as_str()) && !told.contains(&vote.verdict.as_str()) {
        broken(
            Promise::Derived,
            format!("`votes[].verdict` is {:?} with a `p_a` of {}", vote.verdict, vote.p_a),
        );
    }
}

fn weight(weight: f32, broken: Broken<'_>) {
    if !(weight.is_finite() && weight >= 0.0) {
        broken(
            Promise::Number,
            format!("`weight` is {weight}, expected a number of at least 0"),
        );
    }
}

/// A conversation that waits for its answer.
fn conversation(column: &str, messages: &[Message], broken: Broken<'_>) {
    roles(column, messages, broken);
    match messages.last() {
        None => broken(Promise::Prompt, format!("`{column}` is empty")),
        Some(last) if last.role != "user" => {
            broken(
                Promise::Prompt,
                format!("`{column}` ends with a turn of {:?}, expected the user", last.role),
            );
        }
        Some(last) if last.content.trim().is_empty() => {
            broken(Promise::Prompt, format!("the last turn of `{column}` has no text"));
        }
        Some(_) => {}
    }
}

fn roles(column: &str, messages: &[Message], broken: Broken<'_>) {
    let known = |role: &str| matches!(role, "system" | "user" | "assistant");
    if let Some(message) = messages.iter().find(|message| !known(&message.role)) {
        broken(
            Promise::Role,
            format!(
                "`{column}` has the role {:?}, expected system, user or assistant",
                message.role
            ),
        );
    }
}

fn finish_reason(column: &str, found: &str, broken: Broken<'_>) {
    name(column, found, &["stop", "length"], broken);
}

fn name(column: &str, found: &str, known: &[&str], broken: Broken<'_>) {
    if !known.contains(&found) {
        broken(
            Promise::Name,
            format!("`{column}` is {found:?}, expected {}", known.join(" or ")),
        );
    }
}

/// A hash as [`Principle::hash`](crate::constitution::Principle::hash) answers it, or that nobody recorded one.
fn hash(column: &str, found: &str, broken: Broken<'_>) {
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !(found.is_empty() || found.len() == 16 && digits(found)) {
        broken(
            Promise::Name,
            format!("`{column}` is {found:?}, expected 16 hexadecimal digits or nothing"),
        );
    }
}

fn tokens(column: &str, found: u32, broken: Broken<'_>) {
    if found > MOST_TOKENS {
        broken(
            Promise::Count,
            format!("`{column}` is {found}, more than any context holds"),
        );
    }
}

fn within(column: &str, found: f32, low: f32, high: f32, broken: Broken<'_>) {
    if !(low..=high).contains(&found) {
        broken(
            Promise::Number,
            format!("`{column}` is {found}, expected {low} to {high}"),
        );
    }
}

fn logprob(column: &str, found: f32, broken: Broken<'_>) {
    // Minus infinity is a probability of zero.
    if found.is_nan() || found > ABOVE_ZERO {
        broken(
            Promise::Number,
            format!("`{column}` is {found}, expected a log-probability of at most 0"),
        );
    }
}
