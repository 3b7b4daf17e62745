//! The ledger of length as a table: one row a stage, the same columns for labels, reward models and policies.

use serde::Serialize;

use super::figures::{MISSING, decimal, percent};
use crate::bias::ledger::{Against, Entry, Ledger};

/// The columns, as they are headed.
pub const COLUMNS: [&str; 7] = ["longer", "effect", "tokens", "by", "wins", "LC wins", "len gain"];

/// What the headings mean, in a sentence each.
pub const LEGEND: [&str; 7] = [
    "how often the longer of two answers is preferred",
    "what being longer gains at equal quality (log-odds, or reward)",
    "mean length of an answer",
    "how much longer than the baseline's answers",
    "how often it beats its baseline, by the judge",
    "the same at equal length",
    "share of its gain in reward that length alone explains",
];

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub cells: [String; 7],
    /// Intervals, for who asks.
    pub tip: String,
}

pub fn rows(ledger: &Ledger) -> Vec<Row> {
    ledger.entries.iter().map(row).collect()
}

fn row(entry: &Entry) -> Row {
    let signed = |value: Option<f64>, decimals| {
        value.map_or(MISSING.to_owned(), |value| {
            let text = decimal(value, decimals);
            if value > 0.0 { format!("+{text}") } else { text }
        })
    };
    let against = entry.against.as_ref();
    let of = |figure: fn(&Against) -> Option<f64>| against.and_then(figure);
    let effect = entry.length_effect.map(|effect| effect.value);
    let tip = [
        ("prefers the longer", entry.prefer_longer),
        ("effect at equal quality", entry.length_effect),
        ("correlation with length", entry.correlation),
        ("wins", against.and_then(|against| against.win_rate)),
        (
            "wins at equal length",
            against.and_then(|against| against.length_controlled_win_rate),
        ),
        ("gain in reward", against.and_then(|against| against.reward_gain)),
    ];
    let tip: Vec<String> = tip
        .into_iter()
        .filter_map(|(name, estimate)| Some(format!("{name} {}", estimate?)))
        .collect();
    Row {
        name: entry.name.clone(),
        cells: [
            percent(entry.prefer_longer.map(|share| share.value)),
            signed(effect, 2),
            entry
                .mean_length
                .map_or(MISSING.to_owned(), |length| decimal(length, 1)),
            signed(of(|against| against.longer_by.map(|by| by.value)), 1),
            percent(of(|against| against.win_rate.map(|rate| rate.value))),
            percent(of(|against| against.length_controlled_win_rate.map(|rate| rate.value))),
            percent(of(Against::share_of_length)),
        ],
        tip: tip.join(", "),
    }
}

/// What the ledger says of each policy that has a baseline.
pub fn readings(ledger: &Ledger) -> Vec<String> {
    let told = ledger.entries.iter().flat_map(|entry| {
        let all = entry.against.iter().chain(&entry.others);
        all.filter_map(|against| reading(entry, against))
    });
    told.collect()
}

fn reading(entry: &Entry, against: &Against) -> Option<String> {
    let measured = against.length_controlled_win_rate.is_some() || against.reward_gain.is_some();
    let by = against.longer_by.map_or(String::new(), |by| match by.value {
        tokens if tokens < 0.0 => format!(", {} tokens shorter", decimal(-tokens, 1)),
        tokens => format!(", {} tokens longer", decimal(tokens, 1)),
    });
    // Where there are several, the stage tells which.
    let stage = against.stage.as_ref().filter(|_| !entry.others.is_empty());
    let stage = stage.map_or(String::new(), |stage| format!(" ({stage})"));
    measured.then(|| {
        format!(
            "{} beside {}{stage}: {}{by}",
            entry.name,
            against.baseline,
            against.reading().as_str()
        )
    })
}
