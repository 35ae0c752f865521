//! A filter bound to the schema of the batches that a scan hands it.
//!
//! Float columns are brought to one NaN and one zero before they are compared: see the parent module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float16Type, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use jetbridge_cache::scan::RowFilter;

use super::{FilterError, df_schema, session};

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// A physical expression over batches of one schema.
#[derive(Debug)]
struct BoundFilter {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Positions of the float columns that the filter reads.
    floats: Vec<usize>,
}

impl RowFilter for BoundFilter {
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        catch_unwind(AssertUnwindSafe(|| self.passing(batch)))
            .unwrap_or_else(|_| Err(ArrowError::ComputeError("the filter's evaluation panicked".to_owned())))
    }
}

impl BoundFilter {
    fn passing(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let rows = batch.num_rows();
        let value = self.expr.evaluate(&self.canonical(batch)?).map_err(ArrowError::from)?;
        let array = value.into_array(rows).map_err(ArrowError::from)?;
        array.as_boolean_opt().cloned().ok_or_else(|| {
            ArrowError::ComputeError(format!(
                "the filter gave {} in place of true or false",
                array.data_type()
            ))
        })
    }

    fn canonical(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if batch.schema_ref().fields().len() != self.schema.fields().len() {
            return Err(ArrowError::SchemaError(
                "the batch is not of the schema that the filter was bound to".to_owned(),
            ));
        }
        if self.floats.is_empty() {
            return Ok(batch.clone());
        }
        let mut columns = batch.columns().to_vec();
        for &index in &self.floats {
            if let Some(column) = columns.get_mut(index) {
                *column = canonical_floats(column);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(batch.schema(), columns, &options)
    }
}

/// Binds a typed expression over `columns` of `schema` to batches of `read`.
pub(super) fn bind(
    expr: &Expr,
    columns: &[String],
    schema: &SchemaRef,
    read: &SchemaRef,
) -> Result<Arc<dyn RowFilter>, FilterError> {
    let mut floats = Vec::new();
    for name in columns {
        let index = read
            .index_of(name)
            .map_err(|_| FilterError::new(format!("the column {name} is not read")))?;
        let field = read.field(index);
        check_same_type(field, schema)?;
        if field.data_type().is_floating() {
            floats.push(index);
        }
    }
    let failed = |e| FilterError::from_datafusion(&e);
    let expr = session()
        .create_physical_expr(expr.clone(), &df_schema(read)?)
        .map_err(failed)?;
    Ok(Arc::new(BoundFilter {
        expr,
        schema: Arc::clone(read),
        floats,
    }))
}

/// Nested columns may come with fewer fields than the dataset has; all others must come as the filter was typed.
fn check_same_type(field: &Field, schema: &SchemaRef) -> Result<(), FilterError> {
    let planned = schema.field_with_name(field.name()).map(Field::data_type);
    match planned {
        Ok(planned) if planned == field.data_type() || field.data_type().is_nested() => Ok(()),
        _ => Err(FilterError::new(format!(
            "the column {} is read as {}, another type than it was planned with",
            field.name(),
            field.data_type()
        ))),
    }
}

/// One NaN and one zero. Arrays of other types come back as they are.
pub(super) fn canonical_floats(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            Arc::new(floats.unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v + 0.0 }))
        }
        DataType::Float32 => {
            let floats = array.as_primitive::<Float32Type>();
            Arc::new(floats.unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }))
        }
        DataType::Float16 => {
            let floats = array.as_primitive::<Float16Type>();
            Arc::new(floats.unary::<_, Float16Type>(|v| if v.is_nan() { Half::NAN } else { v + Half::ZERO }))
        }
        _ => Arc::clone(array),
    }
}
