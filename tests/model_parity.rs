//! The decoder against transformers (`tests/golden`), against its slow twin, and against bad files.
//!
//! Each test says which mistake it catches. The largest differences are printed; see them with
//! `cargo test --test model_parity -- --nocapture`.

mod support;

use std::collections::HashSet;
use std::path::Path;

use bylaw::error::{Error, ErrorKind};
use bylaw::model::config::{DecoderConfig, RopeScaling};
use bylaw::model::cpu::Weights;
use bylaw::model::cpu::trunk::{self, Gradients, Outputs, Sequence, Wanted};
use bylaw::model::decoder::{Decoder, Weight, normal};
use bylaw::model::family;
use bylaw::model::files::{Model, load_decoder};
use bylaw::seed::Seed;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use support::slots::{Extension, Slots};
use support::twin::Twin;
use support::{CHECKPOINTS, Expected, golden, load, max_difference, norm};

/// transformers and bylaw in `f32`, on logits up to about 20.
const LOGITS: f32 = 1e-4;
const NLL: Wanted = Wanted::Logprobs { temperature: 1.0 };

// ---------------------------------------------------------------- inference

/// Logits of the residual streams `(N, hidden)`.
fn logits_of(weights: &Weights<'_>, stream: &[f32]) -> Vec<f32> {
    weights.logits(&weights.norm(stream, weights.decoder.layout.norm))
}

/// The largest difference between all logits of sequence `index` and the listed ones.
fn logits_difference(expected: &Expected, index: usize, logits: &[f32], vocab: usize) -> f32 {
    let listed = expected.positions[index].iter().zip(&expected.logits[index]);
    let differences: Vec<f32> = listed
        .map(|(position, row)| max_difference(&logits[position * vocab..][..vocab], row))
        .collect();
    max_difference(&differences, &vec![0.0; differences.len()])
}

/// Catches: a wrong norm epsilon, rotation layout, rope scaling, query group, bias, tied head or
/// shard; with several tokens a pass, a wrong causal mask.
#[test]
fn prefill_gives_the_logits_of_transformers() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let weights = Weights::serving(&decoder, 2).unwrap();
        for (index, tokens) in expected.input_ids.iter().enumerate() {
            let mut cache = Slots::new(&decoder, 1, tokens.len());
            let stream = cache.extend_all(&weights, &[Extension { slot: 0, tokens }]);
            let logits = logits_of(&weights, &stream);
            let difference = logits_difference(&expected, index, &logits, decoder.config.vocab);
            println!("{name}, prefill of {} tokens: {difference:.2e}", tokens.len());
            assert!(difference <= LOGITS, "{name}, sequence {index}: {difference}");
        }
    }
}

/// Catches: a cache that writes or reads at the wrong place, positions that restart, and a
/// single-query attention that differs from the general one. The slot is used a second time, so
/// `clear` is covered too.
#[test]
fn decoding_token_by_token_gives_the_logits_of_transformers() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let weights = Weights::serving(&decoder, 2).unwrap();
        let mut cache = Slots::new(&decoder, 1, 60);
        for (index, tokens) in expected.input_ids.iter().enumerate() {
            cache.clear(0);
            let mut logits = Vec::new();
            for token in tokens.chunks(1) {
                let extension = Extension { slot: 0, tokens: token };
                logits.extend(weights.logits(&cache.extend(&weights, &[extension])));
            }
            let difference = logits_difference(&expected, index, &logits, decoder.config.vocab);
            println!("{name}, {} tokens one by one: {difference:.2e}", tokens.len());
            assert!(difference <= LOGITS, "{name}, sequence {index}: {difference}");
        }
    }
}

