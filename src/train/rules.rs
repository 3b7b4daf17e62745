//! Rewards that follow from an answer's text alone, by rules that a user can write on a command line.
//!
//! A rule gives 1 where an answer keeps it and 0 where it does not, or a share between. It sees no prompt and no model.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

/// Memory that a pattern may take once it is compiled: a mistyped repetition is an error, not a machine without memory.
const PATTERN_BYTES: usize = 1 << 20;

/// Words of a run that counts as repeated.
const RUN: usize = 4;

#[derive(Debug, Clone)]
pub enum Rule {
    /// At most so many tokens.
    AtMost(usize),
    /// At least so many tokens.
    AtLeast(usize),
    /// The share of runs of four words that are no repetition of an earlier one (rep-4 of Welleck et al. 2020).
    NoRepeat,
    /// The pattern is found in the answer.
    Matches(Regex),
    /// It is not.
    Avoids(Regex),
}

impl Rule {
    pub fn score(&self, text: &str, tokens: usize) -> f32 {
        let kept = match self {
            Self::AtMost(most) => tokens <= *most,
            Self::AtLeast(least) => tokens >= *least,
            Self::NoRepeat => return different_runs(text),
            Self::Matches(pattern) => pattern.is_match(text),
            Self::Avoids(pattern) => !pattern.is_match(text),
        };
        f32::from(u8::from(kept))
    }
}

fn different_runs(text: &str) -> f32 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let runs = words.windows(RUN);
    let count = runs.len();
    let different: HashSet<&[&str]> = runs.collect();
    match count {
        0 => 1.0,
        _ => different.len() as f32 / count as f32,
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| {
            let number = text.trim().parse();
            number.map_err(|_| format!("`{text}` is no whole number of tokens"))
        };
        let pattern = |text: &str| {
            let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
            built.map_err(|error| format!("the pattern cannot be used: {error}"))
        };
        if let Some(rest) = text.strip_prefix("length<=") {
            return count(rest).map(Self::AtMost);
        }
        if let Some(rest) = text.strip_prefix("length>=") {
            return count(rest).map(Self::AtLeast);
        }
        if let Some(rest) = text.strip_prefix("regex:") {
            return pattern(rest).map(Self::Matches);
        }
        if let Some(rest) = text.strip_prefix("not-regex:") {
            return pattern(rest).map(Self::Avoids);
        }
        match text {
            "no-repeat" => Ok(Self::NoRepeat),
            _ => Err("expected length<=N, length>=N, no-repeat, regex:PATTERN or not-regex:PATTERN".into()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "length<={most}"),
            Self::AtLeast(least) => write!(f, "length>={least}"),
            Self::NoRepeat => f.write_str("no-repeat"),
            Self::Matches(pattern) => write!(f, "regex:{pattern}"),
            Self::Avoids(pattern) => write!(f, "not-regex:{pattern}"),
        }
    }
}

/// A rule and what it weighs, as typed: `RULE` or `RULE=WEIGHT`.
#[derive(Debug, Clone)]
pub struct WeighedRule {
    pub rule: Rule,
    pub weight: f32,
}

impl FromStr for WeighedRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let weight = |(rule, weight): (&str, &str)| {
            // The `=` of `length<=40` is none before a weight.
            let compares = rule.ends_with(['<', '>']);
            let weight = weight
                .parse()
                .ok()
                .filter(|weight: &f32| weight.is_finite() && !compares)?;
            Some((rule.to_owned(), weight))
        };
        let (rule, weight) = text.rsplit_once('=').and_then(weight).unwrap_or((text.to_owned(), 1.0));
        Ok(Self {
            rule: rule.parse()?,
            weight,
        })
    }
}

impl fmt::Display for WeighedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.rule, self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> WeighedRule {
        text.parse().unwrap()
    }

    /// Catches: the `=` of a comparison taken for that of a weight, a weight taken for a part of a pattern, a bound off by one.
    #[test]
    fn rules_are_read_with_their_weights() {
        for (text, shown, kept, broken) in [
            ("length<=3", "length<=3=1", ("", 3), ("", 4)),
            ("length<=3=0.5", "length<=3=0.5", ("", 3), ("", 4)),
            ("length>=3=-2", "length>=3=-2", ("", 3), ("", 2)),
            ("regex:^Yes", "regex:^Yes=1", ("Yes.", 1), ("Oh yes.", 1)),
            ("regex:a=b=2", "regex:a=b=2", ("a=b", 1), ("a-b", 1)),
            (
                "not-regex:(?i)sorry",
                "not-regex:(?i)sorry=1",
                ("Yes.", 1),
                ("Sorry!", 1),
            ),
        ] {
            let read = rule(text);
            assert_eq!(read.to_string(), shown);
            let scores = [kept, broken].map(|(text, tokens)| read.rule.score(text, tokens));
            assert_eq!(scores, [1.0, 0.0], "{text}");
        }
        for text in ["length<=", "length<3", "regex:(", "regex:(a{1000}){1000}", "repeat", ""] {
            assert!(text.parse::<WeighedRule>().is_err(), "{text}");
        }
    }

    /// Catches: single words or overlapping runs counted as repetitions, a text of fewer words than a run called repeated.
    #[test]
    fn what_is_said_twice_counts_less() {
        let score = |text| rule("no-repeat").rule.score(text, 0);
        assert_eq!([score(""), score("one two three"), score("a a b a c a")], [1.0; 3]);
        // Of five runs of `a b c d a b c d`, the last is the first again.
        assert_eq!(score("a b c d a b c d"), 0.8);
        assert_eq!(score("no no no no no no"), 1.0 / 3.0);
    }
}
