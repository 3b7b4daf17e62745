//! A model small enough to train in a test: the Llama checkpoint of `tests/golden` (2 layers, 32
//! wide, random weights, a context of 128 tokens) with its byte-level tokenizer.

use bylaw::model::files::Model;

pub fn model() -> Model {
    Model::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama")).unwrap()
}
