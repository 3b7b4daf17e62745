//! The slices of a job, each made by itself, to the dataset that one machine would have made.

use std::path::{Path, PathBuf};

use super::claim::{claim, other_run};
use crate::atomic;
use crate::dataset::{Dataset, Kind, Manifest, Provenance, Row, Shards, Slice, Source, Status, rejects_dir};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::record::{
    Candidates, Demonstration, Preference, Prompt, ReferenceLogprobs, Reject, Revision, UnpairedPreference,
};

/// What a merge left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    pub slices: usize,
    pub rows: u64,
    pub rejects: u64,
}

/// Merges the slices in `parts`, in any order, into a dataset at `out`: the bytes of one run over all of
/// the input. `inputs` are the inputs as that run would have named them, where they differ.
pub fn merge(parts: &[PathBuf], out: &Path, inputs: Option<&[Source]>, progress: &dyn Progress) -> Result<Merged> {
    let parts = in_order(parts, inputs.is_none())?;
    let first = &parts[0].1;
    let mut provenance = first.provenance.clone();
    provenance.slice = None;
    if let Some(inputs) = inputs {
        provenance.inputs = inputs.to_vec();
    }
    let claimed = claim(out, progress)?;
    if let Some(there) = &claimed.manifest {
        let difference = provenance.difference(&there.provenance);
        if !difference.is_empty() {
            return Err(other_run(out, &difference));
        }
        if there.status == Status::Complete {
            progress.note(&format!("{}: already complete", out.display()));
            return merged(out, parts.len());
        }
    }
    match first.kind {
        Kind::Prompts => write::<Prompt>(&parts, out, provenance)?,
        Kind::Revisions => write::<Revision>(&parts, out, provenance)?,
        Kind::Candidates => write::<Candidates>(&parts, out, provenance)?,
        Kind::Preferences => write::<Preference>(&parts, out, provenance)?,
        Kind::Demonstrations => write::<Demonstration>(&parts, out, provenance)?,
        Kind::UnpairedPreferences => write::<UnpairedPreference>(&parts, out, provenance)?,
        Kind::Rejects => write::<Reject>(&parts, out, provenance)?,
        Kind::ReferenceLogprobs => write::<ReferenceLogprobs>(&parts, out, provenance)?,
    }
    merged(out, parts.len())
}

fn merged(out: &Path, slices: usize) -> Result<Merged> {
    Ok(Merged {
        slices,
        rows: Manifest::read(out)?.rows,
        rejects: Manifest::read(&rejects_dir(out))?.rows,
    })
}

type Part = (PathBuf, Manifest);

/// The slices by their place: all there, all complete, all of one job.
fn in_order(parts: &[PathBuf], same_inputs: bool) -> Result<Vec<Part>> {
    const REMEDY: &str = "name every slice of one job once, each finished: DIR/0-of-8 DIR/1-of-8 …";
    let mut sliced: Vec<(Slice, Part)> = Vec::new();
    for part in parts {
        let manifest = Manifest::read(part)?;
        let Some(slice) = manifest.provenance.slice else {
            return Err(Error::input("the dataset is not a slice: it was made without --shard")
                .at_file(part)
                .help(REMEDY));
        };
        if manifest.status == Status::Running {
            return Err(Error::input(format!("the slice {slice} is not complete"))
                .at_file(part)
                .help("run its command again to finish it"));
        }
        sliced.push((slice, (part.clone(), manifest)));
    }
    sliced.sort_by_key(|(slice, _)| slice.index);
    let of = sliced.first().map_or(0, |(slice, _)| slice.of);
    let missing: Vec<String> = (0..of)
        .filter(|index| !sliced.iter().any(|(slice, _)| slice.index == *index))
        .map(|index| format!("{index}/{of}"))
        .collect();
    if !missing.is_empty() || sliced.is_empty() {
        return Err(Error::input(format!("slices are missing: {}", missing.join(", "))).help(REMEDY));
    }
    for pair in sliced.windows(2) {
        let [(before, (_, one)), (slice, (path, other))] = pair else {
            continue;
        };
        if before.index == slice.index {
            return Err(Error::input(format!("the slice {slice} is there twice"))
                .at_file(path)
                .help(REMEDY));
        }
        let mut difference = whole(&one.provenance, same_inputs).difference(&whole(&other.provenance, same_inputs));
        if one.kind != other.kind {
            difference.push(format!("kind: {} there, {} here", one.kind, other.kind));
        }
        if slice.of != before.of {
            difference.push(format!("slices: {} there, {} here", before.of, slice.of));
        }
        if !difference.is_empty() {
            return Err(Error::input(format!(
                "the slices {before} and {slice} are not of one job: {}",
                difference.join("; ")
            ))
            .at_file(path)
            .help(REMEDY));
        }
    }
    Ok(sliced.into_iter().map(|(_, part)| part).collect())
}

/// A slice's provenance without what slices of one job may differ in: their place, and inputs that are
/// slices themselves.
fn whole(provenance: &Provenance, same_inputs: bool) -> Provenance {
    let mut whole = provenance.clone();
    whole.slice = None;
    if !same_inputs {
        whole.inputs.clear();
    }
    whole
}

fn write<R: Row>(parts: &[Part], out: &Path, provenance: Provenance) -> Result<()> {
    Manifest::new(R::KIND, Status::Running, Vec::new(), provenance.clone()).write(out)?;
    let rejects = rejects_dir(out);
    atomic::create_directories(&rejects)?;
    let mut refused = provenance.clone();
    refused.stage = format!("{} rejects", refused.stage);
    let sources: Vec<PathBuf> = parts.iter().map(|(dir, _)| rejects_dir(dir)).collect();
    let shards = concatenate::<Reject>(&sources, &rejects)?;
    Manifest::new(Reject::KIND, Status::Complete, shards, refused).write(&rejects)?;
    let sources: Vec<PathBuf> = parts.iter().map(|(dir, _)| dir.clone()).collect();
    let shards = concatenate::<R>(&sources, out)?;
    Manifest::new(R::KIND, Status::Complete, shards, provenance).write(out)
}

fn concatenate<R: Row>(sources: &[PathBuf], out: &Path) -> Result<Vec<crate::dataset::Shard>> {
    let datasets = sources.iter().map(Dataset::<R>::open).collect::<Result<Vec<_>>>()?;
    let total = datasets.iter().map(|dataset| dataset.manifest().rows).sum();
    let mut shards = Shards::<R>::create(out, Some(total), &[])?;
    for dataset in &datasets {
        for rows in dataset.shards() {
            shards.extend(&rows?)?;
        }
    }
    shards.finish()
}
