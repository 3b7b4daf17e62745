//! Principles in the proving ground: leaving one out must leave in place what it is there for, and nothing else; and
//! the report of a constitution's use must show it.
//!
//! The bundled model tells two faults apart by the principle that it is asked under: harm and evasiveness. Its narrow
//! principles (`no-spying` and the others) it does not: under each it finds harm of any category equally seldom. What
//! they do is therefore tested on a model that finds what the world's mixture plants for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bylaw::constitution::Constitution;
use bylaw::engine::local::LocalEngine;
use bylaw::engine::scripted::ScriptedEngine;
use bylaw::engine::{Engine, Sampling};
use bylaw::model::files::{BUILTIN, Model};
use bylaw::prompt::Templates;
use bylaw::record::{FinishReason, Message, Prompt, Revision};
use bylaw::seed::Seed;
use bylaw::stage::{Context, revise};
use bylaw::survey::usage::{Finding, Usage, UsageReport};
use bylaw::world::{AnswerKind, Category, Kind, Label, Length, Oracle, Pair, Split, World};
use rand::Rng as _;

/// The constitution of the proving ground with these of its principles, each as likely as the others.
fn constitution(ids: &[&str]) -> Constitution {
    let mut constitution = Constitution::builtin("proving-ground").unwrap();
    constitution
        .principles
        .retain(|principle| ids.contains(&principle.id.as_str()));
    for principle in &mut constitution.principles {
        principle.weight = 1.0;
    }
    assert_eq!(constitution.principles.len(), ids.len());
    constitution
}

/// The rows after so many rounds under the constitution, by id. The first answers do not depend on it: their seeds are the
/// prompts'.
fn revised(
    engine: &dyn Engine,
    constitution: &Constitution,
    prompts: &[Prompt],
    rounds: usize,
) -> BTreeMap<String, Revision> {
    let sampling = |max_new_tokens| Sampling {
        max_new_tokens,
        ..Sampling::default()
    };
    let config = revise::ReviseConfig {
        rounds,
        answer: sampling(96),
        critique: sampling(64),
    };
    let templates = Templates::new(engine.style());
    let context = Context {
        engine,
        templates: &templates,
        seed: Seed::new(3),
        keep_truncated: false,
    };
    let rows = revise::revise(context, constitution, prompts, &config).unwrap();
    rows.into_iter().flatten().map(|row| (row.id.clone(), row)).collect()
}

fn pair(oracle: &Oracle, row: &Revision) -> Pair {
    oracle.question(&row.prompt[0].content).unwrap()
}

fn label(oracle: &Oracle, row: &Revision, answer: &str) -> Label {
    oracle.judge(pair(oracle, row), answer).label
}

/// What became of answers that had a fault at first, with all principles and without one.
#[derive(Debug, Default)]
struct Fate {
    rows: u32,
    /// Answers that keep the fault.
    with: u32,
    without: u32,
    /// Answers that keep it with all principles only, and without the one only.
    lost: u32,
    gained: u32,
}

impl Fate {
    fn of<'r>(rows: impl Iterator<Item = &'r [&'r Revision; 2]>, keeps: impl Fn(&Revision) -> bool) -> Self {
        let mut fate = Self::default();
        for [with, without] in rows {
            assert_eq!(with.initial, without.initial);
            let (with, without) = (keeps(with), keeps(without));
            fate.rows += 1;
            fate.with += u32::from(with);
            fate.without += u32::from(without);
            fate.lost += u32::from(with && !without);
            fate.gained += u32::from(!with && without);
        }
        fate
    }

    /// How many standard errors more answers keep the fault without the principle, by those that differ (McNemar 1947,
    /// Psychometrika 12, 153-157).
    fn errors(&self) -> f64 {
        let (gained, lost) = (f64::from(self.gained), f64::from(self.lost));
        (gained - lost) / (gained + lost).max(1.0).sqrt()
    }
}

/// Rows of both runs, by the prompt.
fn both<'r>(
    with: &'r BTreeMap<String, Revision>,
    without: &'r BTreeMap<String, Revision>,
    has_fault: impl Fn(&Revision) -> bool,
) -> Vec<[&'r Revision; 2]> {
    with.iter()
        .filter_map(|(id, row)| Some([row, without.get(id)?]))
        .filter(|[row, _]| has_fault(row))
        .collect()
}

fn usage<'r>(constitution: &Constitution, rows: impl Iterator<Item = &'r Revision>) -> UsageReport {
    let mut usage = Usage::new(constitution);
    rows.for_each(|row| usage.add_revision(row));
    usage.finish()
}

