//! Which of two answers is better? Asked of each principle in both orders.
//!
//! The soft label is the normalised probability of the two options' tokens, averaged as log-odds. After a
//! reasoning each probability is clamped, as in the paper. Of an endpoint without log-probabilities several
//! verdicts are drawn, and their shares make the label ([`counted_log_odds`]).

use super::label::{Ballot, counted_log_odds, mean_log_odds, preference};
use super::verdict::{self, Pick};
use super::{
    Asked, Contest, Context, Group, JudgeConfig, Outcome, Reading, STAGE, Words, comparable, served, together,
};
use crate::constitution::{Constitution, Principle};
use crate::engine::{GenerateRequest, Refusal, ScoreRequest};
use crate::error::{Error, Result};
use crate::prompt::Comparison;
use crate::record::{Preference, Verdict};
use crate::stage::reject;

/// One principle asked about one contest in one order.
#[derive(Clone, Copy)]
struct Question<'a> {
    contest: &'a Contest,
    asked: Asked<'a>,
    first_at_a: bool,
}

impl<'a> Question<'a> {
    fn comparison(&self) -> Comparison<'a> {
        let (a, b) = match self.first_at_a {
            true => (&self.contest.first, &self.contest.second),
            false => (&self.contest.second, &self.contest.first),
        };
        Comparison {
            messages: &self.contest.prompt,
            question: self.asked.question(),
            answer_a: &a.text,
            answer_b: &b.text,
        }
    }

    fn scored(&self, logprobs: [f32; 2]) -> Ballot {
        Ballot::scored(&self.asked, self.first_at_a, logprobs)
    }

    fn said(&self, verdict: Verdict, cot: Option<String>) -> Ballot {
        Ballot::said(&self.asked, self.first_at_a, verdict, cot)
    }

    /// Requests to write something, `count` of them. Their seeds depend on what stands at (A), not on which
    /// answer the contest calls its first: exchanging the answers draws the same texts.
    fn draws(&self, context: Context<'_>, config: &JudgeConfig, count: usize) -> Result<Vec<GenerateRequest>> {
        let comparison = self.comparison();
        let (prompt, stop) = match config.reading {
            Reading::Logprobs => (
                context.templates.judge_reasoning(comparison)?,
                context.templates.reasoning_stop(),
            ),
            Reading::Text => (
                context.templates.judge_verdict(comparison)?,
                context.templates.stop_strings(),
            ),
        };
        let seed = context
            .seed
            .child(&self.contest.id)
            .child("words")
            .child(&self.asked.principle.id);
        let seed = seed.child(comparison.answer_a);
        Ok((0..count as u64)
            .map(|index| GenerateRequest {
                prompt: prompt.clone(),
                sampling: config.sampling.clone(),
                stop: stop.clone(),
                seed: seed.index(index),
            })
            .collect())
    }
}

/// The ballots of each contest, or why it has none.
type Ballots = Vec<Result<Vec<Ballot>, String>>;

/// The log-odds of a contest's first answer with the ballots that they add up from, or why there are none.
pub(in crate::stage) type Said = Result<(f32, Vec<Ballot>), String>;

