//! Adapters against PEFT (`tests/golden/lora*`), against the twin, finite differences, and their own base.

use std::path::Path;

use bylaw::error::ErrorKind;
use bylaw::model::cpu::Weights;
use bylaw::model::cpu::trunk::{self, Gradients, Outputs, Sequence, Wanted};
use bylaw::model::decoder::{Decoder, Weight, normal};
use bylaw::model::files::{Model, Precision};
use bylaw::model::lora::files as adapter_files;
use bylaw::model::lora::{BaseModel, LoraConfig, Targets};
use bylaw::seed::Seed;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::NLL;
use crate::gradients::{ALL_WANTED, functional, gradients_of, twin_functional};
use crate::random::{FEATURES, ragged, random_decoder};
use crate::support::slots::{Extension, Slots};
use crate::support::twin::Twin;
use crate::support::{Expected, golden, max_difference, norm};

/// The adapters that PEFT made (`scripts/golden/lora.py`).
const GOLDEN: [&str; 2] = ["lora", "lora-rs"];

fn config(rank: usize, targets: &[&str]) -> LoraConfig {
    let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
    LoraConfig {
        rank,
        alpha: 3.0,
        dropout: 0.0,
        targets: Targets::new(&targets),
        rank_stabilised: false,
    }
}

fn nowhere() -> BaseModel {
    BaseModel {
        reference: "nowhere".into(),
        sha256: String::new(),
    }
}

/// A decoder with adapters that have learnt something: B is not 0.
fn adapted(decoder: &Decoder, config: &LoraConfig) -> Decoder {
    let mut adapted = decoder.with_adapters(config, nowhere(), Seed::new(5)).unwrap();
    for parameter in &mut adapted.parameters {
        if parameter.name.ends_with("lora_B.weight") {
            let values = normal(parameter.weight.elem_count(), 0.3, Seed::new(6).child(&parameter.name));
            let shape = parameter.weight.dense().unwrap().shape().clone();
            parameter.weight = Weight::Dense(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        }
    }
    adapted
}

fn values(weight: &Weight) -> Vec<f32> {
    weight.dense().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|x| x.to_bits()).collect()
}

fn both(outputs: &Outputs) -> Vec<u32> {
    [bits(&outputs.logprobs), bits(&outputs.hidden)].concat()
}

// ---- PEFT ----------------------------------------------------------------------------------------

