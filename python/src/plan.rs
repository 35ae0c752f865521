//! Plans as Python sees them.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Failure;
use crate::schema::Schema;

/// What a read comes to.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Plan {
    inner: Arc<jetbridge_client::Plan>,
}

impl Plan {
    pub(crate) fn new(plan: jetbridge_client::Plan) -> Self {
        Self { inner: Arc::new(plan) }
    }

    pub(crate) fn inner(&self) -> &Arc<jetbridge_client::Plan> {
        &self.inner
    }
}

#[pymethods]
impl Plan {
    /// The plan that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> Result<Self, Failure> {
        Ok(Self::new(jetbridge_client::Plan::from_bytes(data)?))
    }

    /// The plan, for another process.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.to_bytes())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let make = py.get_type::<Self>().getattr("from_bytes")?;
        Ok((make, (self.to_bytes(py),)))
    }

    #[getter]
    fn schema(&self) -> Schema {
        Schema::new(Arc::clone(&self.inner.schema))
    }

    #[getter]
    fn rows(&self) -> Option<u64> {
        self.inner.rows
    }

    #[getter]
    fn bytes(&self) -> Option<u64> {
        self.inner.bytes
    }

    #[getter]
    fn endpoints(&self) -> Vec<Endpoint> {
        (0..self.inner.endpoints.len())
            .map(|index| Endpoint {
                plan: Arc::clone(&self.inner),
                index,
            })
            .collect()
    }
}

/// A part of a plan that one worker gives.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Endpoint {
    plan: Arc<jetbridge_client::Plan>,
    index: usize,
}

impl Endpoint {
    fn inner(&self) -> &jetbridge_client::Endpoint {
        &self.plan.endpoints[self.index]
    }
}

#[pymethods]
impl Endpoint {
    #[getter]
    fn path(&self) -> &str {
        &self.inner().about.path
    }

    #[getter]
    fn row_groups(&self) -> Vec<u32> {
        self.inner().about.row_groups.clone()
    }

    #[getter]
    fn files(&self) -> u64 {
        self.inner().about.files
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.inner().about.rows.unwrap_or(0)
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.inner().about.bytes.unwrap_or(0)
    }

    #[getter]
    fn cached(&self) -> &str {
        match self.inner().about.cached.as_str() {
            "" => "none",
            cached => cached,
        }
    }

    #[getter]
    fn node(&self) -> Option<&str> {
        self.inner().about.node.as_deref()
    }

    #[getter]
    fn locations(&self) -> Vec<String> {
        self.inner().locations.clone()
    }

    #[getter]
    fn expires_unix_s(&self) -> Option<f64> {
        let since = self.inner().expires?.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    }
}
