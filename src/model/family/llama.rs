//! Llama 1, 2, 3 and what follows its layout (SmolLM2): the decoder without more features than biases.

use serde_json::Value;

use super::keys::Keys;
use super::shared;
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 2048);
    let bias = keys.flag("attention_bias")?;
    Ok(DecoderConfig {
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: keys.flag("mlp_bias")?,
        ..shared(keys, Family::Llama)?
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    if config.qkv_bias || config.mlp_bias {
        json["attention_bias"] = config.qkv_bias.into();
        json["mlp_bias"] = config.mlp_bias.into();
    }
}
