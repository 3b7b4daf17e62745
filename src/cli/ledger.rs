//! The ledger of length of a run: gathers what its stages left, and keeps it in `length_ledger.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::pipeline::{RunJournal, StageRecord};
use super::stages::eval::FILE as EVAL_FILE;
use super::stages::kept::Kept;
use super::stages::train::LENGTH_FILE;
use crate::atomic;
use crate::bias::interval::Estimate;
use crate::bias::ledger::{self, Against, Answered, Entry, Ledger, Subject};
use crate::bias::measure::LengthEffect;
use crate::dataset::{Dataset, Manifest};
use crate::error::{Error, Result};
use crate::eval::policy::PolicyEval;
use crate::record::Preference;
use crate::seed::Seed;

pub const FILE: &str = "length_ledger.json";

/// A policy that was evaluated.
struct Policy {
    name: String,
    /// The model's directory or reference, and that of the model it is measured against.
    model: Option<String>,
    reference: Option<String>,
    reward_model: Option<String>,
    answers: Vec<Answered>,
}

/// Gathers the ledger of the run in `dir`.
pub fn gather(dir: &Path, journal: &RunJournal) -> Result<Ledger> {
    let seed = Seed::new(journal.seed).child("ledger");
    let mut entries = Vec::new();
    let mut policies = Vec::new();
    let mut rates = Vec::new();
    for stage in &journal.stages {
        let place = dir.join(&stage.name);
        let flags = |name: &str| flags(journal, stage, name);
        let flag = |name: &str| flags(name).into_iter().next();
        match stage.kind.as_str() {
            "judge" | "balance" if Manifest::exists(&place) => {
                let rows: Vec<Preference> = Dataset::open(&place)?.read_all()?;
                entries.push(ledger::labels(&stage.name, &rows, seed.child(&stage.name)));
            }
            "train-reward" => entries.extend(reward_entry(&place.join(LENGTH_FILE))?),
            "eval-policy" => policies.push(policy(&place, flag)?),
            "eval-winrate" => rates.push(Rates {
                models: flags("model"),
                baseline: flag("baseline"),
                result: Kept::read(&place.join(EVAL_FILE))?.result,
            }),
            _ => {}
        }
    }
    for policy in &policies {
        let mut entry = policy_entry(policy, &policies, dir, &entries, seed)?;
        for rates in &rates {
            if let Some(model) = policy
                .model
                .as_deref()
                .filter(|model| rates.models.iter().any(|known| known == model))
            {
                rates.add_to(&mut entry, model);
            }
        }
        entries.push(entry);
    }
    Ok(Ledger { entries })
}

/// Keeps the ledger beside the run's journal, if there is anything in it.
pub fn write(dir: &Path, ledger: &Ledger) -> Result<()> {
    if ledger.entries.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec_pretty(ledger).map_err(|error| Error::unexpected("the ledger").because(error))?;
    let path = dir.join(FILE);
    // What is there already is not written again.
    match std::fs::read(&path) {
        Ok(there) if there == json => Ok(()),
        _ => atomic::write(&path, &json),
    }
}

/// The values of a flag of the stage's command.
fn flags(journal: &RunJournal, stage: &StageRecord, name: &str) -> Vec<String> {
    let prefix = format!("--{name}=");
    let command = journal.commands.iter().find(|(known, _)| *known == stage.name);
    let words = command.map_or(&[][..], |(_, words)| words.as_slice());
    words
        .iter()
        .filter_map(|word| word.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

fn reward_entry(path: &Path) -> Result<Option<Entry>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let entry = serde_json::from_str(&text).map_err(|error| {
        Error::input("not what a reward model does with length")
            .at_file(path)
            .because(error)
    })?;
    Ok(Some(entry))
}

fn policy(place: &Path, flag: impl Fn(&str) -> Option<String>) -> Result<Policy> {
    let path = place.join(EVAL_FILE);
    let kept = Kept::read(&path)?;
    let eval: PolicyEval = serde_json::from_value(kept.result).map_err(|error| {
        Error::input("not the evaluation of a policy")
            .at_file(&path)
            .because(error)
    })?;
    Ok(Policy {
        name: kept.name,
        model: flag("model"),
        reference: flag("reference"),
        reward_model: flag("reward-model"),
        answers: eval
            .answers
            .into_iter()
            .map(|answer| Answered {
                prompt: answer.id,
                tokens: answer.tokens,
                reward: answer.reward.map(f64::from),
            })
            .collect(),
    })
}

fn policy_entry(policy: &Policy, all: &[Policy], dir: &Path, entries: &[Entry], seed: Seed) -> Result<Entry> {
    let scored = |other: &&Policy| other.reward_model == policy.reward_model;
    let references = all
        .iter()
        .filter(|other| other.model.is_some() && other.model == policy.reference);
    // Rewards of two reward models have no difference that means anything.
    let same = references.clone().find(scored);
    let mut answers = policy.answers.clone();
    if same.is_none() {
        answers.iter_mut().for_each(|answer| answer.reward = None);
    }
    let baseline = same.or_else(|| references.clone().next());
    let effect = policy
        .reward_model
        .as_deref()
        .and_then(|model| reward_effect(model, dir, entries));
    Ok(ledger::policy(
        &policy.name,
        &answers,
        baseline.map(|other| (other.name.as_str(), other.answers.as_slice())),
        effect,
        seed.child(&policy.name),
    ))
}

/// What length does to the rewards of the model in a stage's directory.
fn reward_effect(model: &str, dir: &Path, entries: &[Entry]) -> Option<LengthEffect> {
    let place = PathBuf::from(model);
    let name = place.strip_prefix(dir).ok()?.to_string_lossy().into_owned();
    let entry = entries
        .iter()
        .find(|entry| entry.subject == Subject::RewardModel && entry.name == name)?;
    entry.effect
}

/// Win rates over one baseline.
struct Rates {
    models: Vec<String>,
    baseline: Option<String>,
    result: Value,
}

/// The last part of a path, by which reports call a model.
fn base_name(path: &str) -> String {
    Path::new(path)
        .file_name()
        .map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

impl Rates {
    /// Adds the rates of the policy with the model.
    fn add_to(&self, entry: &mut Entry, model: &str) {
        let all = self.result["models"].as_array().map_or(&[][..], Vec::as_slice);
        let named = |row: &&Value| row["model"] == model || row["model"] == base_name(model).as_str();
        let Some(row) = all.iter().find(named) else { return };
        let n = row["n"].as_u64().unwrap_or(0);
        let estimate = |value: &str, ci: &str| {
            let ends = row[ci].as_array()?;
            Some(Estimate {
                value: row[value].as_f64()?,
                low: ends.first()?.as_f64()?,
                high: ends.get(1)?.as_f64()?,
                n,
            })
        };
        let against = entry.against.get_or_insert_with(|| Against {
            baseline: self.baseline.as_deref().map(base_name).unwrap_or_default(),
            ..Against::default()
        });
        against.win_rate = estimate("win_rate", "win_rate_ci");
        against.length_controlled_win_rate = estimate("length_controlled_win_rate", "ci");
    }
}
