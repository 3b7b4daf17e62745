//! Checkpoints on disk: saved and loaded again, and bad ones refused.

use std::collections::BTreeSet;
use std::path::Path;

use bylaw::error::{Error, ErrorKind};
use bylaw::model::files::{Model, load_decoder};
use candle_core::{DType, Tensor};
use safetensors::SafeTensors;

use crate::support::{CHECKPOINTS, golden, load};

/// A writable copy of a reference checkpoint, without the expectations.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap();
        if file != "expected.json" {
            std::fs::copy(&path, dir.path().join(file)).unwrap();
        }
    }
    dir
}

fn load_model(dir: &Path) -> bylaw::error::Result<Model> {
    Model::load(dir.to_str().unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Catches: weights rounded or renamed on the way to disk, a configuration that loads as another
/// model, a tokenizer left behind. `BYLAW_KEEP_SAVED=DIR` keeps what was saved, for
/// `scripts/compare/load_in_transformers.py`.
#[test]
fn a_saved_model_is_the_same_model() {
    let tokenizer = load_model(&golden("llama")).unwrap().tokenizer;
    for name in CHECKPOINTS {
        let model = Model {
            decoder: load(name).0,
            tokenizer: tokenizer.clone(),
            reference: name.into(),
            sha256: String::new(),
        };
        let temporary = tempfile::tempdir().unwrap();
        let root = std::env::var_os("BYLAW_KEEP_SAVED").map_or(temporary.path().to_owned(), Into::into);
        let dir = root.join(name);
        model.save(&dir, DType::F32).unwrap();
        let again = load_decoder(&dir).unwrap();
        assert_eq!(tensor_names(&dir), tensor_names(&golden(name)), "{name}");
        assert_eq!(again.config, model.decoder.config, "{name}");
        for (saved, again) in model.decoder.parameters.iter().zip(&again.parameters) {
            assert_eq!(saved.name, again.name);
            assert!(
                values(saved.weight.dense().unwrap()) == values(again.weight.dense().unwrap()),
                "{name}: {}",
                saved.name
            );
        }
        if name == "llama" {
            let again = load_model(&dir).unwrap();
            assert_eq!(again.tokenizer.special(), tokenizer.special());
            assert_eq!(again.tokenizer.files().tokenizer, tokenizer.files().tokenizer);
            model.save(&dir, DType::F32).unwrap();
            assert_eq!(
                load_model(&dir).unwrap().sha256,
                again.sha256,
                "saving twice gives other bytes"
            );
        }
        // Half precision loses digits, not tensors.
        for (dtype, relative) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 1024.0)] {
            let half = temporary.path().join("half");
            model.save(&half, dtype).unwrap();
            let again = load_decoder(&half).unwrap();
            for (saved, again) in model.decoder.parameters.iter().zip(&again.parameters) {
                for (a, b) in values(saved.weight.dense().unwrap())
                    .into_iter()
                    .zip(values(again.weight.dense().unwrap()))
                {
                    assert!((a - b).abs() <= a.abs() * relative + 1e-6, "{dtype:?}: {a} became {b}");
                }
            }
        }
    }
}

/// The names of the tensors of a directory's safetensors files.
fn tensor_names(dir: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let names = |path| {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.names().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    weights.flat_map(names).collect()
}

/// Catches: the text part of a model with images not found under either of the prefixes it is saved
/// with, or its vision tower in the way.
#[test]
fn tensors_of_a_text_part_are_found() {
    let plain = load("gemma3").0;
    for prefix in ["language_model.model.", "model.language_model."] {
        let dir = copy_of("gemma3");
        let path = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let renamed = file.tensors().into_iter().map(|(name, view)| {
            let name = name.strip_prefix("model.").unwrap().to_owned();
            (format!("{prefix}{name}"), view)
        });
        let vision = (
            "vision_tower.norm.weight".to_owned(),
            file.tensor("model.norm.weight").unwrap(),
        );
        let bytes = safetensors::serialize(renamed.chain([vision]), None).unwrap();
        std::fs::write(&path, bytes).unwrap();
        edit_json(&dir.path().join("config.json"), |json| {
            let text = json.clone();
            *json = serde_json::json!({
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": text,
            });
        });
        let decoder = load_decoder(dir.path()).unwrap();
        assert_eq!(decoder.config, plain.config);
        for (ours, plain) in decoder.parameters.iter().zip(&plain.parameters) {
            assert!(values(ours.weight.dense().unwrap()) == values(plain.weight.dense().unwrap()));
        }
    }
}

/// Catches: special tokens recognised in a user's text, a BOS lost or doubled, text that does not
/// come back.
#[test]
fn the_tokenizer_agrees_with_transformers() {
    let tokenizer = load_model(&golden("llama")).unwrap().tokenizer;
    let text = std::fs::read_to_string(golden("llama").join("encodings.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = json["encodings"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens, ids("ids_split_special_tokens"), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        if !text.contains("<s>") && !text.contains("</s>") {
            assert_eq!(
                tokenizer.encode_prompt(text).unwrap(),
                ids("ids_with_special_tokens"),
                "{text:?}"
            );
        }
    }
}

/// A bad checkpoint is the user's input, and the report names each of `mentions`.
fn assert_input_error(result: Result<(), Error>, mentions: &[&str]) {
    let error = result.expect_err(&format!("accepted; expected an error about {mentions:?}"));
    let report = format!("{error}\n{}", error.help_text().unwrap_or_default());
    assert_eq!(error.kind(), ErrorKind::Input, "{report}");
    for mention in mentions {
        assert!(report.contains(mention), "`{mention}` is not in:\n{report}");
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Catches: a panic, or a model of zeros, from a copy that stopped half-way.
#[test]
fn truncated_weights_are_refused() {
    let dir = copy_of("llama");
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in [
        0,
        1,
        7,
        8,
        9,
        header / 2,
        header,
        header + 1,
        whole.len() / 2,
        whole.len() - 4,
        whole.len() - 1,
    ] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors", "truncated"]);
    }
    // A header that promises more than any file has, and one that is no JSON.
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &lying).unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors"]);
    let mut broken = whole;
    broken[8] = b'?';
    std::fs::write(&path, &broken).unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["model.safetensors"]);
}

