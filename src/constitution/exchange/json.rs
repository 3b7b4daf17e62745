//! JSON texts whose values know where they stand, so that a mistake is told with line and column.
//!
//! `serde_json` reads them; a second pass over what it found valid finds the places, and keys that stand twice, of which
//! it would keep the last.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result, line_column};

/// Characters of a line from which it is not shown in an error: many of these files are one line.
const LONG_LINE: usize = 300;

/// A JSON file.
#[derive(Debug)]
pub struct Json {
    path: PathBuf,
    text: String,
    value: Value,
    /// By path: of a text all of it, of a list or an object its first character.
    places: BTreeMap<String, Range<usize>>,
}

/// A value in a JSON file.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    json: &'a Json,
    pub value: &'a Value,
    /// From the top, as in `harmful0.prompt[0]`.
    path: String,
}

impl Json {
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let mut json = Self {
            path: path.into(),
            text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
            value: Value::Null,
            places: BTreeMap::new(),
        };
        json.value = serde_json::from_str(&json.text).map_err(|error| {
            let at = offset(&json.text, error.line(), error.column());
            let said = error.to_string();
            // The place is told already.
            let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
            json.error(&(at..at), format!("this is not valid JSON: {said}")).help(
                "put it right there; in JSON every text and key is in \"quotes\", and no comma stands before } or ]",
            )
        })?;
        let mut scan = Scan {
            text: &json.text,
            at: 0,
            places: BTreeMap::new(),
            twice: None,
        };
        scan.value("");
        let (places, twice) = (scan.places, scan.twice);
        json.places = places;
        match twice {
            Some((path, range)) => Err(json
                .error(&range, format!("{path}: the key stands here a second time"))
                .help("rename one of the two, or remove it: JSON keeps only one of them")),
            None => Ok(json),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn root(&self) -> Cursor<'_> {
        Cursor {
            json: self,
            value: &self.value,
            path: String::new(),
        }
    }

    fn error(&self, range: &Range<usize>, message: String) -> Error {
        let (line, column) = line_column(&self.text, range.start);
        let shown = self.text.lines().nth(line - 1).unwrap_or_default();
        if shown.len() <= LONG_LINE {
            return Error::input(message).at_span(&self.path, &self.text, range.clone());
        }
        Error::input(format!("line {line}, column {column}: {message}")).at_file(&self.path)
    }
}

impl<'a> Cursor<'a> {
    /// What is wrong here.
    pub fn error(&self, message: impl AsRef<str>) -> Error {
        let range = self.json.places.get(&self.path).cloned().unwrap_or_default();
        let message = match self.path.as_str() {
            "" => message.as_ref().to_owned(),
            path => format!("{path}: {}", message.as_ref()),
        };
        self.json.error(&range, message)
    }

    fn child(&self, step: &str, value: &'a Value) -> Self {
        Self {
            json: self.json,
            value,
            path: joined(&self.path, step),
        }
    }

    pub fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| {
            self.error(format!("here should be a text, but is {}", kind(self.value)))
                .help("write it in \"quotes\"")
        })
    }

    pub fn list(&self) -> Result<Vec<Self>> {
        let list = self.value.as_array().ok_or_else(|| {
            self.error(format!("here should be a list, but is {}", kind(self.value)))
                .help("write it in [brackets]")
        })?;
        let items = list.iter().enumerate();
        Ok(items
            .map(|(index, value)| self.child(&format!("[{index}]"), value))
            .collect())
    }

    /// The only item of a list.
    pub fn single(&self) -> Result<Self> {
        let mut items = self.list()?;
        match items.pop() {
            Some(only) if items.is_empty() => Ok(only),
            _ => Err(self
                .error(format!("here should be one text, but are {}", self.list()?.len()))
                .help("write an item of the file for each of them")),
        }
    }

    /// The values of an object, in their order.
    pub fn entries(&self) -> Result<Vec<(&'a str, Self)>> {
        let object = self.value.as_object().ok_or_else(|| {
            self.error(format!("here should be an object, but is {}", kind(self.value)))
                .help("write it in {braces}")
        })?;
        let entries = object.iter();
        Ok(entries
            .map(|(key, value)| (key.as_str(), self.child(&step(key), value)))
            .collect())
    }

    /// The values of an object that has exactly these keys.
    pub fn fields<const N: usize>(&self, keys: [&str; N]) -> Result<[Self; N]> {
        let known = || format!("it has exactly the keys {}", keys.join(", "));
        let entries = self.entries()?;
        if let Some((_, other)) = entries.iter().find(|(key, _)| !keys.contains(key)) {
            return Err(other.error("this key is not known here").help(known()));
        }
        for key in keys {
            if !entries.iter().any(|(found, _)| *found == key) {
                return Err(self.error(format!("`{key}` is missing")).help(known()));
            }
        }
        Ok(keys.map(|key| self.child(&step(key), &self.value[key])))
    }
}

