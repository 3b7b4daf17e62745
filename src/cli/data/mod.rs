//! `bylaw data`: commands on datasets at rest.

pub mod convert;

use clap::Subcommand;

use super::session::Session;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Convert data between shapes, with a configuration to train on it.
    Convert(convert::Convert),
}

pub fn run(session: &Session, command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Convert(args) => convert::run(session, args),
    }
}
