//! Gemma 3, its text part: a Gemma 2 with normed queries and keys instead of soft-caps, a window in five
//! of six layers, and one rotary embedding for those and another for the rest.

use serde::Deserialize;
use serde_json::Value;

use super::keys::Keys;
use super::rope::HfRope;
use super::{gemma2, refuse, windowed};
use crate::error::Result;
use crate::model::config::{DecoderConfig, Family};
use crate::model::rope::{Rope, RopeScaling};

pub fn parse(keys: &mut Keys) -> Result<DecoderConfig> {
    // A `text_config` leaves out whatever is the default of transformers.
    for (key, default) in [
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("sliding_window", 4096),
        ("sliding_window_pattern", 6),
    ] {
        keys.or(key, default);
    }
    let pattern = keys.size("sliding_window_pattern")?.max(1);
    let (rope, local) = ropes(keys)?;
    let gemma = gemma2::gemma(keys, Family::Gemma3)?;
    Ok(DecoderConfig {
        qk_norm: true,
        rope,
        local_rope: Some(local),
        windowed: windowed(keys, gemma.layers, |layer| !(layer + 1).is_multiple_of(pattern))?,
        ..gemma
    })
}

/// The rotary embeddings of layers without and with a window.
fn ropes(keys: &Keys) -> Result<(Rope, Rope)> {
    #[derive(Default, Deserialize)]
    struct ByLayerType {
        full_attention: Option<HfRope>,
        sliding_attention: Option<HfRope>,
    }
    let new: ByLayerType = keys.read("rope_parameters")?.unwrap_or_default();
    let full = new.full_attention.unwrap_or_default();
    let theta = full.rope_theta.or(keys.read("rope_theta")?).unwrap_or(1e6);
    let full = keys.read::<HfRope>("rope_scaling")?.unwrap_or(full);
    let local_theta = keys.read("rope_local_base_freq")?.unwrap_or(10_000.0);
    let local = new.sliding_attention.unwrap_or_default();
    let (full, local) = (full.rope(keys, theta)?, local.rope(keys, local_theta)?);
    // Nothing published has these, and they could not be saved again.
    if local != Rope::plain(local.theta) {
        return Err(refuse(
            Family::Gemma3,
            "a scaled or partial rotary embedding of sliding_attention",
        ));
    }
    if full.partial != 1.0 || matches!(full.scaling, RopeScaling::Long { .. }) {
        return Err(refuse(Family::Gemma3, "longrope or a partial rotary embedding"));
    }
    Ok((full, local))
}

pub fn write(config: &DecoderConfig, json: &mut Value) {
    gemma2::write(config, json);
    if let Some(local) = &config.local_rope {
        json["rope_local_base_freq"] = local.theta.into();
    }
}
