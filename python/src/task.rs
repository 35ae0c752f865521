//! Something under way on the runtime, as Python sees it: to be waited for, or to wake whoever waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jetbridge_client::fork::Mutex;
use pyo3::exceptions::PyRuntimeError;
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
/// What came of making it, for all who ask.
type Made = Arc<PyResult<Py<PyAny>>>;

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
    /// Locked for moments, and never while Python runs: that lets other threads have the interpreter, which may ask for this.
    state: Mutex<State>,
    /// It is done, or its value is made.
    changed: Condvar,
}

enum State {
    /// With what to call when it is done.
    Running(Vec<Py<PyAny>>),
    Ready(Outcome),
    /// This thread makes the value of it.
    Making(ThreadId),
    Made(Made),
}

/// What somebody has to do who asks for the value.
enum Step {
    Make(Outcome),
    Wait,
    Take(Made),
    Refuse(&'static str),
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
            changed: Condvar::new(),
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
            if py.detach(|| shared.wait_while(State::is_running, step)) {
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
        Ok(!self.inner()?.shared.state.lock().is_running())
    }

    /// What came of it, once it is done; raises what it failed with. Signals are handled while another thread makes the value.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let shared = &self.inner()?.shared;
        loop {
            match shared.step() {
                Step::Make(outcome) => return copied(py, &shared.make(py, outcome)),
                Step::Take(made) => return copied(py, &made),
                Step::Refuse(words) => return Err(Failure::new("FAILED_PRECONDITION", words).to_py(py)),
                Step::Wait => {
                    // The other thread needs the interpreter for it.
                    py.detach(|| shared.wait_while(State::is_making, SIGNAL_INTERVAL));
                }
            }
            py.check_signals()?;
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

impl State {
    fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    fn is_making(&self) -> bool {
        matches!(self, Self::Making(_))
    }
}

impl Shared {
    /// Waits as long as it is so, for a while; whether it is not so any more.
    fn wait_while(&self, is_so: fn(&State) -> bool, for_at_most: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.state.lock(), for_at_most, |state| is_so(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !is_so(&state)
    }

    /// What to do for the value, which the first who asks makes.
    fn step(&self) -> Step {
        let own = thread::current().id();
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Making(own)) {
            State::Ready(outcome) => Step::Make(outcome),
            State::Making(by) => {
                *state = State::Making(by);
                // A thread that waited for itself would wait for ever.
                match by == own {
                    true => Step::Refuse("what came of it is being made, by a call that this one was made in"),
                    false => Step::Wait,
                }
            }
            State::Made(made) => {
                *state = State::Made(Arc::clone(&made));
                Step::Take(made)
            }
            State::Running(wakers) => {
                *state = State::Running(wakers);
                Step::Refuse("it is not done yet")
            }
        }
    }

    /// Makes the value, and lets those go on who wait for it.
    fn make(&self, py: Python<'_>, outcome: Outcome) -> Made {
        let made = Arc::new(guarded(py, outcome));
        *self.state.lock() = State::Made(Arc::clone(&made));
        self.changed.notify_all();
        made
    }
}

impl Settling {
    fn settle(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.is_settled = true;
        let before = std::mem::replace(&mut *self.shared.state.lock(), State::Ready(outcome));
        self.shared.changed.notify_all();
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

/// Makes a value. A panic is an error like others: whoever waits for the value must be told.
fn guarded(py: Python<'_>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    catch_unwind(AssertUnwindSafe(|| outcome(py))).unwrap_or_else(|panic| {
        let failure = panicked(&*panic);
        // An error of the package's is made by Python too, and what has panicked once may do so again.
        let error = catch_unwind(AssertUnwindSafe(|| failure.to_py(py)));
        Err(error.unwrap_or_else(|_| PyRuntimeError::new_err(failure.message().to_owned())))
    })
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
