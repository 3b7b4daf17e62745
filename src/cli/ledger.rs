//! The ledger of length of a run: gathers what its stages left, and keeps it in `length_ledger.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::pipeline::{RunJournal, StageRecord};
use super::stages::eval::FILE as EVAL_FILE;
use super::stages::kept::Kept;
use super::stages::train::LENGTH_FILE;
use crate::atomic;
use crate::bias::interval::{Estimate, Interval};
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
                entries.push(ledger::labels(&stage.name, &rows, seed.child(&stage.name))?);
            }
            "train-reward" => entries.extend(reward_entry(&place.join(LENGTH_FILE))?),
            "eval-policy" => policies.push(policy(&place, flag)?),
            "eval-winrate" => rates.push(Rates {
                stage: stage.name.clone(),
                models: flags("model"),
                baseline: flag("baseline").or_else(|| flag("baseline-answers")),
                result: Kept::read(&place.join(EVAL_FILE))?.result,
            }),
            _ => {}
        }
    }
    let entries = entries_with_policies(entries, &policies, &rates, dir, seed)?;
    Ok(Ledger { entries })
}

/// The entries and, after them, those of the policies.
fn entries_with_policies(
    mut entries: Vec<Entry>,
    policies: &[Policy],
    rates: &[Rates],
    dir: &Path,
    seed: Seed,
) -> Result<Vec<Entry>> {
    let measured: Vec<Entry> = policies
        .iter()
        .map(|policy| {
            let evaluated = Evaluated {
                policy,
                all: policies,
                effect: policy
                    .reward_model
                    .as_deref()
                    .and_then(|model| reward_effect(model, dir, &entries)),
                seed: seed.child(&policy.name),
            };
            evaluated.entry(rates)
        })
        .collect::<Result<_>>()?;
    entries.extend(measured);
    Ok(entries)
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

/// A policy among all that were evaluated.
struct Evaluated<'a> {
    policy: &'a Policy,
    all: &'a [Policy],
    /// What length does to the rewards.
    effect: Option<LengthEffect>,
    seed: Seed,
}

