//! How much queries may hold, how many run, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::ServiceError;

/// The bounds of all queries of a node. A statement that is no more than a scan of one dataset is none: it is answered with that
/// scan's endpoints, for which the bounds of streams hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlLimits {
    /// Bytes that all queries together may hold besides what the cache holds, within the node's byte budget.
    /// Default a quarter of it.
    pub memory_bytes: u64,
    /// Bytes that one query may hold. Default half of [`SqlLimits::memory_bytes`].
    pub query_memory_bytes: u64,
    /// Queries that run at once. Default 16.
    pub queries: usize,
    /// Queries that may wait for their turn; one more is UNAVAILABLE. Default 64.
    pub queue: usize,
    /// How long a query may take, its wait included. Default 10 minutes.
    pub timeout: Duration,
    /// Decoded bytes from which on a query is spread over the workers of a cluster. Default 16 MiB.
    pub spread_bytes: u64,
}

/// When a query has to be over, and by whose word before that.
#[derive(Debug, Clone)]
pub(super) struct Deadline {
    until: Instant,
    limit: Duration,
    cancel: CancellationToken,
}

impl Deadline {
    /// `limit` from now.
    pub(super) fn new(limit: Duration, cancel: CancellationToken) -> Self {
        Self {
            until: Instant::now() + limit,
            limit,
            cancel,
        }
    }

    /// What `work` gives, if it is done in time.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED, CANCELLED.
    pub(super) async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, ServiceError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(ServiceError::Cancelled { what: "the query".to_owned() }),
            done = timeout_at(self.until, work) => done.map_err(|_| ServiceError::Timeout {
                what: "the query".to_owned(),
                limit: self.limit,
            }),
        }
    }
}

/// Lets in so many queries at once, and has so many wait.
#[derive(Debug)]
pub(super) struct Admission {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    queries: usize,
    queue: usize,
}

impl Admission {
    /// An admission with the bounds of `limits`.
    pub(super) fn new(limits: &SqlLimits) -> Self {
        Self {
            running: Arc::new(Semaphore::new(limits.queries)),
            waiting: AtomicUsize::new(0),
            queries: limits.queries,
            queue: limits.queue,
        }
    }

    /// Queries that run now.
    pub(super) fn running(&self) -> usize {
        self.queries.saturating_sub(self.running.available_permits())
    }

    /// Queries that wait now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a turn, which lasts until the permit is dropped.
    ///
    /// # Errors
    /// UNAVAILABLE where too many wait already; those of [`Deadline::hold`].
    pub(super) async fn enter(&self, deadline: &Deadline) -> Result<OwnedSemaphorePermit, ServiceError> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting, self.queue).ok_or_else(|| ServiceError::Busy {
            what: format!(
                "{} queries run and {} wait, which are all that may",
                self.queries, self.queue
            ),
        })?;
        let permit = deadline.hold(Arc::clone(&self.running).acquire_owned()).await?;
        permit.map_err(|_| ServiceError::Busy {
            what: "the node is shutting down".to_owned(),
        })
    }
}

/// A place in the queue, given back when it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let room = |waiting| (waiting < most).then_some(waiting + 1);
        let taken = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        taken.ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn limits(queries: usize, queue: usize) -> SqlLimits {
        SqlLimits {
            memory_bytes: 1,
            query_memory_bytes: 1,
            queries,
            queue,
            timeout: Duration::from_secs(60),
            spread_bytes: 1,
        }
    }

    fn deadline(limit: Duration) -> Deadline {
        Deadline::new(limit, CancellationToken::new())
    }

    #[tokio::test]
    async fn those_beyond_the_queue_are_turned_away() {
        let admission = Arc::new(Admission::new(&limits(1, 1)));
        let long = deadline(Duration::from_secs(60));
        let first = admission.enter(&long).await.unwrap();
        let second = tokio::spawn({
            let (admission, long) = (Arc::clone(&admission), long.clone());
            async move { admission.enter(&long).await.map(drop) }
        });
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let third = admission.enter(&long).await.unwrap_err();
        assert_eq!(third.code(), Code::Unavailable);
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_or_is_cancelled_leaves_the_queue() {
        let admission = Admission::new(&limits(1, 5));
        let _running = admission.enter(&deadline(Duration::from_secs(60))).await.unwrap();
        let late = admission.enter(&deadline(Duration::from_millis(5))).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let cancelled = admission.enter(&Deadline::new(Duration::from_secs(60), cancel)).await;
        assert_eq!(cancelled.unwrap_err().code(), Code::Cancelled);
        assert_eq!(admission.waiting(), 0);
    }
}
