//! Collects what the report shows from the directories of a run.

use std::path::Path;

use serde_json::Value;

use super::pipeline::{RunJournal, StageRecord};
use super::stages::eval::FILE as EVAL_FILE;
use super::stages::kept::Kept;
use crate::dataset::{Dataset, Manifest};
use crate::error::{Error, Result};
use crate::eval::policy::PolicyEval;
use crate::record::Revision;
use crate::report::{
    Curve, Policies, Report, Sample, SampleAnswer, Series, StageTime, Step, Summary, Trace, TraceRound,
};
use crate::train::{metrics, online};

/// Prompts of each kind whose answers are shown.
const SAMPLES: usize = 3;
const TRACES: usize = 3;

pub fn report(dir: &Path, journal: &RunJournal) -> Result<Report> {
    let mut summary = Summary {
        seconds: journal.stages.iter().map(|stage| stage.seconds).sum(),
        peak_rss_mb: journal.peak_rss_mb,
        stages: Vec::new(),
        policies: Policies::default(),
        judge: None,
        reward_model: None,
        ledger: super::ledger::gather(dir, journal)?,
    };
    let mut evaluations = Vec::new();
    let mut curves = Vec::new();
    let mut traces = Vec::new();
    for stage in &journal.stages {
        summary.stages.push(StageTime {
            name: stage.name.clone(),
            seconds: stage.seconds,
        });
        let place = dir.join(&stage.name);
        match stage.kind.as_str() {
            "eval-policy" => evaluations.push(evaluation(&place)?),
            "eval-judge" => summary.judge = Some(figures(&place)?),
            "eval-reward" => summary.reward_model = Some(figures(&place)?),
            "revise" if traces.is_empty() => traces = revision_traces(&place)?,
            kind if kind.starts_with("train-") => curves.extend(training_curves(&place, stage)?),
            _ => {}
        }
    }
    for (name, evaluation) in &evaluations {
        summary.policies.insert(name.clone(), evaluation.figures.clone());
    }
    Ok(Report {
        title: journal.name.clone(),
        summary,
        steps: journal.stages.iter().map(step).collect(),
        samples: samples(&evaluations),
        traces,
        curves,
        provenance: provenance(dir, journal)?,
    })
}

fn parsed<T: serde::de::DeserializeOwned>(dir: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::input("an evaluation of another kind")
            .at_file(dir.join(EVAL_FILE))
            .because(error)
    })
}

fn evaluation(dir: &Path) -> Result<(String, PolicyEval)> {
    let file = Kept::read(&dir.join(EVAL_FILE))?;
    Ok((file.name, parsed(dir, file.result)?))
}

fn figures<T: serde::de::DeserializeOwned>(dir: &Path) -> Result<T> {
    let mut result = Kept::read(&dir.join(EVAL_FILE))?.result;
    parsed(dir, result["figures"].take())
}

fn step(stage: &StageRecord) -> Step {
    let kind = match stage.kind.as_str() {
        kind if kind.starts_with("eval-") => "eval",
        kind if kind.starts_with("world-") => "world",
        kind => kind.strip_prefix("train-").unwrap_or(kind),
    };
    Step {
        name: stage.name.clone(),
        kind: kind.to_owned(),
        rows: stage.rows,
        rejects: stage.rejects,
        seconds: stage.seconds,
        note: stage.note.clone(),
    }
}

/// The answers of all policies to the same few prompts, harmful ones first.
fn samples(evaluations: &[(String, PolicyEval)]) -> Vec<Sample> {
    let Some((_, first)) = evaluations.first() else {
        return Vec::new();
    };
    let of_kind = |kind| {
        first
            .answers
            .iter()
            .filter(move |answer| answer.kind == kind)
            .take(SAMPLES)
    };
    of_kind(crate::world::Kind::Harmful)
        .chain(of_kind(crate::world::Kind::Benign))
        .map(|shown| Sample {
            prompt: shown.prompt.clone(),
            answers: evaluations
                .iter()
                .filter_map(|(policy, evaluation)| {
                    let answer = evaluation.answers.iter().find(|answer| answer.id == shown.id)?;
                    Some(SampleAnswer {
                        policy: policy.clone(),
                        text: answer.answer.clone(),
                        label: answer.label.to_string(),
                    })
                })
                .collect(),
        })
        .collect()
}

