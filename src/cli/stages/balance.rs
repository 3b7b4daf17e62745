//! `balance`: length control of preferences.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{Done, Stage};
use crate::bias::control::matching::Caliper;
use crate::bias::control::residual::{self, Fitted, without_length};
use crate::bias::control::{Unit, weights};
use crate::bias::interval::{Estimate, LEAST_CLUSTERS, RESAMPLES};
use crate::bias::measure::{self, LengthEffect, effect, prefer_longer_if_many};
use crate::bounds;
use crate::cli::session::{Session, data_source};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::record::{Preference, Reject};
use crate::stage::Outcome;
use crate::{atomic, dataset};

/// The file in a balanced dataset that tells what was found and done.
const BALANCED: &str = "balance.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Method {
    /// Take out of each label's log-odds what the lengths alone explain at equal quality. Without a length bias nothing changes.
    Residual,
    /// Keep pairs whose answers are of like length; the others become rejects.
    Match,
    /// Weigh pairs so that the longer answer is chosen as often as not; labels stay. The trainers use the weights.
    Weight,
}

const EXAMPLES: &str = "\
Examples:
  bylaw balance --preferences out/labels --out out/balanced
  bylaw balance --preferences out/labels --method match --out out/matched
  bylaw balance --preferences out/labels --length-effect 0.25 --out out/balanced      (by an audit)";

#[derive(Debug, Clone, Serialize, Args)]
#[command(after_help = EXAMPLES)]
pub struct Balance {
    /// Preferences: a dataset of `judge`, or rows with a chosen and a rejected answer.
    #[arg(long)]
    #[serde(skip)]
    pub preferences: String,
    /// How to control length.
    #[arg(long, value_enum, default_value_t = Method::Residual)]
    pub method: Method,
    /// residual: log-odds that the longer answer gains, as `bylaw audit` measures it by padding answers, instead of a fit on the labels.
    #[arg(long, value_name = "LOG_ODDS", value_parser = bounds::finite::<f64>, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_effect: Option<f64>,
    /// match: how many tokens apart answers may be [default: 5, or a tenth of the longer].
    #[arg(long, value_name = "TOKENS", value_parser = bounds::amount::<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
}

/// What a control found in the labels and did to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Balanced {
    pub method: Method,
    /// Of `residual`.
    pub fitted: Option<Fitted>,
    /// Share of labels whose winner changed.
    pub changed: f64,
    /// Share of pairs that became rejects.
    pub rejected: f64,
    /// Of `weight`: pairs of equal weight that would tell as much.
    pub effective: Option<f64>,
    /// Why nothing was changed, where nothing can be said of the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
    pub before: Lean,
    pub after: Lean,
}

/// How labels lean towards length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lean {
    /// Of pairs of unequal length, the weighted share that prefers the longer.
    pub prefer_longer: Option<f64>,
    /// Log-odds that a typically longer answer gains at equal quality.
    pub effect: Option<f64>,
}

impl Lean {
    fn of<'a>(rows: impl Iterator<Item = &'a Preference>, unit: Unit, typical: f64) -> Self {
        let comparisons: Vec<_> = rows.map(|row| unit.comparison(row)).collect();
        Self {
            effect: effect(&comparisons).map(|effect| effect.at(typical)),
            prefer_longer: prefer_longer_if_many(&comparisons, unit.equal_length()),
        }
    }
}

