//! Pages on disk: raw bytes of files, in pages of one size, by file version, in folders that each have a capacity.
//!
//! ```text
//! DiskPages ─ get ── read ──┐                ┌─ table, superblock   bytes on disk (FORMAT.md)
//!     ├──── put ── fill ────┼─ CachedFile ───┼─ shape               where they lie in a file
//!     ├─ remove ── drop ────┤  (file)        ├─ presence            which pages are held
//!     ├─── open ── recover ─┤                └─ handles             open files
//!     └ maintain ── upkeep ─┴─ Folder ──────── account, policy, health, place
//! ```
//! It never fails towards its reader: what cannot be kept or read back is a miss, and a metric. Each file version is one
//! sparse file in one folder: a table, which names it and has a slot for each page, and its pages, each at a place of its
//! own. The bytes are written before the slot that vouches for them, the slot is cleared before the bytes are freed, and
//! every read checks the bytes against their slot. A new file's header comes after its first bytes, and a file without
//! one is removed at a start. Nothing is synced: a process that dies keeps the order, and what a power loss leaves behind
//! does not check.
//!
//! # Threads
//! Reads take no lock while they read. A page that does not check may have been dropped in that moment, so it is read
//! once more with the file's writer lock held: only if it is held then, and still does not check, is it damaged.
//!
//! Lock order: a file's `writer`, then any one of the others (a file's `presence`, a folder's `account`, `health` or
//! `identity`, the index, the handles), which are never held together nor during I/O. No thread waits for a file's
//! `writer` while it has another's: an eviction that would have to wait is done after its cause.
//!
//! # Why this, and why not that
//! Why one sparse file and not a file a page: contiguous pages are one read, a file version is freed by one unlink, and
//! pages can be small. Why the table is not a file of its own, made under another name and renamed: most files are small,
//! and to make a second one takes longer than to write what is in both. Why extents of 256 pages are evicted and not
//! single ones: a policy over 256 million pages takes more memory than the pages' tables, and a hole of 1 MiB is what
//! disks free well. Why the kernel's page cache is used: it is the memory tier of these pages.
//!
//! Linux only: holes are punched by `fallocate`.

mod account;
mod error;
mod file;
mod fill;
mod folder;
mod fs;
mod handles;
mod health;
mod open;
mod place;
mod presence;
mod read;
mod recover;
mod remove;
mod shape;
mod superblock;
mod table;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use parking_lot::{MutexGuard, RwLock};

use self::account::Account;
pub use self::error::DiskError;
use self::file::{CachedFile, extents_of};
use self::folder::Folder;
use self::fs::{FileSystem, LocalFs};
use self::handles::Handles;
pub use self::health::FolderHealth;
use self::shape::SLOT_BYTES;
use crate::counters::{self, Tier};
use crate::key::{FileId, FileKey, PageIndex};
use crate::retention::{Quota, Retentions};
use crate::unkept::Unkept;

/// So many files are kept open, of as many file versions.
const MAX_OPEN_FILES: usize = 2048;

/// Where pages are kept on disk, and how large they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// The folders; at least one.
    pub folders: Vec<FolderConfig>,
    /// One page, in bytes: a multiple of 4096, at most 1 GiB. Default 4 KiB. Folders of another size begin empty.
    pub page_size_bytes: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            page_size_bytes: 4 << 10,
        }
    }
}

/// One folder of a disk cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderConfig {
    /// The folder, made if it is not there. It must be empty, or a cache folder already.
    pub path: PathBuf,
    /// How many bytes may be held there, tables included, as the file system allocates them. 0 keeps nothing.
    pub capacity_bytes: u64,
}

/// Pages on disk. Every method may be called from any thread at once; those that say so block on the disk.
pub struct DiskPages {
    page_size: u64,
    folders: Vec<Folder>,
    index: RwLock<HashMap<FileId, Arc<CachedFile>>>,
    handles: Handles,
    serials: AtomicU64,
    outside: Outside,
    /// What quotas there are.
    pub(crate) retentions: Retentions,
}

