//! Operations that candle lacks, with exact gradients.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// `log σ(x)`, stable at any `x`.
///
/// Composed from `abs`, `exp` and `log` it would get its gradient wrong at exactly 0, where the
/// training of DPO begins; hence an operation of its own.
struct LogSigmoid;

fn log_sigmoid_of(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

impl CustomOp1 for LogSigmoid {
    fn name(&self) -> &'static str {
        "log-sigmoid"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("log_sigmoid wants a contiguous tensor")
        };
        let out = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(
                x[start..end]
                    .iter()
                    .map(|x| log_sigmoid_of(f64::from(*x)) as f32)
                    .collect(),
            ),
            CpuStorage::F64(x) => CpuStorage::F64(x[start..end].iter().map(|x| log_sigmoid_of(*x)).collect()),
            _ => bail!("log_sigmoid wants f32 or f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    /// `d log σ(x) / dx = σ(-x) = exp(log σ(-x))`.
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let slope = x.neg()?.contiguous()?.apply_op1_no_bwd(&LogSigmoid)?.exp()?;
        Ok(Some((gradient * slope)?))
    }
}

/// `log σ(x)`, element by element.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(LogSigmoid)
}

/// `log (p / (1 - p))` from `x = log p`, exact near both ends. Beyond [`MOST_CERTAIN`] it is constant: at `p = 1`, the odds
/// of an answer without tokens, there is nothing to learn.
struct LogOdds;

/// The log-probability up to which odds are told apart; in `f32` the next ones are too far from each other.
const MOST_CERTAIN: f64 = -1e-6;

fn log_odds_of(x: f64) -> f64 {
    let x = x.min(MOST_CERTAIN);
    // log (1 - exp x), as Maechler (2012) has it.
    let complement = if x > -std::f64::consts::LN_2 {
        (-x.exp_m1()).ln()
    } else {
        (-x.exp()).ln_1p()
    };
    x - complement
}

/// `d / dx = 1 / (1 - p)`.
fn log_odds_slope(x: f64) -> f64 {
    if x < MOST_CERTAIN { -1.0 / x.exp_m1() } else { 0.0 }
}

fn each(storage: &CpuStorage, layout: &Layout, f: impl Fn(f64) -> f64) -> Result<(CpuStorage, Shape)> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("log_odds wants a contiguous tensor")
    };
    let out = match storage {
        CpuStorage::F32(x) => CpuStorage::F32(x[start..end].iter().map(|x| f(f64::from(*x)) as f32).collect()),
        CpuStorage::F64(x) => CpuStorage::F64(x[start..end].iter().map(|x| f(*x)).collect()),
        _ => bail!("log_odds wants f32 or f64"),
    };
    Ok((out, layout.shape().clone()))
}

struct LogOddsSlope;

impl CustomOp1 for LogOddsSlope {
    fn name(&self) -> &'static str {
        "log-odds-slope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        each(storage, layout, log_odds_slope)
    }
}

impl CustomOp1 for LogOdds {
    fn name(&self) -> &'static str {
        "log-odds"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        each(storage, layout, log_odds_of)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let slope = x.contiguous()?.apply_op1_no_bwd(&LogOddsSlope)?;
        Ok(Some((gradient * slope)?))
    }
}

/// `log (p / (1 - p))` from log-probabilities, element by element.
pub fn log_odds(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(LogOdds)
}

/// The mean of `x` where `mask` is 1; both of one shape.
pub fn masked_mean(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    (x * mask)?.sum_all()?.div(&mask.sum_all()?)
}

/// Soft labels `(B)` of a batch: probabilities that the chosen answer is the better, and what each row weighs; `None` is
/// 1 for each.
#[derive(Clone, Copy)]
pub struct SoftLabels<'a> {
    pub p_chosen: &'a Tensor,
    pub weights: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for SoftLabels<'a> {
    fn from(p_chosen: &'a Tensor) -> Self {
        Self {
            p_chosen,
            weights: None,
        }
    }
}

impl SoftLabels<'_> {
    /// `(B)`: the cross-entropy `-(p log σ(d) + (1-p) log σ(-d))` of differences `d (B)`.
    pub fn cross_entropy(&self, difference: &Tensor) -> Result<Tensor> {
        let won = (self.p_chosen * log_sigmoid(difference)?)?;
        let lost = (self.p_chosen.affine(-1.0, 1.0)? * log_sigmoid(&difference.neg()?)?)?;
        (won + lost)?.neg()
    }

    /// `(B)`: the mean of what a row costs if the chosen answer is the better, and of what it costs if the other is, as
    /// likely as the labels say.
    pub fn expected(&self, won: &Tensor, lost: &Tensor) -> Result<Tensor> {
        (self.p_chosen * won)? + (self.p_chosen.affine(-1.0, 1.0)? * lost)?
    }

    /// The mean of `w · x` over the rows. Weights have the mean 1 over a data set, not over a batch, so they are not divided by.
    pub fn mean(&self, per_row: &Tensor) -> Result<Tensor> {
        match self.weights {
            Some(weights) => (per_row * weights)?.mean_all(),
            None => per_row.mean_all(),
        }
    }
}
