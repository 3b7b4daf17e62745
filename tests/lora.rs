//! Training with adapters: what learns and what stays, going on after a stop, and the program from training to merging.

#[path = "support/program.rs"]
mod program;
#[path = "support/small.rs"]
mod small;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bylaw::model::cpu::trunk::{self, Sequence, Wanted};
use bylaw::model::decoder::Decoder;
use bylaw::model::files::Model;
use bylaw::model::heads::ScalarHead;
use bylaw::model::lora::{BaseModel, LoraConfig, Targets};
use bylaw::progress::{Progress, Silent};
use bylaw::prompt::{Style, Templates};
use bylaw::record::Message;
use bylaw::seed::Seed;
use bylaw::train::batch::{Encoder, Example};
use bylaw::train::dpo::{self, DpoConfig};
use bylaw::train::monitor::{MonitorConfig, Watch};
use bylaw::train::pairs::Pair;
use bylaw::train::ppo::PpoConfig;
use bylaw::train::reward::{self, RewardConfig, RewardModel};
use bylaw::train::rollout::Actors;
use bylaw::train::run::{Keeping, Setup};
use bylaw::train::sft::{self, SftConfig};
use bylaw::train::sources::Sources;
use bylaw::train::{checkpoint, metrics, online};
use clap::Parser;
use program::{bylaw, fails, json, refused, succeeds, temp, write};
use serde_json::Value;
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama");

const ROWS: [(&str, &str); 6] = [
    ("Is it so?", "Yes, it is so."),
    ("Who is it?", "It is the man in the hall."),
    ("How much?", "A lot."),
    ("Where is it?", "It is on the table, where you left it."),
    ("Why?", "No reason."),
    ("When?", "Now, or then."),
];

// ---- what the tests share ------------------------------------------------------------------------

fn lora(dropout: f64) -> LoraConfig {
    LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout,
        targets: Targets::default(),
        rank_stabilised: false,
    }
}

fn adapted(model: &Model, config: &LoraConfig) -> Decoder {
    let under = BaseModel {
        reference: model.reference.clone(),
        sha256: model.sha256.clone(),
    };
    model.decoder.with_adapters(config, under, Seed::new(9)).unwrap()
}

fn answer(model: &Model, question: &str, answer: &str) -> Sequence {
    let templates = Templates::new(Style::Transcript);
    let encoder = Encoder {
        tokenizer: &model.tokenizer,
        templates: &templates,
        context: model.decoder.config.context,
    };
    encoder.answer(&[Message::user(question)], answer).unwrap()
}

fn examples(model: &Model) -> Vec<Example> {
    let example = |(question, text): &(&str, &str)| {
        let sequence = answer(model, question, text);
        Example {
            weights: vec![1.0; sequence.completion_len()],
            sequence,
        }
    };
    ROWS.iter().map(example).collect()
}

/// Each row's answer against the next row's.
fn pairs(model: &Model) -> Vec<Pair> {
    let pair = |(index, (question, good)): (usize, &(&str, &str))| Pair {
        chosen: answer(model, question, good),
        rejected: answer(model, question, ROWS[(index + 1) % ROWS.len()].1),
        p_chosen: 0.9,
        margin: 0.0,
        weight: 1.0,
    };
    ROWS.iter().enumerate().map(pair).collect()
}

fn setup<'a>(dir: &Path, progress: &'a dyn Progress, save_steps: usize) -> Setup<'a> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress,
        save_steps,
        in_place: false,
        keeping: Keeping::default(),
    }
}

/// A trainer's settings from its flags, so that new ones have their defaults.
fn settings<C: clap::Args>(flags: &str) -> C {
    #[derive(Parser)]
    struct Flags<C: clap::Args> {
        #[command(flatten)]
        config: C,
    }
    Flags::<C>::parse_from(std::iter::once("x").chain(flags.split_whitespace())).config
}

fn sft_config() -> SftConfig {
    settings("--learning-rate 1e-2 --epochs 6 --batch-size 2 --weight-decay 0.01 --warmup-steps 2")
}

fn dpo_config() -> DpoConfig {
    settings("--learning-rate 1e-2 --epochs 4 --batch-size 3")
}

