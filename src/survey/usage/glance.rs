//! What a reader of the figures should look at first.

use serde::Serialize;

use super::report::UsageReport;
use crate::bias::interval::{Estimate, Interval};
use crate::constitution::{Constitution, Principle};

/// A principle does nothing where certainly fewer of its rounds than this change the answer.
const NOTHING: f64 = 0.02;

/// Two principles are at odds where they certainly disagree more often than this.
const AT_ODDS: f64 = 0.5;

/// Revisions lengthen where they add more than this share of what was there.
const LENGTHENS: f64 = 0.5;

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// Of the principles that critiques draw from, those that no round has.
    NeverDrawn { principles: Vec<String> },
    /// Of the principles that comparisons draw from, those that no vote has.
    NeverAsked { principles: Vec<String> },
    /// Certainly fewer than 2 % of its rounds change anything.
    ChangesNothing { principle: String, changed: Estimate },
    /// They are certainly for different answers more than half of the time.
    AtOdds {
        one: String,
        other: String,
        disagreement: Estimate,
    },
    /// Its revisions are more than half as long again as what they revise.
    Lengthens { principle: String, relative: Estimate },
    /// It was asked with other texts than the constitution has.
    OtherWording { principle: String, rounds: u64, votes: u64 },
}

pub fn findings(constitution: &Constitution, report: &UsageReport) -> Vec<Finding> {
    let mut found = Vec::new();
    let idle = |fits: fn(&Principle) -> bool, used: &dyn Fn(usize) -> bool| -> Vec<String> {
        let own = constitution.principles.iter().enumerate();
        own.filter(|(index, principle)| fits(principle) && principle.weight > 0.0 && !used(*index))
            .map(|(_, principle)| principle.id.clone())
            .collect()
    };
    if report.revising.is_some_and(|totals| totals.rounds > 0) {
        let used = |index: usize| report.principles[index].revising.as_ref().is_some_and(|u| u.drawn > 0);
        let principles = idle(|principle| principle.critique.is_some(), &used);
        found.extend((!principles.is_empty()).then_some(Finding::NeverDrawn { principles }));
    }
    if report.judging.is_some_and(|totals| totals.votes > 0) {
        let used = |index: usize| report.principles[index].judging.as_ref().is_some_and(|u| u.votes > 0);
        let principles = idle(|principle| principle.judge.is_some(), &used);
        found.extend((!principles.is_empty()).then_some(Finding::NeverAsked { principles }));
    }
    let revised = || {
        let principles = report.principles.iter();
        principles.filter_map(|principle| Some((principle.id.clone(), principle.revising.as_ref()?)))
    };
    found.extend(revised().filter_map(|(principle, used)| {
        let changed = used.changed.filter(|changed| changed.is_below(NOTHING))?;
        Some(Finding::ChangesNothing { principle, changed })
    }));
    found.extend(report.agreement.iter().filter_map(|pair| {
        let disagreement = complement(pair.agreement);
        disagreement.is_above(AT_ODDS).then(|| Finding::AtOdds {
            one: pair.one.clone(),
            other: pair.other.clone(),
            disagreement,
        })
    }));
    found.extend(revised().filter_map(|(principle, used)| {
        let relative = used.relative_change.filter(|relative| relative.value > LENGTHENS)?;
        Some(Finding::Lengthens { principle, relative })
    }));
    found.extend(
        report
            .principles
            .iter()
            .filter(|used| used.in_constitution)
            .filter_map(|used| {
                let rounds = used.revising.as_ref().map_or(0, |used| used.wordings.other);
                let votes = used.judging.as_ref().map_or(0, |used| used.wordings.other);
                (rounds + votes > 0).then(|| Finding::OtherWording {
                    principle: used.id.clone(),
                    rounds,
                    votes,
                })
            }),
    );
    found
}

fn complement(share: Estimate) -> Estimate {
    Estimate {
        value: 1.0 - share.value,
        interval: share.interval.map(|Interval { low, high }| Interval {
            low: 1.0 - high,
            high: 1.0 - low,
        }),
        n: share.n,
    }
}
