//! What belongs to one process: its runtime, and what lives on it.
//!
//! A fork copies memory, and no threads but one. A runtime that was copied never runs again, and neither is it safe to take
//! down: that would reach into what the kernel still shares with the parent (its epoll, its sockets), or wait for a lock that a
//! thread held which is not there. So a process that finds things of another one forgets them, and makes its own.

use std::io;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::error::internal;

/// What the runtime's threads are called.
const THREAD_NAME: &str = "jetbridge";
/// The stack of a thread: some decode what nests as deeply as servers allow, which have as much.
const STACK_BYTES: usize = 8 << 20;
/// How long a thread for blocking work is kept without any.
const IDLE_THREAD: Duration = Duration::from_secs(2);

/// The runtime of the process that made it. Never freed: the process's end ends it.
static CURRENT: AtomicPtr<Owned> = AtomicPtr::new(ptr::null_mut());

struct Owned {
    pid: u32,
    runtime: Runtime,
}

/// A value of the process that made it: another one, forked from it, cannot use it, and forgets it instead of dropping it.
#[derive(Debug)]
pub(crate) struct OfProcess<T> {
    pid: u32,
    value: Option<T>,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            pid: process::id(),
            value: Some(value),
        }
    }

    /// The value; none in another process.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.pid == process::id())
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.value.as_mut().filter(|_| self.pid == process::id())
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.pid != process::id() {
            std::mem::forget(self.value.take());
        }
    }
}

/// The runtime of this process, made when it is first needed.
///
/// # Errors
/// Threads or descriptors that cannot be had.
#[expect(unsafe_code, reason = "what a pointer refers to that is never freed")]
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    loop {
        let found = CURRENT.load(Ordering::Acquire);
        // SAFETY: it is null, or was made by `Box::into_raw` below and is never freed.
        if let Some(owned) = unsafe { found.as_ref() }
            && owned.pid == process::id()
        {
            return Ok(&owned.runtime);
        }
        let owned = Box::new(Owned {
            pid: process::id(),
            runtime: build().map_err(|error| internal(&format!("no runtime can be started: {error}")))?,
        });
        let owned = Box::into_raw(owned);
        if CURRENT
            .compare_exchange(found, owned, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // Another thread was first.
            // SAFETY: made by `Box::into_raw` above, and nobody else has seen it.
            let unused = unsafe { Box::from_raw(owned) };
            unused.runtime.shutdown_background();
        }
    }
}

/// How many threads this process has that a runtime started.
pub(crate) fn threads() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == THREAD_NAME).count()
}

fn build() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name(THREAD_NAME)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(IDLE_THREAD)
        .build()
}

/// The runtime of this process, where there is one.
#[expect(unsafe_code, reason = "what a pointer refers to that is never freed")]
pub(crate) fn existing() -> Option<&'static Runtime> {
    // SAFETY: as in `runtime`.
    let owned = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    owned
        .filter(|owned| owned.pid == process::id())
        .map(|owned| &owned.runtime)
}

/// Forgets the parent's runtime, in the child of a fork.
pub(crate) fn forget() {
    CURRENT.store(ptr::null_mut(), Ordering::Release);
}

/// How many threads the runtime of this process has for reading; 0 where there is none yet. For tests.
#[pyfunction]
pub(crate) fn runtime_threads() -> usize {
    existing().map_or(0, |runtime| runtime.metrics().num_workers())
}
