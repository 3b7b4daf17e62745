//! The model families: from a Hugging Face `config.json` to the features of the decoder, and back.
//!
//! A family is a small file: which keys it reads, which features it has, where its checkpoints keep a
//! parameter. Everything else it shares with the others.

mod gemma2;
mod gemma3;
mod keys;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;

use serde_json::Value;

use self::keys::Keys;
use super::config::{Activation, DecoderConfig, Family};
use super::rope::RopeScaling;
use crate::error::{Error, Result, nearest};

/// The `architectures` entry of a configuration, and the family that reads it. The first of a family
/// is the one that is written.
const ARCHITECTURES: [(&str, Family); 8] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    (WITH_IMAGES, Family::Gemma3),
    ("Phi3ForCausalLM", Family::Phi3),
];

/// Gemma 3 with a vision tower, of which the text part is read.
const WITH_IMAGES: &str = "Gemma3ForConditionalGeneration";

impl Family {
    /// The architecture's name in transformers.
    pub fn architecture(self) -> &'static str {
        let own = ARCHITECTURES.iter().find(|(_, family)| *family == self);
        own.map_or("", |(name, _)| name)
    }

    /// The `model_type` of its configurations.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
        }
    }
}

/// Reads a `config.json`.
pub fn parse(text: &str) -> Result<DecoderConfig> {
    let mut keys = Keys::parse(text)?;
    let architectures: Vec<String> = keys.read("architectures")?.unwrap_or_default();
    let architecture = architectures.first().map_or("", String::as_str);
    let Some((_, family)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        return Err(unsupported(architecture));
    };
    if keys.read::<Value>("quantization_config")?.is_some() {
        return Err(refuse(*family, "quantization_config").help("give the checkpoint it was made from, or a GGUF file"));
    }
    if architecture == WITH_IMAGES {
        keys = keys.inner("text_config")?;
    }
    let parse = match family {
        Family::Llama => llama::parse,
        Family::Mistral => mistral::parse,
        Family::Qwen2 => qwen2::parse,
        Family::Qwen3 => qwen3::parse,
        Family::Gemma2 => gemma2::parse,
        Family::Gemma3 => gemma3::parse,
        Family::Phi3 => phi3::parse,
    };
    check_sizes(parse(&mut keys)?)
}

fn unsupported(architecture: &str) -> Error {
    let names = ARCHITECTURES.map(|(name, _)| name);
    let error = if architecture.is_empty() {
        Error::input("the configuration names no architecture")
    } else {
        Error::input(format!("the architecture {architecture} is not supported"))
    };
    let hint = nearest(architecture, names).map_or(String::new(), |near| format!("; nearest: {near}"));
    error.help(format!("supported: {}{hint}", names.join(", ")))
}

/// What the decoder would silently compute wrong is refused by name.
fn refuse(family: Family, feature: &str) -> Error {
    Error::input(format!("{} with {feature} is not supported", family.architecture()))
}

/// What all families have, and no feature that only some have.
fn shared(keys: &Keys, family: Family) -> Result<DecoderConfig> {
    let (hidden, heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    let rope = rope::read(keys)?;
    let head_dim = keys.read("head_dim")?.unwrap_or(hidden / heads.max(1));
    if family != Family::Phi3 && rope.partial != 1.0 {
        return Err(refuse(family, &format!("partial_rotary_factor = {}", rope.partial)));
    }
    let longest = keys.size("max_position_embeddings")?;
    Ok(DecoderConfig {
        family,
        vocab: keys.size("vocab_size")?,
        hidden,
        intermediate: keys.size("intermediate_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads,
        kv_heads: keys.read("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        context: match rope.scaling {
            RopeScaling::Long { original_context, .. } => longest.min(original_context),
            _ => longest,
        },
        rms_eps: keys.read("rms_norm_eps")?.unwrap_or(1e-6),
        rope,
        tied: keys.flag("tie_word_embeddings")?,
        activation: activation(keys, family)?,
        ..DecoderConfig::default()
    })
}

/// Gemma says its activation under a key of its own.
fn activation(keys: &Keys, family: Family) -> Result<Activation> {
    let key = match family {
        Family::Gemma2 | Family::Gemma3 => "hidden_activation",
        _ => "hidden_act",
    };
    match keys.text(key)?.as_str() {
        "silu" | "swish" | "" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(refuse(family, &format!("{key} = {other}"))),
    }
}

/// Whether each layer has the window: as `layer_types` says, else by `default`.
fn windowed(keys: &Keys, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(types) = keys.read::<Vec<String>>("layer_types")? else {
        return Ok((0..layers.min(MAX_SIZE)).map(default).collect());
    };
    if types.len() != layers {
        let count = types.len();
        return Err(Error::input(format!(
            "`layer_types` has {count} entries for {layers} layers"
        )));
    }
    let windowed = |kind: String| match kind.as_str() {
        FULL => Ok(false),
        SLIDING => Ok(true),
        other => Err(Error::input(format!("a layer of type `{other}` is not supported"))
            .help(format!("supported: {FULL}, {SLIDING}"))),
    };
    types.into_iter().map(windowed).collect()
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

fn layer_types(config: &DecoderConfig) -> Value {
    let name = |windowed: &bool| if *windowed { SLIDING } else { FULL };
    config.windowed.iter().map(name).collect()
}

/// No model is larger; beyond, products of sizes would overflow.
const MAX_SIZE: usize = 1 << 24;

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
        ("sliding_window", config.window.unwrap_or(1)),
        ("query_pre_attn_scalar", config.query_pre_attn_scalar.unwrap_or(1)),
    ];
    if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
        return Err(Error::input(format!("`{key}` is {size}")));
    }
    if !config.heads.is_multiple_of(config.kv_heads) || !config.head_dim.is_multiple_of(2) {
        return Err(Error::input(format!(
            "{} attention heads over {} key/value heads of size {} do not divide",
            config.heads, config.kv_heads, config.head_dim
        )));
    }
    config.ropes().try_for_each(|rope| check_rope(rope, config.head_dim))?;
    Ok(config)
}

