//! Epochs for training: the order of rows, and batches made in Rust threads. `python/ORDER.md` is the order's specification.
//!
//! ```text
//! request  what Python asks for
//!   -> course   order (random) x share: which places of which clumps each step has
//!   -> loader   engine: fetch the clumps, gather a batch's rows, make columns (column, fill), hand them over (dlpack)
//!   -> reading  who may ask for a batch, and when
//! ```
//! Architecture invariant: nothing here imports torch or knows of it; tensors leave as DLPack capsules.

mod column;
mod course;
mod dlpack;
mod double;
mod engine;
mod failure;
mod fetch;
mod fill;
mod gather;
mod loader;
mod order;
mod pack;
mod random;
mod reading;
mod request;
mod share;
mod take;

use std::sync::Arc;

use arrow::array::AsArray;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use self::column::{Column, Named};
use self::course::Course;
use self::dlpack::Tensor;
use self::engine::Engine;
use self::failure::Failure;
use self::loader::Loader;
use self::order::rows_of;
use self::reading::Reading;
use self::request::Request;
use self::take::Taker;
use crate::client::Client;
use crate::error;
use crate::process::{self, OfProcess};
use crate::schema::Schema;

/// What is known of a batch's columns before there is one: each one's name, whether it has texts or bytes, and whether it has a mask
/// where masks are asked for.
#[pyfunction]
pub(crate) fn batch_columns(schema: &Schema) -> Vec<(String, bool, bool)> {
    let columns = column::described(schema.inner()).into_iter();
    columns
        .map(|column| (column.name, column.has_texts, column.has_mask))
        .collect()
}

/// What one dataset reads with in this process.
#[pyclass(frozen, module = "jetbridge._native")]
#[derive(Debug)]
pub(crate) struct EpochEngine(OfProcess<Arc<Engine>>);

#[pymethods]
impl EpochEngine {
    /// Reads through `client`.
    #[new]
    fn new(client: &Client) -> PyResult<Self> {
        let engine = Engine {
            client: client.live()?.client,
            runtime: process::runtime()?,
        };
        Ok(Self(OfProcess::new(Arc::new(engine))))
    }

    /// Whether this process made it, and not one that this was forked from.
    fn is_ours(&self) -> bool {
        self.0.get().is_some()
    }

    /// Begins to read what `request` says, which is JSON.
    fn load(&self, py: Python<'_>, request: &str) -> PyResult<EpochLoader> {
        let engine = self.own()?;
        let loader = py.detach(|| Loader::start(engine, Request::read(request)?));
        let loader = loader.map_err(|words| raised(Failure::Value(words)))?;
        Ok(EpochLoader(OfProcess::new(Reading::new(loader))))
    }

    /// Rows by their numbers, of the dataset that `request` says, which is JSON.
    fn taker(&self, py: Python<'_>, request: &str) -> PyResult<EpochTaker> {
        let engine = self.own()?;
        let taker = py.detach(|| Taker::new(engine, Request::read(request)?));
        let taker = taker.map_err(|words| raised(Failure::Value(words)))?;
        Ok(EpochTaker(OfProcess::new(taker)))
    }
}

impl EpochEngine {
    fn own(&self) -> PyResult<&Arc<Engine>> {
        self.0.get().ok_or_else(elsewhere)
    }
}

/// Batches on their way, for one reader at a time.
#[pyclass(frozen, module = "jetbridge._native")]
#[derive(Debug)]
pub(crate) struct EpochLoader(OfProcess<Reading>);

#[pymethods]
impl EpochLoader {
    /// The next batch's columns: name, kind, content and mask; none at the end, and from then on. It raises where another call
    /// reads, in whichever thread; what it failed with, from then on; and where it was closed before its end.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let reading = self.0.get().ok_or_else(elsewhere)?;
        let taken = py.detach(|| reading.next());
        taken?.map(|columns| all_to_python(py, columns)).transpose()
    }

    /// Ends the reading: whoever waits for a batch, or asks for one from then on, is told that it was closed.
    fn close(&self, py: Python<'_>) {
        if let Some(reading) = self.0.get() {
            py.detach(|| reading.close());
        }
    }
}

/// Rows by their numbers, for as many threads as ask.
#[pyclass(frozen, module = "jetbridge._native")]
#[derive(Debug)]
pub(crate) struct EpochTaker(OfProcess<Taker>);

#[pymethods]
impl EpochTaker {
    /// Whether this process made it.
    fn is_ours(&self) -> bool {
        self.0.get().is_some()
    }

    /// The columns of the rows of these numbers, in their order.
    fn take<'py>(&self, py: Python<'py>, numbers: Vec<u64>) -> PyResult<Bound<'py, PyList>> {
        let taker = self.0.get().ok_or_else(elsewhere)?;
        let taken = py.detach(|| taker.take(&numbers, look));
        all_to_python(py, taken?)
    }
}

