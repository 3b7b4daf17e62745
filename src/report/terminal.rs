//! The figures of a run as plain text: aligned, at most [`WIDTH`] columns, no colour needed.

use super::figures::{MISSING, count, duration, memory, one_decimal, percent, plain, two_decimals};
use super::{JudgeFigures, Policies, RewardFigures, StageTime, Summary, length};
use crate::bias::ledger::Ledger;

/// No line is longer.
const WIDTH: usize = 100;

/// Names longer than this are cut.
const NAME: usize = 24;

/// The longest bar of the stage list.
const BAR: usize = 24;

/// The table `bylaw demo` and `bylaw report` print. Sections without figures are left out.
pub fn terminal(summary: &Summary) -> String {
    let sections = [
        policies(&summary.policies),
        summary.judge.as_ref().map(judge),
        summary.reward_model.as_ref().map(reward_model),
        ledger(&summary.ledger),
        stages(summary),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn policies(policies: &Policies) -> Option<String> {
    if policies.is_empty() {
        return None;
    }
    let header = [
        "harmful", "engaged", "evasive", "helpful", "wrong", "tokens", "KL", "prompts",
    ];
    let rows: Vec<(String, [String; 8])> = policies
        .iter()
        .map(|(name, p)| {
            let cells = [
                percent(p.harmful),
                percent(p.engaged),
                percent(p.evasive),
                percent(p.helpful),
                percent(p.wrong),
                one_decimal(p.mean_tokens),
                two_decimals(p.kl),
                count(Some(p.n)),
            ];
            (clipped(name), cells.map(|cell| plain(&cell)))
        })
        .collect();
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0).max(6);
    let mut text = line("Policies", names, &header.map(str::to_owned));
    for (name, cells) in &rows {
        text += &line(&format!("  {name}"), names, cells);
    }
    Some(text)
}

/// A name and right-aligned cells.
fn line(name: &str, names: usize, cells: &[String]) -> String {
    let mut text = pad(name, names + 2);
    for cell in cells {
        text.push_str(&" ".repeat(9_usize.saturating_sub(width(cell))));
        text.push_str(cell);
    }
    finished(&text)
}

fn judge(figures: &JudgeFigures) -> String {
    let mut text = String::from("Judge\n");
    text += &fact("right on clear pairs", &percent(figures.accuracy));
    text += &fact("same verdict in both orders", &percent(figures.order_consistency));
    text + &preference(
        figures.prefer_longer_on_ties_before,
        figures.prefer_longer_on_ties_after,
    )
}

fn reward_model(figures: &RewardFigures) -> String {
    let mut text = String::from("Reward model\n");
    text += &fact("right on clear pairs", &percent(figures.accuracy));
    text + &preference(
        figures.prefer_longer_on_ties_before,
        figures.prefer_longer_on_ties_after,
    )
}

fn preference(before: Option<f64>, after: Option<f64>) -> String {
    let value = format!("{} → {} with length control", percent(before), percent(after));
    fact("prefers the longer of two equals", &value)
}

fn fact(name: &str, value: &str) -> String {
    // Values of one digit fewer stand one column to the right, so that decimal points align.
    let first = value.split(' ').next().unwrap_or_default();
    let indent = if value.starts_with(MISSING) {
        7
    } else {
        8_usize.saturating_sub(width(first))
    };
    finished(&format!("  {}{}{}", pad(name, 34), " ".repeat(indent), plain(value)))
}

fn ledger(ledger: &Ledger) -> Option<String> {
    let rows = length::rows(ledger);
    let names = rows.iter().map(|row| width(&clipped(&row.name))).max()?.max(6);
    let mut text = line("Length", names, &length::COLUMNS.map(str::to_owned));
    for row in &rows {
        text += &line(
            &format!("  {}", clipped(&row.name)),
            names,
            &row.cells.clone().map(|cell| plain(&cell)),
        );
    }
    for reading in length::readings(ledger) {
        text += &finished(&format!("  {}", clipped_to(&reading, WIDTH - 2)));
    }
    Some(text)
}

fn stages(summary: &Summary) -> Option<String> {
    if summary.stages.is_empty() {
        return None;
    }
    let slowest = summary.stages.iter().map(|stage| stage.seconds).fold(0.0, f64::max);
    let names = summary
        .stages
        .iter()
        .map(|stage| width(&clipped(&stage.name)))
        .max()
        .unwrap_or(0)
        .max(6);
    let mut text = String::from("Stages\n");
    for StageTime { name, seconds } in &summary.stages {
        let share = if slowest > 0.0 { seconds / slowest } else { 0.0 };
        let bar = "█".repeat((share * BAR as f64).round() as usize);
        let time = plain(&duration(Some(*seconds)));
        text += &finished(&format!("  {}  {time:>12}  {bar}", pad(&clipped(name), names)));
    }
    let total = plain(&duration(Some(summary.seconds)));
    let peak = plain(&memory(Some(summary.peak_rss_mb)));
    text += &finished(&format!("  {}  {total:>12}  peak memory {peak}", pad("total", names)));
    Some(text)
}

/// A name on one line, without control characters that a terminal would obey.
fn clipped(name: &str) -> String {
    clipped_to(name, NAME)
}

fn clipped_to(name: &str, most: usize) -> String {
    let clean: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width(&clean) <= most {
        return clean;
    }
    let kept: String = clean.chars().take(most - 1).collect();
    format!("{kept}…")
}

fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn finished(line: &str) -> String {
    debug_assert!(width(line) <= WIDTH, "{line}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::super::{PolicyFigures, fixture};
    use super::*;

    #[test]
    fn the_whole_run() {
        insta::assert_snapshot!(terminal(&fixture::report().summary));
    }

    #[test]
    fn a_run_of_one_stage() {
        insta::assert_snapshot!(terminal(&fixture::revise_only().summary));
    }

    #[test]
    fn lines_stay_within_the_width_and_say_nothing_to_the_terminal() {
        let mut summary = fixture::report().summary;
        summary.policies.insert(
            "\u{1b}[31m".to_owned() + &"x".repeat(200),
            PolicyFigures {
                mean_tokens: Some(123_456.7),
                kl: Some(-1234.5),
                n: 123_456_789,
                ..PolicyFigures::default()
            },
        );
        summary.stages[0].name = "y".repeat(200);
        let text = terminal(&summary);
        assert!(text.lines().all(|line| width(line) <= WIDTH), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn nothing_was_measured() {
        let summary = Summary {
            seconds: 0.0,
            peak_rss_mb: 0.0,
            stages: Vec::new(),
            policies: Policies::default(),
            judge: None,
            reward_model: None,
            ledger: Ledger::default(),
        };
        assert_eq!(terminal(&summary), "");
    }
}
