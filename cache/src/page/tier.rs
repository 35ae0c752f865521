//! Reads through the page tier: what is held is taken, what is missing is fetched in few requests and kept.
//!
//! The bytes that a load brought are handed to its readers from the load itself, not from the store of pages: a store
//! may refuse or drop a page at once. A range that lies within one run or one page is a slice of it.
//!
//! A file of a weak generation is loaded whole, in one request, and a read that needs that takes all of its bytes from
//! it: two answers of such a file may be of two versions, though they carry one name.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future;
use rayon::ThreadPoolBuildError;
use tokio::sync::Semaphore;

use super::PageStore;
use super::keeping::{Keeping, Load};
use super::reading::Reading;
use super::runs::{bytes_of, coalesce, pages_of};
use crate::counters::{self, Lookups, Tally, Tier};
use crate::flights::{Boarding, Flight, Flights};
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64, to_usize};
use crate::pool::CpuPool;
use crate::retention::{Keep, Retentions};
use crate::ufs::{Operation, Subject, Ufs, UfsError, UfsErrorKind};

/// One version of one file, and where to read it.
#[derive(Debug, Clone)]
pub struct OpenFile {
    /// The mount's storage.
    pub ufs: Ufs,
    /// The path relative to the mount.
    pub path: String,
    /// Which version.
    pub key: FileKey,
}

/// Sizes and limits of the page tier, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageConfig {
    /// One page. Default 4 KiB: of TPC-H's lineitem in row groups of 107,000 rows, two columns cost at most 1.31 times
    /// their bytes, whichever they are; with 64 KiB, 73 of the 120 pairs cost over 1.3 times, up to 4 times. Small pages
    /// cost no request more, a slot of 16 bytes each, and time at a start.
    pub page_size_bytes: u64,
    /// Missing pages this close to each other are fetched with what lies between, as long as that is no more than a fifth
    /// of what the request is for. Default 1 MiB.
    pub max_gap_bytes: u64,
    /// One request asks for no more. Default 16 MiB.
    pub max_run_bytes: u64,
    /// Loads in flight, all together; further ones wait. A load larger than this goes alone. Default 256 MiB.
    pub max_inflight_bytes: u64,
    /// Bytes that wait to be kept; what comes while so many do is not kept, so that a slow disk slows no read. Default
    /// 256 MiB.
    pub max_unwritten_bytes: u64,
    /// The largest file that is read whole because its store gives no strong generation. Default 1 GiB.
    pub max_whole_file_bytes: u64,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self {
            page_size_bytes: 4 << 10,
            max_gap_bytes: 1 << 20,
            max_run_bytes: 16 << 20,
            max_inflight_bytes: 256 << 20,
            max_unwritten_bytes: 256 << 20,
            max_whole_file_bytes: 1 << 30,
        }
    }
}

/// The page tier. Cheap to clone; clones are one tier.
#[derive(Clone)]
pub struct PageTier(Arc<Inner>);

struct Inner {
    store: Arc<dyn PageStore>,
    config: PageConfig,
    flights: Flights<(FileId, PageIndex), Landed>,
    in_flight: Room,
    unwritten: Room,
    keeping: Keeping,
    /// Keeps pages while few wait, when the processor has nothing better to do: a reader's time comes first.
    keeper: CpuPool,
    retentions: Retentions,
    fetched_bytes: AtomicU64,
}

/// Room for some bytes; they are counted in KiB.
struct Room {
    free: Semaphore,
    all_kib: u32,
}

impl Room {
    fn new(bytes: u64) -> Self {
        let all_kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
        let free = Semaphore::new(to_usize(u64::from(all_kib)).min(Semaphore::MAX_PERMITS));
        Self { free, all_kib }
    }

    /// Permits for so many bytes; what is larger than the room takes all of it.
    fn share(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(self.all_kib)
    }

    fn is_half_taken(&self) -> bool {
        self.free.available_permits() < to_usize(u64::from(self.all_kib / 2))
    }
}

/// What a load brings.
type Landed = Result<Arc<Run>, UfsError>;

/// Bytes of a file that one request brought.
#[derive(Debug)]
struct Run {
    /// Where in the file they begin.
    offset: u64,
    bytes: Bytes,
}

