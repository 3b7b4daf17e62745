//! What a survey found, as numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::columns::Column;
use super::lengths::Distribution;
use super::near::{DuplicateStats, Near};
use super::{Labels, Survey, Surveyed};

/// Bars of a histogram, without the one of the tail.
const BINS: u32 = 10;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyStats {
    pub rows: u64,
    pub columns: Vec<Column>,
    /// Turns of the prompts by role.
    pub roles: BTreeMap<String, u64>,
    /// Rows by the number of turns in their prompt.
    pub turns: BTreeMap<usize, u64>,
    pub sources: BTreeMap<String, u64>,
    pub tags: BTreeMap<String, u64>,
    pub texts: Vec<TextStats>,
    pub answers: Vec<AnswerStats>,
    /// By the language of the prompt, or of the whole row where the prompt is too short; rejects by that of what was kept of them. Most rows first.
    pub languages: Vec<(String, LanguageStats)>,
    pub rejects: u64,
    /// Most frequent first.
    pub reject_reasons: Vec<RejectReason>,
    pub duplicates: DuplicateStats,
    /// Of preferences only.
    pub preferences: Option<PreferenceStats>,
}

/// Lengths of one text of each row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextStats {
    /// `prompt`, or the column of the answer.
    pub name: String,
    pub chars: Option<Distribution>,
    pub words: Option<Distribution>,
    /// `None` where nobody counts them.
    pub tokens: Option<Distribution>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnswerStats {
    pub name: &'static str,
    pub count: u64,
    pub empty: u64,
    /// Recognised in English.
    pub refusals: u64,
    /// Cut off at the limit of length.
    pub truncated: u64,
}

impl AnswerStats {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            count: 0,
            empty: 0,
            refusals: 0,
            truncated: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LanguageStats {
    pub rows: u64,
    /// Rows whose answer is empty or refuses.
    pub failures: u64,
    pub rejects: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectReason {
    pub stage: String,
    /// With `N` for numbers.
    pub reason: String,
    pub count: u64,
    /// The beginning of what the first of them holds.
    pub example: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreferenceStats {
    pub rows: u64,
    /// Rows by `p_chosen`: ten steps of 0.05 from 0.5.
    pub p_chosen: [u64; 10],
    /// Rows with `p_chosen` of exactly one half.
    pub ties: u64,
    /// Share of the pairs of unequal length in which the longer answer is preferred.
    pub prefer_longer: Option<Interval>,
    /// What length is counted in: `tokens` or `words`.
    pub length_unit: &'static str,
}

/// A share with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub share: f64,
    pub low: f64,
    pub high: f64,
    /// Of how many.
    pub n: u64,
}

impl Interval {
    /// The interval of Wilson (1927), which stays within 0 and 1. `None` for none of none.
    pub fn wilson(successes: f64, n: u64) -> Option<Self> {
        if n == 0 {
            return None;
        }
        let share = successes / n as f64;
        let (low, high) = wilson_ends(share, n as f64);
        Some(Self { share, low, high, n })
    }
}

/// The 97.5 % quantile of the normal distribution.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// The ends of Wilson's interval of a share of `count` independent observations, which need not be whole.
pub(super) fn wilson_ends(share: f64, count: f64) -> (f64, f64) {
    let scale = 1.0 + Z * Z / count;
    let centre = (share + Z * Z / (2.0 * count)) / scale;
    let half = Z / scale * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

impl Labels {
    fn finish(&self, length_unit: &'static str) -> Option<PreferenceStats> {
        (self.rows > 0).then(|| PreferenceStats {
            rows: self.rows,
            p_chosen: self.bins,
            ties: self.ties,
            prefer_longer: Interval::wilson(self.longer, self.compared),
            length_unit,
        })
    }
}

impl<R: Surveyed> Survey<'_, R> {
    /// The statistics and the sample rows. `near` has seen the rows that it asked for.
    pub fn finish(self, near: Near) -> (SurveyStats, Vec<R>) {
        let unit = if self.config.tokens.is_some() {
            "tokens"
        } else {
            "words"
        };
        let texts = self.texts.iter().map(|(name, measured)| TextStats {
            name: (*name).to_owned(),
            chars: measured.chars.distribution(BINS),
            words: measured.words.distribution(BINS),
            tokens: measured.tokens.distribution(BINS),
        });
        let mut languages: Vec<(String, LanguageStats)> = self
            .languages
            .into_iter()
            .map(|(name, stats)| (name.to_owned(), stats))
            .collect();
        languages.sort_by_key(|(_, stats)| std::cmp::Reverse((stats.rows, stats.rejects)));
        let mut reject_reasons: Vec<_> = self.reasons.into_values().collect();
        reject_reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        let repeated = self.prompts.values().map(|count| u64::from(*count - 1)).sum();
        let stats = SurveyStats {
            rows: self.rows,
            texts: texts.collect(),
            columns: self.columns.finish(),
            roles: self.roles,
            turns: self.turns,
            sources: self.sources,
            tags: self.tags,
            answers: self.answers,
            languages,
            rejects: self.rejects,
            reject_reasons,
            duplicates: near.finish(repeated),
            preferences: self.labels.finish(unit),
        };
        (stats, self.samples.into_iter().map(|(_, row)| row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: another interval than Wilson's. The numbers are method 3 of table I of Newcombe (1998, Statistics
    /// in Medicine 17, 857-872).
    #[test]
    fn the_interval_of_a_share() {
        for (successes, n, low, high) in [
            (81.0, 263, 0.2553, 0.3662),
            (15.0, 148, 0.0624, 0.1605),
            (0.0, 20, 0.0, 0.1611),
            (1.0, 29, 0.0061, 0.1718),
        ] {
            let found = Interval::wilson(successes, n).unwrap();
            assert!(
                (found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5,
                "{found:?}"
            );
        }
        assert_eq!(Interval::wilson(0.0, 0), None);
    }
}
