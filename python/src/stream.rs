//! Rows of a read, as Python takes them: batch by batch, all at once, or through an Arrow C stream.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use futures::{FutureExt, StreamExt};
use jetbridge_client::fork::{Mutex, wait_for};
use jetbridge_client::{Plan, ReadOptions, Reader, Source, Stats};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::error::PyArrowResult;
use tokio_util::sync::CancellationToken;

use crate::batch::{RecordBatch as PyBatch, Table};
use crate::capsule::{self, Target, failed};
use crate::client::{Live, to_object};
use crate::error::Failure;
use crate::fork::{is_of_python, within};
use crate::process::{self, OfProcess};
use crate::schema::Schema;
use crate::task::{SIGNAL_INTERVAL, Task, panicked};

/// How long after a consumer was told of it an interrupt comes again.
const INTERRUPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Whether the interrupt that comes next is one that came before.
static IS_REPEATED: AtomicBool = AtomicBool::new(false);

/// A read.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Stream {
    schema: SchemaRef,
    inner: Arc<OfProcess<Inner>>,
}

struct Inner {
    reader: tokio::sync::Mutex<State>,
    closed: CancellationToken,
    counts: Counts,
}

enum State {
    Open(Box<Reader>),
    Ended,
    Failed(Failure),
    Closed,
}

/// How far it is, to be looked at while it goes on.
#[derive(Debug, Default)]
struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    /// Batches by where the servers had them.
    memory: AtomicU64,
    disk: AtomicU64,
    store: AtomicU64,
    stats: Mutex<Stats>,
}

impl Stream {
    pub(crate) fn new(live: &Live, plan: &Plan, options: ReadOptions) -> Self {
        let inner = Inner {
            reader: tokio::sync::Mutex::new(State::Open(Box::new(live.client.read(plan, options)))),
            closed: live.closed.child_token(),
            counts: Counts::default(),
        };
        Self {
            schema: Arc::clone(&plan.schema),
            inner: Arc::new(OfProcess::new(inner)),
        }
    }

    fn inner(&self) -> Result<&Inner, Failure> {
        self.inner.get().ok_or_else(inherited)
    }
}

#[pymethods]
impl Stream {
    #[getter]
    fn schema(&self) -> Schema {
        Schema::new(Arc::clone(&self.schema))
    }

    /// Rows handed out so far.
    #[getter]
    fn rows(&self) -> PyResult<u64> {
        Ok(self.inner()?.counts.rows.load(Ordering::Relaxed))
    }

    /// Bytes of these, as they lie in memory.
    #[getter]
    fn bytes(&self) -> PyResult<u64> {
        Ok(self.inner()?.counts.bytes.load(Ordering::Relaxed))
    }

    /// Batches handed out so far.
    #[getter]
    fn batches(&self) -> PyResult<u64> {
        Ok(self.inner()?.counts.batches.load(Ordering::Relaxed))
    }

    /// Batches by where the servers had them.
    #[getter]
    fn sources(&self) -> PyResult<std::collections::BTreeMap<&'static str, u64>> {
        let counts = &self.inner()?.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let sources = [
            ("memory", of(&counts.memory)),
            ("disk", of(&counts.disk)),
            ("store", of(&counts.store)),
        ];
        Ok(sources.into())
    }

    /// Endpoints read to their end, by the place that gave them.
    #[getter]
    fn served_by(&self) -> PyResult<std::collections::BTreeMap<String, u64>> {
        Ok(self.inner()?.counts.stats.lock().served_by.clone())
    }

    /// Times that an endpoint was gone on with at another place, or anew.
    #[getter]
    fn failovers(&self) -> PyResult<u64> {
        Ok(self.inner()?.counts.stats.lock().failovers)
    }

    /// Bytes that came over sockets, those that came again included.
    #[getter]
    fn received_bytes(&self) -> PyResult<u64> {
        Ok(self.inner()?.counts.stats.lock().received_bytes)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.get().is_none_or(|inner| inner.closed.is_cancelled())
    }

    /// The next rows; none at the end.
    fn next(&self) -> PyResult<Task> {
        self.inner()?;
        let inner = Arc::clone(&self.inner);
        let work = async move { inner.get().ok_or_else(inherited)?.next().await };
        Task::spawn(work, |py, given| to_object(py, given))
    }

    /// All rows that are left; refused once they are more bytes than this.
    #[pyo3(signature = (max_bytes=None))]
    fn collect(&self, max_bytes: Option<u64>) -> PyResult<Task> {
        self.inner()?;
        let (inner, schema) = (Arc::clone(&self.inner), Arc::clone(&self.schema));
        let work = async move {
            let inner = inner.get().ok_or_else(inherited)?;
            let mut batches = Vec::new();
            while let Some(batch) = inner.next_batch().await? {
                batches.push(batch);
                if max_bytes.is_some_and(|most| inner.counts.bytes.load(Ordering::Relaxed) > most) {
                    return Err(too_large(max_bytes.unwrap_or_default()));
                }
            }
            Ok(Table::new(schema, batches))
        };
        Task::spawn(work, |py, given| to_object(py, given))
    }

    /// Ends it, at the servers too.
    fn close(&self, py: Python<'_>) {
        if let Some(inner) = self.inner.get() {
            inner.closed.cancel();
            // Held only by a call that is about to end, which lets go of the reader itself.
            let state = inner.reader.try_lock().ok();
            let before = state.map(|mut state| std::mem::replace(&mut *state, State::Closed));
            py.detach(|| within(|| drop(before)));
        }
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyCapsule>> {
        pyo3_arrow::ffi::to_schema_pycapsule(py, self.schema.as_ref())
    }

    /// The rows that are left, read as the consumer asks for them.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyCapsule>>,
    ) -> PyArrowResult<Bound<'py, PyCapsule>> {
        self.inner().map_err(PyErr::from)?;
        let target = Target::of(&self.schema, requested_schema)?;
        let reading = Exported(Arc::clone(&self.inner));
        capsule::stream(py, target, move || reading.next())
    }
}

