//! Which modules are adapted: patterns over their names.

use std::collections::BTreeSet;

use crate::error::{Error, Result, nearest};
use crate::hub::fits;

/// A module is meant by its name or the end of it from a dot on, as PEFT means it, where `*` and `?` stand for any
/// characters: `q_proj`, `layers.3.*`, `*_proj`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Empty for every linear map of attention and MLP.
    pub patterns: Vec<String>,
}

/// PEFT's word for all of them.
const ALL: &str = "all-linear";

impl Targets {
    pub fn new(patterns: &[String]) -> Self {
        let patterns = patterns.iter().map(|pattern| pattern.trim().to_owned());
        Self {
            patterns: patterns.collect(),
        }
    }

    /// The modules that are meant, of all; an error for a pattern that means none.
    pub fn choose<'a>(&self, modules: &[&'a str]) -> Result<BTreeSet<&'a str>> {
        if self.patterns.is_empty() {
            return Ok(modules.iter().copied().collect());
        }
        let mut chosen = BTreeSet::new();
        for pattern in &self.patterns {
            let meant: Vec<&str> = modules
                .iter()
                .copied()
                .filter(|module| means(pattern, module))
                .collect();
            if meant.is_empty() {
                return Err(unknown(pattern, modules));
            }
            chosen.extend(meant);
        }
        Ok(chosen)
    }
}

fn means(pattern: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(dot, _)| &module[dot + 1..]);
    pattern == ALL || fits(pattern, module) || ends.into_iter().any(|end| fits(pattern, end))
}

/// The last part of a module's name.
pub(super) fn kind(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn unknown(pattern: &str, modules: &[&str]) -> Error {
    let kinds: BTreeSet<&str> = modules.iter().map(|module| kind(module)).collect();
    let near = nearest(pattern, kinds.iter().copied()).map_or(String::new(), |near| format!("; nearest: {near}"));
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
    let example = modules.first().copied().unwrap_or_default();
    Error::config(format!("no linear map of this model is called `{pattern}`")).help(format!(
        "there are {kinds}, each named like {example}, and `*` stands for any characters{near}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [&str; 4] = [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.10.self_attn.q_proj",
        "model.layers.10.mlp.gate_up_proj",
    ];

    fn chosen(patterns: &[&str]) -> Vec<&'static str> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Targets::new(&patterns).choose(&MODULES).unwrap().into_iter().collect()
    }

    /// Catches: a name that also means those that end like it (`up_proj` and `gate_up_proj`), layer 1 meaning layer
    /// 10 too, no pattern meaning no module.
    #[test]
    fn a_pattern_means_whole_parts_of_a_name() {
        assert_eq!(chosen(&["up_proj"]), [MODULES[1]]);
        assert_eq!(chosen(&["layers.1.*"]), [MODULES[1], MODULES[0]]);
        assert_eq!(chosen(&["q_proj", "mlp.*"]).len(), 4);
        assert_eq!(chosen(&[" self_attn.q_proj"]), [MODULES[0], MODULES[2]]);
        assert_eq!(chosen(&[]).len(), 4);
        assert_eq!(chosen(&["all-linear"]).len(), 4);
        assert_eq!(chosen(&["model.layers.10.mlp.gate_up_proj"]), [MODULES[3]]);
    }

    /// Catches: a misspelt target that adapts nothing and trains nothing.
    #[test]
    fn a_pattern_that_means_nothing_is_refused() {
        let patterns = ["q_proj".to_owned(), "q_porj".to_owned()];
        let error = Targets::new(&patterns).choose(&MODULES).unwrap_err();
        let text = format!("{error} {}", error.help_text().unwrap_or_default());
        assert!(text.contains("`q_porj`") && text.contains("nearest: q_proj"), "{text}");
    }
}
