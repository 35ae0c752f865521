//! Bytes that were received and not yet taken.
//!
//! A stream asks before it reads a body. Where streams are read in order, those that are not first in turn leave a quarter of
//! the budget to the one that is, which may always have one batch in any case: it is the one that everybody waits for.
//!
//! Whoever waits for room goes on handing out what it has: that may be the room that it waits for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::fork::Mutex;

/// A part of the budget that is kept for the endpoint that is next in turn.
const RESERVED_PARTS: u64 = 4;
/// What a batch costs at the least, so that their number is bounded too.
const SMALLEST_BYTES: u64 = 4 << 10;

/// The budget of one reader.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    taken: Mutex<Taken>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    /// The position whose batches are handed out now; none where they go out as they come.
    turn: Option<usize>,
    /// Batches that are not handed out, by position.
    held: HashMap<usize, usize>,
}

/// An endpoint's way to the budget.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) budget: Arc<Budget>,
    pub(crate) position: usize,
}

/// A batch's share; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<Budget>,
    position: usize,
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes; `in_order`: batches are handed out by position, from 0.
    pub(crate) fn new(limit_bytes: u64, in_order: bool) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            taken: Mutex::new(Taken {
                turn: in_order.then_some(0),
                ..Taken::default()
            }),
            changed: Notify::new(),
        })
    }

    /// Waits until there is room for a batch of the endpoint at `position`.
    pub(crate) async fn take(self: &Arc<Self>, position: usize, bytes: usize) -> Lease {
        let bytes = cost(bytes);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(lease) = self.try_take(position, bytes) {
                return lease;
            }
            changed.await;
        }
    }

    fn try_take(self: &Arc<Self>, position: usize, bytes: u64) -> Option<Lease> {
        let mut taken = self.taken.lock();
        let in_turn = taken.turn == Some(position);
        let limit = if taken.turn.is_none() || in_turn {
            self.limit_bytes
        } else {
            self.limit_bytes - self.limit_bytes / RESERVED_PARTS
        };
        let needs_one = match taken.turn {
            Some(_) => in_turn && !taken.held.contains_key(&position),
            None => taken.bytes == 0,
        };
        if !needs_one && taken.bytes.saturating_add(bytes) > limit {
            return None;
        }
        taken.bytes = taken.bytes.saturating_add(bytes);
        *taken.held.entry(position).or_default() += 1;
        Some(Lease {
            budget: Arc::clone(self),
            position,
            bytes,
        })
    }

    /// From here on the endpoint at `position` is next in turn.
    pub(crate) fn turn_to(&self, position: usize) {
        self.taken.lock().turn = Some(position);
        self.changed.notify_waiters();
    }

    /// Bytes that may be taken.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken.lock().bytes
    }
}

impl Turn {
    /// Waits until there is room for a batch.
    pub(crate) async fn take(&self, bytes: usize) -> Lease {
        self.budget.take(self.position, bytes).await
    }
}

impl Lease {
    /// The batch turned out to be larger. That is not waited for, since what it waits for may be waiting for it.
    pub(crate) fn grow_to(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let more = bytes.saturating_sub(self.bytes);
        let mut taken = self.budget.taken.lock();
        taken.bytes = taken.bytes.saturating_add(more);
        self.bytes += more;
    }

    /// It has no more than so many bytes from here on.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(cost(bytes));
        let mut taken = self.budget.taken.lock();
        taken.bytes = taken.bytes.saturating_sub(less);
        drop(taken);
        self.bytes -= less;
        self.budget.changed.notify_waiters();
    }

    /// So many of its bytes, as a lease of their own. What it has not got is not waited for either.
    #[must_use]
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = cost(bytes);
        let moved = self.bytes.min(bytes);
        let mut taken = self.budget.taken.lock();
        taken.bytes = taken.bytes.saturating_add(bytes - moved);
        *taken.held.entry(self.position).or_default() += 1;
        drop(taken);
        self.bytes -= moved;
        Self {
            budget: Arc::clone(&self.budget),
            position: self.position,
            bytes,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut taken = self.budget.taken.lock();
        taken.bytes = taken.bytes.saturating_sub(self.bytes);
        if let Entry::Occupied(mut held) = taken.held.entry(self.position) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        drop(taken);
        self.budget.changed.notify_waiters();
    }
}

