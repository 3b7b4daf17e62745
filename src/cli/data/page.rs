//! The page of `data inspect`: statistics with bars, and rows as conversations.
//!
//! What models and users wrote is shown without the characters that a terminal would obey.

use std::fmt::Write;

use crate::cli::output::{bytes, grouped};
use crate::cli::paint::{Paint, clean, limited};
use crate::dataset::{self, Kind};
use crate::survey::lengths::{Bin, Distribution};
use crate::survey::{
    AnswerStats, DuplicateStats, Interval, LanguageStats, PreferenceStats, RejectReason, Specimen, SurveyStats,
    TextStats,
};

/// Columns of the longest bar.
const BAR: u64 = 40;

/// Lines of a list of which more are counted only.
const LISTED: usize = 10;

/// Characters of a text of a row; the rest is counted.
const SHOWN: usize = 4000;

/// What is known before the rows are read.
pub struct Head {
    pub reference: String,
    pub kind: Kind,
    pub rows: u64,
    pub running: bool,
    pub sha256: String,
    /// Of datasets only.
    pub shards: Option<usize>,
    pub bytes: Option<u64>,
}

pub struct Page {
    paint: Paint,
    text: String,
}

impl Page {
    pub fn new(paint: Paint) -> Self {
        Self {
            paint,
            text: String::new(),
        }
    }

    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn title(&mut self, title: &str) {
        self.line("");
        let title = self.bold(title);
        self.line(&title);
    }

    fn bold(&self, text: &str) -> String {
        self.paint.bold(text)
    }

    // ---- statistics ------------------------------------------------------------------------------

    pub fn statistics(&mut self, head: &Head, stats: &SurveyStats) {
        let mut line = format!("{}: {} {}", head.reference, grouped(stats.rows), head.kind);
        if let (Some(shards), Some(size)) = (head.shards, head.bytes) {
            let plural = if shards == 1 { "shard" } else { "shards" };
            let _ = write!(line, ", {shards} {plural}, {}", bytes(size));
        }
        let _ = write!(line, ", {} rejects", grouped(stats.rejects));
        self.line(&line);
        self.line(&format!("sha256 {}", head.sha256));
        if head.running {
            self.line("not complete: the run that writes it was stopped or goes on");
        }
        self.columns(head, stats);
        self.conversations(stats);
        self.lengths(&stats.texts);
        self.answers(&stats.answers);
        if let Some(preferences) = &stats.preferences {
            self.preferences(preferences);
        }
        self.duplicates(&stats.duplicates);
        self.languages(&stats.languages);
        self.rejects(&stats.reject_reasons);
    }

    fn columns(&mut self, head: &Head, stats: &SurveyStats) {
        self.title("Columns");
        let types = dataset::columns(head.kind);
        let top = |name: &str| {
            types
                .iter()
                .find(|(column, _)| column == name)
                .map_or("", |(_, kind)| kind.as_str())
        };
        let width = stats
            .columns
            .iter()
            .map(|column| column.name.chars().count())
            .max()
            .unwrap_or(0);
        for column in &stats.columns {
            let missing: Vec<String> = [(column.null, "null"), (column.empty, "empty")]
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", grouped(*count)))
                .collect();
            let values = grouped(column.values);
            let line = format!("  {:width$}  {values:>9}  {:<22}", column.name, missing.join(", "));
            self.line(&format!("{line}  {}", top(&column.name)));
        }
    }

    fn conversations(&mut self, stats: &SurveyStats) {
        let turns: Vec<(String, u64)> = stats
            .turns
            .iter()
            .filter(|(turns, _)| **turns > 0)
            .map(|(turns, count)| (turns.to_string(), *count))
            .collect();
        if !turns.is_empty() {
            self.title("Turns of the prompt");
            self.bars(&turns);
            let roles: Vec<String> = stats
                .roles
                .iter()
                .map(|(role, count)| format!("{} {role}", grouped(*count)))
                .collect();
            self.line(&format!("  roles: {}", clean(&roles.join(", "))));
        }
        for (title, counts) in [("Sources", &stats.sources), ("Tags", &stats.tags)] {
            if !counts.is_empty() {
                self.title(title);
                let mut counts: Vec<(String, u64)> =
                    counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
                counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                self.bars(&counts[..counts.len().min(LISTED)]);
                self.more(counts.len());
            }
        }
    }

    fn more(&mut self, listed: usize) {
        if listed > LISTED {
            self.line(&format!("  and {} more", grouped((listed - LISTED) as u64)));
        }
    }

