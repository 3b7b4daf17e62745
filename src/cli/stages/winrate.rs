//! `eval winrate`: how often models are preferred to a baseline, raw and with length controlled, on anyone's prompts.
//!
//! The pairs are judged already (`--pairs`), or they are judged here ([`judged`]). The statistics are
//! [`bias::winrate`](crate::bias::winrate).

mod duel;
mod judged;
mod page;
mod pairs;
mod work;

use std::path::Path;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::eval::evaluate;
use super::{Done, Stage};
use crate::bias::winrate::{DEFAULT_L2, WinRateConfig, rates};
use crate::bounds;
use crate::cli::session::Session;
use crate::dataset::Source;
use crate::error::{Error, Result};

use self::judged::Judging;

const EXAMPLES: &str = "\
Examples:
  bylaw eval winrate --pairs annotations.csv --json
  bylaw eval winrate --model out/dpo --baseline out/sft --prompts prompts.jsonl \\
      --judge hf:org/judge --constitution builtin:harmless --out out/winrate
  bylaw eval winrate --answers out/dpo-answers --baseline-answers out/sft-answers \\
      --judge http://localhost:8000/v1#judge --constitution builtin:harmless --out out/winrate

A row of pairs is `model, idx, len_1_chars, len_2_chars, preference`: 1 is the baseline, 2 the model;
a preference of 1 is the baseline's, 2 the model's, 1.5 a tie, anything between a probability. A
column `p`, the probability that the model's answer is better, can stand for `preference`, and
AlpacaEval's annotations (`generator_2, instruction, output_1, output_2, preference`) are read as
they are.";

#[derive(Debug, Clone, Serialize, Args)]
#[command(after_help = EXAMPLES)]
pub struct Winrate {
    /// Pairs that are judged already: a .csv, .jsonl, .json, .parquet or .arrow file, one row a pair.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "answers", "baseline", "baseline_answers", "prompts", "judge", "constitution"])]
    #[serde(skip)]
    pub pairs: Option<String>,
    /// Strength of the L2 penalty on the effects of length and difficulty; 0 is none. With few pairs it keeps
    /// the rate near the raw one instead of extrapolating.
    #[arg(long, default_value_t = DEFAULT_L2, value_name = "X", value_parser = bounds::amount::<f64>)]
    pub l2: f64,
    #[command(flatten, next_help_heading = "Judging pairs here")]
    #[serde(flatten)]
    pub judging: Judging,
}

impl Winrate {
    fn config(&self) -> WinRateConfig {
        WinRateConfig { l2: self.l2 }
    }

    /// The figures on pairs that are judged already.
    fn measured(&self, session: &Session, pairs: pairs::Pairs) -> Result<Value> {
        for note in &pairs.notes {
            session.progress().note(note);
        }
        let rates = rates(&pairs.pairs, self.config(), session.stage_seed(self.kind()))?;
        page::document(rates, self.config(), &pairs.rejected)
    }
}

impl Stage for Winrate {
    fn kind(&self) -> &'static str {
        "eval-winrate"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let done = match &self.pairs {
            Some(reference) => {
                let pairs = pairs::read(reference)?;
                let mut provenance = session.provenance(self.kind(), self)?;
                provenance.inputs = vec![Source {
                    reference: reference.clone(),
                    sha256: pairs.sha256.clone(),
                }];
                evaluate(session, out, provenance, "winrate", || self.measured(session, pairs))?
            }
            None => self.judging.run(session, self, out)?,
        };
        Ok(told(session, done))
    }

    fn answer(&self, session: &Session) -> Result<Done> {
        let Some(reference) = &self.pairs else {
            self.judging.check()?;
            return Err(Error::config("the judged pairs have no place")
                .help("give --out DIR, or --pairs FILE for pairs that are judged"));
        };
        let result = self.measured(session, pairs::read(reference)?)?;
        Ok(told(
            session,
            Done {
                result,
                ..Done::default()
            },
        ))
    }
}

/// The same with its table; what one should know of the rates is told as notes.
fn told(session: &Session, done: Done) -> Done {
    for note in page::notes(&done.result) {
        session.progress().note(&note);
    }
    Done {
        note: page::summary(&done.result),
        page: page::table(&done.result),
        ..done
    }
}
