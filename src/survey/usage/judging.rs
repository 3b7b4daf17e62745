//! What a principle did in votes between two answers.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::ratio::Ratio;
use super::report::{JudgingUse, Wordings};
use super::{Usage, chars, key};
use crate::record::{Message, Preference, Verdict, Vote};
use crate::stage::judge::label::{recounted, sigmoid};

/// A label follows from its votes where the probability that they add up to is this close to it: labels are f32.
const SAME: f32 = 1e-4;

#[derive(Debug, Default)]
pub struct JudgingTally {
    votes: u64,
    pairs: u64,
    pairs_alone: u64,
    ties: u64,
    unparsed: u64,
    with_label: Ratio,
    first_shown: Ratio,
    length_difference: Ratio,
    decisive: Ratio,
    wordings: Wordings,
}

impl JudgingTally {
    /// A vote on a pair whose chosen answer is `longer` characters longer than the rejected one.
    fn add(&mut self, prompt: u64, vote: &Vote, longer: f64, hash: Option<&str>) {
        self.votes += 1;
        self.wordings.add(&vote.principle_hash, hash);
        match vote.prefers_chosen() {
            Some(chosen) => {
                self.with_label.count(prompt, chosen);
                self.length_difference
                    .add(prompt, if chosen { longer } else { -longer }, 1.0);
            }
            None if vote.verdict == Verdict::Tie.as_str() => self.ties += 1,
            None => self.unparsed += 1,
        }
        if vote.verdict != Verdict::Unparsed.as_str() && !vote.of_ratings() {
            self.first_shown.add(prompt, f64::from(vote.p_a), 1.0);
        }
    }

    pub fn votes(&self) -> u64 {
        self.votes
    }

    pub fn finish(&self) -> JudgingUse {
        JudgingUse {
            votes: self.votes,
            pairs: self.pairs,
            with_label: self.with_label.share(),
            ties: self.ties,
            unparsed: self.unparsed,
            first_shown: self.first_shown.mean(),
            length_difference: self.length_difference.mean(),
            pairs_alone: self.pairs_alone,
            decisive: self.decisive.share(),
            wordings: self.wordings,
        }
    }
}

impl Usage<'_> {
    pub(super) fn judge(&mut self, row: &Preference) {
        let totals = self.judging.get_or_insert_default();
        totals.rows += 1;
        totals.votes += row.votes.len() as u64;
        totals.without_votes += u64::from(row.votes.is_empty());
        let prompt = key(&row.prompt);
        let longer = length(&row.chosen) - length(&row.rejected);
        // By place, in their order: for which answer a principle is on the whole, above 0 for the chosen one.
        let mut sides: BTreeMap<usize, f32> = BTreeMap::new();
        for vote in &row.votes {
            let place = self.place(&vote.principle_id);
            let tally = &mut self.principles[place];
            tally.judging.add(prompt, vote, longer, tally.hash.as_deref());
            *sides.entry(place).or_default() += vote.log_odds_chosen().unwrap_or(0.0);
        }
        for place in sides.keys() {
            let judging = &mut self.principles[*place].judging;
            judging.pairs += 1;
            judging.pairs_alone += u64::from(sides.len() == 1);
        }
        if sides.len() > 1 {
            self.agree(prompt, &sides);
            self.decide(prompt, row, &sides);
        }
    }

    /// Counts which principles are for the same answer.
    fn agree(&mut self, prompt: u64, sides: &BTreeMap<usize, f32>) {
        let taken: Vec<(usize, bool)> = sides
            .iter()
            .filter(|(_, side)| **side != 0.0)
            .map(|(place, side)| (*place, *side > 0.0))
            .collect();
        for (index, (one, first)) in taken.iter().enumerate() {
            for (other, second) in &taken[index + 1..] {
                let agreement = self.agreement.entry([*one, *other]).or_default();
                agreement.count(prompt, first == second);
            }
        }
    }

    /// Counts whose votes the label would not be the same without.
    fn decide(&mut self, prompt: u64, row: &Preference, sides: &BTreeMap<usize, f32>) {
        let votes: Vec<&Vote> = row.votes.iter().collect();
        let Some((label, shares)) = self.recount(row, &votes, sides) else {
            if let Some(totals) = &mut self.judging {
                totals.not_recounted += 1;
            }
            return;
        };
        if let Some(totals) = &mut self.judging {
            totals.recounted += 1;
        }
        let share = |id: &str| shares.get(id).copied().unwrap_or(1.0);
        for place in sides.keys() {
            let tally = &mut self.principles[*place];
            let others: Vec<&Vote> = votes
                .iter()
                .filter(|vote| vote.principle_id != tally.id)
                .copied()
                .collect();
            let without = recounted(&others, share).and_then(|label| label.partial_cmp(&0.0));
            let stays = without.is_some_and(|side| side != Ordering::Equal && Some(side) == label.partial_cmp(&0.0));
            tally.judging.decisive.count(prompt, !stays);
        }
    }

    /// The label before length control as the votes give it, and how much each principle counted: all the same, or, where
    /// all of a constitution are asked, by their weights.
    fn recount<'r>(
        &self,
        row: &'r Preference,
        votes: &[&'r Vote],
        sides: &BTreeMap<usize, f32>,
    ) -> Option<(f32, BTreeMap<&'r str, f32>)> {
        let follows = |label: Option<f32>| label.filter(|label| (sigmoid(*label) - row.p_raw).abs() < SAME);
        if let Some(label) = follows(recounted(votes, |_| 1.0)) {
            return Some((label, BTreeMap::new()));
        }
        let weights = sides.keys().map(|place| self.principles[*place].weight);
        let mean = weights.sum::<f32>() / sides.len() as f32;
        if mean <= 0.0 {
            return None;
        }
        let shares: BTreeMap<&str, f32> = row
            .votes
            .iter()
            .filter_map(|vote| {
                let id = vote.principle_id.as_str();
                let place = *self.places.get(id)?;
                Some((id, self.principles[place].weight / mean))
            })
            .collect();
        let label = follows(recounted(votes, |id| shares.get(id).copied().unwrap_or(0.0)))?;
        Some((label, shares))
    }
}

fn length(messages: &[Message]) -> f64 {
    messages.iter().map(|message| chars(&message.content)).sum()
}
