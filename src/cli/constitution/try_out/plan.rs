//! Which principles a trial asks about, and by which questions it judges.

use crate::constitution::Constitution;
use crate::error::{Error, Result, nearest};
use crate::seed::Seed;

/// Principles by their places in the constitution.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Those with a critique, under which answers are revised.
    pub critics: Vec<usize>,
    /// Those with a question alone, which judge the revisions of critics that have none, and how much each counts.
    pub pool: Vec<(usize, f32)>,
    /// Those with a question alone that judge no revision: they are asked about two answers.
    pub comparing: Vec<usize>,
    /// Principles that are left out because no run draws them.
    pub off: Vec<String>,
}

impl Plan {
    /// What to ask of the principles with these ids, or of all.
    pub fn make(constitution: &Constitution, ids: &[String]) -> Result<Self> {
        let all = &constitution.principles;
        for id in ids {
            if constitution.principle(id).is_none() {
                return Err(unknown(constitution, id));
            }
        }
        let chosen = |index: &usize| match ids.is_empty() {
            true => all[*index].weight > 0.0,
            false => ids.contains(&all[*index].id),
        };
        let selected: Vec<usize> = (0..all.len()).filter(chosen).collect();
        let off = all.iter().filter(|principle| ids.is_empty() && principle.weight <= 0.0);
        let only_asks = |index: &usize| all[*index].critique.is_none();
        let (questions, critics): (Vec<usize>, Vec<usize>) = selected.into_iter().partition(only_asks);
        let mut plan = Self {
            critics,
            off: off.map(|principle| principle.id.clone()).collect(),
            ..Self::default()
        };
        if !plan.critics.iter().any(|index| all[*index].judge.is_none()) {
            plan.comparing = questions;
            return Ok(plan);
        }
        let shares = shares(constitution);
        let share = |index: usize| {
            shares
                .iter()
                .find(|(id, _)| *id == all[index].id)
                .map(|(_, share)| *share)
        };
        let pool = match questions.is_empty() {
            true => (0..all.len()).filter(only_asks).collect(),
            false => questions,
        };
        plan.pool = pool
            .into_iter()
            .filter_map(|index| match share(index) {
                None if ids.contains(&all[index].id) => Some((index, 1.0)),
                share => Some((index, share?)),
            })
            .collect();
        Ok(plan)
    }

    /// Every principle that has a part in it.
    pub fn all(&self) -> impl Iterator<Item = usize> + '_ {
        let pool = self.pool.iter().map(|(index, _)| index);
        self.critics.iter().chain(pool).chain(&self.comparing).copied()
    }
}

/// How much each question counts where all are asked; none if there is no question.
fn shares(constitution: &Constitution) -> Vec<(&str, f32)> {
    // Nothing is drawn where all are.
    let all = constitution.draw_judges(Seed::new(0), usize::MAX).unwrap_or_default();
    all.into_iter()
        .map(|(principle, share)| (principle.id.as_str(), share))
        .collect()
}

fn unknown(constitution: &Constitution, id: &str) -> Error {
    let ids = || constitution.principles.iter().map(|principle| principle.id.as_str());
    let error = Error::config(format!("`{}` has no principle `{id}`", constitution.name));
    error.help(match nearest(id, ids()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its principles: {}", ids().collect::<Vec<_>>().join(", ")),
    })
}
