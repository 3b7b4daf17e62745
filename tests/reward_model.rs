//! The reward model beyond pairs: rankings of several answers, margins, accumulated gradients, what it is worth on pairs
//! that are not learnt, and its classifier in transformers.

#[path = "support/program.rs"]
mod program;
#[path = "support/small.rs"]
mod small;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::files::Model;
use bylaw::progress::Silent;
use bylaw::prompt::{Style, Templates};
use bylaw::record::Message;
use bylaw::seed::Seed;
use bylaw::train::batch::Encoder;
use bylaw::train::metrics;
use bylaw::train::optim::{OptimConfig, Schedule};
use bylaw::train::pairs::Pair;
use bylaw::train::reward::{self, RewardConfig, RewardModel};
use bylaw::train::run::Setup;
use candle_core::{DType, Device};
use program::{fails, json, refused, succeeds, temp, write};
use serde_json::{Value, json as value};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama");

/// Questions with answers from the best to the worst.
const RANKED: [(&str, &[&str]); 3] = [
    (
        "Is it so?",
        &["Yes, it is so.", "It may be.", "No.", "The man in the hall."],
    ),
    ("How much?", &["A lot.", "No reason."]),
    ("When?", &["Now, or then.", "Then.", "On the table, where you left it."]),
];

fn answer(model: &Model, question: &str, answer: &str) -> Sequence {
    let templates = Templates::new(Style::Transcript);
    let encoder = Encoder {
        tokenizer: &model.tokenizer,
        templates: &templates,
        context: model.decoder.config.context,
    };
    encoder.answer(&[Message::user(question)], answer).unwrap()
}

/// Every pair of every ranking.
fn ranked(model: &Model) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (question, answers) in RANKED {
        for (better, chosen) in answers.iter().enumerate() {
            for rejected in &answers[better + 1..] {
                pairs.push(Pair {
                    chosen: answer(model, question, chosen),
                    rejected: answer(model, question, rejected),
                    p_chosen: 0.9,
                    margin: 0.5 + pairs.len() as f32,
                    weight: 1.0,
                });
            }
        }
    }
    pairs
}

fn config(batch_size: usize) -> RewardConfig {
    RewardConfig {
        learning_rate: 1e-3,
        epochs: 3,
        batch_size,
        head_rate: 5.0,
        centre_coef: 0.0,
        optim: OptimConfig {
            lr_scheduler: Schedule::Constant,
            ..OptimConfig::default()
        },
        ..RewardConfig::default()
    }
}

struct Trained {
    model: RewardModel,
    log: Vec<serde_json::Map<String, Value>>,
}

impl Trained {
    fn figures(&self, name: &str) -> Vec<f64> {
        self.log.iter().map(|row| row[name].as_f64().unwrap()).collect()
    }

    fn bits(&self) -> Vec<u32> {
        let parameters = self.model.decoder.parameters.iter();
        let tensors = parameters.map(|parameter| parameter.weight.dense().unwrap());
        tensors
            .chain([self.model.head.weight.as_tensor()])
            .flat_map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .map(f32::to_bits)
            .collect()
    }
}

fn train(model: &Model, config: &RewardConfig, pairs: &[Pair]) -> Trained {
    let dir = temp();
    let setup = Setup {
        dir: dir.path().into(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress: &Silent,
        save_steps: 0,
        in_place: false,
        keeping: Default::default(),
    };
    let trained = reward::train(setup, config, &model.decoder, pairs, Seed::new(5)).unwrap();
    Trained {
        model: trained,
        log: metrics::read(dir.path()).unwrap(),
    }
}

#[track_caller]
fn assert_near(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
            "{name}: {found}, expected {expected}"
        );
    }
}

/// Catches: K-wise training that is something else where there are two answers.
#[test]
fn rankings_of_two_are_pairs() {
    let model = small::model();
    let pairs: Vec<Pair> = RANKED
        .iter()
        .map(|(question, answers)| Pair {
            chosen: answer(&model, question, answers[0]),
            rejected: answer(&model, question, answers[1]),
            p_chosen: 0.8,
            margin: 0.0,
            weight: 1.0,
        })
        .collect();
    let plain = config(2);
    let k_wise = RewardConfig {
        k_wise: true,
        ..plain.clone()
    };
    assert_eq!(
        train(&model, &plain, &pairs).bits(),
        train(&model, &k_wise, &pairs).bits()
    );
}

/// Catches: an answer of several pairs whose gradient counts once, or that is scored apart; pairs that do not weigh one
/// over their number.
#[test]
fn the_pairs_of_a_ranking_weigh_one_together() {
    let model = small::model();
    let mut pairs = ranked(&model);
    let together = train(
        &model,
        &RewardConfig {
            k_wise: true,
            ..config(3)
        },
        &pairs,
    );
    // The same by weights: a pair of 6, 1 and 3 in a batch of all ten, and three rankings.
    for (pair, of) in pairs.iter_mut().zip([6, 6, 6, 6, 6, 6, 1, 3, 3, 3]) {
        pair.weight = 10.0 / (3 * of) as f32;
    }
    let apart = train(&model, &config(10), &pairs);
    for name in ["loss", "grad_norm"] {
        assert_near(name, &together.figures(name), &apart.figures(name));
    }
    assert!(together.figures("grad_norm")[0] > 1e-3);
}

