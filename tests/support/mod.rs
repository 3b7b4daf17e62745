//! What the model's tests share: the reference checkpoints of `tests/golden` and the numbers that
//! transformers computed from them (`scripts/golden/models.py`), and the decoder's slow twin.

pub mod slots;
pub mod twin;

use std::collections::HashMap;
use std::path::PathBuf;

use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::Decoder;
use bylaw::model::files::load_decoder;
use serde::Deserialize;

pub const CHECKPOINTS: [&str; 12] = [
    "llama",
    "llama3",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen2-sharded",
    "qwen2-window",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
];

/// `expected.json`; `scripts/golden/models.py` explains the keys.
#[derive(Deserialize)]
pub struct Expected {
    pub input_ids: Vec<Vec<u32>>,
    pub positions: Vec<Vec<usize>>,
    pub logits: Vec<Vec<Vec<f32>>>,
    pub logprob_sum: Vec<f64>,
    pub loss: f64,
    pub grad: HashMap<String, ExpectedGradient>,
}

#[derive(Deserialize)]
pub struct ExpectedGradient {
    pub norm: f64,
    pub entries: Vec<(usize, f64)>,
}

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub fn load(name: &str) -> (Decoder, Expected) {
    let text = std::fs::read_to_string(golden(name).join("expected.json")).unwrap();
    let decoder = load_decoder(&golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    (decoder, serde_json::from_str(&text).unwrap())
}

impl Expected {
    /// The sequences, everything after the first token being predicted.
    pub fn sequences(&self) -> Vec<Sequence> {
        let sequence = |tokens: &Vec<u32>| Sequence {
            tokens: tokens.clone(),
            completion: 1,
        };
        self.input_ids.iter().map(sequence).collect()
    }
}

/// The largest absolute difference; NaN when a number is NaN, so that no comparison passes it.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let larger = |max: f32, difference: f32| if difference <= max { max } else { difference };
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(
        0.0,
        |max, difference| {
            if max.is_nan() { max } else { larger(max, difference) }
        },
    )
}

pub fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}
