//! What stands for a null in a tensor, which has none.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

/// What is done about nulls.
#[derive(Debug, Clone)]
pub(super) enum Nulls {
    /// They are an error.
    Refuse,
    /// A value stands for them.
    Fill {
        /// Columns whose value is given; in others it is NaN for floats, 0 and false.
        values: HashMap<String, Value>,
        /// Whether a mask tells which values are real.
        mask: bool,
    },
}

/// A value to fill with, as it was given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Whole(i64),
    Float(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
        }
    }
}

impl Nulls {
    pub(super) fn refuses(&self) -> bool {
        matches!(self, Self::Refuse)
    }

    pub(super) fn masks(&self) -> bool {
        matches!(self, Self::Fill { mask: true, .. })
    }

    /// The bytes of the value that stands for a null of a column.
    ///
    /// # Errors
    /// A value that the column's type cannot have; in words.
    pub(super) fn bytes(&self, column: &str, data_type: &DataType) -> Result<Vec<u8>, String> {
        let given = match self {
            Self::Fill { values, .. } => values.get(column).copied(),
            Self::Refuse => None,
        };
        let refused = |value: Value| format!("column {column:?} is {data_type}, which cannot be filled with {value}");
        if *data_type == DataType::Boolean {
            return match given {
                None | Some(Value::Whole(0) | Value::Float(0.0)) => Ok(vec![0]),
                Some(Value::Whole(1) | Value::Float(1.0)) => Ok(vec![1]),
                Some(other) => Err(refused(other)),
            };
        }
        let value = given.unwrap_or(match data_type.is_floating() {
            true => Value::Float(f64::NAN),
            false => Value::Whole(0),
        });
        let one: ArrayRef = match value {
            Value::Whole(number) => Arc::new(Int64Array::from(vec![number])),
            Value::Float(number) => Arc::new(Float64Array::from(vec![number])),
        };
        let plain = plain(data_type);
        let exact = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let cast = cast_with_options(&one, &plain, &exact).map_err(|_| refused(value))?;
        if let (Value::Float(number), false) = (value, data_type.is_floating())
            && number.fract() != 0.0
        {
            return Err(refused(value));
        }
        let data = cast.to_data();
        let bytes = data.buffers().first().zip(plain.primitive_width());
        bytes
            .and_then(|(buffer, width)| buffer.get(..width))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| refused(value))
    }
}

/// A copy of a buffer in which `value` stands at the nulls.
pub(super) fn filled(buffer: &Buffer, nulls: &NullBuffer, value: &[u8]) -> Buffer {
    let mut copy = MutableBuffer::new(buffer.len());
    copy.extend_from_slice(buffer.as_slice());
    for (place, is_valid) in copy
        .as_slice_mut()
        .chunks_exact_mut(value.len().max(1))
        .zip(nulls.iter())
    {
        if !is_valid {
            place.copy_from_slice(value);
        }
    }
    copy.into()
}

/// The numbers that stand for a date, a time or a duration.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Date32 | DataType::Time32(_) => DataType::Int32,
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(_, _) | DataType::Duration(_) => DataType::Int64,
        other => other.clone(),
    }
}
