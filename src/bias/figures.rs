//! The figures of an audit: what is counted of judged pairs, each a pure function of them.
//!
//! A figure is undefined, not zero, where there is nothing to count. Verdicts that name no answer count for the shares
//! of ties and of parse failures, and as wrong where there is a truth; in all other figures they are left out.
//! The longer of two answers is the one with more characters, were it one more, as those count who publish such
//! shares; controls and the ledger call lengths equal that differ by a few tokens.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::measure;
use crate::judged::{JudgedPair, Judgement, Winner};

/// A value and the observations behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub value: f64,
    pub n: u64,
    /// Of a mean, the sum and the weights that it is made of; both add up over pairs.
    pub mean: Option<[f64; 2]>,
}

macro_rules! figures {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $label:literal, $measure:expr;)+) => {
        /// What an audit tells of a judge or a label set.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Figure {
            $($(#[$doc])* $variant,)+
        }

        impl Figure {
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name in JSON and in `--require`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// A few words for people.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// Whether it is a share of whole verdicts or pairs, so many of so many.
            pub fn counts(self) -> bool {
                matches!(
                    self,
                    Self::OrderConsistency
                        | Self::SamePosition
                        | Self::PreferA
                        | Self::GoldPreferLonger
                        | Self::Accuracy
                        | Self::AccuracyFirstOrder
                        | Self::AccuracySecondOrder
                        | Self::AccuracyBoth
                        | Self::AccuracyLonger
                        | Self::AccuracyShorter
                        | Self::Agreement
                        | Self::Ties
                        | Self::ParseFailures
                )
            }

            /// The figure of the pairs; `None` where there is nothing to count.
            pub fn measure(self, pairs: &[&JudgedPair]) -> Option<Measured> {
                match self { $(Self::$variant => $measure(pairs),)+ }
            }
        }
    };
}

figures! {
    /// Pairs judged in both orders to the same verdict, as LLMBar counts them: two ties are the same verdict, and so
    /// are two failures.
    OrderConsistency = "order_consistency", "same verdict in both orders", order_consistency;
    /// Pairs judged in both orders, an answer named in each, that name the same place both times.
    SamePosition = "same_position", "same place in both orders", same_position;
    /// Verdicts that name the answer at (A); one half is no liking for a place.
    PreferA = "prefer_a", "names (A)", prefer_a;
    /// Of the pairs of unequal length, those whose label, or whose verdicts, name the longer.
    PreferLonger = "prefer_longer", "prefers the longer", prefer_longer;
    /// The mean probability that the longer answer is better.
    LongerProbability = "longer_probability", "probability of the longer", longer_probability;
    /// The share of pairs in which people name the longer answer.
    GoldPreferLonger = "gold_prefer_longer", "people prefer the longer", gold_prefer_longer;
    /// How much more often the judge names the longer answer than people do, on pairs where people name one.
    ExcessLonger = "excess_longer", "prefers the longer more often than people", excess_longer;
    /// Of pairs that people call equal, those in which the longer is named.
    PreferLongerOnTies = "prefer_longer_on_ties", "prefers the longer of two equals", |pairs: &[&JudgedPair]| prefer_longer(&equal(pairs));
    /// The same as a mean probability.
    LongerProbabilityOnTies = "longer_probability_on_ties", "probability of the longer of two equals", |pairs: &[&JudgedPair]| longer_probability(&equal(pairs));
    /// Log-odds that an answer longer by the typical difference gains at equal quality, by the robust fit that `balance` makes.
    LengthEffect = "length_effect", "log-odds for the longer", length_effect;
    /// Pearson's correlation of the log-odds with the difference of lengths.
    LengthCorrelation = "length_correlation", "correlation with length", length_correlation;
    /// Right verdicts, where people name an answer; a tie or a failure is wrong.
    Accuracy = "accuracy", "right", |pairs: &[&JudgedPair]| accuracy(pairs, |_| true);
    AccuracyFirstOrder = "accuracy_first_order", "right in the first order", |pairs: &[&JudgedPair]| accuracy(pairs, |judgement| judgement.first_at_a == Some(true));
    AccuracySecondOrder = "accuracy_second_order", "right with the answers exchanged", |pairs: &[&JudgedPair]| accuracy(pairs, |judgement| judgement.first_at_a == Some(false));
    AccuracyBoth = "accuracy_both", "right in both orders", accuracy_both;
    AccuracyLonger = "accuracy_longer", "right when the longer is better", |pairs: &[&JudgedPair]| accuracy(&better_is(pairs, true), |_| true);
    AccuracyShorter = "accuracy_shorter", "right when the shorter is better", |pairs: &[&JudgedPair]| accuracy(&better_is(pairs, false), |_| true);
    /// Right labels, where people name an answer.
    LabelAccuracy = "label_accuracy", "label is right", label_accuracy;
    /// Agreement with people, ties included: of pairs that people call equal the judge should say so.
    Agreement = "agreement", "agrees with people, ties included", agreement;
    CalibrationError = "calibration_error", "calibration error (ECE)", calibration_error;
    Brier = "brier", "Brier score", brier;
    /// The share of pairs of one answer of the judge's own in which it names its own.
    PreferOwn = "prefer_own", "prefers its own", prefer_own;
    /// How much more often than people it does so.
    ExcessOwn = "excess_own", "prefers its own more often than people", excess_own;
    Ties = "ties", "ties", |pairs: &[&JudgedPair]| share_of(pairs, Winner::Tie);
    ParseFailures = "parse_failures", "verdicts that cannot be parsed", |pairs: &[&JudgedPair]| share_of(pairs, Winner::Unparsed);
}