/// Catches: slots that see each other, extensions of several lengths mixed up, slots that are not in
/// the order of the extensions, and a chunk of prompt that forgets what its slot already holds.
#[test]
fn ragged_slots_in_one_batch_give_the_logits_of_transformers() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let weights = Weights::serving(&decoder, 2).unwrap();
        let (width, vocab) = (decoder.config.hidden, decoder.config.vocab);
        let slots = [2, 0, 3];
        let mut cache = Slots::new(&decoder, 4, 64);
        let mut streams = vec![Vec::new(); expected.input_ids.len()];
        // A first pass of unequal parts, then single tokens beside chunks of seven.
        for round in 0.. {
            let mut extensions = Vec::new();
            let mut owners = Vec::new();
            for (index, tokens) in expected.input_ids.iter().enumerate() {
                let done = streams[index].len() / width;
                let chunk = match (round, index) {
                    (0, _) => [31, 2, 5][index],
                    (_, 0) => 7,
                    _ => 1,
                };
                let end = (done + chunk).min(tokens.len());
                if done < end {
                    owners.push((index, end - done));
                    extensions.push(Extension {
                        slot: slots[index],
                        tokens: &tokens[done..end],
                    });
                }
            }
            if extensions.is_empty() {
                break;
            }
            let all = cache.extend_all(&weights, &extensions);
            let mut rows = all.chunks_exact(width);
            for (index, count) in owners {
                rows.by_ref()
                    .take(count)
                    .for_each(|row| streams[index].extend_from_slice(row));
            }
            assert!(rows.next().is_none(), "{name}: more rows than tokens");
        }
        for (index, stream) in streams.iter().enumerate() {
            let difference = logits_difference(&expected, index, &logits_of(&weights, stream), vocab);
            println!("{name}, sequence {index} in a ragged batch: {difference:.2e}");
            assert!(difference <= LOGITS, "{name}, sequence {index}: {difference}");
        }
    }
}

/// Catches: reading only the layout of transformers 5, or only the older one.
#[test]
fn both_layouts_of_the_configuration_are_the_same_model() {
    for name in CHECKPOINTS {
        let read = |file: &str| family::parse(&std::fs::read_to_string(golden(name).join(file)).unwrap()).unwrap();
        assert_eq!(read("config-4x.json"), read("config.json"), "{name}");
    }
    let scaling = |name: &str| load(name).0.config.rope_scaling;
    assert_eq!(scaling("llama"), RopeScaling::None);
    assert!(matches!(scaling("llama3"), RopeScaling::Llama3 { factor: 8.0, .. }));
}

/// Catches: refusing the many published configurations whose rope scaling says its kind twice, as
/// transformers 4.43 and later saved it.
#[test]
fn rope_scaling_may_say_its_kind_twice() {
    let text = std::fs::read_to_string(golden("llama").join("config-4x.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["rope_scaling"] = serde_json::json!({ "factor": 2.0, "rope_type": "linear", "type": "linear" });
    let config = family::parse(&json.to_string()).unwrap();
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 2.0 });
}

// ---------------------------------------------------------------- log-probabilities

/// Catches: predictions shifted by one token, a wrong softmax denominator.
#[test]
fn logprobs_sum_to_those_of_transformers() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let (outputs, _) = trunk::forward(&decoder, &expected.sequences(), NLL).unwrap();
        for (logprobs, expected) in outputs.logprobs.iter().zip(&expected.logprob_sum) {
            let sum: f64 = logprobs.iter().copied().map(f64::from).sum();
            println!(
                "{name}, {} log-probs: {sum}, differs by {:.2e}",
                logprobs.len(),
                sum - expected
            );
            assert!(
                (sum - expected).abs() <= 1e-6 * expected.abs() + 1e-4,
                "{name}: {sum}, not {expected}"
            );
        }
    }
}

