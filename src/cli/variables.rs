//! The variables of a constitution, as every command that reads one takes them.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use crate::constitution::Constitution;
use crate::error::Result;

/// What stands for `{{ name }}` in a constitution. Settings do not record it: the constitution's hash covers it.
#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct Variables {
    /// What a variable of the constitution stands for, instead of what its file says; may be given several times.
    #[arg(long = "variable", value_name = "NAME=TEXT")]
    #[serde(skip)]
    assigned: Vec<Assignment>,
}

#[derive(Debug, Clone)]
struct Assignment {
    name: String,
    text: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.split_once('=') {
            Some((name, text)) if !name.trim().is_empty() && !text.trim().is_empty() => Ok(Self {
                name: name.trim().to_owned(),
                text: text.trim().to_owned(),
            }),
            _ => Err("expected NAME=TEXT, as in audience=children".into()),
        }
    }
}

impl Variables {
    /// By name; of a name that is given twice, the last.
    pub fn values(&self) -> BTreeMap<String, String> {
        let pairs = self.assigned.iter();
        pairs
            .map(|assigned| (assigned.name.clone(), assigned.text.clone()))
            .collect()
    }

    /// The values for each of several constitutions: those of the variables that it has. The last reports what none has, and one
    /// that cannot be read as it is gets all.
    pub fn of_each(&self, references: &[&str]) -> Vec<BTreeMap<String, String>> {
        let plain: Vec<Option<Constitution>> = references
            .iter()
            .map(|reference| Constitution::resolve(reference).ok())
            .collect();
        let has = |index: usize, name: &String| match &plain[index] {
            Some(constitution) => constitution.variables.contains(name),
            None => true,
        };
        let all = 0..references.len();
        all.clone()
            .map(|index| {
                let mut values = self.values();
                let last = index + 1 == references.len();
                values.retain(|name, _| has(index, name) || (last && !all.clone().any(|index| has(index, name))));
                values
            })
            .collect()
    }

    /// Two constitutions, each with the values of the variables that it has; one that neither has is an error.
    pub fn resolve_both(&self, references: [&str; 2]) -> Result<[Constitution; 2]> {
        let values = self.of_each(&references);
        let read = |index: usize| Constitution::resolve_with(references[index], &values[index]);
        Ok([read(0)?, read(1)?])
    }

    /// The constitution that a user names, with these values.
    pub fn resolve(&self, reference: &str) -> Result<Constitution> {
        Constitution::resolve_with(reference, &self.values())
    }
}
