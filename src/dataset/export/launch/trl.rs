//! TRL: `trl sft --config sft.yaml` and its siblings. Keys are the fields of TRL's script arguments,
//! its `*Config` classes and transformers' `TrainingArguments` (TRL 1.16, transformers 5).

use super::{Data, Hyperparameters, Launch, LearningRateSchedule, Settings, Training, Warmup, Yaml};
use crate::dataset::export::sink::DATA;

pub fn add(launch: &mut Launch, settings: &Settings<'_>) {
    let name = settings.name;
    let file = format!("{name}.yaml");
    let command = format!("trl {name} --config {file}");
    let mut yaml = Yaml::new(title(settings.training), &command);
    yaml.model("model_name_or_path", settings);
    if settings.training == Training::Online {
        yaml.comment("Any sequence classifier with one output, as `trl reward` makes them.");
        yaml.quoted("reward_model_name_or_path", settings.reward_model());
    }
    yaml.plain("dataset_name", DATA)
        .plain("output_dir", format!("model-{name}"))
        .section();
    method(&mut yaml, launch, settings);
    training_arguments(&mut yaml, settings, Version::Five);
    lost_floor(launch, settings);
    launch.add(&file, yaml.end(), false, command);
}

pub fn title(training: Training) -> &'static str {
    match training {
        Training::Sft => "Supervised fine-tuning",
        Training::Dpo => "Direct preference optimisation",
        Training::Reward => "A reward model",
        Training::Kto => "Kahneman-Tversky optimisation",
        Training::Online => "Group relative policy optimisation; TRL 1 has no PPO",
    }
}

fn method(yaml: &mut Yaml, launch: &mut Launch, settings: &Settings<'_>) {
    let with = settings.with;
    match settings.training {
        Training::Sft => {
            yaml.plain("max_length", with.max_length);
        }
        Training::Dpo => {
            yaml.float("beta", with.beta);
            let loss = pair_loss(yaml, launch, with);
            if with.sft_coef != 0.0 {
                yaml.plain("loss_type", format!("[{loss}, sft]"));
                yaml.plain("loss_weights", format!("[1.0, {}]", super::float(with.sft_coef)));
            } else if loss != "sigmoid" {
                yaml.plain("loss_type", format!("[{loss}]"));
            }
            if let Some(alpha) = with.ld_alpha {
                yaml.float("ld_alpha", alpha);
            }
            yaml.plain("max_length", with.max_length);
        }
        Training::Reward => {
            if with.centre_coef != 0.0 {
                yaml.float("center_rewards_coefficient", with.centre_coef);
            }
            yaml.plain("max_length", with.max_length);
        }
        Training::Kto => {
            yaml.float("beta", with.beta).plain("max_length", with.max_length);
        }
        Training::Online => {
            yaml.float("beta", with.beta)
                .plain("num_generations", with.generations())
                .plain("num_iterations", with.ppo.epochs)
                .plain("max_completion_length", with.ppo.max_new_tokens)
                .float("temperature", with.ppo.temperature)
                .float("epsilon", with.ppo.clip_range);
            launch.lacks("gamma", with.ppo.gamma, 1.0);
            launch.lacks("gae_lambda", with.ppo.gae_lambda, 1.0);
        }
    }
}

/// The name of the loss of pairs, and its smoothing.
///
/// TRL 1.16 does not read `label_smoothing` in its sigmoid losses. What its robust loss makes of `s` below 0 is
/// conservative DPO: of `-s / (1 - 2 s)`, that of `s` (`scripts/golden/trainers.py`).
fn pair_loss(yaml: &mut Yaml, launch: &mut Launch, with: &Hyperparameters) -> &'static str {
    let smoothing = with.label_smoothing;
    if smoothing > 0.0 && smoothing < 0.5 && !with.length_normalised {
        yaml.comment(&format!(
            "TRL smooths no labels in its sigmoid loss; this is the same with {}.",
            super::float(smoothing)
        ));
        yaml.float("label_smoothing", -smoothing / (1.0 - 2.0 * smoothing));
        return "robust";
    }
    launch.lacks("label_smoothing", smoothing, 0.0);
    yaml.float("label_smoothing", 0.0);
    if with.length_normalised {
        "sigmoid_norm"
    } else {
        "sigmoid"
    }
}

/// Which transformers reads the file: 5 takes a share of the steps as `warmup_steps`, 4 as `warmup_ratio`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Four,
    Five,
}

/// What the tools that are built on transformers' trainer share.
pub fn training_arguments(yaml: &mut Yaml, settings: &Settings<'_>, version: Version) {
    let with = settings.with;
    let (device, accumulated) = match settings.training {
        Training::Online => (with.batch_size.max(2), 1),
        Training::Sft | Training::Dpo | Training::Reward | Training::Kto => with.batches(),
    };
    yaml.section()
        .float("learning_rate", with.learning_rate)
        .plain("num_train_epochs", with.epochs);
    yaml.comment(&format!(
        "Together {} rows to a step on one device; divide by the number of devices.",
        device * accumulated
    ));
    yaml.plain("per_device_train_batch_size", device)
        .plain("gradient_accumulation_steps", accumulated);
    schedule(yaml, settings);
    match (with.warmup, version) {
        (Warmup::Steps(steps), _) => yaml.plain("warmup_steps", steps),
        (Warmup::Ratio(ratio), Version::Five) => yaml.float("warmup_steps", ratio),
        (Warmup::Ratio(ratio), Version::Four) => yaml.float("warmup_ratio", ratio),
    };
    yaml.float("weight_decay", with.weight_decay)
        .float("adam_beta1", with.adam_beta1)
        .float("adam_beta2", with.adam_beta2)
        .float("adam_epsilon", with.adam_epsilon)
        .float("max_grad_norm", with.max_grad_norm)
        .plain("seed", with.seed)
        .section()
        .plain("logging_steps", 1)
        .plain("save_strategy", "epoch")
        .plain("report_to", "none");
}

fn schedule(yaml: &mut Yaml, settings: &Settings<'_>) {
    let with = settings.with;
    match with.schedule {
        LearningRateSchedule::Constant => yaml.plain("lr_scheduler_type", "constant_with_warmup"),
        LearningRateSchedule::Linear => yaml.plain("lr_scheduler_type", "linear"),
        LearningRateSchedule::Cosine if with.min_lr_ratio == 0.0 => yaml.plain("lr_scheduler_type", "cosine"),
        LearningRateSchedule::Cosine => yaml.plain("lr_scheduler_type", "cosine_with_min_lr").plain(
            "lr_scheduler_kwargs",
            format!("{{min_lr_rate: {}}}", super::float(with.min_lr_ratio)),
        ),
    };
}

/// Tells what is lost where a straight line cannot end above 0.
pub fn lost_floor(launch: &mut Launch, settings: &Settings<'_>) {
    if settings.with.schedule == LearningRateSchedule::Linear {
        launch.lacks("min_lr_ratio", settings.with.min_lr_ratio, 0.0);
    }
}

/// Whether the data are plain texts.
pub fn is_text(data: Data) -> bool {
    data.form == super::Form::Text
}