fn ppo_config() -> PpoConfig {
    settings(
        "--learning-rate 1e-3 --iterations 7 --rollouts 6 --ppo-epochs 2 --minibatch-rows 3 --max-new-tokens 6 \
         --kl-coef 0.05",
    )
}

fn tensors(decoder: &Decoder, frozen: bool) -> Vec<(String, Vec<u32>)> {
    let chosen = decoder.parameters.iter().filter(|parameter| parameter.frozen == frozen);
    chosen
        .map(|parameter| {
            let tensor = parameter.weight.dense().unwrap();
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            (parameter.name.clone(), values.into_iter().map(f32::to_bits).collect())
        })
        .collect()
}

fn figures(dir: &Path, name: &str) -> Vec<f64> {
    let rows = metrics::read(dir).unwrap();
    rows.iter().map(|row| row[name].as_f64().unwrap()).collect()
}

fn rewards(model: &Model) -> RewardModel {
    RewardModel {
        decoder: adapted(model, &lora(0.0)),
        head: ScalarHead::random(model.decoder.config.hidden, Seed::new(3)).unwrap(),
    }
}

// ---- learning ------------------------------------------------------------------------------------

/// Catches: a base that learns along, or is copied; adapters that do not learn; moments of what is frozen.
#[test]
fn adapters_learn_and_their_base_stays() {
    let model = small::model();
    let start = adapted(&model, &lora(0.1));
    let before = (tensors(&start, true), tensors(&start, false));
    let dir = TempDir::new().unwrap();
    let trained = sft::train(
        setup(dir.path(), &Silent, 5),
        &sft_config(),
        &start,
        &examples(&model),
        Seed::new(5),
    )
    .unwrap();
    let losses = figures(dir.path(), "loss");
    assert!(losses.last().unwrap() < &(0.8 * losses[0]), "{losses:?}");
    assert!(tensors(&trained, true) == before.0, "the base moved");
    for (base, trained) in model.decoder.parameters.iter().zip(&trained.parameters) {
        let ids = [base, trained].map(|parameter| parameter.weight.dense().unwrap().id());
        assert_eq!(ids[0], ids[1], "{} was copied", base.name);
    }
    for ((name, start), (_, end)) in before.1.iter().zip(tensors(&trained, false)) {
        assert!(*start != end, "{name} did not learn");
    }
    assert!(tensors(&start, false) == before.1, "the run trained what it was given");
    let names = checkpoint_names(dir.path());
    assert_eq!(names.len(), 3 * before.1.len());
    assert!(names.iter().all(|name| name.contains(".lora_")), "{names:?}");
}

fn newest(dir: &Path) -> PathBuf {
    checkpoint::newest(dir).unwrap().unwrap()
}

