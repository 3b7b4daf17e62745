//! Rows out of bylaw: into the files that other trainers read, with a configuration that is ready to run.
//!
//! What a format can carry is written down once, as a layout (`layout`); the directory (`place`), its
//! files (`sink`), the configurations (`launch`) and the card (`card`) know nothing of rows. Rows pass
//! in chunks, so memory does not grow with the data. Every row comes out once: in the data, or among
//! the rejects with the reason. What the format cannot say is counted and told, never dropped in silence.

mod card;
mod launch;
mod layout;
mod place;
mod sink;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

pub use launch::{Hyperparameters, LearningRateSchedule, PpoParameters, Warmup};
pub use layout::Exported;
pub use place::{LossRecord, RECORD, Record, Request, earlier};

use self::layout::Form;
use super::row::Kind;
use super::{Provenance, Shard, Source};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::record::Reject;

/// Rows that pass at a time.
const CHUNK_ROWS: usize = 1024;

/// Whose files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// TRL: Parquet, and YAML for `trl sft`, `trl dpo`, `trl reward`, `trl kto`, `trl grpo`.
    Trl,
    /// The alignment handbook: Parquet, and recipes for its scripts.
    AlignmentHandbook,
    /// OpenRLHF: Parquet, and launch scripts.
    Openrlhf,
    /// Axolotl: Parquet, and YAML for `axolotl train`.
    Axolotl,
    /// LLaMA-Factory: Parquet in ShareGPT form, `dataset_info.json`, and YAML.
    LlamaFactory,
    /// Our columns as Parquet, with a dataset card for the Hugging Face hub.
    Parquet,
    /// Our columns as JSON Lines.
    Jsonl,
    /// A dataset of bylaw: Arrow shards with a manifest.
    Arrow,
}

/// How the rows of a format lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Parquet,
    Jsonl,
    Arrow,
}

/// What a tool does with a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Training {
    Sft,
    Dpo,
    Reward,
    Kto,
    /// Prompts that are answered in training, judged by a reward model.
    Online,
}

impl Training {
    /// The name of its configuration, without the extension.
    pub fn name(self, format: Format) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Reward => "reward",
            Self::Kto => "kto",
            Self::Online if format == Format::Trl => "grpo",
            Self::Online => "ppo",
        }
    }
}

impl Format {
    pub const ALL: [Self; 8] = [
        Self::Trl,
        Self::AlignmentHandbook,
        Self::Openrlhf,
        Self::Axolotl,
        Self::LlamaFactory,
        Self::Parquet,
        Self::Jsonl,
        Self::Arrow,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trl => "trl",
            Self::AlignmentHandbook => "alignment-handbook",
            Self::Openrlhf => "openrlhf",
            Self::Axolotl => "axolotl",
            Self::LlamaFactory => "llama-factory",
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Arrow => "arrow",
        }
    }

    /// The name as its makers write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Trl => "TRL",
            Self::AlignmentHandbook => "the alignment handbook",
            Self::Openrlhf => "OpenRLHF",
            Self::Axolotl => "Axolotl",
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Parquet => "Parquet",
            Self::Jsonl => "JSON Lines",
            Self::Arrow => "Arrow",
        }
    }

    /// Parquet wherever a tool reads it: types are written down, so no reader has to infer them.
    pub fn container(self) -> Container {
        match self {
            Self::Trl
            | Self::AlignmentHandbook
            | Self::Openrlhf
            | Self::Axolotl
            | Self::LlamaFactory
            | Self::Parquet => Container::Parquet,
            Self::Jsonl => Container::Jsonl,
            Self::Arrow => Container::Arrow,
        }
    }

    /// Whether the rows keep their own columns.
    pub fn is_native(self) -> bool {
        match self {
            Self::Parquet | Self::Jsonl | Self::Arrow => true,
            Self::Trl | Self::AlignmentHandbook | Self::Openrlhf | Self::Axolotl | Self::LlamaFactory => false,
        }
    }

    /// What the tool trains on rows of `kind`; `None` where it has no use for them. A format that is
    /// not a tool's takes every kind and trains nothing.
    ///
    /// Read in TRL 1.16, alignment-handbook 925acdf, OpenRLHF 0.11.0, Axolotl 0.18.0 and LLaMA-Factory
    /// ff6d4d1: OpenRLHF has no KTO any more; the templates of Axolotl's KTO take one turn only.
    pub fn trainings(self, kind: Kind) -> Option<&'static [Training]> {
        use Training::{Dpo, Kto, Online, Reward, Sft};
        let sft: Option<&[Training]> = Some(&[Sft]);
        match (self, kind) {
            (_, Kind::Rejects | Kind::ReferenceLogprobs) => None,
            (Self::Parquet | Self::Jsonl | Self::Arrow, _) => Some(&[]),
            (_, Kind::Demonstrations | Kind::Revisions) => sft,
            (Self::Trl | Self::Openrlhf | Self::LlamaFactory, Kind::Preferences) => Some(&[Dpo, Reward]),
            (Self::AlignmentHandbook | Self::Axolotl, Kind::Preferences) => Some(&[Dpo]),
            (Self::Trl | Self::LlamaFactory, Kind::UnpairedPreferences) => Some(&[Kto]),
            (Self::AlignmentHandbook | Self::Openrlhf | Self::Axolotl, Kind::UnpairedPreferences) => None,
            (Self::Trl | Self::Openrlhf, Kind::Prompts) => Some(&[Online]),
            (Self::AlignmentHandbook | Self::Axolotl | Self::LlamaFactory, Kind::Prompts) => None,
            (_, Kind::Candidates) => None,
        }
    }

    /// Refuses a kind of row that the tool has no use for.
    pub fn check(self, kind: Kind) -> Result<()> {
        if self.trainings(kind).is_some() {
            return Ok(());
        }
        let remedy = match kind {
            Kind::Candidates => {
                "`--from demonstrations` takes the first answer of each row, `--from prompts` its prompt; \
                 `bylaw judge` makes preferences of candidates"
            }
            Kind::UnpairedPreferences => "`--to trl` and `--to llama-factory` train on labelled single answers (KTO)",
            Kind::Prompts => "`--to trl` and `--to openrlhf` train on prompts, with a reward model",
            Kind::ReferenceLogprobs => "`bylaw train dpo --reference-logprobs DIR` takes them",
            Kind::Rejects | Kind::Demonstrations | Kind::Revisions | Kind::Preferences => {
                "`--to parquet` and `--to jsonl` keep rows as they are"
            }
        };
        Err(Error::config(format!("{} does not train on {kind}", self.title())).help(remedy))
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a tool will not see of a row, although the file may keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// `p_chosen` between 0.5 and 1.
    SoftLabel,
    /// `p_chosen` is 0.5.
    Tie,
    /// `weight` is not 1.
    Weight,
    /// The text before the completion is learnt as well.
    Prefix,
}

