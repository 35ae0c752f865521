//! The page tier: raw bytes of files, in pages of one size, by file version.
//!
//! ```text
//! PageTier ── hits ──────────── PageStore (disk, memory)    tier, reading, disk, memory
//!     └─ missing pages ── runs ── flights ── Ufs::get_range  runs
//! ```
//!
//! This file is the contract of what keeps pages; [`PageTier`] is the way in.

mod disk;
mod keeping;
mod memory;
mod reading;
mod runs;
mod tier;

use std::time::SystemTime;

use bytes::Bytes;

pub use self::disk::{DiskConfig, DiskError, DiskPages, FolderConfig, FolderHealth, FolderStatus};
pub use self::memory::MemoryPages;
pub use self::tier::{OpenFile, PageConfig, PageTier};
use crate::key::{FileId, FileKey, Generation, PageIndex, Source};

/// Keeps pages, as many as it may. It never fails: what it cannot keep or cannot read back is a miss, and its own
/// metric. It may drop any page at any time, and a page that was just put too.
///
/// Threads: every method may be called from any thread at once. Those that may do I/O are called where blocking is allowed
/// if [`PageStore::blocks`] says so.
pub trait PageStore: Send + Sync {
    /// Those of these pages (sorted, each once) that are held, in runs: the first page of each, and the bytes of it and of
    /// those that follow it, as far as the store has them in one piece. May do I/O.
    fn get(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)>;

    /// Whether a page is held, without touching it. Never does I/O.
    fn contains(&self, file: FileId, page: PageIndex) -> bool;

    /// Offers pages that follow each other, from `first` on; all are whole but the last of a file, which is as long as is
    /// left. Those that are held already stay. `run` may be a slice of something larger, which the store must not keep
    /// alive. May do I/O.
    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes);

    /// Drops every page of a file version that was put before this call, and says how many bytes that was. May do I/O.
    fn remove_file(&self, file: FileId) -> u64;

    /// How many bytes of a file version are held.
    fn held_bytes(&self, file: FileId) -> u64;

    /// When the first page came that is held of a file version; none where none is held.
    fn held_since(&self, file: FileId) -> Option<SystemTime>;

    /// Drops what is beyond quotas that were set anew. May do I/O.
    fn rescope(&self);

    /// The file versions that pages are held of, as far as their names are known.
    fn files(&self) -> Vec<FileKey>;

    /// How many bytes are held now.
    fn bytes(&self) -> u64;

    /// Where its bytes come from.
    fn source(&self) -> Source;

    /// Whether it does I/O, and must not be called on a thread that serves others.
    fn blocks(&self) -> bool;
}

impl PageStore for DiskPages {
    fn get(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        self.get(file, pages)
    }

    fn contains(&self, file: FileId, page: PageIndex) -> bool {
        self.contains(file, page)
    }

    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes) {
        self.put(file, first, run);
    }

    fn remove_file(&self, file: FileId) -> u64 {
        self.remove_file(file)
    }

    fn held_bytes(&self, file: FileId) -> u64 {
        self.held(file).bytes
    }

    fn held_since(&self, file: FileId) -> Option<SystemTime> {
        self.held_since(file)
    }

    fn rescope(&self) {
        self.rescope();
    }

    fn files(&self) -> Vec<FileKey> {
        let named = self.files().into_iter().filter_map(|held| {
            let generation = Generation::parse(&held.generation).ok()?;
            let (uri, size) = (held.uri?, held.size);
            Some(FileKey { uri, generation, size })
        });
        named.collect()
    }

    fn bytes(&self) -> u64 {
        self.bytes()
    }

    fn source(&self) -> Source {
        Source::Disk
    }

    fn blocks(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
