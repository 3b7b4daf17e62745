//! Files that cannot be read: of another format, damaged, endless, or no files at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use bylaw::dataset::to_batch;
use bylaw::record::{Message, Prompt};
use parquet::arrow::ArrowWriter;

use super::case::{Case, case};

const PROMPT: &str = "{\"prompt\": \"How do I bake bread?\"}\n";

fn rows() -> RecordBatch {
    let row = |index: usize| Prompt {
        id: format!("{index:032x}"),
        messages: vec![Message::user("How do I bake bread?")],
        source: "test".into(),
        tags: Vec::new(),
    };
    to_batch(&(0..64).map(row).collect::<Vec<_>>()).unwrap()
}

fn arrow_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn arrow() -> Vec<u8> {
    arrow_of(&rows())
}

fn arrow_stream() -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows().schema()).unwrap();
    writer.write(&rows()).unwrap();
    writer.into_inner().unwrap()
}

fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn parquet() -> Vec<u8> {
    parquet_of(&rows())
}

fn column(name: &str, column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([(name, column)]).unwrap()
}

/// `bytes` with those at `at` replaced; counted from the end where `at` is negative.
fn patched(mut bytes: Vec<u8>, at: isize, by: &[u8]) -> Vec<u8> {
    let start = if at < 0 {
        bytes.len().strict_add_signed(at)
    } else {
        at as usize
    };
    bytes[start..start + by.len()].copy_from_slice(by);
    bytes
}

/// A case of one file that is looked at.
fn file(name: &'static str, file: &'static str, code: i32, contents: impl AsRef<[u8]>) -> Case {
    case(name, format!("data inspect {file}"), code).file(file, contents)
}

pub fn cases() -> Vec<Case> {
    let mut cases = text();
    cases.extend(long());
    cases.extend(arrow_files());
    cases.extend(parquet_files());
    cases.extend(paths());
    cases.extend(of_commands());
    cases
}

fn text() -> Vec<Case> {
    vec![
        file("an empty file", "rows.jsonl", 3, ""),
        file("blank lines only", "rows.jsonl", 3, "\n \n\n"),
        file("a byte-order mark only", "rows.jsonl", 3, b"\xef\xbb\xbf"),
        case(
            "a byte-order mark and Windows' line ends are read",
            "data mix --data rows.jsonl --rows 2 --out out",
            0,
        )
        .file(
            "rows.jsonl",
            b"\xef\xbb\xbf{\"prompt\": \"a\"}\r\n{\"prompt\": \"b\"}\r\n",
        ),
        file(
            "UTF-16",
            "rows.jsonl",
            3,
            b"\xff\xfe{\0\"\0p\0\"\0:\0\"\0q\0\"\0}\0\n\0",
        ),
        file(
            "nothing but bad rows",
            "rows.jsonl",
            3,
            "{\"question\": 1}\n{\"question\": 2}\n",
        ),
        file(
            "a JSON object that holds the rows",
            "rows.json",
            3,
            "{\"version\": 1, \"data\": [{\"prompt\": \"q\"}]}",
        ),
        file("a JSON text", "rows.json", 3, "\"How do I bake bread?\""),
        file("a JSON list of texts", "rows.json", 3, "[\"one\", \"two\"]"),
        file("an empty JSON list", "rows.json", 3, "[]"),
        case(
            "a JSON list that is cut short",
            "data mix --data rows.json --rows 1 --out out",
            0,
        )
        .file("rows.json", "[{\"prompt\": \"a\"}, {\"prompt\": \"b\"")
        .rejects(),
        case(
            "text behind a JSON list",
            "data mix --data rows.json --rows 1 --out out",
            0,
        )
        .file("rows.json", "[{\"prompt\": \"a\"}] {\"prompt\": \"b\"}")
        .rejects(),
        file("a JSON file, nested 100,000 deep", "rows.json", 3, "[".repeat(100_000)),
        file("CSV with a header only", "rows.csv", 3, "prompt\n"),
        file(
            "CSV with a column that is there twice",
            "rows.csv",
            3,
            "prompt,prompt\na,b\n",
        ),
        file("CSV with a column without a name", "rows.csv", 3, "prompt,\na,b\n"),
        file(
            "CSV with another delimiter",
            "rows.csv",
            3,
            "prompt;chosen;rejected\nq;a;b\n",
        ),
        file(
            "CSV with a header that is not UTF-8",
            "rows.csv",
            3,
            b"prompt,gr\xf6\xdfe\na,b\n",
        ),
        file("an unknown extension", "rows.txt", 3, PROMPT),
        file("no extension", "rows", 3, PROMPT),
        file("a compressed file", "rows.jsonl.gz", 3, b"\x1f\x8b\x08\0"),
        file(
            "a compressed file that is not called so",
            "rows.jsonl",
            3,
            b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\n\xe7",
        ),
    ]
}

