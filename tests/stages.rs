//! The stages over an engine that answers from a function: every row comes out exactly once, in its
//! place, as a row or as a reject with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bylaw::constitution::Constitution;
use bylaw::engine::scripted::ScriptedEngine;
use bylaw::engine::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, Sampling, ScoreRequest};
use bylaw::error::Result;
use bylaw::prompt::{Style, Templates};
use bylaw::record::{Candidates, Completion, FinishReason, Message, Preference, Prompt, Reject, Revision};
use bylaw::seed::Seed;
use bylaw::stage::judge::{Contest, JudgeConfig, contests, judge};
use bylaw::stage::revise::{ReviseConfig, revise};
use bylaw::stage::sample::sample;
use bylaw::stage::{Context, Outcome};
use proptest::prelude::*;
use rand::Rng as _;

// ---------------------------------------------------------------- what the tests share

/// Principles `p0` to `p3`, which both criticise and judge, and one of weight 0.
fn constitution() -> Constitution {
    let mut text = "name = \"test\"\nversion = \"1\"\n".to_owned();
    for index in 0..5 {
        let weight = if index == 4 { 0.0 } else { 1.0 };
        text.push_str(&format!(
            "[[principle]]\nid = \"p{index}\"\ncritique = \"Criticise by {index}.\"\nrevise = \"Rewrite by {index}.\"\n\
             judge = \"Which is better by {index}?\"\nweight = {weight:.1}\n"
        ));
    }
    Constitution::parse(&text, "test.toml").unwrap()
}

fn prompts(count: usize) -> Vec<Prompt> {
    (0..count)
        .map(|index| Prompt {
            id: format!("row-{index}"),
            messages: vec![Message::user(format!("question {index}?"))],
            source: "test".into(),
            tags: Vec::new(),
        })
        .collect()
}

fn context<'a>(engine: &'a dyn Engine, templates: &'a Templates) -> Context<'a> {
    Context {
        engine,
        templates,
        seed: Seed::new(7),
        keep_truncated: false,
    }
}

fn config(rounds: usize) -> ReviseConfig {
    ReviseConfig {
        rounds,
        answer: Sampling::default(),
        critique: Sampling::default(),
    }
}

fn transcript() -> Templates {
    Templates::new(Style::Transcript)
}

/// Which question a prompt is about: `question 12?` is row 12.
fn row_of(prompt: &str) -> usize {
    let rest = prompt.split("Human: question ").nth(1).unwrap();
    rest[..rest.find('?').unwrap()].parse().unwrap()
}

/// What a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Answer,
    Critique,
    Revision,
}

fn step_of(prompt: &str) -> Step {
    match prompt.rsplit("\n\n").next().unwrap() {
        "Assistant:" => Step::Answer,
        "Critique:" => Step::Critique,
        "Revision:" => Step::Revision,
        other => panic!("a prompt ends in {other:?}"),
    }
}

type Reply = Result<(String, FinishReason), Refusal>;

fn said(text: impl Into<String>) -> Reply {
    Ok((text.into(), FinishReason::Stop))
}

fn scripted<G>(reply: G) -> ScriptedEngine<G, fn(&str, &str) -> f32>
where
    G: Fn(&str) -> Reply,
{
    ScriptedEngine {
        reply,
        score: |_, _| 0.0,
    }
}

/// Numbers every reply by row and step, so that a row out of place shows.
fn orderly(prompt: &str) -> Reply {
    let row = row_of(prompt);
    said(match step_of(prompt) {
        Step::Answer => format!("answer {row}"),
        Step::Critique => format!("critique of {}", between(prompt, "Assistant: ", "\n\nCritique Request")),
        Step::Revision => format!("better {}", between(prompt, "Assistant: ", "\n\nCritique Request")),
    })
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let rest = text.split(start).nth(1).unwrap();
    rest.split(end).next().unwrap()
}

/// An engine whose answers depend on the seeds alone, and that cannot score.
struct SeedEngine;

impl Engine for SeedEngine {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        let generation = |request: &GenerateRequest| Generation {
            text: format!("{:016x}", request.seed.rng().random::<u64>()),
            tokens: 1,
            prompt_tokens: 2,
            logprob: -0.5,
            finish_reason: FinishReason::Stop,
        };
        Ok(requests.iter().map(|request| Ok(generation(request))).collect())
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        Ok(vec![Err(Refusal("no scores here".into())); requests.len()])
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(text.len() as u32)
    }

    fn style(&self) -> Style {
        Style::Transcript
    }

    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            reference: "seeds".into(),
            sha256: String::new(),
        }
    }
}

