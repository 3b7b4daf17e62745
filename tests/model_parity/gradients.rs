//! The explicit backward pass against transformers, the twin, and finite differences.

use std::collections::{BTreeMap, HashSet};

use bylaw::model::cpu::trunk::{self, Gradients, Outputs, Sequence, Wanted};
use bylaw::model::decoder::{Decoder, Weight, normal};
use bylaw::model::family;
use bylaw::seed::Seed;
use candle_core::{Device, Tensor};

use crate::NLL;
use crate::random::{FEATURES, ragged, random_decoder};
use crate::support::twin::Twin;
use crate::support::{CHECKPOINTS, load, norm};

/// Catches: any wrong term of the explicit backward pass that a real loss would feel, rope scaling
/// and shards of a checkpoint included; and a parameter that silently gets no gradient.
#[test]
fn gradients_are_those_of_transformers() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let (outputs, tape) = trunk::forward(&decoder, &expected.sequences(), NLL).unwrap();
        let count: usize = outputs.logprobs.iter().map(Vec::len).sum();
        let sum: f64 = outputs.logprobs.iter().flatten().copied().map(f64::from).sum();
        let loss = -sum / count as f64;
        assert!((loss - expected.loss).abs() <= 2e-6 * expected.loss, "{name}: {loss}");
        let mean_nll = Outputs {
            logprobs: outputs
                .logprobs
                .iter()
                .map(|row| vec![-1.0 / count as f32; row.len()])
                .collect(),
            ..Outputs::default()
        };
        let mut gradients = Gradients::zeros(&decoder);
        trunk::backward(&decoder, tape, &mean_nll, &mut gradients).unwrap();
        let gradients = stored(&decoder, gradients);
        assert_eq!(gradients.len(), expected.grad.len(), "{name}");
        let mut worst = 0f64;
        for (parameter, gradient) in &gradients {
            let expected = &expected.grad[parameter];
            let ours = norm(gradient.iter().copied().map(f64::from));
            assert!(ours > 0.0, "{name}: {parameter} has no gradient");
            let mut errors = vec![(ours - expected.norm).abs() / expected.norm];
            for (index, value) in &expected.entries {
                errors.push((f64::from(gradient[*index]) - value).abs() / expected.norm);
            }
            for error in errors {
                worst = worst.max(error);
                assert!(error <= 3e-5, "{name}: {parameter} differs by {error:.2e} of its norm");
            }
        }
        println!("{name}: gradients differ by at most {worst:.2e} of their norms");
    }
}

/// Gradients by the names of the checkpoint's tensors, of which some hold several parameters.
fn stored(decoder: &Decoder, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
    let mut stored = BTreeMap::<String, Vec<f32>>::new();
    for (parameter, gradient) in decoder.parameters.iter().zip(gradients.0) {
        let name = family::stored(&decoder.config, &parameter.name).name;
        stored.entry(name).or_default().extend(gradient);
    }
    stored
}

/// Random numbers in the shape of `outputs`: the coefficients of a linear functional of them, which
/// are also its gradient.
fn coefficients(outputs: &Outputs) -> Outputs {
    let like = |rows: &[Vec<f32>], label: &str| {
        let seed = Seed::new(4).child(label);
        let row = |(index, row): (usize, &Vec<f32>)| normal(row.len(), 1.0, seed.index(index as u64));
        rows.iter().enumerate().map(row).collect()
    };
    Outputs {
        logprobs: like(&outputs.logprobs, "logprobs"),
        hidden: like(&outputs.hidden, "hidden"),
        ..Outputs::default()
    }
}

/// The functional, accumulated in `f64`.
pub fn functional(outputs: &Outputs, coefficients: &Outputs) -> f64 {
    let sum = |values: &[Vec<f32>], coefficients: &[Vec<f32>]| -> f64 {
        let pairs = values.iter().flatten().zip(coefficients.iter().flatten());
        pairs.map(|(x, c)| f64::from(*x) * f64::from(*c)).sum()
    };
    sum(&outputs.logprobs, &coefficients.logprobs) + sum(&outputs.hidden, &coefficients.hidden)
}

