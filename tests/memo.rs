//! An engine that remembers answers as the engine behind it would, to the bit, asks that one only what is new, and
//! loses nothing on disk but what was being written.

#[path = "support/small.rs"]
mod small;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bylaw::engine::local::LocalEngine;
use bylaw::engine::memo::{Memo, Recollection};
use bylaw::engine::recording::{Exchange, Recording, Said};
use bylaw::engine::scripted::ScriptedEngine;
use bylaw::engine::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, Sampling, ScoreRequest};
use bylaw::error::{ErrorKind, Result};
use bylaw::model::files::{Model, Precision};
use bylaw::prompt::{Request, Style};
use bylaw::record::{FinishReason, Message};
use bylaw::seed::Seed;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};

// ---------------------------------------------------------------- what the tests share

/// An engine whose answers are hashes of all that was asked, a fifth of them refusals; it lists what reaches it.
#[derive(Default)]
struct Oracle {
    name: &'static str,
    conditions: String,
    asked: Mutex<Vec<String>>,
}

impl Oracle {
    fn digest(&self, request: &impl std::fmt::Debug) -> [u8; 32] {
        let asked = format!("{request:?}");
        let digest = Sha256::digest(&asked).into();
        self.asked.lock().unwrap().push(asked);
        digest
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Any bits at all, so that NaNs, infinities and zeros of both signs are among the numbers.
fn number(digest: &[u8; 32], at: usize) -> f32 {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.0,
        f32::MIN_POSITIVE / 3.0,
    ];
    match digest[at] {
        kind @ 0..40 => special[usize::from(kind) % special.len()],
        _ => f32::from_le_bytes(digest[at..at + 4].try_into().unwrap()),
    }
}

impl Engine for Oracle {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        assert!(!requests.is_empty(), "asked for nothing");
        Ok(requests
            .iter()
            .map(|request| match self.digest(request) {
                digest if digest[0] % 5 == 0 => Err(Refusal(format!("no {}", digest[1]))),
                digest => Ok(Generation {
                    text: format!("\"{}\"\n\u{2028}é {:?}", digest[1], request.prompt),
                    tokens: digest[2].into(),
                    prompt_tokens: digest[3].into(),
                    logprob: number(&digest, 4),
                    finish_reason: [FinishReason::Stop, FinishReason::Length][usize::from(digest[9] % 2)],
                }),
            })
            .collect())
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        assert!(!requests.is_empty(), "asked for nothing");
        Ok(requests
            .iter()
            .map(|request| match self.digest(request) {
                digest if digest[0] % 5 == 0 => Err(Refusal(format!("no {}", digest[1]))),
                digest => Ok((0..request.continuations.len())
                    .map(|at| number(&digest, 4 + at))
                    .collect()),
            })
            .collect())
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(text.len() as u32)
    }

    fn style(&self) -> Style {
        Style::Chat
    }

    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            reference: self.name.into(),
            sha256: String::new(),
        }
    }

    fn conditions(&self) -> String {
        self.conditions.clone()
    }
}

fn text(prompt: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: Request::Text(prompt.into()),
        sampling: Sampling::default(),
        stop: vec!["\n".into()],
        seed: Seed::new(0),
    }
}

fn chat(messages: &[(&str, &str)], prefix: &str) -> Request {
    let message = |(role, content): &(&str, &str)| Message {
        role: (*role).into(),
        content: (*content).into(),
    };
    Request::Chat {
        messages: messages.iter().map(message).collect(),
        prefix: prefix.into(),
    }
}

fn score(prompt: &str, continuations: &[&str]) -> ScoreRequest {
    ScoreRequest {
        prompt: Request::Text(prompt.into()),
        continuations: continuations.iter().map(|text| (*text).to_owned()).collect(),
    }
}

/// All of an answer, its number in bits.
fn generated(answers: &[Result<Generation, Refusal>]) -> Vec<String> {
    let bits = |answer: &Result<Generation, Refusal>| match answer {
        Ok(answer) => format!(
            "{:?} {:x}",
            Generation {
                logprob: 0.0,
                ..answer.clone()
            },
            answer.logprob.to_bits()
        ),
        Err(refusal) => format!("{refusal:?}"),
    };
    answers.iter().map(bits).collect()
}

