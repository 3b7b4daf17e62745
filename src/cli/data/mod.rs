//! `data`: commands for data that is there already.

pub mod convert;
mod inspect;
mod merge;
mod mix;
mod page;
pub mod rows;
mod split;
mod validate;

use clap::Subcommand;

use super::session::Session;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Tell what is in data: columns, lengths, duplicates, languages, failures, a few rows.
    Inspect(inspect::Inspect),
    /// Check datasets against their manifests and schemas, every file and every row.
    Validate(validate::Validate),
    // Its help is that of its arguments.
    Convert(convert::Convert),
    /// Make one dataset of the parts that --shard made: the bytes of one run over all rows.
    Merge(merge::Merge),
    /// Mix rows of several sources by weight.
    Mix(mix::Mix),
    /// Split rows for training and testing, without a prompt on both sides.
    Split(split::Split),
}

pub fn run(session: &Session, command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Inspect(args) => inspect::run(session, args),
        DataCommand::Validate(args) => validate::run(session, args),
        DataCommand::Convert(args) => convert::run(session, args),
        DataCommand::Merge(args) => merge::run(session, args),
        DataCommand::Mix(args) => mix::run(session, args),
        DataCommand::Split(args) => split::run(session, args),
    }
}
