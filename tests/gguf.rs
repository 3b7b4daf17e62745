//! GGUF files: those of llama.cpp's own tools against transformers (`scripts/golden/gguf_files.py`), and
//! bad ones refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bylaw::error::{Error, ErrorKind};
use bylaw::model::config::Family;
use bylaw::model::cpu::Weights;
use bylaw::model::cpu::quantised::{Coding, decode_row};
use bylaw::model::decoder::Weight;
use bylaw::model::files::{Model, Precision};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{DType, Device};
use proptest::prelude::*;
use serde::Deserialize;
use slots::{Extension, Slots};

#[path = "support/slots.rs"]
mod slots;

const FILES: [(&str, Family); 16] = [
    ("llama-f32", Family::Llama),
    ("llama-f16", Family::Llama),
    ("llama-bf16", Family::Llama),
    ("llama-q8_0", Family::Llama),
    ("llama-q4_0", Family::Llama),
    ("llama-narrow-q4_k_m", Family::Llama),
    ("llama-narrow-q5_k_m", Family::Llama),
    ("llama-q4_k_m", Family::Llama),
    ("llama-q5_k_m", Family::Llama),
    ("llama-q6_k", Family::Llama),
    ("llama3-f16", Family::Llama),
    ("qwen2-q8_0", Family::Qwen2),
    ("qwen3-q8_0", Family::Qwen3),
    ("gemma2-q8_0", Family::Gemma2),
    ("gemma3-q8_0", Family::Gemma3),
    ("phi3-q8_0", Family::Phi3),
];

/// `<name>.json`; the script explains the keys.
#[derive(Deserialize)]
struct Expected {
    types: Vec<String>,
    input_ids: Vec<Vec<u32>>,
    positions: Vec<Vec<usize>>,
    logits: Vec<Vec<Vec<f32>>>,
    prompts: Vec<Vec<u32>>,
    continuations: Vec<Vec<u32>>,
    encodings: Vec<Encoding>,
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Vec<u32>,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/gguf")
        .join(format!("{name}.gguf"))
}

