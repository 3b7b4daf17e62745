//! The alignment handbook: recipes for its `scripts/{sft,dpo}.py`, with a `dataset_mixture` of one. Keys
//! as its recipes have them (commit 925acdf, TRL from 0.19.1, transformers 4).

use super::trl::{self, Version};
use super::{Launch, Settings, Training, Yaml};
use crate::dataset::export::sink::DATA;

pub fn add(launch: &mut Launch, settings: &Settings<'_>) {
    let (name, with) = (settings.name, settings.with);
    let file = format!("{name}.yaml");
    let command = format!(
        "accelerate launch --config_file $HANDBOOK/recipes/accelerate_configs/zero3.yaml $HANDBOOK/scripts/{name}.py --config {file}"
    );
    let mut yaml = Yaml::new(trl::title(settings.training), &command);
    yaml.comment("HANDBOOK is a copy of github.com/huggingface/alignment-handbook.");
    yaml.model("model_name_or_path", settings)
        .plain("torch_dtype", "bfloat16")
        .section()
        .comment("One dataset; add others beside it to mix.");
    let columns = match settings.training {
        Training::Dpo => "[prompt, chosen, rejected]",
        _ if trl::is_text(settings.data) => "[text]",
        _ => "[messages]",
    };
    yaml.0.push_str(&format!(
        "dataset_mixture:\n  datasets:\n    - id: {DATA}\n      split: train\n      columns: {columns}\n      weight: 1.0\n  seed: {}\n",
        with.seed
    ));
    yaml.plain("output_dir", format!("model-{name}")).section();
    if settings.training == Training::Dpo {
        yaml.float("beta", with.beta)
            .float("label_smoothing", with.label_smoothing);
        launch.lacks("sft_coef", with.sft_coef, 0.0);
    }
    yaml.plain("max_length", with.max_length)
        .plain("bf16", true)
        .plain("gradient_checkpointing", true)
        .plain("gradient_checkpointing_kwargs", "{use_reentrant: false}")
        .plain("do_eval", false)
        .plain("eval_strategy", "\"no\"");
    trl::training_arguments(&mut yaml, settings, Version::Four);
    trl::lost_floor(launch, settings);
    launch.add(&file, yaml.end(), false, command);
}