/// What of one file version is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many pages.
    pub pages: u64,
    /// How many bytes of the file they are.
    pub bytes: u64,
}

/// A file version that pages are held of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Its id.
    pub id: FileId,
    /// Its URI; `None` where that is too long for the table (over 3 KB).
    pub uri: Option<Arc<str>>,
    /// xxh3-128 of the URI.
    pub uri_hash: u128,
    /// Its generation, as text.
    pub generation: Arc<str>,
    /// The whole file's length, in bytes.
    pub size: u64,
    /// What of it is held.
    pub held: Held,
    /// The number of the folder that holds it.
    pub folder: usize,
}

/// How a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderStatus {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// How many bytes it may hold.
    pub capacity_bytes: u64,
    /// How many it holds, tables included, as the file system allocates them.
    pub held_bytes: u64,
    /// Whether it is used.
    pub health: FolderHealth,
    /// The last thing that went wrong, for people to read. It is forgotten when a folder recovers.
    pub error: Option<String>,
    /// How many pages did not check since the store was opened.
    pub checksum_failures: u64,
}

/// What a store takes from outside. A test brings its own.
#[derive(Clone)]
struct Outside {
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    max_open_files: usize,
}

impl DiskPages {
    /// Opens the folders, and finds what they hold. A folder on a broken disk is left out, and tried again by
    /// [`DiskPages::maintain`]. Blocks, about a second for 64 GB of 4 KiB pages.
    ///
    /// # Errors
    /// Settings that cannot be: no folder, a page size that does not fit; a folder that is named twice, in use by
    /// another process, not empty and not ours, read-only, or that cannot be made.
    pub fn open(config: &DiskConfig) -> Result<Self, DiskError> {
        let outside = Outside {
            fs: Arc::new(LocalFs),
            clock: Arc::new(Instant::now),
            max_open_files: MAX_OPEN_FILES,
        };
        Self::open_with(config, outside)
    }

    /// Reads those of these pages of a file version (in ascending order) that are held, in runs: the first page of each,
    /// and the bytes of all of it, which are one read. Blocks.
    #[must_use]
    pub fn get(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        self.read_pages(file, pages)
    }

    /// Whether a page is held, by what is in memory. It may be gone when it is asked for.
    #[must_use]
    pub fn contains(&self, file: FileId, page: PageIndex) -> bool {
        self.lookup(file)
            .is_some_and(|file| file.presence.read().contains(page.0))
    }

