//! Checkpoints in Hugging Face layout: `config.json`, safetensors (one file or shards), tokenizer.
//!
//! Everything is checked before it is used: missing files and tensors, shapes, truncation. What is
//! saved loads in transformers. Pickles are never read.

mod outline;

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

pub use self::outline::{Outline, Tally};
use super::config::DecoderConfig;
use super::decoder::{Decoder, ParameterSpec, Weight};
use super::family::{self, Stored};
use super::gguf;
use super::heads::ScalarHead;
use super::lora;
use super::tokenizer::Tokenizer;
use crate::atomic;
use crate::error::{Error, Result};
use crate::hub;
use crate::record::hex;

/// A decoder with its tokenizer and the hash of its files.
#[derive(Clone)]
pub struct Model {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    /// How the user named it.
    pub reference: String,
    /// SHA-256 over configuration, weights, tokenizer and chat template.
    pub sha256: String,
}

/// The model inside the program.
pub const BUILTIN: &str = "builtin:tiny";

/// The file that says which shard holds a tensor.
const INDEX: &str = "model.safetensors.index.json";

/// The files of a model, wherever they come from.
struct Source {
    checkpoint: Checkpoint,
    tokenizer: TokenizerFiles,
}

/// Configuration and weights.
struct Checkpoint {
    config: String,
    config_path: PathBuf,
    weights: Vec<(PathBuf, Bytes)>,
}

/// The content of a file of weights.
pub(super) enum Bytes {
    Static(&'static [u8]),
    Mapped(Mmap),
}

impl Bytes {
    /// Maps a file into memory: a large checkpoint is never held twice.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|error| Error::io("read", path, error))?;
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: the map is read only, and only while the model is loaded. Whoever shortens the file in
        // that time ends the program, as with any mapped file; what is read is checked like any input.
        let map = unsafe { Mmap::map(&file) };
        Ok(Self::Mapped(map.map_err(|error| Error::io("read", path, error))?))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// The type that weights are held in. Norms and biases are `f32` in any case, and so are all sums; a
/// product with bf16 weights rounds its other side to bf16 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// `f32`, as training needs it.
    Full,
    /// As in the files if those are large and in half precision, which halves what a decoding step has
    /// to read; else `f32`.
    AsStored,
    As(DType),
}

/// Weights of fewer bytes stay in the processor's caches, where half precision gains nothing.
const LARGE: usize = 64 << 20;

impl Precision {
    /// What a tensor of `rank` dimensions of a checkpoint of `bytes` bytes is turned into.
    fn target(self, stored: DType, rank: usize, bytes: usize) -> DType {
        match (self, stored) {
            _ if rank < 2 => DType::F32,
            (Self::As(dtype), _) => dtype,
            (Self::AsStored, stored @ (DType::F16 | DType::BF16)) if bytes >= LARGE => stored,
            _ => DType::F32,
        }
    }
}

/// The texts of the tokenizer's files.
#[derive(Clone, Default)]
pub struct TokenizerFiles {
    pub tokenizer: String,
    pub config: Option<String>,
    /// `chat_template.jinja`; older checkpoints have the template in `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// `generation_config.json`, which names the tokens that end a completion.
    pub generation: Option<String>,
}

impl TokenizerFiles {
    /// The files of a checkpoint directory.
    pub fn read(dir: &Path) -> Result<Self> {
        Ok(Self {
            tokenizer: read_text(&dir.join("tokenizer.json"))?,
            ..Self::read_template(dir)?
        })
    }

    /// As [`Self::read`], without `tokenizer.json`: enough to render conversations.
    pub fn read_template(dir: &Path) -> Result<Self> {
        let optional = |name: &str| match dir.join(name) {
            path if path.exists() => read_text(&path).map(Some),
            _ => Ok(None),
        };
        Ok(Self {
            tokenizer: String::new(),
            config: optional("tokenizer_config.json")?,
            chat_template: optional("chat_template.jinja")?,
            generation: optional("generation_config.json")?,
        })
    }
}

impl Model {
    /// Loads a model reference (a directory of a model or of adapters, `hf:org/name`, a GGUF file, or
    /// `builtin:tiny`) in `f32`, but for what is quantised.
    pub fn load(reference: &str) -> Result<Self> {
        Self::load_in(reference, Precision::Full)
    }

