//! `eval policy | judge | reward`: figures on the proving ground, into `eval.json`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::balance::Balanced;
use super::generate::judge_rows;
use super::judging::{self, Judging};
use super::kept;
use super::prompting::Prompting;
use super::train::{encode_rows, load_reward_model};
use super::{Done, Stage};
use crate::cli::session::{Session, constitution_source, data_source, model_source};
use crate::cli::variables::Variables;
use crate::dataset::{self, Provenance, Source};
use crate::engine::Sampling;
use crate::engine::local::LocalEngine;
use crate::error::{Error, Result};
use crate::eval::{policy, preference};
use crate::model::files::Model;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::Templates;
use crate::report::RewardFigures;
use crate::stage::Context;
use crate::train::batch::Encoder;
use crate::train::reward::RewardModel;
use crate::train::{held_out, pairs};
use crate::world::{Oracle, Split, World};

/// The result of an evaluation.
pub const FILE: &str = "eval.json";

#[derive(Debug, Clone, Serialize, Args)]
pub struct Policy {
    /// The policy; answers are drawn from it.
    #[arg(long, required_unless_present = "revisions")]
    #[serde(skip)]
    pub model: Option<String>,
    /// Evaluate the final answers of these revisions instead.
    #[arg(long, conflicts_with = "model")]
    #[serde(skip)]
    pub revisions: Option<String>,
    /// Prompts of the proving ground.
    #[arg(long, required_unless_present = "revisions")]
    #[serde(skip)]
    pub prompts: Option<String>,
    /// The model from which the policy's KL divergence is measured.
    #[arg(long, requires = "model")]
    #[serde(skip)]
    pub reference: Option<String>,
    /// A reward model, made by `bylaw train reward`, that scores the answers; for the ledger of length.
    #[arg(long, requires = "model")]
    #[serde(skip)]
    pub reward_model: Option<String>,
    /// Draw N answers to each prompt and keep the one that --reward-model likes best: what training on it is compared with. KL is then log N - (N-1)/N, a bound.
    #[arg(long, requires = "reward_model", conflicts_with = "reference", value_name = "N", value_parser = crate::bounds::count)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_of: Option<usize>,
    /// The policy's name in reports.
    #[arg(long, default_value = "policy", value_name = "NAME")]
    pub policy: String,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Judge {
    /// The judge.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// The constitution it judges under.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// A dataset of `balance`, whose fitted length effect is tried on the judge's labels.
    #[arg(long)]
    #[serde(skip)]
    pub balanced: Option<String>,
    /// Pairs of answers of known quality, half of them equally good.
    #[arg(long, default_value_t = 600, value_name = "N")]
    pub pairs: usize,
    #[command(flatten, next_help_heading = "The judge")]
    #[serde(flatten, skip_serializing_if = "judging::is_default")]
    pub judging: Judging,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Reward {
    /// The reward model.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// Preferences to measure it on, instead of the proving ground: accuracy with its interval, calibration, and how it
    /// scores by length.
    #[arg(long, conflicts_with_all = ["before", "pairs"])]
    #[serde(skip)]
    pub data: Option<String>,
    /// A reward model trained on the labels before length control, to compare with.
    #[arg(long)]
    #[serde(skip)]
    pub before: Option<String>,
    /// Pairs of answers of known quality, half of them equally good.
    #[arg(long, default_value_t = 600, value_name = "N")]
    pub pairs: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
}

/// Does the evaluation unless `out` has it already.
pub(super) fn evaluate(
    session: &Session,
    out: &Path,
    provenance: Provenance,
    name: &str,
    measure: impl FnOnce() -> Result<Value>,
) -> Result<Done> {
    Ok(done(kept::keep(session, out, FILE, provenance, name, measure)?))
}

fn done(result: Value) -> Done {
    let figures = result.get("figures").cloned().unwrap_or(result);
    let note = figures.as_object().map_or_else(String::new, |figures| {
        let shown = figures
            .iter()
            .filter_map(|(name, value)| value.as_f64().map(|value| format!("{name} {value:.3}")));
        shown.collect::<Vec<_>>().join(", ")
    });
    Done {
        result: figures,
        note,
        ..Done::default()
    }
}

fn to_value(result: impl Serialize) -> Result<Value> {
    serde_json::to_value(result).map_err(|error| Error::unexpected("figures").because(error))
}

fn dataset_source(reference: &str) -> Result<Source> {
    let loaded = dataset::read_preferences(reference)?;
    Ok(data_source(reference, &loaded))
}

impl Stage for Policy {
    fn kind(&self) -> &'static str {
        "eval-policy"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let oracle = Oracle::new(&World::builtin()?);
        let mut provenance = session.provenance(self.kind(), self)?;
        if let Some(reference) = &self.revisions {
            let revisions = dataset::read_revisions(reference)?;
            provenance.inputs = vec![data_source(reference, &revisions)];
            return evaluate(session, out, provenance, &self.policy, || {
                let answers = revisions
                    .rows
                    .iter()
                    .map(|row| policy::label(&oracle, &row.id, &row.prompt, &row.final_answer, row.final_tokens))
                    .collect::<Result<_>>()?;
                to_value(policy::tally(answers, None))
            });
        }
        let (Some(model), Some(prompts_reference)) = (&self.model, &self.prompts) else {
            return Err(Error::config(
                "an evaluation needs --model and --prompts, or --revisions",
            ));
        };
        let prompts = dataset::read_prompts(prompts_reference)?;
        let model = self.prompting.load(model, session.serving())?;
        let reference = self.reference.as_deref();
        let reference = reference
            .map(|reference| Model::load_in(reference, session.serving()))
            .transpose()?;
        provenance.model = Some(model_source(&model));
        provenance.inputs = vec![data_source(prompts_reference, &prompts)];
        provenance.inputs.extend(reference.as_ref().map(model_source));
        let reward_model = self.reward_model.as_deref().map(load_reward_model).transpose()?;
        provenance
            .inputs
            .extend(reward_model.as_ref().map(|(_, files)| model_source(files)));
        let templates = Templates::new(self.prompting.style(&model)?);
        evaluate(session, out, provenance, &self.policy, || {
            let encoder = Encoder {
                tokenizer: &model.tokenizer,
                templates: &templates,
                context: model.decoder.config.context,
            };
            let reference = reference.as_ref().map(|reference| &reference.decoder);
            let seed = session.stage_seed(self.kind());
            let rows = &prompts.rows;
            let drawn = policy::Drawn {
                sampling: &self.sampling,
                best_of: self.best_of.zip(reward_model.as_ref().map(|(model, _)| model)),
                seed,
            };
            let mut eval = policy::evaluate(&model, reference, &encoder, &oracle, rows, &drawn)?;
            if let Some((reward_model, _)) = &reward_model {
                policy::score(reward_model, &encoder, rows, &mut eval)?;
            }
            to_value(eval)
        })
    }
}

impl Stage for Judge {
    fn kind(&self) -> &'static str {
        "eval-judge"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        self.judging.check()?;
        let world = World::builtin()?;
        let constitution = self.variables.resolve(&self.constitution)?;
        let model = Arc::new(self.prompting.load(&self.model, session.serving())?);
        let templates = Templates::new(self.prompting.style(&model)?);
        let templates = self.judging.templates(templates, &constitution)?;
        let balanced = self.balanced.as_deref().map(|dir| Balanced::read(Path::new(dir)));
        let fitted = balanced.transpose()?.and_then(|balanced| balanced.fitted);
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.model = Some(model_source(&model));
        provenance.constitution = Some(constitution_source(&self.constitution, &constitution));
        provenance.inputs = self
            .balanced
            .iter()
            .map(|balanced| dataset_source(balanced))
            .collect::<Result<_>>()?;
        evaluate(session, out, provenance, "judge", || {
            let seed = session.stage_seed(self.kind());
            let contests = world.contests(Split::Evaluation, self.pairs, seed)?;
            let engine = LocalEngine::new(model)?;
            let context = Context {
                engine: &engine,
                templates: &templates,
                seed,
                keep_truncated: true,
            };
            let config = self.judging.config();
            let label = |contests| -> Result<(Vec<_>, usize)> {
                let labels = judge_rows(context, &constitution, contests, &config)?;
                let asked = labels.len();
                let labels: Vec<_> = labels.into_iter().filter_map(Result::ok).collect();
                let unjudged = asked - labels.len();
                Ok((labels, unjudged))
            };
            let oracle = Oracle::new(&world);
            // A pair that cannot be judged (it is longer than the context, or a tie) has no label to be right
            // or wrong; how many there were stands beside the figures.
            let (labels, unjudged) = label(&contests)?;
            let figures = preference::judge(&oracle, &labels, fitted.as_ref())?;
            let (off_topic, _) = label(&world.off_topic_contests(Split::Evaluation, self.pairs / 4, seed)?)?;
            to_value(serde_json::json!({
                "figures": figures,
                "labels": labels.len(),
                "unjudged": unjudged,
                "fitted": fitted,
                "controls": preference::controls(&oracle, &labels, seed.child("controls"))?,
                "off_topic_accuracy": preference::judge(&oracle, &off_topic, fitted.as_ref())?.accuracy,
            }))
        })
    }
}

