//! The trainers against TRL's own (`tests/golden/trl.json`, made by `scripts/golden/trainers.py`; the version is in the
//! file): the same checkpoint, tokens, order and settings, five optimiser steps, every figure of every step.
//!
//! A figure may differ by one part in 10⁴. Where TRL has 0, before the first step, policy and reference are the same model;
//! here the engine scores the one and the trunk the other, which sum in another order, and the difference of two sums near
//! 100 is 0 to within [`RESOLUTION`]. So is KTO's KL, a few hundredths made of such differences, of which neither side has
//! four digits.

#[path = "support/small.rs"]
mod small;

use std::path::Path;

use bylaw::model::cpu::trunk::Sequence;
use bylaw::progress::Silent;
use bylaw::seed::Seed;
use bylaw::train::batch::{BatchSize, Example, plan};
use bylaw::train::dpo::{self, DpoConfig, PreferenceLoss};
use bylaw::train::length::{DpoControl, DpoLengthConfig};
use bylaw::train::metrics;
use bylaw::train::optim::{OptimConfig, Schedule};
use bylaw::train::pairs::Pair;
use bylaw::train::reward::{self, RewardConfig};
use bylaw::train::run::Setup;
use bylaw::train::sft::{self, SftConfig};
use serde_json::Value;
use tempfile::TempDir;

const RELATIVE: f64 = 1e-4;
/// Of a difference of two log-probabilities of whole answers, in nats.
const RESOLUTION: f64 = 1e-5;

const SEED: u64 = 11;

/// Of the tokens that count: how many were the likeliest, and the entropy before them.
const FORESIGHT: [(&str, &str, f64); 2] = [
    ("mean_token_accuracy", "mean_token_accuracy", 0.0),
    ("entropy", "entropy", 0.0),
];

fn golden() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/trl.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    let tokens = value.as_array().unwrap().iter();
    tokens.map(|token| token.as_u64().unwrap() as u32).collect()
}

fn sequence(row: &Value, side: &str) -> Sequence {
    let prompt = tokens(&row["prompt"]);
    Sequence {
        completion: prompt.len(),
        tokens: [prompt, tokens(&row[side])].concat(),
    }
}

fn batch_size(golden: &Value) -> usize {
    golden["settings"]["batch_size"].as_u64().unwrap() as usize
}

/// The rows in such an order that the trainer's own shuffling brings them into that of the file.
fn in_order<T: Clone>(golden: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    let rows: Vec<T> = golden["rows"].as_array().unwrap().iter().map(of).collect();
    let lengths = vec![1; rows.len()];
    let order = plan(&lengths, BatchSize::Rows(batch_size(golden)), Seed::new(SEED).index(0)).concat();
    let mut placed: Vec<Option<T>> = vec![None; rows.len()];
    for (row, place) in rows.into_iter().zip(order) {
        placed[place] = Some(row);
    }
    placed.into_iter().map(Option::unwrap).collect()
}

fn pairs(golden: &Value) -> Vec<Pair> {
    in_order(golden, |row| Pair {
        chosen: sequence(row, "chosen"),
        rejected: sequence(row, "rejected"),
        p_chosen: 1.0,
        weight: 1.0,
        margin: 0.0,
    })
}

fn optim(golden: &Value) -> OptimConfig {
    let settings = &golden["settings"];
    assert_eq!(settings["lr_scheduler_type"], "linear");
    OptimConfig {
        adam_beta1: number(&settings["adam_beta1"]),
        adam_beta2: number(&settings["adam_beta2"]),
        adam_epsilon: number(&settings["adam_epsilon"]),
        weight_decay: number(&settings["weight_decay"]),
        max_grad_norm: number(&settings["max_grad_norm"]),
        lr_scheduler: Schedule::Linear,
        warmup_steps: 0,
        min_lr_ratio: 0.0,
        ..OptimConfig::default()
    }
}

fn setup(dir: &Path) -> Setup<'_> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "parity".into(),
        label: "parity".into(),
        progress: &Silent,
        save_steps: 0,
        in_place: false,
        keeping: Default::default(),
    }
}