impl Loss {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoftLabel => "soft_labels",
            Self::Tie => "ties",
            Self::Weight => "weights",
            Self::Prefix => "prefixes",
        }
    }

    /// What happens, for people.
    pub fn describe(self, format: Format) -> String {
        let tool = format.title();
        match self {
            Self::SoftLabel => {
                format!(
                    "soft labels: {tool} takes every pair as certain; `p_chosen` stays as a column it does not read"
                )
            }
            Self::Tie => format!(
                "ties (`p_chosen` is 0.5): {tool} trains on them as on certain pairs; filter by `p_chosen` to leave them out"
            ),
            Self::Weight => format!("weights other than 1: {tool} weighs all rows alike; `weight` stays as a column"),
            Self::Prefix => format!("texts with a prefix: {tool} learns the prefix too, the border is not kept"),
        }
    }
}

/// What to write, and where.
pub struct Export<'a> {
    pub format: Format,
    pub dir: &'a Path,
    /// What makes it the same export.
    pub request: Request,
    /// For the configurations; `None` leaves a name that no loader accepts.
    pub model: Option<&'a str>,
    /// Configurations other than the default ones: what to train, and how.
    pub trainings: Option<Vec<(Training, Hyperparameters)>>,
    /// How the input was made, if it is a dataset of ours.
    pub provenance: Option<Provenance>,
}

/// Least, sum and greatest of a length in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Lengths {
    pub count: u64,
    pub total: u64,
    pub min: u64,
    pub max: u64,
}

impl Lengths {
    fn add(&mut self, length: u64) {
        self.count += 1;
        self.total += length;
        self.min = self.min.min(length);
        self.max = self.max.max(length);
    }

    pub fn mean(self) -> f64 {
        self.total as f64 / self.count.max(1) as f64
    }
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            count: 0,
            total: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

/// What has passed.
#[derive(Debug, Default)]
struct Tally {
    form: Option<Form>,
    rows: u64,
    rejects: u64,
    losses: BTreeMap<Loss, u64>,
    lengths: BTreeMap<&'static str, Lengths>,
}

/// The rows to write.
pub trait Input<R>: Iterator<Item = Result<Result<R, Reject>>> {
    /// The hash of what was read, when all of it has been.
    fn sha256(&self) -> String;

