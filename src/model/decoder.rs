//! The decoder: parameters in a flat list, and where each layer finds its own.
//!
//! Its features (grouped queries, biases, norms, windows, rope scaling) come from [`DecoderConfig`].
//! Parameters carry the names of Hugging Face checkpoints; where a family stores several as one tensor,
//! `super::family` knows. How a forward pass is computed is not known here; see [`super::cpu`].

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use rand::Rng as _;

use super::config::{Attention, DecoderConfig};
use super::lora::{Adapter, Adapters};
use super::rope::RopeTable;
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
    /// Training leaves it as it is: it has no gradient and no moments, and copies of the decoder share it.
    pub frozen: bool,
}

/// The name and shape that a decoder of some configuration expects.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// The random initialisation. Norm weights start at what makes them multiply by 1, biases at 0.
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
    /// What is added to the product, if this map is adapted.
    pub adapter: Option<Adapter>,
}

impl LinearLayout {
    /// It is its weights' product and nothing else.
    pub fn is_plain(&self) -> bool {
        self.bias.is_none() && self.adapter.is_none()
    }
}

#[derive(Debug, Clone)]
pub struct LayerLayout {
    pub attention: Attention,
    /// Which of the decoder's `ropes` rotates queries and keys.
    pub rope: usize,
    pub attention_norm: usize,
    pub query: LinearLayout,
    pub key: LinearLayout,
    pub value: LinearLayout,
    /// Norms `(head_dim)` of the queries and of the keys, if the model has them.
    pub qk_norms: Option<[usize; 2]>,
    pub output: LinearLayout,
    /// Norms of the attention's and of the MLP's output, if the model has them.
    pub post_norms: Option<[usize; 2]>,
    pub mlp_norm: usize,
    pub gate: LinearLayout,
    pub up: LinearLayout,
    pub down: LinearLayout,
}

impl LayerLayout {
    /// The parameters of the layer.
    pub fn parameters(&self) -> impl Iterator<Item = usize> {
        let of_linears = self.linears().into_iter().flat_map(|linear| {
            let adapter = linear.adapter.as_ref();
            [
                Some(linear.weight),
                linear.bias,
                adapter.map(|adapter| adapter.a),
                adapter.map(|adapter| adapter.b),
            ]
        });
        let norms = self.qk_norms.into_iter().chain(self.post_norms).flatten();
        let norms = norms.chain([self.attention_norm, self.mlp_norm]);
        of_linears.flatten().chain(norms)
    }

    /// The linear maps, in the order of a pass.
    pub fn linears(&self) -> [&LinearLayout; 7] {
        let Self {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            ..
        } = self;
        [query, key, value, output, gate, up, down]
    }

    pub fn linears_mut(&mut self) -> [&mut LinearLayout; 7] {
        let Self {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            ..
        } = self;
        [query, key, value, output, gate, up, down]
    }
}

#[derive(Debug, Clone)]
pub struct Layout {
    pub embedding: usize,
    pub layers: Vec<LayerLayout>,
    pub norm: usize,
    /// Equal to `embedding` when tied.
    pub head: usize,
}

/// How training computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Training {
    /// Products of operands rounded to bf16 with sums in `f32`; weights, gradients and moments stay `f32`.
    pub halves: bool,
    /// A layer keeps its input alone and computes the rest a second time for its backward pass.
    pub recompute: bool,
}

