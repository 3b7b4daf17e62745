//! The figures of a training run: one JSON object a step, appended to `metrics.jsonl`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::checkpoint;
use super::events::EventLog;
use crate::atomic;
use crate::error::{Error, Result};

/// The name of the file in a training directory.
pub const FILE: &str = "metrics.jsonl";

pub struct MetricsLog {
    path: PathBuf,
    out: BufWriter<File>,
    events: Option<EventLog>,
}

impl MetricsLog {
    /// Opens the log of `dir`, keeping its first `steps` lines: those before the checkpoint. What follows
    /// them may be anything, if the machine stopped while it was written. With `tensorboard`, the file of events beside
    /// it is made from those lines anew.
    pub fn open(dir: &Path, steps: usize, tensorboard: bool) -> Result<Self> {
        let path = dir.join(FILE);
        let mut kept = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let lines: Vec<&[u8]> = kept.split_inclusive(|byte| *byte == b'\n').take(steps).collect();
        if lines.len() < steps {
            return Err(Error::input(format!(
                "the log has {} steps, the checkpoint beside it was saved after {steps}",
                lines.len()
            ))
            .at_file(&path)
            .help(format!(
                "put the log back, or remove `{}` and `{FILE}` to train from the beginning",
                checkpoint::DIR
            )));
        }
        let length = lines.concat().len();
        kept.truncate(length);
        // Never empty in between: these lines are those of a checkpoint.
        atomic::write(&path, &kept)?;
        let out = File::options()
            .append(true)
            .open(&path)
            .map_err(|error| Error::io("write", &path, error))?;
        let events = match tensorboard {
            true => Some(EventLog::begin(dir, &read(dir)?)?),
            false => None,
        };
        Ok(Self {
            out: BufWriter::new(out),
            path,
            events,
        })
    }

    /// Appends the figures of one step. They can be read at once; [`sync`](Self::sync) makes them durable.
    pub fn log(&mut self, step: usize, figures: &[(&str, f64)]) -> Result<()> {
        let mut row = Map::new();
        row.insert("step".into(), step.into());
        for (name, value) in figures {
            // JSON has no NaN or infinity: `null` says that a figure was not finite.
            row.insert(
                (*name).to_owned(),
                serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number),
            );
        }
        if let Some(events) = &mut self.events {
            events.log(&row)?;
        }
        writeln!(self.out, "{}", Value::Object(row))
            .and_then(|()| self.out.flush())
            .map_err(|error| Error::io("write", &self.path, error))
    }

    /// Makes all lines durable.
    pub fn sync(&mut self) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.sync()?;
        }
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Reads a log back, line by line.
pub fn read(dir: &Path) -> Result<Vec<Map<String, Value>>> {
    let path = dir.join(FILE);
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Error::input("not a metrics log").at_file(&path).because(error))
        })
        .collect()
}

/// The figures of the last step of a finished run; nothing where there is no log, or no step in it.
pub fn last(dir: &Path) -> Result<Option<Map<String, Value>>> {
    if !dir.join(FILE).exists() {
        return Ok(None);
    }
    let rows = read(dir).map_err(|error| {
        error.or_help("the model beside it is whole; move the log away, and the run is done without its figures")
    })?;
    Ok(rows.into_iter().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: lines of the checkpoint that are on no disk until the next flush; what a crash left behind
    /// them taken for lines, or for a reason to stop.
    #[test]
    fn the_lines_before_the_checkpoint_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, b"0\n1\n2\n\xff\xfe\0").unwrap();
        let _open = MetricsLog::open(dir.path(), 2, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0\n1\n");
        let _again = MetricsLog::open(dir.path(), 2, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0\n1\n");
    }

    /// Catches: a log that cannot be read taken for a run without figures, and the reason lost; a log that is not there taken
    /// for one that cannot be read.
    #[test]
    fn a_log_that_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(last(dir.path()).unwrap().is_none());
        fs::write(dir.path().join(FILE), "{\"step\": 0}\n{\"step\": 1}\n").unwrap();
        assert_eq!(last(dir.path()).unwrap().unwrap()["step"], 1);
        fs::write(dir.path().join(FILE), "{\"step\": 0}\n{\"st").unwrap();
        let error = last(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not a metrics log"), "{error}");
        assert!(error.help_text().unwrap().contains("move the log away"));
    }

    /// Catches: a log that misses steps without a word.
    #[test]
    fn a_log_shorter_than_its_checkpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "0\n1\n").unwrap();
        let Err(error) = MetricsLog::open(dir.path(), 3, false) else {
            panic!("two steps are taken for three");
        };
        assert_eq!(error.kind(), crate::error::ErrorKind::Input);
        assert!(error.help_text().unwrap().contains("checkpoint"), "{error}");
    }
}
