//! OpenRLHF: launch scripts. Flags as its 0.11.0 has them, where they are grouped by a point.

use super::{Launch, LearningRateSchedule, MODEL_PLACEHOLDER, REWARD_MODEL_PLACEHOLDER, Settings, Training, trl};
use crate::dataset::export::sink::DATA;

pub fn add(launch: &mut Launch, settings: &Settings<'_>) {
    let file = format!("train_{}.sh", settings.name);
    let command = format!("bash {file}");
    let mut script = Script::new(settings, &command);
    match settings.training {
        Training::Sft => sft(&mut script, settings),
        Training::Dpo | Training::Reward => preferences(&mut script, launch, settings),
        Training::Online => ppo(&mut script, settings),
        // OpenRLHF has no KTO; `Format::trainings` never asks for it.
        Training::Kto => {}
    }
    trl::lost_floor(launch, settings);
    launch.lacks("centre_coef", settings.with.centre_coef, 0.0);
    launch.add(&file, script.end(), true, command);
}

/// A shell script that ends in one long command.
struct Script {
    head: String,
    words: Vec<String>,
}

impl Script {
    fn new(settings: &Settings<'_>, command: &str) -> Self {
        let title = match settings.training {
            Training::Online => "Proximal policy optimisation",
            other => trl::title(other),
        };
        let mut head = format!("#!/usr/bin/env bash\n# {title} with OpenRLHF: {command}\n");
        head.push_str(
            "# Devices: DeepSpeed takes all it sees; see the options --ds.* and --ref.offload for large models.\n",
        );
        head.push_str("set -euo pipefail\ncd \"$(dirname \"$0\")\"\n\n");
        head.push_str(&variable(
            "MODEL",
            settings.model(),
            MODEL_PLACEHOLDER,
            "a directory, or a name on the Hugging Face hub",
        ));
        let mut script = Self {
            head,
            words: Vec::new(),
        };
        if settings.training == Training::Online {
            script.head.push_str(&variable(
                "REWARD_MODEL",
                settings.reward_model(),
                REWARD_MODEL_PLACEHOLDER,
                "what train_reward.sh made",
            ));
        }
        script
    }

    fn flag(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.words.push(format!("--{name} {value}"));
        self
    }

    fn switch(&mut self, name: &str) -> &mut Self {
        self.words.push(format!("--{name}"));
        self
    }

    fn end(self) -> String {
        format!("{}\n{}\n", self.head, self.words.join(" \\\n  "))
    }
}

