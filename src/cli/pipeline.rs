//! `run` and `demo`: the stages of a recipe one after the other, the journal of the run, and its report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{CommandFactory, Parser};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{Cli, Command, DemoArgs, RunArgs};
use super::session::{Session, peak_rss_mb};
use super::stages::Done;
use super::{assemble, output};
use crate::config::{DEMO, Recipe};
use crate::error::{Error, Result};
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
    fn resume(self, dir: &Path) -> Result<Self> {
        if !dir.join(FILE).exists() {
            job::refuse_foreign(dir)?;
            std::fs::create_dir_all(dir).map_err(|error| Error::io("create", dir, error))?;
            return Ok(self);
        }
        let there = Self::read(dir)?;
        let mut difference = Vec::new();
        if there.seed != self.seed {
            difference.push(format!("seed: {} there, {} here", there.seed, self.seed));
        }
        for (name, command) in &self.commands {
            match there.commands.iter().find(|(other, _)| other == name) {
                Some((_, other)) if other == command => {}
                Some(_) => difference.push(format!("the settings of stage `{name}`")),
                None => difference.push(format!("the stage `{name}` is new")),
            }
        }
        if difference.is_empty() {
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
    let plan = Plan::new(session, recipe, out)?;
    if args.dry_run {
        for (_, command) in &plan.commands {
            println!("bylaw {}", command.join(" "));
        }
        return Ok(());
    }
    plan.run(session, from, until.map_or(plan.commands.len(), |last| last + 1))
}

/// A recipe as commands.
struct Plan {
    recipe: Recipe,
    seed: u64,
    dir: PathBuf,
    commands: Vec<(String, Vec<String>)>,
}

impl Plan {
    /// Every command is parsed here, before the first one runs.
    fn new(session: &Session, recipe: Recipe, dir: PathBuf) -> Result<Self> {
        let commands = (0..recipe.stages.len())
            .map(|index| {
                let command = recipe.command(index, &dir, &flags)?;
                parse(&recipe, index, &command)?;
                Ok((recipe.stages[index].name.clone(), command))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            seed: session.given_seed.or(recipe.seed).unwrap_or(0),
            recipe,
            dir,
            commands,
        })
    }

    /// Runs stages `from..until`, then writes the report.
    fn run(&self, session: &Session, from: usize, until: usize) -> Result<()> {
        let session = session.with_seed(self.seed);
        let mut journal = RunJournal {
            format: "bylaw-run".into(),
            name: self.recipe.name.clone(),
            seed: session.seed,
            program: concat!("bylaw ", env!("CARGO_PKG_VERSION")).into(),
            commands: self.commands.clone(),
            stages: Vec::new(),
            peak_rss_mb: 0.0,
        }
        .resume(&self.dir)?;
        if let Some((name, _)) = self.commands[..from]
            .iter()
            .find(|(name, _)| !journal.stages.iter().any(|stage| &stage.name == name))
        {
            return Err(Error::config(format!("the stage `{name}` has not been run"))
                .help("run the recipe without --from first"));
        }
        journal.write(&self.dir)?;
        for index in from..until {
            interrupt::check()?;
            let (name, command) = &self.commands[index];
            let Command::Stage(stage) = parse(&self.recipe, index, command)? else {
                return Err(self.recipe.stage_error(index, "this command is not a stage"));
            };
            let (stage, out) = stage.parts();
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
            journal.record(name, stage.kind(), begun.elapsed().as_secs_f64(), done);
            journal.write(&self.dir)?;
        }
        self.report(&session, &journal)
    }

    fn report(&self, session: &Session, journal: &RunJournal) -> Result<()> {
        let report = assemble::report(&self.dir, journal)?;
        let page = self.dir.join("report.html");
        atomic::write(&page, report::html(&report)?.as_bytes())?;
        if session.json {
            let summary =
                serde_json::to_value(&report.summary).map_err(|error| Error::unexpected("summary").because(error))?;
            output::json(&summary);
        } else {
            println!("{}", report::terminal(&report.summary).trim_end());
            println!("\nThe report, with samples and curves: {}", page.display());
        }
        Ok(())
    }
}

/// The long flags of a stage command.
fn flags(kind: &str) -> Option<Vec<String>> {
    let mut command = Cli::command();
    command.build();
    let mut found = &command;
    for word in kind.split('-') {
        found = found.find_subcommand(word)?;
    }
    let flags = found.get_arguments().filter_map(|argument| argument.get_long());
    // Global flags and the output belong to the run, not to a stage.
    let of_run = [
        "out", "seed", "device", "dtype", "json", "quiet", "verbose", "help", "version",
    ];
    Some(flags.filter(|flag| !of_run.contains(flag)).map(str::to_owned).collect())
}

/// Parses the words of a stage's command.
fn parse(recipe: &Recipe, index: usize, command: &[String]) -> Result<Command> {
    let words = std::iter::once("bylaw").chain(command.iter().map(String::as_str));
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(cli.command),
        Err(error) => {
            let text = error.to_string();
            let message = text
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            let rest = text
                .lines()
                .skip(1)
                .take_while(|line| !line.starts_with("Usage"))
                .map(str::trim);
            let rest: Vec<&str> = rest.filter(|line| !line.is_empty()).collect();
            Err(recipe.stage_error(index, &format!("{message} {}", rest.join(" "))))
        }
    }
}
