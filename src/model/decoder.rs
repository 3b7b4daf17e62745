//! The decoder: parameters in a flat list, and where each layer finds its own.
//!
//! Its features (grouped queries, biases, rope scaling, tied embeddings) come from
//! [`DecoderConfig`]. Parameters carry the names of Hugging Face checkpoints. How a forward pass is
//! computed is not known here; see [`super::cpu`].

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use rand::Rng as _;

use super::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::seed::Seed;

/// The values of a weight.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Floating-point numbers of any candle type; what is trained is `f32`.
    Dense(Tensor),
    /// Blocks of a GGUF file, to be read only.
    Quantised(Arc<QTensor>),
}

impl Weight {
    pub fn elem_count(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count(),
            Self::Quantised(tensor) => tensor.shape().elem_count(),
        }
    }

    /// The tensor of a dense weight; an error for a quantised one.
    pub fn dense(&self) -> Result<&Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor),
            Self::Quantised(_) => Err(Error::config(
                "a quantised model can answer and judge, but not be trained or saved",
            )
            .help("give the checkpoint that the GGUF file was made from")),
        }
    }
}

/// A weight with its name in the checkpoint.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    pub weight: Weight,
}

/// The name and shape that a decoder of some configuration expects.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// Standard deviation of the random initialisation; `None` for norm weights, which start at 1,
    /// and biases, which start at 0.
    init: Init,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Init {
    Normal(f32),
    Ones,
    Zeros,
}

/// Indices into the parameter list.
#[derive(Debug, Clone)]
pub struct LinearLayout {
    /// `(outputs, inputs)`.
    pub weight: usize,
    /// `(outputs)`.
    pub bias: Option<usize>,
    pub outputs: usize,
    pub inputs: usize,
}

#[derive(Debug, Clone)]
pub struct LayerLayout {
    pub attention_norm: usize,
    pub query: LinearLayout,
    pub key: LinearLayout,
    pub value: LinearLayout,
    pub output: LinearLayout,
    pub mlp_norm: usize,
    pub gate: LinearLayout,
    pub up: LinearLayout,
    pub down: LinearLayout,
}

#[derive(Debug, Clone)]
pub struct Layout {
    pub embedding: usize,
    pub layers: Vec<LayerLayout>,
    pub norm: usize,
    /// Equal to `embedding` when tied.
    pub head: usize,
}

/// Cosines and sines `(context, head_dim / 2)` of the rotary embedding.
#[derive(Debug)]
pub struct RopeTable {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

#[derive(Debug, Clone)]
pub struct Decoder {
    pub config: DecoderConfig,
    pub parameters: Vec<Parameter>,
    pub layout: Arc<Layout>,
    pub rope: Arc<RopeTable>,
}

/// Collects the parameters of a configuration in order.
#[derive(Default)]
struct Specs(Vec<ParameterSpec>);

impl Specs {
    fn push(&mut self, name: String, shape: &[usize], init: Init) -> usize {
        self.0.push(ParameterSpec {
            name,
            shape: shape.to_vec(),
            init,
        });
        self.0.len() - 1
    }

    /// A projection with weights `(outputs, inputs)`, initialised so that it keeps the scale of its
    /// input up to `gain`.
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool, gain: f32) -> LinearLayout {
        let init = Init::Normal(gain / (inputs as f32).sqrt());
        let weight = self.push(format!("{name}.weight"), &[outputs, inputs], init);
        let bias = bias.then(|| self.push(format!("{name}.bias"), &[outputs], Init::Zeros));
        LinearLayout {
            weight,
            bias,
            outputs,
            inputs,
        }
    }

    fn layer(&mut self, config: &DecoderConfig, index: usize) -> LayerLayout {
        let prefix = format!("model.layers.{index}");
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        // Projections back into the residual stream shrink with depth (Radford et al. 2019).
        let residual = 0.7 / (2.0 * config.layers as f32).sqrt();
        LayerLayout {
            attention_norm: self.push(format!("{prefix}.input_layernorm.weight"), &[hidden], Init::Ones),
            query: self.linear(
                &format!("{prefix}.self_attn.q_proj"),
                config.query_width(),
                hidden,
                config.qkv_bias,
                0.7,
            ),
            key: self.linear(
                &format!("{prefix}.self_attn.k_proj"),
                config.kv_width(),
                hidden,
                config.qkv_bias,
                0.7,
            ),
            value: self.linear(
                &format!("{prefix}.self_attn.v_proj"),
                config.kv_width(),
                hidden,
                config.qkv_bias,
                0.7,
            ),
            output: self.linear(
                &format!("{prefix}.self_attn.o_proj"),
                hidden,
                config.query_width(),
                false,
                residual,
            ),
            mlp_norm: self.push(
                format!("{prefix}.post_attention_layernorm.weight"),
                &[hidden],
                Init::Ones,
            ),
            gate: self.linear(&format!("{prefix}.mlp.gate_proj"), intermediate, hidden, false, 0.7),
            up: self.linear(&format!("{prefix}.mlp.up_proj"), intermediate, hidden, false, 0.7),
            down: self.linear(
                &format!("{prefix}.mlp.down_proj"),
                hidden,
                intermediate,
                false,
                residual,
            ),
        }
    }
}

