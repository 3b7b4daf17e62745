//! What can be said of a judge, or of a label set, before it is relied on: figures with their intervals, what it is fit
//! for, and whether it meets what a user requires.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::calibration::{self, Bin};
use super::figures::{Figure, confidences};
use super::interval::{self, Estimate};
use crate::judged::JudgedPair;
use crate::seed::Seed;

/// The figures of some of the pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// What the pairs have in common: a principle, a tag; `all` for all of them.
    pub name: String,
    pub pairs: u64,
    pub judgements: u64,
    /// In the order of [`Figure::ALL`]; those that cannot be had are left out.
    #[serde(with = "by_name")]
    pub figures: Vec<(Figure, Estimate)>,
    /// Where there is a truth to be sure of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<Bin>,
    pub verdict: Verdict,
}

impl Section {
    pub fn get(&self, figure: Figure) -> Option<Estimate> {
        find(&self.figures, figure)
    }
}

fn find(figures: &[(Figure, Estimate)], figure: Figure) -> Option<Estimate> {
    figures
        .iter()
        .find(|(known, _)| *known == figure)
        .map(|(_, estimate)| *estimate)
}

/// Measures the pairs. Intervals come from resampling prompts.
pub fn section(name: &str, pairs: &[&JudgedPair], seed: Seed) -> Section {
    let clusters = interval::clusters(pairs.iter().map(|pair| pair.prompt.as_str()));
    let figures: Vec<(Figure, Estimate)> = Figure::ALL
        .into_iter()
        .filter_map(|figure| Some((figure, estimate(figure, pairs, &clusters, seed)?)))
        .collect();
    let bins = calibration::bins(confidences(pairs));
    Section {
        name: name.to_owned(),
        pairs: pairs.len() as u64,
        judgements: pairs.iter().map(|pair| pair.judgements.len() as u64).sum(),
        reliability: if bins.iter().any(|bin| bin.n > 0) {
            bins
        } else {
            Vec::new()
        },
        verdict: Verdict::of(
            &figures,
            pairs
                .iter()
                .filter(|pair| pair.label.is_some() || !pair.judgements.is_empty())
                .count(),
        ),
        figures,
    }
}

fn estimate(figure: Figure, pairs: &[&JudgedPair], clusters: &[Vec<usize>], seed: Seed) -> Option<Estimate> {
    let n = figure.measure(pairs)?.n;
    let mut sample: Vec<&JudgedPair> = Vec::with_capacity(pairs.len());
    let estimate = interval::estimate(clusters, seed.child(figure.name()), |drawn| {
        sample.clear();
        sample.extend(drawn.iter().map(|index| pairs[*index]));
        figure.measure(&sample).map(|measured| measured.value)
    })?;
    Some(Estimate { n, ..estimate })
}

/// Fewer judged pairs than this say nothing for certain.
const FEW: usize = 30;

/// A judge that fails to answer more often is not fit.
const MOST_FAILURES: f64 = 0.05;

/// A judge that changes its mind with the order more often is not fit. After a swap a large judge names the same place in 18 %
/// of pairs, a small one in 56 % (Lee et al. 2023, arXiv 2309.00267).
const LEAST_CONSISTENCY: f64 = 0.75;

/// How far from no preference for length the interval may begin.
const MOST_BIAS: f64 = 0.05;

/// Without a truth, liking the longer may be liking the better: people name the longer of two answers in 64 % (AlpacaEval, Li et
/// al. 2023).
const MOST_LONGER: f64 = 0.70;

/// Whether labels of this judge can be relied on, and why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub fit: bool,
    /// What speaks against it; where it is fit, what speaks for it.
    pub reasons: Vec<String>,
}

impl Verdict {
    fn of(figures: &[(Figure, Estimate)], judged: usize) -> Self {
        let against: Vec<String> = [
            too_few(judged),
            failures(figures),
            inconsistent(figures),
            length_bias(figures),
            no_better_than_chance(figures),
        ]
        .into_iter()
        .flatten()
        .collect();
        let told = [
            Figure::LabelAccuracy,
            Figure::Accuracy,
            Figure::OrderConsistency,
            Figure::PreferLonger,
        ];
        Self {
            fit: against.is_empty(),
            reasons: match against.is_empty() {
                false => against,
                true => told.into_iter().filter_map(|figure| shown(figures, figure)).collect(),
            },
        }
    }
}

fn shown(figures: &[(Figure, Estimate)], figure: Figure) -> Option<String> {
    Some(format!("{} {}", figure.label(), find(figures, figure)?))
}

fn too_few(judged: usize) -> Option<String> {
    match judged {
        0 => Some("no judge says anything here".into()),
        1..FEW => Some(format!("only {judged} judged pairs: too few to say")),
        _ => None,
    }
}

