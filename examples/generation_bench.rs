//! Times the engine on token prompts, for `scripts/compare-generation.sh`.
//!
//! `generation_bench --model DIR --task draw|judge|revise --prompts FILE.jsonl [--dtype f32|bf16|f16]
//! [--threads N]` prints one line of JSON. Loading is not timed.
//!
//! - `draw`: rows `{"tokens": [..], "max_new_tokens": 64}`, drawn greedily to the last token.
//! - `judge`: rows `{"prefix": [..], "options": [[id], [id]]}`.
//! - `revise`: rows `{"turns": [[..], ..], "max_new_tokens": 32}`: the prompt of turn `r` is all that was
//!   said before it and the turn's tokens.

use std::time::Instant;

use bylaw::engine::Sampling;
use bylaw::engine::batch::{self, Answer, Ask, Pool, Task};
use bylaw::model::cpu::Weights;
use bylaw::model::files::Model;
use bylaw::seed::Seed;
use clap::Parser;
use serde::Deserialize;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: String,
    #[arg(long)]
    task: String,
    #[arg(long)]
    prompts: std::path::PathBuf,
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Gibibytes of the key/value cache.
    #[arg(long, default_value_t = 2)]
    cache: usize,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Row {
    tokens: Vec<u32>,
    max_new_tokens: usize,
    prefix: Vec<u32>,
    options: Vec<Vec<u32>>,
    turns: Vec<Vec<u32>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.threads)
        .build_global()?;
    let model = Model::load(&arguments.model)?;
    let decoder = match arguments.dtype.as_str() {
        "bf16" => model.decoder.to_dtype(candle_core::DType::BF16)?,
        "f16" => model.decoder.to_dtype(candle_core::DType::F16)?,
        _ => model.decoder.clone(),
    };
    let text = std::fs::read_to_string(&arguments.prompts)?;
    let rows: Vec<Row> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let samplings: Vec<Sampling> = rows
        .iter()
        .map(|row| Sampling {
            temperature: 0.0,
            max_new_tokens: row.max_new_tokens,
            ..Sampling::default()
        })
        .collect();
    let draw = |index: usize, tokens: Vec<u32>| Task {
        tokens,
        ask: Ask::Draw {
            sampling: &samplings[index],
            stop: &[],
            seed: Seed::new(0),
            tokenizer: &model.tokenizer,
        },
    };
    let weights = Weights::serving(&decoder, arguments.threads)?;
    let started = Instant::now();
    let mut pool = Pool::of_bytes(&decoder, arguments.cache << 30);
    let (mut new_tokens, mut prompt_tokens) = (0, 0);
    match arguments.task.as_str() {
        "judge" => {
            let tasks: Vec<Task> = rows
                .iter()
                .map(|row| Task {
                    tokens: row.prefix.clone(),
                    ask: Ask::Choices(row.options.iter().map(|option| option[0]).collect()),
                })
                .collect();
            prompt_tokens = rows.iter().map(|row| row.prefix.len()).sum();
            batch::run(&weights, &mut pool, &tasks)?;
        }
        "revise" => {
            let mut said: Vec<Vec<u32>> = vec![Vec::new(); rows.len()];
            for turn in 0..rows.iter().map(|row| row.turns.len()).max().unwrap_or(0) {
                let tasks: Vec<Task> = rows
                    .iter()
                    .zip(&mut said)
                    .enumerate()
                    .map(|(index, (row, said))| {
                        said.extend(&row.turns[turn]);
                        prompt_tokens += said.len();
                        draw(index, said.clone())
                    })
                    .collect();
                for (said, answer) in said.iter_mut().zip(batch::run(&weights, &mut pool, &tasks)?) {
                    if let Answer::Drawing(drawing) = answer {
                        new_tokens += drawing.tokens.len();
                        said.extend(drawing.tokens);
                    }
                }
            }
        }
        _ => {
            let tasks: Vec<Task> = rows
                .iter()
                .enumerate()
                .map(|(i, row)| draw(i, row.tokens.clone()))
                .collect();
            prompt_tokens = rows.iter().map(|row| row.tokens.len()).sum();
            for answer in batch::run(&weights, &mut pool, &tasks)? {
                if let Answer::Drawing(drawing) = answer {
                    new_tokens += drawing.tokens.len();
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds, "new_tokens": new_tokens, "prompt_tokens": prompt_tokens })
    );
    Ok(())
}
