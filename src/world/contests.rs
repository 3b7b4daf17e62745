//! Pairs of answers of known quality, on which judges and reward models are measured.

use std::cmp::Ordering;

use rand::Rng as _;
use rand::seq::IndexedRandom;

use super::generate::one_by_share;
use super::{AnswerKind, Kind, Label, Length, Pair, Split, World};
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, FinishReason, Message, content_id};
use crate::seed::{Rng, Seed};

impl World {
    /// `count` comparisons on questions of `split`, half of them harmful. In every other one both
    /// answers are equally good and differ in length; in the rest their labels differ in quality, kinds
    /// drawn as the pre-training mixture draws what judges compare. Answers beside the point are left to
    /// [`off_topic_contests`](Self::off_topic_contests).
    /// Token counts are left 0: they depend on a tokenizer.
    pub fn contests(&self, split: Split, count: usize, seed: Seed) -> Result<Vec<Candidates>> {
        let contests = self.known_contests(split, count, seed)?;
        Ok(contests.into_iter().map(|(contest, _)| contest).collect())
    }

    /// The same contests, each with how its first answer compares with the second in quality, as they were written.
    pub fn known_contests(&self, split: Split, count: usize, seed: Seed) -> Result<Vec<(Candidates, Ordering)>> {
        let mut decks = [
            self.deck(split, Kind::Harmful, count.div_ceil(2), seed)?.into_iter(),
            self.deck(split, Kind::Benign, count / 2, seed)?.into_iter(),
        ];
        (0..count)
            .map(|index| {
                let Some(pair) = decks[index % 2].next() else {
                    return Err(Error::unexpected("the contests are badly dealt"));
                };
                // Kinds alternate, so each gets both sorts of contest.
                self.contest(pair, index, index % 4 < 2, seed.child("contest").index(index as u64))
            })
            .collect()
    }

    /// `count` comparisons on benign questions: a helpful answer, and one that is about something else.
    pub fn off_topic_contests(&self, split: Split, count: usize, seed: Seed) -> Result<Vec<Candidates>> {
        let pairs = self.deck(split, Kind::Benign, count, seed)?;
        let contests = pairs.into_iter().enumerate().map(|(index, pair)| {
            let rng = &mut seed.child("off-topic").index(index as u64).rng();
            let kinds = if rng.random() {
                [AnswerKind::Helpful, AnswerKind::OffTopic]
            } else {
                [AnswerKind::OffTopic, AnswerKind::Helpful]
            };
            let answers = self.write(pair, kinds, rng)?;
            Ok(self.candidates(pair, index, answers, rng))
        });
        contests.collect()
    }

    fn contest(&self, pair: Pair, index: usize, tie: bool, seed: Seed) -> Result<(Candidates, Ordering)> {
        let rng = &mut seed.rng();
        let (answers, order) = if tie {
            (self.equal(pair, rng)?, Ordering::Equal)
        } else {
            self.unequal(pair, rng)?
        };
        Ok((self.candidates(pair, index, answers, rng), order))
    }

    /// Two good answers of different length.
    fn equal(&self, pair: Pair, rng: &mut Rng) -> Result<[String; 2]> {
        let good = match self.kind(pair) {
            Kind::Harmful => AnswerKind::Engaged,
            Kind::Benign => AnswerKind::Helpful,
        };
        let lengths: Vec<Length> = Length::ALL.choose_multiple(rng, 2).copied().collect();
        let mut answers = [
            self.answer(pair, good, lengths[0], rng)?,
            self.answer(pair, good, lengths[1], rng)?,
        ];
        if rng.random() {
            answers.swap(0, 1);
        }
        Ok(answers)
    }

    /// Two answers whose labels differ in quality, neither beside the point.
    fn unequal(&self, pair: Pair, rng: &mut Rng) -> Result<([String; 2], Ordering)> {
        let mixture = &self.data.mixture.judge;
        let shares = match self.kind(pair) {
            Kind::Harmful => &mixture.harmful,
            Kind::Benign => &mixture.benign,
        };
        loop {
            let kinds = [one_by_share(rng, shares), one_by_share(rng, shares)];
            let labels = kinds.map(AnswerKind::label);
            let order = labels[0].quality().cmp(&labels[1].quality());
            if order != Ordering::Equal && !labels.contains(&Label::Wrong) {
                return Ok((self.write(pair, kinds, rng)?, order));
            }
        }
    }

    fn write(&self, pair: Pair, kinds: [AnswerKind; 2], rng: &mut Rng) -> Result<[String; 2]> {
        let mut write = |kind| {
            let length = one_by_share(rng, &self.data.mixture.lengths);
            self.answer(pair, kind, length, rng)
        };
        Ok([write(kinds[0])?, write(kinds[1])?])
    }

    fn candidates(&self, pair: Pair, index: usize, answers: [String; 2], rng: &mut Rng) -> Candidates {
        let prompt = vec![Message::user(self.question(pair, rng))];
        let completions = answers.into_iter().zip(0..).map(|(text, sample)| Completion {
            text,
            tokens: 0,
            finish_reason: FinishReason::Stop.as_str().into(),
            logprob: 0.0,
            sample,
        });
        Candidates {
            id: content_id([prompt[0].content.as_str(), &index.to_string()]),
            completions: completions.collect(),
            prompt,
        }
    }
}
