//! `data`: looking at datasets, converting them, and making one of others.

pub mod convert;
mod merge;

use clap::Subcommand;

use super::session::Session;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Convert data between shapes, with a configuration to train on it.
    Convert(convert::Convert),
    /// Make one dataset of the parts that --shard made: the bytes of one run over all rows.
    Merge(merge::Merge),
}

pub fn run(session: &Session, command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Convert(args) => convert::run(session, args),
        DataCommand::Merge(args) => merge::run(session, args),
    }
}
