//! Files in which somebody recorded what judges and people said of pairs of answers.
//!
//! | file | answers | judge | people |
//! |---|---|---|---|
//! | LLMBar (Zeng et al. 2024, arXiv 2310.07641) | `output_1`, `output_2` | `results[-1]`: `swap = False`, `swap = True` | `label` |
//! | PandaLM (Wang et al. 2024, arXiv 2306.05087) | `response1`, `response2` | `gpt_result`, `pandalm_result`, in a file of its own by `idx` | `annotator1` to `annotator3` |
//! | AlpacaEval (Li et al. 2023) | `output_1`, `output_2` | `preference`, 1 to 2 | |
//! | any | `answer_1`, `answer_2`, or `response_1`, `response_2` | `verdict`, `verdict_swapped`: 1, 2, tie | `gold`: 1, 2, tie |
//!
//! Verdicts of the swapped order name the answers as they are numbered in the file, not by their place. What is no verdict at
//! all (`garbage`, null, an empty cell, a word) is one that cannot be parsed; a row without two texts is a reject. A
//! preference or a gold that is null or an empty cell is none.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::objects::{RawRecord, read_objects, text_of};
use super::reference::Loaded;
use super::scale::Scale;
use super::{combined_sha256, reject};
use crate::error::{Error, Result};
use crate::judged::{JudgedPair, Judgement, Winner};
use crate::record::{Message, Reject, content_id};

type Object = Map<String, Value>;

const ANSWERS: [[&str; 2]; 4] = [
    ["output_1", "output_2"],
    ["response1", "response2"],
    ["answer_1", "answer_2"],
    ["response_1", "response_2"],
];

const INSTRUCTIONS: [&str; 3] = ["instruction", "input", "prompt"];

/// Columns that hold one verdict, in the order of the file.
const VERDICTS: [&str; 4] = ["verdict", "gpt_result", "pandalm_result", "winner"];

const SWAPPED: [&str; 2] = ["verdict_swapped", "winner_swapped"];

const ANNOTATORS: [&str; 3] = ["annotator1", "annotator2", "annotator3"];

const EXPECTED: &str = "a row needs two answers (output_1 and output_2, response1 and response2, answer_1 and answer_2, or \
     response_1 and response_2), and what was said of them: `results` as LLMBar writes it, `verdict` and `verdict_swapped`, `preference`, \
     `gold`, `label`, or three annotators";

/// A pair with its texts, and what was said of it; nothing may have been.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedPair {
    pub prompt: Vec<Message>,
    pub answers: [String; 2],
    pub said: JudgedPair,
}

/// Reads pairs to ask a judge about; something may have been said of them.
pub fn read_pairs(reference: &str) -> Result<Loaded<RecordedPair>> {
    let (records, sha256) = read_objects(reference)?;
    pairs(records, sha256, reference)
}

/// Reads recorded verdicts. Verdicts in a file of their own are joined to the rows of `answers` by `idx`.
pub fn read_recorded(verdicts: &str, answers: Option<&str>) -> Result<Loaded<RecordedPair>> {
    let (mut records, mut sha256) = read_objects(verdicts)?;
    if let Some(answers) = answers {
        let (rows, of_answers) = read_objects(answers)?;
        records = joined(rows, records, verdicts)?;
        sha256 = combined_sha256([sha256.as_str(), of_answers.as_str()].into_iter());
    }
    let mut loaded = pairs(records, sha256, verdicts)?;
    let silent = |row: &RecordedPair| row.said.judgements.is_empty() && row.said.gold.is_none();
    if loaded.rows.iter().all(silent) {
        return Err(Error::input("nothing was said of any pair of answers")
            .at_file(verdicts)
            .help(EXPECTED));
    }
    for row in loaded.rows.extract_if(.., |row| silent(row)) {
        let raw = row.answers.join("\n");
        loaded
            .rejects
            .push(reject("nothing was said of the two answers".into(), raw));
    }
    Ok(loaded)
}

