//! `model info`: what a model is, and the memory that it takes.

use clap::Args;
use serde_json::{Value, json};

use super::output;
use super::session::Session;
use crate::cli::output::say;
use crate::engine::batch::{ROWS, cache_budget};
use crate::engine::remote::is_endpoint;
use crate::error::{Error, Result};
use crate::model::config::DecoderConfig;
use crate::model::cpu::cache::{BLOCK, KvCache};
use crate::model::files::{Outline, Tally};
use crate::model::rope::RopeScaling;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Of a directory only the headers are read, so a model larger than this machine can be looked at; the
sha256, which is what datasets name the model by, reads all of it (--no-hash leaves it out).

Each row in flight needs keys and values for its prompt and its answer together. The engine takes as
many rows at a time as its cache has room for; --rows and --context ask about others.")]
pub struct Info {
    /// The model: a directory in Hugging Face layout, hf:org/name, a GGUF file, or builtin:tiny.
    model: String,
    /// Rows in flight to tell the memory of; may be given again [default: 1, 8 and 32].
    #[arg(long, value_name = "N")]
    rows: Vec<usize>,
    /// Tokens of a row, prompt and answer together [default: the model's context].
    #[arg(long, value_name = "T")]
    context: Option<usize>,
    /// Leave out the sha256, for which every byte is read.
    #[arg(long)]
    no_hash: bool,
}

pub fn run(session: &Session, args: &Info) -> Result<()> {
    if is_endpoint(&args.model) {
        return Err(Error::config("an endpoint does not show its model's files").help(
            "give the directory, hf:org/name or GGUF file that it serves; `curl ADDRESS/models` lists its names",
        ));
    }
    let outline = Outline::read(&args.model, session.serving(), !args.no_hash)?;
    let context = outline.config.context;
    let tokens = args.context.unwrap_or(context);
    if tokens == 0 || tokens > context || args.rows.contains(&0) {
        return Err(Error::config(format!(
            "--context is between 1 and the model's {context}, and --rows at least 1"
        ))
        .help("give other numbers"));
    }
    let document = json!({
        "model": args.model,
        "sha256": outline.sha256,
        "architecture": architecture(&outline),
        "adapters": adapters(&outline),
        "weights": weights(&outline),
        "tokenizer": tokenizer(&outline),
        "chat_template": outline.tokenizer.chat().map(|chat| {
            let source = chat.template.source();
            let line = source.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            json!({ "begins": line, "sha256": output::sha256(source.as_bytes()) })
        }),
        "memory": memory(&outline, tokens, &args.rows),
    });
    match session.json {
        true => output::json(&document),
        false => print(&document),
    }
}

fn architecture(outline: &Outline) -> Value {
    let config = &outline.config;
    let rope = match config.rope.scaling {
        RopeScaling::None => Value::Null,
        ref scaling => format!("{scaling:?}")
            .split([' ', '{', '('])
            .next()
            .unwrap_or_default()
            .to_lowercase()
            .into(),
    };
    json!({
        "family": config.family.model_type(),
        "name": config.family.architecture(),
        "layers": config.layers,
        "hidden": config.hidden,
        "intermediate": config.intermediate,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocab,
        "context": config.context,
        "window": config.window.map(|window| json!({
            "positions": window,
            "layers": config.windowed.iter().filter(|windowed| **windowed).count(),
        })),
        "attention_softcap": config.attention_softcap,
        "final_softcap": config.final_softcap,
        "rope_theta": config.rope.theta,
        "rope_scaling": rope,
        "tied_embeddings": config.tied,
    })
}

fn adapters(outline: &Outline) -> Value {
    outline.adapters.as_ref().map_or(Value::Null, |adapters| {
        json!({
            "base": adapters.base,
            "rank": adapters.rank,
            "alpha": adapters.alpha,
            "modules": adapters.modules,
            "parameters": adapters.stored.iter().map(|(_, numbers)| numbers).sum::<usize>(),
        })
    })
}

