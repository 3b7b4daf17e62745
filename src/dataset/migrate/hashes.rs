//! From version 2 to 3: votes and rounds have the hash of the principle's texts. Nobody recorded it until then, which
//! the empty hash says.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StructArray};
use arrow::record_batch::RecordBatch;

use super::{Kind, items};

/// Preferences and revisions with an empty hash in every vote and round; other kinds are as they were.
pub fn add(kind: Kind, batch: RecordBatch) -> Result<RecordBatch, String> {
    let column = match kind {
        Kind::Preferences => "votes",
        Kind::Revisions => "rounds",
        Kind::Prompts
        | Kind::Candidates
        | Kind::Rejects
        | Kind::Demonstrations
        | Kind::UnpairedPreferences
        | Kind::ReferenceLogprobs => return Ok(batch),
    };
    items::with_field(batch, column, "principle_hash", none)
        .map_err(|error| format!("the {column} of version 2 cannot be read: {error}"))
}

fn none(items: &StructArray) -> Option<ArrayRef> {
    Some(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
        "",
        items.len(),
    ))))
}
