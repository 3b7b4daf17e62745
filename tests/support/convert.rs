//! What tests of `data convert` share: the program, rows that are hard to keep, and what is on disk.

use std::fs;
use std::path::{Path, PathBuf};

use bylaw::dataset::export::Format;
use bylaw::dataset::{Options, Provenance, Row, Shape, stream, write_all};
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Revision, Round, UnpairedPreference, Vote,
    content_id,
};
use serde_json::Value;
use tempfile::TempDir;

#[path = "program.rs"]
mod program;

use program::Ran;

pub fn bylaw(arguments: &[&str]) -> Ran {
    program::bylaw(Path::new("."), arguments)
}

pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a dataset of bylaw.
    pub fn dataset<R: Row>(&self, name: &str, rows: &[R]) -> String {
        let path = self.path(name);
        write_all(Path::new(&path), rows, Provenance::new("test", 7)).unwrap();
        path
    }
}

/// Converts; answers the document of `--json`.
#[track_caller]
pub fn convert(reference: &str, to: Format, out: &str, more: &[&str]) -> Value {
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
pub fn refused(reference: &str, to: Format, out: &str, more: &[&str]) -> String {
    let arguments = ["data", "convert", reference, "--to", to.as_str(), "--out", out];
    let ran = bylaw(&[&arguments, more].concat());
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

#[track_caller]
pub fn read<R: Shape>(reference: &str) -> Vec<R> {
    stream::<R>(reference, &Options::default())
        .unwrap()
        .map(|row| {
            row.unwrap()
                .unwrap_or_else(|reject| panic!("{reference}: {}", reject.reason))
        })
        .collect()
}

/// Every file below a directory, by its path in it.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
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

pub fn question(n: usize) -> Vec<Message> {
    let mut turns = vec![Message::user(format!("Ünïcode \"{n}\"?\n\n<|im_end|> {{% raw %}}"))];
    if n.is_multiple_of(2) {
        turns.insert(0, Message::system("Be brief."));
    }
    if n.is_multiple_of(3) {
        turns.extend([Message::assistant(""), Message::user("\u{1F926}\u{200D} and now?\t")]);
    }
    turns
}

pub fn prompts() -> Vec<Prompt> {
    let row = |n| Prompt {
        id: content_id([format!("prompt {n}").as_str()]),
        messages: question(n),
        source: format!("source {n}"),
        tags: (0..n % 3).map(|tag| format!("tag {tag}")).collect(),
    };
    (0..7).map(row).collect()
}

pub fn demonstrations() -> Vec<Demonstration> {
    let row = |n| Demonstration {
        id: content_id([format!("demonstration {n}").as_str()]),
        prompt: question(n),
        prefix: String::new(),
        completion: format!("  answer {n}\n"),
        weight: [1.0, 0.1, 3.25][n % 3],
    };
    (0..7).map(row).collect()
}

pub fn texts() -> Vec<Demonstration> {
    let row = |n| Demonstration {
        id: content_id([format!("text {n}").as_str()]),
        prompt: Vec::new(),
        prefix: String::new(),
        completion: format!("Once upon {n}.\n"),
        weight: 1.0,
    };
    (0..5).map(row).collect()
}

pub fn preferences() -> Vec<Preference> {
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
                verdict: "a".into(),
                principle_hash: "0123456789abcdef"[..16 * (vote % 2)].into(),
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

pub fn unpaired() -> Vec<UnpairedPreference> {
    let row = |n: usize| UnpairedPreference {
        id: content_id([format!("unpaired {n}").as_str()]),
        prompt: question(n),
        completion: vec![Message::assistant(format!("answer {n}"))],
        label: n.is_multiple_of(2),
        weight: [1.0, 2.0][n % 2],
    };
    (0..7).map(row).collect()
}

pub fn revisions() -> Vec<Revision> {
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
                principle_hash: "0123456789abcdef"[..16 * (round % 2)].into(),
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

pub fn candidates() -> Vec<Candidates> {
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

/// Where the data beside the repository lie.
pub fn shared(path: &str) -> Option<String> {
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
