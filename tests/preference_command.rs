//! `train dpo` with the losses of its family, as people and scripts run it.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;

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
