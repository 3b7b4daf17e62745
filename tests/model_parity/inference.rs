//! Logits, log-probabilities and greedy text, with the cache and without.

use bylaw::model::cpu::Weights;
use bylaw::model::cpu::trunk::{self, Outputs, Wanted};
use serde::Deserialize;

use crate::NLL;
use crate::random::{FEATURES, ragged, random_decoder};
use crate::support::slots::{Extension, Slots};
use crate::support::twin::Twin;
use crate::support::{CHECKPOINTS, Expected, golden, load, max_difference};

/// transformers and bylaw in `f32`, on logits up to 11.
const LOGITS: f32 = 5e-5;

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

/// Catches: whatever tells itself only after many steps: a window that forgets a token too early or too
/// late, positions that drift, a cache that outgrows its place.
#[test]
fn greedy_text_is_that_of_transformers() {
    /// `greedy.json`; `scripts/golden/models.py` explains the keys.
    #[derive(Deserialize)]
    struct Greedy {
        prompts: Vec<Vec<u32>>,
        continuations: Vec<Vec<u32>>,
    }
    for name in CHECKPOINTS {
        let (decoder, _) = load(name);
        let text = std::fs::read_to_string(golden(name).join("greedy.json")).unwrap();
        let greedy: Greedy = serde_json::from_str(&text).unwrap();
        let weights = Weights::serving(&decoder, 2).unwrap();
        for (prompt, expected) in greedy.prompts.iter().zip(&greedy.continuations) {
            assert_eq!(expected.len(), 64);
            let mut cache = Slots::new(&decoder, 1, prompt.len() + expected.len());
            let (mut fed, mut text) = (prompt.clone(), Vec::new());
            for _ in expected {
                let extension = Extension { slot: 0, tokens: &fed };
                let logits = weights.logits(&cache.extend(&weights, &[extension]));
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                fed = vec![best.unwrap() as u32];
                text.extend_from_slice(&fed);
            }
            assert_eq!(&text, expected, "{name}, after {} tokens", prompt.len());
        }
    }
}

/// Catches: a pass cut into parts that loses a token, restarts a position or attends before all keys are
/// there. Prompts are cut in their middle, and with 16 threads several share a part.
#[test]
fn threads_change_no_bit() {
    for name in CHECKPOINTS {
        let (decoder, expected) = load(name);
        let prompts: Vec<&[u32]> = expected.input_ids.iter().map(Vec::as_slice).cycle().take(12).collect();
        let total: usize = prompts.iter().map(|tokens| tokens.len()).sum();
        assert!(total > 3 * 64, "{name}: {total} tokens make no three parts");
        let run = |threads| {
            let weights = Weights::serving(&decoder, threads).unwrap();
            let mut cache = Slots::new(&decoder, prompts.len(), 60);
            let extensions = prompts.iter().enumerate();
            let extensions: Vec<Extension<'_>> = extensions.map(|(slot, tokens)| Extension { slot, tokens }).collect();
            cache.extend_all(&weights, &extensions)
        };
        let alone = run(1);
        for threads in [2, 3, 5, 16] {
            let bits = |stream: &[f32]| stream.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let equal = bits(&run(threads)) == bits(&alone);
            assert!(equal, "{name} on {threads} threads");
        }
    }
}

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
    let decoder = random_decoder("untied");
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
    for (features, temperature) in FEATURES.iter().flat_map(|name| [0.7, 1.0, 1.9].map(|t| (name, t))) {
        let decoder = random_decoder(features);
        let twin = Twin::new(&decoder).unwrap();
        let batch = ragged(&decoder);
        let wanted = Wanted::LogprobsAndHidden { temperature };
        let (outputs, _) = trunk::forward(&decoder, &batch, wanted).unwrap();
        for (index, sequence) in batch.iter().enumerate().filter(|(_, s)| s.completion_len() > 0) {
            let (logprobs, hidden) = twin.completion(sequence, f64::from(temperature)).unwrap();
            for (ours, twins) in [(&outputs.logprobs[index], logprobs), (&outputs.hidden[index], hidden)] {
                let twins: Vec<f64> = twins.flatten_all().unwrap().to_vec1().unwrap();
                let twins: Vec<f32> = twins.into_iter().map(|x| x as f32).collect();
                assert!(
                    max_difference(ours, &twins) <= 2e-5,
                    "{features}, sequence {index} at {temperature}"
                );
            }
        }
    }
}