pub(super) fn judge(
    context: Context<'_>,
    constitution: &Constitution,
    groups: &[Group<'_>],
    config: &JudgeConfig,
) -> Result<Vec<Outcome<Preference>>> {
    let contests: Vec<&Contest> = groups.iter().flat_map(|group| group.contests).collect();
    let mut asked = Vec::with_capacity(contests.len());
    for contest in &contests {
        let principles = Asked::draw(context, constitution, &contest.id, config.principles_per_pair)?;
        // The two orders of a question stand together: their prompts begin with the same text.
        let orders = |asked| [true, false].map(move |first_at_a| (asked, first_at_a));
        let questions = principles
            .into_iter()
            .flat_map(orders)
            .map(|(asked, first_at_a)| Question {
                contest,
                asked,
                first_at_a,
            });
        asked.push(questions.collect::<Vec<_>>());
    }
    let ballots = ballots(context, &asked, config)?;
    Ok(contests
        .into_iter()
        .zip(ballots)
        .map(|(contest, ballots)| label(contest, ballots, config.reading))
        .collect())
}

/// What one principle says of each contest. Nothing is drawn.
pub(in crate::stage) fn by_principle(
    context: Context<'_>,
    questions: &[(&Contest, &Principle)],
    config: &JudgeConfig,
) -> Result<Vec<Said>> {
    let asked: Vec<Vec<Question<'_>>> = questions
        .iter()
        .map(|(contest, principle)| {
            let asked = Asked { principle, share: 1.0 };
            let order = |first_at_a| Question {
                contest,
                asked,
                first_at_a,
            };
            [true, false].map(order).to_vec()
        })
        .collect();
    let said = |ballots: Result<Vec<Ballot>, String>| {
        let ballots = ballots?;
        let log_odds = log_odds(&ballots, config.reading)?;
        Ok((log_odds, ballots))
    };
    Ok(ballots(context, &asked, config)?.into_iter().map(said).collect())
}

/// Asks all questions of all contests.
fn ballots(context: Context<'_>, asked: &[Vec<Question<'_>>], config: &JudgeConfig) -> Result<Ballots> {
    match (config.reading, config.reasoning) {
        (Reading::Logprobs, false) => by_logprobs(context, asked),
        (Reading::Logprobs, true) => by_reasoning(context, asked, config),
        (Reading::Text, _) => by_words(context, asked, config),
    }
}

/// The log-odds of the first answer that the ballots add up to, or why there are none.
fn log_odds(ballots: &[Ballot], reading: Reading) -> Result<f32, String> {
    match reading {
        Reading::Logprobs => mean_log_odds(ballots).ok_or("no question has a whole reasoning in both orders"),
        Reading::Text => counted_log_odds(ballots).ok_or("no verdict can be read in one of the orders"),
    }
    .map_err(str::to_owned)
}

/// The preference that the ballots add up to.
fn label(contest: &Contest, ballots: Result<Vec<Ballot>, String>, reading: Reading) -> Outcome<Preference> {
    let ballots = ballots.map_err(|reason| reject(&contest.id, STAGE, (reason, String::new())))?;
    let raw = || together(ballots.iter().filter_map(|ballot| ballot.cot.as_deref()));
    let log_odds = log_odds(&ballots, reading).map_err(|reason| reject(&contest.id, STAGE, (reason, raw())))?;
    preference(contest, log_odds, raw, |_| ballots.clone())
}

/// The options scored as the answer.
fn by_logprobs(context: Context<'_>, asked: &[Vec<Question<'_>>]) -> Result<Ballots> {
    let mut requests = Vec::new();
    for question in asked.iter().flatten() {
        let comparison = question.comparison();
        let prompt = context.templates.judge(
            comparison.messages,
            comparison.question,
            comparison.answer_a,
            comparison.answer_b,
        )?;
        requests.push(options(prompt));
    }
    let mut scores = context.engine.score(&requests)?.into_iter();
    Ok(asked
        .iter()
        .map(|questions| {
            let scores: Vec<_> = scores.by_ref().take(questions.len()).collect();
            questions
                .iter()
                .zip(scores)
                .map(|(question, score)| ballot(question, score))
                .collect()
        })
        .collect())
}

