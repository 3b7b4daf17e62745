//! The stages of constitutional AI, as functions from rows to rows over an [`Engine`].
//!
//! A stage does no I/O and never sees Arrow. Every input row comes out exactly once, as a row or as a
//! [`Reject`] with the reason; every random choice comes from a seed of its row.

pub mod judge;
pub mod respond;
pub mod revise;
pub mod sample;
pub mod trial;

use crate::engine::{Engine, Generation, Refusal};
use crate::prompt::Templates;
use crate::record::{FinishReason, Reject};
use crate::seed::Seed;

/// One row's result.
pub type Outcome<R> = Result<R, Reject>;

/// What every stage works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub engine: &'a dyn Engine,
    pub templates: &'a Templates,
    /// The seed of the stage.
    pub seed: Seed,
    /// Completions that reach their token limit are used as they are instead of being rejected.
    pub keep_truncated: bool,
}

impl Context<'_> {
    /// The completion, or why it cannot be used. `what` names it in the reason.
    fn accept(&self, what: &str, generated: Result<Generation, Refusal>) -> Result<Generation, (String, String)> {
        let generation = generated.map_err(|Refusal(reason)| (format!("{what}: {reason}"), String::new()))?;
        if generation.finish_reason == FinishReason::Length && !self.keep_truncated {
            let reason = format!(
                "{what} is truncated: it reached its limit of {} tokens",
                generation.tokens
            );
            return Err((reason, generation.text));
        }
        if generation.text.is_empty() {
            return Err((format!("{what} is empty"), String::new()));
        }
        Ok(generation)
    }
}

fn reject(id: &str, stage: &str, (reason, raw): (String, String)) -> Reject {
    Reject {
        id: id.to_owned(),
        stage: stage.to_owned(),
        reason,
        raw,
    }
}
