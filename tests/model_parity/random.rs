//! Random decoders with every feature, and batches for them.

use bylaw::model::config::{Activation, DecoderConfig};
use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::{Decoder, Weight, normal};
use bylaw::model::rope::{Rope, RopeScaling};
use bylaw::seed::Seed;
use candle_core::{Device, Tensor};

/// The sets of features that [`random_decoder`] knows.
pub const FEATURES: [&str; 5] = ["untied", "tied", "gemma2", "gemma3", "phi3"];

/// Six query heads over two key/value heads, a query width unlike the hidden width, biases, and no
/// size that is a multiple of the vector width.
fn plain() -> DecoderConfig {
    DecoderConfig {
        vocab: 37,
        hidden: 20,
        intermediate: 44,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        head_dim: 6,
        context: 640,
        rms_eps: 1e-2,
        rope: Rope::plain(500.0),
        tied: true,
        qkv_bias: true,
        ..DecoderConfig::default()
    }
}

/// Features as families combine them, and then some.
fn config(features: &str) -> DecoderConfig {
    let gemma = DecoderConfig {
        layers: 3,
        post_norms: true,
        norm_plus_one: true,
        scaled_embedding: true,
        activation: Activation::GeluTanh,
        query_pre_attn_scalar: Some(10),
        ..plain()
    };
    match features {
        "untied" => DecoderConfig { tied: false, ..plain() },
        "tied" => plain(),
        "gemma2" => DecoderConfig {
            window: Some(5),
            windowed: vec![true, false, true],
            output_bias: true,
            attention_softcap: Some(1.5),
            final_softcap: Some(2.0),
            ..gemma
        },
        "gemma3" => DecoderConfig {
            window: Some(4),
            windowed: vec![true, true, false],
            qk_norm: true,
            local_rope: Some(Rope::plain(50.0)),
            rope: Rope {
                scaling: RopeScaling::Linear { factor: 4.0 },
                ..Rope::plain(500.0)
            },
            ..gemma
        },
        "phi3" => DecoderConfig {
            window: Some(2),
            windowed: vec![false, true],
            mlp_bias: true,
            rope: Rope {
                partial: 0.7,
                ..Rope::plain(500.0)
            },
            ..plain()
        },
        other => panic!("no features are called {other}"),
    }
}

pub fn random_decoder(features: &str) -> Decoder {
    let mut decoder = Decoder::random(config(features), Seed::new(1)).unwrap();
    for parameter in &mut decoder.parameters {
        let noise = normal(parameter.weight.elem_count(), 0.3, Seed::new(2).child(&parameter.name));
        let is_norm = parameter.name.contains("norm");
        let middle = if is_norm {
            1.0 - decoder.config.norm_offset()
        } else {
            0.0
        };
        let values: Vec<f32> = noise.into_iter().map(|x| middle + x).collect();
        let shape = parameter.weight.dense().unwrap().shape().clone();
        parameter.weight = Weight::Dense(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    decoder
}

/// Sequences of unequal lengths and prompts: one without a completion, one of a single token, and one
/// whose completion is longer than a chunk of the output projection.
pub fn ragged(decoder: &Decoder) -> Vec<Sequence> {
    let shapes = [(300, 2), (7, 3), (5, 5), (1, 1), (2, 1), (33, 20)];
    let mut random = Seed::new(3).rng();
    shapes
        .into_iter()
        .map(|(length, completion)| Sequence {
            tokens: (0..length)
                .map(|_| rand::Rng::random_range(&mut random, 0..decoder.config.vocab as u32))
                .collect(),
            completion,
        })
        .collect()
}
