//! `train reward`: pairs into a reward model, and what it is worth on pairs that were held out.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::train::{LENGTH_PAIRS, Reward, Training, encode_rows, write_length};
use super::{Done, Stage, read_if_there};
use crate::cli::output::grouped;
use crate::cli::session::{Session, data_source};
use crate::dataset::{self, Loaded, UniqueIds};
use crate::error::{Error, Result};
use crate::record::{Preference, Reject};
use crate::select::split::{self, SplitConfig, split};
use crate::survey::Sameness;
use crate::train::held_out::{self, Evaluation};
use crate::train::pairs::{self, Pair};
use crate::train::reward;
use crate::{atomic, bounds};

/// The figures on held-out pairs.
pub const EVALUATION: &str = "evaluation.json";

/// What is measured on pairs that are not learnt.
#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct HeldOut {
    /// Hold out this share of the prompts, with all of their pairs, and measure the reward model on them: accuracy,
    /// calibration, and how it scores by length, into evaluation.json.
    #[arg(long, value_name = "SHARE", value_parser = bounds::share::<f64>, conflicts_with = "eval_data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_fraction: Option<f64>,
    /// Measure it on these preferences instead.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub eval_data: Option<String>,
}

impl HeldOut {
    /// Whether pairs are held out.
    pub fn is_wanted(&self) -> bool {
        self.eval_fraction.is_some() || self.eval_data.is_some()
    }
}

/// Pairs to learn, pairs to be measured on, and what is neither.
struct Sides {
    learnt: Vec<Pair>,
    held_out: Vec<Pair>,
    rejects: Vec<Reject>,
}

impl Reward {
    /// The rows to learn, and those to be measured on.
    fn divide(
        &self,
        session: &Session,
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
        let Some(share) = self.held_out.eval_fraction else {
            return Ok([rows, Vec::new()]);
        };
        let config = SplitConfig {
            test: share,
            by: Sameness::Prompt,
            near: None,
            seed: session.stage_seed(self.kind()),
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

    fn sides(
        &self,
        session: &Session,
        training: &Training<'_>,
        data: Loaded<Preference>,
        other: Option<Loaded<Preference>>,
    ) -> Result<Sides> {
        let mut rejects = data.rejects;
        let other = other.map(|other| {
            rejects.extend(other.rejects);
            other.rows
        });
        let [learnt, held_out] = self.divide(session, data.rows, other)?;
        let encoder = training.encoder();
        let (learnt, rejects) = encode_rows(self.kind(), &learnt, rejects, |row| {
            if self.config.margin && !pairs::has_margin(row) {
                return Err(Error::input(
                    "the row has no margin: its label is certain, and no column `margin` says by how much",
                ));
            }
            pairs::encode(&encoder, row)
        })?;
        let stage = format!("{} held out", self.kind());
        let (held_out, mut rejects) = encode_rows(&stage, &held_out, rejects, |row| pairs::encode(&encoder, row))?;
        if held_out.is_empty() && self.held_out.is_wanted() {
            let reason = rejects.last().map_or("it is empty", |reject| reject.reason.as_str());
            return Err(Error::input(format!(
                "there is no pair to measure the reward model on: {reason}"
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
        })
    }
}

impl Stage for Reward {
    fn kind(&self) -> &'static str {
        "train-reward"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let mut stage = self.clone();
        stage.config.length = self.config.length.settled()?;
        stage.config.optim.check()?;
        self.best.check(self.config.eval_steps.is_some())?;
        if self.config.eval_steps.is_some() && !self.held_out.is_wanted() {
            return Err(
                Error::config("--eval-steps has nothing to measure").help("give --eval-data or --eval-fraction")
            );
        }
        let data = dataset::read_preferences(&self.common.data)?;
        let mut inputs = vec![data_source(&self.common.data, &data)];
        let reference = self.held_out.eval_data.as_deref();
        let other = reference.map(dataset::read_preferences).transpose()?;
        inputs.extend(
            reference
                .zip(other.as_ref())
                .map(|(reference, data)| data_source(reference, data)),
        );
        let mut training = Training::new(session, out, self.kind(), &self.common, &stage, inputs)?;
        if let Some(done) = training.finished()? {
            return with_evaluation(session, out, done);
        }
        let sides = stage.sides(session, &training, data, other)?;
        training.begin(sides.learnt.len(), &sides.rejects)?;
        let seed = session.stage_seed(self.kind());
        let decoder = &training.model.decoder;
        let mut setup = training.setup_in_place()?;
        setup.keeping.best = self.best.keep_best;
        let data = (sides.learnt.as_slice(), sides.held_out.as_slice());
        let model = reward::train_beside(setup, &stage.config, decoder, data, seed)?;
        write_length(out, &model, &sides.learnt[..sides.learnt.len().min(LENGTH_PAIRS)], seed)?;
        if !sides.held_out.is_empty() {
            let evaluation = held_out::evaluate(&model, &sides.held_out, seed.child("evaluation"))?;
            let json = serde_json::to_vec_pretty(&evaluation)
                .map_err(|error| Error::unexpected("the evaluation cannot be written").because(error))?;
            atomic::write(&out.join(EVALUATION), &json)?;
        }
        let (rows, rejects) = (sides.learnt.len(), sides.rejects.len());
        let done = training.finish(model.decoder, Some(&model.head), rows, rejects)?;
        with_evaluation(session, out, done)
    }
}

/// The figures on held-out pairs beside those of the last step, and for people, if the directory has them.
fn with_evaluation(session: &Session, out: &Path, mut done: Done) -> Result<Done> {
    let path = out.join(EVALUATION);
    let Some(text) = read_if_there(&path)? else {
        return Ok(done);
    };
    let evaluation: Evaluation =
        serde_json::from_str(&text).map_err(|error| Error::input("not an evaluation").at_file(&path).because(error))?;
    for line in evaluation.lines() {
        session.progress().note(&line);
    }
    if let Value::Object(figures) = &mut done.result {
        let told = serde_json::to_value(&evaluation)
            .map_err(|error| Error::unexpected("the evaluation cannot be told").because(error))?;
        figures.insert("evaluation".into(), told);
    }
    if let Some(accuracy) = evaluation.accuracy {
        let best = (!done.note.is_empty()).then(|| done.note.clone());
        let told = [Some(format!("held-out accuracy {accuracy}")), best];
        done.note = told.into_iter().flatten().collect::<Vec<_>>().join(", ");
    }
    Ok(done)
}
