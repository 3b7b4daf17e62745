//! Labels as judged pairs: what an audit reads of a label set. The chosen answer is the first.

use crate::judged::{JudgedPair, Judgement, Winner};
use crate::record::{CHOSEN_FIRST, Preference, Reject, TIE, Verdict, Vote, messages_id};

/// A label and its votes.
pub fn pair(row: &Preference) -> JudgedPair {
    let mut pair = JudgedPair::new(
        &row.id,
        messages_id(&row.prompt),
        [row.chosen_chars, row.rejected_chars],
    );
    pair.judgements = row.votes.iter().map(judgement).collect();
    pair.label = Some(f64::from(row.margin));
    pair.weight = f64::from(row.weight);
    pair
}

fn judgement(vote: &Vote) -> Judgement {
    let read = vote.verdict != Verdict::Unparsed.as_str();
    Judgement {
        first_at_a: Some(vote.order == CHOSEN_FIRST),
        winner: match vote.prefers_chosen() {
            Some(true) => Winner::First,
            Some(false) => Winner::Second,
            None if read => Winner::Tie,
            None => Winner::Unparsed,
        },
        p_first: read.then(|| f64::from(vote.p_chosen())),
        principle_id: vote.principle_id.clone(),
    }
}

/// Pairs that a judge was asked about and that have no label: ties, and verdicts that could not be read. Rejects that
/// no judge was asked about (identical or truncated answers) are none.
pub fn unlabelled(rejects: &[Reject]) -> impl Iterator<Item = JudgedPair> + '_ {
    rejects.iter().filter_map(|reject| {
        let winner = without_winner(reject)?;
        let mut pair = JudgedPair::new(&reject.id, &reject.id, [0, 0]);
        pair.judgements = [true, false]
            .map(|first_at_a| Judgement {
                first_at_a: Some(first_at_a),
                winner,
                p_first: None,
                principle_id: String::new(),
            })
            .to_vec();
        Some(pair)
    })
}

/// What a reject of the judge says of its pair.
pub fn without_winner(reject: &Reject) -> Option<Winner> {
    if reject.stage != "judge" {
        return None;
    }
    match reject.reason.as_str() {
        TIE => Some(Winner::Tie),
        reason if reason.contains("identical") || reason.contains("truncated") || reason.contains("needs two") => None,
        _ => Some(Winner::Unparsed),
    }
}
