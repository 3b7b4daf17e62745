//! Mapping files, and rows that a mapping does not fit.

use std::error::Error as _;
use std::fmt::Write;
use std::fs;

use bylaw::dataset::{Mapping, Options, stream};
use bylaw::error::Error;
use bylaw::record::Prompt;

/// The mapping, and a row that is read by it.
const CASES: [(&str, &str, &str); 17] = [
    ("not TOML", "columns = {", "{}"),
    ("an unknown key", "separator = \";\"", "{}"),
    ("an unknown format", "format = \"excel\"", "{}"),
    ("a number for a format", "format = 7", "{}"),
    ("two characters for a delimiter", "delimiter = \"||\"", "{}"),
    ("a quote for a delimiter", "delimiter = '\"'", "{}"),
    ("no delimiter", "delimiter = \"\"", "{}"),
    ("a text for the columns", "columns = \"prompt\"", "{}"),
    ("a number for a column", "[columns]\nprompt = 1", "{}"),
    ("an unknown column", "[columns]\npromt = \"question\"", "{}"),
    ("a column without a name", "[columns]\nprompt = \"\"", "{}"),
    ("a path with a hole", "[columns]\nprompt = \"a..b\"", "{}"),
    ("an unknown role", "[roles]\nhuman = \"wizard\"", "{}"),
    ("an unknown key of a turn", "[messages]\nspeaker = \"role\"", "{}"),
    ("a column twice", "[columns]\nprompt = \"a\"\nprompt = \"b\"", "{}"),
    (
        "a column that no row has",
        "[columns]\nprompt = \"qestion\"",
        "{\"question\": \"q\"}",
    ),
    (
        "a column of another type",
        "[columns]\nprompt = \"question\"",
        "{\"question\": 7}",
    ),
];

fn told(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    if let Some(cause) = error.source() {
        let _ = writeln!(text, "  cause: {cause}");
    }
    let help = error.help_text().unwrap_or_else(|| panic!("no remedy: {error}"));
    text + &format!("help: {help}\n")
}

pub fn chapter() -> String {
    let mut chapter = "# Mapping files\n".to_owned();
    for (name, mapping, row) in CASES {
        let _ = write!(chapter, "\n## {name}\n{mapping}\n---\n{}", read(mapping, row));
    }
    chapter
}

fn read(mapping: &str, row: &str) -> String {
    let mapping = match Mapping::parse(mapping, "mapping.toml") {
        Err(error) => return told(&error),
        Ok(mapping) => mapping,
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, row).unwrap();
    let options = Options {
        mapping: Some(mapping),
        ..Options::default()
    };
    let rows = stream::<Prompt>(file.to_str().unwrap(), &options).unwrap();
    let error = rows.filter_map(Result::err).next();
    told(&error.expect("the row was read")).replace(&dir.path().display().to_string(), "[DIR]")
}