/// Catches: sequences of a batch that see each other, outputs handed to the wrong sequence, and a
/// split into shards that loses or reorders sequences.
#[test]
fn a_batch_gives_what_each_sequence_gives_alone() {
    let decoder = random_decoder(false);
    let batch = ragged(&decoder);
    for wanted in [NLL, Wanted::LogprobsAndHidden { temperature: 0.7 }, Wanted::LastHidden] {
        let (together, _) = trunk::forward(&decoder, &batch, wanted).unwrap();
        let mut alone = Outputs::default();
        for sequence in &batch {
            let (outputs, _) = trunk::forward(&decoder, std::slice::from_ref(sequence), wanted).unwrap();
            alone.logprobs.extend(outputs.logprobs);
            alone.hidden.extend(outputs.hidden);
        }
        for (together, alone) in [(&together.logprobs, &alone.logprobs), (&together.hidden, &alone.hidden)] {
            assert_eq!(together.len(), alone.len());
            for (together, alone) in together.iter().zip(alone) {
                assert!(max_difference(together, alone) <= 1e-5, "{wanted:?}");
            }
        }
    }
}

/// Catches: temperature applied to the log-probabilities instead of the logits, or multiplied.
#[test]
fn temperature_divides_the_logits() {
    let decoder = random_decoder(true);
    let twin = Twin::new(&decoder).unwrap();
    let batch = ragged(&decoder);
    for temperature in [0.7, 1.0, 1.9] {
        let wanted = Wanted::LogprobsAndHidden { temperature };
        let (outputs, _) = trunk::forward(&decoder, &batch, wanted).unwrap();
        for (index, sequence) in batch.iter().enumerate().filter(|(_, s)| s.completion_len() > 0) {
            let (logprobs, hidden) = twin.completion(sequence, f64::from(temperature)).unwrap();
            for (ours, twins) in [(&outputs.logprobs[index], logprobs), (&outputs.hidden[index], hidden)] {
                let twins: Vec<f64> = twins.flatten_all().unwrap().to_vec1().unwrap();
                let twins: Vec<f32> = twins.into_iter().map(|x| x as f32).collect();
                assert!(
                    max_difference(ours, &twins) <= 2e-5,
                    "sequence {index} at {temperature}"
                );
            }
        }
    }
}

// ---------------------------------------------------------------- gradients

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
            hidden: Vec::new(),
        };
        let mut gradients = Gradients::zeros(&decoder);
        trunk::backward(&decoder, tape, &mean_nll, &mut gradients).unwrap();
        assert_eq!(decoder.parameters.len(), expected.grad.len(), "{name}");
        let mut worst = 0f64;
        for (parameter, gradient) in decoder.parameters.iter().zip(&gradients.0) {
            let expected = &expected.grad[&parameter.name];
            let ours = norm(gradient.iter().copied().map(f64::from));
            assert!(ours > 0.0, "{name}: {} has no gradient", parameter.name);
            let mut errors = vec![(ours - expected.norm).abs() / expected.norm];
            for (index, value) in &expected.entries {
                errors.push((f64::from(gradient[*index]) - value).abs() / expected.norm);
            }
            for error in errors {
                worst = worst.max(error);
                assert!(
                    error <= 1e-4,
                    "{name}: {} differs by {error:.2e} of its norm",
                    parameter.name
                );
            }
        }
        println!("{name}: gradients differ by at most {worst:.2e} of their norms");
    }
}

