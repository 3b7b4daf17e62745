//! What can be typed.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::stages::{self, Stage};
use crate::dataset::Slice;

/// Turns a constitution into a policy.
///
/// A language model answers prompts, criticises and revises its own answers under the principles of a
/// constitution (SL-CAI), compares pairs of answers under them (RL-CAI), and SFT, reward-model, DPO and
/// PPO policies are trained on the resulting datasets, the length bias of the labels controlled.
///
/// Begin with `bylaw demo`: the whole of it on a model inside the program, in two minutes.
#[derive(Debug, Parser)]
#[command(name = "bylaw", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Options of every command")]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Seed of every random choice [default: the recipe's, or 0].
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// Where to compute: auto, cpu.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Number format of the arithmetic; the CPU computes in f32.
    #[arg(long, global = true, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// One JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, errors only.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// How progress, notes and errors are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Say more: the command of each stage.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Auto,
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: a bar on a terminal, lines elsewhere.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole factory on the bundled model: about two minutes on two cores, no download.
    Demo(DemoArgs),
    /// Run the stages of a recipe, going on where it was stopped.
    Run(RunArgs),
    #[command(flatten)]
    Stage(StageCommand),
    /// Tell how far a job or a run is, also while it runs.
    Status(super::status::StatusArgs),
    /// Look at, check, merge, mix and split data.
    #[command(subcommand)]
    Data(super::data::DataCommand),
    /// Look at constitutions.
    #[command(subcommand)]
    Constitution(super::constitution::ConstitutionCommand),
    /// Fetch, look at, convert and make models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Talk to a model; `/critique` shows it judging itself.
    Chat(super::chat::Chat),
    /// Write the report of a run: a table, and one self-contained HTML page.
    Report(ReportArgs),
}

/// A stage's settings and where its result goes.
#[derive(Debug, Args)]
pub struct WithOut<T: Args> {
    #[command(flatten)]
    pub stage: T,
    /// Directory of the result; the same command on it goes on where it was stopped.
    // Not among the options of the group before it.
    #[arg(long, value_name = "DIR", help_heading = None::<&str>)]
    pub out: PathBuf,
    /// Go on in a directory whose model, prompts, constitution or settings were others: rows that are
    /// done stay as they are, training starts anew beside the old result.
    #[arg(long, help_heading = None::<&str>)]
    pub accept_changes: bool,
}

/// A stage whose result may just be told: without `--out` it is kept nowhere.
#[derive(Debug, Args)]
pub struct MaybeOut<T: Args> {
    #[command(flatten)]
    pub stage: T,
    /// Directory of the result; without it, it is only printed.
    #[arg(long, value_name = "DIR", help_heading = None::<&str>)]
    pub out: Option<PathBuf>,
    /// Measure again in a directory whose inputs or settings were others.
    #[arg(long, help_heading = None::<&str>, requires = "out")]
    pub accept_changes: bool,
}

/// A stage, where its result goes, and whether changes are accepted there.
pub struct Parts<'a> {
    pub stage: &'a dyn Stage,
    pub out: Option<&'a Path>,
    pub accept_changes: bool,
}

/// The commands that a recipe is made of.
#[derive(Debug, Subcommand)]
pub enum StageCommand {
    /// SL-CAI: answer, then criticise and revise under principles.
    Revise(WithOut<stages::generate::Revise>),
    /// Sample candidate answers.
    Sample(WithOut<stages::generate::Sample>),
    /// RL-CAI: soft preference labels between candidate answers.
    Judge(WithOut<stages::generate::Judge>),
    /// Measure a judge, or labels: order, length, calibration, what they are fit for.
    Audit(Box<MaybeOut<stages::audit::Audit>>),
    /// Control the length bias of preferences.
    Balance(WithOut<stages::balance::Balance>),
    /// Train a policy or a reward model.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Win rates on any prompts; figures on the proving ground, whose ground truth is known.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Prompts and documents of the proving ground.
    #[command(subcommand)]
    World(WorldCommand),
}

#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Supervised fine-tuning on revisions or other demonstrations.
    Sft(Box<WithOut<stages::train::Sft>>),
    /// A reward model from preferences (Bradley-Terry, soft labels).
    Reward(Box<WithOut<stages::train::Reward>>),
    /// Direct preference optimisation (soft labels).
    Dpo(Box<WithOut<stages::train::Dpo>>),
    #[command(flatten)]
    Online(stages::online::OnlineCommand),
}

