//! The engine on this machine: a row's result depends on the row alone, and a completion ends where
//! it should.

#[path = "support/small.rs"]
mod small;

use std::sync::Arc;

use bylaw::engine::local::{Job, LocalEngine, draw_all, score_all};
use bylaw::engine::{Engine, GenerateRequest, Generation, Refusal, Sampling, ScoreRequest};
use bylaw::model::cpu::cache::KvCache;
use bylaw::model::cpu::trunk::{self, Sequence, Wanted};
use bylaw::prompt::Request;
use bylaw::record::{FinishReason, Message};
use bylaw::seed::Seed;
use candle_core::DType;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

const SCORES: f32 = 1e-4;

fn engine() -> LocalEngine {
    LocalEngine::new(Arc::new(small::model())).unwrap()
}

fn request(prompt: &str, temperature: f32, max_new_tokens: usize, seed: u64) -> GenerateRequest {
    GenerateRequest {
        prompt: Request::Text(prompt.into()),
        sampling: Sampling {
            temperature,
            max_new_tokens,
            ..Sampling::default()
        },
        stop: Vec::new(),
        seed: Seed::new(seed),
    }
}

fn generate(engine: &LocalEngine, requests: &[GenerateRequest]) -> Vec<Result<Generation, Refusal>> {
    let generated = engine.generate(requests).unwrap();
    assert_eq!(generated.len(), requests.len());
    generated
}

fn one(engine: &LocalEngine, request: &GenerateRequest) -> Generation {
    generate(engine, std::slice::from_ref(request)).remove(0).unwrap()
}

/// Prompts of many lengths, more than one worker's slots hold.
fn prompts(count: usize) -> Vec<String> {
    let words = [
        "The response",
        " is that",
        " harmful",
        " to the man,",
        " and a well",
        " again.",
    ];
    (0..count)
        .map(|index| {
            (0..=index % 9)
                .map(|word| words[(index + word) % words.len()])
                .collect()
        })
        .collect()
}

/// The same.
fn assert_same(one: &Generation, other: &Generation, what: &str) {
    assert_eq!(one.text, other.text, "{what}");
    assert_eq!(
        (one.tokens, one.prompt_tokens),
        (other.tokens, other.prompt_tokens),
        "{what}"
    );
    assert_eq!(one.finish_reason, other.finish_reason, "{what}");
    assert!(
        (one.logprob - other.logprob).abs() <= SCORES * one.logprob.abs().max(1.0),
        "{what}"
    );
}

// ---------------------------------------------------------------- alone and together

