//! `model merge`: adapters folded into the weights of their base.

use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::Args;

use super::args::Dtype;
use super::output;
use super::session::Session;
use crate::cli::output::say;
use crate::error::{Error, Result};
use crate::hub;
use crate::job;
use crate::model::files::{Model, Precision};
use crate::model::heads::ScalarHead;
use crate::model::lora::files as adapters;

#[derive(Debug, Args)]
#[command(after_long_help = "\
A model trained with --lora-rank is its adapters alone, beside the base that they name; it is a model
reference like any other. Merged, it is a model of its own, with W + scale B A for every adapted W, for
programs that know no adapters. Of a reward model the head goes along.

    bylaw model merge run/dpo --out merged
    bylaw model merge run/dpo --base models/base --to bf16 --out merged")]
pub struct Merge {
    /// The adapters: a directory with adapter_config.json and adapter_model.safetensors, or hf:org/name.
    #[arg(value_name = "ADAPTER")]
    adapter: String,
    /// The base, in place of the one that the adapters name.
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// The number format of the result; sums are made in f32.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    to: Dtype,
    /// Where the model goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(session: &Session, args: &Merge) -> Result<()> {
    let dir = hub::local(&args.adapter)?.unwrap_or_else(|| PathBuf::from(&args.adapter));
    if !adapters::is_adapter(&dir) {
        let what = match dir.is_dir() {
            true => "holds no adapters",
            false => "is not there",
        };
        return Err(Error::input(format!("{} {what}", args.adapter))
            .help("give a directory with adapter_config.json, as training with --lora-rank leaves it"));
    }
    job::refuse_foreign(&args.out)?;
    let adapted = adapters::load(&dir, args.base.as_deref(), Precision::Full)?;
    let merged = Model {
        decoder: adapted.decoder.merged()?,
        ..adapted
    };
    let dtype = match args.to {
        Dtype::Auto | Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    };
    merged.save(&args.out, dtype)?;
    carry_head(&dir, &args.out, merged.decoder.config.hidden)?;
    let parameters = merged.decoder.parameter_count();
    if session.json {
        let out = args.out.display().to_string();
        output::json(&serde_json::json!({ "out": out, "parameters": parameters }))?;
    } else if !session.quiet {
        say!("{}: {parameters} parameters", args.out.display());
    }
    Ok(())
}

fn carry_head(from: &Path, to: &Path, hidden: usize) -> Result<()> {
    match ScalarHead::is_beside(from) {
        true => ScalarHead::load(from, hidden)?.save(to),
        false => Ok(()),
    }
}
