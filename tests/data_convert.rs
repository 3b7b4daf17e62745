//! `data convert` through the program: what is written is read back as it was, in every format.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bylaw::dataset::export::Format;
use bylaw::dataset::{Dataset, Kind, Manifest, Shape};
use bylaw::record::{Demonstration, Message, Preference};
use serde_json::Value;

#[path = "support/convert.rs"]
mod support;

use support::*;

/// Converts rows to every format that takes them and reads each again.
fn round_trips<R: Shape + PartialEq + std::fmt::Debug>(rows: &[R]) -> usize {
    let files = Files::new();
    let dataset = files.dataset("rows", rows);
    let formats = Format::ALL
        .into_iter()
        .filter(|format| format.trainings(R::KIND).is_some());
    let mut count = 0;
    for format in formats {
        let out = files.path(format.as_str());
        let told = convert(&dataset, format, &out, &[]);
        assert_eq!(
            (told["rows"].as_u64(), told["rejects"].as_u64()),
            (Some(rows.len() as u64), Some(0))
        );
        assert_eq!(told["kind"], R::KIND.as_str());
        assert_eq!(read::<R>(&out), rows, "{format}");
        for (name, _) in support::files(Path::new(&out)) {
            assert!(
                !name.contains("part-") && !name.contains("/.") && !name.starts_with('.'),
                "{format}: {name}"
            );
        }
        count += 1;
    }
    count
}

/// Catches: a column that an export or its reader loses, rounds or renames; ids that change; labels that become
/// certain; rounds and votes that do not survive nesting.
#[test]
fn every_kind_comes_back_from_every_format() {
    assert_eq!(round_trips(&prompts()), 5);
    assert_eq!(round_trips(&demonstrations()), 8);
    assert_eq!(round_trips(&texts()), 8);
    assert_eq!(round_trips(&preferences()), 8);
    assert_eq!(round_trips(&unpaired()), 5);
    assert_eq!(round_trips(&revisions()), 8);
    assert_eq!(round_trips(&candidates()), 3);
}

/// Imports a file, exports it to each of the formats, imports each again: the same bytes.
fn comes_back_as_the_same_bytes<R: Shape>(path: &str, from: &[&str], rows: u64, rejects: u64) {
    let files = Files::new();
    let first = files.path("first");
    let told = convert(path, Format::Arrow, &first, from);
    assert_eq!(
        (told["rows"].as_u64(), told["rejects"].as_u64()),
        (Some(rows), Some(rejects))
    );
    let shards = |dir: &str| Manifest::read(Path::new(dir)).unwrap().shards;
    for format in Format::ALL
        .into_iter()
        .filter(|format| format.trainings(R::KIND).is_some())
    {
        let (out, again) = (files.path(format.as_str()), files.path(&format!("{format}-again")));
        let told = convert(&first, format, &out, &[]);
        assert_eq!(told["rows"].as_u64(), Some(rows), "{format}");
        convert(&out, Format::Arrow, &again, &["--from", R::KIND.as_str()]);
        assert_eq!(shards(&again), shards(&first), "{format}");
    }
}

/// Catches: a real conversation that a format changes.
#[test]
fn real_conversations_come_back_as_the_same_bytes() {
    if let Some(path) = shared("hh-rlhf/harmless-test.dev.jsonl") {
        comes_back_as_the_same_bytes::<Preference>(&path, &[], 1468, 8);
        let told: u64 = 1468 + 8;
        assert_eq!(told, 1476, "every line of the file is a row or a reject");
    }
    if let Some(path) = shared("self-instruct/seed_tasks.jsonl") {
        comes_back_as_the_same_bytes::<Demonstration>(&path, &[], 175, 0);
    }
}

// ---- what is told ---------------------------------------------------------------------------------

