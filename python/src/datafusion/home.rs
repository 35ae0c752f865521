//! What is ours, in the hands of another library's threads.
//!
//! They have a runtime of their own and none of ours; they do not know that forks must wait for them
//! ([`jetbridge_client::fork`]); and they come through functions of C, which a panic must not leave. So whatever reads is a
//! [`Guest`], and is touched as a guest is only.
//!
//! Why not tasks on our runtime: rows would go through one more queue, and a query that is dropped would have to be told to it.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use datafusion::common::{DataFusionError, Result};
use pyo3::PyResult;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::client::Live;
use crate::fork::within;
use crate::process::{self, OfProcess};
use crate::task::panicked;

/// What all that one client gave has in common.
#[derive(Debug, Clone)]
pub(super) struct Home {
    runtime: &'static Runtime,
    closed: CancellationToken,
}

/// Something of the process that made it, which reads, or may.
#[derive(Debug)]
pub(super) struct Guest<T> {
    runtime: &'static Runtime,
    /// Taken when it is dropped alone.
    value: Option<OfProcess<T>>,
}

impl Home {
    /// That of a client.
    ///
    /// # Errors
    /// No runtime.
    pub(super) fn of(live: &Live) -> PyResult<Self> {
        Ok(Self {
            runtime: process::runtime()?,
            closed: live.closed.clone(),
        })
    }

    /// A guest of it.
    pub(super) fn keep<T>(&self, value: T) -> Guest<T> {
        Guest {
            runtime: self.runtime,
            value: Some(OfProcess::new(value)),
        }
    }

    /// Waits for what the client does. Dropped, it ends that.
    ///
    /// # Errors
    /// What comes of it; that the client was closed meanwhile.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let ended = async {
            tokio::select! {
                biased;
                () = self.closed.cancelled() => Err(closed()),
                done = work => done,
            }
        };
        let mut ended = self.keep(Box::pin(ended));
        poll_fn(|context| {
            let polled = ended.with_mut(|ended| ended.as_mut().poll(context));
            polled.unwrap_or_else(|error| Poll::Ready(Err(error)))
        })
        .await
    }

    /// Ready when the client is closed.
    pub(super) fn closing(&self) -> WaitForCancellationFutureOwned {
        self.closed.clone().cancelled_owned()
    }
}

impl<T> Guest<T> {
    /// The value, for what does not touch the runtime.
    ///
    /// # Errors
    /// It is of another process.
    pub(super) fn get(&self) -> Result<&T> {
        self.value.as_ref().and_then(OfProcess::get).ok_or_else(inherited)
    }

    /// Does something with it that does not wait.
    ///
    /// # Errors
    /// As of [`Guest::get`]; what comes of it; a defect of ours.
    pub(super) fn with<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        let value = self.get()?;
        guarded(self.runtime, || work(value))
    }

    /// The same for what changes it.
    ///
    /// # Errors
    /// As of [`Guest::with`].
    pub(super) fn with_mut<R>(&mut self, work: impl FnOnce(&mut T) -> R) -> Result<R> {
        let value = self.value.as_mut().and_then(OfProcess::get_mut);
        let value = value.ok_or_else(inherited)?;
        guarded(self.runtime, || Ok(work(value)))
    }
}

impl<T> Drop for Guest<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        within(|| drop(value));
    }
}

/// An error of ours, as one of DataFusion's.
pub(super) fn closed() -> DataFusionError {
    DataFusionError::Execution("the client that this table is of was closed".to_owned())
}

fn inherited() -> DataFusionError {
    DataFusionError::Execution(
        "this table is of the process that this one was forked from; register it again here".to_owned(),
    )
}

fn guarded<R>(runtime: &Runtime, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let done = within(|| {
        let _context = runtime.enter();
        catch_unwind(AssertUnwindSafe(work))
    });
    done.unwrap_or_else(|panic| Err(DataFusionError::Execution(panicked(&*panic).message().to_owned())))
}