/// What a batch of so many bytes costs.
fn cost(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).max(SMALLEST_BYTES)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    fn now(budget: &Arc<Budget>, position: usize, bytes: usize) -> Option<Lease> {
        budget.take(position, bytes).now_or_never()
    }

    #[tokio::test]
    async fn as_they_come_no_more_is_taken_than_the_budget_but_for_one_batch() {
        let budget = Budget::new(4 * 1024 * 1024, false);
        let too_large = now(&budget, 3, 9 * MIB).unwrap();
        assert!(now(&budget, 0, 1).is_none());
        drop(too_large);
        let leases: Vec<_> = (0..4).map(|position| now(&budget, position, MIB).unwrap()).collect();
        assert!(now(&budget, 0, MIB).is_none());
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.take(0, MIB).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(leases);
        drop(waiting.await.unwrap());
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn in_order_the_one_in_turn_always_goes_on() {
        let budget = Budget::new(4 * 1024 * 1024, true);
        let ahead: Vec<_> = (1..4).map(|position| now(&budget, position, MIB).unwrap()).collect();
        assert!(now(&budget, 4, MIB).is_none(), "the last quarter is kept for the first");
        let first = now(&budget, 0, 9 * MIB).unwrap();
        assert!(
            now(&budget, 0, MIB).is_none(),
            "one more than the budget, and no second"
        );
        drop(first);
        let second = now(&budget, 0, MIB).unwrap();
        budget.turn_to(1);
        assert!(now(&budget, 1, MIB).is_none(), "it holds one already");
        drop(second);
        assert!(now(&budget, 1, MIB).is_some());
        drop(ahead);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn what_grows_is_counted_and_given_back() {
        let budget = Budget::new(8 << 20, false);
        let mut lease = now(&budget, 0, MIB).unwrap();
        lease.grow_to(6 * MIB);
        lease.grow_to(MIB);
        assert_eq!(budget.taken_bytes(), 6 << 20);
        assert!(now(&budget, 1, 3 * MIB).is_none());
        drop(lease);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_split_is_counted_once_and_given_back_piece_by_piece() {
        let budget = Budget::new(8 << 20, true);
        let mut whole = now(&budget, 0, 4 * MIB).unwrap();
        let part = whole.split(MIB);
        assert_eq!(budget.taken_bytes(), 4 << 20, "it was there already");
        whole.shrink_to(MIB);
        assert_eq!(budget.taken_bytes(), 2 << 20);
        whole.shrink_to(2 * MIB);
        assert_eq!(budget.taken_bytes(), 2 << 20, "it does not grow");
        drop(whole);
        assert_eq!(budget.taken_bytes(), 1 << 20);
        assert!(now(&budget, 0, 9 * MIB).is_none(), "the part is one that is held");
        drop(part);
        assert!(now(&budget, 0, 9 * MIB).is_some());
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn more_than_there_is_can_be_split() {
        let budget = Budget::new(8 << 20, false);
        let mut whole = now(&budget, 0, MIB).unwrap();
        let parts = [whole.split(3 * MIB), whole.split(0)];
        assert_eq!(budget.taken_bytes(), (3 << 20) + SMALLEST_BYTES);
        drop(whole);
        assert_eq!(budget.taken_bytes(), (3 << 20) + SMALLEST_BYTES);
        drop(parts);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_that_a_lease_shrank() {
        let budget = Budget::new(4 << 20, false);
        let mut large = now(&budget, 0, 4 * MIB).unwrap();
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.take(1, MIB).await }
        });
        tokio::task::yield_now().await;
        large.shrink_to(3 * MIB);
        drop((waiting.await.unwrap(), large));
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn a_batch_of_nothing_costs_something() {
        let budget = Budget::new(8192, false);
        let _leases = [now(&budget, 0, 0).unwrap(), now(&budget, 0, 0).unwrap()];
        assert!(now(&budget, 0, 0).is_none());
    }
}
