//! Pairs of answers of known quality, on which judges and reward models are measured.

use rand::Rng as _;
use rand::seq::IndexedRandom;

use super::{AnswerKind, Kind, Label, Length, Pair, Split, World};
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, FinishReason, Message, content_id};
use crate::seed::Seed;

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
            let worse: Vec<AnswerKind> = AnswerKind::ALL
                .into_iter()
                .filter(|worse| worse.answers(kind) && worse.label().quality() < good.label().quality())
                .filter(|worse| kind == Kind::Benign || worse.label() != Label::Wrong)
                .collect();
            let worse = worse.choose(rng).copied().unwrap_or(AnswerKind::Evasive);
            let mut length = || *Length::ALL.choose(rng).unwrap_or(&Length::Medium);
            let (first, second) = (length(), length());
            [
                self.answer(pair, good, first, rng)?,
                self.answer(pair, worse, second, rng)?,
            ]
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
}
