//! Fields as Arrow columns: the type of each, how it is appended, and how it is read.
//!
//! A kind of row is one list of its fields (`record!`), from which come its schema, the builders
//! and the readers; they cannot differ from each other. Goes straight between rows and Arrow's
//! buffers: through serde's data model, writing took three times as long and reading half as long
//! again (`benches/README.md`).
//! Knows nothing of kinds, shards or files.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, ListArray, PrimitiveArray, PrimitiveBuilder, StringArray,
    StringBuilder, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Fields, Float32Type, UInt32Type};
use arrow::error::ArrowError;

/// A value that has a place in a column.
pub trait Cell: Sized + 'static {
    /// A column being filled.
    type Column: Default + Send + 'static;
    /// A column being read.
    type Reader: Send + 'static;
    /// Whether a column may hold nulls.
    const NULLABLE: bool = false;

    fn data_type() -> DataType;

    /// Fails when the column would exceed the 2 GiB that Arrow's 32-bit offsets reach.
    fn append(&self, column: &mut Self::Column) -> Result<(), ArrowError>;

    /// The cells so far; leaves the column empty.
    fn finish(column: &mut Self::Column) -> Result<ArrayRef, ArrowError>;

    /// Prepares a column of [`Self::data_type`], or of another encoding of the same values.
    fn reader(array: &ArrayRef) -> Result<Self::Reader, ArrowError>;

    /// The cell in row `index`, which must exist.
    fn get(reader: &Self::Reader, index: usize) -> Result<Self, Null>;
}

/// Several cells under their names: a row, or an item of a list in a row. Made by `record!`.
pub trait Record: Sized + 'static {
    type Columns: Default + Send + 'static;
    type Readers: Send + 'static;

    fn fields() -> Vec<Field>;

    fn append(&self, columns: &mut Self::Columns) -> Result<(), ArrowError>;

    /// One array a field, in the order of [`Self::fields`].
    fn finish(columns: &mut Self::Columns) -> Result<Vec<ArrayRef>, ArrowError>;

    /// Prepares the columns that `find` answers for their names.
    fn readers<'a>(find: impl Fn(&str) -> Option<&'a ArrayRef>) -> Result<Self::Readers, ArrowError>;

    fn get(readers: &Self::Readers, index: usize) -> Result<Self, Null>;
}

/// A null where none may be, by the path of its field: `votes[].order`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Null(pub String);

impl Null {
    #[cold]
    pub fn within(self, name: &str) -> Self {
        let dot = if self.0.is_empty() || self.0.starts_with('[') {
            ""
        } else {
            "."
        };
        Self(format!("{name}{dot}{}", self.0))
    }
}

/// Lists the fields of a record as `field: type`, or `field as "column": type`.
macro_rules! record {
    ($record:ident { $($field:ident $(as $name:literal)?: $type:ty),* $(,)? }) => {
        const _: () = {
            use $crate::dataset::columns::{Cell, Null, Record, field, find_column};

            #[derive(Default)]
            pub struct Columns { $($field: <$type as Cell>::Column),* }

            pub struct Readers { $($field: <$type as Cell>::Reader),* }

            impl Record for $record {
                type Columns = Columns;
                type Readers = Readers;

                fn fields() -> Vec<arrow::datatypes::Field> {
                    vec![$(field::<$type>(record!(@name $field $($name)?))),*]
                }

                fn append(&self, columns: &mut Columns) -> Result<(), arrow::error::ArrowError> {
                    $(Cell::append(&self.$field, &mut columns.$field)?;)*
                    Ok(())
                }

                fn finish(columns: &mut Columns) -> Result<Vec<arrow::array::ArrayRef>, arrow::error::ArrowError> {
                    Ok(vec![$(<$type as Cell>::finish(&mut columns.$field)?),*])
                }

                fn readers<'a>(
                    find: impl Fn(&str) -> Option<&'a arrow::array::ArrayRef>,
                ) -> Result<Readers, arrow::error::ArrowError> {
                    Ok(Readers {
                        $($field: <$type as Cell>::reader(find_column(&find, record!(@name $field $($name)?))?)?),*
                    })
                }

                fn get(readers: &Readers, index: usize) -> Result<Self, Null> {
                    Ok(Self {
                        $($field: <$type as Cell>::get(&readers.$field, index)
                            .map_err(|null| null.within(record!(@name $field $($name)?)))?),*
                    })
                }
            }
        };
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
}
pub(super) use record;

