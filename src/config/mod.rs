//! Recipes: whole runs in TOML.
//!
//! A recipe is a list of stages; each is a stage command with its flags, `model = "@sft"` naming the
//! result of an earlier stage. This module turns a recipe into command lines and knows which flags
//! there are from whoever asks; it runs nothing.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result, nearest};
use crate::small;

/// The recipe of `bylaw demo`.
pub const DEMO: &str = include_str!("../../recipes/demo.toml");

/// The remedy for what is not a recipe.
const EXAMPLE: &str = "recipes/demo.toml is a recipe; `bylaw help` lists the stages";

const RECIPE_KEYS: [&str; 4] = ["name", "description", "seed", "stage"];

/// A stage: its name in the recipe, its command (`train-sft`) and its flags.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    pub name: String,
    pub kind: String,
    settings: Vec<Setting>,
    span: Range<usize>,
    kind_span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
struct Setting {
    key: String,
    value: SettingValue,
    span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum SettingValue {
    /// Of a flag without value.
    Switch(bool),
    /// One value, or several for a repeated flag.
    Values(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub name: String,
    pub seed: Option<u64>,
    pub stages: Vec<StageSpec>,
    path: PathBuf,
    text: String,
}

/// A stage command, and what a recipe can set of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its words joined by `-`: `train-sft`.
    pub name: String,
    pub flags: Vec<Flag>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub name: String,
    /// Is set by `true` or `false`, without a value.
    pub switch: bool,
}

impl Recipe {
    pub fn load(path: &Path) -> Result<Self> {
        let text = small::read_to_string(path, "name a recipe, such as recipes/demo.toml")?;
        Self::parse(&text, path)
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let root = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            Error::config(format!("not TOML: {}", error.message()))
                .at_span(path, text, span)
                .help(EXAMPLE)
        })?;
        let mut recipe = Self {
            name: path
                .file_stem()
                .map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned()),
            seed: None,
            stages: Vec::new(),
            path: path.to_owned(),
            text: text.to_owned(),
        };
        for (key, value) in root.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("name", DeValue::String(name)) => {
                    recipe.name = recipe.plain_name(name, value.span())?;
                }
                ("description", DeValue::String(_)) => {}
                ("seed", DeValue::Integer(seed)) => {
                    let seed = u64::from_str_radix(seed.as_str(), seed.radix());
                    recipe.seed = Some(seed.map_err(|_| {
                        recipe
                            .at("the seed is not a whole number", value.span())
                            .help("write `seed = 0`, or any number from 0 to 2^64 - 1")
                    })?);
                }
                ("stage", DeValue::Array(stages)) => {
                    for stage in stages {
                        let parsed = recipe.stage(stage)?;
                        recipe.stages.push(parsed);
                    }
                }
                (known, _) if RECIPE_KEYS.contains(&known) => {
                    return Err(recipe
                        .at(&format!("`{known}` has the wrong type"), value.span())
                        .help("`name` and `description` are texts, `seed` is a number, a stage is a table [[stage]]"));
                }
                (unknown, _) => return Err(recipe.unknown_key(unknown, &RECIPE_KEYS, key.span())),
            }
        }
        recipe.check_names()?;
        Ok(recipe)
    }

    fn stage(&self, value: &Spanned<DeValue<'_>>) -> Result<StageSpec> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.at("a stage is a table: write [[stage]]", value.span()));
        };
        let mut spec = StageSpec {
            name: String::new(),
            kind: String::new(),
            settings: Vec::new(),
            span: value.span(),
            kind_span: value.span(),
        };
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("name", DeValue::String(name)) => spec.name = name.to_string(),
                ("kind", DeValue::String(kind)) => {
                    spec.kind = kind.to_string();
                    spec.kind_span = value.span();
                }
                (key @ ("name" | "kind"), _) => {
                    return Err(self.at(&format!("the `{key}` of a stage is a text"), value.span()));
                }
                (key_text, _) => spec.settings.push(self.setting(key_text, value, key.span())?),
            }
        }
        if spec.kind.is_empty() {
            return Err(self.at("a stage needs its `kind`, such as \"revise\"", spec.span));
        }
        if spec.name.is_empty() {
            spec.name.clone_from(&spec.kind);
        }
        Ok(spec)
    }

    fn setting(&self, key: &str, value: &Spanned<DeValue<'_>>, span: Range<usize>) -> Result<Setting> {
        let scalar = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            _ => None,
        };
        let value_of = |value: &DeValue<'_>| match value {
            DeValue::Boolean(on) => Some(SettingValue::Switch(*on)),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| scalar(item.get_ref()));
                items.collect::<Option<_>>().map(SettingValue::Values)
            }
            single => scalar(single).map(|value| SettingValue::Values(vec![value])),
        };
        let value = value_of(value.get_ref()).ok_or_else(|| {
            self.at(
                &format!("`{key}` is not a text, a number, a truth value or a list of them"),
                value.span(),
            )
        })?;
        Ok(Setting {
            key: key.to_owned(),
            value,
            span,
        })
    }

    /// The name of a recipe, which is that of its directory where none is given.
    fn plain_name(&self, name: &str, span: Range<usize>) -> Result<String> {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if plain && !name.contains(['/', '\\']) && !name.contains(char::is_control) {
            return Ok(name.to_owned());
        }
        Err(self
            .at(&format!("{name:?} cannot be the name of a recipe"), span)
            .help("the name is that of the run's directory below out/: `name = \"my-run\"`"))
    }

    fn check_names(&self) -> Result<()> {
        if self.stages.is_empty() {
            return Err(Error::config("the recipe has no stages")
                .at_file(&self.path)
                .help("add a [[stage]] table"));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !stage.name.chars().all(plain) {
                let message = format!(
                    "the stage name `{}` is not made of letters, digits, - and _",
                    stage.name
                );
                return Err(self
                    .at(&message, stage.span.clone())
                    .help("the name is that of the stage's directory: `name = \"sft-2\"`"));
            }
            if self.stages[..index].iter().any(|other| other.name == stage.name) {
                return Err(self
                    .at(&format!("two stages are named `{}`", stage.name), stage.span.clone())
                    .help("give each stage a `name` of its own"));
            }
        }
        Ok(())
    }

    /// Applies `stage.key=value` or `seed=N`.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let malformed = || {
            Error::config(format!("`--set {assignment}` is not stage.key=value"))
                .help("for example --set ppo.iterations=20, or --set seed=3")
        };
        let (key, value) = assignment.split_once('=').ok_or_else(malformed)?;
        if key == "seed" {
            self.seed = Some(value.parse().map_err(|_| malformed())?);
            return Ok(());
        }
        let (stage, key) = key.split_once('.').ok_or_else(malformed)?;
        let names: Vec<String> = self.stages.iter().map(|stage| stage.name.clone()).collect();
        let Some(spec) = self.stages.iter_mut().find(|spec| spec.name == stage) else {
            return Err(no_stage(stage, &names));
        };
        spec.settings.retain(|setting| setting.key != key);
        spec.settings.push(Setting {
            key: key.to_owned(),
            value: match value {
                "true" | "false" => SettingValue::Switch(value == "true"),
                value => SettingValue::Values(vec![value.to_owned()]),
            },
            span: spec.span.clone(),
        });
        Ok(())
    }

    /// The earlier stages that a stage refers to.
    pub fn references(&self, index: usize) -> impl Iterator<Item = &str> {
        let values = self.stages[index].settings.iter().map(|setting| &setting.value);
        let texts = values.flat_map(|value| match value {
            SettingValue::Values(values) => values.as_slice(),
            SettingValue::Switch(_) => &[],
        });
        texts.filter_map(|text| text.strip_prefix('@').map(|name| named(name).0))
    }

    /// The position of a stage given by name.
    pub fn position(&self, name: &str) -> Result<usize> {
        let names: Vec<String> = self.stages.iter().map(|stage| stage.name.clone()).collect();
        self.stages
            .iter()
            .position(|stage| stage.name == name)
            .ok_or_else(|| no_stage(name, &names))
    }

    /// The words of a stage's command; `place` is the directory of a stage by its name. Keys that the
    /// command does not have are an error with the nearest one.
    pub fn command(&self, index: usize, place: &dyn Fn(&str) -> PathBuf, kinds: &[Kind]) -> Result<Vec<String>> {
        let stage = &self.stages[index];
        let known = &kinds
            .iter()
            .find(|kind| kind.name == stage.kind)
            .ok_or_else(|| self.unknown_kind(stage, kinds))?
            .flags;
        let mut words: Vec<String> = stage.kind.split('-').map(str::to_owned).collect();
        for setting in &stage.settings {
            let flag = setting.key.replace('_', "-");
            let Some(Flag { switch, .. }) = known.iter().find(|known| known.name == flag) else {
                let known: Vec<String> = known.iter().map(|flag| flag.name.replace('-', "_")).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(self.unknown_key(&setting.key, &known, setting.span.clone()));
            };
            match &setting.value {
                SettingValue::Switch(on) if *switch => words.extend(on.then(|| format!("--{flag}"))),
                SettingValue::Values(values) if !switch => {
                    for value in values {
                        words.push(format!("--{flag}={}", self.resolve(index, value, place, setting)?));
                    }
                }
                SettingValue::Values(_) => {
                    let message = format!("`{}` is either true or false", setting.key);
                    return Err(self.at(&message, setting.span.clone()));
                }
                SettingValue::Switch(_) => {
                    let message = format!("`{}` needs a value, not true or false", setting.key);
                    return Err(self.at(&message, setting.span.clone()));
                }
            }
        }
        words.push(format!("--out={}", place(&stage.name).display()));
        Ok(words)
    }

    /// `@name` is the directory of the earlier stage `name`; `@name=0.5` the same with a weight behind it.
    fn resolve(&self, index: usize, value: &str, place: &dyn Fn(&str) -> PathBuf, setting: &Setting) -> Result<String> {
        let Some(name) = value.strip_prefix('@') else {
            return Ok(value.to_owned());
        };
        let (name, weight) = named(name);
        let earlier = || self.stages[..index].iter().map(|stage| stage.name.as_str());
        if earlier().any(|earlier| earlier == name) {
            return Ok(format!("{}{weight}", place(name).display()));
        }
        let error = self.at(&format!("no earlier stage is named `{name}`"), setting.span.clone());
        Err(match nearest(name, earlier()) {
            Some(near) => error.help(format!("did you mean `@{near}`?")),
            None => error.help("`@name` is the result of a stage above this one"),
        })
    }

    /// An error about a stage's command line; it points at the setting of `flag`, if one is to blame.
    pub fn stage_error(&self, index: usize, flag: Option<&str>, message: &str) -> Error {
        let stage = &self.stages[index];
        let settings = || stage.settings.iter();
        let blamed = flag.and_then(|flag| settings().find(|setting| setting.key.replace('_', "-") == flag));
        self.at(message, blamed.map_or(&stage.span, |setting| &setting.span).clone())
    }

    fn unknown_kind(&self, stage: &StageSpec, kinds: &[Kind]) -> Error {
        let error = self.at(
            &format!("unknown kind of stage `{}`", stage.kind),
            stage.kind_span.clone(),
        );
        let names = || kinds.iter().map(|kind| kind.name.as_str());
        match nearest(&stage.kind, names()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("kinds of stages: {}", names().collect::<Vec<_>>().join(", "))),
        }
    }

    fn at(&self, message: &str, span: Range<usize>) -> Error {
        Error::config(message)
            .at_span(&self.path, &self.text, span)
            .help(EXAMPLE)
    }

    fn unknown_key(&self, key: &str, known: &[&str], span: Range<usize>) -> Error {
        let error = self.at(&format!("unknown key `{key}`"), span);
        match nearest(key, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("known keys: {}", known.join(", "))),
        }
    }
}

/// The name of a stage, and what stands behind it.
fn named(text: &str) -> (&str, &str) {
    text.split_at(text.find('=').unwrap_or(text.len()))
}

fn no_stage(name: &str, names: &[String]) -> Error {
    let error = Error::config(format!("the recipe has no stage `{name}`"));
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("its stages: {}", names.join(", "))),
    }
}
