//! The decoder a second time, in candle's differentiable operations and in `f64`: slow, one sequence
//! at a time, and written from the published equations rather than from `src/model/cpu`.
//!
//! It uses no fused operation (`rope`, `rms_norm`, `softmax_last_dim`): candle gives those no gradient.
//! It knows no rope scaling; the reference checkpoints cover that.

use bylaw::model::config::{DecoderConfig, RopeScaling};
use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::Decoder;
use candle_core::{D, DType, Device, Result, Tensor, Var};

pub struct Twin {
    config: DecoderConfig,
    /// The decoder's parameters, in its order.
    names: Vec<String>,
    vars: Vec<Var>,
}

impl Twin {
    pub fn new(decoder: &Decoder) -> Result<Self> {
        assert_eq!(decoder.config.rope_scaling, RopeScaling::None);
        let to_var = |tensor: &Tensor| Var::from_tensor(&tensor.to_dtype(DType::F64)?);
        Ok(Self {
            config: decoder.config.clone(),
            names: decoder.parameters.iter().map(|p| p.name.clone()).collect(),
            vars: decoder
                .parameters
                .iter()
                .map(|p| to_var(p.weight.dense().unwrap()))
                .collect::<Result<_>>()?,
        })
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let index = self.names.iter().position(|known| known == name)?;
        Some(self.vars[index].as_tensor())
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.find(&format!("{name}.weight")).expect(name)
    }

    /// `x · Wᵀ (+ b)`.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let y = x.matmul(&self.weight(name).t()?)?;
        match self.find(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn rms_norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean_square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.rms_eps))?;
        x.broadcast_div(&mean_square.sqrt()?)?.broadcast_mul(self.weight(name))
    }

    /// Rotates `x (heads, T, head_dim)`: its two halves are the two coordinates.
    fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (_, length, dim) = x.dims3()?;
        let half = dim / 2;
        let angle = |position: usize, i: usize| position as f64 / self.config.rope_theta.powf(i as f64 / half as f64);
        let angles: Vec<f64> = (0..length).flat_map(|t| (0..half).map(move |i| angle(t, i))).collect();
        let angles = Tensor::from_vec(angles, (length, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)
    }

    fn attention(&self, x: &Tensor, prefix: &str) -> Result<Tensor> {
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
        let query = self.rope(&split("q_proj", heads)?)?;
        let key = repeat(self.rope(&split("k_proj", kv_heads)?)?)?;
        let value = repeat(split("v_proj", kv_heads)?)?;
        let scores = (query.matmul(&key.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
        let future: Vec<f64> = (0..length * length)
            .map(|at| if at % length > at / length { -1e30 } else { 0.0 })
            .collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(future, (length, length), &Device::Cpu)?)?;
        let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        let out = out.transpose(0, 1)?.reshape((length, heads * head_dim))?;
        self.linear(&out, &format!("{prefix}.o_proj"))
    }

    /// Normed hidden states `(T, hidden)` after every token.
    fn hidden(&self, tokens: &[u32]) -> Result<Tensor> {
        let mut x = self
            .weight("model.embed_tokens")
            .index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        for layer in 0..self.config.layers {
            let prefix = format!("model.layers.{layer}");
            let normed = self.rms_norm(&x, &format!("{prefix}.input_layernorm"))?;
            x = (&x + self.attention(&normed, &format!("{prefix}.self_attn"))?)?;
            let normed = self.rms_norm(&x, &format!("{prefix}.post_attention_layernorm"))?;
            let gate = self.linear(&normed, &format!("{prefix}.mlp.gate_proj"))?;
            let up = self.linear(&normed, &format!("{prefix}.mlp.up_proj"))?;
            // silu(z) = z / (1 + exp(-z))
            let silu = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
            x = (&x + self.linear(&(silu * up)?, &format!("{prefix}.mlp.down_proj"))?)?;
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
        let logits = (hidden.matmul(&head.t()?)? / temperature)?;
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
