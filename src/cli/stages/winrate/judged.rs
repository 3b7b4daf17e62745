//! Pairs that are judged here: answers of the models and of the baseline, drawn or read, each pair judged in both
//! orders under the constitution.
//!
//! Knows nothing of the regression. What it leaves is `pairs.jsonl`, which `--pairs` reads again. Interrupted, it goes on
//! with what is not answered or judged yet.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::Winrate;
use super::duel::{Answer, Duel, Verdicts, judge_duels, line, measure};
use super::pairs::Rejected;
use super::work::{self, Work};
use crate::atomic;
use crate::bounds;
use crate::cli::session::{Session, constitution_source, data_source, engine_source};
use crate::cli::stages::eval::evaluate;
use crate::cli::stages::generate::{Asked, judge_rows};
use crate::cli::stages::prompting::Prompting;
use crate::cli::stages::{Done, Stage as _};
use crate::cli::variables::Variables;
use crate::constitution::Constitution;
use crate::dataset::{self, Provenance};
use crate::engine::Sampling;
use crate::engine::remote::RemoteConfig;
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, FinishReason, Prompt, Reject, messages_id};
use crate::stage::judge::{JudgeConfig, Reading, contests};
use crate::stage::{Context, sample};

/// The judged pairs, and where they lie until the figures are there.
pub const FILE: &str = "pairs.jsonl";
const UNFINISHED: &str = ".pairs.jsonl";

#[derive(Debug, Clone, Serialize, Args)]
pub struct Judging {
    /// A model to measure; answers are drawn from it. Several times for several models.
    #[arg(long)]
    #[serde(skip)]
    pub model: Vec<String>,
    /// Answers to measure that are there already, in place of a model: candidates (the first of each row is
    /// taken), revisions or demonstrations, found by their prompts.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub answers: Vec<String>,
    /// The model to compare with.
    #[arg(long, conflicts_with = "baseline_answers")]
    #[serde(skip)]
    pub baseline: Option<String>,
    /// The baseline's answers, in place of the baseline.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub baseline_answers: Option<String>,
    /// Prompts to answer [default: those of the baseline's answers].
    #[arg(long)]
    #[serde(skip)]
    pub prompts: Option<String>,
    /// The model that judges; each pair is put to it in both orders.
    #[arg(long)]
    #[serde(skip)]
    pub judge: Option<String>,
    /// The constitution it judges under: a TOML file, or builtin:NAME.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// Principles asked about each pair.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = bounds::count)]
    pub principles_per_pair: usize,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

/// One contestant's answers, in the order of the prompts.
struct Side {
    name: String,
    answers: Vec<Result<Answer, String>>,
}

/// The models, one in memory at a time.
struct Models<'a> {
    session: &'a Session,
    judging: &'a Judging,
    loaded: Option<(String, Asked)>,
}

impl Models<'_> {
    /// The model, in place of the one before.
    fn load(&mut self, reference: &str) -> Result<&Asked> {
        if self.loaded.as_ref().is_none_or(|(loaded, _)| loaded != reference) {
            self.unload();
            let Judging { prompting, remote, .. } = self.judging;
            let asked = Asked::load(self.session, reference, prompting, false, remote)?;
            self.loaded = Some((reference.to_owned(), asked));
        }
        match &self.loaded {
            Some((_, asked)) => Ok(asked),
            None => Err(Error::unexpected(format!("the model {reference} is not loaded"))),
        }
    }

    /// Lets go of the model, telling what should be known of its answers.
    fn unload(&mut self) {
        if let Some((_, asked)) = self.loaded.take() {
            asked.tell(self.session);
        }
    }

    fn context(&mut self, reference: &str, kind: &str) -> Result<Context<'_>> {
        let seed = self.session.stage_seed(kind);
        let asked = self.load(reference)?;
        Ok(Context {
            engine: asked.engine.as_ref(),
            templates: &asked.templates,
            seed,
            // An answer that is cut is what a reader would have got; how many there are is told.
            keep_truncated: true,
        })
    }
}

