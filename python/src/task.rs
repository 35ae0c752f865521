//! Something under way on the runtime, as Python sees it: to be waited for, or to wake whoever waits.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jetbridge_client::fork::Mutex;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::error::Failure;
use crate::fork::Away;
use crate::process::{self, OfProcess};

/// How long a wait goes on before signals are looked at: Ctrl-C is noticed within that.
pub(crate) const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest wait that is kept to; longer ones have no end.
const LONGEST: f64 = 1e9;

/// Makes the Python value of what came.
type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// Something under way.
#[pyclass(frozen, module = "jetbridge._native")]
pub(crate) struct Task {
    inner: OfProcess<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    abort: AbortHandle,
}

struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

enum State {
    /// With what to call when it is done.
    Running(Vec<Py<PyAny>>),
    Ready(Outcome),
    /// Somebody makes the value of it.
    Making,
    Made(Result<Py<PyAny>, PyErr>),
}

/// Settles a task whatever becomes of its future: a task that is never done would be waited for forever.
struct Settling {
    shared: Arc<Shared>,
    is_settled: bool,
}

impl Task {
    /// Starts it.
    ///
    /// # Errors
    /// No runtime.
    pub(crate) fn spawn<T: Send + 'static>(
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Running(Vec::new())),
            done: Condvar::new(),
        });
        let settling = Settling {
            shared: Arc::clone(&shared),
            is_settled: false,
        };
        let work = async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            settling.settle(match outcome {
                Ok(Ok(value)) => Box::new(|py| convert(py, value)),
                Ok(Err(failure)) => failed(failure),
                Err(panic) => failed(panicked(&*panic)),
            });
        };
        let abort = process::runtime()?.spawn(work).abort_handle();
        Ok(Self {
            inner: OfProcess::new(Inner { shared, abort }),
        })
    }

    fn inner(&self) -> Result<&Inner, Failure> {
        let words = "this was begun in the process that this one was forked from";
        self.inner.get().ok_or_else(|| Failure::closed(words))
    }
}

#[pymethods]
impl Task {
    /// Waits until it is done, or for so many seconds; whether it is. Signals are handled meanwhile.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let shared = &self.inner()?.shared;
        let end = timeout
            .filter(|seconds| *seconds < LONGEST)
            .map(|seconds| Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default());
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let step = left.unwrap_or(SIGNAL_INTERVAL).min(SIGNAL_INTERVAL);
            if py.detach(|| shared.wait(step)) {
                return Ok(true);
            }
            py.check_signals()?;
            if left.is_some_and(|left| left <= step) {
                return Ok(false);
            }
        }
    }

    /// Whether it is done.
    fn done(&self) -> PyResult<bool> {
        Ok(!matches!(&*self.inner()?.shared.state.lock(), State::Running(_)))
    }

    /// What came of it, once it is done; raises what it failed with.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let shared = &self.inner()?.shared;
        loop {
            if let Some(made) = shared.make(py) {
                return made;
            }
            // Another thread makes the value, for which it needs the interpreter.
            py.detach(|| std::thread::sleep(Duration::from_millis(1)));
        }
    }

    /// Has something called when it is done, on a thread of the runtime that may wait for the interpreter; at once, if it is.
    fn on_done(&self, py: Python<'_>, wake: Py<PyAny>) -> PyResult<()> {
        {
            let mut state = self.inner()?.shared.state.lock();
            if let State::Running(wakers) = &mut *state {
                wakers.push(wake);
                return Ok(());
            }
        }
        wake.call0(py).map(drop)
    }

    /// Ends it, if it is not done.
    fn cancel(&self) {
        if let Some(inner) = self.inner.get() {
            inner.abort.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What nobody waits for any more is not gone on with.
        self.abort.abort();
    }
}

impl Shared {
    /// Waits for a while; whether it is done.
    fn wait(&self, for_at_most: Duration) -> bool {
        let is_running = |state: &mut State| matches!(state, State::Running(_));
        let waited = self.done.wait_timeout_while(self.state.lock(), for_at_most, is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !matches!(&*state, State::Running(_))
    }

    /// The value, which is made by the first who asks; none while another one does.
    fn make(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        let outcome = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Making) {
                State::Ready(outcome) => outcome,
                State::Making => return None,
                State::Made(made) => {
                    let again = copied(py, &made);
                    *state = State::Made(made);
                    return Some(again);
                }
                State::Running(wakers) => {
                    *state = State::Running(wakers);
                    return Some(Err(Failure::new("FAILED_PRECONDITION", "it is not done yet").to_py(py)));
                }
            }
        };
        // Without the lock, for this runs Python.
        let made = outcome(py);
        let given = copied(py, &made);
        *self.state.lock() = State::Made(made);
        Some(given)
    }
}

impl Settling {
    fn settle(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.is_settled = true;
        let before = std::mem::replace(&mut *self.shared.state.lock(), State::Ready(outcome));
        self.shared.done.notify_all();
        if let State::Running(wakers) = before
            && !wakers.is_empty()
        {
            // Not here: a thread of the runtime that waited for the interpreter would hold up reads. Outside of it there is only
            // its end, when nobody waits.
            if let Ok(runtime) = Handle::try_current() {
                drop(runtime.spawn_blocking(move || call(&wakers)));
            }
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if !self.is_settled {
            self.finish(failed(Failure::closed("it was cancelled")));
        }
    }
}

fn call(wakers: &[Py<PyAny>]) {
    let away = Away::begin();
    // Where the interpreter is on its way out, nobody waits.
    Python::try_attach(|py| {
        for wake in wakers {
            if let Err(error) = wake.call0(py) {
                error.write_unraisable(py, Some(wake.bind(py)));
            }
        }
        // Still with the interpreter's lock, so that nobody forks before this thread is one of the runtime's again.
        drop(away);
    });
}

fn failed(failure: Failure) -> Outcome {
    Box::new(move |py| Err(failure.to_py(py)))
}

fn copied(py: Python<'_>, made: &Result<Py<PyAny>, PyErr>) -> PyResult<Py<PyAny>> {
    match made {
        Ok(value) => Ok(value.clone_ref(py)),
        Err(error) => Err(error.clone_ref(py)),
    }
}

/// What a panic is to users: a defect of ours.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(
        "INTERNAL",
        format!("a defect of the client: {}", words.unwrap_or("no words")),
    )
}
