//! The settings of DPO and its kin, and which of them go together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::error::{Error, Result};
use crate::train::length::{DpoControl, DpoLengthConfig};
use crate::train::optim::OptimConfig;
use crate::train::sft::{is_one, one};

/// Pull towards the reference, and towards the rejected answers where there is none.
const BETA: f64 = 0.1;
/// The rewards of SimPO are means over tokens, and smaller.
const SIMPO_BETA: f64 = 2.0;
/// SimPO's margin as a share of its beta.
const GAMMA_RATIO: f64 = 0.5;

/// The losses of preference pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceLoss {
    #[default]
    Sigmoid,
    Ipo,
    Robust,
    Hinge,
    Simpo,
    Kto,
    Orpo,
}

impl PreferenceLoss {
    /// Whether the policy before training takes part.
    pub fn needs_reference(self) -> bool {
        match self {
            Self::Sigmoid | Self::Ipo | Self::Robust | Self::Hinge | Self::Kto => true,
            Self::Simpo | Self::Orpo => false,
        }
    }

    /// Whether log-probabilities are averaged over the tokens of an answer.
    pub fn averages(self) -> bool {
        match self {
            Self::Ipo | Self::Simpo | Self::Orpo => true,
            Self::Sigmoid | Self::Robust | Self::Hinge | Self::Kto => false,
        }
    }

    fn default_beta(self) -> f64 {
        if self == Self::Simpo { SIMPO_BETA } else { BETA }
    }

    fn is_sigmoid(&self) -> bool {
        *self == Self::Sigmoid
    }

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Ipo => "ipo",
            Self::Robust => "robust",
            Self::Hinge => "hinge",
            Self::Simpo => "simpo",
            Self::Kto => "kto",
            Self::Orpo => "orpo",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct DpoConfig {
    /// Peak learning rate.
    #[arg(long, default_value_t = Self::default().learning_rate, value_parser = bounds::amount::<f64>)]
    pub learning_rate: f64,
    /// Passes over the data.
    #[arg(long, default_value_t = Self::default().epochs)]
    pub epochs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = Self::default().batch_size)]
    pub batch_size: usize,
    /// Batches to a step: their gradients are added up, in the memory of one, as if they were one batch.
    #[arg(long, default_value_t = Self::default().gradient_accumulation_steps, value_name = "N", value_parser = bounds::count)]
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub gradient_accumulation_steps: usize,
    /// What a pair costs. sigmoid: DPO. ipo: a fixed difference is aimed at, so that sure labels do not drive the policy on for ever. robust: labels of which the share --label-smoothing is known to be wrong. hinge: pairs that are won clearly are left alone (SLiC). simpo: mean log-probabilities as rewards, no reference. kto: each answer is wanted or not wanted by itself. orpo: the chosen answers' likelihood and odds, no reference. Soft labels go through all of them: a pair costs what it is expected to, were its answers labelled by a coin of that probability.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default, skip_serializing_if = "PreferenceLoss::is_sigmoid")]
    pub loss: PreferenceLoss,
    /// Strength of the pull towards the reference; for simpo how much a difference of mean log-probabilities means, for orpo the weight of the odds ratio [default: 0.1; for simpo 2].
    #[arg(long, value_parser = bounds::positive::<f64>)]
    #[serde(default)]
    pub beta: Option<f64>,
    /// Moves labels this far towards the opposite (conservative DPO); for robust the share of labels that is wrong.
    #[arg(long, default_value_t = Self::default().label_smoothing, value_parser = bounds::share::<f32>)]
    pub label_smoothing: f32,
    /// Weight of the chosen answers' mean token NLL, which keeps DPO from lowering the likelihood of both answers (RPO, Pang et al. 2024).
    #[arg(long, default_value_t = Self::default().sft_coef, value_parser = bounds::amount::<f64>)]
    pub sft_coef: f64,
    /// For simpo: the margin by which the better answer has to win [default: half of beta].
    #[arg(long, value_name = "GAMMA", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
    /// For kto: weight of the answers that are wanted [default: 1].
    #[arg(long, value_name = "WEIGHT", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,
    /// For kto: weight of the answers that are not wanted [default: 1].
    #[arg(long, value_name = "WEIGHT", value_parser = bounds::amount::<f64>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,
    /// For orpo: weight of the prompt's tokens in the likelihood. 1 is what the authors' program and TRL do, 0 what all other trainers here do [default: 0].
    #[arg(long, value_name = "WEIGHT", value_parser = bounds::amount::<f32>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_loss_weight: Option<f32>,
    /// Log-probabilities of the reference from an earlier run: its directory, or the folder `reference` in it. What is missing is computed. They are of the same weights, or refused.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub reference_logprobs: Option<PathBuf>,
    /// Measure the loss on held-out pairs after every so many steps, besides at the end.
    #[arg(long, value_name = "N", value_parser = bounds::count)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    #[serde(flatten)]
    #[command(flatten)]
    pub length: DpoLengthConfig,
    #[serde(flatten)]
    #[command(flatten)]
    pub optim: OptimConfig,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            epochs: 1,
            batch_size: 16,
            gradient_accumulation_steps: 1,
            loss: PreferenceLoss::Sigmoid,
            beta: None,
            label_smoothing: 0.0,
            sft_coef: 0.0,
            simpo_gamma: None,
            desirable_weight: None,
            undesirable_weight: None,
            prompt_loss_weight: None,
            reference_logprobs: None,
            eval_steps: None,
            length: DpoLengthConfig::default(),
            optim: OptimConfig::default(),
        }
    }
}

