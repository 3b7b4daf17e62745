//! Datasets whose manifest or shards are not what they should be.

use std::fs;
use std::path::Path;

use bylaw::dataset::{Provenance, Slice, write_all};
use bylaw::record::{Message, Prompt, Reject};
use serde_json::{Value, json};

use super::case::{Case, case};

const SHARD: &str = "data-00000-of-00001.arrow";

fn prompts(dir: &Path, provenance: Provenance) {
    let row = |index: usize| Prompt {
        id: format!("{index:032x}"),
        messages: vec![Message::user(format!("How do I bake {index} loaves?"))],
        source: "test".into(),
        tags: Vec::new(),
    };
    write_all(dir, &(0..8).map(row).collect::<Vec<_>>(), provenance).unwrap();
}

/// Writes `work/set`, a dataset of prompts.
fn sound(work: &Path) {
    prompts(&work.join("set"), Provenance::new("test", 0));
}

/// A case over `set` as `break_it` leaves it.
fn set(name: &'static str, command: &'static str, break_it: impl Fn(&Path) + Send + Sync + 'static) -> Case {
    case(name, command, 3).given(move |work| {
        sound(work);
        break_it(&work.join("set"));
    })
}

/// A case over `set` with another manifest.
fn manifest(name: &'static str, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Case {
    set(name, "data inspect set", move |dir| change(dir, &edit))
}

