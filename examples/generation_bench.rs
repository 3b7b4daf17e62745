//! Times the engine on token prompts, for `scripts/compare-generation.sh`.
//!
//! Prints one line of JSON. Loading is not timed, and a short run warms up before the clock. Tasks:
//!
//! - `a8`, `a32`: rows `{"tokens": [..], "max_new_tokens": 64}`, drawn greedily;
//! - `judge`: rows `{"prefix": [..], "options": [[id], [id]]}`;
//! - `revise`: rows `{"turns": [[..], ..], "max_new_tokens": 32}`: the prompt of a turn is all that was
//!   said before it and the turn's tokens.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use bylaw::engine::Sampling;
use bylaw::engine::batch::{self, Answer, Ask, Pool, Task};
use bylaw::model::cpu::Weights;
use bylaw::model::files::Model;
use bylaw::seed::Seed;
use clap::Parser;
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: String,
    #[arg(long)]
    task: String,
    #[arg(long)]
    prompts: PathBuf,
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Gibibytes of the key/value cache.
    #[arg(long, default_value_t = 2)]
    cache: usize,
    /// Write what each row gave, one line of JSON a row.
    #[arg(long)]
    completions: Option<PathBuf>,
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

/// One model and the prompts of one task.
struct Bench<'a> {
    weights: &'a Weights<'a>,
    model: &'a Model,
    rows: &'a [Row],
    samplings: Vec<Sampling>,
}

/// What a run of a task gave, by row, and the tokens that went in.
struct Done {
    results: Vec<serde_json::Value>,
    prompt_tokens: usize,
    new_tokens: usize,
}

impl Bench<'_> {
    fn draw(&self, row: usize, tokens: Vec<u32>) -> Task<'_> {
        Task {
            tokens,
            ask: Ask::Draw {
                sampling: &self.samplings[row],
                stop: &[],
                seed: Seed::new(0),
                tokenizer: &self.model.tokenizer,
                listener: None,
            },
        }
    }

    fn completions(&self, pool: &mut Pool, tasks: &[Task<'_>]) -> Result<Vec<Vec<u32>>, Failure> {
        let tokens = |answer| match answer {
            Answer::Drawing(drawing) => drawing.tokens,
            Answer::Numbers(_) => Vec::new(),
        };
        Ok(batch::run(self.weights, pool, tasks)?.into_iter().map(tokens).collect())
    }

    fn run(&self, task: &str, pool: &mut Pool) -> Result<Done, Failure> {
        match task {
            "judge" => self.judge(pool),
            "revise" => self.revise(pool),
            _ => {
                let draw = |(index, row): (usize, &Row)| self.draw(index, row.tokens.clone());
                let tasks: Vec<Task<'_>> = self.rows.iter().enumerate().map(draw).collect();
                let completions = self.completions(pool, &tasks)?;
                Ok(Done {
                    prompt_tokens: self.rows.iter().map(|row| row.tokens.len()).sum(),
                    new_tokens: completions.iter().map(Vec::len).sum(),
                    results: completions.into_iter().map(Into::into).collect(),
                })
            }
        }
    }

    fn judge(&self, pool: &mut Pool) -> Result<Done, Failure> {
        let ask = |row: &Row| Task {
            tokens: row.prefix.clone(),
            ask: Ask::Choices(row.options.iter().map(|option| option[0]).collect()),
        };
        let tasks: Vec<Task<'_>> = self.rows.iter().map(ask).collect();
        let answers = batch::run(self.weights, pool, &tasks)?;
        let numbers = |answer| match answer {
            Answer::Numbers(numbers) => numbers.into(),
            Answer::Drawing(_) => serde_json::Value::Null,
        };
        Ok(Done {
            prompt_tokens: self.rows.iter().map(|row| row.prefix.len()).sum(),
            new_tokens: 0,
            results: answers.into_iter().map(numbers).collect(),
        })
    }

    fn revise(&self, pool: &mut Pool) -> Result<Done, Failure> {
        let mut said: Vec<Vec<u32>> = vec![Vec::new(); self.rows.len()];
        let mut results: Vec<Vec<Vec<u32>>> = vec![Vec::new(); self.rows.len()];
        let (mut prompt_tokens, mut new_tokens) = (0, 0);
        for turn in 0..self.rows.iter().map(|row| row.turns.len()).max().unwrap_or(0) {
            for (said, row) in said.iter_mut().zip(self.rows) {
                said.extend(&row.turns[turn]);
                prompt_tokens += said.len();
            }
            let draw = |(index, said): (usize, &Vec<u32>)| self.draw(index, said.clone());
            let tasks: Vec<Task<'_>> = said.iter().enumerate().map(draw).collect();
            let completions = self.completions(pool, &tasks)?;
            for ((said, results), tokens) in said.iter_mut().zip(&mut results).zip(completions) {
                new_tokens += tokens.len();
                said.extend(&tokens);
                results.push(tokens);
            }
        }
        Ok(Done {
            results: results.into_iter().map(Into::into).collect(),
            prompt_tokens,
            new_tokens,
        })
    }
}

fn main() -> Result<(), Failure> {
    bylaw::memory::keep();
    let arguments = Arguments::parse();
    rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.threads)
        .build_global()?;
    let mut model = Model::load(&arguments.model)?;
    match arguments.dtype.as_str() {
        "bf16" => model.decoder = model.decoder.to_dtype(candle_core::DType::BF16)?,
        "f16" => model.decoder = model.decoder.to_dtype(candle_core::DType::F16)?,
        _ => {}
    }
    let text = std::fs::read_to_string(&arguments.prompts)?;
    let rows: Vec<Row> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let weights = Weights::serving(&model.decoder, arguments.threads)?;
    weights.settle();
    let sampling = |max_new_tokens| Sampling {
        temperature: 0.0,
        max_new_tokens,
        ..Sampling::default()
    };
    let bench = |rows| Bench {
        weights: &weights,
        model: &model,
        rows,
        samplings: rows
            .iter()
            .map(|row: &Row| sampling(row.max_new_tokens.min(4)))
            .collect(),
    };
    let pool = || Pool::of_bytes(&model.decoder, arguments.cache << 30);
    bench(&rows[..rows.len().min(2)]).run(&arguments.task, &mut pool())?;
    let bench = Bench {
        samplings: rows.iter().map(|row| sampling(row.max_new_tokens)).collect(),
        ..bench(&rows)
    };
    let mut pool = pool();
    let started = Instant::now();
    let done = bench.run(&arguments.task, &mut pool)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(path) = &arguments.completions {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for result in &done.results {
            writeln!(file, "{result}")?;
        }
        file.flush()?;
    }
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds, "new_tokens": done.new_tokens, "prompt_tokens": done.prompt_tokens })
    );
    Ok(())
}