/// How often a read asks the store of pages again for what was held when it looked and gone when it took; after that, it
/// loads without asking.
const LOOKS: usize = 3;

impl PageTier {
    /// A tier over a store of pages. A page size of 0 is taken for 1.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub(crate) fn new(
        store: Arc<dyn PageStore>,
        mut config: PageConfig,
        retentions: Retentions,
    ) -> Result<Self, ThreadPoolBuildError> {
        config.page_size_bytes = config.page_size_bytes.max(1);
        Ok(Self(Arc::new(Inner {
            in_flight: Room::new(config.max_inflight_bytes),
            unwritten: Room::new(config.max_unwritten_bytes),
            store,
            config,
            flights: Flights::default(),
            keeping: Keeping::default(),
            keeper: CpuPool::behind("keep-pages")?,
            retentions,
            fetched_bytes: AtomicU64::new(0),
        })))
    }

    /// Reads ranges of one file version, in the order asked for; they may overlap, and may be empty. With them comes the
    /// worst place that any byte came from. Dropping the future does not stop loads that it began.
    ///
    /// # Errors
    /// A range outside the file; and what the under file system says, of the first load that fails.
    pub async fn read(&self, file: &OpenFile, ranges: &[Range<u64>]) -> Result<(Vec<Bytes>, Source), UfsError> {
        check_ranges(file, ranges)?;
        let mut reading = Reading::new(file, self.0.config.page_size_bytes, ranges);
        for look in 0..=LOOKS {
            let missing = reading.missing();
            if missing.is_empty() {
                break;
            }
            let plan = self.0.plan(file, reading.id, &missing, look < LOOKS)?;
            let (held, runs) = future::join(
                self.0.take_held(reading.id, plan.held),
                future::try_join_all(plan.flights.into_iter().map(|flight| landed(flight, file))),
            )
            .await;
            let hits = reading.add_held(held, self.0.store.source());
            counters::read_bytes(self.0.store.source(), hits.bytes);
            Lookups { hits, ..plan.lookups }.count(Tier::Page, file.ufs.mount_id());
            for run in runs? {
                reading.add_loaded(run.offset, &run.bytes);
            }
        }
        let read = ranges.iter().map(|range| reading.assemble(range));
        let read = read.collect::<Option<Vec<_>>>().ok_or_else(|| lost(file))?;
        Ok((read, reading.source))
    }

    /// Whether every page of a range of a file version is held.
    #[must_use]
    pub fn holds(&self, file: &OpenFile, range: &Range<u64>) -> bool {
        let id = file.key.id();
        let pages = pages_of(std::slice::from_ref(range), self.0.config.page_size_bytes);
        pages.iter().all(|&page| self.0.store.contains(id, page))
    }

    /// Drops every page of a file version, and says how many bytes that was; what is being loaded now is not kept.
    pub async fn remove_file(&self, file: FileId) -> u64 {
        self.0.keeping.remove(file);
        let store = Arc::clone(&self.0.store);
        self.0.unblocked(move || store.remove_file(file)).await.unwrap_or(0)
    }

    /// How many bytes of pages of a file version are held now.
    #[must_use]
    pub fn held_bytes(&self, file: FileId) -> u64 {
        self.0.store.held_bytes(file)
    }

    /// How many bytes of a range of a file version are held as pages now.
    #[must_use]
    pub fn held_in(&self, file: &FileKey, range: &Range<u64>) -> u64 {
        let (id, size) = (file.id(), self.0.config.page_size_bytes);
        let pages = pages_of(std::slice::from_ref(range), size);
        let held = pages.into_iter().filter(|page| self.0.store.contains(id, *page));
        let within = held.map(|page| bytes_of(&(page..PageIndex(page.0 + 1)), size, file.size));
        within
            .map(|page| page.end.min(range.end) - page.start.max(range.start))
            .sum()
    }

    /// How many bytes storage was asked for so far.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.0.fetched_bytes.load(Ordering::Relaxed)
    }

    /// When the first page came that is held of a file version.
    #[must_use]
    pub fn held_since(&self, file: FileId) -> Option<SystemTime> {
        self.0.store.held_since(file)
    }

    /// Drops what is beyond quotas that were set anew.
    pub(crate) async fn rescope(&self) {
        let store = Arc::clone(&self.0.store);
        self.0.unblocked(move || store.rescope()).await;
    }

    /// The file versions that pages are held of, as far as their names are known.
    #[must_use]
    pub fn files(&self) -> Vec<FileKey> {
        self.0.store.files()
    }

    /// How many bytes of pages are held now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.store.bytes()
    }

    /// The sizes and limits that hold.
    #[must_use]
    pub fn config(&self) -> &PageConfig {
        &self.0.config
    }
}

