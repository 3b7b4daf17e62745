//! Configurations beside exported data, ready to run.
//!
//! Each tool has its file; all are pure functions from hyperparameters to text. Paths are relative to the
//! directory of the export, so that it can be moved. The model is the one thing that nobody can guess: a
//! name that no loader accepts stands in its place until it is given.

mod axolotl;
mod handbook;
mod llama_factory;
mod openrlhf;
mod trl;

use super::layout::Form;
use super::{Format, Training};
use crate::dataset::row::Kind;

/// Stands where a model must be named; no loader finds such a model.
pub const MODEL_PLACEHOLDER: &str = "SET_YOUR_MODEL";
/// The same for a reward model.
pub const REWARD_MODEL_PLACEHOLDER: &str = "SET_YOUR_REWARD_MODEL";

/// The learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearningRateSchedule {
    Constant,
    Linear,
    Cosine,
}

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    Steps(usize),
    /// Share of all steps.
    Ratio(f64),
}

/// How to train, in the names that all tools share. Where a tool has no such setting it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    pub learning_rate: f64,
    pub epochs: usize,
    /// Rows to a step, over all devices.
    pub batch_size: usize,
    /// Tokens of a sequence at most; longer rows are cut or left out by the tool.
    pub max_length: usize,
    pub schedule: LearningRateSchedule,
    /// Where the schedule ends, as a share of the learning rate.
    pub min_lr_ratio: f64,
    pub warmup: Warmup,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_grad_norm: f64,
    pub seed: u64,
    /// DPO, KTO: the pull towards the reference. Online: weight of the KL penalty.
    pub beta: f64,
    /// DPO.
    pub label_smoothing: f64,
    /// DPO: weight of the likelihood of the chosen answer.
    pub sft_coef: f64,
    /// DPO: mean log-probabilities instead of sums (LN-DPO). TRL alone has it.
    pub length_normalised: bool,
    /// DPO: the weight of tokens beyond the shorter answer (LD-DPO). TRL alone has it.
    pub ld_alpha: Option<f64>,
    /// Reward: weight of the squared sum of a pair's rewards.
    pub centre_coef: f64,
    pub ppo: PpoParameters,
    pub reward_model: Option<String>,
    /// Settings of ours that no tool has.
    pub not_carried: Vec<String>,
}

/// What PPO has besides. Defaults as in OpenRLHF.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpoParameters {
    /// Completions drawn before an update.
    pub rollouts: usize,
    pub epochs: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub gamma: f64,
    pub gae_lambda: f64,
    pub clip_range: f64,
    pub clip_range_value: f64,
    pub critic_learning_rate: f64,
    /// Rewards are clipped to plus and minus this.
    pub reward_clip: f64,
}

impl Hyperparameters {
    /// What the tool's users expect. TRL's and OpenRLHF's are their own defaults; the others' are those of
    /// the handbook's constitutional-AI recipe, which is nearest to our data.
    pub fn of(format: Format, training: Training) -> Self {
        let openrlhf = format == Format::Openrlhf;
        let trl = format == Format::Trl;
        let (learning_rate, epochs) = match training {
            Training::Sft if openrlhf => (5e-6, 1),
            Training::Sft => (2e-5, 1),
            Training::Dpo | Training::Kto if trl => (1e-6, 1),
            Training::Dpo if openrlhf => (5e-7, 1),
            Training::Dpo | Training::Kto => (5e-7, 3),
            Training::Reward if trl => (1e-4, 1),
            Training::Reward => (9e-6, 1),
            Training::Online => (1e-6, 1),
        };
        Self {
            learning_rate,
            epochs,
            batch_size: match (openrlhf, training) {
                (true, Training::Sft | Training::Online) => 128,
                (true, _) => 256,
                (false, _) => 16,
            },
            max_length: 2048,
            schedule: LearningRateSchedule::Cosine,
            min_lr_ratio: if openrlhf { 0.1 } else { 0.0 },
            warmup: Warmup::Ratio(if openrlhf { 0.03 } else { 0.1 }),
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: if openrlhf { 0.95 } else { 0.999 },
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            seed: 42,
            beta: match training {
                Training::Online if trl => 0.001,
                Training::Online => 0.01,
                Training::Sft | Training::Dpo | Training::Reward | Training::Kto => 0.1,
            },
            label_smoothing: 0.0,
            sft_coef: 0.0,
            length_normalised: false,
            ld_alpha: None,
            centre_coef: 0.0,
            ppo: PpoParameters {
                rollouts: 1024,
                epochs: 1,
                max_new_tokens: 512,
                temperature: 1.0,
                gamma: 1.0,
                gae_lambda: 1.0,
                clip_range: 0.2,
                clip_range_value: 0.5,
                critic_learning_rate: 9e-6,
                reward_clip: 10.0,
            },
            reward_model: None,
            not_carried: Vec::new(),
        }
    }

