//! Files that are read whole because they are small: recipes, constitutions, mappings.
//!
//! A path may lead to a device or to data; what is longer than any such file is not read to its end.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of the longest file.
const LIMIT: u64 = 16 << 20;

/// Reads a small file as text. `help` is the remedy where it cannot be read at all.
pub fn read_to_string(path: &Path, help: &str) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::io("read", path, error).help(help))?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::config(format!("this is longer than {} MiB", LIMIT >> 20))
            .at_file(path)
            .help(help));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to() + 1;
        Error::config(format!("this is not UTF-8 text (byte {place})"))
            .at_file(path)
            .help("save the file as UTF-8")
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Catches: a device read until the memory is full, a limit that is off by one.
    #[test]
    fn no_file_is_read_beyond_the_limit() {
        let error = read_to_string(Path::new("/dev/zero"), "name a file").unwrap_err();
        assert_eq!(error.to_string(), "/dev/zero: this is longer than 16 MiB");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LIMIT).unwrap();
        assert_eq!(read_to_string(file.path(), "").unwrap().len() as u64, LIMIT);
        file.as_file().set_len(LIMIT + 1).unwrap();
        assert!(read_to_string(file.path(), "").is_err());
    }
}
