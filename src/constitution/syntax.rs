//! What is not TOML, in the words of somebody who writes a constitution.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::diagnostic::{Findings, Text};

/// Message and remedy of what the TOML reader says, by a part of its words.
const KNOWN: [(&str, &str, &str); 14] = [
    (
        "duplicate key",
        "this key is given twice in one table",
        "keep one of the two; another principle begins with its own [[principle]]",
    ),
    (
        "key with no value",
        "this line is no `key = value`",
        "write `key = \"text\"`; a comment begins with #, a text over several lines stands in \"\"\"triple quotes\"\"\"",
    ),
    (
        "string values must be quoted",
        "this text has no quotation marks",
        "write it in \"quotes\", or in \"\"\"triple quotes\"\"\" over several lines",
    ),
    (
        "missing escaped value",
        "this backslash begins an escape that there is not",
        "write \\\\ for a backslash, \\n for the end of a line",
    ),
    (
        "unicode value digits",
        "this escape has too few digits",
        "write \\u and four digits, or the character itself",
    ),
    (
        "invalid basic string",
        "this text has no closing quotation mark",
        "end it with \" on the same line; over several lines it stands in \"\"\"triple quotes\"\"\"",
    ),
    (
        "invalid multi-line basic string",
        "this text has no closing \"\"\"",
        "end it with \"\"\"",
    ),
    (
        "invalid literal string",
        "this text has no closing '",
        "end it with ' on the same line, or write it in \"quotes\"",
    ),
    (
        "unexpected key or value",
        "something stands behind the value",
        "a quotation mark inside of a text is written \\\"; the next key stands on its own line",
    ),
    (
        "missing value",
        "there is no value behind the `=`",
        "write it there, as in `key = \"text\"`",
    ),
    (
        "unclosed",
        "this bracket is not closed",
        "tables begin with a line like [[principle]] or [variables]; a list ends with ]",
    ),
    (
        "missing comma",
        "a comma is missing",
        "a list is written [\"one\", \"two\"]",
    ),
    (
        "recursion",
        "this is nested too deeply",
        "a constitution has tables and lists of texts, nothing inside of them",
    ),
    (
        "invalid float",
        "this is neither a number nor a text",
        "a text stands in \"quotes\"; numbers are written 1.0 or 2",
    ),
];

const ANY_HELP: &str =
    "a line is `key = \"text\"`, `key = 1.0` or `key = [\"text\", \"text\"]`; a comment begins with #";

const JSON_HELP: &str = "this looks like JSON: bylaw constitution import FILE.json --out FILE.toml";

/// Tells what is not TOML, the first of each line, and answers the lines.
pub fn tell(errors: &[toml::de::Error], text: &Arc<Text>, findings: &Findings) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    let opens_json = text.text.trim_start().starts_with(['{', '[']);
    let json = opens_json && serde_json::from_str::<serde_json::Value>(&text.text).is_ok();
    for error in errors {
        let place = text.at(within(error.span().unwrap_or_default(), &text.text));
        if !lines.insert(place.line()) {
            continue;
        }
        let said = error.message();
        let known = KNOWN.iter().find(|(part, _, _)| said.contains(part));
        let (message, help) = match known {
            _ if json => ("this is not TOML".to_owned(), JSON_HELP),
            Some((_, message, help)) => ((*message).to_owned(), *help),
            None => (format!("this is not valid TOML: {said}"), ANY_HELP),
        };
        findings.error("syntax", place, message, help);
        if json {
            break;
        }
    }
    lines
}

/// The range with ends between the characters of the text.
fn within(range: Range<usize>, text: &str) -> Range<usize> {
    let start = text.floor_char_boundary(range.start.min(text.len()));
    let end = text.ceil_char_boundary(range.end.min(text.len()));
    start..end.max(start)
}
