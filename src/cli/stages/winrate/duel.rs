//! One prompt, two answers, a verdict: what is put to the judge, and the pair that comes of it.
//!
//! Knows nothing of where the answers come from.

use serde::Serialize;
use serde_json::{Value, json};

use super::pairs::Rejected;
use super::{Winrate, page};
use crate::bias::winrate::{ModelPair, rates};
use crate::cli::session::Session;
use crate::cli::stages::Stage as _;
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, Preference, Prompt, TIE};
use crate::stage::Outcome;

/// An answer, and whether it reached its limit of tokens.
#[derive(Debug, Clone)]
pub struct Answer {
    pub text: String,
    /// 0 where nobody has counted them.
    pub tokens: u32,
    pub cut: bool,
}

/// A judged pair as it is written: what `--pairs` reads, with the texts.
#[derive(Debug, Clone, Serialize)]
pub struct PairRow {
    model: String,
    idx: String,
    len_1_chars: usize,
    len_2_chars: usize,
    len_1_tokens: Option<u32>,
    len_2_tokens: Option<u32>,
    /// Whether an answer reached its limit of tokens.
    truncated_1: bool,
    truncated_2: bool,
    preference: f64,
    /// `judged`, `tie` (the judge's), or `identical`.
    verdict: &'static str,
    instruction: String,
    output_1: String,
    output_2: String,
}

/// Everything that was decided about one model.
#[derive(Default)]
pub struct Verdicts {
    pub rows: Vec<PairRow>,
    pub rejected: Vec<Rejected>,
}

/// A pair as a line of its file.
pub fn line(row: &PairRow) -> Result<String> {
    let json = serde_json::to_string(row).map_err(|error| Error::unexpected("a judged pair").because(error))?;
    Ok(json + "\n")
}

/// One prompt with both answers to it.
pub struct Duel<'a> {
    pub model: &'a str,
    pub prompt: &'a Prompt,
    /// The model's answer, or why there is none.
    pub ours: &'a Result<Answer, String>,
    /// The baseline's.
    pub theirs: &'a Result<Answer, String>,
}

impl Duel<'_> {
    fn rejected(&self, reason: String) -> Rejected {
        Rejected {
            row: format!("{}, prompt {}", self.model, self.prompt.id),
            reason,
        }
    }

    /// The pair with a preference of `p` for the model.
    fn row(&self, ours: &Answer, theirs: &Answer, p: f64, verdict: &'static str) -> PairRow {
        let counted = |tokens: u32| (tokens > 0).then_some(tokens);
        PairRow {
            model: self.model.to_owned(),
            idx: self.prompt.id.clone(),
            len_1_chars: theirs.text.chars().count(),
            len_2_chars: ours.text.chars().count(),
            len_1_tokens: counted(theirs.tokens),
            len_2_tokens: counted(ours.tokens),
            truncated_1: theirs.cut,
            truncated_2: ours.cut,
            preference: 1.0 + p,
            verdict,
            instruction: self
                .prompt
                .messages
                .last()
                .map_or_else(String::new, |last| last.content.clone()),
            output_1: theirs.text.clone(),
            output_2: ours.text.clone(),
        }
    }
}

