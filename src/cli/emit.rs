//! `run --emit`: training handed over to TRL or OpenRLHF, for more than one GPU.
//!
//! Every training stage of a recipe whose data are there becomes a directory with these data and a launch
//! configuration that carries the stage's hyperparameters. A model that an earlier stage trains is looked
//! for where that stage's tool will leave it, so the directories can be run one after the other.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::args::{Command, StageCommand, TrainCommand};
use super::data::convert::Target;
use super::output;
use super::pipeline::{Plan, parse, shell_word};
use super::session::Session;
use super::stages::held_out::HeldOut;
use super::stages::online::Exported;
use super::stages::train::Common;
use crate::atomic;
use crate::cli::output::say;
use crate::dataset::export::{Format, Hyperparameters, LearningRateSchedule, Record, Training, Warmup};
use crate::dataset::{Manifest, Options, Status};
use crate::error::{Error, Result};
use crate::record::{Demonstration, Preference, Prompt};
use crate::train::dpo::{DpoConfig, PreferenceLoss};
use crate::train::length::RewardLength;
use crate::train::loss::length::DpoLength;
use crate::train::optim::{OptimConfig, Schedule};
use crate::train::ppo::PpoConfig;
use crate::train::turns::Learn;

/// Who trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    Trl,
    Openrlhf,
}

impl Emit {
    fn format(self) -> Format {
        match self {
            Self::Trl => Format::Trl,
            Self::Openrlhf => Format::Openrlhf,
        }
    }
}

/// The script that runs all stages in their order.
const SCRIPT: &str = "run.sh";

/// A stage that was handed over, or why it was not.
struct Handed {
    name: String,
    outcome: Result<Record, String>,
}

/// The directory `DIR-TOOL` beside that of the run, which may not have begun and must stay empty then.
fn beside(dir: &Path, format: Format) -> PathBuf {
    match dir.file_name() {
        Some(name) => dir.with_file_name(format!("{}-{format}", name.to_string_lossy())),
        None => dir.join(format.as_str()),
    }
}

/// Writes `DIR-TOOL/STAGE` for every training stage of a run.
pub fn emit(session: &Session, plan: &Plan, emit: Emit) -> Result<()> {
    let format = emit.format();
    let out = beside(&plan.dir, format);
    let mut handed = Vec::new();
    for (index, (name, command)) in plan.commands.iter().enumerate() {
        if let Command::Stage(StageCommand::Train(train)) = parse(&plan.recipe, index, command)? {
            let stage = Stage {
                plan,
                format,
                name,
                train: &train,
            };
            handed.push(Handed {
                name: name.clone(),
                outcome: match stage.missing() {
                    Some(reason) => Err(reason),
                    None => Ok(stage.export(session, &out.join(name))?),
                },
            });
        }
    }
    if handed.is_empty() {
        return Err(Error::config("the recipe has no training stage to hand over")
            .help("`bylaw data convert --to trl` writes one dataset with its configuration"));
    }
    if handed.iter().all(|stage| stage.outcome.is_err()) {
        let reasons: Vec<&str> = handed
            .iter()
            .filter_map(|stage| stage.outcome.as_ref().err())
            .map(String::as_str)
            .collect();
        return Err(
            Error::input(format!("no training stage has its data yet: {}", reasons.join("; ")))
                .at_file(&plan.dir)
                .help("run the recipe first, as far as the data: `bylaw run RECIPE --until STAGE`"),
        );
    }
    atomic::write(&out.join(SCRIPT), script(&handed, format).as_bytes())?;
    tell(session, &out, &handed)?;
    Ok(())
}

/// A training stage.
struct Stage<'a> {
    plan: &'a Plan,
    format: Format,
    name: &'a str,
    train: &'a TrainCommand,
}