/// Where missing pages are to come from.
#[derive(Default)]
struct Plan {
    /// Pages that the store holds.
    held: Vec<PageIndex>,
    flights: Vec<Flight<Landed>>,
    lookups: Lookups,
}

impl Inner {
    /// Finds loads in flight for the missing pages, and begins others for those that the store, where it is to be asked,
    /// does not hold.
    fn plan(
        self: &Arc<Self>,
        file: &OpenFile,
        id: FileId,
        missing: &[PageIndex],
        ask_store: bool,
    ) -> Result<Plan, UfsError> {
        let is_held = |page: &PageIndex| ask_store && self.store.contains(id, *page);
        if !file.key.generation.is_strong() {
            return match missing.iter().all(is_held) {
                true => Ok(Plan {
                    held: missing.to_vec(),
                    ..Plan::default()
                }),
                false => self.plan_whole(file, id, missing),
            };
        }
        Ok(self.flights.board(|boarding| {
            let mut plan = Plan::default();
            let mut absent = Vec::new();
            for &page in missing {
                let bytes = self.page_bytes(file, page);
                match boarding.bound_for(&(id, page)) {
                    Some(flight) => {
                        plan.lookups.coalesced.add(bytes);
                        plan.lookups.misses.add(bytes);
                        plan.flights.push(flight);
                    }
                    None if is_held(&page) => plan.held.push(page),
                    None => {
                        plan.lookups.misses.add(bytes);
                        absent.push(page);
                    }
                }
            }
            plan.flights.dedup_by(|a, b| a.is(b));
            let is_absent = |page: &PageIndex| !is_held(page) && boarding.bound_for(&(id, *page)).is_none();
            for run in coalesce(&absent, is_absent, &self.config) {
                // What lies in gaps comes too, so whoever wants it meanwhile waits for it.
                let keys = (run.start.0..run.end.0).map(|page| (id, PageIndex(page))).collect();
                let bytes = bytes_of(&run, self.config.page_size_bytes, file.key.size);
                plan.flights.push(self.begin(boarding, file, keys, bytes));
            }
            plan
        }))
    }

    /// The whole file, in one request, for every page of this read.
    fn plan_whole(self: &Arc<Self>, file: &OpenFile, id: FileId, missing: &[PageIndex]) -> Result<Plan, UfsError> {
        let (size, limit) = (file.key.size, self.config.max_whole_file_bytes);
        if size > limit {
            let reason = format!(
                "the store gives no strong ETag or version id, so the file must be read whole, and its {size} bytes are \
                 more than the limit of {limit}"
            );
            return Err(UfsError::new(UfsErrorKind::Other, subject(file), reason));
        }
        let first = (id, PageIndex(0));
        let mut needed = Tally::default();
        missing.iter().for_each(|&page| needed.add(self.page_bytes(file, page)));
        let (flight, coalesced) = self.flights.board(|boarding| match boarding.bound_for(&first) {
            Some(flight) => (flight, needed),
            None => (self.begin(boarding, file, vec![first], 0..size), Tally::default()),
        });
        Ok(Plan {
            held: Vec::new(),
            flights: vec![flight],
            lookups: Lookups {
                hits: Tally::default(),
                misses: needed,
                coalesced,
            },
        })
    }

