//! The same prompts revised, and the same pairs of answers judged, under both constitutions.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Probed;
use crate::bounds;
use crate::cli::session::Session;
use crate::cli::stages::generate::{Asked, critique_templates, judge_rows};
use crate::cli::stages::judging::Judging;
use crate::cli::stages::prompting::Prompting;
use crate::constitution::Constitution;
use crate::dataset;
use crate::engine::memo::Memo;
use crate::engine::remote::RemoteConfig;
use crate::engine::{Engine, Sampling};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::prompt::Templates;
use crate::record::{Candidates, Preference, Prompt, Revision};
use crate::seed::Seed;
use crate::stage::revise::{ReviseConfig, revise};
use crate::stage::sample::sample;
use crate::stage::{Context, Outcome};
use crate::survey::effect::Effect;

/// Answers to a prompt that are compared.
const PER_PROMPT: usize = 2;

#[derive(Debug, Args)]
#[command(next_help_heading = "Probe")]
pub struct Probe {
    /// Prompts on which to try the edit: a .jsonl or .arrow file, a dataset, or a glob.
    #[arg(long = "probe", value_name = "PROMPTS")]
    prompts: Option<String>,
    /// The model that answers, revises and judges.
    #[arg(long, requires = "prompts", default_value = "builtin:tiny")]
    model: String,
    /// Prompts to use, from the top.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = bounds::count)]
    limit: usize,
    /// Rounds of critique and revision.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = bounds::count)]
    rounds: usize,
    #[command(flatten)]
    sampling: Sampling,
    /// Tokens of a critique at most.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = bounds::count)]
    critique_max_new_tokens: usize,
    /// Principles asked about each pair; all of them if the constitution has no more.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = bounds::count)]
    principles_per_pair: usize,
    /// Remember the model's answers in DIR, for the next call.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    prompting: Prompting,
    #[command(flatten, next_help_heading = "Endpoints")]
    remote: RemoteConfig,
}

/// What came of the prompts under one constitution.
struct Under {
    revisions: Option<Vec<Outcome<Revision>>>,
    labels: Option<Vec<Outcome<Preference>>>,
}

impl Probe {
    /// Nothing without prompts.
    pub fn run(&self, session: &Session, old: &Constitution, new: &Constitution) -> Result<Option<Probed>> {
        let Some(reference) = &self.prompts else {
            return Ok(None);
        };
        let mut prompts = dataset::read_prompts(reference)?.rows;
        prompts.truncate(self.limit);
        let asked = Asked::load(session, &self.model, &self.prompting, false, &self.remote)?;
        let judging = Judging::default().settled(asked.engine.as_ref(), asked.templates.style())?;
        let memo = Arc::new(match &self.cache {
            Some(dir) => Memo::open(asked.engine.clone(), dir)?,
            None => Memo::new(asked.engine.clone()),
        });
        memo.notes().iter().for_each(|note| session.progress().note(note));
        let style = asked.templates.style();
        let bare = Templates::new(style);
        let engine: &dyn Engine = memo.as_ref();
        let seed = session.stage_seed("probe");
        session
            .progress()
            .note(&format!("{} prompts under {}", prompts.len(), old.name));
        let candidates: Vec<Candidates> = sample(context(engine, &bare, seed), &prompts, PER_PROMPT, &self.sampling)?
            .into_iter()
            .flatten()
            .collect();
        let under = |constitution: &Constitution| -> Result<Under> {
            interrupt::check()?;
            let critic = critique_templates(Templates::new(style), None, constitution)?;
            let judge = judging.templates(Templates::new(style), constitution)?;
            self.under(
                context(engine, &critic, seed),
                context(engine, &judge, seed),
                constitution,
                &prompts,
                &candidates,
                &judging,
            )
        };
        let first = under(old)?;
        let before = memo.recollection();
        session
            .progress()
            .note(&format!("{} prompts under {} after the edit", prompts.len(), new.name));
        let second = under(new)?;
        let after = memo.recollection();
        Ok(Some(Probed {
            effect: effect(&prompts, &first, &second),
            asked_old: before.asked,
            asked_new: after.asked - before.asked,
            shared: after.remembered - before.remembered,
        }))
    }

    fn under(
        &self,
        critic: Context<'_>,
        judge: Context<'_>,
        constitution: &Constitution,
        prompts: &[Prompt],
        candidates: &[Candidates],
        judging: &Judging,
    ) -> Result<Under> {
        let config = ReviseConfig {
            rounds: self.rounds,
            answer: self.sampling.clone(),
            critique: Sampling {
                max_new_tokens: self.critique_max_new_tokens,
                ..self.sampling.clone()
            },
        };
        let principles = || constitution.principles.iter();
        let revises = principles().any(|principle| principle.critique.is_some());
        let judges = principles().any(|principle| principle.judge.is_some());
        if !revises && !judges {
            return Err(Error::config(format!(
                "the constitution `{}` asks nothing",
                constitution.name
            )));
        }
        let judge_config = crate::stage::judge::JudgeConfig {
            principles_per_pair: self.principles_per_pair,
            ..judging.config()
        };
        Ok(Under {
            revisions: revises
                .then(|| revise(critic, constitution, prompts, &config))
                .transpose()?,
            labels: judges
                .then(|| judge_rows(judge, constitution, candidates, &judge_config))
                .transpose()?,
        })
    }
}

fn context<'a>(engine: &'a dyn Engine, templates: &'a Templates, seed: Seed) -> Context<'a> {
    Context {
        engine,
        templates,
        seed,
        keep_truncated: true,
    }
}

fn effect(prompts: &[Prompt], old: &Under, new: &Under) -> Effect {
    let mut effect = Effect::default();
    if let (Some(old), Some(new)) = (&old.revisions, &new.revisions) {
        for ((prompt, old), new) in prompts.iter().zip(old).zip(new) {
            effect.revision(&prompt.messages, old, new);
        }
    }
    if let (Some(old), Some(new)) = (&old.labels, &new.labels) {
        for (old, new) in old.iter().zip(new) {
            effect.label(old, new);
        }
    }
    effect
}
