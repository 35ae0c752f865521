//! Who holds which segment.
//!
//! ```text
//! unknown -- refer --> leased, known -- done --> leased, not referred to again in this stream -- release --> unknown
//! ```
//! A lease keeps its segment in memory and charged to the cache's budget, whatever the cache evicts meanwhile. It ends when the
//! client releases it, or when its connection ends, however that ends.
//!
//! The number that a client knows a segment by is used once a connection: a client may release a number that is done while the
//! server hands the same memory over anew, and then both must be able to tell which of the two is meant.
//!
//! Lock order: a holder's state before the leases' state; segments are dropped with neither held.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jetbridge_cache::chunk::Segment;
use jetbridge_cache::gauge;
use parking_lot::Mutex;

use super::wire::SegmentId;

/// What all connections hold, and may hold.
#[derive(Debug)]
pub(super) struct Leases {
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many leases each segment has.
    counts: HashMap<u64, usize>,
    /// Bytes of the segments that have any.
    bytes: u64,
}

impl Leases {
    /// Leases of up to `limit_bytes` in all, each segment counted once.
    pub(super) fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            state: Mutex::default(),
        })
    }

    /// A lease of a segment, unless that is beyond the limit.
    fn take(self: &Arc<Self>, segment: Arc<Segment>) -> Option<Lease> {
        let bytes = to_u64(segment.bytes());
        let mut state = self.state.lock();
        if !state.counts.contains_key(&segment.id()) {
            let total = state
                .bytes
                .checked_add(bytes)
                .filter(|total| *total <= self.limit_bytes)?;
            state.bytes = total;
            metrics::gauge!("jetbridge_memory_leased_bytes").increment(gauge(bytes));
        }
        *state.counts.entry(segment.id()).or_default() += 1;
        Some(Lease {
            segment,
            of: Arc::clone(self),
        })
    }

    fn give_back(&self, segment: &Segment) {
        let mut state = self.state.lock();
        let Some(count) = state.counts.get_mut(&segment.id()) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            state.counts.remove(&segment.id());
            let bytes = to_u64(segment.bytes());
            state.bytes = state.bytes.saturating_sub(bytes);
            metrics::gauge!("jetbridge_memory_leased_bytes").decrement(gauge(bytes));
        }
    }

    /// Bytes that are leased now.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }
}

/// A segment that a client holds.
#[derive(Debug)]
struct Lease {
    segment: Arc<Segment>,
    of: Arc<Leases>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.of.give_back(&self.segment);
    }
}

/// What one connection holds.
#[derive(Debug)]
pub(super) struct Holder {
    leases: Arc<Leases>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last_id: i64,
    leases: HashMap<SegmentId, Lease>,
    /// The number by which a segment may be referred to, by the segment's own.
    known: HashMap<u64, SegmentId>,
    /// What the last batch of the stream under way used.
    used: HashSet<SegmentId>,
}

/// A segment as a batch refers to it.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) id: SegmentId,
    /// The segment, where it has to be handed over first.
    pub(super) new: Option<Arc<Segment>>,
}

impl Holder {
    /// A connection that holds nothing.
    pub(super) fn new(leases: &Arc<Leases>) -> Self {
        Self {
            leases: Arc::clone(leases),
            held: Mutex::default(),
        }
    }

    /// Begins a stream: what the client has not released until now it keeps, so that all of it may be referred to.
    pub(super) fn begin_stream(&self) {
        let mut held = self.held.lock();
        held.used.clear();
        let known = held
            .leases
            .iter()
            .map(|(id, lease)| (lease.segment.id(), *id))
            .collect();
        held.known = known;
    }

    /// How the next batch refers to a segment; none where that is beyond the limit of all leases.
    pub(super) fn refer(&self, segment: &Arc<Segment>) -> Option<Reference> {
        let mut held = self.held.lock();
        if let Some(id) = held.known.get(&segment.id()) {
            return Some(Reference { id: *id, new: None });
        }
        let lease = self.leases.take(Arc::clone(segment))?;
        held.last_id += 1;
        let id = SegmentId(held.last_id);
        held.leases.insert(id, lease);
        held.known.insert(segment.id(), id);
        Some(Reference {
            id,
            new: Some(Arc::clone(segment)),
        })
    }

    /// Says what a batch uses, and gives what batches before it used and the rest of the stream will not.
    pub(super) fn used(&self, used: HashSet<SegmentId>) -> Vec<SegmentId> {
        let mut held = self.held.lock();
        let done: Vec<_> = held.used.difference(&used).copied().collect();
        for id in &done {
            held.forget(*id);
        }
        held.used = used;
        done
    }

    /// Lets go of what the client says that it does not hold any more; numbers that mean nothing are passed over.
    pub(super) fn release(&self, ids: &[SegmentId]) {
        let mut held = self.held.lock();
        let released: Vec<Lease> = ids
            .iter()
            .filter_map(|id| {
                held.forget(*id);
                held.leases.remove(id)
            })
            .collect();
        drop(held);
        drop(released);
    }
}

impl Held {
    /// Makes sure that no batch refers to this number again.
    fn forget(&mut self, id: SegmentId) {
        if let Some(lease) = self.leases.get(&id)
            && self.known.get(&lease.segment.id()) == Some(&id)
        {
            self.known.remove(&lease.segment.id());
        }
    }
}

/// A length in memory as one on the wire: lossless on every platform that Rust has.
pub(super) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