/// Six query heads over two key/value heads, a query width unlike the hidden width, biases, and no
/// size that is a multiple of the vector width.
fn random_decoder(tied: bool) -> Decoder {
    let config = DecoderConfig {
        vocab: 37,
        hidden: 20,
        intermediate: 44,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        head_dim: 6,
        context: 320,
        rms_eps: 1e-2,
        rope_theta: 500.0,
        rope_scaling: RopeScaling::None,
        tied,
        qkv_bias: true,
    };
    let mut decoder = Decoder::random(config, Seed::new(1)).unwrap();
    for parameter in &mut decoder.parameters {
        let noise = normal(parameter.weight.elem_count(), 0.3, Seed::new(2).child(&parameter.name));
        let middle = if parameter.name.contains("norm") { 1.0 } else { 0.0 };
        let values: Vec<f32> = noise.into_iter().map(|x| middle + x).collect();
        let shape = parameter.weight.dense().unwrap().shape().clone();
        parameter.weight = Weight::Dense(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    decoder
}

/// Sequences of unequal lengths and prompts: one without a completion, one of a single token, and one
/// whose completion is longer than a chunk of the output projection.
fn ragged(decoder: &Decoder) -> Vec<Sequence> {
    let shapes = [(300, 2), (7, 3), (5, 5), (1, 1), (2, 1), (33, 20)];
    let mut random = Seed::new(3).rng();
    shapes
        .into_iter()
        .map(|(length, completion)| Sequence {
            tokens: (0..length)
                .map(|_| rand::Rng::random_range(&mut random, 0..decoder.config.vocab as u32))
                .collect(),
            completion,
        })
        .collect()
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
    }
}

/// The functional, accumulated in `f64`.
fn functional(outputs: &Outputs, coefficients: &Outputs) -> f64 {
    let sum = |values: &[Vec<f32>], coefficients: &[Vec<f32>]| -> f64 {
        let pairs = values.iter().flatten().zip(coefficients.iter().flatten());
        pairs.map(|(x, c)| f64::from(*x) * f64::from(*c)).sum()
    };
    sum(&outputs.logprobs, &coefficients.logprobs) + sum(&outputs.hidden, &coefficients.hidden)
}

fn twin_functional(twin: &Twin, batch: &[Sequence], wanted: Wanted, coefficients: &Outputs) -> Tensor {
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

fn gradients_of(decoder: &Decoder, batch: &[Sequence], wanted: Wanted) -> (Gradients, Outputs) {
    let (outputs, tape) = trunk::forward(decoder, batch, wanted).unwrap();
    let coefficients = coefficients(&outputs);
    let mut gradients = Gradients::zeros(decoder);
    trunk::backward(decoder, tape, &coefficients, &mut gradients).unwrap();
    (gradients, coefficients)
}

const ALL_WANTED: [Wanted; 4] = [
    Wanted::Logprobs { temperature: 0.7 },
    Wanted::LogprobsAndHidden { temperature: 1.0 },
    Wanted::LogprobsAndHidden { temperature: 0.7 },
    Wanted::LastHidden,
];

/// Catches: a wrong or missing term of the backward pass for any output the trunk can give, with any
/// gradient: temperature, hidden states, chunks of the output projection, query groups, ragged
/// lengths, sequences of one token and without completion.
#[test]
fn gradients_are_those_of_the_twin() {
    for tied in [false, true] {
        let decoder = random_decoder(tied);
        let twin = Twin::new(&decoder).unwrap();
        let batch = ragged(&decoder);
        for wanted in ALL_WANTED {
            let (gradients, coefficients) = gradients_of(&decoder, &batch, wanted);
            let scalar = twin_functional(&twin, &batch, wanted, &coefficients);
            let expected = twin.gradients(&scalar).unwrap();
            let mut worst = 0f64;
            for ((parameter, gradient), expected) in decoder.parameters.iter().zip(&gradients.0).zip(&expected) {
                let name = &parameter.name;
                let size = norm(expected.iter().copied());
                if wanted == Wanted::LastHidden && name == "lm_head.weight" {
                    assert!(
                        gradient.iter().all(|g| *g == 0.0),
                        "{name} has no part in a hidden state"
                    );
                    continue;
                }
                assert!(size > 0.0, "the twin of {name} has no gradient");
                let error = norm(
                    gradient
                        .iter()
                        .zip(expected)
                        .map(|(ours, twins)| f64::from(*ours) - twins),
                ) / size;
                worst = worst.max(error);
                assert!(
                    error <= 2e-4,
                    "{wanted:?}, tied {tied}: {name} differs by {error:.2e} of its norm"
                );
            }
            println!("{wanted:?}, tied {tied}: gradients differ from the twin's by at most {worst:.2e}");
        }
    }
}

/// Catches: a forward pass and a backward pass that agree with the twin's mistakes. Central
/// differences of the trunk's own forward pass, at each parameter's largest gradient and two others.
#[test]
fn gradients_are_finite_differences() {
    let decoder = random_decoder(false);
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
                "{name}[{entry}]: gradient {}, difference {difference}, norm {size}",
                gradient[entry]
            );
        }
    }
    println!("gradients differ from finite differences by at most {worst:.2e} of their norms");
}