impl Stage<'_> {
    fn common(&self) -> &Common {
        match self.train {
            TrainCommand::Sft(command) => &command.stage.common,
            TrainCommand::Reward(command) => &command.stage.common,
            TrainCommand::Dpo(command) => &command.stage.common,
            TrainCommand::Online(command) => command.exported().common(),
        }
    }

    /// Why the data cannot be exported yet.
    fn missing(&self) -> Option<String> {
        let data = Path::new(&self.common().data);
        if !data.starts_with(&self.plan.dir) {
            return None;
        }
        match Manifest::read(data) {
            Ok(manifest) if manifest.status == Status::Complete => None,
            Ok(_) => Some(format!("`{}`: {} is not complete", self.name, data.display())),
            Err(_) => Some(format!("`{}`: {} is not there", self.name, data.display())),
        }
    }

    fn export(&self, session: &Session, dir: &Path) -> Result<Record> {
        let (training, hyperparameters) = self.hyperparameters();
        let common = self.common();
        let model = self.model(&common.model);
        let options = Options::default();
        let target = Target {
            reference: &common.data,
            options: &options,
            format: self.format,
            dir,
            model: model.as_deref(),
            trainings: Some(vec![(training, hyperparameters)]),
        };
        let written = match training {
            Training::Sft => target.write::<Demonstration>(session),
            Training::Dpo | Training::Reward | Training::Kto => target.write::<Preference>(session),
            Training::Online => target.write::<Prompt>(session),
        };
        Ok(written?.0)
    }

    /// How the tool names a model of ours; `None` if it cannot load it.
    fn model(&self, reference: &str) -> Option<String> {
        if let Some((name, training)) = self.trained(Path::new(reference)) {
            return Some(format!("../{name}/model-{}", training.name(self.format)));
        }
        if let Some(name) = reference.strip_prefix("hf:") {
            let name = name.split_once('@').map_or(name, |(name, _)| name);
            return Some(name.to_owned());
        }
        let path = Path::new(reference);
        let absolute = std::path::absolute(path).ok().filter(|_| path.is_dir())?;
        Some(absolute.display().to_string())
    }

    /// The stage whose result `path` is.
    fn trained(&self, path: &Path) -> Option<(&str, Training)> {
        let index = (self.plan.commands.iter()).position(|(name, _)| self.plan.dir.join(name) == path)?;
        let (name, command) = &self.plan.commands[index];
        match parse(&self.plan.recipe, index, command) {
            Ok(Command::Stage(StageCommand::Train(train))) => Some((name, training(&train))),
            _ => None,
        }
    }

    fn hyperparameters(&self) -> (Training, Hyperparameters) {
        let training = training(self.train);
        let mut with = Hyperparameters::of(self.format, training);
        // numpy, which the tools seed too, takes 32 bits.
        with.seed = self.plan.seed % (1 << 32);
        match self.train {
            TrainCommand::Sft(command) => {
                let config = &command.stage.config;
                (with.learning_rate, with.epochs, with.batch_size) =
                    (config.learning_rate, config.epochs, config.batch_size);
                if let Some(tokens) = config.batch_tokens {
                    with.not_carried.push(format!("batch_tokens = {tokens}"));
                }
                lacks(&mut with, "prompt_loss_weight", rounded(config.prompt_loss_weight), 0.0);
                let steps = config.gradient_accumulation_steps;
                lacks(&mut with, "gradient_accumulation_steps", steps as f64, 1.0);
                if config.learn == Learn::AllTurns {
                    with.not_carried.push("learn = all-turns".into());
                }
                if !command.stage.beside.is_empty() {
                    with.not_carried.push("other data than --data".into());
                }
                optimiser(&mut with, &config.optim);
            }
            TrainCommand::Reward(command) => {
                let config = &command.stage.config;
                (with.learning_rate, with.epochs, with.batch_size) =
                    (config.learning_rate, config.epochs, config.batch_size);
                with.centre_coef = config.centre_coef;
                lacks(&mut with, "head_rate", config.head_rate, 1.0);
                let steps = config.gradient_accumulation_steps;
                lacks(&mut with, "gradient_accumulation_steps", steps as f64, 1.0);
                for (name, given) in [("k_wise", config.k_wise), ("margin", config.margin)] {
                    if given {
                        with.not_carried.push(format!("{name} = true"));
                    }
                }
                held_out(&mut with, &command.stage.held_out);
                reward_length(&mut with, config.length.choice());
                optimiser(&mut with, &config.optim);
            }
            TrainCommand::Dpo(command) => {
                let config = &command.stage.config;
                (with.learning_rate, with.epochs, with.batch_size) =
                    (config.learning_rate, config.epochs, config.batch_size);
                with.beta = config.beta();
                held_out(&mut with, &command.stage.held_out);
                let steps = config.gradient_accumulation_steps;
                lacks(&mut with, "gradient_accumulation_steps", steps as f64, 1.0);
                preference_loss(&mut with, config);
                with.label_smoothing = rounded(config.label_smoothing);
                with.sft_coef = config.sft_coef;
                dpo_length(&mut with, config.length.choice());
                optimiser(&mut with, &config.optim);
            }
            TrainCommand::Online(command) => self.online(&mut with, command.exported()),
        }
        lacks(&mut with, "lora_rank", self.common().lora.lora_rank as f64, 0.0);
        (training, with)
    }

    fn online(&self, with: &mut Hyperparameters, method: &dyn Exported) {
        let (config, basics) = (method.rollout(), method.basics());
        let prompts = Manifest::read(Path::new(&self.common().data)).map_or(1, |manifest| manifest.rows.max(1));
        let completions = (config.iterations * config.rollouts) as u64;
        with.learning_rate = basics.learning_rate;
        with.batch_size = config.minibatch_rows;
        // One completion to a prompt and pass, but for GRPO.
        let passes = match self.format {
            Format::Trl => prompts * with.generations() as u64,
            _ => prompts,
        };
        with.epochs = usize::try_from(completions.div_ceil(passes)).unwrap_or(usize::MAX);
        with.beta = rounded(basics.kl_coef as f32);
        with.ppo.rollouts = config.rollouts;
        with.ppo.epochs = basics.epochs;
        with.ppo.max_new_tokens = config.max_new_tokens;
        with.ppo.temperature = rounded(config.temperature);
        with.ppo.reward_clip = rounded(config.reward_clip);
        with.not_carried
            .push(format!("missing_eos_reward = {}", config.missing_eos_reward));
        match method.ppo() {
            Some(ppo) => self.ppo(with, ppo),
            None => with.not_carried.push(format!("kind = {}", method.kind())),
        }
        if let Some(rows) = config.micro_batch_rows {
            with.not_carried.push(format!("micro_batch_rows = {rows}"));
        }
        lacks(with, "length_penalty", rounded(config.length_penalty), 0.0);
        if config.reward_length_residual {
            with.not_carried.push("reward_length_residual = true".into());
        }
        if self.format == Format::Trl {
            if let Some(ppo) = method.ppo() {
                with.not_carried.push(format!("head_rate = {}", ppo.head_rate));
                with.not_carried
                    .push(format!("clip_range_value = {}", ppo.clip_range_value));
            }
            with.not_carried.push(format!("reward_clip = {}", config.reward_clip));
        }
        with.reward_model = method.reward_model().and_then(|reference| self.model(reference));
        optimiser(with, &config.optim);
    }

    fn ppo(&self, with: &mut Hyperparameters, config: &PpoConfig) {
        with.ppo.gamma = config.gamma;
        with.ppo.gae_lambda = config.gae_lambda;
        with.ppo.clip_range = config.clip_range;
        with.ppo.clip_range_value = config.clip_range_value;
        with.ppo.critic_learning_rate = config.learning_rate * config.head_rate;
        with.not_carried.push(format!("vf_coef = {}", config.vf_coef));
        for (name, value) in [("kl_target", config.kl_target), ("dual_clip", config.dual_clip)] {
            with.not_carried.extend(value.map(|value| format!("{name} = {value}")));
        }
    }
}

