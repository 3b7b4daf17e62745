//! The records of a data reference as plain objects, for rows that are none of ours, such as judged pairs.
//!
//! Knows nothing of what the columns mean. A record that is no object keeps its place and the reason.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::combined_sha256;
use super::locate::{Location, locate, name};
use super::source::{Piece, Reader};
use super::stream::Options;
use crate::error::{Error, Result};

/// One record, or why it cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub struct RawRecord {
    /// Its place: `row 3 at line 4`, after the name of its file where there are several.
    pub place: String,
    pub object: Result<Map<String, Value>, String>,
}

/// All records of a reference, and the hash of its files. Cells of a CSV file are texts.
pub fn read_objects(reference: &str) -> Result<(Vec<RawRecord>, String)> {
    let files = match locate(reference, None)? {
        Location::Files(files) => files,
        Location::Dataset(dir) => return Err(of_ours(&dir)),
    };
    let several = files.len() > 1;
    let (mut found, mut hashes) = (Vec::new(), Vec::new());
    for (path, format) in files {
        let mut reader = Reader::open(&path, format, &Options::default().limits())?;
        while let Some(piece) = reader.next()? {
            let Piece::Record(record) = piece else {
                return Err(of_ours(&path));
            };
            found.push(RawRecord {
                place: match several {
                    true => format!("{}, {}", name(&path), record.place),
                    false => record.place.to_string(),
                },
                object: record.object,
            });
        }
        hashes.push(reader.sha256()?);
    }
    if found.is_empty() {
        return Err(Error::input("is empty: it has no rows")
            .at_file(PathBuf::from(reference))
            .help("name data with at least one row"));
    }
    Ok((found, combined_sha256(hashes.iter().map(String::as_str))))
}

fn of_ours(path: &Path) -> Error {
    Error::input("holds rows of a stage of bylaw, not rows of this form")
        .at_file(path)
        .help("name a .csv, .jsonl, .json, .parquet or .arrow file")
}

/// The first of some columns that has a text or a number, as text. Whole numbers are written in one way: pandas makes 3 to
/// 3.0 where a column has gaps, and CSV has texts for numbers.
pub fn text_of(object: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let text = match object.get(*name)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let whole = text.strip_suffix(".0").filter(|whole| whole.parse::<i64>().is_ok());
        let text = whole.map(str::to_owned).unwrap_or(text);
        (!text.is_empty() && text != "nan" && text != "NaN").then_some(text)
    })
}
