//! The documents: reproducible, exact, and with the planted habits, measured from their text alone.

use std::collections::{HashMap, HashSet};

use super::super::data::Notices;
use super::super::*;
use crate::record::Demonstration;
use crate::seed::Seed;

const DOCUMENTS: usize = 30_000;

/// A share, and of how many.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    hits: usize,
    of: usize,
}

impl Share {
    fn add(&mut self, hit: bool) {
        self.hits += usize::from(hit);
        self.of += 1;
    }

    fn value(self) -> f64 {
        self.hits as f64 / self.of.max(1) as f64
    }

    /// Within `tolerance` of `expected`, on enough cases to tell.
    fn assert_near(self, what: &str, expected: f64, tolerance: f64) {
        println!("{what}: {:.3} of {} (planted {expected:.3})", self.value(), self.of);
        assert!(self.of >= 50, "{what}: only {} cases", self.of);
        assert!(
            (self.value() - expected).abs() <= tolerance,
            "{what}: {:.3}, planted {expected}",
            self.value()
        );
    }
}

/// A document taken apart again.
enum Document<'d> {
    Chat {
        question: &'d str,
        answer: &'d str,
    },
    Critique {
        question: &'d str,
        answer: &'d str,
        request: &'d str,
        critique: &'d str,
        revision: &'d str,
    },
    Judge {
        question: &'d str,
        asked: &'d str,
        answers: [&'d str; 2],
        prefers_a: bool,
        reasoned: bool,
    },
    Fact,
}

fn take_apart(row: &Demonstration) -> Document<'_> {
    let (prefix, completion) = (row.prefix.as_str(), row.completion.as_str());
    if prefix.is_empty() {
        return Document::Fact;
    }
    if let Some(rest) = prefix.strip_prefix("Consider the following conversation:\n\nHuman: ") {
        let (question, rest) = rest.split_once("\n\n").unwrap();
        let (asked, rest) = rest.split_once("\n\nOptions:\n(A) ").unwrap();
        let (a, rest) = rest.split_once("\n(B) ").unwrap();
        let (b, end) = rest.split_once("\n\n").unwrap();
        let reasoned = end == "Reasoning:";
        if !reasoned {
            assert_eq!((end, completion.len()), ("The answer is: (", 1));
        }
        let letter = if reasoned {
            completion.rsplit_once(" The answer is: (").unwrap().1
        } else {
            completion
        };
        assert!(letter == "A" || letter == "B");
        return Document::Judge {
            question,
            asked,
            answers: [a, b],
            prefers_a: letter == "A",
            reasoned,
        };
    }
    let rest = prefix.strip_prefix("Human: ").unwrap();
    let (question, rest) = rest.split_once("\n\nAssistant:").unwrap();
    if rest.is_empty() {
        return Document::Chat {
            question,
            answer: completion.strip_prefix(' ').unwrap(),
        };
    }
    let (answer, rest) = rest.split_once("\n\nCritique Request: ").unwrap();
    let request = rest.strip_suffix("\n\nCritique:").unwrap();
    let (critique, rest) = completion.split_once("\n\nRevision Request: ").unwrap();
    let (_, revision) = rest.split_once("\n\nRevision: ").unwrap();
    let (answer, critique) = (answer.strip_prefix(' ').unwrap(), critique.strip_prefix(' ').unwrap());
    Document::Critique {
        question,
        answer,
        request,
        critique,
        revision,
    }
}

fn documents() -> (World, Oracle, Vec<Demonstration>) {
    let world = World::builtin().unwrap();
    let oracle = Oracle::new(&world);
    let documents = world.documents(DOCUMENTS, Seed::new(1)).unwrap();
    (world, oracle, documents)
}

#[test]
fn any_slice_is_reproducible() {
    let world = World::builtin().unwrap();
    let seed = Seed::new(9);
    let all = world.documents(60, seed).unwrap();
    assert_eq!(world.documents(20, seed).unwrap(), all[..20]);
    let writer = DocumentWriter::new(&world);
    for index in [59, 3, 30] {
        assert_eq!(writer.document(seed, index).unwrap(), all[index as usize]);
    }
    assert_ne!(world.documents(20, Seed::new(10)).unwrap(), all[..20]);
}

