//! Low-rank adapters: what learns beside frozen weights (LoRA, Hu et al. 2021).
//!
//! An adapted map gives `x · Wᵀ + scale · (x · Aᵀ) · Bᵀ` with `A (rank, inputs)` and `B (outputs, rank)`. A begins as
//! PEFT's does (Kaiming uniform with a = sqrt 5, that is within `1 / sqrt(inputs)`) and B at 0, so that an adapted
//! decoder begins as its base, to the bit. The base's tensors are shared and never copied. How the product is
//! computed is not known here ([`super::cpu`]), and files are [`files`]'.

pub mod files;
mod targets;

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rand::Rng as _;

pub use self::targets::Targets;
use super::cpu::View;
use super::cpu::kernels::{self, Mat, MatMut, Write};
use super::decoder::{Decoder, LayerLayout, Layout, LinearLayout, Parameter, Weight};
use super::family;
use crate::error::{Error, Result};
use crate::seed::Seed;

/// Where a linear map finds its adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapter {
    /// `(rank, inputs)`.
    pub a: usize,
    /// `(outputs, rank)`.
    pub b: usize,
    pub rank: usize,
    pub scale: f32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    /// Over the rank, the scale of what adapters add.
    pub alpha: f64,
    /// The share of an adapter's inputs that is left out, drawn anew in each step of training.
    pub dropout: f64,
    pub targets: Targets,
    /// Divides alpha by the root of the rank instead (rsLoRA, Kalajdzievski 2023).
    pub rank_stabilised: bool,
}

impl LoraConfig {
    pub fn scale(&self, rank: usize) -> f32 {
        let rank = rank as f64;
        (self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }) as f32
    }

    fn check(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::config("an adapter's rank is at least 1").help("--lora-rank 8 is usual"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(
                Error::config(format!("alpha is {}", self.alpha)).help("give --lora-alpha a number greater than 0")
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config(format!("a dropout of {} leaves nothing", self.dropout))
                .help("give --lora-dropout a number from 0 to below 1"));
        }
        Ok(())
    }
}

/// The model that adapters were made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// How it is named: a directory, `hf:org/name`, `builtin:tiny`.
    pub reference: String,
    /// As in the manifests; empty if it is not known.
    pub sha256: String,
}

/// What the last parameters of an adapted decoder are.
#[derive(Debug, Clone)]
pub struct Adapters {
    pub config: LoraConfig,
    pub base: BaseModel,
    /// The first parameter that is an adapter's; all from there on are.
    pub first: usize,
    /// What dropout is drawn from, with the updates done so far.
    pub seed: Seed,
    pub updates: u64,
}

/// The names of an adapter's two parameters.
fn names(module: &str) -> [String; 2] {
    ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"))
}

/// The name of the module that a linear map is.
fn module<'a>(parameters: &'a [Parameter], linear: &LinearLayout) -> &'a str {
    let name = &parameters[linear.weight].name;
    name.strip_suffix(".weight").unwrap_or(name)
}

