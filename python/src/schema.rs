//! Schemas, fields and types, which any Arrow library takes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::error::PyArrowResult;
use pyo3_arrow::ffi::to_schema_pycapsule;
use pyo3_arrow::{PyDataType, PyField, PySchema};

/// The columns of rows.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Schema {
    schema: SchemaRef,
}

impl Schema {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }

    pub(crate) fn inner(&self) -> &SchemaRef {
        &self.schema
    }
}

#[pymethods]
impl Schema {
    /// From an Arrow C schema in a capsule.
    #[staticmethod]
    fn from_capsule(capsule: &Bound<'_, PyCapsule>) -> PyResult<Self> {
        Ok(Self::new(PySchema::from_arrow_pycapsule(capsule)?.into_inner()))
    }

    #[getter]
    fn fields(&self) -> Vec<Field> {
        let fields = self.schema.fields().iter();
        fields.map(|field| Field(Arc::clone(field))).collect()
    }

    #[getter]
    fn metadata(&self) -> HashMap<String, String> {
        self.schema.metadata().clone()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.schema.as_ref())
    }

    /// Whether another schema has the same columns; metadata aside, as other libraries compare them.
    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let Ok(other) = other.extract::<PySchema>() else {
            return false;
        };
        let other = other.into_inner();
        let (own, others) = (self.schema.fields(), other.fields());
        own.len() == others.len() && own.iter().zip(others).all(|(own, other)| is_same(own, other))
    }
}

/// A column's name and type.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Field(FieldRef);

#[pymethods]
impl Field {
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    #[getter]
    fn r#type(&self) -> DataType {
        DataType(Arc::clone(&self.0))
    }

    #[getter]
    fn nullable(&self) -> bool {
        self.0.is_nullable()
    }

    #[getter]
    fn metadata(&self) -> HashMap<String, String> {
        self.0.metadata().clone()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.0.as_ref())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let other = other.extract::<PyField>();
        other.is_ok_and(|other| is_same(&self.0, &other.into_inner()))
    }
}

/// A column's type.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct DataType(FieldRef);

impl DataType {
    pub(crate) fn of(field: &FieldRef) -> Self {
        Self(Arc::clone(field))
    }
}

#[pymethods]
impl DataType {
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        to_schema_pycapsule(py, self.0.data_type())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let other = other.extract::<PyDataType>();
        other.is_ok_and(|other| *self.0.data_type() == other.into_inner())
    }

    fn __str__(&self) -> String {
        self.0.data_type().to_string()
    }

    fn __repr__(&self) -> String {
        format!("DataType({})", self.0.data_type())
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.0.data_type().hash(&mut hasher);
        hasher.finish()
    }
}

/// Whether two columns are the same, their metadata aside.
fn is_same(one: &FieldRef, other: &FieldRef) -> bool {
    one.name() == other.name() && one.data_type() == other.data_type() && one.is_nullable() == other.is_nullable()
}
