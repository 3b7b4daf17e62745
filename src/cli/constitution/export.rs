//! `bylaw constitution export`: a constitution as the files of other programs.

use std::path::{Path, PathBuf};

use clap::Args;

use super::refuse_existing;
use crate::atomic;
use crate::cli::output;
use crate::cli::output::say;
use crate::cli::session::Session;
use crate::cli::variables::Variables;
use crate::constitution::exchange::{self, Format, Originals};
use crate::error::Result;
use crate::small;

#[derive(Debug, Args)]
pub struct Export {
    /// A file, or `builtin:NAME`.
    constitution: String,
    /// What kind of file to write. What it cannot hold is told on stderr.
    #[arg(long, value_enum)]
    format: Format,
    #[command(flatten)]
    variables: Variables,
    /// Write it there instead of to stdout.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

pub fn run(session: &Session, args: &Export) -> Result<()> {
    if let Some(out) = &args.out {
        refuse_existing(out, args.force)?;
    }
    let constitution = args.variables.resolve(&args.constitution)?;
    let originals = match &constitution.path {
        Some(path) => originals(&Originals::beside(path))?,
        None => Originals::default(),
    };
    let mut exported = exchange::export(&constitution, args.format, &originals)?;
    let variables = exchange::variables(&args.constitution, &args.variables.values())?;
    if !variables.is_empty() {
        exported
            .notes
            .push(format!("variables are filled in: {}", variables.join(", ")));
    }
    for note in &exported.notes {
        output::line(&format!("{}: {note}", args.format.name()));
    }
    let text = format!("{:#}\n", exported.value);
    let Some(out) = &args.out else {
        return output::page(&text);
    };
    atomic::write(out, text.as_bytes())?;
    if session.json {
        output::json(&serde_json::json!({
            "out": out,
            "format": args.format.name(),
            "items": exported.items,
            "notes": exported.notes,
        }))?;
    } else if !session.quiet {
        let items = output::counted(exported.items as u64, "item");
        say!("{}: {items} ({})", out.display(), args.format.name());
    }
    Ok(())
}

/// What an import kept beside its constitution.
fn originals(path: &Path) -> Result<Originals> {
    if !path.exists() {
        return Ok(Originals::default());
    }
    let remedy = "restore the file, or remove it to export in the usual form";
    let text = small::read_to_string(path, remedy)?;
    Originals::parse(&text, path).map_err(|error| error.help(remedy))
}
