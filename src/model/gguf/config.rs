//! The metadata of a GGUF file as the `config.json` of the checkpoint that it was made from.
//!
//! Keys and their defaults are those of llama.cpp (src/llama-arch.cpp, src/models/); what they mean in
//! transformers is what llama.cpp's converters read them from (conversion/).

use std::fs::File;

use serde_json::{Value as Json, json};

use super::header::Header;
use super::tokenizer::Vocabulary;
use super::weights;
use crate::error::{Error, Result};
use crate::model::config::Family;

/// `general.architecture`, and the family that reads it.
const ARCHITECTURES: [(&str, Family); 6] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("phi3", Family::Phi3),
];

/// The keys of one architecture: `<architecture>.<key>`.
struct Keys<'a> {
    header: &'a Header,
    architecture: &'a str,
}

/// A `config.json` for the file.
pub fn read(header: &Header, file: &File, vocabulary: &Vocabulary) -> Result<Json> {
    let (architecture, family) = architecture(header)?;
    let keys = Keys { header, architecture };
    if let Some(count) = header.size("split.count")?.filter(|count| *count > 1) {
        return Err(
            Error::input(format!("the file is one of {count} that make a model together"))
                .help("merge them with llama.cpp's llama-gguf-split --merge"),
        );
    }
    keys.refuse_experts()?;
    let layers = keys.need("block_count")?;
    // Before anything is made for each layer.
    if layers > header.tensors.len() {
        let tensors = header.tensors.len();
        return Err(Error::input(format!(
            "`{architecture}.block_count` is {layers}, and the file has {tensors} tensors"
        ))
        .help("the file may be damaged: copy it again"));
    }
    let window = keys.size("attention.sliding_window")?.filter(|window| *window > 0);
    let family = match (family, window) {
        // llama.cpp has no architecture of its own for it.
        (Family::Llama, Some(_)) => Family::Mistral,
        _ => family,
    };
    let mut json = keys.sizes(family, layers)?;
    json["sliding_window"] = window.into();
    json["bos_token_id"] = vocabulary.bos.into();
    json["eos_token_id"] = vocabulary.ends.clone().into();
    keys.biases(&mut json);
    keys.rope(&mut json, file)?;
    match family {
        Family::Gemma2 => keys.gemma2(&mut json)?,
        Family::Gemma3 => keys.gemma3(&mut json, layers, window)?,
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Phi3 => {}
    }
    Ok(json)
}

