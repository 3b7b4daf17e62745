//! Rotary embeddings in `config.json`: the layout of transformers 5 (`rope_parameters`) and the older one
//! (`rope_theta`, `rope_scaling`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::model::rope::{Rope, RopeScaling};

/// `rope_scaling`, or `rope_parameters`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct HfRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some checkpoints have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    pub rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    attention_factor: Option<f64>,
}

/// The rotary embedding of all layers.
pub fn read(keys: &Keys) -> Result<Rope> {
    let parameters = keys.read::<HfRope>("rope_parameters")?;
    let theta = parameters.as_ref().and_then(|rope| rope.rope_theta);
    let partial = parameters.as_ref().and_then(|rope| rope.partial_rotary_factor);
    let scaling = keys.read::<HfRope>("rope_scaling")?.or(parameters).unwrap_or_default();
    Ok(Rope {
        theta: theta.or(keys.read("rope_theta")?).unwrap_or(10_000.0),
        scaling: scaling.scaling(keys)?,
        partial: partial.or(keys.read("partial_rotary_factor")?).unwrap_or(1.0),
    })
}

impl HfRope {
    /// One of several rotary embeddings of a model.
    pub fn rope(&self, keys: &Keys, theta: f64) -> Result<Rope> {
        Ok(Rope {
            theta: self.rope_theta.unwrap_or(theta),
            scaling: self.scaling(keys)?,
            partial: self.partial_rotary_factor.unwrap_or(1.0),
        })
    }

    fn scaling(&self, keys: &Keys) -> Result<RopeScaling> {
        let named = self.rope_type.as_deref().or(self.old_type.as_deref());
        let kind = named.unwrap_or("default");
        let need = |value: Option<f64>, key: &str| value.ok_or_else(|| missing(kind, key));
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: need(self.factor, "factor")?,
            }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need(self.factor, "factor")?,
                low_freq_factor: need(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, "high_freq_factor")?,
                original_context: need(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            // Older Phi-3 checkpoints say "su", or "yarn" and mean longrope.
            "longrope" | "su" => self.long(keys, kind),
            "yarn" if self.short_factor.is_some() => self.long(keys, kind),
            other => Err(Error::input(format!("rope scaling `{other}` is not supported"))
                .help("supported: default, linear, llama3, longrope")),
        }
    }

    fn long(&self, keys: &Keys, kind: &str) -> Result<RopeScaling> {
        // Phi-3 says it outside, and there it counts.
        let outside = keys.read("original_max_position_embeddings")?;
        let original = outside.or(self.original_max_position_embeddings);
        Ok(RopeScaling::Long {
            short: self.short_factor.clone().ok_or_else(|| missing(kind, "short_factor"))?,
            long: self.long_factor.clone().ok_or_else(|| missing(kind, "long_factor"))?,
            original_context: original.ok_or_else(|| missing(kind, "original_max_position_embeddings"))? as usize,
            long_context: keys.size("max_position_embeddings")?,
            factor: self.factor,
            attention_factor: self.attention_factor,
        })
    }
}

fn missing(kind: &str, key: &str) -> Error {
    Error::input(format!("rope scaling `{kind}` lacks `{key}`"))
}

/// `rope_scaling` as both generations of transformers read it; null without scaling.
pub fn scaling_json(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": *original_context as u64,
        }),
        RopeScaling::Long {
            short,
            long,
            original_context,
            factor,
            attention_factor,
            ..
        } => {
            let mut json = json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "original_max_position_embeddings": original_context,
            });
            for (key, value) in [("factor", factor), ("attention_factor", attention_factor)] {
                if let Some(value) = value {
                    json[key] = (*value).into();
                }
            }
            json
        }
    }
}
