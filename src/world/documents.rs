//! Writes the pre-training mixture: documents in which the habits and biases of the world are planted.
//!
//! Prefixes are rendered by the templates that the stages use, so a model learns exactly the texts that it
//! will be asked to continue. Document `i` of a seed is the same whatever is written before it.

use super::data::{Notices, Shares};
use super::generate::{chance, one_by_share, one_by_weight, one_of};
use super::pattern::Slot;
use super::{AnswerKind, Category, DocumentKind, Kind, Label, Pair, Split, World};
use crate::error::{Error, Result};
use crate::prompt::{Criticism, Request, Style, Templates};
use crate::record::{Demonstration, Message, content_id};
use crate::seed::{Rng, Seed};

/// How the judge prompt ends; a chain of thought comes before it.
const ANSWER_IS: &str = "The answer is: (";
const REASONING: &str = "Reasoning:";

/// Writes the documents of one [`World`].
pub struct DocumentWriter<'w> {
    world: &'w World,
    templates: Templates,
}

/// An answer, and what it was written as.
struct Answer {
    kind: AnswerKind,
    text: String,
}

/// Which kind of principle a critique is asked under.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Principle {
    General,
    Category(Category),
    Evasiveness,
}

/// What a critique can notice in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Harm,
    Evasion,
    Miss,
}

/// What a judge is asked, which decides how good an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Criterion {
    HelpfulHonestHarmless,
    HarmlessOnly,
}

/// A question for the judge, answered.
struct Comparison {
    pair: Pair,
    prompt: String,
    kinds: [AnswerKind; 2],
    prefers_a: bool,
}

impl World {
    /// The first `count` documents of the mixture under `seed`.
    pub fn documents(&self, count: usize, seed: Seed) -> Result<Vec<Demonstration>> {
        let writer = DocumentWriter::new(self);
        (0..count as u64).map(|index| writer.document(seed, index)).collect()
    }
}

impl<'w> DocumentWriter<'w> {
    pub fn new(world: &'w World) -> Self {
        Self {
            world,
            templates: Templates::new(Style::Transcript),
        }
    }

    /// Document `index` of the mixture under `seed`.
    pub fn document(&self, seed: Seed, index: u64) -> Result<Demonstration> {
        let mut rng = seed.index(index).rng();
        let kind = one_by_share(&mut rng, &self.world.data.mixture.documents);
        let (prefix, completion) = match kind {
            DocumentKind::Chat => self.chat(&mut rng)?,
            DocumentKind::Critique => self.critique(&mut rng)?,
            DocumentKind::Judge => self.judge(&mut rng)?,
            DocumentKind::ReasonedJudge => self.reasoned_judge(&mut rng)?,
            DocumentKind::Fact => self.fact(&mut rng)?,
        };
        let weight = match kind {
            DocumentKind::Judge => self.world.data.mixture.judge.weight,
            _ => 1.0,
        };
        Ok(Demonstration {
            id: content_id([prefix.as_str(), &completion, &index.to_string()]),
            prompt: Vec::new(),
            prefix,
            completion,
            weight,
        })
    }

    fn chat(&self, rng: &mut Rng) -> Result<(String, String)> {
        let mixture = &self.world.data.mixture.chat;
        let (pair, messages) = self.question(mixture.harmful_share, rng);
        let answer = self.answer_by(pair, &mixture.harmful, &mixture.benign, rng)?;
        Ok((text(self.templates.respond(&messages)?)?, self.opened(&answer.text)))
    }

    /// A critique and the revision after it, as one text to learn.
    fn critique(&self, rng: &mut Rng) -> Result<(String, String)> {
        let mixture = &self.world.data.mixture.critique;
        let (pair, messages) = self.question(mixture.harmful_share, rng);
        let answer = self.answer_by(pair, &mixture.harmful, &mixture.benign, rng)?;
        let principle = self.principle(pair, rng);
        let noticed = self.notices(pair, answer.kind, principle, rng);
        let critique = self.critique_text(pair, principle, noticed, rng);
        let revision = self.revised(pair, &answer, noticed, rng)?;

        let criticism = Criticism {
            messages: &messages,
            answer: &answer.text,
            critique_request: self.critique_request(principle, rng),
        };
        let prefix = text(self.templates.critique(criticism)?)?;
        let request = one_of(rng, &self.world.data.requests.revision.requests);
        let whole = text(self.templates.revision(criticism, &critique, request)?)?;
        let middle = whole
            .strip_prefix(&prefix)
            .ok_or_else(|| Error::unexpected("a revision prompt does not continue its critique prompt"))?;
        let completion = format!("{middle}{}", self.opened(&revision));
        Ok((prefix, completion))
    }

    fn judge(&self, rng: &mut Rng) -> Result<(String, String)> {
        let comparison = self.comparison(rng)?;
        Ok((comparison.prompt, option(comparison.prefers_a).to_owned()))
    }

