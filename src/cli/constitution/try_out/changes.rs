//! What became otherwise from one run to the next, principle by principle.

use serde::Serialize;

use super::Run;
use super::asking::{Judgement, Reviewed, Tried};
use super::figures::judged;
use crate::stage::trial::{Verdict, Written};

/// By ids. Of prompts that both runs have.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Changes {
    pub changed: Vec<Changed>,
    /// Principles that were not tried before.
    pub new: Vec<String>,
    /// Principles that are not tried any more.
    pub gone: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    pub id: String,
    /// Which of its results: `critique`, `revision`, `verdict`.
    pub results: Vec<&'static str>,
}

/// Principles named in a line at most.
const NAMED: usize = 5;

impl Changes {
    pub fn touches(&self, id: &str) -> bool {
        self.changed.iter().any(|changed| changed.id == id) || self.new.iter().any(|new| new == id)
    }

    /// In a line, for people.
    pub fn told(&self) -> String {
        let changed = self.changed.iter();
        let changed: Vec<String> = changed
            .map(|of| format!("{} ({})", of.id, of.results.join(", ")))
            .collect();
        let parts = [("changed", &changed), ("new", &self.new), ("gone", &self.gone)];
        let part = |(name, ids): &(&str, &Vec<String>)| {
            let named = ids[..ids.len().min(NAMED)].join(", ");
            match ids.len().saturating_sub(NAMED) {
                0 => format!("{name}: {named}"),
                more => format!("{name}: {named} and {more} more"),
            }
        };
        let parts: Vec<String> = parts.iter().filter(|(_, ids)| !ids.is_empty()).map(part).collect();
        match parts.is_empty() {
            true => "no result changed".to_owned(),
            false => parts.join(" · "),
        }
    }
}

/// From `old` to `new`.
pub fn between(old: &Run, new: &Run) -> Changes {
    let id = |run: &Run, index: usize| run.constitution.principles[index].id.clone();
    let ids = |run: &Run| -> Vec<String> { run.trial.plan.all().map(|index| id(run, index)).collect() };
    let (before, after) = (ids(old), ids(new));
    let mut changes = Changes {
        new: after.iter().filter(|id| !before.contains(id)).cloned().collect(),
        gone: before.iter().filter(|id| !after.contains(id)).cloned().collect(),
        ..Changes::default()
    };
    for id in after.iter().filter(|id| before.contains(id)) {
        let mut results: Vec<&'static str> = Vec::new();
        for now in &new.trial.prompts {
            let was = old.trial.prompts.iter().find(|was| was.prompt.id == now.prompt.id);
            if let Some(was) = was {
                results.extend(of_prompt((old, was), (new, now), id));
            }
        }
        results.sort_unstable();
        results.dedup();
        if !results.is_empty() {
            changes.changed.push(Changed {
                id: id.clone(),
                results,
            });
        }
    }
    changes
}

/// What differs between two tries of a prompt under the principle `id`.
fn of_prompt(was: (&Run, &Tried), now: (&Run, &Tried), id: &str) -> Vec<&'static str> {
    fn review<'t>((run, tried): (&Run, &'t Tried), id: &str) -> Option<&'t Reviewed> {
        let named = |review: &&Reviewed| run.constitution.principles[review.principle].id == id;
        tried.reviews.iter().find(named)
    }
    let mut results = Vec::new();
    if let (Some(old), Some(new)) = (review(was, id), review(now, id)) {
        let revised = differ(old.revision.as_ref(), new.revision.as_ref());
        if differ(old.critique.as_ref(), new.critique.as_ref()) {
            results.push("critique");
        }
        if revised {
            results.push("revision");
        }
        // The verdict about another revision is no news of the judge, and numbers of other questions are theirs.
        let better = |review: &Reviewed| judged(&review.judged).map(|judged| judged.p > 0.5);
        if !revised && better(old) != better(new) {
            results.push("verdict");
        }
    }
    if questions_differ(was, now, id) {
        results.push("verdict");
    }
    results
}

/// Whether the principle `id`, as a judge of others, says something else of the same pair.
fn questions_differ(was: (&Run, &Tried), now: (&Run, &Tried), id: &str) -> bool {
    fn said<'t>((run, tried): (&Run, &'t Tried), id: &str) -> Vec<(&'t str, Result<Verdict, String>)> {
        let of = |judgements: &[Judgement]| {
            let its = judgements
                .iter()
                .find(|of| run.constitution.principles[of.question].id == id);
            its.map(|of| of.said.clone())
        };
        let mut all: Vec<(&str, Result<Verdict, String>)> = Vec::new();
        for review in &tried.reviews {
            let revision = tried.pair(review).map(|(_, revision)| revision.text.as_str());
            all.extend(revision.zip(of(&review.judged)));
        }
        all.extend(of(&tried.compared).map(|said| ("", said)));
        all
    }
    let (before, after) = (said(was, id), said(now, id));
    after.iter().any(|(pair, now)| {
        let was = before.iter().find(|(other, _)| other == pair);
        was.is_some_and(|(_, was)| was != now)
    })
}

fn differ(old: Option<&Written>, new: Option<&Written>) -> bool {
    let text = |written: Option<&Written>| {
        written.map(|written| match written {
            Ok(generation) => (generation.text.clone(), None),
            Err(fault) => (fault.raw.clone(), Some(fault.reason.clone())),
        })
    };
    text(old) != text(new)
}
