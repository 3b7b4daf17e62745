//! Scalar heads: a linear map from a hidden state to one number, for rewards and values.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use super::decoder::normal;
use super::files;
use crate::error::{Error, Result};
use crate::seed::Seed;

/// The file beside a checkpoint that holds its head.
const FILE: &str = "head.safetensors";

/// `y = (h · w + b - mean) / scale`; `mean` and `scale` standardise a trained reward model.
#[derive(Debug, Clone)]
pub struct ScalarHead {
    /// `(hidden, 1)`.
    pub weight: Var,
    /// `(1)`.
    pub bias: Var,
    pub mean: f32,
    pub scale: f32,
}

impl ScalarHead {
    /// Weights drawn with standard deviation `1 / sqrt(hidden + 1)` (Stiennon et al. 2020).
    pub fn random(hidden: usize, seed: Seed) -> Result<Self> {
        let deviation = 1.0 / (hidden as f32 + 1.0).sqrt();
        Self::new(normal(hidden, deviation, seed), 0.0)
    }

    pub fn zeros(hidden: usize) -> Result<Self> {
        Self::new(vec![0.0; hidden], 0.0)
    }

    fn new(weight: Vec<f32>, bias: f32) -> Result<Self> {
        let hidden = weight.len();
        Ok(Self {
            weight: Var::from_vec(weight, (hidden, 1), &Device::Cpu)?,
            bias: Var::from_vec(vec![bias], 1, &Device::Cpu)?,
            mean: 0.0,
            scale: 1.0,
        })
    }

    /// A head that gives the weighted sum of what `heads`, all of one width, give standardised: each is linear, so their
    /// standardisation goes into weight and bias.
    pub fn weighted_sum(heads: &[(f32, &Self)]) -> Result<Self> {
        let width = heads.first().map_or(0, |(_, head)| head.width());
        let (mut weight, mut bias) = (vec![0.0; width], 0.0);
        for (factor, head) in heads {
            let rows = head.weight.flatten_all()?.to_vec1::<f32>()?;
            for (sum, value) in weight.iter_mut().zip(rows) {
                *sum += factor * value / head.scale;
            }
            bias += factor * (head.bias.to_vec1::<f32>()?[0] - head.mean) / head.scale;
        }
        Self::new(weight, bias)
    }

    /// Numbers in the hidden state that it reads.
    pub fn width(&self) -> usize {
        self.weight.elem_count()
    }

    /// `(N)` numbers for hidden states `(N, hidden)`, not standardised.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden
            .matmul(self.weight.as_tensor())?
            .broadcast_add(self.bias.as_tensor())?
            .squeeze(1)?)
    }

    /// Standardised numbers for hidden states given row by row.
    pub fn apply(&self, hidden: &[Vec<f32>]) -> Result<Vec<f32>> {
        if hidden.is_empty() {
            return Ok(Vec::new());
        }
        let width = self.weight.dim(0)?;
        let rows: Vec<f32> = hidden.concat();
        let count = rows.len() / width;
        let raw = self.forward(&Tensor::from_vec(rows, (count, width), &Device::Cpu)?)?;
        Ok(raw
            .to_vec1::<f32>()?
            .into_iter()
            .map(|value| (value - self.mean) / self.scale)
            .collect())
    }

    /// `(1, hidden)`: the same head as a classifier of one label has it in transformers, which knows no bias. What it
    /// gives is less than the standardised number by [`offset`](Self::offset).
    pub fn classifier(&self) -> Result<Tensor> {
        let weight = self.weight.as_tensor().t()?.contiguous()?;
        Ok((weight / f64::from(self.scale))?)
    }

    /// The standardised number of a hidden state of zeros.
    pub fn offset(&self) -> Result<f64> {
        let bias = self.bias.to_vec1::<f32>()?[0];
        Ok((f64::from(bias) - f64::from(self.mean)) / f64::from(self.scale))
    }

    /// Writes the head beside the checkpoint in `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let scale = Tensor::new(&[self.mean, self.scale], &Device::Cpu)?;
        let tensors = [
            ("score.weight".to_owned(), self.weight.as_tensor().t()?.contiguous()?),
            ("score.bias".to_owned(), self.bias.as_tensor().clone()),
            ("score.standardisation".to_owned(), scale),
        ];
        files::write_tensors(&dir.join(FILE), &tensors)
    }

    /// Whether a head lies beside the checkpoint in `dir`.
    pub fn is_beside(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Reads the head beside the checkpoint in `dir`.
    pub fn load(dir: &Path, hidden: usize) -> Result<Self> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Err(
                Error::input(format!("{} is not a reward model: it has no {FILE}", dir.display()))
                    .help("train one with `bylaw train reward`"),
            );
        }
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|error| Error::input("the head cannot be read").at_file(&path).because(error))?;
        let weight = head_tensor(&tensors, "score.weight", hidden, &path)?;
        let bias = head_tensor(&tensors, "score.bias", 1, &path)?;
        let standardisation = head_tensor(&tensors, "score.standardisation", 2, &path)?;
        Ok(Self {
            mean: standardisation[0],
            scale: standardisation[1],
            ..Self::new(weight, bias[0])?
        })
    }
}

fn head_tensor(tensors: &HashMap<String, Tensor>, name: &str, count: usize, path: &Path) -> Result<Vec<f32>> {
    let values = tensors
        .get(name)
        .ok_or_else(|| Error::input(format!("the tensor `{name}` is missing")).at_file(path))?
        .flatten_all()?
        .to_vec1::<f32>()?;
    if values.len() != count {
        return Err(Error::input(format!("`{name}` has {} elements; expected {count}", values.len())).at_file(path));
    }
    Ok(values)
}
