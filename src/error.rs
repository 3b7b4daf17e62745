//! The one error type of the library: what went wrong, where, and what to do about it.
//!
//! An error is made where it is understood, carried by `?`, and rendered once, by the command line.
//! Its [`ErrorKind`] decides the exit code.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act; decides the exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bad arguments or configuration.
    Config,
    /// Bad input data or model files.
    Input,
    /// A remote endpoint failed for good.
    Remote,
    /// The user stopped the run; finished work is kept.
    Interrupted,
    /// Anything else: a full disk, a bug.
    Unexpected,
}

/// The place an error points at.
#[derive(Debug, Clone)]
pub enum Place {
    File(PathBuf),
    /// A byte range of a text file, with its text for underlining.
    Span {
        path: PathBuf,
        text: String,
        range: Range<usize>,
    },
}

#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    place: Option<Place>,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            place: None,
            help: None,
            source: None,
        }))
    }

    /// Bad arguments or configuration (exit code 2).
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Bad input data or model files (exit code 3).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// A remote endpoint failed for good, or refuses to serve (exit code 4).
    pub fn remote(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Remote, message)
    }

    /// A failure that is nobody's input (exit code 1).
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unexpected, message)
    }

    /// Stopped by the user; what is finished is on disk (exit code 130).
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted").help("finished work is kept; the same command goes on from it")
    }

    /// A failed file operation: a file that is missing, or a path that cannot lead to one, is the user's
    /// input, anything else unexpected. Where the system's reason says what to do, that is the remedy until
    /// a better one is given.
    pub fn io(action: &str, path: impl AsRef<Path>, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::InvalidFilename
            | std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::InvalidData => ErrorKind::Input,
            // A loop of symbolic links has no stable name yet.
            _ if cfg!(unix) && error.raw_os_error() == Some(libc::ELOOP) => ErrorKind::Input,
            _ => ErrorKind::Unexpected,
        };
        let help = remedy(&error).map(str::to_owned);
        let mut failed = Self::new(kind, format!("cannot {action} {}", path.as_ref().display())).because(error);
        failed.0.help = help;
        failed
    }

    #[must_use]
    pub fn at_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.place = Some(Place::File(path.into()));
        self
    }

    #[must_use]
    pub fn at_span(mut self, path: impl Into<PathBuf>, text: impl Into<String>, range: Range<usize>) -> Self {
        self.0.place = Some(Place::Span {
            path: path.into(),
            text: text.into(),
            range,
        });
        self
    }

    /// What the user can do about it, unless the system's reason says better.
    #[must_use]
    pub fn or_help(self, help: impl Into<String>) -> Self {
        match self.0.help {
            Some(_) => self,
            None => self.help(help),
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    pub fn help_text(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            ErrorKind::Unexpected => 1,
            ErrorKind::Config => 2,
            ErrorKind::Input => 3,
            ErrorKind::Remote => 4,
            ErrorKind::Interrupted => 130,
        }
    }
}

/// What to do about a failed file operation.
fn remedy(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            Some("free some space on that disk, and run the same command again; what was finished before is kept")
        }
        ReadOnlyFilesystem | PermissionDenied => {
            Some("give this user the right to it, and run the same command again; what was finished before is kept")
        }
        _ if cfg!(unix) && error.raw_os_error() == Some(libc::EIO) => Some(
            "check the disk (the system's log tells more), and run the same command again; what was finished before is kept",
        ),
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.place {
            Some(Place::File(path)) => write!(f, "{}: {}", path.display(), self.0.message),
            Some(Place::Span { path, text, range }) => {
                let (line, column) = line_column(text, range.start);
                write!(f, "{}:{line}:{column}: {}", path.display(), self.0.message)
            }
            None => f.write_str(&self.0.message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// One-based line and column (in characters) of a byte offset.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// The candidate nearest to what was typed, for "did you mean".
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(typed, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 2)
        .map(|(_, candidate)| candidate)
}