// ---------------------------------------------------------------- revise

/// Catches: a round that criticises the first answer again, a critique that does not reach its
/// revision, requests of another principle than the one recorded, a final answer that is not the last.
#[test]
fn each_round_goes_on_from_the_last() {
    let (constitution, templates) = (constitution(), transcript());
    let seen = Mutex::new(Vec::new());
    let engine = scripted(|prompt: &str| {
        seen.lock().unwrap().push(prompt.to_owned());
        orderly(prompt)
    });
    let rows = revise(context(&engine, &templates), &constitution, &prompts(6), &config(3)).unwrap();
    for (index, row) in rows.into_iter().enumerate() {
        let row = row.unwrap();
        assert_eq!(row.id, format!("row-{index}"));
        assert_eq!(row.initial, format!("answer {index}"));
        assert_eq!(row.final_answer, format!("better better better answer {index}"));
        assert_eq!(row.rounds.len(), 3);
        let mut before = row.initial.clone();
        for round in &row.rounds {
            assert_eq!(round.critique, format!("critique of {before}"));
            assert_eq!(round.revision, format!("better {before}"));
            assert!(round.changed);
            let principle = constitution.principle(&round.principle_id).unwrap();
            assert_eq!(Some(&round.critique_request), principle.critique.as_ref());
            assert_eq!(Some(&round.revision_request), principle.revise.as_ref());
            assert_eq!(round.principle_hash, principle.hash());
            let asked = format!(
                "Assistant: {before}\n\nCritique Request: {}\n\nCritique: {}\n\nRevision Request: {}\n\nRevision:",
                round.critique_request, round.critique, round.revision_request
            );
            assert!(
                seen.lock().unwrap().iter().any(|prompt| prompt.ends_with(&asked)),
                "never asked: {asked}"
            );
            before.clone_from(&round.revision);
        }
        assert_eq!(
            row.messages,
            [row.prompt[0].clone(), Message::assistant(row.final_answer)]
        );
        assert_eq!((row.initial_tokens, row.final_tokens), (2, 5));
    }
}

/// Catches: one principle for all rounds or all rows, a principle of weight 0 drawn, draws that depend
/// on which rows stand beside.
#[test]
fn a_principle_is_drawn_anew_each_round() {
    let (constitution, templates, all) = (constitution(), transcript(), prompts(60));
    let engine = scripted(orderly);
    let drawn = |prompts: &[Prompt]| -> Vec<Vec<String>> {
        let rows = revise(context(&engine, &templates), &constitution, prompts, &config(3)).unwrap();
        let ids = |row: Revision| row.rounds.into_iter().map(|round| round.principle_id).collect();
        rows.into_iter().map(|row| ids(row.unwrap())).collect()
    };
    let together = drawn(&all);
    assert_eq!(drawn(&all), together);
    assert_eq!(drawn(&all[17..18]), together[17..18]);
    for round in 0..3 {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &together {
            *counts.entry(&row[round]).or_default() += 1;
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["p0", "p1", "p2", "p3"]);
        assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
    }
    let repeats = together
        .iter()
        .filter(|row| row[0] == row[1] && row[1] == row[2])
        .count();
    assert!(repeats < 15, "{repeats} of 60 rows have one principle in all rounds");
}