impl std::str::FromStr for Figure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|figure| figure.name() == text)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::ALL.iter().map(|figure| figure.name()).collect();
                match crate::error::nearest(text, names.iter().copied()) {
                    Some(near) => format!("no figure is called `{text}`; did you mean `{near}`?"),
                    None => format!("no figure is called `{text}`; there are {}", names.join(", ")),
                }
            })
    }
}

/// The weighted mean of what is counted.
fn mean(values: impl Iterator<Item = (f64, f64)>) -> Option<Measured> {
    let (mut sum, mut weights, mut n) = (0.0, 0.0, 0);
    for (value, weight) in values {
        sum += weight * value;
        weights += weight;
        n += 1;
    }
    (n > 0 && weights > 0.0).then(|| Measured {
        value: sum / weights,
        n,
        mean: Some([sum, weights]),
    })
}

fn share(values: impl Iterator<Item = bool>) -> Option<Measured> {
    mean(values.map(|value| (f64::from(u8::from(value)), 1.0)))
}

/// What was said in the first and in the second order. Several verdicts of one order (several principles, several votes)
/// are one by the sum of their log-odds.
fn both_orders(pair: &JudgedPair) -> Option<(Winner, Winner)> {
    Some((in_order(pair, true)?, in_order(pair, false)?))
}

fn in_order(pair: &JudgedPair, first_at_a: bool) -> Option<Winner> {
    let mut said = pair
        .judgements
        .iter()
        .filter(|judgement| judgement.first_at_a == Some(first_at_a));
    let first = said.clone().next()?;
    if said.clone().count() == 1 {
        return Some(first.winner);
    }
    if said.all(|judgement| judgement.winner == Winner::Unparsed) {
        return Some(Winner::Unparsed);
    }
    let said = pair
        .judgements
        .iter()
        .filter(|judgement| judgement.first_at_a == Some(first_at_a));
    let log_odds: f64 = said.map(log_odds).sum();
    Some(match log_odds.total_cmp(&0.0) {
        Ordering::Greater => Winner::First,
        Ordering::Equal => Winner::Tie,
        Ordering::Less => Winner::Second,
    })
}

/// Log-odds of the first answer; of a judge that gives no probability, 1 for each verdict.
fn log_odds(judgement: &Judgement) -> f64 {
    match (judgement.winner, judgement.p_first) {
        (Winner::Unparsed, _) => 0.0,
        (_, Some(p)) => measure::logit(p),
        (Winner::First, None) => 1.0,
        (Winner::Second, None) => -1.0,
        (Winner::Tie, None) => 0.0,
    }
}

