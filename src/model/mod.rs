//! Models: the one trainable decoder, its files and its tokenizer.
//!
//! A family (Llama, Gemma 3, ...) is a mapping from its `config.json` to the decoder's features; the decoder
//! knows features only. candle holds the tensors; the CPU arithmetic is in [`cpu`].

pub mod chat;
pub mod config;
pub mod convert;
pub mod cpu;
pub mod decoder;
pub mod family;
pub mod files;
pub mod gguf;
pub mod heads;
pub mod lora;
pub mod rope;
pub mod template;
pub mod tokenizer;

use crate::error::Error;

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::unexpected("a tensor operation failed").because(error)
    }
}