impl DpoConfig {
    pub fn beta(&self) -> f64 {
        self.beta.unwrap_or(self.loss.default_beta())
    }

    /// The settings in full, as they are recorded; an error if one would do nothing, or make no sense beside another.
    pub fn settled(&self) -> Result<Self> {
        use PreferenceLoss::{Kto, Orpo, Simpo};
        let loss = self.loss;
        let length = self.length.settled()?;
        self.check(length.length_control)?;
        Ok(Self {
            beta: Some(self.beta()),
            simpo_gamma: settle(
                "simpo-gamma",
                self.simpo_gamma,
                (loss, Simpo),
                GAMMA_RATIO * self.beta(),
            )?,
            desirable_weight: settle("desirable-weight", self.desirable_weight, (loss, Kto), 1.0)?,
            undesirable_weight: settle("undesirable-weight", self.undesirable_weight, (loss, Kto), 1.0)?,
            prompt_loss_weight: settle("prompt-loss-weight", self.prompt_loss_weight, (loss, Orpo), 0.0)?,
            length,
            ..self.clone()
        })
    }

    fn check(&self, control: DpoControl) -> Result<()> {
        let loss = self.loss;
        let refused = |what: &str, why: &str| Err(Error::config(what.to_owned()).help(why.to_owned()));
        if control != DpoControl::None && (loss.averages() || loss == PreferenceLoss::Kto) {
            let why = if loss.averages() {
                "this loss takes the mean over the tokens of an answer already; leave --length-control out"
            } else {
                "kto looks at each answer by itself, length control at both of a pair; leave one of them out"
            };
            return refused(&format!("--length-control has no place in --loss {}", loss.name()), why);
        }
        if loss == PreferenceLoss::Robust && !(self.label_smoothing > 0.0 && self.label_smoothing < 0.5) {
            return refused(
                "--loss robust wants to know the share of wrong labels",
                "give it as --label-smoothing, above 0 and below 0.5; without wrong labels it is --loss sigmoid",
            );
        }
        if loss == PreferenceLoss::Orpo && self.sft_coef != 0.0 {
            return refused(
                "--sft-coef has no effect with --loss orpo",
                "the likelihood of the chosen answers is a part of the loss; a smaller --beta gives it more weight",
            );
        }
        if loss == PreferenceLoss::Kto && self.batch_size * self.gradient_accumulation_steps < 2 {
            return refused(
                "--loss kto wants more than one pair to a step",
                "it measures how far the policy is from the reference on answers to other prompts of the step",
            );
        }
        if !loss.needs_reference() && self.reference_logprobs.is_some() {
            return refused(
                "--reference-logprobs has no effect",
                &format!("--loss {} has no reference", loss.name()),
            );
        }
        Ok(())
    }
}

