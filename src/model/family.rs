//! The model families: from a Hugging Face `config.json` to the features of the decoder.
//!
//! Llama and Qwen2 name their tensors alike, and so do we; a family that does not brings its own
//! mapping here.

use serde::Deserialize;

use super::config::{DecoderConfig, RopeScaling};
use crate::error::{Error, Result, nearest};

/// The families that can be loaded, by the `architectures` entry of their configuration.
const ARCHITECTURES: [&str; 2] = ["LlamaForCausalLM", "Qwen2ForCausalLM"];

/// The keys of `config.json` that the families read. Both the layout of transformers 5
/// (`rope_parameters`) and the older one (`rope_theta`, `rope_scaling`) are understood.
#[derive(Debug, Deserialize)]
struct HfConfig {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_context")]
    max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<HfRope>,
    rope_parameters: Option<HfRope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct HfRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some checkpoints have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

fn default_context() -> usize {
    2048
}

fn default_eps() -> f64 {
    1e-6
}

fn default_activation() -> String {
    "silu".into()
}

/// Reads a `config.json`.
pub fn parse(text: &str) -> Result<DecoderConfig> {
    let config: HfConfig =
        serde_json::from_str(text).map_err(|error| Error::input("not a model configuration").because(error))?;
    let architecture = config.architectures.first().map_or("", String::as_str);
    let qkv_bias = match architecture {
        "LlamaForCausalLM" => config.attention_bias,
        "Qwen2ForCausalLM" => true,
        other => return Err(unsupported(other)),
    };
    refuse_features(&config, architecture)?;
    let rope_scaling = rope_scaling(&config)?;
    let rope = config.rope_parameters.as_ref();
    let heads = config.num_attention_heads;
    Ok(DecoderConfig {
        vocab: config.vocab_size,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_dim: config.head_dim.unwrap_or(config.hidden_size / heads.max(1)),
        context: config.max_position_embeddings,
        rms_eps: config.rms_norm_eps as f32,
        rope_theta: rope
            .and_then(|rope| rope.rope_theta)
            .or(config.rope_theta)
            .unwrap_or(10_000.0),
        rope_scaling,
        tied: config.tie_word_embeddings,
        qkv_bias,
    })
    .and_then(check_sizes)
}

fn unsupported(architecture: &str) -> Error {
    let supported = ARCHITECTURES.join(", ");
    let error = if architecture.is_empty() {
        Error::input("the configuration names no architecture")
    } else {
        Error::input(format!("the architecture {architecture} is not supported"))
    };
    let hint = nearest(architecture, ARCHITECTURES).map_or(String::new(), |near| format!("; nearest: {near}"));
    error.help(format!("supported: {supported}{hint}"))
}

/// What the decoder would silently compute wrong is refused by name.
fn refuse_features(config: &HfConfig, architecture: &str) -> Result<()> {
    let refused = if config.mlp_bias {
        Some("mlp_bias".to_owned())
    } else if config.use_sliding_window {
        Some("use_sliding_window".to_owned())
    } else if architecture == "LlamaForCausalLM" && config.attention_bias {
        // Llama's attention_bias also biases the output projection, which the decoder does not have.
        Some("attention_bias".to_owned())
    } else if config.hidden_act != "silu" {
        Some(format!("hidden_act = {}", config.hidden_act))
    } else {
        None
    };
    match refused {
        Some(feature) => Err(Error::input(format!("{architecture} with {feature} is not supported"))),
        None => Ok(()),
    }
}

fn rope_scaling(config: &HfConfig) -> Result<RopeScaling> {
    let Some(rope) = config.rope_scaling.as_ref().or(config.rope_parameters.as_ref()) else {
        return Ok(RopeScaling::None);
    };
    let kind = rope
        .rope_type
        .as_deref()
        .or(rope.old_type.as_deref())
        .unwrap_or("default");
    let need = |value: Option<f64>, key: &str| {
        value.ok_or_else(|| Error::input(format!("rope scaling `{kind}` lacks `{key}`")))
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: need(rope.factor, "factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: need(rope.factor, "factor")?,
            low_freq_factor: need(rope.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(rope.high_freq_factor, "high_freq_factor")?,
            original_context: need(
                rope.original_max_position_embeddings,
                "original_max_position_embeddings",
            )?,
        }),
        other => {
            Err(Error::input(format!("rope scaling `{other}` is not supported"))
                .help("supported: default, linear, llama3"))
        }
    }
}

fn check_sizes(config: DecoderConfig) -> Result<DecoderConfig> {
    let sizes = [
        ("vocab_size", config.vocab),
        ("hidden_size", config.hidden),
        ("intermediate_size", config.intermediate),
        ("num_hidden_layers", config.layers),
        ("num_attention_heads", config.heads),
        ("num_key_value_heads", config.kv_heads),
        ("head_dim", config.head_dim),
        ("max_position_embeddings", config.context),
    ];
    // No model is larger; beyond, products of sizes would overflow.
    if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
        return Err(Error::input(format!("`{key}` is {size}")));
    }
    if !config.heads.is_multiple_of(config.kv_heads) || !config.head_dim.is_multiple_of(2) {
        return Err(Error::input(format!(
            "{} attention heads over {} key/value heads of size {} do not divide",
            config.heads, config.kv_heads, config.head_dim
        )));
    }
    Ok(config)
}

/// The `config.json` of a decoder, as transformers reads it.
pub fn to_json(config: &DecoderConfig, tokens: SpecialTokens) -> serde_json::Value {
    let (architecture, model_type) = if config.qkv_bias {
        ("Qwen2ForCausalLM", "qwen2")
    } else {
        ("LlamaForCausalLM", "llama")
    };
    let mut json = serde_json::json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": f64::from(config.rms_eps),
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
    });
    let scaling = match config.rope_scaling {
        RopeScaling::None => return json,
        RopeScaling::Linear { factor } => serde_json::json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => serde_json::json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context as u64,
        }),
    };
    json["rope_scaling"] = scaling;
    json
}

/// The ids of the tokens that begin and end a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: u32,
}