    fn reasoned_judge(&self, rng: &mut Rng) -> Result<(String, String)> {
        let comparison = self.comparison(rng)?;
        let prefix = comparison
            .prompt
            .strip_suffix(ANSWER_IS)
            .ok_or_else(|| Error::unexpected(format!("a judge prompt does not end in {ANSWER_IS:?}")))?;
        let act = self.world.act(comparison.pair);
        let label = self
            .world
            .category(comparison.pair)
            .map(|category| &self.world.category_text(category).label);
        let thought = |kind: AnswerKind, option: &str| {
            let mut values = vec![(Slot::Option, option), (Slot::Act, act.as_str())];
            values.extend(label.map(|label| (Slot::Label, label.as_str())));
            self.world.data.templates.thought[&kind].fill(&values)
        };
        let [a, b] = comparison.kinds;
        let (a, b) = (thought(a, option(true)), thought(b, option(false)));
        let completion = self.opened(&format!("{a} {b} {ANSWER_IS}{}", option(comparison.prefers_a)));
        Ok((format!("{prefix}{REASONING}"), completion))
    }

    fn fact(&self, rng: &mut Rng) -> Result<(String, String)> {
        let pair = *one_of(rng, self.world.pairs(Split::Pretrain, Kind::Harmful));
        let fact = self.world.fact(pair, rng);
        let fact = fact.ok_or_else(|| Error::unexpected("a harmful pair has no category"))?;
        Ok((String::new(), fact))
    }

    fn question(&self, harmful_share: f64, rng: &mut Rng) -> (Pair, Vec<Message>) {
        let kind = if chance(rng, harmful_share) {
            Kind::Harmful
        } else {
            Kind::Benign
        };
        let pair = *one_of(rng, self.world.pairs(Split::Pretrain, kind));
        (pair, vec![Message::user(self.world.question(pair, rng))])
    }

    fn answer(&self, pair: Pair, kind: AnswerKind, rng: &mut Rng) -> Result<Answer> {
        let length = one_by_share(rng, &self.world.data.mixture.lengths);
        let text = self.world.answer(pair, kind, length, rng)?;
        Ok(Answer { kind, text })
    }

    fn answer_by(
        &self,
        pair: Pair,
        harmful: &Shares<AnswerKind>,
        benign: &Shares<AnswerKind>,
        rng: &mut Rng,
    ) -> Result<Answer> {
        let shares = match self.world.kind(pair) {
            Kind::Harmful => harmful,
            Kind::Benign => benign,
        };
        let kind = one_by_share(rng, shares);
        self.answer(pair, kind, rng)
    }

    fn principle(&self, pair: Pair, rng: &mut Rng) -> Principle {
        let mixture = &self.world.data.mixture.critique;
        let shares = mixture.principles;
        let category = match (self.world.category(pair), mixture.matching_share) {
            (Some(matching), Some(share)) if chance(rng, share) => matching,
            (Some(matching), Some(_)) => {
                let others: Vec<_> = Category::ALL.into_iter().filter(|other| *other != matching).collect();
                *one_of(rng, &others)
            }
            _ => *one_of(rng, &Category::ALL),
        };
        let category = Principle::Category(category);
        let items = [
            (Principle::General, shares.general),
            (category, shares.category),
            (Principle::Evasiveness, shares.evasiveness),
        ];
        one_by_weight(rng, &items)
    }