/// A setting of one loss: its default there, nothing elsewhere.
fn settle<T>(
    name: &str,
    given: Option<T>,
    (loss, only): (PreferenceLoss, PreferenceLoss),
    default: T,
) -> Result<Option<T>> {
    match given {
        _ if loss == only => Ok(Some(given.unwrap_or(default))),
        Some(_) => {
            Err(Error::config(format!("--{name} has no effect")).help(format!("it goes with --loss {}", only.name())))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(loss: PreferenceLoss) -> DpoConfig {
        DpoConfig {
            loss,
            ..DpoConfig::default()
        }
    }

    /// Catches: a default run whose record differs from that of versions with one loss, and a run whose record does not
    /// say what it did.
    #[test]
    fn what_is_chosen_is_recorded_and_nothing_else() {
        let recorded = |config: &DpoConfig| serde_json::to_value(config.settled().unwrap()).unwrap();
        let plain = recorded(&with(PreferenceLoss::Sigmoid));
        assert_eq!(plain["beta"], json!(0.1));
        for name in [
            "loss",
            "gradient_accumulation_steps",
            "simpo_gamma",
            "desirable_weight",
            "prompt_loss_weight",
            "reference_logprobs",
        ] {
            assert!(plain.get(name).is_none(), "{name}");
        }
        let simpo = recorded(&with(PreferenceLoss::Simpo));
        assert_eq!(
            (&simpo["loss"], &simpo["beta"], &simpo["simpo_gamma"]),
            (&json!("simpo"), &json!(2.0), &json!(1.0))
        );
        let kto = recorded(&with(PreferenceLoss::Kto));
        assert_eq!(
            (&kto["desirable_weight"], &kto["undesirable_weight"]),
            (&json!(1.0), &json!(1.0))
        );
        let twice = with(PreferenceLoss::Orpo).settled().unwrap();
        assert_eq!(twice.settled().unwrap(), twice);
    }

    /// Catches: a setting that is typed, does nothing, and is not missed; a robust loss that divides by nothing.
    #[test]
    fn what_makes_no_sense_is_refused() {
        use PreferenceLoss::{Hinge, Ipo, Kto, Orpo, Robust, Sigmoid, Simpo};
        let normalised = |loss| DpoConfig {
            length: DpoLengthConfig {
                length_control: DpoControl::Normalised,
                ..DpoLengthConfig::default()
            },
            ..with(loss)
        };
        let smoothed = |loss, label_smoothing| DpoConfig {
            label_smoothing,
            ..with(loss)
        };
        let refused = [
            normalised(Ipo),
            normalised(Simpo),
            normalised(Orpo),
            normalised(Kto),
            with(Robust),
            smoothed(Robust, 0.5),
            DpoConfig {
                simpo_gamma: Some(1.0),
                ..with(Sigmoid)
            },
            DpoConfig {
                undesirable_weight: Some(1.0),
                ..with(Ipo)
            },
            DpoConfig {
                prompt_loss_weight: Some(1.0),
                ..with(Simpo)
            },
            DpoConfig {
                sft_coef: 0.5,
                ..with(Orpo)
            },
            DpoConfig {
                batch_size: 1,
                ..with(Kto)
            },
            DpoConfig {
                reference_logprobs: Some("there".into()),
                ..with(Simpo)
            },
        ];
        for config in refused {
            let error = config.settled().unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Config, "{config:?}");
            assert!(error.help_text().is_some(), "{error}");
        }
        for config in [
            normalised(Hinge),
            smoothed(Robust, 0.49),
            smoothed(Kto, 0.2),
            smoothed(Ipo, 0.5),
        ] {
            config.settled().unwrap();
        }
    }
}
