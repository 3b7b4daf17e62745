//! Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::LogFormat;
use super::output::{self, bytes, log_format};
use crate::progress::Progress;

/// The unit that is shown in KiB, MiB and so on.
const BYTES: &str = "bytes";

/// Plain lines come at most this often.
const INTERVAL: Duration = Duration::from_secs(10);

pub struct Display {
    quiet: bool,
    terminal: bool,
    state: Mutex<Option<Loop>>,
}

/// The loop on display.
struct Loop {
    bar: ProgressBar,
    label: String,
    unit: &'static str,
    figure: String,
    /// Done before this loop began.
    before: u64,
    begun: Instant,
    told: Instant,
}

impl Loop {
    /// How far it is, with rate and time left.
    fn tell(&self) {
        let (position, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let rate = position.saturating_sub(self.before) as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        let left = (total.saturating_sub(position)) as f64 / rate.max(1e-9);
        let (label, unit, figure) = (&self.label, self.unit, &self.figure);
        if log_format() == LogFormat::Json {
            return self.event(
                "progress",
                position,
                serde_json::json!({ "rate": rate, "seconds_left": left }),
            );
        }
        let counts = match unit {
            BYTES => format!("{}/{}, {}/s", bytes(position), bytes(total), bytes(rate as u64)),
            unit => format!("{position}/{total} {unit}, {rate:.1}/s"),
        };
        output::line(&format!("{label}: {counts}, {left:.0} s left  {figure}"));
    }

    fn tell_end(&self) {
        let (done, seconds) = (self.bar.position(), self.begun.elapsed().as_secs_f64());
        if log_format() == LogFormat::Json {
            return self.event("finished", done, serde_json::json!({ "seconds": seconds }));
        }
        let (label, figure) = (&self.label, &self.figure);
        let done = done.saturating_sub(self.before);
        let done = match self.unit {
            BYTES => bytes(done),
            unit => format!("{done} {unit}"),
        };
        output::line(&format!("{label}: {done} in {seconds:.1} s  {figure}"));
    }

    fn event(&self, event: &str, done: u64, mut fields: serde_json::Value) {
        fields["event"] = event.into();
        fields["loop"] = self.label.as_str().into();
        fields["done"] = done.into();
        fields["total"] = self.bar.length().into();
        fields["unit"] = self.unit.into();
        fields["figure"] = self.figure.as_str().into();
        output::event("info", fields);
    }
}

impl Display {
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            state: Mutex::new(None),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Option<Loop>)) {
        // A panic in another thread must not hide progress.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Display {
    fn start(&self, label: &str, total: u64, unit: &'static str) {
        if self.quiet {
            return;
        }
        let target = if self.terminal && log_format() == LogFormat::Text {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let counts = match unit {
            BYTES => "{bytes}/{total_bytes} {bytes_per_sec}".to_owned(),
            unit => format!("{{pos}}/{{len}} {unit} {{per_sec}}"),
        };
        let template = format!("{{prefix:>14}} {{bar:30}} {counts} {{eta}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(label.to_owned());
        let now = Instant::now();
        self.with(|state| {
            *state = Some(Loop {
                bar,
                label: label.to_owned(),
                unit,
                figure: String::new(),
                before: 0,
                begun: now,
                told: now,
            });
        });
    }

    fn advance(&self, done: u64) {
        self.with(|state| {
            let Some(state) = state else { return };
            state.bar.inc(done);
            let lines = !self.terminal || log_format() == LogFormat::Json;
            if lines && state.told.elapsed() >= INTERVAL {
                state.told = Instant::now();
                state.tell();
            }
        });
    }

    fn go_on(&self, done: u64) {
        self.with(|state| {
            let Some(state) = state else { return };
            state.before = done;
            state.bar.set_position(done);
            // Rate and time left are of what is done from here.
            state.bar.reset_eta();
        });
    }

    fn figure(&self, text: &str) {
        self.with(|state| {
            if let Some(state) = state {
                state.bar.set_message(text.to_owned());
                text.clone_into(&mut state.figure);
            }
        });
    }

    fn finish(&self) {
        self.with(|state| {
            let Some(state) = state.take() else { return };
            state.bar.finish_and_clear();
            state.tell_end();
        });
    }

    fn note(&self, line: &str) {
        if self.quiet {
            return;
        }
        self.with(|state| match state {
            Some(state) if self.terminal && log_format() == LogFormat::Text => state.bar.println(line),
            _ => output::line(line),
        });
    }
}