    /// A batch no larger than the data: OpenRLHF takes no step at all on less than one batch.
    fn at_most(mut self, rows: u64) -> Self {
        while self.batch_size as u64 > rows && self.batch_size > 1 {
            self.batch_size /= 2;
        }
        while self.ppo.rollouts as u64 > rows && self.ppo.rollouts > self.batch_size {
            self.ppo.rollouts /= 2;
        }
        self
    }

    /// GRPO's completions to a prompt, which must divide the batch.
    pub fn generations(&self) -> usize {
        let divides = |count: &usize| self.batch_size.is_multiple_of(*count);
        [8, 4, 2].into_iter().find(divides).unwrap_or(2)
    }

    /// Rows to a device at a time, and how often gradients are accumulated, on one device.
    fn batches(&self) -> (usize, usize) {
        let device = [8, 4, 2].into_iter().find(|size| self.batch_size.is_multiple_of(*size));
        let device = device.unwrap_or(1);
        (device, self.batch_size.max(1) / device)
    }

    /// Warm-up as a share of the steps of `rows` rows.
    fn warmup_ratio(&self, rows: u64) -> f64 {
        match self.warmup {
            Warmup::Ratio(ratio) => ratio,
            Warmup::Steps(steps) => {
                let total = rows.div_ceil(self.batch_size.max(1) as u64) * self.epochs.max(1) as u64;
                let ratio = (steps as f64 / total.max(1) as f64).min(1.0);
                (ratio * 1e4).round() / 1e4
            }
        }
    }
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFile {
    pub name: String,
    pub text: String,
    pub executable: bool,
}

/// How to train on an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    pub files: Vec<LaunchFile>,
    /// One a training, to be given in the directory of the export.
    pub commands: Vec<String>,
    /// Settings that the tool has no name for, with their values.
    pub not_carried: Vec<String>,
}

impl Launch {
    fn add(&mut self, name: &str, text: String, executable: bool, command: String) {
        self.files.push(LaunchFile {
            name: name.to_owned(),
            text,
            executable,
        });
        self.commands.push(command);
    }

    /// Tells a setting that has no name in the tool, unless it has no effect.
    fn lacks(&mut self, name: &str, value: f64, neutral: f64) {
        if value != neutral {
            self.not_carried.push(format!("{name} = {value}"));
        }
    }

    fn lacks_length_control(&mut self, with: &Hyperparameters) {
        if with.length_normalised {
            self.not_carried.push("length_control = normalised".into());
        }
        if let Some(alpha) = with.ld_alpha {
            self.not_carried
                .extend(["length_control = desensitised".into(), format!("ld_alpha = {alpha}")]);
        }
    }
}

/// What the data of an export are.
#[derive(Debug, Clone, Copy)]
struct Data {
    kind: Kind,
    form: Form,
    rows: u64,
}

