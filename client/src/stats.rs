//! What a read has done so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fork::Mutex;

/// Figures of one [`Reader`](crate::Reader), for progress bars and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Rows handed out.
    pub rows: u64,
    /// Bytes of the rows handed out, as they lie in memory.
    pub bytes: u64,
    /// Bytes that came over sockets, repeated ones included.
    pub received_bytes: u64,
    /// Endpoints that are read to their end.
    pub endpoints_done: u64,
    /// Times that an endpoint was gone on with at another place, or anew at the same one.
    pub failovers: u64,
    /// Endpoints read to their end, by the place that gave the last of them: `grpc://...`, `grpc+unix://...`, `unix://...` for
    /// shared memory.
    pub served_by: BTreeMap<String, u64>,
}

/// The figures while they grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) failovers: AtomicU64,
    served_by: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Counts a batch that is handed out.
    pub(crate) fn count(&self, rows: usize, bytes: usize) {
        let counted = |of: &AtomicU64, more| of.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
        counted(&self.rows, rows);
        counted(&self.bytes, bytes);
    }

    pub(crate) fn served_by(&self, place: String) {
        *self.served_by.lock().entry(place).or_default() += 1;
    }

    pub(crate) fn stats(&self) -> Stats {
        let served_by = self.served_by.lock().clone();
        Stats {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            endpoints_done: served_by.values().sum(),
            failovers: self.failovers.load(Ordering::Relaxed),
            served_by,
        }
    }
}
