//! How a judge is asked: the flags that `judge` and `eval judge` share.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::bounds;
use crate::constitution::Constitution;
use crate::constitution::few_shots::{FewShots, JudgeExample};
use crate::engine::{Engine, Sampling};
use crate::error::{Error, Result};
use crate::prompt::{Style, Templates};
use crate::stage::judge::{Clamp, Form, JudgeConfig, Reading};

/// Principles asked about a pair: a number, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerPair(usize);

impl FromStr for PerPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(usize::MAX)),
            number => bounds::count(number)
                .map(Self)
                .map_err(|expected| format!("{expected}, or `all`")),
        }
    }
}

impl fmt::Display for PerPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            usize::MAX => f.write_str("all"),
            number => number.fmt(f),
        }
    }
}

impl Serialize for PerPair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            usize::MAX => serializer.serialize_str("all"),
            number => serializer.serialize_u64(number as u64),
        }
    }
}

/// How verdicts are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    // Log-probabilities where the model gives them, else text.
    #[default]
    Auto,
    // The log-probabilities of the options' tokens.
    Logprobs,
    // What the judge writes.
    Text,
}

#[derive(Debug, Clone, PartialEq, Serialize, Args)]
pub struct Judging {
    /// Principles asked about each pair, all different, their log-odds averaged; `all` asks every one, by weight.
    #[arg(long, default_value = "1", value_name = "N|all")]
    pub principles_per_pair: PerPair,
    /// What is asked: which of two answers is better, how good each is from 1 to 5, or which of all is best.
    #[arg(long, value_enum, default_value_t)]
    #[serde(skip_serializing_if = "is_default")]
    pub form: Form,
    /// What verdicts are read from; auto is log-probabilities where the model gives them, else text.
    #[arg(long, value_enum, default_value_t)]
    #[serde(skip_serializing_if = "is_logprobs")]
    pub read: Read,
    /// Let the judge reason before its choice is scored (verdicts read as text are explained anyway).
    #[arg(long)]
    #[serde(skip_serializing_if = "is_default")]
    pub cot: bool,
    /// Bounds of each probability after a reasoning, which makes judges too sure; 0,1 is none.
    #[arg(long, default_value_t, value_name = "LO,HI")]
    #[serde(skip_serializing_if = "is_default")]
    pub cot_clamp: Clamp,
    /// Verdicts sampled of each question in each order, where they are read as text.
    #[arg(long, default_value_t = VOTES, value_name = "K", value_parser = bounds::count)]
    #[serde(skip_serializing_if = "is_votes")]
    pub votes: usize,
    /// Compare of each row only the N pairs whose answers are most alike in length, so that length has less to decide:
    /// sample more answers than you label.
    #[arg(long, value_name = "N", value_parser = bounds::count)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest: Option<usize>,
    /// Comparisons shown before each question: a TOML file of [[example]], or `builtin`.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub few_shots: Option<String>,
    /// How reasonings and verdicts in words are drawn.
    #[command(flatten)]
    #[serde(skip_serializing_if = "is_default")]
    pub sampling: Sampling,
}

const VOTES: usize = 3;

impl Default for Judging {
    fn default() -> Self {
        Self {
            principles_per_pair: PerPair(1),
            form: Form::default(),
            read: Read::default(),
            cot: false,
            cot_clamp: Clamp::default(),
            votes: VOTES,
            few_shots: None,
            closest: None,
            sampling: Sampling::default(),
        }
    }
}

/// For settings that older results do not have.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which of the two ways `auto` comes to is recorded as what it comes to.
fn is_logprobs(read: &Read) -> bool {
    *read != Read::Text
}

fn is_votes(votes: &usize) -> bool {
    *votes == VOTES
}

impl Judging {
    /// What contradicts itself, before a model is loaded.
    pub fn check(&self) -> Result<()> {
        if self.cot && self.form != Form::Choice {
            return Err(
                Error::config("--cot reasons before a choice, not before a rating or a list")
                    .help("leave --cot away, or use --form choice; with --read text every verdict is explained"),
            );
        }
        if self.few_shots.is_some() && self.form != Form::Choice {
            return Err(Error::config("few-shot examples are comparisons of two answers")
                .help("leave --few-shots away, or use --form choice"));
        }
        Ok(())
    }

    /// The same with `auto` settled by what the engine can do, so that the settings record it.
    pub fn settled(&self, engine: &dyn Engine, style: Style) -> Result<Self> {
        let read = match self.read {
            Read::Auto if engine.scores(style)? => Read::Logprobs,
            Read::Auto => Read::Text,
            chosen => chosen,
        };
        Ok(Self { read, ..self.clone() })
    }

    /// The templates with the few-shot examples: those that are named, or the constitution's, if there are some.
    pub fn templates(&self, templates: Templates, constitution: &Constitution) -> Result<Templates> {
        let reasoning = self.cot || self.read == Read::Text;
        let examples = match &self.few_shots {
            Some(reference) => Some(FewShots::<JudgeExample>::resolve(reference, reasoning)?),
            None if self.form != Form::Choice => None,
            None if reasoning => constitution.examples.judge_reasoning.clone(),
            None => constitution.examples.judge.clone(),
        };
        Ok(match examples {
            Some(examples) => templates.with_judge_examples(examples),
            None => templates,
        })
    }

    /// The settings of a judge that was [`settled`](Self::settled).
    pub fn config(&self) -> JudgeConfig {
        JudgeConfig {
            principles_per_pair: self.principles_per_pair.0,
            form: self.form,
            reading: match self.read {
                Read::Auto | Read::Logprobs => Reading::Logprobs,
                Read::Text => Reading::Text,
            },
            reasoning: self.cot,
            clamp: self.cot_clamp,
            votes: self.votes,
            sampling: self.sampling.clone(),
            closest: self.closest,
        }
    }
}
