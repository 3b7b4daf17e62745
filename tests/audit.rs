//! Audits: rules that were planted in a judge are found again, recorded verdicts are counted as their publishers
//! counted them, and controls take out what was planted and nothing else.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bylaw::bias::audit::{Section, section};
use bylaw::bias::causal::{self, Change, Effect, Trial};
use bylaw::bias::control::matching::Caliper;
use bylaw::bias::control::{Unit, residual, weights};
use bylaw::bias::figures::Figure;
use bylaw::bias::labels;
use bylaw::bias::measure::prefer_longer;
use bylaw::constitution::Constitution;
use bylaw::dataset::read_recorded;
use bylaw::engine::local::LocalEngine;
use bylaw::engine::scripted::ScriptedEngine;
use bylaw::engine::{Engine, Refusal};
use bylaw::error::Result;
use bylaw::judged::{JudgedPair, Winner};
use bylaw::model::files::{BUILTIN, Model};
use bylaw::progress::Silent;
use bylaw::prompt::Templates;
use bylaw::record::{Candidates, Preference, TIE, messages_id};
use bylaw::seed::Seed;
use bylaw::stage::judge::{JudgeConfig, contests, judge};
use bylaw::stage::{Context, Outcome};
use bylaw::world::{Split, World};

/// Labels of rows of two answers by an engine, in their order.
fn judged(engine: &dyn Engine, rows: &[Candidates]) -> Vec<Outcome<Preference>> {
    let templates = Templates::new(engine.style());
    let constitution = Constitution::builtin("proving-ground").unwrap();
    let context = Context {
        engine,
        templates: &templates,
        seed: Seed::new(3),
        keep_truncated: true,
    };
    let mut asked = Vec::new();
    for row in rows {
        for contest in contests(row, true) {
            let mut contest = contest.unwrap();
            for answer in [&mut contest.first, &mut contest.second] {
                answer.tokens = engine.count_tokens(&answer.text).unwrap();
            }
            asked.push(contest);
        }
    }
    assert_eq!(asked.len(), rows.len());
    judge(context, &constitution, &asked, &JudgeConfig::default()).unwrap()
}

/// Log-odds of a row's first answer; 0 of a tie.
fn log_odds(row: &Candidates, label: &Outcome<Preference>) -> Option<f64> {
    match label {
        Ok(label) => {
            let first = label.chosen[0].content == row.completions[0].text;
            Some(if first {
                f64::from(label.margin)
            } else {
                -f64::from(label.margin)
            })
        }
        Err(reject) if reject.reason == TIE => Some(0.0),
        Err(_) => None,
    }
}

/// A judge that reads both options and answers by a rule: log-odds of the first over the second.
fn scripted(rule: impl Fn(&str, &str) -> f32 + Sync) -> impl Engine {
    let score = move |prompt: &str, continuation: &str| {
        let (_, options) = prompt.rsplit_once("Options:\n(A) ").unwrap();
        let (first, rest) = options.split_once("\n(B) ").unwrap();
        let (second, _) = rest.rsplit_once("\n\nThe answer is").unwrap();
        let odds = rule(first.trim(), second.trim());
        let p = 1.0 / (1.0 + (-odds).exp());
        if continuation == "A" { p.ln() } else { (1.0 - p).ln() }
    };
    ScriptedEngine {
        reply: |_: &str| Err(Refusal("this judge is asked for scores alone".into())),
        score,
    }
}

fn words(text: &str) -> i32 {
    text.split_whitespace()
        .filter(|word| word.chars().any(char::is_alphabetic))
        .count() as i32
}

/// What a word adds, up to a limit, beside a liking for (A).
fn step(gain: f32) -> impl Fn(&str, &str) -> f32 {
    move |a, b| {
        let more = words(a) - words(b);
        0.3 + if more.abs() > 3 {
            gain * more.signum() as f32
        } else {
            0.0
        }
    }
}