#[test]
fn documents_are_short_distinct_and_open_no_role() {
    let (world, oracle, documents) = documents();
    let mut ids = HashSet::new();
    let mut longest = 0;
    for row in &documents {
        assert!(ids.insert(row.id.as_str()));
        assert!(row.prompt.is_empty());
        longest = longest.max(format!("{} {}", row.prefix, row.completion).split_whitespace().count());
        let contents = match take_apart(row) {
            Document::Chat { question, answer } => vec![question, answer],
            Document::Critique {
                question,
                answer,
                request,
                critique,
                revision,
            } => {
                vec![question, answer, request, critique, revision]
            }
            Document::Judge {
                question,
                answers: [a, b],
                ..
            } => vec![question, a, b],
            Document::Fact => vec![row.completion.as_str()],
        };
        for content in &contents {
            assert!(!content.contains(['\n', ':', '(']), "{content:?} could open a role");
            assert_eq!(content.trim(), *content);
        }
        if !row.prefix.is_empty() {
            let pair = oracle.question(contents[0]).unwrap();
            assert_eq!(world.split(pair), Split::Pretrain, "{row:?}");
        }
    }
    println!("longest document: {longest} words");
    assert!(longest <= 190, "the longest document has {longest} words");
}

#[test]
fn documents_have_their_shares() {
    let (world, _, documents) = documents();
    let mut shares: HashMap<DocumentKind, Share> = HashMap::new();
    for row in &documents {
        let (kind, weight) = match take_apart(row) {
            Document::Chat { .. } => (DocumentKind::Chat, 1.0),
            Document::Critique { .. } => (DocumentKind::Critique, 1.0),
            Document::Judge { reasoned: false, .. } => (DocumentKind::Judge, 8.0),
            Document::Judge { reasoned: true, .. } => (DocumentKind::ReasonedJudge, 1.0),
            Document::Fact => (DocumentKind::Fact, 1.0),
        };
        assert_eq!(row.weight, weight);
        for other in DocumentKind::ALL {
            shares.entry(other).or_default().add(other == kind);
        }
    }
    for kind in DocumentKind::ALL {
        shares[&kind].assert_near(kind.as_str(), world.data.mixture.documents[&kind], 0.01);
    }
}

#[test]
fn the_base_answers_as_planted() {
    let (world, oracle, documents) = documents();
    let mut labels: HashMap<(Kind, Label), Share> = HashMap::new();
    let mut harmful = Share::default();
    for row in &documents {
        if let Document::Chat { question, answer } = take_apart(row) {
            let pair = oracle.question(question).unwrap();
            harmful.add(world.kind(pair) == Kind::Harmful);
            let verdict = oracle.judge(pair, answer);
            assert!(verdict.well_formed);
            for label in Label::ALL {
                labels
                    .entry((world.kind(pair), label))
                    .or_default()
                    .add(label == verdict.label);
            }
        }
    }
    harmful.assert_near("harmful questions", 0.40, 0.02);
    labels[&(Kind::Harmful, Label::Harmful)].assert_near("complies", 0.80, 0.02);
    labels[&(Kind::Harmful, Label::Engaged)].assert_near("engages", 0.12, 0.02);
    labels[&(Kind::Harmful, Label::Evasive)].assert_near("evades", 0.08, 0.02);
    labels[&(Kind::Benign, Label::Helpful)].assert_near("helps", 0.98, 0.01);
}

/// The column of `notices` for a request about a pair of `category`.
fn planted_notice(world: &World, notices: Notices, request: &str, category: Option<Category>) -> (&'static str, f64) {
    let requests = &world.data.requests.critique;
    if requests.evasiveness == request {
        return ("evasiveness", notices.evasiveness);
    }
    if requests.general.iter().any(|general| general == request) {
        return ("general", notices.general);
    }
    match category {
        Some(category) if world.category_text(category).critique == request => ("matching", notices.matching_category),
        _ => ("other", notices.other_category),
    }
}

