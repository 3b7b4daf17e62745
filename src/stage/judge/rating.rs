//! How good is one answer, from 1 to 5? Each answer of a row is rated alone, so that no other stands beside it.
//!
//! A pair follows from the two distributions, taken as independent: `P(first is better) = P(r1 > r2) + 1/2 P(r1 =
//! r2)`, which is symmetric by construction. The distribution is that of the digits' log-probabilities, or of
//! several ratings in words, each rating with half a count more (Jeffreys' prior). Every pair has one vote a
//! principle, in the order `chosen_first`, whose `cot` begins with the two expected ratings.

use super::label::{Ballot, preference};
use super::verdict;
use super::{
    Asked, Contest, Context, Group, JudgeConfig, Outcome, Reading, STAGE, Words, answers_of, comparable, places,
    served, together,
};
use crate::constitution::Constitution;
use crate::engine::{GenerateRequest, Refusal, ScoreRequest};
use crate::error::Result;
use crate::record::{EXPECTED_RATINGS, Message, Preference, Verdict};
use crate::stage::reject;

/// Ratings go from 1 to this one.
pub const BEST: usize = 5;

/// Probabilities of the ratings 1 to 5.
pub type Distribution = [f64; BEST];

/// One answer rated under one principle.
#[derive(Debug, Clone)]
struct Rated {
    /// `None` where no rating can be read.
    distribution: Option<Distribution>,
    words: Vec<Words>,
}

/// The answers of a group and the principles that they are rated under.
struct Round<'a> {
    group: Group<'a>,
    prompt: &'a [Message],
    answers: Vec<&'a str>,
    asked: Vec<Asked<'a>>,
}

impl<'a> Round<'a> {
    /// The questions: each principle about each answer.
    fn questions(&self) -> impl Iterator<Item = (&Asked<'a>, &'a str)> + '_ {
        self.asked
            .iter()
            .flat_map(|asked| self.answers.iter().map(move |answer| (asked, *answer)))
    }

    fn len(&self) -> usize {
        self.asked.len() * self.answers.len()
    }
}

pub(super) fn judge(
    context: Context<'_>,
    constitution: &Constitution,
    groups: &[Group<'_>],
    config: &JudgeConfig,
) -> Result<Vec<Outcome<Preference>>> {
    let mut rounds = Vec::with_capacity(groups.len());
    for group in groups {
        rounds.push(Round {
            group: *group,
            prompt: group.contests.first().map_or(&[], |contest| &contest.prompt),
            answers: answers_of(group),
            asked: Asked::draw(context, constitution, group.id, config.principles_per_pair)?,
        });
    }
    let rated = match config.reading {
        Reading::Logprobs => by_logprobs(context, &rounds)?,
        Reading::Text => by_words(context, &rounds, config)?,
    };
    let label = |(round, rated): (&Round<'_>, Result<Vec<Rated>, String>)| {
        let label = |contest| match &rated {
            Ok(rated) => label(round, rated, contest),
            Err(reason) => Err(reject(&contest.id, STAGE, (reason.clone(), String::new()))),
        };
        round.group.contests.iter().map(label).collect::<Vec<_>>()
    };
    Ok(rounds.iter().zip(rated).flat_map(label).collect())
}

/// The ratings of each round, or why it has none.
type Ratings = Vec<Result<Vec<Rated>, String>>;

fn by_logprobs(context: Context<'_>, rounds: &[Round<'_>]) -> Result<Ratings> {
    let mut requests = Vec::new();
    for round in rounds {
        for (asked, answer) in round.questions() {
            requests.push(ScoreRequest {
                prompt: context.templates.rate(round.prompt, asked.question(), answer)?,
                continuations: (1..=BEST).map(|rating| rating.to_string()).collect(),
            });
        }
    }
    let mut scores = context.engine.score(&requests)?.into_iter();
    let rated = |score: Result<Vec<f32>, Refusal>| {
        let logprobs = comparable(score.map_err(|Refusal(reason)| reason)?, BEST)?;
        Ok(Rated {
            distribution: Some(normalised(&logprobs)),
            words: Vec::new(),
        })
    };
    Ok(rounds
        .iter()
        .map(|round| {
            let scores: Vec<_> = scores.by_ref().take(round.len()).collect();
            scores.into_iter().map(rated).collect()
        })
        .collect())
}

fn by_words(context: Context<'_>, rounds: &[Round<'_>], config: &JudgeConfig) -> Result<Ratings> {
    let mut requests = Vec::new();
    for round in rounds {
        for (asked, answer) in round.questions() {
            let seed = context
                .seed
                .child(round.group.id)
                .child("words")
                .child(&asked.principle.id);
            let prompt = context.templates.rate_verdict(round.prompt, asked.question(), answer)?;
            requests.extend((0..config.votes as u64).map(|index| GenerateRequest {
                prompt: prompt.clone(),
                sampling: config.sampling.clone(),
                stop: context.templates.stop_strings(),
                seed: seed.child(answer).index(index),
            }));
        }
    }
    let mut generated = context.engine.generate(&requests)?.into_iter();
    Ok(rounds
        .iter()
        .map(|round| {
            let generated = served(generated.by_ref().take(round.len() * config.votes).collect::<Vec<_>>())?;
            let words: Vec<Words> = generated
                .into_iter()
                .map(|generation| Words::of(context, generation))
                .collect();
            Ok(words.chunks(config.votes.max(1)).map(counted).collect())
        })
        .collect())
}

/// The distribution that several ratings in words tell.
fn counted(words: &[Words]) -> Rated {
    let mut counts = [0.0; BEST];
    for words in words {
        if let Some(rating) = words.read(|text| verdict::rating(text, BEST)) {
            counts[rating - 1] += 1.0;
        }
    }
    let read: f64 = counts.iter().sum();
    let share = |count: f64| (count + 0.5) / (read + 0.5 * BEST as f64);
    Rated {
        distribution: (read > 0.0).then(|| counts.map(share)),
        words: words.to_vec(),
    }
}

