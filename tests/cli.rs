//! The program as people and scripts meet it: exit codes, messages, what is on stdout, and runs that are
//! stopped and go on.

#[path = "support/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bylaw::dataset::Dataset;
use bylaw::record::{Candidates, Reject};
use tempfile::TempDir;

use program::{bylaw, fails, json, refused, succeeds, temp, write};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny");

/// A copy of a model's directory in `dir`.
fn copy_model(from: &str, dir: &Path) -> PathBuf {
    let to = dir.join("model");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

fn prompt(text: &str) -> String {
    format!("{}\n", serde_json::json!({ "prompt": text }))
}

const PROMPTS: [&str; 2] = ["How do I bake bread?", "Tell me of the sea."];

/// A directory with two prompts in `prompts.jsonl`.
fn with_prompts() -> TempDir {
    let dir = temp();
    write(dir.path(), "prompts.jsonl", &PROMPTS.map(prompt).concat());
    dir
}

/// `sample` of a few tokens.
fn sample<'a>(model: &'a str, prompts: &'a str, out: &'a str) -> Vec<&'a str> {
    vec![
        "sample",
        "--model",
        model,
        "--prompts",
        prompts,
        "--out",
        out,
        "--max-new-tokens",
        "4",
        "--keep-truncated",
    ]
}

fn rejects(dataset: &Path) -> Vec<Reject> {
    Dataset::<Candidates>::open(dataset).unwrap().rejects().unwrap()
}

// ---- models --------------------------------------------------------------------------------------

#[test]
fn a_missing_model_is_named() {
    let dir = with_prompts();
    let commands = [
        vec![
            "revise",
            "--model",
            "nope",
            "--constitution",
            "builtin:proving-ground",
            "--prompts",
            "prompts.jsonl",
        ],
        vec!["sample", "--model", "nope", "--prompts", "prompts.jsonl"],
        vec!["eval", "policy", "--model", "nope", "--prompts", "prompts.jsonl"],
    ];
    for mut command in commands {
        command.extend(["--out", "out"]);
        refused(dir.path(), &command, 3, &["no model directory `nope`", "builtin:tiny"]);
    }
    let command = sample("builtin:huge", "prompts.jsonl", "out");
    refused(dir.path(), &command, 2, &["`builtin:huge`", "builtin:tiny"]);
    assert!(
        !dir.path().join("out").exists(),
        "nothing is made before the inputs are known to be good"
    );
}

/// What `spoil` does to a copy of the golden checkpoint is found, and said.
#[track_caller]
fn spoiled(says: &[&str], spoil: impl FnOnce(&Path)) {
    let dir = with_prompts();
    spoil(&copy_model(GOLDEN, dir.path()));
    refused(dir.path(), &sample("model", "prompts.jsonl", "out"), 3, says);
    assert!(!dir.path().join("out").exists());
}

fn remove(model: &Path, file: &str) {
    fs::remove_file(model.join(file)).unwrap();
}

#[test]
fn missing_files_of_a_model_are_named() {
    spoiled(
        &["model has no model.safetensors", "copy the whole checkpoint"],
        |model| {
            remove(model, "model.safetensors");
        },
    );
    spoiled(&["model/config.json"], |model| remove(model, "config.json"));
    spoiled(&["model/tokenizer.json"], |model| remove(model, "tokenizer.json"));
}

#[test]
fn pickles_are_not_read() {
    spoiled(&["pytorch_model.bin is a pickle", "safe_serialization=True"], |model| {
        fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).unwrap();
    });
}

