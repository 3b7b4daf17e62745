//! What `eval winrate` says: the JSON document that scripts rely on, the table, the notes.

use serde_json::{Value, json};

use super::pairs::Rejected;
use crate::bias::interval::{Estimate, RESAMPLES};
use crate::bias::winrate::{ModelRates, WinRateConfig};
use crate::error::{Error, Result};

/// The document; its models by their length-controlled win rate, those without one last.
pub fn document(mut rates: Vec<ModelRates>, config: WinRateConfig, rejected: &[Rejected]) -> Result<Value> {
    let key = |rates: &ModelRates| {
        let controlled = rates.controlled.as_ref().ok();
        (
            controlled.map_or(f64::NEG_INFINITY, |found| found.rate.value),
            rates.raw.value,
        )
    };
    rates.sort_by(|a, b| {
        let ((a_lc, a_raw), (b_lc, b_raw)) = (key(a), key(b));
        b_lc.total_cmp(&a_lc).then(b_raw.total_cmp(&a_raw))
    });
    let document = json!({
        "models": rates.iter().map(model).collect::<Vec<_>>(),
        "method": method(&rates, config),
        "l2": config.l2,
        "pairs": rates.iter().map(|rates| rates.n).sum::<usize>(),
        "rejected": rejected,
    });
    match finite(&document) {
        true => Ok(document),
        false => Err(Error::unexpected("a win rate is not a number")),
    }
}

/// JSON has no NaN: serde writes null for it, which here stands for a rate that there is not.
fn finite(document: &Value) -> bool {
    let models = document["models"].as_array().map_or(&[][..], Vec::as_slice);
    models.iter().all(|model| {
        let numbers = ["win_rate", "mean_length", "baseline_mean_length"];
        let ends = ["ci", "win_rate_ci"];
        numbers.iter().all(|name| model[name].is_number())
            && ends
                .iter()
                .all(|name| model[name][0].is_number() && model[name][1].is_number())
    })
}

fn model(rates: &ModelRates) -> Value {
    let ends = |estimate: &Estimate| json!(estimate.interval.map(|interval| [interval.low, interval.high]));
    let found = rates.controlled.as_ref();
    json!({
        "model": rates.model,
        "n": rates.n,
        "win_rate": rates.raw.value,
        "length_controlled_win_rate": found.ok().map(|found| found.rate.value),
        "ci": ends(found.map_or(&rates.raw, |found| &found.rate)),
        "mean_length": rates.mean_length,
        "ci_of": if found.is_ok() { "length_controlled_win_rate" } else { "win_rate" },
        "win_rate_ci": ends(&rates.raw),
        "baseline_mean_length": rates.baseline_mean_length,
        "instructions": rates.instructions,
        "coefficients": found.ok().and_then(|found| found.coefficients),
        "extrapolated": found.is_ok_and(|found| found.extrapolated),
        "status": status(rates),
        "reason": found.err().map(|reason| reason.reason()),
    })
}

fn status(rates: &ModelRates) -> &'static str {
    match &rates.controlled {
        Err(reason) => reason.as_str(),
        Ok(found) if found.coefficients.is_none() => "equal_lengths",
        Ok(_) => "fitted",
    }
}

fn method(rates: &[ModelRates], config: WinRateConfig) -> String {
    let difficulty = rates
        .iter()
        .filter_map(|rates| rates.controlled.as_ref().ok()?.coefficients)
        .any(|coefficients| coefficients.difficulty.is_some());
    let difficulty = match (difficulty, rates.len()) {
        (true, _) => "difficulty of the instruction by the other models' results on it",
        (false, 1) => "no difficulty of the instruction, which takes several models",
        (false, _) => "no difficulty of the instruction, for the models share too few",
    };
    format!(
        "logistic regression on soft preferences (Dubois et al. 2024, arXiv 2404.04475): model, tanh of the length \
         difference over its standard deviation, {difficulty}; L2 {} on length and difficulty; intervals: 95 % \
         percentile bootstrap over instructions, {RESAMPLES} resamples",
        config.l2
    )
}

/// What the user should know of the rates.
pub fn notes(document: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    let rejected = document["rejected"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(first) = rejected.first() {
        notes.push(format!(
            "{} rows are left out; the first, {}: {}",
            rejected.len(),
            words(&first["row"]),
            words(&first["reason"])
        ));
    }
    let models = document["models"].as_array().map_or(&[][..], Vec::as_slice);
    if let [only] = models
        && only["coefficients"].is_object()
    {
        notes.push(
            "one model alone: the difficulty of the instructions is left out of the regression; several models judged on the \
             same prompts, in one file, give a better rate"
                .into(),
        );
    }
    for model in models {
        let name = words(&model["model"]);
        match words(&model["status"]) {
            "fitted" if model["extrapolated"] == true => notes.push(format!(
                "{name}: its answers are all longer than the baseline's, or all shorter; the rate at equal length is \
                 extrapolated"
            )),
            "fitted" => {}
            "equal_lengths" => notes.push(format!("{name}: no lengths differ, so there is nothing to control")),
            _ => notes.push(format!(
                "{name}: no length-controlled win rate: {}",
                words(&model["reason"])
            )),
        }
        if model["n"] != model["instructions"] {
            notes.push(format!(
                "{name}: {} pairs on {} instructions; the interval counts instructions",
                model["n"], model["instructions"]
            ));
        }
    }
    notes
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The table, rates in per cent.
pub fn table(document: &Value) -> String {
    let models = document["models"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = models.iter().map(|model| shown(words(&model["model"]))).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$}  {:>12} {:>15}  {:>8} {:>15}  {:>8} {:>8}  {:>6}\n",
        "model", "LC win rate", "95 %", "win rate", "95 %", "length", "baseline", "pairs"
    );
    for (model, name) in models.iter().zip(names) {
        let of = |name: &str| model[name].as_f64();
        let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.1}", 100.0 * value));
        let ends = |name: &str| format!("{}..{}", rate(model[name][0].as_f64()), rate(model[name][1].as_f64()));
        let interval = match of("length_controlled_win_rate") {
            Some(_) => ends("ci"),
            None => "-".to_owned(),
        };
        let length = |name: &str| format!("{:.0}", of(name).unwrap_or_default());
        text += &format!(
            "{name:<width$}  {:>12} {interval:>15}  {:>8} {:>15}  {:>8} {:>8}  {:>6}\n",
            rate(of("length_controlled_win_rate")),
            rate(of("win_rate")),
            ends("win_rate_ci"),
            length("mean_length"),
            length("baseline_mean_length"),
            model["n"].to_string()
        );
    }
    text
}

/// A name without what would break the line.
fn shown(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.chars().count() {
        ..=40 => clean,
        _ => format!("{}…", clean.chars().take(39).collect::<String>()),
    }
}

/// A few words for the line of a stage.
pub fn summary(document: &Value) -> String {
    let models = document["models"].as_array().map_or(&[][..], Vec::as_slice);
    let rate = |value: &Value| {
        value
            .as_f64()
            .map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
    };
    let told = models.iter().map(|model| {
        format!(
            "{}: length-controlled win rate {}, raw {}",
            words(&model["model"]),
            rate(&model["length_controlled_win_rate"]),
            rate(&model["win_rate"])
        )
    });
    told.collect::<Vec<_>>().join("; ")
}
