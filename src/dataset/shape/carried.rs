//! Our own columns beside those of another program's form: what `data convert` keeps of a row so that nothing
//! is lost on the way back.
//!
//! They are read only in rows that have an [`ID`](super::ID) too, which no other program writes.

use serde::Deserialize;

use super::kinds::margin;
use super::{Object, Reason};
use crate::record::{Preference, Vote};

/// The columns. `log_odds` is the margin, under a name that means nothing to reward trainers.
pub const COLUMNS: [&str; 10] = [
    "p_chosen",
    "log_odds",
    "weight",
    "source",
    "votes",
    "chosen_tokens",
    "rejected_tokens",
    "chosen_chars",
    "rejected_chars",
    "p_raw",
];

#[derive(Deserialize)]
struct Carried {
    p_chosen: Option<f32>,
    log_odds: Option<f32>,
    weight: Option<f32>,
    source: Option<String>,
    votes: Option<Vec<Vote>>,
    chosen_tokens: Option<u32>,
    rejected_tokens: Option<u32>,
    chosen_chars: Option<u32>,
    rejected_chars: Option<u32>,
    p_raw: Option<f32>,
}

fn replace<T>(field: &mut T, carried: Option<T>) {
    if let Some(value) = carried {
        *field = value;
    }
}

/// Takes over what a pair of another form has no place for.
pub(super) fn preference(row: &mut Preference, object: &Object) -> Result<(), Reason> {
    let carried =
        Carried::deserialize(object).map_err(|error| format!("not what an export carries of preferences: {error}"))?;
    if let Some(p_chosen) = carried.p_chosen {
        (row.p_chosen, row.p_raw, row.margin) = (p_chosen, p_chosen, margin(p_chosen));
    }
    replace(&mut row.margin, carried.log_odds);
    replace(&mut row.weight, carried.weight);
    replace(&mut row.source, carried.source);
    replace(&mut row.votes, carried.votes);
    replace(&mut row.chosen_tokens, carried.chosen_tokens);
    replace(&mut row.rejected_tokens, carried.rejected_tokens);
    replace(&mut row.chosen_chars, carried.chosen_chars);
    replace(&mut row.rejected_chars, carried.rejected_chars);
    replace(&mut row.p_raw, carried.p_raw);
    Ok(())
}

/// Takes over a row's weight.
pub(super) fn weight(field: &mut f32, object: &Object) -> Result<(), Reason> {
    if let Some(weight) = object.get("weight") {
        *field = super::fields::number(Some(weight), "weight")? as f32;
    }
    Ok(())
}