fn check_rope(rope: &super::rope::Rope, head_dim: usize) -> Result<()> {
    let rotated = rope.rotated(head_dim);
    if !(2..=head_dim).contains(&rotated) || !rotated.is_multiple_of(2) {
        return Err(Error::input(format!(
            "`partial_rotary_factor` rotates {rotated} of a head's {head_dim} numbers"
        )));
    }
    let RopeScaling::Long {
        short,
        long,
        original_context,
        ..
    } = &rope.scaling
    else {
        return Ok(());
    };
    for (key, factors) in [("short_factor", short), ("long_factor", long)] {
        if factors.len() != rotated / 2 {
            let count = factors.len();
            return Err(Error::input(format!(
                "`{key}` has {count} numbers for {} frequencies",
                rotated / 2
            )));
        }
    }
    if *original_context < 2 {
        return Err(Error::input(format!(
            "`original_max_position_embeddings` is {original_context}"
        )));
    }
    Ok(())
}

/// The `config.json` of a decoder, as transformers reads it.
pub fn to_json(config: &DecoderConfig, tokens: SpecialTokens) -> Value {
    let mut json = serde_json::json!({
        "architectures": [config.family.architecture()],
        "model_type": config.family.model_type(),
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": match config.rope.scaling {
            RopeScaling::Long { long_context, .. } => long_context,
            _ => config.context,
        },
        "rms_norm_eps": f64::from(config.rms_eps),
        "rope_theta": config.rope.theta,
        "hidden_act": match config.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        },
        "tie_word_embeddings": config.tied,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
    });
    match config.family {
        Family::Llama => llama::write(config, &mut json),
        Family::Mistral => mistral::write(config, &mut json),
        Family::Qwen2 => qwen2::write(config, &mut json),
        Family::Qwen3 => qwen3::write(config, &mut json),
        Family::Gemma2 => gemma2::write(config, &mut json),
        Family::Gemma3 => gemma3::write(config, &mut json),
        Family::Phi3 => phi3::write(config, &mut json),
    }
    if config.rope.scaling != RopeScaling::None {
        json["rope_scaling"] = rope::scaling_json(&config.rope.scaling);
    }
    json
}

/// The ids of the tokens that begin and end a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: u32,
}

/// Where a checkpoint keeps a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    /// The first of the parameter's rows in the tensor and the rows of the tensor, when several
    /// parameters share it; they follow each other in the decoder's order.
    pub part: Option<(usize, usize)>,
}

/// Where a checkpoint of this family keeps the parameter `name` of the decoder.
pub fn stored(config: &DecoderConfig, name: &str) -> Stored {
    let fused = match config.family {
        Family::Phi3 => phi3::stored(config, name),
        _ => None,
    };
    fused.unwrap_or_else(|| Stored {
        name: name.to_owned(),
        part: None,
    })
}

/// The name of a checkpoint's tensor without the prefixes of a model whose text part is one of several
/// (Gemma 3 with images, as transformers 4 and 5 save it).
pub fn text_name(name: &str) -> String {
    let inner = name
        .strip_prefix("model.language_model.")
        .map(|rest| format!("model.{rest}"));
    let outer = || name.strip_prefix("language_model.").unwrap_or(name).to_owned();
    inner.unwrap_or_else(outer)
}
