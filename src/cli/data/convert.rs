//! `data convert`: rows of any shape into a dataset of bylaw, or into the files of another trainer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::session::Session;
use crate::cli::{output, pipeline, storage};
use crate::dataset::export::{self, Export, Exported, Format, Hyperparameters, Record, Request, Training};
use crate::dataset::{self, Detected, Kind, Manifest, Mapping, Options, RowStream, Shape};
use crate::error::{Error, Result};
use crate::job;
use crate::progress::Progress;
use crate::record::{Candidates, Demonstration, Preference, Prompt, Reject, Revision, UnpairedPreference};

/// Rows that are looked at to tell what the data are.
const DETECT_ROWS: usize = 100;

/// Convert data between shapes, with a configuration to train on it
///
/// Reads data in any shape that bylaw knows (its own datasets, TRL's columns, hh-rlhf
/// transcripts, ShareGPT, Alpaca and others: it tells what it took them for) and writes them for
/// another trainer, with a configuration that is ready to run; or as our own rows: `--to arrow`
/// makes a dataset of bylaw of foreign data.
///
/// Rows that cannot be read, or that the format cannot hold, are kept in DIR/rejects with the
/// reason. What a tool does not look at, such as soft labels, is counted and told.
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
    /// Which columns are what, for data that bylaw does not know: a TOML file.
    #[arg(long, value_name = "FILE.toml")]
    pub mapping: Option<PathBuf>,
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
    let options = Options {
        mapping: args.mapping.as_deref().map(Mapping::load).transpose()?,
        ..Options::default()
    };
    let kind = match args.from {
        Some(from) => from.kind(),
        None => kind_of(&args.reference, &options)?,
    };
    args.to.check(kind)?;
    let (record, detected) = match kind {
        Kind::Prompts => convert::<Prompt>(session, args, &options),
        Kind::Demonstrations => convert::<Demonstration>(session, args, &options),
        Kind::Preferences => convert::<Preference>(session, args, &options),
        Kind::UnpairedPreferences => convert::<UnpairedPreference>(session, args, &options),
        Kind::Revisions => convert::<Revision>(session, args, &options),
        Kind::Candidates => convert::<Candidates>(session, args, &options),
        Kind::ReferenceLogprobs => Err(
            Error::input("holds log-probabilities of a reference, which are not converted").at_file(&args.reference),
        ),
        Kind::Rejects => Err(Error::input("holds rejected rows, which are not converted").at_file(&args.reference)),
    }?;
    tell(session, args, &record, &detected)?;
    Ok(())
}

/// What the rows are first of all, by the columns of the first ones.
fn kind_of(reference: &str, options: &Options) -> Result<Kind> {
    let detected = dataset::detect(reference, options, DETECT_ROWS)?;
    detected.kind().ok_or_else(|| {
        Error::input("none of its rows has columns that bylaw knows")
            .at_file(reference)
            .help("name the columns in a file for --mapping, or the kind of row with --from to see what is missing")
    })
}

fn convert<R: Exported + Shape>(session: &Session, args: &Convert, options: &Options) -> Result<(Record, Detected)> {
    let target = Target {
        reference: &args.reference,
        options,
        format: args.to,
        dir: &args.out,
        model: args.model.as_deref(),
        trainings: None,
    };
    target.write::<R>(session)
}

/// What to export, and where to.
pub struct Target<'a> {
    pub reference: &'a str,
    pub options: &'a Options,
    pub format: Format,
    pub dir: &'a Path,
    pub model: Option<&'a str>,
    pub trainings: Option<Vec<(Training, Hyperparameters)>>,
}

