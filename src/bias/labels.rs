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
        first_at_a: (!vote.of_ratings()).then_some(vote.order == CHOSEN_FIRST),
        winner: match vote.prefers_chosen() {
            Some(true) => Winner::First,
            Some(false) => Winner::Second,
            None if read => Winner::Tie,
            None => Winner::Unparsed,
        },
        p_first: read.then(|| f64::from(vote.p_chosen())),
        principle_id: vote.principle_id.clone(),
        alone: vote.of_ratings(),
    }
}

/// Pairs that a judge was asked about and that have no label: ties, and verdicts that could not be read. Rejects that
/// no judge was asked about (identical or truncated answers) are none.
pub fn unlabelled(rejects: &[Reject]) -> impl Iterator<Item = JudgedPair> + '_ {
    rejects.iter().filter_map(|reject| {
        let winner = without_winner(reject)?;
        let mut pair = JudgedPair::new(&reject.id, &reject.id, [0, 0]);
        pair.judgements = both_without_answer(winner);
        Some(pair)
    })
}

/// Two judgements that name no answer. In which order each was is not known.
pub fn both_without_answer(winner: Winner) -> Vec<Judgement> {
    let judgement = Judgement {
        first_at_a: None,
        winner,
        p_first: None,
        principle_id: String::new(),
        alone: false,
    };
    vec![judgement.clone(), judgement]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: ties and failures lost from the shares, or pairs counted that no judge was asked about.
    #[test]
    fn what_the_judge_could_not_decide_counts() {
        let reject = |stage: &str, reason: &str| Reject {
            id: reason.into(),
            stage: stage.into(),
            reason: reason.into(),
            raw: String::new(),
        };
        let rejects = [
            reject("judge", TIE),
            reject("judge", "the two answers are identical"),
            reject("judge", "an answer is truncated"),
            reject("judge", "the verdicts cannot be read"),
            reject("read", "line 3: `prompt` is missing"),
        ];
        let winners: Vec<Winner> = unlabelled(&rejects).map(|pair| pair.judgements[0].winner).collect();
        assert_eq!(winners, [Winner::Tie, Winner::Unparsed]);
    }
}
