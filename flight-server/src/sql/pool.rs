//! The memory of queries: what each may hold, what all may hold, and the node's byte budget that it comes from.
//!
//! ```text
//! operator --> QueryPool (one query: fair among those that can spill) --> SharedPool (all queries) --> Budget (the node)
//! ```
//! The budget is asked in steps, so that not every hash table that grows by a kilobyte asks it; a step is given back when it
//! has been free for a while, or at once when no query holds anything. Caches give way to queries as they do to scans.
//!
//! What an operator takes without asking (some must, by a batch) is counted, and what is over the bound is refused to the
//! next that asks.

use std::fmt;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use jetbridge_cache::budget::{Budget, Purpose, Reservation};
use parking_lot::Mutex;

/// Bytes that the budget is asked for at once.
const STEP_BYTES: u64 = 8 << 20;

/// What all queries hold.
#[derive(Debug)]
pub(super) struct SharedPool {
    limit_bytes: u64,
    budget: Budget,
    state: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    used_bytes: u64,
    /// Covers what is used, but for what was taken without asking.
    reserved: Vec<Reservation>,
    reserved_bytes: u64,
}

impl SharedPool {
    /// A pool of so many bytes of the budget.
    pub(super) fn new(limit_bytes: u64, budget: Budget) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            budget,
            state: Mutex::default(),
        })
    }

    /// Bytes held now.
    pub(super) fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes
    }

    fn try_take(&self, bytes: u64) -> Result<(), String> {
        let mut held = self.state.lock();
        let wanted = held.used_bytes.saturating_add(bytes);
        if wanted > self.limit_bytes {
            let free = self.limit_bytes.saturating_sub(held.used_bytes);
            return Err(format!(
                "{bytes} bytes, and of the {} of all queries {free} are free",
                self.limit_bytes
            ));
        }
        if !held.cover(wanted, &self.budget, self.limit_bytes) {
            return Err(format!("{bytes} bytes, which the memory budget has not"));
        }
        held.used_bytes = wanted;
        Ok(())
    }

    fn take(&self, bytes: u64) {
        let mut held = self.state.lock();
        held.used_bytes = held.used_bytes.saturating_add(bytes);
        let wanted = held.used_bytes;
        // What the budget has not is held all the same, and counted here.
        held.cover(wanted, &self.budget, self.limit_bytes);
    }

    fn give_back(&self, bytes: u64) {
        let mut held = self.state.lock();
        held.used_bytes = held.used_bytes.saturating_sub(bytes);
        held.shrink();
    }
}

impl Held {
    /// Whether `bytes` are reserved, after asking for more.
    fn cover(&mut self, bytes: u64, budget: &Budget, limit_bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.reserved_bytes);
        if missing == 0 {
            return true;
        }
        let room = limit_bytes.saturating_sub(self.reserved_bytes);
        let step = missing.max(STEP_BYTES.min(room));
        let taken = budget
            .take(step, Purpose::Queries)
            .or_else(|| budget.take(missing, Purpose::Queries));
        let Some(taken) = taken else { return false };
        self.reserved_bytes += taken.bytes();
        self.reserved.push(taken);
        true
    }

    /// Gives back steps that two others' worth of free bytes make needless.
    fn shrink(&mut self) {
        let spare = if self.used_bytes == 0 { 0 } else { 2 * STEP_BYTES };
        while let Some(last) = self.reserved.last()
            && self.reserved_bytes - last.bytes() >= self.used_bytes.saturating_add(spare)
        {
            self.reserved_bytes -= last.bytes();
            self.reserved.pop();
        }
    }
}

/// What one query holds.
#[derive(Debug)]
pub(super) struct QueryPool {
    own: FairSpillPool,
    limit_bytes: usize,
    shared: Arc<SharedPool>,
}

impl QueryPool {
    /// A pool of so many bytes, of what all may hold.
    pub(super) fn new(limit_bytes: u64, shared: Arc<SharedPool>) -> Self {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self {
            own: FairSpillPool::new(limit_bytes),
            limit_bytes,
            shared,
        }
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.shared.take(to_u64(additional));
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.shared.give_back(to_u64(shrink));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::common::Result<()> {
        let name = reservation.consumer().name();
        self.own.try_grow(reservation, additional).map_err(|_| {
            DataFusionError::ResourcesExhausted(format!(
                "{name} asked for {additional} bytes more, and one query may hold {}",
                self.limit_bytes
            ))
        })?;
        self.shared.try_take(to_u64(additional)).map_err(|why| {
            self.own.shrink(reservation, additional);
            DataFusionError::ResourcesExhausted(format!("{name} asked for {why}"))
        })
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.own.reserved(), self.limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn pools(budget_mib: usize, all_mib: usize, query_mib: usize) -> (Budget, Arc<SharedPool>, Arc<dyn MemoryPool>) {
        let budget = Budget::new(to_u64(budget_mib * MIB));
        let shared = SharedPool::new(to_u64(all_mib * MIB), budget.clone());
        let query = QueryPool::new(to_u64(query_mib * MIB), Arc::clone(&shared));
        (budget, shared, Arc::new(query))
    }

    #[test]
    fn a_query_has_its_bound_and_all_have_theirs() {
        let (_, shared, one) = pools(1000, 50, 40);
        let other: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(to_u64(40 * MIB), Arc::clone(&shared)));
        let (mine, theirs) = (
            MemoryConsumer::new("a").register(&one),
            MemoryConsumer::new("b").register(&other),
        );
        mine.try_grow(30 * MIB).unwrap();
        let error = mine.try_grow(11 * MIB).unwrap_err().to_string();
        assert!(error.contains("one query may hold"), "{error}");
        let error = theirs.try_grow(30 * MIB).unwrap_err().to_string();
        assert!(error.contains("of all queries"), "{error}");
        theirs.try_grow(20 * MIB).unwrap();
        drop(mine);
        theirs.try_grow(20 * MIB).unwrap();
        assert_eq!(shared.used_bytes(), to_u64(40 * MIB));
    }

    #[test]
    fn what_is_held_comes_out_of_the_budget_and_goes_back() {
        let (budget, shared, pool) = pools(100, 90, 90);
        let held = MemoryConsumer::new("a").register(&pool);
        held.try_grow(50 * MIB).unwrap();
        assert!(budget.used_bytes(Purpose::Queries) >= to_u64(50 * MIB));
        let scans = budget.take(to_u64(40 * MIB), Purpose::Scans).unwrap();
        let error = held.try_grow(30 * MIB).unwrap_err().to_string();
        assert!(error.contains("memory budget"), "{error}");
        held.shrink(45 * MIB);
        assert!(budget.used_bytes(Purpose::Queries) <= to_u64(60 * MIB));
        drop(held);
        assert_eq!((budget.used_bytes(Purpose::Queries), shared.used_bytes()), (0, 0));
        drop(scans);
    }

    #[test]
    fn what_is_taken_without_asking_counts() {
        let (_, shared, pool) = pools(100, 10, 10);
        let held = MemoryConsumer::new("a").register(&pool);
        held.grow(20 * MIB);
        assert_eq!(shared.used_bytes(), to_u64(20 * MIB));
        held.try_grow(1).unwrap_err();
        drop(held);
        assert_eq!(shared.used_bytes(), 0);
    }
}