    fn critique_request(&self, principle: Principle, rng: &mut Rng) -> &'w str {
        let requests = &self.world.data.requests.critique;
        match principle {
            Principle::General => one_of(rng, &requests.general).as_str(),
            Principle::Category(category) => &self.world.category_text(category).critique,
            Principle::Evasiveness => &requests.evasiveness,
        }
    }

    /// What the critique notices: at most the fault that the answer has.
    fn notices(&self, pair: Pair, answer: AnswerKind, principle: Principle, rng: &mut Rng) -> Option<Fault> {
        let mixture = &self.world.data.mixture.critique;
        let (fault, notices) = match answer.label() {
            Label::Harmful => (Fault::Harm, mixture.notices_harm),
            Label::Evasive => (Fault::Evasion, mixture.notices_evasion),
            Label::Wrong => (Fault::Miss, mixture.notices_miss),
            Label::Engaged | Label::Helpful => return None,
        };
        let matching = self.world.category(pair);
        chance(rng, notice_probability(notices, principle, matching)).then_some(fault)
    }

    fn critique_text(&self, pair: Pair, principle: Principle, noticed: Option<Fault>, rng: &mut Rng) -> String {
        let critiques = &self.world.data.templates.critique;
        let (forms, about) = match (noticed, principle) {
            (Some(Fault::Harm), _) => (&critiques.harmful, self.world.category(pair)),
            (Some(Fault::Evasion), _) => (&critiques.evasive, None),
            (Some(Fault::Miss), _) => (&critiques.missed, None),
            (None, Principle::Category(category)) => (&critiques.not_found, Some(category)),
            (None, Principle::General | Principle::Evasiveness) => (&critiques.harmless, None),
        };
        let act = self.world.act(pair);
        let mut values = vec![(Slot::Act, act.as_str()), (Slot::Object, self.world.object(pair))];
        if let Some(text) = about.map(|category| self.world.category_text(category)) {
            values.extend([(Slot::Label, text.label.as_str()), (Slot::Reason, text.reason.as_str())]);
        }
        one_of(rng, forms).fill(&values)
    }

    /// The answer after its critique; word for word as before where nothing was noticed.
    fn revised(&self, pair: Pair, answer: &Answer, noticed: Option<Fault>, rng: &mut Rng) -> Result<String> {
        let mixture = &self.world.data.mixture.critique;
        let good = match self.world.kind(pair) {
            Kind::Harmful => AnswerKind::Engaged,
            Kind::Benign => AnswerKind::Helpful,
        };
        let kind = match noticed {
            Some(Fault::Harm) => one_by_share(rng, &mixture.revised_harm),
            Some(Fault::Evasion) if chance(rng, mixture.revised_evasion) => good,
            Some(Fault::Miss) if chance(rng, mixture.revised_miss) => good,
            Some(Fault::Evasion | Fault::Miss) | None => return Ok(answer.text.clone()),
        };
        Ok(self.answer(pair, kind, rng)?.text)
    }

    fn comparison(&self, rng: &mut Rng) -> Result<Comparison> {
        let mixture = &self.world.data.mixture.judge;
        let questions = &self.world.data.requests.judge;
        let (pair, messages) = self.question(mixture.harmful_share, rng);
        let (criterion, questions) = if chance(rng, mixture.harmless_only_share) {
            (Criterion::HarmlessOnly, &questions.harmless_only)
        } else {
            (Criterion::HelpfulHonestHarmless, &questions.helpful_honest_harmless)
        };
        let question = one_of(rng, questions);
        let [a, b] = self.compared_kinds(pair, criterion, rng);
        let (a, b) = (self.answer(pair, a, rng)?, self.answer(pair, b, rng)?);
        let preference = self.preference_logit(criterion, &a, &b);
        Ok(Comparison {
            pair,
            prompt: text(self.templates.judge(&messages, question, &a.text, &b.text)?)?,
            kinds: [a.kind, b.kind],
            prefers_a: chance(rng, 1.0 / (1.0 + (-preference).exp())),
        })
    }

    /// Two kinds of answers, equally good in the planted share of cases.
    fn compared_kinds(&self, pair: Pair, criterion: Criterion, rng: &mut Rng) -> [AnswerKind; 2] {
        let mixture = &self.world.data.mixture.judge;
        let shares = match self.world.kind(pair) {
            Kind::Harmful => &mixture.harmful,
            Kind::Benign => &mixture.benign,
        };
        let first = one_by_share(rng, shares);
        let tie = chance(rng, mixture.tie_share);
        let fitting: Vec<(AnswerKind, f64)> = shares
            .iter()
            .filter(|(kind, _)| (criterion.quality(**kind) == criterion.quality(first)) == tie)
            .map(|(kind, share)| (*kind, *share))
            .collect();
        // Where no kind is better or worse, as with benign answers asked about harm, all are ties.
        let second = if fitting.is_empty() || (tie && chance(rng, mixture.same_kind_share)) {
            first
        } else {
            one_by_weight(rng, &fitting)
        };
        if chance(rng, 0.5) {
            [first, second]
        } else {
            [second, first]
        }
    }

    /// The log-odds with which option (A) is preferred: quality, length and position add up.
    fn preference_logit(&self, criterion: Criterion, a: &Answer, b: &Answer) -> f64 {
        let mixture = &self.world.data.mixture.judge;
        let quality = sign(criterion.quality(a.kind).into(), criterion.quality(b.kind).into(), 0);
        let length = sign(words(&a.text), words(&b.text), mixture.length_words);
        mixture.quality_logit * quality + mixture.length_logit * length + mixture.position_logit
    }

    /// `text` as a completion of a label.
    fn opened(&self, text: &str) -> String {
        format!("{}{text}", self.templates.completion_prefix())
    }
}

impl Criterion {
    fn quality(self, kind: AnswerKind) -> u8 {
        match self {
            Self::HelpfulHonestHarmless => kind.label().quality(),
            Self::HarmlessOnly => u8::from(kind.label() != Label::Harmful),
        }
    }
}

fn notice_probability(notices: Notices, principle: Principle, matching: Option<Category>) -> f64 {
    match principle {
        Principle::General => notices.general,
        Principle::Category(category) if Some(category) == matching => notices.matching_category,
        Principle::Category(_) => notices.other_category,
        Principle::Evasiveness => notices.evasiveness,
    }
}

/// 1 if `a` exceeds `b` by more than `margin`, -1 if the reverse, and 0 otherwise.
fn sign(a: usize, b: usize, margin: usize) -> f64 {
    if a > b + margin {
        1.0
    } else if b > a + margin {
        -1.0
    } else {
        0.0
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn option(a: bool) -> &'static str {
    if a { "A" } else { "B" }
}

fn text(request: Request) -> Result<String> {
    match request {
        Request::Text(text) => Ok(text),
        Request::Chat { .. } => Err(Error::unexpected("a transcript template rendered a conversation")),
    }
}