/// One reader's way through an epoch, without reading: for its length, and for tests.
#[pyclass(frozen, module = "jetbridge._native")]
#[derive(Debug)]
pub(crate) struct EpochCourse {
    course: Course,
    unit_rows: Vec<u64>,
}

#[pymethods]
impl EpochCourse {
    /// What `request` says, which is JSON.
    #[new]
    fn new(py: Python<'_>, request: &str) -> PyResult<Self> {
        let course = py.detach(|| {
            let plan = Request::read(request)?.plan()?;
            let unit_rows = plan.unit_rows.clone();
            Course::new(plan).map(|course| Self { course, unit_rows })
        });
        course.map_err(|words| raised(Failure::Value(words)))
    }

    /// Steps that each rank makes.
    #[getter]
    fn rank_steps(&self) -> u64 {
        self.course.rank_steps()
    }

    /// The unit and the row of each row of this reader's step of a number; none after its last.
    fn batch(&self, py: Python<'_>, number: u64) -> Option<Vec<(u32, u64)>> {
        py.detach(|| {
            let spans = self.course.spans(self.course.step(number)?);
            Some(spans.iter().flat_map(|span| self.rows(span)).collect())
        })
    }
}

impl EpochCourse {
    fn rows(&self, span: &course::Span) -> Vec<(u32, u64)> {
        let order = self.course.order.row_order(span.clump);
        let units = self
            .course
            .order
            .clumps()
            .get(span.clump)
            .map_or(&[][..], |clump| clump.units.as_slice());
        let rows = span.places.clone().map(|place| {
            let row = match &order {
                Some(order) => order.get(gather::to_usize(place)).map_or(0, |&row| u64::from(row)),
                None => place,
            };
            self.in_unit(units, row)
        });
        rows.collect()
    }

    fn in_unit(&self, units: &[u32], mut row: u64) -> (u32, u64) {
        for &unit in units {
            let rows = rows_of(&self.unit_rows, unit);
            if row < rows {
                return (unit, row);
            }
            row -= rows;
        }
        (u32::MAX, row)
    }
}

/// Why waiting for a batch ended without one.
enum Stopped {
    /// A signal's handler raised; the batch is still to come.
    Interrupted(PyErr),
    Failed(error::Failure),
}

impl From<error::Failure> for Stopped {
    fn from(failure: error::Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<Stopped> for PyErr {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Interrupted(error) => error,
            Stopped::Failed(failure) => failure.into(),
        }
    }
}

/// The exception for a failure.
fn raised(failure: Failure) -> PyErr {
    error::Failure::from(failure).into()
}

fn elsewhere() -> PyErr {
    error::Failure::closed("this was begun in the process that this one was forked from").into()
}

/// Lets signals' handlers run.
fn look() -> Result<(), Stopped> {
    Python::attach(|py| py.check_signals()).map_err(Stopped::Interrupted)
}

fn all_to_python(py: Python<'_>, columns: Vec<Named>) -> PyResult<Bound<'_, PyList>> {
    let columns = columns.into_iter().map(|named| to_python(py, named));
    PyList::new(py, columns.collect::<PyResult<Vec<_>>>()?)
}

/// A column as Python takes it: its name, what kind it is, its content, and its mask.
type Handed<'py> = (String, &'static str, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

fn to_python(py: Python<'_>, named: Named) -> PyResult<Handed<'_>> {
    let (kind, content) = content(py, named.column)?;
    let mask = named.mask.map(|mask| capsule(py, mask)).transpose()?;
    Ok((named.name, kind, content, mask))
}

fn content(py: Python<'_>, column: Column) -> PyResult<(&'static str, Bound<'_, PyAny>)> {
    Ok(match column {
        Column::Tensor(tensor) => ("tensor", capsule(py, tensor)?),
        Column::Bool(tensor) => ("bool", capsule(py, tensor)?),
        Column::Texts(texts) => {
            let texts = texts
                .as_string::<i64>()
                .iter()
                .map(|text| text.map(|text| PyString::new(py, text)));
            ("objects", PyList::new(py, texts.collect::<Vec<_>>())?.into_any())
        }
        Column::Bytes(values) => {
            let values = values
                .as_binary::<i64>()
                .iter()
                .map(|value| value.map(|value| PyBytes::new(py, value)));
            ("objects", PyList::new(py, values.collect::<Vec<_>>())?.into_any())
        }
        Column::Lists(values, begins) => {
            let (kind, values) = content(py, *values)?;
            let lists = (kind, values, capsule(py, begins)?).into_pyobject(py)?;
            ("lists", lists.into_any())
        }
    })
}

fn capsule(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    Ok(tensor.capsule(py)?.into_any())
}