impl Reward {
    fn tokenizer(&self, files: &Model) -> Tokenizer {
        match self.prompting.date {
            Some(date) => files.tokenizer.at(date),
            None => files.tokenizer.clone(),
        }
    }

    /// The evaluation of `train reward`, on any preferences.
    fn on_preferences(
        &self,
        session: &Session,
        out: &Path,
        reference: &str,
        (model, files): (&RewardModel, &Model),
    ) -> Result<Done> {
        let data = dataset::read_preferences(reference)?;
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.model = Some(model_source(files));
        provenance.inputs = vec![data_source(reference, &data)];
        let templates = Templates::new(self.prompting.style(files)?);
        let tokenizer = self.tokenizer(files);
        let kept = kept::keep(session, out, FILE, provenance, "reward_model", || {
            let encoder = Encoder {
                tokenizer: &tokenizer,
                templates: &templates,
                context: files.decoder.config.context,
            };
            let (encoded, rejects) = encode_rows(self.kind(), &data.rows, data.rejects, |row| {
                pairs::encode(&encoder, row)
            })?;
            if encoded.is_empty() {
                let reason = rejects.first().map_or("it is empty", |reject| reject.reason.as_str());
                return Err(Error::input(format!("there is no pair to measure: {reason}")).at_file(reference));
            }
            let evaluation = held_out::evaluate(model, &encoded, session.stage_seed(self.kind()))?;
            let figures = RewardFigures {
                accuracy: evaluation.accuracy.map(|accuracy| accuracy.value),
                ..RewardFigures::default()
            };
            // What could not be read or does not fit is counted beside the figures.
            to_value(serde_json::json!({ "figures": figures, "evaluation": evaluation, "unread": rejects.len() }))
        })?;
        let evaluation = kept.get("evaluation").cloned().unwrap_or_default();
        let told: held_out::Evaluation = serde_json::from_value(evaluation.clone())
            .map_err(|error| Error::input("not an evaluation").at_file(out.join(FILE)).because(error))?;
        for line in told.lines() {
            session.progress().note(&line);
        }
        Ok(Done {
            result: evaluation,
            ..done(kept)
        })
    }
}

