//! How a constitution is used: what its principles did in datasets of revisions and of preferences.
//!
//! Rows go by once; what is kept is a few sums a principle, and a few for each two that judged the same pairs. Which
//! principle a row belongs to is its id; the hash beside it says whether the principle's texts were the constitution's.
//! Nothing here reads files or prints.

mod glance;
mod judging;
mod ratio;
mod report;
mod revising;

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

pub use self::glance::Finding;
pub use self::report::{Agreement, Judging, JudgingUse, PrincipleUsage, Revising, RevisingUse, UsageReport, Wordings};

use self::judging::JudgingTally;
use self::ratio::Ratio;
use self::revising::RevisingTally;
use crate::constitution::Constitution;
use crate::record::{Message, Preference, Revision};

/// Collects what rows say of the principles of one constitution.
pub struct Usage<'a> {
    constitution: &'a Constitution,
    /// Those of the constitution in its order, then others as they are met.
    principles: Vec<Tally>,
    places: HashMap<String, usize>,
    revising: Option<Revising>,
    judging: Option<Judging>,
    /// Agreement on pairs, by two places, the lower first.
    agreement: BTreeMap<[usize; 2], Ratio>,
}

/// What is known of one principle.
struct Tally {
    id: String,
    /// The hash of its texts in the constitution.
    hash: Option<String>,
    weight: f32,
    revising: RevisingTally,
    judging: JudgingTally,
}

impl<'a> Usage<'a> {
    pub fn new(constitution: &'a Constitution) -> Self {
        let mut usage = Self {
            constitution,
            principles: Vec::new(),
            places: HashMap::new(),
            revising: None,
            judging: None,
            agreement: BTreeMap::new(),
        };
        for (principle, share) in constitution.principles.iter().zip(constitution.judge_shares()) {
            let place = usage.place(&principle.id);
            usage.principles[place].hash = Some(principle.hash());
            usage.principles[place].weight = *share as f32;
        }
        usage
    }

    /// That there are revisions, also where no row of them comes.
    pub fn expect_revisions(&mut self) {
        self.revising.get_or_insert_default();
    }

    /// That there are preferences, also where no row of them comes.
    pub fn expect_preferences(&mut self) {
        self.judging.get_or_insert_default();
    }

    /// Rounds and votes so far, and how many of them are of principles of the constitution.
    pub fn recognised(&self) -> (u64, u64) {
        let count = |tally: &Tally| tally.revising.drawn() + tally.judging.votes();
        let known = self.principles.iter().filter(|tally| tally.hash.is_some());
        (self.principles.iter().map(count).sum(), known.map(count).sum())
    }

    /// Takes the next revision.
    pub fn add_revision(&mut self, row: &Revision) {
        let totals = self.revising.get_or_insert_default();
        totals.rows += 1;
        totals.rounds += row.rounds.len() as u64;
        let prompt = key(&row.prompt);
        let mut before = &row.initial;
        for round in &row.rounds {
            let place = self.place(&round.principle_id);
            let tally = &mut self.principles[place];
            tally.revising.add(prompt, before, round, tally.hash.as_deref());
            before = &round.revision;
        }
    }

    /// Takes the next preference.
    pub fn add_preference(&mut self, row: &Preference) {
        self.judge(row);
    }

    /// Where the principle stands, a new one at the end.
    fn place(&mut self, id: &str) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        let place = self.principles.len();
        self.places.insert(id.to_owned(), place);
        self.principles.push(Tally {
            id: id.to_owned(),
            hash: None,
            weight: 0.0,
            revising: RevisingTally::default(),
            judging: JudgingTally::default(),
        });
        place
    }

    /// The figures: principles in the constitution's order, then others by their names.
    pub fn finish(self) -> UsageReport {
        let (revised, judged) = (self.revising.is_some(), self.judging.is_some());
        let mut order: Vec<usize> = (0..self.principles.len()).collect();
        let own = self.constitution.principles.len();
        order[own..].sort_by(|one, other| self.principles[*one].id.cmp(&self.principles[*other].id));
        let principles: Vec<PrincipleUsage> = order
            .iter()
            .map(|place| {
                let tally = &self.principles[*place];
                PrincipleUsage {
                    id: tally.id.clone(),
                    in_constitution: tally.hash.is_some(),
                    revising: revised.then(|| tally.revising.finish()),
                    judging: judged.then(|| tally.judging.finish()),
                }
            })
            .collect();
        let mut rank = vec![0; order.len()];
        order.iter().enumerate().for_each(|(index, place)| rank[*place] = index);
        let mut agreement: Vec<([usize; 2], Ratio)> = self
            .agreement
            .into_iter()
            .map(|([one, other], ratio)| {
                let mut ranks = [rank[one], rank[other]];
                ranks.sort_unstable();
                (ranks, ratio)
            })
            .collect();
        agreement.sort_by_key(|(ranks, _)| *ranks);
        let agreement = agreement.into_iter().filter_map(|([one, other], ratio)| {
            Some(Agreement {
                one: principles[one].id.clone(),
                other: principles[other].id.clone(),
                agreement: ratio.share()?,
            })
        });
        let agreement = agreement.collect();
        let mut report = UsageReport {
            revising: self.revising,
            judging: self.judging,
            principles,
            agreement,
            findings: Vec::new(),
        };
        report.findings = glance::findings(self.constitution, &report);
        report
    }
}

/// What rows of one prompt have in common.
fn key(prompt: &[Message]) -> u64 {
    let mut hash = Sha256::new();
    for message in prompt {
        for text in [&message.role, &message.content] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    let digest = hash.finalize();
    digest[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
}

fn chars(text: &str) -> f64 {
    text.chars().count() as f64
}

#[cfg(test)]
mod tests;