fn scored(answers: &[Result<Vec<f32>, Refusal>]) -> Vec<Result<Vec<u32>, Refusal>> {
    let bits = |answer: &Vec<f32>| answer.iter().map(|logprob| logprob.to_bits()).collect();
    answers
        .iter()
        .map(|answer| answer.as_ref().map(bits).map_err(Clone::clone))
        .collect()
}

fn told(asked: u64, remembered: u64) -> Recollection {
    Recollection { asked, remembered }
}

/// The files of answers in a directory.
fn memos(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

// ---------------------------------------------------------------- answers

/// Requests of few kinds, so that many are equal.
fn requests() -> impl Strategy<Value = Vec<(u8, u8, u8, bool)>> {
    proptest::collection::vec((0u8..4, 0u8..3, 0u8..2, any::<bool>()), 0..24)
}

fn request((prompt, seed, sampling, chatty): (u8, u8, u8, bool)) -> GenerateRequest {
    let mut request = text(&format!("prompt {prompt}"));
    if chatty {
        request.prompt = chat(
            &[("user", &format!("prompt {prompt}"))],
            ["", "The answer is ("][usize::from(sampling)],
        );
    }
    request.seed = Seed::new(seed.into());
    request.sampling.temperature = [1.0, 0.7][usize::from(sampling)];
    request
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Catches: an answer given to another request, a batch out of order, a question that is asked twice or in another
    /// order, a number that the disk changes, a refusal that is kept for ever or asked again within the process.
    #[test]
    fn a_memory_changes_no_answer(batches in proptest::collection::vec((requests(), any::<bool>()), 1..6)) {
        let dir = tempdir().unwrap();
        let (plain, behind) = (Oracle::default(), Arc::new(Oracle::default()));
        let passing = Memo::new(behind.clone());
        let mut kept = None;
        let (mut known, mut durable) = (BTreeSet::new(), BTreeSet::new());
        let (mut asked, mut all) = (0, 0);
        for (batch, reopen) in batches {
            if reopen {
                kept = None;
            }
            let on_disk = kept.get_or_insert_with(|| {
                known.clone_from(&durable);
                Memo::open(Arc::new(Oracle::default()), dir.path()).unwrap()
            });
            let generations: Vec<GenerateRequest> = batch.iter().copied().map(request).collect();
            let scores: Vec<ScoreRequest> = batch.iter().map(|(prompt, options, ..)| {
                score(&format!("prompt {prompt}"), &["A", "B", "C"][..usize::from(*options)])
            }).collect();
            behind.taken();
            let (expected, numbers) = match generations.is_empty() {
                true => (Vec::new(), Vec::new()),
                false => (plain.generate(&generations).unwrap(), plain.score(&scores).unwrap()),
            };
            let before = on_disk.recollection();
            for memo in [&passing, &*on_disk] {
                prop_assert_eq!(generated(&memo.generate(&generations).unwrap()), generated(&expected));
                prop_assert_eq!(scored(&memo.score(&scores).unwrap()), scored(&numbers));
            }
            // What is new, once each, in the order of the requests.
            let mut new = Vec::new();
            let ask = plain.taken();
            let whole: Vec<bool> = expected.iter().map(Result::is_ok).chain(numbers.iter().map(Result::is_ok)).collect();
            let mut fresh = 0;
            for (ask, whole) in ask.iter().zip(&whole) {
                if !new.contains(ask) {
                    new.push(ask.clone());
                }
                fresh += u64::from(known.insert(ask.clone()));
                if *whole {
                    durable.insert(ask.clone());
                }
            }
            let Recollection { asked: reached, .. } = on_disk.recollection();
            prop_assert_eq!(reached - before.asked, fresh);
            let taken = behind.taken();
            let mut in_order = new.iter();
            prop_assert!(taken.iter().all(|ask| in_order.any(|new| new == ask)), "{:?} of {:?}", taken, new);
            asked += taken.len() as u64;
            all += 2 * generations.len() as u64;
            prop_assert_eq!(passing.recollection(), told(asked, all - asked));
        }
    }
}

/// Catches: something that decides an answer and is left out of what a request is known by; texts that run together.
#[test]
fn whatever_decides_an_answer_is_asked_again() {
    type Change = fn(&mut GenerateRequest);
    let changes: [Change; 15] = [
        |request| request.seed = Seed::new(1),
        |request| request.sampling.temperature = 0.5,
        |request| request.sampling.top_k = 3,
        |request| request.sampling.top_p = 0.5,
        |request| request.sampling.min_p = 0.5,
        |request| request.sampling.repetition_penalty = 1.5,
        |request| request.sampling.max_new_tokens = 3,
        |request| request.stop = vec!["\n".into(), "x".into()],
        |request| request.stop = vec!["\nx".into()],
        |request| request.stop.clear(),
        |request| request.prompt = Request::Text("prompt ".into()),
        |request| request.prompt = chat(&[("user", "prompt")], ""),
        |request| request.prompt = chat(&[("user", "prompt")], "The"),
        |request| request.prompt = chat(&[("system", "prompt")], ""),
        |request| request.prompt = chat(&[("user", "pro"), ("user", "mpt")], ""),
    ];
    let engine = Arc::new(Oracle::default());
    let memo = Memo::new(engine.clone());
    let mut requests = vec![text("prompt")];
    for change in changes {
        let mut request = text("prompt");
        change(&mut request);
        requests.push(request);
    }
    memo.generate(&requests).unwrap();
    assert_eq!(memo.recollection(), told(16, 0));
    memo.generate(&requests).unwrap();
    assert_eq!(memo.recollection(), told(16, 16));
    let scores = [
        score("prompt", &["A", "B"]),
        score("prompt", &["B", "A"]),
        score("prompt", &["AB"]),
        score("prompt", &["A", "B", ""]),
        score("prompt", &[]),
        score("promptA", &["B"]),
    ];
    memo.score(&scores).unwrap();
    assert_eq!(memo.recollection(), told(22, 16));
    assert_eq!(engine.taken().len(), 22);
}

/// Catches: answers of one model, or under one number format, given for another's.
#[test]
fn models_and_conditions_do_not_share() {
    let dir = tempdir().unwrap();
    let engine = |name, conditions: &str| Oracle {
        name,
        conditions: conditions.into(),
        ..Oracle::default()
    };
    let others = [("a", ""), ("b", ""), ("a", "bf16"), ("", "a")];
    for (name, conditions) in others {
        let memo = Memo::open(Arc::new(engine(name, conditions)), dir.path()).unwrap();
        memo.score(&[score("prompt", &["A"])]).unwrap();
        assert_eq!(memo.recollection(), told(1, 0), "{name} {conditions}");
    }
    assert_eq!(memos(dir.path()).len(), others.len());
    let tiny = |precision| LocalEngine::new(Arc::new(Model::load_in("builtin:tiny", precision).unwrap())).unwrap();
    let (full, half) = (tiny(Precision::Full), tiny(Precision::As(candle_core::DType::BF16)));
    assert_eq!(full.identity(), half.identity());
    assert_ne!(full.conditions(), half.conditions());
    assert!(
        full.conditions().contains("f32") && !full.conditions().contains("bf16,"),
        "{}",
        full.conditions()
    );
}

/// Catches: an answer told twice or not at all where it is streamed; one that a batch does not know afterwards.
#[test]
fn what_was_streamed_is_remembered() {
    let memo = Memo::new(Arc::new(Oracle::default()));
    let request = (0..9)
        .map(|index| text(&format!("{index}")))
        .find(|request| Oracle::default().generate(std::slice::from_ref(request)).unwrap()[0].is_ok());
    let request = request.unwrap();
    let heard = Mutex::new(Vec::new());
    let told_to = |text: &str| heard.lock().unwrap().push(text.to_owned());
    let first = memo.stream(&request, &told_to).unwrap().unwrap();
    heard.lock().unwrap().clear();
    let second = memo.stream(&request, &told_to).unwrap().unwrap();
    assert_eq!(heard.lock().unwrap().join("|"), second.text);
    assert_eq!(generated(&[Ok(first)]), generated(&[Ok(second)]));
    memo.generate(&[request]).unwrap();
    assert_eq!(memo.recollection(), told(1, 2));
}

/// Catches: the model's own answers that change where some of a batch are remembered.
#[test]
fn the_local_engine_is_remembered_to_the_bit() {
    let dir = tempdir().unwrap();
    let engine = || Arc::new(LocalEngine::new(Arc::new(small::model())).unwrap());
    let prompts: Vec<String> = (0..12)
        .map(|index| format!("The response {}", "is ".repeat(index)))
        .collect();
    let generations: Vec<GenerateRequest> = prompts
        .iter()
        .map(|prompt| GenerateRequest {
            sampling: Sampling {
                max_new_tokens: 6,
                ..Sampling::default()
            },
            ..text(prompt)
        })
        .collect();
    let scores: Vec<ScoreRequest> = prompts
        .iter()
        .map(|prompt| score(prompt, &["harmful", " to the man"]))
        .collect();
    let (fresh, numbers) = (
        engine().generate(&generations).unwrap(),
        engine().score(&scores).unwrap(),
    );
    assert!(fresh.iter().all(Result::is_ok) && numbers.iter().all(Result::is_ok));
    for part in [3..7, 0..12] {
        let memo = Memo::open(engine(), dir.path()).unwrap();
        assert_eq!(
            generated(&memo.generate(&generations[part.clone()]).unwrap()),
            generated(&fresh[part.clone()])
        );
        assert_eq!(
            scored(&memo.score(&scores[part.clone()]).unwrap()),
            scored(&numbers[part])
        );
    }
    let memo = Memo::open(engine(), dir.path()).unwrap();
    memo.generate(&generations).unwrap();
    memo.score(&scores).unwrap();
    assert_eq!((memo.recollection(), memo.usage().requests), (told(0, 24), 0));
}

// ---------------------------------------------------------------- the file

/// Questions that are not refused.
fn answerable(count: usize) -> Vec<ScoreRequest> {
    let oracle = Oracle::default();
    (0..)
        .map(|index| score(&format!("question {index}"), &["A", "B"]))
        .filter(|request| oracle.score(std::slice::from_ref(request)).unwrap()[0].is_ok())
        .take(count)
        .collect()
}

/// A directory with the answers to all, one batch each; the bytes of its file, and where its lines end.
fn written(requests: &[ScoreRequest]) -> (TempDir, PathBuf, Vec<u8>, Vec<usize>) {
    let dir = tempdir().unwrap();
    let memo = Memo::open(Arc::new(Oracle::default()), dir.path()).unwrap();
    for request in requests {
        memo.score(std::slice::from_ref(request)).unwrap();
    }
    let path = memos(dir.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    let ends = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1);
    let ends = ends.collect();
    (dir, path, bytes, ends)
}

fn open(dir: &Path) -> Result<Memo<'static>> {
    Memo::open(Arc::new(Oracle::default()), dir)
}

