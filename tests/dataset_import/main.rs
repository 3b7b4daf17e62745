//! Data of other programs: every format and every form becomes the rows it means, in bounded memory.
//!
//! The files of `tests/golden/import/` come from `scripts/golden/import_files.py`.

mod formats;
mod forms;
mod mapping;
mod robustness;

use std::fs;
use std::path::{Path, PathBuf};

use bylaw::dataset::{Options, RowStream, Shape, stream};
use bylaw::error::Error;
use bylaw::record::{Message, Reject};
use serde_json::Value;
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/import")
        .join(name);
    path.to_str().unwrap().to_owned()
}

/// The real files, which are not part of the repository.
fn shared(path: &str) -> Option<String> {
    let root = std::env::var_os("BYLAW_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = root.join(path);
    if !path.is_file() {
        println!("skipped: {} is absent; set BYLAW_SHARED_DATA", path.display());
        return None;
    }
    path.to_str().map(str::to_owned)
}

/// Everything that a stream gives, to its end or to its error.
struct Read<R> {
    rows: Vec<R>,
    rejects: Vec<Reject>,
    stream: RowStream<R>,
    error: Option<Error>,
}

impl<R> Read<R> {
    fn reasons(&self) -> Vec<&str> {
        self.rejects.iter().map(|reject| reject.reason.as_str()).collect()
    }
}

fn read_with<R: Shape>(reference: &str, options: &Options) -> Read<R> {
    let mut stream = stream::<R>(reference, options).unwrap();
    let (mut rows, mut rejects, mut error) = (Vec::new(), Vec::new(), None);
    for item in &mut stream {
        match item {
            Ok(Ok(row)) => rows.push(row),
            Ok(Err(reject)) => rejects.push(reject),
            Err(end) => error = Some(end),
        }
    }
    Read {
        rows,
        rejects,
        stream,
        error,
    }
}

fn read<R: Shape>(reference: &str) -> Read<R> {
    read_with(reference, &Options::default())
}

/// One object as a row, or the reason why it is none.
fn row<R: Shape>(object: &Value) -> Result<R, String> {
    let files = Files::new();
    let mut read = read::<R>(&files.write("data.jsonl", format!("{object}\n")));
    match read.rejects.pop() {
        None => Ok(read.rows.remove(0)),
        Some(reject) => Err(reject.reason.strip_prefix("line 1: ").unwrap().to_owned()),
    }
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    let message = |(role, content): &(&str, &str)| Message {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
    };
    turns.iter().map(message).collect()
}

fn user(text: &str) -> Vec<Message> {
    chat(&[("user", text)])
}

fn assistant(text: &str) -> Vec<Message> {
    chat(&[("assistant", text)])
}
