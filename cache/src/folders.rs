//! The folders of the disk cache: how much each may hold, and the thread that looks after them.

use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::statvfs;

use crate::page::{DiskConfig, DiskPages, FolderConfig};
use crate::retention::Retentions;
use crate::{CacheFolder, OpenError};

/// How often folders are looked after.
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(1);
/// A folder without a size may hold one part in this many of what is free on its disk.
const FREE_SHARE: u64 = 4;

/// Opens the folders; none where there are none.
pub(crate) fn open(
    folders: &[CacheFolder],
    page_size_bytes: u64,
    retentions: &Retentions,
) -> Result<Option<Arc<DiskPages>>, OpenError> {
    if folders.is_empty() {
        return Ok(None);
    }
    let sized = folders.iter().map(|folder| {
        Ok(FolderConfig {
            path: folder.path.clone(),
            capacity_bytes: match folder.capacity_bytes {
                Some(bytes) => bytes,
                None => {
                    create(&folder.path)?;
                    spare_bytes(slice::from_ref(&folder.path))?
                }
            },
        })
    });
    let config = DiskConfig {
        folders: sized.collect::<Result<_, OpenError>>()?,
        page_size_bytes,
    };
    let mut pages = DiskPages::open(&config)?;
    pages.retentions = retentions.clone();
    let pages = Arc::new(pages);
    look_after(Arc::downgrade(&pages));
    Ok(Some(pages))
}

fn create(path: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(path).map_err(|source| unknown(path, source))
}

fn unknown(path: &Path, source: io::Error) -> OpenError {
    OpenError::Space {
        path: path.to_owned(),
        source,
    }
}

/// What folders of one disk may hold together that have no size: their share of its free space, with what they hold already.
/// They need not be there yet.
///
/// # Errors
/// A disk that does not say what is free on it, a folder that cannot be read.
pub fn spare_bytes(folders: &[PathBuf]) -> Result<u64, OpenError> {
    let Some(first) = folders.first() else {
        return Ok(0);
    };
    let there = first.ancestors().find(|path| path.exists()).unwrap_or(first);
    let disk = statvfs(there).map_err(|error| unknown(first, error.into()))?;
    let mut bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    for folder in folders.iter().filter(|folder| folder.exists()) {
        let held = held_bytes(folder).map_err(|source| unknown(folder, source))?;
        bytes = bytes.saturating_add(held);
    }
    Ok(bytes / FREE_SHARE)
}

/// Bytes that the files below a folder take on disk.
fn held_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    /// What `st_blocks` counts, whatever the disk's own blocks are.
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0u64;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            bytes += held_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// Runs until the store is gone, on a thread of its own, since a disk that hangs holds up whoever looks at it.
fn look_after(pages: Weak<DiskPages>) {
    let look = move || {
        while let Some(pages) = pages.upgrade() {
            pages.maintain();
            drop(pages);
            std::thread::sleep(MAINTAIN_INTERVAL);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("cache-folders".to_owned()).spawn(look) {
        tracing::warn!(%error, "cache folders are not looked after: those that fail stay out until a restart");
    }
}
