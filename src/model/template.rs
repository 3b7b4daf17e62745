//! Chat templates: a conversation as the text that a model reads.
//!
//! A template is a Jinja program that comes with the model, in `chat_template.jinja` or in
//! `tokenizer_config.json`. It is run in the environment that transformers gives it
//! (`apply_chat_template`): block trimming, loop controls, Python's methods on strings and mappings,
//! `tojson` as Python writes it, `raise_exception`, `strftime_now`. The clock is the one difference: it
//! stands at a date that the caller gives, so that a run can be repeated. Which parts of the text came
//! from a message is found out in [`super::chat`].

mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};

pub use self::python::Date;
use super::files::TokenizerFiles;
use crate::error::{Error, Result};

/// The name of the one template in its environment, as errors show it.
const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
    /// `bos_token`, `eos_token` and the like: their texts, by name.
    tokens: BTreeMap<String, String>,
    date: Date,
}

impl ChatTemplate {
    /// Compiles `source`. `tokens` are the texts of special tokens by their names in a template.
    pub fn new(source: &str, tokens: BTreeMap<String, String>) -> Result<Self> {
        let broken = |error: minijinja::Error| {
            Error::input(format!("the chat template is not valid Jinja: {}", described(&error)))
                .help("copy the chat template again from the model's repository")
                .because(error)
        };
        let date = Date::default();
        let mut environment = environment(date).map_err(broken)?;
        environment
            .add_template_owned(NAME, prepared(source))
            .map_err(broken)?;
        Ok(Self {
            source: source.into(),
            environment: Arc::new(environment),
            tokens,
            date,
        })
    }

    /// The template that comes with a tokenizer, if one does: `chat_template.jinja`, or the entry of
    /// `tokenizer_config.json` (a text, or a list of named ones of which `default` counts).
    pub fn from_files(files: &TokenizerFiles) -> Result<Option<Self>> {
        let config: serde_json::Value = match &files.config {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Error::input("tokenizer_config.json is not JSON").because(error))?,
            None => serde_json::Value::Null,
        };
        let source = match &files.chat_template {
            Some(source) => Some(source.clone()),
            None => configured(&config["chat_template"])?,
        };
        source
            .map(|source| Self::new(&source, special_texts(&config)))
            .transpose()
    }

    /// The same template with its clock at `date`.
    #[must_use]
    pub fn at(&self, date: Date) -> Self {
        let mut environment = Environment::clone(&self.environment);
        python::set_clock(&mut environment, date);
        Self {
            environment: Arc::new(environment),
            date,
            ..self.clone()
        }
    }

    pub fn date(&self) -> Date {
        self.date
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `messages` (a sequence of mappings with `role` and `content`), and if `generation` is
    /// set, the beginning of the assistant's next turn.
    pub fn render(&self, messages: Value, generation: bool) -> Result<String> {
        self.render_with(messages, Value::from(()), generation)
    }

    /// As [`Self::render`], with tools that the template may describe.
    pub fn render_with(&self, messages: Value, tools: Value, generation: bool) -> Result<String> {
        let mut variables: BTreeMap<&str, Value> = BTreeMap::from([
            ("messages", messages),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(generation)),
        ]);
        for (name, text) in &self.tokens {
            variables.insert(name, Value::from(text.as_str()));
        }
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from(variables)))
            .map_err(|error| match python::raised(&error) {
                Some(message) => Error::input(format!("the chat template refuses the conversation: {message}")),
                None => Error::input(format!("the chat template fails: {}", described(&error))).because(error),
            })
    }

    /// The texts that stand in quotes in the template's code: what it may look for in a message.
    pub fn literals(&self) -> BTreeSet<String> {
        literals(&self.source)
    }
}

fn environment(date: Date) -> Result<Environment<'static>, minijinja::Error> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(false)
        .build()?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_syntax(syntax);
    python::install(&mut environment);
    python::set_clock(&mut environment, date);
    Ok(environment)
}

/// The template of a `chat_template` entry.
fn configured(entry: &serde_json::Value) -> Result<Option<String>> {
    match entry {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(source) => Ok(Some(source.clone())),
        serde_json::Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => Err(
                    Error::input("tokenizer_config.json has several chat templates and none is named `default`")
                        .help("write the one to use into chat_template.jinja beside it"),
                ),
            }
        }
        _ => Err(Error::input(
            "`chat_template` in tokenizer_config.json is neither a text nor a list of named ones",
        )),
    }
}

/// The texts of the special tokens that a `tokenizer_config.json` names.
fn special_texts(config: &serde_json::Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    entries
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// The source as minijinja takes it: Jinja reads every line end as `\n`; and a `generation` block, by
/// which transformers marks what the assistant said, is a scope that changes nothing else.
fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        match inner.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The texts in quotes between `{{` or `{%` and their ends. Escapes are left as they are.
fn literals(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut code = false;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '{' if rest.starts_with("{{") || rest.starts_with("{%") => code = true,
            '}' | '%' if rest.starts_with("}}") || rest.starts_with("%}") => code = false,
            '{' if rest.starts_with("{#") => taken = rest.find("#}").map_or(rest.len(), |end| end + 2),
            '\'' | '"' if code => {
                if let Some(length) = rest[1..].find(first) {
                    found.insert(rest[1..=length].to_owned());
                    taken = length + 2;
                }
            }
            _ => {}
        }
        rest = &rest[taken..];
    }
    found
}

/// What went wrong and in which line, without what minijinja adds for its own debugging.
fn described(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests;