#[test]
fn truncated_weights_are_refused_wherever_they_end() {
    let bytes = fs::read(Path::new(GOLDEN).join("model.safetensors")).unwrap();
    for length in [0, 5, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        spoiled(
            &[
                "model/model.safetensors",
                "not a complete safetensors file",
                "truncated",
            ],
            |model| {
                fs::write(model.join("model.safetensors"), &bytes[..length]).unwrap();
            },
        );
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let says = [
        "model/model.safetensors",
        "model.embed_tokens.weight",
        "[288, 32]",
        "[288, 64]",
    ];
    spoiled(&says, |model| {
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        write(
            model,
            "config.json",
            &config.replace("\"hidden_size\": 32", "\"hidden_size\": 64"),
        );
    });
    spoiled(&["model/model.safetensors", "layers.2", "missing"], |model| {
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        let deeper = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
        write(model, "config.json", &deeper);
    });
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    spoiled(
        &[
            "model: the tokenizer does not match the model",
            "288",
            "same checkpoint",
        ],
        |model| {
            for file in ["tokenizer.json", "tokenizer_config.json"] {
                fs::copy(Path::new(TINY).join(file), model.join(file)).unwrap();
            }
        },
    );
    spoiled(&["model: tokenizer.json is not a tokenizer"], |model| {
        write(model, "tokenizer.json", "{}");
    });
}

// ---- data ----------------------------------------------------------------------------------------

#[test]
fn prompts_that_are_not_there_are_refused() {
    let dir = with_prompts();
    write(dir.path(), "empty.jsonl", "");
    write(dir.path(), "blank.jsonl", "\n\n");
    write(dir.path(), "prompts.txt", "hello");
    for (file, says) in [
        ("empty.jsonl", "empty.jsonl: is empty"),
        ("blank.jsonl", "blank.jsonl: is empty"),
        ("nope.jsonl", "nope.jsonl: there is no such file"),
        ("*.nope", "*.nope: no file matches"),
        ("prompts.txt", "prompts.txt: `.txt` files are not read"),
    ] {
        refused(dir.path(), &sample(GOLDEN, file, "out"), 3, &[says]);
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_rejected_alone() {
    let dir = with_prompts();
    let long = prompt(&"word ".repeat(400));
    write(dir.path(), "long.jsonl", &long);
    let says = ["long/rejects", "leaves no room in the model's context of 128"];
    // Once made, and once found there.
    refused(dir.path(), &sample(GOLDEN, "long.jsonl", "long"), 3, &says);
    refused(dir.path(), &sample(GOLDEN, "long.jsonl", "long"), 3, &says);

    let [first, second] = PROMPTS.map(prompt);
    write(dir.path(), "mixed.jsonl", &format!("{first}{long}{second}"));
    succeeds(dir.path(), &sample(GOLDEN, "mixed.jsonl", "mixed"));
    let mixed = Dataset::<Candidates>::open(dir.path().join("mixed")).unwrap();
    let rows = mixed.read_all().unwrap();
    let kept: Vec<&str> = rows.iter().map(|row| row.prompt[0].content.as_str()).collect();
    assert_eq!(kept, PROMPTS);
    let [reject] = &mixed.rejects().unwrap()[..] else {
        panic!("one row is rejected");
    };
    assert!(
        reject.reason.contains("leaves no room in the model's context of 128"),
        "{}",
        reject.reason
    );

    // The others are as if it had never been there.
    succeeds(dir.path(), &sample(GOLDEN, "prompts.jsonl", "alone"));
    let alone = Dataset::<Candidates>::open(dir.path().join("alone")).unwrap();
    assert_eq!(alone.read_all().unwrap(), rows);
}

#[test]
fn lines_that_are_not_prompts_become_rejects_with_their_line() {
    let dir = temp();
    let good = prompt(PROMPTS[0]);
    write(
        dir.path(),
        "bad.jsonl",
        &format!("{good}{{not json\n[1, 2]\n{{\"nothing\": 1}}\n{{\"prompt\": 3}}\n"),
    );
    let ran = succeeds(dir.path(), &sample(GOLDEN, "bad.jsonl", "out"));
    assert!(ran.stdout.contains("1 rows, 4 rejects"), "{}", ran.stdout);
    let rejects = rejects(&dir.path().join("out"));
    for (line, reject) in (2..).zip(&rejects) {
        assert!(reject.reason.contains(&format!("line {line}")), "{}", reject.reason);
        assert!(!reject.raw.is_empty());
    }
    assert_eq!(rejects.len(), 4);

    write(dir.path(), "all-bad.jsonl", "{not json\n");
    let says = ["all-bad.jsonl", "none of its 1 rows", "line 1", "not valid JSON"];
    refused(dir.path(), &sample(GOLDEN, "all-bad.jsonl", "out2"), 3, &says);
}

// ---- output directories --------------------------------------------------------------------------

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let dir = with_prompts();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    // Hidden files must not hide the others, in whatever order the system lists them.
    for name in [".a", ".b", ".c", "notes.txt", ".z"] {
        write(&taken, name, "mine");
    }
    write(dir.path(), "recipe.toml", RECIPE);
    let train = [
        "train",
        "sft",
        "--model",
        GOLDEN,
        "--data",
        "sft.jsonl",
        "--out",
        "taken",
    ];
    write(
        dir.path(),
        "sft.jsonl",
        "{\"prompt\": \"Hi\", \"completion\": \"Hello\"}\n",
    );
    let commands: [&[&str]; 5] = [
        &sample(GOLDEN, "prompts.jsonl", "taken"),
        &train,
        &["run", "recipe.toml", "--out", "taken"],
        &["world", "prompts", "--split", "evaluation", "--out", "taken"],
        &["model", "cast", "builtin:tiny", "--to", "f16", "--out", "taken"],
    ];
    for command in commands {
        refused(dir.path(), command, 2, &["taken: ", "notes.txt", "--out"]);
    }
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 5);
    for out in ["prompts.jsonl", "prompts.jsonl/below"] {
        refused(
            dir.path(),
            &sample(GOLDEN, "prompts.jsonl", out),
            2,
            &["prompts.jsonl: ", "this is a file"],
        );
    }
}

#[test]
fn another_run_in_the_directory_is_told_apart_by_setting() {
    let dir = with_prompts();
    let first = sample(GOLDEN, "prompts.jsonl", "out");
    succeeds(dir.path(), &first);
    let before = files(&dir.path().join("out"));
    let mut again = first.clone();
    again.extend(["--top-k", "3"]);
    refused(
        dir.path(),
        &again,
        2,
        &["out: ", "settings.sampling.top_k: 0 there, 3 here"],
    );
    again.truncate(first.len());
    again.extend(["--seed", "5"]);
    refused(dir.path(), &again, 2, &["seed: 0 there, 5 here"]);
    // Other rows under the same name.
    write(dir.path(), "prompts.jsonl", &prompt("Something else."));
    refused(dir.path(), &first, 2, &["inputs[0].sha256"]);
    assert_eq!(files(&dir.path().join("out")), before);
}

// ---- the command line ----------------------------------------------------------------------------

#[test]
fn bad_arguments_are_refused() {
    let dir = with_prompts();
    for (arguments, says) in [
        (vec!["--device", "tpu"], "unknown device `tpu`"),
        (vec!["--device", "cuda:0"], "computes on the CPU only"),
        (vec!["--per-prompt", "0"], "--per-prompt is 0"),
    ] {
        let command = [sample(GOLDEN, "prompts.jsonl", "out"), arguments].concat();
        refused(dir.path(), &command, 2, &[says]);
    }
    // clap's own words.
    for (arguments, says) in [
        (&["frobnicate"][..], "unrecognized subcommand 'frobnicate'"),
        (&["sample"], "--model <MODEL>"),
        (&["sample", "--modle", "x"], "--model"),
        (&["--dtype", "f8", "demo"], "possible values: auto, f32, bf16, f16"),
        (&["train", "kto"], "unrecognized subcommand 'kto'"),
    ] {
        fails(dir.path(), arguments, 2, &[says]);
    }
}

#[test]
fn help_is_as_it_was() {
    let dir = temp();
    insta::assert_snapshot!("help", succeeds(dir.path(), &["--help"]).stdout);
    insta::assert_snapshot!("help_revise", succeeds(dir.path(), &["revise", "--help"]).stdout);
}

#[test]
fn a_mistake_in_a_constitution_begins_with_its_place() {
    let dir = with_prompts();
    let constitution = r#"name = "mine"
version = "1"

[[principle]]
id = "a"
critque = "What is wrong with it?"
revise = "Put it right."
"#;
    write(dir.path(), "mine.toml", constitution);
    let revise = [
        "revise",
        "--model",
        GOLDEN,
        "--prompts",
        "prompts.jsonl",
        "--out",
        "out",
        "--constitution",
    ];
    for command in [
        vec!["constitution", "check", "mine.toml"],
        [&revise[..], &["mine.toml"]].concat(),
    ] {
        let stderr = refused(dir.path(), &command, 2, &["`critque`", "did you mean `critique`?"]);
        assert!(stderr.starts_with("mine.toml:6:1: "), "{stderr}");
    }
    let nope = [&revise[..], &["builtin:nope"]].concat();
    refused(dir.path(), &nope, 2, &["`nope`", "harmless, helpful, honest"]);

    let ran = succeeds(dir.path(), &["constitution", "check", "builtin:harmless", "--json"]);
    assert_eq!(json(&ran.stdout)["files"][0]["file"], "builtin:harmless");
    // One bad file among good ones.
    let ran = bylaw(dir.path(), &["constitution", "check", "builtin:harmless", "mine.toml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stdout.contains("builtin:harmless: "), "{}", ran.stdout);
}

#[test]
fn a_stage_answers_with_one_json_document() {
    let dir = with_prompts();
    let command = [sample(GOLDEN, "prompts.jsonl", "out"), vec!["--json"]].concat();
    let first = succeeds(dir.path(), &command);
    let document = json(&first.stdout);
    assert_eq!((&document["stage"], &document["rows"]), (&"sample".into(), &2.into()));
    assert_eq!(
        succeeds(dir.path(), &command).stdout,
        first.stdout,
        "the finished dataset is found again"
    );

    let pair =
        serde_json::json!({ "prompt": "How do I steal a lamp?", "completions": ["I will not say.", "Take it."] });
    write(dir.path(), "pairs.jsonl", &pair.to_string());
    let judge = [
        "judge",
        "--model",
        "builtin:tiny",
        "--constitution",
        "builtin:proving-ground",
    ];
    let command = [
        &judge[..],
        &["--candidates", "pairs.jsonl", "--out", "labels", "--json"],
    ]
    .concat();
    let document = json(&succeeds(dir.path(), &command).stdout);
    assert_eq!((&document["stage"], &document["rows"]), (&"judge".into(), &1.into()));
}

// ---- recipes -------------------------------------------------------------------------------------

/// The whole way in small: prompts, revisions, a policy, its evaluation.
const RECIPE: &str = r#"name = "small"
seed = 3

[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 6
benign = 6

[[stage]]
name = "revise"
kind = "revise"
model = "builtin:tiny"
constitution = "builtin:proving-ground"
prompts = "@prompts"
rounds = 1
max_new_tokens = 48
critique_max_new_tokens = 24
keep_truncated = true
unit_rows = 3

[[stage]]
name = "sft"
kind = "train-sft"
model = "builtin:tiny"
data = "@revise"
epochs = 2
learning_rate = 1e-3
batch_size = 2

[[stage]]
name = "held-out"
kind = "world-prompts"
split = "evaluation"
harmful = 6
benign = 6

[[stage]]
name = "eval"
kind = "eval-policy"
model = "@sft"
prompts = "@held-out"
policy = "sft"
max_new_tokens = 48
"#;

fn with_recipe() -> TempDir {
    let dir = temp();
    write(dir.path(), "recipe.toml", RECIPE);
    dir
}

#[test]
fn mistakes_in_a_recipe_are_found_before_anything_runs() {
    let dir = temp();
    // What is replaced by what, and what is said of it.
    let cases: [(&str, &str, &[&str]); 17] = [
        (
            "rounds = 1",
            "roundz = 1",
            &["recipe.toml:17:1: unknown key `roundz`", "did you mean `rounds`?"],
        ),
        (
            "rounds = 1",
            "zzz = 1",
            &["recipe.toml:17:1: unknown key `zzz`", "known keys: ", "unit_rows"],
        ),
        (
            "rounds = 1",
            "rounds = \"two\"",
            &["recipe.toml:17:1: ", "'two'", "--rounds"],
        ),
        ("rounds = 1", "rounds = -1", &["recipe.toml:17:1: ", "'-1'"]),
        (
            "rounds = 1",
            "rounds = true",
            &["recipe.toml:17:1: `rounds` needs a value"],
        ),
        (
            "rounds = 1",
            "rounds = false",
            &["recipe.toml:17:1: `rounds` needs a value"],
        ),
        (
            "rounds = 1",
            "rounds = {}",
            &["recipe.toml:17:10: `rounds` is not a text"],
        ),
        ("rounds = 1", "rounds =", &["recipe.toml:17:", "not TOML"]),
        (
            "truncated = true",
            "truncated = 3",
            &["recipe.toml:20:1: `keep_truncated` is either true or false"],
        ),
        (
            "kind = \"revise\"",
            "kind = \"revize\"",
            &["recipe.toml:13:8: unknown kind", "did you mean `revise`?"],
        ),
        (
            "kind = \"revise\"",
            "kind = \"run\"",
            &["recipe.toml:13:8: unknown kind of stage `run`"],
        ),
        (
            "kind = \"revise\"",
            "kind = \"train\"",
            &["recipe.toml:13:8: unknown kind of stage `train`"],
        ),
        (
            "kind = \"revise\"",
            "kind = 3",
            &["recipe.toml:13:8: the `kind` of a stage is a text"],
        ),
        (
            "\"@prompts\"",
            "\"@nosuch\"",
            &["recipe.toml:16:1: no earlier stage is named `nosuch`"],
        ),
        ("\"@prompts\"", "\"@prompt\"", &["did you mean `@prompts`?"]),
        (
            "\"@prompts\"",
            "\"@sft\"",
            &["recipe.toml:16:1: no earlier stage is named `sft`"],
        ),
        (
            "name = \"sft\"",
            "name = \"revise\"",
            &["two stages are named `revise`"],
        ),
    ];
    for (old, new, says) in cases {
        write(dir.path(), "recipe.toml", &RECIPE.replacen(old, new, 1));
        let stderr = fails(dir.path(), &["run", "recipe.toml", "--out", "out"], 2, says);
        assert!(stderr.starts_with("recipe.toml:"), "{new}: {stderr}");
        assert!(!dir.path().join("out").exists(), "{new}");
    }
}

#[test]
fn bad_arguments_of_a_run_are_refused() {
    let dir = with_recipe();
    let cases: [(&[&str], &[&str]); 11] = [
        (
            &["--set", "revise.roundz=2"],
            &["unknown key `roundz`", "did you mean `rounds`?"],
        ),
        (
            &["--set", "revize.rounds=2"],
            &["no stage `revize`", "did you mean `revise`?"],
        ),
        (
            &["--set", "rounds=2"],
            &["not stage.key=value", "--set ppo.iterations=20"],
        ),
        (&["--set", "revise.rounds=two"], &["'two'"]),
        (
            &["--from", "nope"],
            &["no stage `nope`", "prompts, revise, sft, held-out, eval"],
        ),
        (&["--set", "sft.keep_truncated=yes"], &["unknown key `keep_truncated`"]),
        (&["--set", "revise.keep_truncated=yes"], &["either true or false"]),
        (&["--until", "nope"], &["no stage `nope`"]),
        (
            &["--from", "eval"],
            &["out: the stage `prompts` has not been run", "without --from"],
        ),
        (&["--from", "eval", "--until", "revise"], &["--until comes before"]),
        (&["--device", "tpu"], &["unknown device"]),
    ];
    for (arguments, says) in cases {
        let command = [&["run", "recipe.toml", "--out", "out"], arguments].concat();
        fails(dir.path(), &command, 2, says);
    }
    refused(
        dir.path(),
        &["run", "nope.toml"],
        3,
        &["nope.toml", "recipes/demo.toml"],
    );
    refused(dir.path(), &["report", "."], 3, &["run.json", "bylaw run"]);
}

/// Everything under `dir` by its path, but for what tells the time and a job's own files.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.ends_with(".job") {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, found);
            } else if name != "run.json" && name != "report.html" {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(dir, dir, &mut found);
    found
}

#[track_caller]
fn same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let differing: Vec<&String> = a.keys().filter(|name| a[*name] != b[*name]).collect();
    assert!(differing.is_empty(), "{differing:?}");
    let shards = a.keys().filter(|name| name.ends_with(".arrow")).count();
    assert!(shards > 2, "{:?}", a.keys());
}

#[test]
fn a_recipe_runs_once() {
    let dir = with_recipe();
    let run = ["run", "recipe.toml", "--out", "out"];
    let first = succeeds(dir.path(), &run);
    let out = dir.path().join("out");
    let made = files(&out);
    for name in [
        "prompts/manifest.json",
        "revise/data-00000-of-00001.arrow",
        "sft/model.safetensors",
        "eval/eval.json",
    ] {
        assert!(made.contains_key(name), "{name}: {:?}", made.keys());
    }
    assert!(
        !made
            .keys()
            .any(|name| name.contains("/.") || name.contains("checkpoint")),
        "{:?}",
        made.keys()
    );
    assert!(out.join("report.html").is_file());

    // Again: nothing is done, and the same is told.
    let times = |out: &Path| -> BTreeMap<String, std::time::SystemTime> {
        let time = |name: &String| fs::metadata(out.join(name)).unwrap().modified().unwrap();
        files(out).keys().map(|name| (name.clone(), time(name))).collect()
    };
    let before = times(&out);
    let again = succeeds(dir.path(), &run);
    assert_eq!(again.stdout, first.stdout);
    assert!(again.stderr.contains("train-sft: already complete"), "{}", again.stderr);
    assert_eq!(files(&out), made);
    assert_eq!(times(&out), before, "finished files are not written again");

    let document = json(&succeeds(dir.path(), &[&run[..], &["--json"]].concat()).stdout);
    assert_eq!(document["policies"]["sft"]["n"], 12);
    assert_eq!(document["stages"].as_array().unwrap().len(), 5);
    let report = json(&succeeds(dir.path(), &["report", "out", "--json"]).stdout);
    assert_eq!(report["summary"]["policies"], document["policies"]);

    // Other settings are another run.
    for (arguments, says) in [
        (
            ["--set", "revise.rounds=2"],
            "stage `revise`: --rounds=1 there, --rounds=2 here",
        ),
        (
            ["--set", "sft.epochs=3"],
            "stage `sft`: --epochs=2 there, --epochs=3 here",
        ),
        (["--seed", "4"], "seed: 3 there, 4 here"),
    ] {
        refused(dir.path(), &[&run[..], &arguments].concat(), 2, &["out: ", says]);
    }
    // A part that is complete can be run on from.
    succeeds(dir.path(), &[&run[..], &["--from", "eval"]].concat());
    assert_eq!(files(&out), made);
}

#[test]
fn a_run_can_be_done_in_parts() {
    let (parts, whole) = (with_recipe(), with_recipe());
    let run = ["run", "recipe.toml", "--out", "out", "--until", "revise"];
    succeeds(parts.path(), &[&run[..5], &["prompts"]].concat());
    succeeds(parts.path(), &[&run[..], &["--from", "revise"]].concat());
    succeeds(whole.path(), &run);
    same_files(&parts.path().join("out"), &whole.path().join("out"));
}

#[test]
fn the_commands_of_a_dry_run_can_be_run() {
    let (by_hand, by_recipe) = (with_recipe(), with_recipe());
    let run = ["run", "recipe.toml", "--out", "it's my run", "--until", "revise"];
    let dry = [&run[..], &["--dry-run"]].concat();
    let printed = succeeds(by_hand.path(), &dry).stdout;
    assert!(!by_hand.path().join("it's my run").exists());
    assert_eq!(printed.lines().count(), 2, "{printed}");
    let document = json(&succeeds(by_hand.path(), &[&dry[..], &["--json"]].concat()).stdout);
    let commands: Vec<&str> = document["commands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert_eq!(commands, printed.lines().collect::<Vec<_>>());

    let programs = Path::new(env!("CARGO_BIN_EXE_bylaw")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    assert_cmd::Command::new("sh")
        .args(["-e", "-c", &printed])
        .env("PATH", path)
        .current_dir(by_hand.path())
        .assert()
        .success();
    succeeds(by_recipe.path(), &run);
    same_files(
        &by_hand.path().join("it's my run"),
        &by_recipe.path().join("it's my run"),
    );
}

// ---- stopping ------------------------------------------------------------------------------------

fn start(dir: &Path) -> Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_bylaw"))
        .args(["run", "recipe.toml", "--out", "out"])
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts the run, sends `signal` as soon as `file` is there, and answers how it ended with its stderr;
/// `None` if it was through before.
fn stop_at(dir: &Path, file: &str, signal: i32) -> Option<(std::process::ExitStatus, String)> {
    let mut child = start(dir);
    let begun = Instant::now();
    while !dir.join("out").join(file).exists() {
        assert!(begun.elapsed() < Duration::from_secs(300), "{file} never came");
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // A signal to a process that has ended does nothing.
    let _ = std::process::Command::new("kill")
        .args([format!("-{signal}"), child.id().to_string()])
        .status()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code() != Some(0)).then_some((output.status, stderr))
}

/// A run stopped by `signal` whenever one of `files` appears, then let through.
fn stopped_and_resumed(signal: i32, files: &[&str], check: impl Fn(std::process::ExitStatus, &str)) {
    let (stopped, whole) = (with_recipe(), with_recipe());
    let mut stops = 0;
    for file in files {
        if let Some((status, stderr)) = stop_at(stopped.path(), file, signal) {
            check(status, &stderr);
            stops += 1;
        }
    }
    assert!(
        stops * 2 >= files.len(),
        "only {stops} of {} stops came in time",
        files.len()
    );
    let run = ["run", "recipe.toml", "--out", "out"];
    succeeds(stopped.path(), &run);
    succeeds(whole.path(), &run);
    same_files(&stopped.path().join("out"), &whole.path().join("out"));
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let files = [
        "run.json",
        "prompts/manifest.json",
        "revise/manifest.json",
        "revise/.job/units",
        "revise/data-00000-of-00001.arrow",
        "sft/train.json",
        "sft/metrics.jsonl",
        "sft/model.safetensors",
        "eval",
    ];
    stopped_and_resumed(libc::SIGKILL, &files, |status, _| {
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn an_interrupted_run_keeps_its_work_and_says_so() {
    let files = ["prompts/manifest.json", "revise/.job/units", "sft/metrics.jsonl"];
    stopped_and_resumed(libc::SIGINT, &files, |status, stderr| {
        assert_eq!(status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("stopping after the unit in flight"), "{stderr}");
        assert!(stderr.contains("error: interrupted"), "{stderr}");
        assert!(stderr.contains("finished work is kept"), "{stderr}");
    });
}
