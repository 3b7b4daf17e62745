//! Whether a result can lie where it is to go, before any work is done for it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

const REMEDY: &str = "give an empty or new directory as --out";

/// Refuses a path that is no directory, or that leads through something that is none.
pub fn check(out: &Path) -> Result<()> {
    let refused = |place: &Path, reason: &str| {
        Err(Error::config(format!("the output directory cannot be made: {reason}"))
            .at_file(place)
            .help(REMEDY))
    };
    for place in out.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        let link = match fs::symlink_metadata(place) {
            // What is above decides.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) if is_loop(&error) => continue,
            Err(error) => return refused(place, &error.to_string()),
            Ok(metadata) => metadata.is_symlink(),
        };
        return match fs::metadata(place) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(metadata) if metadata.is_file() => refused(place, "this is a file"),
            Ok(_) => refused(place, "this is a device or a pipe"),
            Err(error) if is_loop(&error) => refused(place, "this symbolic link leads back to itself"),
            Err(error) if link && error.kind() == ErrorKind::NotFound => {
                refused(place, "this symbolic link leads nowhere")
            }
            Err(error) => refused(place, &error.to_string()),
        };
    }
    Ok(())
}

fn is_loop(error: &std::io::Error) -> bool {
    cfg!(unix) && error.raw_os_error() == Some(libc::ELOOP)
}
