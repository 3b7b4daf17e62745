//! The figures of a constitution's use, as they are shown and written.

use serde::Serialize;

use super::glance::Finding;
use crate::bias::interval::Estimate;

/// What the principles of a constitution did. A part is absent where no dataset of its kind was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageReport {
    pub revising: Option<Revising>,
    pub judging: Option<Judging>,
    /// In the constitution's order; then those that rows name and the constitution has not, by their names.
    pub principles: Vec<PrincipleUsage>,
    /// Every two principles that took a side on the same pairs.
    pub agreement: Vec<Agreement>,
    /// What a reader should look at first.
    pub findings: Vec<Finding>,
}

/// All revisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Revising {
    pub rows: u64,
    pub rounds: u64,
}

/// All preferences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Judging {
    pub rows: u64,
    pub votes: u64,
    /// Rows without votes: nobody asked a principle about them.
    pub without_votes: u64,
    /// Rows that several principles voted on, and whose label follows from the votes.
    pub recounted: u64,
    /// Rows that several principles voted on, and whose label does not follow from the votes: rankings in words, other
    /// weights than the constitution's, labels of other programs.
    pub not_recounted: u64,
}

/// What one principle did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrincipleUsage {
    /// Empty where rows do not say which principle it was.
    pub id: String,
    pub in_constitution: bool,
    pub revising: Option<RevisingUse>,
    pub judging: Option<JudgingUse>,
}

/// With which texts a principle was asked: counts of rounds or votes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Wordings {
    /// The texts that the constitution has now.
    pub same: u64,
    pub other: u64,
    /// The rows do not say: they were written before schema version 3, or by another program.
    pub unknown: u64,
}

impl Wordings {
    pub(super) fn add(&mut self, found: &str, expected: Option<&str>) {
        *match expected {
            _ if found.is_empty() => &mut self.unknown,
            Some(expected) if found == expected => &mut self.same,
            _ => &mut self.other,
        } += 1;
    }
}

/// A principle in rounds of critique and revision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RevisingUse {
    /// Rounds.
    pub drawn: u64,
    /// Share of the rounds whose revision is another text than the answer before.
    pub changed: Option<Estimate>,
    /// Mean of the characters that a round added, negative where it took some away.
    pub length_change: Option<Estimate>,
    /// The same relative to the characters before: all that its rounds added to all that they were given.
    pub relative_change: Option<Estimate>,
    pub wordings: Wordings,
}

/// A principle in votes between two answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgingUse {
    pub votes: u64,
    pub pairs: u64,
    /// Share of the votes that take a side which are for the answer that was chosen in the end.
    pub with_label: Option<Estimate>,
    pub ties: u64,
    pub unparsed: u64,
    /// Mean probability that its votes give to the answer shown first; 1/2 is no liking for a position. Ratings of each
    /// answer alone are left out.
    pub first_shown: Option<Estimate>,
    /// Mean of the characters by which the answer that a vote is for is longer than the other.
    pub length_difference: Option<Estimate>,
    /// Pairs that no other principle voted on: it alone decided them, whatever it is worth.
    pub pairs_alone: u64,
    /// Share of the recounted pairs of several principles whose label would be a tie, the other one, or none without its
    /// votes.
    pub decisive: Option<Estimate>,
    pub wordings: Wordings,
}

/// How often two principles are for the same answer, of the pairs on which both take a side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    pub one: String,
    pub other: String,
    pub agreement: Estimate,
}
