//! `bylaw eval winrate`: the document that scripts rely on, what is refused and what is counted, and pairs judged here.

#[path = "support/program.rs"]
mod program;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use program::{bylaw, fails, json, refused, succeeds, temp, write};
use serde_json::{Value, json};

const HEADER: &str = "model,idx,len_1_chars,len_2_chars,preference\n";

/// Forty judged pairs for each model, of varying lengths.
fn rows(models: &[&str]) -> String {
    let mut text = HEADER.to_owned();
    for (place, model) in models.iter().enumerate() {
        for index in 0..40 {
            let length = 300 + (index * 131 + place * 57) % 700;
            let preference = 1.0 + f64::from((index as u32 * 37 + 11 * place as u32) % 100) / 100.0;
            writeln!(text, "{model},{index},500,{length},{preference}").unwrap();
        }
    }
    text
}

fn measured(dir: &Path, file: &str) -> Value {
    let ran = succeeds(dir, &["eval", "winrate", "--pairs", file, "--json"]);
    let document = json(&ran.stdout);
    assert!(!ran.stdout.contains("NaN"), "{document}");
    document
}

fn model<'a>(document: &'a Value, name: &str) -> &'a Value {
    let models = document["models"].as_array().unwrap();
    models.iter().find(|model| model["model"] == name).unwrap()
}