fn change(dir: &Path, edit: impl Fn(&mut Value)) {
    let path = dir.join("manifest.json");
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A case over `set` with another text for a manifest.
fn text(name: &'static str, text: impl AsRef<[u8]>) -> Case {
    let text = text.as_ref().to_vec();
    set(name, "data inspect set", move |dir| {
        fs::write(dir.join("manifest.json"), &text).unwrap();
    })
}

fn shard(name: &'static str, command: &'static str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Case {
    set(name, command, move |dir| {
        let path = dir.join(SHARD);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    })
}

/// Replaces the shard by a link.
fn linked(dir: &Path, to: &str) {
    fs::remove_file(dir.join(SHARD)).unwrap();
    std::os::unix::fs::symlink(to, dir.join(SHARD)).unwrap();
}

pub fn cases() -> Vec<Case> {
    let mut cases = manifests();
    cases.extend(shards());
    cases.extend(merges());
    cases
}

fn manifests() -> Vec<Case> {
    vec![
        text("an empty manifest", ""),
        text(
            "a manifest that is cut short",
            "{\"format\": \"bylaw-dataset\", \"schema_ver",
        ),
        text("a manifest that is not UTF-8", b"{\"format\": \"\xff\"}"),
        text(
            "another program's manifest.json",
            "{\"name\": \"My App\", \"icons\": []}",
        ),
        manifest("a manifest of a newer version", |value| {
            value["schema_version"] = json!(99);
        }),
        manifest("a manifest of another format", |value| {
            value["format"] = json!("parquet-lake");
        }),
        manifest("a manifest of an unknown kind", |value| value["kind"] = json!("poems")),
        manifest("a manifest with an unknown field", |value| value["extra"] = json!(1)),
        manifest("a manifest with a text for the rows", |value| {
            value["rows"] = json!("8");
        }),
        manifest("a manifest with negative rows", |value| value["rows"] = json!(-8)),
        manifest("a manifest whose rows do not add up", |value| value["rows"] = json!(9)),
        manifest("a manifest whose rows overflow", |value| {
            let mut shard = value["shards"][0].clone();
            shard["rows"] = json!(u64::MAX);
            shard["file"] = json!("data-00001-of-00002.arrow");
            value["shards"].as_array_mut().unwrap().push(shard);
        }),
        manifest("a shard above the dataset", |value| {
            value["shards"][0]["file"] = json!("../../etc/passwd");
        }),
        manifest("a shard at an absolute path", |value| {
            value["shards"][0]["file"] = json!("/etc/passwd");
        }),
        manifest("a shard that is the directory", |value| {
            value["shards"][0]["file"] = json!(".");
        }),
        manifest("a shard without a name", |value| value["shards"][0]["file"] = json!("")),
        manifest("a shard with NUL in its name", |value| {
            value["shards"][0]["file"] = json!("a\0b");
        }),
        manifest("a shard that is listed twice", |value| {
            let shard = value["shards"][0].clone();
            value["shards"].as_array_mut().unwrap().push(shard);
            value["rows"] = json!(16);
        }),
        set(
            "a dataset that is not complete",
            "sample --model builtin:tiny --prompts set --out out",
            |dir| change(dir, |value| value["status"] = json!("running")),
        ),
        manifest("a shard with more rows in the manifest", |value| {
            value["shards"][0]["rows"] = json!(9);
            value["rows"] = json!(9);
        }),
        manifest("a shard of another checksum in the manifest", |value| {
            value["shards"][0]["sha256"] = json!("00");
        }),
        manifest("a shard of 2^63 bytes in the manifest", |value| {
            value["shards"][0]["bytes"] = json!(1_u64 << 63);
        }),
        manifest("a dataset of another kind than its columns", |value| {
            value["kind"] = json!("preferences");
        }),
        set("a manifest that is a directory", "data validate set", |dir| {
            fs::remove_file(dir.join("manifest.json")).unwrap();
            fs::create_dir(dir.join("manifest.json")).unwrap();
        }),
    ]
}

fn shards() -> Vec<Case> {
    let validate = "data validate set";
    let inspect = "data inspect set";
    vec![
        set("a shard that is missing", inspect, |dir| {
            fs::remove_file(dir.join(SHARD)).unwrap();
        }),
        set("a shard that is missing, for `data validate`", validate, |dir| {
            fs::remove_file(dir.join(SHARD)).unwrap();
        }),
        shard("a shard that is cut short", inspect, |bytes| {
            bytes.truncate(bytes.len() / 2);
        }),
        shard("a shard that is cut short, for `data validate`", validate, |bytes| {
            bytes.truncate(bytes.len() / 2);
        }),
        shard("a flipped bit", inspect, |bytes| bytes[400] ^= 1),
        shard("a flipped bit, for `data validate`", validate, |bytes| bytes[400] ^= 1),
        shard("an empty shard", inspect, Vec::clear),
        shard("a shard with bytes after it", inspect, |bytes| bytes.push(0)),
        set("a shard that is a link out of the dataset", inspect, |dir| {
            // A file of the test's own: one of the machine has a size of the machine's.
            let outside = dir.with_file_name("outside.txt");
            fs::write(&outside, "not for you").unwrap();
            linked(dir, outside.to_str().unwrap());
        }),
        set("a shard that is a link to an endless device", inspect, |dir| {
            linked(dir, "/dev/zero");
        }),
        set(
            "a shard that is a link to an endless device, for `data validate`",
            validate,
            |dir| {
                linked(dir, "/dev/zero");
                // What the system says is the size of a device.
                change(dir, |value| value["shards"][0]["bytes"] = json!(0));
            },
        ),
        set("a shard that is a link to itself", inspect, |dir| linked(dir, SHARD)),
        set("a shard that is a pipe", inspect, |dir| {
            fs::remove_file(dir.join(SHARD)).unwrap();
            let made = std::process::Command::new("mkfifo").arg(dir.join(SHARD)).status();
            assert!(made.unwrap().success());
        }),
        set("a shard that is a directory", inspect, |dir| {
            fs::remove_file(dir.join(SHARD)).unwrap();
            fs::create_dir(dir.join(SHARD)).unwrap();
        }),
        set("a file that the manifest does not list", validate, |dir| {
            fs::write(dir.join("more.jsonl"), "{}\n").unwrap();
        }),
        set("rejects that are a file", validate, |dir| {
            fs::write(dir.join("rejects"), "none").unwrap();
        }),
        set("shards without a manifest", validate, |dir| {
            fs::remove_file(dir.join("manifest.json")).unwrap();
        }),
        case(
            "a dataset without rows",
            "sample --model builtin:tiny --prompts set --out out",
            3,
        )
        .given(|work| {
            write_all::<Prompt>(&work.join("set"), &[], Provenance::new("test", 0)).unwrap();
        }),
        case(
            "rejects for training",
            "train sft --model builtin:tiny --data set --out out",
            3,
        )
        .given(|work| {
            let row = Reject {
                id: "a".into(),
                stage: "read".into(),
                reason: "no".into(),
                raw: String::new(),
            };
            write_all(&work.join("set"), &[row], Provenance::new("test", 0)).unwrap();
        }),
        set(
            "prompts for training",
            "train dpo --model builtin:tiny --data set --out out",
            |_| {},
        ),
        case("rows that break what their kind promises", "data validate set", 3).given(|work| {
            let row = |id: &str, role: &str, content: &str| Prompt {
                id: id.into(),
                messages: vec![Message {
                    role: role.into(),
                    content: content.into(),
                }],
                source: "test".into(),
                tags: Vec::new(),
            };
            let rows = [
                row("a", "user", "q"),
                row("a", "user", "q"),
                row("b", "wizard", "q"),
                row("", "user", " "),
            ];
            write_all(&work.join("set"), &rows, Provenance::new("test", 0)).unwrap();
        }),
    ]
}

fn slice(work: &Path, name: &str, index: usize, of: usize, seed: u64) {
    let mut provenance = Provenance::new("test", seed);
    provenance.slice = Some(Slice { index, of });
    prompts(&work.join(name), provenance);
}

fn merges() -> Vec<Case> {
    let merge = |name, parts: &str| case(name, format!("data merge {parts} --out out"), 3);
    vec![
        merge("merge: nothing there", "a b"),
        merge("merge: a file", "a b").file("a", "x").file("b", "x"),
        merge("merge: a dataset that is no part", "set").given(sound),
        merge("merge: a part is missing", "a").given(|work| slice(work, "a", 0, 2, 0)),
        merge("merge: a part that is there twice", "a b c").given(|work| {
            slice(work, "a", 0, 2, 0);
            slice(work, "b", 0, 2, 0);
            slice(work, "c", 1, 2, 0);
        }),
        merge("merge: parts of two jobs", "a b").given(|work| {
            slice(work, "a", 0, 2, 0);
            slice(work, "b", 1, 2, 7);
        }),
        merge("merge: parts of another division", "a b").given(|work| {
            slice(work, "a", 0, 2, 0);
            slice(work, "b", 1, 3, 0);
        }),
        merge("merge: a part beyond the last", "a").given(|work| slice(work, "a", 5, 2, 0)),
    ]
}
