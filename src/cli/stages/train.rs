//! `train sft | reward | dpo`: data into examples, the trainer, and the model into its directory.

use std::path::Path;

use candle_core::DType;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::held_out::HeldOut;
use super::keeping::{self, KeepBest, Keeping, Told};
use super::lora::Lora;
use super::prompting::Prompting;
use super::tuning::Beside;
use super::{Done, Stage, read_if_there};
use crate::bias::control::Unit;
use crate::bias::ledger::{self, Subject};
use crate::bias::measure::Comparison;
use crate::cli::session::{Session, model_source};
use crate::dataset::{self, Provenance, Source, Status, rejects_dir};
use crate::error::{Error, Result};
use crate::job::lock::Lock;
use crate::model::decoder::{self, Decoder};
use crate::model::files::{Model, Precision};
use crate::model::heads::ScalarHead;
use crate::prompt::Templates;
use crate::record::{Reject, hex};
use crate::seed::Seed;
use crate::train::batch::Encoder;
use crate::train::best::{self, Best};
use crate::train::run::Setup;
use crate::train::{checkpoint, dpo, metrics, pairs, reward, sft};
use crate::{atomic, job};

/// The manifest of a training directory.
const FILE: &str = "train.json";

/// What length does to the rewards of a reward model, beside the model.
pub const LENGTH_FILE: &str = "length.json";

/// Pairs on which that is measured, at most.
pub(super) const LENGTH_PAIRS: usize = 2000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TrainManifest {
    format: String,
    status: Status,
    provenance: Provenance,
    rows: u64,
    rejects: u64,
    /// How many rows of each data set each pass has learnt, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixture: Option<Value>,
}

/// The flags that all trainers share.
#[derive(Debug, Clone, Serialize, Args)]
pub struct Common {
    /// The model to begin with: a directory in Hugging Face or PEFT layout, or builtin:tiny.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// The training data.
    #[arg(long)]
    #[serde(skip)]
    pub data: String,
    /// Save a checkpoint every so many steps; 0 for only when interrupted.
    #[arg(long, default_value_t = 500, value_name = "N")]
    #[serde(skip)]
    pub save_steps: usize,
    /// Keep of each layer its input alone, and compute the rest again on the way back: about a quarter more work,
    /// and the activations of one layer at a time. The result is the same to the bit.
    #[arg(long)]
    #[serde(skip)]
    pub gradient_checkpointing: bool,
    #[command(flatten)]
    #[serde(skip)]
    pub keeping: Keeping,
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: Lora,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Sft {
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub beside: Beside,
    #[command(flatten)]
    #[serde(skip)]
    pub best: KeepBest,
    #[command(flatten)]
    #[serde(flatten)]
    pub config: sft::SftConfig,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Reward {
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub held_out: HeldOut,
    #[command(flatten)]
    #[serde(skip)]
    pub best: KeepBest,
    #[command(flatten)]
    #[serde(flatten)]
    pub config: reward::RewardConfig,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Dpo {
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub held_out: HeldOut,
    #[command(flatten)]
    #[serde(skip)]
    pub best: KeepBest,
    #[command(flatten)]
    #[serde(flatten)]
    pub config: dpo::DpoConfig,
}

/// A training directory and what has been read for it.
pub(super) struct Training<'a> {
    session: &'a Session,
    dir: &'a Path,
    kind: &'static str,
    save_steps: usize,
    keeping: Keeping,
    speed: Told,
    pub(super) model: Model,
    pub(super) templates: Templates,
    pub(super) provenance: Provenance,
    pub(super) mixture: Option<Value>,
    /// Held from [`Training::finished`] on.
    lock: Option<Lock>,
}

impl<'a> Training<'a> {
    pub(super) fn new(
        session: &'a Session,
        dir: &'a Path,
        kind: &'static str,
        common: &Common,
        settings: &impl Serialize,
        inputs: Vec<Source>,
    ) -> Result<Self> {
        let mut model = common.prompting.load(&common.model, Precision::Full)?;
        model.decoder.training = decoder::Training {
            halves: session.trains_in_halves()?,
            recompute: common.gradient_checkpointing,
        };
        model.decoder = common.lora.prepare(session, &model, session.stage_seed(kind))?;
        let templates = Templates::new(common.prompting.style(&model)?);
        let mut provenance = session.provenance(kind, settings)?;
        provenance.model = Some(model_source(&model));
        provenance.inputs = inputs;
        provenance.prompts = templates.hashes();
        Ok(Self {
            session,
            dir,
            kind,
            save_steps: common.save_steps,
            keeping: common.keeping.clone(),
            speed: Told::default(),
            model,
            templates,
            provenance,
            mixture: None,
            lock: None,
        })
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn encoder(&self) -> Encoder<'_> {
        Encoder {
            tokenizer: &self.model.tokenizer,
            templates: &self.templates,
            context: self.model.decoder.config.context,
        }
    }

    pub(super) fn setup(&self) -> Result<Setup<'a>> {
        let provenance = serde_json::to_vec(&self.provenance)
            .map_err(|error| Error::unexpected("the provenance cannot be recorded").because(error))?;
        Ok(Setup {
            dir: self.dir.to_owned(),
            fingerprint: hex(&Sha256::digest(provenance)),
            label: self.kind.to_owned(),
            progress: self.session.progress(),
            save_steps: self.save_steps,
            in_place: false,
            // PPO's head is of its values, which nobody asks for.
            keeping: self
                .keeping
                .of_run(&self.model, self.kind == "train-reward", &self.speed),
        })
    }

    /// The same for a method that asks no reference while it learns: the decoder was read for it alone.
    pub(super) fn setup_in_place(&self) -> Result<Setup<'_>> {
        Ok(Setup {
            in_place: true,
            ..self.setup()?
        })
    }