/// Catches: a backward pass that overwrites what other micro-batches accumulated.
#[test]
fn backward_adds_to_the_gradients() {
    let decoder = random_decoder(true);
    let batch = ragged(&decoder);
    let (whole, coefficients) = gradients_of(&decoder, &batch, NLL);
    let mut parts = Gradients::zeros(&decoder);
    for range in [0..2, 2..3, 3..6] {
        let (_, tape) = trunk::forward(&decoder, &batch[range.clone()], NLL).unwrap();
        let gradient = Outputs {
            logprobs: coefficients.logprobs[range].to_vec(),
            hidden: Vec::new(),
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
    let decoder = random_decoder(false);
    let batch = ragged(&decoder);
    let run = || gradients_of(&decoder, &batch, ALL_WANTED[1]).0.0;
    let bits = |gradients: Vec<Vec<f32>>| gradients.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let first = bits(run());
    assert!(first.iter().collect::<HashSet<_>>().len() > 1000);
    for _ in 0..3 {
        assert!(bits(run()) == first);
    }
}

// ---------------------------------------------------------------- files

/// A writable copy of a reference checkpoint, without the expectations.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap();
        if file != "expected.json" {
            std::fs::copy(&path, dir.path().join(file)).unwrap();
        }
    }
    dir
}

fn load_model(dir: &Path) -> bylaw::error::Result<Model> {
    Model::load(dir.to_str().unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Catches: weights rounded or renamed on the way to disk, a configuration that loads as another
/// model, a tokenizer left behind. `BYLAW_KEEP_SAVED=DIR` keeps what was saved, for
/// `scripts/compare/load_in_transformers.py`.
#[test]
fn a_saved_model_is_the_same_model() {
    let tokenizer = load_model(&golden("llama")).unwrap().tokenizer;
    for name in ["llama", "llama3", "qwen2", "qwen2-sharded"] {
        let model = Model {
            decoder: load(name).0,
            tokenizer: tokenizer.clone(),
            reference: name.into(),
            sha256: String::new(),
        };
        let temporary = tempfile::tempdir().unwrap();
        let root = std::env::var_os("BYLAW_KEEP_SAVED").map_or(temporary.path().to_owned(), Into::into);
        let dir = root.join(name);
        model.save(&dir, DType::F32).unwrap();
        let again = load_decoder(&dir).unwrap();
        assert_eq!(again.config, model.decoder.config, "{name}");
        for (saved, again) in model.decoder.parameters.iter().zip(&again.parameters) {
            assert_eq!(saved.name, again.name);
            assert!(
                values(saved.weight.dense().unwrap()) == values(again.weight.dense().unwrap()),
                "{name}: {}",
                saved.name
            );
        }
        if name == "llama" {
            let again = load_model(&dir).unwrap();
            assert_eq!(again.tokenizer.special(), tokenizer.special());
            assert_eq!(again.tokenizer.files().tokenizer, tokenizer.files().tokenizer);
            model.save(&dir, DType::F32).unwrap();
            assert_eq!(
                load_model(&dir).unwrap().sha256,
                again.sha256,
                "saving twice gives other bytes"
            );
        }
        // Half precision loses digits, not tensors.
        for (dtype, relative) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 1024.0)] {
            let half = temporary.path().join("half");
            model.save(&half, dtype).unwrap();
            let again = load_decoder(&half).unwrap();
            for (saved, again) in model.decoder.parameters.iter().zip(&again.parameters) {
                for (a, b) in values(saved.weight.dense().unwrap())
                    .into_iter()
                    .zip(values(again.weight.dense().unwrap()))
                {
                    assert!((a - b).abs() <= a.abs() * relative + 1e-6, "{dtype:?}: {a} became {b}");
                }
            }
        }
    }
}