/// Catches: anything by which a row's result could depend on its company: 200 requests of mixed length,
/// settings and order, alone, together, in other orders, in small batches that find the prefixes of
/// earlier ones in the cache, and on other threads. The same to the bit, log-probabilities included.
#[test]
fn two_hundred_requests_do_not_depend_on_their_company() {
    let mut rng = Seed::new(11).rng();
    let requests: Vec<GenerateRequest> = prompts(200)
        .into_iter()
        .enumerate()
        .map(|(index, prompt)| {
            let mut request = request(
                &prompt,
                [0.0, 0.7, 1.0, 1.3][index % 4],
                rng.random_range(1..40),
                index as u64,
            );
            request.sampling.top_k = [0, 0, 5, 50][rng.random_range(0..4)];
            request.sampling.top_p = [1.0, 0.9, 0.5][rng.random_range(0..3)];
            request.sampling.min_p = [0.0, 0.0, 0.1][rng.random_range(0..3)];
            request.sampling.repetition_penalty = [1.0, 1.0, 1.2][rng.random_range(0..3)];
            if rng.random_bool(0.3) {
                request.stop = vec!["the".into(), ". ".into()];
            }
            request
        })
        .collect();
    let together = generate(&engine(), &requests);
    for _ in 0..2 {
        assert_eq!(generate(&engine(), &requests), together, "the same again");
    }
    let alone = engine();
    for (index, asked) in requests.iter().enumerate() {
        let fresh = if index % 20 == 0 {
            one(&engine(), asked)
        } else {
            one(&alone, asked)
        };
        assert_eq!(&Ok(fresh), &together[index], "request {index} alone");
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.shuffle(&mut rng);
    for size in [3, 17, 64] {
        let engine = engine();
        for part in order.chunks(size) {
            let asked: Vec<GenerateRequest> = part.iter().map(|index| requests[*index].clone()).collect();
            for (index, generated) in part.iter().zip(generate(&engine, &asked)) {
                assert_eq!(generated, together[*index], "request {index} in a batch of {size}");
            }
        }
    }
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(
        single.install(|| generate(&engine(), &requests)),
        together,
        "one thread"
    );
}

/// Catches: rows that see each other's cache, a slot taken over with the last row's keys, positions
/// that go on from another row, results handed to the wrong request.
#[test]
fn greedy_rows_are_the_same_in_a_batch_and_alone() {
    let engine = engine();
    let requests: Vec<GenerateRequest> = prompts(150)
        .iter()
        .enumerate()
        .map(|(index, prompt)| request(prompt, 0.0, 3 + index % 14, 0))
        .collect();
    let together = generate(&engine, &requests);
    for (index, asked) in requests.iter().enumerate().step_by(7) {
        let alone = one(&engine, asked);
        assert_same(together[index].as_ref().unwrap(), &alone, &format!("row {index}"));
    }
}

/// Catches: a cache that grows beyond its budget, rows that are lost or wait for ever when it is full, a
/// row that would never fit and stops the others, blocks given away while they are read.
#[test]
fn a_small_cache_serves_the_same_rows() {
    let model = Arc::new(small::model());
    let block = KvCache::block_bytes(&model.decoder.config);
    let requests: Vec<GenerateRequest> = prompts(80)
        .iter()
        .enumerate()
        .map(|(index, prompt)| request(prompt, 1.0, 1 + index % 50, index as u64))
        .collect();
    let roomy = generate(&engine(), &requests);
    for blocks in [4, 7, 30] {
        let engine = LocalEngine::with_cache(model.clone(), blocks * block).unwrap();
        for (index, (here, there)) in generate(&engine, &requests).iter().zip(&roomy).enumerate() {
            assert_eq!(here, there, "row {index} of {blocks} blocks");
        }
    }
    let tight = LocalEngine::with_cache(model, block).unwrap();
    let here = generate(&tight, &requests);
    let refused = here.iter().filter_map(|row| row.as_ref().err());
    for Refusal(reason) in refused.clone() {
        assert!(reason.ends_with("the key/value cache holds 32"), "{reason}");
    }
    assert!((1..80).contains(&refused.count()));
    for (here, there) in here.iter().zip(&roomy).filter(|(here, _)| here.is_ok()) {
        assert_eq!(here, there);
    }
}

/// Catches: a kernel for half precision whose sums follow the batch, weights read in the wrong order, or
/// a type that is silently computed in another.
#[test]
fn half_precision_is_near_and_does_not_depend_on_company() {
    let texts = prompts(60);
    let scored = |engine: &LocalEngine| {
        let request = |text: &String| options(text, &[" the", " harmful", " again."]);
        let requests: Vec<ScoreRequest> = texts.iter().map(request).collect();
        let scores = engine.score(&requests).unwrap().into_iter().map(Result::unwrap);
        scores.flatten().collect::<Vec<f32>>()
    };
    let full = scored(&engine());
    for (dtype, tolerance) in [(DType::F16, 0.05), (DType::BF16, 0.4)] {
        let mut model = small::model();
        model.decoder = model.decoder.to_dtype(dtype).unwrap();
        let engine = LocalEngine::new(Arc::new(model)).unwrap();
        let half = scored(&engine);
        let worst = full.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < tolerance, "{dtype:?}: {worst}");
        let draw = |(seed, text): (usize, &String)| request(text, 0.8, 12, seed as u64);
        let requests: Vec<GenerateRequest> = texts.iter().enumerate().map(draw).collect();
        let together = generate(&engine, &requests);
        for index in [0, 7, 31, 59] {
            assert_eq!(Ok(one(&engine, &requests[index])), together[index], "{dtype:?}");
        }
    }
}