/// The parameters a decoder of this configuration has, in order, and where its layers find them.
pub fn specification(config: &DecoderConfig) -> (Vec<ParameterSpec>, Layout) {
    let mut specs = Specs::default();
    let table = [config.vocab, config.hidden];
    let embedding = specs.push("model.embed_tokens.weight".into(), &table, Init::Normal(0.02));
    let layers = (0..config.layers).map(|index| specs.layer(config, index)).collect();
    let norm = specs.push("model.norm.weight".into(), &[config.hidden], Init::Ones);
    let head = if config.tied {
        embedding
    } else {
        specs.push("lm_head.weight".into(), &table, Init::Normal(0.02))
    };
    let layout = Layout {
        embedding,
        layers,
        norm,
        head,
    };
    (specs.0, layout)
}

impl Decoder {
    /// Builds a decoder from its weights, asked for by specification.
    pub fn build(config: DecoderConfig, mut weight: impl FnMut(&ParameterSpec) -> Result<Weight>) -> Result<Self> {
        let (specs, layout) = specification(&config);
        let parameters = specs
            .into_iter()
            .map(|spec| {
                let weight = weight(&spec)?;
                Ok(Parameter {
                    name: spec.name,
                    weight,
                })
            })
            .collect::<Result<_>>()?;
        let rope = rope_table(&config);
        Ok(Self {
            config,
            parameters,
            layout: Arc::new(layout),
            rope: Arc::new(rope),
        })
    }

    /// A decoder with random weights.
    pub fn random(config: DecoderConfig, seed: Seed) -> Result<Self> {
        Self::build(config, |spec| {
            let count = spec.shape.iter().product();
            let values = match spec.init {
                Init::Ones => vec![1.0; count],
                Init::Zeros => vec![0.0; count],
                Init::Normal(deviation) => normal(count, deviation, seed.child(&spec.name)),
            };
            Ok(Weight::Dense(Tensor::from_vec(
                values,
                spec.shape.as_slice(),
                &Device::Cpu,
            )?))
        })
    }

    /// A copy with its own weights, to be trained while the original stays.
    pub fn copy(&self) -> Result<Self> {
        let parameters = self
            .parameters
            .iter()
            .map(|parameter| {
                Ok(Parameter {
                    name: parameter.name.clone(),
                    weight: Weight::Dense(parameter.weight.dense()?.copy()?),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            parameters,
            ..self.clone()
        })
    }

    /// The same decoder with its matrices in `dtype`; norms and biases stay `f32`.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let mut converted = self.clone();
        for parameter in &mut converted.parameters {
            if let Weight::Dense(tensor) = &parameter.weight
                && tensor.rank() > 1
            {
                parameter.weight = Weight::Dense(tensor.to_dtype(dtype)?);
            }
        }
        Ok(converted)
    }

    pub fn parameter_count(&self) -> usize {
        self.parameters
            .iter()
            .map(|parameter| parameter.weight.elem_count())
            .sum()
    }

    /// An error when `tokens` do not fit the context.
    pub fn check_length(&self, tokens: usize) -> Result<()> {
        if tokens > self.config.context {
            return Err(Error::input(format!(
                "{tokens} tokens exceed the model's context of {}",
                self.config.context
            )));
        }
        Ok(())
    }
}

fn rope_table(config: &DecoderConfig) -> RopeTable {
    let frequencies = config.rope_frequencies();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in 0..config.context {
        for frequency in &frequencies {
            // Angles are rounded to f32 before the cosine, as transformers computes them.
            let angle = position as f32 * *frequency as f32;
            cos.push(angle.cos());
            sin.push(angle.sin());
        }
    }
    RopeTable { cos, sin }
}

/// Normal deviates by the Box-Muller transform.
pub fn normal(count: usize, deviation: f32, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            (radius * angle.cos()) as f32 * deviation
        })
        .collect()
}
