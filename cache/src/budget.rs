//! The byte budget of a worker: one number for all that it holds in memory.
//!
//! ```text
//! capacity = pages in memory + decoded chunks + raw bytes and windows of scans + bytes queued to clients + queries + free
//! ```
//! What loads from storage take at most is set aside beforehand, and no part of the capacity.
//! Whoever takes memory that lasts, or much of it, reserves it first. A reservation that does not fit makes the caches
//! give way, in the order in which they registered: decoded chunks first, since decoding them again costs less than
//! fetching pages again. What even then does not fit waits for others to end, for a bounded time.
//!
//! Waiters are served in order, so that a large one is not overtaken for ever by small ones.
//!
//! Lock order: `queue` before `state`. Caches are asked with neither held, since what they drop comes back here.
//!
//! Why not moka's weights: they do not count what is being loaded, and overshoot. Why not tokio's semaphore alone: its
//! permits cannot be taken back from a cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

/// How long a reservation waits for others to end.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Raw pages kept in memory.
    Pages,
    /// Decoded column chunks.
    Chunks,
    /// Raw bytes and batches of scans that are under way.
    Scans,
    /// What queries hold besides: hash tables, sorted rows.
    Queries,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pages, Self::Chunks, Self::Scans, Self::Queries];

    /// The purpose in one word, as metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Chunks => "chunks",
            Self::Scans => "scans",
            Self::Queries => "queries",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Pages => 0,
            Self::Chunks => 1,
            Self::Scans => 2,
            Self::Queries => 3,
        }
    }
}

/// Why bytes were not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// More than there is in all.
    #[error(
        "{wanted_bytes} bytes are needed at once, and the memory budget has {capacity_bytes} for that; raise `memory`"
    )]
    TooLarge {
        /// How much was asked for.
        wanted_bytes: u64,
        /// The budget.
        capacity_bytes: u64,
    },
    /// Others held it for too long.
    #[error(
        "{wanted_bytes} bytes of the memory budget of {capacity_bytes} did not become free in {} s; other reads hold it",
        waited.as_secs()
    )]
    Busy {
        /// How much was asked for.
        wanted_bytes: u64,
        /// The budget.
        capacity_bytes: u64,
        /// How long was waited.
        waited: Duration,
    },
}

/// A cache that gives way: asked for bytes, it drops what it can spare.
pub trait Yielding: Send + Sync {
    /// Drops entries of at least so many bytes, where there are as many.
    fn give_way(&self, bytes: u64);
}

/// The budget. Cheap to clone; clones are one budget.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    capacity_bytes: u64,
    patience: Duration,
    state: Mutex<[u64; 4]>,
    freed: Notify,
    queue: tokio::sync::Mutex<()>,
    caches: RwLock<Vec<Arc<dyn Yielding>>>,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("capacity_bytes", &self.0.capacity_bytes)
            .field("used_bytes", &*self.0.state.lock())
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self::with_patience(capacity_bytes, RESERVE_TIMEOUT)
    }

    fn with_patience(capacity_bytes: u64, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            capacity_bytes,
            patience,
            state: Mutex::default(),
            freed: Notify::new(),
            queue: tokio::sync::Mutex::default(),
            caches: RwLock::default(),
        }))
    }

    /// Registers a cache that gives way; those registered first are asked first.
    pub fn register(&self, cache: Arc<dyn Yielding>) {
        self.0.caches.write().push(cache);
    }

    /// All there is, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.0.capacity_bytes
    }

    /// Bytes held for a purpose now.
    #[must_use]
    pub fn used_bytes(&self, purpose: Purpose) -> u64 {
        self.0.state.lock()[purpose.index()]
    }

    /// Takes bytes that are free, and asks nobody to give way.
    #[must_use]
    pub fn take_free(&self, bytes: u64, purpose: Purpose) -> Option<Reservation> {
        let mut used = self.0.state.lock();
        let total: u64 = used.iter().sum();
        (bytes <= self.0.capacity_bytes.saturating_sub(total)).then(|| {
            used[purpose.index()] += bytes;
            Reservation {
                budget: self.clone(),
                bytes,
                purpose,
            }
        })
    }

    /// Takes bytes now, for which caches give way; none where scans hold too much.
    #[must_use]
    pub fn take(&self, bytes: u64, purpose: Purpose) -> Option<Reservation> {
        if let Some(taken) = self.take_free(bytes, purpose) {
            return Some(taken);
        }
        if bytes > self.0.capacity_bytes {
            return None;
        }
        let caches = self.0.caches.read().clone();
        for cache in caches {
            let used: u64 = self.0.state.lock().iter().sum();
            let short = (used + bytes).saturating_sub(self.0.capacity_bytes);
            cache.give_way(short);
            if let Some(taken) = self.take_free(bytes, purpose) {
                return Some(taken);
            }
        }
        None
    }

    /// Takes bytes, and waits for others to end where that is what it takes.
    ///
    /// # Errors
    /// [`BudgetError::TooLarge`] for more than the whole budget, [`BudgetError::Busy`] after 30 s.
    pub async fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, BudgetError> {
        if bytes > self.0.capacity_bytes {
            return Err(self.refusal(bytes));
        }
        let waited = tokio::time::timeout(self.0.patience, self.wait(bytes, purpose)).await;
        waited.map_err(|_| BudgetError::Busy {
            wanted_bytes: bytes,
            capacity_bytes: self.0.capacity_bytes,
            waited: self.0.patience,
        })
    }

    /// Why [`Budget::take`] gave nothing.
    #[must_use]
    pub fn refusal(&self, bytes: u64) -> BudgetError {
        let capacity_bytes = self.0.capacity_bytes;
        if bytes > capacity_bytes {
            BudgetError::TooLarge {
                wanted_bytes: bytes,
                capacity_bytes,
            }
        } else {
            BudgetError::Busy {
                wanted_bytes: bytes,
                capacity_bytes,
                waited: Duration::ZERO,
            }
        }
    }

    async fn wait(&self, bytes: u64, purpose: Purpose) -> Reservation {
        let _turn = self.0.queue.lock().await;
        loop {
            let freed = self.0.freed.notified();
            if let Some(taken) = self.take(bytes, purpose) {
                return taken;
            }
            freed.await;
        }
    }
}

