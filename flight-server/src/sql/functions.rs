//! Functions that make much of little, bounded.
//!
//! `range(0, 1000000000)` is a few words and eight gigabytes. A function takes what it makes without asking the memory of its
//! query, and one of constants is computed while the statement is planned, before it has any. So what such a function is
//! about to make is reckoned from its arguments first, batch by batch, and refused where one query may not hold it.
//!
//! Why these: what they make grows with the value of a number, and not with what they are given. All others make about as much
//! as they take, or text, whose arrays hold two gigabytes at most.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// How much a function makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Makes {
    /// Values from one to another, by a step.
    Series,
    /// A text so many times.
    Repeated,
    /// A text of so many characters.
    Padded,
    /// A value so many times.
    Copies,
    /// A list of so many elements.
    Resized,
}

const GROWING: [(&str, Makes); 7] = [
    ("range", Makes::Series),
    ("generate_series", Makes::Series),
    ("repeat", Makes::Repeated),
    ("lpad", Makes::Padded),
    ("rpad", Makes::Padded),
    ("array_repeat", Makes::Copies),
    ("array_resize", Makes::Resized),
];

/// Bytes of a number, and of an element of a list without its text.
const VALUE_BYTES: u128 = 16;
/// Bytes of a character at most.
const CHARACTER_BYTES: u128 = 4;
const DAY_NS: i128 = 86_400_000_000_000;
/// Days that a month has at least.
const MONTH_DAYS: i128 = 28;

/// Has the functions of a session make no more than `most_bytes` at once.
///
/// # Errors
/// None of a session that takes functions.
pub(super) fn bound(state: &mut SessionState, most_bytes: u64) -> Result<()> {
    for (name, makes) in GROWING {
        let Ok(inner) = state.udf(name) else { continue };
        let bounded = Bounded {
            inner,
            makes,
            most_bytes,
        };
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(bounded)))?;
    }
    Ok(())
}

/// A function that refuses to make too much.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    makes: Makes,
    most_bytes: u64,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.makes.bytes(&args.args, args.number_rows).unwrap_or(0);
        if bytes > u128::from(self.most_bytes) {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} would make {bytes} bytes at once, and one query may hold {}",
                self.name(),
                self.most_bytes
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

impl Makes {
    /// Bytes that are made of these arguments, about; none where that cannot be told, as of arguments that do not fit.
    fn bytes(self, args: &[ColumnarValue], rows: usize) -> Option<u128> {
        let columns = args.iter().map(Argument::of).collect::<Option<Vec<_>>>()?;
        let rows = if columns.iter().all(|column| column.is_one) {
            1
        } else {
            rows
        };
        match (self, columns.as_slice()) {
            (Self::Series, [stop]) => Some(elements(None, &stop.whole()?, None, rows)),
            (Self::Series, [start, stop]) => Some(elements(Some(&start.whole()?), &stop.whole()?, None, rows)),
            (Self::Series, [start, stop, step]) => {
                let step = step.whole()?;
                Some(elements(Some(&start.whole()?), &stop.whole()?, Some(&step), rows))
            }
            (Self::Repeated, [text, count]) => {
                let (text, count) = (text.lengths()?, count.whole()?);
                Some(
                    (0..rows)
                        .map(|row| text.at(row).unsigned_abs() * positive(count.at(row)))
                        .sum(),
                )
            }
            (Self::Padded, [_, length, ..]) => {
                let length = length.whole()?;
                Some((0..rows).map(|row| positive(length.at(row)) * CHARACTER_BYTES).sum())
            }
            (Self::Copies, [value, count]) => Some(value.bytes() * count.whole()?.most(rows)),
            (Self::Resized, [_, count]) => Some(sum_of(&count.whole()?, rows) * VALUE_BYTES),
            (Self::Resized, [_, count, value]) => {
                let filler = value.bytes() / u128::try_from(value.values.len().max(1)).unwrap_or(1);
                Some(sum_of(&count.whole()?, rows) * (VALUE_BYTES + filler))
            }
            _ => None,
        }
    }
}

/// Bytes of all values from starts to stops.
fn elements(start: Option<&Whole>, stop: &Whole, step: Option<&Whole>, rows: usize) -> u128 {
    let of_row = |row: usize| {
        let from = start.map_or(0, |start| start.at(row));
        let by = step.map_or(1, |step| step.at(row));
        let distance = stop.at(row) - from;
        let is_there = by != 0 && (distance < 0) == (by < 0);
        if is_there {
            distance.unsigned_abs() / by.unsigned_abs() + 1
        } else {
            0
        }
    };
    (0..rows).map(of_row).sum::<u128>() * VALUE_BYTES / 2
}

fn positive(count: i128) -> u128 {
    u128::try_from(count).unwrap_or(0)
}

fn sum_of(count: &Whole, rows: usize) -> u128 {
    (0..rows).map(|row| positive(count.at(row))).sum()
}

