//! Columns: the bytes of each kind of row, and what of other programs' encodings is read.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::record_batch::RecordBatch;
use bylaw::dataset::{Kind, Row, from_batch, shard, to_batch};
use bylaw::error::Result;
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, ReferenceLogprobs, Reject, Revision, Round,
    UnpairedPreference, Vote,
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
        principle_hash: text(number + 1),
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
        verdict: ["a", "b", "tie", "unparsed"][index % 4].into(),
        principle_hash: text(number + 1),
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

fn unpaired(index: usize) -> UnpairedPreference {
    UnpairedPreference {
        id: format!("id-{index}"),
        prompt: messages(index),
        completion: messages(index + 1),
        label: index.is_multiple_of(2),
        weight: index as f32,
    }
}

fn reference_logprobs(index: usize) -> ReferenceLogprobs {
    ReferenceLogprobs {
        id: format!("id-{index}"),
        logprobs: (0..index % 5).map(|token| -0.25 * (index + token) as f32).collect(),
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

/// Catches: a change of the bytes of a dataset. The first six are those of the files that commit
/// 26dcb87 wrote through serde_arrow, but for preferences and revisions, whose votes have a verdict since schema
/// version 2, and votes and rounds the hash of their principle since version 3; a dataset of one version must be
/// resumed and compared by the next. The readers of other programs are tried in `scripts/compare/`.
#[test]
fn the_bytes_of_each_kind_stay_as_they_were() {
    let found = [
        written(prompt),
        written(revision),
        written(candidates),
        written(preference),
        written(reject),
        written(demonstration),
        written(unpaired),
        written(reference_logprobs),
    ];
    let expected = [
        [
            "a73bd5bc0288897408d5203cb96bd0b85b99e110fa7a48db59a793fe36e8ec01",
            "89616c925f85b0c26b74153d2302687e4f671cf865a7c456648709351f83a298",
        ],
        [
            "5498f1744bda1666da94c2781827b97b082a828edbdfdf64a4fab1770d95808d",
            "6b7a966750d1776bb04cbcffe99977ebd42451cf15f1f715c29066620ad7d2a8",
        ],
        [
            "a2e5fa8a7f0e139c63095ce5b2e367544f19a6a5f43097724e29b98d1c9b009f",
            "3fb062804ac8c42f5d1b9d958be4ab550bb218fad3e075a369df03fbdeeea989",
        ],
        [
            "8b603643c7fee7fcd98f21fcfe93ce7d810bee0d26a05f5b553a072b819e5e3f",
            "7e323a6475a0ff3de62272e8d1fff8bbeebeccc62bbc50b431f6956e4d9785e7",
        ],
        [
            "9ee1351050e95d3ed233e292baf6fe4e3ea3827ac1c1ad9566f07cbc5f70f4f8",
            "6b8fb1aa9b99570ee5c566a97ed421ffe2a3bb6ad57659625f9db899a5f488cf",
        ],
        [
            "cc54e6a05a9818835b730d89110df3d7e27a0bcccb403278eef6890a02593e02",
            "1c94f9c426843de862c0cb84610cd76dc683532d563274a0b1809cd99847abc0",
        ],
        [
            "5e6cdc5c0c22e0c06de92db14510e7917a0d60b3ceca2a0e60ed3ab9c5f0d88d",
            "caf0caeeb145004eb5b0f8a8cc5d684aaba6ca3b7835845449f373590a818161",
        ],
        [
            "f149188bbecd8c57dc385a2d16754e3e5c8f542170b6f0b7a98fc82c4ca95b87",
            "d184ce543c34066b67bc4befa9b1dc0d9906d62e6c1bf8ec8369225d397f87a9",
        ],
    ];
    assert_eq!(found, expected);
}

/// The names in a JSON value, as they are in the schema of the same row.
fn names_agree(fields: &Fields, value: &serde_json::Value, place: &str) {
    let object = value.as_object().unwrap();
    let columns: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(columns, keys, "{place}");
    for field in fields {
        if let DataType::List(item) = field.data_type()
            && let DataType::Struct(fields) = item.data_type()
        {
            names_agree(fields, &object[field.name()][0], field.name());
        }
    }
}

/// Catches: a field whose column and JSON key differ, so that a row written as Arrow cannot be read
/// from JSON Lines.
#[test]
fn columns_and_json_have_the_same_names() {
    fn check<R: Row>(row: R) {
        names_agree(
            R::KIND.schema().fields(),
            &serde_json::to_value(row).unwrap(),
            R::KIND.as_str(),
        );
    }
    // Rows with an item in every list.
    check(prompt(1));
    check(revision(1));
    check(candidates(1));
    check(preference(1));
    check(reject(1));
    check(demonstration(1));
    check(unpaired(1));
    check(reference_logprobs(1));
    assert_eq!(Kind::ALL.len(), 8, "a new kind is checked here and in the test above");
}

fn read(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<Prompt>> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    from_batch(
        &RecordBatch::try_from_iter_with_nullable(columns).unwrap(),
        Path::new("x.arrow"),
    )
}

/// Catches: large or view encodings that are refused, 64-bit offsets read as others, and fields of a
/// struct taken by position.
#[test]
fn other_encodings_of_the_same_values_are_read() {
    let rows: Vec<Prompt> = (0..60).map(prompt).collect();
    let batch = to_batch(&rows).unwrap();
    let messages = batch.column(1).as_list::<i32>();
    let texts = messages.values().as_struct();
    let large = |field: Field, lists: &ListArray, values: ArrayRef| -> ArrayRef {
        let lists = ListArray::new(Arc::new(field), lists.offsets().clone(), values, None);
        let item = match lists.data_type() {
            DataType::List(item) => item.clone(),
            _ => unreachable!(),
        };
        cast(&lists, &DataType::LargeList(item)).unwrap()
    };
    let swapped: ArrayRef = Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("content", DataType::Utf8View, true)),
            cast(texts.column(1), &DataType::Utf8View).unwrap(),
        ),
        (
            Arc::new(Field::new("role", DataType::LargeUtf8, true)),
            cast(texts.column(0), &DataType::LargeUtf8).unwrap(),
        ),
    ]));
    let tags = batch.column(3).as_list::<i32>();
    let columns = vec![
        ("source", cast(batch.column(2), &DataType::Utf8View).unwrap()),
        (
            "tags",
            large(
                Field::new("element", DataType::LargeUtf8, true),
                tags,
                cast(tags.values(), &DataType::LargeUtf8).unwrap(),
            ),
        ),
        ("further", batch.column(0).clone()),
        (
            "messages",
            large(Field::new("l", swapped.data_type().clone(), true), messages, swapped),
        ),
        ("id", cast(batch.column(0), &DataType::LargeUtf8).unwrap()),
    ];
    assert_eq!(read(columns).unwrap(), rows);
}