/// Catches: randomness shared between rows, so that a resumed or reordered run draws otherwise.
#[test]
fn a_seed_draws_the_same_wherever_its_row_stands() {
    let engine = engine();
    let requests: Vec<GenerateRequest> = prompts(90)
        .iter()
        .enumerate()
        .map(|(index, prompt)| request(prompt, 1.0, 4 + index % 11, index as u64))
        .collect();
    let forwards = generate(&engine, &requests);
    assert_eq!(generate(&engine, &requests), forwards, "the same run twice");
    let reversed: Vec<GenerateRequest> = requests.iter().rev().cloned().collect();
    let backwards = generate(&engine, &reversed);
    for (index, (one, other)) in forwards.iter().zip(backwards.iter().rev()).enumerate() {
        assert_same(one.as_ref().unwrap(), other.as_ref().unwrap(), &format!("row {index}"));
    }
    for index in [0, 41, 89] {
        let alone = one(&engine, &requests[index]);
        assert_same(forwards[index].as_ref().unwrap(), &alone, &format!("row {index} alone"));
    }
}

/// Catches: a seed that is not used, or used for the first token only.
#[test]
fn other_seeds_draw_otherwise() {
    let engine = engine();
    let requests: Vec<GenerateRequest> = (0..12).map(|seed| request("The man", 1.0, 12, seed)).collect();
    let texts: std::collections::HashSet<String> = generate(&engine, &requests)
        .into_iter()
        .map(|generated| generated.unwrap().text)
        .collect();
    assert!(texts.len() >= 11, "{texts:?}");
}

/// Catches: a log-probability at the sampling temperature, of the cut distribution, or one token off.
#[test]
fn the_log_probabilities_are_those_of_scoring() {
    let model = small::model();
    for temperature in [0.0, 0.7, 1.0] {
        let jobs: Vec<Job> = prompts(30)
            .iter()
            .enumerate()
            .map(|(index, prompt)| Job {
                prompt: model.tokenizer.encode_prompt(prompt).unwrap(),
                sampling: Sampling {
                    temperature,
                    top_k: 30,
                    max_new_tokens: 9,
                    ..Sampling::default()
                },
                stop: Vec::new(),
                seed: Seed::new(index as u64),
            })
            .collect();
        let drawings = draw_all(&model.decoder, &model.tokenizer, &jobs).unwrap();
        for (job, drawing) in jobs.iter().zip(drawings) {
            let sequence = Sequence {
                completion: job.prompt.len(),
                tokens: [job.prompt.clone(), drawing.tokens].concat(),
            };
            let wanted = Wanted::Logprobs { temperature: 1.0 };
            let scored = trunk::forward(&model.decoder, &[sequence], wanted).unwrap().0;
            assert_eq!(drawing.logprobs.len(), scored.logprobs[0].len());
            for (drawn, scored) in drawing.logprobs.iter().zip(&scored.logprobs[0]) {
                assert!(
                    (drawn - scored).abs() <= SCORES,
                    "{temperature}: {drawn}, scored {scored}"
                );
            }
        }
    }
}

// ---------------------------------------------------------------- where a completion ends

/// A sampled text to choose stop texts from.
fn drawn_text(engine: &LocalEngine, seed: u64) -> (GenerateRequest, Generation) {
    let asked = request("The response is that", 1.0, 40, seed);
    let drawn = one(engine, &asked);
    (asked, drawn)
}

