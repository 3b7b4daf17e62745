//! Mistral: a Llama whose every layer has the same sliding window, if any has one.

use serde_json::Value;

use super::keys::Keys;
use super::shared;
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 131_072);
    keys.or("sliding_window", 4096);
    let window = keys.read("sliding_window")?;
    let shared = shared(keys, Family::Mistral)?;
    Ok(DecoderConfig {
        window,
        windowed: vec![window.is_some(); shared.layers],
        ..shared
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    // Without the key transformers takes 4096.
    json["sliding_window"] = config.window.into();
}
