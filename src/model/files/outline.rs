//! A model seen from outside: what `model info` tells, from the headers of its files alone where they
//! are a directory's. No weights are loaded then, so a model that does not fit this machine can be
//! looked at too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use candle_core::DType;

use super::{Checkpoint, Model, Precision, Source, family, stored_views};
use crate::error::{Error, Result};
use crate::hub;
use crate::model::config::DecoderConfig;
use crate::model::decoder::{Weight, specification};
use crate::model::lora::files::{self as adapters, Sketch};
use crate::model::tokenizer::Tokenizer;

/// Numbers of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub numbers: usize,
    pub bytes: usize,
}

pub struct Outline {
    pub config: DecoderConfig,
    pub tokenizer: Tokenizer,
    pub parameters: usize,
    /// A quantised model can answer and judge only.
    pub trainable: bool,
    /// The parameters as the files hold them, by type.
    pub stored: BTreeMap<String, Tally>,
    /// The parameters as they would be held in memory.
    pub held: BTreeMap<String, Tally>,
    /// As in the manifests of what the model makes; `None` if it was not asked for.
    pub sha256: Option<String>,
    /// The adapters, if the model is such on a base.
    pub adapters: Option<Sketch>,
}

impl Outline {
    /// Looks at a model whose weights would be held in `precision`. With `hash`, every byte is read.
    pub fn read(reference: &str, precision: Precision, hash: bool) -> Result<Self> {
        if let Some(path) = hub::local(reference)? {
            return Self::read(&path.to_string_lossy(), precision, hash);
        }
        if reference.ends_with(".gguf") {
            return Self::of(&Model::load_in(reference, Precision::AsStored)?, precision);
        }
        if adapters::is_adapter(reference.as_ref()) {
            return Self::of_adapters(reference.as_ref(), precision, hash);
        }
        let source = Source::read(reference)?;
        let config =
            family::parse(&source.checkpoint.config).map_err(|error| error.at_file(&source.checkpoint.config_path))?;
        let tokenizer = Tokenizer::new(source.tokenizer.clone(), &source.checkpoint.config)
            .map_err(|error| error.at_file(reference))?;
        tokenizer.check_vocabulary(config.vocab, reference.as_ref())?;
        let (stored, held) = source.checkpoint.tallies(&config, precision)?;
        Ok(Self {
            parameters: held.values().map(|tally| tally.numbers).sum(),
            config,
            tokenizer,
            trainable: true,
            stored,
            held,
            sha256: hash.then(|| source.sha256()),
            adapters: None,
        })
    }

    /// Of adapters: their base, and they beside it.
    fn of_adapters(dir: &Path, precision: Precision, hash: bool) -> Result<Self> {
        let sketch = Sketch::read(dir)?;
        let mut base = Self::read(&sketch.base, precision, hash)?;
        // A base's own adapters are folded into its weights.
        for (dtype, numbers) in base.adapters.take().into_iter().flat_map(|adapters| adapters.stored) {
            take(&mut base.stored, dtype, numbers);
            take(&mut base.held, DType::F32, numbers);
        }
        for (dtype, numbers) in &sketch.stored {
            add(&mut base.stored, *dtype, *numbers);
            add(&mut base.held, DType::F32, *numbers);
        }
        let (tokenizer, sha256) =
            adapters::tokenizer_and_hash(dir, &sketch.base, &base.tokenizer, &base.config, base.sha256.as_deref())?;
        Ok(Self {
            parameters: base.held.values().map(|tally| tally.numbers).sum(),
            tokenizer,
            sha256,
            adapters: Some(sketch),
            ..base
        })
    }

    /// Of a model that had to be loaded, with its weights as they are stored.
    fn of(model: &Model, precision: Precision) -> Result<Self> {
        let (mut stored, mut held) = (Tallies::new(), Tallies::new());
        let mut trainable = true;
        for parameter in &model.decoder.parameters {
            let numbers = parameter.weight.elem_count();
            match &parameter.weight {
                Weight::Dense(tensor) => {
                    let dtype = tensor.dtype();
                    add(&mut stored, dtype, numbers);
                    let target = match precision {
                        Precision::AsStored => dtype,
                        asked => asked.target(dtype, tensor.rank(), 0),
                    };
                    add(&mut held, target, numbers);
                }
                Weight::Quantised(tensor) => {
                    trainable = false;
                    for tallies in [&mut stored, &mut held] {
                        let tally = tallies.entry(format!("{:?}", tensor.dtype())).or_default();
                        tally.numbers += numbers;
                        tally.bytes += tensor.storage_size_in_bytes();
                    }
                }
            }
        }
        Ok(Self {
            config: model.decoder.config.clone(),
            tokenizer: model.tokenizer.clone(),
            parameters: model.decoder.parameter_count(),
            trainable,
            stored,
            held,
            sha256: Some(model.sha256.clone()),
            adapters: None,
        })
    }
}

type Tallies = BTreeMap<String, Tally>;

fn add(tallies: &mut Tallies, dtype: DType, numbers: usize) {
    let tally = tallies.entry(dtype.as_str().to_owned()).or_default();
    tally.numbers += numbers;
    tally.bytes += numbers * dtype.size_in_bytes();
}

fn take(tallies: &mut Tallies, dtype: DType, numbers: usize) {
    if let Some(tally) = tallies.get_mut(dtype.as_str()) {
        tally.numbers = tally.numbers.saturating_sub(numbers);
        tally.bytes = tally.bytes.saturating_sub(numbers * dtype.size_in_bytes());
    }
}

impl Checkpoint {
    /// The parameters by the type they are stored in, and by the type they would be held in.
    fn tallies(&self, config: &DecoderConfig, precision: Precision) -> Result<(Tallies, Tallies)> {
        let size = self.weights.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut shapes: HashMap<String, (DType, Vec<usize>)> = HashMap::new();
        for (path, bytes) in &self.weights {
            for (name, dtype, view) in stored_views(path, bytes)? {
                shapes.insert(name, (dtype, view.shape().to_vec()));
            }
        }
        let (mut stored, mut held) = (Tallies::new(), Tallies::new());
        let mut seen = HashSet::new();
        for spec in specification(config).0 {
            let place = family::stored(config, &spec.name);
            let (dtype, shape) = shapes.get(&place.name).ok_or_else(|| {
                Error::input(format!("the tensor `{}` is missing", place.name))
                    .at_file(&self.config_path)
                    .help("the weights do not belong to this config.json, or the checkpoint is incomplete")
            })?;
            if place.part.is_none() && *shape != spec.shape {
                return Err(Error::input(format!(
                    "the tensor `{}` has shape {shape:?}; config.json asks for {:?}",
                    place.name, spec.shape
                ))
                .at_file(&self.config_path)
                .help("the weights do not belong to this config.json"));
            }
            let numbers = spec.shape.iter().product();
            add(&mut held, precision.target(*dtype, shape.len(), size), numbers);
            if seen.insert(place.name) {
                add(&mut stored, *dtype, shape.iter().product());
            }
        }
        Ok((stored, held))
    }
}
