//! One load: from peers or storage, then into the store of pages.
//!
//! What a reader began is told to its waiters before it is kept, and not kept where too much waits to be written
//! already; while it waits, readers find it. Small pieces wait a moment before they are kept: they come in crowds, when
//! a plan reads the footers of a great many files, and to make files for them takes as long as all else about them.
//! What an errand began is kept first, where it demands that, and waits for room, so that whoever waits for it knows
//! that it is held. It waits for its errand's pace without holding room among the loads in flight, which is the
//! readers' too.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::errand::Errand;
use super::keeping::Load;
use super::runs::bytes_of;
use super::tier::{Inner, OpenFile, lost, subject};
use super::{PageConfig, PageStore, PageTier};
use crate::counters;
use crate::flights::{Boarding, Flight};
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64};
use crate::retention::Keep;
use crate::ufs::{UfsError, UfsErrorKind};
use crate::unkept::Unkept;

/// What a load brings.
pub(super) type Landed = Result<Arc<Run>, UfsError>;

/// Bytes of a file that one request brought.
#[derive(Debug)]
pub(super) struct Run {
    /// Where in the file they begin.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    /// A peer, or storage.
    pub(super) source: Source,
    /// Whether they were kept, where that came first.
    pub(super) kept: Option<Result<(), Unkept>>,
}

/// Whether a read waits for the pace of errands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// Its errand has a pace, and it can wait for another's.
    Leisurely,
    Urgent,
}

impl Haste {
    pub(super) fn of(file: &OpenFile) -> Self {
        match &file.errand {
            Some(errand) if errand.is_paced() => Self::Leisurely,
            _ => Self::Urgent,
        }
    }

    /// Tells a load that it is waited for.
    pub(super) fn hurry<T: Clone>(self, flight: &Flight<T>) {
        if self == Self::Urgent {
            flight.hurry();
        }
    }
}

/// A load to begin.
pub(super) struct Wanted {
    /// The pages that it is found by.
    keys: Vec<(FileId, PageIndex)>,
    /// Whole pages.
    bytes: Range<u64>,
    haste: Haste,
    /// Whether what an errand brings is kept, as a demand.
    demanded: bool,
}

impl Wanted {
    pub(super) fn new(keys: Vec<(FileId, PageIndex)>, bytes: Range<u64>, file: &OpenFile, haste: Haste) -> Self {
        Self {
            keys,
            bytes,
            haste,
            demanded: file.errand.as_ref().is_some_and(|errand| errand.keeps_raw()),
        }
    }

    /// Of an errand that keeps what it brings, whatever it does otherwise.
    pub(super) fn demanded(self) -> Self {
        Self { demanded: true, ..self }
    }
}

/// How often what was demanded asks for memory that others use, and how long it waits at first; twice as long each time.
const MEMORY_TRIES: u32 = 6;
const MEMORY_PAUSE: Duration = Duration::from_millis(10);

/// What is a small piece, in bytes: a small file, or the end of a larger one.
const SMALL_BYTES: usize = 128 << 10;
/// How long a small piece waits before it is kept on a disk, unless more than one part in so many of the room for what is not
/// written is taken: then there is more to come than can wait.
const SMALL_PATIENCE: Duration = Duration::from_millis(500);
const SMALL_PARTS: u32 = 4;
/// Once more than one part in so many of it is taken, what waits is as urgent as anything.
const URGENT_PARTS: u32 = 2;

impl Inner {
    /// Pages that follow one another, as a load.
    pub(super) fn wanted_run(&self, file: &OpenFile, run: &Range<PageIndex>, haste: Haste) -> Wanted {
        let id = file.key.id();
        let keys = (run.start.0..run.end.0).map(|page| (id, PageIndex(page))).collect();
        let bytes = bytes_of(run, self.config.page_size_bytes, file.key.size);
        Wanted::new(keys, bytes, file, haste)
    }

