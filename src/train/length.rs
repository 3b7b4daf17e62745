//! Length control of the trainers: its settings, and the figures that tell whether it is needed.
//!
//! The equations are in [`loss::length`](super::loss::length). A setting at its default is not recorded, so that
//! runs of versions without it stay what they are.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::loss::length::DpoLength;
use crate::bounds;
use crate::error::{Error, Result};

/// The margin of a token, in log-odds.
const LENGTH_ALPHA: f64 = 0.02;
/// The weight of tokens beyond the shorter answer.
const LD_ALPHA: f64 = 0.5;
/// Tokens at which the effect of length levels off.
const LENGTH_SCALE: f64 = 10.0;
/// The learning rate of a single coefficient, which has a long way to go in a short run.
const LENGTH_RATE: f64 = 0.04;
const LENGTH_COEF: f64 = 1.0;
const ORTHOGONAL_COEF: f64 = 1.0;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DpoControl {
    #[default]
    None,
    Normalised,
    Margin,
    Desensitised,
    DownSampled,
}

impl DpoControl {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
pub struct DpoLengthConfig {
    /// Keeps DPO from learning length. normalised: mean log-probabilities instead of sums, with a larger beta, say 2 to 5 (LN-DPO); margin: a longer winner is pushed less (R-DPO); desensitised: tokens beyond the shorter answer count less (LD-DPO); down-sampled: as many tokens of the longer answer, drawn at random, as the shorter has (SamPO).
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "DpoControl::is_none")]
    pub length_control: DpoControl,
    /// For margin: what each token more is worth, in log-odds; 0 is plain DPO [default: 0.02].
    #[arg(long, value_name = "ALPHA", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_alpha: Option<f64>,
    /// For desensitised: the weight of tokens beyond the shorter answer, from 0 to 1; 1 is plain DPO [default: 0.5].
    #[arg(long, value_name = "ALPHA", value_parser = bounds::share::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ld_alpha: Option<f64>,
}

impl DpoLengthConfig {
    /// The settings in full, as they are recorded; an error if one would do nothing.
    pub fn settled(&self) -> Result<Self> {
        let control = self.length_control;
        let (margin, desensitised) = (control == DpoControl::Margin, control == DpoControl::Desensitised);
        Ok(Self {
            length_control: control,
            length_alpha: settle("length-alpha", self.length_alpha, margin, LENGTH_ALPHA, "margin")?,
            ld_alpha: settle("ld-alpha", self.ld_alpha, desensitised, LD_ALPHA, "desensitised")?,
        })
    }

    pub fn choice(&self) -> DpoLength {
        match self.length_control {
            DpoControl::None => DpoLength::None,
            DpoControl::Normalised => DpoLength::Normalised,
            DpoControl::Margin => DpoLength::Margin {
                alpha: self.length_alpha.unwrap_or(LENGTH_ALPHA),
            },
            DpoControl::Desensitised => DpoLength::Desensitised {
                alpha: self.ld_alpha.unwrap_or(LD_ALPHA),
            },
            DpoControl::DownSampled => DpoLength::DownSampled,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RewardControl {
    #[default]
    None,
    Residual,
    Decorrelated,
}

impl RewardControl {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
pub struct RewardLengthConfig {
    /// Keeps the reward model from learning length. residual: a coefficient on the difference in tokens explains its part of the labels, and is left out of the rewards (a product of experts); decorrelated: a second head is sent after length, and the head that is kept is held uncorrelated with it (ODIN).
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "RewardControl::is_none")]
    pub length_control: RewardControl,
    /// For residual: the difference in tokens at which the effect of length levels off [default: 10].
    #[arg(long, value_name = "TOKENS", value_parser = bounds::positive::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_scale: Option<f64>,
    /// For residual: peak learning rate of the coefficient [default: 0.04].
    #[arg(long, value_name = "RATE", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_rate: Option<f64>,
    /// For decorrelated: weight of the correlations of both heads with length [default: 1].
    #[arg(long, value_name = "WEIGHT", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_coef: Option<f64>,
    /// For decorrelated: weight of the cosine between the two heads [default: 1].
    #[arg(long, value_name = "WEIGHT", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orthogonal_coef: Option<f64>,
}

/// How the reward model is kept from learning length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RewardLength {
    None,
    Residual { scale: f64, rate: f64 },
    Decorrelated { length_coef: f64, orthogonal_coef: f64 },
}

impl RewardLengthConfig {
    /// The settings in full, as they are recorded; an error if one would do nothing.
    pub fn settled(&self) -> Result<Self> {
        let control = self.length_control;
        let residual =
            |name, given, default| settle(name, given, control == RewardControl::Residual, default, "residual");
        let decorrelated = |name, given, default| {
            settle(
                name,
                given,
                control == RewardControl::Decorrelated,
                default,
                "decorrelated",
            )
        };
        Ok(Self {
            length_control: control,
            length_scale: residual("length-scale", self.length_scale, LENGTH_SCALE)?,
            length_rate: residual("length-rate", self.length_rate, LENGTH_RATE)?,
            length_coef: decorrelated("length-coef", self.length_coef, LENGTH_COEF)?,
            orthogonal_coef: decorrelated("orthogonal-coef", self.orthogonal_coef, ORTHOGONAL_COEF)?,
        })
    }

