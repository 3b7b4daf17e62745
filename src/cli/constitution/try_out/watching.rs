//! Trying again whenever a file is saved.
//!
//! Files are looked at five times a second, by the time of their last change and their length: that works on every file
//! system and with every editor. A file that is missing is no change, for editors that rename a new one into its place.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use console::Term;

use super::changes::{self, Changes};
use super::page::{Sheet, Turn, draw};
use super::{Bench, Mistakes, Outcome, Run, TryOut, document};
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt;

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_millis(200);

/// A file that did not change for so long is written to its end.
const SETTLED: Duration = Duration::from_millis(40);

/// What a file was when it was looked at.
#[derive(Debug, Clone, PartialEq)]
struct Stamp {
    path: PathBuf,
    /// Nothing while the file is missing.
    state: Option<(SystemTime, u64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let state = fs::metadata(path).ok();
        Self {
            state: state.and_then(|meta| Some((meta.modified().ok()?, meta.len()))),
            path: path.to_owned(),
        }
    }
}

/// The files that decide what is tried, and what was last seen of them.
struct Watch {
    stamps: Vec<Stamp>,
}

impl Watch {
    /// Looks after these files too. Those that were looked after already keep what was seen of them.
    fn extend(&mut self, files: &[PathBuf]) {
        for file in files {
            if !self.stamps.iter().any(|stamp| stamp.path == *file) {
                self.stamps.push(Stamp::of(file));
            }
        }
    }

    /// Looks again, and tells whether a file is there that is not what it was.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for stamp in &mut self.stamps {
            let now = Stamp::of(&stamp.path);
            if now.state.is_some() && now != *stamp {
                changed = true;
                *stamp = now;
            }
        }
        changed
    }

    /// Whether a file that was there is missing.
    fn misses(&self) -> bool {
        let was_there = |stamp: &&Stamp| stamp.state.is_some();
        self.stamps.iter().filter(was_there).any(|stamp| !stamp.path.exists())
    }

    /// Returns when a file has changed and is written to its end.
    fn wait(&mut self) -> Result<()> {
        while !self.look() {
            interrupt::check()?;
            std::thread::sleep(PAUSE);
        }
        // Some editors empty a file before they write it.
        loop {
            std::thread::sleep(SETTLED);
            if !self.look() {
                return Ok(());
            }
        }
    }

    fn named(&self) -> String {
        let there = self.stamps.iter().filter(|stamp| stamp.state.is_some());
        let names: Vec<String> = there.map(|stamp| stamp.path.display().to_string()).collect();
        match names.as_slice() {
            few if few.len() <= 3 => few.join(", "),
            [first, rest @ ..] => format!("{first} and {} more files", rest.len()),
            [] => "files that are missing".to_owned(),
        }
    }
}

/// Tries until it is interrupted, or nobody reads the pages any more.
pub fn watch(session: &Session, args: &TryOut) -> Result<()> {
    let files = watched(args);
    if !files.iter().any(|file| file.exists()) {
        return Err(Error::config("there is no file to watch").help(
            "give a constitution that is a file: `bylaw constitution new rules.toml` writes one, and with `extends = \
             [\"builtin:NAME\"]` it begins with what is inside the program",
        ));
    }
    let mut watch = Watch { stamps: Vec::new() };
    watch.extend(&files);
    let bench = Bench::set_up(session, args)?;
    let mut last: Option<Box<Run>> = None;
    let mut number = 0;
    loop {
        number += 1;
        clear(session)?;
        let goes_on = match bench.run() {
            Ok(Outcome::Tried(run)) => {
                watch.extend(&run.constitution.files);
                let changes = last.as_ref().map(|last| changes::between(last, &run));
                let goes_on = tell(&bench, &run, number, changes.as_ref())?;
                last = Some(run);
                goes_on
            }
            Ok(Outcome::Mistaken(mistakes)) => {
                watch.extend(&mistakes.files);
                tell_mistakes(session, &mistakes, number)?
            }
            Err(error) if number == 1 || error.kind() == ErrorKind::Interrupted => return Err(error),
            // Not there yet: it is being saved.
            Err(_) if watch.misses() => true,
            Err(error) => {
                output::report_error(&error);
                true
            }
        };
        if !goes_on {
            return Ok(());
        }
        if !session.quiet {
            output::line(&format!("watching {}; Ctrl-C ends", watch.named()));
        }
        watch.wait()?;
    }
}

/// The files that are named on the command line.
fn watched(args: &TryOut) -> Vec<PathBuf> {
    let named = [Some(&args.constitution), args.prompts.as_ref(), args.few_shots.as_ref()];
    named.into_iter().flatten().map(PathBuf::from).collect()
}

/// Shows a run. False if nobody reads it.
fn tell(bench: &Bench<'_>, run: &Run, number: usize, changes: Option<&Changes>) -> Result<bool> {
    if bench.session.json {
        let mut document = document::of(bench, run);
        document["run"] = number.into();
        document["changes"] = match changes {
            Some(changes) => serde_json::to_value(changes)
                .map_err(|error| Error::unexpected("changes cannot be told").because(error))?,
            None => serde_json::Value::Null,
        };
        return put(&format!("{document}\n"));
    }
    let turn = Turn { number, changes };
    let page = draw(Sheet::of_stdout(), bench.args, run, Some(&turn));
    // In a pipe one page follows the other.
    let between = if number > 1 && !std::io::stdout().is_terminal() {
        "\n"
    } else {
        ""
    };
    put(&format!("{between}{page}"))
}

fn tell_mistakes(session: &Session, mistakes: &Mistakes, number: usize) -> Result<bool> {
    if session.json {
        let mut document = document::mistakes(mistakes);
        document["run"] = number.into();
        return put(&format!("{document}\n"));
    }
    output::report_error(&mistakes.told());
    Ok(true)
}

/// A terminal shows one run at a time.
fn clear(session: &Session) -> Result<()> {
    if session.json || !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let failed = |error| Error::unexpected("cannot write to stdout").because(error);
    Term::stdout().clear_screen().map_err(failed)
}

/// Writes to stdout. False if nobody reads it.
fn put(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::unexpected("cannot write to stdout").because(error)),
    }
}
