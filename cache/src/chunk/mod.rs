//! The chunk tier: decoded columns, ready to be sent.
//!
//! A chunk is one column of one row group of one generation of a file, as Arrow arrays cut into strides of equal row
//! count. Chunks are canonical when they are put: nothing sliced, no null buffer where nothing is null, views compacted.
//! So any projection is put together from chunks by reference, and what is sent is what is kept.
//!
//! The tier is a cache and nothing rests on it: a chunk that is refused or lost is decoded again.

pub mod memory;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef};

use crate::key::{FileId, RowGroup};

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

/// One decoded column of one row group.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The arrays, in row order.
    pub strides: Arc<[ArrayRef]>,
    /// Bytes of the buffers that they hold, each counted once.
    pub bytes: u64,
}

/// What a chunk tier does.
pub trait ChunkStore: Send + Sync + std::fmt::Debug {
    /// The chunk, where it is held.
    fn get(&self, key: &ChunkKey) -> Option<Chunk>;

    /// Whether the chunk is held, without touching it.
    fn contains(&self, key: &ChunkKey) -> bool;

    /// Whether a chunk of about this many bytes is worth putting together: whether it fits, and was asked for before.
    ///
    /// Each call counts as a touch of the key.
    fn admits(&self, key: &ChunkKey, bytes: u64) -> bool;

    /// Takes a chunk in; the store may drop it.
    fn put(&self, key: ChunkKey, chunk: Chunk);

    /// Drops what is held of this file.
    fn remove_file(&self, file: FileId);

    /// Bytes held now.
    fn bytes(&self) -> u64;
}

impl Chunk {
    /// A chunk of these strides.
    pub(crate) fn new(strides: Vec<ArrayRef>) -> Self {
        let mut seen = HashSet::new();
        let bytes = strides
            .iter()
            .map(|stride| held_bytes(&stride.to_data(), &mut seen))
            .sum();
        Self {
            strides: strides.into(),
            bytes,
        }
    }
}

/// Bytes of the buffers of an array that are not in `seen` yet: strides may share a dictionary.
fn held_bytes(data: &ArrayData, seen: &mut HashSet<usize>) -> u64 {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    let own = data.buffers().iter().chain(nulls);
    let fresh = own
        .filter(|buffer| seen.insert(buffer.data_ptr().as_ptr() as usize))
        .map(|buffer| buffer.capacity());
    let own: usize = fresh.collect::<Vec<_>>().into_iter().sum();
    let children: u64 = data.child_data().iter().map(|child| held_bytes(child, seen)).sum();
    u64::try_from(own).unwrap_or(u64::MAX).saturating_add(children)
}