/// Share of rounds that changed the answer, whatever the principle.
fn changed(report: &UsageReport) -> f64 {
    let (mut changed, mut rounds) = (0.0, 0.0);
    for used in report.principles.iter().filter_map(|used| used.revising.as_ref()) {
        changed += used.changed.map_or(0.0, |share| share.value * share.n as f64);
        rounds += used.drawn as f64;
    }
    changed / rounds
}

fn drawn(report: &UsageReport, id: &str) -> u64 {
    let found = report.principles.iter().find(|principle| principle.id == id);
    found.unwrap().revising.as_ref().unwrap().drawn
}

/// The report of rows with a fault shows that the principle against it is gone, and less is changed.
fn is_shown(constitution: &Constitution, rows: &[[&Revision; 2]], removed: &str) {
    let before = usage(constitution, rows.iter().map(|row| row[0]));
    let after = usage(constitution, rows.iter().map(|row| row[1]));
    eprintln!(
        "    changed {:.3} with it, {:.3} without",
        changed(&before),
        changed(&after)
    );
    assert!(changed(&after) < changed(&before) - 0.1, "{removed}");
    let share = drawn(&before, removed) as f64 * constitution.principles.len() as f64 / rows.len() as f64;
    assert!(
        (0.7..1.3).contains(&share),
        "{removed} was drawn {share} times as often as the others"
    );
    assert_eq!(drawn(&after, removed), 0);
    let never = Finding::NeverDrawn {
        principles: vec![removed.into()],
    };
    assert!(after.findings.contains(&never) && !before.findings.contains(&never));
}

/// Catches: principles that are drawn but not asked, others asked than those whose ids are recorded, revisions that go
/// to other rows; a report that counts a principle's rounds for another one.
#[test]
fn what_a_principle_is_for_survives_without_it() {
    // Of harmful questions three in four are answered harmfully at first, and one in ten evasively.
    const PROMPTS: usize = 2000;
    const HARMFUL: usize = 300;
    let world = World::builtin().unwrap();
    let oracle = Oracle::new(&world);
    let engine = LocalEngine::new(Arc::new(Model::load(BUILTIN).unwrap())).unwrap();
    let whole = constitution(&["harmless", "not-evasive"]);
    let mut prompts = world.prompts(Split::Evaluation, PROMPTS, 0, Seed::new(1)).unwrap();
    let first = revised(&engine, &whole, &prompts, 0);
    let mut harmful = 0;
    prompts.retain(|prompt| {
        let fault = first.get(&prompt.id).map(|row| label(&oracle, row, &row.initial));
        harmful += usize::from(fault == Some(Label::Harmful));
        fault == Some(Label::Evasive) || (fault == Some(Label::Harmful) && harmful <= HARMFUL)
    });
    let with = revised(&engine, &whole, &prompts, 1);
    for (removed, kept, covered, other) in [
        ("harmless", "not-evasive", Label::Harmful, Label::Evasive),
        ("not-evasive", "harmless", Label::Evasive, Label::Harmful),
    ] {
        let without = revised(&engine, &constitution(&[kept]), &prompts, 1);
        for fault in [covered, other] {
            let rows = both(&with, &without, |row| label(&oracle, row, &row.initial) == fault);
            let fate = Fate::of(rows.iter(), |row| label(&oracle, row, &row.final_answer) == fault);
            eprintln!(
                "without {removed}, {fault}: {fate:?}, {:.1} standard errors",
                fate.errors()
            );
            if fault == covered {
                assert!(fate.errors() > 4.0, "{fault} without {removed}: {fate:?}");
                is_shown(&whole, &rows, removed);
            } else {
                assert!(fate.errors() < 2.0, "{fault} without {removed}: {fate:?}");
            }
        }
    }
}

// ---- a model that does what the world plants --------------------------------------------------------

/// The shares of `datasets/proving-ground/mixture.toml` that critiques and revisions have.
struct Planted {
    matching: f64,
    other: f64,
    engaged: f64,
    soft: f64,
}

impl Planted {
    fn read() -> Self {
        let text = include_str!("../datasets/proving-ground/mixture.toml");
        let mixture: toml::Table = text.parse().unwrap();
        let share = |table: &str, name: &str| mixture["critique"][table][name].as_float().unwrap();
        Self {
            matching: share("notices_harm", "matching-category"),
            other: share("notices_harm", "other-category"),
            engaged: share("revised_harm", "engaged"),
            soft: share("revised_harm", "soft-comply"),
        }
    }
}

const HARMFUL: &str = "The answer is harmful.";

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let rest = text.split_once(start).unwrap().1;
    rest.split_once(end).unwrap().0
}

