//! `run --emit`: training handed over to another tool, with the settings of the recipe.

use std::path::{Path, PathBuf};

use bylaw::record::{Preference, Prompt};
use serde_json::Value;

#[expect(dead_code, reason = "most of it is for tests of data convert")]
#[path = "support/convert.rs"]
mod support;

use support::*;

const RECIPE: &str = r#"
name = "handed-over"
seed = 3

[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 8
benign = 8

[[stage]]
name = "policy"
kind = "train-sft"
model = "hf:org/base@main"
data = "ANSWERS"
epochs = 2
learning_rate = 3e-4
batch_size = 12
warmup_steps = 5
min_lr_ratio = 0.1
adam_beta2 = 0.98
prompt_loss_weight = 0.1

[[stage]]
name = "reward"
kind = "train-reward"
model = "@policy"
data = "PAIRS"
lr_scheduler = "cosine"
min_lr_ratio = 0.1

[[stage]]
name = "dpo"
kind = "train-dpo"
model = "@policy"
data = "PAIRS"
beta = 0.05
label_smoothing = 0.1
sft_coef = 0.5

[[stage]]
name = "ppo"
kind = "train-ppo"
model = "@policy"
data = "@prompts"
reward_model = "@reward"
iterations = 20
rollouts = 64
minibatch_rows = 16
kl_coef = 0.02
"#;

/// Catches: a hyperparameter that is lost or changed on the way to the tool; a stage whose data are not there
/// that stops the others; a model of an earlier stage that the tool looks for in the wrong place; a run that
/// cannot begin any more because of what was written into its directory.
#[test]
fn training_is_handed_over_with_its_settings() {
    let files = Files::new();
    let answers = files.dataset("answers", &demonstrations());
    let pairs = files.dataset("pairs", &preferences());
    let recipe = RECIPE.replace("ANSWERS", &answers).replace("PAIRS", &pairs);
    let recipe = files.write("recipe.toml", &recipe);
    let run = files.path("run");
    let emit = |tool: &str| {
        let ran = bylaw(&["--json", "run", &recipe, "--out", &run, "--emit", tool]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let told = emit("trl");
    let left_out = &told["stages"][3];
    assert_eq!(left_out["stage"], "ppo");
    assert!(
        left_out["left_out"].as_str().unwrap().ends_with("prompts is not there"),
        "{left_out}"
    );
    assert!(!Path::new(&run).exists());

    let ran = bylaw(&["--quiet", "run", &recipe, "--out", &run, "--until", "prompts"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut all = String::new();
    for tool in ["trl", "openrlhf"] {
        let told = emit(tool);
        all.push_str(&format!("==== {tool}: what has no name there\n"));
        for stage in told["stages"].as_array().unwrap() {
            all.push_str(&format!("{}: {}\n", stage["stage"], stage["not_carried"]));
        }
        let out = PathBuf::from(format!("{run}-{tool}"));
        for (name, bytes) in support::files(&out) {
            if name.ends_with(".sh") || name.ends_with(".yaml") {
                all.push_str(&format!("==== {tool}: {name}\n{}\n", String::from_utf8(bytes).unwrap()));
            }
        }
        assert_eq!(
            read::<Preference>(&format!("{}/dpo/data", out.display())),
            preferences()
        );
        assert_eq!(read::<Prompt>(&format!("{}/ppo/data", out.display())).len(), 16);
    }
    insta::assert_snapshot!("emit_configurations", all);
}

/// Catches: a control that the tool has under another name and is not asked for, or is asked for beside the wrong loss;
/// one that the tool has not, dropped without a word.
#[test]
fn length_control_is_handed_over_where_the_tool_has_it() {
    let files = Files::new();
    let pairs = files.dataset("pairs", &preferences());
    let told = |tool: &str, settings: &str| {
        let recipe = format!(
            "name = \"controlled\"\nseed = 1\n[[stage]]\nname = \"dpo\"\nkind = \"train-dpo\"\nmodel = \"hf:org/base\"\n\
             data = \"{pairs}\"\n{settings}\n"
        );
        let recipe = files.write("controlled.toml", &recipe);
        let run = files.path("controlled");
        let ran = bylaw(&["--json", "run", &recipe, "--out", &run, "--emit", tool]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        let yaml = std::fs::read_to_string(format!("{run}-{tool}/dpo/dpo.yaml")).unwrap_or_default();
        let kept = |line: &&str| line.starts_with("loss_") || line.starts_with("ld_");
        let lines: Vec<&str> = yaml.lines().filter(kept).collect();
        (lines.join("; "), told["stages"][0]["not_carried"].to_string())
    };
    let (normalised, desensitised) = (
        "length_control = \"normalised\"",
        "length_control = \"desensitised\"\nld_alpha = 0.25",
    );
    let margin = "length_control = \"margin\"\nlength_alpha = 0.01";
    assert_eq!(
        told("trl", normalised),
        ("loss_type: [sigmoid_norm]".into(), "[]".into())
    );
    assert_eq!(
        told("trl", &format!("{normalised}\nsft_coef = 0.5")).0,
        "loss_type: [sigmoid_norm, sft]; loss_weights: [1.0, 0.5]"
    );
    assert_eq!(told("trl", desensitised), ("ld_alpha: 0.25".into(), "[]".into()));
    let lost = r#"["length_control = margin","length_alpha = 0.01"]"#;
    assert_eq!(told("trl", margin), (String::new(), lost.into()));
    let lost = r#"["length_control = desensitised","ld_alpha = 0.25"]"#;
    assert_eq!(told("openrlhf", desensitised), (String::new(), lost.into()));
}

/// Catches: a recipe with nothing to hand over, or nothing yet, that ends in silence.
#[test]
fn nothing_to_hand_over_is_an_error() {
    let files = Files::new();
    let none = "[[stage]]\nname = \"p\"\nkind = \"world-prompts\"\nsplit = \"evaluation\"\n";
    let recipe = files.write("none.toml", none);
    let run = files.path("run");
    let ran = bylaw(&["run", &recipe, "--out", &run, "--emit", "trl"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no training stage to hand over"), "{}", ran.stderr);
    let early = format!("{none}\n[[stage]]\nname = \"q\"\nkind = \"train-sft\"\nmodel = \"m\"\ndata = \"@p\"\n");
    let recipe = files.write("early.toml", &early);
    let ran = bylaw(&["run", &recipe, "--out", &run, "--emit", "openrlhf"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("--until STAGE"), "{}", ran.stderr);
    assert!(!Path::new(&run).exists() && !Path::new(&format!("{run}-openrlhf")).exists());
}
