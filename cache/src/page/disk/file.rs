//! One file version as a folder holds it: a file on disk, and in memory which pages are there.
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
use super::presence::{Presence, extent_of, pages_of};
use super::shape::{BLOCK_BYTES, HEADER_BYTES, Shape, block_of};
use super::table::Header;
use crate::key::FileId;

/// What the files of file versions are called after their ids.
pub(super) const EXTENSION: &str = "pages";

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
    /// Held by whoever changes the file on disk.
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
    /// Whether the file is on disk.
    pub(super) created: bool,
    /// Whether it has its header. One without is nothing, and is removed at the next start.
    pub(super) headed: bool,
    /// Whether the header is paid for.
    header_paid: bool,
    /// The blocks of slots that are paid for.
    blocks: BTreeSet<u64>,
}

impl Writer {
    /// A file that was found on disk, with these blocks of slots in use.
    pub(super) fn found(blocks: BTreeSet<u64>) -> Self {
        Self {
            created: true,
            headed: true,
            header_paid: true,
            blocks,
        }
    }

    /// Notes what the slots of these pages need of the table; how many bytes more that is.
    pub(super) fn charge(&mut self, pages: &[u64]) -> u64 {
        let before = self.charged();
        self.header_paid |= !pages.is_empty();
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
        blocks + if self.header_paid { HEADER_BYTES } else { 0 }
    }
}

/// Where the file of a file version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    /// The folder that it is in.
    pub(super) shard: PathBuf,
    pub(super) file: PathBuf,
}

impl Paths {
    pub(super) fn of(folder: &Path, file: FileId) -> Self {
        let name = file.to_string();
        let shard = folder.join(name.get(..2).unwrap_or_default());
        Self {
            file: shard.join(format!("{name}.{EXTENSION}")),
            shard,
        }
    }
}

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
    fn tables_are_paid_for_by_blocks() {
        let mut writer = Writer::default();
        assert_eq!(writer.charge(&[]), 0);
        assert_eq!(writer.charge(&[0, 1, 255]), 8192);
        assert_eq!(writer.charge(&[255, 256]), 4096);
        assert!(writer.release(0) && !writer.release(0));
        assert_eq!(writer.charged(), 8192);
    }
}
