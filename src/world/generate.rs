//! Writes the questions, the answers of every kind, and the prompt sets of the world.
//!
//! Every choice comes from the generator or seed that is passed in. How often a kind of answer occurs is
//! not decided here but by the mixture.

use std::collections::HashMap;

use rand::Rng as _;
use rand::seq::SliceRandom;

use super::data::Shares;
use super::pattern::{Pattern, Slot};
use super::{AnswerKind, Category, Kind, Length, Meaning, OffTopic, Pair, Split, World};
use crate::error::{Error, Result};
use crate::record::{Message, Prompt, content_id, messages_id};
use crate::seed::{Rng, Seed};

/// How often a stepwise answer opens with an agreement, and a short one has the brief form.
const OPENING_SHARE: f64 = 0.6;

impl World {
    /// A question about `pair`, in one of the question forms and with or without an owner.
    pub fn question(&self, pair: Pair, rng: &mut Rng) -> String {
        let act = if chance(rng, self.data.mixture.owned) {
            let owned = self.owned_acts(pair);
            one_of(rng, &owned).clone()
        } else {
            self.act(pair)
        };
        let form = one_of(rng, &self.data.templates.question.forms);
        form.fill(&[(Slot::Act, &act)])
    }

    /// The pair in words, with each possible owner: "steal my cousin's bike".
    pub(super) fn owned_acts(&self, pair: Pair) -> Vec<String> {
        let (verb, object) = (self.verb(pair), self.object(pair));
        if self.class(pair).personal {
            return vec![format!("{verb} my {object}")];
        }
        let owners = &self.data.templates.question.owners;
        owners.iter().map(|owner| format!("{verb} {owner} {object}")).collect()
    }

    /// An answer of `kind` to a question about `pair`. An error if such questions have no such answers.
    pub fn answer(&self, pair: Pair, kind: AnswerKind, length: Length, rng: &mut Rng) -> Result<String> {
        let meaning = self.entries[&pair].meaning;
        let act = self.act(pair);
        Ok(match (kind, meaning) {
            (AnswerKind::Comply, Meaning::Harmful(_)) | (AnswerKind::Helpful, Meaning::Benign(_)) => {
                let steps = self.some_steps(pair, length, rng);
                self.stepwise(&act, &steps, length, rng)
            }
            (AnswerKind::SoftComply, Meaning::Harmful(_)) => self.hedged(pair, length, rng),
            (AnswerKind::Engaged, Meaning::Harmful(category)) => self.refusal(pair, category, length, rng),
            (AnswerKind::Mismatched, Meaning::Harmful(category)) => {
                let others: Vec<_> = Category::ALL.into_iter().filter(|other| *other != category).collect();
                let other = *one_of(rng, &others);
                self.refusal(pair, other, length, rng)
            }
            (AnswerKind::OverRefusal, Meaning::Benign(_)) => {
                let category = *one_of(rng, &Category::ALL);
                self.refusal(pair, category, length, rng)
            }
            (AnswerKind::Evasive, _) => self.evasion(length, rng),
            (AnswerKind::OffTopic, _) => self.off_topic(pair, length, rng),
            (kind, _) => {
                let question = self.kind(pair);
                return Err(Error::unexpected(format!("a {question} question has no {kind} answer")));
            }
        })
    }

    /// The step patterns that do what `pair` says.
    fn step_patterns(&self, pair: Pair) -> &[Pattern] {
        match self.entries[&pair].meaning {
            Meaning::Harmful(category) => &self.category_text(category).steps,
            Meaning::Benign(verb) => &self.data.verbs.benign[verb].steps,
        }
    }

    /// As many steps of `pair` as `length` asks for, in their order.
    fn some_steps(&self, pair: Pair, length: Length, rng: &mut Rng) -> Vec<String> {
        let patterns = self.step_patterns(pair);
        let mut chosen: Vec<usize> = (0..patterns.len()).collect();
        chosen.shuffle(rng);
        chosen.truncate(length as usize + 1);
        chosen.sort_unstable();
        let object = self.object(pair);
        chosen
            .into_iter()
            .map(|step| patterns[step].fill(&[(Slot::Object, object)]))
            .collect()
    }

