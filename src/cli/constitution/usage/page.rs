//! The page of `constitution show --usage`: aligned tables, at most [`WIDTH`] columns, no colour.

use super::Read;
use crate::bias::interval::{Estimate, Interval};
use crate::cli::output::{counted, grouped};
use crate::cli::paint::clean;
use crate::constitution::Constitution;
use crate::survey::usage::{Finding, JudgingUse, PrincipleUsage, RevisingUse, UsageReport, Wordings};

/// No line is longer.
const WIDTH: usize = 100;

/// Longer names of principles are cut.
const NAME: usize = 22;

/// Columns of the agreement that stand side by side.
const ABREAST: usize = 6;

/// What stands for a figure that there is not.
const NONE: &str = "–";

pub fn usage(constitution: &Constitution, datasets: &[Read], report: &UsageReport) -> String {
    let mut text = format!("{} {}\n", constitution.name, constitution.version);
    for read in datasets {
        text += &format!("{}: {} {}", clean(&read.reference), grouped(read.rows), read.kind);
        text += if read.running { ", not complete\n" } else { "\n" };
    }
    text += "\nAt a glance\n";
    if report.findings.is_empty() {
        text += "  nothing stands out\n";
    }
    for finding in &report.findings {
        text += &wrapped(&told(finding));
    }
    text += &revising(report);
    text += &judging(report);
    text += &agreement(report);
    if report.revising.is_some() || report.judging.is_some() {
        text += "\n[a, b] are 95 % intervals; rows of one prompt count as one observation where they agree.\n";
    }
    text
}

/// Lines of at most [`WIDTH`] columns, the first indented less than the others.
fn wrapped(text: &str) -> String {
    let mut lines = String::from(" ");
    let mut columns = 1;
    for word in text.split(' ') {
        if columns + 1 + width(word) > WIDTH {
            lines += "\n   ";
            columns = 3;
        }
        lines += " ";
        lines += word;
        columns += 1 + width(word);
    }
    lines + "\n"
}

fn told(finding: &Finding) -> String {
    let names = |principles: &[String]| principles.iter().map(|id| name(id)).collect::<Vec<_>>().join(", ");
    match finding {
        Finding::NeverDrawn { principles } => format!("never drawn: {}", names(principles)),
        Finding::NeverAsked { principles } => format!("never asked: {}", names(principles)),
        Finding::ChangesNothing { principle, changed } => format!(
            "{} changes nothing: {} of its {} rounds",
            name(principle),
            percent(Some(*changed)),
            grouped(changed.n)
        ),
        Finding::AtOdds {
            one,
            other,
            disagreement,
        } => format!(
            "{} and {} disagree on {} of {} pairs",
            name(one),
            name(other),
            percent(Some(*disagreement)),
            grouped(disagreement.n)
        ),
        Finding::Lengthens { principle, relative } => {
            format!(
                "{} lengthens answers by {}",
                name(principle),
                signed_percent(Some(*relative))
            )
        }
        Finding::OtherWording {
            principle,
            rounds,
            votes,
        } => format!(
            "{} was worded otherwise in {} and {}",
            name(principle),
            counted(*rounds, "round"),
            counted(*votes, "vote")
        ),
    }
}

fn revising(report: &UsageReport) -> String {
    let Some(totals) = report.revising else {
        return String::new();
    };
    let rows: Vec<(String, Vec<String>)> = used(report, |principle| principle.revising.as_ref(), |used| used.drawn)
        .map(|(name, used)| (name, revising_cells(used, totals.rounds)))
        .collect();
    let mut text = format!(
        "\nRevisions: {} in {}\n",
        counted(totals.rounds, "round"),
        counted(totals.rows, "row")
    );
    text += &table(
        &["drawn", "share", "changed", "characters", "relative", "reworded"],
        &[7, 8, 19, 11, 19, 9],
        &rows,
    );
    text += "  characters: added by a round; reworded: rounds under other texts than the constitution's\n";
    text + &unknown(report, "rounds", |principle| {
        principle.revising.as_ref().map(|used| used.wordings)
    })
}