    /// Begins to load bytes of a file (whole pages), and to keep them once they are there.
    fn begin(
        self: &Arc<Self>,
        boarding: &mut Boarding<'_, (FileId, PageIndex), Landed>,
        file: &OpenFile,
        keys: Vec<(FileId, PageIndex)>,
        bytes: Range<u64>,
    ) -> Flight<Landed> {
        let load = Arc::clone(self).load(file.clone(), bytes);
        let (tier, key) = (Arc::clone(self), file.key.clone());
        let underway = self.keeping.begin(key.id());
        boarding.begin(keys, load, move |landed| tier.keep(key, landed, underway))
    }

    /// Bytes that a page of a file has.
    fn page_bytes(&self, file: &OpenFile, page: PageIndex) -> u64 {
        let bytes = bytes_of(
            &(page..PageIndex(page.0 + 1)),
            self.config.page_size_bytes,
            file.key.size,
        );
        bytes.end - bytes.start
    }

    async fn load(self: Arc<Self>, file: OpenFile, bytes: Range<u64>) -> Landed {
        // An error would mean that the semaphore was closed, which nobody does.
        let room = &self.in_flight;
        let _share = room.free.acquire_many(room.share(bytes.end - bytes.start)).await.ok();
        let offset = bytes.start;
        let read = file.ufs.get_range(&file.path, &file.key, bytes).await;
        // It was there when it was planned: gone since then is changed since then.
        let bytes = read.map_err(|error| match error.kind() {
            UfsErrorKind::NotFound => UfsError::gone(subject(&file), &file.key.generation),
            _ => error,
        })?;
        counters::read_bytes(Source::Store, to_u64(bytes.len()));
        self.fetched_bytes.fetch_add(to_u64(bytes.len()), Ordering::Relaxed);
        Ok(Arc::new(Run { offset, bytes }))
    }

    /// Offers what landed to the store of pages.
    async fn keep(self: Arc<Self>, file: FileKey, landed: Landed, underway: Load) {
        let Ok(run) = landed else { return };
        if self.retentions.of(&file.uri).keep == Keep::Never {
            return;
        }
        let share = self.unwritten.share(to_u64(run.bytes.len()));
        let Ok(_share) = self.unwritten.free.try_acquire_many(share) else {
            return counters::unkept(to_u64(run.bytes.len()));
        };
        let first = PageIndex(run.offset / self.config.page_size_bytes);
        let store = Arc::clone(&self.store);
        let put = move || {
            if underway.is_wanted() {
                store.put(&file, first, &run.bytes);
            }
        };
        // Once many wait, keeping them is as urgent as anything: what finds no room is not kept, and asked for again.
        if self.store.blocks() && !self.unwritten.is_half_taken() {
            // What panicked has kept nothing, and the next read asks for it again.
            let _ = self.keeper.run(put).await;
        } else {
            self.unblocked(put).await;
        }
    }

    /// The pages, as far as they are still held.
    async fn take_held(&self, id: FileId, pages: Vec<PageIndex>) -> Vec<(PageIndex, Bytes)> {
        if pages.is_empty() {
            return Vec::new();
        }
        let store = Arc::clone(&self.store);
        self.unblocked(move || store.get(id, &pages)).await.unwrap_or_default()
    }

    /// Does a piece of work of the store where it may block; none where it panicked.
    async fn unblocked<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.store.blocks() {
            tokio::task::spawn_blocking(work).await.ok()
        } else {
            Some(work())
        }
    }
}

async fn landed(flight: Flight<Landed>, file: &OpenFile) -> Landed {
    flight.landed().await.unwrap_or_else(|| Err(lost(file)))
}

fn check_ranges(file: &OpenFile, ranges: &[Range<u64>]) -> Result<(), UfsError> {
    match ranges
        .iter()
        .find(|range| range.start > range.end || range.end > file.key.size)
    {
        None => Ok(()),
        Some(range) => {
            let reason = format!("bytes {range:?} are not within its {} bytes", file.key.size);
            Err(UfsError::new(UfsErrorKind::Other, subject(file), reason))
        }
    }
}

fn lost(file: &OpenFile) -> UfsError {
    UfsError::new(
        UfsErrorKind::Unavailable,
        subject(file),
        "the load of its pages died; a new read begins another",
    )
}

fn subject(file: &OpenFile) -> Subject {
    Subject {
        mount: file.ufs.mount().into(),
        object: file.path.clone(),
        operation: Operation::Get,
    }
}
