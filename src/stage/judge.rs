//! Judge (RL-CAI, Bai et al. 2022, section 4): which of two answers is better under a principle?
//!
//! The question is multiple choice. The soft label is the normalised probability of the two options'
//! tokens, asked in both orders and averaged as log-odds, so that a liking for a position cancels.

use super::{Context, Outcome, reject};
use crate::constitution::Constitution;
use crate::engine::ScoreRequest;
use crate::error::Result;
use crate::record::{Candidates, Completion, FinishReason, Message, Preference, Reject, Vote, content_id};

const STAGE: &str = "judge";

#[derive(Debug, Clone)]
pub struct JudgeConfig {
    /// Principles asked about each pair; their log-odds are averaged.
    pub principles_per_pair: usize,
}

/// Two answers to compare: `first` stands at (A) in the first order.
#[derive(Debug, Clone)]
pub struct Contest {
    pub id: String,
    pub prompt: Vec<Message>,
    pub first: Completion,
    pub second: Completion,
}

/// Every pair of different, whole answers to a prompt. Identical ones are rejected, for nothing can be
/// learnt from them, and truncated ones unless `keep_truncated`.
pub fn contests(row: &Candidates, keep_truncated: bool) -> Vec<Outcome<Contest>> {
    let mut out = Vec::new();
    for (index, first) in row.completions.iter().enumerate() {
        for second in &row.completions[index + 1..] {
            let id = content_id([row.id.as_str(), &first.sample.to_string(), &second.sample.to_string()]);
            let truncated = |answer: &&Completion| answer.finish_reason == FinishReason::Length.as_str();
            let cut = [first, second].into_iter().find(truncated).filter(|_| !keep_truncated);
            out.push(if let Some(cut) = cut {
                Err(reject(&id, STAGE, ("an answer is truncated".into(), cut.text.clone())))
            } else if first.text.trim() == second.text.trim() {
                Err(reject(
                    &id,
                    STAGE,
                    ("the two answers are identical".into(), first.text.clone()),
                ))
            } else {
                Ok(Contest {
                    id,
                    prompt: row.prompt.clone(),
                    first: first.clone(),
                    second: second.clone(),
                })
            });
        }
    }
    if out.is_empty() {
        let reason = format!("a comparison needs two answers; the row has {}", row.completions.len());
        out.push(Err(reject(&row.id, STAGE, (reason, String::new()))));
    }
    out
}

/// What one order of one question gave.
struct Ballot {
    principle_id: String,
    first_at_a: bool,
    logprob_a: f32,
    logprob_b: f32,
}

impl Ballot {
    /// Log-odds of option (A).
    fn log_odds_a(&self) -> f32 {
        self.logprob_a - self.logprob_b
    }

    /// Log-odds of the contest's first answer.
    fn log_odds_first(&self) -> f32 {
        if self.first_at_a {
            self.log_odds_a()
        } else {
            -self.log_odds_a()
        }
    }
}

pub fn judge(
    context: Context<'_>,
    constitution: &Constitution,
    contests: &[Contest],
    config: &JudgeConfig,
) -> Result<Vec<Outcome<Preference>>> {
    let mut requests = Vec::new();
    let mut asked = Vec::new();
    for contest in contests {
        let mut rng = context.seed.child(&contest.id).child("principle").rng();
        for _ in 0..config.principles_per_pair {
            let principle = constitution.draw_judge(&mut rng)?;
            let question = principle.judge.as_deref().unwrap_or_default();
            for first_at_a in [true, false] {
                let (a, b) = match first_at_a {
                    true => (&contest.first.text, &contest.second.text),
                    false => (&contest.second.text, &contest.first.text),
                };
                requests.push(ScoreRequest {
                    prompt: context.templates.judge(&contest.prompt, question, a, b)?,
                    continuations: vec!["A".into(), "B".into()],
                });
                asked.push((principle.id.clone(), first_at_a));
            }
        }
    }
    let scores = context.engine.score(&requests)?;
    let mut scores = scores.into_iter().zip(asked);
    Ok(contests
        .iter()
        .map(|contest| {
            let answers: Vec<_> = scores.by_ref().take(2 * config.principles_per_pair).collect();
            let ballots = answers
                .into_iter()
                .map(|(score, (principle_id, first_at_a))| ballot(score, principle_id, first_at_a))
                .collect::<Result<Vec<_>, String>>()
                .map_err(|reason| reject(&contest.id, STAGE, (reason, String::new())))?;
            verdict(contest, &ballots)
        })
        .collect())
}

fn ballot(
    score: Result<Vec<f32>, crate::engine::Refusal>,
    principle_id: String,
    first_at_a: bool,
) -> Result<Ballot, String> {
    match score.map_err(|refusal| refusal.0)?.as_slice() {
        [a, b] if a.is_finite() && b.is_finite() => Ok(Ballot {
            principle_id,
            first_at_a,
            logprob_a: *a,
            logprob_b: *b,
        }),
        other => Err(format!("the judge's log-probabilities are unusable: {other:?}")),
    }
}

/// The preference that the ballots add up to; an exact tie is a reject.
fn verdict(contest: &Contest, ballots: &[Ballot]) -> Result<Preference, Reject> {
    // The two orders of a question first: then the sum is the same to the bit, but for its sign, when the
    // answers change places.
    let of_question = |orders: &[Ballot]| orders.iter().map(Ballot::log_odds_first).sum::<f32>();
    let log_odds = ballots.chunks(2).map(of_question).sum::<f32>() / ballots.len().max(1) as f32;
    if log_odds == 0.0 || ballots.is_empty() {
        return Err(reject(
            &contest.id,
            STAGE,
            ("the judge's verdict is a tie".into(), String::new()),
        ));
    }
    let first_wins = log_odds > 0.0;
    let (chosen, rejected) = match first_wins {
        true => (&contest.first, &contest.second),
        false => (&contest.second, &contest.first),
    };
    let margin = log_odds.abs();
    let votes = ballots
        .iter()
        .map(|ballot| Vote {
            principle_id: ballot.principle_id.clone(),
            order: if ballot.first_at_a == first_wins {
                "chosen_first"
            } else {
                "rejected_first"
            }
            .into(),
            logprob_a: ballot.logprob_a,
            logprob_b: ballot.logprob_b,
            p_a: sigmoid(ballot.log_odds_a()),
            cot: None,
        })
        .collect();
    Ok(Preference {
        id: contest.id.clone(),
        prompt: contest.prompt.clone(),
        chosen: vec![Message::assistant(chosen.text.clone())],
        rejected: vec![Message::assistant(rejected.text.clone())],
        p_chosen: sigmoid(margin),
        margin,
        weight: 1.0,
        source: "judge".into(),
        votes,
        chosen_tokens: chosen.tokens,
        rejected_tokens: rejected.tokens,
        chosen_chars: chosen.text.chars().count() as u32,
        rejected_chars: rejected.text.chars().count() as u32,
        p_raw: sigmoid(margin),
    })
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