#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// How often models are preferred to a baseline, raw and with length controlled.
    Winrate(Box<MaybeOut<stages::winrate::Winrate>>),
    /// Rates of harmful, engaged, evasive, helpful and wrong answers of a policy.
    Policy(WithOut<stages::eval::Policy>),
    /// Accuracy, order consistency and length bias of a judge.
    Judge(WithOut<stages::eval::Judge>),
    /// Accuracy and length bias of a reward model.
    Reward(WithOut<stages::eval::Reward>),
}

#[derive(Debug, Subcommand)]
pub enum WorldCommand {
    /// Prompts of one split.
    Prompts(WithOut<stages::world::Prompts>),
    /// Pairs of answers whose better one is known, to audit judges on.
    Pairs(WithOut<stages::world::Pairs>),
    /// Documents to pre-train a model on.
    Documents(WithOut<stages::world::Documents>),
}

impl<T: Args + Stage> WithOut<T> {
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            stage: &self.stage,
            out: Some(&self.out),
            accept_changes: self.accept_changes,
        }
    }
}

impl<T: Args + Stage> MaybeOut<T> {
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            stage: &self.stage,
            out: self.out.as_deref(),
            accept_changes: self.accept_changes,
        }
    }
}

impl StageCommand {
    pub fn parts(&self) -> Parts<'_> {
        match self {
            Self::Revise(command) => command.parts(),
            Self::Sample(command) => command.parts(),
            Self::Judge(command) => command.parts(),
            Self::Audit(command) => command.parts(),
            Self::Balance(command) => command.parts(),
            Self::Train(TrainCommand::Sft(command)) => command.parts(),
            Self::Train(TrainCommand::Reward(command)) => command.parts(),
            Self::Train(TrainCommand::Dpo(command)) => command.parts(),
            Self::Train(TrainCommand::Online(command)) => command.parts(),
            Self::Eval(EvalCommand::Winrate(command)) => command.parts(),
            Self::Eval(EvalCommand::Policy(command)) => command.parts(),
            Self::Eval(EvalCommand::Judge(command)) => command.parts(),
            Self::Eval(EvalCommand::Reward(command)) => command.parts(),
            Self::World(WorldCommand::Prompts(command)) => command.parts(),
            Self::World(WorldCommand::Pairs(command)) => command.parts(),
            Self::World(WorldCommand::Documents(command)) => command.parts(),
        }
    }
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Directory of the run.
    #[arg(long, default_value = "out/demo", value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The recipe, a TOML file.
    pub recipe: PathBuf,
    /// Directory of the run [default: out/ and the recipe's name].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Override a setting: `stage.key=value`, or `seed=N`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Begin at this stage; what comes before must be complete.
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    /// Stop after this stage.
    #[arg(long, value_name = "STAGE")]
    pub until: Option<String>,
    /// Go on although settings or inputs have changed since: rows that are done stay as they are,
    /// training starts anew beside the old result.
    #[arg(long)]
    pub accept_changes: bool,
    /// Do part I of N of the stages whose rows can be divided, up to the first that needs them all. When
    /// all parts are done, the same command without --shard merges them and goes on.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Slice>,
    /// Hand training over: write the data of the training stages, as far as they are there, and launch
    /// configurations with the stages' settings, to DIR-TOOL beside the run; run nothing.
    #[arg(long, value_enum, value_name = "TOOL", conflicts_with_all = ["from", "until", "shard", "accept_changes"])]
    pub emit: Option<super::emit::Emit>,
    /// Print the commands of the stages and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directory of a run.
    pub run: PathBuf,
    /// The HTML page [default: report.html in the run's directory].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Fetch a model from the Hugging Face hub: checked, resumable, at one commit.
    Pull(super::pull::Pull),
    /// Tell what a model is, and the memory that rows of it take.
    Info(super::info::Info),
    /// Convert a llama2.c checkpoint (`.bin`) to Hugging Face layout.
    Convert {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Its tokenizer, `tokenizer.bin`.
        #[arg(long, value_name = "FILE")]
        tokenizer: PathBuf,
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a model with random weights, and a BPE tokenizer trained on a text dataset.
    New {
        /// The shape: a `config.json`.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Demonstrations on whose texts the tokenizer is trained.
        #[arg(long, value_name = "DATA")]
        tokenizer_data: String,
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Fold adapters into their base: a model for programs that know no adapters.
    Merge(super::merge::Merge),
    /// Print exactly what a model will read of a conversation.
    Template(super::template::Template),
    /// Copy a model in another number format.
    Cast {
        model: String,
        #[arg(long, value_enum)]
        to: Dtype,
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}