    pub fn choice(&self) -> RewardLength {
        match self.length_control {
            RewardControl::None => RewardLength::None,
            RewardControl::Residual => RewardLength::Residual {
                scale: self.length_scale.unwrap_or(LENGTH_SCALE),
                rate: self.length_rate.unwrap_or(LENGTH_RATE),
            },
            RewardControl::Decorrelated => RewardLength::Decorrelated {
                length_coef: self.length_coef.unwrap_or(LENGTH_COEF),
                orthogonal_coef: self.orthogonal_coef.unwrap_or(ORTHOGONAL_COEF),
            },
        }
    }
}

/// A setting of one kind of control: its default where that is chosen, nothing where it is not.
fn settle(name: &str, given: Option<f64>, chosen: bool, default: f64, control: &str) -> Result<Option<f64>> {
    match (given, chosen) {
        (Some(_), false) => {
            Err(Error::config(format!("--{name} has no effect"))
                .help(format!("it goes with --length-control {control}")))
        }
        (None, false) => Ok(None),
        (given, true) => Ok(Some(given.unwrap_or(default))),
    }
}

/// The share of pairs whose chosen answer is longer, and the correlation of the margins of a batch with the
/// difference in tokens; NaN where one of them does not vary.
pub fn figures(margins: &[f32], chosen: &[usize], rejected: &[usize]) -> [(&'static str, f64); 2] {
    let differences: Vec<f64> = chosen
        .iter()
        .zip(rejected)
        .map(|(c, r)| *c as f64 - *r as f64)
        .collect();
    let margins: Vec<f64> = margins.iter().copied().map(f64::from).collect();
    let longer = differences.iter().filter(|difference| **difference > 0.0).count();
    [
        ("length/chosen_longer", longer as f64 / differences.len() as f64),
        ("length/margin_correlation", correlation(&margins, &differences)),
    ]
}

/// Pearson's correlation; NaN where one of the two does not vary.
pub fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (x_mean, y_mean) = (mean(x), mean(y));
    let (mut both, mut of_x, mut of_y) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        both += (x - x_mean) * (y - y_mean);
        of_x += (x - x_mean).powi(2);
        of_y += (y - y_mean).powi(2);
    }
    both / (of_x * of_y).sqrt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recorded(settings: &impl Serialize) -> serde_json::Value {
        serde_json::to_value(settings).unwrap()
    }

    /// Catches: a finished run of an earlier version that is taken for another one, and a run whose record does not
    /// say what it did.
    #[test]
    fn what_is_chosen_is_recorded_and_nothing_else() {
        let dpo = |length_control: DpoControl| DpoLengthConfig {
            length_control,
            ..DpoLengthConfig::default()
        };
        assert_eq!(recorded(&dpo(DpoControl::None).settled().unwrap()), json!({}));
        assert_eq!(
            recorded(&dpo(DpoControl::Margin).settled().unwrap()),
            json!({ "length_control": "margin", "length_alpha": LENGTH_ALPHA })
        );
        assert_eq!(
            recorded(&dpo(DpoControl::DownSampled).settled().unwrap()),
            json!({ "length_control": "down-sampled" })
        );
        assert_eq!(recorded(&RewardLengthConfig::default().settled().unwrap()), json!({}));
        let residual = RewardLengthConfig {
            length_control: RewardControl::Residual,
            length_scale: Some(40.0),
            ..RewardLengthConfig::default()
        };
        let residual = residual.settled().unwrap();
        assert_eq!(
            recorded(&residual),
            json!({ "length_control": "residual", "length_scale": 40.0, "length_rate": LENGTH_RATE })
        );
        assert_eq!(
            residual.choice(),
            RewardLength::Residual {
                scale: 40.0,
                rate: LENGTH_RATE
            }
        );
    }

    /// Catches: a setting that is typed, does nothing, and is not missed.
    #[test]
    fn a_setting_without_its_control_is_refused() {
        let stray = DpoLengthConfig {
            length_control: DpoControl::Margin,
            ld_alpha: Some(0.5),
            ..DpoLengthConfig::default()
        };
        let error = stray.settled().unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Config);
        assert!(error.help_text().unwrap().contains("desensitised"), "{error}");
    }

    /// Catches: covariance for correlation, a sign, ties counted as longer.
    #[test]
    fn figures_are_of_the_difference_in_tokens() {
        let [longer, correlated] = figures(&[1.0, 2.0, 3.0, 4.0], &[5, 9, 9, 20], &[5, 7, 5, 14]);
        assert_eq!(longer, ("length/chosen_longer", 0.75));
        assert_eq!(correlated.0, "length/margin_correlation");
        assert!((correlated.1 - 1.0).abs() < 1e-12);
        assert!(figures(&[1.0, 1.0], &[5, 9], &[5, 7])[1].1.is_nan());
    }
}