fn checkpoint_names(dir: &Path) -> BTreeSet<String> {
    let bytes = std::fs::read(newest(dir).join("state.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.names().into_iter().map(str::to_owned).collect()
}

/// Catches: a reference that is not the policy's base, and a policy that does not begin as it.
#[test]
fn dpo_with_adapters_begins_at_ln_2() {
    let model = small::model();
    let dir = TempDir::new().unwrap();
    let start = adapted(&model, &lora(0.0));
    dpo::train(
        setup(dir.path(), &Silent, 0),
        &dpo_config(),
        &start,
        &pairs(&model),
        Seed::new(5),
    )
    .unwrap();
    let losses = figures(dir.path(), "loss");
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{losses:?}");
    let margins = figures(dir.path(), "rewards/margins");
    assert!(margins[0].abs() < 1e-5, "{margins:?}");
    assert!(margins.last().unwrap() > &0.1, "{margins:?}");
}

/// Catches: a reward model whose head learns alone while its adapters are forgotten.
#[test]
fn a_reward_model_of_adapters_prefers() {
    let model = small::model();
    let dir = TempDir::new().unwrap();
    let config: RewardConfig = settings("--learning-rate 5e-3 --epochs 8 --batch-size 3 --head-rate 2");
    let start = adapted(&model, &lora(0.0));
    let pairs = pairs(&model);
    let trained = reward::train(setup(dir.path(), &Silent, 0), &config, &start, &pairs, Seed::new(5)).unwrap();
    assert!(tensors(&trained.decoder, true) == tensors(&start, true));
    assert!(tensors(&trained.decoder, false) != tensors(&start, false));
    let score = |sequences: Vec<Sequence>| trained.score(&sequences).unwrap();
    let (chosen, rejected) = (
        score(pairs.iter().map(|pair| pair.chosen.clone()).collect()),
        score(pairs.iter().map(|pair| pair.rejected.clone()).collect()),
    );
    let right = chosen
        .iter()
        .zip(&rejected)
        .filter(|(chosen, rejected)| chosen > rejected)
        .count();
    assert_eq!(right, pairs.len(), "{chosen:?} {rejected:?}");
}

// ---- going on after a stop ---------------------------------------------------------------------------

/// Copies a run's directory when `at` steps are done: what a killed process would have left.
struct CopyAt {
    at: u64,
    from: PathBuf,
    to: PathBuf,
    done: AtomicU64,
}

impl Progress for CopyAt {
    /// Of several loops, the last one counts.
    fn start(&self, _: &str, _: u64, _: &'static str) {
        self.done.store(0, Ordering::SeqCst);
    }

    fn advance(&self, done: u64) {
        let so_far = self.done.fetch_add(done, Ordering::SeqCst) + done;
        if done > 0 && so_far == self.at && self.from.join(metrics::FILE).exists() {
            copy_directory(&self.from, &self.to);
        }
    }

    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// Trains in one go, and on from what a kill after five steps would have left; answers the adapters.
fn resumes_exactly(train: impl Fn(Setup<'_>) -> Decoder) -> Vec<(String, Vec<u32>)> {
    let dirs = TempDir::new().unwrap();
    let place = |name: &str| dirs.path().join(name);
    let straight = tensors(&train(setup(&place("straight"), &Silent, 0)), false);
    let copier = CopyAt {
        at: 5,
        from: place("saving"),
        to: place("killed"),
        done: AtomicU64::new(0),
    };
    assert!(
        tensors(&train(setup(&place("saving"), &copier, 3)), false) == straight,
        "saving changes the result"
    );
    let state = std::fs::read_to_string(newest(&place("killed")).join("state.json")).unwrap();
    assert!(state.contains("\"step\": 3"), "{state}");
    let resumed = tensors(&train(setup(&place("killed"), &Silent, 3)), false);
    assert!(resumed == straight, "the resumed run ends elsewhere");
    let logged = |name: &str| std::fs::read_to_string(place(name).join(metrics::FILE)).unwrap();
    assert_eq!(logged("killed"), logged("straight"));
    straight
}

/// Catches: masks that are drawn from the process's past and not from the step; adapters or moments left out of a
/// checkpoint; dropout that drops nothing.
#[test]
fn training_with_dropout_resumes_to_the_bit() {
    let model = small::model();
    let rows = examples(&model);
    let end = |dropout: f64| {
        let start = adapted(&model, &lora(dropout));
        resumes_exactly(|setup| sft::train(setup, &sft_config(), &start, &rows, Seed::new(5)).unwrap())
    };
    assert!(end(0.3) != end(0.0));
    let (start, pairs) = (adapted(&model, &lora(0.3)), pairs(&model));
    resumes_exactly(|setup| dpo::train(setup, &dpo_config(), &start, &pairs, Seed::new(5)).unwrap());
}

/// Catches: rollouts by another model than the one that is trained; several updates of an iteration under one mask
/// after a stop, and not before.
#[test]
fn ppo_with_adapters_resumes_to_the_bit() {
    let model = small::model();
    let start = adapted(&model, &lora(0.2));
    let prompts: Vec<Vec<u32>> = ROWS
        .iter()
        .map(|(question, text)| {
            let Sequence { tokens, completion } = answer(&model, question, text);
            tokens[..completion].to_vec()
        })
        .collect();
    let actors = Actors {
        policy: &start,
        sources: &Sources::model(rewards(&model)),
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    let monitor = MonitorConfig::default();
    let watch = || Watch {
        config: &monitor,
        held_out: None,
    };
    let config = ppo_config();
    resumes_exactly(|setup| online::train(setup, &config, &actors, watch(), Seed::new(5)).unwrap());
}

/// Catches: a reward model that keeps a second copy of a base that the policy has too, or takes one that is not its own.
#[test]
fn one_base_serves_several_adapters() {
    let model = small::model();
    let copy = Model {
        decoder: model.decoder.copy().unwrap(),
        ..model.clone()
    };
    let mut rewards = adapted(&copy, &lora(0.0));
    let id = |decoder: &Decoder| decoder.parameters[0].weight.dense().unwrap().id();
    rewards.share_base_of(&model.decoder, "another");
    assert_ne!(id(&rewards), id(&model.decoder));
    rewards.share_base_of(&adapted(&model, &lora(0.0)), &model.sha256);
    assert_eq!(id(&rewards), id(&model.decoder));
}

// ---- the program -------------------------------------------------------------------------------------

fn data() -> TempDir {
    let dir = temp();
    let sft = ROWS.map(|(prompt, completion)| serde_json::json!({ "prompt": prompt, "completion": completion }));
    let pairs = (0..ROWS.len()).map(|index| {
        let (prompt, chosen) = ROWS[index];
        serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": ROWS[(index + 1) % ROWS.len()].1 })
    });
    let prompts = ROWS.map(|(prompt, _)| serde_json::json!({ "prompt": prompt }));
    let lines = |rows: Vec<Value>| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    write(dir.path(), "sft.jsonl", &lines(sft.to_vec()));
    write(dir.path(), "pairs.jsonl", &lines(pairs.collect()));
    write(dir.path(), "prompts.jsonl", &lines(prompts.to_vec()));
    dir
}

fn run(dir: &Path, command: &str) -> program::Ran {
    let words: Vec<&str> = command.split_whitespace().collect();
    succeeds(dir, &words)
}

fn logprobs(model: &Model) -> Vec<f32> {
    let rows: Vec<Sequence> = ROWS
        .iter()
        .map(|(question, text)| answer(model, question, text))
        .collect();
    trunk::infer(&model.decoder, &rows, Wanted::Logprobs { temperature: 1.0 })
        .unwrap()
        .logprobs
        .concat()
}

/// Catches: a run that leaves the base's weights too, or adapters that do not load again as what was trained; a second
/// run on top that forgets the first; a merge that is another model; a reward model without its head.
#[test]
fn from_training_to_merging() {
    let dir = data();
    let at = |name: &str| dir.path().join(name);
    let load = |name: &str| Model::load(at(name).to_str().unwrap()).unwrap();
    let flags = "--lora-rank 4 --lora-dropout 0.1 --learning-rate 1e-2 --batch-size 3 --epochs 3";
    let sft =
        format!("train sft --model {GOLDEN} --data sft.jsonl --out sft {flags} --lora-targets q_proj,v_proj,mlp.*");
    let told = run(dir.path(), &sft).stderr;
    assert!(told.contains("in adapters of rank 4"), "{told}");
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
        "tokenizer.json",
    ] {
        assert!(at("sft").join(file).exists(), "{file}");
    }
    for file in ["model.safetensors", "config.json", "checkpoint"] {
        assert!(!at("sft").join(file).exists(), "{file}");
    }
    let config: Value = json(&std::fs::read_to_string(at("sft/adapter_config.json")).unwrap());
    assert_eq!(
        config["target_modules"],
        serde_json::json!(["down_proj", "gate_proj", "q_proj", "up_proj", "v_proj"])
    );
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &8.into()));
    assert_eq!(config["base_model_name_or_path"], GOLDEN);
    assert!(run(dir.path(), &sft).stderr.contains("already complete"));

    let info: Value = json(&run(dir.path(), "model info sft --json").stdout);
    let sft = load("sft");
    assert_eq!(info["sha256"], sft.sha256);
    assert_eq!(info["weights"]["parameters"], sft.decoder.parameter_count());
    assert_eq!(info["adapters"]["modules"], 10);
    assert!(
        run(dir.path(), "model info sft --no-hash")
            .stdout
            .contains("rank 4, alpha 8")
    );

    // A run's directories can be moved together; another model of the base's name is not taken for it.
    std::fs::create_dir(at("there")).unwrap();
    copy_directory(Path::new(GOLDEN), &at("there/base"));
    copy_directory(&at("sft"), &at("there/sft"));
    let moved = at("there/sft/adapter_config.json");
    let text = std::fs::read_to_string(&moved)
        .unwrap()
        .replace(GOLDEN, "/nowhere/base");
    std::fs::write(&moved, text).unwrap();
    assert!(logprobs(&load("there/sft")) == logprobs(&sft));
    run(
        dir.path(),
        &format!("model cast {GOLDEN} --to bf16 --out there/base-again"),
    );
    std::fs::remove_dir_all(at("there/base")).unwrap();
    std::fs::rename(at("there/base-again"), at("there/base")).unwrap();
    refused(
        dir.path(),
        &["model", "info", "there/sft"],
        3,
        &["not the model that these adapters were trained on"],
    );
    refused(
        dir.path(),
        &["chat", "--model", "there/sft"],
        3,
        &["not the model that these adapters were trained on"],
    );

    // On top, and with the first adapters as the reference.
    let dpo = format!("train dpo --model sft --data pairs.jsonl --out dpo {flags} --lora-rank-stabilised");
    assert!(run(dir.path(), &dpo).stderr.contains("folded into the weights"));
    let first: Value = serde_json::from_str(
        std::fs::read_to_string(at("dpo").join(metrics::FILE))
            .unwrap()
            .lines()
            .next()
            .unwrap(),
    )
    .unwrap();
    assert!(
        (first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6,
        "{first}"
    );
    let base = Model::load(GOLDEN).unwrap();
    let differ = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (of_sft, of_dpo) = (logprobs(&sft), logprobs(&load("dpo")));
    assert!(differ(&logprobs(&base), &of_sft) > 0.1 && differ(&of_sft, &of_dpo) > 0.01);

    for (name, expected) in [("sft", &of_sft), ("dpo", &of_dpo)] {
        run(dir.path(), &format!("model merge {name} --out {name}-merged"));
        let merged = load(&format!("{name}-merged"));
        assert!(merged.decoder.adapters.is_none());
        let difference = differ(&logprobs(&merged), expected);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
    run(dir.path(), "model merge sft --to bf16 --out half");
    run(
        dir.path(),
        "sample --model sft --prompts prompts.jsonl --out samples --max-new-tokens 4 --keep-truncated",
    );

    let reward = format!("train reward --model {GOLDEN} --data pairs.jsonl --out reward {flags}");
    run(dir.path(), &reward);
    let ppo = "--iterations 2 --rollouts 4 --minibatch-rows 4 --max-new-tokens 6 --lora-rank 2";
    run(
        dir.path(),
        &format!("train ppo --model {GOLDEN} --reward-model reward --data prompts.jsonl --out ppo {ppo}"),
    );
    run(dir.path(), "model merge reward --out reward-merged");
    let head = |name: &str| std::fs::read(at(name).join("head.safetensors")).unwrap();
    assert!(head("reward") == head("reward-merged"));
}

/// Catches: a flag that does nothing without telling, and refusals that do not say what to do.
#[test]
fn what_makes_no_adapters_is_refused() {
    let dir = data();
    let train = |flags: &str| format!("train sft --model {GOLDEN} --data sft.jsonl --out out {flags}");
    let words = |command: &str| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let refuse = |command: &str, code: i32, says: &[&str]| {
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(dir.path(), &words, code, says);
    };
    refuse(&train("--lora-alpha 16"), 2, &["--lora-alpha", "--lora-rank 8"]);
    refuse(&train("--lora-targets q_proj"), 2, &["--lora-targets"]);
    refuse(
        &train("--lora-rank 2 --lora-targets q_porj"),
        2,
        &["`q_porj`", "nearest: q_proj"],
    );
    refuse(&train("--lora-rank 2 --lora-dropout 1"), 2, &["leaves nothing"]);
    refuse(
        &format!("model merge {GOLDEN} --out out"),
        3,
        &["holds no adapters", "adapter_config.json"],
    );
    refuse("model merge nowhere --out out", 3, &["nowhere is not there"]);
    let alpha = words(&train("--lora-rank 2 --lora-alpha 0"));
    let alpha: Vec<&str> = alpha.iter().map(String::as_str).collect();
    fails(dir.path(), &alpha, 2, &["greater than 0"]);
    assert!(!dir.path().join("out").exists());
    let help = bylaw(dir.path(), &["train", "dpo", "--help"]).stdout;
    assert!(help.contains("--lora-rank") && help.contains("LoRA"), "{help}");
}
