//! `train sft`: one data set or a mixture of several, and rows whose loss is only measured.

use std::path::Path;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::keeping;
use super::train::{Sft, Training, encode_rows};
use super::{Done, Stage};
use crate::cli::output::grouped;
use crate::cli::session::{Session, data_source};
use crate::dataset::{self, Loaded, UniqueIds};
use crate::error::{Error, Result};
use crate::record::{Demonstration, Reject};
use crate::seed::Seed;
use crate::train::batch::{Encoder, Example};
use crate::train::mixture::{self, Part, Used};
use crate::train::sft::{self, SftConfig, SftData};
use crate::train::turns::{self, Learn};

/// The data beside those that passes are counted by.
#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct Beside {
    /// Other data to mix in, and how many rows of it for each row of --data: answers.jsonl=0.5; without a number all of its
    /// rows, once an epoch. May be given again. Rows are drawn in a seeded order that goes on from epoch to epoch, so that
    /// none comes twice before all have come.
    #[arg(long, value_name = "DATA[=WEIGHT]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<Mixed>,
    /// Data to mix in as well once the learning rate decays (--lr-scheduler wsd), and how many rows of it for each row that
    /// is learnt then; without a number all of its rows, once. The decay is longer by what they need. May be given again.
    #[arg(long, value_name = "DATA[=WEIGHT]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decay_mix: Vec<Mixed>,
    /// Data whose loss is measured and which are not learnt: eval_loss in metrics.jsonl.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub eval_data: Option<String>,
}

impl Beside {
    /// Whether there are no data beside `--data`.
    pub fn is_empty(&self) -> bool {
        self.mixed().next().is_none() && self.eval_data.is_none()
    }

    /// What is mixed in, in the order in which it is read.
    fn mixed(&self) -> impl Iterator<Item = &Mixed> {
        self.mix.iter().chain(&self.decay_mix)
    }
}

/// A data reference with its weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mixed {
    /// In the provenance with a checksum of its content.
    #[serde(skip)]
    pub reference: String,
    pub weight: Option<f64>,
}

impl FromStr for Mixed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A file may have an equals sign in its name.
        let Some((reference, weight)) = text.rsplit_once('=').filter(|_| !Path::new(text).exists()) else {
            return Ok(Self {
                reference: text.to_owned(),
                weight: None,
            });
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight.is_finite() => Ok(Self {
                reference: reference.to_owned(),
                weight: Some(weight),
            }),
            _ => Err(format!("the weight `{weight}` is not a number greater than 0")),
        }
    }
}

/// What has been read and encoded.
#[derive(Default)]
struct Corpus {
    examples: Vec<Example>,
    /// The data sets, those that enter in the decay after the others.
    parts: Vec<Part>,
    names: Vec<String>,
    /// The row that each example is of.
    ids: Vec<String>,
    held_out: Vec<Example>,
    rejects: Vec<Reject>,
    /// Rows that are learnt, of which a row may be several examples.
    rows: usize,
    /// Rows with turns of the assistant's that are not.
    with_earlier_turns: usize,
}

impl Sft {
    fn encode(&self, training: &Training<'_>, loaded: Vec<Loaded<Demonstration>>) -> Result<Corpus> {
        let encoder = Encoder {
            context: training
                .encoder()
                .context
                .min(self.config.batch_tokens.unwrap_or(usize::MAX)),
            ..training.encoder()
        };
        let mut corpus = Corpus::default();
        let mixed = self.beside.mixed().map(|mixed| (&mixed.reference, mixed.weight));
        let learnt = [(&self.common.data, None)].into_iter().chain(mixed);
        let mut loaded = loaded.into_iter();
        for ((reference, per_row), data) in learnt.zip(loaded.by_ref()) {
            let config = &self.config;
            let (rows, rejects) = encode_rows(self.kind(), &data.rows, data.rejects, |row| {
                encoder.learnt(row, config.learn, config.prompt_loss_weight)
            })?;
            if rows.is_empty() && self.beside.mixed().next().is_some() {
                return Err(Error::input("no row of it can be learnt")
                    .at_file(reference)
                    .help("leave it out of the mixture"));
            }
            let several = |row: &&Demonstration| turns::earlier(row).next().is_some();
            corpus.with_earlier_turns += data.rows.iter().filter(several).count();
            corpus.rows += rows.len();
            let names = keeping::names(&data.rows, &rejects, rows.len(), |at| at + 1);
            for (row, name) in rows.iter().zip(names) {
                corpus.ids.extend(row.iter().map(|_| name.clone()));
            }
            let before = corpus.examples.len();
            corpus.examples.extend(rows.into_iter().flatten());
            corpus.parts.push(Part {
                rows: corpus.examples.len() - before,
                per_row,
            });
            corpus.names.push(reference.clone());
            corpus.rejects.extend(rejects);
        }
        for data in loaded {
            let kind = format!("{} held out", self.kind());
            let (rows, rejects) = encode_rows(&kind, &data.rows, data.rejects, |row| {
                training.encoder().learnt(row, self.config.learn, 0.0)
            })?;
            corpus.held_out.extend(rows.into_iter().flatten());
            corpus.rejects.extend(rejects);
            if corpus.held_out.is_empty() {
                let error = Error::input("there is no row to measure the loss on");
                return Err(error.at_file(self.beside.eval_data.as_deref().unwrap_or_default()));
            }
        }
        // The same line may be unreadable in two data sets.
        let mut ids = UniqueIds::default();
        for reject in &mut corpus.rejects {
            reject.id = ids.claim(&reject.id);
        }
        Ok(corpus)
    }