fn pairs(count: usize) -> (Vec<causal::Pair>, Vec<Ordering>) {
    let world = World::builtin().unwrap();
    let known = world.known_contests(Split::Evaluation, count, Seed::new(8)).unwrap();
    known
        .into_iter()
        .map(|(row, order)| {
            let [first, second] = <[_; 2]>::try_from(row.completions).unwrap();
            let pair = causal::Pair {
                id: row.id,
                prompt: row.prompt,
                answers: [first, second],
            };
            (pair, order)
        })
        .unzip()
}

/// The sentences of the proving ground that say nothing.
fn padding() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts/padding/proving-ground.txt");
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn experiment(engine: &dyn Engine, count: usize) -> Vec<Effect> {
    let (pairs, _) = pairs(count);
    let planned = causal::plan(&pairs, &Change::ALL, &padding(), Seed::new(1));
    let odds = |rows: Vec<Candidates>| -> Vec<Option<f64>> {
        let labels = judged(engine, &rows);
        rows.iter()
            .zip(&labels)
            .map(|(row, label)| log_odds(row, label))
            .collect()
    };
    let before = odds(pairs.iter().map(causal::Pair::row).collect());
    let after = odds(planned.iter().map(|changed| changed.against_other.clone()).collect());
    let itself = odds(planned.iter().map(|changed| changed.against_itself.clone()).collect());
    let trials = planned.iter().enumerate().map(|(index, changed)| Trial {
        prompt: messages_id(&pairs[changed.pair].prompt),
        change: changed.change,
        before: before[changed.pair].map(|odds| if changed.side == 0 { odds } else { -odds }),
        after: after[index],
        over_itself: itself[index],
    });
    causal::effects(&trials.collect::<Vec<_>>(), Seed::new(2), &Silent).unwrap()
}

fn effect(effects: &[Effect], change: Change) -> &Effect {
    effects.iter().find(|effect| effect.change == change).unwrap()
}

/// Catches: a gain mixed with the liking for a place, trials of one change counted for another, a changed answer
/// compared with the wrong one.
#[test]
fn padding_recovers_the_rule_of_a_scripted_judge() {
    let found = experiment(&scripted(step(0.68)), 60);
    for change in [Change::Padded, Change::Repeated] {
        let effect = effect(&found, change);
        let gain = effect.gain.unwrap();
        assert!((gain.value - 0.68).abs() < 1e-4 && gain.n == 60, "{change}: {gain}");
        assert_eq!(effect.preferred.unwrap().value, 1.0);
        // An answer that was behind, or even, is ahead when it is longer by so much; never the other way round.
        assert!(effect.flips.unwrap().is_above(0.2), "{effect:?}");
        assert_eq!(effect.flips_back.unwrap().value, 0.0);
    }
    // A list has the same words.
    let listed = effect(&found, Change::Listed);
    assert_eq!((listed.gain.unwrap().value, listed.flips.unwrap().value), (0.0, 0.0));
}

/// Catches: an effect made up where there is none.
#[test]
fn a_judge_that_does_not_count_words_shows_no_effect() {
    for effect in experiment(&scripted(step(0.0)), 30) {
        assert_eq!(effect.gain.unwrap().value, 0.0, "{effect:?}");
        assert_eq!(effect.preferred.unwrap().value, 0.5);
        assert!(effect.flips.is_none() && effect.shift.unwrap().value == 0.0);
    }
}

/// The bundled model was taught by documents to like the longer of two equals: it does, and likes padding and not
/// lists.
#[test]
fn padding_finds_what_the_bundled_model_was_taught() {
    let found = experiment(tiny(), 40);
    let padded = effect(&found, Change::Padded);
    assert!(padded.gain.unwrap().is_above(0.1), "{padded:?}");
    assert!(padded.preferred.unwrap().is_above(0.6), "{padded:?}");
    let listed = effect(&found, Change::Listed).gain.unwrap();
    assert!(listed.value.abs() < 0.1, "{listed}");
}

fn tiny() -> &'static LocalEngine {
    static ENGINE: OnceLock<LocalEngine> = OnceLock::new();
    ENGINE.get_or_init(|| LocalEngine::new(Arc::new(Model::load(BUILTIN).unwrap())).unwrap())
}

