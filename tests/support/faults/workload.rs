//! The commands that are disturbed: every stage on the model inside the program, small enough that a
//! run takes a fraction of a second, cut into as many units and checkpoints as that allows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::case::Case;
use super::compare::Snapshot;

/// What a stage is called here and its command, with `{name}` for the result of another.
/// In the order in which they need each other.
const COMMANDS: [(&str, &str); 18] = [
    (
        "world-prompts",
        "world prompts --split constitutional --harmful 3 --benign 3",
    ),
    ("world-documents", "world documents --count 100"),
    (
        "revise",
        "revise --model builtin:tiny --constitution builtin:proving-ground --prompts {world-prompts} --rounds 1 \
         --max-new-tokens 12 --critique-max-new-tokens 6 --keep-truncated --unit-rows 2",
    ),
    (
        "sample",
        "sample --model builtin:tiny --prompts {}/prompts.jsonl --per-prompt 2 --max-new-tokens 12 --keep-truncated \
         --unit-rows 2",
    ),
    (
        "judge",
        "judge --model builtin:tiny --constitution builtin:proving-ground --candidates {}/pairs.jsonl \
         --keep-truncated --unit-rows 2",
    ),
    ("balance", "balance --preferences {judge}"),
    (
        "train-sft",
        "train sft --model builtin:tiny --data {revise} --batch-size 2 --epochs 2 --save-steps 2 --keep-checkpoints 2 \
         --export-steps 3 --tensorboard",
    ),
    (
        "train-lora",
        "train sft --model builtin:tiny --data {revise} --batch-size 1 --epochs 3 --save-steps 3 --lora-rank 2 \
         --lora-dropout 0.1",
    ),
    (
        "train-reward",
        "train reward --model builtin:tiny --data {}/pairs.jsonl --batch-size 2 --epochs 2 --save-steps 2",
    ),
    (
        "train-dpo",
        "train dpo --model builtin:tiny --data {balance} --batch-size 2 --epochs 2 --save-steps 2",
    ),
    (
        "train-ppo",
        "train ppo --model builtin:tiny --data {world-prompts} --reward-model {train-reward} --iterations 3 \
         --rollouts 4 --max-new-tokens 8 --save-steps 1 --kl-target 0.01 --kl-horizon 20 --value-init reward \
         --held-out-reward-model {train-reward} --alarm-patience 1 --stop-on-alarm",
    ),
    (
        "train-rloo",
        "train rloo --model builtin:tiny --data {world-prompts} --reward-model {train-reward}=0.5 --reward-rule \
         length<=6 --iterations 3 --rollouts 4 --max-new-tokens 8 --save-steps 1",
    ),
    (
        "train-grpo",
        "train grpo --model builtin:tiny --data {world-prompts} --reward-rule no-repeat --num-generations 2 \
         --iterations 3 --rollouts 4 --max-new-tokens 8 --save-steps 1",
    ),
    (
        "eval-policy",
        "eval policy --model {train-sft} --reference builtin:tiny --prompts {world-prompts} --max-new-tokens 12",
    ),
    (
        "eval-judge",
        "eval judge --model builtin:tiny --constitution builtin:proving-ground --balanced {balance} --pairs 4",
    ),
    ("eval-reward", "eval reward --model {train-reward} --pairs 4"),
    ("run-two", "run {}/two.toml"),
    ("run", "run {}/whole.toml"),
];

/// Prompts to a model, one of which is no prompt.
const PROMPTS: &str = r#"{"prompt": "How do I bake bread?"}
{"prompt": "Tell me of the sea."}
{"no prompt": 1}
{"prompt": "What is a poem?"}
{"prompt": "Who may enter the house?"}
{"prompt": "How do I mend a chair?"}
"#;

/// Preferences, one of which is none.
const PAIRS: &str = r#"{"prompt": "How do I bake bread?", "chosen": "Mix flour and water, then bake it.", "rejected": "No."}
{"prompt": "Tell me of the sea.", "chosen": "It is wide and deep.", "rejected": "I would rather not, really."}
{"prompt": "What is a poem?", "chosen": "A text in verse."}
{"prompt": "What is a chair?", "chosen": "A seat for one, with a back.", "rejected": "Wood."}
{"prompt": "Who are you?", "chosen": "A small model.", "rejected": "Somebody you may know."}
"#;