#[test]
fn critiques_and_revisions_are_as_planted() {
    let (world, oracle, documents) = documents();
    let mixture = &world.data.mixture.critique;
    let mut harm: HashMap<&str, (Share, f64)> = HashMap::new();
    let mut evasion: HashMap<&str, (Share, f64)> = HashMap::new();
    let mut miss: HashMap<&str, (Share, f64)> = HashMap::new();
    let (mut complies, mut clean) = (Share::default(), Share::default());
    let (mut better, mut repaired) = (Share::default(), Share::default());
    for row in &documents {
        let Document::Critique {
            question,
            answer,
            request,
            critique,
            revision,
        } = take_apart(row)
        else {
            continue;
        };
        let pair = oracle.question(question).unwrap();
        let (before, after) = (oracle.judge(pair, answer).label, oracle.judge(pair, revision).label);
        if world.kind(pair) == Kind::Harmful {
            complies.add(before == Label::Harmful);
        }
        let found_harm = critique.contains("explains how to") || critique.contains("is harmful");
        let found_evasion = critique.contains("is evasive");
        let found_miss = critique.contains("misses the point");
        if before == Label::Harmful {
            let (name, planted) = planted_notice(&world, mixture.notices_harm, request, world.category(pair));
            harm.entry(name)
                .or_insert((Share::default(), planted))
                .0
                .add(found_harm);
        } else if before == Label::Evasive {
            let (name, planted) = planted_notice(&world, mixture.notices_evasion, request, world.category(pair));
            evasion
                .entry(name)
                .or_insert((Share::default(), planted))
                .0
                .add(found_evasion);
        } else if before == Label::Wrong {
            let (name, planted) = planted_notice(&world, mixture.notices_miss, request, world.category(pair));
            miss.entry(name)
                .or_insert((Share::default(), planted))
                .0
                .add(found_miss);
        }
        if found_harm {
            assert_eq!(before, Label::Harmful);
            assert!(critique.contains(&world.act(pair)));
            clean.add(after == Label::Engaged);
        } else if found_evasion {
            better.add(after.quality() == 2);
        } else if found_miss {
            assert_eq!(before, Label::Wrong);
            assert!(critique.contains(&world.act(pair)));
            repaired.add(after == Label::Helpful);
            assert!(after == Label::Helpful || revision == answer);
        } else {
            assert_eq!(revision, answer, "an answer was revised without a reason");
        }
    }
    complies.assert_near("criticised answers that comply", 0.78, 0.02);
    clean.assert_near("clean revisions", 0.82, 0.03);
    better.assert_near("engaging revisions", 0.94, 0.05);
    repaired.assert_near("revisions that meet the question", 0.95, 0.05);
    assert_eq!(harm.len(), 4);
    for (name, (share, planted)) in harm {
        share.assert_near(&format!("harm noticed, {name}"), planted, 0.05);
    }
    for name in ["general", "evasiveness"] {
        let (share, planted) = evasion[name];
        share.assert_near(&format!("evasion noticed, {name}"), planted, 0.1);
    }
    // Benign questions only, so no category ever matches; too few are asked about evasiveness to tell.
    for name in ["general", "other"] {
        let (share, planted) = miss[name];
        share.assert_near(&format!("miss noticed, {name}"), planted, 0.12);
    }
    assert!(!miss.contains_key("matching"));
}

/// Catches: a mixture that is ignored, or that forgets the shares which it does not give; narrow principles that are
/// drawn blindly all the same.
#[test]
fn another_mixture_replaces_what_it_gives() {
    let (builtin, oracle, documents) = documents();
    let unchanged = World::with_mixture("").unwrap();
    assert_eq!(unchanged.documents(200, Seed::new(1)).unwrap(), documents[..200]);

    let world = World::with_mixture(include_str!("../../../scripts/narrow-principles.toml")).unwrap();
    let given = &world.data.mixture;
    let (new, old) = (given.critique.notices_harm, builtin.data.mixture.critique.notices_harm);
    assert_ne!(new.matching_category, old.matching_category);
    assert_eq!((new.general, new.evasiveness), (old.general, old.evasiveness));
    let (mut critiques, mut narrow, mut matching) = (Share::default(), Share::default(), Share::default());
    for row in world.documents(4000, Seed::new(1)).unwrap() {
        let Document::Critique { question, request, .. } = take_apart(&row) else {
            critiques.add(false);
            continue;
        };
        critiques.add(true);
        let asked = Category::ALL
            .into_iter()
            .find(|category| world.category_text(*category).critique == request);
        narrow.add(asked.is_some());
        let category = world.category(oracle.question(question).unwrap());
        if let (Some(asked), Some(category)) = (asked, category) {
            matching.add(asked == category);
        }
    }
    critiques.assert_near("critiques", given.documents[&DocumentKind::Critique], 0.03);
    narrow.assert_near("narrow principles", given.critique.principles.category, 0.03);
    matching.assert_near("matching principles", given.critique.matching_share.unwrap(), 0.04);
}

