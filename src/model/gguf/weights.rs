//! The tensors of a GGUF file as the decoder's parameters.
//!
//! What llama.cpp's converters change is changed back: rows of queries and keys of `llama` are in the
//! order of its rotary embedding, and norms of Gemma have 1 added. One tensor, or the rows of it that a
//! parameter takes, is in memory at a time besides what is kept.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::header::{Header, TensorInfo};
use super::read_at;
use crate::error::{Error, Result};
use crate::model::config::{DecoderConfig, Family};
use crate::model::decoder::{ParameterSpec, Weight};
use crate::model::family;

pub const EMBEDDING: &str = "token_embd.weight";
pub const HEAD: &str = "output.weight";

/// Tensors that are part of the configuration.
const OF_CONFIGURATION: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
];

pub struct Reader<'a> {
    header: &'a Header,
    file: &'a File,
    config: &'a DecoderConfig,
    read: HashSet<String>,
}

/// The tensor that holds what transformers calls `name`.
fn gguf_name(config: &DecoderConfig, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some(EMBEDDING.to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some(HEAD.to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if config.post_norms => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

impl<'a> Reader<'a> {
    pub fn new(header: &'a Header, file: &'a File, config: &'a DecoderConfig) -> Self {
        Self {
            header,
            file,
            config,
            read: HashSet::new(),
        }
    }

    /// The weight of a parameter.
    pub fn read(&mut self, spec: &ParameterSpec) -> Result<Weight> {
        let stored = family::stored(self.config, &spec.name);
        let name = gguf_name(self.config, &stored.name)
            .ok_or_else(|| Error::unexpected(format!("no GGUF tensor is known for `{}`", spec.name)))?;
        let info = self.header.tensors.get(&name).ok_or_else(|| missing(&name))?;
        let mut shape = spec.shape.clone();
        if let Some((_, rows)) = stored.part {
            shape[0] = rows;
        }
        if info.shape != shape {
            return Err(Error::input(format!(
                "the tensor `{name}` has shape {:?}; the metadata ask for {shape:?}",
                info.shape
            ))
            .help("the file may be damaged: copy it again"));
        }
        let heads = self.interleaved_heads(&spec.name);
        let weight = match spec.shape[..] {
            [_] => Weight::Dense(self.vector(spec, &name, heads)?),
            _ => {
                let first = stored.part.map_or(0, |(first, _)| first);
                let row_bytes = row_bytes(info, &name)?;
                let mut bytes = vec![0; spec.shape[0] * row_bytes];
                read_at(self.file, info.start + (first * row_bytes) as u64, &mut bytes)?;
                if let Some(heads) = heads {
                    bytes = halves(&bytes, heads, row_bytes);
                }
                matrix(supported(info, &name)?, &bytes, &spec.shape)?
            }
        };
        self.read.insert(name);
        Ok(weight)
    }

    /// A norm or a bias.
    fn vector(&self, spec: &ParameterSpec, name: &str, heads: Option<usize>) -> Result<Tensor> {
        let mut values = vector(self.header, self.file, name)?.unwrap_or_default();
        if let Some(heads) = heads {
            values = halves(&values, heads, 1);
        }
        if self.config.norm_plus_one && spec.name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        Ok(Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?)
    }

    /// How many heads a parameter has whose rows llama.cpp's converter reordered.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        if !matches!(self.config.family, Family::Llama | Family::Mistral) {
            return None;
        }
        let (part, _) = name.rsplit_once('.')?;
        match part.rsplit_once('.')?.1 {
            "q_proj" => Some(self.config.heads),
            "k_proj" => Some(self.config.kv_heads),
            _ => None,
        }
    }

    /// An error when a tensor was left: the decoder would silently compute another model.
    pub fn check_all_read(&self) -> Result<()> {
        let known = |name: &&String| self.read.contains(*name) || OF_CONFIGURATION.contains(&name.as_str());
        match self.header.tensors.keys().filter(|name| !known(name)).min() {
            None => Ok(()),
            Some(name) => Err(
                Error::input(format!("the decoder has no place for the tensor `{name}`"))
                    .help("the file is of a model that differs from its architecture, which is not supported"),
            ),
        }
    }
}

pub fn missing(name: &str) -> Error {
    Error::input(format!("the tensor `{name}` is missing"))
        .help("the file is incomplete, or of a model that differs from its architecture")
}

/// A vector of the file as numbers, if it has it.
pub fn vector(header: &Header, file: &File, name: &str) -> Result<Option<Vec<f32>>> {
    let Some(info) = header.tensors.get(name) else {
        return Ok(None);
    };
    let [width] = info.shape[..] else {
        return Err(Error::input(format!("the tensor `{name}` is not a vector")));
    };
    let mut bytes = vec![0; row_bytes(info, name)?];
    read_at(file, info.start, &mut bytes)?;
    let values = floats(supported(info, name)?, &bytes, &[width])?;
    Ok(Some(values.to_vec1()?))
}

fn supported(info: &TensorInfo, name: &str) -> Result<GgmlDType> {
    info.kind.dtype().ok_or_else(|| {
        let kind = info.kind.name();
        Error::input(format!("`{name}` is stored as {kind}, which is not supported")).help(
            "supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K; take another quantisation of the model",
        )
    })
}

/// The bytes of a row of a matrix, or of a whole vector.
fn row_bytes(info: &TensorInfo, name: &str) -> Result<usize> {
    supported(info, name)?;
    info.row_bytes()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| Error::input(format!("the rows of `{name}` are not whole blocks")))
}

