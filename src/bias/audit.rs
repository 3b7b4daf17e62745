//! What can be said of a judge, or of a label set, before it is relied on: figures with their intervals, what it is fit
//! for, and whether it meets what a user requires.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::calibration::{self, Bin};
use super::figures::{Figure, confidences};
use super::interval::{self, Estimate, LEAST_CLUSTERS, RESAMPLES};
use crate::error::Result;
use crate::judged::JudgedPair;
use crate::progress::Progress;
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

/// Rounds that `progress` hears of for one section.
pub const ROUNDS: u64 = (Figure::ALL.len() * RESAMPLES) as u64;

/// Measures the pairs. Intervals come from resampling prompts.
pub fn section(name: &str, pairs: &[&JudgedPair], seed: Seed, progress: &dyn Progress) -> Result<Section> {
    let clusters = interval::clusters(pairs.iter().map(|pair| pair.prompt.as_str()));
    let mut figures = Vec::new();
    for figure in Figure::ALL {
        if let Some(estimate) = estimate(figure, pairs, &clusters, seed, progress)? {
            figures.push((figure, estimate));
        }
    }
    let bins = calibration::bins(confidences(pairs));
    Ok(Section {
        name: name.to_owned(),
        pairs: pairs.len() as u64,
        judgements: pairs.iter().map(|pair| pair.judgements.len() as u64).sum(),
        reliability: if bins.iter().any(|bin| bin.n > 0) {
            bins
        } else {
            Vec::new()
        },
        verdict: Verdict::of(&figures, Judged::of(pairs, clusters.len())),
        figures,
    })
}

fn estimate(
    figure: Figure,
    pairs: &[&JudgedPair],
    clusters: &[Vec<usize>],
    seed: Seed,
    progress: &dyn Progress,
) -> Result<Option<Estimate>> {
    let Some(measured) = figure.measure(pairs) else {
        progress.advance(RESAMPLES as u64);
        return Ok(None);
    };
    let seed = seed.child(figure.name());
    let of = |indices: &[usize]| {
        let sample: Vec<&JudgedPair> = indices.iter().map(|index| pairs[*index]).collect();
        figure.measure(&sample)
    };
    let estimate = match measured.mean {
        // Every cluster is counted once, not in each resample again.
        Some(_) => {
            let parts: Vec<[f64; 2]> = clusters
                .iter()
                .map(|cluster| of(cluster).and_then(|part| part.mean).unwrap_or_default())
                .collect();
            let whole = interval::clusters(0..clusters.len());
            interval::estimate(&whole, seed, progress, |drawn| {
                let [sum, weights] = drawn
                    .iter()
                    .map(|cluster| parts[*cluster])
                    .fold([0.0; 2], |[sum, weights], [more, weight]| {
                        [sum + more, weights + weight]
                    });
                (weights > 0.0).then(|| sum / weights)
            })?
        }
        None => interval::estimate(clusters, seed, progress, |drawn| {
            of(drawn).map(|measured| measured.value)
        })?,
    };
    Ok(estimate.map(|estimate| Estimate {
        value: measured.value,
        n: measured.n,
        ..estimate
    }))
}

/// Fewer judged pairs than this say nothing for certain.
const FEW: usize = 30;

/// A judge that fails to answer more often is not fit.
const MOST_FAILURES: f64 = 0.05;

/// A judge that changes its mind with the order more often is not fit. After a swap a large judge names the same place in 18 %
/// of pairs, a small one in 56 % (Lee et al. 2023, arXiv 2309.00267).
const LEAST_CONSISTENCY: f64 = 0.75;

/// A judge that names an answer less often gives few labels, and its figures tell of few.
const MOST_TIES: f64 = 0.5;

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

/// What the figures rest on.
#[derive(Clone, Copy)]
struct Judged {
    /// Pairs of which a judge said something.
    pairs: usize,
    /// Those of them whose answers were rated alone.
    alone: usize,
    prompts: usize,
}

impl Judged {
    fn of(pairs: &[&JudgedPair], prompts: usize) -> Self {
        let count = |of: fn(&JudgedPair) -> bool| pairs.iter().filter(|pair| of(pair)).count();
        Self {
            pairs: count(|pair| pair.label.is_some() || !pair.judgements.is_empty()),
            alone: count(|pair| pair.judgements.iter().any(|judgement| judgement.alone)),
            prompts,
        }
    }
}

