//! Containers of random rows, with statistics as a Parquet writer would give them: some whole, some wide, some missing.

use arrow::array::{Array, UInt64Array, new_empty_array};
use arrow::compute::cast;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Containers with their rows, and how much of each one's columns the statistics tell.
#[derive(Debug, Clone)]
pub(super) struct Containers {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) told: Vec<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// Bounds are wider than the values, as when long ones are cut.
    Wide,
    NoBounds,
    NoNulls,
    Nothing,
}

impl Containers {
    pub(super) fn of(batches: Vec<RecordBatch>) -> Self {
        let told = vec![Told::All; batches.len()];
        Self { batches, told }
    }

    /// What Parquet would say: NaN and null are no bounds.
    fn bound(&self, container: usize, column: &str, as_type: &DataType, largest: bool) -> ScalarValue {
        let none = ScalarValue::try_from(as_type).unwrap();
        if matches!(self.told[container], Told::NoBounds | Told::Nothing) {
            return none;
        }
        let values = cast(self.batches[container].column_by_name(column).unwrap(), as_type).unwrap();
        let known = (0..values.len())
            .map(|row| ScalarValue::try_from_array(&values, row).unwrap())
            .filter(|v| !v.is_null() && !is_nan(v));
        let order = |a: &ScalarValue, b: &ScalarValue| a.partial_cmp(b).unwrap();
        let bound = if largest {
            known.max_by(order)
        } else {
            known.min_by(order)
        };
        match bound {
            Some(ScalarValue::Utf8(Some(text))) if self.told[container] == Told::Wide => {
                let first: String = text.chars().take(1).collect();
                ScalarValue::Utf8(Some(if largest { format!("{first}\u{10fffd}") } else { first }))
            }
            other => other.unwrap_or(none),
        }
    }

    fn array(&self, values: impl Iterator<Item = ScalarValue>, as_type: &DataType) -> ArrayRef {
        ScalarValue::iter_to_array(values).unwrap_or_else(|_| new_empty_array(as_type))
    }
}

impl ColumnStats for Containers {
    fn containers(&self) -> usize {
        self.batches.len()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        let all = || 0..self.batches.len();
        let nulls = all().map(|container| {
            let array = self.batches[container].column_by_name(column).unwrap();
            let known = !matches!(self.told[container], Told::NoNulls | Told::Nothing);
            known.then(|| array.null_count().try_into().unwrap())
        });
        let bound = |largest| {
            self.array(
                all().map(|container| self.bound(container, column, as_type, largest)),
                as_type,
            )
        };
        Some((bound(false), bound(true), nulls.collect()))
    }

    fn rows(&self) -> UInt64Array {
        self.batches
            .iter()
            .map(|batch| Some(batch.num_rows().try_into().unwrap()))
            .collect()
    }
}

fn is_nan(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Float64(Some(v)) => v.is_nan(),
        ScalarValue::Float32(Some(v)) => v.is_nan(),
        _ => false,
    }
}

/// One row of everything that is pruned on.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) int: Option<i32>,
    pub(super) long: Option<i64>,
    pub(super) unsigned: Option<u64>,
    pub(super) float: Option<f64>,
    pub(super) single: Option<f32>,
    pub(super) text: Option<&'static str>,
    pub(super) cents: Option<i128>,
    pub(super) day: Option<i32>,
    pub(super) micros: Option<i64>,
    pub(super) flag: Option<bool>,
}

fn row() -> impl Strategy<Value = Row> {
    let floats = [
        f64::NEG_INFINITY,
        -2.5,
        -0.0,
        0.0,
        1.0,
        2.5,
        1e300,
        f64::INFINITY,
        f64::NAN,
        -f64::NAN,
    ];
    let singles = [
        f32::NEG_INFINITY,
        -2.5,
        -0.0,
        0.0,
        0.1,
        2.5,
        f32::INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let texts = ["", "a", "ab", "abc", "abd", "b", "ba", "B", "é", "zz", "a%", "a_c"];
    let numbers = (
        option::of(select(
            &[-300, -3, -1, 0, 1, 2, 3, 127, 128, 300, i32::MIN, i32::MAX][..],
        )),
        option::of(select(
            &[-3, 0, 1, 2, 3, 1 << 53, (1 << 53) + 1, i64::MIN, i64::MAX][..],
        )),
        option::of(select(&[0, 1, 2, 3, u64::MAX][..])),
        option::of(select(floats.to_vec())),
        option::of(select(singles.to_vec())),
    );
    let others = (
        option::of(select(texts.to_vec())),
        option::of(select(&[-200, -5, 0, 4, 5, 6, 7, 99, 100, 250, 999_999_999][..])),
        option::of(select(&[-1, 0, 1, 10_561, 19_723, 19_724][..])),
        option::of(select(
            &[
                -1,
                0,
                1,
                43_200_000_000,
                86_399_999_999,
                86_400_000_000,
                129_600_000_000,
            ][..],
        )),
        option::of(any::<bool>()),
    );
    (numbers, others).prop_map(
        |((int, long, unsigned, float, single), (text, cents, day, micros, flag))| Row {
            int,
            long,
            unsigned,
            float,
            single,
            text,
            cents,
            day,
            micros,
            flag,
        },
    )
}

pub(super) fn batch_of(rows: &[Row]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i", array(rows.iter().map(|r| r.int).collect::<Int32Array>())),
        ("l", array(rows.iter().map(|r| r.long).collect::<Int64Array>())),
        ("u", array(rows.iter().map(|r| r.unsigned).collect::<UInt64Array>())),
        ("f", array(rows.iter().map(|r| r.float).collect::<Float64Array>())),
        ("g", array(rows.iter().map(|r| r.single).collect::<Float32Array>())),
        ("t", array(rows.iter().map(|r| r.text).collect::<StringArray>())),
        ("v", array(rows.iter().map(|r| r.text).collect::<StringViewArray>())),
        (
            "k",
            array(rows.iter().map(|r| r.text).collect::<DictionaryArray<Int32Type>>()),
        ),
        (
            "c",
            array(
                rows.iter()
                    .map(|r| r.cents)
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(11, 2)
                    .unwrap(),
            ),
        ),
        ("d", array(rows.iter().map(|r| r.day).collect::<Date32Array>())),
        (
            "s",
            array(rows.iter().map(|r| r.micros).collect::<TimestampMicrosecondArray>()),
        ),
        (
            "z",
            array(
                rows.iter()
                    .map(|r| r.micros)
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("Europe/Berlin"),
            ),
        ),
        ("b", array(rows.iter().map(|r| r.flag).collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

pub(super) fn containers() -> impl Strategy<Value = Containers> {
    let told = select(
        &[
            Told::All,
            Told::All,
            Told::Wide,
            Told::NoBounds,
            Told::NoNulls,
            Told::Nothing,
        ][..],
    );
    // Few values a container, so that many are dropped.
    let rows = prop_oneof![vec(row(), 0..4), row().prop_map(|row| vec![row; 2])];
    vec((rows, told), 1..5).prop_map(|containers| {
        let (batches, told) = containers
            .into_iter()
            .map(|(rows, told)| (batch_of(&rows), told))
            .unzip();
        Containers { batches, told }
    })
}