/// A reasoning of each question, and the options scored after it. A reasoning that is empty or cut counts for
/// nothing.
fn by_reasoning(context: Context<'_>, asked: &[Vec<Question<'_>>], config: &JudgeConfig) -> Result<Ballots> {
    let reasonings = words(context, asked, config, 1)?;
    let mut requests = Vec::new();
    for (questions, reasonings) in asked.iter().zip(&reasonings) {
        for (question, reasoning) in questions.iter().zip(reasonings.iter().flatten().flatten()) {
            if usable(reasoning) {
                let prompt = context
                    .templates
                    .judge_reasoned(question.comparison(), &reasoning.text)?;
                requests.push(options(prompt));
            }
        }
    }
    let mut scores = context.engine.score(&requests)?.into_iter();
    let mut reasoned = |question: &Question<'_>, reasoning: &Words| {
        if !usable(reasoning) {
            return Ok(Ok(question.said(Verdict::Unparsed, reasoning.kept())));
        }
        let score = scores
            .next()
            .ok_or_else(|| Error::unexpected("a question without a score"))?;
        Ok(ballot(question, score).map(|ballot| Ballot {
            cot: reasoning.kept(),
            ..ballot.clamped(config.clamp)
        }))
    };
    let mut out = Vec::with_capacity(asked.len());
    for (questions, reasonings) in asked.iter().zip(reasonings) {
        out.push(match reasonings {
            Err(reason) => Err(reason),
            Ok(reasonings) => {
                // Every score is taken, whatever comes of those before it.
                let ballots: Result<Vec<Result<Ballot, String>>> = questions
                    .iter()
                    .zip(reasonings.iter().flatten())
                    .map(|(question, reasoning)| reasoned(question, reasoning))
                    .collect();
                ballots?.into_iter().collect()
            }
        });
    }
    Ok(out)
}

fn usable(reasoning: &Words) -> bool {
    reasoning.whole && !reasoning.text.is_empty()
}

/// Verdicts in words, several of each question.
fn by_words(context: Context<'_>, asked: &[Vec<Question<'_>>], config: &JudgeConfig) -> Result<Ballots> {
    let ties = context.templates.offers_ties();
    let verdict = |words: &Words| match words.read(|text| verdict::choice(text, ties)) {
        Some(Pick::A) => Verdict::A,
        Some(Pick::B) => Verdict::B,
        Some(Pick::Tie) => Verdict::Tie,
        None => Verdict::Unparsed,
    };
    let written = words(context, asked, config, config.votes)?;
    Ok(asked
        .iter()
        .zip(written)
        .map(|(questions, written)| {
            let votes = |(question, words): (&Question<'_>, Vec<Words>)| {
                let vote = |words: &Words| question.said(verdict(words), words.kept());
                words.iter().map(vote).collect::<Vec<_>>()
            };
            written.map(|written| questions.iter().zip(written).flat_map(votes).collect())
        })
        .collect())
}

/// What the judge writes about each contest's questions, `count` texts to a question.
fn words(
    context: Context<'_>,
    asked: &[Vec<Question<'_>>],
    config: &JudgeConfig,
    count: usize,
) -> Result<Vec<Result<Vec<Vec<Words>>, String>>> {
    let mut requests = Vec::new();
    for question in asked.iter().flatten() {
        requests.extend(question.draws(context, config, count)?);
    }
    let mut generated = context.engine.generate(&requests)?.into_iter();
    Ok(asked
        .iter()
        .map(|questions| {
            let generated = served(generated.by_ref().take(questions.len() * count).collect::<Vec<_>>())?;
            let words: Vec<Words> = generated
                .into_iter()
                .map(|generation| Words::of(context, generation))
                .collect();
            Ok(words.chunks(count.max(1)).map(<[Words]>::to_vec).collect())
        })
        .collect())
}

fn options(prompt: crate::prompt::Request) -> ScoreRequest {
    ScoreRequest {
        prompt,
        continuations: vec!["A".into(), "B".into()],
    }
}

fn ballot(question: &Question<'_>, score: Result<Vec<f32>, Refusal>) -> Result<Ballot, String> {
    let logprobs = comparable(score.map_err(|Refusal(reason)| reason)?, 2)?;
    Ok(question.scored([logprobs[0], logprobs[1]]))
}
