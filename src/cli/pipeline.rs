//! `run` and `demo`: the stages of a recipe one after the other, the journal of the run, and its report.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::error::ContextKind;
use clap::{ArgAction, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{Cli, Command, DemoArgs, Parts, RunArgs, StageCommand};
use super::session::{Session, peak_rss_mb};
use super::stages::{Division, Done};
use super::{assemble, emit, ledger, output, parts, storage};
use crate::cli::output::say;
use crate::config::{DEMO, Flag, Kind, Recipe};
use crate::error::{Error, Result};
use crate::job::Changes;
use crate::{atomic, interrupt, job, report};

/// The journal of a run.
pub const FILE: &str = "run.json";

/// The content of `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunJournal {
    format: String,
    pub name: String,
    pub seed: u64,
    pub program: String,
    /// The commands of all stages, by name: what makes the run the same run.
    pub commands: Vec<(String, Vec<String>)>,
    /// The stages done.
    pub stages: Vec<StageRecord>,
    pub peak_rss_mb: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageRecord {
    pub name: String,
    pub kind: String,
    pub seconds: f64,
    pub rows: Option<u64>,
    pub rejects: Option<u64>,
    pub result: Value,
    pub note: String,
}

impl RunJournal {
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::io("read", &path, error).help("give the directory of a `bylaw run`"))?;
        serde_json::from_str(&text)
            .map_err(|error| Error::input("not the journal of a run").at_file(&path).because(error))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::unexpected("journal").because(error))?;
        atomic::write(&dir.join(FILE), &json)
    }

    /// Goes on with the journal in `dir` if it is of this run; an error if it is of another.
    fn resume(self, dir: &Path, changes: Changes) -> Result<Self> {
        if !dir.join(FILE).exists() {
            return Ok(self);
        }
        let there = Self::read(dir)?;
        let mut difference = Vec::new();
        if there.seed != self.seed {
            difference.push(format!("seed: {} there, {} here", there.seed, self.seed));
        }
        for (name, command) in &self.commands {
            match there.commands.iter().find(|(other, _)| other == name) {
                Some((_, other)) if deciding(other).eq(deciding(command)) => {}
                Some((_, other)) => difference.push(format!("stage `{name}`: {}", differing(other, command))),
                None => difference.push(format!("the stage `{name}` is new")),
            }
        }
        if difference.is_empty() || changes == Changes::Accept {
            Ok(Self {
                stages: there.stages,
                peak_rss_mb: there.peak_rss_mb,
                ..self
            })
        } else {
            Err(job::other_run(dir, &difference))
        }
    }

    /// Records a stage; one that was complete already keeps the time it took then.
    fn record(&mut self, name: &str, kind: &str, seconds: f64, done: Done) {
        match self.stages.iter_mut().find(|stage| stage.name == name) {
            Some(stage) => stage.result = done.result,
            None => self.stages.push(StageRecord {
                name: name.to_owned(),
                kind: kind.to_owned(),
                seconds,
                rows: done.rows,
                rejects: done.rejects,
                result: done.result,
                note: done.note,
            }),
        }
        self.peak_rss_mb = self.peak_rss_mb.max(peak_rss_mb());
    }
}

/// The words of a command without those that decide nothing of what comes out.
fn deciding(command: &[String]) -> impl Iterator<Item = &String> {
    command.iter().filter(|word| !word.starts_with("--cache="))
}

/// The words that only one of two commands has.
fn differing(there: &[String], here: &[String]) -> String {
    let only = |of: &[String], other: &[String]| {
        let words: Vec<&str> = deciding(of)
            .filter(|word| !other.contains(word))
            .map(String::as_str)
            .collect();
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.join(" ")
        }
    };
    format!("{} there, {} here", only(there, here), only(here, there))
}