    pub fn load_in(reference: &str, precision: Precision) -> Result<Self> {
        // What lies in the cache of the hub keeps the name that it was asked for by.
        if let Some(path) = hub::local(reference)? {
            let model = Self::load_in(&path.to_string_lossy(), precision)?;
            return Ok(Self {
                reference: reference.to_owned(),
                ..model
            });
        }
        if reference.ends_with(gguf::EXTENSION) {
            return Self::load_gguf(reference, precision);
        }
        if lora::files::is_adapter(Path::new(reference)) {
            return lora::files::load(Path::new(reference), None, precision);
        }
        let source = Source::read(reference)?;
        Self::assemble(reference, source, precision)
    }

    fn load_gguf(file: &str, precision: Precision) -> Result<Self> {
        let model = gguf::load(file)?;
        let decoder = match precision {
            Precision::Full => model.decoder.to_dtype(DType::F32)?,
            Precision::AsStored => model.decoder,
            Precision::As(dtype) => model.decoder.to_dtype(dtype)?,
        };
        Ok(Self { decoder, ..model })
    }

    fn assemble(reference: &str, source: Source, precision: Precision) -> Result<Self> {
        let sha256 = source.sha256();
        let Source { checkpoint, tokenizer } = source;
        let decoder = checkpoint.decoder(precision)?;
        let tokenizer = Tokenizer::new(tokenizer, &checkpoint.config).map_err(|error| error.at_file(reference))?;
        tokenizer.check_vocabulary(decoder.config.vocab, Path::new(reference))?;
        Ok(Self {
            decoder,
            tokenizer,
            reference: reference.to_owned(),
            sha256,
        })
    }

    /// Saves in Hugging Face layout, in `dtype`; of an adapted model the adapters alone, in PEFT's.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<()> {
        self.save_under(dir, dtype, None)
    }

    /// Saves a reward model: the decoder, and its head in a file of our own, exactly. In a whole checkpoint the head is also
    /// the classifier that transformers' `AutoModelForSequenceClassification` reads; it gives the same rewards less the
    /// constant `reward_offset` of `config.json`, for it has no bias.
    pub fn save_with_head(&self, dir: &Path, dtype: DType, head: &ScalarHead) -> Result<()> {
        self.save_under(dir, dtype, Some(head))?;
        head.save(dir)
    }

    fn save_under(&self, dir: &Path, dtype: DType, head: Option<&ScalarHead>) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| Error::io("create", dir, error))?;
        match self.decoder.adapters {
            Some(_) => lora::files::write(&self.decoder, dir, dtype)?,
            None => self.save_decoder(dir, dtype, head)?,
        }
        self.save_tokenizer(dir)
    }

    fn save_decoder(&self, dir: &Path, dtype: DType, head: Option<&ScalarHead>) -> Result<()> {
        let special = self.tokenizer.special();
        let mut config = family::to_json(&self.decoder.config, special);
        let name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        config["torch_dtype"] = name.into();
        let mut tensors = stored_tensors(&self.decoder, dtype)?;
        if let Some(head) = head {
            tensors.push(("score.weight".to_owned(), head.classifier()?.to_dtype(dtype)?));
            // So transformers counts labels: one.
            config["id2label"] = serde_json::json!({ "0": "reward" });
            config["label2id"] = serde_json::json!({ "reward": 0 });
            config["reward_offset"] = head.offset()?.into();
        }
        write_tensors(&dir.join("model.safetensors"), &tensors)?;
        write_json(&dir.join("config.json"), &config)
    }

    fn save_tokenizer(&self, dir: &Path) -> Result<()> {
        let special = self.tokenizer.special();
        let ends = match self.tokenizer.ends() {
            [only] => serde_json::json!(only),
            several => serde_json::json!(several),
        };
        write_json(
            &dir.join("generation_config.json"),
            &serde_json::json!({ "bos_token_id": special.bos, "eos_token_id": ends }),
        )?;
        let files = self.tokenizer.files();
        if let Some(template) = &files.chat_template {
            atomic::write(&dir.join("chat_template.jinja"), template.as_bytes())?;
        }
        atomic::write(&dir.join("tokenizer.json"), files.tokenizer.as_bytes())?;
        let tokenizer_config = files.config.clone().unwrap_or_else(|| self.tokenizer.default_config());
        atomic::write(&dir.join("tokenizer_config.json"), tokenizer_config.as_bytes())
    }
}

/// The decoder of a checkpoint directory, whether or not a tokenizer lies beside it.
pub fn load_decoder(dir: &Path) -> Result<Decoder> {
    Checkpoint::read(dir)?.decoder(Precision::Full)
}

impl Source {
    fn read(reference: &str) -> Result<Self> {
        match reference {
            BUILTIN => Ok(builtin()),
            _ => read_directory(reference),
        }
    }

