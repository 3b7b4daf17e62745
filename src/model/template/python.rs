//! What chat templates expect of Python: its JSON, its notion of white space, its dates.

use std::fmt;
use std::str::FromStr;

use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use serde::Serialize;

/// The day at which a template's clock stands, at midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl Default for Date {
    /// 26 July 2024, the date that Llama 3.1's template falls back to.
    fn default() -> Self {
        Self {
            year: 2024,
            month: 7,
            day: 26,
        }
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a date: write YYYY-MM-DD");
        let parts: Vec<u32> = text
            .split('-')
            .map(|part| part.parse().map_err(|_| wrong()))
            .collect::<Result<_, _>>()?;
        match parts[..] {
            [year @ 1..=9999, month @ 1..=12, day] if (1..=days_of(year, month)).contains(&day) => {
                Ok(Self { year, month, day })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

fn days_of(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Date {
    /// Days since the year began, this one included.
    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| days_of(self.year, month)).sum::<u32>() + self.day
    }

    /// 0 is Sunday.
    fn weekday(self) -> usize {
        // 1 January of the year 1 was a Monday.
        let past = self.year - 1;
        let days = past * 365 + past / 4 - past / 100 + past / 400 + self.day_of_year();
        (days % 7) as usize
    }

    /// As Python's `datetime.strftime` in the C locale; an unknown directive stays as it is.
    fn strftime(self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('-') => match chars.next() {
                    Some(directive) => {
                        let padded = self.directive(directive);
                        let bare = padded.trim_start_matches(['0', ' ']);
                        out.push_str(if bare.is_empty() { "0" } else { bare });
                    }
                    None => out.push_str("%-"),
                },
                Some(directive) => out.push_str(&self.directive(directive)),
                None => out.push('%'),
            }
        }
        out
    }

    fn directive(self, directive: char) -> String {
        let Self { year, month, day } = self;
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[self.weekday()];
        match directive {
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'm' => format!("{month:02}"),
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            'w' => self.weekday().to_string(),
            'j' => format!("{:03}", self.day_of_year()),
            'H' | 'M' | 'S' => "00".to_owned(),
            'I' => "12".to_owned(),
            'p' => "AM".to_owned(),
            'f' => "000000".to_owned(),
            'F' => self.to_string(),
            'T' | 'X' => "00:00:00".to_owned(),
            'R' => "00:00".to_owned(),
            'D' | 'x' => self.strftime("%m/%d/%y"),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y"),
            'Z' | 'z' => String::new(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        }
    }
}

/// What a template said when it called `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The template's own message, if it raised the error itself.
pub fn raised(error: &Error) -> Option<&str> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Some(message);
        }
        source = cause.source();
    }
    None
}

/// Adds the functions, filters and methods that transformers and Python have.
pub fn install(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("trim", |text: String, chars: Option<String>| {
        strip(&text, chars.as_deref(), true, true).to_owned()
    });
    environment.set_unknown_method_callback(method);
}

pub fn set_clock(environment: &mut Environment<'static>, date: Date) {
    environment.add_function("strftime_now", move |format: String| date.strftime(&format));
}

fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some((left, right)) = match name {
            "strip" => Some((true, true)),
            "lstrip" => Some((true, false)),
            "rstrip" => Some((false, true)),
            _ => None,
        }
    {
        let (chars,): (Option<&str>,) = from_args(args)?;
        return Ok(Value::from(strip(text, chars, left, right)));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// `str.strip` and its kind: Python's white space has four characters that Unicode's has not.
fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c),
    };
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// `tojson` of transformers: `json.dumps`, which does not escape for HTML.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Value> = options.get("separators")?;
    let style = Style {
        indent: indent
            .filter(|indent| !indent.is_none())
            .map(|indent| match indent.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(indent.as_usize().unwrap_or(0)),
            }),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: separators
            .filter(|separators| !separators.is_none())
            .map(|pair| -> Result<_, Error> {
                let part = |index: usize| pair.get_item(&Value::from(index)).map(|part| part.to_string());
                Ok((part(0)?, part(1)?))
            })
            .transpose()?,
    };
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "not JSON").with_source(error))?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

/// How `json.dumps` was asked to write.
struct Style {
    indent: Option<String>,
    ascii: bool,
    sorted: bool,
    separators: Option<(String, String)>,
}

impl Style {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) => {
                self.block(['[', ']'], items.iter(), depth, out, |item, out| {
                    self.write(item, depth + 1, out);
                });
            }
            serde_json::Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                let colon = self.separators.as_ref().map_or(": ", |(_, colon)| colon.as_str());
                self.block(['{', '}'], entries.into_iter(), depth, out, |(key, item), out| {
                    self.text(key, out);
                    out.push_str(colon);
                    self.write(item, depth + 1, out);
                });
            }
            serde_json::Value::String(text) => self.text(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn block<T>(
        &self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        write: impl Fn(T, &mut String),
    ) {
        out.push(open);
        let empty = items.len() == 0;
        let comma = match (&self.separators, &self.indent) {
            (Some((comma, _)), _) => comma.as_str(),
            (None, Some(_)) => ",",
            (None, None) => ", ",
        };
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push_str(comma);
            }
            line(depth + 1, out);
            write(item, out);
        }
        if !empty {
            line(depth, out);
        }
        out.push(close);
    }

    /// A string in quotes, escaped as Python does.
    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && !(' '..='~').contains(&c) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
