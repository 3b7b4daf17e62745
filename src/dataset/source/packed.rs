//! Parquet files, 1,024 rows at a time; a row group is never decoded whole.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::tap;
use crate::error::{Error, Result};

/// Rows to a batch.
const BATCH_ROWS: usize = 1024;

pub struct RowGroups {
    path: PathBuf,
    file: File,
    reader: ParquetRecordBatchReader,
    size: u64,
    rows: u64,
    rows_read: u64,
}

impl RowGroups {
    pub fn open(path: &Path) -> Result<Self> {
        let file = tap::open(path)?;
        let failed = |error| tap::failed(path, error);
        let size = file.metadata().map_err(failed)?.len();
        if size == 0 {
            return Err(Error::input("the file is empty").at_file(path).help(HELP));
        }
        let other = file.try_clone().map_err(failed)?;
        let (reader, rows) = guarded(path, || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(other)?.with_batch_size(BATCH_ROWS);
            let rows = builder.metadata().file_metadata().num_rows();
            Ok((builder.build()?, rows))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            reader,
            size,
            rows: u64::try_from(rows).unwrap_or(0),
            rows_read: 0,
        })
    }

    /// Bytes of the file that the rows read so far stand for.
    pub fn bytes(&self) -> u64 {
        match self.rows {
            0 => self.size,
            rows => (self.size as f64 * (self.rows_read.min(rows) as f64 / rows as f64)) as u64,
        }
    }

    pub fn sha256(&mut self) -> Result<String> {
        tap::hash(&mut self.file, &self.path)
    }

    pub fn next(&mut self) -> Result<Option<RecordBatch>> {
        let reader = &mut self.reader;
        let batch = guarded(&self.path, || reader.next().transpose().map_err(Into::into))?;
        self.rows_read += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        Ok(batch)
    }
}

const HELP: &str = "copy the file again if it was cut short, or write it again with pyarrow or polars";

/// Decodes where a panic on damaged pages becomes a reason; what has failed is not used again.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T, parquet::errors::ParquetError>) -> Result<T> {
    let broken = |reason: String| Error::input(reason).at_file(path).help(HELP);
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(broken(format!("cannot be read as Parquet: {error}"))),
        Err(_) => Err(broken(
            "the Parquet file is damaged: its pages do not fit together".into(),
        )),
    }
}
