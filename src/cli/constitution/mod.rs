//! `constitution`: commands for the files that principles stand in.

mod page;
mod usage;

use super::args::ConstitutionCommand;
use super::output;
use super::session::Session;
use crate::constitution::Constitution;
use crate::error::Result;

pub fn run(session: &Session, command: &ConstitutionCommand) -> Result<()> {
    match command {
        ConstitutionCommand::Check { files } => {
            let mut first = None;
            let mut sound = Vec::new();
            for file in files {
                match Constitution::resolve(file) {
                    Ok(constitution) => {
                        let principles = constitution.principles.len();
                        if !session.quiet && !session.json {
                            println!("{file}: {principles} principles, no findings");
                        }
                        sound.push(serde_json::json!({ "file": file, "principles": principles }));
                    }
                    Err(error) => {
                        if let Some(earlier) = first.replace(error) {
                            output::report_error(&earlier);
                        }
                    }
                }
            }
            if session.json && first.is_none() {
                output::json(&serde_json::json!({ "sound": sound }));
            }
            first.map_or(Ok(()), Err)
        }
        ConstitutionCommand::Show { constitution, usage } => {
            let constitution = Constitution::resolve(constitution)?;
            match usage.is_empty() {
                true => show(session, &constitution),
                false => usage::show(session, &constitution, usage),
            }
        }
    }
}

fn show(session: &Session, constitution: &Constitution) -> Result<()> {
    if session.json {
        output::json(&serde_json::json!({
            "name": constitution.name,
            "version": constitution.version,
            "sha256": constitution.hash,
            "principles": constitution.principles,
        }));
        return Ok(());
    }
    println!(
        "{} {} (sha256 {})",
        constitution.name, constitution.version, constitution.hash
    );
    for principle in &constitution.principles {
        println!(
            "\n{}  weight {}  {}",
            principle.id,
            principle.weight,
            principle.tags.join(", ")
        );
        let texts = [
            ("critique", &principle.critique),
            ("revise", &principle.revise),
            ("judge", &principle.judge),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                println!("  {name:<9}{text}");
            }
        }
    }
    Ok(())
}