pub fn demo(session: &Session, args: &DemoArgs) -> Result<()> {
    let recipe = Recipe::parse(DEMO, Path::new("recipes/demo.toml"))?;
    let plan = Plan::new(session, recipe, args.out.clone())?;
    plan.run(session, 0, plan.commands.len())
}

pub fn run(session: &Session, args: &RunArgs) -> Result<()> {
    let mut recipe = Recipe::load(&args.recipe)?;
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    let from = args
        .from
        .as_deref()
        .map(|name| recipe.position(name))
        .transpose()?
        .unwrap_or(0);
    let until = args.until.as_deref().map(|name| recipe.position(name)).transpose()?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("out").join(&recipe.name));
    storage::refuse_url(&out, "a run keeps its stages beside each other in a local directory")?;
    let plan = Plan::new(session, recipe, out)?;
    let end = until.map_or(plan.commands.len(), |last| last + 1);
    if from >= end {
        return Err(Error::config("the stage of --until comes before that of --from")
            .help("--from names the first stage to run, --until the last"));
    }
    if args.dry_run {
        plan.print(session, from..end)?;
        return Ok(());
    }
    if let Some(tool) = args.emit {
        return emit::emit(session, &plan, tool);
    }
    let session = session.accepting(args.accept_changes);
    match args.shard {
        Some(slice) => parts::run(&session, &plan, slice, end),
        None => plan.run(&session, from, end),
    }
}

/// A recipe as commands.
pub(super) struct Plan {
    pub recipe: Recipe,
    pub seed: u64,
    pub dir: PathBuf,
    pub kinds: Vec<Kind>,
    pub commands: Vec<(String, Vec<String>)>,
}

impl Plan {
    /// Every command is parsed here, before the first one runs.
    fn new(session: &Session, recipe: Recipe, dir: PathBuf) -> Result<Self> {
        let kinds = kinds();
        let commands = (0..recipe.stages.len())
            .map(|index| {
                let command = recipe.command(index, &|name| dir.join(name), &kinds)?;
                parse(&recipe, index, &command)?;
                Ok((recipe.stages[index].name.clone(), command))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            seed: session.given_seed.or(recipe.seed).unwrap_or(0),
            recipe,
            dir,
            kinds,
            commands,
        })
    }

    /// Prints the commands of stages, as they can be given to a shell.
    fn print(&self, session: &Session, stages: Range<usize>) -> Result<()> {
        let lines = self.commands[stages].iter().map(|(_, command)| {
            let seed = (self.seed != 0).then(|| format!("--seed={}", self.seed));
            let words = std::iter::once("bylaw").chain(command.iter().map(String::as_str));
            let words: Vec<_> = words.chain(seed.as_deref()).map(shell_word).collect();
            words.join(" ")
        });
        if session.json {
            return output::json(&serde_json::json!({ "commands": lines.collect::<Vec<_>>() }));
        }
        for line in lines {
            say!("{line}");
        }
        Ok(())
    }

