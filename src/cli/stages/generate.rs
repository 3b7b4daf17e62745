//! `revise`, `sample` and `judge`: the stages that ask a model, row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::judging::Judging;
use super::prompting::Prompting;
use super::{Division, Done, Stage};
use crate::bounds;
use crate::cli::output::grouped;
use crate::cli::session::{Session, constitution_source, data_source, engine_source};
use crate::cli::storage;
use crate::cli::variables::Variables;
use crate::constitution::Constitution;
use crate::constitution::few_shots::{CritiqueExample, FewShots};
use crate::dataset::{self, Dataset, Loaded, Manifest, Row, Slice, Status};
use crate::engine::local::LocalEngine;
use crate::engine::memo::{Memo, Recollection};
use crate::engine::remote::{ApiKey, Endpoints, KEY_VARIABLES, RemoteConfig, RemoteEngine, is_endpoint};
use crate::engine::{Engine, Sampling, Usage};
use crate::error::{Error, Result};
use crate::job::{Finished, Job, Price};
use crate::prompt::{Style, Templates};
use crate::record::Reject;
use crate::stage::{Context, Outcome, judge, revise, sample};

/// How rows go through a model.
#[derive(Debug, Clone, Serialize, Args)]
pub struct Rows {
    /// Rows to a unit of work, at most: what is lost when the program is killed.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = bounds::count)]
    pub unit_rows: usize,
    /// Work on part I of N of the input only; `bylaw data merge` makes one dataset of the parts.
    #[arg(long, value_name = "I/N")]
    #[serde(skip)]
    pub shard: Option<Slice>,
    /// The input is that part already: the result of a command with the same --shard.
    #[arg(long, requires = "shard")]
    #[serde(skip)]
    pub input_is_shard: bool,
    /// Remember the model's answers in DIR: a later run that asks the same again, after an edit of one principle for
    /// example, takes them from there. An endpoint's answers are remembered too: asked again, it would cost as much
    /// and might not draw the same text.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub cache: Option<PathBuf>,
    /// What the endpoint takes for a million tokens of prompt and of completion, in dollars.
    #[arg(long, value_name = "IN,OUT", help_heading = "Endpoints")]
    #[serde(skip)]
    pub price: Option<Price>,
    /// Use completions that reach their token limit, instead of rejecting them.
    #[arg(long)]
    pub keep_truncated: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Revise {
    /// The model: a directory in Hugging Face layout, a .gguf file, hf:org/name, builtin:tiny, or an
    /// endpoint, http://host/v1#name.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// The constitution: a TOML file, or builtin:NAME.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// Prompts: a .jsonl or .arrow file, a dataset, or a glob.
    #[arg(long)]
    #[serde(skip)]
    pub prompts: String,
    /// Rounds of critique and revision.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub rounds: usize,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Examples of critiques and revisions to show before each: a TOML file, or `builtin`. Those of the constitution
    /// unless given.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub few_shots: Option<String>,
    /// Tokens of a critique at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub critique_max_new_tokens: usize,
    #[command(flatten)]
    pub rows: Rows,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Sample {
    /// The model: a directory in Hugging Face layout, a .gguf file, hf:org/name, builtin:tiny, or an
    /// endpoint, http://host/v1#name.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// Prompts: a .jsonl or .arrow file, a dataset, or a glob.
    #[arg(long)]
    #[serde(skip)]
    pub prompts: String,
    /// Answers to each prompt.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub per_prompt: usize,
    /// Continue the prompts as they are, without roles around them.
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub rows: Rows,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Judge {
    /// The model: a directory in Hugging Face layout, a .gguf file, hf:org/name, builtin:tiny, or an
    /// endpoint, http://host/v1#name.
    #[arg(long)]
    #[serde(skip)]
    pub model: String,
    /// The constitution: a TOML file, or builtin:NAME.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// Candidates: a dataset of `sample`, or rows with two or more answers.
    #[arg(long)]
    #[serde(skip)]
    pub candidates: String,
    #[command(flatten, next_help_heading = "The judge")]
    #[serde(flatten)]
    pub judging: Judging,
    #[command(flatten)]
    pub rows: Rows,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

impl Rows {
    /// Reads the input. A part of a job may have no rows left, which is an error for all of one.
    fn read<R>(&self, reference: &str, read: fn(&str) -> Result<Loaded<R>>) -> Result<Loaded<R>> {
        let dir = Path::new(reference);
        if self.input_is_shard && Manifest::exists(dir) {
            let manifest = Manifest::read(dir)?;
            if manifest.status == Status::Complete && manifest.rows == 0 {
                return Ok(Loaded {
                    rows: Vec::new(),
                    rejects: Vec::new(),
                    sha256: manifest.sha256(),
                });
            }
        }
        read(reference)
    }

    /// What to do with a part of a job, if this is one.
    fn merging(&self) -> Option<String> {
        let slice = self.shard?;
        Some(format!(
            "when all {} parts are done, bylaw data merge PART... --out DIR",
            slice.of
        ))
    }
}

/// The templates with examples of critiques: those that are named, or the constitution's, if there are some.
pub fn critique_templates(templates: Templates, named: Option<&str>, constitution: &Constitution) -> Result<Templates> {
    let examples = match named {
        Some(reference) => Some(FewShots::<CritiqueExample>::resolve(reference)?),
        None => constitution.examples.critique.clone(),
    };
    Ok(match examples {
        Some(examples) => templates.with_critique_examples(examples),
        None => templates,
    })
}

/// A model ready to be asked.
pub struct Asked {
    pub engine: Arc<dyn Engine + Send>,
    /// The same engine, if it is one of endpoints.
    remote: Option<Arc<RemoteEngine>>,
    /// The same engine, if it remembers: with its directory.
    memo: Option<(Arc<Memo<'static>>, PathBuf)>,
    pub templates: Templates,
}

impl Asked {
    pub fn load(
        session: &Session,
        reference: &str,
        prompting: &Prompting,
        raw: bool,
        remote: &RemoteConfig,
    ) -> Result<Self> {
        let (engine, remote): (Arc<dyn Engine + Send>, _) = if is_endpoint(reference) {
            let endpoints = Endpoints::parse(reference)?;
            let engine = Arc::new(RemoteEngine::connect(
                endpoints,
                ApiKey::from_env(&KEY_VARIABLES),
                remote,
            )?);
            (engine.clone(), Some(engine))
        } else {
            let model = prompting.load(reference, session.serving())?;
            (Arc::new(LocalEngine::new(Arc::new(model))?), None)
        };
        let style = match raw {
            true => Style::Raw,
            false => prompting.choose(engine.style(), reference)?,
        };
        Ok(Self {
            templates: Templates::new(style),
            engine,
            remote,
            memo: None,
        })
    }

    /// The same model with a memory in `dir`, if there is one.
    pub fn remembering(self, session: &Session, dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else { return Ok(self) };
        storage::refuse_url(dir, "answers are remembered in a local directory")?;
        let memo = Arc::new(Memo::open(self.engine, dir)?);
        memo.notes().iter().for_each(|note| session.progress().note(note));
        Ok(Self {
            engine: memo.clone(),
            memo: Some((memo, dir.to_owned())),
            ..self
        })
    }

    /// Tells what the user should know of the answers: an endpoint's, and those that were remembered.
    pub fn tell(&self, session: &Session) {
        for note in self.remote.iter().flat_map(|engine| engine.notes()) {
            session.progress().note(&note);
        }
        if let Some((memo, dir)) = &self.memo {
            let Recollection { asked, remembered } = memo.recollection();
            session.progress().note(&format!(
                "cache {}: {} requests asked, {} remembered",
                dir.display(),
                grouped(asked),
                grouped(remembered)
            ));
        }
    }

    /// What was remembered, as figures; `null` without a memory.
    fn recollection(&self) -> Result<Value> {
        match &self.memo {
            Some((memo, _)) => serde_json::to_value(memo.recollection())
                .map_err(|error| Error::unexpected("what was remembered cannot be told").because(error)),
            None => Ok(Value::Null),
        }
    }

    /// Tells of the answers whether or not the stage was done, and adds what was remembered to what it left.
    fn settle(&self, session: &Session, done: Result<Done>) -> Result<Done> {
        self.tell(session);
        Ok(Done {
            cache: self.recollection()?,
            ..done?
        })
    }

    fn context(&self, session: &Session, kind: &str, rows: &Rows) -> Context<'_> {
        Context {
            engine: self.engine.as_ref(),
            templates: &self.templates,
            seed: session.stage_seed(kind),
            keep_truncated: rows.keep_truncated,
        }
    }
}

impl Stage for Revise {
    fn kind(&self) -> &'static str {
        "revise"
    }

    fn division(&self) -> Division {
        Division::Rows
    }

    fn next(&self, out: &Path) -> Option<String> {
        Some(self.rows.merging().unwrap_or_else(|| {
            format!(
                "bylaw train sft --model {} --data {} --out DIR",
                self.model,
                out.display()
            )
        }))
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let constitution = self.variables.resolve(&self.constitution)?;
        let prompts = self.rows.read(&self.prompts, dataset::read_prompts)?;
        let mut asked = Asked::load(session, &self.model, &self.rows.prompting, false, &self.remote)?
            .remembering(session, self.rows.cache.as_deref())?;
        asked.templates = critique_templates(asked.templates, self.few_shots.as_deref(), &constitution)?;
        let config = revise::ReviseConfig {
            rounds: self.rounds,
            critique: Sampling {
                max_new_tokens: self.critique_max_new_tokens,
                ..self.sampling.clone()
            },
            answer: self.sampling.clone(),
        };
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.constitution = Some(constitution_source(&self.constitution, &constitution));
        provenance.inputs = vec![data_source(&self.prompts, &prompts)];
        provenance.prompts = asked.templates.hashes();
        let context = asked.context(session, self.kind(), &self.rows);
        let usage = || asked.engine.usage();
        let job = job(session, out, provenance, &self.rows, "revise", &usage);
        let done = run(&job, &prompts.rows, &prompts.rejects, |rows| {
            revise::revise(context, &constitution, rows, &config)
        });
        asked.settle(session, done)
    }
}

impl Stage for Sample {
    fn kind(&self) -> &'static str {
        "sample"
    }

    fn division(&self) -> Division {
        Division::Rows
    }

    fn next(&self, out: &Path) -> Option<String> {
        Some(self.rows.merging().unwrap_or_else(|| {
            format!(
                "bylaw judge --model {} --constitution FILE --candidates {} --out DIR",
                self.model,
                out.display()
            )
        }))
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        if self.per_prompt == 0 {
            return Err(Error::config("--per-prompt is 0").help("ask for at least one answer to a prompt"));
        }
        let prompts = self.rows.read(&self.prompts, dataset::read_prompts)?;
        let asked = Asked::load(session, &self.model, &self.rows.prompting, self.raw, &self.remote)?
            .remembering(session, self.rows.cache.as_deref())?;
        let mut provenance = session.provenance(self.kind(), self)?;
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.inputs = vec![data_source(&self.prompts, &prompts)];
        provenance.prompts = asked.templates.hashes();
        let context = asked.context(session, self.kind(), &self.rows);
        let usage = || asked.engine.usage();
        let job = job(session, out, provenance, &self.rows, "sample", &usage);
        let done = run(&job, &prompts.rows, &prompts.rejects, |rows| {
            sample::sample(context, rows, self.per_prompt, &self.sampling)
        });
        asked.settle(session, done)
    }
}

impl Stage for Judge {
    fn kind(&self) -> &'static str {
        "judge"
    }

    fn division(&self) -> Division {
        Division::Rows
    }

    fn next(&self, out: &Path) -> Option<String> {
        Some(
            self.rows
                .merging()
                .unwrap_or_else(|| format!("bylaw balance --preferences {} --out DIR", out.display())),
        )
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        self.judging.check()?;
        let constitution = self.variables.resolve(&self.constitution)?;
        let candidates = self.rows.read(&self.candidates, dataset::read_candidates)?;
        let mut asked = Asked::load(session, &self.model, &self.rows.prompting, false, &self.remote)?
            .remembering(session, self.rows.cache.as_deref())?;
        let judging = self.judging.settled(asked.engine.as_ref(), asked.templates.style())?;
        asked.templates = judging.templates(asked.templates, &constitution)?;
        let config = judging.config();
        let settled = Self {
            judging,
            ..self.clone()
        };
        let mut provenance = session.provenance(self.kind(), &settled)?;
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.constitution = Some(constitution_source(&self.constitution, &constitution));
        provenance.inputs = vec![data_source(&self.candidates, &candidates)];
        provenance.prompts = asked.templates.hashes();
        let context = asked.context(session, self.kind(), &self.rows);
        let usage = || asked.engine.usage();
        let job = job(session, out, provenance, &self.rows, "judge", &usage);
        let done = run(&job, &candidates.rows, &candidates.rejects, |rows| {
            judge_rows(context, &constitution, rows, &config)
        });
        asked.settle(session, done)
    }
}

/// The labels of all pairs of the candidates' answers. Token counts that an import left out are made
/// up for.
pub fn judge_rows(
    context: Context<'_>,
    constitution: &Constitution,
    rows: &[crate::record::Candidates],
    config: &judge::JudgeConfig,
) -> Result<Vec<Outcome<crate::record::Preference>>> {
    // What each contest of each row is: one for the judge, or refused already. In the order of the rows.
    let mut places = Vec::new();
    let mut contests = Vec::new();
    let mut ends = Vec::with_capacity(rows.len());
    for row in rows {
        let mut of_row = judge::contests(row, context.keep_truncated);
        for contest in of_row.iter_mut().flatten() {
            for answer in [&mut contest.first, &mut contest.second] {
                if answer.tokens == 0 {
                    answer.tokens = context.engine.count_tokens(&answer.text)?;
                }
            }
        }
        if let Some(count) = config.closest {
            of_row = judge::closest(of_row, count);
        }
        for contest in of_row {
            places.push(match contest {
                Ok(contest) => {
                    contests.push(contest);
                    None
                }
                Err(reject) => Some(reject),
            });
        }
        ends.push(contests.len());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let groups: Vec<judge::Group<'_>> = rows
        .iter()
        .zip(starts.zip(&ends))
        .filter(|(_, (start, end))| start < *end)
        .map(|(row, (start, end))| judge::Group {
            id: &row.id,
            contests: &contests[start..*end],
        })
        .collect();
    let mut labels = judge::judge_groups(context, constitution, &groups, config)?.into_iter();
    let place = |refused: Option<Reject>| match refused {
        Some(reject) => Ok(Err(reject)),
        None => labels.next().ok_or_else(|| Error::unexpected("a pair without a label")),
    };
    places.into_iter().map(place).collect()
}

fn job<'a>(
    session: &'a Session,
    dir: &'a Path,
    provenance: dataset::Provenance,
    rows: &Rows,
    label: &'a str,
    usage: &'a dyn Fn() -> Usage,
) -> Job<'a> {
    Job {
        unit_rows: rows.unit_rows,
        slice: rows.shard,
        sliced_input: rows.input_is_shard,
        changes: session.changes,
        replica: session.replica(),
        usage,
        price: rows.price,
        ..Job::new(dir, provenance, label, session.progress())
    }
}

