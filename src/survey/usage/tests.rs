use proptest::prelude::*;

use super::*;
use crate::bias::interval::Estimate;
use crate::record::{CHOSEN_FIRST, REJECTED_FIRST, Round, Verdict, Vote};
use crate::stage::judge::label::sigmoid;
use crate::survey::stats::wilson_ends;

/// `kind` and `calm` for everything, `calm` thrice as heavy in comparisons; `idle` for critiques, which nothing draws in
/// these tests, and `never` with the weight 0.
fn constitution() -> Constitution {
    let text = r#"
        name = "three"
        version = "1"
        [[principle]]
        id = "kind"
        critique = "Is it kind?"
        revise = "Make it kind."
        judge = "Which is kinder?"
        [[principle]]
        id = "calm"
        critique = "Is it calm?"
        revise = "Make it calm."
        judge = "Which is calmer?"
        weight = 3.0
        [[principle]]
        id = "idle"
        critique = "Is it idle?"
        revise = "Make it idle."
        [[principle]]
        id = "never"
        critique = "Is it never?"
        revise = "Make it never."
        judge = "Which never?"
        weight = 0.0
    "#;
    Constitution::parse(text, "three.toml").unwrap()
}

fn hash(id: &str) -> String {
    constitution()
        .principle(id)
        .map_or_else(String::new, crate::constitution::Principle::hash)
}

fn revision(prompt: &str, initial: &str, rounds: &[(&str, &str, String)]) -> Revision {
    let mut before = initial;
    let rounds: Vec<Round> = rounds
        .iter()
        .map(|(id, revision, hash)| {
            let round = Round {
                principle_id: (*id).into(),
                critique_request: String::new(),
                critique: String::new(),
                revision_request: String::new(),
                changed: *revision != before,
                revision: (*revision).into(),
                principle_hash: hash.clone(),
            };
            before = *revision;
            round
        })
        .collect();
    Revision {
        id: prompt.into(),
        prompt: vec![Message::user(prompt)],
        initial: initial.into(),
        rounds,
        final_answer: before.into(),
        messages: Vec::new(),
        prompt_tokens: 0,
        initial_tokens: 0,
        final_tokens: 0,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "stop".into(),
    }
}

/// The votes of one principle in both orders, with these log-odds of the chosen answer.
fn votes(id: &str, log_odds: f32) -> Vec<Vote> {
    let vote = |order: &str, log_odds_a: f32| Vote {
        principle_id: id.into(),
        order: order.into(),
        logprob_a: sigmoid(log_odds_a).ln(),
        logprob_b: sigmoid(-log_odds_a).ln(),
        p_a: sigmoid(log_odds_a),
        cot: None,
        verdict: Verdict::of_probability(sigmoid(log_odds_a)).as_str().into(),
        principle_hash: hash(id),
    };
    vec![vote(CHOSEN_FIRST, log_odds), vote(REJECTED_FIRST, -log_odds)]
}

fn preference(prompt: &str, label: f32, votes: Vec<Vote>) -> Preference {
    Preference {
        id: prompt.into(),
        prompt: vec![Message::user(prompt)],
        chosen: vec![Message::assistant("four")],
        rejected: vec![Message::assistant("1")],
        p_chosen: sigmoid(label),
        margin: label,
        weight: 1.0,
        source: "judge".into(),
        votes,
        chosen_tokens: 0,
        rejected_tokens: 0,
        chosen_chars: 0,
        rejected_chars: 0,
        p_raw: sigmoid(label),
    }
}

fn used<'r>(report: &'r UsageReport, id: &str) -> &'r PrincipleUsage {
    report.principles.iter().find(|principle| principle.id == id).unwrap()
}

fn value(estimate: Option<Estimate>) -> f64 {
    estimate.unwrap().value
}