fn load(name: &str) -> Model {
    Model::load(path(name).to_str().unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn expected(name: &str) -> Expected {
    let text = std::fs::read_to_string(path(name).with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Catches: rows of queries and keys left in llama.cpp's order, norms of Gemma with 1 added twice, rope
/// factors ignored or applied the wrong way, a window in the wrong layer, gate and up exchanged, and
/// any block decoded wrong.
#[test]
fn logits_are_those_of_transformers() {
    let mut types = BTreeSet::new();
    for (name, family) in FILES {
        let (model, expected) = (load(name), expected(name));
        assert_eq!(model.decoder.config.family, family, "{name}");
        let weights = Weights::serving(&model.decoder, 2).unwrap();
        for (index, tokens) in expected.input_ids.iter().enumerate() {
            let mut cache = Slots::new(&model.decoder, 1, tokens.len());
            let stream = cache.extend_all(&weights, &[Extension { slot: 0, tokens }]);
            let logits = weights.logits(&weights.norm(&stream, model.decoder.layout.norm));
            let vocab = model.decoder.config.vocab;
            for (position, row) in expected.positions[index].iter().zip(&expected.logits[index]) {
                let ours = &logits[position * vocab..][..vocab];
                let largest = ours.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("{name}, position {position}: {largest:.2e}");
                assert!(
                    largest <= 1e-4 && ours.iter().all(|logit| logit.is_finite()),
                    "{name}, position {position}: {largest}"
                );
            }
        }
        types.extend(expected.types);
    }
    // So that no type goes untested when the files are made anew.
    for kind in [
        "F32", "F16", "BF16", "Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K",
    ] {
        assert!(types.contains(kind), "no file has {kind}: {types:?}");
    }
}

/// Catches: whatever tells itself only after many steps, such as the wrong local rotary embedding.
#[test]
fn greedy_text_is_that_of_transformers() {
    for (name, _) in FILES {
        let (model, expected) = (load(name), expected(name));
        let weights = Weights::serving(&model.decoder, 2).unwrap();
        for (prompt, continuation) in expected.prompts.iter().zip(&expected.continuations) {
            assert_eq!(continuation.len(), 64);
            let mut cache = Slots::new(&model.decoder, 1, prompt.len() + continuation.len());
            let (mut fed, mut text) = (prompt.clone(), Vec::new());
            for _ in continuation {
                let logits = weights.logits(&cache.extend(&weights, &[Extension { slot: 0, tokens: &fed }]));
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                fed = vec![best.unwrap() as u32];
                text.extend_from_slice(&fed);
            }
            assert_eq!(&text, continuation, "{name}, after {} tokens", prompt.len());
        }
    }
}

/// Catches: a wrong splitting, merges in the wrong order, a lost byte or space, a special token made
/// from text.
#[test]
fn encodings_are_those_of_the_original_tokenizer() {
    for (name, _) in FILES {
        let tokenizer = load(name).tokenizer;
        for Encoding { text, ids } in expected(name).encodings {
            let tokens = tokenizer.encode(&text).unwrap();
            assert_eq!(tokens, ids, "{name}: {text:?}");
            let composed = ["qwen2-q8_0", "qwen3-q8_0"].contains(&name) && text.contains('\u{301}');
            if !composed {
                assert_eq!(tokenizer.decode(&tokens).unwrap(), text, "{name}");
            }
        }
    }
}

/// Catches: a lost BOS, a completion that runs on after its turn, a template left in the file.
#[test]
fn special_tokens_and_the_template_come_from_the_file() {
    for (name, bos, eos) in [("llama-f32", 1, 2), ("llama3-f16", 0, 1), ("gemma2-q8_0", 1, 2)] {
        let model = load(name);
        assert_eq!(model.tokenizer.special().bos, Some(bos), "{name}");
        assert_eq!(model.tokenizer.special().eos, eos, "{name}");
        assert_eq!(model.tokenizer.begin(), [bos], "{name}");
        let tokenizer: serde_json::Value = serde_json::from_str(&model.tokenizer.files().tokenizer).unwrap();
        let end = tokenizer["model"]["vocab"]["<|end|>"].as_u64().unwrap() as u32;
        assert!(model.tokenizer.is_eos(eos) && model.tokenizer.is_eos(end), "{name}");
        let config: serde_json::Value =
            serde_json::from_str(model.tokenizer.files().config.as_deref().unwrap()).unwrap();
        assert!(config["chat_template"].as_str().unwrap().contains("m.role"), "{name}");
    }
    assert!(load("qwen2-q8_0").tokenizer.begin().is_empty());
}

/// Catches: quantised weights saved as if they were numbers, or kept as numbers in memory.
#[test]
fn a_quantised_model_stays_quantised() {
    let model = load("llama-q4_k_m");
    let matrices = model
        .decoder
        .parameters
        .iter()
        .filter(|parameter| !parameter.name.contains("norm"));
    for parameter in matrices {
        assert!(matches!(parameter.weight, Weight::Quantised(_)), "{}", parameter.name);
    }
    let dir = tempfile::tempdir().unwrap();
    let error = model.save(dir.path(), DType::F32).unwrap_err();
    assert!(error.help_text().unwrap().contains("checkpoint"), "{error}");
    // One that is not quantised can be saved, and is then the same model.
    let model = load("llama3-f16");
    model.save(dir.path(), DType::F32).unwrap();
    let again = Model::load(dir.path().to_str().unwrap()).unwrap();
    assert_eq!(again.decoder.config, model.decoder.config);
    assert_eq!(again.tokenizer.special(), model.tokenizer.special());
    assert_ne!(again.sha256, model.sha256);
    // And trained, which needs numbers in f32.
    assert!(Weights::training(&model.decoder, 1).is_ok());
    let stored = Model::load_in(&model.reference, Precision::AsStored).unwrap();
    assert!(Weights::training(&stored.decoder, 1).is_err());
}

/// Loads bytes as a file.
fn load_bytes(bytes: &[u8]) -> Result<Model, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::load(path.to_str().unwrap())
}

/// The file is the user's input, the report names it and each of `mentions`, and says what to do.
fn assert_refused(bytes: &[u8], mentions: &[&str]) {
    let Err(error) = load_bytes(bytes) else {
        panic!("accepted; expected an error about {mentions:?}");
    };
    let report = format!("{error}\n{}", error.help_text().unwrap_or_default());
    assert_eq!(error.kind(), ErrorKind::Input, "{report}");
    assert!(report.contains("bad.gguf") && error.help_text().is_some(), "{report}");
    for mention in mentions {
        assert!(report.contains(mention), "`{mention}` is not in:\n{report}");
    }
}

/// A small file, and where `text` ends in it.
fn small(text: &str) -> (Vec<u8>, usize) {
    let bytes = std::fs::read(path("llama-q4_0")).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    let end = at.unwrap() + text.len();
    (bytes, end)
}

/// The small file with other bytes after `text`.
fn with(text: &str, skip: usize, bytes: &[u8]) -> Vec<u8> {
    let (mut file, end) = small(text);
    file[end + skip..][..bytes.len()].copy_from_slice(bytes);
    file
}

/// Catches: a panic, or a model of zeros, from a copy that stopped half-way.
#[test]
fn truncated_files_are_refused() {
    let (whole, header) = small("output_norm.weight");
    let step = whole.len() / 40;
    let cuts = [0, 1, 3, 4, 7, 8, 23, 24, 25, 40, header, header + 40, whole.len() - 33];
    for cut in cuts.into_iter().chain((1..40).map(|part| part * step)) {
        assert_refused(&whole[..cut], &["truncated"]);
    }
}

/// Catches: counts and lengths of a damaged file that are believed, and then allocated or multiplied.
#[test]
fn absurd_numbers_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    let large = (1u64 << 40).to_le_bytes();
    let (file, _) = small("GGUF");
    for at in [8, 16, 24] {
        for bytes in [huge, large, (1u64 << 27).to_le_bytes()] {
            let mut file = file.clone();
            file[at..][..8].copy_from_slice(&bytes);
            assert_refused(&file, &[]);
        }
    }
    // After a key: its type; after an array's type, its count. After a tensor's name: dimensions, sizes.
    assert_refused(&with("tokenizer.ggml.tokens", 8, &huge), &["tokenizer.ggml.tokens"]);
    assert_refused(&with("tokenizer.ggml.tokens", 16, &large), &["tokenizer.ggml.tokens"]);
    assert_refused(&with("llama.block_count", 4, &u32::MAX.to_le_bytes()), &["block_count"]);
    assert_refused(&with("llama.embedding_length", 4, &u32::MAX.to_le_bytes()), &[]);
    assert_refused(&with("llama.attention.head_count", 4, &[0; 4]), &[]);
    assert_refused(
        &with("token_embd.weight", 0, &9u32.to_le_bytes()),
        &["token_embd.weight"],
    );
    assert_refused(&with("token_embd.weight", 4, &huge), &["token_embd.weight"]);
    assert_refused(&with("token_embd.weight", 12, &large), &["token_embd.weight"]);
    assert_refused(&with("token_embd.weight", 24, &huge), &["token_embd.weight"]);
}

/// Catches: a file of something else taken for one that can be read, and a refusal that does not say
/// what is refused.
#[test]
fn foreign_files_are_refused_by_name() {
    assert_refused(b"PK\x03\x04 and so on, for a while", &["not a GGUF file"]);
    assert_refused(&with("GGUF", 0, &4u32.to_le_bytes()), &["version 4"]);
    assert_refused(&with("GGUF", 0, &3u32.to_be_bytes()), &["big-endian"]);
    let architecture = with("general.architecture", 12, b"mamba");
    assert_refused(&architecture, &["`mamba`", "llama, qwen2, qwen3, gemma2, gemma3, phi3"]);
    assert_refused(&with("tokenizer.ggml.model", 12, b"rwkv_"), &["`rwkv_`", "gpt2"]);
    let iq4 = with("blk.0.attn_k.weight", 20, &23u32.to_le_bytes());
    assert_refused(&iq4, &["IQ4_XS", "Q4_K"]);
    let renamed = with("blk.0.attn_", 0, b"x");
    assert_refused(&renamed, &["missing"]);
    let error = Model::load("/nowhere/at/all.gguf").err().unwrap();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("/nowhere/at/all.gguf"));
}

/// Catches: a panic on any single damaged bit of a header.
#[test]
fn a_flipped_bit_is_an_error_or_harmless() {
    let (file, header) = small("output_norm.weight");
    let places = (0..1200).chain((1200..header).step_by(61));
    for (index, place) in places.enumerate() {
        let mut file = file.clone();
        file[place] ^= 1 << (index % 8);
        if let Err(error) = load_bytes(&file) {
            assert_eq!(error.kind(), ErrorKind::Input, "byte {place}: {error}");
        }
    }
}

const CODINGS: [(Coding, GgmlDType); 5] = [
    (Coding::Q4_0, GgmlDType::Q4_0),
    (Coding::Q8_0, GgmlDType::Q8_0),
    (Coding::Q4K, GgmlDType::Q4K),
    (Coding::Q5K, GgmlDType::Q5K),
    (Coding::Q6K, GgmlDType::Q6K),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Catches: a nibble, a high bit, a sign or a scale taken from the wrong place of a block.
    #[test]
    fn rows_are_decoded_as_candle_decodes_them(bytes in prop::collection::vec(any::<u8>(), 6 * 210), row in 0usize..3) {
        for (coding, dtype) in CODINGS {
            let (numbers, size) = coding.block();
            // Three rows of two blocks.
            let bytes = &bytes[..6 * size];
            let shape = vec![3, 2 * numbers];
            let theirs = qtensor_from_ggml(dtype, bytes, shape, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
            let theirs = &theirs.to_vec2::<f32>().unwrap()[row];
            let mut ours = vec![0.0; 2 * numbers];
            decode_row(coding, bytes, row, &mut ours);
            for (ours, theirs) in ours.iter().zip(theirs) {
                prop_assert!(
                    ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                    "{coding:?}: {ours} is not {theirs}"
                );
            }
        }
    }
}