/// The configurations of an export; none for formats that are no tool's.
pub fn launch(
    format: Format,
    (kind, form, rows): (Kind, Form, u64),
    model: Option<&str>,
    given: Option<&[(Training, Hyperparameters)]>,
) -> Launch {
    let data = Data { kind, form, rows };
    let defaults: Vec<(Training, Hyperparameters)> = match (given, format.trainings(kind)) {
        (Some(given), _) => given.to_vec(),
        (None, Some(trainings)) => trainings
            .iter()
            .map(|training| (*training, Hyperparameters::of(format, *training).at_most(rows)))
            .collect(),
        (None, None) => Vec::new(),
    };
    let mut launch = Launch::default();
    for (training, hyperparameters) in &defaults {
        launch.not_carried.extend(hyperparameters.not_carried.iter().cloned());
        let settings = Settings {
            data,
            training: *training,
            name: training.name(format),
            model,
            with: hyperparameters,
        };
        if format != Format::Trl {
            launch.lacks_length_control(hyperparameters);
        }
        match format {
            Format::Trl => trl::add(&mut launch, &settings),
            Format::AlignmentHandbook => handbook::add(&mut launch, &settings),
            Format::Openrlhf => openrlhf::add(&mut launch, &settings),
            Format::Axolotl => axolotl::add(&mut launch, &settings),
            Format::LlamaFactory => llama_factory::add(&mut launch, &settings),
            Format::Parquet | Format::Jsonl | Format::Arrow => {}
        }
    }
    if format == Format::LlamaFactory {
        launch.files.push(llama_factory::dataset_info(data));
    }
    launch
}

/// What one configuration is made from.
struct Settings<'a> {
    data: Data,
    training: Training,
    /// Name of the configuration, without the extension.
    name: &'static str,
    model: Option<&'a str>,
    with: &'a Hyperparameters,
}

impl Settings<'_> {
    fn model(&self) -> &str {
        self.model.unwrap_or(MODEL_PLACEHOLDER)
    }

    fn reward_model(&self) -> &str {
        self.with.reward_model.as_deref().unwrap_or(REWARD_MODEL_PLACEHOLDER)
    }
}

/// YAML, key by key.
struct Yaml(String);

impl Yaml {
    fn new(title: &str, command: &str) -> Self {
        Self(format!("# {title}. In this directory:\n#   {command}\n"))
    }

    fn comment(&mut self, text: &str) -> &mut Self {
        self.0.push_str("# ");
        self.0.push_str(text);
        self.0.push('\n');
        self
    }

    fn section(&mut self) -> &mut Self {
        self.0.push('\n');
        self
    }

    /// A value that is YAML already: a name of the tool's, a switch, a whole number.
    fn plain(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.0.push_str(&format!("{key}: {value}\n"));
        self
    }

    fn float(&mut self, key: &str, value: f64) -> &mut Self {
        self.plain(key, float(value))
    }

    /// A value of the user's, quoted: JSON strings are YAML strings.
    fn quoted(&mut self, key: &str, value: &str) -> &mut Self {
        self.plain(key, serde_json::Value::from(value))
    }

    /// The model, with a line that tells how to name it where nobody did.
    fn model(&mut self, key: &str, settings: &Settings<'_>) -> &mut Self {
        if settings.model.is_none() {
            self.comment("A directory, or a name on the Hugging Face hub; `bylaw data convert --model` fills it in.");
        }
        self.quoted(key, settings.model())
    }

    fn end(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// A number that YAML 1.1 reads as one: it needs a point, also before an exponent.
fn float(value: f64) -> String {
    let text = if value != 0.0 && value.abs() < 1e-3 {
        format!("{value:e}")
    } else {
        format!("{value:?}")
    };
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: `2e-5`, which PyYAML reads as a string, so that the trainer fails on the learning rate.
    #[test]
    fn small_numbers_have_a_point() {
        for (value, text) in [
            (2e-5, "2.0e-5"),
            (1.5e-5, "1.5e-5"),
            (0.1, "0.1"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (0.001, "0.001"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    /// Catches: a warm-up of steps that becomes a share above 1, and one that rounds to nothing on short runs.
    #[test]
    fn warm_up_in_steps_is_a_share_of_the_run() {
        let mut with = Hyperparameters::of(Format::Openrlhf, Training::Sft);
        (with.batch_size, with.epochs) = (16, 2);
        with.warmup = Warmup::Steps(5);
        assert_eq!(with.warmup_ratio(400), 0.1);
        assert_eq!(with.warmup_ratio(16), 1.0);
    }
}
