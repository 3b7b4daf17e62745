//! The model that held-out data liked best, beside that of the end: a folder of its own, and which step it is of.
//!
//! The figure is a loss, so less is better. What was the best so far is in the checkpoints: a run that was stopped and goes
//! on comes to the same model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::run::Run;
use crate::atomic;
use crate::error::{Error, Result};

/// The folder of the model.
pub const DIR: &str = "best";
/// What it was the best by; written last.
pub const FILE: &str = "best.json";
/// The name under which the step and its loss are in a checkpoint.
const KEPT: &str = "best";

/// The best step so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done.
    pub step: usize,
    pub eval_loss: f64,
}

impl Best {
    /// What a training directory has, if it kept one.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let best = serde_json::from_str(&text).map_err(|error| {
            Error::input("the file does not say which step was the best")
                .at_file(&path)
                .because(error)
                .help("remove it: the model beside it stays, and so does that of the end")
        })?;
        Ok(Some(best))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(DIR).join(FILE)
}

impl Run<'_> {
    /// Saves the model of the step in hand if the run is to, and if no earlier one had a lower held-out loss. Of equals the
    /// first stays; a loss that is no number is not the lowest.
    pub fn keep_if_best(&mut self, eval_loss: f64) -> Result<()> {
        let before = match self.kept(KEPT) {
            Some([_, loss]) => *loss,
            _ => f64::INFINITY,
        };
        if !self.keeps_best() || eval_loss.is_nan() || eval_loss >= before {
            return Ok(());
        }
        let step = self.step() + 1;
        let folder = self.dir().join(DIR);
        checkpoint::create_folder(&folder)?;
        self.export_to(&folder)?;
        let json = serde_json::to_vec_pretty(&Best { step, eval_loss })
            .map_err(|error| Error::unexpected("the best step cannot be told").because(error))?;
        atomic::write(&path(self.dir()), &json)?;
        self.keep(KEPT, vec![step as f64, eval_loss]);
        Ok(())
    }
}
