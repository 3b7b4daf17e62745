//! `world prompts | documents`: data of the proving ground.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{Division, Done, Stage};
use crate::cli::session::Session;
use crate::dataset::Row;
use crate::error::Result;
use crate::job::Job;
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
pub struct Documents {
    /// Documents to write.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub count: usize,
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
        write(session, self, out, &prompts)
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
        let documents = World::builtin()?.documents(self.count, session.stage_seed(self.kind()))?;
        write(session, self, out, &documents)
    }
}

fn write<R: Row>(session: &Session, stage: &(impl Stage + Serialize), out: &Path, rows: &[R]) -> Result<Done> {
    let job = Job {
        changes: session.changes,
        replica: session.replica(),
        ..Job::new(
            out,
            session.provenance(stage.kind(), stage)?,
            stage.kind(),
            session.progress(),
        )
    };
    let finished = job.run(rows, &[], |rows: &[R]| Ok(rows.iter().cloned().map(Ok).collect()))?;
    Ok(Done {
        rows: Some(finished.rows),
        ..Done::default()
    })
}