/// Catches: a revision compared with the first answer instead of the one that it revises, a round counted for another
/// principle, another wording taken for an unknown one, a relative change that is a mean of ratios.
#[test]
fn rounds_are_counted_by_principle() {
    let constitution = constitution();
    let mut usage = Usage::new(&constitution);
    let (ten, twenty) = ("1234567890", "12345678901234567890");
    usage.add_revision(&revision(
        "a",
        ten,
        &[("kind", twenty, hash("kind")), ("strange", twenty, String::new())],
    ));
    usage.add_revision(&revision("b", "12345", &[("kind", "12345", "f".repeat(16))]));
    assert_eq!(usage.recognised(), (3, 2));
    let report = usage.finish();
    assert_eq!(report.revising, Some(Revising { rows: 2, rounds: 3 }));
    assert_eq!(report.judging, None);
    let ids: Vec<&str> = report
        .principles
        .iter()
        .map(|principle| principle.id.as_str())
        .collect();
    assert_eq!(ids, ["kind", "calm", "idle", "never", "strange"]);

    let kind = used(&report, "kind").revising.as_ref().unwrap();
    assert_eq!((kind.drawn, value(kind.changed), kind.changed.unwrap().n), (2, 0.5, 2));
    let interval = kind.changed.unwrap().interval.unwrap();
    assert_eq!((interval.low, interval.high), wilson_ends(0.5, 2.0));
    // 10 characters to 10 and none to 5: 5 a round, 10 to 15 in all.
    assert_eq!(value(kind.length_change), 5.0);
    assert!((value(kind.relative_change) - 10.0 / 15.0).abs() < 1e-12);
    let wordings = |same, other, unknown| Wordings { same, other, unknown };
    assert_eq!(kind.wordings, wordings(1, 1, 0));
    let strange = used(&report, "strange");
    assert!(!strange.in_constitution);
    let strange = strange.revising.as_ref().unwrap();
    assert_eq!((strange.drawn, value(strange.changed)), (1, 0.0));
    assert_eq!(strange.wordings, wordings(0, 0, 1));
    let calm = used(&report, "calm").revising.as_ref().unwrap();
    assert_eq!((calm.drawn, calm.changed, calm.length_change), (0, None, None));

    let found: Vec<&Finding> = report.findings.iter().collect();
    let [
        Finding::NeverDrawn { principles },
        Finding::Lengthens { principle, .. },
        Finding::OtherWording {
            rounds: 1, votes: 0, ..
        },
    ] = found[..]
    else {
        panic!("{found:?}")
    };
    // `never` has the weight 0: that it is not drawn is no news.
    assert_eq!(principles, &["calm", "idle"]);
    assert_eq!(principle, "kind");
}

/// Catches: a principle called idle on a few rounds, one that does nothing not called so on many.
#[test]
fn a_principle_that_changes_nothing_is_told_when_that_is_certain() {
    let constitution = constitution();
    let idle = |rows: usize, changed: usize| {
        let mut usage = Usage::new(&constitution);
        for row in 0..rows {
            let after = if row < changed { "new" } else { "old" };
            usage.add_revision(&revision(
                &format!("prompt {row}"),
                "old",
                &[("kind", after, hash("kind"))],
            ));
        }
        let findings = usage.finish().findings;
        findings
            .iter()
            .any(|finding| matches!(finding, Finding::ChangesNothing { .. }))
    };
    // Of none among n the interval ends at 3.84 / (n + 3.84): below 2 % from 189 on.
    assert!(!idle(100, 0));
    assert!(idle(300, 0));
    assert!(!idle(300, 6));
}

