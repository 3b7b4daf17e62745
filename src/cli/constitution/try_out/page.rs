//! The page of `constitution try`: each prompt with its answer, critique and revision of each principle side by side, and
//! a table of what the principles did. What models and users wrote is shown without what a terminal would obey.

use std::fmt::Write as _;

use console::{Term, measure_text_width};

use super::asking::{Judgement, Labelled, Reviewed, Tried};
use super::changes::Changes;
use super::columns::{Column, Text, block, pair};
use super::figures::{ByPrinciple, ByQuestion, Judged, by_principle, by_question, judged};
use super::{Run, TryOut};
use crate::cli::output::grouped;
use crate::cli::paint::{Paint, clean, limited};
use crate::constitution::Principle;
use crate::engine::recording::Said;
use crate::stage::trial::Written;

/// Cells of a page where there is no terminal.
const PIPED: usize = 100;

/// Lines longer than this are hard to read, however wide the terminal.
const WIDEST: usize = 160;

/// Characters of a text of an answer; the rest is counted.
const SHOWN: usize = 4000;

const INDENT: usize = 2;

/// What is drawn on.
#[derive(Debug, Clone, Copy)]
pub struct Sheet {
    pub paint: Paint,
    pub width: usize,
}

/// Where this run stands among others, if files are watched.
pub struct Turn<'a> {
    pub number: usize,
    /// Since the run before, if there was one.
    pub changes: Option<&'a Changes>,
}

impl Sheet {
    pub fn of_stdout() -> Self {
        let term = Term::stdout();
        let width = term.is_term().then(|| term.size_checked()).flatten();
        Self {
            paint: Paint::of_stdout(),
            width: width.map_or(PIPED, |(_, columns)| usize::from(columns).clamp(20, WIDEST)),
        }
    }
}

/// The whole page.
pub fn draw(sheet: Sheet, args: &TryOut, run: &Run, turn: Option<&Turn<'_>>) -> String {
    let mut page = Page {
        sheet,
        run,
        turn,
        text: String::new(),
    };
    page.head(args);
    for (number, tried) in run.trial.prompts.iter().enumerate() {
        let count = run.trial.prompts.len();
        let title = match count {
            1 => "prompt".to_owned(),
            _ => format!("prompt {} of {count}", number + 1),
        };
        page.rule('━', &title);
        page.prompt(tried);
        let exchanges = run.trial.exchanges.iter().filter(|exchange| exchange.prompt == number);
        exchanges.for_each(|exchange| page.exchange(exchange));
        page.answers(tried);
        for review in &tried.reviews {
            page.review(tried, review);
        }
    }
    page.rule('━', "summary");
    page.principles();
    page.questions();
    page.text
}