impl Target<'_> {
    /// Exports the rows as rows of kind `R`.
    pub fn write<R: Exported + Shape>(self, session: &Session) -> Result<(Record, Detected)> {
        storage::refuse_url(self.dir, "an export is written to a local directory")?;
        let mut settings = BTreeMap::new();
        if let Some(mapping) = &self.options.mapping {
            settings.insert("mapping_sha256".to_owned(), mapping.sha256());
        }
        let request = Request {
            reference: self.reference.to_owned(),
            format: self.format,
            kind: R::KIND,
            settings,
        };
        let stream = dataset::stream::<R>(self.reference, self.options)?;
        claim(self.dir, &request)?;
        let made = !self.dir.exists();
        let lock = job::hold(self.dir, session.progress())?;
        let mut rows = Rows {
            stream,
            progress: session.progress(),
            told: 0,
        };
        rows.progress.start("convert", rows.stream.position().total, "bytes");
        let export = Export {
            format: self.format,
            dir: self.dir,
            request,
            model: self.model,
            trainings: self.trainings,
            provenance: Manifest::read(Path::new(self.reference))
                .ok()
                .map(|manifest| manifest.provenance),
        };
        let record = export::write(export, &mut rows);
        rows.progress.finish();
        drop(lock);
        tidy(self.dir, made);
        Ok((record?, rows.stream.detected().clone()))
    }
}

/// Removes the directory of the lock, and the one that was made for an export that failed, if nothing is in
/// them.
fn tidy(dir: &Path, made: bool) {
    let _ = std::fs::remove_dir(job::state_dir(dir));
    if made {
        let _ = std::fs::remove_dir(dir);
    }
}

/// The rows of a reference, with their progress in bytes.
struct Rows<'a, R> {
    stream: RowStream<R>,
    progress: &'a dyn Progress,
    told: u64,
}

impl<R: Shape> Iterator for Rows<'_, R> {
    type Item = Result<Result<R, Reject>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.stream.next();
        let bytes = self.stream.position().bytes;
        if bytes > self.told {
            self.progress.advance(bytes - self.told);
            self.told = bytes;
        }
        row
    }
}

impl<R: Shape> export::Input<R> for Rows<'_, R> {
    fn sha256(&self) -> String {
        self.stream.sha256().unwrap_or_default().to_owned()
    }

    fn describe(&self) -> String {
        self.stream.detected().to_string()
    }
}

/// Makes sure that the directory is free, or holds an earlier export of the same request.
fn claim(out: &Path, request: &Request) -> Result<()> {
    match export::earlier(out, request)? {
        None => job::refuse_foreign(out),
        Some(difference) if difference.is_empty() => Ok(()),
        Some(difference) => Err(job::other_run(out, &difference)),
    }
}

fn tell(session: &Session, args: &Convert, record: &Record, detected: &Detected) -> Result<()> {
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
            "read_as": detected.to_string(),
            "unused_columns": detected.unused,
            "rows": record.rows,
            "rejects": record.rejects,
            "files": record.files,
            "configurations": record.configurations,
            "commands": commands,
            "losses": record.losses,
            "not_carried": record.not_carried,
        }))?;
        return Ok(());
    }
    if session.quiet {
        return Ok(());
    }
    let line = |name: &str, text: &str| output::page(&format!("{name:<9}{text}\n"));
    line("read", &format!("{detected}, as {}", record.kind))?;
    if !detected.unused.is_empty() {
        line("unread", &format!("the columns {}", detected.unused.join(", ")))?;
    }
    let rejects = match record.rejects {
        0 => String::new(),
        rejects => format!(
            ", {} rejects, each with its reason, in {}",
            output::grouped(rejects),
            dataset::rejects_dir(&args.out).display()
        ),
    };
    line("rows", &format!("{}{rejects}", output::grouped(record.rows)))?;
    let bytes = record.files.iter().map(|file| file.bytes).sum();
    let mut wrote = vec![match record.files.as_slice() {
        [file] => format!("{} ({})", file.file, output::bytes(bytes)),
        files => format!("{} files ({})", files.len(), output::bytes(bytes)),
    }];
    wrote.extend(record.configurations.iter().cloned());
    line("wrote", &format!("{out}: {}", wrote.join(", ")))?;
    for loss in &record.losses {
        line(
            "unseen",
            &format!("{} rows: {}", output::grouped(loss.rows), loss.meaning),
        )?;
    }
    for command in &commands {
        line("train", command)?;
    }
    if !record.commands.is_empty() && args.model.is_none() {
        line("model", "none was named: set it in the configuration, or give --model")?;
    }
    Ok(())
}
