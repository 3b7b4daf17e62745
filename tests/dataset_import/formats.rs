//! The formats: the same rows from the files of pyarrow, polars and datasets, and from each text format.

use std::fs;

use bylaw::dataset::{Form, Kind, Options, read_demonstrations, read_preferences, read_prompts, stream};
use bylaw::record::{Demonstration, Preference, Prompt, UnpairedPreference};
use serde_json::Value;

use super::{Files, golden, read, read_with, row};

fn golden_rows() -> Vec<Preference> {
    let objects: Vec<Value> = serde_json::from_str(&fs::read_to_string(golden("rows.json")).unwrap()).unwrap();
    objects.iter().map(|object| row(object).unwrap()).collect()
}

/// Catches: a codec, an encoding or a batch that a reader of ours does not get right.
#[test]
fn files_of_pyarrow_polars_and_datasets_hold_the_same_rows() {
    let expected = golden_rows();
    for name in [
        "rows.json",
        "pyarrow-none.parquet",
        "pyarrow-snappy.parquet",
        "pyarrow-gzip.parquet",
        "pyarrow-zstd.parquet",
        "pyarrow-brotli.parquet",
        "pyarrow-lz4.parquet",
        "pyarrow-groups.parquet",
        "pyarrow.arrow",
        "pyarrow-lz4.arrow",
        "pyarrow-zstd.arrow",
        "pyarrow-stream.arrow",
        "pyarrow.feather",
        "polars.parquet",
        "polars.arrow",
        "polars-zstd.arrow",
        "datasets.parquet",
        "datasets.jsonl",
        "saved",
    ] {
        let read = read::<Preference>(&golden(name));
        assert!(
            read.error.is_none() && read.rejects.is_empty(),
            "{name}: {:?}",
            read.error
        );
        assert_eq!(read.rows, expected, "{name}");
        let position = read.stream.position();
        assert_eq!(position.bytes, position.total, "{name}");
        let found = &read.stream.detected().forms;
        assert_eq!(
            (found.len(), found[0].form, found[0].rows),
            (1, Form::PromptPair, 3),
            "{name}"
        );
    }
    // CSV holds texts only.
    let csv = read_preferences(&golden("datasets.csv")).unwrap();
    for (row, expected) in csv.rows.iter().zip(&expected) {
        assert_eq!((&row.chosen, &row.rejected), (&expected.chosen, &expected.rejected));
        assert_eq!(row.prompt.last(), expected.prompt.last());
    }
    assert_eq!(csv.rows.len(), 3);
}

/// Catches: a hash that is not that of the file, which provenance would then record.
#[test]
fn every_format_is_hashed_as_sha256sum_does() {
    use sha2::{Digest, Sha256};
    for name in [
        "rows.json",
        "pyarrow-zstd.parquet",
        "pyarrow.arrow",
        "pyarrow-stream.arrow",
        "datasets.jsonl",
        "datasets.csv",
    ] {
        let hash: String = Sha256::digest(fs::read(golden(name)).unwrap())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            read::<Preference>(&golden(name)).stream.sha256(),
            Some(hash.as_str()),
            "{name}"
        );
    }
}

/// Catches: a column type that makes a row unreadable, or that comes out as another value.
#[test]
fn every_arrow_type_becomes_a_json_value() {
    let expected: Value = serde_json::from_str(&fs::read_to_string(golden("types.json")).unwrap()).unwrap();
    for (name, arrow_only) in [("types.arrow", true), ("types.parquet", false)] {
        // No form has these columns: the rejects say what was read.
        let read = read::<Prompt>(&golden(name));
        assert_eq!(read.rejects.len(), 2, "{name}: {:?}", read.error);
        for (index, reject) in read.rejects.iter().enumerate() {
            let mut wanted = expected["rows"][index].as_object().unwrap().clone();
            if arrow_only {
                wanted.extend(expected["arrow_only"][index].as_object().unwrap().clone());
            }
            let found: Value = serde_json::from_str(&reject.raw).unwrap();
            for (key, value) in &wanted {
                assert_eq!(&found[key], value, "{name}: {key} of row {index}");
            }
            assert_eq!(found.as_object().unwrap().len(), wanted.len());
        }
    }
}

