//! `data convert`: rows of any shape into a dataset of bylaw, or into the files of another trainer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::session::Session;
use crate::cli::{output, pipeline};
use crate::dataset::export::{self, Export, Exported, Format, Origin, Record, Request};
use crate::dataset::{self, Kind, Loaded, Manifest};
use crate::error::{Error, Result};
use crate::job;

/// Reads data in any shape that bylaw knows (its own datasets, TRL's columns, hh-rlhf transcripts, ShareGPT,
/// Alpaca and others: it tells what it took them for) and writes it for another trainer, with a configuration
/// that is ready to run; or as our own rows: `arrow` is how foreign data become a dataset of bylaw.
///
/// Rows that cannot be read or that the format cannot hold are kept in DIR/rejects with the reason. What a
/// tool does not look at, such as soft labels, is counted and told.
///
/// Examples:
///   bylaw data convert hh-rlhf.jsonl --to arrow --out data/hh
///   bylaw data convert out/run/balance --to trl --model Qwen/Qwen2.5-0.5B --out out/trl
///   bylaw data convert out/run/judge --to parquet --out out/hub
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Convert {
    /// A dataset, a file, a directory of files, or a glob.
    pub reference: String,
    /// Whose files to write.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Format,
    /// Directory of the result; the same command writes it anew.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the rows are read as, where the data can be read as several kinds.
    #[arg(long, value_enum, value_name = "KIND")]
    pub from: Option<From>,
    /// The model to train, for the configurations: a directory, or a name on the Hugging Face hub.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
}

/// A kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    Prompts,
    Demonstrations,
    Preferences,
    Unpaired,
    Revisions,
    Candidates,
}

impl From {
    fn kind(self) -> Kind {
        match self {
            Self::Prompts => Kind::Prompts,
            Self::Demonstrations => Kind::Demonstrations,
            Self::Preferences => Kind::Preferences,
            Self::Unpaired => Kind::UnpairedPreferences,
            Self::Revisions => Kind::Revisions,
            Self::Candidates => Kind::Candidates,
        }
    }
}

pub fn run(session: &Session, args: &Convert) -> Result<()> {
    let kind = match args.from {
        Some(from) => from.kind(),
        None => kind_of(&args.reference)?,
    };
    args.to.check(kind)?;
    let record = convert(session, args, kind)?;
    tell(session, args, &record);
    Ok(())
}

fn convert(session: &Session, args: &Convert, kind: Kind) -> Result<Record> {
    match kind {
        Kind::Prompts => rows(session, args, dataset::read_prompts),
        Kind::Demonstrations => rows(session, args, dataset::read_demonstrations),
        Kind::Preferences => rows(session, args, dataset::read_preferences),
        Kind::Revisions => rows(session, args, dataset::read_revisions),
        Kind::Candidates => rows(session, args, dataset::read_candidates),
        Kind::Rejects | Kind::UnpairedPreferences => Err(Error::config(format!("{kind} are not converted"))),
    }
}

fn rows<R: Exported>(
    session: &Session,
    args: &Convert,
    read: impl FnOnce(&str) -> Result<Loaded<R>>,
) -> Result<Record> {
    let request = Request {
        reference: args.reference.clone(),
        format: args.to,
        kind: R::KIND,
        settings: BTreeMap::new(),
    };
    claim(&args.out, &request)?;
    let loaded = read(&args.reference)?;
    let stream = loaded
        .rows
        .into_iter()
        .map(|row| Ok(Ok(row)))
        .chain(loaded.rejects.into_iter().map(|reject| Ok(Err(reject))));
    let export = Export {
        format: args.to,
        dir: &args.out,
        request,
        model: args.model.as_deref(),
        trainings: None,
        origin: Origin {
            shape: format!("{}", R::KIND),
            provenance: provenance(&args.reference),
        },
    };
    let progress = session.progress();
    progress.start("convert", 0, "rows");
    let record = export::write(export, stream, &|_| {}, || loaded.sha256);
    progress.finish();
    record
}

/// Makes sure that the directory is free, or holds an earlier export of the same request.
pub fn claim(out: &Path, request: &Request) -> Result<()> {
    match export::earlier(out, request)? {
        None => job::refuse_foreign(out),
        Some(difference) if difference.is_empty() => Ok(()),
        Some(difference) => Err(job::other_run(out, &difference)),
    }
}

/// How the input was made, if it is a dataset of ours.
pub fn provenance(reference: &str) -> Option<dataset::Provenance> {
    Manifest::read(Path::new(reference))
        .ok()
        .map(|manifest| manifest.provenance)
}

/// What rows a reference holds.
fn kind_of(reference: &str) -> Result<Kind> {
    let dir = Path::new(reference);
    if Manifest::exists(dir) {
        return Ok(Manifest::read(dir)?.kind);
    }
    if dataset::read_preferences(reference).is_ok() {
        return Ok(Kind::Preferences);
    }
    if dataset::read_demonstrations(reference).is_ok() {
        return Ok(Kind::Demonstrations);
    }
    dataset::read_prompts(reference)?;
    Ok(Kind::Prompts)
}

fn tell(session: &Session, args: &Convert, record: &Record) {
    let out = args.out.display().to_string();
    let commands: Vec<String> = record
        .commands
        .iter()
        .map(|command| format!("cd {} && {command}", pipeline::shell_word(&out)))
        .collect();
    if session.json {
        output::json(&json!({
            "out": out,
            "format": args.to,
            "kind": record.kind,
            "rows": record.rows,
            "rejects": record.rejects,
            "files": record.files,
            "configurations": record.configurations,
            "commands": commands,
            "losses": record.losses,
            "not_carried": record.not_carried,
        }));
        return;
    }
    if session.quiet {
        return;
    }
    let line = |name: &str, text: &str| println!("{name:<9}{text}");
    line("read", &format!("{} as {}", record.input.reference, record.kind));
    let rejects = match record.rejects {
        0 => String::new(),
        rejects => format!(
            ", {} rejects, each with its reason, in {}",
            output::grouped(rejects),
            dataset::rejects_dir(&args.out).display()
        ),
    };
    line("rows", &format!("{}{rejects}", output::grouped(record.rows)));
    let bytes = record.files.iter().map(|file| file.bytes).sum();
    let mut wrote = vec![match record.files.as_slice() {
        [file] => format!("{} ({})", file.file, output::bytes(bytes)),
        files => format!("{} files ({})", files.len(), output::bytes(bytes)),
    }];
    wrote.extend(record.configurations.iter().cloned());
    line("wrote", &format!("{out}: {}", wrote.join(", ")));
    for loss in &record.losses {
        line(
            "unseen",
            &format!("{} rows: {}", output::grouped(loss.rows), loss.meaning),
        );
    }
    for command in &commands {
        line("train", command);
    }
    if !record.commands.is_empty() && args.model.is_none() {
        line("model", "none was named: set it in the configuration, or give --model");
    }
}