fn revising_cells(used: &RevisingUse, rounds: u64) -> Vec<String> {
    vec![
        grouped(used.drawn),
        format!("{:.1} %", used.drawn as f64 / rounds.max(1) as f64 * 100.0),
        percent(used.changed),
        signed(used.length_change),
        signed_percent(used.relative_change),
        grouped(used.wordings.other),
    ]
}

fn judging(report: &UsageReport) -> String {
    let Some(totals) = report.judging else {
        return String::new();
    };
    let rows: Vec<(String, Vec<String>)> = used(report, |principle| principle.judging.as_ref(), |used| used.votes)
        .map(|(name, used)| (name, judging_cells(used)))
        .collect();
    let mut text = format!(
        "\nPreferences: {} on {}\n",
        counted(totals.votes, "vote"),
        counted(totals.rows, "pair")
    );
    text += &table(
        &[
            "votes",
            "pairs",
            "with the label",
            "ties",
            "unread",
            "first",
            "characters",
            "reworded",
        ],
        &[7, 7, 19, 6, 7, 6, 11, 9],
        &rows,
    );
    text += "  first: probability of the answer shown first; characters: by which the preferred is longer\n";
    text += &unknown(report, "votes", |principle| {
        principle.judging.as_ref().map(|used| used.wordings)
    });
    if totals.without_votes > 0 {
        text += &format!("  {} without votes\n", counted(totals.without_votes, "pair"));
    }
    text + &deciding(report)
}

fn judging_cells(used: &JudgingUse) -> Vec<String> {
    vec![
        grouped(used.votes),
        grouped(used.pairs),
        percent(used.with_label),
        grouped(used.ties),
        grouped(used.unparsed),
        used.first_shown
            .map_or_else(|| NONE.to_owned(), |first| format!("{:.2}", first.value)),
        signed(used.length_difference),
        grouped(used.wordings.other),
    ]
}

/// Whose votes decide: told apart for pairs that one principle alone was asked about, where that says nothing.
fn deciding(report: &UsageReport) -> String {
    let judged = || {
        report
            .principles
            .iter()
            .filter_map(|principle| principle.judging.as_ref())
    };
    let alone: u64 = judged().map(|used| used.pairs_alone).sum();
    let mut text = String::new();
    if alone > 0 {
        text += &format!(
            "  {} had votes of one principle only, which decides them\n",
            counted(alone, "pair")
        );
    }
    let Some(totals) = report.judging.filter(|totals| totals.recounted > 0) else {
        return text;
    };
    text += &format!(
        "\nDecided by one: the label would be another without its votes ({} of several principles)\n",
        counted(totals.recounted, "pair")
    );
    let rows: Vec<(String, Vec<String>)> = report
        .principles
        .iter()
        .filter_map(|principle| {
            let decisive = principle.judging.as_ref()?.decisive?;
            let decided = (decisive.value * decisive.n as f64).round() as u64;
            let cells = vec![grouped(decisive.n), grouped(decided), percent(Some(decisive))];
            Some((name(&principle.id), cells))
        })
        .collect();
    text += &table(&["pairs", "decided", "share"], &[9, 9, 19], &rows);
    if totals.not_recounted > 0 {
        text += &format!(
            "  left out: {} whose label does not follow from the votes\n",
            counted(totals.not_recounted, "pair")
        );
    }
    text
}