/// Labels of contests of known quality, and what is known of each label's chosen answer.
fn known_labels(engine: &dyn Engine, count: usize) -> Vec<(Preference, Winner)> {
    let (pairs, orders) = pairs(count);
    let rows: Vec<Candidates> = pairs.iter().map(causal::Pair::row).collect();
    let labels = judged(engine, &rows).into_iter();
    labels
        .zip(rows)
        .zip(orders)
        .filter_map(|((label, row), order)| {
            let label = label.ok()?;
            let first = label.chosen[0].content == row.completions[0].text;
            let gold = match order {
                Ordering::Equal => Winner::Tie,
                order if order.is_gt() == first => Winner::First,
                _ => Winner::Second,
            };
            Some((label, gold))
        })
        .collect()
}

fn audited(labels: &[(Preference, Winner)]) -> Section {
    let pairs: Vec<JudgedPair> = labels
        .iter()
        .map(|(label, gold)| JudgedPair {
            gold: Some(*gold),
            ..labels::pair(label)
        })
        .collect();
    section("all", &pairs.iter().collect::<Vec<_>>(), Seed::new(4), &Silent).unwrap()
}

/// Catches: figures or intervals that miss a bias of known size: 0.68 log-odds is a probability of 0.664.
#[test]
fn the_audit_finds_a_planted_bias_within_its_interval() {
    let section = audited(&known_labels(&scripted(step(0.68)), 200));
    let probability = section.get(Figure::LongerProbabilityOnTies).unwrap();
    let planted = 1.0 / (1.0 + (-0.68f64).exp());
    assert!(
        probability.interval.unwrap().covers(planted) || (probability.value - planted).abs() < 1e-6,
        "{probability}"
    );
    assert_eq!(section.get(Figure::PreferLongerOnTies).unwrap().value, 1.0);
    assert!(!section.verdict.fit, "{:?}", section.verdict);
    // The bundled model: what two samples of its judgements say of it agrees.
    let labels = known_labels(tiny(), 400);
    let of = |labels: &[(Preference, Winner)]| audited(labels).get(Figure::LongerProbabilityOnTies).unwrap();
    let (some, others) = (of(&labels[..120]), of(&labels[120..]));
    assert!(some.interval.unwrap().covers(others.value), "{some} and {others}");
}

fn accuracy(labels: &[(Preference, Winner)]) -> f64 {
    audited(labels).get(Figure::LabelAccuracy).unwrap().value
}

/// How often the longer of two equals is preferred, by weight.
fn longer_of_equals(labels: &[(Preference, Winner)]) -> f64 {
    let equal = labels.iter().filter(|(_, gold)| *gold == Winner::Tie);
    let labels = equal.map(|(label, _)| Unit::Tokens.comparison(label));
    prefer_longer(labels, Unit::Tokens.equal_length()).unwrap()
}

/// Turns the truth with the label.
fn controlled(
    labels: &[(Preference, Winner)],
    control: impl Fn(&Preference) -> Option<Preference>,
) -> Vec<(Preference, Winner)> {
    labels
        .iter()
        .filter_map(|(label, gold)| {
            let after = control(label)?;
            let turned = after.chosen != label.chosen;
            Some((after, if turned { gold.swapped() } else { *gold }))
        })
        .collect()
}

/// Catches: a control that leaves the bias, or that takes out quality with it.
#[test]
fn each_control_takes_out_the_bias_and_leaves_the_quality() {
    let labels = known_labels(tiny(), 600);
    let rows: Vec<Preference> = labels.iter().map(|(label, _)| label.clone()).collect();
    assert!(longer_of_equals(&labels) > 0.9);
    let fitted = residual::fit(&rows, Seed::new(1), &Silent).unwrap().unwrap();
    let after = controlled(&labels, |row| Some(residual::without_length(row, &fitted)));
    let (left, lost) = (longer_of_equals(&after), accuracy(&labels) - accuracy(&after));
    assert!(
        (left - 0.5).abs() <= 0.05 && lost <= 0.02,
        "residual: {left:.3}, {lost:.3}"
    );
    let caliper = Caliper {
        unit: Unit::Tokens,
        most: None,
    };
    let after = controlled(&labels, |row| caliper.refuses(row).is_none().then(|| row.clone()));
    let lost = accuracy(&labels) - accuracy(&after);
    assert!(lost <= 0.02 && after.len() > 50, "match: {lost:.3} of {}", after.len());
    let found = weights::fit(&rows, Seed::new(1), &Silent).unwrap();
    let weighed: Vec<(Preference, Winner)> = labels
        .iter()
        .zip(&found.weights)
        .map(|((label, gold), weight)| {
            let weight = *weight as f32;
            (
                Preference {
                    weight,
                    ..label.clone()
                },
                *gold,
            )
        })
        .collect();
    let weighed = weighed.iter().map(|(label, _)| Unit::Tokens.comparison(label));
    let share = prefer_longer(weighed, Unit::Tokens.equal_length()).unwrap();
    assert!((share - 0.5).abs() <= 0.05, "weight: {share:.3}");
}

