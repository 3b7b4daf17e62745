//! How far a job is: a small file that the job keeps current, for people and programs that look in.
//!
//! Told, not trusted: nothing of a job's course depends on it, and its times are by the clock of the
//! machine.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::state_dir;
use crate::atomic;
use crate::engine::Usage;
use crate::error::{Error, Result};
use crate::object::Owner;

const FILE: &str = "status.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Running,
    /// Ctrl-C; the same command goes on.
    Stopped,
    Failed,
    Complete,
}

/// Prices of a paid endpoint, in dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Price {
    pub prompt: f64,
    pub completion: f64,
}

impl Price {
    pub fn of(self, usage: Usage) -> f64 {
        (usage.prompt_tokens as f64 * self.prompt + usage.completion_tokens as f64 * self.completion) / 1e6
    }
}

impl std::str::FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not IN,OUT in dollars for a million tokens, such as 0.15,0.60");
        let (prompt, completion) = text.split_once(',').ok_or_else(wrong)?;
        let number = |text: &str| {
            let price: f64 = text.trim().parse().map_err(|_| wrong())?;
            if price.is_finite() && price >= 0.0 {
                Ok(price)
            } else {
                Err(wrong())
            }
        };
        Ok(Self {
            prompt: number(prompt)?,
            completion: number(completion)?,
        })
    }
}

/// The content of the file. Counts are of the whole job, whatever number of processes worked on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusFile {
    pub stage: String,
    pub state: State,
    pub owner: Owner,
    /// Seconds since 1970.
    pub updated: u64,
    pub inputs: u64,
    pub inputs_done: u64,
    pub units: u64,
    pub units_done: u64,
    pub rows: u64,
    pub rejects: u64,
    pub usage: Usage,
    /// Seconds of work on the units done.
    pub seconds: f64,
    /// Input rows and seconds of the process at work, for the rate.
    pub session_inputs: u64,
    pub session_seconds: f64,
    pub price: Option<Price>,
    pub last_error: Option<LastError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// Seconds since 1970.
    pub time: u64,
    pub message: String,
}

impl StatusFile {
    /// The status of the job in `dir`; `None` if there is none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_dir(dir).join(FILE)).ok()?).ok()
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::unexpected("the status").because(error))?;
        atomic::write(&state_dir(dir).join(FILE), &json)
    }

    /// Input rows a second of the process at work; `None` before its first unit.
    pub fn rate(&self) -> Option<f64> {
        (self.session_inputs > 0 && self.session_seconds > 0.0)
            .then(|| self.session_inputs as f64 / self.session_seconds)
    }

    /// Seconds left at that rate.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.inputs.saturating_sub(self.inputs_done) as f64;
        self.rate().map(|rate| left / rate)
    }

    /// Dollars so far, and when all is done at the same price a row.
    pub fn cost(&self) -> Option<(f64, f64)> {
        let so_far = self.price?.of(self.usage);
        let whole = match self.inputs_done {
            0 => 0.0,
            done => so_far * self.inputs as f64 / done as f64,
        };
        Some((so_far, whole))
    }
}

/// Says of a job that was complete before it could say so itself that it is.
pub(super) fn settle(dir: &Path) -> Result<()> {
    match StatusFile::read(dir) {
        Some(file) if file.state != State::Complete => StatusFile {
            state: State::Complete,
            last_error: None,
            ..file
        }
        .write(dir),
        _ => Ok(()),
    }
}

/// Keeps the file of a running job current.
pub(super) struct Reporter<'a> {
    dir: &'a Path,
    begun: Instant,
    pub file: StatusFile,
}

impl<'a> Reporter<'a> {
    pub fn new(dir: &'a Path, stage: &str, price: Option<Price>) -> Self {
        let earlier = StatusFile::read(dir);
        Self {
            dir,
            begun: Instant::now(),
            file: StatusFile {
                stage: stage.to_owned(),
                state: State::Running,
                owner: Owner::this_process(),
                updated: now(),
                inputs: 0,
                inputs_done: 0,
                units: 0,
                units_done: 0,
                rows: 0,
                rejects: 0,
                usage: Usage::default(),
                seconds: 0.0,
                session_inputs: 0,
                session_seconds: 0.0,
                price,
                last_error: earlier.and_then(|earlier| earlier.last_error),
            },
        }
    }

    /// Counts a unit of `inputs` input rows.
    pub fn count(&mut self, inputs: u64, tally: &super::unit::Tally, fresh: bool) {
        let file = &mut self.file;
        file.inputs_done += inputs;
        file.units_done += 1;
        file.rows += tally.rows;
        file.rejects += tally.rejects;
        file.usage += tally.usage;
        file.seconds += tally.seconds;
        if fresh {
            file.session_inputs += inputs;
        }
    }

    pub fn write(&mut self, state: State) -> Result<()> {
        self.file.state = state;
        self.file.updated = now();
        self.file.session_seconds = self.begun.elapsed().as_secs_f64();
        self.file.write(self.dir)
    }

    /// Notes why the job ended. Best effort: the error itself is what the user is told.
    pub fn ended(&mut self, error: &Error) {
        let stopped = error.kind() == crate::error::ErrorKind::Interrupted;
        if !stopped {
            self.file.last_error = Some(LastError {
                time: now(),
                message: error.to_string(),
            });
        }
        let _ = self.write(if stopped { State::Stopped } else { State::Failed });
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
