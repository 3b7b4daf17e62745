//! `bylaw constitution import`: constitutions of other programs as files of ours.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::refuse_existing;
use crate::atomic;
use crate::cli::output;
use crate::cli::output::{counted, say};
use crate::cli::session::Session;
use crate::constitution::exchange::{self, Format, Import as Imported, Originals};
use crate::constitution::{self, BUDGET, write};
use crate::error::{Error, Result};
use crate::small;

#[derive(Debug, Args)]
#[command(after_long_help = SHAPES)]
pub struct Import {
    /// JSON files that together make one constitution, each of another kind.
    #[arg(required = true, value_name = "FILE.json")]
    files: Vec<PathBuf>,
    /// The constitution to write. Few-shot examples go beside it, as in `FILE.judge.toml`.
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
    /// What the constitution is called [default: the file's name].
    #[arg(long)]
    name: Option<String>,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
}

const SHAPES: &str = "Kinds of files, each known by its shape:
  the paper's supplement (Bai et al. 2022): critique and revision requests, comparison questions,
  examples of critiques, of comparisons, and of comparisons with a chain of thought;
  constitutions of Hugging Face's recipe (llm-swarm), with their examples;
  examples of NeMo-Aligner's recipe.

What the constitution cannot keep, such as space around texts, goes to FILE.originals.json, from
which `bylaw constitution export` puts it back.";

/// Examples of one kind: their key, the text of their file, and how many there are.
type Examples = (&'static str, String, usize);

pub fn run(session: &Session, args: &Import) -> Result<()> {
    let remedy = "give the path of a JSON file";
    let read = |path: &PathBuf| Ok((path.clone(), small::read_to_string(path, remedy)?));
    let files: Vec<(PathBuf, String)> = args.files.iter().map(read).collect::<Result<_>>()?;
    let imported = exchange::import(&files)?;

    let examples = examples(&imported);
    let paths: Vec<PathBuf> = examples.iter().map(|(key, ..)| beside(&args.out, key)).collect();
    let originals = Originals::beside(&args.out);
    for path in [&args.out, &originals].into_iter().chain(&paths) {
        refuse_existing(path, args.force)?;
        if args.files.iter().any(|file| same(file, path)) {
            return Err(Error::config("this file is imported and would be written over")
                .at_file(path)
                .help("give another --out"));
        }
    }
    let stem = args.out.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| Error::config("the constitution has no name").help("give one: --name NAME"))?;
    let few_shots: Vec<(&str, &Path)> = examples
        .iter()
        .zip(&paths)
        .map(|((key, ..), path)| (*key, Path::new(path.file_name().unwrap_or_default())))
        .collect();
    let text = imported.constitution(&name, &few_shots)?;

    for ((_, text, _), path) in examples.iter().zip(&paths) {
        atomic::write(path, text.as_bytes())?;
    }
    write_originals(&imported.originals, &originals)?;
    // Last, so that a constitution that is there has all that it names.
    atomic::write(&args.out, text.as_bytes())?;
    tell(session, args, &imported, &examples)
}

fn examples(imported: &Imported) -> Vec<Examples> {
    let Imported {
        critique,
        judge,
        judge_reasoning,
        ..
    } = imported;
    let all = [
        ("critique", write::critique_examples(critique), critique.len()),
        ("judge", write::judge_examples(judge), judge.len()),
        (
            "judge_reasoning",
            write::judge_examples(judge_reasoning),
            judge_reasoning.len(),
        ),
    ];
    all.into_iter().filter(|(.., count)| *count > 0).collect()
}

/// `FILE.judge-reasoning.toml` beside `FILE.toml`.
fn beside(out: &Path, key: &str) -> PathBuf {
    out.with_extension(format!("{}.toml", key.replace('_', "-")))
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Originals of an earlier import would be put into an export of this one.
fn write_originals(originals: &Originals, path: &Path) -> Result<()> {
    if !originals.is_empty() {
        return atomic::write(path, format!("{:#}\n", originals.to_json()).as_bytes());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn tell(session: &Session, args: &Import, imported: &Imported, examples: &[Examples]) -> Result<()> {
    let out = args.out.display().to_string();
    let checked = constitution::check(&out, &Default::default(), BUDGET)?;
    if checked.constitution.is_none()
        && let Some(first) = checked.findings.first()
    {
        return Err(first.to_error());
    }
    let warnings = checked.findings.len();
    let kept = imported.originals.len();
    if session.json {
        let files = imported
            .files
            .iter()
            .map(|file| serde_json::json!({ "file": file.path, "format": file.format.name(), "items": file.items }));
        output::json(&serde_json::json!({
            "out": args.out,
            "principles": imported.principles.len(),
            "examples": examples.iter().map(|(key, _, count)| ((*key).to_owned(), (*count).into()))
                .collect::<serde_json::Map<_, _>>(),
            "files": files.collect::<Vec<_>>(),
            "originals": kept,
            "warnings": warnings,
        }))?;
        return Ok(());
    }
    if session.quiet {
        return Ok(());
    }
    let mut parts = vec![counted(imported.principles.len() as u64, "principle")];
    parts.extend(
        examples
            .iter()
            .map(|(key, _, count)| counted(*count as u64, &format!("{} example", key.replace('_', "-")))),
    );
    say!("{out}: {}", parts.join(", "));
    for file in &imported.files {
        output::line(&format!(
            "{}: {} ({})",
            file.path.display(),
            counted(file.items as u64, "item"),
            file.format.name()
        ));
    }
    if imported.files.iter().any(|file| stands_in(file.format)) {
        output::line(&format!(
            "examples without a question of their own have this: {}",
            exchange::STAND_IN
        ));
    }
    if kept > 0 {
        let path = Originals::beside(&args.out);
        output::line(&format!(
            "{}: what is written otherwise than usual ({}), for an export: keep it beside the constitution",
            path.display(),
            counted(kept as u64, "item")
        ));
    }
    let found = match warnings {
        0 => String::new(),
        count => format!(" ({})", counted(count as u64, "warning")),
    };
    output::line(&format!("next: bylaw constitution check {out}{found}"));
    Ok(())
}

fn stands_in(format: Format) -> bool {
    matches!(format, Format::PaperJudgeFewShots | Format::PaperReasoningFewShots)
}