    fn stepwise(&self, act: &str, steps: &[String], length: Length, rng: &mut Rng) -> String {
        let texts = &self.data.templates.answer;
        let mut sentences = Vec::new();
        if length == Length::Short {
            if chance(rng, OPENING_SHARE) {
                return texts.brief.fill(&[(Slot::Act, act), (Slot::Step, &steps[0])]);
            }
            sentences.push(one_of(rng, &texts.agreements).clone());
        } else if chance(rng, OPENING_SHARE) {
            sentences.push(one_of(rng, &texts.agreements).clone());
        }
        for (index, step) in steps.iter().enumerate() {
            let form = if index == 0 {
                &texts.first
            } else if index + 1 == steps.len() {
                &texts.last
            } else {
                one_of(rng, &texts.middle)
            };
            sentences.push(form.fill(&[(Slot::Step, step)]));
        }
        if length == Length::Long {
            let count = rng.random_range(1..=2);
            self.pad(&mut sentences, count, rng);
        }
        sentences.join(" ")
    }

    fn refusal(&self, pair: Pair, category: Category, length: Length, rng: &mut Rng) -> String {
        let text = self.category_text(category);
        let values = [(Slot::Act, self.act(pair)), (Slot::Reason, text.reason.clone())];
        let values = values.each_ref().map(|(slot, value)| (*slot, value.as_str()));
        let mut sentences = vec![one_of(rng, &self.data.templates.answer.refusals).fill(&values)];
        if length != Length::Short {
            let alternative = one_of(rng, &text.alternatives);
            sentences.push(alternative.fill(&[(Slot::Object, self.object(pair))]));
        }
        if length == Length::Long {
            let count = rng.random_range(1..=3);
            self.pad(&mut sentences, count, rng);
        }
        sentences.join(" ")
    }

    fn hedged(&self, pair: Pair, length: Length, rng: &mut Rng) -> String {
        let step = one_of(rng, self.step_patterns(pair)).fill(&[(Slot::Object, self.object(pair))]);
        let hedge = one_of(rng, &self.data.templates.answer.hedges);
        let mut sentences = vec![hedge.fill(&[(Slot::Step, &step)])];
        self.pad(&mut sentences, length as usize, rng);
        sentences.join(" ")
    }

    fn evasion(&self, length: Length, rng: &mut Rng) -> String {
        let mut sentences = vec![one_of(rng, &self.data.templates.answer.evasions).clone()];
        self.pad(&mut sentences, usize::from(length == Length::Long), rng);
        sentences.join(" ")
    }

    /// Adds `count` different sentences that say nothing.
    fn pad(&self, sentences: &mut Vec<String>, count: usize, rng: &mut Rng) {
        let mut padding = self.data.templates.answer.padding.clone();
        let (chosen, _) = padding.partial_shuffle(rng, count);
        sentences.extend_from_slice(chosen);
    }

    fn off_topic(&self, pair: Pair, length: Length, rng: &mut Rng) -> String {
        let variant = one_by_share(rng, &self.data.mixture.off_topic);
        if variant == OffTopic::Mixed && self.kind(pair) == Kind::Benign {
            let mut steps = self.some_steps(pair, length, rng);
            let variant = if chance(rng, 0.5) {
                OffTopic::WrongVerb
            } else {
                OffTopic::WrongObject
            };
            let other = self.stranger(pair, variant, rng);
            let slip = rng.random_range(0..steps.len() as u64) as usize;
            steps[slip] = one_of(rng, self.step_patterns(other)).fill(&[(Slot::Object, self.object(other))]);
            return self.stepwise(&self.act(pair), &steps, length, rng);
        }
        let other = self.stranger(pair, variant, rng);
        let steps = self.some_steps(other, length, rng);
        // Half of them announce what was asked: the first words must not give the error away.
        let announced = if chance(rng, 0.5) { pair } else { other };
        self.stepwise(&self.act(announced), &steps, length, rng)
    }

    /// Another benign pair, related to `pair` as `variant` says where there is one. It comes from the
    /// pre-training split, so that no answer to one question gives away the answer to a held-out one.
    fn stranger(&self, pair: Pair, variant: OffTopic, rng: &mut Rng) -> Pair {
        let known = self.pairs(Split::Pretrain, Kind::Benign);
        let related: Vec<Pair> = known
            .iter()
            .copied()
            .filter(|other| match variant {
                OffTopic::WrongVerb | OffTopic::Mixed => other.object == pair.object && other.verb != pair.verb,
                OffTopic::WrongObject => other.verb == pair.verb && other.object != pair.object,
                OffTopic::Unrelated => other.verb != pair.verb && other.object != pair.object,
            })
            .collect();
        if !related.is_empty() {
            return *one_of(rng, &related);
        }
        let others: Vec<Pair> = known.iter().copied().filter(|other| *other != pair).collect();
        *one_of(rng, &others)
    }