    /// The sizes that hold for requests of a file.
    pub(super) fn config_for(&self, file: &OpenFile) -> PageConfig {
        let mut config = self.config.clone();
        if let Some(errand) = &file.errand {
            config.max_run_bytes = errand.request_bytes(config.max_run_bytes);
        }
        config
    }

    /// Begins to load bytes of a file, and to keep them.
    pub(super) fn begin(
        self: &Arc<Self>,
        boarding: &mut Boarding<'_, (FileId, PageIndex), Landed>,
        file: &OpenFile,
        wanted: Wanted,
    ) -> Flight<Landed> {
        let (tier, key) = (Arc::clone(self), file.key.clone());
        let underway = self.keeping.begin(&key);
        let Some(errand) = file.errand.clone() else {
            let load = Arc::clone(self).load(file.clone(), wanted.bytes);
            return boarding.begin(wanted.keys, load, move |landed| tier.keep(key, landed, underway));
        };
        let urgent = CancellationToken::new();
        let (bytes, demanded) = (wanted.bytes, wanted.demanded);
        let (file, told) = (file.clone(), urgent.clone());
        if errand.keeps_by_merit() && !demanded {
            let load = Arc::clone(self).load_at_pace(errand, file, bytes, told);
            let keep = move |landed| tier.keep(key, landed, underway);
            let flight = boarding.begin_told(wanted.keys, urgent, load, keep);
            wanted.haste.hurry(&flight);
            return flight;
        }
        let load = async move {
            let load = async {
                let (mut run, room) = tier.load_for(&errand, &file, bytes, &told).await?;
                if demanded {
                    let room = Some(room);
                    run.kept = Some(tier.keep_demanded(&file.key, &run, (errand.id(), underway), room).await);
                }
                Ok(Arc::new(run))
            };
            let landed = errand.unless_stopped(load).await;
            landed.unwrap_or_else(|| Err(stopped(&file)))
        };
        let flight = boarding.begin_kept(wanted.keys, urgent, load);
        wanted.haste.hurry(&flight);
        flight
    }

    async fn load(self: Arc<Self>, file: OpenFile, bytes: Range<u64>) -> Landed {
        // An error would mean that the semaphore was closed, which nobody does.
        let room = &self.in_flight;
        let _share = room.free.acquire_many(room.share(bytes.end - bytes.start)).await.ok();
        let offset = bytes.start;
        let (bytes, source) = match ask_peers(&file, &bytes).await {
            Some(given) => (given, Source::Peer),
            None => (self.ask_storage(&file, bytes).await?, Source::Store),
        };
        counters::read_bytes(source, to_u64(bytes.len()));
        Ok(Arc::new(Run {
            offset,
            bytes,
            source,
            kept: None,
        }))
    }

    /// The same for an errand, until that is stopped.
    async fn load_at_pace(
        self: Arc<Self>,
        errand: Arc<Errand>,
        file: OpenFile,
        bytes: Range<u64>,
        urgent: CancellationToken,
    ) -> Landed {
        let load = async {
            let (run, _room) = self.load_for(&errand, &file, bytes, &urgent).await?;
            Ok(Arc::new(run))
        };
        let landed = errand.unless_stopped(load).await;
        landed.unwrap_or_else(|| Err(stopped(&file)))
    }

    /// The same, with the room among the loads in flight that it takes.
    async fn load_for(
        &self,
        errand: &Errand,
        file: &OpenFile,
        bytes: Range<u64>,
        urgent: &CancellationToken,
    ) -> Result<(Run, ErrandRoom<'_>), UfsError> {
        let (offset, length) = (bytes.start, bytes.end - bytes.start);
        let room = self.errand_room(length).await;
        if let Some(given) = ask_peers(file, &bytes).await {
            errand.count_from_peer(length);
            counters::read_bytes(Source::Peer, length);
            let run = Run {
                offset,
                bytes: given,
                source: Source::Peer,
                kept: None,
            };
            return Ok((run, room));
        }
        drop(room);
        let pass = tokio::select! {
            biased;
            () = urgent.cancelled() => errand.pass_now(length),
            pass = errand.pass(length) => pass,
        };
        let room = self.errand_room(length).await;
        pass.spend();
        let bytes = self.ask_storage(file, bytes).await?;
        errand.count_fetched(length);
        counters::read_bytes(Source::Store, length);
        let run = Run {
            offset,
            bytes,
            source: Source::Store,
            kept: None,
        };
        Ok((run, room))
    }

