//! From TOML to principles, each mistake reported at its place with what to do about it.
//!
//! Walks the spanned TOML tree by hand: a derived reader would stop at the first line that does not
//! fit and could not point inside of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{BUILTIN_PREFIX, Principle, builtin_text};
use crate::error::{Error, Result, nearest};
use crate::small;

/// A validated constitution, without its address.
pub struct Parsed {
    pub name: String,
    pub version: String,
    pub principles: Vec<Principle>,
}

/// Reads a file and checks it as a whole.
pub fn file(path: &Path) -> Result<Parsed> {
    whole(Text::read(path)?, vec![canonical(path)])
}

/// Reads a text and checks it as a whole.
pub fn text(text: &str, path: &Path) -> Result<Parsed> {
    let text = Text {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    whole(Rc::new(text), vec![canonical(path)])
}

fn whole(text: Rc<Text>, chain: Vec<PathBuf>) -> Result<Parsed> {
    let document = document(&text, &chain)?;
    document.check(&text)?;
    Ok(Parsed {
        name: document.name,
        version: document.version,
        principles: document.entries.into_iter().map(|entry| entry.principle).collect(),
    })
}

/// A file under reading; errors point into it.
struct Text {
    path: PathBuf,
    text: String,
}

impl Text {
    fn read(path: &Path) -> Result<Rc<Self>> {
        const REMEDY: &str = "give the path of a TOML file, or `builtin:NAME` for one inside the program";
        let text = small::read_to_string(path, REMEDY)?;
        Ok(Rc::new(Self {
            path: path.to_owned(),
            text,
        }))
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Error {
        Error::config(message).at_span(&self.path, &self.text, span).help(help)
    }
}

/// A principle and where it stands, for checks that need the whole.
struct Entry {
    principle: Principle,
    text: Rc<Text>,
    /// The weight, or the table if it has none.
    weight: Range<usize>,
}

struct Document {
    name: String,
    version: String,
    entries: Vec<Entry>,
}

impl Document {
    /// What holds for a constitution as a whole, but need not for one that others extend.
    fn check(&self, text: &Text) -> Result<()> {
        if self.entries.is_empty() {
            let end = text.text.len();
            return Err(text.error(
                end.saturating_sub(1)..end,
                "the constitution has no principles",
                "add at least one `[[principle]]` with an `id` and a `judge` text, or with `critique` and `revise`",
            ));
        }
        for key in ["critique", "judge"] {
            let used = |entry: &&Entry| match key {
                "critique" => entry.principle.critique.is_some(),
                _ => entry.principle.judge.is_some(),
            };
            let mut entries = self.entries.iter().filter(used).peekable();
            let Some(first) = entries.peek().map(|entry| (entry.text.clone(), entry.weight.clone())) else {
                continue;
            };
            if entries.all(|entry| entry.principle.weight == 0.0) {
                return Err(first.0.error(
                    first.1,
                    format!("every principle with `{key}` has the weight 0, so that none can be drawn"),
                    "give at least one of them a positive weight",
                ));
            }
        }
        Ok(())
    }

    /// Adds a principle, in the place of an inherited one with the same id.
    fn put(&mut self, entry: Entry) {
        match self
            .entries
            .iter_mut()
            .find(|other| other.principle.id == entry.principle.id)
        {
            Some(inherited) => *inherited = entry,
            None => self.entries.push(entry),
        }
    }
}

const DOCUMENT_KEYS: [&str; 4] = ["name", "version", "extends", "principle"];
const PRINCIPLE_KEYS: [&str; 6] = ["id", "critique", "revise", "judge", "weight", "tags"];

/// Reads one file with what it extends. `chain` holds the files being read, this one last.
fn document(text: &Rc<Text>, chain: &[PathBuf]) -> Result<Document> {
    let root = DeTable::parse(&text.text).map_err(|error| {
        text.error(
            error.span().unwrap_or_default(),
            format!("this is not valid TOML: {}", error.message()),
            "write texts in quotes, or in \"\"\"triple quotes\"\"\" over several lines",
        )
    })?;
    let table = Table {
        table: root.get_ref(),
        span: 0..0,
        text,
    };
    table.deny_unknown(&DOCUMENT_KEYS, "a constitution")?;
    let mut document = Document {
        name: table.required_text("name", "name the constitution: `name = \"harmless\"`")?,
        version: table.required_text("version", "give it a version: `version = \"1.0.0\"`")?,
        entries: Vec::new(),
    };
    for (reference, span) in table.texts("extends")? {
        for entry in extended(text, &reference, span, chain)? {
            document.put(entry);
        }
    }
    let mut own: Vec<String> = Vec::new();
    for item in table.tables("principle")? {
        let (entry, id) = principle(&item)?;
        if own.contains(&entry.principle.id) {
            return Err(text.error(
                id,
                format!("the id `{}` is used twice", entry.principle.id),
                "give each principle its own id: rows refer to principles by it",
            ));
        }
        own.push(entry.principle.id.clone());
        document.put(entry);
    }
    Ok(document)
}

/// The principles of a constitution named in `extends`.
fn extended(text: &Rc<Text>, reference: &str, span: Range<usize>, chain: &[PathBuf]) -> Result<Vec<Entry>> {
    let (base, address) = if let Some(name) = reference.strip_prefix(BUILTIN_PREFIX) {
        let base = Text {
            path: PathBuf::from(reference),
            text: builtin_text(name)
                .map_err(|error| text.error(span.clone(), error.message(), error.help_text().unwrap_or_default()))?
                .to_owned(),
        };
        (Rc::new(base), PathBuf::from(reference))
    } else {
        let path = text.path.parent().unwrap_or(Path::new("")).join(reference);
        if !path.is_file() {
            return Err(text.error(
                span,
                format!("the file {} does not exist", path.display()),
                "`extends` holds paths relative to this file, or `builtin:NAME`",
            ));
        }
        (Text::read(&path)?, canonical(&path))
    };
    if chain.contains(&address) {
        let names: Vec<String> = chain
            .iter()
            .chain([&address])
            .map(|path| path.display().to_string())
            .collect();
        return Err(text.error(
            span,
            format!("`extends` goes in a circle: {}", names.join(" -> ")),
            "remove one of the `extends`",
        ));
    }
    let mut chain = chain.to_vec();
    chain.push(address);
    Ok(document(&base, &chain)?.entries)
}

/// The same file has the same address, however it is spelled.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Reads a `[[principle]]`; also returns where its id stands.
fn principle(table: &Table<'_>) -> Result<(Entry, Range<usize>)> {
    table.deny_unknown(&PRINCIPLE_KEYS, "a principle")?;
    let id = table.required_text("id", "name the principle: `id = \"no-illegal-help\"`")?;
    let id_span = table.span_of("id");
    if !id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        return Err(table.text.error(
            id_span,
            format!("the id {id:?} has other characters than lower-case letters, digits and hyphens"),
            format!("write it like `{}`", suggested_id(&id)),
        ));
    }
    let (critique, revise, judge) = (
        table.string("critique")?,
        table.string("revise")?,
        table.string("judge")?,
    );
    for (key, text, other, other_text) in [
        ("critique", &critique, "revise", &revise),
        ("revise", &revise, "critique", &critique),
    ] {
        if text.is_some() && other_text.is_none() {
            return Err(table.text.error(
                table.key_span(key),
                format!("the principle `{id}` has `{key}` without `{other}`"),
                format!("add `{other}`: a critique and its revision go together (or keep only `judge`)"),
            ));
        }
    }
    if critique.is_none() && judge.is_none() {
        return Err(table.text.error(
            id_span,
            format!("the principle `{id}` has no text"),
            "add `judge`, or `critique` and `revise`, or all three",
        ));
    }
    let entry = Entry {
        principle: Principle {
            weight: table.weight()?,
            tags: table.texts("tags")?.into_iter().map(|(tag, _)| tag).collect(),
            id,
            critique,
            revise,
            judge,
        },
        text: table.text.clone(),
        weight: table.span_of("weight"),
    };
    Ok((entry, id_span))
}

fn suggested_id(id: &str) -> String {
    let words: String = id
        .to_lowercase()
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { ' ' })
        .collect();
    match words.split_whitespace().collect::<Vec<_>>().join("-") {
        empty if empty.is_empty() => "no-illegal-help".into(),
        id => id,
    }
}

