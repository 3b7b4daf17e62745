//! What must hold whatever is in the files: no panic, no row lost, no memory that grows.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use bylaw::dataset::{Options, Provenance, read_prompts, stream, write_all};
use bylaw::record::{Preference, Prompt};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Files, golden, mapping::mapped, read, read_with, row, user};

#[test]
fn records_over_the_limit_are_rejects_with_their_beginning() {
    let files = Files::new();
    let options = Options {
        record_limit: 5000,
        ..Options::default()
    };
    let line = |length: usize| format!("{{\"prompt\": \"{}\"}}", "x".repeat(length - 14));
    let lines = [line(5000 - 1), line(5001), line(600_000), line(20)].join("\n");
    let found = read_with::<Prompt>(&files.write("a.jsonl", &lines), &options);
    assert_eq!(found.rows.len(), 2);
    assert_eq!(
        found.reasons(),
        [
            "line 2: the line has 5002 bytes, more than the limit of 5000",
            "line 3: the line has 600001 bytes, more than the limit of 5000",
        ]
    );
    assert!(found.rejects[1].raw.len() < 1100 && found.rejects[1].raw.starts_with("{\"prompt\": \"xx"));

    let list = format!("[{}, {}, {}]", line(20), line(600_000), line(4000));
    let found = read_with::<Prompt>(&files.write("a.json", list), &options);
    assert_eq!((found.rows.len(), found.rejects.len()), (2, 1));
    assert_eq!(
        found.reasons(),
        ["row 2 at line 1: the object has 600000 bytes, more than the limit of 5000"]
    );
}

#[test]
fn damaged_files_end_the_stream_with_an_error() {
    let files = Files::new();
    for name in [
        "pyarrow-zstd.parquet",
        "pyarrow.arrow",
        "pyarrow-stream.arrow",
        "pyarrow-lz4.arrow",
    ] {
        let bytes = fs::read(golden(name)).unwrap();
        let extension = name.rsplit('.').next().unwrap();
        for length in (1..bytes.len()).step_by(97) {
            let path = files.write(&format!("cut.{extension}"), &bytes[..length]);
            let end = stream::<Preference>(&path, &Options::default())
                .unwrap()
                .find_map(Result::err);
            assert!(
                end.is_some_and(|error| error.help_text().is_some()),
                "{name} cut at {length}"
            );
        }
        for position in (0..bytes.len()).step_by(13) {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x55;
            let path = files.write(&format!("flipped.{extension}"), &flipped);
            // Any end but a panic: without a checksum, text may change and still be text.
            let _ = stream::<Preference>(&path, &Options::default()).unwrap().count();
        }
    }
}

#[test]
fn what_cannot_be_meant_is_said() {
    let files = Files::new();
    let own = json!({"id": "i", "messages": user("q"), "source": "", "tags": []});
    let dir = files.0.path().join("own");
    let rows: Vec<Prompt> = vec![row(&own).unwrap()];
    write_all(&dir, &rows, Provenance::new("import", 1)).unwrap();
    let options = mapped("[columns]\nprompt = \"messages\"\n");
    for path in [dir.clone(), dir.join("data-00000-of-00001.arrow")] {
        let error = read_with::<Prompt>(path.to_str().unwrap(), &options).error.unwrap();
        assert!(
            error.to_string().contains("these are rows of bylaw (prompts)"),
            "{error}"
        );
    }
    let found = read::<Prompt>(&files.write("a.json", "{\"data\": [{\"prompt\": \"q\"}]}"));
    assert!(found.reasons()[0].ends_with("the rows seem to be inside of `data`: write them as a list of their own"));
    #[cfg(unix)]
    {
        let link = files.0.path().join("loop.jsonl");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        let error = read_prompts(link.to_str().unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("cannot read") && error.help_text().unwrap().contains("links"),
            "{error}"
        );
    }
}

fn messages() -> impl Strategy<Value = Vec<Value>> {
    let turn = |role: &'static str| any::<String>().prop_map(move |content| json!({"role": role, "content": content}));
    (prop::option::of(turn("system")), turn("user"))
        .prop_map(|(system, user)| system.into_iter().chain([user]).collect())
}

prop_compose! {
    fn pairs()(prompt in messages(), chosen in any::<String>(), rejected in any::<String>(), extra in any::<Option<i64>>())
        -> Value
    {
        json!({
            "prompt": prompt, "extra": extra,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        })
    }
}

