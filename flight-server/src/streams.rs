//! Streams of rows: how many may be open at once, and how long a client may leave one alone.
//!
//! One count for all ways out, Flight and shared memory alike: what a stream holds is the same for either.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ServiceError;

/// How long a client may take nothing before its scan is paused; half of the stall timeout where that is shorter. A pause costs
/// a row group that is read again, so it is longer than a step of training takes.
const PAUSE_AFTER: Duration = Duration::from_secs(10);

/// What streams may take.
#[derive(Debug, Clone)]
pub struct StreamLimits {
    /// How many may be open at once; a further one is UNAVAILABLE.
    pub max_streams: usize,
    /// How long a client may take nothing of what is ready for it; its stream is let go of then.
    pub stall_timeout: Duration,
}

/// The streams of a node. Clones share the places.
#[derive(Debug, Clone)]
pub struct Streams {
    limits: StreamLimits,
    /// One permit for each stream that may be open.
    places: Arc<Semaphore>,
}

impl Streams {
    /// No stream yet.
    #[must_use]
    pub fn new(limits: StreamLimits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.max_streams)),
            limits,
        }
    }

    /// The place of one more stream, until it is dropped.
    ///
    /// # Errors
    /// UNAVAILABLE where all are taken.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| ServiceError::Busy {
            what: format!(
                "{} streams of rows are open, which is the most (max_streams)",
                self.limits.max_streams
            ),
        })
    }

    /// How long a client may take nothing of what is ready for it.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.limits.stall_timeout
    }

    /// How long it may before its scan is paused.
    pub(crate) fn pause_after(&self) -> Duration {
        pause_after(self.limits.stall_timeout)
    }
}

/// When a scan is paused, of a stream with this stall timeout.
pub(crate) fn pause_after(stall_timeout: Duration) -> Duration {
    PAUSE_AFTER.min(stall_timeout / 2)
}
