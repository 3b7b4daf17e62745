//! Axolotl: `axolotl train sft.yaml`. Keys of its configuration schema (0.18.0): `chat_template` for
//! conversations, `completion` for texts, `chat_template.default` for preferences, whose `field_messages`
//! is the prompt.

use super::{Launch, LearningRateSchedule, Settings, Training, Warmup, Yaml, trl};
use crate::dataset::export::sink::DATA;

pub fn add(launch: &mut Launch, settings: &Settings<'_>) {
    let (name, with) = (settings.name, settings.with);
    let file = format!("{name}.yaml");
    let command = format!("axolotl train {file}");
    let mut yaml = Yaml::new(trl::title(settings.training), &command);
    yaml.model("base_model", settings).section();
    match settings.training {
        Training::Dpo => {
            yaml.plain("rl", "dpo").float("rl_beta", with.beta);
            if with.label_smoothing != 0.0 {
                yaml.float("dpo_label_smoothing", with.label_smoothing);
            }
            launch.lacks("sft_coef", with.sft_coef, 0.0);
            yaml.plain("chat_template", "tokenizer_default");
            yaml.0.push_str(&format!(
                "datasets:\n  - path: {DATA}\n    split: train\n    type: chat_template.default\n    field_messages: prompt\n    field_chosen: chosen\n    field_rejected: rejected\n"
            ));
        }
        Training::Sft | Training::Reward | Training::Kto | Training::Online if trl::is_text(settings.data) => {
            yaml.0.push_str(&format!(
                "datasets:\n  - path: {DATA}\n    split: train\n    type: completion\n    field: text\n"
            ));
        }
        Training::Sft | Training::Reward | Training::Kto | Training::Online => {
            yaml.plain("chat_template", "tokenizer_default");
            yaml.0.push_str(&format!(
                "datasets:\n  - path: {DATA}\n    split: train\n    type: chat_template\n    field_messages: messages\n    # Empty: the last answer alone is learnt.\n    roles_to_train:\n    train_on_eos:\n"
            ));
        }
    }
    yaml.plain("dataset_prepared_path", "prepared")
        .plain("val_set_size", 0)
        .plain("output_dir", format!("model-{name}"))
        .plain("sequence_len", with.max_length);
    training(&mut yaml, settings);
    trl::lost_floor(launch, settings);
    launch.add(&file, yaml.end(), false, command);
}

fn training(yaml: &mut Yaml, settings: &Settings<'_>) {
    let with = settings.with;
    let (device, accumulated) = with.batches();
    yaml.section()
        .float("learning_rate", with.learning_rate)
        .plain("num_epochs", with.epochs);
    yaml.comment(&format!(
        "Together {} rows to a step on one device; divide by the number of devices.",
        device * accumulated
    ));
    yaml.plain("micro_batch_size", device)
        .plain("gradient_accumulation_steps", accumulated)
        .plain("optimizer", "adamw_torch")
        .plain(
            "lr_scheduler",
            match with.schedule {
                LearningRateSchedule::Constant => "constant_with_warmup",
                LearningRateSchedule::Linear => "linear",
                LearningRateSchedule::Cosine => "cosine",
            },
        );
    if with.min_lr_ratio != 0.0 && with.schedule == LearningRateSchedule::Cosine {
        yaml.float("cosine_min_lr_ratio", with.min_lr_ratio);
    }
    match with.warmup {
        Warmup::Steps(steps) => yaml.plain("warmup_steps", steps),
        Warmup::Ratio(ratio) => yaml.float("warmup_ratio", ratio),
    };
    yaml.float("weight_decay", with.weight_decay)
        .float("adam_beta1", with.adam_beta1)
        .float("adam_beta2", with.adam_beta2)
        .float("adam_epsilon", with.adam_epsilon)
        .float("max_grad_norm", with.max_grad_norm)
        .plain("seed", with.seed)
        .plain("bf16", "auto")
        .plain("gradient_checkpointing", true)
        .plain("logging_steps", 1)
        .plain("saves_per_epoch", 1);
}