/// Catches: a key that is renamed, a percentage, an interval that is not a pair, text beside the document.
#[test]
fn the_document_has_the_form_that_scripts_rely_on() {
    let dir = temp();
    write(dir.path(), "pairs.csv", &rows(&["a", "b"]));
    let document = measured(dir.path(), "pairs.csv");
    assert!(
        document["method"]
            .as_str()
            .unwrap()
            .contains("difficulty of the instruction by")
    );
    let models = document["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    for model in models {
        assert_eq!(model["n"], 40);
        let number = |value: &Value| value.as_f64().unwrap();
        let rate = number(&model["length_controlled_win_rate"]);
        let (low, high) = (number(&model["ci"][0]), number(&model["ci"][1]));
        assert_eq!(model["ci"].as_array().unwrap().len(), 2);
        assert!(0.0 <= low && low < rate && rate < high && high <= 1.0, "{model}");
        assert!((0.2..0.8).contains(&number(&model["win_rate"])), "{model}");
        assert!((300.0..1000.0).contains(&number(&model["mean_length"])), "{model}");
        assert_eq!(
            (&model["status"], &model["ci_of"]),
            (&json!("fitted"), &json!("length_controlled_win_rate"))
        );
    }
    // The same again to the bit; for people, a table with the better one first.
    assert_eq!(document, measured(dir.path(), "pairs.csv"));
    let table = succeeds(dir.path(), &["eval", "winrate", "--pairs", "pairs.csv"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("model") && lines[0].contains("LC win rate"),
        "{table}"
    );
    assert!(lines[1].starts_with(models[0]["model"].as_str().unwrap()), "{table}");
}

/// Catches: the sides taken for each other, a preference that is not mapped to preference - 1.
#[test]
fn two_is_the_model_and_one_the_baseline() {
    let dir = temp();
    let mut text = HEADER.to_owned();
    for index in 0..20 {
        writeln!(
            text,
            "m,{index},100,{},{}",
            90 + index,
            if index % 4 == 0 { 1 } else { 2 }
        )
        .unwrap();
    }
    write(dir.path(), "pairs.csv", &text);
    let found = measured(dir.path(), "pairs.csv");
    assert_eq!(model(&found, "m")["win_rate"], 0.75);
    assert_eq!(model(&found, "m")["mean_length"], 99.5);
    assert_eq!(model(&found, "m")["baseline_mean_length"], 100.0);
    assert!(found["method"].as_str().unwrap().contains("takes several models"));
}

/// Catches: formats that are read differently, AlpacaEval's own columns not understood, lengths in bytes.
#[test]
fn every_format_says_the_same() {
    let dir = temp();
    let (mut csv, mut jsonl, mut with_p, mut annotations) =
        (HEADER.to_owned(), String::new(), String::new(), Vec::new());
    for index in 0..20 {
        let (length, p) = (5 + index * 3 % 17, f64::from(index * 7 % 20) / 16.0);
        let p = p.min(1.0);
        let preference = 1.0 + p;
        writeln!(csv, "m,{index},10,{length},{preference}").unwrap();
        let row =
            json!({ "model": "m", "idx": index, "len_1_chars": 10, "len_2_chars": length, "preference": preference });
        writeln!(jsonl, "{row}").unwrap();
        let row = json!({ "model": "m", "idx": index, "len_1_chars": 10, "len_2_chars": length, "p": p });
        writeln!(with_p, "{row}").unwrap();
        annotations.push(json!({
            "generator_1": "base", "generator_2": "m", "instruction": format!("{index}"), "preference": preference,
            "output_1": "é".repeat(10), "output_2": "ü".repeat(length as usize), "annotator": "x",
        }));
    }
    write(dir.path(), "a.csv", &csv);
    write(dir.path(), "b.jsonl", &jsonl);
    write(dir.path(), "c.jsonl", &with_p);
    write(dir.path(), "d.json", &Value::from(annotations).to_string());
    let first = measured(dir.path(), "a.csv");
    for file in ["b.jsonl", "c.jsonl", "d.json"] {
        assert_eq!(measured(dir.path(), file), first, "{file}");
    }
}

/// Catches: rows that vanish, numbers that cannot be taken for what they are not.
#[test]
fn rows_without_a_verdict_are_counted_and_wrong_ones_refused() {
    let dir = temp();
    let with = |row: &str| rows(&["m"]) + row + "\n";
    for (row, reason) in [
        ("m,40,500,400,", "no preference"),
        ("m,40,500,400,NaN", "no preference"),
        ("m,40,500,,1.5", "`len_2_chars` is absent"),
        (",40,500,400,1.5", "`model` is absent"),
        ("m,,500,400,1.5", "`idx` is absent"),
        ("m,40,500", "has 3 cells"),
    ] {
        write(dir.path(), "pairs.csv", &with(row));
        let ran = succeeds(dir.path(), &["eval", "winrate", "--pairs", "pairs.csv", "--json"]);
        let document = json(&ran.stdout);
        assert_eq!(model(&document, "m")["n"], 40, "{row}");
        assert_eq!(document["rejected"].as_array().unwrap().len(), 1, "{row}");
        let rejected = &document["rejected"][0];
        assert!(rejected["row"].as_str().unwrap().starts_with("row 41"), "{rejected}");
        assert!(rejected["reason"].as_str().unwrap().contains(reason), "{rejected}");
        assert!(
            ran.stderr.contains("1 rows are left out") && ran.stderr.contains(reason),
            "{}",
            ran.stderr
        );
    }
    for (row, reason) in [
        ("m,40,500,400,0.3", "the preference 0.3 is not from 1 to 2"),
        ("m,40,500,400,3", "the preference 3 is not from 1 to 2"),
        ("m,40,500,400,inf", "`preference` is \"inf\", which is no finite number"),
        ("m,40,500,400,better", "`preference` is \"better\""),
        ("m,40,500,-4,1.5", "`len_2_chars` is -4, which is no length"),
    ] {
        write(dir.path(), "pairs.csv", &with(row));
        refused(
            dir.path(),
            &["eval", "winrate", "--pairs", "pairs.csv"],
            3,
            &["row 41", reason],
        );
    }
    // Labels of 0 and 1: neither ties nor wins of the baseline.
    write(dir.path(), "zeros.csv", &format!("{HEADER}m,1,5,6,0\nm,2,5,7,1\n"));
    refused(
        dir.path(),
        &["eval", "winrate", "--pairs", "zeros.csv"],
        3,
        &["row 1", "no row has one above 1"],
    );
    write(
        dir.path(),
        "p.jsonl",
        "{\"model\":\"m\",\"idx\":1,\"len_1_chars\":1,\"len_2_chars\":1,\"p\":1.5}\n",
    );
    refused(
        dir.path(),
        &["eval", "winrate", "--pairs", "p.jsonl"],
        3,
        &["line 1", "p, 1.5, is not from 0 to 1"],
    );
    write(dir.path(), "none.csv", "prompt,answer\na,b\n");
    refused(
        dir.path(),
        &["eval", "winrate", "--pairs", "none.csv"],
        3,
        &["none of its 1 rows", "the columns are `model`"],
    );
    refused(
        dir.path(),
        &["eval", "winrate", "--pairs", "nowhere.csv"],
        3,
        &["nowhere.csv"],
    );
    fails(
        dir.path(),
        &["eval", "winrate", "--pairs", "none.csv", "--l2", "NaN"],
        2,
        &["at least 0"],
    );
    refused(dir.path(), &["eval", "winrate"], 2, &["--pairs FILE"]);
    refused(
        dir.path(),
        &["eval", "winrate", "--model", "x", "--baseline", "y"],
        2,
        &["the judge"],
    );
}

/// Catches: NaN or a made-up rate where length cannot be controlled; the wrong interval under `ci`.
#[test]
fn what_cannot_be_controlled_is_null_with_its_reason() {
    let dir = temp();
    let mut text = HEADER.to_owned();
    for index in 0..12 {
        writeln!(text, "wins,{index},100,{},2", 90 + index * 5).unwrap();
        writeln!(text, "constant,{index},100,150,{}", 1 + index % 2).unwrap();
        writeln!(text, "equal,{index},100,100,{}", 1 + index % 2).unwrap();
    }
    writeln!(text, "one,0,100,90,1.5").unwrap();
    write(dir.path(), "pairs.csv", &text);
    let ran = succeeds(dir.path(), &["eval", "winrate", "--pairs", "pairs.csv", "--json"]);
    let found = json(&ran.stdout);
    for (name, status) in [
        ("wins", "one_sided"),
        ("constant", "constant_length_difference"),
        ("one", "too_few_pairs"),
    ] {
        let model = model(&found, name);
        assert_eq!(model["length_controlled_win_rate"], Value::Null, "{model}");
        assert_eq!(
            (&model["status"], &model["ci_of"]),
            (&json!(status), &json!("win_rate"))
        );
        assert_eq!(model["ci"], model["win_rate_ci"]);
        assert!(
            ran.stderr.contains(&format!("{name}: no length-controlled win rate")),
            "{}",
            ran.stderr
        );
    }
    let equal = model(&found, "equal");
    assert_eq!(
        (&equal["status"], &equal["length_controlled_win_rate"]),
        (&json!("equal_lengths"), &json!(0.5))
    );
}

/// Catches: a result that is made anew, or another one's; `--out` that changes the document.
#[test]
fn with_out_the_figures_are_kept() {
    let dir = temp();
    write(dir.path(), "pairs.csv", &rows(&["a", "b"]));
    let command = ["eval", "winrate", "--pairs", "pairs.csv", "--json", "--out", "out"];
    let first = json(&succeeds(dir.path(), &command).stdout);
    assert_eq!(first, measured(dir.path(), "pairs.csv"));
    let kept = json(&fs::read_to_string(dir.path().join("out/eval.json")).unwrap());
    assert_eq!(kept["result"], first);
    assert_eq!(json(&succeeds(dir.path(), &command).stdout), first);
    let other = bylaw(dir.path(), &[&command[..], &["--l2", "3"]].concat());
    assert_eq!(other.code, 2, "{other:?}");
}

/// A recipe in which two sets of answers and a model meet.
const RECIPE: &str = r#"name = "duel"

[[stage]]
name = "prompts"
kind = "world-prompts"
split = "evaluation"
harmful = 6
benign = 6

[[stage]]
name = "short"
kind = "sample"
model = "builtin:tiny"
prompts = "@prompts"
per_prompt = 1
max_new_tokens = 8
keep_truncated = true

[[stage]]
name = "duel"
kind = "eval-winrate"
answers = ["@short"]
baseline = "builtin:tiny"
model = "builtin:tiny"
prompts = "@prompts"
judge = "builtin:tiny"
constitution = "builtin:proving-ground"
max_new_tokens = 24
"#;

/// Catches: pairs joined to the wrong prompt, verdicts told from the wrong side, a pair that gets lost, pairs that
/// `--pairs` cannot read again.
#[test]
fn pairs_are_judged_in_a_recipe_and_can_be_read_again() {
    let dir = temp();
    write(dir.path(), "recipe.toml", RECIPE);
    succeeds(dir.path(), &["run", "recipe.toml", "--out", "run", "-q"]);
    let kept = json(&fs::read_to_string(dir.path().join("run/duel/eval.json")).unwrap());
    let result = &kept["result"];
    // A model against itself draws the same answers: all ties, no lengths that differ.
    let itself = model(result, "builtin:tiny");
    assert_eq!(
        (&itself["win_rate"], &itself["length_controlled_win_rate"]),
        (&json!(0.5), &json!(0.5))
    );
    assert_eq!(
        (&itself["judged"]["identical"], &itself["status"]),
        (&itself["n"], &json!("equal_lengths"))
    );
    // Eight tokens against twenty-four.
    let short = model(result, "short");
    assert!(
        short["mean_length"].as_f64() < short["baseline_mean_length"].as_f64(),
        "{short}"
    );
    assert!(
        short["judged"]["mean_tokens"].as_f64() < short["judged"]["baseline_mean_tokens"].as_f64(),
        "{short}"
    );
    // The other model ties on everything, which says nothing of the instructions.
    assert_eq!(short["coefficients"]["difficulty"], Value::Null);
    let lost = result["rejected"].as_array().unwrap().len() as u64;
    assert_eq!(
        short["n"].as_u64().unwrap() + itself["n"].as_u64().unwrap() + lost,
        24,
        "{result}"
    );

    let text = fs::read_to_string(dir.path().join("run/duel/pairs.jsonl")).unwrap();
    for line in text.lines() {
        let row = json(line);
        let chars = |name: &str| row[name].as_str().unwrap().chars().count();
        assert_eq!(
            (row["len_1_chars"].as_u64(), row["len_2_chars"].as_u64()),
            (Some(chars("output_1") as u64), Some(chars("output_2") as u64))
        );
        let preference = row["preference"].as_f64().unwrap();
        assert!((1.0..=2.0).contains(&preference), "{row}");
    }
    let again = measured(dir.path(), "run/duel/pairs.jsonl");
    for name in ["short", "builtin:tiny"] {
        for key in [
            "n",
            "win_rate",
            "length_controlled_win_rate",
            "ci",
            "mean_length",
            "status",
        ] {
            assert_eq!(model(&again, name)[key], model(result, name)[key], "{name} {key}");
        }
    }
}

/// Catches: answers drawn again after a stop, pairs judged twice or left out, and work left behind.
#[test]
fn an_interrupted_win_rate_goes_on() {
    let dir = temp();
    let prompts = [
        "world",
        "prompts",
        "--split",
        "evaluation",
        "--harmful",
        "60",
        "--benign",
        "60",
        "--out",
        "prompts",
    ];
    succeeds(dir.path(), &prompts);
    let sample = [
        "sample",
        "--model",
        "builtin:tiny",
        "--prompts",
        "prompts",
        "--per-prompt",
        "1",
        "--max-new-tokens",
        "8",
        "--keep-truncated",
        "--out",
        "short",
    ];
    succeeds(dir.path(), &sample);
    let command = |out| {
        [
            "eval",
            "winrate",
            "--model",
            "builtin:tiny",
            "--baseline-answers",
            "short",
            "--prompts",
            "prompts",
            "--judge",
            "builtin:tiny",
            "--constitution",
            "builtin:proving-ground",
            "--max-new-tokens",
            "24",
            "--out",
            out,
        ]
    };
    // There when all answers are, and pairs are judged.
    let answered = dir.path().join("stopped/.work/judged-0/manifest.json");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_bylaw"))
        .args(command("stopped"))
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !answered.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it was through before it could be stopped"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("stopped/eval.json").exists());
    let resumed = succeeds(dir.path(), &command("stopped"));
    assert!(
        resumed.stderr.contains("answers of builtin:tiny: already complete"),
        "{}",
        resumed.stderr
    );
    succeeds(dir.path(), &command("whole"));
    for file in ["eval.json", "pairs.jsonl"] {
        let read = |out: &str| fs::read_to_string(dir.path().join(out).join(file)).unwrap();
        assert_eq!(read("stopped"), read("whole"), "{file}");
    }
    assert!(!dir.path().join("stopped/.work").exists());
}