/// Answers harmfully four times in five; finds and removes harm as often as the world's documents do under a principle
/// of its category, or of another one. All it does follows from the prompt.
fn planted(world: &World, oracle: &Oracle, planted: &Planted, whole: &Constitution, prompt: &str) -> String {
    let rng = &mut Seed::new(7).child(prompt).rng();
    let question = between(prompt, "Human: ", "\n\nAssistant:");
    let pair = oracle.question(question).unwrap();
    let answered = |kind, rng: &mut _| world.answer(pair, kind, Length::Medium, rng).unwrap();
    if prompt.ends_with("\n\nAssistant:") {
        let harmful = rng.random_bool(0.8);
        return answered(
            if harmful {
                AnswerKind::Comply
            } else {
                AnswerKind::Engaged
            },
            rng,
        );
    }
    let answer = between(prompt, "Assistant: ", "\n\nCritique Request: ");
    if prompt.ends_with("\n\nCritique:") {
        let request = between(prompt, "Critique Request: ", "\n\nCritique:");
        let principle = whole
            .principles
            .iter()
            .find(|principle| principle.critique.as_deref() == Some(request));
        let category = world.category(pair).unwrap().to_string();
        let matching = principle.unwrap().tags.contains(&category);
        let notices = rng.random_bool(if matching { planted.matching } else { planted.other });
        let harmful = oracle.judge(pair, answer).label == Label::Harmful;
        return if harmful && notices {
            HARMFUL
        } else {
            "The answer is fine."
        }
        .to_owned();
    }
    if between(prompt, "\n\nCritique: ", "\n\nRevision Request: ") != HARMFUL {
        return answer.to_owned();
    }
    let draw: f64 = rng.random();
    let kind = if draw < planted.engaged {
        AnswerKind::Engaged
    } else if draw < planted.engaged + planted.soft {
        AnswerKind::SoftComply
    } else {
        AnswerKind::Evasive
    };
    answered(kind, rng)
}

/// As many questions of each category, all different: equal ones would have equal answers.
fn questions(world: &World, categories: &[Category], each: usize) -> Vec<Prompt> {
    let mut prompts = Vec::new();
    let mut asked = BTreeSet::new();
    for category in categories {
        let pairs = world.pairs(Split::Pretrain, Kind::Harmful).iter();
        let pairs: Vec<Pair> = pairs
            .filter(|pair| world.category(**pair) == Some(*category))
            .copied()
            .collect();
        let questions = (0..20 * each).map(|index| {
            let rng = &mut Seed::new(5).child(category.as_str()).index(index as u64).rng();
            world.question(pairs[index % pairs.len()], rng)
        });
        let different = questions.filter(|question| asked.insert(question.clone()));
        prompts.extend(different.take(each).enumerate().map(|(index, question)| Prompt {
            id: format!("{category} {index}"),
            messages: vec![Message::user(question)],
            source: "proving-ground".into(),
            tags: Vec::new(),
        }));
    }
    assert_eq!(prompts.len(), each * categories.len(), "too few different questions");
    prompts
}

/// Catches: what the test above does, and effects of one narrow principle that are counted for another category.
#[test]
fn harm_of_one_category_survives_without_the_principle_against_it() {
    const EACH: usize = 600;
    let covers = [
        ("no-spying", Category::Privacy),
        ("no-stealing", Category::Theft),
        ("no-vandalism", Category::Vandalism),
    ];
    let ids = covers.map(|(id, _)| id);
    let world = World::builtin().unwrap();
    let oracle = Oracle::new(&world);
    let shares = Planted::read();
    let whole = constitution(&ids);
    let engine = ScriptedEngine {
        reply: |prompt: &str| Ok((planted(&world, &oracle, &shares, &whole, prompt), FinishReason::Stop)),
        score: |_: &str, _: &str| 0.0,
    };
    let prompts = questions(&world, &covers.map(|(_, category)| category), EACH);
    let with = revised(&engine, &whole, &prompts, 1);
    assert_eq!(with.len(), prompts.len());
    for (removed, covered) in covers {
        let kept: Vec<&str> = ids.into_iter().filter(|id| *id != removed).collect();
        let without = revised(&engine, &constitution(&kept), &prompts, 1);
        for (_, category) in covers {
            let harmful = |row: &Revision, answer: &str| label(&oracle, row, answer) == Label::Harmful;
            let rows = both(&with, &without, |row| {
                world.category(pair(&oracle, row)) == Some(category) && harmful(row, &row.initial)
            });
            let fate = Fate::of(rows.iter(), |row| harmful(row, &row.final_answer));
            eprintln!(
                "without {removed}, {category}: {fate:?}, {:.1} standard errors",
                fate.errors()
            );
            if category == covered {
                assert!(fate.errors() > 4.0, "{category} without {removed}: {fate:?}");
                is_shown(&whole, &rows, removed);
            } else {
                assert!(fate.errors() < 2.0, "{category} without {removed}: {fate:?}");
            }
        }
    }
}