/// Catches: a stop text that stays in the answer in whole or in part, text before it that is lost
/// because a token holds both, a stop text found in the prompt, a later stop text taken for the first.
#[test]
fn stop_texts_cut_exactly() {
    let engine = engine();
    let mut inside_a_token = 0;
    for seed in 0..30 {
        let (mut asked, free) = drawn_text(&engine, seed);
        let letters: Vec<(usize, char)> = free.text.char_indices().collect();
        for start in (1..letters.len().saturating_sub(4)).step_by(3) {
            let stop: String = letters[start..start + 3].iter().map(|(_, letter)| letter).collect();
            if stop.contains('\u{fffd}') || stop.trim() != stop {
                continue;
            }
            asked.stop = vec![format!("{stop}, never drawn"), stop.clone()];
            let cut = one(&engine, &asked);
            let expected = &free.text[..free.text.find(&stop).unwrap()];
            assert_eq!(cut.text, expected.trim(), "stop {stop:?} in {:?}", free.text);
            assert_eq!(cut.finish_reason, FinishReason::Stop);
            assert!(cut.tokens <= free.tokens);
            inside_a_token += usize::from(expected.ends_with(char::is_alphabetic) && !cut.text.is_empty());
        }
    }
    assert!(inside_a_token > 20, "only {inside_a_token} cases say anything");
}

/// Catches: one token too many or too few, `length` where a completion ended by itself, a completion
/// that runs over the context.
#[test]
fn the_token_limits_hold() {
    let engine = engine();
    let context = small::model().decoder.config.context as u32;
    let requests: Vec<GenerateRequest> = (0..40)
        .map(|index| request("The man and the", 1.0, 1 + index % 6, index as u64))
        .collect();
    for (asked, drawn) in requests.iter().zip(generate(&engine, &requests)) {
        let drawn = drawn.unwrap();
        let limit = asked.sampling.max_new_tokens as u32;
        match drawn.finish_reason {
            FinishReason::Length => assert_eq!(drawn.tokens, limit),
            FinishReason::Stop => assert!((1..=limit).contains(&drawn.tokens)),
        }
    }
    let drawn = generate(
        &engine,
        &(0..8)
            .map(|seed| request("The man", 1.0, 10_000, seed))
            .collect::<Vec<_>>(),
    );
    for drawn in drawn.into_iter().map(Result::unwrap) {
        match drawn.finish_reason {
            FinishReason::Length => assert_eq!(drawn.prompt_tokens + drawn.tokens, context),
            FinishReason::Stop => assert!(drawn.prompt_tokens + drawn.tokens <= context),
        }
    }
    assert_eq!(one(&engine, &request("The man", 1.0, 0, 1)).tokens, 0);
}

/// Catches: one row too long that fails the batch, is silently cut, or shifts the rows after it.
#[test]
fn a_prompt_longer_than_the_context_is_refused_alone() {
    let engine = engine();
    let long = "The response is that the man. ".repeat(40);
    let requests = [
        request("The man", 0.0, 5, 0),
        request(&long, 0.0, 5, 0),
        request("The response", 0.0, 5, 0),
    ];
    let generated = generate(&engine, &requests);
    let Err(Refusal(reason)) = &generated[1] else {
        panic!("accepted: {:?}", generated[1])
    };
    assert!(reason.contains("128"), "{reason}");
    for index in [0, 2] {
        assert_same(
            generated[index].as_ref().unwrap(),
            &one(&engine, &requests[index]),
            "a row beside it",
        );
    }
    let chat = GenerateRequest {
        prompt: Request::Chat {
            messages: vec![Message::user("hello")],
            prefix: String::new(),
        },
        ..requests[0].clone()
    };
    assert!(generate(&engine, &[chat])[0].is_err());
    assert!(engine.generate(&[]).unwrap().is_empty());
}

/// Catches: special tokens recognised in text that is data, so that a user's `</s>` ends a sequence.
#[test]
fn a_literal_end_of_sequence_is_text() {
    let model = small::model();
    let special = model.tokenizer.special();
    for text in ["</s>", "a</s>b", "<s>", "say </s></s> now", " </s>\n"] {
        let tokens = model.tokenizer.encode(text).unwrap();
        assert!(
            !tokens.contains(&special.eos) && !tokens.contains(&special.bos.unwrap()),
            "{text:?}"
        );
        assert_eq!(model.tokenizer.decode(&tokens).unwrap(), text);
        let prompt = model.tokenizer.encode_prompt(text).unwrap();
        assert_eq!((prompt[0], &prompt[1..]), (special.bos.unwrap(), &tokens[..]));
    }
    let engine = engine();
    let scored = engine
        .score(&[options("The man", &["</s>", "x"])])
        .unwrap()
        .remove(0)
        .unwrap();
    let sequence = Sequence {
        tokens: [model.tokenizer.encode_prompt("The man").unwrap(), vec![special.eos]].concat(),
        completion: model.tokenizer.encode_prompt("The man").unwrap().len(),
    };
    let ends = score_all(&model.decoder, &[sequence]).unwrap()[0];
    assert!((scored[0] - ends).abs() > 0.1, "four characters were scored as the end");
}

