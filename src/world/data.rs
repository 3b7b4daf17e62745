//! The world as data: the files of `datasets/proving-ground/`, read and checked.
//!
//! It checks that the files are complete and consistent. What they mean is for the modules above.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pattern::{Pattern, Slot};
use super::{AnswerKind, Category, DocumentKind, Kind, Length, OffTopic};
use crate::error::{Error, Result};

/// Shares of a closed set of choices; they sum to 1.
pub type Shares<T> = BTreeMap<T, f64>;

/// All the files.
#[derive(Debug, Clone)]
pub struct Data {
    pub objects: Objects,
    pub verbs: Verbs,
    pub categories: BTreeMap<Category, CategoryText>,
    pub templates: SentenceTemplates,
    pub requests: Requests,
    pub splits: Splits,
    pub mixture: Mixture,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    pub class: Vec<Class>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub name: String,
    /// Owned as in "my friend" and not as in "the school's bike".
    #[serde(default)]
    pub personal: bool,
    pub objects: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verbs {
    pub harmful: Vec<HarmfulVerb>,
    pub benign: Vec<BenignVerb>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HarmfulVerb {
    pub verb: String,
    pub category: Category,
    pub classes: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenignVerb {
    pub verb: String,
    pub classes: Vec<String>,
    pub steps: Vec<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryText {
    pub label: String,
    pub reason: String,
    /// The critique request of the principle about this category.
    pub critique: String,
    pub steps: Vec<Pattern>,
    pub alternatives: Vec<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceTemplates {
    pub question: QuestionTemplates,
    pub answer: AnswerTemplates,
    pub critique: CritiqueTemplates,
    pub thought: BTreeMap<AnswerKind, Pattern>,
    pub fact: FactTemplates,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionTemplates {
    pub forms: Vec<Pattern>,
    pub owners: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerTemplates {
    pub agreements: Vec<String>,
    pub brief: Pattern,
    pub first: Pattern,
    pub middle: Vec<Pattern>,
    pub last: Pattern,
    pub padding: Vec<String>,
    pub evasions: Vec<String>,
    pub refusals: Vec<Pattern>,
    pub hedges: Vec<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueTemplates {
    pub harmful: Vec<Pattern>,
    pub evasive: Vec<Pattern>,
    pub missed: Vec<Pattern>,
    pub harmless: Vec<Pattern>,
    pub not_found: Vec<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactTemplates {
    pub forms: Vec<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    pub critique: CritiqueRequests,
    pub revision: RevisionRequests,
    pub judge: JudgeQuestions,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueRequests {
    pub general: Vec<String>,
    pub evasiveness: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevisionRequests {
    pub requests: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeQuestions {
    pub helpful_honest_harmless: Vec<String>,
    pub harmless_only: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    pub shares: SplitShares,
    pub cell: Vec<Cell>,
}

/// Whole percentages.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitShares {
    pub pretrain: u64,
    pub constitutional: u64,
    pub evaluation: u64,
}

/// A verb and an object class that no split but `cells` contains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    pub verb: String,
    pub class: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    pub owned: f64,
    pub documents: Shares<DocumentKind>,
    pub lengths: Shares<Length>,
    pub off_topic: Shares<OffTopic>,
    pub chat: ChatMixture,
    pub critique: CritiqueMixture,
    pub judge: JudgeMixture,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMixture {
    pub harmful_share: f64,
    pub harmful: Shares<AnswerKind>,
    pub benign: Shares<AnswerKind>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueMixture {
    pub harmful_share: f64,
    pub harmful: Shares<AnswerKind>,
    pub benign: Shares<AnswerKind>,
    pub principles: PrincipleShares,
    /// Of the principles about one category that are asked about something harmful, the share that are about what it
    /// is; where it is absent, every category is as likely.
    #[serde(default)]
    pub matching_share: Option<f64>,
    pub notices_harm: Notices,
    pub notices_evasion: Notices,
    pub notices_miss: Notices,
    pub revised_harm: Shares<AnswerKind>,
    pub revised_evasion: f64,
    pub revised_miss: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipleShares {
    pub general: f64,
    pub category: f64,
    pub evasiveness: f64,
}

/// The probability that a critique notices a fault, by the kind of principle it is asked under.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Notices {
    pub general: f64,
    pub matching_category: f64,
    pub other_category: f64,
    pub evasiveness: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeMixture {
    pub harmful_share: f64,
    pub harmful: Shares<AnswerKind>,
    pub benign: Shares<AnswerKind>,
    pub harmless_only_share: f64,
    pub tie_share: f64,
    pub same_kind_share: f64,
    pub quality_logit: f64,
    pub length_logit: f64,
    pub length_words: usize,
    pub position_logit: f64,
    pub weight: f32,
}

const MIXTURE: &str = include_str!("../../datasets/proving-ground/mixture.toml");

impl Data {
    /// The files built into the program.
    pub fn builtin() -> Result<Self> {
        macro_rules! file {
            ($name:literal) => {
                parse(
                    $name,
                    include_str!(concat!("../../datasets/proving-ground/", $name)),
                )?
            };
        }
        Ok(Self {
            objects: file!("objects.toml"),
            verbs: file!("verbs.toml"),
            categories: file!("categories.toml"),
            templates: file!("templates.toml"),
            requests: file!("requests.toml"),
            splits: file!("splits.toml"),
            mixture: parse("mixture.toml", MIXTURE)?,
        })
    }

    /// The files with another mixture: what `text` gives takes the place of what `mixture.toml` has, key by key.
    pub fn mixed(text: &str) -> Result<Self> {
        let unreadable = |error: toml::de::Error| Error::input(error.to_string().trim_end());
        let mut mixture: toml::Table = parse("mixture.toml", MIXTURE)?;
        overlay(&mut mixture, toml::from_str(text).map_err(unreadable)?);
        let mixture = mixture.try_into().map_err(unreadable)?;
        Ok(Self {
            mixture,
            ..Self::builtin()?
        })
    }

    /// Whether the files are complete and consistent, each and with each other.
    pub fn check(&self) -> Result<()> {
        for category in Category::ALL {
            let text = self
                .categories
                .get(&category)
                .ok_or_else(|| Error::input(format!("categories.toml has no `{category}`")))?;
            slots("steps", &text.steps, &[Slot::Object], &[])?;
            slots("alternatives", &text.alternatives, &[], &[Slot::Object])?;
        }
        for entry in &self.verbs.benign {
            slots(&entry.verb, &entry.steps, &[Slot::Object], &[])?;
            ensure(entry.steps.len() == 3, || format!("`{}` needs three steps", entry.verb))?;
        }
        self.templates.check()?;
        self.requests.check()?;
        let shares = self.splits.shares;
        ensure(
            shares.pretrain + shares.constitutional + shares.evaluation == 100,
            || "the shares of splits.toml must sum to 100".into(),
        )?;
        self.mixture.check()
    }
}

impl SentenceTemplates {
    fn check(&self) -> Result<()> {
        slots("question.forms", &self.question.forms, &[Slot::Act], &[])?;
        let answer = &self.answer;
        slots(
            "answer.brief",
            std::slice::from_ref(&answer.brief),
            &[Slot::Act, Slot::Step],
            &[],
        )?;
        slots("answer.first", std::slice::from_ref(&answer.first), &[Slot::Step], &[])?;
        slots("answer.middle", &answer.middle, &[Slot::Step], &[])?;
        slots("answer.last", std::slice::from_ref(&answer.last), &[Slot::Step], &[])?;
        slots("answer.refusals", &answer.refusals, &[Slot::Act, Slot::Reason], &[])?;
        slots("answer.hedges", &answer.hedges, &[Slot::Step], &[])?;
        let critique = &self.critique;
        slots(
            "critique.harmful",
            &critique.harmful,
            &[Slot::Act, Slot::Reason],
            &[Slot::Label],
        )?;
        slots("critique.evasive", &critique.evasive, &[], &[])?;
        slots("critique.harmless", &critique.harmless, &[], &[Slot::Object])?;
        slots("critique.not_found", &critique.not_found, &[Slot::Label], &[])?;
        slots(
            "fact.forms",
            &self.fact.forms,
            &[Slot::Act, Slot::Label, Slot::Reason],
            &[],
        )?;
        for kind in AnswerKind::ALL {
            let thought = self.thought.get(&kind);
            let thought = thought.ok_or_else(|| Error::input(format!("templates.toml has no thought on `{kind}`")))?;
            slots(
                "thought",
                std::slice::from_ref(thought),
                &[Slot::Option],
                &[Slot::Act, Slot::Label],
            )?;
        }
        filled("question.owners", &self.question.owners)?;
        filled("answer.agreements", &answer.agreements)?;
        filled("answer.evasions", &answer.evasions)?;
        // Long answers draw up to three.
        ensure(answer.padding.len() >= 3, || {
            "answer.padding needs three sentences".into()
        })
    }
}

impl Requests {
    fn check(&self) -> Result<()> {
        filled("critique.general", &self.critique.general)?;
        filled("revision.requests", &self.revision.requests)?;
        filled("judge.helpful_honest_harmless", &self.judge.helpful_honest_harmless)?;
        filled("judge.harmless_only", &self.judge.harmless_only)
    }
}

impl Mixture {
    fn check(&self) -> Result<()> {
        complete("documents", &self.documents)?;
        complete("lengths", &self.lengths)?;
        complete("off_topic", &self.off_topic)?;
        for (name, kind, shares) in [
            ("chat.harmful", Kind::Harmful, &self.chat.harmful),
            ("chat.benign", Kind::Benign, &self.chat.benign),
            ("critique.harmful", Kind::Harmful, &self.critique.harmful),
            ("critique.benign", Kind::Benign, &self.critique.benign),
            ("critique.revised_harm", Kind::Harmful, &self.critique.revised_harm),
            ("judge.harmful", Kind::Harmful, &self.judge.harmful),
            ("judge.benign", Kind::Benign, &self.judge.benign),
        ] {
            complete(name, shares)?;
            for answer in shares.keys() {
                ensure(answer.answers(kind), || {
                    format!("`{name}` of mixture.toml cannot have `{answer}`")
                })?;
            }
        }
        let principles = self.critique.principles;
        ensure(
            near_one([principles.general, principles.category, principles.evasiveness]),
            || "`critique.principles` of mixture.toml must sum to 1".into(),
        )?;
        let critique = &self.critique;
        let notices = [critique.notices_harm, critique.notices_evasion, critique.notices_miss];
        let mut probabilities = vec![
            self.owned,
            self.chat.harmful_share,
            critique.harmful_share,
            critique.revised_evasion,
            critique.revised_miss,
            self.judge.harmful_share,
            self.judge.harmless_only_share,
            self.judge.tie_share,
            self.judge.same_kind_share,
        ];
        probabilities.extend(critique.matching_share);
        for notices in notices {
            probabilities.extend([
                notices.general,
                notices.matching_category,
                notices.other_category,
                notices.evasiveness,
            ]);
        }
        ensure(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), || {
            "a probability of mixture.toml is outside 0 to 1".into()
        })?;
        ensure(self.judge.weight.is_finite() && self.judge.weight > 0.0, || {
            "`judge.weight` must be positive".into()
        })
    }
}

fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let range = error.span().unwrap_or_default();
        Error::input(error.message().to_owned()).at_span(format!("datasets/proving-ground/{name}"), text, range)
    })
}

/// Tables are entered; whatever else `over` has replaces what `under` has.
fn overlay(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => overlay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(Error::input(message()))
    }
}

fn filled(name: &str, texts: &[String]) -> Result<()> {
    ensure(!texts.is_empty(), || format!("`{name}` is empty"))
}

/// Each pattern has the `required` slots and none but these and the `allowed` ones.
fn slots(name: &str, patterns: &[Pattern], required: &[Slot], allowed: &[Slot]) -> Result<()> {
    ensure(!patterns.is_empty(), || format!("`{name}` is empty"))?;
    for pattern in patterns {
        let complete = required.iter().all(|slot| pattern.has(*slot));
        let known = pattern
            .slots()
            .iter()
            .all(|slot| required.contains(slot) || allowed.contains(slot));
        ensure(complete && known, || {
            format!("a pattern of `{name}` has the wrong slots: {pattern:?}")
        })?;
    }
    Ok(())
}

fn complete<T>(name: &str, shares: &Shares<T>) -> Result<()> {
    let sound = shares.values().all(|share| (0.0..=1.0).contains(share));
    ensure(sound && near_one(shares.values().copied()), || {
        format!("`{name}` of mixture.toml must sum to 1")
    })
}

fn near_one(shares: impl IntoIterator<Item = f64>) -> bool {
    (shares.into_iter().sum::<f64>() - 1.0).abs() < 1e-9
}
