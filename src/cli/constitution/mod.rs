//! `bylaw constitution`: writing, checking and understanding constitution files.

mod check;
mod diff;
mod export;
mod import;
mod new;
mod show;
mod try_out;
mod usage;

use std::path::PathBuf;

use clap::Subcommand;

use super::output;
use super::session::Session;
use crate::atomic;
use crate::constitution::schema;
use crate::error::{Error, Result};

#[derive(Debug, Subcommand)]
pub enum ConstitutionCommand {
    /// Write a commented file to start from.
    New(new::New),
    /// Check files: every error and every doubt in one run, each with its place and remedy.
    Check(check::Check),
    Try(Box<try_out::TryOut>),
    /// Print a constitution with what it inherits.
    Show(show::Show),
    /// Tell what changed from one constitution to another, and try on prompts what the change does.
    Diff(Box<diff::Diff>),
    /// Make a constitution of the JSON files of other programs: the paper's supplement, Hugging Face's recipe.
    Import(import::Import),
    /// Write the JSON files of other programs.
    Export(export::Export),
    /// Print the JSON Schema of constitution files, for editors.
    Schema {
        /// Write it there instead.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write over a file that is there.
        #[arg(long, requires = "out")]
        force: bool,
    },
}

pub fn run(session: &Session, command: &ConstitutionCommand) -> Result<()> {
    match command {
        ConstitutionCommand::New(args) => new::run(session, args),
        ConstitutionCommand::Check(args) => check::run(session, args),
        ConstitutionCommand::Try(args) => try_out::run(session, args),
        ConstitutionCommand::Show(args) => show::run(session, args),
        ConstitutionCommand::Diff(args) => diff::run(session, args),
        ConstitutionCommand::Import(args) => import::run(session, args),
        ConstitutionCommand::Export(args) => export::run(session, args),
        ConstitutionCommand::Schema { out, force } => {
            let schema = format!("{:#}\n", schema::constitution());
            match out {
                Some(out) => {
                    refuse_existing(out, *force)?;
                    atomic::write(out, schema.as_bytes())
                }
                None => output::page(&schema),
            }
        }
    }
}

/// A file that a command is to make and that is there already.
fn refuse_existing(out: &std::path::Path, force: bool) -> Result<()> {
    if out.exists() && !force {
        return Err(Error::config("this file exists already")
            .at_file(out)
            .help("give another name, or --force to write over it"));
    }
    Ok(())
}
