//! Times a trainer on batches of tokens, for `scripts/compare-training.sh`.
//!
//! Prints one line of JSON: the seconds of each optimiser step but the first, the peak resident set, the losses. Rows
//! come from `scripts/compare/training_rows.py`; the trainers are those of the program, so a step has all that a
//! step of a run has.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::{Decoder, Training};
use bylaw::model::files::Model;
use bylaw::model::lora::{BaseModel, LoraConfig, Targets};
use bylaw::progress::Progress;
use bylaw::seed::Seed;
use bylaw::train::batch::Example;
use bylaw::train::monitor::{MonitorConfig, Watch};
use bylaw::train::online::{self, Method};
use bylaw::train::pairs::Pair;
use bylaw::train::rollout::Actors;
use bylaw::train::run::Setup;
use bylaw::train::sources::{Source, Sources};
use bylaw::train::{dpo, grpo, metrics, ppo, reward, sft};
use clap::Parser;
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: String,
    /// sft, reward, dpo, or lora, which is sft with adapters of rank 16; online (GRPO) or ppo, whose steps are whole
    /// iterations.
    #[arg(long)]
    task: String,
    #[arg(long)]
    rows: PathBuf,
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Recompute activations.
    #[arg(long)]
    lean: bool,
    /// Of what is drawn: tokens of an answer, and answers to a prompt.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    #[arg(long, default_value_t = 4)]
    generations: usize,
}

#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    completion: usize,
}

#[derive(Deserialize)]
struct PromptRow {
    prompt: Vec<u32>,
}

#[derive(Deserialize)]
struct PairRow {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

#[derive(Parser)]
struct Flags<C: clap::Args> {
    #[command(flatten)]
    config: C,
}

/// When each step ended.
#[derive(Default)]
struct Clock(Mutex<Vec<Instant>>);

impl Progress for Clock {
    fn start(&self, _: &str, _: u64, unit: &'static str) {
        let mut laps = self.0.lock().expect("one thread tells of progress");
        laps.clear();
        if unit == "steps" {
            laps.push(Instant::now());
        }
    }

    fn advance(&self, done: u64) {
        if done > 0 {
            self.0
                .lock()
                .expect("one thread tells of progress")
                .push(Instant::now());
        }
    }

    fn figure(&self, _: &str) {}

    fn finish(&self) {}

