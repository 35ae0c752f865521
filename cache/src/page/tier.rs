//! Reads through the page tier: what is held is taken, what is missing is fetched in few requests and kept.
//!
//! The bytes that a load brought are handed to its readers from the load itself, not from the store of pages: a store
//! may refuse or drop a page at once. A range that lies within one run or one page is a slice of it.
//!
//! A file of a weak generation is loaded whole, in one request, and a read that needs that takes all of its bytes from
//! it: two answers of such a file may be of two versions, though they carry one name.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future;
use rayon::ThreadPoolBuildError;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::errand::Errand;
use super::keeping::Keeping;
use super::loading::{Haste, Landed, Run, Wanted, landed, stopped};
use super::reading::Reading;
use super::runs::{bytes_of, coalesce, span_of};
use super::{PageStore, Peers};
use crate::counters::{self, Lookups, Tally, Tier};
use crate::flights::{Flight, Flights};
use crate::key::{FileId, FileKey, PageIndex, Source, to_usize};
use crate::pool::CpuPool;
use crate::retention::Retentions;
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
    /// Who is asked for bytes before storage is; none where nobody else may have them. A file of a weak generation is never
    /// asked of them: their bytes may be of another version.
    pub peers: Option<Arc<dyn Peers>>,
    /// What it is read for, where nobody waits for that; none for readers.
    pub errand: Option<Arc<Errand>>,
}

/// Sizes and limits of the page tier, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageConfig {
    /// One page. Default 4 KiB: of TPC-H's lineitem in row groups of 107,000 rows, two columns cost at most 1.31 times
    /// their bytes, whichever they are; with 64 KiB, 73 of the 120 pairs cost over 1.3 times, up to 4 times. Small pages
    /// cost no request more, a slot of 16 bytes each, and time at a start.
    pub page_size_bytes: u64,
    /// Missing pages this close to each other are fetched with what lies between, as long as that is no more than a fifth
    /// of what the request is for; for a preload 64 KiB at most. Default 1 MiB.
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
pub struct PageTier(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn PageStore>,
    pub(super) config: PageConfig,
    pub(super) flights: Flights<(FileId, PageIndex), Landed>,
    pub(super) in_flight: Room,
    /// The part of it that loads of errands may take.
    pub(super) errands: Room,
    pub(super) unwritten: Room,
    pub(super) keeping: Keeping,
    /// Keeps pages while few wait, when the processor has nothing better to do: a reader's time comes first.
    pub(super) keeper: CpuPool,
    /// Cancelled when the process is about to end: then what waits to be kept waits no longer.
    pub(super) ending: CancellationToken,
    pub(super) retentions: Retentions,
    pub(super) fetched_bytes: AtomicU64,
}

/// Room for some bytes; they are counted in KiB.
pub(super) struct Room {
    pub(super) free: Semaphore,
    all_kib: u32,
}

impl Room {
    fn new(bytes: u64) -> Self {
        let all_kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
        let free = Semaphore::new(to_usize(u64::from(all_kib)).min(Semaphore::MAX_PERMITS));
        Self { free, all_kib }
    }

    /// Permits for so many bytes; what is larger than the room takes all of it.
    pub(super) fn share(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(self.all_kib)
    }

    /// Whether more than one part in so many is taken.
    pub(super) fn is_taken_by(&self, parts: u32) -> bool {
        let share = self.all_kib / parts.max(1);
        self.free.available_permits() < to_usize(u64::from(self.all_kib - share))
    }
}

/// Loads of errands may take one part in this many of those in flight, so that readers always find room.
const ERRANDS_SHARE: u64 = 2;