/// Catches: a file that was cut anywhere by a `kill -9` and is refused, loses more than what was being written, is read
/// as another answer, or gets records behind the torn one.
#[test]
fn a_torn_file_loses_the_last_records_alone() {
    let requests = answerable(4);
    let (dir, path, bytes, ends) = written(&requests);
    let expected = scored(&Oracle::default().score(&requests).unwrap());
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1) as u64;
        let memo = open(dir.path()).unwrap();
        assert!(memo.notes().is_empty(), "cut at {cut}: {:?}", memo.notes());
        let length = fs::metadata(&path).unwrap().len() as usize;
        assert_eq!(length, ends[whole as usize], "cut at {cut}: the torn record stays");
        assert_eq!(scored(&memo.score(&requests).unwrap()), expected, "cut at {cut}");
        assert_eq!(memo.recollection(), told(4 - whole, whole), "cut at {cut}");
        drop(memo);
        assert_eq!(fs::read(&path).unwrap(), bytes, "cut at {cut}");
    }
}

/// Catches: a flipped bit that is believed, that costs more than its own record and the one it runs into, that is not
/// told, or that stops the run; a header of something else that is overwritten.
#[test]
fn a_damaged_record_costs_itself_and_is_told() {
    let requests = answerable(4);
    let (dir, path, bytes, ends) = written(&requests);
    let expected = scored(&Oracle::default().score(&requests).unwrap());
    // The second record; its end runs into the third.
    for at in ends[1]..ends[2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x14;
        fs::write(&path, &damaged).unwrap();
        let memo = open(dir.path()).unwrap();
        let lost = if at + 1 == ends[2] { 2 } else { 1 };
        assert!(
            matches!(memo.notes(), [note] if note.contains("damaged")),
            "at {at}: {:?}",
            memo.notes()
        );
        assert_eq!(scored(&memo.score(&requests).unwrap()), expected, "at {at}");
        assert_eq!(memo.recollection(), told(lost, 4 - lost), "at {at}");
        drop(memo);
        let again = open(dir.path()).unwrap();
        again.score(&requests).unwrap();
        assert_eq!(again.recollection(), told(0, 4), "at {at}");
    }
    for at in 0..ends[0] {
        let mut foreign = bytes.clone();
        foreign[at] ^= 0x14;
        fs::write(&path, &foreign).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(
            error.kind() == ErrorKind::Input && error.help_text().is_some(),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
}

/// Catches: two writers whose records tear each other, or one that cannot work because the other does; answers of one
/// that the next does not find.
#[test]
fn two_at_once_share_what_they_had() {
    let dir = tempdir().unwrap();
    let requests = answerable(6);
    let expected = scored(&Oracle::default().score(&requests).unwrap());
    let first = open(dir.path()).unwrap();
    first.score(&requests[..2]).unwrap();
    let second = open(dir.path()).unwrap();
    for index in 2..6 {
        let memo = if index % 2 == 0 { &first } else { &second };
        memo.score(&requests[index..=index]).unwrap();
    }
    second.score(&requests[..2]).unwrap();
    assert_eq!((first.recollection(), second.recollection()), (told(4, 0), told(2, 2)));
    assert_eq!(memos(dir.path()).len(), 2);
    let third = open(dir.path()).unwrap();
    assert_eq!(scored(&third.score(&requests).unwrap()), expected);
    assert_eq!(third.recollection(), told(0, 6));
    drop((first, second, third));
    let last = open(dir.path()).unwrap();
    last.score(&requests).unwrap();
    assert_eq!(last.recollection(), told(0, 6));
}

// ---------------------------------------------------------------- what a model reads

/// Catches: a prompt shown otherwise than the tokens that the model is given; exchanges out of order.
#[test]
fn what_the_model_reads_is_written_down() {
    let model = Arc::new(small::model());
    let engine = Arc::new(LocalEngine::new(model.clone()).unwrap());
    let request = GenerateRequest {
        sampling: Sampling {
            max_new_tokens: 3,
            ..Sampling::default()
        },
        ..text("The response")
    };
    let scores = score("The response is", &[" harmful", " well"]);
    let recording = Recording::new(Arc::new(Memo::new(engine.clone())));
    let answer = recording
        .generate(std::slice::from_ref(&request))
        .unwrap()
        .remove(0)
        .unwrap();
    let numbers = recording
        .score(std::slice::from_ref(&scores))
        .unwrap()
        .remove(0)
        .unwrap();
    let exchanges = recording.take();
    let begin: String = model
        .tokenizer
        .begin()
        .into_iter()
        .filter_map(|token| model.tokenizer.name(token))
        .collect();
    let options = [" harmful", " well"].map(str::to_owned);
    assert_eq!(
        exchanges,
        [
            Exchange {
                prompt: format!("{begin}The response"),
                answer: Said::Text(answer.text),
            },
            Exchange {
                prompt: format!("{begin}The response is"),
                answer: Said::Scores(options.into_iter().zip(numbers).collect()),
            },
        ]
    );
    assert!(recording.take().is_empty());
    // A model without a template cannot be asked in turns: shown as it was asked, with the refusal.
    let asked = GenerateRequest {
        prompt: chat(&[("system", "Be brief."), ("user", "Why?")], "Because"),
        ..request
    };
    assert!(engine.read(&asked.prompt).is_err());
    assert!(recording.generate(&[asked]).unwrap()[0].is_err());
    let exchange = recording.take().remove(0);
    assert_eq!(exchange.prompt, "system: Be brief.\n\nuser: Why?\n\nassistant: Because");
    assert!(matches!(exchange.answer, Said::Refused(_)));
}

/// Catches: an engine without a template of its own that shows something else than what it is sent.
#[test]
fn others_show_what_they_are_sent() {
    let engine = ScriptedEngine {
        reply: |_: &str| Ok(("Yes.".to_owned(), FinishReason::Stop)),
        score: |_: &str, _: &str| -0.5,
    };
    assert_eq!(engine.read(&Request::Text("Human: Hi".into())).unwrap(), "Human: Hi");
    assert_eq!(
        engine.read(&chat(&[("user", "Hi"), ("assistant", "Ho")], "")).unwrap(),
        "user: Hi\n\nassistant: Ho"
    );
}
