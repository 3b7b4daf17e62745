//! `bylaw data`: what is wrong with data is told, what is chosen of it is what was asked for, and what
//! earlier versions wrote is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bylaw::dataset::{Dataset, MANIFEST, Manifest, Provenance, Row, Shard, Status, shard, write_all};
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Reject, Revision, Round, Vote,
};
use bylaw::seed::Seed;
use bylaw::select::mix::{MixConfig, Stratum, Weighted, mix};
use bylaw::select::split::{SplitConfig, leaks, split};
use bylaw::survey::Sameness;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn bylaw(dir: &Path, arguments: &[&str]) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env_remove("COLUMNS")
        .args(arguments)
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
    ran
}

#[track_caller]
fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let ran = bylaw(dir, &[arguments, &["--json", "-q"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

// ---- rows ----------------------------------------------------------------------------------------

fn prompt(id: &str, text: &str, source: &str) -> Prompt {
    Prompt {
        id: id.into(),
        messages: vec![Message::user(text)],
        source: source.into(),
        tags: vec!["a".into()],
    }
}

fn preference(id: &str) -> Preference {
    Preference {
        id: id.into(),
        prompt: vec![Message::user(format!("What is {id}?"))],
        chosen: vec![Message::assistant("It is good.")],
        rejected: vec![Message::assistant("It is bad, ü.")],
        p_chosen: 0.75,
        margin: 1.1,
        weight: 1.0,
        source: "judge".into(),
        votes: vec![
            Vote {
                principle_id: "kind".into(),
                order: "chosen_first".into(),
                logprob_a: -0.3,
                logprob_b: -1.4,
                p_a: 0.75,
                cot: None,
            },
            Vote {
                principle_id: "kind".into(),
                order: "rejected_first".into(),
                logprob_a: -1.4,
                logprob_b: -0.3,
                p_a: 0.25,
                cot: Some("(B) is kinder.".into()),
            },
        ],
        chosen_tokens: 4,
        rejected_tokens: 6,
        chosen_chars: 11,
        rejected_chars: 13,
        p_raw: 0.75,
    }
}

fn revision(id: &str) -> Revision {
    let prompt = vec![
        Message::system("Be kind."),
        Message::user(format!("How do I copy {id}?")),
    ];
    let last = "First, copy the poem at night.".to_owned();
    let round = |critique: &str, changed| Round {
        principle_id: "no-cheating".into(),
        critique_request: "Criticise.".into(),
        critique: critique.into(),
        revision_request: "Revise.".into(),
        revision: last.clone(),
        changed,
    };
    let mut messages = prompt.clone();
    messages.push(Message::assistant(last.clone()));
    Revision {
        id: id.into(),
        prompt,
        initial: "First, copy the exam at night.".into(),
        rounds: vec![round("It helps to cheat.", true), round("Nothing is wrong.", false)],
        final_answer: last.clone(),
        messages,
        prompt_tokens: 12,
        initial_tokens: 8,
        final_tokens: 8,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "length".into(),
    }
}

fn candidates(id: &str) -> Candidates {
    let completion = |sample, text: &str| Completion {
        text: text.into(),
        tokens: 5,
        finish_reason: "stop".into(),
        logprob: -3.5,
        sample,
    };
    Candidates {
        id: id.into(),
        prompt: vec![Message::user("Sing.")],
        completions: vec![completion(0, "La la."), completion(1, "")],
    }
}

fn demonstrations() -> Vec<Demonstration> {
    let row = |id: &str, prompt, prefix: &str| Demonstration {
        id: id.into(),
        prompt,
        prefix: prefix.into(),
        completion: "Yes.\n".into(),
        weight: 0.5,
    };
    vec![
        row("d1", vec![Message::user("Is it?")], ""),
        row("d2", Vec::new(), "Q: Is it?\nA:"),
    ]
}

fn reject(id: &str) -> Reject {
    Reject {
        id: id.into(),
        stage: "judge".into(),
        reason: "the judge's verdict is a tie".into(),
        raw: String::new(),
    }
}

fn write<R: Row>(dir: &Path, rows: &[R]) {
    write_all(dir, rows, Provenance::new("test", 0)).unwrap();
}

/// A dataset of two shards.
fn write_shards<R: Row>(dir: &Path, shards: [&[R]; 2]) {
    fs::create_dir_all(dir).unwrap();
    let shards: Vec<Shard> = shards
        .iter()
        .enumerate()
        .map(|(index, rows)| shard::write(dir, &shard::file_name(index, 2), rows).unwrap())
        .collect();
    let provenance = Provenance::new("test", 0);
    Manifest::new(R::KIND, Status::Complete, shards, provenance)
        .write(dir)
        .unwrap();
}

// ---- versions ------------------------------------------------------------------------------------

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The rows of every kind that a fixture holds.
fn rows_of_every_kind(mut each: impl FnMut(&str, Value, &dyn Fn(&Path))) {
    fn one<R: Row>(rows: Vec<R>, each: &mut impl FnMut(&str, Value, &dyn Fn(&Path))) {
        let value = serde_json::to_value(&rows).unwrap();
        each(R::KIND.as_str(), value, &|dir| write(dir, &rows));
    }
    let mut tagged = prompt("p1", "Wie geht es?\n\u{1F980}", "file.jsonl");
    tagged.tags.clear();
    one(vec![tagged, prompt("p2", "Hello", "x")], &mut each);
    one(vec![revision("r1"), revision("r2")], &mut each);
    one(vec![candidates("c1")], &mut each);
    one(vec![preference("f1"), preference("f2")], &mut each);
    one(vec![reject("j1")], &mut each);
    one(demonstrations(), &mut each);
}

/// Writes `tests/golden/schema-N` once for a version; what lies there is never written again.
#[test]
#[ignore = "writes a fixture: run it once when the version of the schema changes"]
fn write_the_fixture_of_this_version() {
    let dir = golden().join(format!("schema-{}", bylaw::dataset::migrate::CURRENT));
    assert!(!dir.exists(), "the fixture is there");
    let mut expected = serde_json::Map::new();
    rows_of_every_kind(|kind, rows, write| {
        write(&dir.join(kind));
        expected.insert(kind.into(), rows);
    });
    fs::write(dir.join("expected.json"), format!("{:#}\n", Value::from(expected))).unwrap();
}

/// Catches: a version of the format that no program reads any more.
#[test]
fn every_version_is_read() {
    fn rows<R: Row>(dir: &Path) -> Value {
        serde_json::to_value(
            Dataset::<R>::open(dir.join(R::KIND.as_str()))
                .unwrap()
                .read_all()
                .unwrap(),
        )
        .unwrap()
    }
    for version in 1..=bylaw::dataset::migrate::CURRENT {
        let dir = golden().join(format!("schema-{version}"));
        let text = fs::read_to_string(dir.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let found = json!({
            "prompts": rows::<Prompt>(&dir),
            "revisions": rows::<Revision>(&dir),
            "candidates": rows::<Candidates>(&dir),
            "preferences": rows::<Preference>(&dir),
            "rejects": rows::<Reject>(&dir),
            "demonstrations": rows::<Demonstration>(&dir),
        });
        assert_eq!(found, expected, "version {version}");
        let ran = bylaw(&golden(), &["data", "validate", &format!("schema-{version}")]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

// ---- validate ------------------------------------------------------------------------------------

/// Changes the manifest as text, so that nothing is made right on the way.
fn manifest(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join(MANIFEST);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn first_shard(dir: &Path) -> PathBuf {
    dir.join("data-00000-of-00002.arrow")
}

/// Damages a sound dataset of four preferences in two shards.
type Damage = fn(&Path);

/// Writes the dataset again with its rows changed.
fn rewrite(dir: &Path, change: impl FnOnce(&mut [Preference; 4])) {
    let mut rows = ["a", "b", "c", "d"].map(preference);
    change(&mut rows);
    write_shards(dir, [&rows[..2], &rows[2..]]);
}

const FAULTS: &[(&str, Damage)] = &[
    ("truncated", |dir| {
        let bytes = fs::read(first_shard(dir)).unwrap();
        fs::write(first_shard(dir), &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("bit-flipped", |dir| {
        let mut bytes = fs::read(first_shard(dir)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(first_shard(dir), bytes).unwrap();
    }),
    ("shard-missing", |dir| fs::remove_file(first_shard(dir)).unwrap()),
    ("shard-is-a-directory", |dir| {
        fs::remove_file(first_shard(dir)).unwrap();
        fs::create_dir(first_shard(dir)).unwrap();
    }),
    ("foreign-shard", |dir| {
        fs::copy(first_shard(dir), dir.join("data-00007-of-00009.arrow")).unwrap();
        fs::write(dir.join("more.jsonl"), "{}\n").unwrap();
        fs::write(dir.join("README.md"), "a card is no data").unwrap();
    }),
    ("leftover-partial", |dir| {
        fs::write(dir.join(".data-00001-of-00002.arrow.partial"), "ARROW1").unwrap()
    }),
    ("rows-of-a-shard", |dir| {
        manifest(dir, |value| {
            value["shards"][0]["rows"] = 3.into();
            value["rows"] = 5.into();
        });
    }),
    ("rows-do-not-add-up", |dir| {
        manifest(dir, |value| value["rows"] = 100.into())
    }),
    ("wrong-kind", |dir| {
        manifest(dir, |value| value["kind"] = "prompts".into())
    }),
    ("unknown-kind", |dir| {
        manifest(dir, |value| value["kind"] = "poems".into())
    }),
    ("unfinished", |dir| {
        manifest(dir, |value| value["status"] = "running".into())
    }),
    ("manifest-not-json", |dir| {
        fs::write(dir.join(MANIFEST), "{\"format\": \"bylaw-da").unwrap()
    }),
    ("manifest-empty", |dir| fs::write(dir.join(MANIFEST), "").unwrap()),
    ("manifest-missing", |dir| fs::remove_file(dir.join(MANIFEST)).unwrap()),
    ("manifest-of-another-program", |dir| {
        manifest(dir, |value| value["format"] = "lance".into())
    }),
    ("manifest-newer", |dir| {
        manifest(dir, |value| value["schema_version"] = 4_000_000.into())
    }),
    ("path-escapes", |dir| {
        manifest(dir, |value| value["shards"][0]["file"] = "../../etc/passwd".into())
    }),
    ("shard-listed-twice", |dir| {
        manifest(dir, |value| value["shards"][1] = value["shards"][0].clone())
    }),
    ("ids-twice", |dir| {
        rewrite(dir, |rows| {
            rows[1].id = "d".into();
            rows[2].id = String::new();
        });
    }),
    ("label-out-of-range", |dir| {
        rewrite(dir, |rows| {
            rows[0].p_chosen = 1.2;
            rows[3].p_chosen = 0.3;
            rows[2].p_chosen = 1.3;
        });
    }),
    ("label-is-no-number", |dir| {
        rewrite(dir, |rows| {
            rows[0].p_chosen = f32::NAN;
            rows[0].weight = f32::INFINITY;
            rows[1].votes[0].logprob_a = f32::NAN;
            rows[1].votes[1].p_a = -0.5;
        });
    }),
    ("unknown-role", |dir| {
        rewrite(dir, |rows| rows[2].prompt[0].role = "human".into())
    }),
    ("prompt-without-question", |dir| {
        rewrite(dir, |rows| {
            rows[0].prompt.clear();
            rows[1].prompt.push(Message::assistant("Well."));
            rows[2].prompt[0].content = " ".into();
        });
    }),
    ("both-answers-the-same", |dir| {
        rewrite(dir, |rows| {
            rows[0].rejected = rows[0].chosen.clone();
            rows[0].rejected_chars = rows[0].chosen_chars;
            rows[1].chosen.clear();
        });
    }),
    ("impossible-counts", |dir| {
        rewrite(dir, |rows| {
            rows[0].chosen_chars = 7;
            rows[1].rejected_tokens = u32::MAX;
            rows[1].votes[0].order = "first".into();
        });
    }),
    ("revisions-that-contradict-themselves", |dir| {
        let mut rows = ["a", "b", "c", "d"].map(revision);
        rows[0].messages.pop();
        rows[1].rounds[0].changed = false;
        rows[2].final_answer = "Other.".into();
        rows[3].final_finish_reason = "eos".into();
        write_shards(dir, [&rows[..2], &rows[2..]]);
    }),
    ("candidates-without-answers", |dir| {
        let mut rows = ["a", "b"].map(candidates);
        rows[0].completions.clear();
        rows[1].completions[1].sample = 0;
        rows[1].completions[1].logprob = 2.5;
        write_shards(dir, [&rows[..1], &rows[1..]]);
    }),
    ("rejects-damaged", |dir| {
        write(&dir.join("rejects"), &[reject("a")]);
        fs::write(dir.join("rejects/data-00000-of-00001.arrow"), "").unwrap();
    }),
    ("rejects-of-another-kind", |dir| {
        write(&dir.join("rejects"), &[prompt("a", "b", "c")])
    }),
    ("rejects-is-a-file", |dir| fs::write(dir.join("rejects"), "").unwrap()),
    ("path-is-a-file", |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::write(dir, "").unwrap();
    }),
    ("path-is-not-there", |dir| fs::remove_dir_all(dir).unwrap()),
    ("directory-is-empty", |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    }),
    #[cfg(unix)]
    ("link-to-itself", |dir| {
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap()
    }),
    #[cfg(unix)]
    ("link-to-nothing", |dir| {
        std::os::unix::fs::symlink("nowhere", dir.join("link.arrow")).unwrap()
    }),
    #[cfg(unix)]
    ("link-to-the-directory-above", |dir| {
        std::os::unix::fs::symlink("..", dir.join("up")).unwrap()
    }),
];

/// A text without what follows from the encoding of Arrow: sizes and checksums.
fn masked(text: &str) -> String {
    let hex = |word: &str| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit());
    let size = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let mut words: Vec<String> = Vec::new();
    for word in text.split_inclusive([' ', '\n', ',']) {
        let bare = word.trim_end_matches([' ', '\n', ',']).to_owned();
        let unit = ["bytes", "B", "KiB"].contains(&bare.as_str());
        if let Some(last) = words.last_mut().filter(|last| unit && size(last)) {
            *last = "# ".into();
        }
        let of_manifest =
            words.last().is_some_and(|last| last == "says ") && words.iter().rev().take(6).any(|word| word == "bytes,");
        words.push(match hex(&bare) || (of_manifest && size(&bare)) {
            true => word.replace(&bare, "#"),
            false => word.to_owned(),
        });
    }
    words.concat()
}

/// Catches: a fault that is not found, one that hides the others, and a message without path or remedy.
#[test]
fn every_planted_fault_is_found_and_told() {
    let dir = TempDir::new().unwrap();
    let mut told = String::new();
    for (name, damage) in FAULTS {
        let set = dir.path().join(name);
        rewrite(&set, |_| {});
        damage(&set);
        let ran = bylaw(dir.path(), &["data", "validate", "-q", name]);
        assert_eq!(ran.code, 3, "{name}: {ran:?}");
        assert!(ran.stdout.contains("help: "), "{name}: {ran:?}");
        assert!(ran.stdout.starts_with(name), "{name}: {ran:?}");
        told += &format!("# {name}\n{}\n", ran.stdout);
    }
    assert!(FAULTS.len() >= 30);
    insta::assert_snapshot!("faults", masked(&told));
}

/// Catches: a sound dataset that is called faulty; datasets of a run that are not looked at; findings that
/// JSON does not tell.
#[test]
fn all_datasets_of_a_run_are_checked() {
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    rewrite(&run.join("judge"), |_| {});
    write(&run.join("judge/rejects"), &[reject("a")]);
    write(&run.join("revise"), &[revision("a")]);
    fs::write(run.join("run.json"), "{}").unwrap();
    let found = json_of(dir.path(), &["data", "validate", "run"]);
    assert_eq!(found["sound"], true);
    let paths: Vec<&str> = found["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| set["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["run/judge", "run/judge/rejects", "run/revise"]);
    assert_eq!(found["datasets"][0]["rows"], 4);

    fs::write(first_shard(&run.join("judge")), "").unwrap();
    rewrite(&run.join("again"), |rows| rows[0].p_chosen = 2.0);
    let ran = bylaw(dir.path(), &["data", "validate", "--json", "run"]);
    assert_eq!(ran.code, 3);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 2, "{found}");
    assert_eq!(
        (&findings[0]["about"], &findings[0]["rows"]),
        (&json!("number"), &json!([1]))
    );
    assert_eq!(findings[1]["about"], "shard");
    assert!(ran.stderr.contains("2 findings"), "{ran:?}");
}

// ---- inspect -------------------------------------------------------------------------------------

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
        let ran = bylaw(dir.path(), &[&["data", "inspect", "-q"], arguments].concat());
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
    let ran = bylaw(dir.path(), &["data", "inspect", "a.jsonl", "--as", "preferences"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let ran = bylaw(dir.path(), &["data", "inspect", "nowhere.jsonl"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("nowhere.jsonl"), "{ran:?}");
    for near in ["0.1", "1.5", "NaN"] {
        assert_eq!(
            bylaw(dir.path(), &["data", "inspect", "a.jsonl", "--near", near]).code,
            2
        );
    }
}

// ---- mix -----------------------------------------------------------------------------------------

fn source(name: &str, count: usize) -> Vec<Prompt> {
    let row = |index: usize| {
        let kind = if index.is_multiple_of(4) { "rare" } else { "common" };
        prompt(&format!("{name}{index}"), &format!("{name} {index}"), kind)
    };
    (0..count).map(row).collect()
}

/// Catches: shares that are not the weights', rows taken twice, another seed without effect, a dataset
/// without its sources.
#[test]
fn a_mixture_has_the_shares_that_were_asked_for() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("a"), &source("a", 100));
    write(&dir.path().join("b"), &source("b", 40));
    let make = |out: &str, more: &[&str]| {
        let arguments = [
            "data", "mix", "--data", "a=3", "--data", "b", "--rows", "61", "--out", out,
        ];
        let told = json_of(dir.path(), &[&arguments, more].concat());
        let dataset = Dataset::<Prompt>::open(dir.path().join(out)).unwrap();
        (told, dataset.read_all().unwrap(), dataset.manifest().provenance.clone())
    };
    let (told, rows, provenance) = make("mixed", &[]);
    let of_a = rows.iter().filter(|row| row.id.starts_with('a')).count();
    assert_eq!((of_a, rows.len()), (46, 61), "45.75 and 15.25");
    assert_eq!(
        (&told["sources"][0]["taken"], &told["sources"][1]["taken"]),
        (&json!(46), &json!(15))
    );
    assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>().len(), 61);
    assert_eq!(provenance.inputs[1].reference, "b");
    assert_eq!(provenance.settings["weights"], json!([3.0, 1.0]));
    assert!(rows[..30].iter().any(|row| row.id.starts_with('b')), "shuffled");

    let (_, again, _) = make("again", &[]);
    assert_eq!(again, rows);
    let (_, same_place, _) = make("mixed", &[]);
    assert_eq!(same_place, rows);
    let (_, other, _) = make("other", &["--seed", "5"]);
    assert_ne!(other, rows);
    let (_, stratified, _) = make("stratified", &["--stratify", "source"]);
    let rare = |rows: &[Prompt], name| {
        rows.iter()
            .filter(|row| row.id.starts_with(name) && row.source == "rare")
            .count()
    };
    assert!((11..=12).contains(&rare(&stratified, 'a')), "a quarter of 46");
    assert!((3..=4).contains(&rare(&stratified, 'b')), "a quarter of 15");
    assert_eq!(bylaw(dir.path(), &["data", "validate", "mixed"]).code, 0);
}

/// Catches: a source used up without a word, rows repeated unevenly, repeated ids.
#[test]
fn a_source_is_used_up_before_its_rows_come_again() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("a"), &source("a", 10));
    write(&dir.path().join("f"), &[preference("x")]);
    let mix = |more: &[&str]| {
        bylaw(
            dir.path(),
            &[&["data", "mix", "--data", "a", "--rows", "25", "--out", "out"], more].concat(),
        )
    };
    let ran = mix(&[]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("needs 25 rows of it, but there are 10"), "{ran:?}");
    assert!(ran.stderr.contains("--rows 10"), "{ran:?}");
    assert!(!dir.path().join("out").exists());
    assert_eq!(mix(&["--repeat"]).code, 0);
    let rows = Dataset::<Prompt>::open(dir.path().join("out"))
        .unwrap()
        .read_all()
        .unwrap();
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for row in &rows {
        *times.entry(row.messages[0].content.as_str()).or_default() += 1;
    }
    assert_eq!(times.len(), 10);
    assert!(times.values().all(|count| (2..=3).contains(count)), "{times:?}");
    assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>().len(), 25);
    assert_eq!(bylaw(dir.path(), &["data", "validate", "out"]).code, 0);

    let ran = mix(&["--data", "f", "--repeat"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("f: it holds preferences, but a holds prompts"),
        "{ran:?}"
    );
    let ran = mix(&["--repeat", "--seed", "3"]);
    assert_eq!(ran.code, 2, "another mixture lies there: {ran:?}");
    fs::write(dir.path().join("out/thesis.doc"), "").unwrap();
    let ran = mix(&["--repeat"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("thesis.doc"), "{ran:?}");
    for wrong in ["a=0", "a=-1", "a=many", "a=inf"] {
        let ran = bylaw(
            dir.path(),
            &["data", "mix", "--data", wrong, "--rows", "5", "--out", "new"],
        );
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    let ran = bylaw(
        dir.path(),
        &[
            "data",
            "mix",
            "--data",
            "f",
            "--rows",
            "1",
            "--out",
            "new",
            "--stratify",
            "tag",
        ],
    );
    assert_eq!(ran.code, 2, "{ran:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Catches: shares off by one row or more, rows taken twice before all were taken once.
    #[test]
    fn shares_are_exact(
        sizes in proptest::collection::vec(1_usize..60, 1..5),
        weights in proptest::collection::vec(0.1_f64..10.0, 5),
        rows in 1_u64..200,
        stratify in any::<bool>(),
    ) {
        let sources: Vec<Vec<Prompt>> = sizes.iter().enumerate().map(|(index, size)| source(&format!("s{index}x"), *size)).collect();
        let weighted: Vec<Weighted<'_, Prompt>> = sources
            .iter()
            .zip(&weights)
            .map(|(rows, weight)| Weighted { name: "s", weight: *weight, rows })
            .collect();
        let config = MixConfig {
            rows,
            stratify: stratify.then_some(Stratum::Source),
            repeat: true,
            seed: Seed::new(rows),
        };
        let chosen = mix(&weighted, &config).unwrap();
        prop_assert_eq!(chosen.len() as u64, rows);
        let sum: f64 = weighted.iter().map(|source| source.weight).sum();
        for (index, source) in weighted.iter().enumerate() {
            let taken: Vec<_> = chosen.iter().filter(|choice| choice.source == index).collect();
            let ideal = rows as f64 * source.weight / sum;
            prop_assert!((taken.len() as f64 - ideal).abs() < 1.0);
            let distinct: BTreeSet<(usize, u64)> = taken.iter().map(|choice| (choice.row, choice.pass)).collect();
            prop_assert_eq!(distinct.len(), taken.len());
            for pass in 0..taken.len() / source.rows.len() {
                let full = taken.iter().filter(|choice| choice.pass == pass as u64).count();
                prop_assert_eq!(full, source.rows.len());
            }
        }
    }

// ---- split ---------------------------------------------------------------------------------------

    /// Catches: a prompt on both sides, whatever its spelling, and rows that move when others come.
    #[test]
    fn no_prompt_leaks_and_added_rows_move_no_other(
        texts in proptest::collection::vec("[aB] ?[cD]{0,2}[.!]?", 1..60),
        more in proptest::collection::vec("[aB] ?[cD]{0,2}[.!]?", 0..20),
        test in 0.05_f64..0.95,
        seed in any::<u64>(),
    ) {
        let rows: Vec<Prompt> = texts.iter().chain(&more).enumerate()
            .map(|(index, text)| prompt(&index.to_string(), text, "x"))
            .collect();
        let config = SplitConfig { test, by: Sameness::Prompt, near: None, seed: Seed::new(seed) };
        let all = split(&rows, &config);
        let side = |test: bool| rows.iter().zip(&all.test).filter(move |(_, side)| **side == test).map(|(row, _)| row);
        prop_assert_eq!(leaks(side(false), side(true), Sameness::Prompt), 0);
        let few = split(&rows[..texts.len()], &config);
        prop_assert_eq!(&few.test[..], &all.test[..texts.len()]);
        let near = split(&rows, &SplitConfig { near: Some(0.8), ..config });
        for (a, row_a) in rows.iter().enumerate() {
            for (b, row_b) in rows.iter().enumerate().skip(a + 1) {
                let lower = |row: &Prompt| row.messages[0].content.to_lowercase().replace(['.', '!'], "");
                if lower(row_a).trim() == lower(row_b).trim() {
                    prop_assert_eq!(all.test[a], all.test[b]);
                    prop_assert_eq!(near.test[a], near.test[b]);
                }
            }
        }
    }
}

/// Catches: a share far from the one asked for, near duplicates torn apart, conversations of one opening
/// torn apart, an empty side that nobody notices.
#[test]
fn a_split_is_written_and_told() {
    let dir = TempDir::new().unwrap();
    let words = |row: usize| {
        (0..40)
            .map(|word| format!("r{row}w{word}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let rows: Vec<Prompt> = (0..500)
        .flat_map(|row| {
            [("", "x"), (" indeed", "y")]
                .map(|(end, id)| prompt(&format!("{id}{row}"), &format!("{}{end}", words(row)), "s"))
        })
        .collect();
    write(&dir.path().join("rows"), &rows);
    let run = |out: &str, more: &[&str]| {
        json_of(
            dir.path(),
            &[&["data", "split", "--test", "0.2", "--out", out], more, &["rows"]].concat(),
        )
    };
    let told = run("bare", &["--near"]);
    assert_eq!(told["near_groups"], 500, "0.8");
    let told = run("plain", &[]);
    assert_eq!(told["prompts"], 1000);
    assert_eq!(told["leaked_prompts"], 0);
    let test = told["test"].as_u64().unwrap();
    assert!(
        (160..240).contains(&test),
        "a fifth of 1000 within three standard deviations: {test}"
    );
    assert_eq!(told["train"].as_u64().unwrap() + test, 1000);
    let told = run("near", &["--near=0.7"]);
    assert_eq!(told["near_groups"], 500);
    let numbers = |side: &str| -> BTreeSet<String> {
        let rows = Dataset::<Prompt>::open(dir.path().join("near").join(side))
            .unwrap()
            .read_all()
            .unwrap();
        rows.iter().map(|row| row.id[1..].to_owned()).collect()
    };
    assert!(numbers("train").is_disjoint(&numbers("test")));
    assert_eq!(run("near", &["--near=0.7"]), told, "the same command again");
    assert_eq!(bylaw(dir.path(), &["data", "validate", "near"]).code, 0);

    let turns = |id: usize, opening: usize| {
        let mut row = prompt(&id.to_string(), &format!("opening {opening}"), "s");
        row.messages.push(Message::assistant("and?"));
        row.messages.push(Message::user(format!("turn {id}")));
        row
    };
    let rows: Vec<Prompt> = (0..200).map(|row| turns(row, row % 20)).collect();
    write(&dir.path().join("turns"), &rows);
    let split = |by: &str| {
        json_of(
            dir.path(),
            &["data", "split", "turns", "--test", "0.5", "--by", by, "--out", by],
        )
    };
    assert_eq!(split("prompt")["prompts"], 200);
    assert_eq!(split("opening")["prompts"], 20);

    write(&dir.path().join("one"), &rows[..1]);
    let ran = bylaw(dir.path(), &["data", "split", "one", "--test", "0.1", "--out", "none"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("only 1 different prompts"), "{ran:?}");
    assert!(!dir.path().join("none").exists());
    for test in ["0", "1", "-0.1", "NaN"] {
        let ran = bylaw(
            dir.path(),
            &["data", "split", "rows", &format!("--test={test}"), "--out", "none"],
        );
        assert_eq!(ran.code, 2, "{ran:?}");
    }
}

/// Catches: options that change or vanish without notice.
#[test]
fn help_is_as_it_was() {
    let dir = TempDir::new().unwrap();
    let help =
        ["inspect", "validate", "mix", "split"].map(|command| bylaw(dir.path(), &["data", command, "--help"]).stdout);
    insta::assert_snapshot!("help", help.join("\n========\n\n"));
}
