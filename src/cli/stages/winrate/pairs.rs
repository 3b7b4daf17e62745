//! Judged pairs from a file: the columns of AlpacaEval, or a probability for each pair.
//!
//! A row that nobody judged is left out and counted. A number that cannot be a length or a preference ends the reading:
//! it means that the columns are not what they are taken for.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::bias::winrate::ModelPair;
use crate::dataset::{self, Scale, text_of};
use crate::error::{Error, Result};

const COLUMNS: &str = "the columns are `model` (or `generator_2`), `idx` (or `index`, or `instruction`), `len_1_chars` and \
     `len_2_chars` (or `output_1` and `output_2`), and `preference` (1 to 2) or `p` (0 to 1); 1 is the baseline, 2 the model";

/// A row that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    pub row: String,
    pub reason: String,
}

/// What a file of pairs holds.
#[derive(Debug)]
pub struct Pairs {
    pub pairs: Vec<ModelPair>,
    pub rejected: Vec<Rejected>,
    /// What the user should know of the rows.
    pub notes: Vec<String>,
    pub sha256: String,
}

/// Why a row is no pair.
enum Fault {
    /// Something is not there.
    Absent(String),
    /// Something is there that cannot be: the reason, and the remedy.
    Wrong(String, &'static str),
}

pub fn read(reference: &str) -> Result<Pairs> {
    let (records, sha256) = dataset::read_objects(reference)?;
    let (mut pairs, mut rejected) = (Vec::new(), Vec::new());
    let mut scale = Scale::default();
    let mut baselines = BTreeSet::new();
    for record in records {
        let pair = record.object.map_err(Fault::Absent).and_then(|object| {
            baselines.extend(text_of(&object, &["generator_1"]));
            pair(&object, &record.place, &mut scale)
        });
        match pair {
            Ok(pair) => pairs.push(pair),
            Err(Fault::Absent(reason)) => rejected.push(Rejected {
                row: record.place,
                reason,
            }),
            Err(Fault::Wrong(reason, remedy)) => {
                return Err(Error::input(format!("{}: {reason}", record.place))
                    .at_file(reference)
                    .help(remedy));
            }
        }
    }
    if let (Some(first), []) = (rejected.first(), &pairs[..]) {
        let message = format!(
            "none of its {} rows is a judged pair; the first, {}: {}",
            rejected.len(),
            first.row,
            first.reason
        );
        return Err(Error::input(message).at_file(reference).help(COLUMNS));
    }
    let mut notes = Vec::new();
    notes.extend(scale.note(reference)?);
    if baselines.len() > 1 {
        let names: Vec<&str> = baselines.iter().map(String::as_str).collect();
        notes.push(format!(
            "the pairs are with several baselines ({}): a win rate over them is one against none of them",
            names.join(", ")
        ));
    }
    Ok(Pairs {
        pairs,
        rejected,
        notes,
        sha256,
    })
}

fn pair(object: &Map<String, Value>, place: &str, scale: &mut Scale) -> Result<ModelPair, Fault> {
    let absent = |what: &str| Fault::Absent(format!("{what} is absent or empty"));
    let model = text_of(object, &["model", "generator_2"]).ok_or_else(|| absent("`model`"))?;
    let instruction = text_of(object, &["idx", "index", "instruction"]).ok_or_else(|| absent("`idx`"))?;
    Ok(ModelPair {
        model,
        instruction,
        len_baseline: length(object, ["len_1_chars", "len_1"], "output_1")?,
        len_model: length(object, ["len_2_chars", "len_2"], "output_2")?,
        p: preference(object, place, scale)?,
    })
}

/// The probability that the model's answer is the better one.
fn preference(object: &Map<String, Value>, place: &str, scale: &mut Scale) -> Result<f64, Fault> {
    match (number(object, "preference")?, number(object, "p")?) {
        (Some(_), Some(_)) => Err(Fault::Wrong(
            "has both `preference` and `p`".into(),
            "leave one of the two columns out",
        )),
        (Some(preference), None) => scale.probability_of_second(preference, place).ok_or_else(|| {
            Fault::Wrong(
                format!("the preference {preference} is not from 1 to 2"),
                Scale::EXPECTED,
            )
        }),
        (None, Some(p)) if (0.0..=1.0).contains(&p) => Ok(p),
        (None, Some(p)) => Err(Fault::Wrong(
            format!("the probability p, {p}, is not from 0 to 1"),
            Scale::EXPECTED,
        )),
        (None, None) => Err(Fault::Absent(
            "has no preference: `preference` and `p` are absent, empty or NaN".into(),
        )),
    }
}

/// A length from its column, or from the answer itself, in characters.
fn length(object: &Map<String, Value>, names: [&str; 2], output: &str) -> Result<f64, Fault> {
    for name in names {
        match number(object, name)? {
            Some(length) if !(0.0..=1e12).contains(&length) => {
                return Err(Fault::Wrong(
                    format!("`{name}` is {length}, which is no length"),
                    "lengths are numbers of characters",
                ));
            }
            Some(length) => return Ok(length),
            None => {}
        }
    }
    match object.get(output) {
        Some(Value::String(answer)) => Ok(answer.chars().count() as f64),
        _ => Err(Fault::Absent(format!("`{}` is absent, empty or NaN", names[0]))),
    }
}

/// The number in a column; `None` where nothing stands for one.
fn number(object: &Map<String, Value>, name: &str) -> Result<Option<f64>, Fault> {
    let value = match object.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => match text.trim() {
            "" | "NA" | "null" | "None" => return Ok(None),
            text => text.parse().ok(),
        },
        Some(_) => None,
    };
    match value {
        Some(value) if value.is_nan() => Ok(None),
        Some(value) if value.is_finite() => Ok(Some(value)),
        _ => {
            let shown = object.get(name).map(ToString::to_string).unwrap_or_default();
            Err(Fault::Wrong(
                format!("`{name}` is {shown}, which is no finite number"),
                COLUMNS,
            ))
        }
    }
}
