//! One more field in the items of a list: what every change of votes and rounds has been so far.
//!
//! Columns that are not as the earlier version wrote them pass unchanged; the reader says what is wrong with them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

/// The batch whose list `column` has a field `name` more in each item; `make` answers its values, or nothing where the
/// items are none of the earlier version. Where the field is there already, nothing changes.
pub fn with_field(
    batch: RecordBatch,
    column: &str,
    name: &str,
    make: impl Fn(&StructArray) -> Option<ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let Some((index, field)) = schema.column_with_name(column) else {
        return Ok(batch);
    };
    let lists = batch.column(index);
    // Other programs write lists with longer offsets.
    let lists = match lists.data_type() {
        DataType::LargeList(item) => arrow::compute::cast(lists, &DataType::List(item.clone()))?,
        _ => lists.clone(),
    };
    let Some(lists) = lists.as_list_opt::<i32>() else {
        return Ok(batch);
    };
    match longer(lists, name, make)? {
        Some(lists) => replaced(&batch, index, field, lists),
        None => Ok(batch),
    }
}

/// The lists with the field, if their items are of the earlier version.
fn longer(
    lists: &ListArray,
    name: &str,
    make: impl Fn(&StructArray) -> Option<ArrayRef>,
) -> Result<Option<ArrayRef>, ArrowError> {
    let Some(items) = lists.values().as_struct_opt() else {
        return Ok(None);
    };
    if items.column_by_name(name).is_some() {
        return Ok(None);
    }
    let Some(values) = make(items) else {
        return Ok(None);
    };
    let mut fields: Vec<_> = items.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(name, values.data_type().clone(), false)));
    let mut columns = items.columns().to_vec();
    columns.push(values);
    let items = StructArray::try_new(fields.into(), columns, items.nulls().cloned())?;
    let (DataType::List(item) | DataType::LargeList(item)) = lists.data_type() else {
        return Ok(None);
    };
    let item = item.as_ref().clone().with_data_type(items.data_type().clone());
    let lists = ListArray::try_new(
        Arc::new(item),
        lists.offsets().clone(),
        Arc::new(items),
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
