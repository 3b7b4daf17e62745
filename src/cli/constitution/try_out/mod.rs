//! `bylaw constitution try`: a few prompts through every principle, to see what each does.

mod asking;
mod changes;
mod columns;
mod document;
mod figures;
mod page;
mod plan;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use self::asking::{Asking, Settings, Trial};
use self::page::Sheet;
use self::plan::Plan;
use crate::bounds;
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::stages::generate::{Asked, critique_templates};
use crate::cli::stages::judging::Judging;
use crate::cli::stages::prompting::Prompting;
use crate::cli::storage;
use crate::cli::variables::Variables;
use crate::constitution::{self, BUDGET, Constitution, Diagnostic, Severity};
use crate::dataset;
use crate::engine::memo::{Memo, Recollection};
use crate::engine::recording::Recording;
use crate::engine::remote::RemoteConfig;
use crate::engine::{Engine, Sampling};
use crate::error::{Error, Result};
use crate::prompt::Templates;
use crate::record::{Message, Prompt, messages_id};
use crate::stage::Context;

/// What the bundled model was trained on.
const TINY: &str = "builtin:tiny";
const WORLD: &str = "proving-ground";

/// Try a constitution on a few prompts: every principle's critique, revision and judgement side by side.
///
/// The model answers each prompt once, criticises and revises the answer under each principle, and judges each revision
/// against the answer in both orders: by the principle's own question, or by those of the principles that only compare.
/// Nothing is written; what a step cannot use, a critique that is cut off for example, is shown as it is.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Answers, critiques and revisions are those of the first round of `bylaw revise` with the same --seed
and settings, were each principle drawn.

    bylaw constitution try rules.toml --prompt 'How do I read my sister'\\''s diary?' --watch
    bylaw constitution try rules.toml --prompts prompts.jsonl --principle privacy --show-prompts \\
        --model http://localhost:8000/v1#name

The first is the inner loop: leave it open beside your editor, and each time you save, what the edit
touches is asked again.")]
pub struct TryOut {
    /// The constitution: a file, or `builtin:NAME`.
    constitution: String,
    #[command(flatten)]
    variables: Variables,
    /// A prompt to try; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    prompt: Vec<String>,
    /// More prompts: a .jsonl or .arrow file, a dataset, or a glob.
    #[arg(long, value_name = "DATA")]
    prompts: Option<String>,
    /// Prompts to take from the top of these data.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = bounds::count)]
    limit: usize,
    /// Try this principle; may be given several times. All unless given, but for those of weight 0.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    principle: Vec<String>,
    /// The model: a directory in Hugging Face layout, a .gguf file, hf:org/name, builtin:tiny, or an
    /// endpoint, http://host/v1#name.
    #[arg(long, default_value = TINY)]
    model: String,
    /// Print exactly what the model reads each time, and what it answers.
    #[arg(long)]
    show_prompts: bool,
    /// Try again whenever a file of the constitution, or that of the prompts, is saved. With --json, a line each time.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    sampling: Sampling,
    /// Tokens of a critique at most.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = bounds::count)]
    critique_max_new_tokens: usize,
    /// Go on with completions that reach their token limit, instead of stopping there.
    #[arg(long)]
    keep_truncated: bool,
    /// Examples of critiques and revisions to show before each: a TOML file, or `builtin`. Those of the constitution
    /// unless given.
    #[arg(long, value_name = "FILE")]
    few_shots: Option<String>,
    /// Remember the model's answers in DIR for the next time, too.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    prompting: Prompting,
    #[command(flatten, next_help_heading = "Endpoints")]
    remote: RemoteConfig,
}

/// A model with a memory, ready to try constitutions on.
struct Bench<'a> {
    session: &'a Session,
    args: &'a TryOut,
    asked: Asked,
    memo: Arc<Memo<'static>>,
    recording: Option<Recording<'static>>,
    judging: Judging,
}

/// What came of a constitution file.
enum Outcome {
    Tried(Box<Run>),
    /// It cannot be used.
    Mistaken(Mistakes),
}

