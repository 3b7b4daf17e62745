//! `model template`: what a model will read of a conversation.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use minijinja::value::{Serde, Value};
use serde_json::Value as Json;

use super::output;
use super::session::Session;
use crate::error::{Error, Result};
use crate::model::chat::Chat;
use crate::model::files::{Model, TokenizerFiles};
use crate::model::template::{ChatTemplate, Date};
use crate::record::Message;

#[derive(Debug, Args)]
pub struct Template {
    /// A model, or a bare template file (`.jinja`).
    #[arg(value_name = "MODEL|FILE.jinja")]
    model: String,
    /// The conversation: a JSON list of messages, or an object with `messages` and `tools`.
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// End with the beginning of the assistant's next turn.
    #[arg(long)]
    generation_prompt: bool,
    /// Text of BOS [default: the model's; `<s>` for a bare template].
    #[arg(long, value_name = "TEXT")]
    bos: Option<String>,
    /// Text of EOS [default: the model's; `</s>` for a bare template].
    #[arg(long, value_name = "TEXT")]
    eos: Option<String>,
    /// The day that the template takes for today [default: 2024-07-26].
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<Date>,
    /// Print the tokens, one a line: id, `markup` for a control token or `text`, and its name.
    #[arg(long)]
    tokens: bool,
}

/// A conversation as a template takes it.
struct Conversation {
    messages: Json,
    tools: Json,
}

pub fn run(session: &Session, args: &Template) -> Result<()> {
    let conversation = read(&args.messages)?;
    if args.tokens {
        return tokens(session, args, &conversation);
    }
    let messages = Value::from(Serde(&conversation.messages));
    let tools = match &conversation.tools {
        Json::Null => Value::from(()),
        tools => Value::from(Serde(tools)),
    };
    let text = template(args)?
        .render_with(messages, tools, args.generation_prompt)
        .map_err(|error| error.at_file(&args.model))?;
    if session.json {
        output::json(&serde_json::json!({ "text": text }))?;
        return Ok(());
    }
    write(&text)
}

/// Exactly `text`, and nothing after it.
fn write(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::unexpected("cannot write to stdout").because(error))
}

fn template(args: &Template) -> Result<ChatTemplate> {
    let path = Path::new(&args.model);
    let template = if path.is_file() && path.extension().is_some_and(|extension| extension == "jinja") {
        let source = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let bare = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = bare.map(|(name, text)| (name.to_owned(), text.to_owned()));
        ChatTemplate::new(&source, tokens.into()).map_err(|error| error.at_file(path))?
    } else if path.is_dir() {
        // The weights are not needed, and may be large.
        let files = TokenizerFiles::read_template(path)?;
        ChatTemplate::from_files(&files)
            .map_err(|error| error.at_file(path))?
            .ok_or_else(|| no_template(&args.model))?
    } else {
        let model = Model::load(&args.model)?;
        let chat = model.tokenizer.chat().ok_or_else(|| no_template(&args.model))?;
        chat.template.clone()
    };
    Ok(given(args, template))
}

/// The template with what the flags say of its surroundings.
fn given(args: &Template, template: ChatTemplate) -> ChatTemplate {
    let tokens = [("bos_token", &args.bos), ("eos_token", &args.eos)];
    let template = tokens.into_iter().fold(template, |template, (name, text)| match text {
        Some(text) => template.with_token(name, text),
        None => template,
    });
    match args.date {
        Some(date) => template.at(date),
        None => template,
    }
}

fn no_template(model: &str) -> Error {
    Error::input("the model has no chat template")
        .at_file(model)
        .help("a base model has none; bylaw speaks to it in transcripts")
}

fn read(path: &Path) -> Result<Conversation> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let mut json: Json =
        serde_json::from_str(&text).map_err(|error| Error::input("not JSON").at_file(path).because(error))?;
    let conversation = match &mut json {
        Json::Object(object) => Conversation {
            messages: object.remove("messages").unwrap_or_default(),
            tools: object.remove("tools").unwrap_or_default(),
        },
        messages => Conversation {
            messages: messages.take(),
            tools: Json::Null,
        },
    };
    let sound = |message: &Json| message["role"].is_string() && message.get("content").is_some();
    match conversation.messages.as_array() {
        Some(messages) if !messages.is_empty() && messages.iter().all(sound) => Ok(conversation),
        _ => Err(Error::input("not a conversation")
            .at_file(path)
            .help(r#"write a list of messages: [{"role": "user", "content": "Hello"}]"#)),
    }
}

/// The tokens of a conversation as the engine sees them.
fn tokens(session: &Session, args: &Template, conversation: &Conversation) -> Result<()> {
    let messages: Vec<Message> = serde_json::from_value(conversation.messages.clone()).map_err(|error| {
        Error::input("--tokens needs messages whose content is text")
            .at_file(&args.messages)
            .because(error)
    })?;
    let model = Model::load(&args.model)?;
    let own = model.tokenizer.chat().ok_or_else(|| no_template(&args.model))?;
    let template = given(args, own.template.clone());
    let chat = Chat {
        template: &template,
        ..own
    };
    let traced = chat.trace(&messages, args.generation_prompt, "")?;
    let mut markup = traced.controls.iter().map(|control| control.id).peekable();
    let rows: Vec<Json> = chat
        .tokens(&traced)?
        .into_iter()
        .map(|id| {
            let kind = match markup.next_if_eq(&id) {
                Some(_) => "markup",
                None => "text",
            };
            serde_json::json!({ "id": id, "kind": kind, "token": model.tokenizer.name(id) })
        })
        .collect();
    if session.json {
        output::json(&serde_json::json!({ "text": traced.text, "tokens": rows }))?;
        return Ok(());
    }
    let lines = rows.iter().map(|row| {
        let field = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        format!("{}\t{}\t{}\n", row["id"], field("kind"), field("token"))
    });
    write(&lines.collect::<String>())
}