fn training(train: &TrainCommand) -> Training {
    match train {
        TrainCommand::Sft(_) => Training::Sft,
        TrainCommand::Reward(_) => Training::Reward,
        TrainCommand::Dpo(_) => Training::Dpo,
        TrainCommand::Online(_) => Training::Online,
    }
}

/// An `f32` as it was typed: 0.1 and not 0.10000000149011612.
fn rounded(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn lacks(with: &mut Hyperparameters, name: &str, value: f64, neutral: f64) {
    if value != neutral {
        with.not_carried.push(format!("{name} = {value}"));
    }
}

fn held_out(with: &mut Hyperparameters, held_out: &HeldOut) {
    if held_out.is_wanted() {
        with.not_carried.push("held-out pairs".into());
    }
}

/// The tools are told of plain DPO alone.
fn preference_loss(with: &mut Hyperparameters, config: &DpoConfig) {
    let own = [
        ("simpo_gamma", config.simpo_gamma),
        ("desirable_weight", config.desirable_weight),
        ("undesirable_weight", config.undesirable_weight),
        ("prompt_loss_weight", config.prompt_loss_weight.map(rounded)),
    ];
    if config.loss != PreferenceLoss::Sigmoid {
        with.not_carried.push(format!("loss = {}", config.loss.name()));
    }
    let given = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    with.not_carried
        .extend(given.map(|(name, value)| format!("{name} = {value}")));
}

fn dpo_length(with: &mut Hyperparameters, control: DpoLength) {
    match control {
        DpoLength::None => {}
        DpoLength::Normalised => with.length_normalised = true,
        DpoLength::Desensitised { alpha } => with.ld_alpha = Some(alpha),
        DpoLength::Margin { alpha } => with
            .not_carried
            .extend(["length_control = margin".into(), format!("length_alpha = {alpha}")]),
        DpoLength::DownSampled => with.not_carried.push("length_control = down-sampled".into()),
    }
}

/// No tool trains reward models with length control.
fn reward_length(with: &mut Hyperparameters, control: RewardLength) {
    match control {
        RewardLength::None => {}
        RewardLength::Residual { scale, .. } => with
            .not_carried
            .extend(["length_control = residual".into(), format!("length_scale = {scale}")]),
        RewardLength::Decorrelated { .. } => with.not_carried.push("length_control = decorrelated".into()),
    }
}

fn optimiser(with: &mut Hyperparameters, optim: &OptimConfig) {
    with.schedule = match optim.lr_scheduler {
        Schedule::Constant => LearningRateSchedule::Constant,
        Schedule::Linear => LearningRateSchedule::Linear,
        Schedule::Cosine => LearningRateSchedule::Cosine,
        // Its settings are of another kind in each tool.
        Schedule::Wsd => {
            with.not_carried.push("lr_scheduler = wsd".into());
            LearningRateSchedule::Constant
        }
    };
    with.min_lr_ratio = optim.min_lr_ratio;
    with.warmup = match optim.warmup_ratio {
        Some(ratio) => Warmup::Ratio(ratio),
        None => Warmup::Steps(optim.warmup_steps),
    };
    with.weight_decay = optim.weight_decay;
    with.adam_beta1 = optim.adam_beta1;
    with.adam_beta2 = optim.adam_beta2;
    with.adam_epsilon = optim.adam_epsilon;
    with.max_grad_norm = optim.max_grad_norm;
}

/// The commands of all stages, in their order.
fn script(handed: &[Handed], format: Format) -> String {
    let mut text = format!(
        "#!/usr/bin/env bash\n# Trains with {} what the recipe trains, one stage after the other.\nset -euo pipefail\n\
         cd \"$(dirname \"$0\")\"\n",
        format.title()
    );
    for stage in handed {
        let name = shell_word(&stage.name);
        match &stage.outcome {
            Err(reason) => {
                let _ = writeln!(text, "# Left out: {}", reason.replace('\n', " "));
            }
            Ok(record) => {
                for command in &record.commands {
                    let _ = writeln!(text, "(cd {name} && {command})");
                }
            }
        }
    }
    text
}

fn tell(session: &Session, out: &Path, handed: &[Handed]) -> Result<()> {
    if session.json {
        let stages: Vec<_> = handed
            .iter()
            .map(|stage| match &stage.outcome {
                Ok(record) => json!({
                    "stage": stage.name,
                    "rows": record.rows,
                    "rejects": record.rejects,
                    "commands": record.commands,
                    "losses": record.losses,
                    "not_carried": record.not_carried,
                }),
                Err(reason) => json!({ "stage": stage.name, "left_out": reason }),
            })
            .collect();
        output::json(&json!({ "out": out.display().to_string(), "stages": stages }))?;
        return Ok(());
    }
    if session.quiet {
        return Ok(());
    }
    for stage in handed {
        match &stage.outcome {
            Err(reason) => say!("left out {reason}"),
            Ok(record) => {
                say!(
                    "{}: {} rows, {} rejects, {}",
                    out.join(&stage.name).display(),
                    output::grouped(record.rows),
                    output::grouped(record.rejects),
                    record.configurations.join(", ")
                );
                for loss in &record.losses {
                    say!("  unseen   {} rows: {}", output::grouped(loss.rows), loss.meaning);
                }
                if !record.not_carried.is_empty() {
                    say!("  no name  {}", record.not_carried.join(", "));
                }
            }
        }
    }
    say!("train: bash {}", shell_word(&out.join(SCRIPT).display().to_string()));
    Ok(())
}