impl Judging {
    /// Whether the flags say what to judge, before anything is loaded.
    pub fn check(&self) -> Result<()> {
        let missing = |what: &str, help: &str| Err(Error::config(format!("{what} is missing")).help(help));
        const HELP: &str = "give --pairs FILE for pairs that are judged, or --model (or --answers), --baseline (or \
             --baseline-answers), --judge and --constitution to judge them here";
        if self.model.is_empty() && self.answers.is_empty() {
            return missing("what to measure", HELP);
        }
        if self.baseline.is_none() && self.baseline_answers.is_none() {
            return missing("the baseline", HELP);
        }
        if self.judge.is_none() || self.constitution.is_none() {
            return missing("the judge, or its constitution,", HELP);
        }
        if self.prompts.is_none() && (!self.model.is_empty() || self.baseline.is_some()) {
            return missing("--prompts", "a model is measured on prompts: give --prompts DATA");
        }
        Ok(())
    }

    /// Judges all pairs and measures, unless `out` has it already.
    pub fn run(&self, session: &Session, stage: &Winrate, out: &Path) -> Result<Done> {
        self.check()?;
        let judge = self.judge.as_deref().unwrap_or_default();
        let reference = self.constitution.as_deref().unwrap_or_default();
        let constitution = self.variables.resolve(reference)?;
        let mut models = Models {
            session,
            judging: self,
            loaded: None,
        };
        let mut provenance = session.provenance(stage.kind(), stage)?;
        let contest = Contest::prepare(self, &mut models, &mut provenance)?;
        let asked = models.load(judge)?;
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.constitution = Some(constitution_source(reference, &constitution));
        provenance.prompts = asked.templates.hashes();
        let work = Work {
            session,
            out,
            provenance: provenance.clone(),
        };
        let done = evaluate(session, out, provenance, "winrate", || {
            let mut verdicts = Verdicts {
                rejected: contest.unread.clone(),
                rows: Vec::new(),
            };
            contest.judge(&mut models, &work, stage, judge, &constitution, &mut verdicts)?;
            let lines = verdicts.rows.iter().map(line).collect::<Result<String>>()?;
            atomic::write(&out.join(UNFINISHED), lines.as_bytes())?;
            measure(session, stage, judge, &verdicts)
        })?;
        settle(out)?;
        models.unload();
        Ok(done)
    }
}

/// Gives the pairs their name, once the figures made of them are there, and takes the work away.
fn settle(out: &Path) -> Result<()> {
    work::clear(out)?;
    let (from, to) = (out.join(UNFINISHED), out.join(FILE));
    match fs::rename(&from, &to) {
        Ok(()) => atomic::sync_directory(out),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("rename", &from, error)),
    }
}

/// Who answers what.
struct Contest {
    prompts: Vec<Prompt>,
    /// Where each side's answers come from; the baseline last.
    sides: Vec<(String, Origin)>,
    /// Rows of the inputs that cannot be used.
    unread: Vec<Rejected>,
}

/// What a dataset of answers holds.
struct Answers {
    /// By the id of their prompt's messages.
    by_prompt: HashMap<String, Answer>,
    prompts: Vec<Prompt>,
    unread: Vec<Rejected>,
}

enum Origin {
    Model(String),
    /// By the id of their prompt's messages.
    Data(HashMap<String, Answer>),
}