    /// Room among the loads in flight for one of an errand.
    pub(super) async fn errand_room(&self, bytes: u64) -> ErrandRoom<'_> {
        let (errands, all) = (&self.errands, &self.in_flight);
        ErrandRoom {
            _among_errands: errands.free.acquire_many(errands.share(bytes)).await.ok(),
            _among_all: all.free.acquire_many(all.share(bytes)).await.ok(),
        }
    }

    async fn ask_storage(&self, file: &OpenFile, bytes: Range<u64>) -> Result<Bytes, UfsError> {
        let bytes = read_storage(file, bytes).await?;
        self.fetched_bytes.fetch_add(to_u64(bytes.len()), Ordering::Relaxed);
        Ok(bytes)
    }

    /// Offers what landed to the store of pages. Gives the load back, which is under way as long as others can find it.
    async fn keep(self: Arc<Self>, file: FileKey, landed: Landed, underway: Load) -> Option<Load> {
        let run = landed.ok()?;
        let terms = self.retentions.of(&file.uri);
        let is_in_quota = terms.quota.is_none_or(|quota| to_u64(run.bytes.len()) <= quota.bytes);
        if terms.keep == Keep::Never || !is_in_quota {
            return Some(underway);
        }
        let share = self.unwritten.share(to_u64(run.bytes.len()));
        let Ok(_share) = self.unwritten.free.try_acquire_many(share) else {
            counters::unkept(to_u64(run.bytes.len()));
            return Some(underway);
        };
        let is_small = run.bytes.len() <= SMALL_BYTES && file.generation.is_strong();
        if is_small && self.store.blocks() && !self.unwritten.is_taken_by(SMALL_PARTS) {
            // The process is about to end, or has time.
            let _ = timeout(SMALL_PATIENCE, self.ending.cancelled()).await;
        }
        let (store, pages) = (Arc::clone(&self.store), self.pages_brought(&run));
        self.when_due(move || {
            // What is not kept is asked for again.
            let _ = put(store.as_ref(), &underway, (&file, &pages, &run.bytes), None);
            underway
        })
        .await
    }

    /// The pages that a load brought.
    fn pages_brought(&self, run: &Run) -> Range<PageIndex> {
        let size = self.config.page_size_bytes;
        let first = run.offset / size;
        PageIndex(first)..PageIndex(first + to_u64(run.bytes.len()).div_ceil(size))
    }

    /// Keeps what was demanded by the errand of number `by`, and says why not where it cannot.
    /// The room that it was loaded in is given back once there is room among what is not written: the network goes on while
    /// the disk writes, and both together are bounded.
    pub(super) async fn keep_demanded(
        &self,
        file: &FileKey,
        run: &Run,
        (by, underway): (u64, Load),
        room: Option<ErrandRoom<'_>>,
    ) -> Result<(), Unkept> {
        if self.retentions.of(&file.uri).keep == Keep::Never {
            return Err(Unkept::Rule);
        }
        let share = self.unwritten.share(to_u64(run.bytes.len()));
        let _share = self.unwritten.free.acquire_many(share).await.ok();
        drop(room);
        let (pages, underway) = (self.pages_brought(run), Arc::new(underway));
        let mut pause = MEMORY_PAUSE;
        for _ in 1..MEMORY_TRIES {
            let (store, file, pages, bytes, underway) = (
                Arc::clone(&self.store),
                file.clone(),
                pages.clone(),
                run.bytes.clone(),
                Arc::clone(&underway),
            );
            let keep = move || put(store.as_ref(), &underway, (&file, &pages, &bytes), Some(by));
            // Somebody waits for it, so it is no work for the thread behind all else.
            match self.unblocked(keep).await.unwrap_or(Err(Unkept::Disk)) {
                Err(Unkept::Memory) => tokio::time::sleep(pause).await,
                kept => return kept,
            }
            pause *= 2;
        }
        Err(Unkept::Memory)
    }

    /// Does a piece of work of the store: behind all else, but once many wait it is as urgent as anything. None where it
    /// panicked.
    async fn when_due<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.store.blocks() && !self.unwritten.is_taken_by(URGENT_PARTS) {
            self.keeper.run(work).await.ok()
        } else {
            self.unblocked(work).await
        }
    }
}