/// A matrix, kept as it is stored.
fn matrix(dtype: GgmlDType, bytes: &[u8], shape: &[usize]) -> Result<Weight> {
    let dense = |dtype| Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu);
    Ok(match dtype {
        GgmlDType::F32 => Weight::Dense(dense(DType::F32)?),
        GgmlDType::F16 => Weight::Dense(dense(DType::F16)?),
        GgmlDType::BF16 => Weight::Dense(dense(DType::BF16)?),
        // llama.cpp falls back to them where rows are not multiples of 256, as in SmolLM2-135M. The
        // products know no such blocks, so these become numbers.
        GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1 => Weight::Dense(floats(dtype, bytes, shape)?),
        _ => Weight::Quantised(Arc::new(quantised(dtype, bytes, shape)?)),
    })
}

/// Values as `f32`, whatever the type.
fn floats(dtype: GgmlDType, bytes: &[u8], shape: &[usize]) -> Result<Tensor> {
    let dense = |dtype| Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(DType::F32);
    Ok(match dtype {
        GgmlDType::F32 => dense(DType::F32)?,
        GgmlDType::F16 => dense(DType::F16)?,
        GgmlDType::BF16 => dense(DType::BF16)?,
        _ => quantised(dtype, bytes, shape)?.dequantize(&Device::Cpu)?,
    })
}

fn quantised(dtype: GgmlDType, bytes: &[u8], shape: &[usize]) -> Result<QTensor> {
    Ok(qtensor_from_ggml(dtype, bytes, shape.to_vec(), &Device::Cpu)?)
}

/// Puts the rows of each head back into the order of transformers.
///
/// A rotary embedding turns pairs of rows. transformers pairs row `i` of a head with row `i + half`,
/// llama.cpp row `2i` with row `2i + 1`; its converter reorders rows of `llama` (`LlamaModel.permute`).
/// Rows are moved whole, so blocks stay what they are.
fn halves<T: Copy>(rows: &[T], heads: usize, width: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(rows.len() / heads) {
        for side in 0..2 {
            for pair in head.chunks_exact(2 * width) {
                out.extend_from_slice(&pair[side * width..][..width]);
            }
        }
    }
    out
}