/// A file of `head`, and then so many of `byte`, written without being held.
fn stretched(dir: &Path, name: &str, head: &str, byte: u8, count: usize, tail: &str) {
    let mut file = BufWriter::new(File::create(dir.join(name)).unwrap());
    let block = vec![byte; 1 << 20];
    file.write_all(head.as_bytes()).unwrap();
    (0..count >> 20).for_each(|_| file.write_all(&block).unwrap());
    file.write_all(tail.as_bytes()).unwrap();
    file.flush().unwrap();
}

/// Records that are longer than any text.
fn long() -> Vec<Case> {
    let mix = |name, file: &str| {
        case(
            name,
            format!("data mix --data {file} --as prompts --rows 1 --out out"),
            0,
        )
        .rejects()
    };
    vec![
        mix("a line of 100 MB", "rows.jsonl").given(|dir| {
            stretched(
                dir,
                "rows.jsonl",
                &format!("{PROMPT}{{\"prompt\": \""),
                b'a',
                100 << 20,
                "\"}\n",
            );
        }),
        mix("a line of 60 MB that is not JSON", "rows.jsonl").given(|dir| {
            stretched(dir, "rows.jsonl", PROMPT, b'a', 60 << 20, "\n");
        }),
        mix("a JSON object of 100 MB", "rows.json").given(|dir| {
            stretched(
                dir,
                "rows.json",
                &format!("[{PROMPT}, {{\"prompt\": \""),
                b'a',
                100 << 20,
                "\"}]",
            );
        }),
        case("a file of 200 MB of nothing", "data inspect rows.jsonl --as prompts", 3).given(|dir| {
            // Sparse: it takes no room.
            File::create(dir.join("rows.jsonl"))
                .unwrap()
                .set_len(200 << 20)
                .unwrap();
        }),
        case("a CSV cell of 100 MB", "data inspect rows.csv --as prompts", 3).given(|dir| {
            stretched(dir, "rows.csv", "prompt\nWhy?\n\"", b'a', 100 << 20, "\"\n");
        }),
    ]
}