fn weights(outline: &Outline) -> Value {
    let tallies = |tallies: &std::collections::BTreeMap<String, Tally>| -> Value {
        let tally = |(name, tally): (&String, &Tally)| {
            (name.clone(), json!({ "numbers": tally.numbers, "bytes": tally.bytes }))
        };
        tallies.iter().map(tally).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "parameters": outline.parameters,
        "trainable": if outline.trainable { outline.parameters } else { 0 },
        "stored": tallies(&outline.stored),
        "held": tallies(&outline.held),
    })
}

fn tokenizer(outline: &Outline) -> Value {
    let tokenizer = &outline.tokenizer;
    let token = |id: u32| json!({ "id": id, "text": tokenizer.name(id) });
    let special = tokenizer.special();
    json!({
        "tokens": tokenizer.size(),
        "bos": special.bos.map(token),
        "begins_with_bos": !tokenizer.begin().is_empty(),
        "eos": token(special.eos),
        "stop": tokenizer.ends().iter().map(|id| token(*id)).collect::<Vec<_>>(),
    })
}

/// Keys and values of a row of `tokens` tokens, in bytes.
fn row_bytes(config: &DecoderConfig, tokens: usize) -> usize {
    tokens.div_ceil(BLOCK) * KvCache::block_bytes(config)
}

fn memory(outline: &Outline, tokens: usize, rows: &[usize]) -> Value {
    let config = &outline.config;
    let weights: usize = outline.held.values().map(|tally| tally.bytes).sum();
    let row = row_bytes(config, tokens);
    let rows = match rows {
        [] => &[1, 8, 32],
        rows => rows,
    };
    // As the engine does.
    let block = KvCache::block_bytes(config);
    let cache = (cache_budget(weights) / block * block).min(ROWS * row_bytes(config, config.context));
    let rows = rows
        .iter()
        .map(|count| json!({ "rows": count, "cache_bytes": count * row, "total_bytes": weights + count * row }));
    json!({
        "weights_bytes": weights,
        "tokens_of_a_row": tokens,
        "rows": rows.collect::<Vec<_>>(),
        "engine": { "cache_bytes": cache, "rows": (cache / row).min(ROWS), "total_bytes": weights + cache },
    })
}

/// The document for people: one fact a line.
fn print(document: &Value) -> Result<()> {
    line("model", text(&document["model"]))?;
    let (shape, weights) = (&document["architecture"], &document["weights"]);
    line(
        "family",
        format!("{} ({})", text(&shape["family"]), text(&shape["name"])),
    )?;
    let trainable = match weights["trainable"].as_u64() {
        Some(0) => "quantised: it answers and judges, and cannot be trained",
        _ => "all trainable",
    };
    line("parameters", format!("{}, {trainable}", number(&weights["parameters"])))?;
    if let Some(adapters) = document["adapters"].as_object() {
        let shape = format!("rank {}, alpha {}", adapters["rank"], adapters["alpha"]);
        let size = format!(
            "{} parameters on {} linear maps",
            number(&adapters["parameters"]),
            adapters["modules"]
        );
        line("adapters", format!("{shape}: {size}"))?;
        line("base", text(&adapters["base"]))?;
    }
    line("stored", types(&weights["stored"]))?;
    line("held", types(&weights["held"]))?;
    print_shape(shape)?;
    print_tokenizer(&document["tokenizer"], &document["chat_template"])?;
    if !document["sha256"].is_null() {
        line("sha256", text(&document["sha256"]))?;
    }
    print_memory(&document["memory"])?;
    Ok(())
}

