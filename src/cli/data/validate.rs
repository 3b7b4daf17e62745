//! `data validate`: all that is wrong with datasets on disk.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output;
use crate::cli::session::Session;
use crate::dataset::validate::{Finding, Validation, validate};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Every shard is read: its size, checksum, rows and columns are compared with the manifest, and
every row with what its kind promises. Rejects are checked as well. A directory without a
manifest is searched for datasets. The exit code is 0 if nothing was found, and 3 otherwise.")]
pub struct Validate {
    /// Datasets, or directories with datasets below them, such as a run's.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub fn run(session: &Session, args: &Validate) -> Result<()> {
    let mut all = Validation::default();
    for path in &args.paths {
        let found = validate(path, session.progress())?;
        all.datasets.extend(found.datasets);
        all.findings.extend(found.findings);
    }
    if session.json {
        output::json(&serde_json::json!({
            "sound": all.is_sound(),
            "datasets": all.datasets,
            "findings": all.findings,
        }))?;
    } else {
        let mut page = match session.quiet {
            true => String::new(),
            false => datasets(&all),
        };
        for finding in &all.findings {
            page += &line(finding);
        }
        output::page(&page)?;
    }
    if all.is_sound() {
        return Ok(());
    }
    let plural = if all.findings.len() == 1 { "finding" } else { "findings" };
    Err(Error::input(format!("{} {plural}", all.findings.len())).help("each says what to do about it"))
}

fn datasets(all: &Validation) -> String {
    let mut page = String::new();
    for dataset in &all.datasets {
        let kind = dataset
            .kind
            .map_or("rows of no known kind".to_owned(), |kind| kind.to_string());
        let plural = if dataset.shards == 1 { "shard" } else { "shards" };
        let below = |finding: &&Finding| finding.path.parent() == Some(&dataset.path);
        let verdict = match all.findings.iter().filter(below).count() {
            0 => "sound".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        page += &format!(
            "{}: {} {kind}, {} {plural}, {}: {verdict}\n",
            dataset.path.display(),
            output::grouped(dataset.rows),
            dataset.shards,
            output::bytes(dataset.bytes)
        );
    }
    if !all.findings.is_empty() {
        page.push('\n');
    }
    page
}

/// A finding and its remedy, on two lines.
fn line(finding: &Finding) -> String {
    let rows = match (&finding.rows[..], finding.count) {
        ([], _) => String::new(),
        ([row], 1) => format!("row {row}: "),
        (rows, count) => {
            let named: Vec<String> = rows.iter().map(u64::to_string).collect();
            match count.saturating_sub(rows.len() as u64) {
                0 => format!("rows {}: ", named.join(", ")),
                more => format!("rows {} and {} more: ", named.join(", "), output::grouped(more)),
            }
        }
    };
    format!(
        "{}: {rows}{}\n  help: {}\n",
        finding.path.display(),
        finding.message,
        finding.help
    )
}