fn joined(path: &str, step: &str) -> String {
    match path.is_empty() || step.starts_with('[') {
        true => format!("{path}{step}"),
        false => format!("{path}.{step}"),
    }
}

/// A key as a part of a path: quoted where it would look like several.
fn step(key: &str) -> String {
    let plain = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-');
    match !key.is_empty() && key.chars().all(plain) {
        true => key.to_owned(),
        false => format!("[{}]", Value::from(key)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The byte at a line and a column of bytes, both from one.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let at = before + column.saturating_sub(1);
    text.floor_char_boundary(at.min(text.len()))
}

/// A pass over valid JSON.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    places: BTreeMap<String, Range<usize>>,
    /// The first key that stands a second time.
    twice: Option<(String, Range<usize>)>,
}

impl Scan<'_> {
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(b'\0')
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.at < self.text.len() && bytes.contains(&self.byte()) {
            self.at += 1;
        }
    }

    /// Past what stands between values.
    fn gap(&mut self) {
        self.skip(b" \t\r\n,:");
    }

    fn value(&mut self, path: &str) {
        self.gap();
        let start = self.at;
        match self.byte() {
            b'{' => {
                self.places.insert(path.to_owned(), start..start + 1);
                self.object(path);
            }
            b'[' => {
                self.places.insert(path.to_owned(), start..start + 1);
                self.list(path);
            }
            b'"' => {
                self.string();
                self.places.insert(path.to_owned(), start..self.at);
            }
            _ => {
                while self.at < self.text.len() && !b" \t\r\n,]}".contains(&self.byte()) {
                    self.at += 1;
                }
                self.places.insert(path.to_owned(), start..self.at);
            }
        }
    }

    fn object(&mut self, path: &str) {
        self.at += 1;
        self.gap();
        while self.at < self.text.len() && self.byte() != b'}' {
            let start = self.at;
            self.string();
            let key = serde_json::from_str::<String>(&self.text[start..self.at]).unwrap_or_default();
            let path = joined(path, &step(&key));
            if self.places.contains_key(&path) && self.twice.is_none() {
                self.twice = Some((path.clone(), start..self.at));
            }
            self.value(&path);
            self.gap();
        }
        self.at += 1;
    }

    fn list(&mut self, path: &str) {
        self.at += 1;
        self.gap();
        let mut index = 0;
        while self.at < self.text.len() && self.byte() != b']' {
            self.value(&joined(path, &format!("[{index}]")));
            index += 1;
            self.gap();
        }
        self.at += 1;
    }

    /// To behind the quotation mark at its end.
    fn string(&mut self) {
        self.at += 1;
        while self.at < self.text.len() && self.byte() != b'"' {
            self.at += if self.byte() == b'\\' { 2 } else { 1 };
        }
        self.at = (self.at + 1).min(self.text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a place that is off, escapes and brackets in texts taken for structure.
    #[test]
    fn values_know_their_place() {
        let text = "{ \"a\\\"]\": [1, {\"b\": \"x\\\\\"}],\n \"c\": [[], \"é{\", null] }";
        let json = Json::parse(text, "f.json").unwrap();
        let at = |path: &str| &text[json.places[path].clone()];
        assert_eq!(at("[\"a\\\"]\"][0]"), "1");
        assert_eq!(at("[\"a\\\"]\"][1].b"), "\"x\\\\\"");
        assert_eq!(at("c[1]"), "\"é{\"");
        assert_eq!(at("c[2]"), "null");
        let error = json.root().entries().unwrap()[1].1.list().unwrap()[2]
            .text()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "f.json:2:18: c[2]: here should be a text, but is null"
        );
    }

    /// Catches: a place counted from the wrong end, a long line printed whole, a second value lost in silence.
    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        let told = |text: &str| {
            let error = Json::parse(text, "f.json").unwrap_err();
            assert!(error.exit_code() == 3 && error.help_text().is_some(), "{error}");
            error.to_string()
        };
        assert_eq!(told("[1,\n é]"), "f.json:2:2: this is not valid JSON: expected value");
        assert!(told("").starts_with("f.json:1:1: "));
        let long = format!("[\"{}\", ?]", "x".repeat(400));
        assert_eq!(
            told(&long),
            "f.json: line 1, column 406: this is not valid JSON: expected value"
        );
        assert_eq!(
            told("{\"a\": 1,\n\"a\": 2}"),
            "f.json:2:1: a: the key stands here a second time"
        );
    }
}
