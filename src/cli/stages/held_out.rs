//! Pairs that are learnt from, and pairs that are only looked at: `train reward` and `train dpo`.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::keeping;
use super::train::{Training, encode_rows};
use crate::bounds;
use crate::cli::output::grouped;
use crate::cli::session::{Session, data_source};
use crate::dataset::{self, Loaded, Source, UniqueIds};
use crate::error::{Error, Result};
use crate::record::{Preference, Reject};
use crate::select::split::{self, SplitConfig, split};
use crate::survey::Sameness;
use crate::train::pairs::{self, Pair};

/// What is measured on pairs that are not learnt.
#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct HeldOut {
    /// Hold out this share of the prompts, with all of their pairs, and measure on them: eval_* in metrics.jsonl. What a
    /// reward model is worth there, its accuracy, calibration, and how it scores by length, goes into evaluation.json.
    #[arg(long, value_name = "SHARE", value_parser = bounds::share::<f64>, conflicts_with = "eval_data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_fraction: Option<f64>,
    /// Measure on these preferences instead.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub eval_data: Option<String>,
}

/// Preferences as they were read, and those of `--eval-data`.
pub struct Read {
    data: Loaded<Preference>,
    other: Option<Loaded<Preference>>,
    /// What they came from.
    pub sources: Vec<Source>,
}

/// Pairs to learn, pairs to be measured on, and what is neither.
pub struct Sides {
    pub learnt: Vec<Pair>,
    pub held_out: Vec<Pair>,
    pub rejects: Vec<Reject>,
    /// What the rows of the pairs to learn are called.
    pub names: Vec<String>,
}

impl HeldOut {
    /// Whether pairs are held out.
    pub fn is_wanted(&self) -> bool {
        self.eval_fraction.is_some() || self.eval_data.is_some()
    }

    /// An error if there is nothing for `--eval-steps` to measure.
    pub fn check(&self, eval_steps: Option<usize>) -> Result<()> {
        if eval_steps.is_some() && !self.is_wanted() {
            return Err(
                Error::config("--eval-steps has nothing to measure").help("give --eval-data or --eval-fraction")
            );
        }
        Ok(())
    }

    pub fn read(&self, reference: &str) -> Result<Read> {
        let data = dataset::read_preferences(reference)?;
        let mut sources = vec![data_source(reference, &data)];
        let other = match &self.eval_data {
            Some(reference) => {
                let other = dataset::read_preferences(reference)?;
                sources.push(data_source(reference, &other));
                Some(other)
            }
            None => None,
        };
        Ok(Read { data, other, sources })
    }

    /// The pairs of both sides. `fits` says whether a row can be learnt from.
    pub(super) fn sides(
        &self,
        session: &Session,
        training: &Training<'_>,
        Read { data, other, .. }: Read,
        fits: impl Fn(&Preference) -> Result<()>,
    ) -> Result<Sides> {
        let kind = training.kind();
        let mut rejects = data.rejects;
        let other = other.map(|other| {
            rejects.extend(other.rejects);
            other.rows
        });
        let numbers: HashMap<String, usize> = (data.rows.iter().enumerate())
            .map(|(at, row)| (row.id.clone(), at + 1))
            .collect();
        let [rows, held_out] = self.divide(session, kind, data.rows, other)?;
        let encoder = training.encoder();
        let (learnt, rejects) = encode_rows(kind, &rows, rejects, |row| {
            fits(row)?;
            pairs::encode(&encoder, row)
        })?;
        let number = |at: usize| numbers.get(&rows[at].id).copied().unwrap_or(at + 1);
        let names = keeping::names(&rows, &rejects, learnt.len(), number);
        let stage = format!("{kind} held out");
        let (held_out, mut rejects) = encode_rows(&stage, &held_out, rejects, |row| pairs::encode(&encoder, row))?;
        if held_out.is_empty() && self.is_wanted() {
            let reason = rejects.last().map_or("it is empty", |reject| reject.reason.as_str());
            return Err(Error::input(format!(
                "there is no held-out pair to measure on: {reason}"
            )));
        }
        // The same line may be unreadable in two data sets.
        let mut ids = UniqueIds::default();
        for reject in &mut rejects {
            reject.id = ids.claim(&reject.id);
        }
        Ok(Sides {
            learnt,
            held_out,
            rejects,
            names,
        })
    }

    /// The rows to learn, and those to be measured on.
    fn divide(
        &self,
        session: &Session,
        kind: &str,
        rows: Vec<Preference>,
        other: Option<Vec<Preference>>,
    ) -> Result<[Vec<Preference>; 2]> {
        if let Some(other) = other {
            let shared = split::leaks(&rows, &other, Sameness::Prompt);
            if shared > 0 {
                session.progress().note(&format!(
                    "{} prompts of --eval-data are in the training data: what is measured on them is memory as well",
                    grouped(shared as u64)
                ));
            }
            return Ok([rows, other]);
        }
        let Some(share) = self.eval_fraction else {
            return Ok([rows, Vec::new()]);
        };
        let config = SplitConfig {
            test: share,
            by: Sameness::Prompt,
            near: None,
            seed: session.stage_seed(kind),
        };
        let sides = split(&rows, &config);
        let mut test = sides.test.iter();
        let (held_out, learnt): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|_| test.next().is_some_and(|test| *test));
        if held_out.is_empty() || learnt.is_empty() {
            let prompts = sides.prompts;
            return Err(Error::config(format!(
                "--eval-fraction {share} of {prompts} prompts leaves none on one side"
            ))
            .help("give another share, or other pairs with --eval-data"));
        }
        Ok([learnt, held_out])
    }
}
