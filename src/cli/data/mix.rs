//! `data mix`: rows of several sources by weight.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::rows::{Readable, kind_of, parse_kind, refuse_strangers, with_rows, write_rejects};
use crate::cli::output;
use crate::cli::output::say;
use crate::cli::session::{Session, data_source};
use crate::dataset::{self, Kind, Loaded, MANIFEST, UniqueIds};
use crate::error::{Error, Result};
use crate::record::Reject;
use crate::select::mix::{Choice, MixConfig, Stratum, Weighted, mix};

#[derive(Debug, Args)]
#[command(after_long_help = "\
The shares are exact: rows times weight over the sum of the weights, rounded by the largest
remainder. Which rows are taken follows from the seed and their ids; the result is shuffled. With
--stratify each source keeps its own proportions. The manifest names the sources with their
weights and checksums.

  bylaw data mix --data hh.jsonl=3 --data out/judge=1 --rows 10000 --out out/mixed --seed 7")]
pub struct Mix {
    /// A source and its weight [default weight: 1]; may be given again.
    #[arg(long, required = true, value_name = "DATA[=WEIGHT]")]
    data: Vec<Weight>,
    /// Rows of the mixture.
    #[arg(long, value_name = "N")]
    rows: u64,
    /// Keep each source's own proportions of these.
    #[arg(long, value_enum, value_name = "WHAT")]
    stratify: Option<Stratify>,
    /// Take rows again where a source has too few.
    #[arg(long)]
    repeat: bool,
    /// What the rows are, where the data do not say: prompts, demonstrations, preferences, ...
    #[arg(long = "as", value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Directory of the mixture, a dataset.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A data reference with its weight.
#[derive(Debug, Clone)]
struct Weight {
    reference: String,
    weight: f64,
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = || Self {
            reference: text.to_owned(),
            weight: 1.0,
        };
        // A file may have an equals sign in its name.
        let Some((reference, weight)) = text.rsplit_once('=').filter(|_| !Path::new(text).exists()) else {
            return Ok(plain());
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight.is_finite() => Ok(Self {
                reference: reference.to_owned(),
                weight,
            }),
            _ => Err(format!("the weight `{weight}` is not a number greater than 0")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Stratify {
    /// Where rows come from.
    Source,
    /// The tags of a row, together.
    Tag,
    /// The number of turns of the prompt.
    Turns,
}

impl From<Stratify> for Stratum {
    fn from(stratify: Stratify) -> Self {
        match stratify {
            Stratify::Source => Self::Source,
            Stratify::Tag => Self::Tag,
            Stratify::Turns => Self::Turns,
        }
    }
}

/// Rows of the largest mixture.
const MOST_ROWS: u64 = 1 << 30;

pub fn run(session: &Session, args: &Mix) -> Result<()> {
    if args.rows == 0 {
        return Err(Error::config("a mixture has at least one row").help("give --rows N"));
    }
    if args.rows > MOST_ROWS {
        return Err(
            Error::config(format!("--rows is {}, more than a mixture can have", args.rows))
                .help(format!("a mixture is made in memory: give at most {MOST_ROWS} rows")),
        );
    }
    let ours = |name: &str| name == MANIFEST || name == "rejects" || name.starts_with("data-");
    refuse_strangers(&args.out, ours)?;
    let kind = match args.kind {
        Some(kind) => kind,
        None => one_kind(&args.data)?,
    };
    if kind == Kind::Rejects {
        return Err(Error::input("rejects are not mixed: they are what could not be used")
            .at_file(&args.data[0].reference)
            .help("name the dataset itself"));
    }
    if kind == Kind::ReferenceLogprobs {
        return Err(
            Error::input("log-probabilities of a reference are not mixed: a trainer finds them by their ids")
                .at_file(&args.data[0].reference)
                .help("mix the data that they were computed for"),
        );
    }
    with_rows!(kind, make(session, args))
}

fn one_kind(sources: &[Weight]) -> Result<Kind> {
    let mut first: Option<(Kind, &str)> = None;
    for source in sources {
        let kind = kind_of(&source.reference)?;
        match first {
            None => first = Some((kind, &source.reference)),
            Some((expected, _)) if kind == expected => {}
            Some((expected, other)) => {
                return Err(Error::input(format!("it holds {kind}, but {other} holds {expected}"))
                    .at_file(&source.reference)
                    .help("mix rows of one kind, or say with `--as KIND` what all of them are to be read as"));
            }
        }
    }
    first
        .map(|(kind, _)| kind)
        .ok_or_else(|| Error::config("no sources").help("give --data at least once"))
}

fn make<R: Readable>(session: &Session, args: &Mix) -> Result<()> {
    let loaded: Vec<Loaded<R>> = args
        .data
        .iter()
        .map(|source| R::read(&source.reference))
        .collect::<Result<_>>()?;
    let sources: Vec<Weighted<'_, R>> = args
        .data
        .iter()
        .zip(&loaded)
        .map(|(source, loaded)| Weighted {
            name: &source.reference,
            weight: source.weight,
            rows: &loaded.rows,
        })
        .collect();
    let config = MixConfig {
        rows: args.rows,
        stratify: args.stratify.map(Stratum::from),
        repeat: args.repeat,
        seed: session.stage_seed("mix"),
    };
    let chosen = mix(&sources, &config)?;
    let mut ids = UniqueIds::default();
    let rows: Vec<R> = chosen
        .iter()
        .map(|choice| {
            let mut row = sources[choice.source].rows[choice.row].clone();
            let id = ids.claim(row.id());
            row.set_id(id);
            row
        })
        .collect();
    let weights: Vec<f64> = args.data.iter().map(|source| source.weight).collect();
    let settings = json!({
        "rows": args.rows,
        "weights": weights,
        "stratify": args.stratify,
        "repeat": args.repeat,
        "kind": R::KIND,
    });
    let mut provenance = session.provenance("mix", &settings)?;
    let inputs = args.data.iter().zip(&loaded);
    provenance.inputs = inputs
        .map(|(source, loaded)| data_source(&source.reference, loaded))
        .collect();
    let rejects: Vec<Reject> = loaded.iter().flat_map(|loaded| loaded.rejects.clone()).collect();
    write_rejects(&args.out, &unique(rejects), provenance.clone())?;
    dataset::write_all(&args.out, &rows, provenance)?;
    tell::<R>(session, args, &loaded, &chosen)?;
    Ok(())
}

/// The same line may be unreadable in two sources.
fn unique(mut rejects: Vec<Reject>) -> Vec<Reject> {
    let mut ids = UniqueIds::default();
    for reject in &mut rejects {
        reject.id = ids.claim(&reject.id);
    }
    rejects
}

fn tell<R: Readable>(session: &Session, args: &Mix, loaded: &[Loaded<R>], chosen: &[Choice]) -> Result<()> {
    let sources: Vec<Value> = args
        .data
        .iter()
        .zip(loaded)
        .enumerate()
        .map(|(index, (source, loaded))| {
            let taken = || chosen.iter().filter(|choice| choice.source == index);
            json!({
                "reference": source.reference,
                "weight": source.weight,
                "rows": loaded.rows.len(),
                "rejects": loaded.rejects.len(),
                "taken": taken().count(),
                "repeated": taken().filter(|choice| choice.pass > 0).count(),
            })
        })
        .collect();
    if session.json {
        output::json(&json!({
            "out": args.out.display().to_string(),
            "kind": R::KIND,
            "rows": chosen.len(),
            "sources": sources,
        }))?;
        return Ok(());
    }
    if session.quiet {
        return Ok(());
    }
    say!(
        "{}: {} {}",
        args.out.display(),
        output::grouped(chosen.len() as u64),
        R::KIND
    );
    for source in &sources {
        let number = |key: &str| source[key].as_u64().unwrap_or(0);
        let share = 100.0 * number("taken") as f64 / chosen.len().max(1) as f64;
        let mut line = format!(
            "  {:>5.1} %  {} of {}  {}",
            share,
            output::grouped(number("taken")),
            output::grouped(number("rows")),
            source["reference"].as_str().unwrap_or_default()
        );
        for (key, what) in [("repeated", "taken again"), ("rejects", "could not be read")] {
            if number(key) > 0 {
                line += &format!(", {} {what}", output::grouped(number(key)));
            }
        }
        say!("{line}");
    }
    Ok(())
}
