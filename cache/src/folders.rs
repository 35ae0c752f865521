//! The folders of the disk cache: how much each may hold, and the thread that looks after them.

use std::path::Path;
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
                None => spare_bytes(&folder.path)?,
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

/// The share of the disk's free space, what the folder holds already counted as free.
fn spare_bytes(path: &Path) -> Result<u64, OpenError> {
    let failed = |source| OpenError::Space {
        path: path.to_owned(),
        source,
    };
    std::fs::create_dir_all(path).map_err(failed)?;
    let disk = statvfs(path).map_err(|error| failed(error.into()))?;
    let held = held_bytes(path).map_err(failed)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(held) / FREE_SHARE)
}

/// Bytes that the files below a folder take on disk.
fn held_bytes(path: &Path) -> std::io::Result<u64> {
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
