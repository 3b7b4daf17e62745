//! Trial: one round under each of several principles, and what came of every step.
//!
//! `revise` and `judge` do to many rows, under principles drawn by weight, what a trial does to a few rows under each
//! principle in turn; the texts and the seeds are theirs, so that a trial shows what a run writes. They reject what
//! cannot be used; a trial keeps it, for who edits a constitution wants to see the critique that was cut off. Each
//! function is one question to the engine, its requests in the order of its rows.

use std::cmp::Ordering;

use super::Context;
use super::judge::label::{Ballot, sigmoid};
use super::judge::{Contest, JudgeConfig, Reading, choice};
use super::respond::respond;
use super::revise::{Request, generate, seed_of_round};
use crate::constitution::Principle;
use crate::engine::{Generation, Refusal, Sampling};
use crate::error::Result;
use crate::prompt::Criticism;
use crate::record::{Completion, Prompt, content_id};

/// What a model wrote, or why it cannot be used.
pub type Written = Result<Generation, Fault>;

#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub reason: String,
    /// What was written all the same.
    pub raw: String,
}

/// An answer under a principle with a critique.
#[derive(Debug, Clone, Copy)]
pub struct Review<'a> {
    pub prompt: &'a Prompt,
    pub answer: &'a str,
    pub principle: &'a Principle,
}

/// A principle's question about two answers to a prompt.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub principle: &'a Principle,
    pub prompt: &'a Prompt,
    pub first: &'a Generation,
    pub second: &'a Generation,
}

/// What a judge says of two answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Log-odds of the second answer.
    pub log_odds: f32,
    /// Probability that the second answer is better, with the first at (A) and with itself there.
    pub orders: [f32; 2],
}

impl Verdict {
    pub fn p(&self) -> f32 {
        sigmoid(self.log_odds)
    }
}

/// The `sample`-th answer to every prompt.
pub fn answers(context: Context<'_>, prompts: &[Prompt], sampling: &Sampling, sample: u64) -> Result<Vec<Written>> {
    let answers = respond(context, prompts, sampling, sample)?;
    Ok(accepted(context, "the answer", answers))
}

pub fn critiques(context: Context<'_>, reviews: &[Review<'_>], sampling: &Sampling) -> Result<Vec<Written>> {
    let critiques = generate(context, reviews.len(), sampling, |index| {
        let review = reviews[index];
        let request = Request::of(review.principle)?;
        let seed = seed_of_round(context, &review.prompt.id, 0).child("critique");
        Ok((context.templates.critique(criticism(review, request))?, seed))
    })?;
    Ok(accepted(context, "the critique", critiques))
}

/// The answers rewritten after their critiques.
pub fn revisions(context: Context<'_>, reviews: &[(Review<'_>, &str)], sampling: &Sampling) -> Result<Vec<Written>> {
    let revisions = generate(context, reviews.len(), sampling, |index| {
        let (review, critique) = reviews[index];
        let request = Request::of(review.principle)?;
        let seed = seed_of_round(context, &review.prompt.id, 0).child("revision");
        let templates = context.templates;
        Ok((
            templates.revision(criticism(review, request), critique, request.revise)?,
            seed,
        ))
    })?;
    Ok(accepted(context, "the revision", revisions))
}

fn criticism<'a>(review: Review<'a>, request: Request<'a>) -> Criticism<'a> {
    Criticism {
        messages: &review.prompt.messages,
        answer: review.answer,
        critique_request: request.critique,
    }
}

fn accepted(context: Context<'_>, what: &str, written: Vec<Result<Generation, Refusal>>) -> Vec<Written> {
    let accept = |written| {
        let accepted = context.accept(what, written);
        accepted.map_err(|(reason, raw)| Fault { reason, raw })
    };
    written.into_iter().map(accept).collect()
}

/// What the principles say, or why they say nothing. Of each question the engine is asked about the first answer at (A),
/// then about the second there; with verdicts in words, `votes` times each.
pub fn verdicts(
    context: Context<'_>,
    questions: &[Question<'_>],
    config: &JudgeConfig,
) -> Result<Vec<Result<Verdict, String>>> {
    let contests: Vec<Contest> = questions.iter().map(contest).collect();
    let asked: Vec<(&Contest, &Principle)> = contests
        .iter()
        .zip(questions)
        .map(|(contest, question)| (contest, question.principle))
        .collect();
    let said = choice::by_principle(context, &asked, config)?;
    let verdict = |(log_odds, ballots): (f32, Vec<Ballot>)| Verdict {
        log_odds: -log_odds,
        orders: [true, false].map(|first_at_a| of_order(&ballots, first_at_a, config.reading)),
    };
    Ok(said.into_iter().map(|said| said.map(verdict)).collect())
}

fn contest(question: &Question<'_>) -> Contest {
    let answer = |generation: &Generation, sample| Completion {
        text: generation.text.clone(),
        tokens: generation.tokens,
        finish_reason: generation.finish_reason.as_str().into(),
        logprob: generation.logprob,
        sample,
    };
    Contest {
        id: content_id([question.prompt.id.as_str(), &question.first.text, &question.second.text]),
        prompt: question.prompt.messages.clone(),
        first: answer(question.first, 0),
        second: answer(question.second, 1),
    }
}

/// The probability that the second answer is better, by the ballots of one order; of verdicts in words from their
/// counts, as the label has it: `(n + 1/2) / (N + 1)`, ties half each.
fn of_order(ballots: &[Ballot], first_at_a: bool, reading: Reading) -> f32 {
    let of_order = ballots
        .iter()
        .filter(|ballot| ballot.first_at_a == first_at_a && ballot.counts());
    let log_odds: Vec<f32> = of_order.map(|ballot| -ballot.log_odds_first()).collect();
    let votes = log_odds.len() as f32;
    match reading {
        Reading::Logprobs => log_odds.into_iter().map(sigmoid).sum::<f32>() / votes,
        Reading::Text => {
            let won = |log_odds: f32| match log_odds.total_cmp(&0.0) {
                Ordering::Greater => 1.0,
                Ordering::Equal => 0.5,
                Ordering::Less => 0.0,
            };
            // A tie may be either zero.
            let won: f32 = log_odds.into_iter().map(|log_odds| won(log_odds + 0.0)).sum();
            (won + 0.5) / (votes + 1.0)
        }
    }
}

/// How many requests [`verdicts`] asks about one order of a question.
pub fn requests_of_order(config: &JudgeConfig) -> usize {
    match config.reading {
        Reading::Logprobs => 1,
        Reading::Text => config.votes,
    }
}
