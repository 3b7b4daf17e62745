//! `bylaw constitution diff`: what changed in a constitution, and what the change does.

mod page;
mod probe;

use clap::Args;

use self::probe::Probe;
use crate::cli::output;
use crate::cli::paint::Paint;
use crate::cli::session::Session;
use crate::cli::variables::Variables;
use crate::constitution::compare::{self, Comparison};
use crate::error::{Error, Result};
use crate::survey::effect::Effect;

/// Compares two constitutions. With --probe, prompts are answered, revised and judged under both: what the edit does not
/// touch comes out the same and is asked once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
    bylaw constitution diff old.toml new.toml
    bylaw constitution diff old.toml new.toml --probe prompts.jsonl --model hf:org/name
    git show HEAD:rules.toml > old.toml; bylaw constitution diff old.toml rules.toml")]
pub struct Diff {
    /// The constitution before the edit: a file, or `builtin:NAME`.
    old: String,
    /// The one after it.
    new: String,
    #[command(flatten)]
    variables: Variables,
    #[command(flatten)]
    probe: Probe,
    /// Examples of changed revisions and labels to show, of each.
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Probe")]
    examples: usize,
}

/// What both runs came to, and what they took.
pub struct Probed {
    pub effect: Effect,
    /// Requests that the old constitution needed.
    pub asked_old: u64,
    /// Those that the new one needed besides.
    pub asked_new: u64,
    /// Those of the new one that the old one had asked before.
    pub shared: u64,
}

pub fn run(session: &Session, args: &Diff) -> Result<()> {
    let [old, new] = args.variables.resolve_both([&args.old, &args.new])?;
    let comparison = compare::compare(&old, &new);
    let probed = args.probe.run(session, &old, &new)?;
    if session.json {
        output::json(&document(args, &comparison, probed.as_ref())?)?;
        return Ok(());
    }
    let paint = Paint::of_stdout();
    let mut text = page::comparison(paint, args, &comparison);
    if let Some(probed) = &probed {
        text.push_str(&page::probed(paint, probed, args.examples));
    }
    output::page(&text)
}

fn document(args: &Diff, comparison: &Comparison, probed: Option<&Probed>) -> Result<serde_json::Value> {
    let value = |value| {
        let failed = |error| Error::unexpected("a comparison cannot be told").because(error);
        serde_json::Result::map_err(value, failed)
    };
    let mut document = value(serde_json::to_value(comparison))?;
    document["old"] = args.old.clone().into();
    document["new"] = args.new.clone().into();
    if let Some(probed) = probed {
        document["probe"] = value(serde_json::to_value(&probed.effect))?;
        document["probe"]["asked"] = serde_json::json!({
            "old": probed.asked_old,
            "new": probed.asked_new,
            "shared": probed.shared,
        });
    }
    Ok(document)
}