/// A TOML table with what an error about it needs.
struct Table<'a> {
    table: &'a DeTable<'a>,
    /// Of the whole table; empty for the document.
    span: Range<usize>,
    text: &'a Rc<Text>,
}

impl<'a> Table<'a> {
    fn deny_unknown(&self, known: &[&str], what: &str) -> Result<()> {
        let unknown = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            // The table is sorted by name; people read from the top.
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let help = match nearest(key.get_ref(), known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys of {what} are: {}", known.join(", ")),
        };
        Err(self
            .text
            .error(key.span(), format!("{what} has no key `{}`", key.get_ref()), help))
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// Where the value of `key` stands, or the table without one.
    fn span_of(&self, key: &str) -> Range<usize> {
        self.get(key).map_or(self.span.clone(), Spanned::span)
    }

    /// Where the name of `key` stands.
    fn key_span(&self, key: &str) -> Range<usize> {
        self.table
            .get_key_value(key)
            .map_or(self.span.clone(), |(key, _)| key.span())
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, key: &str, expected: &str, example: &str) -> Error {
        self.text.error(
            value.span(),
            format!("`{key}` should be {expected}, but is {}", article(value.get_ref())),
            format!("write it like `{example}`"),
        )
    }

    /// A text with something in it.
    fn string(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref().as_str() {
            None => Err(self.wrong_type(value, key, "a text", &format!("{key} = \"...\""))),
            Some(text) if text.trim().is_empty() => Err(self.text.error(
                value.span(),
                format!("`{key}` is empty"),
                format!("write the text, or remove `{key}`"),
            )),
            Some(text) => Ok(Some(text.to_owned())),
        }
    }

    fn required_text(&self, key: &str, help: &str) -> Result<String> {
        self.string(key)?
            .ok_or_else(|| self.text.error(self.span.clone(), format!("`{key}` is missing"), help))
    }

    /// A list of texts, each with its place; empty without the key.
    fn texts(&self, key: &str) -> Result<Vec<(String, Range<usize>)>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let example = format!("{key} = [\"...\"]");
        let items = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong_type(value, key, "a list of texts", &example))?;
        let texts = items.iter().map(|item| match item.get_ref().as_str() {
            None => Err(self.wrong_type(item, key, "a list of texts", &example)),
            Some(text) if text.trim().is_empty() => Err(self.text.error(
                item.span(),
                format!("`{key}` has an empty text"),
                "write it or remove it",
            )),
            Some(text) => Ok((text.to_owned(), item.span())),
        });
        texts.collect()
    }

    /// An array of tables; empty without the key.
    fn tables(&self, key: &str) -> Result<Vec<Table<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let example = format!("[[{key}]]");
        let items = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong_type(value, key, "a list of tables", &example))?;
        let tables = items.iter().map(|item| match item.get_ref().as_table() {
            Some(table) => Ok(Table {
                table,
                span: item.span(),
                text: self.text,
            }),
            None => Err(self.wrong_type(item, key, "a list of tables", &example)),
        });
        tables.collect()
    }

    fn weight(&self) -> Result<f64> {
        let Some(value) = self.get("weight") else {
            return Ok(1.0);
        };
        let weight = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(|n| n as f64),
            _ => return Err(self.wrong_type(value, "weight", "a number", "weight = 1.0")),
        };
        match weight {
            Some(weight) if weight.is_finite() && weight >= 0.0 => Ok(weight),
            _ => Err(self.text.error(
                value.span(),
                "`weight` should be a finite number of at least 0",
                "1.0 is the usual weight; 2.0 is drawn twice as often, 0.0 never",
            )),
        }
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