impl Inner {
    async fn next(&self) -> Result<Option<PyBatch>, Failure> {
        Ok(self.next_piece().await?.map(PyBatch::from))
    }

    async fn next_batch(&self) -> Result<Option<RecordBatch>, Failure> {
        Ok(self.next_piece().await?.map(|piece| piece.batch))
    }

    async fn next_piece(&self) -> Result<Option<jetbridge_client::Piece>, Failure> {
        let mut state = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(closed()),
            state = self.reader.lock() => state,
        };
        let reader = match &mut *state {
            State::Open(reader) => reader,
            State::Ended => return Ok(None),
            State::Failed(failure) => return Err(failure.clone()),
            State::Closed => return Err(closed()),
        };
        let next = tokio::select! {
            biased;
            () = self.closed.cancelled() => {
                *state = State::Closed;
                return Err(closed());
            }
            next = AssertUnwindSafe(reader.next()).catch_unwind() => next,
        };
        let next = match next {
            Ok(next) => next,
            Err(panic) => {
                // A reader that was stopped in the midst of its work is not read on: it may have taken rows, and not given them.
                let failure = panicked(&*panic);
                *state = State::Failed(failure.clone());
                return Err(failure);
            }
        };
        self.counts.take(reader.stats(), next.as_ref());
        match next {
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) => {
                let failure = Failure::from(error);
                *state = State::Failed(failure.clone());
                Err(failure)
            }
            None => {
                *state = State::Ended;
                Ok(None)
            }
        }
    }
}

impl Counts {
    fn take(&self, stats: Stats, next: Option<&jetbridge_client::Result<jetbridge_client::Piece>>) {
        self.rows.store(stats.rows, Ordering::Relaxed);
        self.bytes.store(stats.bytes, Ordering::Relaxed);
        if let Some(Ok(piece)) = next {
            self.batches.fetch_add(1, Ordering::Relaxed);
            let source = match piece.source {
                Source::Memory => &self.memory,
                Source::Disk => &self.disk,
                _ => &self.store,
            };
            source.fetch_add(1, Ordering::Relaxed);
        }
        *self.stats.lock() = stats;
    }
}

/// A read that left as an Arrow C stream: it ends when the consumer lets go of it.
struct Exported(Arc<OfProcess<Inner>>);

impl Exported {
    /// The next batch, waited for without the interpreter's lock, whether the consumer holds it or not.
    fn next(&self) -> Result<Option<RecordBatch>, ArrowError> {
        let inner = self.0.get().ok_or_else(|| failed(inherited().message()))?;
        let runtime = process::runtime().map_err(|error| failed(&error.to_string()))?;
        let is_known = is_of_python();
        let signals = || Python::try_attach(|py| py.check_signals());
        let look = || match is_known.then(signals).flatten() {
            Some(Err(interrupt)) => Err(interrupt),
            // An interpreter that is on its way out lets nobody in, and handles no signals.
            Some(Ok(())) | None => Ok(()),
        };
        let wait = || {
            let _context = runtime.enter();
            wait_for(inner.next_batch(), SIGNAL_INTERVAL, look)
        };
        let waited = match is_known {
            true => Python::try_attach(|py| py.detach(wait)).unwrap_or_else(wait),
            false => wait(),
        };
        match waited {
            Ok(next) => next.map_err(|failure| failed(failure.message())),
            Err(interrupt) => Err(interrupted(&interrupt)),
        }
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        if let Some(inner) = self.0.get() {
            within(|| {
                inner.closed.cancel();
                if let Ok(mut state) = inner.reader.try_lock() {
                    *state = State::Closed;
                }
            });
        }
    }
}

/// A consumer in C makes an error of its own of what it is told, and Ctrl-C would be lost in it: a loop that tries again would
/// go on. So the interrupt comes once more, a little later: at once, it would come while the consumer's error is being
/// printed. If it meets another read then, it comes at once all the same, and ends the loop.
fn interrupted(interrupt: &PyErr) -> ArrowError {
    let is_interrupt = Python::try_attach(|py| interrupt.is_instance_of::<PyKeyboardInterrupt>(py));
    if is_interrupt == Some(true) {
        if IS_REPEATED.swap(false, Ordering::Relaxed) {
            interrupt_again();
        } else {
            let later = thread::Builder::new().name("jetbridge-signal".to_owned());
            // Without a thread, the consumer's error is all there is.
            drop(later.spawn(|| {
                thread::sleep(INTERRUPT_AGAIN_AFTER);
                IS_REPEATED.store(true, Ordering::Relaxed);
                interrupt_again();
            }));
        }
    }
    failed("the read was interrupted")
}

#[expect(
    unsafe_code,
    reason = "there is no other way to set an interrupt than the interpreter's own"
)]
fn interrupt_again() {
    // SAFETY: it may be called at any time, by any thread, and sets a flag.
    unsafe { pyo3::ffi::PyErr_SetInterrupt() };
}

fn closed() -> Failure {
    Failure::closed("the read was closed")
}

fn inherited() -> Failure {
    Failure::closed("this was begun in the process that this one was forked from")
}

fn too_large(most: u64) -> Failure {
    let words = format!(
        "the rows take more than the {} MiB that are usable of this machine's memory",
        most >> 20
    );
    Failure::new("TOO_LARGE", words).with_hint(
        "take fewer columns (select) or rows (filter, limit), read batch by batch (to_batches, to_reader), or say \
         check_memory=False to read them all the same",
    )
}