    /// Of all that decides what the model says.
    fn sha256(&self) -> String {
        let Self { checkpoint, tokenizer } = self;
        let mut hash = Sha256::new();
        hash.update(&checkpoint.config);
        hash.update(&tokenizer.tokenizer);
        for text in [&tokenizer.config, &tokenizer.chat_template, &tokenizer.generation] {
            hash.update(text.as_deref().unwrap_or_default());
        }
        checkpoint.weights.iter().for_each(|(_, bytes)| hash.update(&**bytes));
        hex(&hash.finalize())
    }
}

impl Checkpoint {
    fn read(dir: &Path) -> Result<Self> {
        let config_path = dir.join("config.json");
        let weights = weight_files(dir)?
            .into_iter()
            .map(|path| {
                let bytes = Bytes::map(&path)?;
                Ok((path, bytes))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config: read_text(&config_path)?,
            config_path,
            weights,
        })
    }

    fn decoder(&self, precision: Precision) -> Result<Decoder> {
        let config = family::parse(&self.config).map_err(|error| error.at_file(&self.config_path))?;
        let mut tensors = HashMap::new();
        let size = self.weights.iter().map(|(_, bytes)| bytes.len()).sum();
        for (path, bytes) in &self.weights {
            read_safetensors(path, bytes, &mut tensors, |tensor| {
                precision.target(tensor.dtype(), tensor.rank(), size)
            })?;
        }
        // A tensor that no shard has is the index's mistake, not the first shard's.
        let path = match self.weights.as_slice() {
            [(path, _)] => path.clone(),
            _ => self.config_path.with_file_name(INDEX),
        };
        Decoder::build(config.clone(), |spec| {
            let stored = family::stored(&config, &spec.name);
            take_tensor(&mut tensors, spec, &stored, &path)
        })
    }
}

fn builtin() -> Source {
    Source {
        checkpoint: Checkpoint {
            config: include_str!("../../models/tiny/config.json").to_owned(),
            config_path: "builtin:tiny/config.json".into(),
            weights: vec![(
                "builtin:tiny/model.safetensors".into(),
                Bytes::Static(include_bytes!("../../models/tiny/model.safetensors")),
            )],
        },
        tokenizer: TokenizerFiles {
            tokenizer: include_str!("../../models/tiny/tokenizer.json").to_owned(),
            config: Some(include_str!("../../models/tiny/tokenizer_config.json").to_owned()),
            ..TokenizerFiles::default()
        },
    }
}

fn read_directory(reference: &str) -> Result<Source> {
    if let Some(later) = ["http://", "https://"]
        .iter()
        .find(|mark| reference.starts_with(**mark))
    {
        return Err(Error::config(format!(
            "model references with `{later}` are not supported yet: {reference}"
        ))
        .help("give a local directory in Hugging Face layout, hf:org/name, a GGUF file, or builtin:tiny"));
    }
    if reference.starts_with("builtin:") {
        return Err(Error::config(format!("no model is built in as `{reference}`")).help("there is builtin:tiny"));
    }
    let dir = Path::new(reference);
    if !dir.is_dir() {
        return Err(Error::input(format!("there is no model directory `{reference}`"))
            .help("a model is a directory in Hugging Face layout (config.json, tokenizer.json, *.safetensors), a file that ends in .gguf, or builtin:tiny"));
    }
    Ok(Source {
        checkpoint: Checkpoint::read(dir)?,
        tokenizer: TokenizerFiles::read(dir)?,
    })
}

/// The safetensors files of a directory: one, or those its index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index_path = dir.join(INDEX);
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index_path.exists() {
        let pickle = dir.join("pytorch_model.bin").exists();
        return Err(Error::input(format!("{} has no model.safetensors and no index of shards", dir.display()))
            .help(if pickle {
                "pytorch_model.bin is a pickle, which can run code and is never read: save the model again with save_pretrained(safe_serialization=True)"
            } else {
                "copy the whole checkpoint: config.json, tokenizer.json and its safetensors files"
            }));
    }
    let index: serde_json::Value = serde_json::from_str(&read_text(&index_path)?).map_err(|error| {
        Error::input("not a safetensors index")
            .at_file(&index_path)
            .because(error)
    })?;
    let map = index["weight_map"]
        .as_object()
        .ok_or_else(|| Error::input("the index has no `weight_map`").at_file(&index_path))?;
    let names: std::collections::BTreeSet<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    names
        .into_iter()
        .map(|name| {
            let plain = Path::new(name).file_name().is_some_and(|file| file == name);
            let path = dir.join(name);
            match (plain, path.exists()) {
                (false, _) => Err(
                    Error::input(format!("the index names a file outside its directory: {name}")).at_file(&index_path),
                ),
                (true, false) => Err(Error::input(format!("the shard {name} is missing"))
                    .at_file(&index_path)
                    .help("copy every shard that the index names")),
                (true, true) => Ok(path),
            }
        })
        .collect()
}

