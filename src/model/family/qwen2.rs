//! Qwen2 and Qwen2.5: biases on queries, keys and values; a sliding window in the upper layers, which
//! published checkpoints switch off.

use serde_json::Value;

use super::keys::Keys;
use super::{layer_types, shared, windowed};
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 32_768);
    let shared = windows(keys, shared(keys, Family::Qwen2)?)?;
    Ok(DecoderConfig {
        qkv_bias: true,
        ..shared
    })
}

/// The windows of Qwen2 and Qwen3: those of `layer_types`, else of the layers from
/// `max_window_layers` on.
pub fn windows(keys: &mut Keys, shared: DecoderConfig) -> Result<DecoderConfig> {
    if !keys.flag("use_sliding_window")? {
        return Ok(shared);
    }
    keys.or("sliding_window", 4096);
    keys.or("max_window_layers", 28);
    let Some(window) = keys.read("sliding_window")? else {
        return Ok(shared);
    };
    let first = keys.size("max_window_layers")?;
    Ok(DecoderConfig {
        window: Some(window),
        windowed: windowed(keys, shared.layers, |layer| layer >= first)?,
        ..shared
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    if let Some(window) = config.window {
        let first = config.windowed.iter().position(|windowed| *windowed);
        json["use_sliding_window"] = true.into();
        json["sliding_window"] = window.into();
        json["max_window_layers"] = first.unwrap_or(config.layers).into();
        json["layer_types"] = layer_types(config);
    }
}