struct Mistakes {
    findings: Vec<Diagnostic>,
    files: Vec<PathBuf>,
}

/// A constitution, tried.
struct Run {
    constitution: Constitution,
    trial: Trial,
    /// What the reader should know of it.
    notes: Vec<String>,
    requests: Recollection,
    seconds: f64,
}

pub fn run(session: &Session, args: &TryOut) -> Result<()> {
    if let Some(dir) = &args.cache {
        storage::refuse_url(dir, "answers are remembered in a local directory")?;
    }
    if args.prompt.iter().any(|text| text.trim().is_empty()) {
        return Err(Error::config("--prompt is empty").help("give the text of a prompt, or a file: --prompts DATA"));
    }
    if args.watch {
        return watching::watch(session, args);
    }
    if let Err(mistakes) = read(args)? {
        return Err(mistakes.told());
    }
    let bench = Bench::set_up(session, args)?;
    match bench.run()? {
        Outcome::Mistaken(mistakes) => Err(mistakes.told()),
        Outcome::Tried(run) if session.json => {
            let document = document::of(&bench, &run);
            output::page(&format!("{document:#}\n"))
        }
        Outcome::Tried(run) => output::page(&page::draw(Sheet::of_stdout(), args, &run, None)),
    }
}

/// The constitution with its warnings, or what is wrong with it.
fn read(args: &TryOut) -> Result<Result<(Constitution, usize), Mistakes>> {
    let checked = constitution::check(&args.constitution, &args.variables.values(), BUDGET)?;
    Ok(match checked.constitution {
        Some(constitution) => Ok((constitution, checked.findings.len())),
        None => Err(Mistakes {
            findings: checked.findings,
            files: checked.files,
        }),
    })
}

/// The prompts to try, and how many rows of the data cannot be read.
fn prompts(args: &TryOut) -> Result<(Vec<Prompt>, usize)> {
    let typed = args.prompt.iter().map(|text| {
        let messages = vec![Message::user(text.trim())];
        Prompt {
            id: messages_id(&messages),
            messages,
            source: "typed".into(),
            tags: Vec::new(),
        }
    });
    let mut prompts: Vec<Prompt> = typed.collect();
    let Some(reference) = &args.prompts else {
        return Ok((prompts, 0));
    };
    let loaded = dataset::read_prompts(reference)?;
    prompts.extend(loaded.rows.into_iter().take(args.limit));
    Ok((prompts, loaded.rejects.len()))
}

impl Mistakes {
    fn errors(&self) -> usize {
        let errors = |finding: &&Diagnostic| finding.severity == Severity::Error;
        self.findings.iter().filter(errors).count()
    }

    /// Shows each, and answers them as one error.
    fn told(&self) -> Error {
        self.findings.iter().for_each(output::diagnostic);
        let errors = self.errors();
        let s = if errors == 1 { "" } else { "s" };
        Error::config(format!("{errors} error{s}")).help("each finding above says where and what to do")
    }
}

impl<'a> Bench<'a> {
    fn set_up(session: &'a Session, args: &'a TryOut) -> Result<Self> {
        // What is wrong with the arguments is told before a model is loaded.
        if let Ok((constitution, _)) = read(args)? {
            Plan::make(&constitution, &args.principle)?;
        }
        prompts(args)?;
        let asked = Asked::load(session, &args.model, &args.prompting, false, &args.remote)?;
        let memo = Arc::new(match &args.cache {
            Some(dir) => Memo::open(asked.engine.clone(), dir)?,
            None => Memo::new(asked.engine.clone()),
        });
        memo.notes().iter().for_each(|note| session.progress().note(note));
        Ok(Self {
            session,
            args,
            judging: Judging::default().settled(asked.engine.as_ref(), asked.templates.style())?,
            recording: args.show_prompts.then(|| Recording::new(memo.clone())),
            asked,
            memo,
        })
    }

