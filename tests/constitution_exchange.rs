//! `bylaw constitution import` and `export`: files of other programs in, out, and refused.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use serde_json::Value;

use program::{json, refused, succeeds, temp, write};

const CRITIQUES: &str = r#"{
  "harmful0": {
    "prompt": ["\n\nCritiqueRequest: What in it may hurt somebody?\n\nCritique:"],
    "edit_request": "\n\nRevisionRequest: Take out what may hurt.\n\nRevision:"
  },
  "Harmful 1": {
    "prompt": ["\n\nCritiqueRequest: Is \"{{\" in it?\n\nCritique:", "\n\nCritiqueRequest: Is it untrue?\n\nCritique:"],
    "edit_request": "\n\nRevisionRequest: Put it right. \n\nRevision:"
  }
}"#;
const JUDGE: &str = r#"["\nWhich answer is less likely to hurt? Options:", "\nWhich answer is truer? Options:"]"#;
const COMPARISONS: &str =
    r#"[{"prompt": "\n\nHuman: May I?\n\nAssistant:", "corrects": ["Yes, gladly."], "incorrects": ["Go away."]}]"#;
const REASONED: &str = r#"[{"prompt": "\n\nHuman: Consider the following conversation between a human (H) and an assistant (A):\n\nH: May I?\n\n{}\n (A) [[[No.]]]\n (B) [[[Yes.]]]\n\nAssistant: Let's think step by step: (B) is kind.\n\nHuman:\nSo the answer is: (B)"}]"#;
const TRANSCRIPTS: &str = r#"["\n\nHuman: May I?\n\nAssistant: Go away.\n\nCritiqueRequest: What is rude?\n\nCritique: All of it.\n\nRevisionRequest: Be kind.\n\nRevision: Yes, gladly."]"#;
const HUGGING_FACE: &str = r#"{
  "constitutions": [{"critic": "What may hurt?", "revision": "Take it out."}],
  "system_chat": [[
    {"role": "user", "content": "May I?"}, {"role": "assistant", "content": "Go away."},
    {"role": "user", "content": "What is rude?"}, {"role": "assistant", "content": "All of it."},
    {"role": "user", "content": "Be kind."}, {"role": "assistant", "content": "Yes, gladly."}
  ]]
}"#;

const SUPPLEMENT: [(&str, &str, &str); 5] = [
    ("critiques.json", CRITIQUES, "paper-critiques"),
    ("judge.json", JUDGE, "paper-judge"),
    ("transcripts.json", TRANSCRIPTS, "paper-few-shots"),
    ("comparisons.json", COMPARISONS, "paper-judge-few-shots"),
    ("reasoned.json", REASONED, "paper-reasoning-few-shots"),
];

fn import<'a>(files: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [&["constitution", "import"], files, &["--out", "c.toml"], rest].concat()
}

