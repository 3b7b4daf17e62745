//! The page: one HTML document with its style and its pictures inside.
//!
//! All that is text goes through the template engine with escaping on: what a model or a user wrote
//! cannot become markup. The only string that is not escaped is our own style sheet.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::chart::{self, Bias, Panel};
use super::pipeline::{self, Picture};
use super::{Change, PolicyFigures, Report, figures, length};
use crate::diff::{self, Piece};
use crate::error::{Error, Result};

const PAGE: &str = include_str!("page.html");
const DRAWINGS: &str = include_str!("drawings.html");
const STYLE: &str = include_str!("report.css");

/// Renders a report as a page that needs no other file, no network and no script.
pub fn html(report: &Report) -> Result<String> {
    render(report).map_err(|error| Error::unexpected("cannot render the report").because(error))
}

fn render(report: &Report) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("percent", figures::percent);
    environment.add_filter("percent_short", figures::percent_short);
    environment.add_filter("one_decimal", figures::one_decimal);
    environment.add_filter("two_decimals", figures::two_decimals);
    environment.add_filter("count", figures::count);
    environment.add_filter("duration", figures::duration);
    environment.add_filter("memory", figures::memory);
    environment.add_template("drawings.html", DRAWINGS)?;
    environment.add_template("page.html", PAGE)?;
    let page = environment.get_template("page.html")?;
    page.render(minijinja::context! {
        style => Value::from_safe_string(STYLE.to_owned()),
        report => Serde(report),
        page => Serde(Page::of(report)),
    })
}

/// What the template needs beside the report itself.
#[derive(Serialize)]
struct Page {
    headline: Option<Headline>,
    facts: Vec<Headline>,
    picture: Option<Picture>,
    shares: Vec<f64>,
    /// In order: the template engine would sort a map.
    policies: Vec<(String, PolicyFigures)>,
    harmful_bars: Vec<Bar>,
    benign_bars: Vec<Bar>,
    has_revised: bool,
    bias: Option<Bias>,
    length: Vec<length::Row>,
    length_columns: Vec<(&'static str, &'static str)>,
    readings: Vec<String>,
    traces: Vec<TraceView>,
    panels: Vec<Panel>,
}

impl Page {
    fn of(report: &Report) -> Self {
        let policies = &report.summary.policies;
        Self {
            headline: policies
                .first_and_last(|p| p.harmful)
                .map(|change| Headline::of_change("Harmful answers on held-out prompts", change)),
            facts: policies
                .first_and_last(|p| p.helpful)
                .map(|change| Headline::of_change("Helpful answers to benign prompts", change))
                .into_iter()
                .chain(judge_fact(report))
                .collect(),
            picture: pipeline::picture(report),
            shares: chart::time_shares(report),
            policies: policies.iter().map(|(name, p)| (name.to_owned(), p.clone())).collect(),
            harmful_bars: bars(report, |p| {
                vec![("harmful", p.harmful), ("engaged", p.engaged), ("evasive", p.evasive)]
            }),
            benign_bars: bars(report, |p| vec![("helpful", p.helpful), ("wrong", p.wrong)]),
            has_revised: policies.get("revised").is_some(),
            bias: chart::bias(report),
            length: length::rows(&report.summary.ledger),
            length_columns: length::COLUMNS.into_iter().zip(length::LEGEND).collect(),
            readings: length::readings(&report.summary.ledger),
            traces: report.traces.iter().map(TraceView::of).collect(),
            panels: report.curves.iter().flat_map(chart::panels).collect(),
        }
    }
}

/// A rate, and what became of it.
#[derive(Serialize)]
struct Headline {
    name: &'static str,
    first: (String, f64),
    last: Option<(String, f64)>,
}

impl Headline {
    fn of_change(name: &'static str, change: Change<'_>) -> Self {
        let owned = |(policy, rate): (&str, f64)| (policy.to_owned(), rate);
        Self {
            name,
            first: owned(change.first),
            last: change.last.map(owned),
        }
    }
}