struct Page<'a> {
    sheet: Sheet,
    run: &'a Run,
    turn: Option<&'a Turn<'a>>,
    text: String,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// A line across the page, with a title in it.
    fn rule(&mut self, mark: char, title: &str) {
        let title = clean(title);
        let taken = 4 + measure_text_width(&title);
        let rest = mark.to_string().repeat(self.sheet.width.saturating_sub(taken));
        let title = self.sheet.paint.bold(&format!("{mark}{mark} {title}"));
        self.line(&format!("\n{title} {rest}"));
    }

    fn block(&mut self, text: &str) {
        let text = block(&Text::plain(&shown(text)), INDENT, self.sheet.width);
        self.text.push_str(&text);
    }

    fn remark(&mut self, text: &str) {
        let text = block(&Text::plain(&clean(text)), 0, self.sheet.width);
        self.text.push_str(&text);
    }

    fn principle(&self, index: usize) -> &Principle {
        &self.run.constitution.principles[index]
    }

    fn head(&mut self, args: &TryOut) {
        let constitution = &self.run.constitution;
        let title = format!("{} {} on {}", constitution.name, constitution.version, args.model);
        let title = self.sheet.paint.bold(&clean(&title));
        self.line(&title);
        if let Some(turn) = self.turn {
            let requests = self.run.requests;
            let mut told = format!(
                "run {}: {} of {} requests asked, {:.2} s",
                turn.number,
                grouped(requests.asked),
                grouped(requests.asked + requests.remembered),
                self.run.seconds
            );
            if let Some(changes) = turn.changes {
                let _ = write!(told, " · {}", changes.told());
            }
            self.remark(&told);
        }
        for note in &self.run.notes {
            self.remark(&format!("note: {note}"));
        }
    }

    fn prompt(&mut self, tried: &Tried) {
        match tried.prompt.messages.as_slice() {
            [only] => self.block(&only.content),
            several => {
                for message in several {
                    let role = self.sheet.paint.bold(&clean(&message.role));
                    self.line(&role);
                    self.block(&message.content);
                }
            }
        }
    }

    /// The answer, or the two that are compared, with what is said of them.
    fn answers(&mut self, tried: &Tried) {
        self.line("");
        let Some(other) = &tried.other else {
            let title = titled("answer", &tried.answer, None);
            let title = self.sheet.paint.bold(&title);
            self.line(&title);
            let text = block(&written(&tried.answer), INDENT, self.sheet.width);
            self.text.push_str(&text);
            return;
        };
        let column = |name: &str, answer: &Written| Column {
            title: titled(name, answer, None),
            text: written(answer),
        };
        let (first, second) = (column("first answer", &tried.answer), column("second answer", other));
        let text = pair(self.sheet.paint, &first, &second, self.sheet.width);
        self.text.push_str(&text);
        let same = matches!((&tried.answer, other), (Ok(first), Ok(second)) if first.text == second.text);
        if same {
            self.remark("not judged: both answers are the same; a higher --temperature or another --seed draws others");
        }
        for judgement in &tried.compared {
            self.principle_rule(judgement.question);
            let names = ["first answer", "second answer"];
            self.verdict(std::slice::from_ref(judgement), names);
        }
    }

    /// The beginning of what is said of a principle.
    fn principle_rule(&mut self, index: usize) {
        let principle = self.principle(index);
        let touched = self
            .turn
            .and_then(|turn| turn.changes)
            .is_some_and(|changes| changes.touches(&principle.id));
        let mark = if touched { " · changed since the last run" } else { "" };
        let title = format!("{} · weight {}{mark}", principle.id, principle.weight);
        self.rule('─', &title);
    }

    fn review(&mut self, tried: &Tried, review: &Reviewed) {
        self.principle_rule(review.principle);
        let Some(critique) = &review.critique else {
            return self.remark("not asked: there is no answer that can be used");
        };
        if tried.changed(review) == Some(true) {
            match review.judged.is_empty() {
                true => self.remark("not judged: neither this principle nor another one has a question for it"),
                false => self.verdict(&review.judged, ["answer", "revision"]),
            }
        }
        let left = Column {
            title: titled("critique", critique, None),
            text: written(critique),
        };
        let text = pair(self.sheet.paint, &left, &self.revision(tried, review), self.sheet.width);
        self.text.push_str(&text);
    }

    fn revision(&self, tried: &Tried, review: &Reviewed) -> Column {
        let Some(revision) = &review.revision else {
            return Column {
                title: "revision".into(),
                text: Text::plain("[not asked: the critique cannot be used]"),
            };
        };
        match tried.pair(review) {
            Some((answer, after)) if answer.text == after.text => Column {
                title: "revision".into(),
                text: Text::plain("(the answer, unchanged)"),
            },
            Some((answer, after)) => Column {
                title: titled("revision", revision, Some(answer.tokens)),
                text: Text::added(self.sheet.paint, &shown(&answer.text), &shown(&after.text)),
            },
            None => Column {
                title: titled("revision", revision, None),
                text: written(revision),
            },
        }
    }

    /// What the questions say of two texts with these names.
    fn verdict(&mut self, judgements: &[Judgement], names: [&str; 2]) {
        if let Some(judged) = judged(judgements) {
            let text = told(&judged, names);
            self.remark(&text);
        }
        let failed: Vec<&str> = judgements
            .iter()
            .filter_map(|of| of.said.as_ref().err())
            .map(String::as_str)
            .collect();
        if let Some(first) = failed.first() {
            let (count, all) = (failed.len(), judgements.len());
            self.remark(&format!("[{count} of {all} questions came to nothing: {first}]"));
        }
    }

    fn exchange(&mut self, labelled: &Labelled) {
        self.rule('─', &labelled.label);
        // As it stands: not broken to lines, not indented, not cut.
        let prompt = clean(&labelled.exchange.prompt);
        self.text.push_str(&prompt);
        self.text.push('\n');
        let what = match &labelled.exchange.answer {
            Said::Text(_) => "┄┄ the model writes",
            Said::Scores(_) => "┄┄ log-probabilities",
            Said::Refused(_) => "┄┄ no answer",
        };
        let what = self.sheet.paint.bold(what);
        self.line(&what);
        self.line(&clean(&labelled.exchange.answer.to_string()));
    }

    // ---- the table ------------------------------------------------------------------------------

    fn principles(&mut self) {
        let rows = by_principle(&self.run.trial);
        if rows.is_empty() {
            return;
        }
        let head = ["weight", "changed", "judged better", "p", "tokens"];
        let cells = |row: &ByPrinciple| {
            let principle = self.principle(row.principle);
            let mut cells = vec![
                principle.weight.to_string(),
                format!("{} of {}", row.changed, row.revised),
                share(row.better, row.judged),
                number(row.p),
                row.tokens
                    .map_or_else(|| "-".to_owned(), |tokens| format!("{tokens:+.1}")),
            ];
            cells.extend((row.failed > 0).then(|| format!("{} without a revision", row.failed)));
            (principle.id.clone(), cells)
        };
        let rows: Vec<_> = rows.iter().map(cells).collect();
        self.table("principle", &head, &rows);
    }

    fn questions(&mut self) {
        let rows = by_question(&self.run.trial);
        if rows.is_empty() {
            return;
        }
        let prefers = match self.run.trial.plan.comparing.is_empty() {
            true => "for the revision",
            false => "for the second",
        };
        let head = ["weight", prefers, "p", "orders differ"];
        let cells = |row: &ByQuestion| {
            let principle = self.principle(row.question);
            let mut cells = vec![
                principle.weight.to_string(),
                share(row.prefers, row.asked - row.failed),
                number(row.p),
                share(row.torn, row.asked - row.failed),
            ];
            cells.extend((row.failed > 0).then(|| format!("{} without a verdict", row.failed)));
            (principle.id.clone(), cells)
        };
        let rows: Vec<_> = rows.iter().map(cells).collect();
        if !self.run.trial.plan.critics.is_empty() {
            self.line("");
        }
        self.table("question", &head, &rows);
    }

    /// Rows by names, the cells below the head aligned to its right.
    fn table(&mut self, name: &str, head: &[&str], rows: &[(String, Vec<String>)]) {
        let widths: Vec<usize> = (0..head.len())
            .map(|at| {
                let cells = rows.iter().map(|(_, cells)| cells[at].chars().count());
                cells.chain([head[at].len()]).max().unwrap_or(0)
            })
            .collect();
        let names = rows
            .iter()
            .map(|(id, _)| measure_text_width(id))
            .chain([name.len()])
            .max()
            .unwrap_or(0);
        let line = |mark: char, name: &str, cells: &[&str]| {
            let mut line = format!("{mark} {name}{}", " ".repeat(names - measure_text_width(name)));
            for (at, cell) in cells.iter().enumerate() {
                // Behind the columns of the head, remarks.
                let width = widths.get(at).copied().unwrap_or(0);
                let _ = write!(line, "  {cell:>width$}");
            }
            line
        };
        let title = self.sheet.paint.bold(&line(' ', name, head));
        self.line(&title);
        let changes = self.turn.and_then(|turn| turn.changes);
        let mut any = false;
        for (id, cells) in rows {
            let touched = changes.is_some_and(|changes| changes.touches(id));
            any |= touched;
            let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            self.line(&line(if touched { '*' } else { ' ' }, id, &cells));
        }
        if any {
            self.line("* changed since the last run");
        }
    }
}

