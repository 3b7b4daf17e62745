//! What an edit of a constitution changed: the same rows revised and judged under the old one and under the new one.
//!
//! Rows that the edit does not touch come out the same, bit by bit, so that every difference is its effect. A revision is
//! put down to the principle of the first round that ends otherwise, a label to the principles that voted otherwise.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::{Message, Preference, Reject, Revision, TIE, Vote};

/// What a row came to.
pub type Outcome<R> = Result<R, Reject>;

/// What was changed by one principle of the new constitution, or by one of the old that is not drawn any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ByPrinciple {
    /// Rounds under it, of the new rows.
    pub rounds: u64,
    /// Rows whose final answer is another.
    pub revisions_changed: u64,
    /// Pairs that it was asked about, of the new rows.
    pub pairs: u64,
    /// Pairs with another label: turned, or to or from a tie.
    pub labels_flipped: u64,
    /// Sum over its pairs of how far the label's probability moved.
    pub moved: f64,
}

/// A row that changed, as far as there is one on either side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    pub id: String,
    pub prompt: Vec<Message>,
    pub principles: Vec<String>,
    pub old: Side,
    pub new: Side,
}

/// What a row came to, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Answer(String),
    Label {
        chosen: String,
        rejected: String,
        p_chosen: f32,
    },
    /// Why it came to nothing.
    Reject(String),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Effect {
    pub prompts: u64,
    pub revisions_changed: u64,
    pub pairs: u64,
    pub labels_flipped: u64,
    /// Rows that came to nothing on one side only, ties aside.
    pub rejects_changed: u64,
    pub by_principle: BTreeMap<String, ByPrinciple>,
    pub revisions: Vec<Example>,
    pub labels: Vec<Example>,
}

impl Effect {
    /// Takes up the two revisions of one prompt.
    pub fn revision(&mut self, prompt: &[Message], old: &Outcome<Revision>, new: &Outcome<Revision>) {
        self.prompts += 1;
        for round in new.iter().flat_map(|row| &row.rounds) {
            self.of(&round.principle_id).rounds += 1;
        }
        let (by, id) = match (old, new) {
            (Ok(old), Ok(new)) if old.final_answer == new.final_answer => return,
            (Ok(old), Ok(new)) => (first_difference(old, new), &new.id),
            (Err(_), Err(_)) => return,
            (Ok(row), Err(_)) | (Err(_), Ok(row)) => {
                self.rejects_changed += 1;
                (row.rounds.last().map(|round| round.principle_id.clone()), &row.id)
            }
        };
        self.revisions_changed += 1;
        if let Some(by) = &by {
            self.of(by).revisions_changed += 1;
        }
        let side = |outcome: &Outcome<Revision>| match outcome {
            Ok(row) => Side::Answer(row.final_answer.clone()),
            Err(reject) => Side::Reject(reject.reason.clone()),
        };
        self.revisions.push(Example {
            id: id.clone(),
            prompt: prompt.to_vec(),
            principles: by.into_iter().collect(),
            old: side(old),
            new: side(new),
        });
    }

    /// Takes up the two labels of one pair.
    pub fn label(&mut self, old: &Outcome<Preference>, new: &Outcome<Preference>) {
        // What was no pair to either is none here.
        let Some(row) = new.as_ref().ok().or(old.as_ref().ok()) else {
            return;
        };
        self.pairs += 1;
        let moved = match (old, new) {
            (Ok(old), Ok(new)) if turned(old, new) => f64::from(old.p_chosen + new.p_chosen - 1.0),
            (Ok(old), Ok(new)) => f64::from((old.p_chosen - new.p_chosen).abs()),
            // To a tie, or from one.
            _ => f64::from(row.p_chosen) - 0.5,
        };
        let asked = principles(new.as_ref().map_or(&row.votes, |new| &new.votes));
        for id in &asked {
            let principle = self.of(id);
            principle.pairs += 1;
            principle.moved += moved;
        }
        let flipped = match (old, new) {
            (Ok(old), Ok(new)) => turned(old, new),
            _ => true,
        };
        if !flipped {
            return;
        }
        let lost = [old, new].into_iter().filter_map(|outcome| outcome.as_ref().err());
        self.rejects_changed += u64::from(lost.into_iter().any(|reject| reject.reason != TIE));
        self.labels_flipped += 1;
        let by = match (old, new) {
            (Ok(old), Ok(new)) => voted_otherwise(old, new),
            _ => asked,
        };
        for id in &by {
            self.of(id).labels_flipped += 1;
        }
        let side = |outcome: &Outcome<Preference>| match outcome {
            Ok(row) => Side::Label {
                chosen: text(&row.chosen),
                rejected: text(&row.rejected),
                p_chosen: row.p_chosen,
            },
            Err(reject) => Side::Reject(reject.reason.clone()),
        };
        self.labels.push(Example {
            id: row.id.clone(),
            prompt: row.prompt.clone(),
            principles: by,
            old: side(old),
            new: side(new),
        });
    }

    fn of(&mut self, id: &str) -> &mut ByPrinciple {
        self.by_principle.entry(id.to_owned()).or_default()
    }
}

/// The principle of the first round that ends otherwise; of a round that only one of the two has, its own.
fn first_difference(old: &Revision, new: &Revision) -> Option<String> {
    let mut pairs = old.rounds.iter().zip(&new.rounds);
    let other = pairs
        .find(|(old, new)| old.revision != new.revision)
        .map(|(_, new)| new);
    let more = new.rounds.get(old.rounds.len()).or(old.rounds.get(new.rounds.len()));
    other.or(more).map(|round| round.principle_id.clone())
}