/// Catches: a failed row that takes its neighbour's text, a failure read as an answer, a reason that
/// names the wrong step.
#[test]
fn a_failed_step_rejects_its_row_alone() {
    let failures: [(&str, Reply, &str); 3] = [
        ("is truncated", Ok(("half an".into(), FinishReason::Length)), "half an"),
        ("is empty", said(""), ""),
        ("too long for me", Err(Refusal("too long for me".into())), ""),
    ];
    let steps = [
        (Step::Answer, "the answer"),
        (Step::Critique, "the critique"),
        (Step::Revision, "the revision"),
    ];
    let (constitution, templates) = (constitution(), transcript());
    for (step, named) in steps {
        for (reason, failure, raw) in &failures {
            // Rows 1 and 4 fail, the fourth in its second round where it has one.
            let fails = |prompt: &str| {
                let second = step == Step::Answer || prompt.contains("Assistant: better");
                step_of(prompt) == step && (row_of(prompt) == 1 || (row_of(prompt) == 4 && second))
            };
            let engine = scripted(|prompt: &str| {
                if fails(prompt) {
                    failure.clone()
                } else {
                    orderly(prompt)
                }
            });
            let rows = revise(context(&engine, &templates), &constitution, &prompts(6), &config(2)).unwrap();
            assert_eq!(rows.len(), 6);
            for (index, row) in rows.into_iter().enumerate() {
                match row {
                    Ok(row) => {
                        assert!(![1, 4].contains(&index), "{named} {reason}: row {index} came through");
                        assert_eq!(row.id, format!("row-{index}"));
                        assert_eq!(row.final_answer, format!("better better answer {index}"));
                    }
                    Err(reject) => {
                        assert!([1, 4].contains(&index), "{named} {reason}: row {index} was rejected");
                        assert_eq!((reject.id, reject.stage), (format!("row-{index}"), "revise".into()));
                        assert!(
                            reject.reason.starts_with(named) && reject.reason.contains(reason),
                            "{}",
                            reject.reason
                        );
                        assert_eq!(reject.raw, *raw);
                    }
                }
            }
        }
    }
}

/// Catches: `keep_truncated` that is ignored, or that lets empty answers through as well.
#[test]
fn truncated_answers_are_kept_on_request() {
    let (constitution, templates) = (constitution(), transcript());
    let engine = scripted(|prompt: &str| match row_of(prompt) {
        0 => Ok(("half".into(), FinishReason::Length)),
        _ => said(""),
    });
    let context = Context {
        keep_truncated: true,
        ..context(&engine, &templates)
    };
    let rows = revise(context, &constitution, &prompts(2), &config(1)).unwrap();
    let kept = rows[0].as_ref().unwrap();
    assert_eq!(
        (kept.final_answer.as_str(), kept.final_finish_reason.as_str()),
        ("half", "length")
    );
    assert!(
        !kept.rounds[0].changed,
        "an answer that stayed the same counts as changed"
    );
    assert!(rows[1].is_err());
}

/// Catches: one seed for several draws of a row: then a critique and a revision, or two rounds, or two
/// rows with the same text would draw the same.
#[test]
fn every_draw_has_a_seed_of_its_own() {
    let (constitution, templates) = (constitution(), transcript());
    let engine = SeedEngine;
    let mut same = prompts(2);
    same[1].messages = same[0].messages.clone();
    let rows = revise(context(&engine, &templates), &constitution, &same, &config(3)).unwrap();
    let mut texts = BTreeSet::new();
    for row in rows.into_iter().map(Result::unwrap) {
        texts.insert(row.initial);
        for round in row.rounds {
            texts.extend([round.critique, round.revision]);
        }
    }
    assert_eq!(texts.len(), 2 * (1 + 3 * 2));
}

/// Catches: no answer at all without rounds, or an engine called with nothing to do.
#[test]
fn nothing_to_revise_is_no_error() {
    let (constitution, templates) = (constitution(), transcript());
    let engine = scripted(orderly);
    let rows = revise(context(&engine, &templates), &constitution, &prompts(2), &config(0)).unwrap();
    assert_eq!(rows[1].as_ref().unwrap().final_answer, "answer 1");
    assert!(
        revise(context(&engine, &templates), &constitution, &[], &config(2))
            .unwrap()
            .is_empty()
    );
}

// ---------------------------------------------------------------- sample