/// Catches: a margin on the wrong side, margins beside a soft label, margins used although nobody asked.
#[test]
fn a_margin_is_asked_for() {
    let model = small::model();
    let pairs = ranked(&model);
    let with = RewardConfig {
        margin: true,
        ..config(10)
    };
    let found = train(&model, &with, &pairs).figures("loss")[0];
    // A head of zeros: -log σ(0 - m).
    let expected = pairs
        .iter()
        .map(|pair| f64::from(pair.margin).exp().ln_1p())
        .sum::<f64>()
        / 10.0;
    assert_near("loss", &[found], &[expected]);
    let without = train(&model, &config(10), &pairs);
    assert_near("loss", &without.figures("loss")[..1], &[std::f64::consts::LN_2]);
    let mut other = pairs.clone();
    other.iter_mut().for_each(|pair| pair.margin = 0.0);
    assert_eq!(train(&model, &config(10), &other).bits(), without.bits());
}

/// Catches: gradients of the head that are those of the last batch, a mean of unequal batches' means.
#[test]
fn accumulated_pairs_are_one_batch() {
    let model = small::model();
    let pairs = ranked(&model);
    let centred = |batch_size, gradient_accumulation_steps| RewardConfig {
        gradient_accumulation_steps,
        centre_coef: 0.1,
        ..config(batch_size)
    };
    let whole = train(&model, &centred(10, 1), &pairs);
    // Batches of 4, 4 and 2.
    let parts = train(&model, &centred(4, 3), &pairs);
    for name in ["loss", "grad_norm", "margin", "accuracy"] {
        assert_near(name, &parts.figures(name), &whole.figures(name));
    }
}

/// Catches: a classifier that is not the head, a constant that is not the one told. `BYLAW_KEEP_SAVED=DIR` keeps what was
/// saved, for `scripts/compare/score_in_transformers.py`.
#[test]
fn the_classifier_is_the_head_but_for_a_constant() {
    let model = small::model();
    let trained = train(&model, &config(4), &ranked(&model)).model;
    let temporary = temp();
    let root = std::env::var_os("BYLAW_KEEP_SAVED").map_or(temporary.path().to_owned(), Into::into);
    let dir = root.join("reward");
    let saved = Model {
        decoder: trained.decoder.clone(),
        ..model.clone()
    };
    saved.save_with_head(&dir, DType::F32, &trained.head).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let classifier: Vec<f32> = tensors["score.weight"].flatten_all().unwrap().to_vec1().unwrap();
    let weight: Vec<f32> = trained.head.weight.flatten_all().unwrap().to_vec1().unwrap();
    for (found, weight) in classifier.iter().zip(&weight) {
        assert!((found * trained.head.scale - weight).abs() < 1e-6);
    }
    let config = json(&fs::read_to_string(dir.join("config.json")).unwrap());
    let offset = config["reward_offset"].as_f64().unwrap();
    let (bias, head) = (trained.head.bias.to_vec1::<f32>().unwrap()[0], &trained.head);
    assert!((offset - f64::from((bias - head.mean) / head.scale)).abs() < 1e-6);
    // It is still a model.
    let again = Model::load(dir.to_str().unwrap()).unwrap();
    assert_eq!(again.decoder.parameters.len(), model.decoder.parameters.len());
    let sequences: Vec<Sequence> = RANKED
        .map(|(question, answers)| answer(&model, question, answers[0]))
        .to_vec();
    let expected = value!({
        "input_ids": sequences.iter().map(|sequence| &sequence.tokens).collect::<Vec<_>>(),
        "rewards": trained.score(&sequences).unwrap(),
    });
    fs::write(dir.join("rewards.json"), expected.to_string()).unwrap();
}

// ---- the program ---------------------------------------------------------------------------------

fn preferences(prompts: usize) -> Vec<Value> {
    let pair = |prompt: usize, answer: &str| value!({ "prompt": format!("Is it {prompt}?"), "chosen": format!("Yes, {answer}."), "rejected": "No." });
    (0..prompts)
        .flat_map(|prompt| [pair(prompt, "it is"), pair(prompt, "so it is, and no other")])
        .collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn command<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec![
        "train",
        "reward",
        "--model",
        GOLDEN,
        "--prompt-style",
        "transcript",
        "--epochs",
        "1",
    ];
    all.extend(extra);
    all
}