    /// Takes the directory. Answers what a finished run in it left; an error if it holds another run.
    pub(super) fn finished(&mut self) -> Result<Option<Done>> {
        let path = self.dir.join(FILE);
        if !path.exists() {
            job::refuse_foreign(self.dir)?;
        }
        self.lock = Some(job::hold(self.dir, self.session.progress())?);
        let Some(text) = read_if_there(&path)? else {
            return Ok(None);
        };
        let manifest: TrainManifest = serde_json::from_str(&text)
            .map_err(|error| Error::input("not a training manifest").at_file(&path).because(error))?;
        let (changes, progress) = (self.session.changes, self.session.progress());
        if !job::keep_whole(self.dir, &self.provenance, &manifest.provenance, changes, progress)? {
            return Ok(None);
        }
        if manifest.status != Status::Complete {
            return Ok(None);
        }
        // It may have been stopped between its last two acts.
        checkpoint::remove(self.dir)?;
        self.session
            .progress()
            .note(&format!("{}: already complete", self.kind));
        self.done(manifest.rows, manifest.rejects).map(Some)
    }

    pub(super) fn begin(&self, rows: usize, rejects: &[Reject]) -> Result<()> {
        if rows == 0 {
            let reason = rejects.first().map_or("it is empty", |reject| reject.reason.as_str());
            return Err(Error::input(format!("there is nothing to train on: {reason}")));
        }
        self.write(Status::Running, rows, rejects.len())?;
        if !rejects.is_empty() {
            let note = format!(
                "{} rows cannot be trained on; see {}",
                rejects.len(),
                rejects_dir(self.dir).display()
            );
            self.session.progress().note(&note);
            let mut provenance = self.provenance.clone();
            provenance.stage = format!("{} rejects", provenance.stage);
            checkpoint::create_folder(&rejects_dir(self.dir))?;
            dataset::write_all(&rejects_dir(self.dir), rejects, provenance)?;
        }
        Ok(())
    }

    fn write(&self, status: Status, rows: usize, rejects: usize) -> Result<()> {
        let manifest = TrainManifest {
            format: "bylaw-training".into(),
            status,
            provenance: self.provenance.clone(),
            rows: rows as u64,
            rejects: rejects as u64,
            mixture: self.mixture.clone(),
        };
        let json =
            serde_json::to_vec_pretty(&manifest).map_err(|error| Error::unexpected("manifest").because(error))?;
        atomic::write(&self.dir.join(FILE), &json)
    }

    /// Saves the trained decoder (and head), then marks the run complete.
    pub(super) fn finish(
        self,
        decoder: Decoder,
        head: Option<&ScalarHead>,
        rows: usize,
        rejects: usize,
    ) -> Result<Done> {
        // Saving a model makes its directory, and this one should be there.
        if !self.dir.join(FILE).exists() {
            let gone = Error::unexpected("the directory of the run is gone, and the model is not saved");
            return Err(gone.at_file(self.dir).help(checkpoint::GONE));
        }
        let trained = Model {
            decoder,
            ..self.model.clone()
        };
        match head {
            Some(head) => trained.save_with_head(self.dir, DType::F32, head)?,
            None => trained.save(self.dir, DType::F32)?,
        }
        self.write(Status::Complete, rows, rejects)?;
        checkpoint::remove(self.dir)?;
        self.done(rows as u64, rejects as u64)
    }

