//! The file of events beside `metrics.jsonl`, read with a reader written from the format's specification: TFRecord
//! frames (tensorflow/core/lib/io/record_reader.h) around `Event` messages (core/util/event.proto). With TensorBoard's
//! own reader: `scripts/compare/read_events.py`.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use program::{succeeds, temp, write};
use serde_json::{Map, Value};

const EVENTS: &str = "events.out.tfevents.0.bylaw";

/// CRC-32C with a table, the other way round than the program has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| {
            (0..8).fold(byte, |crc, _| {
                if crc & 1 == 1 {
                    0x82f6_3b78 ^ (crc >> 1)
                } else {
                    crc >> 1
                }
            })
        })
        .collect();
    let update = |crc: u32, byte: &u8| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    bytes.iter().fold(u32::MAX, update) ^ u32::MAX
}

fn masked(bytes: &[u8]) -> u32 {
    let crc = crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

fn records(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = take(&mut rest, 8);
        assert_eq!(u32_of(take(&mut rest, 4)), masked(length), "the checksum of a length");
        let data = take(&mut rest, u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(u32_of(take(&mut rest, 4)), masked(data), "the checksum of a record");
        records.push(data);
    }
    records
}

#[derive(Debug, Clone, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Fixed64(f64),
    Bytes(&'a [u8]),
    Fixed32(f32),
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a number without an end")
}

/// The fields of a message in their order.
fn fields(mut rest: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut rest)),
            1 => Field::Fixed64(f64::from_le_bytes(take(&mut rest, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut rest) as usize;
                Field::Bytes(take(&mut rest, length))
            }
            5 => Field::Fixed32(f32::from_bits(u32_of(take(&mut rest, 4)))),
            wire => panic!("wire type {wire}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

#[derive(Debug)]
struct Event {
    step: u64,
    scalars: Vec<(String, f32)>,
}

fn events(dir: &Path) -> Vec<Event> {
    let bytes = fs::read(dir.join(EVENTS)).unwrap();
    let records = records(&bytes);
    assert_eq!(
        fields(records[0]),
        [(1, Field::Fixed64(0.0)), (3, Field::Bytes(b"brain.Event:2"))]
    );
    records[1..].iter().map(|record| event(record)).collect()
}

fn event(record: &[u8]) -> Event {
    let [
        (1, Field::Fixed64(time)),
        (2, Field::Varint(step)),
        (5, Field::Bytes(summary)),
    ] = fields(record)[..]
    else {
        panic!("not the event of a step: {:?}", fields(record));
    };
    assert_eq!(time, step as f64, "the time of an event is its step");
    let scalar = |value: &[u8]| match fields(value)[..] {
        [(1, Field::Bytes(tag)), (2, Field::Fixed32(value))] => (String::from_utf8(tag.to_vec()).unwrap(), value),
        _ => panic!("not a scalar"),
    };
    let values = fields(summary).into_iter().map(|field| match field {
        (1, Field::Bytes(value)) => scalar(value),
        other => panic!("not a value: {other:?}"),
    });
    let scalars = values.collect();
    Event { step, scalars }
}

fn lines(dir: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DEMONSTRATIONS: &str = r#"{"id": "bread", "prompt": "How do I bake bread?", "completion": "Mix flour and water."}
{"id": "sea", "prompt": "Tell me of the sea.", "completion": "It is wide and deep."}
{"id": "poem", "prompt": "What is a poem?", "completion": "A text in verse."}
"#;

/// Catches: a wrong checksum, wire type or field number; a figure left out, under another tag, of another step or of
/// another line; events that are not those of transformers (`train/loss`, steps from 1).
#[test]
fn events_say_what_the_log_says() {
    let dir = temp();
    write(dir.path(), "rows.jsonl", DEMONSTRATIONS);
    let train = |out: &str, flags: &[&str]| {
        let fixed = [
            "train",
            "sft",
            "--model",
            "builtin:tiny",
            "--data",
            "rows.jsonl",
            "--batch-size",
            "1",
            "--epochs",
        ];
        succeeds(
            dir.path(),
            &[&fixed[..], &["50", "--learning-rate", "1e-4", "--out", out], flags].concat(),
        );
        dir.path().join(out)
    };
    let plain = train("plain", &[]);
    assert!(!plain.join(EVENTS).exists(), "nobody asked for them");
    let out = train("out", &["--tensorboard"]);
    let (events, lines) = (events(&out), lines(&out));
    // More than 127 steps: numbers of more than one byte.
    assert_eq!((events.len(), lines.len()), (150, 150));
    for (index, (event, line)) in events.iter().zip(&lines).enumerate() {
        assert_eq!(event.step, index as u64 + 1);
        assert_eq!(line["step"].as_u64(), Some(index as u64));
        let expected = line.iter().filter(|(name, _)| *name != "step");
        let expected: Vec<(String, f32)> = expected
            .map(|(name, value)| (format!("train/{name}"), value.as_f64().unwrap() as f32))
            .collect();
        assert_eq!(event.scalars, expected, "step {index}");
    }
    let tags: Vec<&str> = events[0].scalars.iter().map(|(tag, _)| tag.as_str()).collect();
    for tag in [
        "train/loss",
        "train/grad_norm",
        "train/learning_rate",
        "train/num_tokens",
        "train/mean_token_accuracy",
        "train/entropy",
        "train/epoch",
    ] {
        assert!(tags.contains(&tag), "{tag} is not among {tags:?}");
    }
    assert_eq!(
        events[149]
            .scalars
            .iter()
            .find(|(tag, _)| tag == "train/epoch")
            .unwrap()
            .1,
        50.0
    );
    // The figures are the same without them, and nothing is left behind.
    assert_eq!(
        fs::read(plain.join("metrics.jsonl")).unwrap(),
        fs::read(out.join("metrics.jsonl")).unwrap()
    );
}
