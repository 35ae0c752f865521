//! Reads through the page tier: what is held is taken, what is missing is fetched in few requests and kept.
//!
//! The bytes that a load brought are handed to its readers from the load itself, not from the store of pages: a store
//! may refuse or drop a page at once. A range that lies within one run or one page is a slice of it.
//!
//! A file of a weak generation is loaded whole, in one request, and a read that needs that takes all of its bytes from
//! it: two answers of such a file may be of two versions, though they carry one name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future;
use tokio::sync::Semaphore;

use super::PageStore;
use super::flight::{Flight, Flights, Run};
use super::runs::{bytes_of, coalesce, pages_of};
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64, to_usize};
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
    /// One page. Default 64 KiB.
    pub page_size_bytes: u64,
    /// Missing pages this close to each other are fetched with what lies between. Default 1 MiB.
    pub max_gap_bytes: u64,
    /// One request asks for no more. Default 16 MiB.
    pub max_run_bytes: u64,
    /// Loads in flight, all together; further ones wait. A load larger than this goes alone. Default 256 MiB.
    pub max_inflight_bytes: u64,
    /// The largest file that is read whole because its store gives no strong generation. Default 1 GiB.
    pub max_whole_file_bytes: u64,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self {
            page_size_bytes: 64 << 10,
            max_gap_bytes: 1 << 20,
            max_run_bytes: 16 << 20,
            max_inflight_bytes: 256 << 20,
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
    flights: Arc<Flights>,
    /// Room for loads in flight, in KiB.
    room: Semaphore,
    room_kib: u32,
}

impl PageTier {
    /// A tier over a store of pages. A page size of 0 is taken for 1.
    #[must_use]
    pub fn new(store: Arc<dyn PageStore>, mut config: PageConfig) -> Self {
        config.page_size_bytes = config.page_size_bytes.max(1);
        let room_kib = u32::try_from(config.max_inflight_bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .max(1);
        let room = Semaphore::new(to_usize(u64::from(room_kib)).min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner {
            store,
            config,
            flights: Arc::default(),
            room,
            room_kib,
        }))
    }

    /// Reads ranges of one file version, in the order asked for; they may overlap, and may be empty. With them comes the
    /// worst place that any byte came from. Dropping the future does not stop loads that it began.
    ///
    /// # Errors
    /// A range outside the file; and what the under file system says, of the first load that fails.
    pub async fn read(&self, file: &OpenFile, ranges: &[Range<u64>]) -> Result<(Vec<Bytes>, Source), UfsError> {
        check_ranges(file, ranges)?;
        let needed = pages_of(ranges, self.0.config.page_size_bytes);
        let Plan { mut pieces, flights } = self.0.plan(file, &needed)?;
        let source = if flights.is_empty() {
            self.0.store.source()
        } else {
            Source::Store
        };
        let landed = future::try_join_all(flights).await;
        let runs = landed.map_err(|error| error.unwrap_or_else(|| lost(file)))?;
        self.0.spread(&runs, &needed, &mut pieces);
        let read = ranges
            .iter()
            .map(|range| self.0.assemble(file, range, &pieces))
            .collect::<Result<_, _>>()?;
        Ok((read, source))
    }

    /// Whether every page of a range of a file version is held.
    #[must_use]
    pub fn holds(&self, file: &OpenFile, range: &Range<u64>) -> bool {
        let id = file.key.id();
        let pages = pages_of(std::slice::from_ref(range), self.0.config.page_size_bytes);
        pages.iter().all(|&page| self.0.store.contains(id, page))
    }