/// The name of a text, and how long it is; `before` are the tokens of what it stands in the place of.
fn titled(name: &str, written: &Written, before: Option<u32>) -> String {
    match (written, before) {
        (Err(_), _) => name.to_owned(),
        (Ok(text), None) => format!("{name} · {} tokens", text.tokens),
        (Ok(text), Some(before)) => {
            let change = i64::from(text.tokens) - i64::from(before);
            format!("{name} · {} tokens ({change:+})", text.tokens)
        }
    }
}

/// What was written, and if it cannot be used, why.
fn written(written: &Written) -> Text {
    match written {
        Ok(generation) => Text::plain(&shown(&generation.text)),
        Err(fault) if fault.raw.is_empty() => Text::plain(&format!("[{}]", clean(&fault.reason))),
        Err(fault) => Text::plain(&format!("{}\n[{}]", shown(&fault.raw), clean(&fault.reason))),
    }
}

fn told(judged: &Judged, [first, second]: [&str; 2]) -> String {
    let [at_a, turned] = judged.orders;
    let mut text = format!(
        "{second} better: p {:.2} ({first} at (A): {at_a:.2}, {second} at (A): {turned:.2})",
        judged.p
    );
    if judged.of > 1 {
        let _ = write!(text, " · {} of {} questions for it", judged.prefer, judged.of);
    }
    text
}

/// A text clean, and not longer than a reader can bear.
fn shown(text: &str) -> String {
    limited(text, SHOWN)
}

fn share(count: usize, of: usize) -> String {
    match of {
        0 => "-".to_owned(),
        of => format!("{count} of {of}"),
    }
}

fn number(value: Option<f32>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}