fn turned(old: &Preference, new: &Preference) -> bool {
    old.chosen != new.chosen
}

fn text(messages: &[Message]) -> String {
    messages
        .last()
        .map(|message| message.content.clone())
        .unwrap_or_default()
}

/// Each once, in the order of the votes.
fn principles(votes: &[Vote]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for vote in votes {
        if !ids.contains(&vote.principle_id) {
            ids.push(vote.principle_id.clone());
        }
    }
    ids
}

/// The principles of the new row whose votes, told from the same side, are not the old ones.
fn voted_otherwise(old: &Preference, new: &Preference) -> Vec<String> {
    let mut before = old.votes.clone();
    if turned(old, new) {
        before.iter_mut().for_each(Vote::turn);
    }
    let same = |vote: &Vote| {
        before.iter().any(|was| {
            was.principle_id == vote.principle_id && was.order == vote.order && was.p_a.to_bits() == vote.p_a.to_bits()
        })
    };
    let other: Vec<Vote> = new.votes.iter().filter(|vote| !same(vote)).cloned().collect();
    principles(&other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CHOSEN_FIRST, REJECTED_FIRST, Round};

    fn revision(rounds: &[(&str, &str)]) -> Outcome<Revision> {
        let round = |(principle, text): &(&str, &str)| {
            serde_json::from_value::<Round>(serde_json::json!({
                "principle_id": principle, "principle_hash": "", "critique_request": "", "critique": "",
                "revision_request": "", "revision": text, "changed": true,
            }))
            .unwrap()
        };
        Ok(Revision {
            id: "r".into(),
            prompt: vec![Message::user("p")],
            initial: "start".into(),
            rounds: rounds.iter().map(round).collect(),
            final_answer: rounds.last().map_or("start", |(_, text)| text).into(),
            messages: Vec::new(),
            prompt_tokens: 1,
            initial_tokens: 1,
            final_tokens: 1,
            initial_finish_reason: "stop".into(),
            final_finish_reason: "stop".into(),
        })
    }

    fn label(chosen: &str, rejected: &str, p_chosen: f32, votes: &[(&str, &str, f32)]) -> Outcome<Preference> {
        let vote = |(principle, order, p_a): &(&str, &str, f32)| {
            serde_json::from_value::<Vote>(serde_json::json!({
                "principle_id": principle, "principle_hash": "", "order": order, "logprob_a": 0.0, "logprob_b": 0.0,
                "p_a": p_a, "cot": null, "verdict": "a",
            }))
            .unwrap()
        };
        Ok(Preference {
            id: "l".into(),
            prompt: vec![Message::user("p")],
            chosen: vec![Message::assistant(chosen)],
            rejected: vec![Message::assistant(rejected)],
            p_chosen,
            margin: 0.0,
            weight: 1.0,
            source: "judge".into(),
            votes: votes.iter().map(vote).collect(),
            chosen_tokens: 1,
            rejected_tokens: 1,
            chosen_chars: 1,
            rejected_chars: 1,
            p_raw: p_chosen,
        })
    }

    /// Catches: a change put down to the last round instead of the one that began it, and a lost row not counted.
    #[test]
    fn a_revision_is_put_down_to_the_round_that_began_it() {
        let mut effect = Effect::default();
        let old = revision(&[("a", "x"), ("b", "y")]);
        effect.revision(&[], &old, &old.clone());
        effect.revision(&[], &old, &revision(&[("a", "x2"), ("b", "y2")]));
        effect.revision(&[], &old, &revision(&[("a", "x"), ("c", "z")]));
        // Another way to the same answer is no change.
        effect.revision(&[], &old, &revision(&[("a", "x3"), ("b", "y")]));
        let lost = Reject {
            id: "r".into(),
            stage: "revise".into(),
            reason: "empty".into(),
            raw: String::new(),
        };
        effect.revision(&[], &old, &Err(lost));
        assert_eq!(
            (effect.prompts, effect.revisions_changed, effect.rejects_changed),
            (5, 3, 1)
        );
        let changed = |id: &str| {
            (
                effect.by_principle[id].rounds,
                effect.by_principle[id].revisions_changed,
            )
        };
        assert_eq!((changed("a"), changed("b"), changed("c")), ((4, 1), (3, 1), (1, 1)));
    }

    /// Catches: votes compared across the turn of a label, a flip put down to a principle that voted as before, and a
    /// tie that is no flip.
    #[test]
    fn a_label_is_put_down_to_the_votes_that_changed() {
        let old = label("x", "y", 0.7, &[("a", CHOSEN_FIRST, 0.9), ("b", CHOSEN_FIRST, 0.4)]);
        let new = label("y", "x", 0.6, &[("a", REJECTED_FIRST, 0.3), ("b", REJECTED_FIRST, 0.4)]);
        let mut effect = Effect::default();
        effect.label(&old, &new);
        assert_eq!((effect.pairs, effect.labels_flipped), (1, 1));
        assert_eq!(effect.by_principle["a"].labels_flipped, 1);
        assert_eq!(effect.by_principle["b"].labels_flipped, 0);
        assert!((effect.by_principle["b"].moved - 0.3).abs() < 1e-6);
        let tie = Reject {
            id: "l".into(),
            stage: "judge".into(),
            reason: TIE.into(),
            raw: String::new(),
        };
        effect.label(&old, &Err(tie.clone()));
        effect.label(&Err(tie.clone()), &Err(tie));
        assert_eq!((effect.pairs, effect.labels_flipped, effect.rejects_changed), (2, 2, 0));
    }
}
