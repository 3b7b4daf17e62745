//! `data convert` through the program: what is written is read back as it was, in every format.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bylaw::dataset::export::Format;
use bylaw::dataset::{Dataset, Kind, Manifest, Options, Provenance, Row, Shape, stream, write_all};
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Revision, Round, UnpairedPreference, Vote,
    content_id,
};
use serde_json::Value;
use tempfile::TempDir;

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn bylaw(arguments: &[&str]) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .env("NO_COLOR", "1")
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

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a dataset of bylaw.
    fn dataset<R: Row>(&self, name: &str, rows: &[R]) -> String {
        let path = self.path(name);
        write_all(Path::new(&path), rows, Provenance::new("test", 7)).unwrap();
        path
    }
}

/// Converts; answers the document of `--json`.
#[track_caller]
fn convert(reference: &str, to: Format, out: &str, more: &[&str]) -> Value {
    let arguments = [
        "--json",
        "data",
        "convert",
        reference,
        "--to",
        to.as_str(),
        "--out",
        out,
    ];
    let ran = bylaw(&[&arguments, more].concat());
    assert_eq!(ran.code, 0, "{reference} to {to}: {}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[track_caller]
fn refused(reference: &str, to: Format, out: &str, more: &[&str]) -> String {
    let arguments = ["data", "convert", reference, "--to", to.as_str(), "--out", out];
    let ran = bylaw(&[&arguments, more].concat());
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

/// Where the rows of an export are read from.
fn data_of(out: &str, format: Format) -> String {
    match format {
        Format::Arrow => out.to_owned(),
        _ => format!("{out}/data"),
    }
}

#[track_caller]
fn read<R: Shape>(reference: &str) -> Vec<R> {
    stream::<R>(reference, &Options::default())
        .unwrap()
        .map(|row| {
            row.unwrap()
                .unwrap_or_else(|reject| panic!("{reference}: {}", reject.reason))
        })
        .collect()
}

/// Every file below a directory, by its path in it.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

// ---- rows that are hard to keep -------------------------------------------------------------------

fn question(n: usize) -> Vec<Message> {
    let mut turns = vec![Message::user(format!("Ünïcode \"{n}\"?\n\n<|im_end|> {{% raw %}}"))];
    if n.is_multiple_of(2) {
        turns.insert(0, Message::system("Be brief."));
    }
    if n.is_multiple_of(3) {
        turns.extend([Message::assistant(""), Message::user("\u{1F926}\u{200D} and now?\t")]);
    }
    turns
}

fn prompts() -> Vec<Prompt> {
    let row = |n| Prompt {
        id: content_id([format!("prompt {n}").as_str()]),
        messages: question(n),
        source: format!("source {n}"),
        tags: (0..n % 3).map(|tag| format!("tag {tag}")).collect(),
    };
    (0..7).map(row).collect()
}

fn demonstrations() -> Vec<Demonstration> {
    let row = |n| Demonstration {
        id: content_id([format!("demonstration {n}").as_str()]),
        prompt: question(n),
        prefix: String::new(),
        completion: format!("  answer {n}\n"),
        weight: [1.0, 0.1, 3.25][n % 3],
    };
    (0..7).map(row).collect()
}

fn texts() -> Vec<Demonstration> {
    let row = |n| Demonstration {
        id: content_id([format!("text {n}").as_str()]),
        prompt: Vec::new(),
        prefix: String::new(),
        completion: format!("Once upon {n}.\n"),
        weight: 1.0,
    };
    (0..5).map(row).collect()
}

fn preferences() -> Vec<Preference> {
    let labels = [0.5, 0.731_058_6, 1.0, 0.999_999_9, 0.6];
    let row = |n: usize| Preference {
        id: content_id([format!("preference {n}").as_str()]),
        prompt: question(n),
        chosen: vec![Message::assistant(format!("good {n}"))],
        rejected: vec![Message::assistant(format!("bad {n} \u{FEFF}"))],
        p_chosen: labels[n % 5],
        // Not what `p_chosen` gives again: it is rounded.
        margin: 0.1 + n as f32 / 3.0,
        weight: [1.0, 0.5][n % 2],
        source: "judge".into(),
        votes: (0..n % 3)
            .map(|vote| Vote {
                principle_id: format!("principle-{vote}"),
                order: "chosen_first".into(),
                logprob_a: -0.1 * vote as f32,
                logprob_b: -1.0 / 3.0,
                p_a: 0.7,
                cot: (vote == 1).then(|| "Because.".into()),
            })
            .collect(),
        chosen_tokens: n as u32,
        rejected_tokens: 7,
        chosen_chars: u32::MAX,
        rejected_chars: 0,
        p_raw: 0.9,
    };
    (0..7).map(row).collect()
}

fn unpaired() -> Vec<UnpairedPreference> {
    let row = |n: usize| UnpairedPreference {
        id: content_id([format!("unpaired {n}").as_str()]),
        prompt: question(n),
        completion: vec![Message::assistant(format!("answer {n}"))],
        label: n.is_multiple_of(2),
        weight: [1.0, 2.0][n % 2],
    };
    (0..7).map(row).collect()
}

fn revisions() -> Vec<Revision> {
    let row = |n: usize| Revision {
        id: content_id([format!("revision {n}").as_str()]),
        prompt: question(n),
        initial: format!("first {n}"),
        rounds: (0..n % 3)
            .map(|round| Round {
                principle_id: "p".into(),
                critique_request: "criticise".into(),
                critique: format!("critique {round}"),
                revision_request: "revise".into(),
                revision: format!("last {n}"),
                changed: round == 0,
            })
            .collect(),
        final_answer: format!("last {n}"),
        messages: [question(n), vec![Message::assistant(format!("last {n}"))]].concat(),
        prompt_tokens: 1,
        initial_tokens: 2,
        final_tokens: 3,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "length".into(),
    };
    (0..7).map(row).collect()
}

fn candidates() -> Vec<Candidates> {
    let row = |n: usize| Candidates {
        id: content_id([format!("candidates {n}").as_str()]),
        prompt: question(n),
        completions: (0..1 + n as u32 % 3)
            .map(|sample| Completion {
                text: format!("answer {sample}"),
                tokens: 3,
                finish_reason: "stop".into(),
                logprob: -1.0 / 7.0,
                sample,
            })
            .collect(),
    };
    (0..7).map(row).collect()
}

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
        assert_eq!(read::<R>(&data_of(&out, format)), rows, "{format}");
        for (name, _) in self::files(Path::new(&out)) {
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

/// Where the data beside the repository lie.
fn shared(path: &str) -> Option<String> {
    let data = std::env::var_os("BYLAW_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = data.join(path);
    if path.exists() {
        return Some(path.to_str().unwrap().to_owned());
    }
    eprintln!("skipped: {} is not there", path.display());
    None
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
        convert(
            &data_of(&out, format),
            Format::Arrow,
            &again,
            &["--from", R::KIND.as_str()],
        );
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
    assert_eq!(read::<Demonstration>(&data_of(&out, Format::LlamaFactory)).len(), 6);

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
    let before = self::files(Path::new(&out));
    fs::create_dir(format!("{out}/model-dpo")).unwrap();
    fs::write(format!("{out}/model-dpo/config.json"), "{}").unwrap();
    convert(&pairs, Format::Trl, &out, &[]);
    fs::remove_file(format!("{out}/model-dpo/config.json")).expect("a trained model stays");
    assert_eq!(self::files(Path::new(&out)), before);

    let error = refused(&pairs, Format::Openrlhf, &out, &[]);
    assert!(
        error.contains("settings.format: \"trl\" there, \"openrlhf\" here"),
        "{error}"
    );
    assert_eq!(self::files(Path::new(&out)), before);

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
    assert_eq!(self::files(Path::new(&foreign)).len(), 1);

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
        assert_eq!(self::files(Path::new(&out)), self::files(Path::new(&whole)), "{format}");
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
    let row = &read::<Preference>(&data_of(&out, Format::Trl))[0];
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

// ---- run --emit -----------------------------------------------------------------------------------

const RECIPE: &str = r#"
name = "handed-over"
seed = 3

[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 8
benign = 8

[[stage]]
name = "policy"
kind = "train-sft"
model = "hf:org/base@main"
data = "ANSWERS"
epochs = 2
learning_rate = 3e-4
batch_size = 12
warmup_steps = 5
min_lr_ratio = 0.1
adam_beta2 = 0.98
prompt_loss_weight = 0.1

[[stage]]
name = "reward"
kind = "train-reward"
model = "@policy"
data = "PAIRS"
lr_scheduler = "cosine"
min_lr_ratio = 0.1

[[stage]]
name = "dpo"
kind = "train-dpo"
model = "@policy"
data = "PAIRS"
beta = 0.05
label_smoothing = 0.1
sft_coef = 0.5

[[stage]]
name = "ppo"
kind = "train-ppo"
model = "@policy"
data = "@prompts"
reward_model = "@reward"
iterations = 20
rollouts = 64
minibatch_rows = 16
kl_coef = 0.02
"#;

/// Catches: a hyperparameter that is lost or changed on the way to the tool; a stage whose data are not there
/// that stops the others; a model of an earlier stage that the tool looks for in the wrong place; a run that
/// cannot begin any more because of what was written into its directory.
#[test]
fn training_is_handed_over_with_its_settings() {
    let files = Files::new();
    let answers = files.dataset("answers", &demonstrations());
    let pairs = files.dataset("pairs", &preferences());
    let recipe = RECIPE.replace("ANSWERS", &answers).replace("PAIRS", &pairs);
    let recipe = files.write("recipe.toml", &recipe);
    let run = files.path("run");
    let emit = |tool: &str| {
        let ran = bylaw(&["--json", "run", &recipe, "--out", &run, "--emit", tool]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let told = emit("trl");
    let left_out = &told["stages"][3];
    assert_eq!(left_out["stage"], "ppo");
    assert!(
        left_out["left_out"].as_str().unwrap().ends_with("prompts is not there"),
        "{left_out}"
    );
    assert!(!Path::new(&run).exists());

    let ran = bylaw(&["--quiet", "run", &recipe, "--out", &run, "--until", "prompts"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut all = String::new();
    for tool in ["trl", "openrlhf"] {
        let told = emit(tool);
        all.push_str(&format!("==== {tool}: what has no name there\n"));
        for stage in told["stages"].as_array().unwrap() {
            all.push_str(&format!("{}: {}\n", stage["stage"], stage["not_carried"]));
        }
        let out = PathBuf::from(format!("{run}-{tool}"));
        for (name, bytes) in self::files(&out) {
            if name.ends_with(".sh") || name.ends_with(".yaml") {
                all.push_str(&format!("==== {tool}: {name}\n{}\n", String::from_utf8(bytes).unwrap()));
            }
        }
        assert_eq!(
            read::<Preference>(&format!("{}/dpo/data", out.display())),
            preferences()
        );
        assert_eq!(read::<Prompt>(&format!("{}/ppo/data", out.display())).len(), 16);
    }
    insta::assert_snapshot!("emit_configurations", all);
}

/// Catches: a recipe with nothing to hand over, or nothing yet, that ends in silence.
#[test]
fn nothing_to_hand_over_is_an_error() {
    let files = Files::new();
    let none = "[[stage]]\nname = \"p\"\nkind = \"world-prompts\"\nsplit = \"evaluation\"\n";
    let recipe = files.write("none.toml", none);
    let run = files.path("run");
    let ran = bylaw(&["run", &recipe, "--out", &run, "--emit", "trl"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no training stage to hand over"), "{}", ran.stderr);
    let early = format!("{none}\n[[stage]]\nname = \"q\"\nkind = \"train-sft\"\nmodel = \"m\"\ndata = \"@p\"\n");
    let recipe = files.write("early.toml", &early);
    let ran = bylaw(&["run", &recipe, "--out", &run, "--emit", "openrlhf"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("--until STAGE"), "{}", ran.stderr);
    assert!(!Path::new(&run).exists() && !Path::new(&format!("{run}-openrlhf")).exists());
}
