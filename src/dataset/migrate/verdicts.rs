//! From version 1 to 2: a vote names its verdict, which its probability decided until then.
//!
//! Columns that are not as version 1 wrote them pass unchanged; the reader says what is wrong with them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::Kind;
use crate::record::Verdict;

const VOTES: &str = "votes";
const VERDICT: &str = "verdict";

/// Preferences with the verdict in every vote; other kinds are as they were.
pub fn add(kind: Kind, batch: RecordBatch) -> Result<RecordBatch, String> {
    if kind != Kind::Preferences {
        return Ok(batch);
    }
    let schema = batch.schema();
    let Some((index, field)) = schema.column_with_name(VOTES) else {
        return Ok(batch);
    };
    let votes = batch.column(index);
    // Other programs write lists with longer offsets.
    let cast = |to: &Field| arrow::compute::cast(votes, &DataType::List(Arc::new(to.clone())));
    let lists = match votes.data_type() {
        DataType::LargeList(item) => cast(item),
        _ => Ok(votes.clone()),
    };
    lists
        .and_then(|lists| match lists.as_list_opt::<i32>().map(with_verdicts) {
            Some(Ok(Some(lists))) => replaced(&batch, index, field, lists),
            Some(Err(error)) => Err(error),
            Some(Ok(None)) | None => Ok(batch.clone()),
        })
        .map_err(|error| format!("the votes of version 1 cannot be read: {error}"))
}

/// The lists with one more field in each vote, if they are votes of version 1.
fn with_verdicts(lists: &ListArray) -> Result<Option<ArrayRef>, ArrowError> {
    let Some(votes) = lists.values().as_struct_opt() else {
        return Ok(None);
    };
    let probabilities = votes
        .column_by_name("p_a")
        .and_then(|column| column.as_primitive_opt::<Float32Type>());
    let (Some(probabilities), None) = (probabilities, votes.column_by_name(VERDICT)) else {
        return Ok(None);
    };
    let named = |p: Option<f32>| Verdict::of_probability(p.unwrap_or(f32::NAN)).as_str();
    let verdicts = StringArray::from_iter_values(probabilities.iter().map(named));
    let mut fields: Vec<_> = votes.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(VERDICT, DataType::Utf8, false)));
    let mut columns = votes.columns().to_vec();
    columns.push(Arc::new(verdicts));
    let votes = StructArray::try_new(fields.into(), columns, votes.nulls().cloned())?;
    let (DataType::List(item) | DataType::LargeList(item)) = lists.data_type() else {
        return Ok(None);
    };
    let item = item.as_ref().clone().with_data_type(votes.data_type().clone());
    let lists = ListArray::try_new(
        Arc::new(item),
        lists.offsets().clone(),
        Arc::new(votes),
        lists.nulls().cloned(),
    )?;
    Ok(Some(Arc::new(lists)))
}

/// The batch with another column at `index`.
fn replaced(batch: &RecordBatch, index: usize, field: &Field, column: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields[index] = Arc::new(field.clone().with_data_type(column.data_type().clone()));
    let mut columns = batch.columns().to_vec();
    columns[index] = column;
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns)
}