/// The test that matters: a judge that likes the better answer and does not look at length.
#[test]
fn controls_leave_an_unbiased_judge_alone() {
    // Quality is read off a word that both longer and shorter answers have; noise by the text's hash.
    let noise = |text: &str| {
        let id = bylaw::record::content_id([text]);
        f32::from(u8::from_str_radix(&id[..2], 16).unwrap()) / 255.0 - 0.5
    };
    let engine = scripted(move |a, b| noise(a) - noise(b) + 0.2);
    let labels = known_labels(&engine, 300);
    let rows: Vec<Preference> = labels.iter().map(|(label, _)| label.clone()).collect();
    let fitted = residual::fit(&rows, Seed::new(1), &Silent).unwrap().unwrap();
    assert_eq!(fitted.effect.slope, 0.0, "{fitted:?}");
    assert!(rows.iter().all(|row| residual::without_length(row, &fitted) == *row));
    assert!(
        weights::fit(&rows, Seed::new(1), &Silent)
            .unwrap()
            .weights
            .iter()
            .all(|weight| *weight == 1.0)
    );
}

fn shared(path: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("BYLAW_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    Some(shared.join(path)).filter(|path| path.exists())
}

fn recorded(verdicts: &Path, answers: Option<&Path>) -> Section {
    let path = |path: &Path| path.display().to_string();
    let rows = read_recorded(&path(verdicts), answers.map(path).as_deref())
        .unwrap()
        .rows;
    let pairs: Vec<&JudgedPair> = rows.iter().map(|row| &row.said).collect();
    section("all", &pairs, Seed::new(0), &Silent).unwrap()
}

/// The hits behind a share.
fn count(section: &Section, figure: Figure) -> (u64, u64) {
    let share = section.get(figure).unwrap();
    ((share.value * share.n as f64).round() as u64, share.n)
}

/// The statistics that LLMBar's authors publish beside their verdicts: `"95 / 100 = 95.0%"`.
#[test]
fn published_figures_are_reproduced() {
    for name in ["natural", "neighbor"] {
        let Some(verdicts) = shared(&format!("llmbar/{name}.gpt4-vanilla.json")) else {
            eprintln!("skipped: the verdicts of LLMBar are not at hand");
            return;
        };
        let published = shared(&format!("llmbar/{name}.gpt4-vanilla.stats.json")).unwrap();
        let published: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(published).unwrap()).unwrap();
        let section = recorded(&verdicts, None);
        for (key, figure) in [
            ("correct_False", Figure::AccuracyFirstOrder),
            ("correct_True", Figure::AccuracySecondOrder),
            ("correct_both", Figure::AccuracyBoth),
            ("equal", Figure::OrderConsistency),
        ] {
            let (hits, of) = count(&section, figure);
            let text = published[key].as_str().unwrap();
            assert!(
                text.starts_with(&format!("{hits} / {of} =")),
                "{name} {key}: {hits} of {of}, {text}"
            );
        }
    }
    let verdicts = shared("pandalm/gpt-3.5-turbo-testset-v1.json").unwrap();
    let section = recorded(&verdicts, shared("pandalm/testset-v1.json").as_deref());
    // 692 of the pairs in which a majority prefers an answer, 105 others being ties.
    assert_eq!(count(&section, Figure::Accuracy), (692, 894));
    assert_eq!(count(&section, Figure::Agreement).1, 999);
}

