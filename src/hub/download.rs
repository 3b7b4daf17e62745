//! One file: what an earlier attempt left is kept and gone on from, and nothing gets its name before its
//! checksum is right.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{Client, Failure, broken};
use super::names::{Repository, is_hex};
use crate::error::{Error, Result};
use crate::http::unless_interrupted;
use crate::progress::Progress;
use crate::record::hex;
use crate::{atomic, interrupt};

/// What a file's content must come to, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the bytes.
    Sha256(String),
    /// SHA-1 of a git blob: `blob SIZE\0`, then the bytes.
    Git(String),
}

/// A checksum under way.
enum Running {
    Sha256(Sha256),
    Git(Sha1),
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub size: u64,
    pub checksum: Checksum,
}

impl Checksum {
    /// Which of the two it is, its length tells.
    pub fn parse(text: &str) -> Option<Self> {
        match text.len() {
            _ if !is_hex(text) => None,
            64 => Some(Self::Sha256(text.to_owned())),
            40 => Some(Self::Git(text.to_owned())),
            _ => None,
        }
    }

    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    fn begin(&self, size: u64) -> Running {
        match self {
            Self::Sha256(_) => Running::Sha256(Sha256::new()),
            Self::Git(_) => Running::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }

    /// Takes in what follows in `file`; answers how many bytes.
    fn read(&mut self, mut file: &File) -> std::io::Result<Result<u64>> {
        let mut chunk = vec![0; 1 << 20];
        let mut count = 0;
        loop {
            if let Err(stop) = interrupt::check() {
                return Ok(Err(stop));
            }
            match file.read(&mut chunk)? {
                0 => return Ok(Ok(count)),
                read => {
                    self.update(&chunk[..read]);
                    count += read as u64;
                }
            }
        }
    }
}

impl Wanted {
    /// Whether a file is this one.
    pub fn is_at(&self, path: &Path) -> Result<bool> {
        let Ok(file) = File::open(path) else { return Ok(false) };
        if !file
            .metadata()
            .is_ok_and(|found| found.is_file() && found.len() == self.size)
        {
            return Ok(false);
        }
        let mut running = self.checksum.begin(self.size);
        running.read(&file).map_err(|error| Error::io("read", path, error))??;
        Ok(running.finish() == self.checksum.digits())
    }
}

/// Where files come from.
pub struct Remote<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    pub commit: &'a str,
    pub progress: &'a dyn Progress,
}

impl Remote<'_> {
    /// Brings a file to `target`; what has come of it so far is in `partial`.
    pub async fn download(&self, wanted: &Wanted, partial: &Path, target: &Path) -> Result<()> {
        let mut download = Download::open(self, wanted, partial)?;
        let mut resumed = download.have > 0;
        while !download.complete().await? {
            if !resumed {
                // Nothing that is wrong stays.
                let _ = fs::remove_file(partial);
                return Err(Error::remote(format!(
                    "{} came with another content than the hub lists: its checksum should be {}",
                    wanted.name,
                    wanted.checksum.digits()
                ))
                .help("it was deleted: run the same command again; if that does not help, a proxy changes what it passes on"));
            }
            resumed = false;
            self.progress.note(&format!(
                "{}: what an earlier download left does not fit, and is fetched anew",
                wanted.name
            ));
            download.restart()?;
        }
        let failed = |error| Error::io("keep", target, error);
        download.file.sync_all().map_err(failed)?;
        fs::rename(partial, target).map_err(failed)?;
        target.parent().map_or(Ok(()), atomic::sync_directory)
    }
}

/// A file under way.
struct Download<'a> {
    remote: &'a Remote<'a>,
    wanted: &'a Wanted,
    path: &'a Path,
    file: File,
    /// Bytes that have come, all of them in `running`.
    have: u64,
    running: Running,
}

impl<'a> Download<'a> {
    fn open(remote: &'a Remote<'a>, wanted: &'a Wanted, path: &'a Path) -> Result<Self> {
        let failed = |error| Error::io("write", path, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut running = wanted.checksum.begin(wanted.size);
        let have = running.read(&file).map_err(failed)??;
        let mut download = Self {
            remote,
            wanted,
            path,
            file,
            have,
            running,
        };
        if have > wanted.size {
            download.restart()?;
        }
        Ok(download)
    }

    fn restart(&mut self) -> Result<()> {
        self.have = 0;
        self.running = self.wanted.checksum.begin(self.wanted.size);
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(drop).map_err(|error| Error::io("write", self.path, error))
    }

    /// Brings all bytes; answers whether they are the right ones.
    async fn complete(&mut self) -> Result<bool> {
        let mut failures = 0;
        while self.have < self.wanted.size {
            let before = self.have;
            if let Err(failure) = self.fetch().await {
                // A connection that brings something is not hopeless, however often it breaks.
                failures = if self.have > before { 1 } else { failures + 1 };
                self.remote.client.wait(failure, failures).await?;
            }
        }
        let running = std::mem::replace(&mut self.running, self.wanted.checksum.begin(0));
        Ok(running.finish() == self.wanted.checksum.digits())
    }

    /// One connection, from where the last one ended.
    async fn fetch(&mut self) -> Result<(), Failure> {
        let Remote {
            client,
            repository,
            commit,
            progress,
        } = self.remote;
        let mut response = client.open(repository, commit, &self.wanted.name, self.have).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|range| range.to_str().ok());
                let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                if start != Some(self.have) {
                    self.restart()?;
                    return Err(again("the server sent another part of the file than it was asked for"));
                }
            }
            // The server does not go on from the middle.
            StatusCode::OK => self.restart()?,
            _ => {
                self.restart()?;
                return Err(again("the server has no such part of the file"));
            }
        }
        while let Some(chunk) = unless_interrupted(response.chunk())
            .await?
            .map_err(|error| broken(&error))?
        {
            let left = self.wanted.size - self.have;
            // More than the file has: what is too much makes the checksum wrong.
            let chunk = &chunk[..chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            self.file.write_all(chunk).map_err(|error| {
                Error::io("write", self.path, error)
                    .help("what has come is kept: free some space, and the same command goes on from it")
            })?;
            self.running.update(chunk);
            self.have += chunk.len() as u64;
            progress.advance(chunk.len() as u64);
            if self.have == self.wanted.size {
                return Ok(());
            }
        }
        Err(again("the file broke off"))
    }
}

fn again(cause: &str) -> Failure {
    Failure::Again {
        cause: cause.to_owned(),
        after: None,
    }
}
