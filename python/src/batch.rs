//! Rows that came, which any Arrow library takes without a copy.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch as Batch, StructArray};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use jetbridge_client::{Piece, Source};
use pyo3::exceptions::{PyIndexError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};
use pyo3_arrow::error::PyArrowResult;
use pyo3_arrow::ffi::{to_array_pycapsules, to_schema_pycapsule};

use crate::capsule::{self, Target};
use crate::dlpack;
use crate::schema::{DataType, Schema};

/// A batch of rows.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct RecordBatch {
    batch: Batch,
    endpoint: usize,
    index: u64,
    source: Source,
}

impl From<Piece> for RecordBatch {
    fn from(piece: Piece) -> Self {
        Self {
            batch: piece.batch,
            endpoint: piece.endpoint,
            index: piece.batch_index,
            source: piece.source,
        }
    }
}

#[pymethods]
impl RecordBatch {
    #[getter]
    fn schema(&self) -> Schema {
        Schema::new(self.batch.schema())
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    #[getter]
    fn num_columns(&self) -> usize {
        self.batch.num_columns()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        bytes_of(&self.batch)
    }

    /// The number of the endpoint in its plan.
    #[getter]
    fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// The number of the batch within what this read gives of its endpoint.
    #[getter]
    fn index(&self) -> u64 {
        self.index
    }

    /// Where the server had it: `memory`, `disk` or `store`.
    #[getter]
    fn source(&self) -> &'static str {
        self.source.as_str()
    }

    /// A column by its name or place.
    fn column(&self, key: &Bound<'_, PyAny>) -> PyResult<Column> {
        let schema = self.batch.schema();
        let place = match key.extract::<usize>() {
            Ok(place) if place < self.batch.num_columns() => place,
            Ok(place) => return Err(PyIndexError::new_err(format!("there is no column {place}"))),
            Err(_) => {
                let name: String = key.extract()?;
                schema.index_of(&name).map_err(|_| PyKeyError::new_err(name))?
            }
        };
        Ok(Column {
            field: Arc::clone(&schema.fields()[place]),
            array: Arc::clone(self.batch.column(place)),
        })
    }

    fn __len__(&self) -> usize {
        self.batch.num_rows()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.batch.schema().as_ref())
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyCapsule>>,
    ) -> PyArrowResult<Bound<'py, PyTuple>> {
        let target = Target::of(&self.batch.schema(), requested_schema)?;
        let batch = target.apply(&self.batch)?;
        let schema = batch.schema();
        let field = Field::new_struct("", schema.fields().clone(), false).with_metadata(schema.metadata().clone());
        to_array_pycapsules(py, Arc::new(field), &StructArray::from(batch), None)
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = (self.batch.num_rows(), self.batch.num_columns());
        format!("<RecordBatch of {rows} rows, {columns} columns>")
    }
}

/// One column of a batch.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Column {
    field: FieldRef,
    array: ArrayRef,
}

#[pymethods]
impl Column {
    #[getter]
    fn r#type(&self) -> DataType {
        DataType::of(&self.field)
    }

    #[getter]
    fn null_count(&self) -> usize {
        self.array.null_count()
    }

    fn __len__(&self) -> usize {
        self.array.len()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.field.as_ref())
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyArrowResult<Bound<'py, PyTuple>> {
        to_array_pycapsules(py, Arc::clone(&self.field), self.array.as_ref(), requested_schema)
    }

    /// The numbers in place, for `numpy.from_dlpack` and `torch.from_dlpack`. They are not to be written to.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    #[expect(clippy::too_many_arguments, reason = "the array API standard has as many")]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        dlpack::refuse_what_is_not_here(stream, dl_device, copy)?;
        dlpack::capsule(py, &self.array, max_version.is_some_and(|(major, _)| major >= 1))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::DEVICE
    }

    fn __repr__(&self) -> String {
        let (name, kind, rows) = (self.field.name(), self.field.data_type(), self.array.len());
        format!("<Column {name}: {kind} of {rows} rows>")
    }
}

/// All rows of a read.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Table {
    schema: SchemaRef,
    batches: Vec<Batch>,
}

impl Table {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<Batch>) -> Self {
        Self { schema, batches }
    }
}

#[pymethods]
impl Table {
    #[getter]
    fn schema(&self) -> Schema {
        Schema::new(Arc::clone(&self.schema))
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(Batch::num_rows).sum()
    }

    #[getter]
    fn num_columns(&self) -> usize {
        self.schema.fields().len()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.batches.iter().map(bytes_of).sum()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.schema.as_ref())
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyCapsule>>,
    ) -> PyArrowResult<Bound<'py, PyCapsule>> {
        let target = Target::of(&self.schema, requested_schema)?;
        let mut batches: VecDeque<Batch> = self.batches.clone().into();
        capsule::stream(py, target, move || Ok(batches.pop_front()))
    }
}

/// Bytes of a batch's values, without what else lies in the memory that holds them.
pub(crate) fn bytes_of(batch: &Batch) -> usize {
    let columns = batch.columns().iter();
    columns
        .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0))
        .sum()
}