fn load_golden(name: &str) -> (Model, Expected) {
    let dir = golden(name);
    let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    let model = Model::load(dir.to_str().unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
    (model, serde_json::from_str(&text).unwrap())
}

/// All logits of a sequence, by inference.
fn logits_of(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let weights = Weights::serving(decoder, 2).unwrap();
    let mut cache = Slots::new(decoder, 1, tokens.len());
    let stream = cache.extend_all(&weights, &[Extension { slot: 0, tokens }]);
    weights.logits(&weights.norm(&stream, decoder.layout.norm))
}

fn listed_logits(expected: &Expected, index: usize, logits: &[f32]) -> Vec<f32> {
    let vocab = expected.logits[index][0].len();
    let rows = expected.positions[index].iter();
    rows.flat_map(|position| logits[position * vocab..][..vocab].to_vec())
        .collect()
}

/// Catches: a wrong scale (rank-stabilised, or of a module with a rank of its own), A and B mixed up or of the wrong
/// module, an adapter left out.
#[test]
fn adapters_of_peft_give_its_logits() {
    for name in GOLDEN {
        let (model, expected) = load_golden(name);
        for (index, tokens) in expected.input_ids.iter().enumerate() {
            let logits = logits_of(&model.decoder, tokens);
            let listed = expected.logits[index].concat();
            let difference = max_difference(&listed_logits(&expected, index, &logits), &listed);
            println!("{name}, sequence {index}: {difference:.2e}");
            // The listed ones are of float64; PEFT's own f32 is up to 2.1e-5 away from them.
            assert!(difference <= 2e-5, "{name}, sequence {index}: {difference}");
        }
    }
}

/// Catches: a gradient of A or B that is not autograd's; a gradient of anything else.
#[test]
fn gradients_of_adapters_are_those_of_peft() {
    for name in GOLDEN {
        let (mut model, expected) = load_golden(name);
        model.decoder.adapters.as_mut().unwrap().config.dropout = 0.0;
        let decoder = &model.decoder;
        let (outputs, tape) = trunk::forward(decoder, &expected.sequences(), NLL).unwrap();
        let count: usize = outputs.logprobs.iter().map(Vec::len).sum();
        let mean_nll = Outputs {
            logprobs: outputs
                .logprobs
                .iter()
                .map(|row| vec![-1.0 / count as f32; row.len()])
                .collect(),
            ..Outputs::default()
        };
        let sum: f64 = outputs.logprobs.iter().flatten().copied().map(f64::from).sum();
        let error = (-sum / count as f64 - expected.loss).abs() / expected.loss;
        assert!(error <= 2e-6, "{name}: the loss differs by {error:.2e} of itself");
        let mut gradients = Gradients::zeros(decoder);
        trunk::backward(decoder, tape, &mean_nll, &mut gradients).unwrap();
        let mut seen = 0;
        let mut worst = 0f64;
        for (parameter, gradient) in decoder.parameters.iter().zip(&gradients.0) {
            let Some(expected) = expected.grad.get(&format!("base_model.model.{}", parameter.name)) else {
                assert!(gradient.is_empty(), "{} is frozen", parameter.name);
                continue;
            };
            seen += 1;
            let ours = norm(gradient.iter().copied().map(f64::from));
            let mut errors = vec![(ours - expected.norm).abs() / expected.norm];
            for (index, value) in &expected.entries {
                errors.push((f64::from(gradient[*index]) - value).abs() / expected.norm);
            }
            worst = errors.iter().copied().fold(worst, f64::max);
            assert!(
                errors.iter().all(|error| *error <= 3e-5),
                "{}: {errors:?}",
                parameter.name
            );
        }
        assert_eq!(seen, expected.grad.len(), "{name}");
        println!("{name}: gradients differ by at most {worst:.2e} of their norms");
    }
}

/// Catches: adapters that PEFT or ourselves cannot read again: names, shapes, ranks, scale. `BYLAW_KEEP_SAVED=DIR` keeps
/// what was saved, with the logits, for `scripts/compare/load_in_peft.py`.
#[test]
fn saved_adapters_are_the_same_adapters() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("BYLAW_KEEP_SAVED").map_or(temporary.path().to_owned(), Into::into);
    let base = Model::load(golden("llama").to_str().unwrap()).unwrap();
    let under = BaseModel {
        reference: base.reference.clone(),
        sha256: base.sha256.clone(),
    };
    let partial = LoraConfig {
        rank_stabilised: true,
        ..config(3, &["v_proj", "layers.1.*.down_proj"])
    };
    let mut decoders = vec![
        ("all", adapted(&base.decoder, &config(4, &[]))),
        ("partial", adapted(&base.decoder, &partial)),
        ("ranks", load_golden("lora").0.decoder),
    ];
    for (name, decoder) in &mut decoders {
        decoder.adapters.as_mut().unwrap().base = under.clone();
        let dir = root.join(*name);
        let model = Model {
            decoder: decoder.clone(),
            ..base.clone()
        };
        model.save(&dir, DType::F32).unwrap();
        let again = Model::load(dir.to_str().unwrap()).unwrap();
        assert_ne!(again.sha256, base.sha256);
        assert_eq!(again.decoder.parameters.len(), decoder.parameters.len(), "{name}");
        for (saved, again) in decoder.parameters.iter().zip(&again.decoder.parameters) {
            assert_eq!(saved.name, again.name);
            assert!(values(&saved.weight) == values(&again.weight), "{name}: {}", saved.name);
        }
        let scales = |decoder: &Decoder| -> Vec<_> {
            decoder
                .modules()
                .map(|(_, linear)| linear.adapter.map(|adapter| adapter.scale))
                .collect()
        };
        assert_eq!(scales(decoder), scales(&again.decoder));
        write_expected(&dir, &again.decoder);
        assert_eq!(std::fs::metadata(dir.join("model.safetensors")).ok().map(|_| ()), None);
    }
}

