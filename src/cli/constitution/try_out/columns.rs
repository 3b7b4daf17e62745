//! Texts in columns: broken at words to a width in terminal cells, what was added marked.

use console::measure_text_width;

use crate::cli::paint::Paint;
use crate::diff::{self, Fate};

/// Between two columns.
const BETWEEN: &str = " │ ";

/// Columns narrower than this are no use: texts stand under each other.
const NARROWEST: usize = 80;

/// A character, and whether it was added.
type Cell = (char, bool);

/// A text with what was added to it, clean already.
#[derive(Debug, Clone, Default)]
pub struct Text(Vec<Cell>);

/// A text and its title.
pub struct Column {
    pub title: String,
    pub text: Text,
}

impl Text {
    pub fn plain(text: &str) -> Self {
        Self(text.chars().map(|character| (character, false)).collect())
    }

    /// The later of two texts; where there is no colour, `{+added+}` is written out.
    pub fn added(paint: Paint, before: &str, after: &str) -> Self {
        let mut cells = Vec::new();
        for edit in diff::edits(before, after) {
            let text = match (edit.fate, paint) {
                (Fate::Removed, _) => continue,
                (Fate::Added, Paint::Marks) => {
                    // White space stays outside of the marks.
                    let inner = edit.text.trim();
                    match edit.text.split_once(inner).filter(|_| !inner.is_empty()) {
                        Some((head, tail)) => format!("{head}{{+{inner}+}}{tail}"),
                        None => edit.text,
                    }
                }
                _ => edit.text,
            };
            let added = edit.fate == Fate::Added && paint == Paint::Colours;
            cells.extend(text.chars().map(|character| (character, added)));
        }
        Self(cells)
    }

    /// Lines of at most `width` cells. Spaces at the beginning of a line stay, others between words become one.
    fn lines(&self, width: usize) -> Vec<Vec<Cell>> {
        let mut lines = Vec::new();
        for paragraph in self.0.split(|(character, _)| *character == '\n') {
            let indent = paragraph
                .iter()
                .take_while(|(character, _)| character.is_whitespace())
                .count();
            let mut line: Vec<Cell> = vec![(' ', false); indent.min(width / 2)];
            let mut empty = true;
            for word in paragraph.split(|(character, _)| character.is_whitespace()) {
                if word.is_empty() {
                    continue;
                }
                if !empty && cells(&line) + 1 + cells(word) > width {
                    lines.push(std::mem::take(&mut line));
                } else if let Some((_, added)) = line.last().copied().filter(|_| !empty) {
                    line.push((' ', added && word[0].1));
                }
                empty = false;
                for cell in word {
                    if cells(&line) + cells(&[*cell]) > width {
                        lines.push(std::mem::take(&mut line));
                    }
                    line.push(*cell);
                }
            }
            if empty {
                line.clear();
            }
            lines.push(line);
        }
        while lines.len() > 1 && lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    }
}

fn cells(line: &[Cell]) -> usize {
    if line.iter().all(|(character, _)| (' '..='~').contains(character)) {
        return line.len();
    }
    let text: String = line.iter().map(|(character, _)| *character).collect();
    measure_text_width(&text)
}

/// A line with its colours, each ended on it.
fn painted(line: &[Cell]) -> String {
    let mut text = String::new();
    for run in line.chunk_by(|one, other| one.1 == other.1) {
        let inner: String = run.iter().map(|(character, _)| *character).collect();
        match run[0].1 {
            true => text.push_str(&format!("\u{1b}[32m{inner}\u{1b}[0m")),
            false => text.push_str(&inner),
        }
    }
    text
}

/// One text, broken to lines that begin with `indent` spaces.
pub fn block(text: &Text, indent: usize, width: usize) -> String {
    let lines = text.lines(width.saturating_sub(indent).max(1));
    let lines = lines.iter().map(|line| format!("{:indent$}{}", "", painted(line)));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Two texts beside each other, or below each other where there is no room.
pub fn pair(paint: Paint, left: &Column, right: &Column, width: usize) -> String {
    if width < NARROWEST {
        let one = |column: &Column| format!("{}\n{}", paint.bold(&column.title), block(&column.text, 2, width));
        return one(left) + &one(right);
    }
    let column = (width - measure_text_width(BETWEEN)) / 2;
    let (first, second) = (left.text.lines(column), right.text.lines(column));
    let padded = |text: String, taken: usize| format!("{text}{}", " ".repeat(column.saturating_sub(taken)));
    let mut text = format!(
        "{}{BETWEEN}{}\n",
        padded(paint.bold(&left.title), measure_text_width(&left.title)),
        paint.bold(&right.title)
    );
    for at in 0..first.len().max(second.len()) {
        let side = |lines: &[Vec<Cell>]| lines.get(at).cloned().unwrap_or_default();
        let (one, other) = (side(&first), side(&second));
        let line = format!("{}{BETWEEN}{}", padded(painted(&one), cells(&one)), painted(&other));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(paint: Paint, before: &str, after: &str, width: usize) -> String {
        let column = |title: &str, text| Column {
            title: title.into(),
            text,
        };
        pair(
            paint,
            &column(
                "critique",
                Text::plain("It helps to cheat, which harms the one who learns."),
            ),
            &column("revision", Text::added(paint, before, after)),
            width,
        )
    }

    /// Catches: a line that is wider than its column, wide characters counted as one cell, words lost at a break, a long
    /// word that never fits, space at the beginning of lines lost.
    #[test]
    fn lines_fit_and_keep_every_word() {
        let text = "Zwölf Boxkämpfer 試験を受ける前に、よく眠ってください jagen   Viktor\n\n    let indented = 1;\n\
                    averyveryverylongwordthatneverfits end";
        for width in [1, 2, 7, 12, 40, 200] {
            let lines = Text::plain(text).lines(width);
            assert!(
                lines.iter().all(|line| cells(line) <= width.max(2)),
                "{width}: {lines:?}"
            );
            let flat = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let all: String = lines.iter().flatten().map(|cell| cell.0).collect();
            assert_eq!(flat(&all), flat(text), "{width}");
        }
        let wide = Text::plain(text).lines(200);
        let line = |at: usize| wide[at].iter().map(|cell| cell.0).collect::<String>();
        assert_eq!((line(1), line(2)), (String::new(), "    let indented = 1;".to_owned()));
    }

    /// Catches: colours that run into the other column or are not ended, marks around white space, columns where there is
    /// no room for them, columns out of line.
    #[test]
    fn what_was_added_is_marked_in_its_column() {
        let (before, after) = (
            "First, copy the exam at night.",
            "First, copy the poem and the song that you like best at night.",
        );
        let marks = columns(Paint::Marks, before, after, 80);
        assert_eq!(
            marks,
            "critique                               │ revision\n\
             It helps to cheat, which harms the one │ First, copy the {+poem and the song\n\
             who learns.                            │ that you like best+} at night.\n"
        );
        let colours = columns(Paint::Colours, before, after, 80);
        assert!(
            colours.contains("First, copy the \u{1b}[32mpoem and the song that\u{1b}[0m\n"),
            "{colours:?}"
        );
        assert!(
            colours.contains("│ \u{1b}[32myou like best\u{1b}[0m at night.\n"),
            "{colours:?}"
        );
        let stacked = columns(Paint::Marks, before, after, 40);
        assert!(stacked.starts_with("critique\n  It helps"), "{stacked}");
        assert!(!stacked.contains('│'));
    }
}
