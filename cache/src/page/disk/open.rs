//! Opening the folders, and taking in what they hold.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::error::DiskError;
use super::file::{CachedFile, Writer};
use super::folder::{Folder, Identity, occupy};
use super::handles::Handles;
use super::recover::{self, Found};
use super::shape::BLOCK_BYTES;
use super::table::MAX_PAGE_BYTES;
use super::{DiskConfig, DiskPages, Outside};
use crate::counters::{self, Tier};
use crate::retention::Retentions;

impl DiskPages {
    /// Opens a store on a file system and a clock.
    pub(super) fn open_with(config: &DiskConfig, outside: Outside) -> Result<Self, DiskError> {
        check_page_size(config.page_size_bytes)?;
        if config.folders.is_empty() {
            return Err(DiskError::NoFolder);
        }
        let paths = config
            .folders
            .iter()
            .map(|folder| locate(&folder.path))
            .collect::<Result<Vec<_>, _>>()?;
        check_overlap(&paths)?;
        let mut store = Self {
            page_size: config.page_size_bytes,
            folders: Vec::new(),
            index: RwLock::default(),
            handles: Handles::new(outside.max_open_files),
            serials: AtomicU64::new(0),
            outside,
            retentions: Retentions::default(),
        };
        for (number, (path, settings)) in paths.into_iter().zip(&config.folders).enumerate() {
            let opened = store.occupy(&path)?;
            let folder = Folder::new(number, path, settings.capacity_bytes, opened, store.now());
            store.folders.push(folder);
        }
        store.scan_all();
        Ok(store)
    }

    /// Takes in what was found in a folder. A file version that another folder holds is dropped: it lives in one place.
    pub(super) fn adopt(&self, number: usize, found: Vec<Found>) {
        for file in found {
            self.adopt_file(number, file);
        }
        let Some(folder) = self.folders.get(number) else {
            return;
        };
        let evicted = folder.account.lock().enforce();
        counters::evictions(Tier::Page, "capacity", evicted.len());
        self.evict(number, evicted);
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// A folder's identity, or why a broken disk has none.
    fn occupy(&self, path: &Path) -> Result<Result<Identity, String>, DiskError> {
        match occupy(path, self.page_size, self.fs()) {
            Ok(identity) => Ok(Ok(identity)),
            Err(error) if error.is_broken_disk() => {
                let error = chain(&error);
                tracing::warn!(folder = %path.display(), error, "a cache folder is left out");
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Scans the folders, all at once: they are disks of their own.
    fn scan_all(&self) {
        let scanned: HashMap<usize, _> = std::thread::scope(|scope| {
            let scan = |folder: &Folder| recover::scan(&folder.path, self.page_size, self.fs());
            let opened = self.folders.iter().enumerate();
            let opened = opened.filter(|(_, folder)| folder.identity.lock().is_some());
            let threads: Vec<_> = opened
                .map(|(number, folder)| (number, scope.spawn(move || scan(folder))))
                .collect();
            // A thread that panicked has found nothing, and its folder is filled anew.
            threads
                .into_iter()
                .filter_map(|(number, thread)| Some((number, thread.join().ok()?)))
                .collect()
        });
        for number in 0..self.folders.len() {
            match scanned.get(&number) {
                Some(Ok(_)) | None => {}
                Some(Err(error)) => self.failed(number, "list the cached files", error),
            }
        }
        let mut scanned: Vec<_> = scanned
            .into_iter()
            .filter_map(|(number, found)| Some((number, found.ok()?)))
            .collect();
        scanned.sort_by_key(|(number, _)| *number);
        for (number, found) in scanned {
            self.adopt(number, found);
        }
    }

    fn adopt_file(&self, number: usize, found: Found) {
        let Some(folder) = self.folders.get(number) else {
            return;
        };
        let writer = Writer::found(found.blocks);
        let tables = writer.charged();
        let mut file = CachedFile::new(self.next_serial(), number, found.header, self.page_size);
        file.since = found.since;
        file.writer = Mutex::new(writer);
        file.presence = RwLock::new(found.presence);
        let file = Arc::new(file);
        let is_new = match self.index.write().entry(file.id()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&file));
                true
            }
        };
        if !is_new {
            self.unlink(&file);
            return;
        }
        let extents = file.presence.read().extents(&(0..u64::MAX));
        let mut account = folder.account.lock();
        account.restore_tables(tables);
        for extent in extents {
            account.restore(file.extent(extent), file.allocated(extent));
        }
    }
}

/// An error and what caused it, for a status that has one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn check_page_size(bytes: u64) -> Result<(), DiskError> {
    if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) || bytes > MAX_PAGE_BYTES {
        return Err(DiskError::PageSize { bytes });
    }
    Ok(())
}

/// A folder's place without symbolic links, so that two names of one are seen to be one. It is made if need be.
fn locate(path: &Path) -> Result<PathBuf, DiskError> {
    let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
    let error = match made {
        Ok(located) => return Ok(located),
        Err(source) => DiskError::Io {
            path: path.to_owned(),
            doing: "make or find what is",
            source,
        },
    };
    // A broken disk is found out about once more when the folder is occupied.
    if error.is_broken_disk() {
        Ok(path.to_owned())
    } else {
        Err(error)
    }
}

fn check_overlap(paths: &[PathBuf]) -> Result<(), DiskError> {
    for (n, second) in paths.iter().enumerate() {
        let others = paths.iter().take(n);
        if let Some(first) = others
            .into_iter()
            .find(|first| second.starts_with(first) || first.starts_with(second))
        {
            return Err(DiskError::Overlap {
                first: first.clone(),
                second: second.clone(),
            });
        }
    }
    Ok(())
}