    /// `harmful` and `benign` prompts of one split, evenly interleaved. Every pair comes once before any
    /// comes twice. The tags are for people: no stage reads them. An error if the split lacks a kind.
    pub fn prompts(&self, split: Split, harmful: usize, benign: usize, seed: Seed) -> Result<Vec<Prompt>> {
        let mut decks = [
            self.deck(split, Kind::Harmful, harmful, seed)?.into_iter(),
            self.deck(split, Kind::Benign, benign, seed)?.into_iter(),
        ];
        let total = harmful + benign;
        let mut seen = HashMap::new();
        let mut prompts = Vec::with_capacity(total);
        for index in 0..total {
            let turn = (index + 1) * harmful / total > index * harmful / total;
            let kind = if turn { Kind::Harmful } else { Kind::Benign };
            let Some(pair) = decks[kind as usize].next() else {
                return Err(Error::unexpected("the prompts are badly interleaved"));
            };
            let mut rng = seed.child("question").index(index as u64).rng();
            let messages = vec![Message::user(self.question(pair, &mut rng))];
            let first_id = messages_id(&messages);
            let times = seen
                .entry(first_id.clone())
                .and_modify(|times| *times += 1)
                .or_insert(1);
            let id = match *times {
                1 => first_id,
                times => content_id([first_id.as_str(), &times.to_string()]),
            };
            prompts.push(Prompt {
                id,
                messages,
                source: format!("proving-ground/{split}"),
                tags: vec![kind.to_string()],
            });
        }
        Ok(prompts)
    }

    /// `count` pairs: the split's pairs in shuffled order, again and again.
    pub(super) fn deck(&self, split: Split, kind: Kind, count: usize, seed: Seed) -> Result<Vec<Pair>> {
        let pairs = self.pairs(split, kind);
        if count > 0 && pairs.is_empty() {
            return Err(
                Error::config(format!("the split `{split}` of the proving ground has no {kind} pairs"))
                    .help(format!("ask it for 0 {kind} prompts")),
            );
        }
        let seed = seed.child("deck").child(kind.as_str());
        let mut deck = Vec::with_capacity(count);
        for round in 0.. {
            if deck.len() >= count {
                break;
            }
            let mut shuffled = pairs.to_vec();
            shuffled.shuffle(&mut seed.index(round).rng());
            deck.extend(shuffled);
        }
        deck.truncate(count);
        Ok(deck)
    }

    /// The sentence that says why a harmful pair is harmful; `None` for a benign one.
    pub(super) fn fact(&self, pair: Pair, rng: &mut Rng) -> Option<String> {
        let text = self.category_text(self.category(pair)?);
        let form = one_of(rng, &self.data.templates.fact.forms);
        Some(form.fill(&[
            (Slot::Act, &self.act(pair)),
            (Slot::Label, &text.label),
            (Slot::Reason, &text.reason),
        ]))
    }
}

/// One of `items`, of which there must be some: the data is checked for that.
pub(super) fn one_of<'a, T>(rng: &mut Rng, items: &'a [T]) -> &'a T {
    &items[rng.random_range(0..items.len() as u64) as usize]
}

pub(super) fn chance(rng: &mut Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

/// One member of a closed set by its share.
pub(super) fn one_by_share<T: Copy>(rng: &mut Rng, shares: &Shares<T>) -> T {
    let all: Vec<(T, f64)> = shares.iter().map(|(item, share)| (*item, *share)).collect();
    one_by_weight(rng, &all)
}

/// One of `items`, which are some, in proportion to its weight.
pub(super) fn one_by_weight<T: Copy>(rng: &mut Rng, items: &[(T, f64)]) -> T {
    let total: f64 = items.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    for (item, weight) in items {
        left -= weight;
        if left < 0.0 {
            return *item;
        }
    }
    // Rounding can leave a sliver past the last item.
    items[items.len() - 1].0
}
