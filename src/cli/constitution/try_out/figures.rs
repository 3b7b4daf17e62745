//! What verdicts come to: about one revision, by principle, and by question.

use super::asking::{Judgement, Trial, Tried};
use crate::stage::judge::label::sigmoid;

/// The verdicts about one pair together, those of the second answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Of the mean log-odds, each question by its share.
    pub p: f32,
    /// With the first answer at (A), and with the second there.
    pub orders: [f32; 2],
    /// Questions that prefer the second answer, of those that said something.
    pub prefer: usize,
    pub of: usize,
}

/// One principle over all prompts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ByPrinciple {
    pub principle: usize,
    /// Prompts with a revision.
    pub revised: usize,
    /// Prompts without one: the answer, the critique or the revision is missing or cut off.
    pub failed: usize,
    pub changed: usize,
    pub judged: usize,
    /// Those whose revision is judged the better one.
    pub better: usize,
    /// Mean probability that the revision is better.
    pub p: Option<f32>,
    /// Mean change in tokens of the revisions that changed something.
    pub tokens: Option<f32>,
}

/// One question that judges for others, or two answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ByQuestion {
    pub question: usize,
    pub asked: usize,
    pub failed: usize,
    /// How often it prefers the revision, or the second answer.
    pub prefers: usize,
    pub p: Option<f32>,
    /// How often its two orders name different answers.
    pub torn: usize,
}

/// Nothing where no question said anything.
pub fn judged(judgements: &[Judgement]) -> Option<Judged> {
    let said: Vec<_> = judgements
        .iter()
        .filter_map(|judgement| Some((judgement.share, judgement.said.as_ref().ok()?)))
        .collect();
    let shares: f32 = said.iter().map(|(share, _)| share).sum();
    if said.is_empty() || shares <= 0.0 {
        return None;
    }
    let mean = |of: &dyn Fn(usize) -> f32| (0..said.len()).map(|at| said[at].0 * of(at)).sum::<f32>() / shares;
    let order = |order: usize| mean(&|at| said[at].1.orders[order]);
    Some(Judged {
        // Of one question as it stands.
        p: sigmoid(match said.as_slice() {
            [(_, verdict)] => verdict.log_odds,
            _ => mean(&|at| said[at].1.log_odds),
        }),
        orders: match said.as_slice() {
            [(_, verdict)] => verdict.orders,
            _ => [order(0), order(1)],
        },
        prefer: said.iter().filter(|(_, verdict)| verdict.log_odds > 0.0).count(),
        of: said.len(),
    })
}

pub fn by_principle(trial: &Trial) -> Vec<ByPrinciple> {
    let critics = trial.plan.critics.iter().enumerate();
    critics
        .map(|(number, principle)| {
            let mut row = ByPrinciple {
                principle: *principle,
                ..ByPrinciple::default()
            };
            let (mut p, mut tokens) = (Vec::new(), Vec::new());
            for tried in &trial.prompts {
                let review = &tried.reviews[number];
                let Some((answer, revision)) = tried.pair(review) else {
                    row.failed += 1;
                    continue;
                };
                row.revised += 1;
                if tried.changed(review) == Some(true) {
                    row.changed += 1;
                    tokens.push(revision.tokens as f32 - answer.tokens as f32);
                }
                if let Some(judged) = judged(&review.judged) {
                    row.judged += 1;
                    row.better += usize::from(judged.p > 0.5);
                    p.push(judged.p);
                }
            }
            row.p = mean(&p);
            row.tokens = mean(&tokens);
            row
        })
        .collect()
}

pub fn by_question(trial: &Trial) -> Vec<ByQuestion> {
    let pool = trial.plan.pool.iter().map(|(index, _)| index);
    let questions = pool.chain(&trial.plan.comparing);
    questions
        .map(|question| {
            let mut row = ByQuestion {
                question: *question,
                ..ByQuestion::default()
            };
            let mut p = Vec::new();
            let judgements = trial.prompts.iter().flat_map(Tried::judgements);
            for judgement in judgements.filter(|judgement| judgement.question == *question) {
                row.asked += 1;
                match &judgement.said {
                    Ok(verdict) => {
                        let [first, second] = verdict.orders;
                        row.prefers += usize::from(verdict.log_odds > 0.0);
                        row.torn += usize::from((first > 0.5) != (second > 0.5));
                        p.push(verdict.p());
                    }
                    Err(_) => row.failed += 1,
                }
            }
            row.p = mean(&p);
            row
        })
        .collect()
}

impl Tried {
    fn judgements(&self) -> impl Iterator<Item = &Judgement> {
        let of_reviews = self.reviews.iter().flat_map(|review| &review.judged);
        of_reviews.chain(&self.compared)
    }
}

fn mean(values: &[f32]) -> Option<f32> {
    (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
}