/// The length preference of the reward model, or else of the judge.
fn judge_fact(report: &Report) -> Option<Headline> {
    let summary = &report.summary;
    let reward = summary.reward_model.as_ref().map(|r| {
        (
            "The reward model prefers the longer of two equals, before and after length control",
            r.prefer_longer_on_ties_before,
            r.prefer_longer_on_ties_after,
        )
    });
    let judge = summary.judge.as_ref().map(|j| {
        (
            "The judge prefers the longer of two equals, before and after length control",
            j.prefer_longer_on_ties_before,
            j.prefer_longer_on_ties_after,
        )
    });
    let (name, before, after) = [reward, judge].into_iter().flatten().find(|fact| fact.1.is_some())?;
    Some(Headline {
        name,
        first: ("before".into(), before?),
        last: after.map(|after| ("after".into(), after)),
    })
}

/// How the answers of one policy divide, as a bar of parts.
#[derive(Serialize)]
struct Bar {
    policy: String,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    label: &'static str,
    rate: f64,
    /// Of the whole bar, in percent.
    width: f64,
}

/// A bar for every policy with one of the rates; what the rates leave is the part `other`.
fn bars(report: &Report, rates: impl Fn(&PolicyFigures) -> Vec<(&'static str, Option<f64>)>) -> Vec<Bar> {
    report
        .summary
        .policies
        .iter()
        .filter_map(|(name, figures)| {
            let mut parts: Vec<(&'static str, f64)> = rates(figures)
                .into_iter()
                .filter_map(|(label, rate)| Some((label, rate.filter(|rate| rate.is_finite())?.max(0.0))))
                .collect();
            if parts.is_empty() {
                return None;
            }
            let known: f64 = parts.iter().map(|(_, rate)| rate).sum();
            if known < 0.9995 {
                parts.push(("other", 1.0 - known));
            }
            Some(Bar {
                policy: name.to_owned(),
                parts: parts
                    .into_iter()
                    .map(|(label, rate)| Part {
                        label,
                        rate,
                        width: (1000.0 * rate / known.max(1.0)).round() / 10.0,
                    })
                    .collect(),
            })
        })
        .collect()
}

/// A trace with the differences of every round.
#[derive(Serialize)]
struct TraceView {
    prompt: String,
    initial: String,
    rounds: Vec<RoundView>,
}

#[derive(Serialize)]
struct RoundView {
    principle: String,
    critique_request: String,
    critique: String,
    revision_request: String,
    changed: bool,
    before: Vec<Piece>,
    after: Vec<Piece>,
}

impl TraceView {
    fn of(trace: &super::Trace) -> Self {
        let mut answer = trace.initial.as_str();
        let mut rounds = Vec::with_capacity(trace.rounds.len());
        for round in &trace.rounds {
            let difference = diff::words(answer, &round.revision);
            rounds.push(RoundView {
                principle: round.principle.clone(),
                critique_request: round.critique_request.clone(),
                critique: round.critique.clone(),
                revision_request: round.revision_request.clone(),
                changed: round.changed,
                before: difference.before,
                after: difference.after,
            });
            answer = &round.revision;
        }
        Self {
            prompt: trace.prompt.clone(),
            initial: trace.initial.clone(),
            rounds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, Policies, Summary, fixture};
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let evil = "</style></svg><script>alert('x')</script>\"'&";
        let mut json = serde_json::to_value(fixture::report()).unwrap();
        poison(&mut json, evil);
        let report: Report = serde_json::from_value(json).unwrap();
        let page = html(&report).unwrap();
        assert!(!page.contains("<script"));
        assert_eq!(page.matches("</style>").count(), 1);
        assert_eq!(page.matches("</svg>").count(), page.matches("<svg").count());
        assert!(page.contains("&lt;script&gt;"));
    }

    /// Replaces every string but those of closed sets, whose names decide what is drawn.
    fn poison(value: &mut serde_json::Value, text: &str) {
        match value {
            serde_json::Value::String(string) => *string = format!("{text} {string}"),
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| poison(value, text)),
            serde_json::Value::Object(map) => map
                .iter_mut()
                .filter(|(key, _)| !["kind", "subject", "unit"].contains(&key.as_str()))
                .for_each(|(_, value)| poison(value, text)),
            _ => {}
        }
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = html(&fixture::report()).unwrap();
        for outside in ["http://", "https://", "src=", "@import", "<link", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // A picture may refer to its own parts.
        assert_eq!(page.matches("url(").count(), page.matches("url(#").count());
        assert!(!page.contains("NaN") && !page.contains("none<") && !page.contains("undefined"));
    }

    #[test]
    fn the_headline_names_what_changed() {
        let page = html(&fixture::report()).unwrap();
        let text = without_tags(&page);
        assert!(text.contains("Harmful answers on held-out prompts"), "{text}");
        assert!(text.contains("75\u{202f}%"), "{text}");
        assert!(text.contains("2\u{202f}%"), "{text}");
    }

    #[test]
    fn policies_stand_in_the_order_of_the_run() {
        let page = html(&fixture::report()).unwrap();
        let table = page.split("<table>").nth(1).unwrap();
        let places: Vec<_> = ["base", "revised", "sft", "dpo", "ppo"]
            .map(|policy| table.find(&format!("<th scope=\"row\">{policy}</th>")).unwrap())
            .to_vec();
        assert!(places.is_sorted());
    }

    #[test]
    fn empty_sections_vanish() {
        let page = html(&fixture::revise_only()).unwrap();
        for absent in ["id=\"bias\"", "id=\"samples\"", "id=\"curves\""] {
            assert!(!page.contains(absent), "{absent}");
        }
        for present in [
            "id=\"pipeline\"",
            "id=\"policies\"",
            "id=\"traces\"",
            "id=\"provenance\"",
        ] {
            assert!(page.contains(present), "{present}");
        }
    }

    #[test]
    fn a_report_of_nothing_is_still_a_page() {
        let report = Report {
            title: "empty".into(),
            summary: Summary {
                seconds: f64::NAN,
                peak_rss_mb: 0.0,
                stages: Vec::new(),
                policies: Policies::default(),
                judge: None,
                reward_model: None,
                ledger: Ledger::default(),
            },
            steps: Vec::new(),
            samples: Vec::new(),
            traces: Vec::new(),
            curves: Vec::new(),
            provenance: Vec::new(),
        };
        let page = html(&report).unwrap();
        assert!(page.contains("<title>empty</title>"));
        assert!(!page.contains("<section"));
    }

    #[test]
    fn bars_are_whole() {
        for bar in bars(&fixture::report(), |p| {
            vec![("harmful", p.harmful), ("engaged", p.engaged)]
        }) {
            let width: f64 = bar.parts.iter().map(|part| part.width).sum();
            assert!((width - 100.0).abs() < 0.3, "{}", bar.policy);
        }
    }

    fn without_tags(page: &str) -> String {
        let mut inside = false;
        page.chars()
            .filter(|&c| {
                let keep = !inside && c != '<';
                inside = (inside || c == '<') && c != '>';
                keep
            })
            .collect()
    }

    /// Writes the pages of the fixtures, to be looked at: `REPORT_OUT=/tmp cargo test write_pages`.
    #[test]
    fn write_pages() {
        let Some(folder) = std::env::var_os("REPORT_OUT").map(std::path::PathBuf::from) else {
            return;
        };
        for (name, report) in [("full", fixture::report()), ("revise", fixture::revise_only())] {
            std::fs::write(folder.join(format!("{name}.html")), html(&report).unwrap()).unwrap();
        }
    }
}
