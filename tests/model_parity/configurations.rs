//! `config.json` as it is found in the wild.

use bylaw::model::config::{DecoderConfig, Family};
use bylaw::model::family;
use bylaw::model::rope::RopeScaling;
use serde::Deserialize;
use serde_json::json;

use crate::support::{CHECKPOINTS, golden, load};

/// Catches: reading only the layout of transformers 5, or only the older one.
#[test]
fn both_layouts_of_the_configuration_are_the_same_model() {
    for name in CHECKPOINTS {
        let read = |file: &str| family::parse(&std::fs::read_to_string(golden(name).join(file)).unwrap()).unwrap();
        assert_eq!(read("config-4x.json"), read("config.json"), "{name}");
    }
    let scaling = |name: &str| load(name).0.config.rope.scaling;
    assert_eq!(scaling("llama"), RopeScaling::None);
    assert!(matches!(scaling("llama3"), RopeScaling::Llama3 { factor: 8.0, .. }));
}

/// Catches: refusing the many published configurations whose rope scaling says its kind twice, as
/// transformers 4.43 and later saved it.
#[test]
fn rope_scaling_may_say_its_kind_twice() {
    let text = std::fs::read_to_string(golden("llama").join("config-4x.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["rope_scaling"] = serde_json::json!({ "factor": 2.0, "rope_type": "linear", "type": "linear" });
    let config = family::parse(&json.to_string()).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 2.0 });
}

/// Catches: frequencies in higher precision than the model was trained with, or rounded elsewhere; at
/// position 100,000 a difference in the last place turns a head by 0.01.
#[test]
fn rotary_frequencies_are_those_of_transformers() {
    #[derive(Deserialize)]
    struct Case {
        config: serde_json::Value,
        frequencies: Vec<Vec<f32>>,
        attention_factors: Vec<f32>,
    }
    let text = std::fs::read_to_string(golden("rope.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Case> = serde_json::from_value(json["cases"].take()).unwrap();
    for case in cases {
        let config = parse(&case.config);
        assert_eq!(config.ropes().count(), case.frequencies.len());
        for ((rope, frequencies), factor) in config.ropes().zip(&case.frequencies).zip(&case.attention_factors) {
            assert_eq!(rope.attention_factor(), *factor, "{rope:?}");
            let ours = rope.frequencies(config.head_dim);
            assert_eq!(ours.len(), frequencies.len());
            let places = ours
                .iter()
                .zip(frequencies)
                .map(|(a, b)| a.to_bits().abs_diff(b.to_bits()));
            let places: Vec<u32> = places.collect();
            println!("{:?}: last places off {places:?}", config.family);
            assert!(places.iter().all(|places| *places <= 1), "{rope:?}");
        }
    }
}

fn parse(json: &serde_json::Value) -> DecoderConfig {
    family::parse(&json.to_string()).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// A configuration with small sizes and the given keys.
fn with(architecture: &str, keys: serde_json::Value) -> DecoderConfig {
    let mut json = json!({
        "architectures": [architecture],
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    });
    for (key, value) in keys.as_object().unwrap() {
        json[key] = value.clone();
    }
    parse(&json)
}

fn windows(config: &DecoderConfig) -> Vec<Option<usize>> {
    (0..config.layers).map(|layer| config.attention(layer).window).collect()
}

/// Catches: a window where the published checkpoint has none, or none where transformers has one by
/// default; `null` taken for an absent key.
#[test]
fn windows_are_where_the_configuration_puts_them() {
    let mistral = |keys| windows(&with("MistralForCausalLM", keys));
    assert_eq!(mistral(json!({ "sliding_window": null })), [None; 6]);
    assert_eq!(mistral(json!({})), [Some(4096); 6]);
    let qwen = |keys| windows(&with("Qwen2ForCausalLM", keys));
    // As Qwen2.5 is published: the keys are there, the window is off.
    let keys = json!({ "use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 2 });
    assert_eq!(qwen(keys), [None; 6]);
    let keys = json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 4 });
    assert_eq!(qwen(keys), [None, None, None, None, Some(8), Some(8)]);
    let full = "full_attention";
    let types = [full, "sliding_attention", full, full, full, full];
    let keys = json!({ "use_sliding_window": true, "sliding_window": 8, "layer_types": types });
    assert_eq!(qwen(keys), [None, Some(8), None, None, None, None]);
    let gemma2 = windows(&with("Gemma2ForCausalLM", json!({ "sliding_window": 8 })));
    assert_eq!(gemma2, [Some(8), None, Some(8), None, Some(8), None]);
    let gemma3 = windows(&with("Gemma3ForCausalLM", json!({ "sliding_window": 8 })));
    assert_eq!(gemma3, [Some(8), Some(8), Some(8), Some(8), Some(8), None]);
    assert_eq!(
        windows(&with("Phi3ForCausalLM", json!({ "sliding_window": 9 }))),
        [Some(9); 6]
    );
}

/// Catches: defaults of transformers that published configurations rely on, and numbers taken from the
/// vision tower.
#[test]
fn the_text_part_of_gemma_3_with_images_is_read() {
    // The shape of google/gemma-3-4b-it's config.json: sizes that are defaults are left out.
    let config = parse(&json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
            "sliding_window": 1024,
        },
        "vision_config": { "hidden_size": 1152, "num_hidden_layers": 27 },
    }));
    assert_eq!(config.family, Family::Gemma3);
    assert_eq!((config.hidden, config.layers, config.vocab), (2560, 34, 262_208));
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!(
        (config.rope.theta, &config.rope.scaling),
        (1e6, &RopeScaling::Linear { factor: 8.0 })
    );
    assert_eq!(config.local_rope.as_ref().map(|rope| rope.theta), Some(10_000.0));
    assert_eq!([config.rope_of(4), config.rope_of(5)], [1, 0]);
    assert_eq!(config.attention(5).scale, 1.0 / 16.0);
    assert!(config.tied && config.qk_norm && config.attention(5).softcap.is_none());
}

/// Catches: long positions accepted with short factors, which no model was trained for; an attention
/// factor of 1; Phi-4-mini's heads rotated whole.
#[test]
fn longrope_serves_the_context_of_its_short_factors() {
    let factors = vec![1.5; 3];
    let keys = json!({
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_scaling": { "type": "longrope", "short_factor": factors, "long_factor": factors },
    });
    let config = with("Phi3ForCausalLM", keys.clone());
    assert_eq!(config.context, 4096);
    assert_eq!(config.rope.frequencies(config.head_dim).len(), 3);
    // sqrt(1 + ln(32) / ln(4096)), as Phi-3-mini-128k.
    assert!((config.rope.attention_factor() - 1.190_238).abs() < 1e-6);
    let mut old = keys;
    old["rope_scaling"]["type"] = "su".into();
    assert_eq!(with("Phi3ForCausalLM", old), config);
}