/// Catches: weights of another model taken as they come, and a panic on sizes that do not fit.
#[test]
fn a_wrong_shape_is_refused() {
    let dir = copy_of("phi3");
    edit_json(&dir.path().join("config.json"), |json| {
        json["num_key_value_heads"] = 4.into();
    });
    assert_input_error(
        load_decoder(dir.path()).map(drop),
        &["model.safetensors", "qkv_proj", "[64, 32]", "[96, 32]"],
    );
    for (key, value, tensor) in [
        ("hidden_size", 40, "model.embed_tokens.weight"),
        ("vocab_size", 289, "model.embed_tokens.weight"),
        ("intermediate_size", 49, "model.layers.0.mlp.gate_proj.weight"),
        ("num_key_value_heads", 1, "model.layers.0.self_attn.k_proj.weight"),
    ] {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), |json| {
            json["head_dim"] = 8.into();
            json[key] = value.into();
        });
        assert_input_error(
            load_model(dir.path()).map(drop),
            &["model.safetensors", tensor, "shape"],
        );
    }
    for (key, value) in [
        ("num_attention_heads", 0u64),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", 0),
        ("hidden_size", 1u64 << 40),
        ("max_position_embeddings", 1u64 << 40),
    ] {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), |json| json[key] = value.into());
        assert_input_error(load_model(dir.path()).map(drop), &["config.json"]);
    }
}

/// Writes the tensors of `path` again, without one.
fn drop_tensor(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = file.tensors().into_iter().filter(|(kept, _)| kept != name).collect();
    assert_eq!(kept.len() + 1, file.len(), "{name} was not there");
    let bytes = safetensors::serialize(kept, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Catches: a random or zero weight in place of one that is not there, a Qwen2 run without biases.
#[test]
fn a_missing_tensor_is_refused() {
    for (checkpoint, tensor) in [
        ("llama", "model.layers.1.mlp.down_proj.weight"),
        ("llama", "lm_head.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
        ("llama-bias", "model.layers.0.self_attn.o_proj.bias"),
        ("qwen3", "model.layers.1.self_attn.k_norm.weight"),
        ("gemma2", "model.layers.2.post_feedforward_layernorm.weight"),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight"),
        ("phi3", "model.layers.1.mlp.gate_up_proj.weight"),
    ] {
        let dir = copy_of(checkpoint);
        drop_tensor(&dir.path().join("model.safetensors"), tensor);
        assert_input_error(
            load_decoder(dir.path()).map(drop),
            &["model.safetensors", tensor, "missing"],
        );
    }
    let dir = copy_of("llama");
    edit_json(&dir.path().join("config.json"), |json| {
        json["num_hidden_layers"] = 3.into();
    });
    assert_input_error(
        load_model(dir.path()).map(drop),
        &["model.layers.2.input_layernorm.weight", "missing"],
    );
}

/// Catches: an index followed out of its directory, a shard skipped.
#[test]
fn bad_shards_are_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    const SHARD: &str = "model-00002-of-00004.safetensors";
    let refuse = |damage: &dyn Fn(&Path), mentions: &[&str]| {
        let dir = copy_of("qwen2-sharded");
        damage(dir.path());
        assert_input_error(load_decoder(dir.path()).map(drop), mentions);
    };
    refuse(
        &|dir| std::fs::remove_file(dir.join(SHARD)).unwrap(),
        &[SHARD, "missing"],
    );
    refuse(&|dir| std::fs::write(dir.join(SHARD), b"").unwrap(), &[SHARD]);
    refuse(&|dir| std::fs::write(dir.join(INDEX), b"{").unwrap(), &[INDEX]);
    refuse(
        &|dir| std::fs::write(dir.join(INDEX), b"{}").unwrap(),
        &[INDEX, "weight_map"],
    );
    refuse(
        &|dir| std::fs::write(dir.join(INDEX), br#"{"weight_map": {}}"#).unwrap(),
        &[INDEX],
    );
    refuse(
        &|dir| drop_tensor(&dir.join(SHARD), "model.layers.0.post_attention_layernorm.weight"),
        &[INDEX, "model.layers.0.post_attention_layernorm.weight"],
    );
    let outside = golden("qwen2").join("model.safetensors");
    for name in ["../x", "..", "a/b", "/etc/passwd", "", ".", outside.to_str().unwrap()] {
        let name_it = |dir: &Path| {
            edit_json(&dir.join(INDEX), |json| {
                json["weight_map"]["model.norm.weight"] = name.into();
            });
        };
        refuse(&name_it, &[INDEX, name]);
    }
}

/// Catches: token ids without a row in the embedding, which would panic in the middle of a run.
#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let dir = copy_of("llama3");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("llama").join(file), dir.path().join(file)).unwrap();
    }
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer", "288", "80"]);
    // As many tokens as rows, but one of them has an id beyond the last row.
    let dir = copy_of("llama");
    let path = dir.path().join("tokenizer.json");
    edit_json(&path, |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.get_mut("!").unwrap();
        *id = 5000.into();
    });
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer", "5000"]);
}