/// The field of a column of `C`.
pub fn field<C: Cell>(name: &str) -> Field {
    Field::new(name, C::data_type(), C::NULLABLE)
}

pub fn find_column<'a>(find: impl Fn(&str) -> Option<&'a ArrayRef>, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    find(name).ok_or_else(|| ArrowError::SchemaError(format!("`{name}` is missing")))
}

fn not_of_type<C: Cell>(array: &ArrayRef) -> ArrowError {
    ArrowError::CastError(format!("expected {}, found {}", C::data_type(), array.data_type()))
}

/// The length of a list or text column after `more`, as its offsets count it.
fn end(length: usize, more: usize) -> Result<i32, ArrowError> {
    let end = length.saturating_add(more);
    i32::try_from(end).map_err(|_| ArrowError::OffsetOverflowError(end))
}

fn append_text(column: &mut StringBuilder, text: &str) -> Result<(), ArrowError> {
    // The builder would panic.
    end(column.values_slice().len(), text.len())?;
    column.append_value(text);
    Ok(())
}

fn read_texts(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    // Polars writes large strings, DuckDB and others views; both mean the same.
    let array = match array.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => &arrow::compute::cast(array, &DataType::Utf8)?,
        _ => array,
    };
    array
        .as_string_opt()
        .cloned()
        .ok_or_else(|| not_of_type::<String>(array))
}

impl Cell for String {
    type Column = StringBuilder;
    type Reader = StringArray;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn append(&self, column: &mut StringBuilder) -> Result<(), ArrowError> {
        append_text(column, self)
    }

    fn finish(column: &mut StringBuilder) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(column.finish()))
    }

    fn reader(array: &ArrayRef) -> Result<StringArray, ArrowError> {
        read_texts(array)
    }

    fn get(texts: &StringArray, index: usize) -> Result<Self, Null> {
        if texts.is_null(index) {
            return Err(Null::default());
        }
        Ok(texts.value(index).to_owned())
    }
}

impl Cell for Option<String> {
    type Column = StringBuilder;
    type Reader = StringArray;
    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn append(&self, column: &mut StringBuilder) -> Result<(), ArrowError> {
        match self {
            Some(text) => append_text(column, text),
            None => {
                column.append_null();
                Ok(())
            }
        }
    }

    fn finish(column: &mut StringBuilder) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(column.finish()))
    }

    fn reader(array: &ArrayRef) -> Result<StringArray, ArrowError> {
        read_texts(array)
    }

    fn get(texts: &StringArray, index: usize) -> Result<Self, Null> {
        Ok((!texts.is_null(index)).then(|| texts.value(index).to_owned()))
    }
}

/// The cells of numbers: all but their names are the same.
macro_rules! numbers {
    ($($number:ty => $arrow:ty),* $(,)?) => {$(
        impl Cell for $number {
            type Column = PrimitiveBuilder<$arrow>;
            type Reader = PrimitiveArray<$arrow>;

            fn data_type() -> DataType {
                <$arrow as ArrowPrimitiveType>::DATA_TYPE
            }

            fn append(&self, column: &mut Self::Column) -> Result<(), ArrowError> {
                column.append_value(*self);
                Ok(())
            }

            fn finish(column: &mut Self::Column) -> Result<ArrayRef, ArrowError> {
                Ok(Arc::new(column.finish()))
            }

            fn reader(array: &ArrayRef) -> Result<Self::Reader, ArrowError> {
                array.as_primitive_opt().cloned().ok_or_else(|| not_of_type::<Self>(array))
            }

            fn get(numbers: &Self::Reader, index: usize) -> Result<Self, Null> {
                if numbers.is_null(index) {
                    return Err(Null::default());
                }
                Ok(numbers.value(index))
            }
        }
    )*};
}

numbers! {
    u32 => UInt32Type,
    f32 => Float32Type,
}

impl Cell for bool {
    type Column = BooleanBuilder;
    type Reader = BooleanArray;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn append(&self, column: &mut BooleanBuilder) -> Result<(), ArrowError> {
        column.append_value(*self);
        Ok(())
    }

    fn finish(column: &mut BooleanBuilder) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(column.finish()))
    }

    fn reader(array: &ArrayRef) -> Result<BooleanArray, ArrowError> {
        array
            .as_boolean_opt()
            .cloned()
            .ok_or_else(|| not_of_type::<Self>(array))
    }

    fn get(bits: &BooleanArray, index: usize) -> Result<Self, Null> {
        if bits.is_null(index) {
            return Err(Null::default());
        }
        Ok(bits.value(index))
    }
}

