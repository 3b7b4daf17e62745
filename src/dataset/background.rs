//! Work on a thread of its own that is always waited for.
//!
//! Threads and not rayon's pool, because this work waits: for disks, and for the side that it feeds.

use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result};

/// A running thread. Dropping it waits for its end, so that nothing is written behind the back of
/// whoever goes on; what the thread waits for must have been dropped before.
pub struct Background<T>(Option<JoinHandle<Result<T>>>);

impl<T: Send + 'static> Background<T> {
    pub fn start(name: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let thread = Builder::new().name(name.to_owned()).spawn(work).map_err(|error| {
            Error::unexpected("cannot start a thread")
                .help("the limit on processes may be reached (`ulimit -u`): end some and run the same command again")
                .because(error)
        })?;
        Ok(Self(Some(thread)))
    }

    /// Waits for the thread's answer.
    pub fn wait(mut self) -> Result<T> {
        match self.0.take().map(JoinHandle::join) {
            Some(Ok(answer)) => answer,
            _ => Err(Error::unexpected(
                "a thread that reads or writes a dataset stopped early",
            )),
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Whoever did not wait has another error to report, or wants no answer.
            let _ = thread.join();
        }
    }
}
