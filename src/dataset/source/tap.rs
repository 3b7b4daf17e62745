//! A file that is hashed and counted while it is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::record::hex;

/// Bytes asked of the system at once.
pub const BLOCK: usize = 256 << 10;

pub struct Tap {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
    /// Bytes that may still be read; see [`Tap::allow`].
    allowed: u64,
}

impl Tap {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: open(path)?,
            path: path.to_owned(),
            hash: Sha256::new(),
            bytes: 0,
            allowed: u64::MAX,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets `bytes` more be read, for readers of which a record may ask for the rest of the file. Beyond
    /// them reading fails with [`io::ErrorKind::FileTooLarge`].
    pub fn allow(&mut self, bytes: u64) {
        self.allowed = bytes;
    }

    /// The hash of what was read; of the whole file if it was read to its end.
    pub fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    pub fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error)
    }
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowed == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        self.allowed = self.allowed.saturating_sub(count as u64);
        Ok(count)
    }
}

pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failed(path, error))
}

pub fn failed(path: &Path, error: io::Error) -> Error {
    Error::io("read", path, error).help("check the path and the rights")
}

/// The hash of an open file from its beginning, for formats that are not read in order.
pub fn hash(file: &mut File, path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    file.seek(SeekFrom::Start(0)).map_err(|error| failed(path, error))?;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(path, error)),
        }
    }
}
