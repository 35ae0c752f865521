//! Dropping pages: out of memory, then out of the table, then the bytes.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::DiskPages;
use super::account::Extent;
use super::file::{CachedFile, Paths, Writer};
use super::presence::{Mask, extent_of, extent_pages, pages_of};
use super::shape::{BLOCK_BYTES, SLOT_BYTES, block_of, block_pages, block_range, slot_offset};
use crate::counters::{self, Tier};
use crate::key::{FileId, to_usize};

impl DiskPages {
    /// See [`DiskPages::remove_file`].
    pub(super) fn drop_file(&self, file: FileId) -> u64 {
        let Some(file) = self.lookup(file) else {
            return 0;
        };
        let _operation = self.folder_of(&file).begin_removal();
        let mut writer = file.writer.lock();
        if file.is_dead() {
            return 0;
        }
        let (bytes, extents) = (file.bytes(), file.presence.read().extents(&(0..u64::MAX)).len());
        counters::evictions(Tier::Page, "removed", extents);
        self.discard(&file, &mut writer);
        bytes
    }

    /// See [`DiskPages::remove_pages`].
    pub(super) fn drop_pages(&self, file: FileId, pages: Range<u64>) -> u64 {
        let Some(file) = self.lookup(file) else {
            return 0;
        };
        let _operation = self.folder_of(&file).begin_removal();
        let mut writer = file.writer.lock();
        if file.is_dead() {
            return 0;
        }
        let before = file.bytes();
        self.clear(&file, &mut writer, pages);
        let freed = before - file.bytes();
        self.drop_if_empty(&file, &mut writer);
        freed
    }

    /// Drops what a folder's policy evicted. No lock is held by the caller.
    pub(super) fn evict(&self, folder: usize, extents: Vec<Extent>) {
        for extent in extents {
            if let Some(file) = self.lookup(extent.file).filter(|file| file.folder == folder) {
                let _operation = self.folder_of(&file).begin_removal();
                self.evict_of(&file, &mut file.writer.lock(), extent);
            }
        }
    }

    /// Drops what was evicted for a file that the caller writes, unless another one is in the way.
    pub(super) fn try_evict(&self, file: &CachedFile, writer: &mut Writer, extent: Extent) -> bool {
        if extent.file == file.id() {
            // The caller goes on with the file, so it stays even if it is empty now.
            self.clear(file, writer, extent_pages(extent.index));
            return true;
        }
        let Some(other) = self.lookup(extent.file).filter(|other| other.folder == file.folder) else {
            return true;
        };
        let Some(mut other_writer) = other.writer.try_lock() else {
            return false;
        };
        self.evict_of(&other, &mut other_writer, extent);
        true
    }

    /// Drops the held pages of a range. What the disk does not do is told to its health, and is safe: a slot that is not
    /// cleared keeps its bytes.
    pub(super) fn clear(&self, file: &CachedFile, writer: &mut Writer, pages: Range<u64>) {
        let extents = file.presence.read().extents(&pages);
        for extent in &extents {
            let removed = file.presence.write().remove(*extent, &pages);
            let first = pages_of(*extent, removed).next();
            let last = pages_of(*extent, removed).last();
            let (Some(first), Some(last)) = (first, last) else {
                continue;
            };
            let freed = self.open_file(file).and_then(|open| {
                // What lies between is either removed, or held and to be left alone.
                for part in parts(*extent, removed) {
                    self.free(&open, file, part)?;
                }
                self.free_slots(&open, file, writer, first..last + 1)
            });
            if let Err(error) = freed {
                self.failed(file.folder, "free pages", &error);
            }
        }
        // An extent that the policy evicted may have had no page on disk yet, so the ends count as well.
        let mut extents = extents;
        if extents.is_empty() && !pages.is_empty() {
            extents.push(extent_of(pages.start));
        }
        self.settle(file, &extents);
    }

    /// Tells the account what is left of extents.
    pub(super) fn settle(&self, file: &CachedFile, extents: &[u64]) {
        for extent in extents {
            let bytes = file.allocated(*extent);
            if let Some(mut account) = self.account_of(file) {
                account.resize(file.extent(*extent), bytes);
            }
        }
    }

    /// Clears the slots of pages, and then frees their bytes.
    pub(super) fn free(&self, open: &File, file: &CachedFile, pages: Range<u64>) -> io::Result<()> {
        let slots = vec![0; to_usize((pages.end - pages.start) * SLOT_BYTES)];
        self.fs().write_at(open, slot_offset(pages.start), &slots)?;
        let start = file.shape.lies_at(pages.start);
        let end = file.shape.lies_at(pages.end).next_multiple_of(BLOCK_BYTES);
        self.fs().punch(open, start..end)
    }

    /// Drops a file that holds no pages.
    pub(super) fn drop_if_empty(&self, file: &CachedFile, writer: &mut Writer) {
        if !file.is_dead() && file.presence.read().is_empty() {
            self.discard(file, writer);
        }
    }

    /// Drops a file. The index has it until it is gone from disk, so that the same version put again waits for that.
    pub(super) fn discard(&self, file: &CachedFile, writer: &mut Writer) {
        file.die();
        let held = std::mem::take(&mut *file.presence.write());
        if writer.created {
            self.unlink(file);
        }
        {
            let mut account = self.folder_of(file).account.lock();
            for extent in held.extents(&(0..u64::MAX)) {
                account.resize(file.extent(extent), 0);
            }
            account.release_tables(writer.charged());
        }
        *writer = Writer::default();
        let mut index = self.index.write();
        if index.get(&file.id()).is_some_and(|held| held.serial == file.serial) {
            index.remove(&file.id());
        }
    }

    /// Removes a file from disk.
    pub(super) fn unlink(&self, file: &CachedFile) {
        let paths = Paths::of(&self.folder_of(file).path, file.id());
        let removed = self.fs().remove(&paths.file);
        self.handles.remove(file.serial);
        if let Err(error) = removed {
            self.failed(file.folder, "remove a file", &error);
        }
    }

    /// Forgets what a folder holds, without asking the disk anything.
    pub(super) fn forget_folder(&self, number: usize) {
        let mut forgotten = Vec::new();
        self.index.write().retain(|_, file| {
            let stays = file.folder != number;
            if !stays {
                forgotten.push(file.clone());
            }
            stays
        });
        for file in forgotten {
            file.die();
            self.handles.remove(file.serial);
        }
        if let Some(folder) = self.folders.get(number) {
            folder.account.lock().reset();
        }
    }

    fn evict_of(&self, file: &CachedFile, writer: &mut Writer, extent: Extent) {
        if !file.is_dead() {
            self.clear(file, writer, extent_pages(extent.index));
            self.drop_if_empty(file, writer);
        }
    }

    /// Gives a block of slots back, once none of its pages is held.
    fn free_slots(&self, open: &File, file: &CachedFile, writer: &mut Writer, pages: Range<u64>) -> io::Result<()> {
        let block = block_of(pages.start);
        if !file.presence.read().extents(&block_pages(block)).is_empty() {
            return Ok(());
        }
        self.fs().punch(open, block_range(block))?;
        if writer.release(block)
            && let Some(mut account) = self.account_of(file)
        {
            account.release_tables(BLOCK_BYTES);
        }
        Ok(())
    }
}

/// Pages of an extent that follow one another.
fn parts(extent: u64, mask: Mask) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    for page in pages_of(extent, mask) {
        match parts.last_mut() {
            Some(part) if part.end == page => part.end = page + 1,
            _ => parts.push(page..page + 1),
        }
    }
    parts
}