pub fn twin_functional(twin: &Twin, batch: &[Sequence], wanted: Wanted, coefficients: &Outputs) -> Tensor {
    let term = |values: &Tensor, coefficients: &[f32]| {
        let coefficients: Vec<f64> = coefficients.iter().copied().map(f64::from).collect();
        let coefficients = Tensor::from_vec(coefficients, values.shape(), &Device::Cpu).unwrap();
        (values * coefficients).unwrap().sum_all().unwrap()
    };
    let mut total = Tensor::new(0f64, &Device::Cpu).unwrap();
    for (index, sequence) in batch.iter().enumerate() {
        let terms = match wanted {
            Wanted::LastHidden => vec![term(&twin.last_hidden(sequence).unwrap(), &coefficients.hidden[index])],
            _ if sequence.completion_len() == 0 => continue,
            Wanted::Logprobs { temperature } => {
                let (logprobs, _) = twin.completion(sequence, f64::from(temperature)).unwrap();
                vec![term(&logprobs, &coefficients.logprobs[index])]
            }
            Wanted::LogprobsAndHidden { temperature } => {
                let (logprobs, hidden) = twin.completion(sequence, f64::from(temperature)).unwrap();
                vec![
                    term(&logprobs, &coefficients.logprobs[index]),
                    term(&hidden, &coefficients.hidden[index]),
                ]
            }
        };
        for term in terms {
            total = (total + term).unwrap();
        }
    }
    total
}

pub fn gradients_of(decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> (Gradients, Outputs) {
    let (outputs, tape) = trunk::forward(decoder, batch, wanted).unwrap();
    let coefficients = coefficients(&outputs);
    let mut gradients = Gradients::zeros(decoder);
    trunk::backward(decoder, tape, &coefficients, &mut gradients).unwrap();
    (gradients, coefficients)
}

pub const ALL_WANTED: [Wanted; 4] = [
    Wanted::Logprobs { temperature: 0.7 },
    Wanted::LogprobsAndHidden { temperature: 1.0 },
    Wanted::LogprobsAndHidden { temperature: 0.7 },
    Wanted::LastHidden,
];

/// The largest difference between the gradients of the trunk and of the twin, over the twin's norm.
fn twin_difference(features: &str, decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> f64 {
    let twin = Twin::new(decoder).unwrap();
    let (gradients, coefficients) = gradients_of(decoder, batch, wanted);
    let scalar = twin_functional(&twin, batch, wanted, &coefficients);
    let expected = twin.gradients(&scalar).unwrap();
    let mut worst = 0f64;
    for ((parameter, gradient), expected) in decoder.parameters.iter().zip(&gradients.0).zip(&expected) {
        let name = &parameter.name;
        let size = norm(expected.iter().copied());
        if wanted == Wanted::LastHidden && name == "lm_head.weight" {
            let none = gradient.iter().all(|g| *g == 0.0);
            assert!(none, "{name} has no part in a hidden state");
            continue;
        }
        assert!(size > 0.0, "the twin of {name} has no gradient");
        let pairs = gradient.iter().zip(expected);
        let error = norm(pairs.map(|(ours, twins)| f64::from(*ours) - twins)) / size;
        worst = worst.max(error);
        assert!(
            error <= 4e-5,
            "{wanted:?}, {features}: {name} differs by {error:.2e} of its norm"
        );
    }
    worst
}

/// Catches: a wrong or missing term of the backward pass for any output the trunk can give, with any
/// gradient and any feature: temperature, hidden states, chunks of the output projection, query groups,
/// windows, soft-caps, norms, ragged lengths, sequences of one token and without completion.
#[test]
fn gradients_are_those_of_the_twin() {
    for features in FEATURES {
        let decoder = random_decoder(features);
        let batch = ragged(&decoder);
        for wanted in ALL_WANTED {
            let worst = twin_difference(features, &decoder, &batch, wanted);
            println!("{wanted:?}, {features}: gradients differ from the twin's by at most {worst:.2e}");
        }
    }
}

/// Catches: blocks of queries that see the wrong keys, or whose gradients land in the wrong rows.
#[test]
fn gradients_of_long_sequences_are_those_of_the_twin() {
    for features in ["tied", "gemma2"] {
        let decoder = random_decoder(features);
        let tokens = (0..601).map(|t| t * t % 37).collect();
        let batch = [Sequence {
            tokens,
            completion: 500,
        }];
        let worst = twin_difference(features, &decoder, &batch, ALL_WANTED[2]);
        println!("601 tokens, {features}: gradients differ from the twin's by at most {worst:.2e}");
    }
}

/// Catches: a forward pass and a backward pass that agree with the twin's mistakes. Central
/// differences of the trunk's own forward pass, at each parameter's largest gradient and two others.
#[test]
fn gradients_are_finite_differences() {
    for features in ["untied", "gemma2", "gemma3"] {
        finite_differences(features);
    }
}

fn finite_differences(features: &str) {
    let decoder = random_decoder(features);
    let mut batch = ragged(&decoder);
    batch.remove(0);
    let wanted = Wanted::LogprobsAndHidden { temperature: 0.7 };
    let (gradients, coefficients) = gradients_of(&decoder, &batch, wanted);
    let mut worst = 0f64;
    for (index, gradient) in gradients.0.iter().enumerate() {
        let name = &decoder.parameters[index].name;
        let size = norm(gradient.iter().copied().map(f64::from));
        let largest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()));
        for entry in [largest.unwrap(), gradient.len() / 3, gradient.len() - 1] {
            let at = |step: f32| {
                let mut moved = decoder.copy().unwrap();
                let weight = &mut moved.parameters[index].weight;
                let tensor = weight.dense().unwrap().clone();
                let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                values[entry] += step;
                let exact = f64::from(values[entry]);
                *weight = Weight::Dense(Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap());
                let (outputs, _) = trunk::forward(&moved, &batch, wanted).unwrap();
                (functional(&outputs, &coefficients), exact)
            };
            let ((above, high), (below, low)) = (at(2e-3), at(-2e-3));
            let difference = (above - below) / (high - low);
            let error = (difference - f64::from(gradient[entry])).abs() / size;
            worst = worst.max(error);
            assert!(
                error <= 3e-3,
                "{features}, {name}[{entry}]: gradient {}, difference {difference}, norm {size}",
                gradient[entry]
            );
        }
    }
    println!("{features}: gradients differ from finite differences by at most {worst:.2e} of their norms");
}