/// What a load of an errand takes of the room for loads in flight.
pub(super) struct ErrandRoom<'a> {
    _among_errands: Option<SemaphorePermit<'a>>,
    _among_all: Option<SemaphorePermit<'a>>,
}

impl PageTier {
    /// Bytes of a file as storage has them, for an errand, past the cache.
    pub(super) async fn fetch_past(
        &self,
        errand: &Errand,
        file: &OpenFile,
        bytes: Range<u64>,
    ) -> Result<Bytes, UfsError> {
        let length = bytes.end - bytes.start;
        let pass = errand.pass(length).await;
        let _room = self.0.errand_room(length).await;
        pass.spend();
        let bytes = read_storage(file, bytes).await?;
        errand.count_fetched(length);
        counters::read_bytes(Source::Store, length);
        Ok(bytes)
    }
}

/// Puts pages that a load brought, unless their file was removed since it began: before this, or while they are put.
fn put(
    store: &dyn PageStore,
    underway: &Load,
    (file, pages, bytes): (&FileKey, &Range<PageIndex>, &Bytes),
    by: Option<u64>,
) -> Result<(), Unkept> {
    if !underway.is_wanted() {
        return Err(Unkept::Dropped);
    }
    drop_other_version(store, file);
    let put = store.put(file, pages.start, bytes, by);
    if underway.is_wanted() {
        return put;
    }
    store.remove_pages(file.id(), pages.clone());
    Err(Unkept::Dropped)
}

/// Drops what is held of a file whose name does not tell its versions apart, before it is put there whole: the store keeps
/// pages that it has, and what it has may be of another version.
fn drop_other_version(store: &dyn PageStore, file: &FileKey) {
    if !file.generation.is_strong() {
        store.remove_file(file.id());
    }
}

/// What storage gives.
async fn read_storage(file: &OpenFile, bytes: Range<u64>) -> Result<Bytes, UfsError> {
    let read = file.ufs.get_range(&file.path, &file.key, bytes).await;
    // It was there when it was planned: gone since then is changed since then.
    read.map_err(|error| match error.kind() {
        UfsErrorKind::NotFound => UfsError::gone(subject(file), &file.key.generation),
        _ => error,
    })
}

/// What peers give; never less nor more than was asked for.
async fn ask_peers(file: &OpenFile, bytes: &Range<u64>) -> Option<Bytes> {
    let peers = file.peers.as_ref().filter(|_| file.key.generation.is_strong())?;
    let given = peers.fetch(&file.key, bytes.clone()).await?;
    (to_u64(given.len()) == bytes.end - bytes.start).then_some(given)
}

/// What a load brought to a read of `file`; none where it was stopped for reasons that are not this read's, and is to be
/// asked for again.
pub(super) async fn landed(flight: Flight<Landed>, file: &OpenFile) -> Result<Option<Arc<Run>>, UfsError> {
    let is_stopped = || file.errand.as_ref().is_some_and(|errand| errand.is_stopped());
    match flight.landed().await {
        None => Err(lost(file)),
        Some(Err(error)) if error.kind() == UfsErrorKind::Stopped && !is_stopped() => Ok(None),
        Some(landed) => landed.map(Some),
    }
}

/// What a read of an errand says that was stopped.
pub(crate) fn stopped(file: &OpenFile) -> UfsError {
    let reason = "nobody wants it any more: what it was read for was stopped";
    UfsError::new(UfsErrorKind::Stopped, subject(file), reason)
}