    fn lengths(&mut self, texts: &[TextStats]) {
        for text in texts {
            self.title(&format!("Length of `{}`", text.name));
            self.line(&format!(
                "  {:<12}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
                "", "mean", "min", "p10", "median", "p90", "p99", "max"
            ));
            let units = [
                ("tokens", &text.tokens),
                ("words", &text.words),
                ("characters", &text.chars),
            ];
            for (unit, found) in units {
                if let Some(found) = found {
                    self.quantiles(unit, found);
                }
            }
            if let Some((unit, Some(found))) = units.iter().find(|(_, found)| found.is_some()) {
                self.line(&format!("  {unit}"));
                let width = found.bins.first().map_or(0, |bin| bin.to - bin.from);
                let name = |bin: &Bin| match bin.from == bin.to {
                    true => bin.from.to_string(),
                    // The tail.
                    false if bin.to - bin.from != width => format!("{}+", bin.from),
                    false => format!("{}-{}", bin.from, bin.to),
                };
                let bins: Vec<(String, u64)> = found.bins.iter().map(|bin| (name(bin), bin.count)).collect();
                self.bars(&bins);
            }
        }
    }

    fn quantiles(&mut self, unit: &str, found: &Distribution) {
        let mut line = format!("  {unit:<12}{:>10.1}", found.mean);
        for value in [found.min, found.p10, found.median, found.p90, found.p99, found.max] {
            let _ = write!(line, "{:>9}", grouped(u64::from(value)));
        }
        self.line(&line);
    }

    /// Horizontal bars in eighths of a column; the largest has the whole width.
    fn bars(&mut self, counts: &[(String, u64)]) {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let names: Vec<String> = counts.iter().map(|(name, _)| shortened(&clean(name), 32)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, (_, count)) in names.iter().zip(counts) {
            // Something is never shown as nothing.
            let eighths = (count * BAR * 8).div_ceil(most);
            let bar = "█".repeat((eighths / 8) as usize) + EIGHTHS[(eighths % 8) as usize];
            let count = grouped(*count);
            self.line(&format!("  {name:>width$} {count:>9} {bar}"));
        }
    }

    fn answers(&mut self, answers: &[AnswerStats]) {
        let any = |stats: &AnswerStats| stats.empty + stats.refusals + stats.truncated > 0;
        if answers.iter().any(any) {
            self.title("Answers");
        }
        for stats in answers.iter().filter(|stats| any(stats)) {
            let parts = [
                (stats.empty, "empty"),
                (stats.refusals, "refuse"),
                (stats.truncated, "cut off at the limit"),
            ];
            let parts: Vec<String> = parts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", share(*count, stats.count)))
                .collect();
            self.line(&format!("  {:<14}{}", stats.name, parts.join(", ")));
        }
    }

    fn preferences(&mut self, stats: &PreferenceStats) {
        self.title("Labels: p_chosen");
        let bins: Vec<(String, u64)> = stats
            .p_chosen
            .iter()
            .zip(0_u32..)
            .map(|(count, step)| {
                let from = 0.5 + 0.05 * f64::from(step);
                (format!("{from:.2}-{:.2}", from + 0.05), *count)
            })
            .collect();
        self.bars(&bins);
        if stats.ties > 0 {
            self.line(&format!("  {} ties", share(stats.ties, stats.rows)));
        }
        if let Some(Interval { share, low, high, n }) = stats.prefer_longer {
            self.line(&format!(
                "  the longer answer is preferred in {:.1} % of {} pairs of unequal length in {} (95 %: {:.1} to {:.1})",
                100.0 * share,
                grouped(n),
                stats.length_unit,
                100.0 * low,
                100.0 * high
            ));
        }
    }

    fn duplicates(&mut self, stats: &DuplicateStats) {
        self.title("Duplicates");
        self.line(&format!("  exact    {} an earlier one", repeat(stats.exact_rows)));
        for repeated in &stats.exact {
            self.line(&format!(
                "    {} times: {}",
                grouped(repeated.rows.into()),
                clean(&repeated.text)
            ));
        }
        self.line(&format!("  prompts  {} an earlier prompt", repeat(stats.prompt_rows)));
        self.line(&format!(
            "  near     {} rows in {} {}, at a similarity of {} or more",
            grouped(stats.near_rows + stats.near_groups),
            grouped(stats.near_groups),
            if stats.near_groups == 1 { "group" } else { "groups" },
            stats.near_threshold
        ));
        for group in &stats.near {
            self.line(&format!("    {} rows, similarity {:.2}", group.rows, group.similarity));
            for (id, text) in &group.examples {
                self.line(&format!("      {}  {}", clean(&shortened(id, 12)), clean(text)));
            }
        }
    }