/// Catches: samples that share a seed, columns turned into rows, a seed that depends on the batch.
#[test]
fn samples_are_distinct_and_in_place() {
    let (templates, all) = (transcript(), prompts(5));
    let engine = SeedEngine;
    let sampling = Sampling::default();
    let draw = |prompts: &[Prompt]| -> Vec<Candidates> {
        let rows = sample(context(&engine, &templates), prompts, 4, &sampling).unwrap();
        rows.into_iter().map(Result::unwrap).collect()
    };
    let rows = draw(&all);
    let mut texts = BTreeSet::new();
    for (row, prompt) in rows.iter().zip(&all) {
        assert_eq!((&row.id, &row.prompt), (&prompt.id, &prompt.messages));
        assert_eq!(
            row.completions.iter().map(|c| c.sample).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        assert_eq!(row.completions[0].logprob, -0.5);
        texts.extend(row.completions.iter().map(|completion| completion.text.clone()));
    }
    assert_eq!(texts.len(), 20);
    assert_eq!(draw(&all[3..4]), rows[3..4]);
}

/// Catches: a prompt that fails once and shifts the answers of the prompts after it.
#[test]
fn a_failed_sample_rejects_its_prompt_alone() {
    let templates = transcript();
    let engine = scripted(|prompt: &str| match row_of(prompt) {
        1 => Ok(("cut".into(), FinishReason::Length)),
        2 => Err(Refusal("no".into())),
        row => said(format!("answer {row}")),
    });
    let rows = sample(context(&engine, &templates), &prompts(5), 3, &Sampling::default()).unwrap();
    for (index, row) in rows.into_iter().enumerate() {
        match row {
            Ok(row) => {
                assert_eq!((row.id, row.completions.len()), (format!("row-{index}"), 3));
                assert!(row.completions.iter().all(|c| c.text == format!("answer {index}")));
            }
            Err(reject) => {
                assert!(index == 1 || index == 2);
                assert_eq!((reject.id, reject.stage), (format!("row-{index}"), "sample".into()));
            }
        }
    }
}

// ---------------------------------------------------------------- judge

fn completion(text: &str, sample: u32) -> Completion {
    Completion {
        text: text.into(),
        tokens: text.split_whitespace().count() as u32,
        finish_reason: "stop".into(),
        logprob: 0.0,
        sample,
    }
}

fn candidates(texts: &[&str]) -> Candidates {
    Candidates {
        id: "row-0".into(),
        prompt: vec![Message::user("question 0?")],
        completions: (0..)
            .zip(texts)
            .map(|(sample, text)| completion(text, sample))
            .collect(),
    }
}

fn contest(first: &str, second: &str) -> Contest {
    Contest {
        id: "contest".into(),
        prompt: vec![Message::user("question 0?")],
        first: completion(first, 0),
        second: completion(second, 1),
    }
}

/// The texts at (A) and (B) of a judge's prompt.
fn standing(prompt: &str) -> (&str, &str) {
    (
        between(prompt, "(A) ", "\n(B) "),
        between(prompt, "\n(B) ", "\n\nThe answer is: ("),
    )
}

/// Judges one contest by the log-odds of (A) that `log_odds_a` gives for the texts at (A) and (B).
fn judged(
    contest: &Contest,
    principles: usize,
    log_odds_a: impl Fn(&str, &str, &str) -> f32 + Sync,
) -> Outcome<Preference> {
    let engine = ScriptedEngine {
        reply: |_: &str| said("unused"),
        score: |prompt: &str, continuation: &str| {
            let (a, b) = standing(prompt);
            match continuation {
                // Far from normalised: only the difference may count.
                "A" => log_odds_a(prompt, a, b) - 9.0,
                "B" => -9.0,
                other => panic!("asked for {other:?}"),
            }
        },
    };
    let templates = transcript();
    let config = JudgeConfig {
        principles_per_pair: principles,
        ..JudgeConfig::default()
    };
    let mut rows = judge(
        context(&engine, &templates),
        &constitution(),
        std::slice::from_ref(contest),
        &config,
    )
    .unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn near(found: f32, expected: f32) {
    assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
}

/// Catches: a label that is hard, not normalised, from one order only, or with the orders' signs mixed
/// up; the wrong answer chosen; votes with the order told wrongly.
#[test]
fn the_label_is_the_mean_over_both_orders() {
    // The second answer is better by 1.2, and (A) is liked by 0.4.
    let odds = |_: &str, a: &str, _: &str| 0.4 + if a == "good" { 1.2 } else { -1.2 };
    let row = judged(&contest("bad", "good"), 1, odds).unwrap();
    assert_eq!(
        (row.chosen[0].content.as_str(), row.rejected[0].content.as_str()),
        ("good", "bad")
    );
    near(row.margin, 1.2);
    near(row.p_chosen, sigmoid(1.2));
    near(row.p_raw, sigmoid(1.2));
    assert_eq!(
        (row.chosen_chars, row.rejected_chars, row.source.as_str()),
        (4, 3, "judge")
    );
    let votes: BTreeMap<&str, f32> = row.votes.iter().map(|vote| (vote.order.as_str(), vote.p_a)).collect();
    assert_eq!(row.votes.len(), 2);
    near(votes["chosen_first"], sigmoid(1.6));
    near(votes["rejected_first"], sigmoid(-0.8));
    for vote in &row.votes {
        near(sigmoid(vote.logprob_a - vote.logprob_b), vote.p_a);
    }
}

/// Catches: a judge that likes a position and is taken at its word.
#[test]
fn a_liking_for_a_position_is_a_tie() {
    for liking in [-3.0, 0.3, 0.68, 5.0] {
        for principles in [1, 3] {
            let reject = judged(&contest("one", "other"), principles, |_, _, _| liking).unwrap_err();
            assert_eq!(reject.stage, "judge");
            assert!(reject.reason.contains("tie"), "{}", reject.reason);
        }
    }
}

/// Catches: principles that are drawn but not averaged, one that is asked twice, one of weight 0.
#[test]
fn several_principles_are_averaged() {
    let by_principle = |prompt: &str, a: &str, _: &str| {
        let index: u32 = between(prompt, "Which is better by ", "?").parse().unwrap();
        let strength = (index + 1) as f32;
        if a == "good" { strength } else { -strength }
    };
    let strength = |id: &str| id[1..].parse::<f32>().unwrap() + 1.0;
    for (count, asked) in [(1, 1), (2, 2), (3, 3), (4, 4), (12, 4)] {
        let row = judged(&contest("good", "bad"), count, by_principle).unwrap();
        assert_eq!(row.votes.len(), 2 * asked);
        let mean = row.votes.iter().map(|vote| strength(&vote.principle_id)).sum::<f32>() / (2 * asked) as f32;
        near(row.margin, mean);
        let ids: BTreeSet<&str> = row.votes.iter().map(|vote| vote.principle_id.as_str()).collect();
        assert!(ids.len() == asked && !ids.contains("p4"), "{ids:?}");
    }
}

/// Catches: NaN or infinity that becomes a label, a refusal that does.
#[test]
fn a_verdict_that_cannot_be_read_is_a_reject() {
    for odds in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let reject = judged(&contest("one", "other"), 1, |_, _, _| odds).unwrap_err();
        assert!(reject.reason.contains("unusable"), "{}", reject.reason);
    }
    let templates = transcript();
    let config = JudgeConfig::default();
    let engine = SeedEngine;
    let rows = judge(
        context(&engine, &templates),
        &constitution(),
        &[contest("a", "b")],
        &config,
    )
    .unwrap();
    assert_eq!(rows[0].as_ref().unwrap_err().reason, "no scores here");
}

/// Catches: pairs left out or told twice, identical or truncated answers compared, a pair's id that
/// another pair has.
#[test]
fn every_pair_is_a_contest_once() {
    for count in 2..7 {
        let texts: Vec<String> = (0..count).map(|index| format!("answer {index}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let pairs: Vec<Contest> = contests(&candidates(&texts), false)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(pairs.len(), count * (count - 1) / 2);
        let ids: BTreeSet<&str> = pairs.iter().map(|contest| contest.id.as_str()).collect();
        assert_eq!(ids.len(), pairs.len());
        assert!(pairs.iter().all(|contest| contest.first.sample < contest.second.sample));
    }
    let same = contests(&candidates(&["a", "b", " a\n"]), false);
    let reasons: Vec<Option<&str>> = same
        .iter()
        .map(|o| o.as_ref().err().map(|r| r.reason.as_str()))
        .collect();
    assert_eq!(reasons, [None, Some("the two answers are identical"), None]);
    let mut cut = candidates(&["a", "b", "c"]);
    cut.completions[1].finish_reason = "length".into();
    let outcomes = contests(&cut, false);
    let rejected: Vec<&Reject> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(rejected.len(), 2);
    assert!(
        rejected
            .iter()
            .all(|reject| reject.reason.contains("truncated") && reject.raw == "b")
    );
    assert!(contests(&cut, true).iter().all(Result::is_ok));
    for lonely in [vec![], vec!["alone"]] {
        let outcomes = contests(&candidates(&lonely), false);
        assert_eq!(outcomes.len(), 1);
        assert_eq!(outcomes[0].as_ref().unwrap_err().id, "row-0");
    }
}

/// Failures are printed; a file of them would be written beside the tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(256))]

    /// Catches: any asymmetry between the two answers. The chosen text, the label and the votes stay
    /// to the bit when the answers change places.
    #[test]
    fn swapping_the_answers_swaps_the_label(
        strength in -8.0f32..8.0, liking in -3.0f32..3.0, noise in -1.0f32..1.0, principles in 1usize..4,
    ) {
        let odds = |prompt: &str, a: &str, _: &str| {
            let index: f32 = between(prompt, "Which is better by ", "?").parse().unwrap();
            liking + if a == "one" { strength + index * noise } else { -strength }
        };
        let one = judged(&contest("one", "other"), principles, odds);
        let other = judged(&contest("other", "one"), principles, odds);
        match (one, other) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(&one.chosen, &other.chosen);
                prop_assert_eq!(&one.rejected, &other.rejected);
                prop_assert_eq!(one.p_chosen.to_bits(), other.p_chosen.to_bits());
                prop_assert_eq!(one.margin.to_bits(), other.margin.to_bits());
                prop_assert!(one.p_chosen >= 0.5);
                let votes = |row: &Preference| -> BTreeSet<String> {
                    row.votes.iter().map(|vote| format!("{vote:?}")).collect()
                };
                prop_assert_eq!(votes(&one), votes(&other));
            }
            (Err(one), Err(other)) => prop_assert_eq!(one, other),
            (one, other) => prop_assert!(false, "{:?} and {:?}", one, other),
        }
    }
}