impl Verdict {
    fn of(figures: &[(Figure, Estimate)], judged: Judged) -> Self {
        let against: Vec<String> = [
            too_few(judged),
            failures(figures),
            ties(figures),
            inconsistent(figures),
            order_unknown(figures, judged),
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

fn too_few(judged: Judged) -> Option<String> {
    match judged.pairs {
        0 => Some("no judge says anything here".into()),
        1 => Some("only one judged pair: too few to say".into()),
        few @ 2..FEW => Some(format!("only {few} judged pairs: too few to say")),
        _ if judged.prompts == 1 => Some("all pairs are of one prompt: too few to say".into()),
        _ if judged.prompts < LEAST_CLUSTERS => {
            Some(format!("the pairs are of {} prompts: too few to say", judged.prompts))
        }
        _ => None,
    }
}

fn failures(figures: &[(Figure, Estimate)]) -> Option<String> {
    find(figures, Figure::ParseFailures).filter(|share| share.value > MOST_FAILURES)?;
    shown(figures, Figure::ParseFailures)
}

fn ties(figures: &[(Figure, Estimate)]) -> Option<String> {
    find(figures, Figure::Ties).filter(|share| share.value > MOST_TIES)?;
    shown(figures, Figure::Ties)
}

/// On pairs that are equally good the order may decide; where it is known which are not, those count.
fn inconsistent(figures: &[(Figure, Estimate)]) -> Option<String> {
    if find(figures, Figure::AccuracyBoth).is_some_and(|share| share.value >= LEAST_CONSISTENCY) {
        return None;
    }
    find(figures, Figure::OrderConsistency).filter(|share| share.value < LEAST_CONSISTENCY)?;
    shown(figures, Figure::OrderConsistency)
}

/// A judge that always names the first place is as consistent as any, if the places are never exchanged. What people say
/// would show that too. Answers that were rated alone have no order.
fn order_unknown(figures: &[(Figure, Estimate)], judged: Judged) -> Option<String> {
    let enough = |figure| find(figures, figure).is_some_and(|estimate| estimate.n >= FEW as u64);
    let shown = [Figure::OrderConsistency, Figure::Accuracy, Figure::LabelAccuracy];
    let in_order = judged.pairs >= FEW && 2 * judged.alone < judged.pairs;
    (in_order && !shown.into_iter().any(enough)).then(|| {
        "nothing shows that the order does not decide: it takes verdicts in both orders, or what people say".into()
    })
}

/// By the best evidence there is: pairs that are equally good, then people, then the share alone.
fn length_bias(figures: &[(Figure, Estimate)]) -> Option<String> {
    let away =
        |estimate: Estimate, from: f64| estimate.is_above(from + MOST_BIAS) || estimate.is_below(from - MOST_BIAS);
    for (figure, from) in [(Figure::PreferLongerOnTies, 0.5), (Figure::ExcessLonger, 0.0)] {
        let Some(estimate) = find(figures, figure).filter(|estimate| estimate.n >= FEW as u64) else {
            continue;
        };
        return away(estimate, from).then(|| shown(figures, figure)).flatten();
    }
    let estimate = find(figures, Figure::PreferLonger).filter(|estimate| estimate.n >= FEW as u64)?;
    (estimate.is_above(MOST_LONGER) || estimate.is_below(1.0 - MOST_LONGER))
        .then(|| shown(figures, Figure::PreferLonger))
        .flatten()
}

fn no_better_than_chance(figures: &[(Figure, Estimate)]) -> Option<String> {
    let figure = [Figure::LabelAccuracy, Figure::Accuracy]
        .into_iter()
        .find(|figure| find(figures, *figure).is_some())?;
    let estimate = find(figures, figure)?;
    (!estimate.is_above(0.5)).then(|| format!("{} {estimate}, which may be chance", figure.label()))
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
    /// Why the section does not meet it; nothing if it does. A figure that was not measured meets nothing, and neither
    /// does one without an interval.
    pub fn missed(&self, section: &Section) -> Option<String> {
        match section.get(self.figure) {
            Some(estimate) if estimate.interval.is_none() => Some(format!(
                "{self} is required, and {:.2} rests on too few prompts for an interval, so nothing can be said",
                estimate.value
            )),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judged::{Judgement, Winner};
    use crate::progress::Silent;

    fn judgement(first_at_a: Option<bool>, winner: Winner) -> Judgement {
        Judgement {
            first_at_a,
            winner,
            p_first: None,
            principle_id: String::new(),
            alone: false,
        }
    }

    /// Forty pairs, each of its own prompt, judged in both orders; the better answer is now the longer, now the shorter.
    fn pairs(judge: impl Fn(Winner) -> Vec<Judgement>) -> Vec<JudgedPair> {
        (0..40)
            .map(|index: u32| {
                let better = if index.is_multiple_of(2) {
                    Winner::First
                } else {
                    Winner::Second
                };
                let mut pair = JudgedPair::new(index.to_string(), index.to_string(), [10 + index / 2 % 2, 10]);
                pair.judgements = judge(better);
                pair
            })
            .collect()
    }

    fn both(winner: Winner) -> Vec<Judgement> {
        [Some(true), Some(false)].map(|order| judgement(order, winner)).to_vec()
    }

    fn with_gold(mut pairs: Vec<JudgedPair>) -> Vec<JudgedPair> {
        for (index, pair) in pairs.iter_mut().enumerate() {
            pair.gold = Some([Winner::First, Winner::Second][index % 2]);
        }
        pairs
    }

    fn measured(pairs: &[JudgedPair]) -> Section {
        section("all", &pairs.iter().collect::<Vec<_>>(), Seed::new(1), &Silent).unwrap()
    }

    #[track_caller]
    fn unfit(pairs: &[JudgedPair], because: &str) {
        let verdict = measured(pairs).verdict;
        assert!(
            !verdict.fit && verdict.reasons.iter().any(|reason| reason.contains(because)),
            "{verdict:?}"
        );
    }

    /// Catches: a judge called fit of which nothing is known, because nothing is known against it.
    #[test]
    fn what_says_nothing_is_not_fit() {
        let good = pairs(both);
        assert!(measured(&good).verdict.fit, "{:?}", measured(&good).verdict);
        unfit(&pairs(|_| both(Winner::Tie)), "ties 1.00");
        // In one order: only what people say can tell.
        let once = || pairs(|better| vec![judgement(None, better)]);
        unfit(&once(), "nothing shows that the order does not decide");
        assert!(measured(&with_gold(once())).verdict.fit);
        // Labels from elsewhere have no votes.
        let labelled = || {
            let mut pairs = pairs(|_| Vec::new());
            for (index, pair) in pairs.iter_mut().enumerate() {
                pair.label = Some([1.0, -1.0][index % 2]);
            }
            pairs
        };
        unfit(&labelled(), "nothing shows that the order does not decide");
        assert!(measured(&with_gold(labelled())).verdict.fit);
        unfit(&good[..1], "only one judged pair");
        // Ratings of each answer alone have no order.
        let alone = |better| {
            vec![Judgement {
                alone: true,
                ..judgement(None, better)
            }]
        };
        assert!(measured(&pairs(alone)).verdict.fit);
    }

    /// Catches: figures of one prompt acted on as if they were certain, because the interval has no width.
    #[test]
    fn figures_of_one_prompt_decide_nothing() {
        let mut one = with_gold(pairs(both));
        one.iter_mut().for_each(|pair| pair.prompt = "the same".into());
        unfit(&one, "all pairs are of one prompt");
        unfit(&one, "may be chance");
        let section = measured(&one);
        let accuracy = section.get(Figure::Accuracy).unwrap();
        assert_eq!((accuracy.value, accuracy.interval), (1.0, None));
        let missed = |section: &Section| "accuracy>=0.8".parse::<Requirement>().unwrap().missed(section);
        assert!(
            missed(&section).unwrap().contains("too few prompts"),
            "{:?}",
            missed(&section)
        );
        assert_eq!(missed(&measured(&with_gold(pairs(both)))), None);
    }

    /// Catches: the first of several votes taken for all of its order.
    #[test]
    fn several_votes_of_an_order_are_one() {
        let vote = |order, winner, p_first| Judgement {
            p_first: Some(p_first),
            ..judgement(Some(order), winner)
        };
        let (first, second) = (Winner::First, Winner::Second);
        // The first votes disagree; all votes of each order together are for the first answer.
        let said = |_| {
            vec![
                vote(true, first, 0.9),
                vote(true, second, 0.4),
                vote(false, second, 0.4),
                vote(false, first, 0.9),
            ]
        };
        let section = measured(&pairs(said));
        assert_eq!(section.get(Figure::OrderConsistency).unwrap().value, 1.0);
        assert_eq!(section.get(Figure::SamePosition).unwrap().value, 0.0);
        let verdicts = |order, winners: [Winner; 3]| winners.map(|winner| judgement(Some(order), winner));
        let unparsed = Winner::Unparsed;
        let said = |_| {
            [
                verdicts(true, [unparsed; 3]),
                verdicts(false, [first, second, unparsed]),
            ]
            .concat()
        };
        // Failures alone are a failure, and what is divided is a tie.
        assert_eq!(measured(&pairs(said)).get(Figure::OrderConsistency).unwrap().value, 0.0);
    }

    /// Catches: a judge that cannot decide called right, or wrong, by the side at which the better answer stands; a Brier score
    /// of 0 for it.
    #[test]
    fn who_cannot_decide_is_half_right() {
        let said = |_| {
            vec![Judgement {
                p_first: Some(0.5),
                ..judgement(None, Winner::Tie)
            }]
        };
        let section = measured(&with_gold(pairs(said)));
        assert_eq!(section.reliability[0].accuracy, 0.5);
        assert_eq!(section.get(Figure::CalibrationError).unwrap().value, 0.0);
        assert_eq!(section.get(Figure::Brier).unwrap().value, 0.25);
    }

    /// Catches: log-odds for the longer made up from labels none of which is anywhere near a tie.
    #[test]
    fn hard_labels_have_no_effect_of_length() {
        let labelled = |strength: f64| {
            let mut pairs = pairs(|_| Vec::new());
            for (index, pair) in pairs.iter_mut().enumerate() {
                pair.lengths = [10 + index as u32, 10];
                pair.label = Some(if index % 3 > 0 { strength } else { 0.1 });
            }
            pairs
        };
        assert!(measured(&labelled(1.0)).get(Figure::LengthEffect).is_some());
        let mut hard = labelled(15.9);
        hard.iter_mut()
            .for_each(|pair| pair.label = Some(if pair.label > Some(1.0) { 15.9 } else { -15.9 }));
        assert_eq!(measured(&hard).get(Figure::LengthEffect), None);
    }
}
