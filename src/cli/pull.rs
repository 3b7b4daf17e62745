//! `model pull`: a model's files from the Hugging Face hub.

use std::path::PathBuf;

use clap::Args;

use super::output;
use super::session::Session;
use crate::cli::output::say;
use crate::error::Result;
use crate::hub::{self, Choice, PREFIX, Repository};

#[derive(Debug, Args)]
#[command(after_long_help = "\
The revision becomes a commit first, every file is one of that commit, and each is checked by its
checksum. A download that was stopped goes on where it was: run the same command again.

Without --out the files go into the cache of huggingface_hub ($HF_HOME/hub, else
~/.cache/huggingface/hub), which Python tools share, and `hf:org/name` is the model everywhere:

    bylaw model pull HuggingFaceTB/SmolLM2-135M-Instruct
    bylaw chat --model hf:HuggingFaceTB/SmolLM2-135M-Instruct

Of a repository of GGUF files, name the one you want:

    bylaw model pull org/name-GGUF --include '*Q4_K_M.gguf'

A private or gated model needs a token, in HF_TOKEN or as `hf auth login` leaves it. HF_ENDPOINT is
another hub or a mirror; HF_HUB_OFFLINE=1 asks nothing of the network. Pickles (*.bin, *.pt) can run
code and are never fetched.")]
pub struct Pull {
    /// The repository: org/name, or org/name@revision with a branch, a tag or a commit.
    #[arg(value_name = "ORG/NAME[@REVISION]")]
    repository: String,
    /// Put plain files into this directory instead of the cache.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Fetch the files that fit, in place of those that a model needs; may be given again.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out the files that fit; may be given again.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
}

pub fn run(session: &Session, args: &Pull) -> Result<()> {
    let repository = Repository::parse(&args.repository)?;
    let choice = Choice {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
    };
    let pulled = hub::pull(&repository, &choice, args.out.as_deref(), session.progress())?;
    let reference = match args.out {
        Some(_) => pulled.dir.display().to_string(),
        None => format!("{PREFIX}{repository}"),
    };
    let bytes: u64 = pulled.files.iter().map(|file| file.size).sum();
    if session.json {
        let file = |file: &hub::PulledFile| serde_json::json!({ "name": file.name, "size": file.size, "checksum": file.checksum });
        output::json(&serde_json::json!({
            "repository": repository.id,
            "revision": repository.revision,
            "commit": pulled.commit,
            "model": reference,
            "dir": pulled.dir.display().to_string(),
            "files": pulled.files.iter().map(file).collect::<Vec<_>>(),
            "fetched_bytes": pulled.fetched,
        }))?;
    } else if !session.quiet {
        say!("{reference}: commit {}, in {}", pulled.commit, pulled.dir.display());
        session.progress().note(&format!(
            "{} files, {}, of which {} came now",
            pulled.files.len(),
            output::bytes(bytes),
            output::bytes(pulled.fetched)
        ));
    }
    Ok(())
}