/// Catches: offsets of a slice that are ignored.
#[test]
fn a_slice_of_a_batch_holds_its_own_rows() {
    let rows: Vec<Preference> = (0..60).map(preference).collect();
    let slice = to_batch(&rows).unwrap().slice(17, 20);
    assert_eq!(
        from_batch::<Preference>(&slice, Path::new("x.arrow")).unwrap(),
        rows[17..37]
    );
}

/// One list of `items` to each of three rows, the first of them empty.
fn lists(items: ArrayRef, nulls: Option<NullBuffer>) -> ArrayRef {
    let item = Arc::new(Field::new("item", items.data_type().clone(), true));
    Arc::new(ListArray::new(
        item,
        OffsetBuffer::from_lengths([0, 1, 1]),
        items,
        nulls,
    ))
}

/// Catches: a null at any depth that is read as an empty text, list or message, and a null that
/// nothing refers to which makes a sound file unreadable.
#[test]
fn nulls_are_named_by_their_path() {
    let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let two = || texts(vec![Some("a"), Some("b")]);
    let fields = || {
        Fields::from(vec![
            Field::new("role", DataType::Utf8, true),
            Field::new("content", DataType::Utf8, true),
        ])
    };
    let structs = |content: ArrayRef, nulls: Option<NullBuffer>| {
        Arc::new(StructArray::new(fields(), vec![two(), content], nulls)) as ArrayRef
    };
    let null = |bits: &[bool]| Some(NullBuffer::from(bits));
    let sound = || lists(structs(two(), None), None);
    let three = || texts(vec![Some("x"); 3]);
    for (messages, tags, path, row) in [
        (
            lists(structs(two(), None), null(&[true, false, true])),
            lists(two(), None),
            "messages",
            2,
        ),
        (
            lists(structs(two(), null(&[true, false])), None),
            lists(two(), None),
            "messages[]",
            3,
        ),
        (
            lists(structs(texts(vec![None, Some("b")]), None), None),
            lists(two(), None),
            "messages[].content",
            2,
        ),
        (sound(), lists(texts(vec![Some("a"), None]), None), "tags[]", 3),
    ] {
        let columns = vec![
            ("id", three()),
            ("messages", messages),
            ("source", three()),
            ("tags", tags),
        ];
        assert_eq!(
            read(columns).unwrap_err().to_string(),
            format!("x.arrow: cannot be read as prompts: `{path}` is null in row {row} of its record batch")
        );
    }
    let unused = Arc::new(ListArray::new(
        Arc::new(Field::new("item", DataType::Utf8, true)),
        OffsetBuffer::new(vec![1, 1, 1, 2].into()),
        texts(vec![None, Some("b"), None]),
        None,
    ));
    let columns = vec![
        ("id", three()),
        ("messages", sound()),
        ("source", three()),
        ("tags", unused as ArrayRef),
    ];
    assert_eq!(read(columns).unwrap()[2].tags, ["b"]);

    let batch = to_batch(&[revision(1)]).unwrap();
    let unknown = RecordBatch::try_from_iter_with_nullable(
        batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| match field.name().as_str() {
                "final_tokens" => ("final_tokens", arrow::array::new_null_array(&DataType::UInt32, 1), true),
                name => (name, column.clone(), true),
            })
            .collect::<Vec<_>>(),
    )
    .unwrap();
    let error = from_batch::<Revision>(&unknown, Path::new("x.arrow")).unwrap_err();
    assert!(error.to_string().contains("`final_tokens` is null in row 1"), "{error}");
}