fn write_expected(dir: &Path, decoder: &Decoder) {
    let (_, golden) = load_golden("lora");
    let logits = golden
        .input_ids
        .iter()
        .zip(&golden.positions)
        .map(|(tokens, positions)| -> Vec<Vec<f32>> {
            let logits = logits_of(decoder, tokens);
            let vocab = decoder.config.vocab;
            positions
                .iter()
                .map(|position| logits[position * vocab..][..vocab].to_vec())
                .collect()
        });
    let expected = json!({
        "input_ids": golden.input_ids,
        "positions": golden.positions,
        "logits": logits.collect::<Vec<_>>(),
    });
    std::fs::write(dir.join("expected.json"), expected.to_string()).unwrap();
}

// ---- the twin and finite differences ---------------------------------------------------------------

/// Catches: a wrong or missing term of an adapter's backward pass for any output of the trunk and any feature of the
/// decoder; a gradient that is lost below the lowest adapter, or computed for what is frozen.
#[test]
fn gradients_of_adapters_are_those_of_the_twin() {
    let shapes: [(usize, &[&str]); 4] = [
        (3, &[]),
        (1, &["q_proj", "gate_proj"]),
        (5, &["layers.1.*"]),
        (24, &["o_proj", "down_proj", "layers.0.self_attn.k_proj"]),
    ];
    for features in FEATURES {
        for (rank, targets) in shapes {
            let decoder = adapted(&random_decoder(features), &config(rank, targets));
            let batch = ragged(&decoder);
            let twin = Twin::new(&decoder).unwrap();
            for wanted in ALL_WANTED {
                let (gradients, coefficients) = gradients_of(&decoder, &batch, wanted);
                let scalar = twin_functional(&twin, &batch, wanted, &coefficients);
                let expected = twin.gradients(&scalar).unwrap();
                for ((parameter, gradient), expected) in decoder.parameters.iter().zip(&gradients.0).zip(&expected) {
                    assert_eq!(
                        parameter.frozen,
                        !parameter.name.contains("lora_"),
                        "{}",
                        parameter.name
                    );
                    if parameter.frozen {
                        assert!(gradient.is_empty(), "{} has a gradient", parameter.name);
                        continue;
                    }
                    let size = norm(expected.iter().copied());
                    assert!(size > 0.0, "the twin of {} has no gradient", parameter.name);
                    let error = norm(
                        gradient
                            .iter()
                            .zip(expected)
                            .map(|(ours, twins)| f64::from(*ours) - twins),
                    ) / size;
                    assert!(
                        error <= 4e-5,
                        "{wanted:?}, {features}, {targets:?}: {} by {error:.2e}",
                        parameter.name
                    );
                }
            }
        }
    }
}

/// Catches: a backward pass that draws another mask than the forward pass, or forgets to mask the gradient of the
/// input; a forward pass that the twin agrees with by mistake.
#[test]
fn gradients_of_adapters_are_finite_differences() {
    for (features, dropout) in [("untied", 0.0), ("untied", 0.4), ("gemma3", 0.4)] {
        let config = LoraConfig {
            dropout,
            ..config(3, &[])
        };
        let decoder = adapted(&random_decoder(features), &config);
        let mut batch = ragged(&decoder);
        batch.remove(0);
        let wanted = Wanted::LogprobsAndHidden { temperature: 0.7 };
        let (gradients, coefficients) = gradients_of(&decoder, &batch, wanted);
        let mut worst = 0f64;
        for (index, gradient) in gradients
            .0
            .iter()
            .enumerate()
            .filter(|(_, gradient)| !gradient.is_empty())
        {
            let size = norm(gradient.iter().copied().map(f64::from));
            let largest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()));
            for entry in [largest.unwrap(), gradient.len() / 3] {
                let at = |step: f32| {
                    let mut moved = decoder.clone();
                    let weight = &mut moved.parameters[index].weight;
                    let shape = weight.dense().unwrap().shape().clone();
                    let mut values = values(weight);
                    values[entry] += step;
                    let exact = f64::from(values[entry]);
                    *weight = Weight::Dense(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
                    let (outputs, _) = trunk::forward(&moved, &batch, wanted).unwrap();
                    (functional(&outputs, &coefficients), exact)
                };
                let ((above, high), (below, low)) = (at(2e-3), at(-2e-3));
                let error = ((above - below) / (high - low) - f64::from(gradient[entry])).abs() / size;
                worst = worst.max(error);
                let name = &decoder.parameters[index].name;
                assert!(
                    error <= 3e-3,
                    "{features}, dropout {dropout}: {name}[{entry}] by {error:.2e}"
                );
            }
        }
        println!("{features}, dropout {dropout}: by at most {worst:.2e} of their norms");
    }
}

