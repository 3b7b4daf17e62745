//! Which of all answers of a row is the best? One question about all of them, in as many rotations as there are
//! answers, so that each stands once in every place.
//!
//! The log-probability of an answer's letter is its log-strength, up to a constant (Luce 1959; Plackett-Luce's
//! first choice), averaged over rotations. Rankings in words give wins between every two, and a Bradley-Terry
//! model their strengths. The label of a pair is `sigmoid(s_i - s_j)`, so the labels of a row are transitive. A
//! pair has one vote for each ranking or rotation: (A) is the answer of the two that stood first.

use super::label::{Ballot, bradley_terry, preference};
use super::verdict;
use super::{
    Asked, Contest, Context, Group, JudgeConfig, Outcome, Reading, STAGE, Words, answers_of, comparable, places,
    served, together,
};
use crate::constitution::Constitution;
use crate::engine::{GenerateRequest, Refusal, ScoreRequest};
use crate::error::Result;
use crate::prompt::{MOST_OPTIONS, letter};
use crate::record::{Message, Preference, Verdict};
use crate::stage::reject;

/// The answers of a group, and the principles that they are compared under.
struct Round<'a> {
    group: Group<'a>,
    prompt: &'a [Message],
    answers: Vec<&'a str>,
    /// None where the list is too long to be asked about.
    asked: Vec<Asked<'a>>,
}

/// One principle asked about one rotation.
#[derive(Clone, Copy)]
struct Question<'a> {
    asked: Asked<'a>,
    rotation: usize,
}

impl<'a> Round<'a> {
    fn questions(&self) -> Vec<Question<'a>> {
        let rotations = |asked: &Asked<'a>| {
            let asked = *asked;
            (0..self.answers.len()).map(move |rotation| Question { asked, rotation })
        };
        self.asked.iter().flat_map(rotations).collect()
    }

    /// The answers from the first option to the last.
    fn options(&self, rotation: usize) -> Vec<&'a str> {
        let count = self.answers.len();
        (0..count)
            .map(|option| self.answers[(option + rotation) % count])
            .collect()
    }

    /// The option at which an answer stands.
    fn option(&self, answer: usize, rotation: usize) -> usize {
        let count = self.answers.len();
        (answer + count - rotation % count) % count
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
        let answers = answers_of(group);
        rounds.push(Round {
            group: *group,
            prompt: group.contests.first().map_or(&[], |contest| &contest.prompt),
            asked: match answers.len() {
                0..=MOST_OPTIONS => Asked::draw(context, constitution, group.id, config.principles_per_pair)?,
                _ => Vec::new(),
            },
            answers,
        });
    }
    let labels: Vec<Vec<Outcome<Preference>>> = match config.reading {
        Reading::Logprobs => by_logprobs(context, &rounds)?,
        Reading::Text => by_words(context, &rounds, config)?,
    };
    Ok(labels.into_iter().flatten().collect())
}

/// Why a round was not asked.
fn too_long(round: &Round<'_>) -> Option<String> {
    round.asked.is_empty().then(|| {
        format!(
            "a list has {MOST_OPTIONS} answers at most; the row has {}",
            round.answers.len()
        )
    })
}

fn all_rejected(round: &Round<'_>, reason: &str, raw: &str) -> Vec<Outcome<Preference>> {
    let refused = |contest: &Contest| Err(reject(&contest.id, STAGE, (reason.to_owned(), raw.to_owned())));
    round.group.contests.iter().map(refused).collect()
}

fn by_logprobs(context: Context<'_>, rounds: &[Round<'_>]) -> Result<Vec<Vec<Outcome<Preference>>>> {
    let mut requests = Vec::new();
    for round in rounds {
        for question in round.questions() {
            let options = round.options(question.rotation);
            requests.push(ScoreRequest {
                prompt: context
                    .templates
                    .list(round.prompt, question.asked.question(), &options)?,
                continuations: (0..options.len()).map(|option| letter(option).to_string()).collect(),
            });
        }
    }
    let mut scores = context.engine.score(&requests)?.into_iter();
    Ok(rounds
        .iter()
        .map(|round| {
            let questions = round.questions();
            let scores: Vec<_> = scores.by_ref().take(questions.len()).collect();
            let usable = |score: Result<Vec<f32>, Refusal>| {
                score
                    .map_err(|Refusal(reason)| reason)
                    .and_then(|logprobs| comparable(logprobs, round.answers.len()))
            };
            let scores: Result<Vec<Vec<f32>>, String> = scores.into_iter().map(usable).collect();
            match (too_long(round), scores) {
                (Some(reason), _) | (None, Err(reason)) => all_rejected(round, &reason, ""),
                (None, Ok(scores)) => scored(round, &questions, &scores),
            }
        })
        .collect())
}

/// The labels of a round from the log-probabilities of the letters.
fn scored(round: &Round<'_>, questions: &[Question<'_>], scores: &[Vec<f32>]) -> Vec<Outcome<Preference>> {
    let asked = || questions.iter().zip(scores);
    let shares: f64 = questions.iter().map(|question| f64::from(question.asked.share)).sum();
    let strength = |answer: usize| {
        let told = |(question, scores): (&Question<'_>, &Vec<f32>)| {
            f64::from(question.asked.share) * f64::from(scores[round.option(answer, question.rotation)])
        };
        asked().map(told).sum::<f64>() / shares
    };
    let strengths: Vec<f64> = (0..round.answers.len()).map(strength).collect();
    let label = |contest: &Contest| {
        let [first, second] = places(contest, &round.answers);
        let vote = |(question, scores): (&Question<'_>, &Vec<f32>)| {
            let Question { asked, rotation } = question;
            let [one, other] = [first, second].map(|answer| round.option(answer, *rotation));
            let (a, b) = (one.min(other), one.max(other));
            Ballot::scored(asked, one < other, [scores[a], scores[b]])
        };
        let log_odds = (strengths[first] - strengths[second]) as f32;
        preference(contest, log_odds, String::new, |_| asked().map(vote).collect())
    };
    round.group.contests.iter().map(label).collect()
}

