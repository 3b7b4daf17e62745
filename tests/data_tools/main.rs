//! `bylaw data`: what is wrong with data is told, what is chosen of it is what was asked for, and what
//! earlier versions wrote is read.

mod inspect;
#[path = "../support/program.rs"]
mod program;
mod select;
mod validate;
mod versions;

use std::fs;
use std::path::Path;

use bylaw::dataset::{Manifest, Provenance, Row, Shard, Status, shard, write_all};
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Reject, Revision, Round, Vote,
};
use program::bylaw as program;
use serde_json::Value;

#[track_caller]
fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let ran = program(dir, &[arguments, &["--json", "-q"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn prompt(id: &str, text: &str, source: &str) -> Prompt {
    Prompt {
        id: id.into(),
        messages: vec![Message::user(text)],
        source: source.into(),
        tags: vec!["a".into()],
    }
}

const KIND_HASH: &str = "0123456789abcdef";

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
                verdict: "a".into(),
                principle_hash: KIND_HASH.into(),
            },
            Vote {
                principle_id: "kind".into(),
                order: "rejected_first".into(),
                logprob_a: -1.4,
                logprob_b: -0.3,
                p_a: 0.25,
                cot: Some("(B) is kinder.".into()),
                verdict: "b".into(),
                principle_hash: KIND_HASH.into(),
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
        principle_hash: "fedcba9876543210".into(),
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

/// Catches: options that change or vanish without notice.
#[test]
fn help_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let help =
        ["inspect", "validate", "mix", "split"].map(|command| program(dir.path(), &["data", command, "--help"]).stdout);
    insta::assert_snapshot!("help", help.join("\n========\n\n"));
}