/// An argument: a column, or one value for all rows.
struct Argument {
    values: ArrayRef,
    is_one: bool,
}

impl Argument {
    fn of(value: &ColumnarValue) -> Option<Self> {
        Some(match value {
            ColumnarValue::Array(values) => Self {
                values: Arc::clone(values),
                is_one: false,
            },
            ColumnarValue::Scalar(value) => Self {
                values: value.to_array().ok()?,
                is_one: true,
            },
        })
    }

    fn bytes(&self) -> u128 {
        let bytes = self.values.to_data().get_slice_memory_size();
        bytes.ok().and_then(|bytes| u128::try_from(bytes).ok()).unwrap_or(0)
    }

    /// Its numbers; moments and intervals as nanoseconds. An interval counts for no more than it has at least.
    fn whole(&self) -> Option<Whole> {
        let of = |values: ArrayRef, unit: i128| {
            let numbers = cast(&values, &DataType::Int64).ok()?;
            Some(Whole {
                numbers: numbers.as_primitive::<Int64Type>().clone(),
                unit,
                is_one: self.is_one,
            })
        };
        let values = Arc::clone(&self.values);
        match self.values.data_type() {
            DataType::Date32 => of(cast(&values, &DataType::Int32).ok()?, DAY_NS),
            DataType::Timestamp(TimeUnit::Second, _) => of(values, 1_000_000_000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => of(values, 1_000_000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => of(values, 1_000),
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                let steps = values.as_primitive::<IntervalMonthDayNanoType>();
                let nanos = steps.iter().map(|step| {
                    let step = step?;
                    let days = i128::from(step.months) * MONTH_DAYS + i128::from(step.days);
                    i64::try_from(days * DAY_NS + i128::from(step.nanoseconds)).ok()
                });
                of(Arc::new(nanos.collect::<Int64Array>()), 1)
            }
            _ => of(values, 1),
        }
    }

    /// Bytes of its texts.
    fn lengths(&self) -> Option<Whole> {
        let lengths = cast(&length(&self.values).ok()?, &DataType::Int64).ok()?;
        Some(Whole {
            numbers: lengths.as_primitive::<Int64Type>().clone(),
            unit: 1,
            is_one: self.is_one,
        })
    }
}

/// Whole numbers, in units of so much.
struct Whole {
    numbers: Int64Array,
    unit: i128,
    is_one: bool,
}

impl Whole {
    /// The number of a row; 0 where it is null.
    fn at(&self, row: usize) -> i128 {
        let row = if self.is_one { 0 } else { row };
        let is_there = row < self.numbers.len() && self.numbers.is_valid(row);
        if is_there {
            i128::from(self.numbers.value(row)) * self.unit
        } else {
            0
        }
    }

    fn most(&self, rows: usize) -> u128 {
        (0..rows).map(|row| positive(self.at(row))).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    const MOST: u64 = 1 << 20;

    async fn asked(sql: &str) -> Result<usize> {
        let mut state = SessionContext::new().state();
        bound(&mut state, MOST)?;
        let context = SessionContext::new_with_state(state);
        let batches = context.sql(sql).await?.collect().await?;
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn what_makes_too_much_is_refused_before_it_does() {
        for sql in [
            "select range(1000000000000)",
            "select array_length(generate_series(0, 1000000000000, 3))",
            "select range(0, -1000000000000, -1)",
            "select range(date '1900-01-01', date '9999-01-01', interval '1' day)",
            "select range(timestamp '1900-01-01', timestamp '2200-01-01', interval '1' microsecond)",
            "select length(repeat('ab', 1000000000))",
            "select length(lpad('a', 1000000000, 'b'))",
            "select length(rpad('a', 1000000000))",
            "select array_repeat(1, 1000000000)",
            "select list_repeat(array_repeat('some text', 1000), 1000000)",
            "select array_resize([1], 1000000000, 7)",
            "select sum(length(repeat('ab', value * 1000))) from range(0, 5000)",
            "select sum(array_length(range(0, value))) from range(0, 5000)",
        ] {
            let error = asked(sql).await.unwrap_err().to_string();
            assert!(error.contains("one query may hold 1048576"), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn what_makes_little_is_as_it_was() {
        for (sql, rows) in [
            ("select range(0, 100000)", 1),
            ("select range(0, 1000000000000, 100000000)", 1),
            ("select range(0, 1000000000000, -1)", 1),
            (
                "select range(date '2020-01-01', date '2030-01-01', interval '1' month)",
                1,
            ),
            ("select generate_series(5)", 1),
            ("select repeat('ab', 1000), repeat('ab', -5), repeat(null, 5)", 1),
            (
                "select lpad('a', 10, 'b'), rpad('a', 10), array_repeat(1, 10), array_resize([1], 10, 7)",
                1,
            ),
            ("select repeat('ab', value) from range(0, 1000)", 1000),
        ] {
            assert_eq!(asked(sql).await.unwrap(), rows, "{sql}");
        }
    }
}
