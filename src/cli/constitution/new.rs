//! `bylaw constitution new`: a commented file that works as it stands.

use std::path::PathBuf;

use clap::Args;

use super::refuse_existing;
use crate::atomic;
use crate::cli::output::say;
use crate::cli::session::Session;
use crate::constitution::{Constitution, new_file};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub struct New {
    /// The file to write, as in `my-rules.toml`.
    file: PathBuf,
    /// What the constitution is called [default: the file's name].
    #[arg(long)]
    name: Option<String>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

pub fn run(session: &Session, args: &New) -> Result<()> {
    refuse_existing(&args.file, args.force)?;
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| Error::config("the constitution has no name").help("give one: --name NAME"))?;
    let text = new_file(&name);
    // What is written can be read: the name may hold anything.
    Constitution::parse(&text, &args.file)?;
    atomic::write(&args.file, text.as_bytes())?;
    if !session.quiet && !session.json {
        say!("{}: two principles to start from", args.file.display());
        crate::cli::output::line(&format!("next: bylaw constitution check {}", args.file.display()));
    }
    Ok(())
}
