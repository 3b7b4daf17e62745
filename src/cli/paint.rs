//! How differences and texts of models and users are shown on stdout: in colours on a terminal, with marks elsewhere, and
//! without the characters that a terminal would obey.

use std::io::IsTerminal;

use super::output::grouped;
use crate::diff::{self, Fate};

/// How differences are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Green and red.
    Colours,
    /// `{+added+}` and `[-removed-]`.
    Marks,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set (no-color.org).
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if refused || !std::io::stdout().is_terminal() {
            Self::Marks
        } else {
            Self::Colours
        }
    }

    pub fn bold(self, text: &str) -> String {
        match self {
            Self::Colours => format!("\u{1b}[1m{text}\u{1b}[0m"),
            Self::Marks => text.to_owned(),
        }
    }

    /// Two clean texts as one, with what changed.
    pub fn difference(self, before: &str, after: &str) -> String {
        let mut text = String::new();
        for edit in diff::edits(before, after) {
            // White space stays outside of the marks, and lines are painted one by one.
            let inner = edit.text.trim_end();
            let space = &edit.text[inner.len()..];
            let lines: Vec<String> = inner
                .split('\n')
                .map(|line| match line.is_empty() {
                    true => String::new(),
                    false => self.marked(edit.fate, line),
                })
                .collect();
            text += &lines.join("\n");
            // Two words that stand for each other, not one.
            text += if space.is_empty() && edit.fate == Fate::Removed {
                " "
            } else {
                space
            };
        }
        text
    }

    fn marked(self, fate: Fate, text: &str) -> String {
        let (open, close) = match (self, fate) {
            (_, Fate::Kept) => ("", ""),
            (Self::Colours, Fate::Added) => ("\u{1b}[32m", "\u{1b}[0m"),
            (Self::Colours, Fate::Removed) => ("\u{1b}[9;31m", "\u{1b}[0m"),
            (Self::Marks, Fate::Added) => ("{+", "+}"),
            (Self::Marks, Fate::Removed) => ("[-", "-]"),
        };
        format!("{open}{text}{close}")
    }
}

/// A text clean, and of `most` characters at most; the rest is counted.
pub fn limited(text: &str, most: usize) -> String {
    let clean = clean(text);
    match clean.char_indices().nth(most) {
        Some((end, _)) => {
            let rest = clean[end..].chars().count() as u64;
            format!("{}… ({} more characters)", &clean[..end], grouped(rest))
        }
        None => clean,
    }
}

/// Control characters become pictures, and those that turn the direction of text are replaced.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character,
            '\0'..='\u{1f}' => char::from_u32(0x2400 + character as u32).unwrap_or('\u{FFFD}'),
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{FFFD}',
            _ => character,
        })
        .collect()
}
