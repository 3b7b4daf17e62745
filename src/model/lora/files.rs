//! Adapters on disk, in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`, whose tensors are called
//! `base_model.model.` and the name of the parameter. PEFT loads what is written here.
//!
//! Beside them lie the tokenizer's files, as trainers leave them, and [`BASE`], which no other program reads: with the
//! hash of the base an adapter is not put on another model of the same name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::targets::{Targets, kind};
use super::{BaseModel, LoraConfig, names};
use crate::error::{Error, Result};
use crate::hub;
use crate::model::config::DecoderConfig;
use crate::model::decoder::{Decoder, LinearLayout};
use crate::model::files::{
    Bytes, Model, Precision, TokenizerFiles, read_safetensors, read_text, stored_views, write_json, write_tensors,
};
use crate::model::tokenizer::Tokenizer;
use crate::model::{family, gguf};
use crate::record::hex;
use crate::seed::Seed;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
/// Which model the adapters were trained on.
const BASE: &str = "base_model.json";
/// What PEFT puts before the names of the base's modules.
const PREFIX: &str = "base_model.model.";
/// Adapters on adapters on adapters: more is a circle.
const DEEPEST: usize = 8;

/// What is read of `adapter_config.json`. What would change the result and is not known here is refused by name.
#[derive(Debug, Clone, Deserialize)]
struct PeftConfig {
    peft_type: String,
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Features that adapters can have in PEFT, and what their key holds when they do not.
const UNKNOWN: [(&str, &[&str]); 15] = [
    ("use_dora", &["false"]),
    ("bias", &["\"none\""]),
    ("lora_bias", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("alpha_pattern", &["{}"]),
    ("modules_to_save", &["[]"]),
    ("layer_replication", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("target_parameters", &["[]"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false"]),
    ("alora_invocation_tokens", &["[]"]),
    ("arrow_config", &[]),
    ("kasa_config", &[]),
    ("monteclora_config", &[]),
];

#[derive(Serialize, Deserialize)]
struct BaseRecord {
    reference: String,
    sha256: String,
}

/// Whether a directory holds adapters and no model of its own.
pub fn is_adapter(dir: &Path) -> bool {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    dir.join(CONFIG).exists() && !weights.iter().any(|file| dir.join(file).exists())
}

impl PeftConfig {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let config: Self = serde_json::from_str(&read_text(&path)?).map_err(|error| {
            let failed = Error::input("not the configuration of a LoRA adapter").at_file(&path);
            failed
                .because(error)
                .help("PEFT's save_pretrained writes it, with peft_type, r and lora_alpha")
        })?;
        config.check().map_err(|error| error.at_file(&path))?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.peft_type != "LORA" {
            return Err(
                Error::input(format!("adapters of the type {} are not supported", self.peft_type))
                    .help("LoRA is; merge others into their base with PEFT's merge_and_unload"),
            );
        }
        for (key, absent) in UNKNOWN {
            let Some(value) = self.others.get(key).filter(|value| !value.is_null()) else {
                continue;
            };
            let text = value.to_string();
            if !absent.contains(&text.as_str()) {
                return Err(
                    Error::input(format!("a LoRA adapter with {key} = {text} is not supported"))
                        .help("merge it into its base with PEFT's merge_and_unload, and give the result"),
                );
            }
        }
        if self.r == 0 || !self.lora_alpha.is_finite() {
            return Err(Error::input(format!(
                "r is {} and lora_alpha {}",
                self.r, self.lora_alpha
            )));
        }
        Ok(())
    }

    /// The rank of each module may be its own.
    fn one_rank(&self) -> bool {
        !matches!(self.others.get("rank_pattern"), Some(Value::Object(ranks)) if !ranks.is_empty())
    }

    fn settings(&self, modules: &BTreeSet<String>) -> LoraConfig {
        LoraConfig {
            rank: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            targets: Targets::new(&modules.iter().cloned().collect::<Vec<_>>()),
            rank_stabilised: self.use_rslora,
        }
    }

    /// The reference of the base: as it is written if something lies there, else near the adapter, else on the hub.
    fn base(&self, dir: &Path) -> Result<String> {
        let Some(name) = self.base_model_name_or_path.as_deref().filter(|name| !name.is_empty()) else {
            return Err(Error::input("the adapter does not name its base model")
                .at_file(dir.join(CONFIG))
                .help(remedy(dir)));
        };
        let is_file = name.ends_with(gguf::EXTENSION) && Path::new(name).is_file();
        let known = ["builtin:", hub::PREFIX].iter().any(|prefix| name.starts_with(prefix));
        if known || is_file || Path::new(name).is_dir() {
            return Ok(name.to_owned());
        }
        if let Some(found) = elsewhere(dir, Path::new(name)) {
            return Ok(found.to_string_lossy().into_owned());
        }
        let missing =
            Error::input(format!("the base model of the adapter is not there: {name}")).at_file(dir.join(CONFIG));
        let revision = self
            .revision
            .as_deref()
            .map_or(String::new(), |revision| format!("@{revision}"));
        let on_hub = format!("{}{name}{revision}", hub::PREFIX);
        match name.split('/').count() == 2 && hub::Repository::parse(&on_hub).is_ok() {
            false => Err(missing.help(remedy(dir))),
            true if hub::local(&on_hub).is_ok() => Ok(on_hub),
            true => Err(missing.help(format!(
                "fetch it: bylaw model pull {name}{revision}; or {}",
                remedy(dir)
            ))),
        }
    }
}

/// Where a base lies that is not where its name says: at the path from the adapter, or, if the two were moved
/// together, beside it; that it is the base, its hash has to tell.
fn elsewhere(dir: &Path, name: &Path) -> Option<PathBuf> {
    let from_adapter = dir.join(name);
    if name.is_relative() && from_adapter.is_dir() {
        return Some(from_adapter);
    }
    let beside = dir.parent()?.join(name.file_name()?);
    (dir.join(BASE).exists() && beside.is_dir() && beside != dir).then_some(beside)
}

/// What to do about a base that is not there.
fn remedy(dir: &Path) -> String {
    format!(
        "write where it is as base_model_name_or_path into {CONFIG}, or make a model that needs no base: bylaw model \
         merge {} --base MODEL --out DIR",
        dir.display()
    )
}

/// Loads the adapters in `dir` on their base, or on `base` if it is given.
pub fn load(dir: &Path, base: Option<&str>, precision: Precision) -> Result<Model> {
    nested(dir, base, precision, 0)
}

fn nested(dir: &Path, base: Option<&str>, precision: Precision, depth: usize) -> Result<Model> {
    if depth > DEEPEST {
        return Err(Error::input("the adapter is its own base, by way of others")
            .at_file(dir.join(CONFIG))
            .help(remedy(dir)));
    }
    let config = PeftConfig::read(dir)?;
    let reference = base.map_or_else(|| config.base(dir), |base| Ok(base.to_owned()))?;
    let model = match is_adapter(Path::new(&reference)) {
        true => nested(Path::new(&reference), None, precision, depth + 1)?,
        false => Model::load_in(&reference, precision)?,
    };
    if base.is_none() {
        check_base(dir, &model.reference, &model.sha256)?;
    }
    let bytes = tensors_of(dir)?;
    let files = tokenizer_files(dir, &model.tokenizer)?;
    let sha256 = identity(&model.sha256, dir, &bytes, files.as_ref())?;
    let tokenizer = tokenizer(dir, files, &model.tokenizer, &model.decoder.config)?;
    let under = BaseModel {
        reference,
        sha256: model.sha256.clone(),
    };
    let decoder = attach(&model.decoder.merged()?, &config, under, &dir.join(TENSORS), &bytes)?;
    Ok(Model {
        decoder,
        tokenizer,
        reference: dir.to_string_lossy().into_owned(),
        sha256,
    })
}

/// Of all that decides what the adapted model says.
fn identity(base: &str, dir: &Path, tensors: &[u8], tokenizer: Option<&TokenizerFiles>) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(base);
    hash.update(read_text(&dir.join(CONFIG))?);
    if let Some(files) = tokenizer {
        hash.update(&files.tokenizer);
        for text in [&files.config, &files.chat_template, &files.generation] {
            hash.update(text.as_deref().unwrap_or_default());
        }
    }
    hash.update(tensors);
    Ok(hex(&hash.finalize()))
}

/// An error if the adapters are known to belong to another model than the one that their base's name leads to.
fn check_base(dir: &Path, reference: &str, sha256: &str) -> Result<()> {
    let path = dir.join(BASE);
    if !path.exists() {
        return Ok(());
    }
    let record: BaseRecord = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        Error::input("not the record of a base model")
            .at_file(&path)
            .because(error)
    })?;
    if record.sha256 == sha256 {
        return Ok(());
    }
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    Err(Error::input(format!(
        "{reference} is not the model that these adapters were trained on: its sha256 is {}, not {}",
        short(sha256),
        short(&record.sha256)
    ))
    .at_file(&path)
    .help("put the base back; or, if the two are as good as the same, remove this file"))
}

fn tensors_of(dir: &Path) -> Result<Bytes> {
    let path = dir.join(TENSORS);
    if path.exists() {
        return Bytes::map(&path);
    }
    Err(
        Error::input(format!("{} has no {TENSORS}", dir.display())).help(match dir.join(PICKLE).exists() {
            true => {
                "adapter_model.bin is a pickle, which can run code and is never read: save the adapter again with \
             save_pretrained(safe_serialization=True)"
            }
            false => "copy the whole adapter: adapter_config.json and adapter_model.safetensors",
        }),
    )
}

/// The tokenizer's files beside the adapters, with the base's where one is lacking; `None` for the base's own.
fn tokenizer_files(dir: &Path, base: &Tokenizer) -> Result<Option<TokenizerFiles>> {
    if !dir.join("tokenizer.json").exists() {
        return Ok(None);
    }
    let (own, base) = (TokenizerFiles::read(dir)?, base.files());
    Ok(Some(TokenizerFiles {
        config: own.config.or_else(|| base.config.clone()),
        chat_template: own.chat_template.or_else(|| base.chat_template.clone()),
        generation: own.generation.or_else(|| base.generation.clone()),
        tokenizer: own.tokenizer,
    }))
}

fn tokenizer(dir: &Path, files: Option<TokenizerFiles>, base: &Tokenizer, config: &DecoderConfig) -> Result<Tokenizer> {
    let Some(files) = files else {
        return Ok(base.clone());
    };
    let model_config = family::to_json(config, base.special()).to_string();
    let tokenizer = Tokenizer::new(files, &model_config).map_err(|error| error.at_file(dir))?;
    tokenizer.check_vocabulary(config.vocab, dir)?;
    Ok(tokenizer)
}

/// The name of the decoder's parameter that a tensor of an adapter is.
fn parameter_name(tensor: &str) -> String {
    family::text_name(tensor.strip_prefix(PREFIX).unwrap_or(tensor))
}

fn attach(base: &Decoder, config: &PeftConfig, under: BaseModel, path: &Path, bytes: &[u8]) -> Result<Decoder> {
    let mut stored = HashMap::new();
    read_safetensors(path, bytes, &mut stored, |_| DType::F32)?;
    let mut tensors: HashMap<String, Tensor> = HashMap::with_capacity(stored.len());
    tensors.extend(stored.into_iter().map(|(name, tensor)| (parameter_name(&name), tensor)));
    let modules: BTreeSet<String> = base.modules().map(|(module, _)| module.to_owned()).collect();
    let adapted: BTreeSet<String> = modules
        .iter()
        .filter(|module| names(module).iter().any(|name| tensors.contains_key(name)))
        .cloned()
        .collect();
    let settings = config.settings(&adapted);
    let decoder = base.attach(&settings, under, Seed::new(0), |module, linear| {
        let pair = names(module).map(|name| tensors.remove(&name).ok_or(name));
        match pair {
            [Err(_), Err(_)] => Ok(None),
            [Ok(a), Ok(b)] => {
                check_shapes(module, linear, config, [&a, &b]).map_err(|error| error.at_file(path))?;
                Ok(Some([a, b]))
            }
            [Err(missing), _] | [_, Err(missing)] => {
                Err(Error::input(format!("the tensor `{PREFIX}{missing}` is missing"))
                    .at_file(path)
                    .help("an adapter is a pair, lora_A and lora_B: copy the file again"))
            }
        }
    })?;
    if let Some(name) = tensors.keys().min() {
        return Err(Error::input(format!("`{name}` is no adapter of a linear map that this base has"))
            .at_file(path)
            .help(match name.contains("lora_") {
                true => "the adapters belong to another base; adapters of embeddings, of the output projection and of fused projections are not supported",
                false => "merge it into its base with PEFT's merge_and_unload, and give the result",
            }));
    }
    if adapted.is_empty() {
        return Err(Error::input("the file holds no adapter").at_file(path));
    }
    Ok(decoder)
}

fn check_shapes(module: &str, linear: &LinearLayout, config: &PeftConfig, [a, b]: [&Tensor; 2]) -> Result<()> {
    let rank = a.dims().first().copied().unwrap_or(0);
    let expected = [[rank, linear.inputs], [linear.outputs, rank]];
    for (which, tensor, expected) in [("A", a, expected[0]), ("B", b, expected[1])] {
        if tensor.dims() != expected || rank == 0 {
            return Err(Error::input(format!(
                "lora_{which} of {module} has shape {:?}; its base asks for {expected:?}",
                tensor.dims()
            ))
            .help("the adapters belong to another base"));
        }
    }
    if config.one_rank() && rank != config.r {
        return Err(Error::input(format!(
            "the adapter of {module} has rank {rank}; {CONFIG} says r = {}",
            config.r
        ))
        .help("adapter_config.json and the tensors belong to different adapters: copy both again"));
    }
    Ok(())
}

/// Writes the adapters of `decoder`, in `dtype`.
pub fn write(decoder: &Decoder, dir: &Path, dtype: DType) -> Result<()> {
    let Some(adapters) = &decoder.adapters else {
        return Err(Error::unexpected("the decoder has no adapters"));
    };
    let parameters = decoder.parameters[adapters.first..].iter();
    let tensors = parameters.map(|parameter| {
        let tensor = parameter.weight.dense()?.to_dtype(dtype)?;
        Ok((format!("{PREFIX}{}", parameter.name), tensor))
    });
    write_tensors(&dir.join(TENSORS), &tensors.collect::<Result<Vec<_>>>()?)?;
    let BaseModel { reference, sha256 } = adapters.base.clone();
    if !sha256.is_empty() {
        let record = BaseRecord {
            reference: reference.clone(),
            sha256,
        };
        let record = serde_json::to_value(record).map_err(|error| Error::unexpected(BASE).because(error))?;
        write_json(&dir.join(BASE), &record)?;
    }
    let (name, revision) = named(&reference);
    let LoraConfig {
        rank,
        alpha,
        dropout,
        rank_stabilised,
        ..
    } = adapters.config;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "r": rank,
        "lora_alpha": if alpha.fract() == 0.0 && alpha < 1e9 { json!(alpha as u64) } else { json!(alpha) },
        "lora_dropout": dropout,
        "use_rslora": rank_stabilised,
        "rank_pattern": other_ranks(decoder, rank),
        "target_modules": target_modules(decoder),
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    write_json(&dir.join(CONFIG), &config)
}

/// The modules whose rank is not `rank`, with theirs.
fn other_ranks(decoder: &Decoder, rank: usize) -> BTreeMap<&str, usize> {
    let ranks = decoder
        .modules()
        .filter_map(|(module, linear)| Some((module, linear.adapter?.rank)));
    ranks.filter(|(_, own)| *own != rank).collect()
}

/// A base's reference as other programs know it: the hub's without our prefix, directories from the root.
fn named(reference: &str) -> (String, Option<String>) {
    if let Some(repository) = reference.strip_prefix(hub::PREFIX) {
        return match repository.split_once('@') {
            Some((id, revision)) => (id.to_owned(), Some(revision.to_owned())),
            None => (repository.to_owned(), None),
        };
    }
    let path = Path::new(reference);
    let absolute = path.exists().then(|| std::path::absolute(path).ok()).flatten();
    (
        absolute.map_or(reference.to_owned(), |path| path.to_string_lossy().into_owned()),
        None,
    )
}

/// The adapted modules: by kind where all of a kind are adapted, else by their whole names.
pub fn target_modules(decoder: &Decoder) -> Vec<String> {
    let modules: Vec<(&str, bool)> = decoder
        .modules()
        .map(|(name, linear)| (name, linear.adapter.is_some()))
        .collect();
    let whole = |of: &str| modules.iter().all(|(name, adapted)| kind(name) != of || *adapted);
    let targets: BTreeSet<String> = modules
        .iter()
        .filter(|(_, adapted)| *adapted)
        .map(|(name, _)| if whole(kind(name)) { kind(name) } else { name }.to_owned())
        .collect();
    targets.into_iter().collect()
}

/// What adapters are, from the headers of their files alone.
pub struct Sketch {
    /// Where their base is.
    pub base: String,
    pub rank: usize,
    pub alpha: f64,
    /// How many modules are adapted.
    pub modules: usize,
    /// Numbers in the adapters, by the type that they are stored in.
    pub stored: Vec<(DType, usize)>,
}

impl Sketch {
    pub fn read(dir: &Path) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let bytes = tensors_of(dir)?;
        let path = dir.join(TENSORS);
        let views = stored_views(&path, &bytes)?;
        Ok(Self {
            base: config.base(dir)?,
            rank: config.r,
            alpha: config.lora_alpha,
            modules: views
                .iter()
                .filter(|(name, ..)| name.ends_with(".lora_A.weight"))
                .count(),
            stored: views
                .iter()
                .map(|(_, dtype, view)| (*dtype, view.shape().iter().product()))
                .collect(),
        })
    }
}

/// The tokenizer of a model adapted by `dir`, and the model's hash where that of the base, `reference`, is known.
pub fn tokenizer_and_hash(
    dir: &Path,
    reference: &str,
    base: &Tokenizer,
    config: &DecoderConfig,
    sha256: Option<&str>,
) -> Result<(Tokenizer, Option<String>)> {
    let files = tokenizer_files(dir, base)?;
    let sha256 = sha256.map(|base| {
        check_base(dir, reference, base)?;
        identity(base, dir, &tensors_of(dir)?, files.as_ref())
    });
    Ok((tokenizer(dir, files, base, config)?, sha256.transpose()?))
}
