//! The command line: what is typed, what is printed, and the exit code.
//!
//! stdout is data, everything else goes to stderr. Every stage command is one stage of a recipe with
//! flags: `bylaw run` turns each table of a recipe into such a command.

mod args;
mod assemble;
mod chat;
mod commands;
mod constitution;
mod data;
mod emit;
mod info;
mod ledger;
mod merge;
mod output;
mod paint;
mod parts;
mod pipeline;
mod place;
mod progress;
mod pull;
mod session;
mod stages;
mod status;
mod storage;
mod template;
mod variables;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::constitution::ConstitutionCommand;
use self::session::Session;
use crate::error::{Error, Result};
use crate::interrupt;

/// Runs the program on the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::set_log_format(cli.global.log_format);
    match handle_interrupts(&cli.command).and_then(|()| run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::report_error(&error),
    }
}

/// The first Ctrl-C asks the loop in flight to stop after its unit of work; the second stops at once,
/// which loses at most that unit. A conversation and a trial have none, and stop at once.
fn handle_interrupts(command: &Command) -> Result<()> {
    let at_once = matches!(
        command,
        Command::Chat(_) | Command::Constitution(ConstitutionCommand::Try(_))
    );
    ctrlc::set_handler(move || {
        if interrupt::request() || at_once {
            std::process::exit(130);
        }
        output::line("stopping after the unit in flight; press Ctrl-C again to stop at once");
    })
    .map_err(|error| Error::unexpected("the signal handler cannot be set").because(error))
}

fn run(cli: Cli) -> Result<()> {
    let session = Session::new(&cli.global)?;
    match cli.command {
        Command::Demo(args) => pipeline::demo(&session, &args),
        Command::Run(args) => pipeline::run(&session, &args),
        Command::Chat(args) => chat::run(&session, &args),
        Command::Status(args) => status::run(&session, &args),
        Command::Data(command) => data::run(&session, &command),
        Command::Report(args) => commands::report(&session, &args),
        Command::Constitution(command) => constitution::run(&session, &command),
        Command::Model(command) => commands::model(&session, &command),
        Command::Stage(command) => {
            let parts = command.parts();
            let done = match parts.out {
                Some(out) => storage::run(&session.accepting(parts.accept_changes), parts.stage, out)?,
                None => parts.stage.answer(&session)?,
            };
            output::stage_done(&session, parts.stage, parts.out, &done)
        }
    }
}