// ---------------------------------------------------------------- scores

fn options(prompt: &str, continuations: &[&str]) -> ScoreRequest {
    ScoreRequest {
        prompt: Request::Text(prompt.into()),
        continuations: continuations.iter().map(|text| (*text).to_owned()).collect(),
    }
}

/// Catches: scores that leak between rows of a packed batch or are handed to the wrong request.
#[test]
fn scores_are_the_same_in_a_batch_and_alone() {
    let engine = engine();
    let continuations = [" is", " the response is that", "."];
    let mut requests: Vec<ScoreRequest> = prompts(40)
        .iter()
        .map(|prompt| options(prompt, &continuations))
        .collect();
    requests.insert(17, options(&"The man. ".repeat(100), &continuations));
    let together = engine.score(&requests).unwrap();
    assert_eq!(together.len(), requests.len());
    for (index, asked) in requests.iter().enumerate() {
        let alone = engine.score(std::slice::from_ref(asked)).unwrap().remove(0);
        match (&together[index], alone) {
            (Ok(one), Ok(other)) => {
                assert_eq!(one.len(), 3);
                for (one, other) in one.iter().zip(&other) {
                    assert!((one - other).abs() <= SCORES, "row {index}: {one} and {other}");
                }
            }
            (Err(_), Err(_)) => assert_eq!(index, 17, "a row that fits was refused"),
            _ => panic!("row {index} is refused in one of the two"),
        }
    }
}

/// Catches: a border assumed after the prefix's own tokens, where the tokenizer joins prefix and
/// continuation: then options are scored by what the model never sees, and add up to more than 1.
#[test]
fn options_that_merge_with_the_prefix_are_comparable() {
    let model = small::model();
    let engine = LocalEngine::new(Arc::new(model.clone())).unwrap();
    let cases: [(&str, &[&str]); 3] = [
        ("The respon", &["se", "d", " ", "x"]),
        ("It is t", &["he man", "o a man", "hat", "all"]),
        ("The answer is: (", &["A", "B"]),
    ];
    let mut merged = 0;
    for (prefix, continuations) in cases {
        let own = model.tokenizer.encode_prompt(prefix).unwrap();
        let whole = |text: &str| model.tokenizer.encode_prompt(&format!("{prefix}{text}")).unwrap();
        merged += continuations
            .iter()
            .filter(|text| !whole(text).starts_with(&own))
            .count();
        let scores = engine
            .score(&[options(prefix, continuations)])
            .unwrap()
            .remove(0)
            .unwrap();
        let total: f32 = scores.iter().map(|score| score.exp()).sum();
        assert!(total <= 1.0 + 1e-5, "{prefix:?}: {scores:?} add up to {total}");
        assert!(scores.iter().all(|score| score.is_finite() && *score < 0.0));
        // Between any two options the odds are those of the whole texts.
        let sequences: Vec<Sequence> = continuations
            .iter()
            .map(|text| Sequence {
                tokens: whole(text),
                completion: 1,
            })
            .collect();
        let whole = score_all(&model.decoder, &sequences).unwrap();
        for index in 1..scores.len() {
            let (found, expected) = (scores[index] - scores[0], whole[index] - whole[0]);
            assert!(
                (found - expected).abs() < 1e-3,
                "{prefix:?} {index}: {found}, expected {expected}"
            );
        }
    }
    assert!(merged >= 2, "no option merges with its prefix: the test says nothing");
}
