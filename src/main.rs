//! The `bylaw` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bylaw::memory::keep();
    bylaw::cli::main()
}
