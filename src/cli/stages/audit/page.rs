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
        if audited.unread > 0 {
            let _ = writeln!(text, "{} rows could not be read\n", audited.unread);
        }
        for (figure, estimate) in &all.figures {
            let _ = writeln!(text, "  {:<42} {}", figure.label(), shown(*estimate));
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

/// With the count where the value is a share of whole verdicts.
fn shown(estimate: Estimate) -> String {
    let count = estimate.value * estimate.n as f64;
    let whole = (0.0..=1.0).contains(&estimate.value) && (count - count.round()).abs() < 1e-9 * count.max(1.0);
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
        ("  is preferred to itself unchanged", effect.preferred),
        ("  with the probability", effect.probability),
        ("  gains log-odds over itself", effect.gain),
        ("  wins where it had lost", effect.flips),
        ("  loses where it had won", effect.flips_back),
    ];
    for (label, estimate) in rows {
        if let Some(estimate) = estimate {
            let _ = writeln!(text, "  {label:<42} {}", shown(estimate));
        }
    }
}
