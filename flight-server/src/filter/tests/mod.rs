//! Filters from the outside: `refusals` (which, and in which words), `meaning` (which rows pass), `pruning` (which containers
//! are read), `pushdown` (what queries elsewhere leave to them). What they share is here.

mod containers;
mod meaning;
mod pruning;
mod pushdown;
mod refusals;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
    StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};

use super::*;

fn array(values: impl arrow::array::Array + 'static) -> ArrayRef {
    Arc::new(values)
}

/// Four rows; the last is null in every column that may be.
#[expect(clippy::too_many_lines, reason = "a table of columns")]
fn batch() -> RecordBatch {
    let micros = |text: &str| chrono_micros(text);
    let structs = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int32, true)),
            array(Int32Array::from(vec![Some(1), Some(2), None, Some(4)])),
        ),
        (
            Arc::new(Field::new("Y y", DataType::Utf8, true)),
            array(StringArray::from(vec!["a", "b", "c", "d"])),
        ),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", array(Int64Array::from(vec![Some(1), Some(2), Some(3), None]))),
        (
            "big",
            array(UInt64Array::from(vec![Some(1), Some(u64::MAX), Some(3), None])),
        ),
        (
            "price",
            array(
                Decimal128Array::from(vec![Some(5), Some(7), Some(10_000), None])
                    .with_precision_and_scale(15, 2)
                    .unwrap(),
            ),
        ),
        (
            "wide",
            array(
                Decimal128Array::from(vec![Some(5), Some(7), Some(10_i128.pow(37)), None])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        (
            "f",
            array(Float64Array::from(vec![Some(1.5), Some(f64::NAN), Some(-0.0), None])),
        ),
        (
            "g",
            array(Float32Array::from(vec![Some(1.5), Some(-f32::NAN), Some(0.0), None])),
        ),
        (
            "ok",
            array(BooleanArray::from(vec![Some(true), Some(false), Some(true), None])),
        ),
        (
            "name",
            array(StringArray::from(vec![Some("ann"), Some("bob"), Some("it's"), None])),
        ),
        (
            "view",
            array(StringViewArray::from(vec![Some("ann"), Some("bob"), Some("cid"), None])),
        ),
        (
            "large",
            array(LargeStringArray::from(vec![
                Some("ann"),
                Some("bob"),
                Some("cid"),
                None,
            ])),
        ),
        (
            "dict",
            array(
                vec![Some("ann"), Some("bob"), Some("ann"), None]
                    .into_iter()
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        (
            "day",
            array(Date32Array::from(vec![Some(0), Some(10_561), Some(19_723), None])),
        ),
        (
            "at",
            array(TimestampMicrosecondArray::from(vec![
                Some(0),
                Some(micros("12:30")),
                Some(1),
                None,
            ])),
        ),
        (
            "utc",
            array(
                TimestampMicrosecondArray::from(vec![Some(0), Some(micros("12:30")), Some(1), None])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "raw",
            array(BinaryArray::from(vec![
                Some(b"ann".as_slice()),
                Some(b"bob"),
                Some(b""),
                None,
            ])),
        ),
        (
            "uuid",
            array(FixedSizeBinaryArray::try_from_iter([[0u8; 16], [1; 16], [2; 16], [3; 16]].into_iter()).unwrap()),
        ),
        ("a.b", array(Int32Array::from(vec![10, 20, 30, 40]))),
        ("L TAX", array(Int32Array::from(vec![1, 2, 3, 4]))),
        ("Case", array(Int32Array::from(vec![1, 2, 3, 4]))),
        ("s", array(structs)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// 2024-01-02 at a time of day, in microseconds since 1970.
fn chrono_micros(time: &str) -> i64 {
    let (hours, minutes) = time.split_once(':').unwrap();
    let minutes = hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap();
    (19_724 * 24 * 60 + minutes) * 60_000_000
}

fn schema() -> SchemaRef {
    batch().schema()
}

fn parse(sql: &str) -> Predicate {
    Predicate::parse(sql, &schema()).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows that pass, from 0.
fn passing(sql: &str) -> Vec<usize> {
    let batch = batch();
    let filter = parse(sql)
        .row_filter(&batch.schema())
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = filter.evaluate(&batch).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(rows.len(), batch.num_rows());
    rows.iter()
        .enumerate()
        .filter_map(|(row, passes)| (passes == Some(true)).then_some(row))
        .collect()
}

fn refused(sql: &str) -> FilterError {
    match Predicate::parse(sql, &schema()) {
        Ok(predicate) => panic!("{sql} was taken as {:?}", predicate.expr),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_refused(sql: &str, words: &str) {
    let error = refused(sql);
    assert!(error.to_string().contains(words), "{error:?}: {sql}");
    assert!(
        !error.to_string().to_lowercase().contains("datafusion"),
        "{sql}: {error}"
    );
}
