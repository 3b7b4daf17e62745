//! `constitution show --usage`: what the principles of a constitution did in datasets.

mod page;

use std::path::Path;

use serde_json::json;

use crate::cli::data::rows::{Readable, Source, kind_of};
use crate::cli::output;
use crate::cli::session::Session;
use crate::constitution::Constitution;
use crate::dataset::{Kind, Manifest};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::record::{Preference, Revision};
use crate::survey::usage::{Usage, UsageReport};

/// A dataset as it was read.
pub struct Read {
    pub reference: String,
    pub kind: Kind,
    pub rows: u64,
    pub running: bool,
    sha256: String,
}

pub fn show(session: &Session, constitution: &Constitution, references: &[String]) -> Result<()> {
    let mut usage = Usage::new(constitution);
    let mut datasets = Vec::with_capacity(references.len());
    for reference in references {
        let before = usage.recognised();
        let read = add(session, &mut usage, reference)?;
        if let Some(twin) = datasets.iter().find(|other: &&Read| other.sha256 == read.sha256) {
            return Err(
                Error::config(format!("{} and {reference} are the same rows", twin.reference))
                    .help("name each dataset once; rows that are counted twice would look like evidence"),
            );
        }
        datasets.push(read);
        let after = usage.recognised();
        if after.0 > before.0 && after.1 == before.1 {
            return Err(stranger(constitution, reference));
        }
    }
    let report = usage.finish();
    if session.json {
        return json_page(constitution, &datasets, &report);
    }
    output::page(&page::usage(constitution, &datasets, &report))
}

fn add(session: &Session, usage: &mut Usage<'_>, reference: &str) -> Result<Read> {
    match kind_of(reference)? {
        Kind::Revisions => {
            usage.expect_revisions();
            pass::<Revision>(session, reference, |row| usage.add_revision(row))
        }
        Kind::Preferences => {
            usage.expect_preferences();
            pass::<Preference>(session, reference, |row| usage.add_preference(row))
        }
        kind => Err(
            Error::input(format!("these are {kind}, in which no principle left a trace"))
                .at_file(reference)
                .help("give --usage what `bylaw revise` or `bylaw judge` wrote"),
        ),
    }
}

/// Goes through all rows, telling of it.
fn pass<R: Readable>(session: &Session, reference: &str, mut each: impl FnMut(&R)) -> Result<Read> {
    /// Rows between two looks at the display and at Ctrl-C.
    const STEP: u64 = 256;
    let source = Source::<R>::open(reference)?;
    let progress = session.progress();
    let expected = match &source {
        Source::Dataset(dataset) => dataset.manifest().rows,
        Source::Files(loaded) => loaded.rows.len() as u64,
    };
    progress.start("usage", expected, "rows");
    let mut rows = 0_u64;
    source.each(|row| {
        each(row);
        rows += 1;
        if rows.is_multiple_of(STEP) {
            interrupt::check()?;
            progress.advance(STEP);
        }
        Ok(())
    })?;
    progress.finish();
    Ok(Read {
        reference: reference.to_owned(),
        kind: R::KIND,
        rows,
        running: source.is_running(),
        sha256: source.sha256(),
    })
}

/// None of the dataset's principles is in the constitution.
fn stranger(constitution: &Constitution, reference: &str) -> Error {
    let error = Error::input(format!(
        "none of its rounds or votes is of a principle of the constitution `{}`",
        constitution.name
    ))
    .at_file(reference);
    let made_with = Manifest::read(Path::new(reference)).ok();
    match made_with.and_then(|manifest| manifest.provenance.constitution) {
        Some(source) => error.help(format!(
            "the dataset was made with {}: bylaw constitution show {} --usage {reference}",
            source.reference, source.reference
        )),
        None => error.help("give the constitution that the dataset was made with"),
    }
}

fn json_page(constitution: &Constitution, datasets: &[Read], report: &UsageReport) -> Result<()> {
    let read: Vec<_> = datasets
        .iter()
        .map(|read| {
            json!({
                "reference": read.reference,
                "kind": read.kind,
                "rows": read.rows,
                "complete": !read.running,
                "sha256": read.sha256,
            })
        })
        .collect();
    let document = json!({
        "name": constitution.name,
        "version": constitution.version,
        "sha256": constitution.hash,
        "datasets": read,
        "usage": report,
    });
    output::page(&format!("{document:#}\n"))
}
