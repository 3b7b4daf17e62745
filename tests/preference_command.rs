//! `train dpo` with the losses of its family, as people and scripts run it.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use bylaw::train::metrics;
use program::*;

/// Pairs of short answers.
fn data(dir: &Path) {
    let rows: String = (0..6)
        .map(|index| {
            format!(
                "{{\"prompt\": \"What is {index}?\", \"chosen\": \"It is {index}.\", \"rejected\": \"It may be {}.\"}}\n",
                index + 1
            )
        })
        .collect();
    write(dir, "pairs.jsonl", &rows);
}

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let command = [
        "train",
        "dpo",
        "--model",
        "builtin:tiny",
        "--data",
        "pairs.jsonl",
        "--batch-size",
        "4",
        "--out",
    ];
    [&command, &[out][..], more].concat()
}

fn settings(dir: &Path, run: &str) -> serde_json::Value {
    let manifest = json(&fs::read_to_string(dir.join(run).join("train.json")).unwrap());
    manifest["provenance"]["settings"].clone()
}

/// Catches: a flag that reaches no trainer, a record that lacks the loss, a dataset of log-probabilities that the program
/// itself cannot look at, one that another run does not find, or finds under other weights.
#[test]
fn log_probabilities_go_from_run_to_run() {
    let dir = temp();
    data(dir.path());
    succeeds(
        dir.path(),
        &train("kto", &["--loss", "kto", "--desirable-weight", "1.5"]),
    );
    let recorded = settings(dir.path(), "kto");
    assert_eq!((&recorded["loss"], &recorded["beta"]), (&"kto".into(), &0.1.into()));
    assert_eq!(recorded["undesirable_weight"], 1.0);
    succeeds(dir.path(), &["data", "validate", "kto/reference"]);
    let looked = succeeds(dir.path(), &["data", "inspect", "kto/reference"]);
    assert!(looked.stdout.contains("tokens"), "{}", looked.stdout);
    let again = train("ipo", &["--loss", "ipo", "--reference-logprobs", "kto"]);
    succeeds(dir.path(), &again);
    // Where they come from changes nothing, and is not recorded.
    assert!(settings(dir.path(), "ipo").get("reference_logprobs").is_none());
    succeeds(dir.path(), &train("alone", &["--loss", "ipo"]));
    let weights = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    assert!(weights("ipo") == weights("alone"));
    // The policy has moved, and is another model.
    let other = [
        "train",
        "dpo",
        "--model",
        "ipo",
        "--data",
        "pairs.jsonl",
        "--out",
        "next",
        "--reference-logprobs",
        "kto",
    ];
    refused(dir.path(), &other, 2, &["other weights"]);
    succeeds(dir.path(), &train("orpo", &["--loss", "orpo"]));
    assert!(!dir.path().join("orpo/reference").exists());
    for convert in [
        vec!["data", "convert", "kto/reference", "--to", "jsonl", "--out", "rows"],
        vec!["data", "split", "kto/reference", "--test", "0.5", "--out", "split"],
        vec![
            "train",
            "dpo",
            "--model",
            "builtin:tiny",
            "--data",
            "kto/reference",
            "--out",
            "wrong",
        ],
    ] {
        let ran = bylaw(dir.path(), &convert);
        assert!(ran.code == 2 || ran.code == 3, "{convert:?}: {ran:#?}");
    }
}

/// Catches: combinations that are trained without a word although one of their settings does nothing.
#[test]
fn combinations_without_sense_are_refused() {
    let dir = temp();
    data(dir.path());
    for (flags, says) in [
        (&["--loss", "robust"][..], "share of wrong labels"),
        (
            &["--loss", "ipo", "--length-control", "normalised"],
            "no place in --loss ipo",
        ),
        (
            &["--loss", "kto", "--length-control", "margin"],
            "no place in --loss kto",
        ),
        (&["--simpo-gamma", "1"], "--simpo-gamma has no effect"),
        (&["--loss", "simpo", "--reference-logprobs", "x"], "no effect"),
        (&["--loss", "orpo", "--sft-coef", "1"], "no effect"),
        (&["--reference-logprobs", "x"], "no log-probabilities"),
    ] {
        let code = if says == "no log-probabilities" { 3 } else { 2 };
        refused(dir.path(), &train("out", flags), code, &[says]);
    }
}

/// Catches: a flag of held-out pairs that reaches no trainer, pairs on both sides, a best model that is that of the end, a
/// result that is another because it was measured, settings that do nothing.
#[test]
fn the_best_policy_is_that_of_the_lowest_held_out_loss() {
    let dir = temp();
    let place = dir.path();
    data(place);
    // Held-out pairs that are labelled the other way: what is learnt makes them worse.
    let swapped = fs::read_to_string(place.join("pairs.jsonl")).unwrap();
    let swapped = swapped
        .replace("chosen", "first")
        .replace("rejected", "chosen")
        .replace("first", "rejected");
    write(place, "swapped.jsonl", &swapped);
    let fast = ["--epochs", "4", "--learning-rate", "1e-3", "--lr-scheduler", "constant"];
    let measured = [&fast[..], &["--eval-data", "swapped.jsonl", "--eval-steps", "1"]].concat();
    let ran = succeeds(
        place,
        &train("best", &[&measured[..], &["--keep-best", "--json"]].concat()),
    );
    assert!(
        ran.stderr.contains("6 prompts of --eval-data are in the training data"),
        "{}",
        ran.stderr
    );
    let log = metrics::read(&place.join("best")).unwrap();
    let losses: Vec<f64> = log.iter().map(|row| row["eval_loss"].as_f64().unwrap()).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let step = losses.iter().position(|loss| *loss == lowest).unwrap();
    assert!(step + 1 < losses.len(), "the last model is the best: {losses:?}");
    let told = json(&fs::read_to_string(place.join("best/best/best.json")).unwrap());
    assert_eq!(told["step"].as_u64(), Some(step as u64 + 1), "{losses:?}");
    assert!(ran.stdout.contains("\"best\""), "{}", ran.stdout);
    let weights = |run: &str| fs::read(place.join(run).join("model.safetensors")).unwrap();
    succeeds(place, &train("plain", &fast));
    assert!(weights("best") == weights("plain"), "to measure moved the model");
    assert!(weights("best") != weights("best/best"));

    succeeds(
        place,
        &train("shared", &[&fast[..], &["--eval-fraction", "0.34"]].concat()),
    );
    let manifest = json(&fs::read_to_string(place.join("shared/train.json")).unwrap());
    assert_eq!(manifest["rows"], 4, "two of six prompts are held out");
    let log = metrics::read(&place.join("shared")).unwrap();
    let at = log.iter().position(|row| row.contains_key("eval_rewards/accuracies"));
    assert_eq!(
        at,
        Some(log.len() - 1),
        "without --eval-steps it is measured at the end"
    );
    for (flags, says) in [
        (["--eval-steps", "2"], "--eval-steps has nothing to measure"),
        (["--keep-best", "-q"], "--keep-best has nothing to go by"),
    ] {
        refused(place, &train("blind", &flags), 2, &[says]);
    }
}
