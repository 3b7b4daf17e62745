//! What the decoder needs to know of a model, whatever its family.

use super::rope::Rope;

/// The family of a checkpoint: how its `config.json` and tensors are called (`super::family`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
}

/// The gate's activation in the MLP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)` (Elfwing et al. 2017).
    #[default]
    Silu,
    /// The tanh approximation of GELU (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// How the queries of one layer read its keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Multiplies the product of query and key.
    pub scale: f32,
    /// `cap · tanh(score / cap)` before the softmax (Gemma 2).
    pub softcap: Option<f32>,
    /// A query sees itself and the `window - 1` positions before it; `None` is all of them.
    pub window: Option<usize>,
}

/// The features of a decoder.
///
/// `DecoderConfig::default()` is a Llama without optional features whose sizes are still 0, to be
/// completed by `..`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub family: Family,
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// The longest sequence, in tokens. Of a model with longrope it is the length that the short
    /// factors serve (`original_max_position_embeddings`), for only those are used.
    pub context: usize,
    pub rms_eps: f32,
    /// The rotary embedding of layers without a window, and of all when there is no `local_rope`.
    pub rope: Rope,
    /// The rotary embedding of layers with a window (Gemma 3).
    pub local_rope: Option<Rope>,
    /// How many positions a layer with a window sees.
    pub window: Option<usize>,
    /// Whether each layer has the window; empty when none has.
    pub windowed: Vec<bool>,
    /// The output projection is the embedding.
    pub tied: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// A bias on the attention's output projection.
    pub output_bias: bool,
    /// Biases on the three projections of the MLP.
    pub mlp_bias: bool,
    /// RMSNorm of each head's queries and keys, before the rotation.
    pub qk_norm: bool,
    /// RMSNorm of the attention's and the MLP's output, before it joins the residual stream.
    pub post_norms: bool,
    /// Norms multiply by `1 + weight` instead of `weight`.
    pub norm_plus_one: bool,
    /// Embeddings are multiplied by `sqrt(hidden)` on their way in.
    pub scaled_embedding: bool,
    pub activation: Activation,
    /// Scores are divided by the root of this number; `None` is `head_dim`.
    pub query_pre_attn_scalar: Option<usize>,
    /// See [`Attention::softcap`].
    pub attention_softcap: Option<f32>,
    /// `cap · tanh(logit / cap)`.
    pub final_softcap: Option<f32>,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self {
            family: Family::default(),
            vocab: 0,
            hidden: 0,
            intermediate: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            context: 0,
            rms_eps: 1e-6,
            rope: Rope::plain(10_000.0),
            local_rope: None,
            window: None,
            windowed: Vec::new(),
            tied: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norms: false,
            norm_plus_one: false,
            scaled_embedding: false,
            activation: Activation::default(),
            query_pre_attn_scalar: None,
            attention_softcap: None,
            final_softcap: None,
        }
    }
}

impl DecoderConfig {
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn has_window(&self, layer: usize) -> bool {
        self.windowed.get(layer).copied().unwrap_or(false)
    }

    /// How layer `layer` attends.
    pub fn attention(&self, layer: usize) -> Attention {
        Attention {
            scale: 1.0 / (self.query_pre_attn_scalar.unwrap_or(self.head_dim) as f32).sqrt(),
            softcap: self.attention_softcap,
            window: self.window.filter(|_| self.has_window(layer)),
        }
    }

    /// The distinct rotary embeddings, [`rope_of`](Self::rope_of) points at one.
    pub fn ropes(&self) -> impl Iterator<Item = &Rope> {
        std::iter::once(&self.rope).chain(&self.local_rope)
    }

    /// Which of [`ropes`](Self::ropes) layer `layer` rotates by.
    pub fn rope_of(&self, layer: usize) -> usize {
        usize::from(self.local_rope.is_some() && self.has_window(layer))
    }

    /// What is added to a norm's weight.
    pub fn norm_offset(&self) -> f32 {
        if self.norm_plus_one { 1.0 } else { 0.0 }
    }
}