/// Catches: special tokens recognised in a user's text, a BOS lost or doubled, text that does not
/// come back.
#[test]
fn the_tokenizer_agrees_with_transformers() {
    let tokenizer = load_model(&golden("llama")).unwrap().tokenizer;
    let text = std::fs::read_to_string(golden("llama").join("encodings.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = json["encodings"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens, ids("ids_split_special_tokens"), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        if !text.contains("<s>") && !text.contains("</s>") {
            assert_eq!(
                tokenizer.encode_prompt(text).unwrap(),
                ids("ids_with_special_tokens"),
                "{text:?}"
            );
        }
    }
}

/// A bad checkpoint is the user's input, and the report names each of `mentions`.
fn assert_input_error(result: Result<(), Error>, mentions: &[&str]) {
    let error = result.expect_err(&format!("accepted; expected an error about {mentions:?}"));
    let report = format!("{error}\n{}", error.help_text().unwrap_or_default());
    assert_eq!(error.kind(), ErrorKind::Input, "{report}");
    for mention in mentions {
        assert!(report.contains(mention), "`{mention}` is not in:\n{report}");
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Catches: a panic, or a model of zeros, from a copy that stopped half-way.
#[test]
fn truncated_weights_are_refused() {
    let dir = copy_of("llama");
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in [
        0,
        1,
        7,
        8,
        9,
        header / 2,
        header,
        header + 1,
        whole.len() / 2,
        whole.len() - 4,
        whole.len() - 1,
    ] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors", "truncated"]);
    }
    // A header that promises more than any file has, and one that is no JSON.
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &lying).unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors"]);
    let mut broken = whole;
    broken[8] = b'?';
    std::fs::write(&path, &broken).unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors"]);
}

/// Catches: weights of another model taken as they come, and a panic on sizes that do not fit.
#[test]
fn a_wrong_shape_is_refused() {
    for (key, value, tensor) in [
        ("hidden_size", 40, "model.embed_tokens.weight"),
        ("vocab_size", 289, "model.embed_tokens.weight"),
        ("intermediate_size", 49, "model.layers.0.mlp.gate_proj.weight"),
        ("num_key_value_heads", 1, "model.layers.0.self_attn.k_proj.weight"),
    ] {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), |json| {
            json["head_dim"] = 8.into();
            json[key] = value.into();
        });
        assert_input_error(
            load_model(dir.path()).map(drop),
            &["model.safetensors", tensor, "shape"],
        );
    }
    for (key, value) in [
        ("num_attention_heads", 0u64),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", 0),
        ("hidden_size", 1u64 << 40),
        ("max_position_embeddings", 1u64 << 40),
    ] {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), |json| json[key] = value.into());
        assert_input_error(load_model(dir.path()).map(drop), &["config.json"]);
    }
}

