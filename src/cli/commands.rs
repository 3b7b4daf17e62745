//! Commands that are not stages: models, reports.

use candle_core::DType;

use super::args::{Dtype, ModelCommand, ReportArgs};
use super::pipeline::RunJournal;
use super::session::Session;
use super::{assemble, info, ledger, merge, output, pull, template};
use crate::cli::output::say;
use crate::error::{Error, Result};
use crate::model::files::{Model, assemble_random};
use crate::model::tokenizer::Tokenizer;
use crate::model::{convert, family};
use crate::{atomic, dataset, job, report};

pub fn report(session: &Session, args: &ReportArgs) -> Result<()> {
    let journal = RunJournal::read(&args.run)?;
    let report = assemble::report(&args.run, &journal)?;
    ledger::write(&args.run, &report.summary.ledger)?;
    let page = args.out.clone().unwrap_or_else(|| args.run.join("report.html"));
    atomic::write(&page, report::html(&report)?.as_bytes())?;
    if session.json {
        output::json(&serde_json::to_value(&report).map_err(|error| Error::unexpected("report").because(error))?)?;
    } else {
        say!("{}", report::terminal(&report.summary).trim_end());
        say!("\nThe report, with samples and curves: {}", page.display());
    }
    Ok(())
}

pub fn model(session: &Session, command: &ModelCommand) -> Result<()> {
    let (model, out, dtype) = match command {
        ModelCommand::Pull(args) => return pull::run(session, args),
        ModelCommand::Info(args) => return info::run(session, args),
        ModelCommand::Merge(args) => return merge::run(session, args),
        ModelCommand::Template(args) => return template::run(session, args),
        ModelCommand::Convert {
            checkpoint,
            tokenizer,
            out,
        } => (convert::llama2c(checkpoint, tokenizer)?, out, DType::F32),
        ModelCommand::New {
            config,
            tokenizer_data,
            out,
        } => {
            let text = std::fs::read_to_string(config).map_err(|error| Error::io("read", config, error))?;
            let shape = family::parse(&text).map_err(|error| error.at_file(config))?;
            let texts = dataset::read_demonstrations(tokenizer_data)?.rows;
            let texts = texts.into_iter().map(|row| format!("{}{}", row.prefix, row.completion));
            let tokenizer = Tokenizer::train(texts, shape.vocab)?;
            (
                assemble_random(shape, tokenizer, session.stage_seed("model-new"))?,
                out,
                DType::F32,
            )
        }
        ModelCommand::Cast { model, to, out } => {
            let loaded = Model::load(model)?;
            if loaded.decoder.adapters.is_some() {
                return Err(Error::config(format!("{model} is adapters on a base"))
                    .help(format!("bylaw model merge {model} --to FORMAT --out DIR")));
            }
            (loaded, out, dtype(*to))
        }
    };
    job::refuse_foreign(out)?;
    model.save(out, dtype)?;
    if session.json {
        output::json(&serde_json::json!({
            "out": out.display().to_string(),
            "parameters": model.decoder.parameter_count(),
        }))?;
    } else if !session.quiet {
        say!("{}: {} parameters", out.display(), model.decoder.parameter_count());
    }
    Ok(())
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::Auto | Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}
