//! Bytes to columns: storage, the page tier, decoding, the chunk tier.
//!
//! ```text
//!   Cache::footer ──> footer cache ──┐
//!   Cache::scan ──> chunk tier ──> decode (CPU pool) <── page tier ──> UFS
//! ```
//!
//! | module | part |
//! |---|---|
//! | [`key`] | identities: generations, files, pages, row groups |
//! | [`ufs`] | storage: listing, ranged reads pinned to a generation |
//! | [`page`] | raw bytes, in pages |
//! | `footer`, [`schema`] | what files say about themselves; one schema of many |
//! | `dialect`, `decode`, `adapt` | Parquet to Arrow as pyarrow reads it; bytes in, arrays out |
//! | [`chunk`] | decoded columns |
//! | [`scan`] | row groups to a stream of batches |
//! | [`export`] | batches to a Parquet file, for the command line |
//!
//! Architecture invariant: modules name only those before them in `key < ufs < page < chunk < scan`; `decode` does no
//! I/O; nothing here knows of mounts' names, datasets or clients beyond the text that errors carry.

pub mod chunk;
pub mod export;
pub mod key;
pub mod page;
pub mod scan;
pub mod schema;
pub mod ufs;

mod adapt;
mod decode;
mod dialect;
mod error;
mod footer;
mod limits;
mod pages;
mod pool;
#[cfg(test)]
mod tests;
mod thrift;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::Schema;
use futures::stream::BoxStream;

use self::chunk::memory::MemoryChunks;
use self::footer::FooterCache;
use self::key::{FileId, RowGroup};
use self::page::{MemoryPages, OpenFile, PageConfig, PageTier};
use self::pool::CpuPool;
use self::scan::{Engine, Residency, ScanBatch, ScanRequest};

pub use self::error::ReadError;
pub use self::footer::{ColumnStatistics, Footer, RowGroupInfo};
pub use self::limits::ReadLimits;

/// How much the cache may hold and use.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Bytes for raw pages and decoded chunks together, half for each. Default 1 GiB.
    pub memory_bytes: u64,
    /// Bytes for footers. Default 64 MiB.
    pub footer_bytes: u64,
    /// Bytes that one scan may hold ahead of its reader; a single row group's raw bytes may go over it. Default 128 MiB.
    pub read_ahead_bytes: u64,
    /// Threads that decode; 0, the default, means one for each core.
    pub decode_threads: usize,
    /// Pages and runs.
    pub page: PageConfig,
    /// What files may ask for.
    pub limits: ReadLimits,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            footer_bytes: 64 << 20,
            read_ahead_bytes: 128 << 20,
            decode_threads: 0,
            page: PageConfig::default(),
            limits: ReadLimits::default(),
        }
    }
}

/// What the cache holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Bytes of raw pages.
    pub raw_bytes: u64,
    /// Bytes of decoded chunks.
    pub decoded_bytes: u64,
    /// Bytes of footers.
    pub footer_bytes: u64,
}

/// The decoding threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the decoding threads cannot be started")]
pub struct StartError(#[from] rayon::ThreadPoolBuildError);

/// Reads Parquet files through their tiers. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Cache {
    engine: Arc<Engine>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    /// Where the decoding threads cannot be started.
    pub fn new(config: CacheConfig) -> Result<Self, StartError> {
        let share = config.memory_bytes / 2;
        let engine = Engine {
            pages: PageTier::new(Arc::new(MemoryPages::new(share)), config.page),
            page_bytes_limit: config.limits.page_bytes,
            footers: FooterCache::new(config.footer_bytes, config.limits),
            chunks: Arc::new(MemoryChunks::new(share)),
            pool: CpuPool::new(config.decode_threads)?,
            read_ahead_bytes: config.read_ahead_bytes,
        };
        Ok(Self {
            engine: Arc::new(engine),
        })
    }

    /// What a file says about itself, read once a generation.
    ///
    /// # Errors
    /// Where storage fails, the file has changed, or its footer is damaged or over the limits.
    pub async fn footer(&self, file: &OpenFile) -> Result<Arc<Footer>, ReadError> {
        self.engine.footer(file).await
    }

    /// Reads row groups as batches, in order. Must be polled on a tokio runtime.
    ///
    /// The stream ends after its first error. Dropping it stops the reading.
    pub fn scan(&self, request: ScanRequest) -> BoxStream<'static, Result<ScanBatch, ReadError>> {
        scan::scan(Arc::clone(&self.engine), request)
    }

    /// Where the columns of `read` are now, for some row groups of files: the tier of the worst placed. Nothing is read, and
    /// nothing counts as touched.
    pub async fn residency(&self, files: &[(&OpenFile, Vec<RowGroup>)], read: &Schema) -> Residency {
        let mut worst = Residency::Decoded;
        for (file, row_groups) in files {
            worst = worst.min(self.engine.residency(file, row_groups, read).await);
            if worst == Residency::None {
                break;
            }
        }
        worst
    }

    /// The tier of raw pages.
    pub fn pages(&self) -> &PageTier {
        &self.engine.pages
    }

    /// Drops pages and chunks of one generation of a file.
    pub fn remove_file(&self, file: FileId) {
        self.engine.pages.remove_file(file);
        self.engine.chunks.remove_file(file);
    }

    /// What is held now.
    pub fn usage(&self) -> CacheUsage {
        CacheUsage {
            raw_bytes: self.engine.pages.bytes(),
            decoded_bytes: self.engine.chunks.bytes(),
            footer_bytes: self.engine.footers.bytes(),
        }
    }
}
