//! `train ppo | rloo | grpo`: prompts, reward sources and a monitor for the methods that draw while they learn.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::train::{Common, Training, encode_rows, load_reward_model};
use super::{Done, Stage};
use crate::cli::args::{Parts, WithOut};
use crate::cli::session::{Session, constitution_source, data_source, engine_source, model_source};
use crate::cli::variables::Variables;
use crate::dataset::{self, Provenance};
use crate::engine::Engine;
use crate::engine::local::LocalEngine;
use crate::error::{Error, Result};
use crate::model::files::Model;
use crate::prompt::Templates;
use crate::train::monitor::{MonitorConfig, Watch};
use crate::train::online::{self, Basics, Method};
use crate::train::reward::RewardModel;
use crate::train::rollout::{Actors, RolloutConfig};
use crate::train::rules::WeighedRule;
use crate::train::sources::{Judge, Source, Sources};
use crate::train::{grpo, ppo, rloo};

/// The methods, each a command of `train`.
#[derive(Debug, clap::Subcommand)]
pub enum OnlineCommand {
    /// Proximal policy optimisation against rewards; the data are prompts.
    Ppo(Box<WithOut<Online<ppo::PpoConfig>>>),
    /// REINFORCE with a leave-one-out baseline: several completions of a prompt, no value function.
    Rloo(Box<WithOut<Online<rloo::RlooConfig>>>),
    /// Group relative policy optimisation: several completions of a prompt, no value function.
    Grpo(Box<WithOut<Online<grpo::GrpoConfig>>>),
}

impl OnlineCommand {
    pub fn parts(&self) -> Parts<'_> {
        match self {
            Self::Ppo(command) => command.parts(),
            Self::Rloo(command) => command.parts(),
            Self::Grpo(command) => command.parts(),
        }
    }

    pub fn exported(&self) -> &dyn Exported {
        match self {
            Self::Ppo(command) => &command.stage,
            Self::Rloo(command) => &command.stage,
            Self::Grpo(command) => &command.stage,
        }
    }
}

/// Where the rewards come from.
#[derive(Debug, Clone, Serialize, Args)]
pub struct Rewards {
    /// A reward model, made by `bylaw train reward`, and its weight (1 if it is left out); may be given again.
    #[arg(long, value_name = "DIR[=WEIGHT]", required_unless_present_any = ["reward_rule", "reward_judge"])]
    #[serde(skip)]
    pub reward_model: Vec<String>,
    /// A rule that an answer keeps (1) or breaks (0), and its weight: length<=N and length>=N (tokens), no-repeat (the share of runs of four words that are new), regex:PATTERN, not-regex:PATTERN; may be given again.
    #[arg(long, value_name = "RULE[=WEIGHT]")]
    #[serde(
        rename = "reward_rules",
        serialize_with = "as_texts",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub reward_rule: Vec<WeighedRule>,
    /// A model that rates how well an answer satisfies the principles of --constitution, as a share from 0 to 1, and its weight.
    #[arg(long, value_name = "MODEL[=WEIGHT]", requires = "constitution")]
    #[serde(skip)]
    pub reward_judge: Option<String>,
    /// The constitution that the judge rates under.
    #[arg(long, requires = "reward_judge")]
    #[serde(skip)]
    pub constitution: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// A reward model that gives no reward: whether the policy gets better by it too is what the monitor looks at.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub held_out_reward_model: Option<String>,
    /// What the models and the judge weigh, where that is not 1 for a single model.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weights: Vec<f32>,
}

fn as_texts<S: serde::Serializer>(rules: &[WeighedRule], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rules.iter().map(ToString::to_string))
}

/// A method that draws while it learns, with what it needs besides.
#[derive(Debug, Clone, Args)]
pub struct Online<M: Method> {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten, next_help_heading = "Rewards")]
    pub rewards: Rewards,
    #[command(flatten, next_help_heading = "Monitor")]
    pub monitor: MonitorConfig,
    #[command(flatten, next_help_heading = "The method")]
    pub config: M,
}

