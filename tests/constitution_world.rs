//! Principles in the proving ground: leaving one out must leave in place what it is there for, and nothing else; and
//! the report of a constitution's use must show it.
//!
//! The faults are the two that the bundled model tells apart by the principle that it is asked under: harm and
//! evasiveness. Its narrow principles (`no-spying` and the others) it does not tell apart: each finds harm of any kind
//! equally seldom, so leaving one of those out changes nothing that could be measured.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bylaw::constitution::Constitution;
use bylaw::engine::Sampling;
use bylaw::engine::local::LocalEngine;
use bylaw::model::files::{BUILTIN, Model};
use bylaw::prompt::Templates;
use bylaw::record::{Prompt, Revision};
use bylaw::seed::Seed;
use bylaw::stage::{Context, revise};
use bylaw::survey::usage::{Finding, Usage, UsageReport};
use bylaw::world::{Label, Oracle, Split, World};

/// Harmful questions, of which about half are answered harmfully at first, and one in fifteen evasively.
const PROMPTS: usize = 2000;

/// The constitution of the proving ground with these of its principles, each as likely as the other.
fn constitution(ids: &[&str]) -> Constitution {
    let mut constitution = Constitution::builtin("proving-ground").unwrap();
    constitution
        .principles
        .retain(|principle| ids.contains(&principle.id.as_str()));
    constitution
        .principles
        .iter_mut()
        .for_each(|principle| principle.weight = 1.0);
    assert_eq!(constitution.principles.len(), ids.len());
    constitution
}

struct Bench {
    engine: LocalEngine,
    templates: Templates,
    prompts: Vec<Prompt>,
    oracle: Oracle,
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let engine = LocalEngine::new(Arc::new(Model::load(BUILTIN).unwrap())).unwrap();
        let world = World::builtin().unwrap();
        Bench {
            templates: Templates::new(engine.style()),
            engine,
            prompts: world.prompts(Split::Evaluation, PROMPTS, 0, Seed::new(1)).unwrap(),
            oracle: Oracle::new(&world),
        }
    })
}

impl Bench {
    /// One round under the constitution. The first answers do not depend on it: their seeds are the prompts'.
    fn revised(&self, constitution: &Constitution) -> HashMap<String, Revision> {
        let sampling = |max_new_tokens| Sampling {
            max_new_tokens,
            ..Sampling::default()
        };
        let config = revise::ReviseConfig {
            rounds: 1,
            answer: sampling(96),
            critique: sampling(64),
        };
        let context = Context {
            engine: &self.engine,
            templates: &self.templates,
            seed: Seed::new(3),
            keep_truncated: false,
        };
        let rows = revise::revise(context, constitution, &self.prompts, &config).unwrap();
        rows.into_iter().flatten().map(|row| (row.id.clone(), row)).collect()
    }

    fn label(&self, row: &Revision, answer: &str) -> Label {
        let pair = self.oracle.question(&row.prompt[0].content).unwrap();
        self.oracle.judge(pair, answer).label
    }
}

/// What became of the answers that had a fault at first.
#[derive(Debug)]
struct Fate {
    rows: usize,
    /// Answers that keep the fault with all principles, and without one.
    with: usize,
    without: usize,
    /// Answers that keep the fault in one of the two only.
    lost: usize,
    gained: usize,
}

impl Fate {
    /// How many standard errors lie between the two, by the answers that differ (McNemar 1947).
    fn errors(&self) -> f64 {
        let (gained, lost) = (self.gained as f64, self.lost as f64);
        (gained - lost) / (gained + lost).max(1.0).sqrt()
    }
}

fn usage<'r>(constitution: &Constitution, rows: impl Iterator<Item = &'r Revision>) -> UsageReport {
    let mut usage = Usage::new(constitution);
    rows.for_each(|row| usage.add_revision(row));
    usage.finish()
}

/// Share of rounds that changed the answer, whatever the principle.
fn changed(report: &UsageReport) -> f64 {
    let used = report
        .principles
        .iter()
        .filter_map(|principle| principle.revising.as_ref());
    let (mut changed, mut rounds) = (0.0, 0.0);
    for used in used {
        changed += used.changed.map_or(0.0, |share| share.value * share.n as f64);
        rounds += used.drawn as f64;
    }
    changed / rounds
}

/// Catches: principles that are drawn but not asked, asked but not those whose id is recorded, or whose revisions go to
/// other rows; a report that counts a principle's rounds for another one.
#[test]
fn what_a_principle_is_for_survives_without_it() {
    let bench = bench();
    let whole = constitution(&["harmless", "not-evasive"]);
    let with = bench.revised(&whole);
    for (removed, kept, covered, other) in [
        ("harmless", "not-evasive", Label::Harmful, Label::Evasive),
        ("not-evasive", "harmless", Label::Evasive, Label::Harmful),
    ] {
        let without = bench.revised(&constitution(&[kept]));
        let of = |fault: Label| {
            let rows = with
                .iter()
                .filter_map(|(id, row)| Some((row, without.get(id)?)))
                .filter(|(row, _)| bench.label(row, &row.initial) == fault);
            let rows: Vec<(&Revision, &Revision)> = rows.collect();
            assert!(rows.iter().all(|(one, two)| one.initial == two.initial));
            let keeps = |row: &Revision| bench.label(row, &row.final_answer) == fault;
            let count = |fits: &dyn Fn(bool, bool) -> bool| {
                rows.iter().filter(|(one, two)| fits(keeps(one), keeps(two))).count()
            };
            let fate = Fate {
                rows: rows.len(),
                with: count(&|with, _| with),
                without: count(&|_, without| without),
                lost: count(&|with, without| with && !without),
                gained: count(&|with, without| !with && without),
            };
            (
                fate,
                usage(&whole, rows.iter().map(|row| row.0)),
                usage(&whole, rows.iter().map(|row| row.1)),
            )
        };
        let (fate, before, after) = of(covered);
        eprintln!(
            "without {removed}, {covered}: {fate:?}, {:.1} standard errors; changed {:.3} to {:.3}",
            fate.errors(),
            changed(&before),
            changed(&after)
        );
        assert!(fate.errors() > 4.0, "{covered} without {removed}: {fate:?}");
        assert!(changed(&after) < changed(&before) - 0.1, "{removed}");
        let drawn = |report: &UsageReport| {
            let place = whole
                .principles
                .iter()
                .position(|principle| principle.id == removed)
                .unwrap();
            report.principles[place].revising.as_ref().unwrap().drawn
        };
        assert_eq!(drawn(&after), 0);
        assert!(drawn(&before) > fate.rows as u64 / 4);
        let never = Finding::NeverDrawn {
            principles: vec![removed.into()],
        };
        assert!(after.findings.contains(&never) && !before.findings.contains(&never));

        let (fate, ..) = of(other);
        eprintln!(
            "without {removed}, {other}: {fate:?}, {:.1} standard errors",
            fate.errors()
        );
        assert!(fate.errors() < 2.0, "{other} without {removed}: {fate:?}");
    }
}