impl Evaluated<'_> {
    fn entry(&self, rates: &[Rates]) -> Result<Entry> {
        let mut entry = ledger::policy(&self.policy.name, &self.policy.answers);
        if let Some(reference) = &self.policy.reference {
            entry.against = self.beside(reference)?;
        }
        for rates in rates {
            self.add(rates, &mut entry)?;
        }
        Ok(entry)
    }

    /// The policy beside that with the model, if it was evaluated too.
    fn beside(&self, model: &str) -> Result<Option<Against>> {
        let scored = |other: &&Policy| other.reward_model == self.policy.reward_model;
        let baselines = self.all.iter().filter(|other| other.model.as_deref() == Some(model));
        // Rewards of two reward models have no difference that means anything.
        let same = baselines.clone().find(scored);
        let mut answers = self.policy.answers.clone();
        if same.is_none() {
            answers.iter_mut().for_each(|answer| answer.reward = None);
        }
        let Some(baseline) = same.or_else(|| baselines.clone().next()) else {
            return Ok(None);
        };
        ledger::against(&answers, &baseline.name, &baseline.answers, self.effect, self.seed).map(Some)
    }

    /// Adds win rates of the policy, if they are: to what is known of it beside the same baseline, or by themselves. No rates
    /// take the place of others.
    fn add(&self, rates: &Rates, entry: &mut Entry) -> Result<()> {
        let Some([raw, controlled]) = self.policy.model.as_deref().and_then(|model| rates.of(model)) else {
            return Ok(());
        };
        let over_reference = rates.baseline == self.policy.reference;
        let free = |against: &mut Against| over_reference && against.stage.is_none();
        let rated = |against: Against| Against {
            stage: Some(rates.stage.clone()),
            win_rate: raw,
            length_controlled_win_rate: controlled,
            ..against
        };
        if let Some(there) = entry.against.take_if(free) {
            entry.against = Some(rated(there));
            return Ok(());
        }
        let baseline = rates.baseline.as_deref();
        let known = match baseline {
            Some(model) => self.beside(model)?,
            None => None,
        };
        let rated = rated(known.unwrap_or_else(|| Against {
            baseline: baseline.map(base_name).unwrap_or_default(),
            ..Against::default()
        }));
        match &entry.against {
            None => entry.against = Some(rated),
            Some(_) => entry.others.push(rated),
        }
        Ok(())
    }
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
    stage: String,
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
    /// The raw and the length-controlled rate of the model, if it is one of them.
    fn of(&self, model: &str) -> Option<[Option<Estimate>; 2]> {
        if !self.models.iter().any(|known| known == model) {
            return None;
        }
        let all = self.result["models"].as_array()?;
        let named = |row: &&Value| row["model"] == model || row["model"] == base_name(model).as_str();
        let row = all.iter().find(named)?;
        let n = row["n"].as_u64().unwrap_or(0);
        let estimate = |value: &str, ends: &str| {
            let ends = &row[ends];
            let interval = ends[0].as_f64().zip(ends[1].as_f64());
            Some(Estimate {
                value: row[value].as_f64()?,
                interval: interval.map(|(low, high)| Interval { low, high }),
                n,
            })
        };
        Some([
            estimate("win_rate", "win_rate_ci"),
            estimate("length_controlled_win_rate", "ci"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bias::ledger::Reading;

    fn evaluated(name: &str, reference: Option<&str>, reward_model: Option<&str>, tokens: u32) -> Policy {
        let answers = (0..20).map(|index| Answered {
            prompt: index.to_string(),
            tokens,
            reward: Some(f64::from(tokens)),
        });
        Policy {
            name: name.into(),
            model: Some(format!("run/{name}/model")),
            reference: reference.map(|name| format!("run/{name}/model")),
            reward_model: reward_model.map(str::to_owned),
            answers: answers.collect(),
        }
    }

    fn rated(stage: &str, baseline: &str, rate: f64) -> Rates {
        let row = serde_json::json!({
            "model": "run/dpo/model", "n": 20, "win_rate": rate, "win_rate_ci": [rate - 0.1, rate + 0.1],
            "length_controlled_win_rate": rate, "ci": [rate - 0.1, rate + 0.1],
        });
        Rates {
            stage: stage.into(),
            models: vec!["run/dpo/model".into(), "run/other/model".into()],
            baseline: Some(baseline.into()),
            result: serde_json::json!({ "models": [row] }),
        }
    }

    fn entry_of(policies: &[Policy], rates: &[Rates], name: &str) -> Entry {
        let entries = entries_with_policies(Vec::new(), policies, rates, Path::new("run"), Seed::new(1)).unwrap();
        entries.into_iter().find(|entry| entry.name == name).unwrap()
    }

    fn win_rate(against: &Against) -> f64 {
        against.win_rate.unwrap().value
    }

    /// Catches: win rates over one baseline told as those over another, rates that take the place of others.
    #[test]
    fn win_rates_keep_their_baseline() {
        let policies = [
            evaluated("sft", None, None, 20),
            evaluated("base", None, None, 10),
            evaluated("dpo", Some("sft"), None, 30),
        ];
        let rates = [
            rated("over-base", "run/base/model", 0.9),
            rated("over-sft", "run/sft/model", 0.7),
            rated("over-sft-again", "run/sft/model", 0.3),
            rated("over-files", "answers/gpt.jsonl", 0.5),
        ];
        let entry = entry_of(&policies, &rates, "dpo");
        let against = entry.against.unwrap();
        assert_eq!((against.baseline.as_str(), win_rate(&against)), ("sft", 0.7));
        assert_eq!(against.longer_by.unwrap().value, 10.0);
        let others: Vec<(&str, &str, f64, Option<f64>)> = entry
            .others
            .iter()
            .map(|other| {
                (
                    other.baseline.as_str(),
                    other.stage.as_deref().unwrap(),
                    win_rate(other),
                    other.longer_by.map(|by| by.value),
                )
            })
            .collect();
        assert_eq!(
            others,
            [
                ("base", "over-base", 0.9, Some(20.0)),
                ("sft", "over-sft-again", 0.3, Some(10.0)),
                ("gpt.jsonl", "over-files", 0.5, None),
            ]
        );
        assert_eq!(entry.others[1].reading(), Reading::Worse);
        let untouched = entry_of(&policies, &rates, "sft");
        assert!(untouched.against.is_none() && untouched.others.is_empty());
    }

    /// Catches: win rates lost because the reference was not evaluated.
    #[test]
    fn win_rates_stand_alone_where_nothing_else_is_known() {
        let policies = [evaluated("dpo", Some("sft"), None, 30)];
        let entry = entry_of(&policies, &[rated("winrate", "run/sft/model", 0.7)], "dpo");
        let against = entry.against.unwrap();
        assert_eq!((against.baseline.as_str(), win_rate(&against)), ("model", 0.7));
        assert!(against.longer_by.is_none());
    }

    /// Catches: rewards of two reward models subtracted from each other.
    #[test]
    fn rewards_of_two_models_are_not_compared() {
        let gain = |reward_model: Option<&str>| {
            let policies = [
                evaluated("sft", None, Some("run/reward"), 20),
                evaluated("dpo", Some("sft"), reward_model, 30),
            ];
            let against = entry_of(&policies, &[], "dpo").against.unwrap();
            assert_eq!(against.longer_by.unwrap().value, 10.0);
            against.reward_gain.map(|gain| gain.value)
        };
        assert_eq!(gain(Some("run/reward")), Some(10.0));
        assert_eq!(gain(Some("run/other")), None);
    }
}