fn failures(figures: &[(Figure, Estimate)]) -> Option<String> {
    find(figures, Figure::ParseFailures).filter(|share| share.value > MOST_FAILURES)?;
    shown(figures, Figure::ParseFailures)
}

/// On pairs that are equally good the order may decide; where it is known which are not, those count.
fn inconsistent(figures: &[(Figure, Estimate)]) -> Option<String> {
    if find(figures, Figure::AccuracyBoth).is_some_and(|share| share.value >= LEAST_CONSISTENCY) {
        return None;
    }
    find(figures, Figure::OrderConsistency).filter(|share| share.value < LEAST_CONSISTENCY)?;
    shown(figures, Figure::OrderConsistency)
}

/// By the best evidence there is: pairs that are equally good, then people, then the share alone.
fn length_bias(figures: &[(Figure, Estimate)]) -> Option<String> {
    let away = |estimate: Estimate, from: f64| estimate.low > from + MOST_BIAS || estimate.high < from - MOST_BIAS;
    for (figure, from) in [(Figure::PreferLongerOnTies, 0.5), (Figure::ExcessLonger, 0.0)] {
        let Some(estimate) = find(figures, figure).filter(|estimate| estimate.n >= FEW as u64) else {
            continue;
        };
        return away(estimate, from).then(|| shown(figures, figure)).flatten();
    }
    let estimate = find(figures, Figure::PreferLonger).filter(|estimate| estimate.n >= FEW as u64)?;
    (estimate.low > MOST_LONGER || estimate.high < 1.0 - MOST_LONGER)
        .then(|| shown(figures, Figure::PreferLonger))
        .flatten()
}

fn no_better_than_chance(figures: &[(Figure, Estimate)]) -> Option<String> {
    let figure = [Figure::LabelAccuracy, Figure::Accuracy]
        .into_iter()
        .find(|figure| find(figures, *figure).is_some())?;
    let estimate = find(figures, figure)?;
    (estimate.low <= 0.5).then(|| format!("{} {estimate}, which may be chance", figure.label()))
}

/// What a user requires: `accuracy>=0.8`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requirement {
    figure: Figure,
    comparison: Comparison,
    threshold: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtMost,
    AtLeast,
    Below,
    Above,
}

impl Comparison {
    /// The longer signs first: `<=` begins with `<`.
    const SIGNS: [(&'static str, Self); 4] = [
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("<", Self::Below),
        (">", Self::Above),
    ];

    fn sign(self) -> &'static str {
        Self::SIGNS
            .iter()
            .find(|(_, known)| *known == self)
            .map_or("", |(sign, _)| sign)
    }

    fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::AtMost => value <= threshold,
            Self::AtLeast => value >= threshold,
            Self::Below => value < threshold,
            Self::Above => value > threshold,
        }
    }
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sign, comparison) = Comparison::SIGNS
            .into_iter()
            .find(|(sign, _)| text.contains(sign))
            .ok_or("expected a figure, <=, >=, < or >, and a number: accuracy>=0.8")?;
        let (figure, threshold) = text.split_once(sign).unwrap_or_default();
        let threshold: f64 = threshold
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(|| format!("`{}` is no number", threshold.trim()))?;
        Ok(Self {
            figure: figure.trim().parse()?,
            comparison,
            threshold,
        })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.figure.name(), self.comparison.sign(), self.threshold)
    }
}

impl Requirement {
    /// Why the section does not meet it; nothing if it does. A figure that was not measured meets nothing.
    pub fn missed(&self, section: &Section) -> Option<String> {
        match section.get(self.figure) {
            Some(estimate) if self.comparison.holds(estimate.value, self.threshold) => None,
            Some(estimate) => Some(format!("{self} is required, and it is {estimate}")),
            None => Some(format!("{self} is required, and nothing here measures it")),
        }
    }
}

/// Figures as a JSON object, in their order.
mod by_name {
    use serde::de::Error as _;
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Estimate, Figure};

    pub fn serialize<S: Serializer>(figures: &[(Figure, Estimate)], serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(figures.len()))?;
        for (figure, estimate) in figures {
            map.serialize_entry(figure.name(), estimate)?;
        }
        map.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Figure, Estimate)>, D::Error> {
        let map = std::collections::BTreeMap::<String, Estimate>::deserialize(deserializer)?;
        let figures: Result<Vec<(Figure, Estimate)>, String> = map
            .into_iter()
            .map(|(name, estimate)| Ok((name.parse()?, estimate)))
            .collect();
        let mut figures = figures.map_err(D::Error::custom)?;
        figures.sort_by_key(|(figure, _)| *figure);
        Ok(figures)
    }
}