/// What `run --emit` hands over of a method, whichever it is.
pub trait Exported: Stage {
    fn common(&self) -> &Common;
    fn reward_model(&self) -> Option<&str>;
    fn basics(&self) -> Basics;
    fn rollout(&self) -> &RolloutConfig;
    fn ppo(&self) -> Option<&ppo::PpoConfig>;
}

impl<M: Method> Exported for Online<M> {
    fn common(&self) -> &Common {
        &self.common
    }

    fn reward_model(&self) -> Option<&str> {
        self.rewards.reward_model.first().map(|typed| weighted(typed).0)
    }

    fn basics(&self) -> Basics {
        self.config.basics()
    }

    fn rollout(&self) -> &RolloutConfig {
        self.config.rollout()
    }

    fn ppo(&self) -> Option<&ppo::PpoConfig> {
        self.config.ppo()
    }
}

/// A reference and its weight, as typed: `DIR` or `DIR=WEIGHT`. A directory whose name looks like that is one.
pub fn weighted(typed: &str) -> (&str, f32) {
    let parts = typed.rsplit_once('=').filter(|_| !Path::new(typed).exists());
    match parts.map(|(reference, weight)| (reference, weight.parse::<f32>())) {
        Some((reference, Ok(weight))) if weight.is_finite() => (reference, weight),
        _ => (typed, 1.0),
    }
}

impl Rewards {
    /// The settings with the weights that were typed.
    fn settled(&self) -> Self {
        let typed = self.reward_model.iter().chain(&self.reward_judge);
        let weights: Vec<f32> = typed.map(|typed| weighted(typed).1).collect();
        Self {
            weights: if weights == [1.0] { Vec::new() } else { weights },
            ..self.clone()
        }
    }

    /// Loads everything that gives a reward, and tells the provenance of it.
    fn load(&self, session: &Session, common: &Common, policy: &Model, provenance: &mut Provenance) -> Result<Sources> {
        let mut sources = Vec::new();
        for (index, typed) in self.reward_model.iter().enumerate() {
            let (reference, weight) = weighted(typed);
            let (mut model, files) = load_reward_model(reference)?;
            model.decoder.share_base_of(&policy.decoder, &policy.sha256);
            provenance.inputs.push(model_source(&files));
            let name = match self.reward_model.len() {
                1 => "reward_model".to_owned(),
                _ => format!("reward_model_{}", index + 1),
            };
            sources.push((name, weight, Source::Model(Box::new(model))));
        }
        for weighed in &self.reward_rule {
            let rule = Source::Rule(weighed.clone());
            sources.push((weighed.rule.to_string(), weighed.weight, rule));
        }
        if let (Some(typed), Some(reference)) = (&self.reward_judge, &self.constitution) {
            let (model, weight) = weighted(typed);
            let constitution = self.variables.resolve(reference)?;
            let judge = common.prompting.load(model, session.serving())?;
            let templates = Templates::new(common.prompting.style(&judge)?);
            let engine = LocalEngine::new(Arc::new(judge))?;
            provenance.inputs.push(engine_source(&engine));
            provenance.constitution = Some(constitution_source(reference, &constitution));
            let judge = Judge {
                engine: Box::new(engine) as Box<dyn Engine + Send>,
                templates,
                constitution,
            };
            sources.push(("judge".into(), weight, Source::Judge(Box::new(judge))));
        }
        Sources::new(sources)
    }

    fn held_out(&self, provenance: &mut Provenance) -> Result<Option<RewardModel>> {
        let Some(reference) = &self.held_out_reward_model else {
            return Ok(None);
        };
        let (model, files) = load_reward_model(reference)?;
        provenance.inputs.push(model_source(&files));
        Ok(Some(model))
    }
}