    fn note(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> Result<(), Failure> {
    bylaw::memory::keep();
    let arguments = Arguments::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.threads)
        .build_global()?;
    let directory = tempfile::tempdir()?;
    let clock = Clock::default();
    let setup = Setup {
        dir: directory.path().to_owned(),
        fingerprint: "bench".into(),
        label: arguments.task.clone(),
        progress: &clock,
        save_steps: 0,
        in_place: true,
        keeping: Default::default(),
    };
    train(&arguments, setup)?;
    let laps = clock.0.into_inner()?;
    let seconds: Vec<f64> = laps.windows(2).map(|lap| (lap[1] - lap[0]).as_secs_f64()).collect();
    let losses = metrics::read(directory.path())?;
    let loss = |row| {
        ["loss", "loss/policy_avg"]
            .iter()
            .find_map(|name| serde_json::Map::get(row, *name))
    };
    let losses: Vec<_> = losses.iter().map(loss).collect();
    let figures = serde_json::json!({
        "seconds": seconds.get(1..).unwrap_or_default(),
        "peak_bytes": peak_bytes()?,
        "losses": losses,
    });
    println!("{figures}");
    Ok(())
}

fn train(arguments: &Arguments, setup: Setup<'_>) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&arguments.rows)?;
    match arguments.task.as_str() {
        "online" => return draw::<grpo::GrpoConfig>(arguments, setup, &text, &["--epochs", "1"]),
        "ppo" => return draw::<ppo::PpoConfig>(arguments, setup, &text, &["--ppo-epochs", "1"]),
        _ => {}
    }
    let decoder = decoder(arguments)?;
    let (seed, size) = (Seed::new(0), arguments.batch.to_string());
    let flags = ["bench", "--learning-rate", "1e-5", "--batch-size", &size];
    match arguments.task.as_str() {
        "reward" => {
            let config = Flags::parse_from(flags).config;
            reward::train(setup, &config, &decoder, &pairs(&text)?, seed)?;
        }
        "dpo" => {
            let config = Flags::parse_from(flags).config;
            dpo::train(setup, &config, &decoder, &pairs(&text)?, seed)?;
        }
        _ => {
            let config = Flags::parse_from(flags).config;
            sft::train(setup, &config, &decoder, &examples(&text)?, seed)?;
        }
    }
    Ok(())
}

/// Iterations of a method that draws: `batch` prompts with so many answers each, and one update on all of them.
fn draw<M: Method>(arguments: &Arguments, setup: Setup<'_>, text: &str, others: &[&str]) -> Result<(), Failure> {
    let row = |line: &str| -> Result<Vec<u32>, Failure> { Ok(serde_json::from_str::<PromptRow>(line)?.prompt) };
    let prompts = text.lines().map(row).collect::<Result<Vec<_>, _>>()?;
    let rollouts = (arguments.batch * arguments.generations).to_string();
    let iterations = (prompts.len() / arguments.batch).to_string();
    let (new_tokens, generations) = (arguments.new_tokens.to_string(), arguments.generations.to_string());
    let mut flags = vec![
        "bench",
        "--learning-rate",
        "1e-5",
        "--rollouts",
        &rollouts,
        "--minibatch-rows",
        &rollouts,
    ];
    flags.extend(["--iterations", &iterations, "--max-new-tokens", &new_tokens]);
    flags.extend(others);
    if M::KIND == grpo::GrpoConfig::KIND {
        flags.extend(["--num-generations", &generations]);
    }
    let config: M = Flags::parse_from(flags).config;
    config.check()?;
    let model = Model::load(&arguments.model)?;
    let rule = Source::Rule("no-repeat".parse()?);
    let actors = Actors {
        policy: &decoder(arguments)?,
        sources: &Sources::new(vec![("no-repeat".into(), 1.0, rule)])?,
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    let watch = Watch {
        config: &MonitorConfig::default(),
        held_out: None,
    };
    // The reference is the policy as it is given.
    let setup = Setup {
        in_place: false,
        ..setup
    };
    online::train(setup, &config, &actors, watch, Seed::new(0))?;
    Ok(())
}

fn decoder(arguments: &Arguments) -> Result<Decoder, Failure> {
    let mut decoder = Model::load(&arguments.model)?.decoder;
    decoder.training = Training {
        halves: arguments.dtype == "bf16",
        recompute: arguments.lean,
    };
    if arguments.task != "lora" {
        return Ok(decoder);
    }
    let config = LoraConfig {
        rank: 16,
        alpha: 32.0,
        dropout: 0.0,
        targets: Targets::new(&[]),
        rank_stabilised: false,
    };
    let base = BaseModel {
        reference: arguments.model.clone(),
        sha256: String::new(),
    };
    Ok(decoder.with_adapters(&config, base, Seed::new(1))?)
}

fn examples(text: &str) -> Result<Vec<Example>, Failure> {
    let row = |line: &str| -> Result<Example, Failure> {
        let row: Row = serde_json::from_str(line)?;
        let sequence = Sequence {
            tokens: row.tokens,
            completion: row.completion,
        };
        Ok(Example {
            weights: vec![1.0; sequence.completion_len()],
            sequence,
        })
    };
    text.lines().map(row).collect()
}

fn pairs(text: &str) -> Result<Vec<Pair>, Failure> {
    let row = |line: &str| -> Result<Pair, Failure> {
        let row: PairRow = serde_json::from_str(line)?;
        let whole = |answer: &[u32]| Sequence {
            tokens: [&row.prompt, answer].concat(),
            completion: row.prompt.len(),
        };
        Ok(Pair {
            chosen: whole(&row.chosen),
            rejected: whole(&row.rejected),
            p_chosen: 1.0,
            weight: 1.0,
            margin: 0.0,
        })
    };
    text.lines().map(row).collect()
}

/// The largest resident set so far, as Linux counts it.
fn peak_bytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line
        .and_then(|line| line.split_whitespace().nth(1))
        .ok_or("no VmHWM in /proc/self/status")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}