/// Runs the job. If every single row was rejected, that is an error with the first reason.
fn run<I: Row, R: Row>(
    job: &Job<'_>,
    inputs: &[I],
    unread: &[Reject],
    work: impl Fn(&[I]) -> Result<Vec<Outcome<R>>>,
) -> Result<Done> {
    let Finished { rows, rejects } = job.run(inputs, unread, work)?;
    if rows == 0 && rejects > 0 && job.slice.is_none() {
        let first = crate::job::read_all::<Reject>(&dataset::rejects_dir(job.dir))?;
        let reason = first.first().map_or("", |reject| reject.reason.as_str());
        return Err(
            Error::input(format!("all {rejects} rows were rejected; the first: {reason}"))
                .at_file(dataset::rejects_dir(job.dir))
                .help("the rejected rows are kept there with their reasons"),
        );
    }
    Ok(Done {
        rows: Some(rows),
        rejects: Some(rejects),
        note: commonest_reason(job.dir)?,
        ..Done::default()
    })
}

/// The reason that most rejects share, numbers aside.
fn commonest_reason(dir: &Path) -> Result<String> {
    let mut counts: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for shard in Dataset::<Reject>::open(dataset::rejects_dir(dir))?.shards() {
        for reject in shard? {
            let shape: String = reject.reason.chars().filter(|c| !c.is_ascii_digit()).collect();
            counts.entry(shape).or_insert((0, reject.reason)).0 += 1;
        }
    }
    let most = counts.into_values().max_by_key(|(count, _)| *count);
    Ok(most.map_or_else(String::new, |(count, reason)| {
        format!("{count} of them: {}", crate::http::shortened(&reason))
    }))
}