/// A ranking in words, the better options first, equal ones together; and the question that it answers.
struct Ranked<'a> {
    question: Question<'a>,
    words: Words,
    /// The rank of each option; `None` where no ranking can be read.
    ranks: Option<Vec<usize>>,
}

fn by_words(context: Context<'_>, rounds: &[Round<'_>], config: &JudgeConfig) -> Result<Vec<Vec<Outcome<Preference>>>> {
    let mut requests = Vec::new();
    for round in rounds {
        for question in round.questions() {
            let options = round.options(question.rotation);
            let prompt = context
                .templates
                .list_verdict(round.prompt, question.asked.question(), &options)?;
            let seed = context
                .seed
                .child(round.group.id)
                .child("words")
                .child(&question.asked.principle.id);
            let seed = seed.index(question.rotation as u64);
            requests.extend((0..config.votes as u64).map(|index| GenerateRequest {
                prompt: prompt.clone(),
                sampling: config.sampling.clone(),
                stop: context.templates.stop_strings(),
                seed: seed.index(index),
            }));
        }
    }
    let mut generated = context.engine.generate(&requests)?.into_iter();
    Ok(rounds
        .iter()
        .map(|round| {
            let questions = round.questions();
            let generated = served(
                generated
                    .by_ref()
                    .take(questions.len() * config.votes)
                    .collect::<Vec<_>>(),
            );
            match (too_long(round), generated) {
                (Some(reason), _) | (None, Err(reason)) => all_rejected(round, &reason, ""),
                (None, Ok(generated)) => {
                    let words = generated.into_iter().map(|generation| Words::of(context, generation));
                    let of_words = questions
                        .iter()
                        .flat_map(|question| std::iter::repeat_n(*question, config.votes));
                    let ranked: Vec<Ranked<'_>> = of_words
                        .zip(words)
                        .map(|(question, words)| Ranked {
                            ranks: words.read(|text| verdict::ranking(text, round.answers.len())),
                            question,
                            words,
                        })
                        .collect();
                    ranking_labels(round, &ranked, config.votes)
                }
            }
        })
        .collect())
}

/// The labels of a round from rankings, `votes` of each question.
fn ranking_labels(round: &Round<'_>, ranked: &[Ranked<'_>], votes: usize) -> Vec<Outcome<Preference>> {
    let raw = together(ranked.iter().map(|ranked| ranked.words.text.as_str()));
    // Each rotation must tell something, or one place would be liked by what the others say of it.
    let silent = |votes: &[Ranked<'_>]| votes.iter().all(|ranked| ranked.ranks.is_none());
    if ranked.chunks(votes.max(1)).any(silent) {
        return all_rejected(round, "no ranking can be read in one of the orders", &raw);
    }
    let strengths = bradley_terry(&wins(round, ranked, votes));
    let label = |contest: &Contest| {
        let [first, second] = places(contest, &round.answers);
        let vote = |ranked: &Ranked<'_>| {
            let Question { asked, rotation } = ranked.question;
            let [one, other] = [first, second].map(|answer| round.option(answer, rotation));
            let (a, b) = (one.min(other), one.max(other));
            let verdict = ranked
                .ranks
                .as_ref()
                .map_or(Verdict::Unparsed, |ranks| match ranks[a].cmp(&ranks[b]) {
                    std::cmp::Ordering::Less => Verdict::A,
                    std::cmp::Ordering::Equal => Verdict::Tie,
                    std::cmp::Ordering::Greater => Verdict::B,
                });
            Ballot::said(&asked, one < other, verdict, ranked.words.kept())
        };
        let log_odds = (strengths[first] - strengths[second]) as f32;
        preference(contest, log_odds, || raw.clone(), |_| ranked.iter().map(vote).collect())
    };
    round.group.contests.iter().map(label).collect()
}

/// How often each answer stands before each other one. A rotation of which some rankings cannot be read counts
/// as much as the others.
fn wins(round: &Round<'_>, ranked: &[Ranked<'_>], votes: usize) -> Vec<Vec<f64>> {
    let count = round.answers.len();
    let mut wins = vec![vec![0.0; count]; count];
    for of_question in ranked.chunks(votes.max(1)) {
        let read: Vec<(&Ranked<'_>, &Vec<usize>)> = of_question
            .iter()
            .filter_map(|ranked| ranked.ranks.as_ref().map(|ranks| (ranked, ranks)))
            .collect();
        let scale = votes as f64 / read.len().max(1) as f64;
        for (ranked, ranks) in read {
            let Question { asked, rotation } = ranked.question;
            for (i, row) in wins.iter_mut().enumerate() {
                for (j, wins) in row.iter_mut().enumerate() {
                    let [one, other] = [i, j].map(|answer| ranks[round.option(answer, rotation)]);
                    *wins += scale
                        * f64::from(asked.share)
                        * match one.cmp(&other) {
                            std::cmp::Ordering::Less => 1.0,
                            std::cmp::Ordering::Equal => 0.5,
                            std::cmp::Ordering::Greater => 0.0,
                        };
                }
            }
        }
    }
    wins
}
