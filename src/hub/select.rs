//! Which files of a repository are fetched.
//!
//! Without patterns, what loading a model needs: configuration, tokenizer, chat template, and one set of
//! weights in safetensors (repositories often have several). Pickles can run code when they are read and
//! are left where they are, whatever the patterns say.

use super::names::{Repository, fits, is_inside};
use crate::error::{Error, Result};

/// What the user wants of a repository.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Patterns in place of the files that a model needs.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

/// Endings of formats that can run code, or that nothing here reads.
const PICKLES: [&str; 7] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5"];

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Of a repository that holds adapters on a base.
const ADAPTERS: &str = "adapter_model.safetensors";

fn is_pickle(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PICKLES.iter().any(|ending| name.ends_with(ending))
}

/// Besides the weights, what a model needs.
fn is_setting(name: &str) -> bool {
    let exact = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "adapter_config.json",
    ];
    let begins = ["tokenizer", "chat_template"];
    !name.contains('/') && (exact.contains(&name) || begins.iter().any(|begin| name.starts_with(begin)))
}

/// `model-00001-of-00004.safetensors`.
fn is_shard(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"))
        .is_some_and(|(number, count)| digits(number) && digits(count))
}

impl Choice {
    /// The names of the files to fetch, of all the `names` that the server lists.
    pub fn select<'a>(&self, repository: &Repository, names: &[&'a str]) -> Result<Vec<&'a str>> {
        if let Some(name) = names.iter().find(|name| !is_inside(name)) {
            return Err(Error::remote(format!(
                "{repository} lists a file whose name leaves its directory: {name:?}"
            ))
            .help("nothing was fetched: do not trust this repository, or this mirror of the hub"));
        }
        let single = names.contains(&WEIGHTS);
        let whole = single || names.contains(&INDEX);
        let needed = |name: &str| {
            is_setting(name)
                || (single && name == WEIGHTS)
                || (!single && (is_shard(name) || name == INDEX))
                || (!whole && name == ADAPTERS)
        };
        let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| fits(pattern, name));
        let wanted = |name: &str| match self.include.as_slice() {
            [] => needed(name),
            include => any(include, name),
        };
        let wanted = |name: &str| wanted(name) && !any(&self.exclude, name);
        let chosen: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| wanted(name) && !is_pickle(name))
            .collect();
        if chosen.is_empty() {
            return Err(self.nothing(repository, names, names.iter().any(|name| wanted(name))));
        }
        if self.include.is_empty()
            && self.exclude.is_empty()
            && !chosen.iter().any(|name| name.ends_with(".safetensors"))
        {
            return Err(no_weights(repository, names));
        }
        Ok(chosen)
    }

    fn nothing(&self, repository: &Repository, names: &[&str], pickles: bool) -> Error {
        if pickles {
            return Error::input(format!("what the patterns fit in {repository} are pickles"))
                .help("pickles can run code and are never fetched: use the model's safetensors or GGUF files");
        }
        if self.include.is_empty() && self.exclude.is_empty() {
            return no_weights(repository, names);
        }
        Error::config(format!("no file of {repository} fits the patterns")).help(format!("it has {}", some(names)))
    }
}

/// A repository without weights that can be read, and what it has in their place.
fn no_weights(repository: &Repository, names: &[&str]) -> Error {
    let of = |fits: &dyn Fn(&str) -> bool| names.iter().copied().filter(|name| fits(name)).collect::<Vec<_>>();
    let (gguf, pickles) = (of(&|name| name.ends_with(".gguf")), of(&is_pickle));
    if !gguf.is_empty() {
        return Error::config(format!("{repository} has GGUF files: {}", some(&gguf))).help(format!(
            "choose one: bylaw model pull {repository} --include {}",
            gguf[0]
        ));
    }
    let error = Error::input(format!("{repository} has no weights in safetensors"));
    if pickles.is_empty() {
        return error.help(format!("it has {}", some(names)));
    }
    error.help(format!(
        "it has pickles ({}), which can run code and are never fetched: look for another revision (refs/pr/N often has \
         safetensors), or save it anew with save_pretrained(safe_serialization=True)",
        some(&pickles)
    ))
}

/// A few of many names.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no files".to_owned(),
        count if count > SHOWN => format!("{shown} and {} more", count - SHOWN),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository::parse("org/name").unwrap()
    }

    /// Catches: weights fetched twice in two layouts; a needed file left out; pickles.
    #[test]
    fn a_model_is_fetched_once() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/tokenizer.model",
            "pytorch_model.bin",
            "chat_template.jinja",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        let chosen = Choice::default().select(&repository(), &names).unwrap();
        let left = [
            ".gitattributes",
            "README.md",
            "consolidated.safetensors",
            "onnx/model.onnx",
        ];
        let left = [&left[..], &["original/tokenizer.model", "pytorch_model.bin"]].concat();
        assert!(
            names.iter().all(|name| chosen.contains(name) != left.contains(name)),
            "{chosen:?}"
        );
        let both = [&names[..], &["model.safetensors"]].concat();
        let chosen = Choice::default().select(&repository(), &both).unwrap();
        assert!(chosen.contains(&"model.safetensors") && !chosen.iter().any(|name| name.contains("-of-")));
        let all = Choice {
            include: vec!["*".into()],
            exclude: vec!["*.md".into()],
        };
        assert_eq!(all.select(&repository(), &names).unwrap().len(), names.len() - 2);
    }

    /// Catches: adapters without their tensors; adapters fetched beside a whole model.
    #[test]
    fn adapters_are_fetched_where_they_are_all() {
        let mut names = vec![
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "tokenizer.json",
        ];
        let chosen = Choice::default().select(&repository(), &names).unwrap();
        assert_eq!(chosen, names[1..]);
        names.push("model.safetensors");
        let chosen = Choice::default().select(&repository(), &names).unwrap();
        assert!(!chosen.contains(&"adapter_model.safetensors"), "{chosen:?}");
    }

    /// Catches: a hostile name let through; a refusal that does not say what there is.
    #[test]
    fn what_cannot_be_fetched_is_said() {
        let choose = |include: &[&str], names: &[&str]| {
            let choice = Choice {
                include: include.iter().map(|text| (*text).to_owned()).collect(),
                exclude: Vec::new(),
            };
            let error = choice.select(&repository(), names).unwrap_err();
            format!("{error} {}", error.help_text().unwrap())
        };
        for name in ["../config.json", "/etc/passwd", "a/../../x", "a\\..\\x"] {
            assert!(choose(&[], &["config.json", "model.safetensors", name]).contains("leaves its directory"));
        }
        assert!(choose(&[], &["config.json", "pytorch_model.bin"]).contains("pickles (pytorch_model.bin)"));
        assert!(choose(&["*.bin"], &["pytorch_model.bin"]).contains("never fetched"));
        assert!(choose(&[], &["m-Q8_0.gguf"]).contains("--include m-Q8_0.gguf"));
        assert!(choose(&["*.gguf"], &["config.json"]).contains("it has config.json"));
    }
}
