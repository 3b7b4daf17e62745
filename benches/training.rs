//! A training step at the shape of SmolLM2-135M, part by part: how long the forward and backward passes and the
//! optimiser take, in f32 and in mixed precision.
//!
//! `cargo bench --bench training -- [ROWS] [TOKENS]`; what was found is in `benches/README.md`. The comparison with
//! other trainers is `scripts/compare-training.sh`.

use std::time::Instant;

use bylaw::model::config::DecoderConfig;
use bylaw::model::cpu::kernels::{self, Mat, MatMut, Write};
use bylaw::model::cpu::mixed;
use bylaw::model::cpu::trunk::{self, Gradients, Outputs, Sequence, Wanted};
use bylaw::model::decoder::{Decoder, Training};
use bylaw::seed::Seed;
use bylaw::train::optim::{AdamW, OptimConfig};

/// Steps that are timed, after one that is not.
const STEPS: usize = 5;
const WANTED: Wanted = Wanted::Logprobs { temperature: 1.0 };

fn main() {
    bylaw::memory::keep();
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<usize>().ok());
    let rows = numbers.next().unwrap_or(4);
    let tokens = numbers.next().unwrap_or(256);
    let batch: Vec<Sequence> = (0..rows)
        .map(|row| Sequence {
            tokens: (0..tokens)
                .map(|at| ((row * 7919 + at * 104_729) % 49_152) as u32)
                .collect(),
            completion: 1,
        })
        .collect();
    products(rows * tokens / 2);
    println!("{rows} x {tokens} tokens, medians of {STEPS} steps, seconds");
    println!(
        "{:<22} {:>8} {:>9} {:>9} {:>9}",
        "", "forward", "backward", "optimiser", "tokens/s"
    );
    for (halves, recompute) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut decoder = Decoder::random(shape(), Seed::new(1)).expect("a decoder");
        decoder.training = Training { halves, recompute };
        let name = format!(
            "{}{}",
            if halves { "bf16" } else { "f32" },
            if recompute { ", recomputed" } else { "" }
        );
        step_times(&name, &decoder, &batch);
    }
}

/// The three products of the largest linear map at `rows` rows, on one thread.
fn products(rows: usize) {
    let (inputs, outputs) = (576, 1536);
    let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect() };
    let (x, w, y) = (
        numbers(rows * inputs),
        numbers(inputs * outputs),
        numbers(rows * outputs),
    );
    let (x, w, y) = (
        Mat::new(&x, rows, inputs),
        Mat::new(&w, outputs, inputs),
        Mat::new(&y, rows, outputs),
    );
    println!("{rows} x {inputs} x {outputs} on one thread, the best of 20, GFLOP/s");
    println!("{:<22} {:>8} {:>9}", "", "f32", "bf16");
    let cases = [
        ("output", (rows, outputs), x, w.t()),
        ("gradient of the input", (rows, inputs), y, w),
        ("gradient of weights", (outputs, inputs), y.t(), x),
    ];
    for (name, (height, width), left, right) in cases {
        let mut out = vec![0.0; height * width];
        let work = 2.0 * (rows * inputs * outputs) as f64 / 1e9;
        let mut best = |halves: bool| {
            let times = (0..20).map(|_| {
                let clock = Instant::now();
                let out = MatMut::new(&mut out, height, width);
                match halves {
                    true => mixed::matmul(out, left, right, Write::Accumulate, 1),
                    false => kernels::matmul(out, left, right, Write::Accumulate),
                }
                clock.elapsed().as_secs_f64()
            });
            work / times.fold(f64::INFINITY, f64::min)
        };
        println!("{name:<22} {:>8.0} {:>9.0}", best(false), best(true));
    }
    println!();
}

fn step_times(name: &str, decoder: &Decoder, batch: &[Sequence]) {
    let tensors: Vec<_> = decoder
        .parameters
        .iter()
        .map(|parameter| parameter.weight.dense().expect("dense weights"))
        .collect();
    let mut optimizer = AdamW::new(OptimConfig::default(), tensors.iter().copied());
    let mut gradients = Gradients::zeros(decoder);
    let mut times: [Vec<f64>; 3] = Default::default();
    for step in 0..=STEPS {
        let mut clock = Instant::now();
        let mut lap = |part: usize| {
            if step > 0 {
                times[part].push(clock.elapsed().as_secs_f64());
            }
            clock = Instant::now();
        };
        let (outputs, tape) = trunk::forward(decoder, batch, WANTED).expect("a forward pass");
        lap(0);
        let scale = -1.0 / batch.iter().map(Sequence::completion_len).sum::<usize>() as f32;
        let gradient = Outputs {
            logprobs: outputs.logprobs.iter().map(|row| vec![scale; row.len()]).collect(),
            ..Outputs::default()
        };
        trunk::backward(decoder, tape, &gradient, &mut gradients).expect("a backward pass");
        lap(1);
        let mut all: Vec<&mut Vec<f32>> = gradients.0.iter_mut().collect();
        optimizer.update(&tensors, &mut all, 1e-5).expect("an update");
        gradients.clear();
        lap(2);
    }
    let [forward, backward, optimiser] = times.map(median);
    let tokens: usize = batch.iter().map(|sequence| sequence.tokens.len()).sum();
    let rate = tokens as f64 / (forward + backward + optimiser);
    println!("{name:<22} {forward:>8.3} {backward:>9.3} {optimiser:>9.3} {rate:>9.0}");
}

fn shape() -> DecoderConfig {
    DecoderConfig {
        vocab: 49_152,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        context: 2048,
        tied: true,
        ..DecoderConfig::default()
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