fn order_consistency(pairs: &[&JudgedPair]) -> Option<Measured> {
    share(pairs.iter().filter_map(|pair| {
        let (one, other) = both_orders(pair)?;
        Some(one == other)
    }))
}

fn same_position(pairs: &[&JudgedPair]) -> Option<Measured> {
    share(pairs.iter().filter_map(|pair| {
        let (one, other) = both_orders(pair)?;
        Some(one.names_first()? != other.names_first()?)
    }))
}

fn prefer_a(pairs: &[&JudgedPair]) -> Option<Measured> {
    let judgements = pairs.iter().flat_map(|pair| &pair.judgements);
    share(judgements.filter_map(|judgement| Some(judgement.first_at_a? == judgement.winner.names_first()?)))
}

/// Whether the label of a pair, or else the judgements, name the longer answer: 0 to 1, one half where they are divided.
fn names_longer(pair: &JudgedPair) -> Option<f64> {
    let longer = pair.first_is_longer()?;
    if let Some(label) = pair.label {
        return Some(match label.total_cmp(&0.0) {
            Ordering::Equal => 0.5,
            order => f64::from(u8::from(order.is_gt() == longer)),
        });
    }
    let named = pair
        .judgements
        .iter()
        .filter_map(|judgement| judgement.winner.names_first());
    share(named.map(|first| first == longer)).map(|share| share.value)
}

fn prefer_longer(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| Some((names_longer(pair)?, pair.weight))))
}

/// Probability that the first answer is better, by the label or the mean of the judgements.
fn probability(pair: &JudgedPair) -> Option<f64> {
    if let Some(label) = pair.label {
        return Some(measure::sigmoid(label));
    }
    let given = pair
        .judgements
        .iter()
        .filter_map(|judgement| Some((judgement.p_first?, 1.0)));
    mean(given).map(|mean| mean.value)
}

fn longer_probability(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| {
        let (longer, first) = (pair.first_is_longer()?, probability(pair)?);
        Some((if longer { first } else { 1.0 - first }, pair.weight))
    }))
}

fn gold_longer(pair: &JudgedPair) -> Option<bool> {
    Some(pair.gold?.names_first()? == pair.first_is_longer()?)
}

fn gold_prefer_longer(pairs: &[&JudgedPair]) -> Option<Measured> {
    share(pairs.iter().filter_map(|pair| gold_longer(pair)))
}

fn excess_longer(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| {
        let gold = f64::from(u8::from(gold_longer(pair)?));
        Some((names_longer(pair)? - gold, 1.0))
    }))
}

fn equal<'a>(pairs: &[&'a JudgedPair]) -> Vec<&'a JudgedPair> {
    let equal = pairs.iter().filter(|pair| pair.gold == Some(Winner::Tie));
    equal.copied().collect()
}

/// The pairs whose better answer is the longer, or the shorter.
fn better_is<'a>(pairs: &[&'a JudgedPair], longer: bool) -> Vec<&'a JudgedPair> {
    let found = pairs.iter().filter(|pair| gold_longer(pair) == Some(longer));
    found.copied().collect()
}

/// Log-odds of each pair with the difference of its lengths.
fn comparisons(pairs: &[&JudgedPair]) -> Vec<measure::Comparison> {
    let comparison = |pair: &&JudgedPair| {
        let preference = match pair.label {
            Some(label) => label,
            None => {
                let given = pair.judgements.iter().filter_map(|judgement| judgement.p_first);
                mean(given.map(|p| (measure::logit(p), 1.0)))?.value
            }
        };
        Some(measure::Comparison {
            preference,
            length_difference: f64::from(pair.lengths[0]) - f64::from(pair.lengths[1]),
            weight: pair.weight,
        })
    };
    pairs.iter().filter_map(comparison).collect()
}

fn length_effect(pairs: &[&JudgedPair]) -> Option<Measured> {
    let comparisons = comparisons(pairs);
    let effect = measure::effect(&comparisons)?;
    // Where no answers seem equally good, as in hard labels, a line through them says nothing of such.
    measure::told(&comparisons, effect).ok()?;
    Some(Measured {
        value: effect.at(measure::typical(&comparisons)),
        n: comparisons.len() as u64,
        mean: None,
    })
}

