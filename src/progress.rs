//! How long loops tell of their progress. The library never prints: the command line implements this.

/// A listener to one long loop at a time.
pub trait Progress: Sync {
    /// A loop of `total` units (`rows`, `steps`) begins.
    fn start(&self, label: &str, total: u64, unit: &'static str);
    /// `done` more units are finished.
    fn advance(&self, done: u64);
    /// `done` units are finished from an earlier time: no work of this loop.
    fn go_on(&self, done: u64) {
        self.advance(done);
    }
    /// A short figure to show beside the bar (`loss 0.31`).
    fn figure(&self, text: &str);
    /// The loop is over.
    fn finish(&self);
    /// A line for the log.
    fn note(&self, line: &str);
}

/// Listens to nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}
