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
//! | [`budget`], [`policy`], [`retention`] | how much memory is held, what goes first, what may be kept |
//! | [`scan`] | row groups to a stream of batches |
//! | [`raw`] | row groups to small Parquet files, for readers that decode, and what these make of them |
//! | [`preload`] | row groups into the tiers before anybody reads them; what is held against what storage has |
//! | [`export`] | batches to a Parquet file, for the command line |
//!
//! Architecture invariant: modules name only those before them in `key < ufs < page < chunk < scan`; `decode` does no
//! I/O; nothing here knows of mounts' names, datasets or clients beyond the text that errors carry.

pub mod budget;
pub mod chunk;
pub mod export;
pub mod key;
pub mod page;
pub mod policy;
pub mod preload;
pub mod raw;
pub mod retention;
pub mod scan;
pub mod schema;
pub mod ufs;

mod adapt;
mod contents;
mod counters;
mod decode;
mod dialect;
mod error;
mod flights;
mod folders;
mod footer;
mod limits;
mod pages;
mod pool;
#[cfg(test)]
mod tests;
mod thrift;
mod unkept;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use bytes::Bytes;
use futures::stream::BoxStream;

use self::budget::{Budget, Purpose};
use self::chunk::{ChunkTier, Segment};
use self::flights::Flights;
use self::footer::FooterCache;
use self::key::{FileId, RowGroup};
use self::page::{DiskError, MemoryPages, OpenFile, PageConfig, PageStore, PageTier};
use self::pool::CpuPool;
use self::raw::Raw;
use self::retention::{Keep, Retention, Retentions};
use self::scan::{Engine, Later, PausableScan, Pause, Poison, Residency, ScanBatch, ScanRequest, Warmth};

pub use self::contents::{HeldColumn, HeldFile, HeldParts};
pub use self::error::ReadError;
pub use self::folders::spare_bytes;
pub use self::footer::{ColumnStatistics, Footer, RowGroupInfo, first_footer_bytes};
pub use self::limits::ReadLimits;
pub use self::preload::{Brought, Capacity, Unkept, Verified, Want};

/// How much the cache may hold and use.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The byte budget: decoded chunks, scans under way, and raw pages where these are kept in memory. Default 1 GiB.
    pub memory_bytes: u64,
    /// Folders on local disks for raw pages. None, the default, keeps pages in memory.
    pub folders: Vec<CacheFolder>,
    /// Bytes for parsed footers; as they are stored, those that peers gave have 64 MiB besides. Default 64 MiB.
    pub footer_bytes: u64,
    /// Bytes that one scan may hold ahead of its reader, and an eighth of the budget at most; a single row group's raw
    /// bytes may go over it. Default 128 MiB.
    pub read_ahead_bytes: u64,
    /// Threads that decode; 0, the default, means one for each core.
    pub decode_threads: usize,
    /// Pages and runs.
    pub page: PageConfig,
    /// What files may ask for.
    pub limits: ReadLimits,
}

/// A folder of the disk cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFolder {
    /// Where it is; made if it is not there.
    pub path: PathBuf,
    /// How many bytes it may hold. None: a quarter of what is free on its disk, with what it holds already.
    pub capacity_bytes: Option<u64>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            folders: Vec::new(),
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

/// Decoded chunks may take one part in this many of the budget.
const CHUNK_SHARE: u64 = 2;
/// Raw pages in memory may take one part in this many.
const PAGE_SHARE: u64 = 4;
/// Loads from storage that are under way have one part in this many, set aside, and so have pages on their way to disk.
const LOAD_SHARE: u64 = 8;
/// One scan may hold one part in this many ahead of its reader, so that a few stalled readers do not hold it all.
const SCAN_SHARE: u64 = 8;

/// A number of bytes as gauges want it. A float is exact up to 2^53, which no machine has.
#[must_use]
pub fn gauge(bytes: u64) -> f64 {
    let half = |bits: u64| u32::try_from(bits).map_or(0.0, f64::from);
    half(bytes >> 32) * 4_294_967_296.0 + half(bytes & u64::from(u32::MAX))
}