    /// Reads the files and tries what they say.
    fn run(&self) -> Result<Outcome> {
        let begun = Instant::now();
        let (constitution, warnings) = match read(self.args)? {
            Ok(read) => read,
            Err(mistakes) => return Ok(Outcome::Mistaken(mistakes)),
        };
        let plan = Plan::make(&constitution, &self.args.principle)?;
        let (prompts, unread) = prompts(self.args)?;
        let before = self.memo.recollection();
        let trial = self.ask(&constitution, plan, prompts)?;
        let after = self.memo.recollection();
        self.asked.tell(self.session);
        Ok(Outcome::Tried(Box::new(Run {
            notes: self.notes(&constitution, &trial.plan, warnings, unread),
            constitution,
            trial,
            requests: Recollection {
                asked: after.asked - before.asked,
                remembered: after.remembered - before.remembered,
            },
            seconds: begun.elapsed().as_secs_f64(),
        })))
    }

    fn ask(&self, constitution: &Constitution, plan: Plan, prompts: Vec<Prompt>) -> Result<Trial> {
        let templates = Templates::new(self.asked.templates.style());
        let templates = critique_templates(templates, self.args.few_shots.as_deref(), constitution)?;
        let templates = self.judging.templates(templates, constitution)?;
        let engine: &dyn Engine = match &self.recording {
            Some(recording) => recording,
            None => self.memo.as_ref(),
        };
        let settings = Settings {
            answer: self.args.sampling.clone(),
            critique: Sampling {
                max_new_tokens: self.args.critique_max_new_tokens,
                ..self.args.sampling.clone()
            },
            judge: self.judging.config(),
        };
        Asking {
            context: Context {
                engine,
                templates: &templates,
                // As `revise` has it.
                seed: self.session.stage_seed("revise"),
                keep_truncated: self.args.keep_truncated,
            },
            constitution,
            settings: &settings,
            recording: self.recording.as_ref(),
            progress: self.session.progress(),
            exchanges: Vec::new(),
        }
        .trial(plan, prompts)
    }

    fn notes(&self, constitution: &Constitution, plan: &Plan, warnings: usize, unread: usize) -> Vec<String> {
        let s = |count: usize| if count == 1 { "" } else { "s" };
        let file = &self.args.constitution;
        let mut notes = Vec::new();
        if warnings > 0 {
            let s = s(warnings);
            notes.push(format!("{warnings} warning{s}: bylaw constitution check {file}"));
        }
        if !plan.off.is_empty() {
            let off = plan.off.join(", ");
            notes.push(format!("of weight 0 and not tried: {off} (--principle ID tries one)"));
        }
        if unread > 0 {
            let data = self.args.prompts.as_deref().unwrap_or_default();
            let s = s(unread);
            notes.push(format!("{unread} row{s} cannot be used: bylaw data validate {data}"));
        }
        notes.extend(self.foreign(constitution, plan));
        notes
    }

    /// The bundled model makes little of words that it was not trained on.
    fn foreign(&self, constitution: &Constitution, plan: &Plan) -> Option<String> {
        if self.args.model != TINY {
            return None;
        }
        let known = Constitution::builtin(WORLD).ok()?;
        let texts = |of: &Constitution| -> Vec<String> {
            let principles = of.principles.iter();
            let texts = principles.flat_map(|of| [&of.critique, &of.revise, &of.judge].map(Clone::clone));
            texts.flatten().collect()
        };
        let known = texts(&known);
        let foreign: Vec<&str> = plan
            .all()
            .map(|index| &constitution.principles[index])
            .filter(|of| {
                let mut texts = [&of.critique, &of.revise, &of.judge].into_iter().flatten();
                texts.any(|text| !known.contains(text))
            })
            .map(|of| of.id.as_str())
            .collect();
        let of = match foreign.as_slice() {
            [] => return None,
            few if few.len() <= 3 => few.join(", "),
            many => format!("{} principles", many.len()),
        };
        Some(format!(
            "{TINY} understands the wording of builtin:{WORLD} only, not that of {of}; for others give --model"
        ))
    }
}
