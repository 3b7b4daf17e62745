//! Ctrl-C as a flag: the first one asks the loop in flight to finish its unit of work and stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Called by the signal handler. Answers whether a stop had been asked for before.
pub fn request() -> bool {
    REQUESTED.swap(true, Ordering::SeqCst)
}

/// An error of kind [`Interrupted`](crate::error::ErrorKind::Interrupted) once a stop is asked for.
pub fn check() -> Result<()> {
    if REQUESTED.load(Ordering::SeqCst) {
        return Err(Error::interrupted());
    }
    Ok(())
}
