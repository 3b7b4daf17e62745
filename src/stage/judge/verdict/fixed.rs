//! Verdicts in fixed forms: `[[A]]`, JSON, tags, and what may stand inside of them.

use serde_json::Value;

use super::{Found, Pick};
use crate::prompt::MOST_OPTIONS;

pub const CHOICE_KEYS: &[&str] = &[
    "winner",
    "verdict",
    "better",
    "best",
    "choice",
    "preferred",
    "preference",
    "answer",
    "decision",
    "judgment",
    "judgement",
    "selected",
];
pub const RATING_KEYS: &[&str] = &["rating", "score", "grade"];
pub const RANKING_KEYS: &[&str] = &["ranking", "order", "rank"];

/// Bytes inside of a mark at most.
const LONGEST_MARK: usize = 200;

/// Something in double brackets.
#[derive(Debug)]
pub struct Mark<'t> {
    pub inside: &'t str,
    pub start: usize,
    pub end: usize,
    /// Within quotation marks, backquotes or a quoted line.
    pub quoted: bool,
}

/// All marks that are not the rule of a game: `[[A]] if (A) is better`.
pub fn marks(text: &str) -> Vec<Mark<'_>> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("[[").map(|at| from + at) {
        let inner = start + 2;
        let Some(close) = text[inner..].find("]]").map(|at| inner + at) else {
            break;
        };
        let inside = &text[inner..close];
        if close - inner > LONGEST_MARK || inside.contains("[[") {
            from = inner;
            continue;
        }
        let end = close + 2;
        if !conditional(&text[end..]) {
            out.push(Mark {
                inside,
                start,
                end,
                quoted: quoted(text, start, end),
            });
        }
        from = end;
    }
    out
}

/// Whether a mark is followed by when it would be due.
fn conditional(after: &str) -> bool {
    let line = after.lines().next().unwrap_or_default().to_lowercase();
    let mut words = line
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    match words.next() {
        Some("if" | "when" | "means" | "iff") => true,
        Some("for") => words.take(2).any(|word| ["tie", "ties", "draw"].contains(&word)),
        _ => false,
    }
}

fn quoted(text: &str, start: usize, end: usize) -> bool {
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
    let (before, after) = (&text[line_start..start], &text[end..line_end]);
    let odd = |mark: char| before.matches(mark).count() % 2 == 1 && after.contains(mark);
    let open = |open: char, close: char| {
        before.rfind(open) > before.rfind(close) && before.contains(open) && after.contains(close)
    };
    before.trim_start().starts_with('>') || odd('"') || odd('`') || open('“', '”') || open('«', '»')
}

/// Whether words stand between two marks that may take the first one back.
pub fn says_something(between: &str) -> bool {
    between
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| !word.is_empty() && !["or", "and", "vs", "either", "to"].contains(&word.to_lowercase().as_str()))
}

/// The pick that the whole of a short text is.
pub fn pick(text: &str) -> Option<Pick> {
    let text = text.to_lowercase();
    let kept: String = text
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "<>=".contains(c) {
                c
            } else {
                ' '
            }
        })
        .collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    let name = |words: &[&str]| match words {
        ["a"] => Some(Pick::A),
        ["b"] => Some(Pick::B),
        [noun, "a" | "1" | "one"] if super::claims::NOUNS.contains(noun) => Some(Pick::A),
        [noun, "b" | "2" | "two"] if super::claims::NOUNS.contains(noun) => Some(Pick::B),
        ["first"] | ["first", _] => Some(Pick::A),
        ["second"] | ["second", _] => Some(Pick::B),
        _ => None,
    };
    match words.as_slice() {
        ["c" | "tie" | "draw" | "equal" | "both" | "neither" | "same"] | ["a", "tie" | "draw"] => {
            return Some(Pick::Tie);
        }
        words => {
            if let Some(pick) = name(words) {
                return Some(pick);
            }
        }
    }
    // `A > B`, `B >> A`, `A = B`.
    let compact: String = words.concat();
    let sign: String = compact.chars().filter(|c| "<>=".contains(*c)).collect();
    let (one, other) = compact.split_once(&sign).filter(|_| !sign.is_empty())?;
    let (one, other) = (name(&[one])?, name(&[other])?);
    match sign.as_str() {
        _ if one == other => None,
        ">" | ">>" | ">=" => Some(one),
        "<" | "<<" | "<=" => Some(other),
        "=" | "==" => Some(Pick::Tie),
        _ => None,
    }
}

