//! What is printed: results on stdout, errors and notes on stderr.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use miette::{Diagnostic, GraphicalReportHandler, LabeledSpan, NamedSource, SourceCode};
use sha2::{Digest, Sha256};

use super::args::LogFormat;
use super::session::Session;
use super::stages::{Done, Stage};
use crate::constitution::{self, Severity};
use crate::error::{Error, Place, Result};
use crate::record::hex;

static LOG_FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Decides how everything on stderr is written, once and for the process.
pub fn set_log_format(format: LogFormat) {
    // A second call changes nothing.
    let _ = LOG_FORMAT.set(format);
}

pub fn log_format() -> LogFormat {
    LOG_FORMAT.get().copied().unwrap_or_default()
}

/// A line on stderr.
pub fn line(text: &str) {
    match log_format() {
        LogFormat::Text => eprintln!("{text}"),
        LogFormat::Json => event("info", serde_json::json!({ "message": text })),
    }
}

/// An event on stderr, as a line of JSON with its time in seconds since 1970.
pub fn event(level: &str, mut fields: serde_json::Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    fields["time"] = serde_json::json!(now.map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3));
    fields["level"] = level.into();
    eprintln!("{fields}");
}

/// A line on stdout, formatted as by `println!`; ends the function where it cannot be written.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::page(&format!("{}\n", format_args!($($text)*)))?
    };
}
pub(super) use say;

/// A document on stdout.
pub fn json(document: &serde_json::Value) -> Result<()> {
    page(&format!("{document:#}\n"))
}

/// A page on stdout. A reader that has seen enough of it (`| head`) is no failure.
pub fn page(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::unexpected("cannot write to stdout").because(error))
        }
        _ => Ok(()),
    }
}

/// A number of bytes in words.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        // Not `1024.0 MiB`.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{count} B"),
        _ => format!("{size:.1} {unit}"),
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<String> = groups
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join(",")
}

/// `1 row`, `2,000 rows`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Tells what a stage left, and where. A result that does not do is told as well, and then an error.
pub fn stage_done(session: &Session, stage: &dyn Stage, out: Option<&Path>, done: &Done) -> Result<()> {
    if session.json {
        let document = match out.filter(|_| done.page.is_empty()) {
            Some(out) => {
                let mut document = serde_json::json!({
                    "stage": stage.kind(),
                    "out": out.display().to_string(),
                    "rows": done.rows,
                    "rejects": done.rejects,
                    "result": done.result,
                });
                if !done.speed.is_null() {
                    document["speed"] = done.speed.clone();
                }
                if !done.cache.is_null() {
                    document["cache"] = done.cache.clone();
                }
                document
            }
            // What is there to be told is the whole document.
            None => done.result.clone(),
        };
        json(&document)?;
    } else if !session.quiet {
        if !done.page.is_empty() {
            page(&done.page)?;
        }
        if let Some(out) = out {
            say!("{}: {}", out.display(), done.summary());
            if let Some(next) = stage.next(out) {
                line(&format!("next: {next}"));
            }
        }
    }
    done.failure
        .as_ref()
        .map_or(Ok(()), |failure| Err(Error::input(failure)))
}

/// Shows an error on stderr, beginning with its place, and answers its exit code.
pub fn report_error(error: &Error) -> ExitCode {
    if log_format() == LogFormat::Json {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        event(
            "error",
            serde_json::json!({
                "message": error.to_string(),
                "cause": cause,
                "help": error.help_text(),
                "exit_code": error.exit_code(),
            }),
        );
        return ExitCode::from(error.exit_code());
    }
    let mark = if error.place().is_some() { "" } else { "error: " };
    eprintln!("{mark}{}", rendered(error));
    ExitCode::from(error.exit_code())
}

/// Shows a finding in a constitution file on stderr, beginning with its place.
pub fn diagnostic(finding: &constitution::Diagnostic) {
    if log_format() == LogFormat::Json {
        let level = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        return event(level, finding.to_json());
    }
    eprintln!("{}\n", rendered(&finding.to_error()));
}

fn rendered(error: &Error) -> String {
    let mut text = String::new();
    // Lines are not broken, so that a path or a command can be copied.
    let handler = GraphicalReportHandler::new().with_width(100).with_wrap_lines(false);
    let message = error.to_string();
    if handler.render_report(&mut text, &Shown::new(error)).is_err() {
        text.clone_from(&message);
    }
    // Scripts and editors look for FILE:LINE:COL at the beginning of the line; miette puts a mark there.
    let first_line = message.lines().next().unwrap_or_default();
    let text = text.find(first_line).map_or(text.as_str(), |at| &text[at..]);
    text.trim_end().to_owned()
}

/// An [`Error`] as miette shows it.
#[derive(Debug)]
struct Shown<'a> {
    error: &'a Error,
    source: Option<NamedSource<String>>,
}

impl<'a> Shown<'a> {
    fn new(error: &'a Error) -> Self {
        let source = match error.place() {
            Some(Place::Span { path, text, .. }) => Some(NamedSource::new(path.display().to_string(), text.clone())),
            _ => None,
        };
        Self { error, source }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.error)
    }
}

impl Diagnostic for Shown<'_> {
    fn help<'s>(&'s self) -> Option<Box<dyn fmt::Display + 's>> {
        self.error
            .help_text()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match self.error.place() {
            Some(Place::Span { range, .. }) => {
                let span = LabeledSpan::new(None, range.start, range.len().max(1));
                Some(Box::new(std::iter::once(span)))
            }
            _ => None,
        }
    }
}
