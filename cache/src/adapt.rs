//! From the columns of one file to the columns of its dataset.
//!
//! The files of a dataset need not be alike: columns are missing, narrower, in another order. [`Adapter`] is made once
//! for a file and a wanted schema; it then makes batches of exactly that schema, nullability and metadata of nested
//! fields included, because clients check what they are sent against what was advertised.
//!
//! Where a column already has the wanted type, it is passed on by reference; nested columns are rebuilt around the same
//! buffers where only names or metadata differ.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray, UInt32Array, new_empty_array, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use arrow::error::ArrowError;

/// Where one wanted column comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The decoded column at this position.
    Decoded(usize),
    /// One value for all rows of the file, such as a partition's.
    Constant(ArrayRef),
    /// The file does not have it.
    Missing,
}

/// Makes batches of the wanted schema out of one file's columns.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    schema: SchemaRef,
    origins: Vec<Origin>,
}

/// A column that cannot be given in the wanted type.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) column: String,
    pub(crate) wanted: String,
    pub(crate) reason: String,
}

impl Adapter {
    /// One origin for each field of `schema`.
    pub(crate) fn new(schema: SchemaRef, origins: Vec<Origin>) -> Self {
        Self { schema, origins }
    }

    /// Whether columns of these types (none for one that is not there) are passed on as they are, so that a batch costs
    /// next to nothing.
    pub(crate) fn passes(&self, decoded: &[Option<&DataType>]) -> bool {
        self.schema
            .fields()
            .iter()
            .zip(&self.origins)
            .all(|(field, origin)| match origin {
                Origin::Decoded(at) => decoded.get(*at).is_some_and(|have| *have == Some(field.data_type())),
                Origin::Constant(_) | Origin::Missing => false,
            })
    }

    /// Whether of columns of these types nothing is made but what [`Self::passes`], and one value for all rows.
    pub(crate) fn makes_little(&self, decoded: &[&DataType]) -> bool {
        let mut columns = self.schema.fields().iter().zip(&self.origins);
        columns.all(|(field, origin)| match origin {
            Origin::Decoded(at) => decoded.get(*at) == Some(&field.data_type()),
            Origin::Constant(_) => true,
            Origin::Missing => false,
        })
    }

