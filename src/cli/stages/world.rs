//! `world prompts | pairs | documents`: data of the proving ground.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::kept;
use super::{Division, Done, Stage};
use crate::atomic;
use crate::bounds;
use crate::cli::session::Session;
use crate::dataset::{Provenance, Row, Source};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::record::hex;
use crate::small;
use crate::world::{Split, World};

#[derive(Debug, Clone, Serialize, Args)]
pub struct Prompts {
    /// pretrain, constitutional, evaluation or cells.
    #[arg(long)]
    pub split: Split,
    /// Harmful prompts.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub harmful: usize,
    /// Benign prompts.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub benign: usize,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Pairs {
    /// pretrain, constitutional or evaluation.
    #[arg(long)]
    pub split: Split,
    /// Pairs; in every other one both answers are equally good and differ in length.
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = bounds::count)]
    pub count: usize,
}

#[derive(Debug, Clone, Serialize, Args)]
pub struct Documents {
    /// Documents to write.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub count: usize,
    /// A TOML file of shares that take the place of those in datasets/proving-ground/mixture.toml, key by key; shares
    /// of one table still sum to 1.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub mixture: Option<PathBuf>,
}

impl Stage for Prompts {
    fn kind(&self) -> &'static str {
        "world-prompts"
    }

    fn division(&self) -> Division {
        Division::Each
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let seed = session.stage_seed(self.kind()).child(self.split.as_str());
        let prompts = World::builtin()?.prompts(self.split, self.harmful, self.benign, seed)?;
        write(session, session.provenance(self.kind(), self)?, out, &prompts)
    }
}

/// The file of `world pairs`.
const PAIRS: &str = "pairs.jsonl";

impl Stage for Pairs {
    fn kind(&self) -> &'static str {
        "world-pairs"
    }

    fn next(&self, out: &Path) -> Option<String> {
        let file = out.join(PAIRS);
        Some(format!(
            "bylaw audit --model MODEL --constitution FILE --pairs {} --out DIR",
            file.display()
        ))
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let seed = session.stage_seed(self.kind()).child(self.split.as_str());
        let provenance = session.provenance(self.kind(), self)?;
        let result = kept::keep(session, out, "world.json", provenance, "pairs", || {
            let contests = World::builtin()?.known_contests(self.split, self.count, seed)?;
            let mut lines = String::new();
            for (contest, order) in &contests {
                let [first, second] = contest.completions.as_slice() else {
                    return Err(Error::unexpected("a contest of other than two answers"));
                };
                let gold = match order {
                    Ordering::Greater => "1",
                    Ordering::Less => "2",
                    Ordering::Equal => "tie",
                };
                let prompt = contest.prompt.last().map_or("", |message| message.content.as_str());
                let row = serde_json::json!({ "prompt": prompt, "answer_1": first.text, "answer_2": second.text, "gold": gold });
                lines.push_str(&row.to_string());
                lines.push('\n');
            }
            atomic::write(&out.join(PAIRS), lines.as_bytes())?;
            Ok(serde_json::json!({ "pairs": contests.len() }))
        })?;
        Ok(Done {
            rows: result["pairs"].as_u64(),
            result,
            ..Done::default()
        })
    }
}

impl Stage for Documents {
    fn kind(&self) -> &'static str {
        "world-documents"
    }

    fn division(&self) -> Division {
        Division::Each
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        let mut provenance = session.provenance(self.kind(), self)?;
        let world = match &self.mixture {
            None => World::builtin()?,
            Some(path) => {
                let text = small::read_to_string(path, "give --mixture a TOML file of shares")?;
                provenance.inputs = vec![Source {
                    reference: path.display().to_string(),
                    sha256: hex(&Sha256::digest(text.as_bytes())),
                }];
                World::with_mixture(&text).map_err(|error| error.at_file(path))?
            }
        };
        let documents = world.documents(self.count, session.stage_seed(self.kind()))?;
        write(session, provenance, out, &documents)
    }
}

fn write<R: Row>(session: &Session, provenance: Provenance, out: &Path, rows: &[R]) -> Result<Done> {
    let kind = provenance.stage.clone();
    let job = Job {
        changes: session.changes,
        replica: session.replica(),
        ..Job::new(out, provenance, &kind, session.progress())
    };
    let finished = job.run(rows, &[], |rows: &[R]| Ok(rows.iter().cloned().map(Ok).collect()))?;
    Ok(Done {
        rows: Some(finished.rows),
        ..Done::default()
    })
}
