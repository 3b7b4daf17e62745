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
        environment.add_template_owned(NAME, prepared(source)).map_err(broken)?;
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

    /// The same template with `text` for a special token: `bos_token`, `eos_token`.
    #[must_use]
    pub fn with_token(mut self, name: &str, text: &str) -> Self {
        self.tokens.insert(name.to_owned(), text.to_owned());
        self
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
                Some(message) => Error::input(format!("the chat template refuses the conversation: {message}"))
                    .help("the model takes other roles or another order of turns"),
                None => Error::input(format!("the chat template fails: {}", described(&error)))
                    .help("compare it with the template in the model's repository")
                    .because(error),
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
                None => Err(Error::input(
                    "tokenizer_config.json has several chat templates and none is named `default`",
                )
                .help("write the one to use into chat_template.jinja beside it")),
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
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let template = ChatTemplate::new(source, BTreeMap::new()).unwrap();
        template.render(Value::from(Vec::<Value>::new()), false).unwrap()
    }

    /// Catches: a clock that moves, a wrong weekday, days of a leap year, an impossible date taken.
    #[test]
    fn the_clock_stands_where_it_is_put() {
        let template = ChatTemplate::new("{{ strftime_now('%a %d %b %Y, %j') }}", BTreeMap::new()).unwrap();
        let at = |date: &str| {
            let messages = Value::from(Vec::<Value>::new());
            template.at(date.parse().unwrap()).render(messages, false).unwrap()
        };
        assert_eq!(at("2024-02-29"), "Thu 29 Feb 2024, 060");
        assert_eq!(at("2000-12-31"), "Sun 31 Dec 2000, 366");
        assert_eq!(at("2023-03-01"), "Wed 01 Mar 2023, 060");
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
        for wrong in ["2023-02-29", "2024-13-01", "2024-00-01", "24 Jul 2024", "2024-07", ""] {
            assert!(wrong.parse::<Date>().is_err(), "{wrong} was taken for a date");
        }
    }

    /// Catches: `{% generation %}` as an unknown tag, with white space control or without.
    #[test]
    fn generation_blocks_are_scopes() {
        assert_eq!(render("a {%- generation -%} b {%- endgeneration %} c"), "ab c");
        assert_eq!(render("{% generation %}\nx\n{% endgeneration %}\ny"), "x\ny");
    }

    /// Catches: a message of `raise_exception` hidden behind words of the template engine.
    #[test]
    fn what_a_template_raises_is_the_error() {
        let template = ChatTemplate::new("{{ raise_exception('No system role.') }}", BTreeMap::new()).unwrap();
        let error = template.render(Value::from(()), false).unwrap_err();
        assert_eq!(
            error.message(),
            "the chat template refuses the conversation: No system role."
        );
        let template = ChatTemplate::new("x\n{{ messages.nothing.more }}", BTreeMap::new()).unwrap();
        let error = template.render(Value::from(()), false).unwrap_err();
        assert!(error.message().contains("line 2"), "{error}");
    }

    /// Catches: JSON as HTML wants it, and options that are not those of `json.dumps`.
    #[test]
    fn json_is_pythons() {
        assert_eq!(
            render("{{ {'ü<': ['\"', 1.5, none]} | tojson(ensure_ascii=true) }}"),
            "{\"\\u00fc<\": [\"\\\"\", 1.5, null]}"
        );
        assert_eq!(
            render("{{ {'b': [], 'a': 1} | tojson(sort_keys=true, separators=(',', ':')) }}"),
            "{\"a\":1,\"b\":[]}"
        );
    }

    /// Catches: words of comments and of plain text taken for what a template looks for.
    #[test]
    fn literals_are_found_in_code_alone() {
        let found = literals("{# 'no' #} 'nor' {% if '</think>' in x %}{{ \"a'b\" ~ 'c' }}{% endif %}");
        assert_eq!(found, BTreeSet::from(["</think>", "a'b", "c"].map(str::to_owned)));
    }

    /// Catches: a list of named templates whose first is taken instead of `default`.
    #[test]
    fn of_named_templates_default_counts() {
        let files = |config: &str, chat_template: Option<&str>| TokenizerFiles {
            config: Some(config.to_owned()),
            chat_template: chat_template.map(str::to_owned),
            ..TokenizerFiles::default()
        };
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        let source = |files| ChatTemplate::from_files(&files).unwrap().unwrap().source().to_owned();
        assert_eq!(source(files(named, None)), "D");
        assert_eq!(source(files(named, Some("F"))), "F");
        assert_eq!(source(files(r#"{"chat_template": "S"}"#, None)), "S");
        assert!(ChatTemplate::from_files(&files("{}", None)).unwrap().is_none());
        let none_is_default = r#"{"chat_template": [{"name": "rag", "template": "T"}]}"#;
        assert!(ChatTemplate::from_files(&files(none_is_default, None)).is_err());
    }
}
