//! `bylaw constitution show`: what a constitution comes to, with what it inherits.

use clap::Args;

use super::usage;
use crate::cli::output;
use crate::cli::output::say;
use crate::cli::paint::clean;
use crate::cli::session::Session;
use crate::cli::variables::Variables;
use crate::constitution::Constitution;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct Show {
    /// A file, or `builtin:NAME`.
    constitution: String,
    /// Tell instead what its principles did in these datasets of revisions or preferences: how often each was
    /// drawn or asked, what its revisions changed, whose votes decide, and which principles disagree.
    #[arg(long, value_name = "DATASET", num_args = 1..)]
    usage: Vec<String>,
    #[command(flatten)]
    variables: Variables,
}

pub fn run(session: &Session, args: &Show) -> Result<()> {
    let constitution = args.variables.resolve(&args.constitution)?;
    match args.usage.is_empty() {
        true => show(session, &constitution),
        false => usage::show(session, &constitution, &args.usage),
    }
}

fn show(session: &Session, constitution: &Constitution) -> Result<()> {
    if session.json {
        output::json(&serde_json::json!({
            "name": constitution.name,
            "version": constitution.version,
            "description": constitution.description,
            "sha256": constitution.hash,
            "files": constitution.files,
            "parts": constitution.parts,
            "few_shots": few_shots(constitution),
            "principles": constitution.principles,
        }))?;
        return Ok(());
    }
    say!(
        "{} {} (sha256 {})",
        constitution.name,
        constitution.version,
        constitution.hash
    );
    for (part, weight) in &constitution.parts {
        say!("mixes {part}, weight {weight}");
    }
    for (name, count, sha256) in few_shots(constitution) {
        say!("few-shots of {name}: {count} (sha256 {sha256})");
    }
    for principle in &constitution.principles {
        say!(
            "\n{}  weight {}  {}",
            principle.id,
            principle.weight,
            principle.tags.join(", ")
        );
        if let Some(rationale) = &principle.rationale {
            say!("  {}", clean(rationale));
        }
        let texts = [
            ("critique", &principle.critique),
            ("revise", &principle.revise),
            ("judge", &principle.judge),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                say!("  {name:<9}{}", clean(text));
            }
        }
    }
    Ok(())
}

/// What examples there are: of what, how many, and their hash.
fn few_shots(constitution: &Constitution) -> Vec<(&'static str, usize, &str)> {
    let examples = &constitution.examples;
    let judge = [
        ("judge", &examples.judge),
        ("judge_reasoning", &examples.judge_reasoning),
    ];
    let critique = examples.critique.iter();
    let critique = critique.map(|shots| ("critique", shots.examples().len(), shots.sha256()));
    let judge = judge.into_iter().filter_map(|(name, shots)| {
        shots
            .as_ref()
            .map(|shots| (name, shots.examples().len(), shots.sha256()))
    });
    critique.chain(judge).collect()
}
