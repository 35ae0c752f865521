//! The values that stand in for `$1`, `$2` ...

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;

use super::errors::{SqlError, of_datafusion};
use crate::error::ServiceError;

/// Most parameters of a statement.
const MAX_PARAMETERS: usize = 10_000;

/// The parameters of a plan, in order; of type Null where the plan does not tell.
///
/// # Errors
/// INVALID_ARGUMENT for parameters with names, and for a gap in the numbers.
pub(super) fn of_plan(plan: &LogicalPlan) -> Result<SchemaRef, ServiceError> {
    let found = plan.get_parameter_fields().map_err(|error| of_datafusion(&error))?;
    let mut numbered = Vec::with_capacity(found.len());
    for (name, field) in found {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| (1..=MAX_PARAMETERS).contains(number));
        let number = number.ok_or_else(|| {
            SqlError::new(format!(
                "parameters are written $1 to ${MAX_PARAMETERS}, or ?; {name} is not"
            ))
        })?;
        numbered.push((number, field));
    }
    numbered.sort_by_key(|(number, _)| *number);
    let count = numbered.last().map_or(0, |(number, _)| *number);
    if count != numbered.len() {
        let message = format!("the statement has a parameter ${count}, but not all of those before it");
        return Err(SqlError::new(message).into());
    }
    let fields = numbered.into_iter().map(|(number, field)| {
        let data_type = field.map_or(DataType::Null, |field| field.data_type().clone());
        Field::new(format!("${number}"), data_type, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// The plan with values in place of its parameters.
///
/// # Errors
/// INVALID_ARGUMENT for another number of values than of parameters, for more or less than one row of them, and for a value
/// that is none of its parameter's type.
pub(super) fn bind(plan: LogicalPlan, parameters: &Schema, values: &RecordBatch) -> Result<LogicalPlan, ServiceError> {
    let (wanted, given) = (parameters.fields().len(), values.num_columns());
    if wanted != given {
        let message = format!("the statement has {wanted} parameters, and {given} values were given");
        return Err(SqlError::new(message).into());
    }
    if wanted == 0 {
        return Ok(plan);
    }
    if values.num_rows() != 1 {
        let message = format!("the parameters of one run are one row, not {}", values.num_rows());
        return Err(SqlError::new(message).into());
    }
    let scalars = parameters.fields().iter().zip(values.columns());
    let scalars = scalars
        .map(|(field, column)| value(field, column))
        .collect::<Result<Vec<_>, _>>()?;
    plan.with_param_values(ParamValues::from(scalars))
        .map_err(|error| of_datafusion(&error))
}

fn value(field: &Field, column: &dyn Array) -> Result<ScalarValue, SqlError> {
    let refused = |error: datafusion::common::DataFusionError| {
        let message = error.message();
        let reason = message.lines().next().unwrap_or_default();
        SqlError::new(format!(
            "parameter {} is {}, and what was given is {}: {reason}",
            field.name(),
            field.data_type(),
            column.data_type()
        ))
    };
    let given = ScalarValue::try_from_array(column, 0).map_err(refused)?;
    let given = match given {
        // What a dictionary's value is, not how it is kept.
        ScalarValue::Dictionary(_, value) => *value,
        other => other,
    };
    if *field.data_type() == DataType::Null || given.data_type() == *field.data_type() {
        return Ok(given);
    }
    if !compares(&given.data_type(), field.data_type()) && !given.is_null() {
        return Err(SqlError::new(format!(
            "parameter {} is {}, and what was given is {}",
            field.name(),
            field.data_type(),
            given.data_type()
        )));
    }
    given.cast_to(field.data_type()).map_err(refused)
}

/// Whether values of one type are taken for another: numbers for numbers, text for anything that reads as it, dates and times
/// for one another.
fn compares(given: &DataType, wanted: &DataType) -> bool {
    let is_time = |data_type: &DataType| data_type.is_temporal();
    given.is_string()
        || wanted.is_string()
        || (given.is_numeric() && wanted.is_numeric())
        || (given.is_binary() && wanted.is_binary())
        || (is_time(given) && is_time(wanted))
        || (given.is_integer() && is_time(wanted))
}
