//! `data split`: rows for training and rows for testing, without a prompt on both sides.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::rows::{Readable, kind_of, parse_kind, refuse_strangers, with_rows, write_rejects};
use crate::cli::output;
use crate::cli::output::say;
use crate::cli::session::{Session, data_source};
use crate::dataset::{self, Dataset, Kind};
use crate::error::{Error, Result};
use crate::select::split::{SplitConfig, leaks, split};
use crate::survey::Sameness;

#[derive(Debug, Args)]
#[command(after_long_help = "\
The side of a row is decided by the hash of its prompt: case, white space and punctuation do not
count, system turns neither. So rows that share a prompt stay together, and rows added later move
no other. The share is met on average, not exactly.

With --near, prompts of which most runs of five words are the same stay together as well; then an
added row can move others, where it joins two groups.")]
pub struct Split {
    /// Data: a dataset, a file, a directory of files or a glob.
    #[arg(value_name = "DATA")]
    reference: String,
    /// The share of prompts for testing, between 0 and 1.
    #[arg(long, value_name = "SHARE")]
    test: f64,
    /// What rows must share to stay together.
    #[arg(long, value_enum, default_value_t = By::Prompt)]
    by: By,
    /// Keep near-duplicate prompts together, from this similarity on; 0.8 where none is given.
    // With an equals sign, or the data reference after a bare `--near` would be taken for its value.
    #[arg(long, value_name = "JACCARD", num_args = 0..=1, require_equals = true, default_missing_value = "0.8")]
    near: Option<f64>,
    /// What the rows are, where the data do not say: prompts, demonstrations, preferences, ...
    #[arg(long = "as", value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Directory of the two datasets, `train` and `test`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum By {
    /// The conversation up to the answer.
    Prompt,
    /// The first turn of the user.
    Opening,
}

impl From<By> for Sameness {
    fn from(by: By) -> Self {
        match by {
            By::Prompt => Self::Prompt,
            By::Opening => Self::Opening,
        }
    }
}

const SIDES: [&str; 2] = ["train", "test"];

pub fn run(session: &Session, args: &Split) -> Result<()> {
    if !(args.test > 0.0 && args.test < 1.0) {
        return Err(
            Error::config(format!("--test is {}, expected a share between 0 and 1", args.test))
                .help("give the share of prompts for testing, such as `--test 0.1`"),
        );
    }
    if args.near.is_some_and(|near| !(0.3..=1.0).contains(&near)) {
        return Err(Error::config("--near is a similarity from 0.3 to 1").help("give `--near 0.8`"));
    }
    refuse_strangers(&args.out, |name| SIDES.contains(&name) || name == "rejects")?;
    let kind = match args.kind {
        Some(kind) => kind,
        None => kind_of(&args.reference)?,
    };
    if kind == Kind::Rejects {
        return Err(Error::input("rejects are not split: they are what could not be used")
            .at_file(&args.reference)
            .help("name the dataset itself"));
    }
    if kind == Kind::ReferenceLogprobs {
        return Err(
            Error::input("log-probabilities of a reference are not split: a trainer finds them by their ids")
                .at_file(&args.reference)
                .help("split the data that they were computed for"),
        );
    }
    with_rows!(kind, make(session, args))
}

fn make<R: Readable>(session: &Session, args: &Split) -> Result<()> {
    let loaded = R::read(&args.reference)?;
    let by = Sameness::from(args.by);
    let config = SplitConfig {
        test: args.test,
        by,
        near: args.near,
        seed: session.stage_seed("split"),
    };
    let found = split(&loaded.rows, &config);
    let sides = [false, true].map(|test| -> Vec<R> {
        let rows = loaded.rows.iter().zip(&found.test);
        rows.filter(|(_, side)| **side == test)
            .map(|(row, _)| row.clone())
            .collect()
    });
    if let Some(empty) = sides.iter().position(Vec::is_empty) {
        return Err(Error::input(format!(
            "no row falls to `{}`: there are only {} different prompts",
            SIDES[empty], found.prompts
        ))
        .at_file(&args.reference)
        .help("give another share as `--test`, or another `--seed`"));
    }
    let settings = json!({ "test": args.test, "by": args.by, "near": args.near, "kind": R::KIND });
    let mut provenance = session.provenance("split", &settings)?;
    provenance.inputs = vec![data_source(&args.reference, &loaded)];
    for (name, rows) in SIDES.iter().zip(&sides) {
        let mut provenance = provenance.clone();
        provenance.stage = format!("split {name}");
        dataset::write_all(&args.out.join(name), rows, provenance)?;
    }
    write_rejects(&args.out, &loaded.rejects, provenance)?;
    // Of what is on disk now, not of what was meant to get there.
    let leaked = written_leaks::<R>(&args.out, by)?;
    if leaked > 0 {
        return Err(Error::unexpected(format!("{leaked} prompts are on both sides")).at_file(&args.out));
    }
    let [train, test] = sides.map(|rows| rows.len());
    if session.json {
        output::json(&json!({
            "out": args.out.display().to_string(),
            "kind": R::KIND,
            "train": train,
            "test": test,
            "prompts": found.prompts,
            "near_groups": found.near_groups,
            "leaked_prompts": leaked,
            "rejects": loaded.rejects.len(),
        }))?;
    } else if !session.quiet {
        let near = match args.near {
            Some(_) => format!(
                ", {} groups of near duplicates kept together",
                output::grouped(found.near_groups as u64)
            ),
            None => String::new(),
        };
        say!(
            "{}: {} {} for training, {} for testing ({:.1} %)",
            args.out.display(),
            output::grouped(train as u64),
            R::KIND,
            output::grouped(test as u64),
            100.0 * test as f64 / (train + test) as f64
        );
        say!(
            "  {} different prompts{near}; {leaked} on both sides",
            output::grouped(found.prompts as u64)
        );
        if !loaded.rejects.is_empty() {
            say!(
                "  {} rows could not be read, and are in `rejects`",
                loaded.rejects.len()
            );
        }
    }
    Ok(())
}

fn written_leaks<R: Readable>(out: &Path, by: Sameness) -> Result<usize> {
    let [train, test] = SIDES.map(|side| Dataset::<R>::open(out.join(side)).and_then(|dataset| dataset.read_all()));
    Ok(leaks(&train?, &test?, by))
}