    /// Makes a batch of `rows` rows.
    pub(crate) fn batch(&self, decoded: &[ArrayRef], rows: usize) -> Result<RecordBatch, Misfit> {
        let columns = self.schema.fields().iter().zip(&self.origins).map(|(field, origin)| {
            let column = match origin {
                Origin::Decoded(at) => decoded
                    .get(*at)
                    .map_or_else(|| missing(field, rows), |array| adapt(array, field)),
                Origin::Constant(value) => repeat(value, rows).and_then(|array| adapt(&array, field)),
                Origin::Missing => missing(field, rows),
            };
            column.map_err(|error| misfit(field, &error))
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|error| Misfit {
            column: String::new(),
            wanted: "a batch of the dataset".to_owned(),
            reason: error.to_string(),
        })
    }
}

fn misfit(field: &Field, error: &ArrowError) -> Misfit {
    Misfit {
        column: field.name().clone(),
        wanted: field.data_type().to_string(),
        reason: error.to_string(),
    }
}

fn missing(field: &Field, rows: usize) -> Result<ArrayRef, ArrowError> {
    if field.is_nullable() || rows == 0 {
        return Ok(new_null_array(field.data_type(), rows));
    }
    Err(ArrowError::InvalidArgumentError(
        "the file lacks it, and it may not be null".to_owned(),
    ))
}

fn repeat(value: &ArrayRef, rows: usize) -> Result<ArrayRef, ArrowError> {
    if value.is_empty() {
        return Ok(new_empty_array(value.data_type()));
    }
    take(value, &UInt32Array::from_value(0, rows), None)
}

/// Gives `array` as the type of `field`; fails where a value does not fit, and loses none.
pub(crate) fn adapt(array: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == field.data_type() {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), field.data_type()) {
        (DataType::Struct(_), DataType::Struct(fields)) => adapt_struct(array.as_struct(), fields),
        (DataType::List(_), DataType::List(item)) => adapt_list::<i32>(array, item),
        (DataType::LargeList(_), DataType::LargeList(item)) => adapt_list::<i64>(array, item),
        (DataType::FixedSizeList(_, have), DataType::FixedSizeList(item, size)) if have == size => {
            let list = array.as_fixed_size_list();
            let values = adapt(list.values(), item)?;
            let list = FixedSizeListArray::try_new(Arc::clone(item), *size, values, list.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => adapt_map(array.as_map(), entries, *sorted),
        (DataType::LargeList(item) | DataType::FixedSizeList(item, _), DataType::List(_)) => {
            adapt(&convert(array, &DataType::List(Arc::clone(item)))?, field)
        }
        (_, wanted) => convert(array, wanted),
    }
}

fn convert(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(
        array,
        wanted,
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )
}

fn adapt_struct(array: &StructArray, fields: &Fields) -> Result<ArrayRef, ArrowError> {
    let columns = fields.iter().map(|field| match array.column_by_name(field.name()) {
        Some(column) => adapt(column, field),
        None => missing(field, array.len()),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let array = StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?;
    Ok(Arc::new(array))
}

fn adapt_list<O: OffsetSizeTrait>(array: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = array.as_list::<O>();
    let values = adapt(list.values(), item)?;
    let list = GenericListArray::<O>::try_new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned())?;
    Ok(Arc::new(list))
}

/// Keys and values go by position: their names are the writer's taste.
fn adapt_map(map: &MapArray, entries: &FieldRef, sorted: bool) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(ArrowError::SchemaError("a map's entries are a struct".to_owned()));
    };
    let columns = map
        .entries()
        .columns()
        .iter()
        .zip(fields)
        .map(|(column, field)| adapt(column, field));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let pairs = StructArray::try_new(fields.clone(), columns, None)?;
    let map = MapArray::try_new(
        Arc::clone(entries),
        map.offsets().clone(),
        pairs,
        map.nulls().cloned(),
        sorted,
    )?;
    Ok(Arc::new(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, ListArray, StringArray, StringViewArray};
    use arrow::datatypes::{Int32Type, Schema};

    fn int32() -> ArrayRef {
        Arc::new(Int32Array::from(vec![1, 2, 3]))
    }

    #[test]
    fn columns_are_cast_filled_and_reordered() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("gone", DataType::Utf8, true),
            Field::new("wide", DataType::Int64, false),
            Field::new("part", DataType::Utf8, true),
        ]));
        let constant: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let origins = vec![Origin::Missing, Origin::Decoded(0), Origin::Constant(constant)];
        let batch = Adapter::new(schema, origins).batch(&[int32()], 3).unwrap();
        assert_eq!(batch.column(0).null_count(), 3);
        assert_eq!(batch.column(1).as_ref(), &Int64Array::from(vec![1, 2, 3]));
        assert_eq!(batch.column(2).as_ref(), &StringArray::from(vec!["x", "x", "x"]));
    }

    #[test]
    fn the_same_type_is_passed_by_reference() {
        let array = int32();
        let same = adapt(&array, &Field::new("a", DataType::Int32, true)).unwrap();
        assert!(Arc::ptr_eq(&array, &same));
    }

    #[test]
    fn nested_fields_go_by_name() {
        let have = StructArray::from(vec![(Arc::new(Field::new("x", DataType::Int32, false)), int32())]);
        let fields: Fields = vec![
            Field::new("y", DataType::Utf8, true),
            Field::new("x", DataType::Int64, false),
        ]
        .into();
        let have: ArrayRef = Arc::new(have);
        let wanted = adapt(&have, &Field::new("s", DataType::Struct(fields), true)).unwrap();
        assert_eq!(wanted.as_struct().column(0).null_count(), 3);
        assert_eq!(wanted.as_struct().column(1).data_type(), &DataType::Int64);
    }

    #[test]
    fn list_items_widen() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let item = Arc::new(Field::new("element", DataType::Int64, true));
        let lists: ArrayRef = Arc::new(lists);
        let wide = adapt(&lists, &Field::new("l", DataType::List(item), true)).unwrap();
        assert_eq!(wide.as_list::<i32>().values().data_type(), &DataType::Int64);
        assert!(wide.is_null(1));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_not_a_null() {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
        assert!(adapt(&array, &Field::new("a", DataType::Int32, true)).is_err());
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, false)]));
        let misfit = Adapter::new(schema, vec![Origin::Missing]).batch(&[], 2).unwrap_err();
        assert_eq!(misfit.column, "a");
    }

    #[test]
    fn views_become_strings() {
        let array: ArrayRef = Arc::new(StringViewArray::from(vec!["a longer text than twelve bytes", "b"]));
        let strings = adapt(&array, &Field::new("a", DataType::Utf8, true)).unwrap();
        assert_eq!(strings.as_string::<i32>().value(1), "b");
    }
}
