//! What the reference of a run gives to its answers: computed once, and kept beside the run as a dataset.
//!
//! A row is known by the tokens, by where the answer begins and by the weights of the model, so that another run with the
//! same reference takes what is there and computes the rest. Knows nothing of losses.

use std::collections::HashMap;
use std::path::Path;

use candle_core::DType;
use sha2::{Digest, Sha256};

use super::checkpoint;
use super::pairs::Pair;
use crate::dataset::{self, Dataset, Manifest, Provenance};
use crate::engine::local::logprobs_all;
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt;
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::progress::Progress;
use crate::record::{ReferenceLogprobs, hex};

/// The folder in a run's directory.
pub const DIR: &str = "reference";

/// Tokens to a pass; between two of them the user can stop.
const PASS_TOKENS: usize = 4096;

/// Sequences to a pass of the trunk, which holds all of their activations of a layer.
const PASS_ROWS: usize = 64;

/// Rows that are computed before they are saved for the first time; then whenever their number has doubled.
const FIRST_SAVE: usize = 512;

/// The log-probability of each token of each answer, in the arithmetic of training: a policy that has not moved yet is
/// its reference, in mixed precision too.
pub fn logprobs_of(policy: &Decoder, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
    match policy.training.halves {
        true => {
            let mut logprobs = Vec::with_capacity(sequences.len());
            for rows in sequences.chunks(PASS_ROWS) {
                logprobs.extend(trunk::infer(policy, rows, Wanted::Logprobs { temperature: 1.0 })?.logprobs);
            }
            Ok(logprobs)
        }
        false => logprobs_all(policy, sequences),
    }
}

/// Where to look for log-probabilities, and where to leave them.
pub struct Place<'a> {
    /// The directory of the run.
    pub run: &'a Path,
    /// A dataset of an earlier run, or that run's directory.
    pub from: Option<&'a Path>,
    pub progress: &'a dyn Progress,
}

/// The log-probabilities of the answers of a run under its reference.
pub struct Reference {
    weights: String,
    rows: Vec<ReferenceLogprobs>,
    places: HashMap<String, usize>,
}

impl Reference {
    /// Looks up or computes what `policy` gives to `sequences`, of which there are `total`. Leaves all of it in the run's
    /// directory, in their order; what was computed until the user stopped it stays there too.
    pub fn compute(
        place: &Place<'_>,
        policy: &Decoder,
        total: usize,
        mut sequences: impl Iterator<Item = Sequence>,
    ) -> Result<Self> {
        // Adapters begin at nothing: the reference is what they are beside.
        let mut work = Work::new(place, identity(&policy.base())?)?;
        place.progress.start("reference", total as u64, "answers");
        let computed = sequences
            .try_for_each(|sequence| work.take(policy, sequence))
            .and_then(|()| work.pass(policy));
        if let Err(error) = computed {
            if error.kind() == ErrorKind::Interrupted && work.new > 0 {
                work.save()?;
            }
            return Err(error);
        }
        place.progress.finish();
        work.end()
    }

    /// The log-probability of each token of an answer.
    pub fn logprobs(&self, sequence: &Sequence) -> Result<&[f32]> {
        let row = self.places.get(&row_id(&self.weights, sequence));
        row.map(|row| self.rows[*row].logprobs.as_slice())
            .ok_or_else(|| Error::unexpected("the reference was not asked about an answer"))
    }

    /// Those of both answers of each pair.
    pub fn of(&self, batch: &[&Pair]) -> Result<Vec<[&[f32]; 2]>> {
        batch
            .iter()
            .map(|pair| Ok([self.logprobs(&pair.chosen)?, self.logprobs(&pair.rejected)?]))
            .collect()
    }
}

/// A reference on its way.
struct Work<'a> {
    place: &'a Place<'a>,
    found: Reference,
    /// What is known from before, by id.
    known: HashMap<String, Vec<f32>>,
    /// Rows that the run's own dataset holds.
    own: usize,
    /// Rows that did not come from it.
    new: usize,
    /// What the next pass computes; it has no log-probabilities yet, and stands last in `found`.
    waiting: Vec<Sequence>,
    saved: usize,
}

impl<'a> Work<'a> {
    fn new(place: &'a Place<'a>, weights: String) -> Result<Self> {
        std::fs::create_dir_all(place.run).map_err(|error| Error::io("create", place.run, error))?;
        let mut known = HashMap::new();
        if let Some(from) = place.from {
            let dir = [from.to_owned(), from.join(DIR)]
                .into_iter()
                .find(|dir| Manifest::exists(dir));
            let dir = dir.ok_or_else(|| {
                Error::input("there are no log-probabilities of a reference")
                    .at_file(from)
                    .help("name the directory of a run of `bylaw train dpo`, or the folder `reference` in it")
            })?;
            read(&dir, &weights, &mut known)?;
        }
        let dir = place.run.join(DIR);
        let own = if Manifest::exists(&dir) {
            read(&dir, &weights, &mut known)?
        } else {
            0
        };
        Ok(Self {
            place,
            found: Reference {
                weights,
                rows: Vec::new(),
                places: HashMap::new(),
            },
            known,
            own,
            new: 0,
            waiting: Vec::new(),
            saved: FIRST_SAVE,
        })
    }

