//! What a run is given besides its method: where it writes, what identifies it, and what it leaves on its way.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::progress::Progress;

/// Where a run writes and what identifies it.
pub struct Setup<'a> {
    pub dir: PathBuf,
    /// Hash of everything the result depends on; a checkpoint of another run is refused.
    pub fingerprint: String,
    pub label: String,
    pub progress: &'a dyn Progress,
    /// A checkpoint is saved after so many steps; 0 for only when interrupted.
    pub save_steps: usize,
    /// The decoder that is given is trained itself instead of a copy, and whoever holds its tensors sees them change.
    pub in_place: bool,
    pub keeping: Keeping<'a>,
}

/// What a run leaves besides its result and its figures. None of it changes either.
pub struct Keeping<'a> {
    /// Checkpoints that are kept.
    pub checkpoints: usize,
    /// Models of the steps in between.
    pub export: Option<Export<'a>>,
    /// Whether the model is saved whenever held-out data say that it was never better; by whom `export` has.
    pub best: bool,
    /// Whether the figures are also written as TensorBoard reads them.
    pub tensorboard: bool,
    /// The names of the rows, for errors; their numbers are told where it is empty.
    pub rows: Vec<String>,
    /// Where the run tells how fast it was.
    pub speed: Rc<Cell<Option<Speed>>>,
}

impl Default for Keeping<'_> {
    fn default() -> Self {
        Self {
            checkpoints: 1,
            export: None,
            best: false,
            tensorboard: false,
            rows: Vec::new(),
            speed: Rc::default(),
        }
    }
}

impl Keeping<'_> {
    pub(super) fn export_steps(&self) -> usize {
        self.export.as_ref().map_or(0, |export| export.steps)
    }
}

/// Saves a model that is not finished.
pub struct Export<'a> {
    /// After so many steps; 0 for only before a step that cannot be done.
    pub steps: usize,
    pub save: Box<Save<'a>>,
}

/// Writes a model with its head, if it has one, into a directory that is there.
pub type Save<'a> = dyn Fn(&Path, &Decoder, Option<&ScalarHead>) -> Result<()> + 'a;

/// How fast this process was.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    begun: Instant,
    /// From the first step on.
    pub seconds: f64,
    pub steps: u64,
    /// Tokens that went forward and backward.
    pub tokens: u64,
}

impl Speed {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            seconds: 0.0,
            steps: 0,
            tokens: 0,
        }
    }

    pub(super) fn ended(self) -> Self {
        Self {
            seconds: self.begun.elapsed().as_secs_f64(),
            ..self
        }
    }

    /// So far; nothing where the tokens are not known.
    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.tokens as f64 / self.begun.elapsed().as_secs_f64().max(1e-9))
    }
}