impl Balanced {
    /// Reads what was done to a balanced dataset.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(BALANCED);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::io("read", &path, error).help("give a dataset made by `bylaw balance`"))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::input("not the result of `bylaw balance`")
                .at_file(&path)
                .because(error)
        })
    }

    fn note(&self, rows: usize) -> String {
        let lean = |lean: Lean| {
            lean.prefer_longer
                .map_or("–".into(), |share| format!("{:.0} %", 100.0 * share))
        };
        let done = match (self.method, &self.untold) {
            (_, Some(reason)) => format!("nothing changed: {reason}"),
            (Method::Residual, None) => match self.fitted.filter(|fitted| fitted.effect.slope != 0.0) {
                Some(fitted) => format!(
                    "the longer answer gained {} log-odds, {:.1} % of labels turned",
                    fitted.found.map_or_else(
                        || format!("{:.2}", fitted.effect.at(fitted.typical)),
                        |found| found.to_string()
                    ),
                    100.0 * self.changed
                ),
                None => "no length bias found, nothing changed".into(),
            },
            (Method::Match, None) => format!("{:.1} % of pairs were of unlike length", 100.0 * self.rejected),
            (Method::Weight, None) => format!("weights worth {:.0} of {rows} pairs", self.effective.unwrap_or(0.0)),
        };
        format!(
            "{done}; prefers the longer {} before, {} after",
            lean(self.before),
            lean(self.after)
        )
    }
}

/// What is done to each row.
enum Control {
    Residual(Fitted),
    Match(Caliper),
    Weight(Weighing),
}

struct Weighing {
    by_id: HashMap<String, f32>,
    effective: f64,
    /// How often the longer answer is the chosen one.
    longer: Option<Estimate>,
}

impl Control {
    fn apply(&self, row: &Preference) -> Outcome<Preference> {
        match self {
            Self::Residual(fitted) => Ok(without_length(row, fitted)),
            Self::Match(caliper) => match caliper.refuses(row) {
                None => Ok(row.clone()),
                Some(reason) => Err(Reject {
                    id: row.id.clone(),
                    stage: "balance".into(),
                    reason,
                    raw: serde_json::to_string(row).unwrap_or_default(),
                }),
            },
            Self::Weight(weighing) => Ok(Preference {
                weight: row.weight * weighing.by_id.get(&row.id).copied().unwrap_or(1.0),
                ..row.clone()
            }),
        }
    }
}

impl Control {
    /// Why labels stay as they are, though they may lean to a side.
    fn untold(&self) -> Option<String> {
        let (what, remedy, found) = match self {
            Self::Residual(fitted) => (
                "the longer answer seems to gain",
                "give --length-effect, as `bylaw audit --model JUDGE` measures it",
                fitted.found,
            ),
            Self::Weight(weighing) => (
                "the share of longer answers chosen is",
                "use --method match",
                weighing.longer,
            ),
            Self::Match(_) => return None,
        };
        let found = found.filter(|found| found.interval.is_none())?;
        Some(format!(
            "{what} {found}, of which labels of fewer than {LEAST_CLUSTERS} prompts, or with few pairs that count, say \
             nothing for certain; label more prompts, or {remedy}"
        ))
    }
}

impl Balance {
    /// Whether the flags are those of the method.
    fn check(&self) -> Result<()> {
        let others = [
            (
                self.length_effect.is_some(),
                "--length-effect",
                Method::Residual,
                "residual",
            ),
            (
                self.max_difference.is_some(),
                "--max-difference",
                Method::Match,
                "match",
            ),
        ];
        for (given, flag, method, name) in others {
            if given && self.method != method {
                return Err(Error::config(format!("{flag} belongs to --method {name}"))
                    .help(format!("give --method {name}, or leave {flag} out")));
            }
        }
        Ok(())
    }

