//! `data`: looking at datasets, and making one of others.

mod merge;

use clap::Subcommand;

use super::session::Session;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Make one dataset of the parts that --shard made: the bytes of one run over all rows.
    Merge(merge::Merge),
}

pub fn run(session: &Session, command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Merge(args) => merge::run(session, args),
    }
}