impl Stage for Reward {
    fn kind(&self) -> &'static str {
        "eval-reward"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let (after, files) = load_reward_model(&self.model)?;
        if let Some(reference) = &self.data {
            return self.on_preferences(session, out, reference, (&after, &files));
        }
        let world = World::builtin()?;
        let before = self.before.as_deref().map(load_reward_model).transpose()?;
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.model = Some(model_source(&files));
        provenance.inputs = before.iter().map(|(_, files)| model_source(files)).collect();
        let templates = Templates::new(self.prompting.style(&files)?);
        let tokenizer = self.tokenizer(&files);
        evaluate(session, out, provenance, "reward_model", || {
            let oracle = Oracle::new(&world);
            let contests = world.contests(Split::Evaluation, self.pairs, session.stage_seed("eval-judge"))?;
            let encoder = Encoder {
                tokenizer: &tokenizer,
                templates: &templates,
                context: files.decoder.config.context,
            };
            let score = |model| preference::reward(&oracle, model, &encoder, &contests);
            let after = score(&after)?;
            let before = before.as_ref().map(|(model, _)| score(model)).transpose()?;
            let figures = RewardFigures {
                accuracy: Some(after.accuracy),
                prefer_longer_on_ties_before: before.as_ref().and_then(|before| before.prefer_longer_on_ties),
                prefer_longer_on_ties_after: after.prefer_longer_on_ties,
            };
            to_value(serde_json::json!({ "figures": figures, "before": before, "after": after }))
        })
    }
}