/// How often it is looked whether all is kept, at the end.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

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
            errands: Room::new(config.max_inflight_bytes / ERRANDS_SHARE),
            unwritten: Room::new(config.max_unwritten_bytes),
            store,
            config,
            flights: Flights::new(
                |landed: &Landed| matches!(landed, Err(error) if error.kind() == UfsErrorKind::Stopped),
            ),
            keeping: Keeping::default(),
            keeper: CpuPool::behind("keep-pages")?,
            ending: CancellationToken::new(),
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
        self.read_in(Haste::of(file), file, ranges).await
    }

    /// The same, waiting for no pace of an errand.
    ///
    /// # Errors
    /// As [`PageTier::read`].
    pub(crate) async fn read_now(
        &self,
        file: &OpenFile,
        ranges: &[Range<u64>],
    ) -> Result<(Vec<Bytes>, Source), UfsError> {
        self.read_in(Haste::Urgent, file, ranges).await
    }

    async fn read_in(
        &self,
        haste: Haste,
        file: &OpenFile,
        ranges: &[Range<u64>],
    ) -> Result<(Vec<Bytes>, Source), UfsError> {
        check_ranges(file, ranges)?;
        let read = self.read_all(haste, file, ranges);
        match &file.errand {
            None => read.await,
            Some(errand) => {
                let read = errand.unless_stopped(read).await;
                read.unwrap_or_else(|| Err(stopped(file)))
            }
        }
    }

    async fn read_all(
        &self,
        haste: Haste,
        file: &OpenFile,
        ranges: &[Range<u64>],
    ) -> Result<(Vec<Bytes>, Source), UfsError> {
        let mut reading = Reading::new(&file.key, self.0.config.page_size_bytes, ranges);
        let mut looks = 0;
        while looks <= LOOKS {
            let missing = reading.missing();
            if missing.is_empty() {
                break;
            }
            let plan = self.0.plan((file, haste), reading.id, &missing, looks < LOOKS)?;
            for run in plan.arrived {
                reading.add_loaded(run.offset, &run.bytes, self.0.store.source());
            }
            counters::read_bytes(self.0.store.source(), plan.lookups.hits.bytes);
            let (held, runs) = future::join(
                self.0.take_held(reading.id, plan.held),
                future::try_join_all(plan.flights.into_iter().map(|flight| landed(flight, file))),
            )
            .await;
            let hits = reading.add_held(held, self.0.store.source());
            counters::read_bytes(self.0.store.source(), hits.bytes);
            if file.errand.is_none() {
                let mut lookups = plan.lookups;
                lookups.hits += hits;
                lookups.count(Tier::Page, file.ufs.mount_id());
            }
            let runs = runs?;
            // A load that was stopped has nothing to do with how reliable the store of pages is.
            looks += usize::from(runs.iter().all(Option::is_some));
            for run in runs.into_iter().flatten() {
                reading.add_loaded(run.offset, &run.bytes, run.source);
            }
        }
        let read = ranges.iter().map(|range| reading.assemble(range));
        let read = read.collect::<Option<Vec<_>>>().ok_or_else(|| lost(file))?;
        Ok((read, reading.source))
    }

    /// Drops every page of a file version, and says how many bytes that was; what is being loaded now is not kept.
    pub async fn remove_file(&self, file: FileId) -> u64 {
        if self.0.keeping.remove(file) {
            // Whoever asks for it from now on asks anew.
            self.0.flights.forget(|(of, _)| *of == file);
        }
        let store = Arc::clone(&self.0.store);
        self.0.unblocked(move || store.remove_file(file)).await.unwrap_or(0)
    }

    /// Keeps what waits to be kept, since the process is about to end: from now on it waits no longer than others do.
    pub async fn settle(&self) {
        self.0.ending.cancel();
        while !self.0.keeping.is_empty() {
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    /// Counts bytes that a peer gave of a file past this tier, as if they had been missed in it.
    pub(crate) fn count_given(&self, file: &OpenFile, bytes: &Range<u64>) {
        let pages = span_of(bytes, self.0.config.page_size_bytes);
        let misses = Tally {
            entries: pages.end.0 - pages.start.0,
            bytes: bytes.end - bytes.start,
        };
        counters::read_bytes(Source::Peer, misses.bytes);
        if file.errand.is_none() {
            let lookups = Lookups {
                misses,
                ..Lookups::default()
            };
            lookups.count(Tier::Page, file.ufs.mount_id());
        }
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

    /// Says anew which pages are pinned, and evicts what pins alone held beyond a capacity or a quota.
    pub(crate) async fn set_pins(&self) {
        let store = Arc::clone(&self.0.store);
        self.0.unblocked(move || store.set_pins()).await;
    }

    /// How many bytes of what is held are pinned.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.0.store.pinned_bytes()
    }

    /// Where the bytes of held pages come from.
    pub(crate) fn source(&self) -> Source {
        self.0.store.source()
    }

    /// How many bytes of files there is room for.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.0.store.capacity_bytes()
    }

    /// Drops what is beyond quotas that were set anew.
    pub(crate) async fn rescope(&self) {
        let store = Arc::clone(&self.0.store);
        self.0.unblocked(move || store.rescope()).await;
    }

    /// The file versions that pages are held of, besides these, as far as their names are known.
    #[must_use]
    pub fn files(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        self.0.store.files(besides)
    }

    /// The file versions of which pages are being loaded, or wait to be kept.
    #[must_use]
    pub fn arriving(&self) -> Vec<FileKey> {
        self.0.keeping.files()
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
    /// What came, and waits to be kept.
    arrived: Vec<Arc<Run>>,
    flights: Vec<Flight<Landed>>,
    lookups: Lookups,
}

impl Inner {
    /// Finds loads in flight for the missing pages, and begins others for those that the store, where it is to be asked,
    /// does not hold.
    fn plan(
        self: &Arc<Self>,
        (file, haste): (&OpenFile, Haste),
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
                false => self.plan_whole((file, haste), id, missing),
            };
        }
        Ok(self.flights.board(|boarding| {
            let mut plan = Plan::default();
            let mut absent = Vec::new();
            for &page in missing {
                let bytes = self.page_bytes(file, page);
                match boarding.bound_for(&(id, page)) {
                    Some(flight) if let Some(run) = arrived(&flight) => {
                        plan.lookups.hits.add(bytes);
                        plan.arrived.push(run);
                    }
                    Some(flight) => {
                        haste.hurry(&flight);
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
            plan.arrived.dedup_by(|a, b| Arc::ptr_eq(a, b));
            plan.flights.dedup_by(|a, b| a.is(b));
            let is_absent = |page: &PageIndex| !is_held(page) && boarding.bound_for(&(id, *page)).is_none();
            for run in coalesce(&absent, is_absent, &self.config_for(file)) {
                // What lies in gaps comes too, so whoever wants it meanwhile waits for it.
                let wanted = self.wanted_run(file, &run, haste);
                plan.flights.push(self.begin(boarding, file, wanted));
            }
            plan
        }))
    }

    /// The whole file, in one request, for every page of this read.
    fn plan_whole(
        self: &Arc<Self>,
        (file, haste): (&OpenFile, Haste),
        id: FileId,
        missing: &[PageIndex],
    ) -> Result<Plan, UfsError> {
        self.check_whole(file)?;
        let size = file.key.size;
        let first = (id, PageIndex(0));
        let mut needed = Tally::default();
        missing.iter().for_each(|&page| needed.add(self.page_bytes(file, page)));
        let (flight, coalesced) = self.flights.board(|boarding| match boarding.bound_for(&first) {
            Some(flight) => {
                haste.hurry(&flight);
                (flight, needed)
            }
            None => {
                let wanted = Wanted::new(vec![first], 0..size, file, haste);
                (self.begin(boarding, file, wanted), Tally::default())
            }
        });
        Ok(Plan {
            held: Vec::new(),
            arrived: Vec::new(),
            flights: vec![flight],
            lookups: Lookups {
                hits: Tally::default(),
                misses: needed,
                coalesced,
            },
        })
    }

    /// Refuses a file that is too large to be read whole.
    pub(super) fn check_whole(&self, file: &OpenFile) -> Result<(), UfsError> {
        let (size, limit) = (file.key.size, self.config.max_whole_file_bytes);
        if size > limit {
            let reason = format!(
                "the store gives no strong ETag or version id, so the file must be read whole, and its {size} bytes are \
                 more than the limit of {limit}"
            );
            return Err(UfsError::new(UfsErrorKind::Other, subject(file), reason));
        }
        Ok(())
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

    /// The pages, as far as they are still held.
    pub(super) async fn take_held(&self, id: FileId, pages: Vec<PageIndex>) -> Vec<(PageIndex, Bytes)> {
        if pages.is_empty() {
            return Vec::new();
        }
        let store = Arc::clone(&self.store);
        self.unblocked(move || store.get(id, &pages)).await.unwrap_or_default()
    }

    /// Does a piece of work of the store where it may block; none where it panicked.
    pub(super) async fn unblocked<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.store.blocks() {
            tokio::task::spawn_blocking(work).await.ok()
        } else {
            Some(work())
        }
    }
}

/// What a load brought, once it has landed.
pub(super) fn arrived(flight: &Flight<Landed>) -> Option<Arc<Run>> {
    flight.now()?.ok()
}

pub(super) fn check_ranges(file: &OpenFile, ranges: &[Range<u64>]) -> Result<(), UfsError> {
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

pub(super) fn lost(file: &OpenFile) -> UfsError {
    UfsError::new(
        UfsErrorKind::Unavailable,
        subject(file),
        "the load of its pages died; a new read begins another",
    )
}

pub(super) fn subject(file: &OpenFile) -> Subject {
    Subject {
        mount: file.ufs.mount().into(),
        object: file.path.clone(),
        operation: Operation::Get,
    }
}
