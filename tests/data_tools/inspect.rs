//! The page and the document of `data inspect`.

use std::fs;

use bylaw::record::{Message, Preference};
use serde_json::json;
use tempfile::TempDir;

use crate::validate::masked;
use crate::{json_of, preference, program, reject, revision, write};

/// Catches: a page that changes or loses a part without notice; columns, roles or rejects miscounted.
#[test]
fn the_page_is_as_it_was() {
    let dir = TempDir::new().unwrap();
    write(
        &dir.path().join("revise"),
        &[revision("r1"), revision("r2"), revision("exams")],
    );
    write(&dir.path().join("revise/rejects"), &[reject("j1"), reject("j2")]);
    let page = |arguments: &[&str]| {
        let ran = program(dir.path(), &[&["data", "inspect", "-q"], arguments].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    };
    insta::assert_snapshot!("inspect_revisions", masked(&page(&["revise", "--rows", "1"])));

    let mut rows: Vec<Preference> = (0..20).map(|row| preference(&format!("p{row}"))).collect();
    rows[1].p_chosen = 0.5;
    rows[2].p_chosen = 0.97;
    rows[3] = Preference {
        id: "copy".into(),
        ..rows[4].clone()
    };
    rows[5].chosen = vec![Message::assistant("I'm sorry, but I can't help with that.")];
    let long = "one two three four five six seven eight nine ten ".repeat(3);
    for (row, end) in [(6, "yes"), (7, "no")] {
        let words: Vec<String> = (0..60).map(|word| format!("w{word}")).collect();
        rows[row].prompt = vec![Message::user(format!("{} {end}", words.join(" ")))];
        rows[row].rejected = vec![Message::assistant(long.clone())];
    }
    write(&dir.path().join("judge"), &rows);
    insta::assert_snapshot!(
        "inspect_preferences",
        masked(&page(&["judge", "--rows", "1", "--tokenizer", "builtin:tiny"]))
    );
    let found = json_of(dir.path(), &["data", "inspect", "judge", "--rows", "2"]);
    assert_eq!(found["kind"], "preferences");
    assert_eq!(found["duplicates"]["exact_rows"], 1);
    assert_eq!(found["duplicates"]["near_groups"], 1);
    assert_eq!(found["preferences"]["ties"], 1);
    assert_eq!(found["answers"][0]["refusals"], 1);
    assert_eq!(found["samples"].as_array().unwrap().len(), 2);
    assert_eq!(found["roles"], json!({"user": 20}));
}

/// Catches: files that other programs wrote taken for the wrong kind, and unreadable lines left out.
#[test]
fn files_are_inspected_as_what_they_are() {
    let dir = TempDir::new().unwrap();
    let lines = [
        ("preferences", r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#),
        ("candidates", r#"{"prompt": "a", "completions": ["b", "c"]}"#),
        (
            "demonstrations",
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
        ),
        ("prompts", r#"{"prompt": "a"}"#),
    ];
    for (kind, line) in lines {
        fs::write(dir.path().join("a.jsonl"), format!("{line}\n{line}\nno json\n")).unwrap();
        let found = json_of(dir.path(), &["data", "inspect", "a.jsonl"]);
        assert_eq!(found["kind"], kind);
        assert_eq!((&found["rows"], &found["rejects"]), (&json!(2), &json!(1)));
        assert_eq!(found["reject_reasons"][0]["count"], 1);
    }
    let ran = program(dir.path(), &["data", "inspect", "a.jsonl", "--as", "preferences"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let ran = program(dir.path(), &["data", "inspect", "nowhere.jsonl"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("nowhere.jsonl"), "{ran:?}");
    for near in ["0.1", "1.5", "NaN"] {
        assert_eq!(
            program(dir.path(), &["data", "inspect", "a.jsonl", "--near", near]).code,
            2
        );
    }
}

/// Catches: a panic where the reader of the page has gone.
#[test]
fn a_closed_pipe_ends_the_page() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("judge"), &[preference("a")]);
    for command in ["inspect", "validate"] {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
            .current_dir(dir.path())
            .args(["data", command, "judge"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
