//! What changed from one constitution to another, principle by principle.

use serde::Serialize;

use super::{Constitution, Principle};

/// One text of a principle, before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reworded {
    /// `critique`, `revise` or `judge`.
    pub text: &'static str,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What became of a principle.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    Added,
    Removed,
    /// The same texts under another id.
    Renamed {
        from: String,
    },
    Changed {
        reworded: Vec<Reworded>,
        /// Old and new, where they differ.
        weight: Option<(f64, f64)>,
        /// The same of what no model reads.
        tags: Option<(Vec<String>, Vec<String>)>,
        rationale: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    pub id: String,
    #[serde(flatten)]
    pub change: Change,
}

/// All that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What the new constitution has in its order, then what was removed.
    pub principles: Vec<Changed>,
    pub unchanged: usize,
    /// Parts of mixtures that are not drawn as often as before: name, old and new weight.
    pub parts: Vec<(String, Option<f64>, Option<f64>)>,
    /// Which few-shot examples differ: `critique`, `judge`, `judge_reasoning`.
    pub examples: Vec<&'static str>,
    /// Whether models read the same, equally often.
    pub same_meaning: bool,
}

pub fn compare(old: &Constitution, new: &Constitution) -> Comparison {
    let gone: Vec<&Principle> = old
        .principles
        .iter()
        .filter(|was| new.principle(&was.id).is_none())
        .collect();
    let mut renamed: Vec<&str> = Vec::new();
    let mut principles = Vec::new();
    let mut unchanged = 0;
    for principle in &new.principles {
        let change = match old.principle(&principle.id) {
            Some(was) => changed(was, principle),
            None => {
                let hash = principle.hash();
                let mut twins = gone.iter().filter(|was| was.hash() == hash);
                let twin = twins.find(|was| !renamed.contains(&was.id.as_str()));
                Some(match twin {
                    Some(was) => {
                        renamed.push(&was.id);
                        Change::Renamed { from: was.id.clone() }
                    }
                    None => Change::Added,
                })
            }
        };
        match change {
            Some(change) => principles.push(Changed {
                id: principle.id.clone(),
                change,
            }),
            None => unchanged += 1,
        }
    }
    let removed = gone.iter().filter(|was| !renamed.contains(&was.id.as_str()));
    principles.extend(removed.map(|was| Changed {
        id: was.id.clone(),
        change: Change::Removed,
    }));
    let (old_examples, new_examples) = (&old.examples, &new.examples);
    let examples = [
        ("critique", old_examples.critique != new_examples.critique),
        ("judge", old_examples.judge != new_examples.judge),
        (
            "judge_reasoning",
            old_examples.judge_reasoning != new_examples.judge_reasoning,
        ),
    ];
    Comparison {
        principles,
        unchanged,
        parts: parts(old, new),
        examples: examples
            .into_iter()
            .filter(|(_, differ)| *differ)
            .map(|(name, _)| name)
            .collect(),
        same_meaning: old.hash == new.hash,
    }
}

fn parts(old: &Constitution, new: &Constitution) -> Vec<(String, Option<f64>, Option<f64>)> {
    let weight = |of: &Constitution, name: &str| {
        of.parts
            .iter()
            .find(|(part, _)| part == name)
            .map(|(_, weight)| *weight)
    };
    let gone = old.parts.iter().filter(|(name, _)| weight(new, name).is_none());
    let names = new.parts.iter().chain(gone).map(|(name, _)| name);
    let both = names.map(|name| (name.clone(), weight(old, name), weight(new, name)));
    both.filter(|(_, old, new)| old != new).collect()
}

fn changed(old: &Principle, new: &Principle) -> Option<Change> {
    let texts = [
        ("critique", &old.critique, &new.critique),
        ("revise", &old.revise, &new.revise),
        ("judge", &old.judge, &new.judge),
    ];
    let reworded: Vec<Reworded> = texts
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(text, old, new)| Reworded {
            text,
            old: old.clone(),
            new: new.clone(),
        })
        .collect();
    let weight = (old.weight != new.weight).then_some((old.weight, new.weight));
    let tags = (old.tags != new.tags).then(|| (old.tags.clone(), new.tags.clone()));
    let rationale = old.rationale != new.rationale;
    let any = !reworded.is_empty() || weight.is_some() || tags.is_some() || rationale;
    any.then_some(Change::Changed {
        reworded,
        weight,
        tags,
        rationale,
    })
}