// ---------------------------------------------------------------- nothing is lost

/// A reply and a score of any sort, by the prompt's hash.
fn arbitrary(seed: u64, prompt: &str) -> Reply {
    let mut rng = Seed::new(seed).child(prompt).rng();
    match rng.random_range(0..8) {
        0 => Err(Refusal("refused".into())),
        1 => said(""),
        2 => Ok(("cut".into(), FinishReason::Length)),
        // Often the same text, so that identical answers happen.
        kind => said(format!("text {}", rng.random_range(0..kind))),
    }
}

fn arbitrary_score(seed: u64, prompt: &str, continuation: &str) -> f32 {
    let mut rng = Seed::new(seed).child(prompt).child(continuation).rng();
    match rng.random_range(0..10) {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => -rng.random_range(0.0..20.0f32),
    }
}

fn ids<R>(rows: &[Outcome<R>], id: impl Fn(&R) -> &str) -> Vec<String> {
    let of = |row: &Outcome<R>| match row {
        Ok(row) => id(row).to_owned(),
        Err(reject) => reject.id.clone(),
    };
    rows.iter().map(of).collect()
}

proptest! {
    #![proptest_config(cases(64))]

    /// Catches: a row lost, doubled or out of order, whatever the engine does.
    #[test]
    fn rows_in_are_rows_and_rejects_out(seed: u64, count in 0usize..20, rounds in 0usize..4, keep: bool) {
        let (templates, constitution, prompts) = (transcript(), constitution(), prompts(count));
        let engine = ScriptedEngine {
            reply: |prompt: &str| arbitrary(seed, prompt),
            score: |prompt: &str, continuation: &str| arbitrary_score(seed, prompt, continuation),
        };
        let context = Context { keep_truncated: keep, ..context(&engine, &templates) };
        let expected: Vec<String> = prompts.iter().map(|prompt| prompt.id.clone()).collect();

        let revised = revise(context, &constitution, &prompts, &config(rounds)).unwrap();
        prop_assert_eq!(ids(&revised, |row| &row.id), expected.clone());
        for row in revised.iter().flatten() {
            prop_assert_eq!(row.rounds.len(), rounds);
            prop_assert!(!row.final_answer.is_empty());
        }
        let sampled = sample(context, &prompts, 3, &Sampling::default()).unwrap();
        prop_assert_eq!(ids(&sampled, |row| &row.id), expected);

        let rows: Vec<Candidates> = (0..count).map(|row| Candidates {
            id: format!("row-{row}"),
            prompt: prompts[row].messages.clone(),
            completions: (0..4).map(|index| completion(&format!("text {}", (row * index) % 3), index as u32)).collect(),
        }).collect();
        let outcomes: Vec<Outcome<Contest>> = rows.iter().flat_map(|row| contests(row, keep)).collect();
        prop_assert_eq!(outcomes.len(), 6 * count);
        let open: Vec<Contest> = outcomes.into_iter().flatten().collect();
        let config = JudgeConfig::default();
        let judged = judge(context, &constitution, &open, &config).unwrap();
        let expected: Vec<String> = open.iter().map(|contest| contest.id.clone()).collect();
        prop_assert_eq!(ids(&judged, |row| &row.id), expected);
        for row in judged.iter().flatten() {
            prop_assert!((0.5..=1.0).contains(&row.p_chosen) && row.margin > 0.0);
        }
    }
}