    /// Runs stages `from..until`, then writes the report.
    fn run(&self, session: &Session, from: usize, until: usize) -> Result<()> {
        let session = session.with_seed(self.seed);
        if !self.dir.join(FILE).exists() {
            job::refuse_foreign(&self.dir)?;
        }
        let _lock = job::hold(&self.dir, session.progress())?;
        let mut journal = RunJournal {
            format: "bylaw-run".into(),
            name: self.recipe.name.clone(),
            seed: session.seed,
            program: concat!("bylaw ", env!("CARGO_PKG_VERSION")).into(),
            commands: self.commands.clone(),
            stages: Vec::new(),
            peak_rss_mb: 0.0,
        }
        .resume(&self.dir, session.changes)?;
        if let Some((name, _)) = self.commands[..from]
            .iter()
            .find(|(name, _)| !journal.stages.iter().any(|stage| &stage.name == name))
        {
            return Err(Error::config(format!("the stage `{name}` has not been run"))
                .at_file(&self.dir)
                .help("run the recipe without --from first"));
        }
        journal.write(&self.dir)?;
        for index in from..until {
            interrupt::check()?;
            let (name, command) = &self.commands[index];
            let Command::Stage(stage) = parse(&self.recipe, index, command)? else {
                return Err(self.recipe.stage_error(index, None, "this command is not a stage"));
            };
            let Parts {
                stage, out: Some(out), ..
            } = stage.parts()
            else {
                return Err(self.recipe.stage_error(index, None, "the stage has no directory"));
            };
            if stage.division() == Division::Rows {
                parts::merge(&session, &self.dir, name)?;
            }
            if session.verbose {
                output::line(&format!("bylaw {}", command.join(" ")));
            }
            let begun = Instant::now();
            let done = stage.run(&session, out)?;
            if !session.quiet {
                output::line(&format!(
                    "── {name}: {} ({:.1} s)",
                    done.summary(),
                    begun.elapsed().as_secs_f64()
                ));
            }
            if let Some(failure) = &done.failure {
                return Err(Error::input(format!("{name}: {failure}")).at_file(out));
            }
            journal.record(name, stage.kind(), begun.elapsed().as_secs_f64(), done);
            journal.write(&self.dir)?;
        }
        self.report(&session, &journal)
    }

    fn report(&self, session: &Session, journal: &RunJournal) -> Result<()> {
        let report = assemble::report(&self.dir, journal)?;
        ledger::write(&self.dir, &report.summary.ledger)?;
        let page = self.dir.join("report.html");
        atomic::write(&page, report::html(&report)?.as_bytes())?;
        if session.json {
            let summary =
                serde_json::to_value(&report.summary).map_err(|error| Error::unexpected("summary").because(error))?;
            output::json(&summary)?;
        } else {
            say!("{}", report::terminal(&report.summary).trim_end());
            say!("\nThe report, with samples and curves: {}", page.display());
        }
        Ok(())
    }
}

/// A word as a POSIX shell reads it.
pub fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

/// Flags that belong to a run, not to a stage of it.
const RUN_FLAGS: [&str; 4] = ["out", "accept-changes", "shard", "input-is-shard"];

/// The commands that a recipe can be made of.
fn kinds() -> Vec<Kind> {
    fn collect(command: &clap::Command, prefix: &str, kinds: &mut Vec<Kind>) {
        for command in command.get_subcommands() {
            let name = format!("{prefix}{}", command.get_name());
            if command.has_subcommands() {
                collect(command, &format!("{name}-"), kinds);
                continue;
            }
            let flags = command.get_arguments().filter_map(|argument| {
                let name = argument.get_long().filter(|name| !RUN_FLAGS.contains(name))?.to_owned();
                let switch = matches!(argument.get_action(), ArgAction::SetTrue);
                Some(Flag { name, switch })
            });
            kinds.push(Kind {
                name,
                flags: flags.collect(),
            });
        }
    }
    let mut kinds = Vec::new();
    let stages = StageCommand::augment_subcommands(clap::Command::new("stages"));
    collect(&stages, "", &mut kinds);
    kinds
}

/// Parses the words of a stage's command.
pub(super) fn parse(recipe: &Recipe, index: usize, command: &[String]) -> Result<Command> {
    let words = std::iter::once("bylaw").chain(command.iter().map(String::as_str));
    Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| {
        let text = error.to_string();
        let lines = text
            .lines()
            .take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"));
        let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        let message = lines.join(" ");
        // `--rounds <N>`, where one flag is to blame.
        let blamed = error.get(ContextKind::InvalidArg).map(ToString::to_string);
        let flag = blamed
            .as_deref()
            .and_then(|flag| flag.strip_prefix("--")?.split([' ', '=']).next());
        recipe
            .stage_error(index, flag, message.trim_start_matches("error: "))
            .help(format!(
                "`bylaw {} --help` tells what it takes",
                recipe.stages[index].kind.replacen('-', " ", 1)
            ))
    })
}
