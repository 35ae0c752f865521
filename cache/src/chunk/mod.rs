//! The chunk tier: decoded columns, ready to be sent.
//!
//! A chunk is one column of one row group of one generation of a file, as Arrow arrays cut into strides of equal row
//! count. Chunks are canonical when they are put: nothing sliced, no null buffer where nothing is null, views compacted.
//! So any projection is put together from chunks by reference, and what is sent is what is kept.
//!
//! The tier is a cache and nothing rests on it: a chunk that is refused or lost is decoded again.

mod live;
mod runs;
mod segment;
mod tier;

use std::sync::Arc;

use arrow::array::ArrayRef;
use xxhash_rust::xxh3::xxh3_64;

use self::runs::Runs;
pub(crate) use self::runs::{ChunkRuns, RUN_STRIDES};
pub use self::segment::Segment;
pub use self::tier::ChunkTier;
use crate::budget::Reservation;
use crate::key::{FileId, FileKey, RowGroup};
use crate::policy::Offer;
use crate::retention::Terms;

/// Which chunk: the identity of the file includes its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The file, in the generation that was read.
    pub file: FileId,
    /// The row group within the file.
    pub row_group: RowGroup,
    /// The root column's position in the file's schema.
    pub column: u32,
    /// Hash of the leaf columns that were decoded: a struct read in part is another chunk than the whole.
    pub leaves: u64,
}

impl ChunkKey {
    /// All of it in 64 bits.
    pub(crate) fn hash(&self) -> u64 {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.file.as_u128().to_le_bytes());
        bytes[16..20].copy_from_slice(&self.row_group.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.column.to_le_bytes());
        bytes[24..].copy_from_slice(&self.leaves.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// One decoded column of one row group.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The arrays, in row order.
    pub strides: Arc<[ArrayRef]>,
    /// The same rows in fewer arrays; none where strides do not lie one after the other.
    runs: Option<Arc<Runs>>,
    /// Bytes of the buffers that they hold, each counted once, and of bitmaps of those without nulls.
    pub bytes: u64,
}

/// A chunk that a read would look for, before anything is decided about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought {
    pub(crate) key: ChunkKey,
    /// What holds for its file.
    pub(crate) terms: Terms,
    /// Bytes that it takes decoded, about.
    pub(crate) decoded_bytes: u64,
    /// Bytes that it has in its file.
    pub(crate) stored_bytes: u64,
    /// It is to be decoded behind all else, so that nobody need read it for that.
    pub(crate) comes_later: bool,
}

/// Room for a chunk that is on its way.
#[derive(Debug)]
pub struct Place {
    key: ChunkKey,
    file: FileKey,
    offer: Offer,
    /// Bytes that it was expected to take.
    bytes: u64,
    reservation: Option<Reservation>,
    /// None once it is filled.
    store: Option<ChunkTier>,
}

impl Place {
    /// Which chunk it is for.
    #[must_use]
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Bytes that the chunk was expected to take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps the chunk of these strides, and gives it; the strides as they are, where they cannot be kept after all.
    #[must_use]
    pub fn fill(self, strides: Vec<ArrayRef>) -> Chunk {
        match self.store.clone() {
            Some(store) => store.fill(self, strides),
            None => Chunk::new(strides, 0),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.vacate(&self.key);
        }
    }
}

impl Chunk {
    /// A chunk of these strides, which hold `bytes` in all.
    fn new(strides: Vec<ArrayRef>, bytes: u64) -> Self {
        Self {
            strides: strides.into(),
            runs: None,
            bytes,
        }
    }

    /// The rows, so many strides in each array where a run of [`RUN_STRIDES`] has no fewer left; none where strides do not lie
    /// one after the other, or there is no memory for the offsets of their texts. No other value is copied.
    pub(crate) fn in_runs(&self, strides: usize) -> Option<ChunkRuns> {
        ChunkRuns::new(Arc::clone(self.runs.as_ref()?), Arc::clone(&self.strides), strides)
    }
}