fn print_shape(shape: &Value) -> Result<()> {
    line(
        "shape",
        format!(
            "{} layers, hidden {}, intermediate {}, {} heads on {} key/value heads of {}",
            shape["layers"],
            shape["hidden"],
            shape["intermediate"],
            shape["heads"],
            shape["kv_heads"],
            shape["head_dim"]
        ),
    )?;
    let tied = if shape["tied_embeddings"] == true {
        ", tied to the output"
    } else {
        ""
    };
    line("vocabulary", format!("{}{tied}", number(&shape["vocabulary"])))?;
    line("context", format!("{} tokens", number(&shape["context"])))?;
    if let Some(window) = shape["window"].as_object() {
        line(
            "window",
            format!(
                "{} positions in {} of the layers",
                window["positions"], window["layers"]
            ),
        )?;
    }
    for (name, key) in [("soft-cap", "attention_softcap"), ("final soft-cap", "final_softcap")] {
        if !shape[key].is_null() {
            line(name, text(&shape[key]))?;
        }
    }
    let scaling = match &shape["rope_scaling"] {
        Value::Null => String::new(),
        scaling => format!(", scaled ({})", text(scaling)),
    };
    line("rotary base", format!("{}{scaling}", shape["rope_theta"]))?;
    Ok(())
}

fn print_tokenizer(tokenizer: &Value, template: &Value) -> Result<()> {
    let token = |token: &Value| format!("{} ({})", text(&token["text"]), token["id"]);
    line("tokenizer", format!("{} tokens", number(&tokenizer["tokens"])))?;
    if !tokenizer["bos"].is_null() {
        let first = if tokenizer["begins_with_bos"] == true {
            ""
        } else {
            ", not put before texts"
        };
        line("BOS", format!("{}{first}", token(&tokenizer["bos"])))?;
    }
    line("EOS", token(&tokenizer["eos"]))?;
    let stop = tokenizer["stop"].as_array().into_iter().flatten();
    line("stop tokens", stop.map(token).collect::<Vec<_>>().join(", "))?;
    line(
        "chat template",
        match template {
            Value::Null => "none: the model is spoken to in transcripts".to_owned(),
            template => {
                let begins: String = text(&template["begins"]).chars().take(60).collect();
                format!("sha256 {}, begins {begins}", &text(&template["sha256"])[..12])
            }
        },
    )?;
    Ok(())
}

fn line(name: &str, value: String) -> Result<()> {
    say!("{name:<15}{value}");
    Ok(())
}

fn number(value: &Value) -> String {
    output::grouped(value.as_u64().unwrap_or(0))
}

fn bytes(value: &Value) -> String {
    output::bytes(value.as_u64().unwrap_or(0))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// How many numbers of each type, in how many bytes.
fn types(tallies: &Value) -> String {
    let of = |(name, tally): (&String, &Value)| {
        format!("{name} {} in {}", number(&tally["numbers"]), bytes(&tally["bytes"]))
    };
    let tallies = tallies.as_object().into_iter().flatten();
    tallies.map(of).collect::<Vec<_>>().join(", ")
}

fn print_memory(memory: &Value) -> Result<()> {
    say!("\nMemory, rows of {} tokens", memory["tokens_of_a_row"]);
    say!("{:<20}{:>12}{:>12}{:>12}", "", "weights", "cache", "total");
    let line = |name: String, cache: &Value, total: &Value| -> Result<()> {
        say!(
            "{name:<20}{:>12}{:>12}{:>12}",
            bytes(&memory["weights_bytes"]),
            bytes(cache),
            bytes(total)
        );
        Ok(())
    };
    for row in memory["rows"].as_array().into_iter().flatten() {
        let plural = if row["rows"] == 1 { "row" } else { "rows" };
        line(
            format!("{} {plural}", row["rows"]),
            &row["cache_bytes"],
            &row["total_bytes"],
        )?;
    }
    let engine = &memory["engine"];
    line("the engine".to_owned(), &engine["cache_bytes"], &engine["total_bytes"])?;
    say!("The engine takes up to {} such rows at a time.", engine["rows"]);
    Ok(())
}
