//! The flags of adapters, which every trainer has.

use clap::Args;
use serde::Serialize;

use crate::bounds;
use crate::cli::session::Session;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::files::Model;
use crate::model::lora::{BaseModel, LoraConfig, Targets};
use crate::seed::Seed;

#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct Lora {
    /// Train low-rank adapters of this rank beside frozen weights, and save them alone (LoRA); 0 trains all weights.
    #[arg(long, default_value_t = 0, value_name = "R")]
    #[serde(skip_serializing_if = "is_zero")]
    pub lora_rank: usize,
    /// What adapters add is multiplied by this over the rank [default: twice the rank].
    #[arg(long, value_name = "ALPHA", value_parser = bounds::positive::<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// The share of an adapter's inputs that is left out in each step of training [default: 0].
    #[arg(long, value_name = "SHARE", value_parser = bounds::share::<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// The linear maps to adapt: ends of their names such as q_proj,v_proj, where * stands for anything [default: all of
    /// attention and MLP].
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora_targets: Vec<String>,
    /// Divide alpha by the root of the rank, so that large ranks learn as fast as small ones (rsLoRA).
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lora_rank_stabilised: bool,
}

fn is_zero(rank: &usize) -> bool {
    *rank == 0
}

impl Lora {
    /// What is to be adapted and how; nothing for a run that trains all weights.
    fn config(&self) -> Result<Option<LoraConfig>> {
        let given = [
            ("--lora-alpha", self.lora_alpha.is_some()),
            ("--lora-dropout", self.lora_dropout.is_some()),
            ("--lora-targets", !self.lora_targets.is_empty()),
            ("--lora-rank-stabilised", self.lora_rank_stabilised),
        ];
        if self.lora_rank == 0 {
            return match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(Error::config(format!(
                    "{flag} is of adapters, and without a rank there are none"
                ))
                .help("give --lora-rank 8, or another rank")),
                None => Ok(None),
            };
        }
        Ok(Some(LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64),
            dropout: self.lora_dropout.unwrap_or(0.0),
            targets: Targets::new(&self.lora_targets),
            rank_stabilised: self.lora_rank_stabilised,
        }))
    }

    /// The decoder that is trained: `model`'s, with fresh adapters if they are asked for. Adapters that it already has
    /// become part of the weights.
    pub fn prepare(&self, session: &Session, model: &Model, seed: Seed) -> Result<Decoder> {
        let config = self.config()?;
        if model.decoder.adapters.is_some() {
            let which = match config {
                Some(_) => "new ones are trained on top",
                None => "all weights are trained",
            };
            let note = format!(
                "{}: its adapters are folded into the weights, and {which}",
                model.reference
            );
            session.progress().note(&note);
        }
        let base = model.decoder.merged()?;
        let Some(config) = config else { return Ok(base) };
        let under = BaseModel {
            reference: model.reference.clone(),
            sha256: model.sha256.clone(),
        };
        let adapted = base.with_adapters(&config, under, seed.child("lora"))?;
        let count: usize = adapted.learning().map(|parameter| parameter.weight.elem_count()).sum();
        let note = format!(
            "{} of {} parameters learn, in adapters of rank {}",
            crate::cli::output::grouped(count as u64),
            crate::cli::output::grouped(adapted.parameter_count() as u64),
            config.rank
        );
        session.progress().note(&note);
        Ok(adapted)
    }
}