/// Catches: a column of somebody's file read as another's, a swapped verdict turned twice, a failure counted as a tie.
#[test]
fn recorded_verdicts_are_read_in_every_form() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let llmbar = write(
        "llmbar.json",
        r#"[{"input": "q", "output_1": "short", "output_2": "much longer", "label": 2, "results": [["metrics", "stop"],
            {"swap = False": {"winner": "2"}, "swap = True": {"winner": "1"}}]},
            {"input": "r", "output_1": "a", "output_2": "bb", "label": 1, "results": [
            {"swap = False": {"winner": null}, "swap = True": {"winner": null}}]}]"#,
    );
    let section = recorded(&llmbar, None);
    assert_eq!(count(&section, Figure::Accuracy), (1, 4));
    assert_eq!(count(&section, Figure::OrderConsistency), (1, 2));
    assert_eq!(count(&section, Figure::SamePosition), (1, 1));
    assert_eq!(count(&section, Figure::ParseFailures), (2, 4));
    assert_eq!(count(&section, Figure::GoldPreferLonger), (1, 2));

    let answers = write(
        "answers.jsonl",
        concat!(
            r#"{"idx": 0, "instruction": "q", "response1": "x", "response2": true, "annotator1": 1, "annotator2": 1, "annotator3": 0}"#,
            "\n",
            r#"{"idx": 1, "instruction": "r", "response1": "x", "response2": "yy", "annotator1": 0, "annotator2": 1, "annotator3": 2}"#,
            "\n"
        ),
    );
    let verdicts = write(
        "verdicts.json",
        r#"[{"idx": 1, "gpt_result": "Tie"}, {"idx": 0, "gpt_result": "1"}]"#,
    );
    let section = recorded(&verdicts, Some(&answers));
    // Three annotators who all differ are no truth.
    assert_eq!(count(&section, Figure::Accuracy), (1, 1));
    assert_eq!(count(&section, Figure::Ties), (1, 2));

    let own = write(
        "own.csv",
        "prompt,answer_1,answer_2,verdict,verdict_swapped,gold\nq,x,yy,1,2,1\nr,x,yy,tie,tie,tie\n",
    );
    let section = recorded(&own, None);
    assert_eq!(count(&section, Figure::Accuracy), (1, 2));
    assert_eq!(count(&section, Figure::Agreement), (3, 4));
    assert_eq!(count(&section, Figure::OrderConsistency), (1, 2));

    let alpaca = write(
        "alpaca.json",
        r#"[{"instruction": "q", "output_1": "x", "output_2": "yy", "preference": 1.9},
            {"instruction": "r", "output_1": "x", "output_2": "yy", "preference": 1.5}]"#,
    );
    let section = recorded(&alpaca, None);
    assert_eq!(count(&section, Figure::PreferLonger), (1, 1));
    assert!((section.get(Figure::LongerProbability).unwrap().value - 0.7).abs() < 1e-9);

    // Empty cells say nothing; they are no reason to drop what the others say.
    let gaps = write(
        "gaps.csv",
        "prompt,answer_1,answer_2,preference,verdict,verdict_swapped,winner,gold,label\nq,x,yy,,1,2, ,,\nr,x,yy,2,,,,,2\n\
         s,x,yy,,,2,1,1,\nt,x,yy,0,,,,,\n",
    );
    let rows = read_recorded(gaps.to_str().unwrap(), None)?;
    assert_eq!(rows.rejects, []);
    let gold: Vec<Option<Winner>> = rows.rows.iter().map(|row| row.said.gold).collect();
    assert_eq!(gold, [None, Some(Winner::Second), Some(Winner::First), None]);
    let said: Vec<Vec<Winner>> = rows
        .rows
        .iter()
        .map(|row| row.said.judgements.iter().map(|judgement| judgement.winner).collect())
        .collect();
    let (first, second) = (Winner::First, Winner::Second);
    assert_eq!(said[..3], [vec![first, second], vec![second], vec![first, second]]);
    // As in `eval winrate`, a preference of 0 is a tie.
    assert_eq!(said[3], [Winner::Tie]);
    Ok(())
}

