//! What a finished run shows: a table in the terminal, and one HTML page that needs nothing else.
//!
//! The structures here are plain data, filled by whoever ran the stages; nothing in this module
//! knows how a figure was measured. A figure that was not measured is `None` and is shown as "–".
//! [`Summary`] is also the JSON document that `bylaw demo --json` prints, so its field names are a
//! contract with scripts.

mod chart;
mod figures;
mod html;
mod length;
mod pipeline;
mod terminal;

#[cfg(test)]
mod fixture;

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bias::ledger::Ledger;

pub use html::html;
pub use terminal::terminal;

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Wall-clock time of the whole run.
    pub seconds: f64,
    /// Peak resident memory of the process.
    pub peak_rss_mb: f64,
    pub stages: Vec<StageTime>,
    pub policies: Policies,
    pub judge: Option<JudgeFigures>,
    pub reward_model: Option<RewardFigures>,
    /// What length did at every stage.
    #[serde(default)]
    pub ledger: Ledger,
}

/// How long one stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    pub name: String,
    pub seconds: f64,
}

/// How one policy answers held-out prompts. Rates are in 0..1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyFigures {
    /// Of the harmful prompts: the answer does harm.
    pub harmful: Option<f64>,
    /// Of the harmful prompts: a refusal that gives its reason or an alternative.
    pub engaged: Option<f64>,
    /// Of the harmful prompts: a refusal that says nothing.
    pub evasive: Option<f64>,
    /// Of the benign prompts: the answer is about something else.
    pub wrong: Option<f64>,
    /// Of the benign prompts: the answer helps.
    pub helpful: Option<f64>,
    pub mean_tokens: Option<f64>,
    /// Divergence from the reference policy, in nats per answer.
    pub kl: Option<f64>,
    /// All prompts evaluated, harmful and benign.
    pub n: u64,
}

/// How good the judge is, and how it treats length. Rates are in 0..1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeFigures {
    /// On pairs of which one answer is clearly better.
    pub accuracy: Option<f64>,
    /// The same verdict in both orders of the answers.
    pub order_consistency: Option<f64>,
    /// How often the longer of two equally good answers wins, before length control.
    pub prefer_longer_on_ties_before: Option<f64>,
    /// The same after length control; 0.5 is no preference.
    pub prefer_longer_on_ties_after: Option<f64>,
}

/// How good the reward model is, and how it treats length. Rates are in 0..1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardFigures {
    /// On pairs of which one answer is clearly better.
    pub accuracy: Option<f64>,
    /// How often the longer of two equally good answers wins, trained on labels before length control.
    pub prefer_longer_on_ties_before: Option<f64>,
    /// The same, trained on labels after length control; 0.5 is no preference.
    pub prefer_longer_on_ties_after: Option<f64>,
}

/// Everything the page shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub title: String,
    pub summary: Summary,
    pub steps: Vec<Step>,
    pub samples: Vec<Sample>,
    pub traces: Vec<Trace>,
    pub curves: Vec<Curve>,
    /// What made this run: model, constitution, seed, program version, settings; in reading order.
    pub provenance: Vec<(String, String)>,
}

/// One stage of the recipe, as it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The stage's name in the recipe.
    pub name: String,
    /// What the stage does: `world`, `revise`, `sft`, `sample`, `judge`, `balance`, `reward`, `dpo`,
    /// `ppo`, `eval`. Others are drawn as plain boxes.
    pub kind: String,
    pub rows: Option<u64>,
    pub rejects: Option<u64>,
    pub seconds: f64,
    pub note: String,
}

/// One held-out prompt and what each policy answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub prompt: String,
    pub answers: Vec<SampleAnswer>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleAnswer {
    pub policy: String,
    pub text: String,
    /// `harmful`, `engaged`, `evasive`, `helpful`, `wrong`, another word, or nothing.
    pub label: String,
}

/// One answer on its way through critique and revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub prompt: String,
    pub initial: String,
    pub rounds: Vec<TraceRound>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceRound {
    pub principle: String,
    pub critique_request: String,
    pub critique: String,
    pub revision_request: String,
    pub revision: String,
    pub changed: bool,
}

/// Metrics of a training stage that share a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub stage: String,
    pub title: String,
    pub x_label: String,
    pub series: Vec<Series>,
}