fn pairs(records: Vec<RawRecord>, sha256: String, file: &str) -> Result<Loaded<RecordedPair>> {
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    let mut scale = Scale::default();
    for RawRecord { place, object } in records {
        let raw = || serde_json::to_string(&object.as_ref().ok()).unwrap_or_default();
        let read = |object| pair(object, &place, &mut scale);
        match object.as_ref().map_err(Clone::clone).and_then(read) {
            Ok(row) => rows.push(row),
            Err(reason) => rejects.push(reject(format!("{place}: {reason}"), raw())),
        }
    }
    if rows.is_empty() {
        let reason = rejects
            .first()
            .map_or("the file is empty", |reject: &Reject| &reject.reason);
        return Err(Error::input(format!("no pair can be read; the first: {reason}"))
            .at_file(file)
            .help(EXPECTED));
    }
    scale.note(file)?;
    Ok(Loaded { rows, rejects, sha256 })
}

/// The rows with the columns of the verdict that has their `idx`.
fn joined(rows: Vec<RawRecord>, verdicts: Vec<RawRecord>, file: &str) -> Result<Vec<RawRecord>> {
    let mut by_index = BTreeMap::new();
    for RawRecord { place, object } in verdicts {
        let object = object.map_err(|reason| Error::input(format!("{place}: {reason}")).at_file(file))?;
        let Some(index) = text_of(&object, &["idx"]) else {
            return Err(Error::input(format!(
                "{place}: `idx` is missing, by which verdicts find their answers"
            ))
            .at_file(file));
        };
        if by_index.insert(index.clone(), object).is_some() {
            return Err(Error::input(format!("{place}: a second verdict with the idx {index}")).at_file(file));
        }
    }
    let rows = rows
        .into_iter()
        .map(|RawRecord { place, object }| {
            let object = object.and_then(|mut object| {
                let index =
                    text_of(&object, &["idx"]).ok_or("`idx` is missing, by which answers find their verdict")?;
                let verdict = by_index
                    .remove(&index)
                    .ok_or_else(|| format!("no verdict has its idx {index}"))?;
                object.extend(verdict.into_iter().filter(|(key, _)| key != "idx"));
                Ok(object)
            });
            RawRecord { place, object }
        })
        .collect();
    if let Some(index) = by_index.keys().next() {
        return Err(Error::input(format!("no answers have the idx {index} of a verdict")).at_file(file));
    }
    Ok(rows)
}

fn pair(object: &Object, place: &str, scale: &mut Scale) -> Result<RecordedPair, String> {
    let names = ANSWERS
        .into_iter()
        .find(|names| names.iter().all(|name| object.contains_key(*name)))
        .ok_or("there are no two answers")?;
    let mut texts = [String::new(), String::new()];
    for (text, name) in texts.iter_mut().zip(names) {
        *text = match &object[name] {
            Value::String(text) => text.clone(),
            // An answer that some program took for more than text; the verdict on it stands.
            scalar @ (Value::Bool(_) | Value::Number(_)) => scalar.to_string(),
            _ => return Err(format!("`{name}` is no text")),
        };
    }
    let prompt: Vec<&str> = INSTRUCTIONS
        .iter()
        .filter_map(|name| object.get(*name).and_then(Value::as_str))
        .collect();
    let prompt = prompt.join("\n\n");
    let id = content_id([prompt.as_str(), &texts[0], &texts[1]]);
    let lengths = [&texts[0], &texts[1]].map(|text| text.chars().count() as u32);
    // Rows that name no prompt are not all of one.
    let cluster = if prompt.is_empty() { id.clone() } else { prompt.clone() };
    let mut said = JudgedPair::new(id, cluster, lengths);
    said.judgements = judgements(object, place, scale)?;
    said.gold = gold(object)?;
    Ok(RecordedPair {
        prompt: vec![Message::user(prompt)],
        answers: texts,
        said,
    })
}