/// Has each duel judged in both orders by `judge`, which answers a label a row. Identical answers are a tie without being
/// asked; what cannot be judged is told.
pub fn judge_duels(
    duels: &[Duel<'_>],
    verdicts: &mut Verdicts,
    judge: impl FnOnce(&[Candidates]) -> Result<Vec<Outcome<Preference>>>,
) -> Result<()> {
    let mut asked = Vec::new();
    let mut rows = Vec::new();
    for duel in duels {
        let (ours, theirs) = match (duel.ours, duel.theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(reason), _) => {
                verdicts.rejected.push(duel.rejected(reason.clone()));
                continue;
            }
            (_, Err(reason)) => {
                verdicts.rejected.push(duel.rejected(format!("the baseline: {reason}")));
                continue;
            }
        };
        if ours.text.trim() == theirs.text.trim() {
            verdicts.rows.push(duel.row(ours, theirs, 0.5, "identical"));
            continue;
        }
        rows.push(candidates(duel.prompt, ours, theirs));
        asked.push((duel, ours, theirs));
    }
    let labels = judge(&rows)?;
    if labels.len() != asked.len() {
        return Err(Error::unexpected("a pair has no verdict, or two"));
    }
    for (label, (duel, ours, theirs)) in labels.into_iter().zip(asked) {
        match label {
            Ok(label) => {
                let chosen = label.chosen.first().is_some_and(|message| message.content == ours.text);
                let p = f64::from(label.p_chosen);
                let (ours_tokens, theirs_tokens) = match chosen {
                    true => (label.chosen_tokens, label.rejected_tokens),
                    false => (label.rejected_tokens, label.chosen_tokens),
                };
                let mut row = duel.row(ours, theirs, if chosen { p } else { 1.0 - p }, "judged");
                row.len_1_tokens = Some(theirs_tokens);
                row.len_2_tokens = Some(ours_tokens);
                verdicts.rows.push(row);
            }
            Err(reject) if reject.reason == TIE => {
                verdicts.rows.push(duel.row(ours, theirs, 0.5, "tie"));
            }
            Err(reject) => verdicts.rejected.push(duel.rejected(reject.reason)),
        }
    }
    Ok(())
}

/// A pair as the judge takes it: the model's answer first, the baseline's second.
fn candidates(prompt: &Prompt, ours: &Answer, theirs: &Answer) -> Candidates {
    let completion = |answer: &Answer, sample| Completion {
        text: answer.text.clone(),
        tokens: answer.tokens,
        finish_reason: "stop".into(),
        logprob: 0.0,
        sample,
    };
    Candidates {
        id: prompt.id.clone(),
        prompt: prompt.messages.clone(),
        completions: vec![completion(ours, 0), completion(theirs, 1)],
    }
}

/// The figures on the pairs, and how they came about.
pub fn measure(session: &Session, stage: &Winrate, judge: &str, verdicts: &Verdicts) -> Result<Value> {
    if let (Some(first), []) = (verdicts.rejected.first(), &verdicts.rows[..]) {
        return Err(Error::input(format!(
            "none of {} pairs could be judged; the first, {}: {}",
            verdicts.rejected.len(),
            first.row,
            first.reason
        ))
        .help("look at the prompts, and at what the models answer to them"));
    }
    let pairs: Vec<ModelPair> = verdicts
        .rows
        .iter()
        .map(|row| ModelPair {
            model: row.model.clone(),
            instruction: row.idx.clone(),
            len_model: row.len_2_chars as f64,
            len_baseline: row.len_1_chars as f64,
            p: row.preference - 1.0,
        })
        .collect();
    let rates = rates(&pairs, stage.config(), session.stage_seed(stage.kind()))?;
    let mut document = page::document(rates, stage.config(), &verdicts.rejected)?;
    document["judge"] = json!(judge);
    if let Some(models) = document["models"].as_array_mut() {
        for model in models {
            let rows = || verdicts.rows.iter().filter(|row| model["model"] == row.model.as_str());
            let mean = |of: fn(&PairRow) -> Option<u32>| {
                let (count, sum) = rows()
                    .filter_map(of)
                    .fold((0u32, 0.0), |(count, sum), tokens| (count + 1, sum + f64::from(tokens)));
                (count > 0).then(|| sum / f64::from(count))
            };
            let count = |verdict: &str| rows().filter(|row| row.verdict == verdict).count();
            let told = json!({
                "identical": count("identical"),
                "ties": count("tie"),
                "truncated": rows().filter(|row| row.truncated_2).count(),
                "baseline_truncated": rows().filter(|row| row.truncated_1).count(),
                "mean_tokens": mean(|row| row.len_2_tokens),
                "baseline_mean_tokens": mean(|row| row.len_1_tokens),
            });
            model["judged"] = told;
        }
    }
    Ok(document)
}
