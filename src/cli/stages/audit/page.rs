//! An audit as people read it in a terminal.

use std::fmt::Write as _;

use super::Audited;
use crate::bias::audit::Section;
use crate::bias::causal::Effect;
use crate::bias::interval::Estimate;

/// Bins with fewer verdicts say nothing.
const FEW: u64 = 5;

/// The verdict on all pairs, in a line.
pub fn note(audited: &Audited) -> String {
    audited.sections.first().map_or_else(String::new, verdict)
}

fn verdict(section: &Section) -> String {
    let fit = match (section.verdict.fit, section.name.as_str()) {
        (true, "all") => "fit to label".to_owned(),
        (false, "all") => "not fit to label".to_owned(),
        (true, name) => format!("fit to label {name}"),
        (false, name) => format!("not fit to label {name}"),
    };
    match section.verdict.reasons.is_empty() {
        true => fit,
        false => format!("{fit}: {}", section.verdict.reasons.join(", ")),
    }
}

pub fn page(audited: &Audited) -> String {
    let mut text = format!("{}\n", audited.subject);
    // Writing to a String cannot fail.
    if let Some(all) = audited.sections.first() {
        let _ = writeln!(text, "{} pairs, {} verdicts\n", all.pairs, all.judgements);
        left_out(&mut text, audited);
        for (figure, estimate) in &all.figures {
            let _ = writeln!(text, "  {:<42} {}", figure.label(), shown(*estimate, figure.counts()));
        }
        reliability(&mut text, all);
    }
    for effect in &audited.changes {
        changed(&mut text, effect);
    }
    text.push('\n');
    for section in &audited.sections {
        let _ = writeln!(text, "{}", verdict(section));
    }
    text
}

/// What was given and takes no part.
fn left_out(text: &mut String, audited: &Audited) {
    let rows = |count: u64| if count == 1 { "row" } else { "rows" };
    if audited.unread > 0 {
        let first = audited.first_unread.as_deref();
        let first = first.map_or(String::new(), |reason| format!("; the first: {reason}"));
        let _ = writeln!(
            text,
            "{} {} could not be read{first}\n",
            audited.unread,
            rows(audited.unread)
        );
    }
    let left_out = [
        (
            audited.unmatched,
            rows(audited.unmatched),
            "for only one of the two models has an answer to the prompt",
        ),
        (
            audited.single,
            rows(audited.single),
            "for a comparison needs two answers",
        ),
        (
            audited.identical,
            if audited.identical == 1 { "pair" } else { "pairs" },
            "for both answers are the same",
        ),
    ];
    for (count, what, why) in left_out.into_iter().filter(|(count, ..)| *count > 0) {
        let _ = writeln!(text, "{count} {what} left out, {why}\n");
    }
}

/// With the count where the value is a share of whole verdicts, unless weights or halves are in it.
fn shown(estimate: Estimate, counts: bool) -> String {
    let count = estimate.value * estimate.n as f64;
    let whole = counts && (count - count.round()).abs() < 1e-9 * count.max(1.0);
    match whole {
        true => format!("{estimate:<22} {count:.0} of {}", estimate.n),
        false => format!("{estimate:<22} of {}", estimate.n),
    }
}

fn reliability(text: &mut String, section: &Section) {
    if section.reliability.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n  how sure it is, and how often right");
    for bin in section.reliability.iter().filter(|bin| bin.n >= FEW) {
        let _ = writeln!(
            text,
            "  {:.2} to {:.2}   sure {:.2}   right {:.2}   of {}",
            bin.from, bin.to, bin.confidence, bin.accuracy, bin.n
        );
    }
}

fn changed(text: &mut String, effect: &Effect) {
    let _ = writeln!(text, "\n  an answer {}, {} trials", effect.change, effect.trials);
    if effect.unjudged > 0 {
        let _ = writeln!(text, "  {} could not be judged", effect.unjudged);
    }
    let rows = [
        ("  is preferred to itself unchanged", effect.preferred, true),
        ("  with the probability", effect.probability, false),
        ("  gains log-odds over itself", effect.gain, false),
        ("  wins where it had lost", effect.flips, true),
        ("  loses where it had won", effect.flips_back, true),
    ];
    for (label, estimate, counts) in rows {
        if let Some(estimate) = estimate {
            let _ = writeln!(text, "  {label:<42} {}", shown(estimate, counts));
        }
    }
}