/// Catches: verdicts that do not find their answers because one file has numbers and the other texts, or pandas' 0.0.
#[test]
fn verdicts_find_their_answers_in_files_of_two_formats() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let answers = write("answers.csv", "idx,response1,response2,gold\n0,x,yy,1\n1,x,yy,2\n");
    let verdicts = write(
        "verdicts.json",
        r#"[{"idx": 1.0, "gpt_result": "2"}, {"idx": 0, "gpt_result": "1"}]"#,
    );
    assert_eq!(count(&recorded(&verdicts, Some(&answers)), Figure::Accuracy), (2, 2));
    let verdicts = write("verdicts.csv", "idx,verdict\n1,2\n0,2\n");
    let answers = write(
        "answers.jsonl",
        "{\"idx\": 0, \"response_1\": \"x\", \"response_2\": \"yy\", \"gold\": 1}\n\
         {\"idx\": \"1\", \"response_1\": \"x\", \"response_2\": \"yy\", \"gold\": 2}\n",
    );
    assert_eq!(count(&recorded(&verdicts, Some(&answers)), Figure::Accuracy), (1, 2));
}

/// Catches: bad files that end in a panic, or in a message that does not name the place.
#[test]
fn bad_records_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let message = |text: &str| {
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).unwrap();
        read_recorded(path.to_str().unwrap(), None).unwrap_err().to_string()
    };
    let none = message("{\"prompt\": \"q\"}\n");
    assert!(none.contains("line 1: there are no two answers"), "{none}");
    // The remedy tells what is expected, once.
    assert!(!none.contains("a row needs two answers"), "{none}");
    assert!(message(r#"{"output_1": "x", "output_2": "y", "preference": 0}"#).contains("no row has one above 1"));
    assert!(message(r#"{"output_1": "x", "output_2": "y"}"#).contains("nothing was said"));
    assert!(message(r#"{"output_1": "x", "output_2": "y", "preference": 3}"#).contains("`preference` is 3"));
    assert!(message(r#"{"output_1": "x", "output_2": null, "gold": 1}"#).contains("`output_2` is no text"));
    assert!(message(r#"{"output_1": "x", "output_2": "y", "gold": 7}"#).contains("`gold` is 7"));
    assert!(message(r#"{"output_1": "x", "output_2": "y", "results": []}"#).contains("`results` is empty"));
}

/// Catches: the program's sentences that say nothing grown apart from those of the world.
#[test]
fn the_padding_of_the_proving_ground_is_that_of_its_answers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/proving-ground/templates.toml");
    let templates: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let known: Vec<String> = templates["answer"]["padding"].clone().try_into().unwrap();
    assert_eq!(padding(), known);
}

/// What LLMBar's judges wrote, read by our reader of verdicts as the benchmark's own expressions read it.
#[test]
fn verdicts_in_words_are_read_as_their_publishers_read_them() {
    use bylaw::stage::judge::verdict::{Pick, Read, choice};
    for name in [
        "natural.gpt4-vanilla",
        "neighbor.gpt4-vanilla",
        "mt-bench.chatgpt-vanilla",
    ] {
        let Some(path) = shared(&format!("llmbar/{name}.json")) else {
            eprintln!("skipped: the verdicts of LLMBar are not at hand");
            return;
        };
        let rows: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut read = 0;
        for row in &rows {
            let last = row["results"].as_array().unwrap().last().unwrap();
            for (order, names) in [("swap = False", ["1", "2"]), ("swap = True", ["2", "1"])] {
                let said = last[order]["completion"][0].as_str().unwrap();
                let expected = last[order]["winner"].as_str().unwrap();
                let found = match choice(said, false) {
                    Read::Clear(Pick::A) => names[0],
                    Read::Clear(Pick::B) => names[1],
                    other => panic!("{said:?} is read as {other:?}"),
                };
                assert_eq!(found, expected, "{said:?}");
                read += 1;
            }
        }
        assert_eq!(read, 2 * rows.len());
    }
}
