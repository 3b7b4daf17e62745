//! `status`: how far a job or a run is, from what is on disk; also while it runs.

use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::output::{self, grouped};
use super::pipeline::{FILE as RUN, RunJournal};
use super::session::Session;
use crate::dataset::{Manifest, Status as Written, rejects_dir};
use crate::error::{Error, Result};
use crate::job::lock::Lock;
use crate::job::{LastError, State, StatusFile};
use crate::object::Owner;
use crate::train::metrics;

/// Tell how far a job or a run is, also while it runs.
///
/// Rows done, rejected and left, tokens, rate and time left, what a paid endpoint has cost (with --price),
/// and the last error. Nothing is changed: it can be asked at any time and from any machine that sees the
/// directory.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Directory of a stage (its --out), or of a run.
    pub dir: PathBuf,
}

/// What a stage makes first: the folder of a job, or the log of a training.
const STATES: [&str; 2] = [".job", metrics::FILE];

/// A stage as it stands.
#[derive(Debug, Serialize)]
struct Standing {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Counts>,
    /// Of a training run.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

#[derive(Debug, Serialize)]
struct Counts {
    inputs: u64,
    inputs_done: u64,
    inputs_left: u64,
    rows: u64,
    rejects: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    rate: Option<f64>,
    seconds_left: Option<f64>,
    cost: Option<f64>,
    cost_of_all: Option<f64>,
    updated: u64,
}

pub fn run(session: &Session, args: &StatusArgs) -> Result<()> {
    let standings = look(&args.dir)?;
    if session.json {
        output::json(&serde_json::json!({ "dir": args.dir.display().to_string(), "stages": standings }))?;
    } else {
        for standing in &standings {
            print!("{}", text(standing));
        }
    }
    Ok(())
}

fn look(dir: &Path) -> Result<Vec<Standing>> {
    if dir.join(RUN).exists() {
        let journal = RunJournal::read(dir).map_err(|error| {
            error.help("the journal was not written by bylaw, or was cut short: run the recipe again")
        })?;
        let place = |(name, _): &(String, Vec<String>)| {
            // A journal from elsewhere must not make us look outside of the run.
            let mut parts = Path::new(name).components();
            match (parts.next(), parts.next()) {
                (Some(Component::Normal(_)), None) => stage(&dir.join(name), name),
                _ => Err(Error::input(format!("{name:?} is not the name of a stage"))
                    .at_file(dir.join(RUN))
                    .help("name the directory of a `bylaw run`; its journal was not written by bylaw")),
            }
        };
        return journal.commands.iter().map(place).collect();
    }
    let name = dir
        .file_name()
        .unwrap_or(dir.as_os_str())
        .to_string_lossy()
        .into_owned();
    let standing = stage(dir, &name)?;
    if standing.state == "not begun" {
        return Err(Error::input("there is no job of bylaw in this directory")
            .at_file(dir)
            .help("name the --out of a stage or of a run"));
    }
    Ok(vec![standing])
}

fn stage(dir: &Path, name: &str) -> Result<Standing> {
    let owner = Lock::holder(dir);
    let status = StatusFile::read(dir);
    let manifest = match Manifest::exists(dir) {
        true => Some(Manifest::read(dir)?),
        false => None,
    };
    let result = ["eval.json", "model.safetensors", "adapter_model.safetensors"]
        .iter()
        .any(|file| dir.join(file).exists());
    let state = match (&owner, &manifest, &status) {
        (Some(_), _, _) => "running",
        (None, Some(manifest), _) if manifest.status == Written::Complete => "complete",
        (None, _, Some(status)) if status.state == State::Failed => "failed",
        (None, Some(_), _) => "stopped",
        (None, None, _) if result => "complete",
        (None, None, _) if begun(dir) => "stopped",
        (None, None, _) => "not begun",
    };
    let job = match (status.as_ref(), &manifest) {
        (Some(status), _) => Some(counts(status)),
        // A merged dataset has no status of its own.
        (None, Some(manifest)) => Some(written(manifest, dir)?),
        (None, None) => None,
    };
    let step = metrics::read(dir)
        .ok()
        .and_then(|rows| rows.last()?.get("step")?.as_u64());
    Ok(Standing {
        name: name.to_owned(),
        state,
        owner,
        job,
        step,
        // What failed before is of no interest once all is done.
        last_error: status
            .and_then(|status| status.last_error)
            .filter(|_| state != "complete"),
    })
}

/// Whether a stage has been at work in a directory: what it left there, if only its own folder.
fn begun(dir: &Path) -> bool {
    STATES.iter().any(|name| dir.join(name).exists())
}

fn counts(status: &StatusFile) -> Counts {
    let cost = status.cost();
    Counts {
        inputs: status.inputs,
        inputs_done: status.inputs_done,
        inputs_left: status.inputs.saturating_sub(status.inputs_done),
        rows: status.rows,
        rejects: status.rejects,
        prompt_tokens: status.usage.prompt_tokens,
        completion_tokens: status.usage.completion_tokens,
        rate: status.rate(),
        seconds_left: status.seconds_left(),
        cost: cost.map(|(so_far, _)| so_far),
        cost_of_all: cost.map(|(_, whole)| whole),
        updated: status.updated,
    }
}

fn written(manifest: &Manifest, dir: &Path) -> Result<Counts> {
    let rejects = match Manifest::exists(&rejects_dir(dir)) {
        true => Manifest::read(&rejects_dir(dir))?.rows,
        false => 0,
    };
    let inputs = manifest.rows + rejects;
    Ok(Counts {
        inputs,
        inputs_done: inputs,
        inputs_left: 0,
        rows: manifest.rows,
        rejects,
        prompt_tokens: 0,
        completion_tokens: 0,
        rate: None,
        seconds_left: None,
        cost: None,
        cost_of_all: None,
        updated: 0,
    })
}

fn text(standing: &Standing) -> String {
    use std::fmt::Write;
    let mut text = format!("{:<18} {}", standing.name, standing.state);
    if let Some(owner) = &standing.owner {
        let _ = write!(text, " ({owner})");
    }
    if let Some(step) = standing.step {
        let _ = write!(text, ", step {}", grouped(step));
    }
    text.push('\n');
    let mut line = |label: &str, words: String| {
        let _ = writeln!(text, "  {label:<10} {words}");
    };
    if let Some(job) = &standing.job {
        line(
            "rows",
            format!(
                "{} of {} done, {} left: {} rows, {} rejects",
                grouped(job.inputs_done),
                grouped(job.inputs),
                grouped(job.inputs_left),
                grouped(job.rows),
                grouped(job.rejects)
            ),
        );
        if job.prompt_tokens + job.completion_tokens > 0 {
            line(
                "tokens",
                format!(
                    "{} in, {} out",
                    grouped(job.prompt_tokens),
                    grouped(job.completion_tokens)
                ),
            );
        }
        if let (Some(rate), Some(left)) = (job.rate, job.seconds_left)
            && job.inputs_left > 0
        {
            line("rate", format!("{rate:.1} rows/s, {} left", duration(left)));
        }
        if let (Some(cost), Some(all)) = (job.cost, job.cost_of_all) {
            line("cost", format!("${cost:.2} so far, ${all:.2} for all rows"));
        }
    }
    if let Some(error) = &standing.last_error {
        line("last error", format!("{} ago: {}", ago(error.time), error.message));
    }
    text
}

/// `2 h 5 min`, from seconds.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds % 3600 / 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn ago(time: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // A clock may have been set back.
    duration(now.saturating_sub(time) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: hours shown as minutes, a clock set back that underflows.
    #[test]
    fn times_are_in_words() {
        for (seconds, words) in [(0.0, "0 s"), (59.4, "59 s"), (60.0, "1 min"), (7500.0, "2 h 5 min")] {
            assert_eq!(duration(seconds), words);
        }
        assert_eq!(ago(u64::MAX), "0 s");
    }
}
