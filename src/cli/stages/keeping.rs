//! The flags of what training leaves besides its result, which every trainer has.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use candle_core::DType;
use clap::Args;
use serde_json::{Value, json};

use crate::bounds;
use crate::dataset::Row;
use crate::error::{Error, Result};
use crate::model::files::Model;
use crate::record::Reject;
use crate::train::run::{self, Export, Speed};

/// None of it changes the result.
#[derive(Debug, Clone, Args)]
pub struct Keeping {
    /// Checkpoints to keep: with 2 there is an older one to fall back on where the newest is damaged, or where you want
    /// to go back. They are in OUT/checkpoint, and go when training is done.
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = bounds::count)]
    pub keep_checkpoints: usize,
    /// Write the model as it is after every so many steps to OUT/step-N, to try it out before training is done; 0 for
    /// never.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub export_steps: usize,
    /// Write the figures as events for TensorBoard too, beside metrics.jsonl: tensorboard --logdir OUT. The time of an
    /// event is its step.
    #[arg(long)]
    pub tensorboard: bool,
}

/// What is kept by held-out data, of a trainer that has them.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepBest {
    /// Keep the model whose loss on held-out data was the lowest too, in OUT/best, beside that of the end: for runs that
    /// learn their data by heart in the end. How often it is measured, --eval-steps says.
    #[arg(long)]
    pub keep_best: bool,
}

impl KeepBest {
    /// An error if there is nothing to tell the best by.
    pub fn check(&self, measured: bool) -> Result<()> {
        if self.keep_best && !measured {
            return Err(Error::config("--keep-best has nothing to go by")
                .help("give held-out data to measure the loss on, and --eval-steps: how often"));
        }
        Ok(())
    }
}

/// How fast training was, once it is done.
pub type Told = Rc<Cell<Option<Speed>>>;

impl Keeping {
    /// What a run is told. It saves models with the tokenizer of `model`, and `with_head` says whether their head is
    /// part of the result.
    pub fn of_run<'a>(&self, model: &Model, with_head: bool, speed: &Told) -> run::Keeping<'a> {
        // Not the model itself, whose weights would be held for nothing.
        let (tokenizer, reference, sha256) = (model.tokenizer.clone(), model.reference.clone(), model.sha256.clone());
        run::Keeping {
            checkpoints: self.keep_checkpoints,
            export: Some(Export {
                steps: self.export_steps,
                save: Box::new(move |dir, decoder, head| {
                    let model = Model {
                        decoder: decoder.clone(),
                        tokenizer: tokenizer.clone(),
                        reference: reference.clone(),
                        sha256: sha256.clone(),
                    };
                    model.save(dir, DType::F32)?;
                    head.filter(|_| with_head).map_or(Ok(()), |head| head.save(dir))
                }),
            }),
            best: false,
            tensorboard: self.tensorboard,
            rows: Vec::new(),
            speed: speed.clone(),
        }
    }
}

/// The names of the rows that are trained on, all but `rejects`: their numbers, as `number` says of a place in `rows`, and
/// their ids. None where they are not `count`, as it may be where an id comes twice.
pub fn names<R: Row>(rows: &[R], rejects: &[Reject], count: usize, number: impl Fn(usize) -> usize) -> Vec<String> {
    let rejected: HashSet<&str> = rejects.iter().map(|reject| reject.id.as_str()).collect();
    let kept = rows.iter().enumerate().filter(|(_, row)| !rejected.contains(row.id()));
    let names: Vec<String> = kept.map(|(at, row)| format!("{} ({})", number(at), row.id())).collect();
    if names.len() == count { names } else { Vec::new() }
}

/// How fast training was, as JSON; `null` where it was done before.
pub fn speed(told: &Told) -> Value {
    let Some(speed) = told.get() else { return Value::Null };
    let per_second = |count: u64| count as f64 / speed.seconds.max(1e-9);
    json!({
        "seconds": speed.seconds,
        "steps": speed.steps,
        "tokens": speed.tokens,
        "steps_per_second": per_second(speed.steps),
        "tokens_per_second": per_second(speed.tokens),
    })
}