/// Catches: a frozen output projection whose derivative, taken on the way forward, is another than the one that is computed
/// with its gradient: by a missing temperature or soft-cap, from the rows of another chunk, with a coefficient twice.
#[test]
fn a_frozen_head_changes_no_other_gradient() {
    for features in FEATURES {
        let decoder = random_decoder(features);
        let mut frozen = decoder.copy().unwrap();
        let head = frozen.layout.head;
        frozen.parameters[head].frozen = true;
        // More tokens than a chunk of logits has rows, in both shards.
        let long = |shift: u32| Sequence {
            tokens: (0..400).map(|t| (t * t + shift) % 37).collect(),
            completion: 90,
        };
        let mut batch = ragged(&decoder);
        batch.extend([long(0), long(5)]);
        for wanted in ALL_WANTED {
            let (learnt, coefficients) = gradients_of(&decoder, &batch, wanted);
            let (found, same) = gradients_of(&frozen, &batch, wanted);
            assert_eq!(coefficients.logprobs, same.logprobs);
            assert!(found.0[head].is_empty());
            let mut worst = 0f64;
            for (index, parameter) in decoder
                .parameters
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != head)
            {
                let (learnt, found) = (&learnt.0[index], &found.0[index]);
                let size = norm(learnt.iter().copied().map(f64::from));
                let error = norm(learnt.iter().zip(found).map(|(a, b)| f64::from(a - b))) / size;
                worst = worst.max(error);
                assert!(
                    error <= 1e-5,
                    "{wanted:?}, {features}: {} differs by {error:.2e}",
                    parameter.name
                );
            }
            println!("{wanted:?}, {features}: with a frozen head gradients differ by at most {worst:.2e}");
        }
    }
}

/// Catches: a backward pass that overwrites what other micro-batches accumulated.
#[test]
fn backward_adds_to_the_gradients() {
    let decoder = random_decoder("tied");
    let batch = ragged(&decoder);
    let (whole, coefficients) = gradients_of(&decoder, &batch, NLL);
    let mut parts = Gradients::zeros(&decoder);
    for range in [0..2, 2..3, 3..6] {
        let (_, tape) = trunk::forward(&decoder, &batch[range.clone()], NLL).unwrap();
        let gradient = Outputs {
            logprobs: coefficients.logprobs[range].to_vec(),
            ..Outputs::default()
        };
        trunk::backward(&decoder, tape, &gradient, &mut parts).unwrap();
    }
    for ((whole, part), parameter) in whole.0.iter().zip(&parts.0).zip(&decoder.parameters) {
        let size = norm(whole.iter().copied().map(f64::from));
        let error = norm(whole.iter().zip(part).map(|(a, b)| f64::from(a - b))) / size;
        assert!(error <= 1e-5, "{} differs by {error:.2e}", parameter.name);
    }
}

