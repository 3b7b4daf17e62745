//! The rows of a dataset one after the other, in the memory of two shards.
//!
//! A thread reads, verifies and decodes the next shard while the rows of this one are made.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use arrow::record_batch::RecordBatch;

use super::background::Background;
use super::row::{BatchRows, Row};
use super::shard::{self, Shard};
use crate::error::{Error, Result};

/// An iterator over rows; see [`super::Dataset::rows`]. A shard that cannot be read ends it with its
/// error; a row that cannot be made does not.
pub struct Rows<R: Row> {
    /// The number of shards that are still to come out of `decoded`.
    shards_left: usize,
    path: PathBuf,
    batches: std::vec::IntoIter<RecordBatch>,
    rows: Option<BatchRows<R>>,
    // Before the thread, which ends once there is nobody to take its shards.
    decoded: Receiver<Result<Decoded>>,
    _thread: Background<()>,
}

/// A shard's path and its record batches.
type Decoded = (PathBuf, Vec<RecordBatch>);

impl<R: Row> Rows<R> {
    pub(super) fn new(dir: &Path, shards: &[Shard]) -> Result<Self> {
        // No room in the channel: the thread holds one shard ready and reads no further.
        let (sender, decoded) = sync_channel(0);
        let shards_left = shards.len();
        let (dir, shards) = (dir.to_owned(), shards.to_vec());
        let thread = Background::start("dataset-read", move || {
            for shard in &shards {
                let batches = shard::read_verified(&dir, shard);
                if sender
                    .send(batches.map(|batches| (dir.join(&shard.file), batches)))
                    .is_err()
                {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(Self {
            shards_left,
            path: PathBuf::new(),
            batches: Vec::new().into_iter(),
            rows: None,
            decoded,
            _thread: thread,
        })
    }

    /// Goes on to the next record batch; false at the end.
    fn advance(&mut self) -> Result<bool> {
        // The last reader of a shard holds its memory.
        self.rows = None;
        loop {
            if let Some(batch) = self.batches.next() {
                self.rows = Some(BatchRows::new(&batch, &self.path)?);
                return Ok(true);
            }
            if self.shards_left == 0 {
                return Ok(false);
            }
            self.shards_left -= 1;
            let stopped = |_| Error::unexpected("the thread that reads the dataset stopped").at_file(&self.path);
            let (path, batches) = self.decoded.recv().map_err(stopped)??;
            self.path = path;
            self.batches = batches.into_iter();
        }
    }
}

impl<R: Row> Iterator for Rows<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(row) = self.rows.as_mut().and_then(Iterator::next) {
                return Some(row);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.shards_left = 0;
                    self.batches = Vec::new().into_iter();
                    return Some(Err(error));
                }
            }
        }
    }
}
