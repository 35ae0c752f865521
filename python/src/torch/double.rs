//! Decimals as the doubles that they become for torch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type};
use arrow::error::ArrowError;

/// The values as doubles: bit by bit what Arrow's cast makes of them.
///
/// Money fits into 64 bits, and a processor converts these in one step where it takes a routine for 128.
///
/// # Errors
/// A type that has no doubles.
pub(super) fn doubles(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if let &DataType::Decimal128(_, scale) = array.data_type() {
        let values = array.as_primitive::<Decimal128Type>().values();
        if let Some(doubles) = of_narrow(values, 10_f64.powi(scale.into())) {
            return Ok(Arc::new(Float64Array::new(doubles.into(), array.nulls().cloned())));
        }
    }
    let exact = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, &DataType::Float64, &exact)
}

/// The quotients of values by `divisor`; none where a value does not fit into 64 bits.
fn of_narrow(values: &[i128], divisor: f64) -> Option<Vec<f64>> {
    let mut fit = true;
    let quotient = |&value: &i128| {
        #[expect(clippy::cast_possible_truncation, reason = "that it does not is what is found out")]
        let narrow = value as i64;
        fit &= i128::from(narrow) == value;
        #[expect(clippy::cast_precision_loss, reason = "it is rounded as 128 bits are")]
        let double = narrow as f64;
        double / divisor
    };
    let quotients = values.iter().map(quotient).collect();
    fit.then_some(quotients)
}
