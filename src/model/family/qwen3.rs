//! Qwen3: each head's queries and keys are normed, and heads have a size of their own.

use serde_json::Value;

use super::keys::Keys;
use super::{qwen2, shared};
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 32_768);
    keys.or("head_dim", 128);
    let bias = keys.flag("attention_bias")?;
    let shared = qwen2::windows(keys, shared(keys, Family::Qwen3)?)?;
    Ok(DecoderConfig {
        qk_norm: true,
        qkv_bias: bias,
        output_bias: bias,
        ..shared
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    json["attention_bias"] = config.qkv_bias.into();
    qwen2::write(config, json);
}
