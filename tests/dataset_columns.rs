//! Columns: the bytes of each kind of row, and what of other programs' encodings is read.

use bylaw::dataset::{Row, shard};
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Reject, Revision, Round, Vote,
};

/// More rows than two record batches hold, so that the cuts between batches count.
const ROWS: usize = 2100;

/// A text of `index` that is empty, short, long, or not ASCII.
fn text(index: usize) -> String {
    match index % 5 {
        0 => String::new(),
        1 => format!("word {index}"),
        2 => format!("é\u{0}\u{1F980} {index}\n"),
        3 => format!("long {index} ").repeat(index % 40),
        _ => "\u{FFFF}".into(),
    }
}

fn messages(index: usize) -> Vec<Message> {
    (0..index % 4)
        .map(|turn| Message {
            role: ["user", "assistant", "system", ""][turn].into(),
            content: text(index + turn),
        })
        .collect()
}

fn prompt(index: usize) -> Prompt {
    Prompt {
        id: format!("id-{index}"),
        messages: messages(index),
        source: text(index + 1),
        tags: (0..index % 3).map(text).collect(),
    }
}

fn revision(index: usize) -> Revision {
    let round = |number: usize| Round {
        principle_id: text(number),
        critique_request: text(index + number),
        critique: text(index + number + 1),
        revision_request: text(index + number + 2),
        revision: text(index + number + 3),
        changed: (index + number).is_multiple_of(3),
    };
    Revision {
        id: format!("id-{index}"),
        prompt: messages(index),
        initial: text(index),
        rounds: (0..index % 3).map(round).collect(),
        final_answer: text(index + 2),
        messages: messages(index + 1),
        prompt_tokens: index as u32,
        initial_tokens: u32::MAX - index as u32,
        final_tokens: 7,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "length".into(),
    }
}

fn candidates(index: usize) -> Candidates {
    let completion = |sample: usize| Completion {
        text: text(index + sample),
        tokens: index as u32,
        finish_reason: "stop".into(),
        logprob: -0.5 * index as f32,
        sample: sample as u32,
    };
    Candidates {
        id: format!("id-{index}"),
        prompt: messages(index),
        completions: (0..index % 4).map(completion).collect(),
    }
}

/// The votes have a reasoning always in the first batch, never in the second, at times in the third.
fn preference(index: usize) -> Preference {
    let vote = |number: usize| Vote {
        principle_id: text(number),
        order: ["chosen_first", "rejected_first"][number % 2].into(),
        logprob_a: -0.0,
        logprob_b: f32::NEG_INFINITY,
        p_a: index as f32 / ROWS as f32,
        cot: match index / 1024 {
            0 => Some(text(index)),
            1 => None,
            _ => index.is_multiple_of(2).then(|| text(index)),
        },
    };
    Preference {
        id: format!("id-{index}"),
        prompt: messages(index),
        chosen: messages(index + 1),
        rejected: messages(index + 2),
        p_chosen: 0.5 + index as f32 / 1e4,
        margin: index as f32,
        weight: 1.0,
        source: "judge".into(),
        votes: (0..index % 3).map(vote).collect(),
        chosen_tokens: index as u32,
        rejected_tokens: 0,
        chosen_chars: 1,
        rejected_chars: u32::MAX,
        p_raw: 0.75,
    }
}

fn reject(index: usize) -> Reject {
    Reject {
        id: format!("id-{index}"),
        stage: "judge".into(),
        reason: text(index),
        raw: text(index + 3),
    }
}

fn demonstration(index: usize) -> Demonstration {
    Demonstration {
        id: format!("id-{index}"),
        prompt: messages(index),
        prefix: text(index),
        completion: text(index + 1),
        weight: index as f32,
    }
}

/// SHA-256 of the shards of 2100 rows and of no rows.
fn written<R: Row>(row: impl Fn(usize) -> R) -> [String; 2] {
    let dir = tempfile::tempdir().unwrap();
    [ROWS, 0].map(|count| {
        let rows: Vec<R> = (0..count).map(&row).collect();
        shard::write(dir.path(), "a.arrow", &rows).unwrap().sha256
    })
}

/// Catches: a change of the bytes of a dataset. The hashes are those of the files that commit
/// 26dcb87 wrote through serde_arrow; a dataset of one version must be resumed and compared by the
/// next. The readers of other programs are tried in `scripts/compare/`.
#[test]
fn the_bytes_of_each_kind_stay_as_they_were() {
    let found = [
        written(prompt),
        written(revision),
        written(candidates),
        written(preference),
        written(reject),
        written(demonstration),
    ];
    let expected = [
        [
            "a73bd5bc0288897408d5203cb96bd0b85b99e110fa7a48db59a793fe36e8ec01",
            "89616c925f85b0c26b74153d2302687e4f671cf865a7c456648709351f83a298",
        ],
        [
            "4c6c08ba43e5096494682c74fc7bdfcf7634bdc326e74b0d16cc2203016cb4d7",
            "8391fe6d992e410bd994a67afcb08e021dd96d829eb0361ee16d8e83b2b1ea2c",
        ],
        [
            "a2e5fa8a7f0e139c63095ce5b2e367544f19a6a5f43097724e29b98d1c9b009f",
            "3fb062804ac8c42f5d1b9d958be4ab550bb218fad3e075a369df03fbdeeea989",
        ],
        [
            "43eb1e44f96ead8efebb648ce4095f8d49b0fa2f972de29d20f704a227aa36cc",
            "6c07c92f5981ab3fd099f075935cce9083b847d7ea23405e5a98073b30e0a192",
        ],
        [
            "9ee1351050e95d3ed233e292baf6fe4e3ea3827ac1c1ad9566f07cbc5f70f4f8",
            "6b8fb1aa9b99570ee5c566a97ed421ffe2a3bb6ad57659625f9db899a5f488cf",
        ],
        [
            "cc54e6a05a9818835b730d89110df3d7e27a0bcccb403278eef6890a02593e02",
            "1c94f9c426843de862c0cb84610cd76dc683532d563274a0b1809cd99847abc0",
        ],
    ];
    assert_eq!(found, expected);
}