fn length_correlation(pairs: &[&JudgedPair]) -> Option<Measured> {
    let comparisons = comparisons(pairs);
    let value = measure::correlation(&comparisons)?;
    Some(Measured {
        value,
        n: comparisons.len() as u64,
        mean: None,
    })
}

fn accuracy(pairs: &[&JudgedPair], counts: impl Fn(&Judgement) -> bool) -> Option<Measured> {
    let judged = pairs.iter().filter_map(|pair| Some((pair, pair.gold?.names_first()?)));
    share(judged.flat_map(|(pair, gold)| {
        let counted = pair.judgements.iter().filter(|judgement| counts(judgement));
        counted
            .map(move |judgement| judgement.winner.names_first() == Some(gold))
            .collect::<Vec<_>>()
    }))
}

fn accuracy_both(pairs: &[&JudgedPair]) -> Option<Measured> {
    share(pairs.iter().filter_map(|pair| {
        let gold = Some(pair.gold?.names_first()?);
        let (one, other) = both_orders(pair)?;
        Some(one.names_first() == gold && other.names_first() == gold)
    }))
}

fn label_accuracy(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| {
        let (gold, label) = (pair.gold?.names_first()?, pair.label?);
        Some((f64::from(u8::from(label != 0.0 && (label > 0.0) == gold)), pair.weight))
    }))
}

fn agreement(pairs: &[&JudgedPair]) -> Option<Measured> {
    let judged = pairs.iter().filter_map(|pair| Some((pair, pair.gold?)));
    share(judged.flat_map(|(pair, gold)| pair.judgements.iter().map(move |judgement| judgement.winner == gold)))
}

fn share_of(pairs: &[&JudgedPair], winner: Winner) -> Option<Measured> {
    let judgements = pairs.iter().flat_map(|pair| &pair.judgements);
    share(judgements.map(|judgement| judgement.winner == winner))
}

/// Probability that the first answer is better, and whether it is.
fn forecasts<'a>(pairs: &'a [&JudgedPair]) -> impl Iterator<Item = (f64, bool)> + 'a {
    pairs
        .iter()
        .filter_map(|pair| Some((probability(pair)?, pair.gold?.names_first()?)))
}

/// Confidence in the answer that is more probable, and whether it is the better one: 1, 0, and one half where neither is
/// more probable.
pub fn confidences<'a>(pairs: &'a [&JudgedPair]) -> impl Iterator<Item = (f64, f64)> + 'a {
    forecasts(pairs).map(|(first, gold)| {
        let right = match first.total_cmp(&0.5) {
            Ordering::Equal => 0.5,
            order => f64::from(u8::from(order.is_gt() == gold)),
        };
        (first.max(1.0 - first), right)
    })
}

fn calibration_error(pairs: &[&JudgedPair]) -> Option<Measured> {
    let bins = super::calibration::bins(confidences(pairs));
    let n: u64 = bins.iter().map(|bin| bin.n).sum();
    (n > 0).then(|| Measured {
        value: super::calibration::error(&bins),
        n,
        mean: None,
    })
}

fn brier(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(forecasts(pairs).map(|(first, gold)| {
        let miss = first - f64::from(u8::from(gold));
        (miss * miss, 1.0)
    }))
}

/// Whether the judgements of a pair name the judge's own answer: 0 to 1.
fn names_own(pair: &JudgedPair) -> Option<f64> {
    let own = pair.own_first?;
    let named = pair
        .judgements
        .iter()
        .filter_map(|judgement| judgement.winner.names_first());
    share(named.map(|first| first == own)).map(|share| share.value)
}

fn prefer_own(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| Some((names_own(pair)?, 1.0))))
}

fn excess_own(pairs: &[&JudgedPair]) -> Option<Measured> {
    mean(pairs.iter().filter_map(|pair| {
        let gold = f64::from(u8::from(pair.gold?.names_first()? == pair.own_first?));
        Some((names_own(pair)? - gold, 1.0))
    }))
}