/// Catches: a model computed with features that it does not have, and a pickle opened.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refuse = |edit: &dyn Fn(&mut serde_json::Value), mentions: &[&str]| {
        let dir = copy_of("llama");
        edit_json(&dir.path().join("config.json"), edit);
        assert_input_error(load_model(dir.path()).map(drop), mentions);
    };
    refuse(
        &|json| json["architectures"] = serde_json::json!(["GPT2LMHeadModel"]),
        &["GPT2LMHeadModel", "config.json"],
    );
    refuse(
        &|json| json["architectures"] = serde_json::json!([]),
        &["architecture", "LlamaForCausalLM"],
    );
    refuse(
        &|json| json["architectures"] = serde_json::json!(["GemmaForCausalLM"]),
        &[
            "Gemma2ForCausalLM",
            "Gemma3ForCausalLM",
            "Phi3ForCausalLM",
            "MistralForCausalLM",
        ],
    );
    refuse(
        &|json| json["quantization_config"] = serde_json::json!({ "quant_method": "awq" }),
        &["quantization_config"],
    );
    refuse(
        &|json| json["partial_rotary_factor"] = 0.5.into(),
        &["partial_rotary_factor"],
    );
    refuse(&|json| json["hidden_act"] = "gelu".into(), &["gelu"]);
    refuse(&|json| json["rope_parameters"]["rope_type"] = "yarn".into(), &["yarn"]);
    refuse(
        &|json| json["rope_parameters"]["rope_type"] = "llama3".into(),
        &["llama3", "factor"],
    );
    refuse(
        &|json| json["hidden_size"] = "big".into(),
        &["config.json", "hidden_size"],
    );
    refuse(
        &|json| json["rope_parameters"]["rope_type"] = "dynamic".into(),
        &["dynamic", "longrope"],
    );
    for (checkpoint, key, value, mention) in [
        (
            "gemma2",
            "use_bidirectional_attention",
            serde_json::json!(true),
            "use_bidirectional_attention",
        ),
        ("gemma2", "sliding_window", serde_json::json!(0), "sliding_window"),
        (
            "gemma3",
            "layer_types",
            serde_json::json!(["full_attention"]),
            "layer_types",
        ),
        (
            "gemma3",
            "layer_types",
            serde_json::json!(["full_attention", "linear_attention", "full_attention"]),
            "linear_attention",
        ),
        (
            "gemma3",
            "rope_parameters",
            serde_json::json!({ "sliding_attention": { "rope_type": "linear", "factor": 2.0 } }),
            "sliding_attention",
        ),
        ("phi3-longrope", "head_dim", serde_json::json!(32), "short_factor"),
    ] {
        let dir = copy_of(checkpoint);
        edit_json(&dir.path().join("config.json"), |json| json[key] = value);
        assert_input_error(load_decoder(dir.path()).map(drop), &[mention, "config.json"]);
    }

    let dir = copy_of("llama");
    std::fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("pytorch_model.bin"),
    )
    .unwrap();
    assert_input_error(
        load_model(dir.path()).map(drop),
        &["model.safetensors", "pytorch_model.bin is a pickle"],
    );
    let dir = copy_of("llama");
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert_input_error(load_model(dir.path()).map(drop), &["tokenizer_config.json"]);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let dir = copy_of("llama");
        std::fs::remove_file(dir.path().join(file)).unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &[file]);
        std::fs::write(dir.path().join(file), b"\xff\xfe not text").unwrap();
        assert_input_error(load_model(dir.path()).map(drop), &[file]);
    }
    assert_input_error(Model::load("/nowhere/at/all").map(drop), &["/nowhere/at/all"]);
}