impl<M: Method> Online<M> {
    /// Refuses reward models that would read the policy's tokens as others.
    fn check_vocabulary(&self, models: &[&RewardModel], vocabulary: usize) -> Result<()> {
        match models.iter().find(|model| model.decoder.config.vocab != vocabulary) {
            None => Ok(()),
            Some(model) => Err(Error::config(format!(
                "a reward model has a vocabulary of {}, the policy one of {vocabulary}",
                model.decoder.config.vocab
            ))
            .help("train the reward model from the policy, or from a model with its tokenizer")),
        }
    }
}

impl<M: Method> Stage for Online<M> {
    fn kind(&self) -> &'static str {
        M::KIND
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        self.config.check()?;
        let data = dataset::read_prompts(&self.common.data)?;
        let rewards = self.rewards.settled();
        let settings = Settings {
            common: &self.common,
            rewards: &rewards,
            monitor: &self.monitor,
            config: &self.config,
        };
        let inputs = vec![data_source(&self.common.data, &data)];
        let mut training = Training::new(session, out, self.kind(), &self.common, &settings, inputs)?;
        let sources = rewards.load(session, &self.common, &training.model, &mut training.provenance)?;
        let held_out = rewards.held_out(&mut training.provenance)?;
        if let Some(done) = training.finished()? {
            return Ok(done);
        }
        let models: Vec<&RewardModel> = sources.models().map(|(_, model)| model).chain(&held_out).collect();
        self.check_vocabulary(&models, training.model.decoder.config.vocab)?;
        let encoder = training.encoder();
        let room = self.config.rollout().max_new_tokens;
        let (encoded, rejects) = encode_rows(self.kind(), &data.rows, data.rejects, |row| {
            let tokens = encoder.prompt(&row.messages)?;
            training.model.decoder.check_length(tokens.len() + room)?;
            Ok((tokens, row.messages.clone()))
        })?;
        let (prompts, conversations): (Vec<_>, Vec<_>) = encoded.into_iter().unzip();
        training.begin(prompts.len(), &rejects)?;
        let stop = training.templates.stop_strings();
        let actors = Actors {
            policy: &training.model.decoder,
            sources: &sources,
            tokenizer: &training.model.tokenizer,
            prompts: &prompts,
            conversations: &conversations,
            stop: &stop,
        };
        let watch = Watch {
            config: &self.monitor,
            held_out: held_out.as_ref(),
        };
        let seed = session.stage_seed(self.kind());
        let decoder = online::train(training.setup()?, &self.config, &actors, watch, seed)?;
        training.finish(decoder, None, prompts.len(), rejects.len())
    }
}

/// What the result depends on besides the inputs.
#[derive(Serialize)]
struct Settings<'a, M: Method> {
    #[serde(flatten)]
    common: &'a Common,
    #[serde(flatten)]
    rewards: &'a Rewards,
    #[serde(skip_serializing_if = "is_default")]
    monitor: &'a MonitorConfig,
    #[serde(flatten)]
    config: &'a M,
}

fn is_default(monitor: &&MonitorConfig) -> bool {
    monitor.is_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a directory with `=` in its name taken apart, a weight that is none.
    #[test]
    fn a_weight_stands_behind_the_last_equals_sign() {
        assert_eq!(weighted("runs/reward"), ("runs/reward", 1.0));
        assert_eq!(weighted("runs/reward=0.5"), ("runs/reward", 0.5));
        assert_eq!(weighted("runs/lr=1e-5=-2"), ("runs/lr=1e-5", -2.0));
        assert_eq!(weighted("runs/a=b"), ("runs/a=b", 1.0));
        assert_eq!(weighted("runs/a=inf"), ("runs/a=inf", 1.0));
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("lr=0.1");
        std::fs::create_dir(&named).unwrap();
        assert_eq!(weighted(named.to_str().unwrap()).1, 1.0);
    }
}
