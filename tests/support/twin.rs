//! The decoder a second time, in candle's differentiable operations and in `f64`: slow, one sequence
//! at a time, and written from the published equations rather than from `src/model/cpu`.
//!
//! It uses no fused operation (`rope`, `rms_norm`, `softmax_last_dim`): candle gives those no gradient.
//! Of rope scalings it knows the linear one; the reference checkpoints cover the others.

use std::collections::HashMap;

use bylaw::model::config::{Activation, DecoderConfig};
use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::Decoder;
use bylaw::model::rope::{Rope, RopeScaling};
use candle_core::{D, DType, Device, Result, Tensor, Var};

pub struct Twin {
    config: DecoderConfig,
    /// The decoder's parameters, in its order.
    names: Vec<String>,
    vars: Vec<Var>,
    /// What multiplies the product of an adapted module's adapter, by the module's name.
    scales: HashMap<String, f64>,
}

impl Twin {
    pub fn new(decoder: &Decoder) -> Result<Self> {
        let to_var = |tensor: &Tensor| Var::from_tensor(&tensor.to_dtype(DType::F64)?);
        Ok(Self {
            config: decoder.config.clone(),
            names: decoder.parameters.iter().map(|p| p.name.clone()).collect(),
            vars: decoder
                .parameters
                .iter()
                .map(|p| to_var(p.weight.dense().unwrap()))
                .collect::<Result<_>>()?,
            scales: decoder
                .modules()
                .filter_map(|(name, linear)| Some((name.to_owned(), f64::from(linear.adapter?.scale))))
                .collect(),
        })
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let index = self.names.iter().position(|known| known == name)?;
        Some(self.vars[index].as_tensor())
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.find(&format!("{name}.weight")).expect(name)
    }

