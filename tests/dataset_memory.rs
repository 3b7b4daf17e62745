//! The memory of reading and writing does not grow with the rows.
//!
//! Figures of more rows: `BYLAW_ROWS=1000000 cargo test --release --test dataset_memory -- --ignored --nocapture`.

#![cfg(target_os = "linux")]

use std::process::Command;

use bylaw::dataset::{Dataset, Provenance, Writer};
use bylaw::record::{Message, Preference, Vote};

const ROWS: &str = "BYLAW_ROWS";

fn preference(index: usize) -> Preference {
    let vote = |order: &str| Vote {
        principle_id: "harmless".into(),
        order: order.into(),
        logprob_a: -0.25,
        logprob_b: -1.5,
        p_a: 0.77,
        cot: None,
        verdict: "a".into(),
        principle_hash: "0123456789abcdef".into(),
    };
    Preference {
        id: format!("{index:032x}"),
        prompt: vec![Message::user(format!("question {index} ").repeat(8))],
        chosen: vec![Message::assistant(format!("better {index} ").repeat(8))],
        rejected: vec![Message::assistant(format!("worse {index} ").repeat(8))],
        p_chosen: 0.77,
        margin: 1.2,
        weight: 1.0,
        source: "judge".into(),
        votes: vec![vote("chosen_first"), vote("rejected_first")],
        chosen_tokens: 30,
        rejected_tokens: 30,
        chosen_chars: 120,
        rejected_chars: 120,
        p_raw: 0.77,
    }
}

/// The most memory that this process has held, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Writes the rows, then reads them into a second dataset; the number of rows is not told.
#[test]
#[ignore = "run by the test below in a process of its own"]
fn cycle() {
    let count: usize = std::env::var(ROWS).unwrap().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let mut writer = Writer::create(&from, Provenance::new("test", 1), None).unwrap();
    for index in 0..count {
        writer.push(&preference(index)).unwrap();
    }
    let first = writer.finish().unwrap();
    let mut writer = Writer::create(&to, Provenance::new("test", 1), None).unwrap();
    for row in Dataset::<Preference>::open(&from).unwrap().rows().unwrap() {
        writer.push(&row.unwrap()).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), first);
    println!("peak of {count} rows: {} KiB", peak());
}

fn peak_of(rows: usize) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cycle", "--ignored", "--nocapture"])
        .env(ROWS, rows.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let marker = format!("peak of {rows} rows: ");
    let peak = text.split_once(&marker).unwrap().1.split_once(" KiB").unwrap().0;
    println!("{marker}{peak} KiB");
    peak.parse().unwrap()
}

/// Catches: rows, columns or shards that are kept after they were written, or read ahead without a
/// bound. Six times the rows may take the room of a few shards more (4 MB each); kept rows would
/// take 125 MB. (Ten thousand rows fill two shards, and not every stage: 18 MB.)
#[test]
fn memory_is_flat_in_the_number_of_rows() {
    let (few, many) = (peak_of(50_000), peak_of(300_000));
    assert!(
        many < few + 32 * 1024,
        "{few} KiB for 50,000 rows, {many} KiB for 300,000"
    );
}