    fn languages(&mut self, languages: &[(String, LanguageStats)]) {
        if languages.is_empty() {
            return;
        }
        self.title("Languages");
        self.line(&format!(
            "  {:<16}{:>9}{:>22}{:>9}",
            "", "rows", "empty or refusing", "rejects"
        ));
        for (name, stats) in languages.iter().take(LISTED) {
            let failures = match stats.rows {
                0 => String::new(),
                rows => share(stats.failures, rows),
            };
            let (rows, rejects) = (grouped(stats.rows), grouped(stats.rejects));
            self.line(&format!("  {name:<16}{rows:>9}{failures:>22}{rejects:>9}"));
        }
        self.more(languages.len());
    }

    fn rejects(&mut self, reasons: &[RejectReason]) {
        if reasons.is_empty() {
            return;
        }
        self.title("Rejects");
        for reason in reasons.iter().take(LISTED) {
            self.line(&format!(
                "  {:>9}  {}: {}",
                grouped(reason.count),
                reason.stage,
                clean(&reason.reason)
            ));
            if !reason.example.is_empty() {
                self.line(&format!("             {}", clean(&shortened(&reason.example, 80))));
            }
        }
        self.more(reasons.len());
    }

    // ---- rows ------------------------------------------------------------------------------------

    /// A row as a conversation.
    pub fn row(&mut self, row: &Specimen<'_>) {
        self.title(&format!("── {} ", clean(row.id)));
        for (name, value) in &row.facts {
            self.line(&format!("{name}: {}", clean(value)));
        }
        for message in row.prompt {
            self.part(&message.role, &painted(&message.content));
        }
        if !row.prefix.is_empty() {
            self.part("prefix", &painted(row.prefix));
        }
        for answer in &row.answers {
            // The final answer is the last revision, which its round shows.
            if answer.name == "final" && !row.rounds.is_empty() {
                continue;
            }
            self.part(answer.name, &painted(&answer.text));
            if answer.name == "initial" {
                self.rounds(row, &answer.text);
            }
        }
    }

    fn rounds(&mut self, row: &Specimen<'_>, initial: &str) {
        let mut before = initial;
        for (number, round) in (1..).zip(row.rounds) {
            self.part(
                &format!("critique {number}: {}", round.principle_id),
                &painted(&round.critique),
            );
            let text = match before == round.revision {
                true => "(unchanged)".to_owned(),
                false => self.paint.difference(&painted(before), &painted(&round.revision)),
            };
            self.part(&format!("revision {number}"), &text);
            before = &round.revision;
        }
    }

    fn part(&mut self, name: &str, text: &str) {
        let name = self.bold(&clean(name));
        self.line(&name);
        for line in text.lines() {
            self.line(&format!("  {line}"));
        }
    }
}

fn repeat(rows: u64) -> String {
    match rows {
        1 => "1 row repeats".to_owned(),
        rows => format!("{} rows repeat", grouped(rows)),
    }
}

/// `12 (3.4 %)`.
fn share(count: u64, of: u64) -> String {
    format!("{} ({:.1} %)", grouped(count), 100.0 * count as f64 / of.max(1) as f64)
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text of a row: clean, and not longer than a reader can bear.
fn painted(text: &str) -> String {
    limited(text, SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Message, Round};
    use crate::survey::Answer;

    fn shown(paint: Paint) -> String {
        let prompt = [Message::user("How do I copy\u{1b}[2J the exam?")];
        let rounds = [Round {
            principle_id: "honest".into(),
            critique_request: String::new(),
            critique: "It helps to cheat.".into(),
            revision_request: String::new(),
            revision: "First, copy the poem at night.\n\nThen read it.".into(),
            changed: true,
            principle_hash: String::new(),
        }];
        let answer = |name, text: &'static str, result| Answer {
            name,
            text: text.into(),
            result,
            truncated: false,
        };
        let row = Specimen {
            id: "r1",
            prompt: &prompt,
            prefix: "",
            answers: vec![
                answer("initial", "First, copy the exam at night.", false),
                answer("final", "First, copy the poem at night.\n\nThen read it.", true),
            ],
            rounds: &rounds,
            source: None,
            tags: None,
            p_chosen: None,
            facts: Vec::new(),
        };
        let mut page = Page::new(paint);
        page.row(&row);
        page.finish()
    }

    /// Catches: differences without marks where there is no colour, colour without end, and control
    /// characters of a text that reach the terminal.
    #[test]
    fn a_revision_shows_what_it_changed() {
        insta::assert_snapshot!(shown(Paint::Marks));
        let colours = shown(Paint::Colours);
        assert!(
            colours.contains("\u{1b}[9;31mexam\u{1b}[0m \u{1b}[32mpoem\u{1b}[0m at night."),
            "{colours}"
        );
        assert!(!colours.contains("\u{1b}[2J"));
    }
}