    /// Finds a sequence among what is known, or puts it with those that wait.
    fn take(&mut self, policy: &Decoder, sequence: Sequence) -> Result<()> {
        let id = row_id(&self.found.weights, &sequence);
        if self.found.places.contains_key(&id) {
            self.place.progress.advance(1);
            return Ok(());
        }
        let known = self.known.remove(&id);
        if known
            .as_ref()
            .is_some_and(|known| known.len() != sequence.completion_len())
        {
            return Err(
                Error::input(format!("the log-probabilities `{id}` are not of so many tokens"))
                    .help("leave them out, or remove the folder `reference`, to compute them"),
            );
        }
        // Rows are in the order of the sequences, whatever was known.
        if known.is_some() {
            self.pass(policy)?;
        }
        self.found.places.insert(id.clone(), self.found.rows.len());
        let waits = known.is_none();
        self.found.rows.push(ReferenceLogprobs {
            id,
            logprobs: known.unwrap_or_default(),
        });
        if !waits {
            self.place.progress.advance(1);
            return Ok(());
        }
        self.waiting.push(sequence);
        let tokens: usize = self.waiting.iter().map(|sequence| sequence.tokens.len()).sum();
        if tokens >= PASS_TOKENS {
            self.pass(policy)?;
        }
        Ok(())
    }

    /// Computes what waits.
    fn pass(&mut self, policy: &Decoder) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let first = self.found.rows.len() - waiting.len();
        let computed = interrupt::check().and_then(|()| logprobs_of(policy, &waiting));
        let computed = computed.inspect_err(|_| self.found.rows.truncate(first))?;
        for (row, logprobs) in self.found.rows[first..].iter_mut().zip(computed) {
            row.logprobs = logprobs;
        }
        self.new += waiting.len();
        self.place.progress.advance(waiting.len() as u64);
        if self.new >= self.saved {
            self.save()?;
            self.saved = 2 * self.new;
        }
        Ok(())
    }

    /// Writes the rows so far.
    fn save(&self) -> Result<()> {
        let dir = self.place.run.join(DIR);
        checkpoint::create_folder(&dir)?;
        dataset::write_all(&dir, &self.found.rows, provenance(&self.found.weights))?;
        Ok(())
    }

    fn end(self) -> Result<Reference> {
        if self.found.rows.len() != self.own || self.new > 0 {
            self.save()?;
        }
        Ok(self.found)
    }
}

fn provenance(weights: &str) -> Provenance {
    let mut provenance = Provenance::new("reference", 0);
    provenance.settings.insert("weights".into(), weights.into());
    provenance
}

/// Reads a dataset of log-probabilities; an error if it is of other weights. Answers the number of its rows.
fn read(dir: &Path, weights: &str, known: &mut HashMap<String, Vec<f32>>) -> Result<usize> {
    let dataset = Dataset::<ReferenceLogprobs>::open(dir)?;
    let theirs = dataset.manifest().provenance.settings.get("weights");
    if theirs.and_then(|theirs| theirs.as_str()) != Some(weights) {
        return Err(Error::config(
            "the log-probabilities are of a model with other weights than the one that is trained",
        )
        .at_file(dir)
        .help("name a run that began with the same model, or leave them out to compute them"));
    }
    let mut rows = 0;
    for row in dataset.rows()? {
        let row = row?;
        known.insert(row.id, row.logprobs);
        rows += 1;
    }
    Ok(rows)
}

/// The hash of what a decoder computes with: its configuration, and every weight by its name.
fn identity(decoder: &Decoder) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{:?}", decoder.config));
    if decoder.training.halves {
        hash.update("bf16");
    }
    let mut bytes = Vec::new();
    for parameter in &decoder.parameters {
        hash.update(format!("{} {:?}", parameter.name, parameter.weight.dense()?.dims()));
        let values = parameter.weight.dense()?.to_dtype(DType::F32)?.flatten_all()?;
        for values in values.to_vec1::<f32>()?.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    Ok(hex(&hash.finalize()))
}

fn row_id(weights: &str, sequence: &Sequence) -> String {
    let mut hash = Sha256::new();
    hash.update(weights);
    hash.update((sequence.completion as u64).to_le_bytes());
    for token in &sequence.tokens {
        hash.update(token.to_le_bytes());
    }
    hex(&hash.finalize()[..16])
}