// ---- what adapters are to their base -----------------------------------------------------------------

/// Catches: adapters that move the model before they have learnt anything, in training or while it serves; a copy of the
/// base's tensors.
#[test]
fn fresh_adapters_are_the_base_to_the_bit() {
    let settings = LoraConfig {
        dropout: 0.5,
        ..config(4, &[])
    };
    for features in FEATURES {
        let base = random_decoder(features);
        let fresh = base.with_adapters(&settings, nowhere(), Seed::new(5)).unwrap();
        let batch = ragged(&base);
        for wanted in ALL_WANTED {
            let of = |decoder: &Decoder| both(&trunk::forward(decoder, &batch, wanted).unwrap().0);
            assert!(of(&base) == of(&fresh), "{features}, {wanted:?}");
        }
        let tokens = &batch[5].tokens;
        assert!(logits_of(&base, tokens) == logits_of(&fresh, tokens), "{features}");
        let copy = fresh.copy().unwrap();
        for (base, adapted) in base.parameters.iter().zip(&copy.parameters) {
            let ids = [base, adapted].map(|parameter| parameter.weight.dense().unwrap().id());
            assert_eq!(ids[0], ids[1], "{} was copied", base.name);
        }
        let learning = fresh
            .parameters
            .iter()
            .zip(&copy.parameters)
            .filter(|(parameter, _)| !parameter.frozen);
        for (one, other) in learning {
            let ids = [one, other].map(|parameter| parameter.weight.dense().unwrap().id());
            assert_ne!(ids[0], ids[1], "{} is shared by two runs", one.name);
            assert_eq!(
                one.name.ends_with("lora_B.weight"),
                values(&one.weight).iter().all(|x| *x == 0.0)
            );
        }
    }
}

/// Catches: A drawn from another range than PEFT's, or twice the same for two modules.
#[test]
fn a_is_uniform_within_the_root_of_the_inputs() {
    let decoder = random_decoder("tied")
        .with_adapters(&config(40, &[]), nowhere(), Seed::new(5))
        .unwrap();
    let mut seen = std::collections::HashSet::new();
    for (module, linear) in decoder.modules() {
        let adapter = linear.adapter.unwrap();
        let a = values(&decoder.parameters[adapter.a].weight);
        let bound = 1.0 / (linear.inputs as f32).sqrt();
        let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        assert!(
            largest <= bound && largest > 0.98 * bound,
            "{module}: {largest}, {bound}"
        );
        let variance = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32;
        assert!(
            (variance / (bound * bound / 3.0) - 1.0).abs() < 0.15,
            "{module}: {variance}"
        );
        assert!(seen.insert(a[0].to_bits()), "{module} begins as another");
    }
}

/// Catches: a merge with the wrong sign, scale or order of factors, or of fewer modules than are adapted.
#[test]
fn merged_is_unmerged_within_rounding() {
    for features in FEATURES {
        let decoder = adapted(
            &random_decoder(features),
            &config(3, &["q_proj", "mlp.*", "layers.1.self_attn.*"]),
        );
        let merged = decoder.merged().unwrap();
        assert!(merged.adapters.is_none() && merged.parameters.iter().all(|parameter| !parameter.frozen));
        let batch = ragged(&decoder);
        let of = |decoder: &Decoder| trunk::infer(decoder, &batch, NLL).unwrap().logprobs.concat();
        let difference = max_difference(&of(&decoder), &of(&merged));
        let moved = max_difference(&of(&decoder.base()), &of(&merged));
        println!("{features}: merged differs by {difference:.2e}, the base by {moved:.2e}");
        assert!(difference <= 2e-4 && moved > 0.1, "{features}: {difference}, {moved}");
    }
}