/// Catches: a vote counted for the wrong answer, pairs counted as votes, a label recounted by other weights than it was
/// made with, one that does not follow from its votes recounted all the same, a principle that decides with others'
/// votes left out.
#[test]
fn votes_are_counted_by_principle() {
    let constitution = constitution();
    let mut usage = Usage::new(&constitution);
    let two = |kind: f32, calm: f32| [votes("kind", kind), votes("calm", calm)].concat();
    // Without `kind` the label of the first would be the other one: -1.
    usage.add_preference(&preference("1", 0.5, two(2.0, -1.0)));
    // Nobody decides this one.
    usage.add_preference(&preference("2", 2.0, two(1.0, 3.0)));
    usage.add_preference(&preference("3", 1.0, votes("kind", 1.0)));
    // A label that the votes do not give.
    usage.add_preference(&preference("4", 5.0, two(1.0, 1.0)));
    // By the weights 1 and 3: (1 · -4 + 3 · 2) / 4 = 1/2. Without `calm` the label would be -4.
    usage.add_preference(&preference("5", 0.5, two(-4.0, 2.0)));
    usage.add_preference(&preference("6", 1.0, Vec::new()));
    let report = usage.finish();
    let totals = Judging {
        rows: 6,
        votes: 18,
        without_votes: 1,
        recounted: 3,
        not_recounted: 1,
    };
    assert_eq!(report.judging, Some(totals));

    let kind = used(&report, "kind").judging.as_ref().unwrap();
    let calm = used(&report, "calm").judging.as_ref().unwrap();
    assert_eq!((kind.votes, kind.pairs, kind.pairs_alone), (10, 5, 1));
    assert_eq!((calm.votes, calm.pairs, calm.pairs_alone), (8, 4, 0));
    // `kind` is for the chosen answer in all pairs but the fifth, `calm` in all but the first.
    assert_eq!((value(kind.with_label), value(calm.with_label)), (0.8, 0.75));
    assert!((value(kind.first_shown) - 0.5).abs() < 1e-7);
    assert_eq!(kind.first_shown.unwrap().n, 10);
    // The chosen answers are three characters longer: (8 · 3 - 2 · 3) / 10.
    assert!((value(kind.length_difference) - 1.8).abs() < 1e-12);
    assert!((value(kind.decisive) - 1.0 / 3.0).abs() < 1e-12);
    assert!((value(calm.decisive) - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(kind.wordings.same, 10);
    // They agree on the second and the fourth of four.
    let [both] = &report.agreement[..] else {
        panic!("{:?}", report.agreement)
    };
    assert_eq!((both.one.as_str(), both.other.as_str()), ("kind", "calm"));
    assert_eq!((both.agreement.value, both.agreement.n), (0.5, 4));
    // `never` has the weight 0, `idle` no question.
    assert_eq!(report.findings, []);
}

/// Catches: ties and what could not be read counted as votes for an answer, a liking for a position that cancels,
/// ratings of each answer alone taken for an order.
#[test]
fn votes_without_a_side_are_told_apart() {
    let constitution = constitution();
    let mut usage = Usage::new(&constitution);
    let mut row = preference("1", 1.0, [votes("kind", 2.0), votes("kind", 0.0)].concat());
    row.votes[1].p_a = 0.75;
    row.votes[1].verdict = "a".into();
    row.votes[3].verdict = "unparsed".into();
    let mut rated = votes("calm", 1.0);
    rated.pop();
    rated[0].cot = Some("Expected ratings: (A) 4.000, (B) 2.000.".into());
    row.votes.extend(rated);
    usage.add_preference(&row);
    let report = usage.finish();
    let kind = used(&report, "kind").judging.as_ref().unwrap();
    assert_eq!((kind.ties, kind.unparsed, value(kind.with_label)), (1, 1, 0.5));
    let first = (f64::from(sigmoid(2.0)) + 0.75 + 0.5) / 3.0;
    assert!((value(kind.first_shown) - first).abs() < 1e-7);
    let calm = used(&report, "calm").judging.as_ref().unwrap();
    assert_eq!((calm.first_shown, value(calm.with_label)), (None, 1.0));
}

/// Catches: principles that disagree passed over, or told on too few pairs.
#[test]
fn principles_at_odds_are_told_when_that_is_certain() {
    let constitution = constitution();
    let at_odds = |pairs: usize| {
        let mut usage = Usage::new(&constitution);
        for pair in 0..pairs {
            let calm = if pair % 4 == 0 { 1.0 } else { -1.0 };
            let both = [votes("kind", 2.0), votes("calm", calm)].concat();
            usage.add_preference(&preference(&pair.to_string(), (2.0 + calm) / 2.0, both));
        }
        let findings = usage.finish().findings;
        findings.iter().any(|finding| matches!(finding, Finding::AtOdds { .. }))
    };
    // Three quarters: Wilson's interval begins at .41 of 8, at .60 of 40.
    assert!(!at_odds(8));
    assert!(at_odds(40));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Catches: rounds or votes lost, or counted twice, whatever principles they name.
    #[test]
    fn principles_share_all_rounds_and_votes(
        rows in proptest::collection::vec((0usize..9, proptest::collection::vec(0usize..6, 0..4)), 0..30),
    ) {
        const IDS: [&str; 6] = ["kind", "calm", "idle", "", "strange", "other"];
        let constitution = constitution();
        let mut usage = Usage::new(&constitution);
        let (mut rounds, mut all_votes) = (0, 0);
        for (prompt, ids) in &rows {
            let drawn: Vec<(&str, &str, String)> = ids.iter().map(|id| (IDS[*id], "after", hash(IDS[*id]))).collect();
            usage.add_revision(&revision(&prompt.to_string(), "before", &drawn));
            rounds += drawn.len() as u64;
            let asked: Vec<Vote> = ids.iter().flat_map(|id| votes(IDS[*id], *id as f32 - 2.0)).collect();
            all_votes += asked.len() as u64;
            usage.add_preference(&preference(&prompt.to_string(), 1.0, asked));
        }
        let report = usage.finish();
        let revising = || report.principles.iter().filter_map(|principle| principle.revising.as_ref());
        let judging = || report.principles.iter().filter_map(|principle| principle.judging.as_ref());
        prop_assert_eq!(revising().map(|used| used.drawn).sum::<u64>(), rounds);
        prop_assert_eq!(judging().map(|used| used.votes).sum::<u64>(), all_votes);
        let told = |wordings: Wordings| wordings.same + wordings.other + wordings.unknown;
        prop_assert_eq!(revising().map(|used| told(used.wordings)).sum::<u64>(), rounds);
        let sides = |used: &JudgingUse| used.with_label.map_or(0, |share| share.n) + used.ties + used.unparsed;
        prop_assert_eq!(judging().map(sides).sum::<u64>(), all_votes);
    }
}