fn arrow_files() -> Vec<Case> {
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let footer = {
        let bytes = arrow();
        let length = i32::from_le_bytes(bytes[bytes.len() - 10..bytes.len() - 6].try_into().unwrap());
        -(10 + length as isize)
    };
    // Behind the mark of the file, filled up to 64 bytes, and the message of the schema.
    let first_block = 72 + i32::from_le_bytes(arrow()[68..72].try_into().unwrap()) as isize;
    let marks = [("blocks", first_block + 16), ("footer", footer + 4)];
    let mut cases = vec![
        file("an empty Arrow file", "rows.arrow", 3, ""),
        file("an Arrow file that is cut short", "rows.arrow", 3, half(arrow())),
        file("an Arrow file of nothing but its mark", "rows.arrow", 3, b"ARROW1\0\0"),
        file(
            "an Arrow stream that is cut short",
            "rows.arrow",
            3,
            half(arrow_stream()),
        ),
        file(
            "an Arrow stream with a length of 2 GiB",
            "rows.arrow",
            3,
            patched(arrow_stream(), 4, &0x7fff_fff8_u32.to_le_bytes()),
        ),
        file(
            "an Arrow file with a footer of 2 GiB",
            "rows.arrow",
            3,
            patched(arrow(), -10, &0x7fff_fff0_u32.to_le_bytes()),
        ),
        file(
            "an Arrow file with a negative footer",
            "rows.arrow",
            3,
            patched(arrow(), -10, &(-1_i32).to_le_bytes()),
        ),
        file("Parquet that is called Arrow", "rows.arrow", 3, parquet()),
        file("text that is called Arrow", "rows.arrow", 3, PROMPT),
        file(
            "an Arrow file of other columns",
            "rows.arrow",
            3,
            arrow_of(&column("temperature", Arc::new(Int64Array::from(vec![1, 2])))),
        ),
        file(
            "an Arrow file of numbers for texts",
            "rows.arrow",
            3,
            arrow_of(&column("prompt", Arc::new(Int64Array::from(vec![1, 2])))),
        ),
        file(
            "an Arrow file of nulls",
            "rows.arrow",
            3,
            arrow_of(&column("prompt", Arc::new(StringArray::from(vec![None::<&str>, None])))),
        ),
    ];
    for (part, at) in marks {
        let name = match part {
            "blocks" => "an Arrow file with flipped bits in its blocks",
            _ => "an Arrow file with flipped bits in its footer",
        };
        cases.push(file(name, "rows.arrow", 3, patched(arrow(), at, &[0xff; 24])));
    }
    cases
}

fn parquet_files() -> Vec<Case> {
    let bytes = parquet();
    let footer = {
        let length = i32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap());
        -(8 + length as isize)
    };
    let map = {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("text");
        map.values().append_value("q");
        map.append(true).unwrap();
        map.finish()
    };
    vec![
        file("an empty Parquet file", "rows.parquet", 3, ""),
        file(
            "a Parquet file that is cut short",
            "rows.parquet",
            3,
            &bytes[..bytes.len() / 2],
        ),
        file(
            "a Parquet file with flipped bits in its pages",
            "rows.parquet",
            3,
            patched(parquet(), 20, &[0xff; 40]),
        ),
        file(
            "a Parquet file with flipped bits in its footer",
            "rows.parquet",
            3,
            patched(parquet(), footer + 4, &[0xff; 24]),
        ),
        file(
            "a Parquet file with a footer of 2 GiB",
            "rows.parquet",
            3,
            patched(parquet(), -8, &0x7fff_fff0_u32.to_le_bytes()),
        ),
        file(
            "an encrypted Parquet file",
            "rows.parquet",
            3,
            patched(parquet(), -4, b"PARE"),
        ),
        file("Arrow that is called Parquet", "rows.parquet", 3, arrow()),
        file(
            "Parquet with a map for a prompt",
            "rows.parquet",
            3,
            parquet_of(&column("prompt", Arc::new(map))),
        ),
        file(
            "Parquet without rows",
            "rows.parquet",
            3,
            parquet_of(&rows().slice(0, 0)),
        ),
    ]
}

