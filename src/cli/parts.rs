//! A run that several machines divide: each does its part of the stages whose rows can be divided, and
//! the run without a part merges them.
//!
//! Part I of N works in `DIR/.shards/I-of-N`. It stops before the first stage that needs all rows; the
//! run itself merges the parts, does that stage, and the parts can go on after it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::args::Command;
use super::output;
use super::pipeline::{Plan, RunJournal, parse};
use super::session::Session;
use super::stages::Division;
use crate::dataset::{Manifest, Slice, Source, Status};
use crate::error::{Error, Result};
use crate::{interrupt, job};

const PARTS: &str = ".shards";

/// Does one part of a run, up to its stage `end`.
pub(super) fn run(session: &Session, plan: &Plan, slice: Slice, end: usize) -> Result<()> {
    let session = session.with_seed(plan.seed);
    let part = plan.dir.join(PARTS).join(format!("{}-of-{}", slice.index, slice.of));
    let whole: BTreeSet<String> = match plan.dir.join(super::pipeline::FILE).exists() {
        true => RunJournal::read(&plan.dir)?
            .stages
            .into_iter()
            .map(|stage| stage.name)
            .collect(),
        false => BTreeSet::new(),
    };
    let place = |name: &str| match whole.contains(name) {
        true => plan.dir.join(name),
        false => part.join(name),
    };
    // Stages of this part whose rows are its own already.
    let mut divided = BTreeSet::new();
    for index in 0..end {
        interrupt::check()?;
        let name = &plan.recipe.stages[index].name;
        if whole.contains(name) {
            continue;
        }
        let mut words = plan.recipe.command(index, &place, &plan.kinds)?;
        let Command::Stage(stage) = parse(&plan.recipe, index, &words)? else {
            return Err(plan.recipe.stage_error(index, None, "this command is not a stage"));
        };
        match stage.parts().0.division() {
            Division::Each => {}
            Division::Rows => {
                words.push(format!("--shard={slice}"));
                if plan.recipe.references(index).any(|name| divided.contains(name)) {
                    words.push("--input-is-shard".into());
                }
                divided.insert(name.clone());
            }
            Division::Whole => {
                session.progress().note(&format!(
                    "part {slice} is done up to `{name}`, which needs all rows; when all {} parts are, \
                     the same command without --shard merges them and goes on",
                    slice.of
                ));
                return Ok(());
            }
        }
        let Command::Stage(stage) = parse(&plan.recipe, index, &words)? else {
            return Err(plan.recipe.stage_error(index, None, "this command is not a stage"));
        };
        let (stage, Some(out), _) = stage.parts() else {
            return Err(plan.recipe.stage_error(index, None, "this stage has no directory"));
        };
        let done = stage.run(&session, out)?;
        if !session.quiet {
            output::line(&format!("── {name} {slice}: {}", done.summary()));
        }
    }
    Ok(())
}

/// Merges the parts of the stage `name` of the run in `dir`, if there are any.
pub(super) fn merge(session: &Session, dir: &Path, name: &str) -> Result<()> {
    let whole = dir.join(name);
    if Manifest::exists(&whole) && Manifest::read(&whole)?.status == Status::Complete {
        return Ok(());
    }
    let Some(parts) = parts(dir, name)? else {
        return Ok(());
    };
    let first = Manifest::read(&parts[0])?;
    let part_dir = parts[0].parent().unwrap_or(dir);
    let renamed = |source: &Source| -> Result<Source> {
        match Path::new(&source.reference).strip_prefix(part_dir) {
            // What a part read of its own, the run has merged or made before.
            Ok(name) => {
                let place = dir.join(name);
                Ok(Source {
                    sha256: Manifest::read(&place)?.sha256(),
                    reference: place.display().to_string(),
                })
            }
            Err(_) => Ok(source.clone()),
        }
    };
    let inputs = first
        .provenance
        .inputs
        .iter()
        .map(renamed)
        .collect::<Result<Vec<_>>>()?;
    let merged = job::merge(&parts, &whole, Some(&inputs), session.progress())?;
    session.progress().note(&format!(
        "{name}: {} rows and {} rejects of {} parts",
        merged.rows, merged.rejects, merged.slices
    ));
    Ok(())
}

/// The directories of the parts of a stage; an error unless all of them are there.
fn parts(dir: &Path, name: &str) -> Result<Option<Vec<PathBuf>>> {
    let Ok(entries) = fs::read_dir(dir.join(PARTS)) else {
        return Ok(None);
    };
    let mut found: Vec<(Slice, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", dir.join(PARTS), error))?;
        let part = entry.file_name().to_string_lossy().replace("-of-", "/");
        let path = entry.path().join(name);
        if let Ok(slice) = part.parse::<Slice>()
            && Manifest::exists(&path)
        {
            found.push((slice, path));
        }
    }
    let Some(of) = found.iter().map(|(slice, _)| slice.of).max() else {
        return Ok(None);
    };
    let remedy = format!(
        "finish it with --shard I/N, or delete {} to do the stage here",
        dir.join(PARTS).display()
    );
    if let Some((slice, path)) = found.iter().find(|(slice, _)| slice.of != of) {
        return Err(
            Error::input(format!("`{name}` was divided by {of} and by {}", slice.of))
                .at_file(path)
                .help("delete the parts of one of the two"),
        );
    }
    if let Some(missing) = (0..of).find(|index| !found.iter().any(|(slice, _)| slice.index == *index)) {
        return Err(
            Error::input(format!("part {missing}/{of} of `{name}` has not been begun"))
                .at_file(dir)
                .help(remedy),
        );
    }
    found.sort_by_key(|(slice, _)| slice.index);
    Ok(Some(found.into_iter().map(|(_, path)| path).collect()))
}
