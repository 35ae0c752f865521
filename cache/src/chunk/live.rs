//! Which live segment an address belongs to.
//!
//! Arrow's buffers do not tell who owns their memory. Whoever hands a cached array to another process has to know, so
//! segments are listed here by where they are mapped, from the moment that they are until just before they are not.
//!
//! Lock order: the lock here is held for a look-up alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use arrow::buffer::Buffer;
use parking_lot::RwLock;

use super::segment::Segment;
use crate::key::to_u64;

/// The segments that are mapped, by their first address. Cheap to clone; clones are one list.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveSegments(Arc<RwLock<BTreeMap<usize, Weak<Segment>>>>);

impl LiveSegments {
    /// Lists a segment; it takes itself off when it is dropped.
    pub(super) fn add(&self, segment: &Arc<Segment>) {
        self.0.write().insert(segment.address(), Arc::downgrade(segment));
    }

    /// Takes the segment at an address off the list. To be called before its memory is given back: the next segment may be
    /// mapped at the same address at once.
    pub(super) fn remove(&self, address: usize) {
        self.0.write().remove(&address);
    }

    /// The segment that all bytes of a buffer are in, and where in it they begin. None for an empty buffer.
    pub(crate) fn of(&self, buffer: &Buffer) -> Option<(Arc<Segment>, u64)> {
        if buffer.is_empty() {
            return None;
        }
        let address = buffer.as_ptr() as usize;
        let segment = self.0.read().range(..=address).next_back()?.1.upgrade()?;
        let offset = address - segment.address();
        // What lives at this address is the buffer's memory, so a segment that is listed here is its owner.
        let within = offset
            .checked_add(buffer.len())
            .is_some_and(|end| end <= segment.bytes());
        within.then(|| (segment, to_u64(offset)))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.read().len()
    }
}
