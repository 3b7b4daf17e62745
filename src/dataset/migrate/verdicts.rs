//! From version 1 to 2: a vote names its verdict, which its probability decided until then.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, StructArray};
use arrow::datatypes::Float32Type;
use arrow::record_batch::RecordBatch;

use super::{Kind, items};
use crate::record::Verdict;

/// Preferences with the verdict in every vote; other kinds are as they were.
pub fn add(kind: Kind, batch: RecordBatch) -> Result<RecordBatch, String> {
    if kind != Kind::Preferences {
        return Ok(batch);
    }
    items::with_field(batch, "votes", "verdict", verdicts)
        .map_err(|error| format!("the votes of version 1 cannot be read: {error}"))
}

fn verdicts(votes: &StructArray) -> Option<ArrayRef> {
    let probabilities = votes.column_by_name("p_a")?.as_primitive_opt::<Float32Type>()?;
    let named = |p: Option<f32>| Verdict::of_probability(p.unwrap_or(f32::NAN)).as_str();
    Some(Arc::new(StringArray::from_iter_values(probabilities.iter().map(named))))
}