/// The matrix of agreements, some columns at a time.
fn agreement(report: &UsageReport) -> String {
    if report.agreement.is_empty() {
        return String::new();
    }
    let ids: Vec<&str> = report
        .principles
        .iter()
        .map(|principle| principle.id.as_str())
        .filter(|id| report.agreement.iter().any(|pair| pair.one == *id || pair.other == *id))
        .collect();
    let cell = |one: &str, other: &str| {
        let found = report
            .agreement
            .iter()
            .find(|pair| (pair.one == one && pair.other == other) || (pair.one == other && pair.other == one));
        found.map_or_else(
            || if one == other { String::new() } else { NONE.to_owned() },
            |pair| format!("{:.0} % {}", pair.agreement.value * 100.0, grouped(pair.agreement.n)),
        )
    };
    let mut text = "\nAgreement: for the same answer, of the pairs on which both take a side (how many)\n".to_owned();
    for (block, columns) in ids.chunks(ABREAST).enumerate() {
        let numbers: Vec<String> = (0..columns.len())
            .map(|index| (block * ABREAST + index + 1).to_string())
            .collect();
        let rows: Vec<(String, Vec<String>)> = ids
            .iter()
            .zip(1..)
            .map(|(one, number)| {
                let cells = columns.iter().map(|other| cell(one, other)).collect();
                (format!("{number:>2} {}", name(one)), cells)
            })
            .collect();
        let header: Vec<&str> = numbers.iter().map(String::as_str).collect();
        text += &table(&header, &vec![12; header.len()], &rows);
    }
    text
}

/// The principles that have the part, those that are in neither text nor rows left out.
fn used<'r, T: 'r>(
    report: &'r UsageReport,
    part: impl Fn(&'r PrincipleUsage) -> Option<&'r T>,
    count: impl Fn(&T) -> u64,
) -> impl Iterator<Item = (String, &'r T)> {
    report.principles.iter().filter_map(move |principle| {
        let used = part(principle)?;
        let mark = if principle.in_constitution { "" } else { " *" };
        (count(used) > 0).then(|| (name(&principle.id) + mark, used))
    })
}

/// What the table cannot tell: rows that do not say with which texts they were asked, and principles of others.
fn unknown(report: &UsageReport, what: &str, wordings: impl Fn(&PrincipleUsage) -> Option<Wordings>) -> String {
    let found = || {
        report
            .principles
            .iter()
            .filter_map(|principle| Some((principle, wordings(principle)?)))
    };
    let unknown: u64 = found().map(|(_, wordings)| wordings.unknown).sum();
    let mut text = String::new();
    if unknown > 0 {
        text += &format!(
            "  {} {what} do not say how the principle was worded: they are older than schema version 3\n",
            grouped(unknown)
        );
    }
    let foreign = found().any(|(principle, wordings)| !principle.in_constitution && wordings != Wordings::default());
    if foreign {
        text += "  * not in the constitution\n";
    }
    text
}

fn table(header: &[&str], widths: &[usize], rows: &[(String, Vec<String>)]) -> String {
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let mut line = format!("  {name}{}", " ".repeat(names - width(name).min(names)));
        for (cell, columns) in cells.zip(widths) {
            // Never without a space between two.
            line += &" ".repeat(columns.saturating_sub(width(cell)).max(1));
            line += cell;
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line("", &mut header.iter().copied());
    for (name, cells) in rows {
        text += &line(name, &mut cells.iter().map(String::as_str));
    }
    text
}

fn name(id: &str) -> String {
    let id = clean(id).replace(['\n', '\t'], " ");
    match id.chars().count() {
        0 => "(not recorded)".to_owned(),
        length if length > NAME => id.chars().take(NAME - 1).chain(['…']).collect(),
        _ => id,
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// `61.4 % [56, 66]`.
fn percent(share: Option<Estimate>) -> String {
    share.map_or_else(
        || NONE.to_owned(),
        |Estimate { value, interval, .. }| {
            let value = format!("{:.1} %", value * 100.0);
            match interval {
                Some(Interval { low, high }) => format!("{value} [{:.0}, {:.0}]", low * 100.0, high * 100.0),
                None => value,
            }
        },
    )
}

fn signed_percent(share: Option<Estimate>) -> String {
    share.map_or_else(
        || NONE.to_owned(),
        |Estimate { value, interval, .. }| {
            let value = format!("{:+.0} %", value * 100.0);
            match interval {
                Some(Interval { low, high }) => format!("{value} [{:+.0}, {:+.0}]", low * 100.0, high * 100.0),
                None => value,
            }
        },
    )
}

fn signed(mean: Option<Estimate>) -> String {
    mean.map_or_else(|| NONE.to_owned(), |mean| format!("{:+.1}", mean.value))
}