/// Things that are no files of data.
fn paths() -> Vec<Case> {
    let inspect = |name, path: &str| case(name, format!("data inspect {path}"), 3);
    vec![
        inspect("nothing there", "rows.jsonl"),
        inspect("nothing there, under a link", "rows.jsonl").link("rows.jsonl", "elsewhere.jsonl"),
        inspect("a link that leads to itself", "rows.jsonl").link("rows.jsonl", "rows.jsonl"),
        inspect("two links that lead to each other", "a/rows.jsonl")
            .link("a", "b")
            .link("b", "a"),
        inspect("a file for a directory", "rows.jsonl/part.jsonl").file("rows.jsonl", PROMPT),
        inspect("a directory that is called as a file", "rows.jsonl").file("rows.jsonl/notes.txt", "x"),
        inspect("a directory without data", "data")
            .file("data/notes.txt", "x")
            .file("data/.hidden.jsonl", PROMPT),
        inspect("a directory of directories", "data")
            .file("data/train/a.jsonl", PROMPT)
            .file("data/test/a.jsonl", PROMPT),
        inspect("a directory of files of which one is empty", "data")
            .file("data/a.jsonl", PROMPT)
            .file("data/b.jsonl", ""),
        inspect("a pattern that nothing matches", "*.parquet").file("rows.jsonl", PROMPT),
        case("a pattern in the wrong place", "data inspect */rows.jsonl", 2).file("data/rows.jsonl", PROMPT),
        inspect("a name that is longer than names can be", &"a".repeat(300)),
        inspect("no name", "./"),
        inspect("a device without end", "/dev/zero"),
        inspect("a device without contents", "/dev/null"),
        inspect("a device that is called as a file", "rows.jsonl").link("rows.jsonl", "/dev/zero"),
        inspect("a pipe", "rows.jsonl").given(|dir| {
            assert!(
                Command::new("mkfifo")
                    .arg(dir.join("rows.jsonl"))
                    .status()
                    .unwrap()
                    .success()
            );
        }),
        inspect("a pipe in a directory", "data")
            .file("data/notes.txt", "x")
            .given(|dir| {
                assert!(
                    Command::new("mkfifo")
                        .arg(dir.join("data/rows.jsonl"))
                        .status()
                        .unwrap()
                        .success()
                );
            }),
        inspect("an address", "https://example.com/rows.jsonl"),
        case("a file for `data validate`", "data validate rows.jsonl", 3).file("rows.jsonl", PROMPT),
        case("a directory without datasets for `data validate`", "data validate .", 3).file("rows.jsonl", PROMPT),
        case("links in a circle below `data validate`", "data validate data", 3)
            .file("data/a/notes.txt", "x")
            .given(|dir| std::os::unix::fs::symlink("..", dir.join("data/a/up")).unwrap())
            .given(|dir| std::os::unix::fs::symlink("self", dir.join("data/self")).unwrap()),
    ]
}

/// The same through the stages, which name the kind of rows they need.
fn of_commands() -> Vec<Case> {
    let revise = "revise --model builtin:tiny --constitution builtin:proving-ground --out out --prompts";
    let judge = "judge --model builtin:tiny --constitution builtin:proving-ground --out out --candidates";
    let dpo = "train dpo --model builtin:tiny --out out --data";
    let rows =
        |name, command: &str, line: &str| case(name, format!("{command} rows.jsonl"), 3).file("rows.jsonl", line);
    vec![
        rows("revise: answers without prompts", revise, "{\"text\": \"Once upon a time\"}\n"),
        rows("judge: prompts without answers", judge, PROMPT),
        rows("judge: one answer for a prompt", judge, "{\"prompt\": \"q\", \"completions\": [\"a\"]}\n"),
        rows("judge: numbers for answers", judge, "{\"prompt\": \"q\", \"completions\": [1, 2]}\n"),
        rows("train dpo: prompts without answers", dpo, PROMPT),
        rows("train dpo: an unknown role", dpo, "{\"prompt\": [{\"role\": \"bot\", \"content\": \"q\"}], \"chosen\": \"a\", \"rejected\": \"b\"}\n"),
        rows("train reward: demonstrations", "train reward --model builtin:tiny --out out --data", "{\"prompt\": \"q\", \"completion\": \"a\"}\n"),
        rows("train sft: prompts", "train sft --model builtin:tiny --out out --data", PROMPT),
        case("a revise without its file", format!("{revise} nothing.jsonl"), 3),
        case("sample keeps the rows that it cannot read", "sample --model builtin:tiny --prompts rows.jsonl --out out --max-new-tokens 1 --per-prompt 1 --keep-truncated", 0)
            .file("rows.jsonl", format!("{PROMPT}{{\"prompt\": 7}}\n{{\"prompt\": \"\"}}\n"))
            .rejects(),
    ]
}