impl Decoder {
    /// The same decoder with fresh adapters of `base`, which is this decoder; they alone learn.
    pub fn with_adapters(&self, config: &LoraConfig, base: BaseModel, seed: Seed) -> Result<Self> {
        config.check()?;
        let names: Vec<&str> = self.modules().map(|(name, _)| name).collect();
        let chosen = config.targets.choose(&names)?;
        self.check_separate(&chosen)?;
        let fresh = |module: &str, linear: &LinearLayout| -> Result<Option<[Tensor; 2]>> {
            if !chosen.contains(module) {
                return Ok(None);
            }
            let (outputs, inputs, rank) = (linear.outputs, linear.inputs, config.rank);
            let a = uniform(rank * inputs, 1.0 / (inputs as f32).sqrt(), seed.child(module));
            Ok(Some([
                Tensor::from_vec(a, (rank, inputs), &Device::Cpu)?,
                Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu)?,
            ]))
        };
        self.attach(config, base, seed, fresh)
    }

    /// An error if a checkpoint of this family keeps one of `modules` in a tensor with others: there is no file in
    /// which an adapter of a part could lie.
    fn check_separate(&self, modules: &BTreeSet<&str>) -> Result<()> {
        let fused = |module: &str| family::stored(&self.config, &format!("{module}.weight")).part.is_some();
        let Some(module) = modules.iter().find(|module| fused(module)) else {
            return Ok(());
        };
        let whole: BTreeSet<&str> = self
            .modules()
            .map(|(module, _)| module)
            .filter(|module| !fused(module))
            .map(targets::kind)
            .collect();
        Err(Error::config(format!(
            "{module} is stored in one tensor with others, which adapters cannot be"
        ))
        .help(format!(
            "name those that are not: --lora-targets {}",
            whole.into_iter().collect::<Vec<_>>().join(",")
        )))
    }

    /// The same decoder with adapters `(A, B)` asked for by module.
    fn attach(
        &self,
        config: &LoraConfig,
        base: BaseModel,
        seed: Seed,
        mut adapter: impl FnMut(&str, &LinearLayout) -> Result<Option<[Tensor; 2]>>,
    ) -> Result<Self> {
        if self.adapters.is_some() {
            return Err(Error::unexpected("the decoder is adapted already"));
        }
        let first = self.parameters.len();
        let mut parameters = self.parameters.clone();
        parameters.iter_mut().for_each(|parameter| parameter.frozen = true);
        let mut layout = Layout::clone(&self.layout);
        for linear in layout.layers.iter_mut().flat_map(LayerLayout::linears_mut) {
            let module = module(&self.parameters, linear);
            let Some(tensors) = adapter(module, linear)? else {
                continue;
            };
            let (rank, a) = (tensors[0].dim(0)?, parameters.len());
            for (name, tensor) in names(module).into_iter().zip(tensors) {
                parameters.push(Parameter {
                    name,
                    weight: Weight::Dense(tensor),
                    frozen: false,
                });
            }
            linear.adapter = Some(Adapter {
                a,
                b: a + 1,
                rank,
                scale: config.scale(rank),
            });
        }
        Ok(Self {
            parameters,
            layout: Arc::new(layout),
            adapters: Some(Adapters {
                config: config.clone(),
                base,
                first,
                seed,
                updates: 0,
            }),
            ..self.clone()
        })
    }

    /// The linear maps with the names of their modules.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &LinearLayout)> {
        let linears = self.layout.layers.iter().flat_map(LayerLayout::linears);
        linears.map(|linear| (module(&self.parameters, linear), linear))
    }

    /// The decoder without its adapters: the same tensors.
    #[must_use]
    pub fn base(&self) -> Self {
        let mut parameters = self.base_parameters().to_vec();
        if self.adapters.is_some() {
            parameters.iter_mut().for_each(|parameter| parameter.frozen = false);
        }
        let mut layout = Layout::clone(&self.layout);
        let linears = layout.layers.iter_mut().flat_map(LayerLayout::linears_mut);
        linears.for_each(|linear| linear.adapter = None);
        Self {
            parameters,
            layout: Arc::new(layout),
            adapters: None,
            ..self.clone()
        }
    }

    /// The decoder with its adapters folded into the weights, `W + scale · B · A`; what is not adapted is shared.
    pub fn merged(&self) -> Result<Self> {
        let mut merged = self.base();
        for (_, linear) in self.modules() {
            let Some(adapter) = &linear.adapter else { continue };
            let stored = self.parameters[linear.weight].weight.dense()?;
            let mut sum: Vec<f32> = stored.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let [a, b] = [adapter.a, adapter.b].map(|index| self.parameters[index].weight.dense());
            let a = View::<f32>::new(a?)?;
            let mut b = View::<f32>::new(b?)?.to_vec();
            kernels::scale(&mut b, adapter.scale);
            let (outputs, inputs, rank) = (linear.outputs, linear.inputs, adapter.rank);
            kernels::matmul(
                MatMut::new(&mut sum, outputs, inputs),
                Mat::new(&b, outputs, rank),
                Mat::new(&a, rank, inputs),
                Write::Accumulate,
            );
            let sum = Tensor::from_vec(sum, (outputs, inputs), &Device::Cpu)?.to_dtype(stored.dtype())?;
            merged.parameters[linear.weight].weight = Weight::Dense(sum);
        }
        Ok(merged)
    }

    /// If the base is the model with the hash `sha256`, of which `other` is the decoder (adapted or not, trained or not
    /// yet), reads the base's tensors there: one copy serves both.
    pub fn share_base_of(&mut self, other: &Self, sha256: &str) {
        let same = |adapters: &Adapters| adapters.base.sha256 == sha256 && !sha256.is_empty();
        if !self.adapters.as_ref().is_some_and(same) {
            return;
        }
        let count = self.base_parameters().len();
        for (mine, theirs) in self.parameters[..count].iter_mut().zip(other.base_parameters()) {
            mine.weight = theirs.weight.clone();
        }
    }

    /// Tells the adapters how many updates were done, which dropout follows.
    pub fn set_updates(&mut self, updates: usize) {
        if let Some(adapters) = &mut self.adapters {
            adapters.updates = updates as u64;
        }
    }

    /// The lowest layer in or below which something learns; the number of layers if nothing does.
    pub fn lowest_learning(&self) -> usize {
        let Some(adapters) = &self.adapters else { return 0 };
        let learns = |index: usize| index >= adapters.first;
        let adapted = |linear: &LinearLayout| linear.adapter.is_some_and(|adapter| learns(adapter.a));
        let mut layers = self.layout.layers.iter();
        let lowest = layers.position(|layer| layer.linears().into_iter().any(adapted));
        lowest.unwrap_or(self.layout.layers.len())
    }
}

fn uniform(count: usize, bound: f32, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..count).map(|_| rng.random_range(-bound..bound)).collect()
}