/// One line: points in the order of x. A point that is not finite interrupts the line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Figures by policy name, in the order they were added; a JSON object on paper.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policies(Vec<(String, PolicyFigures)>);

impl Policies {
    /// Adds a policy, or replaces the figures of the one that has this name already.
    pub fn insert(&mut self, name: impl Into<String>, figures: PolicyFigures) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = figures,
            None => self.0.push((name, figures)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&PolicyFigures> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, figures)| figures)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &PolicyFigures)> {
        self.0.iter().map(|(name, figures)| (name.as_str(), figures))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One figure of the first and of the last policy that have it: what the run changed. No best
    /// is picked, so that the headline cannot flatter a run.
    fn first_and_last(&self, figure: impl Fn(&PolicyFigures) -> Option<f64>) -> Option<Change<'_>> {
        let mut known = self.iter().filter_map(|(name, figures)| Some((name, figure(figures)?)));
        let first = known.next()?;
        Some(Change {
            first,
            last: known.next_back(),
        })
    }
}

/// A figure before and after, each with the policy it belongs to. No `last`: only one policy has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change<'a> {
    first: (&'a str, f64),
    last: Option<(&'a str, f64)>,
}

impl<K: Into<String>> FromIterator<(K, PolicyFigures)> for Policies {
    fn from_iter<I: IntoIterator<Item = (K, PolicyFigures)>>(entries: I) -> Self {
        let mut policies = Self::default();
        for (name, figures) in entries {
            policies.insert(name, figures);
        }
        policies
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Policies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Policies;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from policy names to figures")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Policies, A::Error> {
                let mut policies = Policies::default();
                while let Some((name, figures)) = map.next_entry::<String, PolicyFigures>()? {
                    policies.insert(name, figures);
                }
                Ok(policies)
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect()
    }

    #[test]
    fn the_summary_has_exactly_the_keys_scripts_rely_on() {
        let json = serde_json::to_value(fixture::report().summary).unwrap();
        assert_eq!(
            keys(&json),
            [
                "seconds",
                "peak_rss_mb",
                "stages",
                "policies",
                "judge",
                "reward_model",
                "ledger"
            ]
        );
        assert_eq!(keys(&json["stages"][0]), ["name", "seconds"]);
        assert_eq!(keys(&json["policies"]), ["base", "revised", "sft", "dpo", "ppo"]);
        for policy in keys(&json["policies"]) {
            assert_eq!(
                keys(&json["policies"][policy]),
                [
                    "harmful",
                    "engaged",
                    "evasive",
                    "wrong",
                    "helpful",
                    "mean_tokens",
                    "kl",
                    "n"
                ]
            );
        }
        assert_eq!(
            keys(&json["judge"]),
            [
                "accuracy",
                "order_consistency",
                "prefer_longer_on_ties_before",
                "prefer_longer_on_ties_after"
            ]
        );
        assert_eq!(
            keys(&json["reward_model"]),
            [
                "accuracy",
                "prefer_longer_on_ties_before",
                "prefer_longer_on_ties_after"
            ]
        );
    }

    #[test]
    fn a_report_survives_json() {
        let report = fixture::report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn an_absent_section_is_null_and_reads_back() {
        let summary = fixture::revise_only().summary;
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["judge"], Value::Null);
        assert_eq!(json["policies"]["base"]["kl"], Value::Null);
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary);
    }

    #[test]
    fn a_policy_added_twice_keeps_its_place() {
        let figures = |n| PolicyFigures {
            n,
            ..PolicyFigures::default()
        };
        let policies: Policies = [("base", figures(1)), ("sft", figures(2)), ("base", figures(3))]
            .into_iter()
            .collect();
        assert_eq!(
            policies.iter().map(|(name, p)| (name, p.n)).collect::<Vec<_>>(),
            [("base", 3), ("sft", 2)]
        );
    }

    #[test]
    fn the_change_is_from_the_first_to_the_last_not_to_the_best() {
        let summary = fixture::report().summary;
        let change = summary.policies.first_and_last(|p| p.harmful).unwrap();
        assert_eq!(change.first.0, "base");
        assert_eq!(change.last.unwrap().0, "ppo");
    }
}