/// Catches: shards cut so that a sequence is lost, and results that depend on the threads.
#[test]
fn gradients_are_the_same_bytes_every_time() {
    let decoder = random_decoder("untied");
    let batch = ragged(&decoder);
    let run = || gradients_of(&decoder, &batch, ALL_WANTED[1]).0.0;
    let bits = |gradients: Vec<Vec<f32>>| gradients.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let first = bits(run());
    assert!(first.iter().collect::<HashSet<_>>().len() > 1000);
    for _ in 0..3 {
        assert!(bits(run()) == first);
    }
}

/// Catches: rows of a shared prompt that attend to a completion, completions that see one another, a first token
/// predicted from the wrong row, a gradient of the prompt that counts one completion alone, outputs given to another
/// sequence.
#[test]
fn a_shared_prompt_changes_nothing() {
    for features in ["tied", "untied", "gemma2", "gemma3"] {
        let decoder = random_decoder(features);
        let sequence = |prompt: &[u32], completion: &[u32]| Sequence {
            tokens: [prompt, completion].concat(),
            completion: prompt.len(),
        };
        let (first, second) = ([3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8]);
        let batch = [
            sequence(&first, &[11, 12, 13]),
            sequence(&second, &[9]),
            sequence(&first, &[14]),
            sequence(&first, &[]),
            sequence(&second, &[3, 3, 3, 3, 3]),
            sequence(&first, &[11, 12, 15, 16]),
        ];
        for wanted in ALL_WANTED {
            let (together, coefficients) = gradients_of(&decoder, &batch, wanted);
            let (all, _) = trunk::forward(&decoder, &batch, wanted).unwrap();
            let mut alone = Gradients::zeros(&decoder);
            for (index, sequence) in batch.iter().enumerate() {
                let (outputs, tape) = trunk::forward(&decoder, std::slice::from_ref(sequence), wanted).unwrap();
                for (one, all) in [(&outputs.logprobs, &all.logprobs), (&outputs.hidden, &all.hidden)] {
                    let Some(one) = one.first() else { continue };
                    assert_eq!(one.len(), all[index].len());
                    for (one, all) in one.iter().zip(&all[index]) {
                        assert!(
                            (one - all).abs() <= 1e-4,
                            "{features}, {index}: {one} alone, {all} together"
                        );
                    }
                }
                let pick = |rows: &[Vec<f32>]| rows.get(index..=index).unwrap_or_default().to_vec();
                let gradient = Outputs {
                    logprobs: pick(&coefficients.logprobs),
                    hidden: pick(&coefficients.hidden),
                    ..Outputs::default()
                };
                trunk::backward(&decoder, tape, &gradient, &mut alone).unwrap();
            }
            for ((together, alone), parameter) in together.0.iter().zip(&alone.0).zip(&decoder.parameters) {
                let size = norm(alone.iter().copied().map(f64::from));
                let error = norm(together.iter().zip(alone).map(|(a, b)| f64::from(a - b)));
                assert!(
                    error <= 1e-5 * size,
                    "{features}, {}: {error:.1e} of {size:.1e}",
                    parameter.name
                );
            }
        }
    }
}

/// Catches: a recomputed layer that differs from the first time.
#[test]
fn recomputation_changes_no_bit() {
    for features in ["tied", "gemma2", "gemma3"] {
        let mut decoder = random_decoder(features);
        let batch = ragged(&decoder);
        let (kept, _) = gradients_of(&decoder, &batch, ALL_WANTED[1]);
        decoder.training.recompute = true;
        let (again, _) = gradients_of(&decoder, &batch, ALL_WANTED[1]);
        assert!(kept.0 == again.0, "{features}");
    }
}

/// Catches: a product of mixed precision that reads an operand along the wrong axis: such an error is of the size of
/// the gradient, that of rounding to 8 bits is not.
#[test]
fn mixed_precision_is_near() {
    let mut decoder = random_decoder("untied");
    let batch = ragged(&decoder);
    let (exact, _) = gradients_of(&decoder, &batch, ALL_WANTED[1]);
    decoder.training.halves = true;
    let (rounded, _) = gradients_of(&decoder, &batch, ALL_WANTED[1]);
    let mut worst = 0f64;
    for ((exact, rounded), parameter) in exact.0.iter().zip(&rounded.0).zip(&decoder.parameters) {
        let size = norm(exact.iter().copied().map(f64::from));
        let error = norm(exact.iter().zip(rounded).map(|(a, b)| f64::from(a - b))) / size;
        worst = worst.max(error);
        assert!(error <= 0.1, "{} differs by {error:.1e}", parameter.name);
    }
    assert!(worst > 1e-4, "nothing was rounded");
    println!("mixed precision: gradients differ by at most {worst:.1e} of their norms");
}
