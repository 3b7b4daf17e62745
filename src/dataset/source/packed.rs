//! Parquet files, 1,024 rows at a time; a row group is never decoded whole.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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
        let mut file = tap::open(path)?;
        let failed = |error| tap::failed(path, error);
        let size = file.metadata().map_err(failed)?.len();
        if size == 0 {
            return Err(Error::input("the file is empty").at_file(path).help(HELP));
        }
        let other = file.try_clone().map_err(failed)?;
        check_magic(&mut file, size, path)?;
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

/// The reason without the names of the layers that passed it on.
fn bare(reason: &str) -> &str {
    let layers = [
        "External: ",
        "Parquet argument error: ",
        "Parquet error: ",
        "EOF: ",
        "Arrow: ",
    ];
    let mut rest = reason;
    while let Some(inner) = layers.iter().find_map(|layer| rest.strip_prefix(layer)) {
        rest = inner;
    }
    rest
}

const HELP: &str = "copy the file again if it was cut short, or write it again with pyarrow or polars";

/// What a file begins and ends with; the end of one whose footer is encrypted is another.
const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED: &[u8] = b"PARE";

/// Tells what is no Parquet at all from what is damaged.
fn check_magic(file: &mut File, size: u64, path: &Path) -> Result<()> {
    let mut read = |from: SeekFrom| -> Result<Vec<u8>> {
        let mut magic = Vec::new();
        file.seek(from)
            .and_then(|_| file.take(MAGIC.len() as u64).read_to_end(&mut magic))
            .map_err(|error| tap::failed(path, error))?;
        Ok(magic)
    };
    let first = read(SeekFrom::Start(0))?;
    let last = read(SeekFrom::Start(size.saturating_sub(MAGIC.len() as u64)))?;
    let refused = |reason: &str, help: &str| Err(Error::input(reason).at_file(path).help(help));
    match (&first[..], &last[..]) {
        (_, ENCRYPTED) => refused(
            "the Parquet file is encrypted",
            "decrypt it where its key is: read it with pyarrow and write it again",
        ),
        (MAGIC, MAGIC) => Ok(()),
        (MAGIC, _) => refused("the Parquet file is cut short: its footer is missing", HELP),
        (b"ARRO", _) => refused("this is an Arrow file", "name it `.arrow`"),
        _ => refused("this is not a Parquet file", "give the file the ending of its format"),
    }
}

/// Decodes where a panic on damaged pages becomes a reason; what has failed is not used again.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T, parquet::errors::ParquetError>) -> Result<T> {
    let broken = |reason: String| Error::input(reason).at_file(path).help(HELP);
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(broken(format!(
            "the Parquet file is damaged: {}",
            bare(&error.to_string())
        ))),
        Err(_) => Err(broken(
            "the Parquet file is damaged: its pages do not fit together".into(),
        )),
    }
}
