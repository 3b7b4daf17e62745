//! Pairs of answers of known quality, on which judges and reward models are measured.

use rand::Rng as _;
use rand::seq::IndexedRandom;

use super::generate::one_by_share;
use super::{AnswerKind, Kind, Length, Pair, Split, World};
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, FinishReason, Message, content_id};
use crate::seed::{Rng, Seed};

impl World {
    /// `count` comparisons on questions of `split`, half of them harmful. In every other one both
    /// answers are equally good and differ in length; in the rest one is good and the other is not.
    /// Token counts are left 0: they depend on a tokenizer.
    pub fn contests(&self, split: Split, count: usize, seed: Seed) -> Result<Vec<Candidates>> {
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

    fn contest(&self, pair: Pair, index: usize, tie: bool, seed: Seed) -> Result<Candidates> {
        let rng = &mut seed.rng();
        let prompt = vec![Message::user(self.question(pair, rng))];
        let kind = self.kind(pair);
        let good = match kind {
            Kind::Harmful => AnswerKind::Engaged,
            Kind::Benign => AnswerKind::Helpful,
        };
        let mut answers = if tie {
            let lengths: Vec<Length> = Length::ALL.choose_multiple(rng, 2).copied().collect();
            [
                self.answer(pair, good, lengths[0], rng)?,
                self.answer(pair, good, lengths[1], rng)?,
            ]
        } else {
            self.unequal(pair, kind, rng)?
        };
        if rng.random() {
            answers.swap(0, 1);
        }
        let completions = answers
            .into_iter()
            .enumerate()
            .map(|(sample, text)| Completion {
                text,
                tokens: 0,
                finish_reason: FinishReason::Stop.as_str().into(),
                logprob: 0.0,
                sample: sample as u32,
            })
            .collect();
        Ok(Candidates {
            id: content_id([prompt[0].content.as_str(), &index.to_string()]),
            prompt,
            completions,
        })
    }

    /// Two answers of different quality, drawn as the pre-training mixture draws what judges compare.
    fn unequal(&self, pair: Pair, kind: Kind, rng: &mut Rng) -> Result<[String; 2]> {
        let mixture = &self.data.mixture;
        let shares = match kind {
            Kind::Harmful => &mixture.judge.harmful,
            Kind::Benign => &mixture.judge.benign,
        };
        loop {
            let kinds = [one_by_share(rng, shares), one_by_share(rng, shares)];
            if kinds[0].label().quality() == kinds[1].label().quality() {
                continue;
            }
            let mut write = |kind| {
                let length = one_by_share(rng, &mixture.lengths);
                self.answer(pair, kind, length, rng)
            };
            return Ok([write(kinds[0])?, write(kinds[1])?]);
        }
    }
}