/// Catches: soft labels, ties and weights that vanish in silence where a tool does not read them; rejects that
/// are not kept; a count that does not add up.
#[test]
fn what_a_tool_does_not_see_is_counted() {
    let files = Files::new();
    let mut rows = preferences();
    rows[6].chosen.push(Message::user("more?"));
    let dataset = files.dataset("rows", &rows);
    let told = convert(&dataset, Format::Trl, &files.path("trl"), &[]);
    let losses: Vec<(&str, u64)> = told["losses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|loss| (loss["loss"].as_str().unwrap(), loss["rows"].as_u64().unwrap()))
        .collect();
    assert_eq!(losses, [("soft_labels", 4), ("ties", 2), ("weights", 3)]);
    let kept = convert(&dataset, Format::Parquet, &files.path("parquet"), &[]);
    assert_eq!(kept["losses"], Value::Array(Vec::new()));

    // A pair of which one side has several turns would be cut to the last one.
    let out = files.path("axolotl");
    let told = convert(&dataset, Format::Axolotl, &out, &[]);
    assert_eq!((told["rows"].as_u64(), told["rejects"].as_u64()), (Some(6), Some(1)));
    let rejects = Dataset::<bylaw::record::Reject>::open(format!("{out}/rejects"))
        .unwrap()
        .read_all()
        .unwrap();
    assert_eq!(
        rejects[0].reason,
        "`chosen` has 2 turns; Axolotl reads one answer to a side"
    );
    assert_eq!(serde_json::from_str::<Preference>(&rejects[0].raw).unwrap(), rows[6]);

    // LLaMA-Factory leaves out conversations that do not alternate, with a line in its log.
    let mut rows = demonstrations();
    rows[1].prompt.push(Message::user("and?"));
    let dataset = files.dataset("demonstrations", &rows);
    let out = files.path("llama-factory");
    assert_eq!(convert(&dataset, Format::LlamaFactory, &out, &[])["rejects"], 1);
    assert_eq!(read::<Demonstration>(&out).len(), 6);

    // Texts among conversations: a tool reads the one or the other.
    let mixed = files.dataset("mixed", &[demonstrations(), texts()].concat());
    let told = convert(&mixed, Format::Openrlhf, &files.path("mixed-out"), &[]);
    assert_eq!((told["rows"].as_u64(), told["rejects"].as_u64()), (Some(7), Some(5)));
}

/// Catches: a configuration that names a column, a file or a setting that the tool does not have; a default that
/// changes unseen. `scripts/compare/train_exports.py` runs TRL's.
#[test]
fn configurations_are_ready_to_run() {
    let files = Files::new();
    let pairs = files.dataset("pairs", &preferences());
    let answers = files.dataset("answers", &demonstrations());
    let plain = files.dataset("plain", &texts());
    let asked = files.dataset("asked", &prompts());
    let labelled = files.dataset("labelled", &unpaired());
    let mut all = String::new();
    let cases = [
        (Format::Trl, &pairs),
        (Format::Trl, &answers),
        (Format::Trl, &labelled),
        (Format::Trl, &asked),
        (Format::AlignmentHandbook, &pairs),
        (Format::AlignmentHandbook, &answers),
        (Format::Openrlhf, &pairs),
        (Format::Openrlhf, &answers),
        (Format::Openrlhf, &plain),
        (Format::Openrlhf, &asked),
        (Format::Axolotl, &pairs),
        (Format::Axolotl, &answers),
        (Format::Axolotl, &plain),
        (Format::LlamaFactory, &pairs),
        (Format::LlamaFactory, &answers),
        (Format::LlamaFactory, &plain),
        (Format::LlamaFactory, &labelled),
    ];
    for (index, (format, dataset)) in cases.into_iter().enumerate() {
        let out = files.path(&format!("out-{index}"));
        // One with a model, whose name needs quoting; the others with what stands in its place.
        let model: &[&str] = if index == 0 { &["--model", "a \"b\"/c'd"] } else { &[] };
        let told = convert(dataset, format, &out, model);
        for name in told["configurations"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            if name != "README.md" {
                let text = fs::read_to_string(Path::new(&out).join(name)).unwrap();
                all.push_str(&format!(
                    "==== {format}, {}: {name}\n{text}\n",
                    told["kind"].as_str().unwrap()
                ));
            }
        }
    }
    insta::assert_snapshot!("convert_configurations", all);
}

/// Catches: a card that the hub cannot read, or that does not say where the rows come from.
#[test]
fn the_card_tells_rows_columns_and_provenance() {
    let files = Files::new();
    let dataset = files.dataset("rows", &preferences());
    let out = files.path("out");
    convert(&dataset, Format::Parquet, &out, &[]);
    let card = fs::read_to_string(format!("{out}/README.md")).unwrap();
    let sha256 = Dataset::<Preference>::open(&dataset).unwrap().sha256();
    let card = card.replace(&dataset, "ROWS").replace(&sha256, "SHA256");
    insta::assert_snapshot!("convert_card", card);
}

/// Catches: a kind that a tool cannot train on, written in a shape that it misreads; a remedy that is missing.
#[test]
fn kinds_that_a_tool_cannot_train_on_are_refused() {
    let files = Files::new();
    let candidates = files.dataset("candidates", &candidates());
    let out = files.path("out");
    let error = refused(&candidates, Format::Trl, &out, &[]);
    assert!(
        error.contains("TRL does not train on candidates") && error.contains("--from demonstrations"),
        "{error}"
    );
    assert!(!Path::new(&out).exists());
    let told = convert(&candidates, Format::Trl, &out, &["--from", "demonstrations"]);
    assert_eq!(
        (told["kind"].as_str(), told["rows"].as_u64()),
        (Some("demonstrations"), Some(7))
    );
    let error = refused(
        &files.dataset("prompts", &prompts()),
        Format::Axolotl,
        &files.path("b"),
        &[],
    );
    assert!(error.contains("Axolotl does not train on prompts"), "{error}");
}

// ---- the directory --------------------------------------------------------------------------------

/// Catches: another's directory overwritten; a repeated command refused; what the user put there deleted.
#[test]
fn the_same_command_writes_anew_and_another_is_refused() {
    let files = Files::new();
    let pairs = files.write("pairs.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n{\"prompt\": 1, \"chosen\": \"b\", \"rejected\": \"c\"}\n");
    let out = files.path("out");
    convert(&pairs, Format::Trl, &out, &[]);
    let before = support::files(Path::new(&out));
    fs::create_dir(format!("{out}/model-dpo")).unwrap();
    fs::write(format!("{out}/model-dpo/config.json"), "{}").unwrap();
    convert(&pairs, Format::Trl, &out, &[]);
    fs::remove_file(format!("{out}/model-dpo/config.json")).expect("a trained model stays");
    assert_eq!(support::files(Path::new(&out)), before);

    let error = refused(&pairs, Format::Openrlhf, &out, &[]);
    assert!(
        error.contains("settings.format: \"trl\" there, \"openrlhf\" here"),
        "{error}"
    );
    assert_eq!(support::files(Path::new(&out)), before);

    // The data changed: without the bad row there are no rejects any more.
    fs::write(&pairs, "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"d\"}\n").unwrap();
    let told = convert(&pairs, Format::Trl, &out, &[]);
    assert_eq!((told["rows"].as_u64(), told["rejects"].as_u64()), (Some(1), Some(0)));
    assert!(!Path::new(&out).join("rejects").exists());

    let foreign = files.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(format!("{foreign}/thesis.txt"), "mine").unwrap();
    let error = refused(&pairs, Format::Trl, &foreign, &[]);
    assert!(
        error.contains("is not empty") && error.contains("thesis.txt"),
        "{error}"
    );
    assert_eq!(support::files(Path::new(&foreign)).len(), 1);

    // The manifest of an import is its mark.
    let dataset = files.path("dataset");
    convert(&pairs, Format::Arrow, &dataset, &[]);
    convert(&pairs, Format::Arrow, &dataset, &[]);
    let error = refused(&pairs, Format::Jsonl, &dataset, &[]);
    assert!(error.contains("holds another run"), "{error}");
}

fn visible(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

/// Catches: half an export that looks like a whole one after `kill -9`; leftovers that block or spoil the next
/// run; other bytes after it.
#[test]
fn an_interrupted_export_leaves_nothing_half() {
    let files = Files::new();
    let text: String = (0..60_000)
        .map(|n| format!("{{\"prompt\": \"question {n}\", \"chosen\": \"yes {n}\", \"rejected\": \"no\"}}\n"))
        .collect();
    let pairs = files.write("pairs.jsonl", &text);
    for format in [Format::Trl, Format::Arrow] {
        let (out, whole) = (files.path(&format!("{format}")), files.path(&format!("{format}-whole")));
        convert(&pairs, format, &whole, &[]);
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
            .args([
                "--quiet",
                "data",
                "convert",
                &pairs,
                "--to",
                format.as_str(),
                "--out",
                &out,
            ])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let first = match format {
            Format::Arrow => "part-00000",
            _ => "data",
        };
        while !Path::new(&out).join(".partial").join(first).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(visible(&out), Vec::<String>::new(), "{format}");
        convert(&pairs, format, &out, &[]);
        assert_eq!(
            support::files(Path::new(&out)),
            support::files(Path::new(&whole)),
            "{format}"
        );
    }
}

/// Catches: an export that fails on the way and leaves its beginnings.
#[test]
fn a_failed_export_leaves_nothing() {
    let files = Files::new();
    let dataset = files.dataset("rows", &preferences());
    let shard = format!("{dataset}/data-00000-of-00001.arrow");
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let out = files.path("out");
    let error = refused(&dataset, Format::Parquet, &out, &[]);
    assert!(error.contains("checksum"), "{error}");
    assert!(!Path::new(&out).exists());
    let none = files.write("none.jsonl", "{\"unknown\": 1}\n");
    let error = refused(&none, Format::Parquet, &out, &[]);
    assert!(error.contains("--mapping"), "{error}");
    let error = refused(&none, Format::Parquet, &out, &["--from", "preferences"]);
    assert!(
        error.contains("none of its 1 rows can be read as preferences"),
        "{error}"
    );
    assert!(!Path::new(&out).exists());
}

/// Catches: a mapping that is not applied, or that another run may change under the same directory.
#[test]
fn a_mapping_names_the_columns() {
    let files = Files::new();
    let rows = files.write("rows.jsonl", "{\"q\": \"a\", \"better\": \"b\", \"worse\": \"c\"}\n");
    let mapping = files.write(
        "map.toml",
        "[columns]\nprompt = \"q\"\nchosen = \"better\"\nrejected = \"worse\"\n",
    );
    let out = files.path("out");
    let told = convert(&rows, Format::Trl, &out, &["--mapping", &mapping]);
    assert_eq!(told["kind"], "preferences");
    let row = &read::<Preference>(&out)[0];
    assert_eq!(
        (row.prompt[0].content.as_str(), row.chosen[0].content.as_str()),
        ("a", "b")
    );
    let other = files.write(
        "other.toml",
        "[columns]\nprompt = \"q\"\nchosen = \"worse\"\nrejected = \"better\"\n",
    );
    let error = refused(&rows, Format::Trl, &out, &["--mapping", &other]);
    assert!(error.contains("mapping_sha256"), "{error}");
}

/// Catches: a kind that is left out of the table of what tools train on.
#[test]
fn every_format_answers_for_every_kind() {
    for format in Format::ALL {
        for kind in Kind::ALL {
            assert_eq!(
                format.check(kind).is_ok(),
                format.trainings(kind).is_some(),
                "{format} {kind}"
            );
        }
    }
}
