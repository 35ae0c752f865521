//! A message's bytes as the list of buffers that they are.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use jetbridge_cache::scan::Charge;

use super::flow::Flow;

/// Buffers that follow each other; reading them goes from one to the next, and a vectored write takes several at once.
/// None is empty.
#[derive(Debug, Default)]
pub struct Buffers {
    list: VecDeque<Bytes>,
    /// Bytes of all of them.
    remaining: usize,
    /// What they are charged to, until the last of them has left.
    charge: Charge,
    /// Where they count as queued.
    flow: Option<Arc<Flow>>,
}

impl Buffers {
    /// Puts a buffer at the end.
    pub(super) fn push(&mut self, buffer: Bytes) {
        if !buffer.is_empty() {
            self.remaining += buffer.len();
            self.list.push_back(buffer);
        }
    }

    /// The same buffers, charged to `charge`.
    pub(super) fn charged(mut self, charge: Charge) -> Self {
        self.charge = charge;
        self
    }

    /// The same buffers, queued in `flow` until they leave.
    pub(super) fn queued(mut self, flow: &Arc<Flow>) -> Self {
        flow.queue(self.remaining);
        self.flow = Some(Arc::clone(flow));
        self
    }

    /// The buffers in order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.list.iter()
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if let Some(flow) = &self.flow {
            flow.leave(self.remaining);
        }
    }
}

impl From<Bytes> for Buffers {
    fn from(bytes: Bytes) -> Self {
        let mut buffers = Self::default();
        buffers.push(bytes);
        buffers
    }
}

impl Buf for Buffers {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.list.front().map_or(&[], Bytes::as_ref)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "advanced beyond the end");
        self.remaining -= count;
        if let Some(flow) = &self.flow {
            flow.leave(count);
        }
        while count > 0
            && let Some(first) = self.list.front_mut()
        {
            let part = count.min(first.len());
            first.advance(part);
            count -= part;
            if first.is_empty() {
                self.list.pop_front();
            }
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = self.list.iter().zip(slices.iter_mut());
        filled.map(|(buffer, slice)| *slice = IoSlice::new(buffer)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However it is taken, what comes is the buffers one after the other.
        #[test]
        fn reads_as_one(lengths in prop::collection::vec(0usize..50, 0..8), step in 1usize..70) {
            let mut buffers = Buffers::default();
            let mut expected = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes = vec![u8::try_from(number).unwrap(); length];
                expected.extend_from_slice(&bytes);
                buffers.push(bytes.into());
            }
            let mut read = Vec::new();
            while buffers.has_remaining() {
                prop_assert_eq!(buffers.remaining(), expected.len() - read.len());
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = buffers.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert!(seen.starts_with(buffers.chunk()) && !seen.is_empty());
                let taken = step.min(seen.len());
                read.extend_from_slice(&seen[..taken]);
                buffers.advance(taken);
            }
            prop_assert_eq!(read, expected);
        }
    }
}