/// Catches: a row whose bits depend on the rows beside it while adapters are in place, as the engine's cache of
/// prefixes must not have it; a fused gate that forgets its adapters.
#[test]
fn adapted_rows_serve_the_same_alone_and_together() {
    for targets in [&[][..], &["gate_proj"], &["up_proj", "v_proj"]] {
        let decoder = adapted(&random_decoder("tied"), &config(6, targets));
        let batch = ragged(&decoder);
        let weights = Weights::serving(&decoder, 2).unwrap();
        let mut together = Slots::new(&decoder, batch.len(), 300);
        let extensions: Vec<Extension<'_>> = batch
            .iter()
            .enumerate()
            .map(|(slot, row)| Extension {
                slot,
                tokens: &row.tokens,
            })
            .collect();
        let all = together.extend_all(&weights, &extensions);
        let alone: Vec<f32> = batch
            .iter()
            .flat_map(|row| {
                let mut cache = Slots::new(&decoder, 1, 300);
                cache.extend_all(
                    &weights,
                    &[Extension {
                        slot: 0,
                        tokens: &row.tokens,
                    }],
                )
            })
            .collect();
        assert!(bits(&[all]) == bits(&[alone]), "{targets:?}");
        // Serving and training are two computations of the same.
        let logits = logits_of(&decoder, &batch[5].tokens);
        let Sequence { tokens, completion } = &batch[5];
        let (vocab, mut served) = (decoder.config.vocab, Vec::new());
        for position in *completion - 1..tokens.len() - 1 {
            let row = &logits[position * vocab..][..vocab];
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            served.push(row[tokens[position + 1] as usize] - sum.ln() as f32);
        }
        let trained = trunk::infer(&decoder, &batch[5..], NLL).unwrap().logprobs.concat();
        let difference = max_difference(&served, &trained);
        assert!(difference <= 5e-5, "{targets:?}: {difference}");
    }
}

/// Catches: dropout while a model answers or is scored, the same mask in two steps, and one that depends on what else
/// was computed.
#[test]
fn dropout_is_of_training_steps_alone() {
    let settings = LoraConfig {
        dropout: 0.3,
        ..config(3, &[])
    };
    let mut decoder = adapted(&random_decoder("tied"), &settings);
    let plain = adapted(&random_decoder("tied"), &config(3, &[]));
    let batch = ragged(&decoder);
    let inferred = |decoder: &Decoder| both(&trunk::infer(decoder, &batch, NLL).unwrap());
    assert!(inferred(&decoder) == inferred(&plain));
    let step = |decoder: &Decoder| both(&trunk::forward(decoder, &batch, NLL).unwrap().0);
    let first = step(&decoder);
    assert!(first != inferred(&decoder) && first == step(&decoder));
    decoder.set_updates(1);
    assert!(step(&decoder) != first);
    decoder.set_updates(0);
    assert!(step(&decoder) == first);
}

// ---- bad files -----------------------------------------------------------------------------------------