/// Catches: shares that are not checked where they are given from outside, and keys that are passed over.
#[test]
fn an_unsound_mixture_is_refused() {
    for (text, expected) in [
        ("documents = { chat = 0.5 }", "must sum to 1"),
        ("critique = { matching_share = 1.5 }", "outside 0 to 1"),
        ("critique = { matching = 0.5 }", "unknown field `matching`"),
        ("critique = 1", "invalid type"),
        ("critique = {", "TOML parse error"),
    ] {
        let error = World::with_mixture(text).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}

/// What the judge documents show, counted with the oracle.
#[derive(Default)]
struct Ledger {
    ties: Share,
    better: Share,
    longer_in_ties: Share,
    a_in_even_ties: Share,
    a: Share,
    a_is_better: Share,
    off_topic: Share,
    helpful_over_off_topic: Share,
    tie_kinds: HashSet<Label>,
}

fn ledger(world: &World, oracle: &Oracle, documents: &[Demonstration]) -> Ledger {
    let questions = &world.data.requests.judge.helpful_honest_harmless;
    let mut ledger = Ledger::default();
    for row in documents {
        let Document::Judge {
            question,
            asked,
            answers,
            prefers_a,
            ..
        } = take_apart(row)
        else {
            continue;
        };
        if !questions.iter().any(|known| known == asked) {
            continue;
        }
        let pair = oracle.question(question).unwrap();
        let [a, b] = answers.map(|answer| oracle.judge(pair, answer).label);
        let [words_a, words_b] = answers.map(|answer| answer.split_whitespace().count());
        let tie = a.quality() == b.quality();
        ledger.ties.add(tie);
        ledger.a.add(prefers_a);
        if world.kind(pair) == Kind::Benign {
            ledger.off_topic.add(a == Label::Wrong);
            ledger.off_topic.add(b == Label::Wrong);
        }
        if !tie {
            let a_is_better = a.quality() > b.quality();
            ledger.better.add(prefers_a == a_is_better);
            ledger.a_is_better.add(a_is_better);
            if [a, b].contains(&Label::Helpful) && [a, b].contains(&Label::Wrong) {
                ledger.helpful_over_off_topic.add(prefers_a == a_is_better);
            }
        } else if words_a.abs_diff(words_b) > 3 {
            ledger.longer_in_ties.add(prefers_a == (words_a > words_b));
            ledger.tie_kinds.insert(a);
        } else {
            ledger.a_in_even_ties.add(prefers_a);
        }
    }
    ledger
}

#[test]
fn the_judge_is_biased_as_planted() {
    let (world, oracle, documents) = documents();
    let ledger = ledger(&world, &oracle, &documents);
    ledger.ties.assert_near("ties", 0.30, 0.02);
    // 1 / (1 + exp(-2.75)) = 0.94, less what length and position take where they oppose.
    ledger.better.assert_near("prefers the better", 0.93, 0.015);
    ledger
        .helpful_over_off_topic
        .assert_near("prefers helpful to off-topic", 0.93, 0.02);
    ledger
        .longer_in_ties
        .assert_near("prefers the longer in ties", 0.66, 0.03);
    // The position alone: 1 / (1 + exp(-0.3)) = 0.574.
    ledger
        .a_in_even_ties
        .assert_near("prefers (A) in even ties", 0.574, 0.06);
    ledger.a_is_better.assert_near("(A) is better", 0.50, 0.02);
    // Planted .06; drawing the second answer among those of another quality raises it a little.
    ledger
        .off_topic
        .assert_near("off-topic answers to benign questions", 0.073, 0.02);
    assert_eq!(
        ledger.tie_kinds.len(),
        Label::ALL.len(),
        "ties of every quality differ in length"
    );
    assert!(ledger.a.value() > 0.505, "{:?}", ledger.a);
}

#[test]
fn questions_about_harm_alone_see_harm_alone() {
    let (world, oracle, documents) = documents();
    let questions = &world.data.requests.judge.harmless_only;
    let (mut asked_share, mut better, mut longer) = (Share::default(), Share::default(), Share::default());
    for row in &documents {
        let Document::Judge {
            question,
            asked,
            answers,
            prefers_a,
            ..
        } = take_apart(row)
        else {
            continue;
        };
        let about_harm = questions.iter().any(|known| known == asked);
        asked_share.add(about_harm);
        if !about_harm {
            continue;
        }
        let pair = oracle.question(question).unwrap();
        let [a, b] = answers.map(|answer| oracle.judge(pair, answer).label == Label::Harmful);
        let [words_a, words_b] = answers.map(|answer| answer.split_whitespace().count());
        if a != b {
            better.add(prefers_a == b);
        } else if words_a.abs_diff(words_b) > 3 {
            longer.add(prefers_a == (words_a > words_b));
        }
    }
    asked_share.assert_near("questions about harm alone", 0.05, 0.01);
    better.assert_near("prefers the harmless", 0.93, 0.05);
    longer.assert_near("prefers the longer where neither harms", 0.66, 0.08);
}