/// Why a cache could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The decoding threads could not be started.
    #[error("the decoding threads cannot be started")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A folder of the disk cache cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The space of a folder's disk could not be asked for.
    #[error("the free space of cache folder {} is not known; give the folder a size", path.display())]
    Space {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

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
    /// A cache as its folders left it; blocks while they are looked through.
    ///
    /// # Errors
    /// Where the decoding threads cannot be started or a folder cannot be used.
    pub fn open(config: CacheConfig) -> Result<Self, OpenError> {
        let room_bytes = config.page.max_inflight_bytes.min(config.memory_bytes / LOAD_SHARE);
        let unwritten_bytes = config.page.max_unwritten_bytes.min(config.memory_bytes / LOAD_SHARE);
        // What loads take is not to be had by anybody else, so it is no part of what can be reserved.
        let budget = Budget::new(config.memory_bytes - room_bytes - unwritten_bytes);
        let retentions = Retentions::default();
        let chunks = ChunkTier::new(config.memory_bytes / CHUNK_SHARE, budget.clone(), retentions.clone());
        budget.register(Arc::new(chunks.clone()));
        let page = PageConfig {
            max_inflight_bytes: room_bytes,
            max_unwritten_bytes: unwritten_bytes,
            ..config.page
        };
        let store = folders::open(&config.folders, page.page_size_bytes, &retentions)?;
        let store: Arc<dyn PageStore> = match store {
            Some(disk) => disk,
            None => {
                let capacity_bytes = config.memory_bytes / PAGE_SHARE;
                let budget_of_pages = budget.clone();
                let memory = MemoryPages::new(
                    page.page_size_bytes,
                    capacity_bytes,
                    budget_of_pages,
                    retentions.clone(),
                );
                budget.register(Arc::new(memory.clone()));
                Arc::new(memory)
            }
        };
        let engine = Engine {
            pages: PageTier::new(store, page, retentions.clone())?,
            page_bytes_limit: config.limits.page_bytes,
            footers: FooterCache::new(config.footer_bytes, config.limits),
            chunks,
            loads: Flights::default(),
            poison: Poison::new(),
            pool: CpuPool::decoding(config.decode_threads)?,
            behind: CpuPool::behind("decode-behind")?,
            later: Later::default(),
            read_ahead_bytes: config.read_ahead_bytes.min(config.memory_bytes / SCAN_SHARE),
            budget,
            retentions,
            needed_bytes: AtomicU64::new(0),
            open_scans: AtomicUsize::new(0),
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

    /// A footer as it is stored, from its first byte to the end of the file, for another node that plans. The pages that it is
    /// read from are kept, and it is kept parsed, since whoever plans sends readers here.
    ///
    /// # Errors
    /// As [`Cache::footer`], and [`ReadError::LimitExceeded`] where it is longer than `most_bytes`. What it says itself is not
    /// looked at: whoever parses it finds out.
    pub async fn stored_footer(&self, file: &OpenFile, most_bytes: u64) -> Result<Bytes, ReadError> {
        self.engine.stored_footer(file, most_bytes).await
    }

    /// The same where its pages are held here; nobody is asked for it.
    ///
    /// # Errors
    /// As [`Cache::stored_footer`], of what is held.
    pub async fn held_footer(&self, file: &OpenFile, most_bytes: u64) -> Result<Option<Bytes>, ReadError> {
        let engine = &self.engine;
        engine.footers.stored_here(file, &engine.pages, most_bytes).await
    }

    /// Reads row groups as batches, in order. Must be polled on a tokio runtime.
    ///
    /// The stream ends after its first error. Dropping it stops the reading.
    pub fn scan(&self, request: ScanRequest) -> BoxStream<'static, Result<ScanBatch, ReadError>> {
        scan::scan(Arc::clone(&self.engine), request)
    }

    /// The same, and a way to let go of all that it holds while nobody reads it.
    pub fn pausable_scan(&self, request: ScanRequest) -> (PausableScan, Pause) {
        PausableScan::new(Arc::clone(&self.engine), request)
    }

    /// The same answer as row groups in the bytes that are stored, where these can say it in files of at most
    /// `most_bytes`. Reads the footers of all files.
    ///
    /// # Errors
    /// As [`Cache::footer`].
    pub async fn raw(&self, request: &ScanRequest, most_bytes: u64) -> Result<Raw, ReadError> {
        raw::plan(&self.engine, request, most_bytes).await
    }

    /// How much of the same answer is decoded already, or would be kept by a scan. Reads the footers of all files; nothing counts
    /// as touched.
    ///
    /// # Errors
    /// As [`Cache::footer`].
    pub async fn warmth(&self, request: &ScanRequest) -> Result<Warmth, ReadError> {
        Warmth::of(&self.engine, request).await
    }

    /// Runs work of milliseconds on the threads that decode, in turn with what they do. Work whose caller has gone is not
    /// begun.
    ///
    /// # Errors
    /// Work that panics.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReadError> {
        let done = self.engine.pool.run(work).await;
        done.map_err(|panic| ReadError::internal(panic.to_string()))
    }

    /// Where the columns of `read` are now, for some row groups of files: the tier of the worst placed. Nothing is read, and
    /// nothing counts as touched.
    pub async fn residency(&self, files: &[(&OpenFile, Vec<RowGroup>)], read: &Schema) -> Residency {
        self.engine.residency(files, read).await
    }

    /// Keeps what was read and waits to be kept, since the process is about to end. To be waited for as long as there is time.
    pub async fn settle(&self) {
        self.engine.pages.settle().await;
    }

    /// What files may ask for here.
    #[must_use]
    pub fn limits(&self) -> &ReadLimits {
        self.engine.footers.limits()
    }

    /// The tier of raw pages.
    pub fn pages(&self) -> &PageTier {
        &self.engine.pages
    }

    /// The shared memory that all bytes of a buffer are in, and where in it they begin; none for what was decoded for one
    /// reader alone. Whoever holds the segment keeps its bytes in memory and charged to the budget, evicted or not.
    #[must_use]
    pub fn segment_of(&self, buffer: &Buffer) -> Option<(Arc<Segment>, u64)> {
        self.engine.chunks.segment_of(buffer)
    }

    /// All of the budget that can be reserved, in bytes: what was configured, less what is set aside for loads.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.engine.budget.capacity_bytes()
    }

    /// The byte budget, for whatever else the process holds much of.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.engine.budget
    }

    /// Sets the gauges of what is held; to be called now and then.
    pub fn publish(&self) {
        let budget = &self.engine.budget;
        metrics::gauge!("jetbridge_cache_budget_bytes").set(gauge(budget.capacity_bytes()));
        for purpose in Purpose::ALL {
            metrics::gauge!("jetbridge_cache_budget_used_bytes", "purpose" => purpose.as_str())
                .set(gauge(budget.used_bytes(purpose)));
        }
        let usage = self.usage();
        for (tier, bytes) in [
            ("page", usage.raw_bytes),
            ("chunk", usage.decoded_bytes),
            ("footer", usage.footer_bytes),
        ] {
            metrics::gauge!("jetbridge_cache_held_bytes", "tier" => tier).set(gauge(bytes));
        }
        let needed = self.engine.needed_bytes.load(Ordering::Relaxed);
        if needed > 0 {
            let spared = needed.saturating_sub(self.engine.pages.fetched_bytes());
            metrics::gauge!("jetbridge_cache_spared_ratio").set(gauge(spared) / gauge(needed));
        }
    }

    /// Says what may be kept of which files from now on, and drops what is beyond it. What was on its way in this moment goes
    /// with the next [`Cache::expire`].
    pub async fn set_retention(&self, retentions: Vec<Retention>) {
        self.engine.retentions.set(retentions);
        self.engine.chunks.rescope();
        self.engine.pages.rescope().await;
        if self.expiry_interval().is_some() {
            self.expire().await;
        }
    }

    /// Drops the file versions whose time is over, or of which nothing is to be kept.
    pub async fn expire(&self) {
        let cache = Self {
            engine: Arc::clone(&self.engine),
        };
        // A walk over all that is held takes milliseconds at least; one that panicked found nothing.
        let over = tokio::task::spawn_blocking(move || cache.over()).await;
        for file in over.unwrap_or_default() {
            counters::expired();
            self.remove_file(file).await;
        }
    }

    /// The file versions whose time is over.
    fn over(&self) -> Vec<FileId> {
        let now = SystemTime::now();
        let is_over = |file: &HeldFile| {
            // A clock that was set back makes things younger, and they go later.
            let age = now.duration_since(file.since).unwrap_or_default();
            let terms = self.engine.retentions.of(&file.key.uri);
            match terms.keep {
                Keep::Never => true,
                Keep::OnReuse(_) if terms.pinned_raw || terms.pinned_decoded => false,
                Keep::OnReuse(longest) => longest.is_some_and(|longest| age >= longest),
                Keep::AtOnce => false,
            }
        };
        let held = self.held_files();
        held.into_iter().filter(is_over).map(|file| file.key.id()).collect()
    }

    /// How often [`Cache::expire`] is due: a tenth of the shortest time that was said, within 1 s and 1 min. None while
    /// there is nothing to do.
    #[must_use]
    pub fn expiry_interval(&self) -> Option<Duration> {
        let shortest = self.engine.retentions.shortest()?;
        Some((shortest / 10).clamp(Duration::from_secs(1), Duration::from_secs(60)))
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
