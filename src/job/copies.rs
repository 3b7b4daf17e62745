//! The copy of a job's files in an object store, if there is one, kept level file by file.

use std::path::Path;

use crate::error::Result;
use crate::object::{Placed, Replica};

/// Where committed files go besides the job's directory.
#[derive(Clone, Copy)]
pub(super) struct Copies<'a> {
    pub dir: &'a Path,
    pub replica: Option<&'a dyn Replica>,
}

impl Copies<'_> {
    /// Puts a file that this job alone writes.
    pub fn put(&self, path: &Path) -> Result<()> {
        match self.replica {
            Some(replica) => replica.replace(&self.name(path)),
            None => Ok(()),
        }
    }

    /// Puts a unit. If another process was faster, the file is theirs now.
    pub fn create(&self, path: &Path) -> Result<Placed> {
        match self.replica {
            Some(replica) => replica.create(&self.name(path)),
            None => Ok(Placed::Created),
        }
    }

    pub fn remove(&self, path: &Path) -> Result<()> {
        match self.replica {
            Some(replica) => replica.remove(&self.name(path)),
            None => Ok(()),
        }
    }

    fn name(&self, path: &Path) -> String {
        let inside = path.strip_prefix(self.dir).unwrap_or(path);
        let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    }
}
