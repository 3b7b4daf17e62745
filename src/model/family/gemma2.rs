//! Gemma 2: norms before and after attention and MLP with weights around 0, scaled embeddings, GeGLU,
//! soft-capped scores and logits, and a window in every other layer.

use serde_json::Value;

use super::keys::Keys;
use super::{layer_types, refuse, shared, windowed};
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    keys.or("max_position_embeddings", 8192);
    keys.or("sliding_window", 4096);
    keys.or("attn_logit_softcapping", 50.0);
    keys.or("final_logit_softcapping", 30.0);
    let gemma = gemma(keys, Family::Gemma2)?;
    Ok(DecoderConfig {
        windowed: windowed(keys, gemma.layers, |layer| layer.is_multiple_of(2))?,
        ..gemma
    })
}

/// What Gemma 2 and 3 have in common.
pub fn gemma(keys: &mut Keys, family: Family) -> Result<DecoderConfig> {
    keys.or("head_dim", 256);
    keys.or("query_pre_attn_scalar", 256);
    keys.or("tie_word_embeddings", true);
    keys.or("hidden_activation", "gelu_pytorch_tanh");
    if keys.flag("use_bidirectional_attention")? {
        return Err(refuse(family, "use_bidirectional_attention"));
    }
    let bias = keys.flag("attention_bias")?;
    Ok(DecoderConfig {
        window: keys.read("sliding_window")?,
        qkv_bias: bias,
        output_bias: bias,
        post_norms: true,
        norm_plus_one: true,
        scaled_embedding: true,
        query_pre_attn_scalar: Some(keys.size("query_pre_attn_scalar")?),
        attention_softcap: keys.read("attn_logit_softcapping")?,
        final_softcap: keys.read("final_logit_softcapping")?,
        ..shared(keys, family)?
    })
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    json["hidden_activation"] = json["hidden_act"].clone();
    json["attention_bias"] = config.qkv_bias.into();
    json["query_pre_attn_scalar"] = config.query_pre_attn_scalar.into();
    json["attn_logit_softcapping"] = config.attention_softcap.into();
    json["final_logit_softcapping"] = config.final_softcap.into();
    json["sliding_window"] = config.window.into();
    json["layer_types"] = layer_types(config);
}
