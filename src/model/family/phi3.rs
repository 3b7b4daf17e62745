//! Phi-3 and Phi-4-mini: a Llama whose query, key and value weights stand in one tensor, and gate and up
//! in another; longrope, and heads of which a part rotates.

use serde_json::Value;

use super::keys::Keys;
use super::{Stored, shared};
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};
use crate::model::rope::RopeScaling;

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 4096);
    keys.or("original_max_position_embeddings", 4096);
    let window = keys.read("sliding_window")?;
    let shared = shared(keys, Family::Phi3)?;
    Ok(DecoderConfig {
        window,
        windowed: vec![window.is_some(); shared.layers],
        ..shared
    })
}

/// Where the checkpoint has the parameter `name`.
pub fn stored(config: &DecoderConfig, name: &str) -> Option<Stored> {
    let (query, key_value) = (config.query_width(), config.kv_width());
    let (qkv, mlp) = (query + 2 * key_value, 2 * config.intermediate);
    let (prefix, part) = name.strip_suffix("_proj.weight")?.rsplit_once('.')?;
    let (fused, start, rows) = match part {
        "q" => ("qkv_proj", 0, qkv),
        "k" => ("qkv_proj", query, qkv),
        "v" => ("qkv_proj", query + key_value, qkv),
        "gate" => ("gate_up_proj", 0, mlp),
        "up" => ("gate_up_proj", config.intermediate, mlp),
        _ => return None,
    };
    Some(Stored {
        name: format!("{prefix}.{fused}.weight"),
        part: Some((start, rows)),
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    json["sliding_window"] = config.window.into();
    json["partial_rotary_factor"] = config.rope.partial.into();
    // transformers' default is a row that only the published vocabularies have.
    json["pad_token_id"] = json["eos_token_id"].clone();
    let original = match config.rope.scaling {
        RopeScaling::Long { original_context, .. } => original_context,
        _ => config.context,
    };
    json["original_max_position_embeddings"] = original.into();
}