/// Catches: an image beside the texts that makes the row unreadable.
#[test]
fn columns_that_are_not_read_do_no_harm_and_are_named_once() {
    let read = read::<Preference>(&golden("wide.parquet"));
    assert_eq!((read.rows.len(), read.rejects.len()), (1, 0));
    assert_eq!(read.stream.detected().unused, ["image", "topic", "meta"]);
    assert_eq!(
        read.stream.detected().to_string(),
        "TRL preferences (prompt, chosen, rejected), 1 row"
    );
}

/// Catches: a list read whole or by lines, objects lost at borders, a bad element that ends the reading.
#[test]
fn json_is_read_an_object_at_a_time() {
    let files = Files::new();
    let text =
        "\u{feff} [\n{\"prompt\": \"a]}\\\"\"},\n 7, {\"prompt\":\n  tru}, {\"prompt\": NaN}\n,{\"prompt\": \"b\"}]\n";
    let found = read::<Prompt>(&files.write("a.json", text));
    let texts: Vec<&str> = found.rows.iter().map(|row| row.messages[0].content.as_str()).collect();
    assert_eq!(texts, ["a]}\"", "b"]);
    assert_eq!(
        found.reasons(),
        [
            "row 2 at line 3: expected a JSON object, found a number",
            "row 3 at line 3: not valid JSON: expected ident at line 4 column 6",
            "row 4 at line 4: not valid JSON: expected value at line 4 column 20: NaN is not a number of JSON",
        ]
    );
    assert_eq!(found.rejects[0].raw, "7");

    // Objects one after the other, over several lines.
    let found = read::<Prompt>(&files.write(
        "b.json",
        "{\"prompt\":\n\"a\"}\n\n{\"prompt\": \"b\"}{\"prompt\": \"c\"}",
    ));
    assert_eq!((found.rows.len(), found.rejects.len()), (3, 0));

    let found = read::<Prompt>(&files.write("c.json", "[{\"prompt\": \"a\"}, {\"prompt\": \"b"));
    assert_eq!(found.rows.len(), 1);
    assert!(
        found.reasons()[0].starts_with("row 2 at line 1: not valid JSON: EOF"),
        "{:?}",
        found.reasons()
    );
    assert_eq!(
        found.reasons()[1],
        "row 3 at line 1: the file ends before its list does: it was cut short"
    );

    let found = read::<Prompt>(&files.write("d.json", "[{\"prompt\": \"a\"}] {\"prompt\": \"b\"}"));
    assert_eq!(found.reasons(), ["row 2 at line 1: stands behind the end of the list"]);

    for (text, reason) in [("[]", "is empty"), ("", "is empty"), ("prompt\n", "it begins with 'p'")] {
        let error = read::<Prompt>(&files.write("e.json", text)).error.unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// Catches: a cell that stands for a list or a number read as text, quotes and line breaks in cells.
#[test]
fn csv_cells_are_read_as_what_they_stand_for() {
    let files = Files::new();
    let text = "\u{feff}prompt,chosen,rejected,score_chosen,score_rejected,note\r\n\
                \"q, \"\"r\"\"\n2\",a,b,3,2.5,\r\n\
                \"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"q\"\"}]\",a,b,,,x\r\n\
                [1],a,b,nan,1,\r\n";
    let found = read::<Preference>(&files.write("a.csv", text));
    let asked: Vec<&str> = found.rows.iter().map(|row| row.prompt[0].content.as_str()).collect();
    assert_eq!(asked, ["q, \"r\"\n2", "q"]);
    assert_eq!(
        found.reasons(),
        ["row 3 at line 5: `score_chosen` is NaN, expected a finite number"]
    );
    assert_eq!(found.stream.detected().unused, ["note"]);

    let tsv = "prompt\tcompletion\tlabel\na\tb\tTrue\nc\td\t0\n";
    let found = read::<UnpairedPreference>(&files.write("a.tsv", tsv));
    assert_eq!(
        found.rows.iter().map(|row| row.label).collect::<Vec<_>>(),
        [true, false]
    );

    let lists = "instruction,generations,ratings\nq,\"[\"\"a\"\",\"\"b\"\"]\",\"[1,2]\"\n";
    assert_eq!(read_preferences(&files.write("b.csv", lists)).unwrap().rows.len(), 1);
}

/// Catches: rows that vanish into a cell behind an open quote, or shift by a missing one.
#[test]
fn bad_csv_records_are_rejects_with_their_line() {
    let files = Files::new();
    let text = b"prompt,note\na,1\nb\nc,1,2\n\xff,1\nd,\"open\ne,1\nf,1\n";
    let found = read::<Prompt>(&files.write("a.csv", text));
    assert_eq!(found.rows.len(), 1);
    assert_eq!(
        found.reasons(),
        [
            "row 2 at line 3: has 1 cell, the header has 2",
            "row 3 at line 4: has 3 cells, the header has 2",
            "row 4 at line 5: the column `prompt` is not UTF-8 at byte 1",
            "row 5 at line 6: a quote is left open: it takes the rest of the file into one cell",
        ]
    );
    // A quote inside of a bare cell is a quote, at the end of the file too.
    assert_eq!(
        read::<Prompt>(&files.write("b.csv", "prompt,note\n5\" nail,x\n"))
            .rows
            .len(),
        1
    );

    for (text, reason) in [
        ("", "is empty"),
        ("prompt\n", "is empty"),
        ("prompt,prompt\na,b\n", "two columns are named `prompt`"),
        ("prompt;note\na;b\n", "the header has one column, \"prompt;note\""),
    ] {
        let mut stream = stream::<Prompt>(&files.write("c.csv", text), &Options::default()).unwrap();
        let error = stream.next().unwrap().unwrap_err();
        assert!(
            error.to_string().contains(reason) && error.help_text().is_some(),
            "{error}"
        );
    }
    let limit = Options {
        record_limit: 1000,
        ..Options::default()
    };
    let long = format!("prompt\na\n\"{}", "x\n".repeat(400_000));
    let found = read_with::<Prompt>(&files.write("d.csv", long), &limit);
    let error = found.error.unwrap().to_string();
    assert!(
        error.contains("the record at line 3 is longer than the limit of 1000 bytes"),
        "{error}"
    );
}

/// Catches: a line of any length read into memory, or one that takes the next lines with it.
/// Catches: a damaged file that panics, allocates by its lengths, or passes for a shorter one.
#[test]
fn a_directory_reads_its_data_and_not_what_describes_it() {
    let files = Files::new();
    files.write("dataset_info.json", "{\"version\": 1}");
    files.write("config.json", "{\"version\": 1}");
    files.write("a.csv", "prompt\na\n");
    files.write("b.ndjson", "{\"prompt\": \"b\"}");
    let dir = files.0.path().to_str().unwrap();
    let found = read::<Prompt>(dir);
    assert_eq!((found.rows.len(), found.rejects.len()), (2, 0));
    let only = Files::new();
    only.write("dataset_info.json", "{\"version\": 1}");
    only.write("alpaca.json", "[{\"instruction\": \"i\", \"output\": \"o\"}]");
    assert_eq!(
        read_demonstrations(only.0.path().to_str().unwrap()).unwrap().rows.len(),
        1
    );
    let nested = Files::new();
    fs::create_dir(nested.0.path().join("train")).unwrap();
    let error = read_prompts(nested.0.path().to_str().unwrap()).unwrap_err();
    assert!(error.help_text().unwrap().contains("train"), "{:?}", error.help_text());
}

/// Catches: a mapping that is silently without effect, rows inside of another object taken for nothing.
/// Catches: a mixture read as if all rows had the first one's form.
#[test]
fn the_forms_of_a_mixture_are_counted() {
    let files = Files::new();
    let lines = "{\"instruction\": \"i\", \"output\": \"o\", \"input\": \"x\", \"id\": 1}\n{\"text\": \"t\"}\n\
                 {\"instruction\": \"i\", \"output\": \"o\", \"id\": 2}\n{}\n";
    let found = read::<Demonstration>(&files.write("a.jsonl", lines));
    let detected = found.stream.detected();
    assert_eq!(
        detected.to_string(),
        "Alpaca instructions (instruction, output, input), 2 rows; TRL texts (text), 1 row"
    );
    assert_eq!(detected.unused, ["id"]);
    assert_eq!(
        (found.stream.counts(), detected.kind()),
        ((3, 1), Some(Kind::Demonstrations))
    );
}