#[derive(Debug, Clone)]
pub struct Decoder {
    pub config: DecoderConfig,
    pub parameters: Vec<Parameter>,
    pub layout: Arc<Layout>,
    /// One table for each of the configuration's `ropes`.
    pub ropes: Arc<[RopeTable]>,
    pub training: Training,
    /// What the last of the parameters are, if some maps are adapted.
    pub adapters: Option<Adapters>,
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
            adapter: None,
        }
    }

    /// A norm of `width` numbers that starts as the plain RMSNorm.
    fn norm(&mut self, config: &DecoderConfig, name: &str, width: usize) -> usize {
        let init = if config.norm_plus_one { Init::Zeros } else { Init::Ones };
        self.push(format!("{name}.weight"), &[width], init)
    }

    fn layer(&mut self, config: &DecoderConfig, index: usize) -> LayerLayout {
        let prefix = format!("model.layers.{index}");
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (query_width, kv_width) = (config.query_width(), config.kv_width());
        let (qkv_bias, mlp_bias) = (config.qkv_bias, config.mlp_bias);
        // Projections back into the residual stream shrink with depth (Radford et al. 2019).
        let residual = 0.7 / (2.0 * config.layers as f32).sqrt();
        // Gemma calls the norm after attention as the others call the one before the MLP.
        let before_mlp = match config.post_norms {
            true => "pre_feedforward_layernorm",
            false => "post_attention_layernorm",
        };
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        LayerLayout {
            attention: config.attention(index),
            rope: config.rope_of(index),
            attention_norm: self.norm(config, &format!("{prefix}.input_layernorm"), hidden),
            query: self.linear(&format!("{attention}.q_proj"), query_width, hidden, qkv_bias, 0.7),
            key: self.linear(&format!("{attention}.k_proj"), kv_width, hidden, qkv_bias, 0.7),
            value: self.linear(&format!("{attention}.v_proj"), kv_width, hidden, qkv_bias, 0.7),
            qk_norms: config.qk_norm.then(|| {
                ["q_norm", "k_norm"].map(|name| self.norm(config, &format!("{attention}.{name}"), config.head_dim))
            }),
            output: self.linear(
                &format!("{attention}.o_proj"),
                hidden,
                query_width,
                config.output_bias,
                residual,
            ),
            post_norms: config.post_norms.then(|| {
                ["post_attention_layernorm", "post_feedforward_layernorm"]
                    .map(|name| self.norm(config, &format!("{prefix}.{name}"), hidden))
            }),
            mlp_norm: self.norm(config, &format!("{prefix}.{before_mlp}"), hidden),
            gate: self.linear(&format!("{mlp}.gate_proj"), intermediate, hidden, mlp_bias, 0.7),
            up: self.linear(&format!("{mlp}.up_proj"), intermediate, hidden, mlp_bias, 0.7),
            down: self.linear(&format!("{mlp}.down_proj"), hidden, intermediate, mlp_bias, residual),
        }
    }
}

/// The parameters a decoder of this configuration has, in order, and where its layers find them.
pub fn specification(config: &DecoderConfig) -> (Vec<ParameterSpec>, Layout) {
    let mut specs = Specs::default();
    let table = [config.vocab, config.hidden];
    let embedding = specs.push("model.embed_tokens.weight".into(), &table, Init::Normal(0.02));
    let layers = (0..config.layers).map(|index| specs.layer(config, index)).collect();
    let norm = specs.norm(config, "model.norm", config.hidden);
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
                    frozen: false,
                })
            })
            .collect::<Result<_>>()?;
        let ropes = config
            .ropes()
            .map(|rope| RopeTable::new(rope, config.head_dim, config.context))
            .collect();
        Ok(Self {
            config,
            parameters,
            layout: Arc::new(layout),
            ropes,
            training: Training::default(),
            adapters: None,
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

    /// A copy with its own weights, to be trained while the original stays; what is frozen is shared.
    pub fn copy(&self) -> Result<Self> {
        let parameters = self
            .parameters
            .iter()
            .map(|parameter| {
                let dense = parameter.weight.dense()?;
                Ok(Parameter {
                    weight: Weight::Dense(if parameter.frozen { dense.clone() } else { dense.copy()? }),
                    ..parameter.clone()
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            parameters,
            ..self.clone()
        })
    }

    /// The parameters without those of adapters.
    pub fn base_parameters(&self) -> &[Parameter] {
        let count = self
            .adapters
            .as_ref()
            .map_or(self.parameters.len(), |adapters| adapters.first);
        &self.parameters[..count]
    }

    /// The parameters that training changes.
    pub fn learning(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| !parameter.frozen)
    }

    /// The same decoder with its matrices in `dtype`; norms, biases and adapters stay `f32`.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let mut converted = self.clone();
        let count = self.base_parameters().len();
        for parameter in &mut converted.parameters[..count] {
            if let Weight::Dense(tensor) = &parameter.weight
                && tensor.rank() > 1
            {
                parameter.weight = Weight::Dense(tensor.to_dtype(dtype)?);
            }
        }
        Ok(converted)
    }

    /// Bytes of all weights as they are held.
    pub fn weight_bytes(&self) -> usize {
        let bytes = |parameter: &Parameter| match &parameter.weight {
            Weight::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Weight::Quantised(tensor) => tensor.storage_size_in_bytes(),
        };
        self.parameters.iter().map(bytes).sum()
    }

    /// The number formats that the weights are held in, each once, in the order of their names.
    pub fn formats(&self) -> BTreeSet<String> {
        let format = |parameter: &Parameter| match &parameter.weight {
            Weight::Dense(tensor) => tensor.dtype().as_str().to_owned(),
            Weight::Quantised(tensor) => format!("{:?}", tensor.dtype()),
        };
        self.parameters.iter().map(format).collect()
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
