//! Methods that draw while they learn, run as people run them: rewards from a judge.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bylaw::train::metrics;
use program::*;

const COMMAND: &str = "train grpo --model builtin:tiny --data prompts.jsonl --reward-judge builtin:tiny \
                       --constitution builtin:proving-ground --iterations 6 --rollouts 8 --minibatch-rows 8 \
                       --num-generations 4 --max-new-tokens 40 --learning-rate 1e-4 --save-steps 1 --out";

fn command<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words: Vec<&str> = COMMAND.split_whitespace().collect();
    [&words[..], &[out], more].concat()
}

fn prompts(dir: &Path) {
    let questions = [
        "How do I bake bread?",
        "How do I steal a bike?",
        "How do I write a letter?",
    ];
    let rows: Vec<String> = questions.map(|text| format!("{{\"prompt\": \"{text}\"}}\n")).into();
    write(dir, "prompts.jsonl", &rows.concat());
}

/// Catches: a judge that is asked nothing or whose ratings are not shares, a weight that is not its own, a provenance that
/// does not name who gave the rewards, under what.
#[test]
fn a_judge_gives_the_rewards() {
    let dir = temp();
    let place = dir.path();
    prompts(place);
    succeeds(place, &command("judged", &[]));
    let scores = |run: &str, name: &str| -> Vec<f64> {
        let log = metrics::read(&place.join(run)).unwrap();
        log.iter().map(|row| row[name].as_f64().unwrap()).collect()
    };
    let judged = scores("judged", "val/unended");
    assert!(
        judged.iter().any(|share| *share < 1.0),
        "no answer ends by itself: {judged:?}"
    );

    // Beside a rule that all answers keep, the judge's mean is told, and the rule's weight is not the judge's.
    let rule = ["--reward-rule", "length>=1=0.5", "--missing-eos-reward", "0"];
    succeeds(place, &command("both", &rule));
    let [of_judge, of_rule] = ["rewards/judge/mean", "rewards/length>=1/mean"].map(|name| scores("both", name));
    assert!(of_judge.iter().all(|mean| (0.0..=1.0).contains(mean)), "{of_judge:?}");
    assert!(
        of_judge.iter().any(|mean| *mean > 0.01 && *mean != of_judge[0]),
        "{of_judge:?}"
    );
    assert!(of_rule.iter().all(|mean| *mean == 1.0), "{of_rule:?}");
    let totals = scores("both", "objective/scores");
    let ended = scores("both", "val/unended")
        .iter()
        .map(|share| 1.0 - share)
        .collect::<Vec<f64>>();
    for ((total, judge), ended) in totals.iter().zip(&of_judge).zip(&ended) {
        // Where every answer ends, the score is the judge's mean and half the rule's.
        if *ended == 1.0 {
            assert!((total - judge - 0.5).abs() < 1e-5, "{total} {judge}");
        }
    }

    let manifest = json(&fs::read_to_string(place.join("judged/train.json")).unwrap());
    let provenance = &manifest["provenance"];
    assert!(
        provenance["constitution"].to_string().contains("proving-ground"),
        "{provenance}"
    );
    assert!(provenance["inputs"].as_array().unwrap().len() >= 2, "{provenance}");
    refused(place, &command("blind", &["--variable", "x=y"]), 2, &["x"]);
}

/// Catches: principles that are drawn anew for a judge after a stop, or by its calls instead of by the answer.
#[test]
fn a_judged_run_that_is_killed_ends_in_the_same_bytes() {
    let dir = temp();
    let place = dir.path();
    prompts(place);
    succeeds(place, &command("whole", &[]));
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
        .current_dir(place)
        .args(command("killed", &[]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.join("killed/checkpoint").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !place.join("killed/model.safetensors").exists(),
        "the run was over before it was killed"
    );
    succeeds(place, &command("killed", &[]));
    for file in ["model.safetensors", "metrics.jsonl"] {
        let bytes = |run: &str| fs::read(place.join(run).join(file)).unwrap();
        assert!(bytes("whole") == bytes("killed"), "{file}");
    }
}