impl Contest {
    fn prepare(judging: &Judging, models: &mut Models<'_>, provenance: &mut Provenance) -> Result<Self> {
        let mut sides = Vec::new();
        let (mut prompts, mut unread) = (Vec::new(), Vec::new());
        let data = |reference: &String| (reference.clone(), false);
        let model = |reference: &String| (reference.clone(), true);
        let contestants = judging.model.iter().map(model).chain(judging.answers.iter().map(data));
        let baseline = judging.baseline.iter().map(model);
        let baseline = baseline.chain(judging.baseline_answers.iter().map(data));
        if let Some(reference) = &judging.prompts {
            let read = dataset::read_prompts(reference)?;
            provenance.inputs.push(data_source(reference, &read));
            unread.extend(unreadable(reference, read.rejects));
            prompts = read.rows;
        }
        for (reference, is_model) in contestants.chain(baseline) {
            let origin = if is_model {
                let source = engine_source(models.load(&reference)?.engine.as_ref());
                provenance.inputs.push(source);
                Origin::Model(reference.clone())
            } else {
                let answers = read_answers(&reference, provenance)?;
                unread.extend(answers.unread);
                if judging.prompts.is_none() {
                    // The baseline's, which come last.
                    prompts = answers.prompts;
                }
                Origin::Data(answers.by_prompt)
            };
            sides.push((reference, origin));
        }
        let references: Vec<&str> = sides[..sides.len() - 1].iter().map(|(name, _)| name.as_str()).collect();
        let mut names = names(&references)?;
        names.push("baseline".into());
        for ((name, _), short) in sides.iter_mut().zip(names) {
            *name = short;
        }
        let contest = Self { prompts, sides, unread };
        contest.tell_unused(models.session);
        Ok(contest)
    }

    /// Answers to prompts that are not among ours take no part, which may be a mistake.
    fn tell_unused(&self, session: &Session) {
        let asked: HashSet<String> = self
            .prompts
            .iter()
            .map(|prompt| messages_id(&prompt.messages))
            .collect();
        for (name, origin) in &self.sides {
            let Origin::Data(answers) = origin else { continue };
            let unused = answers.keys().filter(|id| !asked.contains(*id)).count();
            if unused > 0 {
                session.progress().note(&format!(
                    "{name}: {unused} answers are to prompts that are not asked here"
                ));
            }
        }
    }

    /// Has every model's answers judged against the baseline's.
    fn judge(
        &self,
        models: &mut Models<'_>,
        work: &Work<'_>,
        stage: &Winrate,
        judge: &str,
        constitution: &Constitution,
        verdicts: &mut Verdicts,
    ) -> Result<()> {
        let mut answered = Vec::new();
        for (index, (name, origin)) in self.sides.iter().enumerate() {
            let answers = match origin {
                Origin::Data(answers) => self.found(answers),
                Origin::Model(reference) => {
                    let context = models.context(reference, stage.kind())?;
                    let job = (format!("answers-{index}"), format!("answers of {name}"));
                    self.drawn(context, work, job, &stage.judging.sampling)?
                }
            };
            answered.push(Side {
                name: name.clone(),
                answers,
            });
        }
        let Some((baseline, contestants)) = answered.split_last() else {
            return Err(Error::unexpected("no baseline"));
        };
        let context = models.context(judge, stage.kind())?;
        let config = JudgeConfig {
            principles_per_pair: stage.judging.principles_per_pair,
            // A judge that gives no log-probabilities is read by its words.
            reading: match context.engine.scores(context.templates.style())? {
                true => Reading::Logprobs,
                false => Reading::Text,
            },
            ..JudgeConfig::default()
        };
        for (index, side) in contestants.iter().enumerate() {
            let pairs = side.answers.iter().zip(&baseline.answers);
            let duels: Vec<Duel<'_>> = self
                .prompts
                .iter()
                .zip(pairs)
                .map(|(prompt, (ours, theirs))| Duel {
                    model: &side.name,
                    prompt,
                    ours,
                    theirs,
                })
                .collect();
            judge_duels(&duels, verdicts, |rows| {
                let (name, label) = (format!("judged-{index}"), format!("judge {}", side.name));
                let usage = || context.engine.usage();
                let mut labels = work.outcomes(&name, &label, rows, &usage, |rows: &[Candidates]| {
                    judge_rows(context, constitution, rows, &config)
                })?;
                rows.iter().map(|row| labels.take(&contest_id(row)?)).collect()
            })?;
        }
        Ok(())
    }

    /// The answers to the prompts among those that are there.
    fn found(&self, answers: &HashMap<String, Answer>) -> Vec<Result<Answer, String>> {
        let found = |prompt: &Prompt| answers.get(&messages_id(&prompt.messages)).cloned();
        let absent = || "there is no answer to this prompt".to_owned();
        let prompts = self.prompts.iter();
        prompts.map(|prompt| found(prompt).ok_or_else(absent)).collect()
    }