    /// How many pages of a range are held, by what is in memory.
    #[must_use]
    pub fn held_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        self.lookup(file)
            .map_or(0, |file| file.presence.read().count(&(pages.start.0..pages.end.0)))
    }

    /// Offers the bytes of a file version from a page on. Whole pages of it are kept (the last page of a file ends where
    /// the file does), as the policy decides; pages that are held are not written again. Blocks.
    pub fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes) {
        // Why something is not kept matters to those alone who demand it.
        let _ = self.put_by(file, first, run, None);
    }

    /// The same, as a demand of `by` where one is given: whatever the policy thinks of strangers. Pages that are held are
    /// protected anew. Blocks.
    ///
    /// # Errors
    /// Why something of it is not kept.
    pub fn put_by(&self, file: &FileKey, first: PageIndex, run: &Bytes, by: Option<u64>) -> Result<(), Unkept> {
        self.fill_pages(file, first.0, run, by)
    }

    /// Protects those of these pages (in ascending order) that are held, and what is evicted with them.
    pub fn protect(&self, file: FileId, pages: &[PageIndex], by: u64) {
        if let Some(file) = self.lookup(file) {
            let held: Vec<u64> = {
                let presence = file.presence.read();
                let numbers = pages.iter().map(|page| page.0);
                numbers.filter(|page| presence.contains(*page)).collect()
            };
            self.protect_extents(&file, &extents_of(&held), by);
        }
    }

    /// Reads those of these pages (in ascending order) back that are held, as [`DiskPages::get`], touching none; and how
    /// many did not check or could not be read, which are dropped. Blocks.
    #[must_use]
    pub fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        self.check_pages(file, pages)
    }

    /// Says anew which pages are pinned, of files whose URI is not too long to be kept, and evicts what pins alone held
    /// beyond a capacity or a quota. Blocks.
    pub fn set_pins(&self) {
        for number in 0..self.folders.len() {
            self.set_pins_of(number);
        }
    }

    /// The same of one folder.
    fn set_pins_of(&self, number: usize) {
        // Found out before the account is locked: no lock is held with it.
        let files: Vec<_> = self.index.read().values().cloned().collect();
        // What comes meanwhile is pinned as it comes.
        let pinned = files.iter().map(|file| {
            let uri = file.header.uri.as_ref();
            let is_pinned = uri.is_some_and(|uri| self.retentions.of(uri).pinned_raw);
            (file.id(), is_pinned)
        });
        let pinned: HashMap<FileId, bool> = pinned.collect();
        if let Some(folder) = self.folders.get(number) {
            let is_pinned = |file| pinned.get(&file).copied();
            let evicted = folder.account.lock().set_pins(is_pinned, self.now());
            counters::evictions(Tier::Page, "unpinned", evicted.len());
            self.evict(number, evicted);
        }
    }

    /// How many of the held bytes are pinned.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        let pinned = self.folders.iter().map(|folder| folder.account.lock().pinned_bytes());
        pinned.sum()
    }

    /// Bytes of files that there is room for in folders that are not out, without what tables take.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        let used = self.folders.iter().filter(|folder| folder.state() != FolderHealth::Out);
        let capacity: u64 = used.map(|folder| folder.account.lock().capacity_bytes()).sum();
        // Each page has a slot.
        let share = u128::from(capacity) * u128::from(self.page_size) / u128::from(self.page_size + SLOT_BYTES);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Drops a file version, and returns how many bytes of the file were held. Blocks.
    pub fn remove_file(&self, file: FileId) -> u64 {
        self.drop_file(file)
    }

    /// Drops pages of a file version, and returns how many bytes of the file they were. Blocks.
    pub fn remove_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        self.drop_pages(file, pages.start.0..pages.end.0)
    }

    /// What of a file version is held.
    #[must_use]
    pub fn held(&self, file: FileId) -> Held {
        self.lookup(file).map(|file| held_of(&file)).unwrap_or_default()
    }

    /// The file versions that pages are held of, in no order.
    #[must_use]
    pub fn files(&self) -> Vec<HeldFile> {
        let files: Vec<_> = self.index.read().values().cloned().collect();
        let described = files.iter().map(|file| HeldFile {
            id: file.id(),
            uri: file.header.uri.clone(),
            uri_hash: file.header.uri_hash,
            generation: Arc::clone(&file.header.generation),
            size: file.header.size,
            held: held_of(file),
            folder: file.folder,
        });
        described.filter(|file| file.held.pages > 0).collect()
    }

    /// The file versions that pages are held of, besides these and those whose URI is too long for the table, in no order.
    #[must_use]
    pub fn keys(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        let others: Vec<_> = {
            let index = self.index.read();
            let others = index.iter().filter(|(file, _)| !besides.contains(*file));
            others.map(|(_, file)| Arc::clone(file)).collect()
        };
        let held = others.into_iter().filter(|file| !file.presence.read().is_empty());
        held.filter_map(|file| file.header.key()).collect()
    }

    /// How many bytes all folders hold, tables included, as the file systems allocate them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.folders
            .iter()
            .map(|folder| folder.account.lock().held_bytes())
            .sum()
    }

    /// Sets how many bytes a folder may hold, by its number in the settings, and evicts what is beyond. A number that
    /// no folder has changes nothing. Blocks.
    pub fn set_capacity(&self, folder: usize, capacity_bytes: u64) {
        let Some(of) = self.folders.get(folder) else {
            return;
        };
        let evicted = of.account.lock().set_capacity(capacity_bytes);
        counters::evictions(Tier::Page, "capacity", evicted.len());
        self.evict(folder, evicted);
    }

    /// When the first of the pages that are held of a file version came.
    #[must_use]
    pub fn held_since(&self, file: FileId) -> Option<SystemTime> {
        self.lookup(file).map(|file| file.since)
    }

    /// Drops what is beyond quotas that were set anew. Files whose URI is too long to be kept have none. Blocks.
    pub fn rescope(&self) {
        for number in 0..self.folders.len() {
            self.rescope_folder(number);
        }
    }

    /// The same of one folder.
    fn rescope_folder(&self, number: usize) {
        let Some(folder) = self.folders.get(number) else {
            return;
        };
        // Found out before the account is locked, which it looks into.
        let share = self.share_of(number);
        let uri_of = |file| self.lookup(file)?.header.uri.clone();
        let quota_of = |file| share.of(self.retentions.of(&uri_of(file)?).quota?);
        let evicted = folder.account.lock().set_quotas(quota_of, self.now());
        counters::evictions(Tier::Page, "quota", evicted.len());
        self.evict(number, evicted);
    }

    /// The folders, in the order of the settings.
    #[must_use]
    pub fn folders(&self) -> Vec<FolderStatus> {
        let status = |folder: &Folder| {
            let (capacity_bytes, held_bytes) = {
                let account = folder.account.lock();
                (account.capacity_bytes(), account.held_bytes())
            };
            FolderStatus {
                path: folder.path.clone(),
                capacity_bytes,
                held_bytes,
                health: folder.state(),
                error: folder.last_error.lock().clone(),
                checksum_failures: folder.checksum_failures.load(Ordering::Relaxed),
            }
        };
        self.folders.iter().map(status).collect()
    }

    /// What time brings: folders that are gone are noticed, unstable ones are probed and given up after half an hour,
    /// and those that were given up are probed and taken back. To be called about once a second. Blocks, also for long
    /// when a disk hangs, so it belongs on a thread of its own.
    pub fn maintain(&self) {
        self.keep_up();
    }

    fn lookup(&self, file: FileId) -> Option<Arc<CachedFile>> {
        self.index.read().get(&file).cloned()
    }

    fn folder_of(&self, file: &CachedFile) -> &Folder {
        // A file is made with the number of one of these folders, and their list never changes.
        &self.folders[file.folder]
    }

    /// The account that a file is in; none of a file that is dropped. A folder that goes out kills its files before its
    /// account begins anew, so whoever was at work on one of them adds nothing to that.
    fn account_of(&self, file: &CachedFile) -> Option<MutexGuard<'_, Account>> {
        let account = self.folder_of(file).account.lock();
        (!file.is_dead()).then_some(account)
    }

    /// A folder's part of all capacity. Files are placed by it, so quotas are shared out by it.
    fn share_of(&self, folder: usize) -> Share {
        let capacity = |of: &Folder| of.account.lock().capacity_bytes();
        Share {
            part: self.folders.get(folder).map_or(0, capacity),
            whole: self.folders.iter().map(capacity).map(u128::from).sum(),
        }
    }

    fn now(&self) -> Instant {
        (self.outside.clock)()
    }

    fn fs(&self) -> &dyn FileSystem {
        self.outside.fs.as_ref()
    }
}

/// A part of a whole.
#[derive(Debug, Clone, Copy)]
struct Share {
    part: u64,
    whole: u128,
}

impl Share {
    fn of(self, quota: Quota) -> Option<Quota> {
        let bytes = u128::from(self.part) * u128::from(quota.bytes) / self.whole.max(1);
        let bytes = u64::try_from(bytes).ok()?;
        Some(Quota { bytes, ..quota })
    }
}

fn held_of(file: &CachedFile) -> Held {
    // One after the other: the lock is not to be taken twice by one thread, not even to read.
    let pages = file.presence.read().pages();
    let bytes = file.bytes();
    Held { pages, bytes }
}

#[cfg(test)]
mod tests;
