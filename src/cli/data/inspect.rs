//! `data inspect`: what is in data.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::page::{Head, Page};
use super::rows::{Readable, Source, kind_of, parse_kind, with_rows};
use crate::cli::output;
use crate::cli::paint::Paint;
use crate::cli::session::Session;
use crate::dataset::{self, Kind, Manifest};
use crate::error::{Error, Result};
use crate::model::files::Outline;
use crate::model::tokenizer::Tokenizer;
use crate::progress::Progress;
use crate::survey::{Survey, SurveyConfig};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Lengths are counted in characters and words, and in tokens where --tokenizer names a model; of
the model only the tokenizer is used. Near duplicates are rows of which at least the share --near
of all runs of five words are the same (Jaccard): candidates come from MinHash, and are verified
on their words. The language is guessed from script and trigrams, refusals are recognised in
English.

A few rows are shown as conversations, revisions with what they changed: in colour on a terminal,
as [-removed-] {+added+} elsewhere or where NO_COLOR is set.")]
pub struct Inspect {
    /// Data: a dataset, a file, a directory of files or a glob.
    #[arg(value_name = "DATA")]
    reference: String,
    /// Rows to show; --seed chooses others.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rows: usize,
    /// The model whose tokens are counted: a directory, hf:org/name, a GGUF file, or builtin:tiny.
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// The similarity from which on rows are near duplicates.
    #[arg(long, default_value_t = 0.8, value_name = "JACCARD")]
    near: f64,
    /// What the rows are, where the data do not say: prompts, demonstrations, preferences, ...
    #[arg(long = "as", value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
}

pub fn run(session: &Session, args: &Inspect) -> Result<()> {
    if !(0.3..=1.0).contains(&args.near) {
        return Err(Error::config("--near is a similarity from 0.3 to 1").help("leave it at 0.8"));
    }
    let kind = match args.kind {
        Some(kind) => kind,
        None => kind_of(&args.reference)?,
    };
    let tokenizer = match &args.tokenizer {
        Some(model) => Some(Outline::read(model, session.serving(), false)?.tokenizer),
        None => None,
    };
    with_rows!(kind, look(session, args, tokenizer.as_ref()))
}

fn look<R: Readable>(session: &Session, args: &Inspect, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let source = Source::<R>::open(&args.reference)?;
    let head = head(args, &source);
    let count = tokenizer.map(|tokenizer| move |text: &str| tokenizer.encode(text).map(|tokens| tokens.len()));
    let mut survey = Survey::new(SurveyConfig {
        near: args.near,
        tokens: count.as_ref().map(|count| count as &dyn Fn(&str) -> Result<usize>),
        seed: session.stage_seed("inspect"),
        samples: args.rows,
    });
    let progress = session.progress();
    pass(progress, "inspect", &head, &source, |_, row| survey.add(row))?;
    for reject in source.rejects()? {
        survey.reject(&reject);
    }
    let mut near = survey.near();
    if near.wants_rows() {
        pass(progress, "near duplicates", &head, &source, |index, row| {
            near.add(index, row);
            Ok(())
        })?;
    }
    let (stats, samples) = survey.finish(near);
    if session.json {
        let mut document = json!({
            "reference": args.reference,
            "kind": head.kind,
            "complete": !head.running,
            "sha256": head.sha256,
            "shards": head.shards,
            "bytes": head.bytes,
            "schema": dataset::columns(R::KIND).into_iter().map(|(name, kind)| (name, kind.into())).collect::<serde_json::Map<String, Value>>(),
            "tokenizer": args.tokenizer,
            "samples": samples,
        });
        let stats = serde_json::to_value(&stats).map_err(|error| Error::unexpected("statistics").because(error))?;
        if let (Value::Object(document), Value::Object(stats)) = (&mut document, stats) {
            document.extend(stats);
        }
        return output::page(&format!("{document:#}\n"));
    }
    let mut page = Page::new(Paint::of_stdout());
    page.statistics(&head, &stats);
    for row in &samples {
        page.row(&row.specimen());
    }
    output::page(&page.finish())
}

/// Goes through all rows, telling of it.
fn pass<R: Readable>(
    progress: &dyn Progress,
    label: &str,
    head: &Head,
    source: &Source<R>,
    mut each: impl FnMut(u32, &R) -> Result<()>,
) -> Result<()> {
    /// Rows between two looks at the display and at Ctrl-C.
    const STEP: u32 = 256;
    progress.start(label, head.rows, "rows");
    let mut index = 0_u32;
    source.each(|row| {
        each(index, row)?;
        index = index.wrapping_add(1);
        if index.is_multiple_of(STEP) {
            crate::interrupt::check()?;
            progress.advance(u64::from(STEP));
        }
        Ok(())
    })?;
    progress.finish();
    Ok(())
}

fn head<R: Readable>(args: &Inspect, source: &Source<R>) -> Head {
    let manifest = Manifest::read(Path::new(&args.reference)).ok();
    let shards = manifest.as_ref().map(|manifest| manifest.shards.len());
    Head {
        reference: args.reference.clone(),
        kind: R::KIND,
        rows: match source {
            Source::Dataset(dataset) => dataset.manifest().rows,
            Source::Files(loaded) => loaded.rows.len() as u64,
        },
        running: source.is_running(),
        sha256: source.sha256(),
        shards,
        bytes: manifest.map(|manifest| manifest.shards.iter().map(|shard| shard.bytes).sum()),
    }
}