/// Catches: held-out pairs that are learnt or standardised on, a prompt on both sides, pairs lost between the sides,
/// figures that are not those of `eval reward` on the same pairs.
#[test]
fn what_is_held_out_is_measured_and_not_learnt() {
    let dir = temp();
    let place = dir.path();
    let rows = preferences(20);
    write(place, "all.jsonl", &lines(&rows));
    let ran = succeeds(
        place,
        &command(&["--data", "all.jsonl", "--eval-fraction", "0.3", "--out", "out"]),
    );
    let read = |path: &str| json(&fs::read_to_string(place.join(path)).unwrap());
    let evaluation = read("out/evaluation.json");
    let held = evaluation["pairs"].as_u64().unwrap();
    assert_eq!(evaluation["prompts"].as_u64().unwrap() * 2, held);
    assert_eq!(read("out/train.json")["rows"].as_u64().unwrap() + held, 40);
    assert!(ran.stderr.contains("calibration error"), "{}", ran.stderr);

    // Measured on its way it is the same model, and the last measure is that of the end.
    let watched = "--data all.jsonl --eval-fraction 0.3 --out watched --eval-steps 1 --keep-best";
    succeeds(place, &command(&watched.split_whitespace().collect::<Vec<_>>()));
    let log = metrics::read(&place.join("watched")).unwrap();
    let losses: Vec<f64> = log.iter().map(|row| row["eval_loss"].as_f64().unwrap()).collect();
    assert_near(
        "loss",
        &losses[losses.len() - 1..],
        &[evaluation["loss"].as_f64().unwrap()],
    );
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(read("watched/best/best.json")["eval_loss"].as_f64(), Some(lowest));
    assert!(place.join("watched/best/head.safetensors").is_file());

    // The data without what is held out give the same model.
    let kept = held_out_prompts(place);
    let (test, learnt): (Vec<Value>, Vec<Value>) = rows
        .into_iter()
        .partition(|row| kept.contains(row["prompt"].as_str().unwrap()));
    assert_eq!(test.len() as u64, held);
    write(place, "learnt.jsonl", &lines(&learnt));
    write(place, "test.jsonl", &lines(&test));
    succeeds(place, &command(&["--data", "learnt.jsonl", "--out", "alone"]));
    let weights = |run: &str| fs::read(place.join(run).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("alone"), "the held-out pairs moved the model");
    assert!(weights("out") == weights("watched"), "to measure moved the model");
    assert!(!place.join("alone/evaluation.json").exists());

    succeeds(
        place,
        &[
            "eval",
            "reward",
            "--model",
            "alone",
            "--data",
            "test.jsonl",
            "--prompt-style",
            "transcript",
            "--out",
            "measured",
        ],
    );
    let measured = read("measured/eval.json");
    let measured = &measured["result"]["evaluation"];
    for figure in ["loss", "margin", "pairs"] {
        assert_eq!(measured[figure], evaluation[figure], "{figure}");
    }
    assert_eq!(measured["accuracy"]["value"], evaluation["accuracy"]["value"]);
}

/// The prompts that the share 0.3 of `all.jsonl` holds out, by the rule of `data split`.
fn held_out_prompts(place: &Path) -> BTreeSet<String> {
    use bylaw::dataset;
    use bylaw::select::split::{SplitConfig, split};
    use bylaw::survey::Sameness;
    let rows = dataset::read_preferences(place.join("all.jsonl").to_str().unwrap())
        .unwrap()
        .rows;
    let config = SplitConfig {
        test: 0.3,
        by: Sameness::Prompt,
        near: None,
        seed: Seed::new(0).child("train-reward"),
    };
    let sides = split(&rows, &config);
    rows.iter()
        .zip(&sides.test)
        .filter(|(_, test)| **test)
        .map(|(row, _)| row.prompt[0].content.clone())
        .collect()
}

/// Catches: a margin of a data set that is not read, rows without one trained at the margin of a certain label, a share that
/// holds out nothing and measures nothing.
#[test]
fn margins_are_read_and_what_does_nothing_is_refused() {
    let dir = temp();
    let place = dir.path();
    let mut rows = preferences(4);
    write(place, "bare.jsonl", &lines(&rows));
    for (at, row) in rows.iter_mut().enumerate().skip(1) {
        row["margin"] = value!(0.5 * at as f64);
    }
    write(place, "told.jsonl", &lines(&rows));
    let bare = command(&["--data", "bare.jsonl", "--margin", "--out", "bare"]);
    fails(place, &bare, 3, &["nothing to train on", "has no margin"]);
    succeeds(
        place,
        &command(&[
            "--data",
            "told.jsonl",
            "--margin",
            "--batch-size",
            "16",
            "--out",
            "told",
        ]),
    );
    let log = metrics::read(&place.join("told")).unwrap();
    let expected = (1..8).map(|at| (0.5 * f64::from(at)).exp().ln_1p()).sum::<f64>() / 7.0;
    assert_near("loss", &[log[0]["loss"].as_f64().unwrap()], &[expected]);
    assert!(place.join("told/rejects").is_dir());
    let nothing = command(&["--data", "told.jsonl", "--eval-fraction", "0", "--out", "nothing"]);
    refused(place, &nothing, 2, &["leaves none on one side"]);
}
