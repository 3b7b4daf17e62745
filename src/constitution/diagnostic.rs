//! A finding in a constitution file: what is wrong, where it stands, and what to do about it.
//!
//! Reading goes on after a finding, so that one run tells all of them. Knows nothing of how they are shown.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result, line_column};
use crate::small;

/// A file under reading.
#[derive(Debug)]
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

impl Text {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            text: text.into(),
        })
    }

    pub fn read(path: &Path) -> Result<Arc<Self>> {
        const REMEDY: &str = "give the path of a TOML file, or `builtin:NAME` for one inside the program";
        Ok(Self::new(path, small::read_to_string(path, REMEDY)?))
    }

    pub fn at(self: &Arc<Self>, range: Range<usize>) -> Place {
        Place {
            text: self.clone(),
            range,
        }
    }
}

/// A byte range of a file.
#[derive(Debug, Clone)]
pub struct Place {
    pub text: Arc<Text>,
    pub range: Range<usize>,
}

impl Place {
    /// Counted from one.
    pub fn line(&self) -> usize {
        line_column(&self.text.text, self.range.start).0
    }

    /// Where `part`, a piece of the text that stands here, stands in the file, in whatever case: this place where it is
    /// written in another way there, with escapes or over lines.
    pub fn of_part(&self, part: &str) -> Self {
        let here = self.text.text.get(self.range.clone()).unwrap_or_default();
        // ASCII alone is changed, so that places stay.
        match here.to_ascii_lowercase().find(&part.to_ascii_lowercase()) {
            Some(at) if !part.is_empty() => {
                let start = self.range.start + at;
                self.text.at(start..start + part.len())
            }
            _ => self.clone(),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    pub value: T,
    pub at: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, and probably does not do what is meant.
    Warning,
}

/// Text to be put in the place of what stands at a range of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    pub range: Range<usize>,
    pub replacement: String,
}

#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What it is called: of a warning, the name by which a file allows it.
    pub name: &'static str,
    pub message: String,
    pub place: Place,
    /// What to do about it.
    pub help: String,
    /// The edit that does it, where there is one.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    pub fn error(name: &'static str, place: Place, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            name,
            message: message.into(),
            place,
            help: help.into(),
            fix: None,
        }
    }

    pub fn warning(name: &'static str, place: Place, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(name, place, message, help)
        }
    }

    /// With the edit that puts `replacement` where the finding stands.
    #[must_use]
    pub fn replace(mut self, replacement: impl Into<String>) -> Self {
        self.fix = Some(Fix {
            range: self.place.range.clone(),
            replacement: replacement.into(),
        });
        self
    }

    pub fn path(&self) -> &Path {
        &self.place.text.path
    }

    /// As an error of the program (exit code 2). A warning says which lint it is of.
    pub fn to_error(&self) -> Error {
        let message = match self.severity {
            Severity::Error => self.message.clone(),
            Severity::Warning => format!("warning: {} ({})", self.message, self.name),
        };
        Error::config(message)
            .at_span(self.path(), &self.place.text.text, self.place.range.clone())
            .help(&self.help)
    }

    /// For editors: lines and columns are counted from one, columns in characters.
    pub fn to_json(&self) -> serde_json::Value {
        let position = |offset: usize| {
            let (line, column) = line_column(&self.place.text.text, offset);
            serde_json::json!({ "line": line, "column": column, "byte": offset })
        };
        let span =
            |range: &Range<usize>| serde_json::json!({ "start": position(range.start), "end": position(range.end) });
        serde_json::json!({
            "file": self.path().display().to_string(),
            "severity": self.severity,
            "name": self.name,
            "message": self.message,
            "range": span(&self.place.range),
            "help": self.help,
            "fix": self.fix.as_ref().map(|fix| serde_json::json!({
                "range": span(&fix.range),
                "replacement": fix.replacement,
            })),
        })
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings(RefCell<Vec<Diagnostic>>);

impl Findings {
    pub fn add(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub fn error(&self, name: &'static str, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.add(Diagnostic::error(name, place, message, help));
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Drops those after the first `kept` that `keep` does not want.
    pub fn retain_after(&self, kept: usize, keep: impl Fn(&Diagnostic) -> bool) {
        let mut found = self.0.borrow_mut();
        let later = found.split_off(kept);
        found.extend(later.into_iter().filter(|diagnostic| keep(diagnostic)));
    }

    pub fn any_error(&self) -> bool {
        let found = self.0.borrow();
        found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// From the top of the file `first` down, then those of the others; each once, though a file may be read twice.
    pub fn sorted(self, first: &Path) -> Vec<Diagnostic> {
        let mut found = self.0.into_inner();
        let key = |finding: &Diagnostic| {
            let path = finding.path();
            (
                path != first,
                path.to_owned(),
                finding.place.range.start,
                finding.severity,
            )
        };
        found.sort_by_cached_key(key);
        found.dedup_by(|a, b| a.path() == b.path() && a.place.range == b.place.range && a.message == b.message);
        found
    }
}
