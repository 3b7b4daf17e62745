//! The page of `constitution diff`.

use std::fmt::Write as _;

use super::{Diff, Probed};
use crate::cli::output::grouped;
use crate::cli::paint::{Paint, clean, limited};
use crate::constitution::compare::{Change, Comparison, Reworded};
use crate::survey::effect::{Example, Side};

/// Characters of a text of an example.
const SHOWN: usize = 400;

/// What changed, principle by principle.
pub fn comparison(paint: Paint, args: &Diff, comparison: &Comparison) -> String {
    let mut text = String::new();
    for changed in &comparison.principles {
        let what = match &changed.change {
            Change::Added => "added".to_owned(),
            Change::Removed => "removed".to_owned(),
            Change::Renamed { from } => format!("renamed from {from}"),
            Change::Changed {
                reworded,
                weight,
                tags,
                rationale,
            } => {
                let parts = [
                    (!reworded.is_empty()).then(|| "reworded".to_owned()),
                    weight.map(|(old, new)| format!("weight {old} -> {new}")),
                    tags.as_ref()
                        .map(|(old, new)| format!("tags {} -> {}", old.join(", "), new.join(", "))),
                    rationale.then(|| "another rationale".to_owned()),
                ];
                parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        };
        let _ = writeln!(text, "{}  {}", paint.bold(&changed.id), clean(&what));
        if let Change::Changed { reworded, .. } = &changed.change {
            reworded
                .iter()
                .for_each(|reworded| text.push_str(&difference(paint, reworded)));
        }
    }
    for (part, old, new) in &comparison.parts {
        let weight = |weight: &Option<f64>| weight.map_or("none".to_owned(), |weight| weight.to_string());
        let _ = writeln!(
            text,
            "{}  weight in the mixture {} -> {}",
            paint.bold(part),
            weight(old),
            weight(new)
        );
    }
    for examples in &comparison.examples {
        let _ = writeln!(text, "{}  other few-shot examples", paint.bold(examples));
    }
    let unchanged = match comparison.unchanged {
        1 => "1 principle".to_owned(),
        count => format!("{count} principles"),
    };
    let _ = match (comparison.principles.is_empty(), comparison.same_meaning) {
        (true, true) => writeln!(text, "{} and {} mean the same: {unchanged}", args.old, args.new),
        (_, true) => writeln!(text, "{unchanged} unchanged; no model reads what changed"),
        _ => writeln!(text, "{unchanged} unchanged"),
    };
    text
}

fn difference(paint: Paint, reworded: &Reworded) -> String {
    let side = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
    let (old, new) = (side(&reworded.old), side(&reworded.new));
    indented(&format!("{:<9}{}", reworded.text, paint.difference(&old, &new)), 2)
}

/// What the edit did to the prompts.
pub fn probed(paint: Paint, probed: &Probed, examples: usize) -> String {
    let effect = &probed.effect;
    let mut text = format!(
        "\n{}\n  {} of {} revisions and {} of {} labels are others",
        paint.bold("probe"),
        effect.revisions_changed,
        effect.prompts,
        effect.labels_flipped,
        effect.pairs
    );
    if effect.rejects_changed > 0 {
        let _ = write!(
            text,
            "; {} rows came to nothing on one side only",
            effect.rejects_changed
        );
    }
    let _ = writeln!(
        text,
        "\n  {} requests under the old constitution; the new one asked {} more and shares {}\n",
        grouped(probed.asked_old),
        grouped(probed.asked_new),
        grouped(probed.shared)
    );
    text.push_str(&by_principle(probed));
    for (title, rows) in [("revisions", &effect.revisions), ("labels", &effect.labels)] {
        for example in rows.iter().take(examples) {
            text.push_str(&shown(paint, title, example));
        }
        if rows.len() > examples && examples > 0 {
            let _ = writeln!(
                text,
                "\n({} more changed {title}: --examples {})",
                rows.len() - examples,
                rows.len()
            );
        }
    }
    text
}

/// A table of the principles that changed something; the others are counted.
fn by_principle(probed: &Probed) -> String {
    let all = &probed.effect.by_principle;
    let touched = || {
        let touches =
            |of: &crate::survey::effect::ByPrinciple| of.revisions_changed + of.labels_flipped > 0 || of.moved > 0.0;
        all.iter().filter(move |(_, of)| touches(of))
    };
    if touched().next().is_none() {
        return String::new();
    }
    let width = touched()
        .map(|(id, _)| id.chars().count())
        .max()
        .unwrap_or(0)
        .max("principle".len());
    let mut text = format!(
        "  {:<width$}  {:>6}  {:>9}  {:>5}  {:>7}  {:>12}\n",
        "principle", "rounds", "revisions", "pairs", "labels", "p moved by"
    );
    for (id, of) in touched() {
        let moved = match of.pairs {
            0 => "-".to_owned(),
            pairs => format!("{:.3}", of.moved / pairs as f64),
        };
        let _ = writeln!(
            text,
            "  {id:<width$}  {:>6}  {:>9}  {:>5}  {:>7}  {moved:>12}",
            of.rounds, of.revisions_changed, of.pairs, of.labels_flipped
        );
    }
    let rest = all.len() - touched().count();
    if rest > 0 {
        let _ = writeln!(text, "  ({rest} more principles were drawn and changed nothing)");
    }
    text
}

fn shown(paint: Paint, title: &str, example: &Example) -> String {
    let mut text = String::new();
    let by = match example.principles.is_empty() {
        true => String::new(),
        false => format!(" · {}", example.principles.join(", ")),
    };
    let _ = writeln!(
        text,
        "\n{}",
        paint.bold(&format!("── {title}{by} · {}", clean(&example.id)))
    );
    let prompt = example
        .prompt
        .last()
        .map(|message| short(&message.content))
        .unwrap_or_default();
    text.push_str(&indented(&format!("prompt   {prompt}"), 2));
    match (&example.old, &example.new) {
        (Side::Answer(old), Side::Answer(new)) => {
            let difference = paint.difference(&short(old), &short(new));
            text.push_str(&indented(&format!("answer   {difference}"), 2));
        }
        (old, new) => {
            text.push_str(&indented(&format!("before   {}", side(old)), 2));
            text.push_str(&indented(&format!("after    {}", side(new)), 2));
        }
    }
    text
}

fn side(side: &Side) -> String {
    match side {
        Side::Answer(answer) => short(answer),
        Side::Label {
            chosen,
            rejected,
            p_chosen,
        } => format!("p {p_chosen:.3} for: {}\nover: {}", short(chosen), short(rejected)),
        Side::Reject(reason) => format!("nothing: {}", short(reason)),
    }
}

fn short(text: &str) -> String {
    limited(text.trim(), SHOWN)
}

/// Every line after `indent` spaces, later ones under the text of the first.
fn indented(text: &str, indent: usize) -> String {
    const LABEL: usize = 9;
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        let space = if index == 0 { indent } else { indent + LABEL };
        let _ = writeln!(out, "{:space$}{}", "", line.trim_end());
    }
    out
}