/// A few revisions that changed the answer.
fn revision_traces(dir: &Path) -> Result<Vec<Trace>> {
    let rows: Vec<Revision> = Dataset::open(dir)?.read_all()?;
    Ok(rows
        .iter()
        .filter(|row| row.rounds.iter().any(|round| round.changed))
        .take(TRACES)
        .map(|row| Trace {
            prompt: row
                .prompt
                .last()
                .map_or_else(String::new, |message| message.content.clone()),
            initial: row.initial.clone(),
            rounds: row
                .rounds
                .iter()
                .map(|round| TraceRound {
                    principle: round.principle_id.clone(),
                    critique_request: round.critique_request.clone(),
                    critique: round.critique.clone(),
                    revision_request: round.revision_request.clone(),
                    revision: round.revision.clone(),
                    changed: round.changed,
                })
                .collect(),
        })
        .collect())
}

/// A chart's title, and its metrics with their names there.
type Chart = (String, &'static [(&'static str, &'static str)]);

/// The charts of a training stage.
fn charts(kind: &str) -> Vec<Chart> {
    let method = kind.strip_prefix("train-").unwrap_or(kind);
    let name = method.to_uppercase();
    match method {
        "sft" => vec![("SFT loss".into(), &[("loss", "loss")])],
        "reward" => vec![(
            "Reward model accuracy".into(),
            &[("accuracy", "accuracy"), ("loss", "loss")],
        )],
        "dpo" => vec![
            (
                "DPO accuracy".into(),
                &[("rewards/accuracies", "accuracy"), ("loss", "loss")],
            ),
            (
                "DPO rewards".into(),
                &[("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")],
            ),
        ],
        online if online::METHODS.contains(&online) => vec![
            (format!("{name} reward"), &[("objective/scores", "reward")]),
            (format!("{name} KL to the reference"), &[("objective/kl", "KL")]),
            (format!("{name} answer length"), &[("val/mean_tokens", "tokens")]),
        ],
        _ => Vec::new(),
    }
}

fn training_curves(dir: &Path, stage: &StageRecord) -> Result<Vec<Curve>> {
    let rows = metrics::read(dir)?;
    let points = |metric: &str| -> Vec<(f64, f64)> {
        rows.iter()
            .filter_map(|row| Some((row.get("step")?.as_f64()?, row.get(metric)?.as_f64()?)))
            .collect()
    };
    let x_label = match stage.kind.strip_prefix("train-") {
        Some(method) if online::METHODS.contains(&method) => "iteration",
        _ => "step",
    };
    Ok(charts(&stage.kind)
        .into_iter()
        .map(|(title, series)| Curve {
            stage: stage.name.clone(),
            title,
            x_label: x_label.to_owned(),
            series: series
                .iter()
                .map(|(metric, name)| Series {
                    name: (*name).to_owned(),
                    points: points(metric),
                })
                .collect(),
        })
        .collect())
}

fn provenance(dir: &Path, journal: &RunJournal) -> Result<Vec<(String, String)>> {
    let mut rows = Vec::new();
    let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
    if let Some(stage) = journal.stages.iter().find(|stage| stage.kind == "revise") {
        let provenance = Manifest::read(&dir.join(&stage.name))?.provenance;
        if let Some(model) = provenance.model {
            rows.push((
                "model".to_owned(),
                format!("{} (sha256 {})", model.reference, short(&model.sha256)),
            ));
        }
        if let Some(constitution) = provenance.constitution {
            let text = format!("{} (sha256 {})", constitution.reference, short(&constitution.sha256));
            rows.push(("constitution".to_owned(), text));
        }
    }
    rows.push(("seed".to_owned(), journal.seed.to_string()));
    rows.push(("program".to_owned(), journal.program.clone()));
    rows.extend(
        journal
            .commands
            .iter()
            .map(|(name, command)| (name.clone(), format!("bylaw {}", command.join(" ")))),
    );
    Ok(rows)
}
