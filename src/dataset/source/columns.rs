//! Columns of any Arrow type to JSON values.
//!
//! Text, numbers and nesting keep their meaning. What JSON has no word for must not make a row
//! unreadable, nor pass for a text that somebody wrote: bytes that are not UTF-8 become an object with
//! their count, numbers that are not finite the string of their name, and everything else the string
//! that Arrow displays.

use std::iter;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{self, ArrowPrimitiveType, DataType};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Number, Value, json};

const UTC: &str = "+00:00";

/// The rows of a batch as objects; its columns in their order.
pub fn objects(batch: &RecordBatch) -> Vec<Map<String, Value>> {
    rows(&StructArray::from(batch.clone()))
}

fn rows(columns: &StructArray) -> Vec<Map<String, Value>> {
    let mut rows: Vec<Map<String, Value>> = iter::repeat_with(Map::new).take(columns.len()).collect();
    for (field, column) in columns.fields().iter().zip(columns.columns()) {
        for (row, value) in rows.iter_mut().zip(values(column)) {
            row.insert(field.name().clone(), value);
        }
    }
    rows
}

/// One value for each row of a column.
fn values(column: &ArrayRef) -> Vec<Value> {
    match column.data_type() {
        DataType::Null => vec![Value::Null; column.len()],
        DataType::Boolean => collect(column.as_boolean().iter(), Value::Bool),
        DataType::Utf8 => collect(column.as_string::<i32>().iter(), Value::from),
        DataType::LargeUtf8 => collect(column.as_string::<i64>().iter(), Value::from),
        DataType::Utf8View => collect(column.as_string_view().iter(), Value::from),
        DataType::Binary => collect(column.as_binary::<i32>().iter(), bytes),
        DataType::LargeBinary => collect(column.as_binary::<i64>().iter(), bytes),
        DataType::BinaryView => collect(column.as_binary_view().iter(), bytes),
        DataType::FixedSizeBinary(_) => collect(column.as_fixed_size_binary().iter(), bytes),
        DataType::Int8 => integers::<datatypes::Int8Type>(column),
        DataType::Int16 => integers::<datatypes::Int16Type>(column),
        DataType::Int32 => integers::<datatypes::Int32Type>(column),
        DataType::Int64 => integers::<datatypes::Int64Type>(column),
        DataType::UInt8 => integers::<datatypes::UInt8Type>(column),
        DataType::UInt16 => integers::<datatypes::UInt16Type>(column),
        DataType::UInt32 => integers::<datatypes::UInt32Type>(column),
        DataType::UInt64 => integers::<datatypes::UInt64Type>(column),
        DataType::Float16 | DataType::Float32 => match cast(column, &DataType::Float64) {
            Ok(column) => values(&column),
            Err(_) => displayed(column),
        },
        DataType::Float64 => collect(column.as_primitive::<datatypes::Float64Type>().iter(), float),
        DataType::Struct(_) => {
            let rows = rows(column.as_struct()).into_iter().enumerate();
            rows.map(|(row, object)| nullable(column, row, || Value::Object(object)))
                .collect()
        }
        DataType::List(_) => lists::<i32>(column),
        DataType::LargeList(_) => lists::<i64>(column),
        DataType::FixedSizeList(_, _) | DataType::ListView(_) | DataType::LargeListView(_) => {
            recast(column, &list_of(column.data_type()))
        }
        DataType::Dictionary(_, inner) => recast(column, inner),
        DataType::RunEndEncoded(_, inner) => recast(column, inner.data_type()),
        DataType::Map(_, _) => maps(column),
        // Without a database of time zones: the same instant in UTC.
        DataType::Timestamp(unit, Some(zone)) if **zone != *UTC => {
            recast(column, &DataType::Timestamp(*unit, Some(UTC.into())))
        }
        _ => displayed(column),
    }
}

fn collect<T>(items: impl Iterator<Item = Option<T>>, value: impl Fn(T) -> Value) -> Vec<Value> {
    items.map(|item| item.map_or(Value::Null, &value)).collect()
}

fn integers<T: ArrowPrimitiveType<Native: Into<Number>>>(column: &ArrayRef) -> Vec<Value> {
    collect(column.as_primitive::<T>().iter(), |number| Value::Number(number.into()))
}

fn float(number: f64) -> Value {
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        // `NaN`, `inf`, `-inf`
        None => Value::String(number.to_string()),
    }
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({ "bytes": bytes.len() }),
    }
}

fn nullable(column: &ArrayRef, row: usize, value: impl FnOnce() -> Value) -> Value {
    if column.is_null(row) { Value::Null } else { value() }
}

fn lists<O: OffsetSizeTrait>(column: &ArrayRef) -> Vec<Value> {
    let lists = column.as_list::<O>();
    let offsets = lists.value_offsets();
    let (first, last) = (offsets[0].as_usize(), offsets[lists.len()].as_usize());
    // A sliced column shares the items of the whole one.
    let mut items = values(&lists.values().slice(first, last - first)).into_iter();
    let lengths = offsets.windows(2).map(|pair| pair[1].as_usize() - pair[0].as_usize());
    lengths
        .enumerate()
        .map(|(row, length)| {
            let items: Vec<Value> = items.by_ref().take(length).collect();
            nullable(column, row, || Value::Array(items))
        })
        .collect()
}

/// The common encoding of the rarer ones of lists.
fn list_of(found: &DataType) -> DataType {
    match found {
        DataType::FixedSizeList(item, _) | DataType::ListView(item) => DataType::List(item.clone()),
        DataType::LargeListView(item) => DataType::LargeList(item.clone()),
        other => other.clone(),
    }
}

fn recast(column: &ArrayRef, to: &DataType) -> Vec<Value> {
    match cast(column, to) {
        Ok(column) if column.data_type() != &DataType::Null => values(&column),
        _ => displayed(column),
    }
}

/// A map with strings for keys is an object.
fn maps(column: &ArrayRef) -> Vec<Value> {
    let maps = column.as_map();
    let entry = |row: usize| {
        let entries = maps.value(row);
        let names = values(entries.column(0)).into_iter();
        let pairs = names.zip(values(entries.column(1)));
        let pairs = pairs.map(|(name, value)| match name {
            Value::String(name) => (name, value),
            other => (other.to_string(), value),
        });
        Value::Object(pairs.collect())
    };
    (0..maps.len())
        .map(|row| nullable(column, row, || entry(row)))
        .collect()
}

/// Dates, times, decimals and the rest, as text.
fn displayed(column: &ArrayRef) -> Vec<Value> {
    let Ok(formatter) = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default()) else {
        return vec![Value::Null; column.len()];
    };
    let text = |row| match formatter.value(row).try_to_string() {
        Ok(text) => Value::String(text),
        Err(_) => Value::Null,
    };
    (0..column.len())
        .map(|row| nullable(column, row, || text(row)))
        .collect()
}
