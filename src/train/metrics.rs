//! The figures of a training run: one JSON object a step, appended to `metrics.jsonl`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The name of the file in a training directory.
pub const FILE: &str = "metrics.jsonl";

pub struct MetricsLog {
    path: PathBuf,
    out: BufWriter<File>,
}

impl MetricsLog {
    /// Opens the log of `dir`, keeping its first `steps` lines: those before the checkpoint.
    pub fn open(dir: &Path, steps: usize) -> Result<Self> {
        let path = dir.join(FILE);
        let kept: String = match std::fs::read_to_string(&path) {
            Ok(text) => text.split_inclusive('\n').take(steps).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let failed = |error| Error::io("write", &path, error);
        let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
        out.write_all(kept.as_bytes()).map_err(failed)?;
        Ok(Self { out, path })
    }

    /// Appends the figures of one step.
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
        writeln!(self.out, "{}", Value::Object(row)).map_err(|error| Error::io("write", &self.path, error))
    }

    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Reads a log back, line by line.
pub fn read(dir: &Path) -> Result<Vec<Map<String, Value>>> {
    let path = dir.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Error::input("not a metrics log").at_file(&path).because(error))
        })
        .collect()
}
