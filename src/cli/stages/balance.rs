//! `balance`: length control of preferences.

use std::path::Path;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{Done, Stage};
use crate::bias::control;
use crate::cli::session::{Session, data_source};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::record::Preference;
use crate::{atomic, dataset};

/// The file in a balanced dataset that holds what was fitted.
const FITTED: &str = "balance.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Take out of each label's log-odds what the lengths alone explain.
    Residual,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Balance {
    /// Preferences: a dataset of `judge`, or rows with a chosen and a rejected answer.
    #[arg(long)]
    #[serde(skip)]
    pub preferences: String,
    /// How to control length.
    #[arg(long, value_enum, default_value_t = Method::Residual)]
    pub method: Method,
}

/// What was fitted on the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Log-odds that the longer answer gains by being much longer.
    pub slope: f32,
    /// Share of labels whose winner changed.
    pub changed: f32,
}

impl Fitted {
    /// Reads what was fitted from a balanced dataset.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FITTED);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::io("read", &path, error).help("give a dataset made by `bylaw balance`"))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::input("not the result of `bylaw balance`")
                .at_file(&path)
                .because(error)
        })
    }
}

impl Stage for Balance {
    fn kind(&self) -> &'static str {
        "balance"
    }

    fn next(&self, out: &Path) -> Option<String> {
        Some(format!(
            "bylaw train dpo --model MODEL --data {} --out DIR",
            out.display()
        ))
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let preferences = dataset::read_preferences(&self.preferences)?;
        let slope = match self.method {
            Method::Residual => control::slope(&preferences.rows),
        };
        let balanced = control::residual(&preferences.rows, slope);
        let changed = preferences
            .rows
            .iter()
            .zip(&balanced)
            .filter(|(old, new)| old.chosen != new.chosen)
            .count();
        let fitted = Fitted {
            slope,
            changed: changed as f32 / balanced.len().max(1) as f32,
        };
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.inputs = vec![data_source(&self.preferences, &preferences)];
        let job = Job {
            changes: session.changes,
            replica: session.replica(),
            ..Job::new(out, provenance, "balance", session.progress())
        };
        let finished = job.run(&balanced, &preferences.rejects, |rows: &[Preference]| {
            Ok(rows.iter().cloned().map(Ok).collect())
        })?;
        let json = serde_json::to_vec_pretty(&fitted).map_err(|error| Error::unexpected("balance").because(error))?;
        atomic::write(&out.join(FITTED), &json)?;
        Ok(Done {
            rows: Some(finished.rows),
            rejects: Some(finished.rejects),
            result: serde_json::json!(fitted),
            note: format!(
                "length slope {slope:.2}, {:.1} % of labels turned",
                100.0 * fitted.changed
            ),
        })
    }
}
