//! `data merge`: the parts of a job that several machines divided.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output;
use crate::cli::output::say;
use crate::cli::place;
use crate::cli::session::Session;
use crate::error::Result;
use crate::job;

/// Make one dataset of the parts that --shard made: the bytes of one run over all rows.
///
/// Every part must be complete and there once; their order on the command line does not matter.
///
///   bylaw judge … --shard 0/2 --out part-0        on one machine
///   bylaw judge … --shard 1/2 --out part-1        on another
///   bylaw data merge part-0 part-1 --out labels
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Merge {
    /// The datasets of the parts.
    #[arg(required = true, value_name = "DIR")]
    pub parts: Vec<PathBuf>,
    /// Directory of the merged dataset.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

pub fn run(session: &Session, args: &Merge) -> Result<()> {
    place::check(&args.out)?;
    let merged = job::merge(&args.parts, &args.out, None, session.progress())?;
    if session.json {
        output::json(&serde_json::json!({
            "out": args.out.display().to_string(),
            "parts": merged.slices,
            "rows": merged.rows,
            "rejects": merged.rejects,
        }))?;
    } else if !session.quiet {
        say!(
            "{}: {} rows and {} rejects of {} parts",
            args.out.display(),
            output::grouped(merged.rows),
            output::grouped(merged.rejects),
            merged.slices
        );
    }
    Ok(())
}
