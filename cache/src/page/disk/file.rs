//! One file version as a folder holds it: two files on disk, and in memory which pages are there.
//!
//! States of a page: absent, written (its bytes, then its slot), held. Only a held page is read, and it is never
//! written again before it is absent. Removal goes the other way: not held in memory, slot cleared, hole punched.
//!
//! A file is dead once it is dropped. It never comes back; the same version put again is another [`CachedFile`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::account::Extent;
use super::presence::{EXTENT_PAGES, Presence, extent_of, pages_of};
use super::table::{HEADER_BYTES, Header, SLOT_BYTES};
use crate::key::FileId;

/// What file systems allocate by, in bytes; page sizes are multiples of it.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Pages whose slots share a block of their table.
const BLOCK_PAGES: u64 = BLOCK_BYTES / SLOT_BYTES;

/// A file version that a folder holds pages of.
#[derive(Debug)]
pub(super) struct CachedFile {
    /// Names this object and no other.
    pub(super) serial: u64,
    /// The folder's number.
    pub(super) folder: usize,
    pub(super) header: Header,
    pub(super) shape: Shape,
    /// When its first page came.
    pub(super) since: SystemTime,
    /// Held by whoever changes the files on disk.
    pub(super) writer: Mutex<Writer>,
    /// The held pages. Changed only under `writer`; read at any time.
    pub(super) presence: RwLock<Presence>,
    dead: AtomicBool,
}

impl CachedFile {
    pub(super) fn new(serial: u64, folder: usize, header: Header, page_size: u64) -> Self {
        let shape = Shape {
            page_size,
            file_size: header.size,
        };
        Self {
            serial,
            folder,
            header,
            shape,
            since: SystemTime::now(),
            writer: Mutex::default(),
            presence: RwLock::default(),
            dead: AtomicBool::new(false),
        }
    }

    pub(super) fn id(&self) -> FileId {
        self.header.id
    }

    pub(super) fn extent(&self, index: u64) -> Extent {
        Extent { file: self.id(), index }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn die(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// What the held pages of an extent take on disk.
    pub(super) fn allocated(&self, extent: u64) -> u64 {
        let mask = self.presence.read().mask(extent);
        pages_of(extent, mask).map(|page| self.shape.allocated(page)).sum()
    }

    /// How many bytes of the file are held.
    pub(super) fn bytes(&self) -> u64 {
        let presence = self.presence.read();
        let whole = presence.pages() * self.shape.page_size;
        // Only the last page of a file may be short.
        match self.shape.pages().checked_sub(1) {
            Some(last) if presence.contains(last) => whole - (self.shape.page_size - self.shape.length(last)),
            _ => whole,
        }
    }
}

/// What only the one who writes a file may know.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Whether the two files are on disk.
    pub(super) created: bool,
    /// Whether the table's header is paid for.
    header: bool,
    /// The blocks of slots that are paid for.
    blocks: BTreeSet<u64>,
}

impl Writer {
    /// A file that was found on disk, with these blocks of slots in use.
    pub(super) fn found(blocks: BTreeSet<u64>) -> Self {
        Self {
            created: true,
            header: true,
            blocks,
        }
    }

    /// Notes what the slots of these pages need of the table; how many bytes more that is.
    pub(super) fn charge(&mut self, pages: &[u64]) -> u64 {
        let before = self.charged();
        self.header |= !pages.is_empty();
        self.blocks.extend(pages.iter().map(|page| block_of(*page)));
        self.charged() - before
    }

    /// Notes that a block of slots was given back; whether it was in use.
    pub(super) fn release(&mut self, block: u64) -> bool {
        self.blocks.remove(&block)
    }

    /// What the table takes on disk.
    pub(super) fn charged(&self) -> u64 {
        let blocks: u64 = self.blocks.iter().map(|_| BLOCK_BYTES).sum();
        blocks + if self.header { HEADER_BYTES } else { 0 }
    }
}

/// The block of slots that has a page's.
pub(super) fn block_of(page: u64) -> u64 {
    page / BLOCK_PAGES
}

/// The extents whose slots are in the block of an extent's.
pub(super) fn block_pages(block: u64) -> std::ops::Range<u64> {
    block * BLOCK_PAGES..(block + 1) * BLOCK_PAGES
}

/// How a file of some length is cut into pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) page_size: u64,
    pub(super) file_size: u64,
}

impl Shape {
    /// How many pages the file has.
    pub(super) fn pages(self) -> u64 {
        self.file_size.div_ceil(self.page_size)
    }

    /// Where in the file a page, or the file's end, lies.
    pub(super) fn offset(self, page: u64) -> u64 {
        page.saturating_mul(self.page_size).min(self.file_size)
    }

    /// The length of a page in bytes; 0 beyond the file.
    pub(super) fn length(self, page: u64) -> u64 {
        self.offset(page.saturating_add(1)) - self.offset(page)
    }

    /// What a page takes on disk, in bytes.
    pub(super) fn allocated(self, page: u64) -> u64 {
        self.length(page).next_multiple_of(BLOCK_BYTES)
    }

    /// The last of the pages that are whole within so many bytes of the file from a page on, and one.
    pub(super) fn whole_until(self, first: u64, bytes: u64) -> u64 {
        let start = self.offset(first);
        let end = start.saturating_add(bytes);
        if end >= self.file_size {
            return self.pages().max(first);
        }
        end / self.page_size
    }
}

/// The two files of a file version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    /// The folder that they are in.
    pub(super) shard: PathBuf,
    pub(super) data: PathBuf,
    pub(super) table: PathBuf,
    /// The table before it has its name.
    pub(super) unnamed: PathBuf,
}

impl Paths {
    pub(super) fn of(folder: &Path, file: FileId) -> Self {
        let name = file.to_string();
        let shard = folder.join(name.get(..2).unwrap_or_default());
        Self {
            data: shard.join(format!("{name}.pages")),
            table: shard.join(format!("{name}.table")),
            unnamed: shard.join(format!("{name}.table.tmp")),
            shard,
        }
    }
}

const _: () = assert!(BLOCK_PAGES.is_multiple_of(EXTENT_PAGES));

/// The extents of these pages, each once, in order.
pub(super) fn extents_of(pages: &[u64]) -> Vec<u64> {
    let mut extents: Vec<_> = pages.iter().map(|page| extent_of(*page)).collect();
    extents.dedup();
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_pages() {
        let shape = Shape {
            page_size: 8192,
            file_size: 20_000,
        };
        assert_eq!(shape.pages(), 3);
        assert_eq!(
            [0, 1, 2, 3, u64::MAX].map(|page| shape.length(page)),
            [8192, 8192, 3616, 0, 0]
        );
        assert_eq!([0, 2, 3].map(|page| shape.allocated(page)), [8192, 4096, 0]);
        assert_eq!(
            [0, 8191, 8192, 16384, 20_000, 90_000].map(|n| shape.whole_until(0, n)),
            [0, 0, 1, 2, 3, 3]
        );
        assert_eq!([3615, 3616].map(|n| shape.whole_until(2, n)), [2, 3]);
        assert_eq!(shape.whole_until(7, 100), 7);
    }

    #[test]
    fn tables_are_paid_for_by_blocks() {
        let mut writer = Writer::default();
        assert_eq!(writer.charge(&[]), 0);
        assert_eq!(writer.charge(&[0, 1, 255]), 8192);
        assert_eq!(writer.charge(&[255, 256]), 4096);
        assert!(writer.release(0) && !writer.release(0));
        assert_eq!(writer.charged(), 8192);
    }
}
