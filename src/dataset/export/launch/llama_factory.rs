//! LLaMA-Factory: `llamafactory-cli train sft.yaml`, with the description of the data that it looks up in
//! `dataset_info.json`. Keys as its data README and examples have them (commit ff6d4d1).

use serde_json::json;

use super::trl::{self, Version};
use super::{Data, Launch, LaunchFile, Settings, Training, Yaml};
use crate::dataset::export::sink::DATA;
use crate::dataset::row::Kind;

/// The name of the data in `dataset_info.json`.
const NAME: &str = "bylaw";

pub fn add(launch: &mut Launch, settings: &Settings<'_>) {
    let (name, with) = (settings.name, settings.with);
    let file = format!("{name}.yaml");
    let command = format!("llamafactory-cli train {file}");
    let mut yaml = Yaml::new(trl::title(settings.training), &command);
    yaml.model("model_name_or_path", settings)
        .section()
        .plain("stage", stage(settings))
        .plain("do_train", true)
        .comment("Or `lora`, with `lora_rank` and `lora_target`.")
        .plain("finetuning_type", "full");
    match settings.training {
        Training::Dpo => {
            yaml.float("pref_beta", with.beta).plain("pref_loss", "sigmoid");
            if with.label_smoothing != 0.0 {
                yaml.float("dpo_label_smoothing", with.label_smoothing);
            }
            if with.sft_coef != 0.0 {
                yaml.float("pref_ftx", with.sft_coef);
            }
        }
        Training::Kto => {
            yaml.float("pref_beta", with.beta);
        }
        Training::Sft | Training::Reward | Training::Online => {}
    }
    yaml.section()
        .plain("dataset_dir", ".")
        .plain("dataset", NAME)
        .comment("Without `template` the tokenizer's chat template is taken.")
        .plain("cutoff_len", with.max_length)
        .plain("output_dir", format!("model-{name}"))
        .plain("bf16", true);
    trl::training_arguments(&mut yaml, settings, Version::Four);
    trl::lost_floor(launch, settings);
    launch.lacks("centre_coef", with.centre_coef, 0.0);
    launch.add(&file, yaml.end(), false, command);
}

fn stage(settings: &Settings<'_>) -> &'static str {
    match settings.training {
        Training::Sft if trl::is_text(settings.data) => "pt",
        Training::Sft => "sft",
        Training::Dpo => "dpo",
        Training::Reward => "rm",
        Training::Kto => "kto",
        Training::Online => "ppo",
    }
}

/// `dataset_info.json`: which columns are what.
pub fn dataset_info(data: Data) -> LaunchFile {
    let columns = match data.kind {
        Kind::Preferences => json!({
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
        }),
        Kind::UnpairedPreferences => json!({ "messages": "conversations", "kto_tag": "kto_tag" }),
        _ if trl::is_text(data) => json!({ "prompt": "text" }),
        _ => json!({ "messages": "conversations" }),
    };
    let mut description = json!({ "file_name": DATA });
    if !trl::is_text(data) {
        description["formatting"] = json!("sharegpt");
    }
    if data.kind == Kind::Preferences {
        description["ranking"] = json!(true);
    }
    description["columns"] = columns;
    LaunchFile {
        name: "dataset_info.json".into(),
        text: format!("{:#}\n", json!({ (NAME): description })),
        executable: false,
    }
}