/// The columns of [`pairs`].
fn fields() -> Vec<arrow::datatypes::FieldRef> {
    use arrow::datatypes::{DataType, Field, FieldRef, Fields};
    use std::sync::Arc;
    let text = |name| Arc::new(Field::new(name, DataType::Utf8, true));
    let turn = DataType::Struct(Fields::from(vec![text("role"), text("content")]));
    let turns = |name: &str| -> FieldRef {
        let item = Arc::new(Field::new("item", turn.clone(), true));
        Arc::new(Field::new(name, DataType::List(item), true))
    };
    vec![
        turns("prompt"),
        Arc::new(Field::new("extra", DataType::Int64, true)),
        turns("chosen"),
        turns("rejected"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Catches: a format that changes a text, a row or their order.
    #[test]
    fn every_format_gives_the_rows_of_the_objects(objects in prop::collection::vec(pairs(), 1..40), group in 1..20_usize) {
        use arrow::ipc::writer::{FileWriter, StreamWriter};
        use parquet::arrow::ArrowWriter;
        let files = Files::new();
        let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
        let expected = read::<Preference>(&files.write("a.jsonl", lines));
        let batch = serde_arrow::to_record_batch(&fields(), &objects).unwrap();
        let path = |name: &str| files.0.path().join(name);
        let create = |name: &str| fs::File::create(path(name)).unwrap();
        let mut file = FileWriter::try_new(create("file.arrow"), &batch.schema()).unwrap();
        let mut stream = StreamWriter::try_new(create("stream.arrow"), &batch.schema()).unwrap();
        let mut parquet = ArrowWriter::try_new(create("a.parquet"), batch.schema(), None).unwrap();
        for start in (0..batch.num_rows()).step_by(group) {
            let slice = batch.slice(start, group.min(batch.num_rows() - start));
            file.write(&slice).unwrap();
            stream.write(&slice).unwrap();
            parquet.write(&slice).unwrap();
            parquet.flush().unwrap();
        }
        file.finish().unwrap();
        stream.finish().unwrap();
        parquet.close().unwrap();
        files.write("a.json", serde_json::to_string_pretty(&objects).unwrap());
        for name in ["a.json", "file.arrow", "stream.arrow", "a.parquet"] {
            let found = read::<Preference>(path(name).to_str().unwrap());
            prop_assert_eq!(&found.rows, &expected.rows, "{}", name);
            prop_assert_eq!(found.rejects.len(), expected.rejects.len(), "{}", name);
        }
        prop_assert_eq!(expected.rows.len() + expected.rejects.len(), objects.len());
    }

    /// Catches: bytes that make a reader of text panic, loop, or lose count of what it read.
    #[test]
    fn no_text_makes_a_reader_panic(text in "[\\[\\]{},:\" a\\n\\\\0-9promt]{0,200}", format in 0..3_usize) {
        let files = Files::new();
        let name = ["a.jsonl", "a.json", "a.csv"][format];
        let mut stream = stream::<Prompt>(&files.write(name, text), &Options::default()).unwrap();
        let count = stream.by_ref().filter(Result::is_ok).count() as u64;
        let (rows, rejects) = stream.counts();
        prop_assert_eq!(count, rows + rejects);
    }
}

const CHILD: &str = "BYLAW_TEST_STREAM";

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs in a process of its own; see the next test.
#[test]
fn stream_a_large_file() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let before = peak();
    let stream = stream::<Preference>(path.to_str().unwrap(), &Options::default()).unwrap();
    let rows = stream.filter(|row| matches!(row, Ok(Ok(_)))).count();
    println!("rows {rows} grew {} end", peak() - before);
}

/// Writes about 90 MB of rows as lines, or as one list.
fn write_text(path: &Path, rows: usize, [open, separator, close]: [&str; 3]) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let answer = "words of an answer ".repeat(60);
    for row in 0..rows {
        let before = if row == 0 { open } else { separator };
        let object = format!("{{\"prompt\": \"{row}\", \"chosen\": \"{answer}\", \"rejected\": \"{answer}!\"}}");
        write!(file, "{before}{object}").unwrap();
    }
    write!(file, "{close}").unwrap();
    file.flush().unwrap();
}

/// Writes as much in batches of 1,000 rows; Parquet in one row group.
fn write_columns(dir: &Path, rows: usize) {
    use arrow::ipc::writer::{FileWriter, StreamWriter};
    use parquet::arrow::ArrowWriter;
    let turn = |role: &str, text: String| json!([{"role": role, "content": text}]);
    let objects: Vec<Value> = (0..1000)
        .map(|row| {
            json!({
                "prompt": turn("user", row.to_string()), "extra": row,
                "chosen": turn("assistant", format!("{row} {}", "words of an answer ".repeat(60))),
                "rejected": turn("assistant", format!("{row}! {}", "words of an answer ".repeat(60))),
            })
        })
        .collect();
    let batch = serde_arrow::to_record_batch(&fields(), &objects).unwrap();
    let create = |name: &str| fs::File::create(dir.join(name)).unwrap();
    let mut file = FileWriter::try_new(create("file.arrow"), &batch.schema()).unwrap();
    let mut stream = StreamWriter::try_new(create("stream.arrow"), &batch.schema()).unwrap();
    let mut parquet = ArrowWriter::try_new(create("a.parquet"), batch.schema(), None).unwrap();
    for _ in 0..rows / objects.len() {
        file.write(&batch).unwrap();
        stream.write(&batch).unwrap();
        parquet.write(&batch).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    parquet.close().unwrap();
}

/// Catches: a reader whose memory grows with the file.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_file() {
    const ROWS: usize = 40_000;
    let files = Files::new();
    let dir = files.0.path();
    write_text(&dir.join("a.jsonl"), ROWS, ["", "\n", "\n"]);
    write_text(&dir.join("a.json"), ROWS, ["[", ",\n", "]"]);
    write_columns(dir, ROWS);
    for name in ["a.jsonl", "a.json", "file.arrow", "stream.arrow", "a.parquet"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "robustness::stream_a_large_file", "--nocapture"])
            .env(CHILD, dir.join(name))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let figure = |after: &str| -> u64 {
            let rest = told.split(after).nth(1).unwrap_or_else(|| panic!("{told}"));
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        assert_eq!(figure("rows "), ROWS as u64);
        // What 1,024 rows take as columns and as objects, whatever the file.
        assert!(figure("grew ") < 40 << 10, "{name}: {told}");
    }
}