fn judgement(first_at_a: Option<bool>, winner: Winner, p_first: Option<f64>) -> Judgement {
    Judgement {
        first_at_a,
        winner,
        p_first,
        principle_id: String::new(),
        alone: false,
    }
}

fn judgements(object: &Object, place: &str, scale: &mut Scale) -> Result<Vec<Judgement>, String> {
    if let Some(results) = object.get("results").and_then(Value::as_array) {
        return llmbar(results);
    }
    if let Some(value) = filled(object, "preference") {
        let preference = number(value).ok_or("`preference` is no number")?;
        let second = scale.probability_of_second(preference, place).ok_or_else(|| {
            format!("`preference` is {preference}, expected 1 for the first answer to 2 for the second, or 0 for a tie")
        })?;
        let winner = match second.total_cmp(&0.5) {
            std::cmp::Ordering::Less => Winner::First,
            std::cmp::Ordering::Equal => Winner::Tie,
            std::cmp::Ordering::Greater => Winner::Second,
        };
        return Ok(vec![judgement(None, winner, Some(1.0 - second))]);
    }
    // A column that is empty everywhere is a verdict all the same, which cannot be parsed.
    let find = |names: &[&str]| {
        let filled = names.iter().find_map(|name| filled(object, name));
        filled
            .or_else(|| names.iter().find_map(|name| object.get(*name)))
            .map(winner)
    };
    let swapped = find(&SWAPPED);
    let first_at_a = swapped.is_some().then_some(true);
    let straight = find(&VERDICTS).map(|winner| judgement(first_at_a, winner, None));
    let swapped = swapped.map(|winner| judgement(Some(false), winner, None));
    Ok(straight.into_iter().chain(swapped).collect())
}

/// What stands in a column, unless that is null or, in a cell of a CSV file, nothing.
fn filled<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        _ => true,
    })
}

/// The last of the results has the verdicts; what stands before it is what the judge was helped with.
fn llmbar(results: &[Value]) -> Result<Vec<Judgement>, String> {
    let last = results.last().ok_or("`results` is empty")?;
    [("swap = False", true), ("swap = True", false)]
        .into_iter()
        .map(|(key, first_at_a)| {
            let result = last
                .get(key)
                .ok_or_else(|| format!("the last of `results` has no `{key}`"))?;
            let winner = result.get("winner").map_or(Winner::Unparsed, winner);
            Ok(judgement(Some(first_at_a), winner, None))
        })
        .collect()
}

fn gold(object: &Object) -> Result<Option<Winner>, String> {
    if ANNOTATORS.iter().all(|name| object.contains_key(*name)) {
        let votes = ANNOTATORS.map(|name| winner(&object[name]));
        // Two of three; three who all differ are no gold.
        return Ok(votes
            .into_iter()
            .find(|vote| *vote != Winner::Unparsed && votes.iter().filter(|other| *other == vote).count() >= 2));
    }
    let Some((name, value)) = ["gold", "label"]
        .iter()
        .find_map(|name| Some((*name, filled(object, name)?)))
    else {
        return Ok(None);
    };
    match winner(value) {
        Winner::Unparsed => Err(format!("`{name}` is {value}, expected 1, 2, or 0 for a tie")),
        winner => Ok(Some(winner)),
    }
}

/// 1 or 2, as a number or a text; 0 or `tie` where neither is better.
fn winner(value: &Value) -> Winner {
    let text = match value {
        Value::String(text) => text.trim().to_ascii_lowercase(),
        other => other.to_string(),
    };
    match text.as_str() {
        "1" | "1.0" | "a" => Winner::First,
        "2" | "2.0" | "b" => Winner::Second,
        "0" | "0.0" | "tie" => Winner::Tie,
        _ => Winner::Unparsed,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    }
    .filter(|number| number.is_finite())
}
