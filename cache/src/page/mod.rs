//! The page tier: raw bytes of files, in pages of one size, by file version.
//!
//! ```text
//! PageTier ── hits ──────────── PageStore (disk, memory)    tier, reading, disk, memory
//!     └─ missing pages ── runs ── flights ── Peers, else Ufs::get_range  runs, loading, peers
//! Errand ── the same at a pace, until it is stopped, kept as a demand    errand, ensure
//! ```
//!
//! This file is the contract of what keeps pages; [`PageTier`] is the way in.

mod disk;
mod ensure;
mod errand;
mod held;
mod keeping;
mod loading;
mod memory;
mod peers;
mod reading;
mod runs;
mod tier;

use std::collections::HashSet;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

pub use self::disk::{DiskConfig, DiskError, DiskPages, FolderConfig, FolderHealth, FolderStatus};
pub use self::errand::{Errand, Pass};
pub(crate) use self::loading::stopped;
pub use self::memory::MemoryPages;
pub use self::peers::Peers;
pub use self::tier::{OpenFile, PageConfig, PageTier};
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64};
use crate::unkept::Unkept;

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

    /// How many pages of a range are held, without touching them. Never does I/O. To be overridden where this is more work
    /// than counting.
    fn held_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        let pages = (pages.start.0..pages.end.0).map(PageIndex);
        to_u64(pages.filter(|page| self.contains(file, *page)).count())
    }

    /// Offers pages that follow each other, from `first` on; all are whole but the last of a file, which is as long as is
    /// left. Those that are held already stay. `run` may be a slice of something larger, which the store must not keep
    /// alive. They are demanded by the errand of number `by`, and protected then, those that are held too; without one they
    /// are kept where they are worth it. May do I/O.
    ///
    /// # Errors
    /// Why something of it is not kept.
    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes, by: Option<u64>) -> Result<(), Unkept>;

    /// Protects those of these pages (sorted) that are held, as if the errand of number `by` demanded them now. Never does
    /// I/O.
    fn protect(&self, file: FileId, pages: &[PageIndex], by: u64);

    /// As [`PageStore::get`], but touches nothing; and how many pages were held and turned out not to be sound, which are
    /// dropped. May do I/O.
    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64);

    /// Drops pages of a file version, and says how many bytes that was. May do I/O.
    fn remove_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64;

    /// Says anew which pages are pinned, and evicts what pins alone held beyond a capacity or a quota. May block.
    fn set_pins(&self);

    /// How many bytes of what is held are pinned.
    fn pinned_bytes(&self) -> u64;

    /// How many bytes of files there is room for.
    fn capacity_bytes(&self) -> u64;

    /// Drops every page of a file version that was put before this call, and says how many bytes that was. May do I/O.
    fn remove_file(&self, file: FileId) -> u64;

    /// How many bytes of a file version are held.
    fn held_bytes(&self, file: FileId) -> u64;

    /// When the first page came that is held of a file version; none where none is held.
    fn held_since(&self, file: FileId) -> Option<SystemTime>;

    /// Drops what is beyond quotas that were set anew. May do I/O.
    fn rescope(&self);

    /// The file versions that pages are held of, besides these, as far as their names are known.
    fn files(&self, besides: &HashSet<FileId>) -> Vec<FileKey>;

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

    fn held_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        self.held_pages(file, pages)
    }

    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes, by: Option<u64>) -> Result<(), Unkept> {
        self.put_by(file, first, run, by)
    }

    fn protect(&self, file: FileId, pages: &[PageIndex], by: u64) {
        self.protect(file, pages, by);
    }

    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        self.check(file, pages)
    }

    fn remove_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        self.remove_pages(file, pages)
    }

    fn set_pins(&self) {
        self.set_pins();
    }

    fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes()
    }

    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes()
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

    fn files(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        self.keys(besides)
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