/// Bytes of the budget, given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
    purpose: Purpose,
}

impl Reservation {
    /// How many bytes these are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over the bytes of another reservation, of the same budget and purpose.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert_eq!(self.purpose, other.purpose, "bytes are counted by their purpose");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// So many of its bytes as a reservation of their own; fewer where it has fewer.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: self.budget.clone(),
            bytes,
            purpose: self.purpose,
        }
    }

    /// Gives back what is more than `bytes`; never grows.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.give_back(surplus, self.purpose);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes, self.purpose);
    }
}

impl Budget {
    fn give_back(&self, bytes: u64, purpose: Purpose) {
        if bytes > 0 {
            self.0.state.lock()[purpose.index()] -= bytes;
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cache {
        held: Mutex<Vec<Reservation>>,
    }

    impl Yielding for Cache {
        fn give_way(&self, bytes: u64) {
            let mut freed = 0;
            while freed < bytes {
                let Some(dropped) = self.held.lock().pop() else { return };
                freed += dropped.bytes();
            }
        }
    }

    fn cache(budget: &Budget, entries: u64, bytes: u64, purpose: Purpose) -> Arc<Cache> {
        let held = (0..entries)
            .map(|_| budget.take_free(bytes, purpose).unwrap())
            .collect();
        let cache = Arc::new(Cache { held: Mutex::new(held) });
        budget.register(Arc::clone(&cache) as Arc<dyn Yielding>);
        cache
    }

    #[test]
    fn decoded_gives_way_before_raw() {
        let budget = Budget::new(100);
        let chunks = cache(&budget, 4, 10, Purpose::Chunks);
        let pages = cache(&budget, 5, 10, Purpose::Pages);
        assert!(budget.take_free(11, Purpose::Scans).is_none());
        let scan = budget.take(30, Purpose::Scans).unwrap();
        assert_eq!((chunks.held.lock().len(), pages.held.lock().len()), (2, 5));
        let more = budget.take(40, Purpose::Scans).unwrap();
        assert_eq!((chunks.held.lock().len(), pages.held.lock().len()), (0, 3));
        assert!(
            budget.take(31, Purpose::Scans).is_none(),
            "what scans hold is not taken from them"
        );
        drop((scan, more));
        assert_eq!(budget.used_bytes(Purpose::Scans), 0);
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_in_order() {
        let budget = Budget::with_patience(100, Duration::from_secs(1));
        let held = budget.take(60, Purpose::Scans).unwrap();
        let error = budget.reserve(101, Purpose::Scans).await.unwrap_err();
        assert!(matches!(error, BudgetError::TooLarge { .. }));
        let error = budget.reserve(50, Purpose::Scans).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "50 bytes of the memory budget of 100 did not become free in 1 s; other reads hold it"
        );
        let large = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(50, Purpose::Scans).await.map(drop) }
        });
        tokio::task::yield_now().await;
        // It would fit, but the larger one came first.
        let small = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(10, Purpose::Scans).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!small.is_finished());
        drop(held);
        large.await.unwrap().unwrap();
        small.await.unwrap().unwrap();
    }

    #[test]
    fn a_reservation_shrinks_and_is_given_back() {
        let budget = Budget::new(10);
        let mut held = budget.take(10, Purpose::Chunks).unwrap();
        held.shrink_to(4);
        held.shrink_to(7);
        assert_eq!((held.bytes(), budget.used_bytes(Purpose::Chunks)), (4, 4));
        held.absorb(budget.take(3, Purpose::Chunks).unwrap());
        assert_eq!((held.bytes(), budget.used_bytes(Purpose::Chunks)), (7, 7));
        drop(held);
        assert!(budget.take(10, Purpose::Pages).is_some());
    }
}
