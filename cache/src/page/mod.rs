//! The page tier: raw bytes of files, in pages of one size, by file version.
//!
//! ```text
//! PageTier ── hits ──────────── PageStore (memory)          tier, memory
//!     └─ missing pages ── runs ── flights ── Ufs::get_range  runs, flight
//! ```
//!
//! This file is the contract of what keeps pages; [`PageTier`] is the way in.

mod flight;
mod memory;
mod runs;
mod tier;

use bytes::Bytes;

pub use self::memory::MemoryPages;
pub use self::tier::{OpenFile, PageConfig, PageTier};
use crate::key::{FileId, PageIndex, Source};

/// Keeps pages, as many as it may. It never fails: what it cannot keep or cannot read back is a miss, and its own
/// metric. It may drop any page at any time, and a page that was just put too.
///
/// Threads: every method may be called from any thread at once, on an asynchronous one too, so none may block for long.
pub trait PageStore: Send + Sync {
    /// A page, whole; `None` when it is not held.
    fn get(&self, file: FileId, page: PageIndex) -> Option<Bytes>;

    /// Whether a page is held, without touching it.
    fn contains(&self, file: FileId, page: PageIndex) -> bool;

    /// Offers a page. It replaces one that is held. `bytes` may be a slice of something larger, which the store must
    /// not keep alive.
    fn put(&self, file: FileId, page: PageIndex, bytes: Bytes);

    /// Drops every page of a file version that was put before this call.
    fn remove_file(&self, file: FileId);

    /// How many bytes are held now.
    fn bytes(&self) -> u64;

    /// Where its bytes come from.
    fn source(&self) -> Source;
}

#[cfg(test)]
mod tests;
