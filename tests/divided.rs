//! Runs that several machines divide, and what `status` tells of runs.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use program::{json, refused, succeeds, temp, write};

const RECIPE: &str = r#"
name = "divided"
[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 5
benign = 4
[[stage]]
name = "revise"
kind = "revise"
model = "builtin:tiny"
constitution = "builtin:proving-ground"
prompts = "@prompts"
rounds = 1
max_new_tokens = 24
critique_max_new_tokens = 8
keep_truncated = true
unit_rows = 2
[[stage]]
name = "sft"
kind = "train-sft"
model = "builtin:tiny"
data = "@revise"
epochs = 1
batch_size = 4
[[stage]]
name = "sample"
kind = "sample"
model = "@sft"
prompts = "@prompts"
per_prompt = 3
max_new_tokens = 20
unit_rows = 2
[[stage]]
name = "judge"
kind = "judge"
model = "builtin:tiny"
constitution = "builtin:proving-ground"
candidates = "@sample"
keep_truncated = true
unit_rows = 2
[[stage]]
name = "balance"
kind = "balance"
preferences = "@judge"
"#;

/// The files of the datasets and policies of a run, by their path.
fn results(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for stage in ["prompts", "revise", "sft", "sample", "judge", "balance"] {
        for part in ["", "rejects/"] {
            let folder = dir.join(stage).join(part);
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Catches: parts whose stages disagree with those of one machine, in any file: rows, order, provenance.
/// Sampling drops truncated rows, so what the judge reads is not cut where the prompts were.
#[test]
fn a_divided_run_makes_the_same_files() {
    let (divided, straight) = (temp(), temp());
    for dir in [&divided, &straight] {
        write(dir.path(), "recipe.toml", RECIPE);
    }
    let run = ["run", "recipe.toml", "--out", "out"];
    for of in ["0/2", "1/2"] {
        succeeds(divided.path(), &[&run[..], &["--shard", of]].concat());
    }
    succeeds(divided.path(), &[&run[..], &["--until", "sft"]].concat());
    succeeds(divided.path(), &[&run[..], &["--shard", "1/2"]].concat());
    let early = [&run[..], &["--until", "judge"]].concat();
    refused(divided.path(), &early, 3, &["part 0/2 of `sample`", "--shard"]);
    succeeds(divided.path(), &[&run[..], &["--shard", "0/2"]].concat());
    succeeds(divided.path(), &run);
    succeeds(straight.path(), &run);
    let (divided, straight) = (divided.path().join("out"), straight.path().join("out"));
    let names = |dir: &Path| results(dir).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&divided), names(&straight));
    assert!(names(&straight).len() > 20);
    for ((name, one), (_, other)) in results(&divided).into_iter().zip(results(&straight)) {
        // How long a step took is told beside what it did.
        if !name.ends_with("metrics.jsonl") {
            assert!(one == other, "{name}");
        }
    }
}

/// Catches: a status that says less than is there, or that fails where there is nothing yet.
#[test]
fn the_status_of_a_run_is_told() {
    let dir = temp();
    write(dir.path(), "recipe.toml", RECIPE);
    succeeds(dir.path(), &["run", "recipe.toml", "--out", "out", "--until", "revise"]);
    let text = succeeds(dir.path(), &["status", "out"]).stdout;
    assert!(
        text.contains("revise             complete\n  rows       9 of 9 done"),
        "{text}"
    );
    assert!(text.contains("sft                not begun"), "{text}");
    let told = json(&succeeds(dir.path(), &["status", "out/revise", "--json"]).stdout);
    let job = &told["stages"][0]["job"];
    assert_eq!(
        (job["inputs_done"].as_u64(), job["inputs_left"].as_u64()),
        (Some(9), Some(0))
    );
    assert!(job["completion_tokens"].as_u64() > Some(9));
    refused(dir.path(), &["status", "nowhere"], 3, &["no job"]);
}

/// Catches: words on stderr that a program cannot read.
#[test]
fn logs_are_json_when_asked_for() {
    let dir = temp();
    let world = "world prompts --split cells --harmful 3 --benign 0 --log-format json --out";
    let words: Vec<&str> = world.split(' ').collect();
    let ran = succeeds(dir.path(), &[&words[..], &["p"]].concat());
    let missing =
        "revise --model builtin:tiny --constitution builtin:harmless --prompts none.jsonl --log-format json --out r";
    let failed = program::bylaw(dir.path(), &missing.split(' ').collect::<Vec<_>>());
    let lines: Vec<_> = [ran.stderr, failed.stderr].concat().lines().map(json).collect();
    assert_eq!(lines[0]["event"], "finished");
    let error = lines.last().unwrap();
    assert_eq!(
        (error["level"].as_str(), error["exit_code"].as_u64()),
        (Some("error"), Some(3))
    );
    assert!(error["help"].is_string());
}