/// The same to the order of keys.
#[track_caller]
fn assert_same(found: &str, expected: &str) {
    assert_eq!(json(found).to_string(), json(expected).to_string());
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Catches: a constitution that does not check, examples that it does not name, an export that differs from the import.
#[test]
fn the_supplement_comes_in_and_goes_out() {
    let dir = temp();
    let names = SUPPLEMENT.map(|(name, text, _)| {
        write(dir.path(), name, text);
        name
    });
    let ran = succeeds(dir.path(), &import(&names, &["--name", "paper"]));
    assert_eq!(
        ran.stdout,
        "c.toml: 5 principles, 1 critique example, 1 judge example, 1 judge-reasoning example\n"
    );
    assert!(ran.stderr.contains("c.originals.json: "), "{}", ran.stderr);
    let text = fs::read_to_string(dir.path().join("c.toml")).unwrap();
    assert!(text.starts_with("#:schema https://"), "{text}");
    assert!(text.contains("judge_reasoning = \"c.judge-reasoning.toml\""), "{text}");
    succeeds(dir.path(), &["constitution", "check", "c.toml"]);
    let shown = json(&succeeds(dir.path(), &["constitution", "show", "c.toml", "--json"]).stdout);
    assert_eq!(shown["principles"][1]["critique"], "Is \"{{\" in it?");
    for (_, text, format) in SUPPLEMENT {
        let ran = succeeds(dir.path(), &["constitution", "export", "c.toml", "--format", format]);
        assert_same(&ran.stdout, text);
    }
    // Where there is no note of what it was, it is written in the usual form.
    fs::remove_file(dir.path().join("c.originals.json")).unwrap();
    let ran = succeeds(
        dir.path(),
        &["constitution", "export", "c.toml", "--format", "paper-critiques"],
    );
    assert_eq!(
        json(&ran.stdout)["harmful-1"]["edit_request"],
        "\n\nRevisionRequest: Put it right.\n\nRevision:"
    );
}

/// Catches: notes on stdout, a document that is not alone there, an export over a file that is there.
#[test]
fn a_file_of_hugging_face_comes_in_and_goes_out() {
    let dir = temp();
    write(dir.path(), "hf.json", HUGGING_FACE);
    let ran = succeeds(dir.path(), &import(&["hf.json"], &["--json"]));
    let told = json(&ran.stdout);
    assert_eq!(
        (&told["principles"], &told["examples"]["critique"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&told["files"][0]["format"], &told["originals"]),
        (&"hf".into(), &0.into())
    );
    assert_eq!(files(dir.path()), ["c.critique.toml", "c.toml", "hf.json"]);
    let export = [
        "constitution",
        "export",
        "c.toml",
        "--format",
        "hf",
        "--out",
        "back.json",
    ];
    let ran = succeeds(dir.path(), &export);
    assert_eq!(ran.stdout, "back.json: 2 items (hf)\n");
    assert!(ran.stderr.contains("hf: ids are not in it"), "{}", ran.stderr);
    assert_same(&fs::read_to_string(dir.path().join("back.json")).unwrap(), HUGGING_FACE);
    refused(dir.path(), &export, 2, &["back.json", "exists already", "--force"]);
    let ran = succeeds(dir.path(), &[&export[..], &["--force", "--json"]].concat());
    assert_eq!(json(&ran.stdout)["items"], 2);
}

/// Catches: a file written over, or half of an import written before the other half is refused; originals of an earlier
/// import in the export of a later one.
#[test]
fn nothing_is_written_over_unasked() {
    let dir = temp();
    write(dir.path(), "critiques.json", CRITIQUES);
    write(dir.path(), "comparisons.json", COMPARISONS);
    write(dir.path(), "c.judge.toml", "mine");
    let both = import(&["critiques.json", "comparisons.json"], &[]);
    refused(dir.path(), &both, 2, &["c.judge.toml", "exists already", "--force"]);
    assert_eq!(
        files(dir.path()),
        ["c.judge.toml", "comparisons.json", "critiques.json"]
    );
    succeeds(dir.path(), &[&both[..], &["--force"]].concat());
    let export = ["constitution", "export", "c.toml", "--format", "paper-critiques"];
    assert_same(&succeeds(dir.path(), &export).stdout, CRITIQUES);

    let usual = CRITIQUES.replace("right. ", "right.").replace("Harmful 1", "harmful-1");
    write(dir.path(), "critiques.json", &usual);
    succeeds(dir.path(), &import(&["critiques.json"], &["--force"]));
    assert!(!dir.path().join("c.originals.json").exists());
    assert_same(&succeeds(dir.path(), &export).stdout, &usual);
    // The output under the name of an input.
    let onto = [
        "constitution",
        "import",
        "critiques.json",
        "--out",
        "critiques.json",
        "--force",
    ];
    refused(dir.path(), &onto, 2, &["critiques.json", "written over"]);
    assert_eq!(fs::read_to_string(dir.path().join("critiques.json")).unwrap(), usual);
}

/// Catches: a bare parser message, a mistake without its place or remedy, the wrong exit code, a file left by a refusal.
#[test]
fn what_cannot_be_read_is_refused_at_its_place() {
    let dir = temp();
    let cases = [
        (CRITIQUES.replace("],", "]"), 3, "in.json:4:5: this is not valid JSON"),
        (
            CRITIQUES.replace("Harmful 1", "harmful0"),
            3,
            "in.json:6:3: harmful0: the key stands here a second time",
        ),
        (
            CRITIQUES.replace("CritiqueRequest: Is it", "Is it"),
            3,
            "in.json:7:70: [\"Harmful 1\"].prompt[1]: the text does not begin with `CritiqueRequest:`",
        ),
        (
            r#"{"rules": ["Be kind."]}"#.into(),
            3,
            "in.json:1:1: this is none of the files",
        ),
        ("".into(), 3, "in.json:1:1: this is not valid JSON"),
        (COMPARISONS.into(), 2, "these are examples alone"),
    ];
    for (text, code, says) in cases {
        write(dir.path(), "in.json", &text);
        let stderr = refused(dir.path(), &import(&["in.json"], &[]), code, &[says]);
        assert!(stderr.starts_with(says) || code == 2, "{stderr}");
        assert_eq!(files(dir.path()), ["in.json"]);
    }
    refused(dir.path(), &import(&["nowhere.json"], &[]), 3, &["nowhere.json"]);
    write(dir.path(), "in.json", r#"{"rules": ["Be kind."]}"#);
    let shapes = ["critic", "CritiqueRequest", "corrects", "samples", "Options:"];
    refused(dir.path(), &import(&["in.json"], &[]), 3, &shapes);
    write(dir.path(), "a.json", JUDGE);
    write(dir.path(), "b.json", JUDGE);
    refused(
        dir.path(),
        &import(&["a.json", "b.json"], &[]),
        3,
        &["b.json", "same part of a constitution", "extends"],
    );
}

/// Catches: an export of nothing, variables left as placeholders or filled in silence, originals that are not read.
#[test]
fn an_export_says_what_it_cannot_hold() {
    let dir = temp();
    let text = "name = \"t\"\nversion = \"1\"\n[variables]\nwho = \"children\"\n\n[[principle]]\nid = \"a\"\njudge = \"Which is \
                better for {{ who }}?\"\ntags = [\"x\"]\nrationale = \"Because.\"\n";
    write(dir.path(), "c.toml", text);
    let export = ["constitution", "export", "c.toml", "--format", "paper-judge"];
    let ran = succeeds(dir.path(), &[&export[..], &["--variable", "who=adults"]].concat());
    assert_eq!(
        json(&ran.stdout),
        Value::from(vec!["\nWhich is better for adults? Options:"])
    );
    for note in [
        "variables are filled in: who",
        "tags are not in it: a",
        "rationales are not in it: a",
    ] {
        assert!(ran.stderr.contains(&format!("paper-judge: {note}")), "{}", ran.stderr);
    }
    let hf = ["constitution", "export", "c.toml", "--format", "hf"];
    refused(
        dir.path(),
        &hf,
        2,
        &["nothing for a file of hf", "`critique` and `revise`"],
    );
    refused(
        dir.path(),
        &["constitution", "export", "no.toml", "--format", "hf"],
        3,
        &["no.toml"],
    );
    write(dir.path(), "c.originals.json", "{}");
    refused(
        dir.path(),
        &export,
        3,
        &["c.originals.json:1:1: `about` is missing", "remove it"],
    );
    let ran = succeeds(
        dir.path(),
        &[
            "constitution",
            "export",
            "builtin:harmless",
            "--format",
            "paper-critiques",
        ],
    );
    assert_eq!(json(&ran.stdout).as_object().unwrap().keys().next().unwrap(), "harm");
}
