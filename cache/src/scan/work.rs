//! Work that goes on beside its reader, in a task of its own; what is at hand is done before that.
//!
//! Why at once: a batch that is held is a few references. Two tasks on the way to it, which other threads take up, cost several
//! times as long as it does.

use futures::FutureExt;
use tokio_util::task::AbortOnDropHandle;

use crate::error::ReadError;
use crate::pool::guarded;

/// Some work. Dropped, it ends.
#[derive(Debug)]
pub(super) enum Work {
    /// It is over, and this is how it ended.
    Over(Result<(), ReadError>),
    Running(AbortOnDropHandle<()>),
}

impl Work {
    /// Begins it in a task.
    pub(super) fn begin(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Running(AbortOnDropHandle::new(tokio::spawn(work)))
    }

    /// Goes on with it here for as long as it waits for nothing, and then in a task.
    pub(super) fn begin_here(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut work = Box::pin(work);
        match guarded(|| work.as_mut().now_or_never()) {
            Ok(Some(())) => Self::Over(Ok(())),
            Ok(None) => Self::begin(work),
            Err(death) => Self::Over(Err(died(&death.to_string()))),
        }
    }

    /// Waits until it is over.
    ///
    /// # Errors
    /// That it died: whoever waits for what it gives must not take that for its end.
    pub(super) async fn outcome(&mut self) -> Result<(), ReadError> {
        match self {
            Self::Over(outcome) => outcome.clone(),
            Self::Running(task) => task.await.map_err(|death| died(&death.to_string())),
        }
    }
}

fn died(how: &str) -> ReadError {
    ReadError::internal(format!("a part of the scan died: {how}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_nothing_is_done_at_once() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&done);
        let mut work = Work::begin_here(async move {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        work.outcome().await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_goes_on_in_a_task() {
        let (go, done) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (going, counted) = (Arc::clone(&go), Arc::clone(&done));
        let mut work = Work::begin_here(async move {
            counted.fetch_add(1, Ordering::Relaxed);
            going.notified().await;
            counted.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        go.notify_one();
        work.outcome().await.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_dies_says_so_wherever_it_does() {
        let mut here = Work::begin_here(async { panic!("of bad luck") });
        let mut later = Work::begin_here(async {
            tokio::task::yield_now().await;
            panic!("of bad luck")
        });
        for work in [&mut here, &mut later] {
            let error = work.outcome().await.unwrap_err().to_string();
            assert!(error.contains("of bad luck"), "{error}");
        }
    }
}
