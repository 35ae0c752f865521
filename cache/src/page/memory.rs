//! Pages in this process's memory, by moka, within a number of bytes.
//!
//! Why each page is copied when it is put: it arrives as a slice of a run of up to 16 MiB, and one page kept would keep
//! all of the run. The copy is a small part of what fetching the page cost, and makes the budget true.

use bytes::Bytes;
use moka::sync::Cache;

use super::PageStore;
use crate::key::{FileId, PageIndex, Source};

/// What one page takes besides its bytes: key, entry and the policy's records. An estimate, on the safe side.
const PAGE_OVERHEAD_BYTES: u32 = 256;

/// Pages in memory.
pub struct MemoryPages {
    pages: Cache<(FileId, PageIndex), Bytes>,
}

impl MemoryPages {
    /// Room for so many bytes, with what keeping them takes. 0 keeps nothing.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let pages = Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|_, bytes: &Bytes| {
                u32::try_from(bytes.len())
                    .unwrap_or(u32::MAX)
                    .saturating_add(PAGE_OVERHEAD_BYTES)
            })
            .support_invalidation_closures()
            .build();
        Self { pages }
    }
}

impl PageStore for MemoryPages {
    fn get(&self, file: FileId, page: PageIndex) -> Option<Bytes> {
        self.pages.get(&(file, page))
    }

    fn contains(&self, file: FileId, page: PageIndex) -> bool {
        self.pages.contains_key(&(file, page))
    }

    fn put(&self, file: FileId, page: PageIndex, bytes: Bytes) {
        self.pages.insert((file, page), Bytes::copy_from_slice(&bytes));
    }

    fn remove_file(&self, file: FileId) {
        if let Err(error) = self.pages.invalidate_entries_if(move |(of, _), _| *of == file) {
            // Unreachable while the builder above allows predicates; pages of old versions are only evicted later.
            tracing::warn!(%error, "pages of a file were not dropped");
        }
    }

    fn bytes(&self) -> u64 {
        self.pages.run_pending_tasks();
        self.pages.weighted_size()
    }

    fn source(&self) -> Source {
        Source::Memory
    }
}
