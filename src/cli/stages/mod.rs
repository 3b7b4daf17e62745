//! The stage commands: settings, inputs, provenance, and the call of the stage.

pub mod audit;
pub mod balance;
pub mod eval;
pub mod generate;
pub mod held_out;
pub mod judging;
pub mod keeping;
pub mod kept;
pub mod lora;
pub mod online;
pub mod prompting;
pub mod rewarding;
pub mod train;
pub mod tuning;
pub mod winrate;
pub mod world;

use std::path::Path;

use serde_json::Value;

use super::session::Session;
use crate::error::{Error, Result};

/// What a stage left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    pub rows: Option<u64>,
    pub rejects: Option<u64>,
    /// Figures, if the stage measures something.
    pub result: Value,
    /// How fast it was, where that is of interest: told, and kept nowhere.
    pub speed: Value,
    /// How many requests were asked of the model and how many remembered, where it remembers: told, and kept nowhere.
    pub cache: Value,
    /// A few words for people.
    pub note: String,
    /// A page for people, where a few words do not say it.
    pub page: String,
    /// Why the result does not do, although there is one: a requirement that it does not meet.
    pub failure: Option<String>,
}

impl Done {
    pub fn summary(&self) -> String {
        let count = |count: Option<u64>, what: &str| count.map(|count| format!("{count} {what}"));
        let parts = [
            count(self.rows, "rows"),
            count(self.rejects.filter(|rejects| *rejects > 0), "rejects (see rejects/)"),
            (!self.note.is_empty()).then(|| self.note.clone()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            "done".into()
        } else {
            parts.join(", ")
        }
    }
}

/// How a stage takes part in a run that several machines divide among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// Each part works on its own rows of the input.
    Rows,
    /// Each part makes all of it: quick, and the same everywhere.
    Each,
    /// It needs all rows at once.
    Whole,
}

/// A stage of a recipe, with its settings.
pub trait Stage {
    /// The command, in words joined by `-`: `train-sft`.
    fn kind(&self) -> &'static str;

    fn division(&self) -> Division {
        Division::Whole
    }

    /// The command that usually follows on the result in `out`.
    fn next(&self, _out: &Path) -> Option<String> {
        None
    }

    /// Does the stage, or what is left of it, with its result in `out`.
    fn run(&self, session: &Session, out: &Path) -> Result<Done>;

    /// Does the stage for its answer alone, which is kept nowhere; for stages whose `--out` may be left out.
    fn answer(&self, _session: &Session) -> Result<Done> {
        Err(Error::config("--out is missing").help("name a directory for the result: --out DIR"))
    }
}

/// The text of a file, nothing if there is none. A file that cannot be read is not one that is absent.
fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}