    /// `x · Wᵀ (+ scale · x · Aᵀ · Bᵀ) (+ b)`.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mut y = x.matmul(&self.weight(name).t()?)?;
        if let Some(scale) = self.scales.get(name) {
            let [a, b] = ["A", "B"].map(|which| self.weight(&format!("{name}.lora_{which}")));
            y = (y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * *scale)?)?;
        }
        match self.find(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// Over the last dimension, as long as the weights.
    fn rms_norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean_square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.rms_eps))?;
        let weight = match self.config.norm_plus_one {
            true => (self.weight(name) + 1.0)?,
            false => self.weight(name).clone(),
        };
        x.broadcast_div(&mean_square.sqrt()?)?.broadcast_mul(&weight)
    }

    /// Rotates `x (heads, T, head_dim)`: the two halves of what rotates are the two coordinates.
    fn rope(&self, x: &Tensor, rope: &Rope) -> Result<Tensor> {
        let (_, length, dim) = x.dims3()?;
        let stretch = match rope.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => factor,
            _ => panic!("the twin does not know {rope:?}"),
        };
        let half = rope.rotated(dim) / 2;
        let angle = |t: usize, i: usize| t as f64 / stretch / rope.theta.powf(i as f64 / half as f64);
        let angles: Vec<f64> = (0..length).flat_map(|t| (0..half).map(move |i| angle(t, i))).collect();
        let angles = Tensor::from_vec(angles, (length, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rest = x.narrow(2, 2 * half, dim - 2 * half)?;
        if rest.elem_count() == 0 {
            return Tensor::cat(&[first, second], 2);
        }
        Tensor::cat(&[first, second, rest], 2)
    }

    /// 0 where query `i` sees key `j`, else a number that the softmax takes to 0.
    fn mask(&self, layer: usize, length: usize) -> Result<Tensor> {
        let config = &self.config;
        let windowed = config.windowed.get(layer) == Some(&true);
        let window = config.window.filter(|_| windowed).unwrap_or(length);
        let sees = |query: usize, key: usize| key <= query && query - key < window;
        let mask: Vec<f64> = (0..length * length)
            .map(|at| if sees(at / length, at % length) { 0.0 } else { -1e30 })
            .collect();
        Tensor::from_vec(mask, (length, length), &Device::Cpu)
    }

    fn attention(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let prefix = format!("model.layers.{layer}.self_attn");
        let length = x.dim(0)?;
        let DecoderConfig {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.config;
        let split = |name: &str, heads: usize| -> Result<Tensor> {
            let y = self.linear(x, &format!("{prefix}.{name}"))?;
            y.reshape((length, heads, head_dim))?.transpose(0, 1)?.contiguous()
        };
        // Query head h reads key/value head h / (heads / kv_heads).
        let repeat = |y: Tensor| -> Result<Tensor> {
            let copies = vec![y.unsqueeze(1)?; heads / kv_heads];
            Tensor::cat(&copies, 1)?.reshape((heads, length, head_dim))
        };
        let windowed = self.config.windowed.get(layer) == Some(&true);
        let local = self.config.local_rope.as_ref().filter(|_| windowed);
        let rope = local.unwrap_or(&self.config.rope);
        let normed = |x: Tensor, name: &str| match self.config.qk_norm {
            true => self.rms_norm(&x, &format!("{prefix}.{name}")),
            false => Ok(x),
        };
        let query = self.rope(&normed(split("q_proj", heads)?, "q_norm")?, rope)?;
        let key = repeat(self.rope(&normed(split("k_proj", kv_heads)?, "k_norm")?, rope)?)?;
        let value = repeat(split("v_proj", kv_heads)?)?;
        let divisor = self.config.query_pre_attn_scalar.unwrap_or(head_dim) as f64;
        let scores = (query.matmul(&key.t()?.contiguous()?)? / divisor.sqrt())?;
        let scores = softcap(&scores, self.config.attention_softcap)?;
        let scores = scores.broadcast_add(&self.mask(layer, length)?)?;
        let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        let out = out.transpose(0, 1)?.reshape((length, heads * head_dim))?;
        self.linear(&out, &format!("{prefix}.o_proj"))
    }

    fn mlp(&self, x: &Tensor, prefix: &str) -> Result<Tensor> {
        let gate = self.linear(x, &format!("{prefix}.gate_proj"))?;
        let up = self.linear(x, &format!("{prefix}.up_proj"))?;
        let activated = match self.config.activation {
            // z / (1 + exp(-z))
            Activation::Silu => (&gate / (gate.neg()?.exp()? + 1.0)?)?,
            // z / 2 · (1 + tanh(sqrt(2 / π) · (z + 0.044715 · z³)))
            Activation::GeluTanh => {
                let cubic = (&gate + ((gate.sqr()? * &gate)? * 0.044715)?)?;
                let tanh = (cubic * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
                ((&gate / 2.0)? * (tanh + 1.0)?)?
            }
        };
        self.linear(&(activated * up)?, &format!("{prefix}.down_proj"))
    }

    /// Normed hidden states `(T, hidden)` after every token.
    fn hidden(&self, tokens: &[u32]) -> Result<Tensor> {
        let mut x = self
            .weight("model.embed_tokens")
            .index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        if self.config.scaled_embedding {
            x = (x * (self.config.hidden as f64).sqrt())?;
        }
        for layer in 0..self.config.layers {
            let norm = |x: &Tensor, name: &str| self.rms_norm(x, &format!("model.layers.{layer}.{name}"));
            let mlp = format!("model.layers.{layer}.mlp");
            let attended = self.attention(&norm(&x, "input_layernorm")?, layer)?;
            if self.config.post_norms {
                x = (&x + norm(&attended, "post_attention_layernorm")?)?;
                let output = self.mlp(&norm(&x, "pre_feedforward_layernorm")?, &mlp)?;
                x = (&x + norm(&output, "post_feedforward_layernorm")?)?;
            } else {
                x = (&x + attended)?;
                x = (&x + self.mlp(&norm(&x, "post_attention_layernorm")?, &mlp)?)?;
            }
        }
        self.rms_norm(&x, "model.norm")
    }

    /// Log-probabilities `(C)` of the completion's tokens, and the hidden states `(C, hidden)` before
    /// them.
    pub fn completion(&self, sequence: &Sequence, temperature: f64) -> Result<(Tensor, Tensor)> {
        let count = sequence.tokens.len() - sequence.completion;
        let hidden = self
            .hidden(&sequence.tokens)?
            .narrow(0, sequence.completion - 1, count)?;
        let head = self.find("lm_head.weight").unwrap_or(self.weight("model.embed_tokens"));
        let logits = softcap(&hidden.matmul(&head.t()?)?, self.config.final_softcap)?;
        let logits = (logits / temperature)?;
        let targets = Tensor::new(&sequence.tokens[sequence.completion..], &Device::Cpu)?;
        let logprobs = candle_nn::ops::log_softmax(&logits, 1)?.gather(&targets.unsqueeze(1)?, 1)?;
        Ok((logprobs.squeeze(1)?, hidden))
    }

    /// The hidden state `(1, hidden)` after the last token.
    pub fn last_hidden(&self, sequence: &Sequence) -> Result<Tensor> {
        self.hidden(&sequence.tokens)?.narrow(0, sequence.tokens.len() - 1, 1)
    }

    /// The gradient of a scalar by every parameter, in the decoder's order.
    pub fn gradients(&self, scalar: &Tensor) -> Result<Vec<Vec<f64>>> {
        let store = scalar.backward()?;
        let of = |var: &Var| match store.get(var.as_tensor()) {
            Some(gradient) => gradient.flatten_all()?.to_vec1(),
            None => Ok(vec![0.0; var.elem_count()]),
        };
        self.vars.iter().map(of).collect()
    }
}

/// `cap · tanh(x / cap)`, or `x`.
fn softcap(x: &Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x.clone()),
    }
}