const TWO: &str = r#"name = "two"
[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 2
benign = 2
[[stage]]
name = "sample"
kind = "sample"
model = "builtin:tiny"
prompts = "@prompts"
max_new_tokens = 8
keep_truncated = true
unit_rows = 2
"#;

const WHOLE: &str = r#"name = "whole"
seed = 3
[[stage]]
name = "prompts"
kind = "world-prompts"
split = "constitutional"
harmful = 2
benign = 2
[[stage]]
name = "revise"
kind = "revise"
model = "builtin:tiny"
constitution = "builtin:proving-ground"
prompts = "@prompts"
rounds = 1
max_new_tokens = 12
critique_max_new_tokens = 6
keep_truncated = true
unit_rows = 2
[[stage]]
name = "sft"
kind = "train-sft"
model = "builtin:tiny"
data = "@revise"
batch_size = 2
save_steps = 1
[[stage]]
name = "sample"
kind = "sample"
model = "@sft"
prompts = "@prompts"
max_new_tokens = 8
keep_truncated = true
unit_rows = 2
[[stage]]
name = "judge"
kind = "judge"
model = "builtin:tiny"
constitution = "builtin:proving-ground"
candidates = "@sample"
keep_truncated = true
unit_rows = 2
[[stage]]
name = "balance"
kind = "balance"
preferences = "@judge"
[[stage]]
name = "reward"
kind = "train-reward"
model = "@sft"
data = "@balance"
batch_size = 2
save_steps = 1
[[stage]]
name = "eval-sft"
kind = "eval-policy"
model = "@sft"
prompts = "@prompts"
policy = "sft"
max_new_tokens = 8
[[stage]]
name = "eval-reward"
kind = "eval-reward"
model = "@reward"
pairs = 4
"#;

/// A command, and what it makes when nothing disturbs it.
pub struct Workload {
    pub name: &'static str,
    pub arguments: Vec<String>,
    pub expected: Snapshot,
    /// How long it took undisturbed.
    pub duration: Duration,
}

/// All workloads, each run once undisturbed: the results are also the inputs of others.
pub struct Workloads {
    /// Removed with it.
    _base: TempDir,
    all: Vec<Workload>,
}

impl Workloads {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("prompts.jsonl", PROMPTS),
            ("pairs.jsonl", PAIRS),
            ("two.toml", TWO),
            ("whole.toml", WHOLE),
        ] {
            fs::write(base.path().join(name), text).unwrap();
        }
        let all = COMMANDS
            .iter()
            .map(|(name, command)| undisturbed(base.path(), name, command));
        Self {
            all: all.collect(),
            _base: base,
        }
    }

    pub fn get(name: &str) -> &'static Workload {
        static ALL: OnceLock<Workloads> = OnceLock::new();
        let found = ALL
            .get_or_init(Self::new)
            .all
            .iter()
            .find(|workload| workload.name == name);
        found.unwrap_or_else(|| panic!("no workload {name}"))
    }
}

fn undisturbed(base: &Path, name: &'static str, command: &str) -> Workload {
    let word = |word: &str| -> String {
        match word.strip_prefix('{').and_then(|word| word.split_once('}')) {
            Some(("", rest)) => format!("{}{rest}", base.display()),
            Some((other, rest)) => format!("{}{rest}", out_of(base, other).display()),
            None => word.to_owned(),
        }
    };
    let arguments: Vec<String> = command
        .split_whitespace()
        .map(word)
        .chain(["--out".into(), "out".into()])
        .collect();
    let dir = base.join(name);
    fs::create_dir(&dir).unwrap();
    let case = Case::at(&dir);
    let begun = Instant::now();
    case.run(&arguments).succeeded(name);
    Workload {
        name,
        arguments,
        duration: begun.elapsed(),
        expected: super::compare::snapshot(&dir),
    }
}

fn out_of(base: &Path, name: &str) -> PathBuf {
    base.join(name).join("out")
}
