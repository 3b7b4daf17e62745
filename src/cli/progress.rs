//! Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::bytes;
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
    begun: Instant,
    told: Instant,
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
        let target = if self.terminal {
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
                begun: now,
                told: now,
            });
        });
    }

    fn advance(&self, done: u64) {
        self.with(|state| {
            let Some(state) = state else { return };
            state.bar.inc(done);
            if !self.terminal && state.told.elapsed() >= INTERVAL {
                state.told = Instant::now();
                let (position, total) = (state.bar.position(), state.bar.length().unwrap_or(0));
                let rate = position as f64 / state.begun.elapsed().as_secs_f64();
                let left = (total.saturating_sub(position)) as f64 / rate.max(1e-9);
                let (label, unit, figure) = (&state.label, state.unit, &state.figure);
                let counts = match unit {
                    BYTES => format!("{}/{}, {}/s", bytes(position), bytes(total), bytes(rate as u64)),
                    unit => format!("{position}/{total} {unit}, {rate:.1}/s"),
                };
                eprintln!("{label}: {counts}, {left:.0} s left  {figure}");
            }
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
            let (done, seconds) = (state.bar.position(), state.begun.elapsed().as_secs_f64());
            state.bar.finish_and_clear();
            let (label, unit, figure) = (state.label, state.unit, state.figure);
            let done = match unit {
                BYTES => bytes(done),
                unit => format!("{done} {unit}"),
            };
            eprintln!("{label}: {done} in {seconds:.1} s  {figure}");
        });
    }

    fn note(&self, line: &str) {
        if self.quiet {
            return;
        }
        self.with(|state| match state {
            Some(state) if self.terminal => state.bar.println(line),
            _ => eprintln!("{line}"),
        });
    }
}
