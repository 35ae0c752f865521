//! Arrow C streams that read as they are read, and casts to what a consumer asked for.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StructArray};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::PySchema;
use pyo3_arrow::error::PyArrowResult;
use pyo3_arrow::ffi::{ArrayIterator, to_stream_pycapsule};

use crate::task::panicked;

/// What a consumer asked to have its columns as, as far as that can be done.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    schema: SchemaRef,
    /// The column of the rows for each column of the schema.
    columns: Vec<usize>,
}

impl Target {
    /// For rows of `have`. What is asked for and cannot be given is left as it is: the protocol says best effort.
    ///
    /// # Errors
    /// A capsule that holds no schema.
    pub(crate) fn of(have: &SchemaRef, requested: Option<&Bound<'_, PyCapsule>>) -> PyResult<Self> {
        let unchanged = || Self {
            schema: Arc::clone(have),
            columns: (0..have.fields().len()).collect(),
        };
        let Some(requested) = requested else {
            return Ok(unchanged());
        };
        let requested = PySchema::from_arrow_pycapsule(requested)?.into_inner();
        let mut columns = Vec::with_capacity(requested.fields().len());
        let mut fields = Vec::with_capacity(requested.fields().len());
        for wanted in requested.fields() {
            let Ok(column) = have.index_of(wanted.name()) else {
                return Ok(unchanged());
            };
            let field = have.field(column);
            let is_castable = can_cast_types(field.data_type(), wanted.data_type());
            let data_type = if is_castable {
                wanted.data_type()
            } else {
                field.data_type()
            };
            fields.push(field.clone().with_data_type(data_type.clone()));
            columns.push(column);
        }
        Ok(Self {
            schema: Arc::new(Schema::new_with_metadata(fields, have.metadata().clone())),
            columns,
        })
    }

    /// The field of a whole batch.
    fn field(&self) -> Field {
        Field::new_struct("", self.schema.fields().clone(), false).with_metadata(self.schema.metadata().clone())
    }

    /// A batch as it was asked for.
    ///
    /// # Errors
    /// A value that the type asked for cannot hold.
    pub(crate) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| {
            let column = batch.column(*column);
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            cast_with_options(column, field.data_type(), &strict)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// An Arrow C stream of what `next` gives, in a capsule.
///
/// # Errors
/// A schema that cannot be exported.
pub(crate) fn stream<'py>(
    py: Python<'py>,
    target: Target,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, ArrowError> + Send + 'static,
) -> PyArrowResult<Bound<'py, PyCapsule>> {
    let field = Arc::new(target.field());
    let mut is_over = false;
    let batches = std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        // The consumer is C: a panic must not reach it.
        let batch = catch_unwind(AssertUnwindSafe(|| {
            next().and_then(|batch| batch.map(|batch| target.apply(&batch)).transpose())
        }));
        let batch = batch.unwrap_or_else(|panic| Err(failed(panicked(&*panic).message())));
        is_over = !matches!(batch, Ok(Some(_)));
        let batch = batch.transpose()?;
        Some(batch.map(|batch| Arc::new(StructArray::from(batch)) as ArrayRef))
    });
    to_stream_pycapsule(py, Box::new(ArrayIterator::new(batches, field)), None)
}

/// A read that failed, in words that C can hold. Consumers make an error of input and output of it.
pub(crate) fn failed(words: &str) -> ArrowError {
    ArrowError::IoError(words.replace('\0', " "), io::Error::from(io::ErrorKind::Other))
}
