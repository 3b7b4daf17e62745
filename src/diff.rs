//! The words that a revision took out and put in.
//!
//! Knows nothing of rows, and nothing of how a difference is shown.
//! A longest common subsequence over words. What is kept between two changes and is shorter than
//! [`ISLAND`] words counts as changed: "the" alone in the middle of a rewritten sentence is chance.

use serde::Serialize;

/// Fewer kept words than this between two changes are no agreement.
const ISLAND: usize = 2;

/// Above this many comparisons the texts are treated as wholly different.
const MOST_CELLS: usize = 4_000_000;

/// A run of text, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    pub changed: bool,
    pub text: String,
}

/// Both texts, cut where they differ. Their pieces joined are the texts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub before: Vec<Piece>,
    pub after: Vec<Piece>,
}

/// What became of a run of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Removed,
    Added,
}

/// A run of one text made of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub fate: Fate,
    pub text: String,
}

/// Both texts as one, what was removed before what was added. Without the removed runs it is `after`.
pub fn edits(before: &str, after: &str) -> Vec<Edit> {
    let (old, new) = (split(before), split(after));
    let mut edits: Vec<Edit> = Vec::new();
    let mut push = |fate, words: &[&str]| {
        for word in words {
            match edits.last_mut() {
                Some(last) if last.fate == fate => last.text.push_str(word),
                _ => edits.push(Edit {
                    fate,
                    text: (*word).to_owned(),
                }),
            }
        }
    };
    let (mut i, mut j) = (0, 0);
    for (at, to) in kept(&old, &new) {
        push(Fate::Removed, &old[i..at]);
        push(Fate::Added, &new[j..to]);
        push(Fate::Kept, &new[to..=to]);
        (i, j) = (at + 1, to + 1);
    }
    push(Fate::Removed, &old[i..]);
    push(Fate::Added, &new[j..]);
    edits
}

/// Compares two texts word by word.
pub fn words(before: &str, after: &str) -> Difference {
    let (old, new) = (split(before), split(after));
    let kept = kept(&old, &new);
    let kept_old: Vec<usize> = kept.iter().map(|&(i, _)| i).collect();
    let kept_new: Vec<usize> = kept.iter().map(|&(_, j)| j).collect();
    Difference {
        before: pieces(&old, &kept_old),
        after: pieces(&new, &kept_new),
    }
}

/// The places `(i, j)` of the words that both texts have, ascending.
fn kept(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    without_islands(common(old, new), old.len(), new.len())
}

/// Words with the white space after them; white space at the very beginning is a word of its own.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut after_space = false;
    for (index, character) in text.char_indices() {
        let space = character.is_whitespace();
        if after_space && !space {
            words.push(&text[start..index]);
            start = index;
        }
        after_space = space;
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// The places `(i, j)` of a longest common subsequence, ascending.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let same = |i: usize, j: usize| old[i].trim() == new[j].trim();
    let shorter = old.len().min(new.len());
    let head = (0..shorter).take_while(|&k| same(k, k)).count();
    let tail = (0..shorter - head)
        .take_while(|&k| same(old.len() - 1 - k, new.len() - 1 - k))
        .count();
    let (rows, columns) = (old.len() - head - tail, new.len() - head - tail);

    let mut kept: Vec<_> = (0..head).map(|k| (k, k)).collect();
    if rows.saturating_mul(columns) <= MOST_CELLS {
        let width = columns + 1;
        let mut longest = vec![0_u32; (rows + 1) * width];
        for i in (0..rows).rev() {
            for j in (0..columns).rev() {
                longest[i * width + j] = if same(head + i, head + j) {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < rows && j < columns {
            if same(head + i, head + j) {
                kept.push((head + i, head + j));
                (i, j) = (i + 1, j + 1);
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                i += 1;
            } else {
                j += 1;
            }
        }
    }
    kept.extend((0..tail).rev().map(|k| (old.len() - 1 - k, new.len() - 1 - k)));
    kept
}

/// Drops the short runs of agreement that have changes on both sides.
fn without_islands(kept: Vec<(usize, usize)>, old_len: usize, new_len: usize) -> Vec<(usize, usize)> {
    kept.chunk_by(|a, b| b.0 == a.0 + 1 && b.1 == a.1 + 1)
        .filter(|run| {
            let (first, last) = (run[0], run[run.len() - 1]);
            let at_an_end = first == (0, 0) || (last.0 + 1, last.1 + 1) == (old_len, new_len);
            at_an_end || run.len() >= ISLAND
        })
        .flatten()
        .copied()
        .collect()
}

/// Joins neighbouring words of the same fate; `kept` is ascending.
fn pieces(words: &[&str], kept: &[usize]) -> Vec<Piece> {
    let mut kept = kept.iter().peekable();
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let changed = kept.next_if(|&&at| at == index).is_none();
        match pieces.last_mut() {
            Some(piece) if piece.changed == changed => piece.text.push_str(word),
            _ => pieces.push(Piece {
                changed,
                text: (*word).to_owned(),
            }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `before => after` with the changed words in brackets.
    fn marked(before: &str, after: &str) -> String {
        let show = |pieces: &[Piece]| -> String {
            pieces
                .iter()
                .map(|piece| match piece.changed {
                    true => format!("[{}]", piece.text.trim_end()),
                    false => piece.text.trim_end().to_owned(),
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        let difference = words(before, after);
        format!("{} => {}", show(&difference.before), show(&difference.after))
    }

    #[test]
    fn marks_what_changed() {
        assert_eq!(
            marked("First, copy the exam at night.", "First, copy the poem at night."),
            "First, copy the [exam] at night. => First, copy the [poem] at night."
        );
        assert_eq!(marked("No.", "No. Ask your teacher."), "No. => No. [Ask your teacher.]");
        assert_eq!(marked("", "Hello"), " => [Hello]");
        assert_eq!(marked("the same", "the same"), "the same => the same");
    }

    /// Catches: words lost or doubled where the two texts are put into one.
    #[test]
    fn one_text_of_both_holds_both() {
        for (before, after) in [
            ("First, copy the exam at night.", "First, copy the poem at night."),
            ("a b c d", "a b x c d"),
            ("", "new"),
            ("old", ""),
            ("same", "same"),
        ] {
            let edits = edits(before, after);
            let join = |left_out: Fate| -> String {
                let kept = edits.iter().filter(|edit| edit.fate != left_out);
                kept.map(|edit| edit.text.as_str()).collect()
            };
            assert_eq!(join(Fate::Added), before);
            assert_eq!(join(Fate::Removed), after);
            assert!(edits.windows(2).all(|pair| pair[0].fate != pair[1].fate));
        }
    }

    #[test]
    fn a_lone_common_word_is_no_agreement() {
        assert_eq!(
            marked("slip the phone away", "leave me the note now"),
            "[slip the phone away] => [leave me the note now]"
        );
    }

    #[test]
    fn nothing_is_lost() {
        for (before, after) in [
            ("  a  b\n\nc ", "a b d\n"),
            ("", " "),
            ("größe ist egal", "Größe ist nicht egal"),
        ] {
            let difference = words(before, after);
            let join = |pieces: &[Piece]| pieces.iter().map(|piece| piece.text.as_str()).collect::<String>();
            assert_eq!(join(&difference.before), before);
            assert_eq!(join(&difference.after), after);
        }
    }

    #[test]
    fn very_long_texts_are_not_compared_word_by_word() {
        let (before, after) = ("a b ".repeat(3000), "c d ".repeat(3000));
        let difference = words(&before, &after);
        assert_eq!((difference.before.len(), difference.after.len()), (1, 1));
    }
}