    /// The answers that a model draws.
    fn drawn(
        &self,
        context: Context<'_>,
        work: &Work<'_>,
        (name, label): (String, String),
        sampling: &Sampling,
    ) -> Result<Vec<Result<Answer, String>>> {
        let usage = || context.engine.usage();
        let mut rows = work.outcomes(&name, &label, &self.prompts, &usage, |prompts: &[Prompt]| {
            sample::sample(context, prompts, 1, sampling)
        })?;
        let taken = self.prompts.iter().map(|prompt| {
            let row = rows.take(&prompt.id)?;
            Ok(row.map_err(|reject| reject.reason).and_then(|row| {
                let first = row.completions.into_iter().next();
                first.map(answer).ok_or_else(|| "there is no answer".into())
            }))
        });
        taken.collect()
    }
}

/// The id under which the only pair of a row is judged.
fn contest_id(row: &Candidates) -> Result<String> {
    match contests(row, true).into_iter().next() {
        Some(Ok(contest)) => Ok(contest.id),
        Some(Err(reject)) => Ok(reject.id),
        None => Err(Error::unexpected("a pair without a contest")),
    }
}

fn answer(completion: Completion) -> Answer {
    Answer {
        cut: completion.finish_reason == FinishReason::Length.as_str(),
        text: completion.text,
        tokens: completion.tokens,
    }
}

fn unreadable(reference: &str, rejects: Vec<Reject>) -> impl Iterator<Item = Rejected> {
    rejects.into_iter().map(move |reject| Rejected {
        row: reference.to_owned(),
        reason: reject.reason,
    })
}

/// Answers that are there already.
fn read_answers(reference: &str, provenance: &mut Provenance) -> Result<Answers> {
    let read = dataset::read_demonstrations(reference)?;
    provenance.inputs.push(data_source(reference, &read));
    let mut found = Answers {
        by_prompt: HashMap::new(),
        prompts: Vec::new(),
        unread: unreadable(reference, read.rejects).collect(),
    };
    for row in read.rows {
        let id = messages_id(&row.prompt);
        let reason = match () {
            () if row.prompt.is_empty() => "a text without a prompt",
            () if found.by_prompt.contains_key(&id) => "a second answer to the same prompt; the first is taken",
            () => {
                let answer = Answer {
                    text: row.completion,
                    tokens: 0,
                    cut: false,
                };
                found.by_prompt.insert(id, answer);
                found.prompts.push(Prompt {
                    id: row.id,
                    messages: row.prompt,
                    source: reference.to_owned(),
                    tags: Vec::new(),
                });
                continue;
            }
        };
        found.unread.push(Rejected {
            row: format!("{reference}, row {}", row.id),
            reason: reason.into(),
        });
    }
    match found.prompts.is_empty() {
        true => Err(Error::input("has no answers to prompts")
            .at_file(reference)
            .help("give candidates, revisions, or demonstrations with a prompt")),
        false => Ok(found),
    }
}

/// Names for models: the last part of a path, the whole reference where that is not enough.
fn names(references: &[&str]) -> Result<Vec<String>> {
    let short = |reference: &str| {
        let path = Path::new(reference);
        let last = path.file_name().filter(|_| path.exists());
        last.map_or_else(|| reference.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let shortened: Vec<String> = references.iter().map(|reference| short(reference)).collect();
    let names = shortened.iter().zip(references).map(|(name, reference)| {
        match shortened.iter().filter(|other| *other == name).count() {
            1 => name.clone(),
            _ => (*reference).to_owned(),
        }
    });
    let names: Vec<String> = names.collect();
    match (1..names.len()).find(|index| names[..*index].contains(&names[*index])) {
        Some(index) => {
            Err(Error::config(format!("{} is named twice", names[index])).help("name each model, or its answers, once"))
        }
        None => Ok(names),
    }
}
