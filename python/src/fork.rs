//! A fork at a moment when no thread of the runtime is in the midst of anything.
//!
//! A fork copies locks as they are and threads not at all: a lock that another thread holds at that moment is held in the child for
//! ever. A runtime and a client of its own do not help the child where the lock is everybody's: tokio's locks all go through one
//! table of the process, in which the threads that wait stand, idle ones among them ([`jetbridge_client::fork`]). So before a fork
//!
//! * each thread of the runtime is brought to stand still in a task of ours, which waits by other means: it holds no lock, and
//!   is in no table;
//! * no other thread is let within reach of the runtime, and those that are there are waited for.
//!
//! Those that hold the interpreter's lock need no looking after: whoever forks has it.
//!
//! A thread that does not come in time is not waited for: a fork that may go wrong is better than a program that stands. What
//! takes its time is looking up a host's name, which is done on a thread of the runtime's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jetbridge_client::fork;
use pyo3::prelude::*;
use tokio::runtime::Runtime;

use crate::process;

/// How long the threads are waited for.
const STAND_WITHIN: Duration = Duration::from_secs(5);
/// How long threads that are at work have before they are counted again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_micros(500);

/// The gate of the fork under way, where one is.
static UNDER_WAY: Mutex<Option<Arc<Gate>>> = Mutex::new(None);
/// Threads of the runtime that have to do with the interpreter only.
static AWAY: AtomicUsize = AtomicUsize::new(0);

/// A thread of the runtime that waits for the interpreter's lock, or has it: it takes no other, and cannot come before the fork.
/// To be dropped while it has it.
pub(crate) struct Away;

impl Away {
    pub(crate) fn begin() -> Self {
        AWAY.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        AWAY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether the interpreter knows this thread. A library's own thread sees no signals, holds no lock of the interpreter, and must
/// not wait for it: whoever has it may be waiting for this thread (`DuckDB` does, when it ends a query that was interrupted).
#[expect(unsafe_code, reason = "there is no other way to ask without waiting for the lock")]
pub(crate) fn is_of_python() -> bool {
    // SAFETY: it looks at a variable of this thread's, and needs no lock.
    !unsafe { pyo3::ffi::PyGILState_GetThisThreadState() }.is_null()
}

/// Does what touches the runtime, at a moment when the process does not fork. A thread that may have the interpreter's lock gives
/// it up while it waits for that: whoever forks needs it to go on, between our part of it and the fork itself.
pub(crate) fn within<T, F: FnOnce() -> T>(mut work: F) -> T {
    loop {
        work = match fork::within_now(work) {
            Ok(done) => return done,
            Err(work) => work,
        };
        let waited = is_of_python().then(|| Python::try_attach(|py| py.detach(fork::wait_while_shut)));
        if waited.flatten().is_none() {
            fork::wait_while_shut();
        }
    }
}

/// Where threads stand until it opens.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    standing: usize,
    is_open: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands still until it opens.
    fn stand(&self) {
        let mut state = self.lock();
        state.standing += 1;
        self.changed.notify_all();
        while !state.is_open {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until so many threads stand, until then at the latest; whether they do.
    fn wait_for(&self, threads: usize, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let is_missing = |state: &mut State| state.standing < threads;
        let waited = self.changed.wait_timeout_while(self.lock(), left, is_missing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.standing >= threads
    }

    fn open(&self) {
        self.lock().is_open = true;
        self.changed.notify_all();
    }
}

/// Has all threads stand still, or where they take no locks; to be called before a fork, with the interpreter's lock held.
#[pyfunction]
pub(crate) fn before_fork() {
    let end = Instant::now() + STAND_WITHIN;
    fork::shut(STAND_WITHIN);
    let Some(runtime) = process::existing() else { return };
    let gate = Arc::new(Gate::default());
    gather(runtime, &gate, end);
    *under_way() = Some(gate);
}

/// Brings the runtime's threads to the gate.
fn gather(runtime: &Runtime, gate: &Arc<Gate>, end: Instant) {
    let workers = runtime.metrics().num_workers();
    for _ in 0..workers {
        let gate = Arc::clone(gate);
        runtime.spawn(async move { gate.stand() });
    }
    let mut called = workers;
    let mut pause = FIRST_PAUSE;
    while gate.wait_for(called, end) && Instant::now() < end {
        let threads = process::threads().saturating_sub(AWAY.load(Ordering::SeqCst));
        if threads <= called {
            return;
        }
        // An idle thread takes what is to be done before a new one is started for it. Where one was at work, a new one was, and
        // the count is taken again.
        for _ in called..threads {
            let gate = Arc::clone(gate);
            drop(runtime.spawn_blocking(move || gate.stand()));
        }
        called = threads;
        std::thread::sleep(pause);
        pause *= 2;
    }
}

/// Lets the threads go on; to be called after a fork in the parent.
#[pyfunction]
pub(crate) fn after_fork_in_parent() {
    if let Some(gate) = under_way().take() {
        gate.open();
    }
    fork::open();
}

/// Forgets the parent's threads and runtime; to be called after a fork in the child.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    // Nobody stands at it here.
    std::mem::forget(under_way().take());
    AWAY.store(0, Ordering::SeqCst);
    process::forget();
    fork::open_in_child();
}

fn under_way() -> MutexGuard<'static, Option<Arc<Gate>>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}