/// The tensors of a safetensors file, not read yet, by the names of a text model.
pub(super) fn stored_views<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(String, DType, TensorView<'a>)>> {
    let unreadable = |error: String| {
        Error::input(format!("not a complete safetensors file: {error}"))
            .at_file(path)
            .help("the file may be truncated: copy it again and compare its size")
    };
    let file = SafeTensors::deserialize(bytes).map_err(|error| unreadable(error.to_string()))?;
    let views = file.tensors().into_iter().map(|(name, view)| {
        let dtype = DType::try_from(view.dtype()).map_err(|error| unreadable(format!("`{name}`: {error}")))?;
        Ok((family::text_name(&name), dtype, view))
    });
    views.collect()
}

pub(super) fn read_safetensors(
    path: &Path,
    bytes: &[u8],
    tensors: &mut HashMap<String, Tensor>,
    target: impl Fn(&Tensor) -> DType,
) -> Result<()> {
    for (name, dtype, view) in stored_views(path, bytes)? {
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        let dtype = target(&tensor);
        tensors.insert(name, tensor.to_dtype(dtype)?);
    }
    Ok(())
}

fn take_tensor(
    tensors: &mut HashMap<String, Tensor>,
    spec: &ParameterSpec,
    Stored { name, part }: &Stored,
    path: &Path,
) -> Result<Weight> {
    let found = match part {
        None => tensors.remove(name),
        Some(_) => tensors.get(name).cloned(),
    };
    let tensor = found.ok_or_else(|| {
        Error::input(format!("the tensor `{name}` is missing"))
            .at_file(path)
            .help("the weights do not belong to this config.json, or the checkpoint is incomplete")
    })?;
    let mut shape = spec.shape.clone();
    if let Some((_, rows)) = part {
        shape[0] = *rows;
    }
    if tensor.dims() != shape {
        return Err(Error::input(format!(
            "the tensor `{name}` has shape {:?}; config.json asks for {shape:?}",
            tensor.dims(),
        ))
        .at_file(path)
        .help("the weights do not belong to this config.json"));
    }
    Ok(Weight::Dense(match part {
        None => tensor,
        // A copy: parameters that share memory could not be trained.
        Some((start, _)) => tensor.narrow(0, *start, spec.shape[0])?.force_contiguous()?,
    }))
}

/// The tensors that a checkpoint of the decoder's family has, in `dtype`.
fn stored_tensors(decoder: &Decoder, dtype: DType) -> Result<Vec<(String, Tensor)>> {
    let mut parts: Vec<(String, Vec<Tensor>)> = Vec::new();
    for parameter in &decoder.parameters {
        let tensor = parameter.weight.dense()?.to_dtype(dtype)?;
        let name = family::stored(&decoder.config, &parameter.name).name;
        match parts.last_mut().filter(|(last, _)| *last == name) {
            Some((_, tensors)) => tensors.push(tensor),
            None => parts.push((name, vec![tensor])),
        }
    }
    let whole = |(name, tensors): (String, Vec<Tensor>)| Ok((name, Tensor::cat(&tensors, 0)?));
    parts.into_iter().map(whole).collect()
}

/// Writes named tensors as safetensors with transformers' `format: pt` mark.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let sorted: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let bytes = safetensors::serialize(sorted, Some(metadata))
        .map_err(|error| Error::unexpected("the tensors cannot be serialised").because(error))?;
    atomic::write(path, &bytes)
}

pub(super) fn write_json(path: &Path, json: &serde_json::Value) -> Result<()> {
    atomic::write(path, format!("{json:#}\n").as_bytes())
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::input("not UTF-8 text").at_file(path).because(error),
        _ => Error::io("read", path, error)
            .help("copy the whole checkpoint: config.json, tokenizer.json and its safetensors files"),
    })
}

/// A model of `config` with random weights and the given tokenizer.
pub fn assemble_random(config: DecoderConfig, tokenizer: TokenizerFiles, seed: crate::seed::Seed) -> Result<Model> {
    let decoder = Decoder::random(config, seed)?;
    let tokenizer = Tokenizer::new(tokenizer, "{}")?;
    tokenizer.check_vocabulary(decoder.config.vocab, Path::new("the new model"))?;
    Ok(Model {
        decoder,
        tokenizer,
        reference: "new".into(),
        sha256: String::new(),
    })
}