/// Compares the log of a run with what TRL logged. `names` are TRL's name, ours, and how many nats of resolution go into
/// one of the figure.
fn compare(golden: &Value, run: &str, dir: &Path, names: &[(&str, &str, f64)]) {
    let ours = metrics::read(dir).unwrap();
    let theirs = golden["runs"][run]["steps"].as_array().unwrap();
    assert_eq!((ours.len(), theirs.len()), (5, 5), "{run}");
    let always = [
        ("loss", "loss", 0.0),
        ("grad_norm", "grad_norm", 0.0),
        ("learning_rate", "learning_rate", 0.0),
    ];
    let mut worst = 0.0f64;
    for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        for (name, own, scale) in always.iter().chain(names) {
            let (found, expected) = (number(&ours[*own]), number(&theirs[*name]));
            let difference = (found - expected).abs();
            let allowed = match *name {
                _ if expected == 0.0 => RESOLUTION * scale,
                "kl" => (RELATIVE * expected.abs()).max(RESOLUTION),
                _ => RELATIVE * expected.abs(),
            };
            println!(
                "{run} step {step} {name}: {found} {expected} {:.1e}",
                difference / expected.abs()
            );
            worst = worst.max(difference / allowed.max(f64::MIN_POSITIVE));
            assert!(
                difference <= allowed,
                "{run}, step {step}, {name}: {found}, TRL has {expected}"
            );
        }
    }
    println!("{run}: worst {worst:.3} of what is allowed");
}

/// Catches: a loss that is a mean over rows instead of tokens, an accuracy or an entropy of other tokens, an EOS or a prompt that is learnt or not, decay of norms,
/// a schedule that is a step off, clipping by another norm.
#[test]
fn sft_is_trls() {
    let (golden, model, dir) = (golden(), small::model(), TempDir::new().unwrap());
    let examples = in_order(&golden, |row| {
        let sequence = sequence(row, "chosen");
        Example {
            weights: vec![1.0; sequence.completion_len()],
            sequence,
        }
    });
    let config = SftConfig {
        learning_rate: number(&golden["settings"]["learning_rate"]),
        epochs: 1,
        batch_size: batch_size(&golden),
        batch_tokens: None,
        prompt_loss_weight: 0.0,
        optim: optim(&golden),
        ..SftConfig::default()
    };
    sft::train(setup(dir.path()), &config, &model.decoder, &examples, Seed::new(SEED)).unwrap();
    compare(&golden, "sft", dir.path(), &FORESIGHT);
}

/// Catches: a reward read at another token than the last, a head that learns at another rate or does not decay.
#[test]
fn the_reward_model_is_trls() {
    let (golden, model, dir) = (golden(), small::model(), TempDir::new().unwrap());
    let config = RewardConfig {
        learning_rate: number(&golden["settings"]["learning_rate"]),
        epochs: 1,
        batch_size: batch_size(&golden),
        centre_coef: 0.0,
        head_rate: 1.0,
        optim: optim(&golden),
        ..RewardConfig::default()
    };
    reward::train(
        setup(dir.path()),
        &config,
        &model.decoder,
        &pairs(&golden),
        Seed::new(SEED),
    )
    .unwrap();
    let figures = [("accuracy", "accuracy", 0.0), ("margin", "margin", 0.0)];
    compare(&golden, "reward", dir.path(), &figures);
}

fn dpo_config(golden: &Value, run: &str, loss: PreferenceLoss) -> DpoConfig {
    let settings = &golden["runs"][run]["settings"];
    DpoConfig {
        learning_rate: number(&golden["settings"]["learning_rate"]),
        batch_size: batch_size(golden),
        loss,
        beta: settings["beta"].as_f64(),
        simpo_gamma: settings["simpo_gamma"].as_f64(),
        desirable_weight: settings["desirable_weight"].as_f64(),
        undesirable_weight: settings["undesirable_weight"].as_f64(),
        optim: optim(golden),
        ..DpoConfig::default()
    }
}

/// Trains and compares rewards and log-probabilities besides loss and norm.
fn dpo_is_trls(run: &str, loss: PreferenceLoss, change: impl FnOnce(&mut DpoConfig), others: &[(&str, &str, f64)]) {
    let (golden, model, dir) = (golden(), small::model(), TempDir::new().unwrap());
    let mut config = dpo_config(&golden, run, loss);
    change(&mut config);
    dpo::train(
        setup(dir.path()),
        &config,
        &model.decoder,
        &pairs(&golden),
        Seed::new(SEED),
    )
    .unwrap();
    // Rewards of a reference are beta times a difference of sums.
    let scale = if loss.needs_reference() { config.beta() } else { 0.0 };
    let mut names = vec![
        ("rewards/chosen", "rewards/chosen", scale),
        ("rewards/rejected", "rewards/rejected", scale),
        ("rewards/margins", "rewards/margins", scale),
        ("logps/chosen", "logps/chosen", 0.0),
        ("logps/rejected", "logps/rejected", 0.0),
    ];
    names.extend(others);
    // TRL's other trainers of pairs count other tokens, or do not tell.
    if golden["runs"][run]["trainer"] == "DPOTrainer" {
        names.extend(FORESIGHT);
    }
    compare(&golden, run, dir.path(), &names);
}