    fn references(&self) -> impl Iterator<Item = &str> {
        let mixed = self.beside.mixed().map(|mixed| mixed.reference.as_str());
        [self.common.data.as_str()]
            .into_iter()
            .chain(mixed)
            .chain(self.beside.eval_data.as_deref())
    }
}

/// Tells how many rows of each data set are learnt in each pass and in the decay, and keeps it for the manifest.
fn tell_mixture(session: &Session, training: &mut Training<'_>, corpus: &Corpus, learnt: &[(String, Vec<Used>)]) {
    let mut kept = Vec::with_capacity(learnt.len());
    for (when, used) in learnt {
        let told = used.iter().enumerate().filter(|(_, used)| used.rows > 0);
        let told = told.map(|(index, used)| {
            let all = grouped(corpus.parts[index].rows as u64);
            let mut text = format!("{} of {all} rows of {}", grouped(used.rows as u64), corpus.names[index]);
            if used.again > 0 {
                text += &format!(" ({} again)", grouped(used.again as u64));
            }
            text
        });
        session
            .progress()
            .note(&format!("{when}: {}", told.collect::<Vec<_>>().join(", ")));
        let row = |(name, used): (&String, &Used)| json!({ "data": name, "rows": used.rows, "again": used.again });
        let data: Vec<_> = corpus.names.iter().zip(used).map(row).collect();
        kept.push(json!({ "when": when, "data": data }));
    }
    training.mixture = Some(json!(kept));
}

/// What is learnt in each pass; with something that enters in the decay, before it and in it.
fn learnt(config: &SftConfig, data: &SftData<'_>, parts: &[Part], seed: Seed) -> Vec<(String, Vec<Used>)> {
    let (names, rows): (Vec<String>, Vec<Vec<usize>>) = if data.decay.is_empty() {
        let passes = mixture::passes(data.parts, config.epochs, seed).into_iter().enumerate();
        passes
            .map(|(epoch, rows)| (format!("epoch {}", epoch + 1), rows))
            .unzip()
    } else {
        let planned = sft::planned(config, data, seed);
        let (stable, decay) = planned.steps.split_at(planned.stable);
        let rows = |steps: &[Vec<Vec<usize>>]| steps.iter().flatten().flatten().copied().collect();
        [("stable".to_owned(), rows(stable)), ("decay".to_owned(), rows(decay))]
            .into_iter()
            .unzip()
    };
    names.into_iter().zip(mixture::used(parts, &rows)).collect()
}

impl Stage for Sft {
    fn kind(&self) -> &'static str {
        "train-sft"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let beside = &self.beside;
        self.config
            .check(beside.eval_data.is_some(), !beside.decay_mix.is_empty())?;
        self.best.check(beside.eval_data.is_some())?;
        let loaded: Vec<Loaded<Demonstration>> = self
            .references()
            .map(dataset::read_demonstrations)
            .collect::<Result<_>>()?;
        let inputs = self.references().zip(&loaded);
        let inputs = inputs.map(|(reference, data)| data_source(reference, data)).collect();
        let mut training = Training::new(session, out, self.kind(), &self.common, self, inputs)?;
        if let Some(done) = training.finished()? {
            return Ok(done);
        }
        let corpus = self.encode(&training, loaded)?;
        let seed = session.stage_seed(self.kind());
        let (parts, decay) = corpus.parts.split_at(1 + self.beside.mix.len());
        let data = SftData {
            examples: &corpus.examples,
            parts,
            decay,
            held_out: &corpus.held_out,
        };
        if corpus.parts.len() > 1 {
            let learnt = learnt(&self.config, &data, &corpus.parts, seed);
            tell_mixture(session, &mut training, &corpus, &learnt);
        }
        training.begin(corpus.rows, &corpus.rejects)?;
        if self.config.learn == Learn::LastTurn && corpus.with_earlier_turns > 0 {
            session.progress().note(&format!(
                "{} rows have earlier turns of the assistant's, which are not learnt; --learn all-turns learns them",
                grouped(corpus.with_earlier_turns as u64)
            ));
        }
        let mut setup = training.setup_in_place()?;
        setup.keeping.best = self.best.keep_best;
        if corpus.ids.len() == corpus.examples.len() {
            setup.keeping.rows.clone_from(&corpus.ids);
        }
        let decoder = sft::train_on(setup, &self.config, &training.model.decoder, data, seed)?;
        training.finish(decoder, None, corpus.rows, corpus.rejects.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a weight lost, one that nothing can be drawn by, a name cut at its equals sign.
    #[test]
    fn a_reference_may_have_a_weight() {
        let read = |text: &str| text.parse::<Mixed>();
        assert_eq!(read("a.jsonl=0.5").unwrap().weight, Some(0.5));
        assert_eq!(read("a.jsonl").unwrap().weight, None);
        assert_eq!(read("a=b.jsonl=2").unwrap().reference, "a=b.jsonl");
        for text in ["a=0", "a=-1", "a=NaN", "a=much"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