    fn control(&self, session: &Session, rows: &[Preference]) -> Result<Control> {
        let seed = session.stage_seed("balance");
        let unit = Unit::of(rows);
        let progress = session.progress();
        Ok(match (self.method, self.length_effect) {
            (Method::Residual, Some(gain)) => Control::Residual(given(rows, unit, gain)),
            (Method::Residual, None) => {
                progress.start("length effect", RESAMPLES as u64, "resamples");
                let fitted = residual::fit(rows, seed, progress)?;
                progress.finish();
                Control::Residual(fitted.map_err(|reason| {
                    Error::input(reason).at_file(&self.preferences).help(
                        "measure the effect with `bylaw audit --model JUDGE` and give it as --length-effect, or use --method \
                         match or weight",
                    )
                })?)
            }
            (Method::Match, _) => Control::Match(Caliper {
                unit,
                most: self.max_difference,
            }),
            (Method::Weight, _) => {
                progress.start("weights", RESAMPLES as u64, "resamples");
                let found = weights::fit(rows, seed, progress)?;
                progress.finish();
                let ids = rows.iter().map(|row| row.id.clone());
                Control::Weight(Weighing {
                    by_id: ids.zip(found.weights.iter().map(|weight| *weight as f32)).collect(),
                    effective: found.effective,
                    longer: found.longer,
                })
            }
        })
    }
}

/// An effect that was measured elsewhere: a typically longer answer gains so much.
fn given(rows: &[Preference], unit: Unit, gain: f64) -> Fitted {
    let typical = typical(rows, unit);
    Fitted {
        effect: LengthEffect {
            slope: gain / 1.0_f64.tanh(),
            scale: typical,
        },
        unit,
        found: None,
        typical,
    }
}

fn typical(rows: &[Preference], unit: Unit) -> f64 {
    let comparisons: Vec<_> = rows.iter().map(|row| unit.comparison(row)).collect();
    measure::typical(&comparisons)
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
        self.check()?;
        let preferences = dataset::read_preferences(&self.preferences)?;
        let rows = &preferences.rows;
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.inputs = vec![data_source(&self.preferences, &preferences)];
        let job = Job {
            changes: session.changes,
            replica: session.replica(),
            ..Job::new(out, provenance, "balance", session.progress())
        };
        // Fitted when the first row asks for it: what is complete already is not fitted again.
        let fitted = OnceCell::new();
        let control = || match fitted.get() {
            Some(control) => Ok(control),
            None => {
                let control = self.control(session, rows)?;
                Ok::<&Control, Error>(fitted.get_or_init(|| control))
            }
        };
        let finished = job.run(rows, &preferences.rejects, |rows: &[Preference]| {
            let control = control()?;
            Ok(rows.iter().map(|row| control.apply(row)).collect())
        })?;
        let path = out.join(BALANCED);
        let balanced = match fitted.get() {
            None if path.exists() => Balanced::read(out)?,
            _ => {
                let balanced = self.balanced(rows, control()?);
                let json = serde_json::to_vec_pretty(&balanced)
                    .map_err(|error| Error::unexpected("balance").because(error))?;
                atomic::write(&path, &json)?;
                balanced
            }
        };
        Ok(Done {
            rows: Some(finished.rows),
            rejects: Some(finished.rejects),
            result: serde_json::json!(balanced),
            note: balanced.note(rows.len()),
            ..Done::default()
        })
    }
}

impl Balance {
    fn balanced(&self, rows: &[Preference], control: &Control) -> Balanced {
        let unit = Unit::of(rows);
        let typical = typical(rows, unit);
        let after: Vec<Outcome<Preference>> = rows.iter().map(|row| control.apply(row)).collect();
        let share = |count: usize| count as f64 / rows.len().max(1) as f64;
        let changed = rows
            .iter()
            .zip(&after)
            .filter(|(old, new)| matches!(new, Ok(new) if new.chosen != old.chosen));
        Balanced {
            method: self.method,
            fitted: match control {
                Control::Residual(fitted) => Some(*fitted),
                Control::Match(_) | Control::Weight(_) => None,
            },
            changed: share(changed.count()),
            rejected: share(after.iter().filter(|row| row.is_err()).count()),
            effective: match control {
                Control::Weight(weighing) => Some(weighing.effective),
                Control::Residual(_) | Control::Match(_) => None,
            },
            untold: control.untold(),
            before: Lean::of(rows.iter(), unit, typical),
            after: Lean::of(after.iter().flatten(), unit, typical),
        }
    }
}
