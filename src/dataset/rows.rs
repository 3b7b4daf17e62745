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
    dir: PathBuf,
    /// The shards that are still to come out of `decoded`.
    shards: std::vec::IntoIter<Shard>,
    path: PathBuf,
    batches: std::vec::IntoIter<RecordBatch>,
    rows: Option<BatchRows<R>>,
    // Before the thread, which ends once there is nobody to take its shards.
    decoded: Receiver<Result<Vec<RecordBatch>>>,
    _thread: Background<()>,
}

impl<R: Row> Rows<R> {
    pub(super) fn new(dir: &Path, shards: &[Shard]) -> Result<Self> {
        // No room in the channel: the thread holds one shard ready and reads no further.
        let (sender, decoded) = sync_channel(0);
        let (own_dir, own_shards) = (dir.to_owned(), shards.to_vec());
        let thread = Background::start("dataset-read", move || {
            for shard in &own_shards {
                if sender.send(shard::read_verified(&own_dir, shard)).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            shards: shards.to_vec().into_iter(),
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
            let Some(shard) = self.shards.next() else {
                return Ok(false);
            };
            self.path = self.dir.join(&shard.file);
            let stopped = |_| Error::unexpected("the thread that reads the dataset stopped").at_file(&self.path);
            self.batches = self.decoded.recv().map_err(stopped)??.into_iter();
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
                    self.shards = Vec::new().into_iter();
                    self.batches = Vec::new().into_iter();
                    return Some(Err(error));
                }
            }
        }
    }
}