    /// What a finished run left: the figures of its last step, and which step was the best, if that was kept.
    fn done(&self, rows: u64, rejects: u64) -> Result<Done> {
        let mut figures = metrics::last(self.dir)?.unwrap_or_default();
        let mut note = String::new();
        if let Some(best) = Best::read(self.dir)? {
            let folder = self.dir.join(best::DIR);
            note = format!(
                "lowest held-out loss {:.4} after step {}, kept in {}",
                best.eval_loss,
                best.step,
                folder.display()
            );
            let told = serde_json::to_value(best)
                .map_err(|error| Error::unexpected("the best step cannot be told").because(error))?;
            figures.insert("best".into(), told);
        }
        Ok(Done {
            rows: Some(rows),
            rejects: Some(rejects),
            result: match figures.is_empty() {
                true => Value::Null,
                false => Value::Object(figures),
            },
            speed: keeping::speed(&self.speed),
            note,
            ..Done::default()
        })
    }
}

/// Encodes rows one by one; those that cannot be encoded become rejects.
pub(super) fn encode_rows<R: dataset::Row, T>(
    kind: &str,
    rows: &[R],
    mut rejects: Vec<Reject>,
    encode: impl Fn(&R) -> Result<T>,
) -> Result<(Vec<T>, Vec<Reject>)> {
    let mut encoded = Vec::with_capacity(rows.len());
    for row in rows {
        match encode(row) {
            Ok(row) => encoded.push(row),
            Err(error) if error.kind() == crate::error::ErrorKind::Input => rejects.push(Reject {
                id: row.id().to_owned(),
                stage: kind.to_owned(),
                reason: error.to_string(),
                raw: serde_json::to_string(row).unwrap_or_default(),
            }),
            Err(error) => return Err(error),
        }
    }
    Ok((encoded, rejects))
}

/// Measures what length does to the rewards, for the ledger of length.
pub(super) fn write_length(out: &Path, model: &reward::RewardModel, pairs: &[pairs::Pair], seed: Seed) -> Result<()> {
    let rewards = model.score(&pairs::sequences(&pairs.iter().collect::<Vec<_>>()))?;
    let [chosen, rejected] = pairs::split(&rewards);
    let prompts: Vec<String> = pairs
        .iter()
        .map(|pair| format!("{:?}", &pair.chosen.tokens[..pair.chosen.completion]))
        .collect();
    let compared: Vec<ledger::Compared<'_>> = pairs
        .iter()
        .enumerate()
        .map(|(row, pair)| {
            let lengths = [&pair.chosen, &pair.rejected].map(|sequence| sequence.completion_len() as f64);
            ledger::Compared {
                prompt: &prompts[row],
                comparison: Comparison {
                    preference: f64::from(chosen[row]) - f64::from(rejected[row]),
                    length_difference: lengths[0] - lengths[1],
                    weight: 1.0,
                },
                lengths,
            }
        })
        .collect();
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let entry = ledger::compared_entry(
        &name,
        Subject::RewardModel,
        Unit::Tokens,
        &compared,
        seed.child("length"),
    )?;
    let json = serde_json::to_vec_pretty(&entry).map_err(|error| Error::unexpected("length").because(error))?;
    atomic::write(&out.join(LENGTH_FILE), &json)
}

impl Stage for Dpo {
    fn kind(&self) -> &'static str {
        "train-dpo"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let mut stage = self.clone();
        stage.config = self.config.settled()?;
        self.held_out.check(self.config.eval_steps)?;
        self.best.check(self.held_out.is_wanted())?;
        let read = self.held_out.read(&self.common.data)?;
        let sources = read.sources.clone();
        let mut training = Training::new(session, out, self.kind(), &self.common, &stage, sources)?;
        if let Some(done) = training.finished()? {
            return Ok(done);
        }
        let sides = self.held_out.sides(session, &training, read, |_| Ok(()))?;
        training.begin(sides.learnt.len(), &sides.rejects)?;
        let mut setup = training.setup_in_place()?;
        setup.keeping.best = self.best.keep_best;
        setup.keeping.rows = sides.names;
        let (decoder, seed) = (&training.model.decoder, session.stage_seed(self.kind()));
        let data = (sides.learnt.as_slice(), sides.held_out.as_slice());
        let decoder = dpo::train_beside(setup, &stage.config, decoder, data, seed)?;
        training.finish(decoder, None, sides.learnt.len(), sides.rejects.len())
    }
}

/// Loads a reward model with its head.
pub fn load_reward_model(reference: &str) -> Result<(reward::RewardModel, Model)> {
    let model = Model::load(reference)?;
    let head = ScalarHead::load(Path::new(reference), model.decoder.config.hidden)?;
    let reward_model = reward::RewardModel {
        decoder: model.decoder.clone(),
        head,
    };
    Ok((reward_model, model))
}