/// Lists being filled: where each ends, and the items of all.
pub struct ListColumn<C: Cell> {
    offsets: Vec<i32>,
    items: C::Column,
}

impl<C: Cell> Default for ListColumn<C> {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            items: C::Column::default(),
        }
    }
}

/// Lists being read: list `i` is the items from `offsets[i]` to `offsets[i + 1]`.
pub struct ListReader<C: Cell> {
    offsets: Vec<usize>,
    nulls: Option<NullBuffer>,
    items: C::Reader,
}

fn item<C: Cell>() -> FieldRef {
    Arc::new(field::<C>("item"))
}

impl<C: Cell> Cell for Vec<C> {
    type Column = ListColumn<C>;
    type Reader = ListReader<C>;

    fn data_type() -> DataType {
        DataType::List(item::<C>())
    }

    fn append(&self, column: &mut ListColumn<C>) -> Result<(), ArrowError> {
        for cell in self {
            cell.append(&mut column.items)?;
        }
        let start = column.offsets.last().map_or(0, |&offset| offset as usize);
        column.offsets.push(end(start, self.len())?);
        Ok(())
    }

    fn finish(column: &mut ListColumn<C>) -> Result<ArrayRef, ArrowError> {
        let offsets = std::mem::replace(&mut column.offsets, vec![0]);
        let items = C::finish(&mut column.items)?;
        let lists = ListArray::try_new(item::<C>(), OffsetBuffer::new(offsets.into()), items, None)?;
        Ok(Arc::new(lists))
    }

    fn reader(array: &ArrayRef) -> Result<ListReader<C>, ArrowError> {
        let (offsets, items): (Vec<usize>, _) = match array.data_type() {
            DataType::LargeList(_) => {
                let lists = array.as_list::<i64>();
                (
                    lists.offsets().iter().map(|&offset| offset as usize).collect(),
                    lists.values(),
                )
            }
            _ => {
                let lists = array.as_list_opt::<i32>().ok_or_else(|| not_of_type::<Self>(array))?;
                (
                    lists.offsets().iter().map(|&offset| offset as usize).collect(),
                    lists.values(),
                )
            }
        };
        Ok(ListReader {
            offsets,
            nulls: array.nulls().cloned(),
            items: C::reader(items)?,
        })
    }

    fn get(lists: &ListReader<C>, index: usize) -> Result<Self, Null> {
        if lists.nulls.as_ref().is_some_and(|nulls| nulls.is_null(index)) {
            return Err(Null::default());
        }
        let (start, end) = (lists.offsets[index], lists.offsets[index + 1]);
        // Collecting into a `Result` forgets the length and takes room for four items at least.
        let mut cells = Self::with_capacity(end - start);
        for index in start..end {
            cells.push(C::get(&lists.items, index).map_err(|null| null.within("[]"))?);
        }
        Ok(cells)
    }
}

/// Structs being read.
pub struct StructReader<R: Record> {
    nulls: Option<NullBuffer>,
    fields: R::Readers,
}

impl<R: Record> Cell for R {
    type Column = R::Columns;
    type Reader = StructReader<R>;

    fn data_type() -> DataType {
        DataType::Struct(R::fields().into())
    }

    fn append(&self, column: &mut R::Columns) -> Result<(), ArrowError> {
        Record::append(self, column)
    }

    fn finish(column: &mut R::Columns) -> Result<ArrayRef, ArrowError> {
        let arrays = <R as Record>::finish(column)?;
        Ok(Arc::new(StructArray::try_new(Fields::from(R::fields()), arrays, None)?))
    }

    fn reader(array: &ArrayRef) -> Result<StructReader<R>, ArrowError> {
        let structs = array.as_struct_opt().ok_or_else(|| not_of_type::<Self>(array))?;
        Ok(StructReader {
            nulls: structs.nulls().cloned(),
            fields: R::readers(|name| structs.column_by_name(name))?,
        })
    }

    fn get(structs: &StructReader<R>, index: usize) -> Result<Self, Null> {
        if structs.nulls.as_ref().is_some_and(|nulls| nulls.is_null(index)) {
            return Err(Null::default());
        }
        <R as Record>::get(&structs.fields, index)
    }
}