/// The rating that the whole of a short text is: `4`, `4.0`, `4/5`, `4 out of 5`.
pub fn rating(text: &str, best: usize) -> Option<usize> {
    let text = text.trim().trim_matches(|c: char| "*_`\"'()[]. ".contains(c));
    let text = text
        .strip_suffix(&format!("/{best}"))
        .or_else(|| text.strip_suffix(&format!("out of {best}")))
        .unwrap_or(text)
        .trim();
    let number: f64 = match text {
        "one" => 1.0,
        "two" => 2.0,
        "three" => 3.0,
        "four" => 4.0,
        "five" => 5.0,
        digits => digits.parse().ok()?,
    };
    (number.fract() == 0.0 && number >= 1.0 && number <= best as f64).then_some(number as usize)
}

/// The ranks of the options in a chain as `B > A = C`, or `B, A, C` if it has no `>`.
pub fn ranking(text: &str, count: usize) -> Option<Vec<usize>> {
    let text = text.replace(['≻', '»'], ">").replace("->", ">").replace(">>", ">");
    let between = if text.contains('>') { '>' } else { ',' };
    let mut ranks = vec![None; count];
    for (rank, tier) in text.split(between).enumerate() {
        for option in tier.split(['=', '~', '≈']) {
            let slot = ranks.get_mut(option_index(option)?)?;
            if slot.replace(rank).is_some() {
                return None;
            }
        }
    }
    ranks.into_iter().collect()
}

/// The place of `(B)`, `B` or `Option B` in the alphabet.
pub fn option_index(text: &str) -> Option<usize> {
    let kept: String = text
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    let letter = match words.as_slice() {
        [letter] => letter,
        [noun, letter] if super::claims::NOUNS.contains(&noun.to_lowercase().as_str()) => letter,
        _ => return None,
    };
    match letter.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => {
            Some(usize::from(letter.to_ascii_uppercase() - b'A')).filter(|index| *index < MOST_OPTIONS)
        }
        _ => None,
    }
}

/// What JSON objects and tags in a text say under one of the keys. All must agree.
pub fn structured<T: PartialEq + Clone>(text: &str, keys: &[&str], read: impl Fn(&Value) -> Option<T>) -> Found<T> {
    let mut found: Vec<T> = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find('{').map(|at| from + at) {
        let mut stream = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        from = match stream.next() {
            Some(Ok(Value::Object(object))) => {
                let named = object.iter().filter(|(key, _)| named(keys, key));
                found.extend(named.filter_map(|(_, value)| read(value)));
                start + stream.byte_offset().max(1)
            }
            _ => start + 1,
        };
    }
    let mut delimited = |open: &str, close: &str| {
        for (at, _) in text.match_indices(open) {
            let inner = &text[at + open.len()..];
            if let Some(end) = inner.find(close) {
                found.extend(read(&Value::String(inner[..end].to_owned())));
            }
        }
    };
    for key in keys {
        delimited(&format!("<{key}>"), &format!("</{key}>"));
    }
    delimited("\\boxed{", "}");
    match found.split_first() {
        None => Found::Nothing,
        Some((first, rest)) if rest.iter().all(|other| other == first) => Found::One(first.clone()),
        Some(_) => Found::Unclear,
    }
}

/// `winner`, `better_answer`, `final verdict`: a key that has one of the names among its words.
fn named(keys: &[&str], key: &str) -> bool {
    let key = key.to_lowercase();
    let mut words = key.split(|c: char| !c.is_alphanumeric());
    words.any(|word| keys.contains(&word))
}