fn architecture(header: &Header) -> Result<(&str, Family)> {
    let names = ARCHITECTURES.map(|(name, _)| name).join(", ");
    let Some(found) = header.text("general.architecture")? else {
        return Err(Error::input("the file does not say its `general.architecture`")
            .help(format!("give a GGUF file of a language model; supported: {names}")));
    };
    let known = ARCHITECTURES.iter().find(|(name, _)| *name == found);
    known.copied().ok_or_else(|| {
        Error::input(format!("the architecture `{found}` is not supported"))
            .help(format!("supported in GGUF files: {names}"))
    })
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.header.size(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.header.number(&self.key(key))
    }

    fn need(&self, key: &str) -> Result<usize> {
        self.size(key)?
            .ok_or_else(|| Error::input(format!("the file does not say its `{}`", self.key(key))))
    }

    fn refuse(&self, feature: &str) -> Error {
        Error::input(format!(
            "a GGUF file of the architecture `{}` with {feature} is not supported",
            self.architecture
        ))
    }

    /// Mixtral and its like say `llama`.
    fn refuse_experts(&self) -> Result<()> {
        match self.size("expert_count")? {
            None | Some(0) => Ok(()),
            Some(count) => Err(self.refuse(&format!("{count} experts"))),
        }
    }

    fn sizes(&self, family: Family, layers: usize) -> Result<Json> {
        let (hidden, heads) = (self.need("embedding_length")?, self.need("attention.head_count")?);
        let head_dim = self.size("attention.key_length")?.unwrap_or(hidden / heads.max(1));
        if self
            .size("attention.value_length")?
            .is_some_and(|width| width != head_dim)
        {
            return Err(self.refuse("keys and values of different lengths"));
        }
        let embedding = self.header.tensors.get(weights::EMBEDDING);
        let embedding = embedding.ok_or_else(|| weights::missing(weights::EMBEDDING))?;
        let rms_eps = self
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| Error::input("the file does not say its `attention.layer_norm_rms_epsilon`"))?;
        Ok(json!({
            "architectures": [family.architecture()],
            "vocab_size": embedding.shape.first(),
            "hidden_size": hidden,
            "intermediate_size": self.need("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.size("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": self.need("context_length")?,
            "rms_norm_eps": rms_eps,
            "rope_theta": self.number("rope.freq_base")?.unwrap_or(10_000.0),
            "partial_rotary_factor": partial(self.size("rope.dimension_count")?, head_dim),
            "tie_word_embeddings": !self.header.tensors.contains_key(weights::HEAD),
        }))
    }

    /// Which biases there are, only the tensors tell.
    fn biases(&self, json: &mut Json) {
        let has = |name: &str| self.header.tensors.contains_key(&format!("blk.0.{name}.bias"));
        json["attention_bias"] = has("attn_q").into();
        json["mlp_bias"] = has("ffn_gate").into();
    }

    fn rope(&self, json: &mut Json, file: &File) -> Result<()> {
        let factors = |name: &str| weights::vector(self.header, file, name);
        let kind = self.header.text(&self.key("rope.scaling.type"))?;
        let context = self.need("context_length")?;
        let original = self.size("rope.scaling.original_context_length")?.unwrap_or(context);
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            given => given,
        };
        let mut original_context = original;
        json["rope_scaling"] = match (factors("rope_freqs.weight")?, factors("rope_factors_short.weight")?) {
            // Llama 3: the converter computed what each frequency is divided by.
            (Some(factors), None) => {
                if factor.is_some_and(|factor| factor != 1.0) {
                    return Err(self.refuse("rope_freqs.weight and a rope.scaling.factor"));
                }
                original_context = context;
                json!({
                    "rope_type": "longrope",
                    "short_factor": factors,
                    "long_factor": factors,
                    "attention_factor": 1.0,
                })
            }
            (None, Some(short)) => json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": factors("rope_factors_long.weight")?,
                "attention_factor": self.number("rope.scaling.attn_factor")?,
            }),
            (Some(_), Some(_)) => return Err(self.refuse("two kinds of rope factors")),
            (None, None) => match (kind.unwrap_or("linear"), factor) {
                ("none", _) | ("linear", None) => Json::Null,
                ("linear", Some(factor)) => json!({ "rope_type": "linear", "factor": factor }),
                (other, _) => json!({ "rope_type": other }),
            },
        };
        json["original_max_position_embeddings"] = original_context.into();
        Ok(())
    }

    fn gemma2(&self, json: &mut Json) -> Result<()> {
        self.gemma_scale(json, 46)?;
        // Without the key it is 4096.
        if json["sliding_window"].is_null() {
            json["sliding_window"] = 4096.into();
        }
        for (key, name) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = self.number(key)? {
                json[name] = cap.into();
            }
        }
        Ok(())
    }

    fn gemma3(&self, json: &mut Json, layers: usize, window: Option<usize>) -> Result<()> {
        self.gemma_scale(json, 62)?;
        json["final_logit_softcapping"] = self.number("final_logit_softcapping")?.filter(|cap| *cap != 0.0).into();
        json["rope_local_base_freq"] = self.number("rope.freq_base_swa")?.unwrap_or(10_000.0).into();
        let pattern = self.key("attention.sliding_window_pattern");
        let windowed: Vec<bool> = match (window, self.header.numbers(&pattern)) {
            (None, _) => vec![false; layers],
            (Some(_), Ok(Some(pattern))) => pattern.iter().map(|flag| *flag != 0.0).collect(),
            (Some(_), _) => {
                let every = self.size("attention.sliding_window_pattern")?.unwrap_or(6).max(1);
                (0..layers).map(|layer| (layer + 1) % every != 0).collect()
            }
        };
        let name = |windowed: bool| {
            if windowed {
                "sliding_attention"
            } else {
                "full_attention"
            }
        };
        json["layer_types"] = windowed.into_iter().map(name).collect();
        Ok(())
    }

    /// Scores are scaled by the size of a head, but in the largest model by another number, and only
    /// its number of layers tells.
    fn gemma_scale(&self, json: &mut Json, largest: usize) -> Result<()> {
        let of_largest = self.need("embedding_length")? / self.need("attention.head_count")?.max(1);
        json["query_pre_attn_scalar"] = match self.need("block_count")? == largest {
            true => of_largest.into(),
            false => json["head_dim"].clone(),
        };
        Ok(())
    }
}

/// How much of a head rotates, such that a head times it gives the `rotated` numbers again.
fn partial(rotated: Option<usize>, head_dim: usize) -> f64 {
    let Some(rotated) = rotated.filter(|rotated| *rotated != head_dim) else {
        return 1.0;
    };
    let head = head_dim.max(1) as f64;
    let quotient = rotated as f64 / head;
    match (head * quotient) as usize == rotated {
        true => quotient,
        false => (rotated as f64 + 0.5) / head,
    }
}
