//! What all commands of one invocation share: the global flags, resolved, and the progress display.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use clap::ValueEnum as _;
use serde::Serialize;

use super::args::{Dtype, Global};
use super::progress::Display;
use crate::constitution::Constitution;
use crate::dataset::{Loaded, Provenance, Source};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::job::Changes;
use crate::model::files::{Model, Precision};
use crate::object::{Mirror, Replica};
use crate::progress::Progress;
use crate::seed::Seed;

pub struct Session {
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
    /// As given on the command line.
    pub given_seed: Option<u64>,
    pub seed: u64,
    /// What to do where a result was made from other inputs.
    pub changes: Changes,
    /// The object store that the output goes to, if it does not stay in its directory.
    store: Option<Arc<Mirror>>,
    dtype: Dtype,
    display: Arc<Display>,
}

impl Session {
    pub fn new(global: &Global) -> Result<Self> {
        check_device(&global.device)?;
        Ok(Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            given_seed: global.seed,
            seed: global.seed.unwrap_or(0),
            changes: Changes::Refuse,
            store: None,
            dtype: global.dtype,
            display: Arc::new(Display::new(global.quiet)),
        })
    }

    /// How a model that answers or judges holds its weights.
    pub fn serving(&self) -> Precision {
        match self.dtype {
            Dtype::Auto => Precision::AsStored,
            Dtype::F32 => Precision::Full,
            Dtype::Bf16 => Precision::As(DType::BF16),
            Dtype::F16 => Precision::As(DType::F16),
        }
    }

    /// Whether products of training are in bf16. Weights, gradients and moments are `f32` in any case.
    pub fn trains_in_halves(&self) -> Result<bool> {
        match self.dtype {
            Dtype::Auto | Dtype::F32 => Ok(false),
            Dtype::Bf16 => Ok(true),
            Dtype::F16 => Err(Error::config("training computes in f32 or bf16").help("give --dtype f32 or bf16")),
        }
    }

    /// The same session with the seed of a recipe, unless one was given.
    pub fn with_seed(&self, seed: u64) -> Self {
        Self {
            seed: self.given_seed.unwrap_or(seed),
            ..self.again()
        }
    }

    fn again(&self) -> Self {
        Self {
            display: self.display.clone(),
            store: self.store.clone(),
            ..*self
        }
    }

    /// The same session, its output going to an object store.
    pub fn storing(&self, store: Arc<Mirror>) -> Self {
        Self {
            store: Some(store),
            ..self.again()
        }
    }

    /// The copy of the output that jobs keep level.
    pub fn replica(&self) -> Option<&dyn Replica> {
        self.store.as_deref().map(|store| store as &dyn Replica)
    }

    /// The same session, accepting changed inputs if `accept`.
    pub fn accepting(&self, accept: bool) -> Self {
        Self {
            changes: if accept { Changes::Accept } else { self.changes },
            ..self.again()
        }
    }

    pub fn progress(&self) -> &dyn Progress {
        self.display.as_ref()
    }

    /// The seed of a stage. It follows the kind of stage, not its name or place.
    pub fn stage_seed(&self, kind: &str) -> Seed {
        Seed::new(self.seed).child(kind)
    }

    /// A provenance with the stage's settings.
    pub fn provenance(&self, kind: &str, settings: &impl Serialize) -> Result<Provenance> {
        match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(mut settings)) => {
                if self.dtype != Dtype::Auto {
                    let name = self.dtype.to_possible_value().map(|value| value.get_name().to_owned());
                    settings.insert("dtype".into(), name.into());
                }
                Ok(Provenance {
                    settings,
                    ..Provenance::new(kind, self.seed)
                })
            }
            _ => Err(Error::unexpected(format!(
                "the settings of `{kind}` cannot be recorded"
            ))),
        }
    }
}

fn check_device(device: &str) -> Result<()> {
    match device {
        "auto" | "cpu" => Ok(()),
        cuda if cuda.starts_with("cuda") => {
            Err(Error::config("this build computes on the CPU only").help("use --device auto or --device cpu"))
        }
        other => Err(Error::config(format!("unknown device `{other}`")).help("devices: auto, cpu")),
    }
}

/// The provenance of a model.
pub fn model_source(model: &Model) -> Source {
    Source {
        reference: model.reference.clone(),
        sha256: model.sha256.clone(),
    }
}

/// The provenance of the model behind an engine.
pub fn engine_source(engine: &dyn Engine) -> Source {
    let identity = engine.identity();
    Source {
        reference: identity.reference,
        sha256: identity.sha256,
    }
}

/// The provenance of a constitution.
pub fn constitution_source(reference: &str, constitution: &Constitution) -> Source {
    Source {
        reference: reference.to_owned(),
        sha256: constitution.hash.clone(),
    }
}

/// The provenance of loaded data.
pub fn data_source<R>(reference: &str, loaded: &Loaded<R>) -> Source {
    Source {
        reference: reference.to_owned(),
        sha256: loaded.sha256.clone(),
    }
}

/// Peak resident memory of this process in megabytes; 0 where the system does not tell.
pub fn peak_rss_mb() -> f64 {
    std::fs::read_to_string(Path::new("/proc/self/status"))
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        })
        .map_or(0.0, |kilobytes| kilobytes / 1024.0)
}
