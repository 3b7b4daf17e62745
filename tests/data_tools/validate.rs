//! What is wrong with datasets on disk.

use std::fs;
use std::path::{Path, PathBuf};

use bylaw::dataset::MANIFEST;
use bylaw::record::{Message, Preference};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{candidates, json_of, preference, program, prompt, reject, revision, write, write_shards};

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
        fs::write(dir.join(".data-00001-of-00002.arrow.partial"), "ARROW1").unwrap();
    }),
    ("rows-of-a-shard", |dir| {
        manifest(dir, |value| {
            value["shards"][0]["rows"] = 3.into();
            value["rows"] = 5.into();
        });
    }),
    ("rows-do-not-add-up", |dir| {
        manifest(dir, |value| value["rows"] = 100.into());
    }),
    ("wrong-kind", |dir| {
        manifest(dir, |value| value["kind"] = "prompts".into());
    }),
    ("unknown-kind", |dir| {
        manifest(dir, |value| value["kind"] = "poems".into());
    }),
    ("unfinished", |dir| {
        manifest(dir, |value| value["status"] = "running".into());
    }),
    ("manifest-not-json", |dir| {
        fs::write(dir.join(MANIFEST), "{\"format\": \"bylaw-da").unwrap();
    }),
    ("manifest-empty", |dir| fs::write(dir.join(MANIFEST), "").unwrap()),
    ("manifest-missing", |dir| fs::remove_file(dir.join(MANIFEST)).unwrap()),
    ("manifest-of-another-program", |dir| {
        manifest(dir, |value| value["format"] = "lance".into());
    }),
    ("manifest-newer", |dir| {
        manifest(dir, |value| value["schema_version"] = 4_000_000.into());
    }),
    ("path-escapes", |dir| {
        manifest(dir, |value| value["shards"][0]["file"] = "../../etc/passwd".into());
    }),
    ("shard-listed-twice", |dir| {
        manifest(dir, |value| value["shards"][1] = value["shards"][0].clone());
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
        rewrite(dir, |rows| rows[2].prompt[0].role = "human".into());
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
    ("verdicts-that-contradict-their-probability", |dir| {
        rewrite(dir, |rows| {
            rows[0].votes[0].verdict = "A".into();
            rows[1].votes[0].verdict = "b".into();
            rows[2].votes[1].verdict = "tie".into();
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
    ("hashes-that-are-none", |dir| {
        rewrite(dir, |rows| {
            rows[0].votes[0].principle_hash = "0123456789ABCDEF".into();
            rows[1].votes[1].principle_hash = "kind".into();
            rows[2].votes[0].principle_hash.clear();
        });
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
        write(&dir.join("rejects"), &[prompt("a", "b", "c")]);
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
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
    }),
    #[cfg(unix)]
    ("link-to-nothing", |dir| {
        std::os::unix::fs::symlink("nowhere", dir.join("link.arrow")).unwrap();
    }),
    #[cfg(unix)]
    ("link-to-the-directory-above", |dir| {
        std::os::unix::fs::symlink("..", dir.join("up")).unwrap();
    }),
];

/// A text without what follows from the encoding of Arrow: sizes and checksums.
pub fn masked(text: &str) -> String {
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
        let ran = program(dir.path(), &["data", "validate", "-q", name]);
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
    let ran = program(dir.path(), &["data", "validate", "--json", "run"]);
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