/// A variable that the caller may set, and must where nothing is known.
fn variable(name: &str, value: &str, placeholder: &str, what: &str) -> String {
    if value == placeholder {
        format!("{name}=\"${{{name}:?set {name} to the model: {what}}}\"\n")
    } else {
        format!(
            "{name}=\"${{{name}:-}}\"\n[ -n \"${name}\" ] || {name}={}\n",
            quoted(value)
        )
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn data() -> String {
    format!("'{DATA}/train-*.parquet'")
}

/// A number as Python reads it; `f64` alone would write a small one out in zeros.
fn number(value: f64) -> String {
    match value != 0.0 && value.abs() < 1e-3 {
        true => format!("{value:e}"),
        false => value.to_string(),
    }
}

/// What the three trainers without rollouts share.
fn common(script: &mut Script, settings: &Settings<'_>, module: &str) {
    let with = settings.with;
    let (device, _) = with.batches();
    script.words.push(format!("deepspeed --module openrlhf.cli.{module}"));
    script
        .flag("model.model_name_or_path", "\"$MODEL\"")
        .flag("ckpt.output_dir", format!("model-{}", settings.name))
        .switch("ckpt.save_hf")
        .flag("data.dataset", data())
        .flag("data.dataset_split", "train")
        .flag("data.max_len", with.max_length)
        .flag("train.batch_size", with.batch_size)
        .flag("train.micro_batch_size", device)
        .flag("train.max_epochs", with.epochs)
        .flag("train.seed", with.seed);
    optimiser(script, settings, "", with.learning_rate);
    script
        .flag("ds.zero_stage", 2)
        .flag("ds.param_dtype", "bf16")
        .switch("model.gradient_checkpointing_enable");
}

fn optimiser(script: &mut Script, settings: &Settings<'_>, prefix: &str, learning_rate: f64) {
    let with = settings.with;
    let schedule = match with.schedule {
        LearningRateSchedule::Constant => "constant_with_warmup",
        LearningRateSchedule::Linear => "linear",
        LearningRateSchedule::Cosine => "cosine_with_min_lr",
    };
    script
        .flag(&format!("{prefix}adam.lr"), number(learning_rate))
        .flag(
            &format!("{prefix}adam.betas"),
            format!("{} {}", with.adam_beta1, with.adam_beta2),
        )
        .flag(&format!("{prefix}adam.eps"), number(with.adam_epsilon))
        .flag(&format!("{prefix}adam.weight_decay"), with.weight_decay)
        .flag(&format!("{prefix}lr_scheduler"), schedule)
        .flag(
            &format!("{prefix}lr_warmup_ratio"),
            with.warmup_ratio(settings.data.rows),
        )
        .flag(&format!("{prefix}min_lr_ratio"), with.min_lr_ratio)
        .flag(&format!("{prefix}max_norm"), with.max_grad_norm);
}

fn sft(script: &mut Script, settings: &Settings<'_>) {
    common(script, settings, "train_sft");
    if trl::is_text(settings.data) {
        script
            .flag("data.input_key", "text")
            .switch("model.pretrain_mode_enable");
    } else {
        script
            .flag("data.input_key", "prompt")
            .flag("data.output_key", "completion")
            .switch("data.apply_chat_template");
    }
}

fn preferences(script: &mut Script, launch: &mut Launch, settings: &Settings<'_>) {
    let with = settings.with;
    if settings.training == Training::Dpo {
        common(script, settings, "train_dpo");
        script
            .flag("model.beta", with.beta)
            .flag("model.label_smoothing", with.label_smoothing)
            .flag("model.nll_loss_coef", with.sft_coef);
    } else {
        common(script, settings, "train_rm");
        launch.lacks("label_smoothing", with.label_smoothing, 0.0);
        // Without one, the reward is standardised on a hundredth of the rows, which may be none.
        script.flag("eval.dataset", data()).flag("eval.split", "train");
    }
    script
        .flag("data.prompt_key", "prompt")
        .flag("data.chosen_key", "chosen")
        .flag("data.rejected_key", "rejected")
        .switch("data.apply_chat_template");
}

fn ppo(script: &mut Script, settings: &Settings<'_>) {
    let (with, ppo) = (settings.with, settings.with.ppo);
    script.words.push("python3 -m openrlhf.cli.train_ppo_ray".into());
    for actor in ["ref", "reward", "critic", "actor"] {
        script
            .flag(&format!("{actor}.num_nodes"), 1)
            .flag(&format!("{actor}.num_gpus_per_node"), "\"${GPUS:-8}\"");
    }
    script
        .flag("vllm.num_engines", "\"${GPUS:-8}\"")
        .flag("vllm.tensor_parallel_size", 1)
        .switch("train.colocate_all")
        .flag("vllm.gpu_memory_utilization", 0.5)
        .switch("vllm.enable_sleep")
        .switch("ds.enable_sleep")
        .flag("actor.model_name_or_path", "\"$MODEL\"")
        .flag("reward.model_name_or_path", "\"$REWARD_MODEL\"")
        .flag("ckpt.output_dir", format!("model-{}", settings.name))
        .switch("ckpt.save_hf")
        .flag("data.prompt_dataset", data())
        .flag("data.prompt_split", "train")
        .flag("data.input_key", "prompt")
        .switch("data.apply_chat_template")
        .flag("data.max_len", with.max_length)
        .flag("rollout.batch_size", ppo.rollouts)
        .flag("rollout.max_new_tokens", ppo.max_new_tokens)
        .flag("rollout.temperature", ppo.temperature)
        .flag("train.batch_size", with.batch_size)
        .flag("train.num_episodes", with.epochs)
        .flag("train.max_epochs", ppo.epochs)
        .flag("train.seed", with.seed)
        .switch("reward.normalize_enable")
        .flag("reward.clip_range", format!("-{0} {0}", ppo.reward_clip))
        .flag("algo.kl.init_coef", with.beta)
        .flag("algo.advantage.gamma", ppo.gamma)
        .flag("algo.advantage.lambd", ppo.gae_lambda)
        .flag("actor.eps_clip", ppo.clip_range)
        .flag("critic.value_clip", ppo.clip_range_value);
    optimiser(script, settings, "actor.", with.learning_rate);
    optimiser(script, settings, "critic.", ppo.critic_learning_rate);
    script
        .flag("ds.zero_stage", 3)
        .flag("ds.param_dtype", "bf16")
        .switch("actor.gradient_checkpointing_enable");
}