/// Writes the tensors of `path` again, without one.
fn drop_tensor(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = file.tensors().into_iter().filter(|(kept, _)| kept != name).collect();
    assert_eq!(kept.len() + 1, file.len(), "{name} was not there");
    let bytes = safetensors::serialize(kept, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Catches: a random or zero weight in place of one that is not there, a Qwen2 run without biases.
#[test]
fn a_missing_tensor_is_refused() {
    for (checkpoint, tensor) in [
        ("llama", "model.layers.1.mlp.down_proj.weight"),
        ("llama", "lm_head.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
    ] {
        let dir = copy_of(checkpoint);
        drop_tensor(&dir.path().join("model.safetensors"), tensor);
        assert_input_error(
            load_decoder(dir.path()).map(drop),
            &["model.safetensors", tensor, "missing"],
        );
    }
    let dir = copy_of("llama");
    edit_json(&dir.path().join("config.json"), |json| {
        json["num_hidden_layers"] = 3.into();
    });
    assert_input_error(
        load_model(dir.path()).map(drop),
        &["model.layers.2.input_layernorm.weight", "missing"],
    );
}

/// Catches: an index followed out of its directory, a shard skipped.
#[test]
fn bad_shards_are_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    const SHARD: &str = "model-00002-of-00004.safetensors";
    let refuse = |damage: &dyn Fn(&Path), mentions: &[&str]| {
        let dir = copy_of("qwen2-sharded");
        damage(dir.path());
        assert_input_error(load_decoder(dir.path()).map(drop), mentions);
    };
    refuse(
        &|dir| std::fs::remove_file(dir.join(SHARD)).unwrap(),
        &[SHARD, "missing"],
    );
    refuse(&|dir| std::fs::write(dir.join(SHARD), b"").unwrap(), &[SHARD]);
    refuse(&|dir| std::fs::write(dir.join(INDEX), b"{").unwrap(), &[INDEX]);
    refuse(
        &|dir| std::fs::write(dir.join(INDEX), b"{}").unwrap(),
        &[INDEX, "weight_map"],
    );
    refuse(
        &|dir| std::fs::write(dir.join(INDEX), br#"{"weight_map": {}}"#).unwrap(),
        &[INDEX],
    );
    refuse(
        &|dir| drop_tensor(&dir.join(SHARD), "model.layers.0.post_attention_layernorm.weight"),
        &[INDEX, "model.layers.0.post_attention_layernorm.weight"],
    );
    let outside = golden("qwen2").join("model.safetensors");
    for name in ["../x", "..", "a/b", "/etc/passwd", "", ".", outside.to_str().unwrap()] {
        let name_it = |dir: &Path| {
            edit_json(&dir.join(INDEX), |json| {
                json["weight_map"]["model.norm.weight"] = name.into();
            });
        };
        refuse(&name_it, &[INDEX, name]);
    }
}

/// Catches: token ids without a row in the embedding, which would panic in the middle of a run.
#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let dir = copy_of("llama3");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("llama").join(file), dir.path().join(file)).unwrap();
    }
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer", "288", "80"]);
    // As many tokens as rows, but one of them has an id beyond the last row.
    let dir = copy_of("llama");
    let path = dir.path().join("tokenizer.json");
    edit_json(&path, |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.get_mut("!").unwrap();
        *id = 5000.into();
    });
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer", "5000"]);
}

/// Catches: a model computed with features that it does not have, and a pickle opened.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refuse = |edit: &dyn Fn(&mut serde_json::Value), mentions: &[&str]| {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), edit);
        assert_input_error(load_model(dir.path()).map(drop), mentions);
    };
    refuse(
        &|json| json["architectures"] = serde_json::json!(["GPT2LMHeadModel"]),
        &["GPT2LMHeadModel", "config.json"],
    );
    refuse(
        &|json| json["architectures"] = serde_json::json!([]),
        &["architecture", "LlamaForCausalLM"],
    );
    refuse(&|json| json["mlp_bias"] = true.into(), &["mlp_bias"]);
    refuse(&|json| json["attention_bias"] = true.into(), &["attention_bias"]);
    refuse(&|json| json["hidden_act"] = "gelu".into(), &["gelu"]);
    refuse(&|json| json["rope_parameters"]["rope_type"] = "yarn".into(), &["yarn"]);
    refuse(
        &|json| json["rope_parameters"]["rope_type"] = "llama3".into(),
        &["llama3", "factor"],
    );
    refuse(&|json| json["hidden_size"] = "big".into(), &["config.json"]);

    let dir = copy_of("llama");
    std::fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("pytorch_model.bin"),
    )
    .unwrap();
    assert_input_error(
        load_model(dir.path()).map(drop),
        &["model.safetensors", "pytorch_model.bin is a pickle"],
    );
    let dir = copy_of("llama");
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer_config.json"]);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let dir = copy_of("llama");
        std::fs::remove_file(dir.path().join(file)).unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &[file]);
        std::fs::write(dir.path().join(file), b"\xff\xfe not text").unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &[file]);
    }
    assert_input_error(Model::load("/nowhere/at/all").map(drop), &["/nowhere/at/all"]);
}
