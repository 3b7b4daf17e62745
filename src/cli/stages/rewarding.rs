//! `train reward`: pairs into a reward model, and what it is worth on pairs that were held out.

use std::path::Path;

use serde_json::Value;

use super::train::{LENGTH_PAIRS, Reward, Training, write_length};
use super::{Done, Stage, read_if_there};
use crate::atomic;
use crate::cli::session::Session;
use crate::error::{Error, Result};
use crate::train::held_out::{self, Evaluation};
use crate::train::pairs;
use crate::train::reward;

/// The figures on held-out pairs.
pub const EVALUATION: &str = "evaluation.json";

impl Stage for Reward {
    fn kind(&self) -> &'static str {
        "train-reward"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let mut stage = self.clone();
        stage.config.length = self.config.length.settled()?;
        stage.config.optim.check()?;
        self.best.check(self.config.eval_steps.is_some())?;
        self.held_out.check(self.config.eval_steps)?;
        let read = self.held_out.read(&self.common.data)?;
        let sources = read.sources.clone();
        let mut training = Training::new(session, out, self.kind(), &self.common, &stage, sources)?;
        if let Some(done) = training.finished()? {
            return with_evaluation(session, out, done);
        }
        let sides = self.held_out.sides(session, &training, read, |row| {
            match self.config.margin && !pairs::has_margin(row) {
                true => Err(Error::input(
                    "the row has no margin: its label is certain, and no column `margin` says by how much",
                )),
                false => Ok(()),
            }
        })?;
        training.begin(sides.learnt.len(), &sides.rejects)?;
        let seed = session.stage_seed(self.kind());
        let decoder = &training.model.decoder;
        let mut setup = training.setup_in_place()?;
        setup.keeping.best = self.best.keep_best;
        setup.keeping.rows.clone_from(&sides.names);
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