/// Catches: everything between the trunk and the update that is specific to DPO.
#[test]
fn dpo_is_trls_sigmoid() {
    dpo_is_trls("dpo", PreferenceLoss::Sigmoid, |_| {}, &[]);
}

/// Catches: smoothing in the wrong direction, or twice.
#[test]
fn conservative_dpo_is_trls() {
    dpo_is_trls(
        "cdpo",
        PreferenceLoss::Sigmoid,
        |config| config.label_smoothing = 0.2,
        &[],
    );
}

/// Catches: noise that smooths.
#[test]
fn robust_dpo_is_trls() {
    dpo_is_trls(
        "robust",
        PreferenceLoss::Robust,
        |config| config.label_smoothing = 0.2,
        &[],
    );
}

/// Catches: a hinge at another place.
#[test]
fn hinge_is_trls() {
    dpo_is_trls("hinge", PreferenceLoss::Hinge, |_| {}, &[]);
}

/// Catches: sums for means over tokens in the loss, or means for sums in the figures.
#[test]
fn ipo_is_trls() {
    dpo_is_trls("ipo", PreferenceLoss::Ipo, |_| {}, &[]);
}

/// Catches: a mean that counts the prompt, or a token too many.
#[test]
fn normalised_dpo_is_trls() {
    let (golden, model, dir) = (golden(), small::model(), TempDir::new().unwrap());
    let config = DpoConfig {
        length: DpoLengthConfig {
            length_control: DpoControl::Normalised,
            ..DpoLengthConfig::default()
        },
        ..dpo_config(&golden, "normalised", PreferenceLoss::Sigmoid)
    };
    dpo::train(
        setup(dir.path()),
        &config,
        &model.decoder,
        &pairs(&golden),
        Seed::new(SEED),
    )
    .unwrap();
    // TRL's rewards are of sums here, ours of what the loss sees.
    let names = [
        ("logps/chosen", "logps/chosen", 0.0),
        ("logps/rejected", "logps/rejected", 0.0),
    ];
    compare(&golden, "normalised", dir.path(), &names);
}

/// Catches: a tail that begins a token early or late.
#[test]
fn desensitised_dpo_is_trls() {
    let (golden, model, dir) = (golden(), small::model(), TempDir::new().unwrap());
    let config = DpoConfig {
        length: DpoLengthConfig {
            length_control: DpoControl::Desensitised,
            ld_alpha: golden["runs"]["desensitised"]["settings"]["ld_alpha"].as_f64(),
            ..DpoLengthConfig::default()
        },
        ..dpo_config(&golden, "desensitised", PreferenceLoss::Sigmoid)
    };
    dpo::train(
        setup(dir.path()),
        &config,
        &model.decoder,
        &pairs(&golden),
        Seed::new(SEED),
    )
    .unwrap();
    // TRL's log-probabilities are weighed as in the loss here, ours are whole.
    let scale = config.beta();
    let names = [
        ("rewards/chosen", "rewards/chosen", scale),
        ("rewards/rejected", "rewards/rejected", scale),
        ("rewards/margins", "rewards/margins", scale),
    ];
    compare(&golden, "desensitised", dir.path(), &names);
}

/// Catches: sums for means, beta on the margin.
#[test]
fn simpo_is_trls() {
    dpo_is_trls("simpo", PreferenceLoss::Simpo, |_| {}, &[]);
}

/// Catches: a KL term of matched answers, of the wrong neighbours, with a gradient, or below 0; weights on the wrong side.
#[test]
fn kto_is_trls() {
    // A mean of differences of sums.
    for run in ["kto", "kto_weights"] {
        dpo_is_trls(run, PreferenceLoss::Kto, |_| {}, &[("kl", "kl", 1.0)]);
    }
}

/// Catches: a likelihood without the prompt, a mean of means, odds of sums.
#[test]
fn orpo_is_trls() {
    let figures = [
        ("nll_loss", "nll_loss", 0.0),
        ("log_odds_ratio", "log_odds_ratio", 0.0),
        ("log_odds_chosen", "log_odds_chosen", 0.0),
    ];
    dpo_is_trls(
        "orpo",
        PreferenceLoss::Orpo,
        |config| config.prompt_loss_weight = Some(1.0),
        &figures,
    );
}
