//! Chunks in this process's memory.
//!
//! A chunk is admitted on its second touch: a table that is scanned once leaves nothing behind, and the scan does not
//! pay for keeping it. Touches are remembered by key alone, in a bounded set.
//!
//! Why moka: it evicts by recency and frequency, weighs entries, and readers do not wait for one another. It weighs with
//! 32 bits, so weights are in KiB.

use moka::sync::Cache as MokaCache;

use super::{Chunk, ChunkKey, ChunkStore};
use crate::key::FileId;

/// Chunks in memory, up to a number of bytes.
#[derive(Debug)]
pub struct MemoryChunks {
    chunks: MokaCache<ChunkKey, Chunk>,
    touched: MokaCache<ChunkKey, ()>,
    capacity_bytes: u64,
}

/// Bytes of one unit of weight.
const WEIGHT_BYTES: u64 = 1 << 10;
/// A chunk may take this part of the whole tier at most, so that one column does not drive out all others.
const LARGEST_SHARE: u64 = 4;
/// Keys whose first touch is remembered.
const TOUCHED_KEYS: u64 = 1 << 16;

impl MemoryChunks {
    /// An empty tier that holds up to `capacity_bytes`; 0 holds nothing.
    pub fn new(capacity_bytes: u64) -> Self {
        let weigh = |_: &ChunkKey, chunk: &Chunk| u32::try_from(chunk.bytes.div_ceil(WEIGHT_BYTES)).unwrap_or(u32::MAX);
        let chunks = MokaCache::builder()
            .max_capacity(capacity_bytes / WEIGHT_BYTES)
            .weigher(weigh)
            .support_invalidation_closures()
            .build();
        Self {
            chunks,
            touched: MokaCache::new(TOUCHED_KEYS),
            capacity_bytes,
        }
    }
}

impl ChunkStore for MemoryChunks {
    fn get(&self, key: &ChunkKey) -> Option<Chunk> {
        self.chunks.get(key)
    }

    fn contains(&self, key: &ChunkKey) -> bool {
        self.chunks.contains_key(key)
    }

    fn admits(&self, key: &ChunkKey, bytes: u64) -> bool {
        if bytes > self.capacity_bytes / LARGEST_SHARE {
            return false;
        }
        let second = self.touched.contains_key(key);
        self.touched.insert(*key, ());
        second
    }

    fn put(&self, key: ChunkKey, chunk: Chunk) {
        if chunk.bytes <= self.capacity_bytes / LARGEST_SHARE {
            self.chunks.insert(key, chunk);
        }
    }

    fn remove_file(&self, file: FileId) {
        // The closure is only refused where the builder did not ask for closures, which it did.
        let _ = self.chunks.invalidate_entries_if(move |key, _| key.file == file);
    }

    fn bytes(&self) -> u64 {
        self.chunks.run_pending_tasks();
        self.chunks.weighted_size() * WEIGHT_BYTES
    }
}