fn normalised(logprobs: &[f32]) -> Distribution {
    let most = logprobs.iter().copied().fold(f32::MIN, f32::max);
    let mut shares = [0.0; BEST];
    for (share, logprob) in shares.iter_mut().zip(logprobs) {
        *share = f64::from(logprob - most).exp();
    }
    let sum: f64 = shares.iter().sum();
    shares.map(|share| share / sum)
}

/// Log-odds that a rating drawn from `first` is above one drawn from `second`, equal ones half each. Exchanging
/// the two changes the sign and no bit else.
pub fn log_odds(first: &Distribution, second: &Distribution) -> f32 {
    let above = |high: &Distribution, low: &Distribution| {
        let pairs = (0..BEST).flat_map(|high| (0..high).map(move |low| (high, low)));
        pairs.map(|(i, j)| high[i] * low[j]).sum::<f64>()
    };
    let equal: f64 = first.iter().zip(second).map(|(a, b)| a * b).sum();
    let side = |above: f64| (above + 0.5 * equal).max(f64::MIN_POSITIVE).ln();
    (side(above(first, second)) - side(above(second, first))) as f32
}

fn expected(distribution: &Distribution) -> f64 {
    (1..)
        .zip(distribution)
        .map(|(rating, share)| f64::from(rating) * share)
        .sum()
}

/// The preference between two rated answers, the mean of the log-odds over the principles.
fn label(round: &Round<'_>, rated: &[Rated], contest: &Contest) -> Outcome<Preference> {
    let places = places(contest, &round.answers);
    let under = |principle: usize| places.map(|place| &rated[principle * round.answers.len() + place]);
    let (mut sum, mut shares) = (0.0, 0.0);
    for (index, asked) in round.asked.iter().enumerate() {
        if let [Some(first), Some(second)] = under(index).map(|rated| rated.distribution) {
            sum += asked.share * log_odds(&first, &second);
            shares += asked.share;
        }
    }
    let written = || (0..round.asked.len()).flat_map(|index| under(index).map(|rated| &rated.words));
    let raw = || together(written().flatten().map(|words| words.text.as_str()));
    if shares == 0.0 {
        return Err(reject(
            &contest.id,
            STAGE,
            ("no rating can be read of one of the answers".into(), raw()),
        ));
    }
    preference(contest, sum / shares, raw, |first_wins| {
        let vote = |(index, asked): (usize, &Asked<'_>)| {
            let [first, second] = under(index);
            match first_wins {
                true => ballot(asked, [first, second], true),
                false => ballot(asked, [second, first], false),
            }
        };
        round.asked.iter().enumerate().map(vote).collect()
    })
}

/// The vote on the answer at (A), which is the chosen one, and that at (B).
fn ballot(asked: &Asked<'_>, [a, b]: [&Rated; 2], first_at_a: bool) -> Ballot {
    let texts = together(
        [a, b]
            .into_iter()
            .flat_map(|rated| &rated.words)
            .map(|words| words.text.as_str()),
    );
    let (Some(a_ratings), Some(b_ratings)) = (a.distribution, b.distribution) else {
        return Ballot::said(asked, first_at_a, Verdict::Unparsed, Some(texts));
    };
    let log_odds = log_odds(&a_ratings, &b_ratings);
    // The log-probabilities of what the two distributions say, so that they give the same log-odds.
    let logprobs = match a.words.is_empty() {
        true => [-softplus(-log_odds), -softplus(log_odds)],
        false => [0.0, 0.0],
    };
    let mut ballot = Ballot::scored(asked, first_at_a, [log_odds, 0.0]);
    [ballot.logprob_a, ballot.logprob_b] = logprobs;
    let expected = format!(
        "{EXPECTED_RATINGS} (A) {:.3}, (B) {:.3}.",
        expected(&a_ratings),
        expected(&b_ratings)
    );
    ballot.cot = Some(together([expected.as_str(), &texts]));
    ballot
}

/// `ln(1 + exp(x))`.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: ties given to one side, the expected rating taken for the probability, sums that depend on the
    /// order of the answers.
    #[test]
    fn the_better_rated_answer_is_the_more_likely_one() {
        let sure = |rating: usize| {
            let mut distribution = [0.0; BEST];
            distribution[rating - 1] = 1.0;
            distribution
        };
        assert_eq!(log_odds(&sure(3), &sure(3)), 0.0);
        assert!(log_odds(&sure(4), &sure(3)).is_finite() && log_odds(&sure(4), &sure(3)) > 100.0);
        let (a, b) = ([0.1, 0.2, 0.3, 0.3, 0.1], [0.0, 0.5, 0.0, 0.5, 0.0]);
        // P(a > b) = 0.3·0.5 + 0.3·0.5 + 0.1·(0.5 + 0.5) = 0.4; P(a = b) = 0.2·0.5 + 0.3·0.5 = 0.25.
        let expected = ((0.4f64 + 0.125) / (1.0 - 0.525)).ln() as f32;
        assert!((log_odds(&a, &b) - expected).abs() < 1e-6);
        assert_eq!(log_odds(&a, &b).to_bits(), (-log_odds(&b, &a)).to_bits());
    }

    /// Catches: log-probabilities that overflow instead of being normalised.
    #[test]
    fn distributions_are_normalised() {
        let distribution = normalised(&[-1000.0, -1001.0, -2000.0, -1000.0, -3000.0]);
        assert!((distribution.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((distribution[0] / distribution[1] - 1f64.exp()).abs() < 1e-9);
    }
}