    /// Drops every page of a file version; loads in flight may still bring some back.
    pub fn remove_file(&self, file: FileId) {
        self.0.store.remove_file(file);
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

/// What is at hand, and what has to be waited for.
#[derive(Default)]
struct Plan {
    pieces: HashMap<PageIndex, Piece>,
    flights: Vec<Flight>,
}

/// Bytes of the file that hold (at least) one page.
#[derive(Clone)]
struct Piece {
    offset: u64,
    bytes: Bytes,
}

impl Inner {
    fn plan(self: &Arc<Self>, file: &OpenFile, needed: &[PageIndex]) -> Result<Plan, UfsError> {
        let id = file.key.id();
        let mut plan = Plan::default();
        let missing = self.take_held(file, id, needed, &mut plan);
        if missing.is_empty() {
            count(needed.len(), 0, 0);
            return Ok(plan);
        }
        if !file.key.generation.is_strong() {
            return self.plan_whole(file, id, needed.len());
        }
        self.flights.board(|boarding| {
            let mut joined = Vec::new();
            let mut absent = Vec::new();
            for &page in &missing {
                match boarding.bound_for(id, page) {
                    Some(flight) => joined.push(flight),
                    None => absent.push(page),
                }
            }
            // A load may have ended between the look above and this one, and its pages are in the store by now.
            let absent = self.take_held(file, id, &absent, &mut plan);
            count(needed.len() - joined.len() - absent.len(), absent.len(), joined.len());
            joined.dedup_by(|a, b| a.ptr_eq(b));
            plan.flights = joined;
            for run in coalesce(&absent, &self.config) {
                let pages = absent.iter().copied().filter(|page| run.contains(page)).collect();
                let bytes = bytes_of(&run, self.config.page_size_bytes, file.key.size);
                plan.flights
                    .push(boarding.begin(id, pages, Arc::clone(self).load(file.clone(), id, bytes)));
            }
        });
        Ok(plan)
    }

    /// The whole file, in one request, for every page of this read.
    fn plan_whole(self: &Arc<Self>, file: &OpenFile, id: FileId, needed: usize) -> Result<Plan, UfsError> {
        let (size, limit) = (file.key.size, self.config.max_whole_file_bytes);
        if size > limit {
            let reason = format!(
                "the store gives no strong ETag or version id, so the file must be read whole, and its {size} bytes are \
                 more than the limit of {limit}"
            );
            return Err(UfsError::new(UfsErrorKind::Other, subject(file), reason));
        }
        let first = PageIndex(0);
        let flight = self.flights.board(|boarding| {
            if let Some(flight) = boarding.bound_for(id, first) {
                count(0, 0, needed);
                return flight;
            }
            count(0, needed, 0);
            boarding.begin(id, vec![first], Arc::clone(self).load(file.clone(), id, 0..size))
        });
        Ok(Plan {
            pieces: HashMap::new(),
            flights: vec![flight],
        })
    }

    /// Takes the pages that the store holds, and returns the others.
    fn take_held(&self, file: &OpenFile, id: FileId, pages: &[PageIndex], plan: &mut Plan) -> Vec<PageIndex> {
        let mut missing = Vec::new();
        let mut taken = 0;
        for &page in pages {
            let place = bytes_of(
                &(page..PageIndex(page.0 + 1)),
                self.config.page_size_bytes,
                file.key.size,
            );
            match self.store.get(id, page) {
                // A page of a wrong length is no page: a miss, as the contract has it.
                Some(bytes) if to_u64(bytes.len()) == place.end - place.start => {
                    taken += place.end - place.start;
                    plan.pieces.insert(
                        page,
                        Piece {
                            offset: place.start,
                            bytes,
                        },
                    );
                }
                Some(_) | None => missing.push(page),
            }
        }
        count_bytes(self.store.source(), taken);
        missing
    }

    /// Fetches bytes (whole pages of the file) and keeps their pages.
    async fn load(self: Arc<Self>, file: OpenFile, id: FileId, bytes: Range<u64>) -> Result<Run, UfsError> {
        let kib = u32::try_from((bytes.end - bytes.start).div_ceil(1024)).unwrap_or(u32::MAX);
        // An error would mean that the semaphore was closed, which nobody does.
        let _room = self.room.acquire_many(kib.min(self.room_kib)).await.ok();
        let offset = bytes.start;
        let run = Run {
            offset,
            bytes: file.ufs.get_range(&file.path, &file.key, bytes).await?,
        };
        count_bytes(Source::Store, to_u64(run.bytes.len()));
        let page_size = self.config.page_size_bytes;
        let pages = run.offset / page_size..run.end().div_ceil(page_size);
        for page in pages.map(PageIndex) {
            let place = bytes_of(&(page..PageIndex(page.0 + 1)), page_size, file.key.size);
            self.store.put(id, page, slice(&run.bytes, run.offset, &place));
        }
        Ok(run)
    }

    /// Finds the needed pages in the runs that have landed.
    fn spread(&self, runs: &[Arc<Run>], needed: &[PageIndex], pieces: &mut HashMap<PageIndex, Piece>) {
        for run in runs {
            let first = needed.partition_point(|page| page.0 * self.config.page_size_bytes < run.offset);
            for &page in needed[first..]
                .iter()
                .take_while(|page| page.0 * self.config.page_size_bytes < run.end())
            {
                pieces.insert(
                    page,
                    Piece {
                        offset: run.offset,
                        bytes: run.bytes.clone(),
                    },
                );
            }
        }
    }

    fn assemble(
        &self,
        file: &OpenFile,
        range: &Range<u64>,
        pieces: &HashMap<PageIndex, Piece>,
    ) -> Result<Bytes, UfsError> {
        let piece_at = |at: u64| {
            pieces
                .get(&PageIndex(at / self.config.page_size_bytes))
                .ok_or_else(|| lost(file))
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let first = piece_at(range.start)?;
        if first.end() >= range.end {
            return Ok(slice(&first.bytes, first.offset, range));
        }
        let mut joined = BytesMut::with_capacity(to_usize(range.end - range.start));
        let mut at = range.start;
        while at < range.end {
            let piece = piece_at(at)?;
            let end = piece.end().min(range.end);
            joined.extend_from_slice(&slice(&piece.bytes, piece.offset, &(at..end)));
            at = end;
        }
        Ok(joined.freeze())
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + to_u64(self.bytes.len())
    }
}

/// A part of the file, out of bytes of it that begin at `offset` and hold it.
fn slice(bytes: &Bytes, offset: u64, part: &Range<u64>) -> Bytes {
    bytes.slice(to_usize(part.start - offset)..to_usize(part.end - offset))
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

fn count(hits: usize, misses: usize, coalesced: usize) {
    for (result, pages) in [("hit", hits), ("miss", misses), ("coalesced", coalesced)] {
        metrics::counter!("jetbridge_cache_requests_total", "tier" => "page", "result" => result)
            .increment(to_u64(pages));
    }
}

fn count_bytes(source: Source, bytes: u64) {
    let source = source.as_str();
    metrics::counter!("jetbridge_cache_read_bytes_total", "tier" => "page", "source" => source).increment(bytes);
}