/// A copy of golden adapters whose base is where it was, changed.
fn changed(change: impl FnOnce(&Path, &mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(golden("lora-rs").join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = golden("llama").to_str().unwrap().into();
    change(dir.path(), &mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    dir
}

#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    let error = Model::load(dir.to_str().unwrap()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    let text = format!("{error} {}", error.help_text().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn rewrite(dir: &Path, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let path = dir.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let changed = tensors
        .into_iter()
        .filter_map(|(name, tensor)| change(&name, tensor))
        .collect();
    candle_core::safetensors::save(&changed, &path).unwrap();
}

/// Catches: an adapter that is loaded although it cannot be what it was, or an error that does not say what to do.
#[test]
fn bad_adapters_are_refused() {
    refused(
        changed(|_, config| config["base_model_name_or_path"] = "/nowhere/base".into()).path(),
        &["/nowhere/base", "base_model_name_or_path", "--base"],
    );
    refused(
        changed(|_, config| config["base_model_name_or_path"] = "some-org/absent-model".into()).path(),
        &["bylaw model pull some-org/absent-model"],
    );
    refused(
        changed(|_, config| config["base_model_name_or_path"] = Value::Null).path(),
        &["does not name its base"],
    );
    refused(
        changed(|_, config| config["use_dora"] = true.into()).path(),
        &["use_dora = true", "merge_and_unload"],
    );
    refused(changed(|_, config| config["bias"] = "all".into()).path(), &["bias"]);
    refused(changed(|_, config| config["peft_type"] = "IA3".into()).path(), &["IA3"]);
    refused(
        changed(|_, config| config["r"] = 8.into()).path(),
        &["has rank 4", "r = 8"],
    );
    refused(
        changed(|_, config| config["lora_alpha"] = "many".into()).path(),
        &["LoRA"],
    );
    let other = golden("qwen2");
    let of_other = changed(|_, config| config["base_model_name_or_path"] = other.to_str().unwrap().into());
    // That checkpoint has no tokenizer; the shapes are told first where there is one.
    assert!(Model::load(of_other.path().to_str().unwrap()).is_err());
    let pickled = changed(|dir, _| {
        std::fs::rename(dir.join("adapter_model.safetensors"), dir.join("adapter_model.bin")).unwrap();
    });
    refused(pickled.path(), &["pickle", "safe_serialization"]);
    let itself = changed(|dir, config| config["base_model_name_or_path"] = dir.to_str().unwrap().into());
    refused(itself.path(), &["its own base"]);
    let half = changed(|dir, _| {
        rewrite(dir, |name, tensor| {
            (!name.contains("lora_B")).then(|| (name.into(), tensor))
        });
    });
    refused(half.path(), &["lora_B", "missing"]);
    let turned = changed(|dir, _| {
        rewrite(dir, |name, tensor| {
            Some((name.into(), tensor.t().unwrap().contiguous().unwrap()))
        });
    });
    refused(turned.path(), &["shape", "another base"]);
    let head = changed(|dir, _| {
        rewrite(dir, |name, tensor| {
            Some((name.replace("model.layers.1.mlp.down_proj", "lm_head"), tensor))
        });
    });
    refused(head.path(), &["lm_head", "not supported"]);
    let cut = changed(|dir, _| {
        let path = dir.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    });
    refused(cut.path(), &["not a complete safetensors file"]);
    let foreign = changed(|dir, _| {
        std::fs::write(
            dir.join("base_model.json"),
            r#"{"reference": "x", "sha256": "0123456789abcdef"}"#,
        )
        .unwrap();
    });
    refused(
        foreign.path(),
        &["not the model that these adapters were trained on", "0123456789ab"],
    );
    // Who names the base means it.
    let base = golden("llama");
    adapter_files::load(foreign.path(), base.to_str(), Precision::Full).unwrap();
}

/// Catches: adapters of parts of a fused tensor, which no file can hold; a dropout that leaves nothing.
#[test]
fn adapters_that_cannot_be_are_refused() {
    let phi3 = bylaw::model::files::load_decoder(&golden("phi3")).unwrap();
    let refusal = |decoder: &Decoder, config: &LoraConfig| {
        let error = decoder.with_adapters(config, nowhere(), Seed::new(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        format!("{error} {}", error.help_text().unwrap())
    };
    assert!(refusal(&phi3, &config(2, &[])).contains("--lora-targets down_proj,o_proj"));
    phi3.with_adapters(&config(2, &["o_proj"]), nowhere(), Seed::new(1))
        .unwrap();
    let decoder = random_decoder("tied");
    assert!(refusal(&decoder, &config(0, &[])).contains("rank"));
    for dropout in [1.0, -0.1, f64::NAN] {
        let config = LoraConfig {
            dropout,
            ..config(2, &[])
        };
        assert!(refusal(&decoder, &config).contains("--lora-dropout"));
    }
}