    /// What the data turned out to be, in words.
    fn describe(&self) -> String;
}

/// Writes the rows of `input`, and answers what was written.
///
/// The directory is complete when the record of the export (for Arrow: the manifest) is in it; until then
/// all is hidden.
pub fn write<R: Exported>(export: Export<'_>, input: &mut impl Input<R>) -> Result<Record> {
    export.format.check(R::KIND)?;
    let place = place::Place::claim(export.dir, &export.request)?;
    let written =
        pour(&export, place.staging(), input).and_then(|poured| finish(&export, place.staging(), poured, input));
    match written {
        Ok(record) => {
            place.commit(&record)?;
            Ok(record)
        }
        Err(error) => {
            place.abandon();
            Err(error)
        }
    }
}

struct Poured {
    tally: Tally,
    files: Vec<Shard>,
    rejects: Vec<Shard>,
}

/// Passes the rows into the files of the staging directory.
fn pour<R: Exported>(export: &Export<'_>, staging: &Path, input: &mut impl Input<R>) -> Result<Poured> {
    let mut data = sink::Sink::new(export.format, staging)?;
    let mut rejects = sink::ArrowFiles::new(&super::rejects_dir(staging));
    let mut tally = Tally::default();
    let mut chunk = Vec::with_capacity(CHUNK_ROWS);
    for item in input {
        let row = item?;
        match row.and_then(|row| tally.admit(row, export.format)) {
            Ok(row) => chunk.push(row),
            Err(reject) => {
                tally.rejects += 1;
                rejects.push(reject)?;
            }
        }
        if chunk.len() == CHUNK_ROWS {
            interrupt::check()?;
            data.write(&chunk, tally.form.unwrap_or_default())?;
            chunk.clear();
        }
    }
    if tally.rows == 0 {
        return Err(Error::input("there are no rows to write").help("look at what the reference names"));
    }
    data.write(&chunk, tally.form.unwrap_or_default())?;
    Ok(Poured {
        files: data.finish()?,
        rejects: rejects.finish()?,
        tally,
    })
}

impl Tally {
    /// Counts a row, or says why the format cannot hold it.
    fn admit<R: Exported>(&mut self, row: R, format: Format) -> Result<R, Reject> {
        let form = *self.form.get_or_insert(row.form());
        let fits = if format.is_native() {
            Ok(())
        } else if row.form() != form {
            Err(format!(
                "is {}, but the rows before it are {}: export them apart",
                row.form().describe(),
                form.describe()
            ))
        } else {
            row.fits(format)
        };
        if let Err(reason) = fits {
            return Err(Reject {
                id: row.id().to_owned(),
                stage: "export".into(),
                reason,
                raw: serde_json::to_string(&row).unwrap_or_default(),
            });
        }
        self.rows += 1;
        for (name, length) in row.lengths() {
            self.lengths.entry(name).or_default().add(length as u64);
        }
        if !format.is_native() {
            for loss in row.losses() {
                *self.losses.entry(loss).or_default() += 1;
            }
        }
        Ok(row)
    }
}

/// Writes what stands beside the rows: manifests, configurations, the card.
fn finish<R: Exported>(export: &Export<'_>, staging: &Path, poured: Poured, input: &impl Input<R>) -> Result<Record> {
    let Poured { tally, files, rejects } = poured;
    let format = export.format;
    let form = tally.form.unwrap_or_default();
    let source = Source {
        reference: export.request.reference.clone(),
        sha256: input.sha256(),
    };
    let mut provenance = export.request.provenance();
    provenance.inputs = vec![source.clone()];
    if !rejects.is_empty() {
        let provenance = Provenance {
            stage: format!("{} rejects", provenance.stage),
            ..provenance.clone()
        };
        sink::manifest(&super::rejects_dir(staging), Kind::Rejects, rejects, provenance)?;
    }
    let launch = launch::launch(
        format,
        (R::KIND, form, tally.rows),
        export.model,
        export.trainings.as_deref(),
    );
    let mut record = Record {
        format: Record::FORMAT.into(),
        request: export.request.clone(),
        input: source,
        read_as: input.describe(),
        kind: R::KIND,
        rows: tally.rows,
        rejects: tally.rejects,
        files,
        configurations: launch.files.iter().map(|file| file.name.clone()).collect(),
        commands: launch.commands.clone(),
        losses: tally
            .losses
            .iter()
            .map(|(loss, rows)| LossRecord {
                loss: loss.as_str().into(),
                rows: *rows,
                meaning: loss.describe(format),
            })
            .collect(),
        lengths: tally
            .lengths
            .iter()
            .map(|(name, lengths)| ((*name).to_owned(), *lengths))
            .collect(),
        not_carried: launch.not_carried.clone(),
    };
    if format == Format::Arrow {
        sink::manifest(staging, R::KIND, record.files.clone(), provenance)?;
        return Ok(record);
    }
    for file in &launch.files {
        sink::text(&staging.join(&file.name), &file.text, file.executable)?;
    }
    record.configurations.push(card::FILE.into());
    let columns = layout::schema::<R>(format, form);
    let card = card::card(&record, &columns, export.provenance.as_ref(), format);
    sink::text(&staging.join(card::FILE), &card, false)?;
    Ok(record)
}
