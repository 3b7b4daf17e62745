//! Datasets at rest: rows to Arrow bytes and back, their checksum, and the whole way over the disk.
//!
//! `cargo bench --bench dataset`; what was found is in `benches/README.md`.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use bylaw::dataset::{Dataset, Provenance, SHARD_ROWS, Writer, from_batch, shard, to_batch, write_all};
use bylaw::record::{Message, Preference, Vote};
use criterion::{Criterion, Throughput, criterion_group};
use sha2::{Digest, Sha256};

const SHARDS: usize = 8;

/// Some `length` bytes of words, another text for every `seed`.
fn text(seed: usize, length: usize) -> String {
    const WORDS: [&str; 8] = [
        "answer",
        "to",
        "harmful",
        "question",
        "because",
        "a",
        "principle",
        "says",
    ];
    let mut state = seed as u64;
    let mut text = String::with_capacity(length + 10);
    while text.len() < length {
        // Knuth's MMIX generator: the high bits choose the word.
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        text.push_str(WORDS[(state >> 61) as usize]);
        text.push(' ');
    }
    text
}

/// A preference of about 1 KB of text with two votes.
fn preference(index: usize) -> Preference {
    let vote = |order: &str| Vote {
        principle_id: "no-illegal-help".into(),
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
        prompt: vec![Message::user(text(index, 100 + index % 200))],
        chosen: vec![Message::assistant(text(index + 1, 200 + index % 400))],
        rejected: vec![Message::assistant(text(index + 2, 200 + index % 400))],
        p_chosen: 0.77,
        margin: 1.2,
        weight: 1.0,
        source: "judge".into(),
        votes: vec![vote("chosen_first"), vote("rejected_first")],
        chosen_tokens: 100,
        rejected_tokens: 100,
        chosen_chars: 400,
        rejected_chars: 400,
        p_raw: 0.77,
    }
}

fn datasets(criterion: &mut Criterion) {
    let rows: Vec<Preference> = (0..SHARD_ROWS).map(preference).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = Path::new("memory");
    let mut group = criterion.benchmark_group("dataset");
    group.sample_size(10);
    group.throughput(Throughput::Elements(SHARD_ROWS as u64));
    group.bench_function("rows to columns", |b| {
        b.iter(|| {
            rows.chunks(1024)
                .map(|chunk| to_batch(chunk).unwrap().num_rows())
                .sum::<usize>()
        });
    });
    let batches: Vec<_> = rows.chunks(1024).map(|chunk| to_batch(chunk).unwrap()).collect();
    group.bench_function("columns to rows", |b| {
        b.iter(|| {
            for batch in &batches {
                black_box(from_batch::<Preference>(batch, path).unwrap());
            }
        });
    });
    let written = shard::write(dir.path(), "a.arrow", &rows).unwrap();
    let bytes = fs::read(dir.path().join("a.arrow")).unwrap();
    group.bench_function("sha256", |b| b.iter(|| Sha256::digest(&bytes)));
    group.bench_function("shard read", |b| {
        b.iter(|| shard::read::<Preference>(dir.path(), &written).unwrap());
    });
    group.bench_function("shard write", |b| {
        b.iter(|| shard::write(dir.path(), "b.arrow", &rows).unwrap());
    });
    drop(rows);
    let rows: Vec<Preference> = (0..SHARDS * SHARD_ROWS).map(preference).collect();
    group.throughput(Throughput::Elements(rows.len() as u64));
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write_all(&from, &rows, Provenance::new("bench", 1)).unwrap();
    drop(rows);
    group.bench_function("dataset read", |b| {
        b.iter(|| {
            let dataset = Dataset::<Preference>::open(&from).unwrap();
            dataset.rows().unwrap().map(Result::unwrap).count()
        });
    });
    group.bench_function("dataset read and written", |b| {
        b.iter(|| {
            let dataset = Dataset::<Preference>::open(&from).unwrap();
            let total = dataset.manifest().rows;
            let mut writer = Writer::create(&to, Provenance::new("bench", 1), Some(total)).unwrap();
            for row in dataset.rows().unwrap() {
                writer.push(&row.unwrap()).unwrap();
            }
            writer.finish().unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, datasets);

fn main() {
    // As the program does, before any other thread exists.
    bylaw::memory::keep();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
