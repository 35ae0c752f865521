//! What errands do with pages and readers do not: see to it that they are held, without reading those that are; and compare
//! what is held with storage.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};

use super::PageConfig;
use super::errand::Errand;
use super::loading::{Haste, Landed, Wanted, landed, stopped};
use super::reading::Reading;
use super::runs::{bytes_of, coalesce, pages_of};
use super::tier::{Inner, OpenFile, PageTier, check_ranges};
use crate::flights::Flight;
use crate::key::{FileId, PageIndex, Source, to_u64, to_usize};
use crate::retention::Keep;
use crate::ufs::UfsError;
use crate::unkept::Unkept;

/// Runs of one file that are brought at once.
const RUNS_AT_ONCE: usize = 16;
/// So wide a gap at most is fetched with what lies on its two sides, however wide a reader's may be: what nobody asked for
/// takes room from what was.
const MAX_GAP_BYTES: u64 = 64 << 10;
/// How often it is looked whether all is held: it may be dropped again at once, another's load may be stopped, or a reader's
/// be on its way into the store. Between two looks it waits, for this long at first and twice as long each time.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes that are compared at once, if one request may be for so many; and how many such pieces at a time.
const CHECK_BYTES: u64 = 4 << 20;
const CHECKS_AT_ONCE: usize = 2;

/// What came of a comparison with storage.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Bytes of held pages that were compared.
    pub(crate) bytes: u64,
    /// Pages that did not check, or were not what storage has. They were dropped.
    pub(crate) damaged_pages: u64,
    /// The ranges as storage has them, where they were asked for.
    pub(crate) ranges: Vec<Bytes>,
}

impl PageTier {
    /// Loads what of these ranges is not held, protects what is, and says why something is not held in the end. No page
    /// that is held is read.
    ///
    /// # Errors
    /// As [`PageTier::read`].
    pub(crate) async fn ensure(
        &self,
        errand: &Arc<Errand>,
        file: &OpenFile,
        ranges: &[Range<u64>],
    ) -> Result<Option<Unkept>, UfsError> {
        check_ranges(file, ranges)?;
        if self.0.retentions.of(&file.key.uri).keep == Keep::Never {
            return Ok(Some(Unkept::Rule));
        }
        let file = &OpenFile {
            errand: Some(Arc::clone(errand)),
            ..file.clone()
        };
        let ensured = errand.unless_stopped(self.0.ensure(errand, file, ranges)).await;
        ensured.unwrap_or_else(|| Err(stopped(file)))
    }

    /// Compares what is held of these ranges with storage; what differs is dropped. The ranges themselves are given too, held
    /// or not, where `whole` asks for them. Nothing counts as touched.
    ///
    /// # Errors
    /// As [`PageTier::read`].
    pub(crate) async fn check(
        &self,
        errand: &Errand,
        file: &OpenFile,
        ranges: &[Range<u64>],
        whole: bool,
    ) -> Result<Checked, UfsError> {
        check_ranges(file, ranges)?;
        let checked = errand.unless_stopped(self.check_all(errand, file, ranges, whole)).await;
        checked.unwrap_or_else(|| Err(stopped(file)))
    }

    async fn check_all(
        &self,
        errand: &Errand,
        file: &OpenFile,
        ranges: &[Range<u64>],
        whole: bool,
    ) -> Result<Checked, UfsError> {
        let id = file.key.id();
        let mut reading = Reading::new(&file.key, self.0.config.page_size_bytes, ranges);
        let mut pages = reading.missing();
        if !whole {
            pages.retain(|page| self.0.store.contains(id, *page));
        }
        let mut checked = Checked::default();
        if pages.is_empty() {
            checked.ranges = ranges.iter().map(|_| Bytes::new()).collect();
            return Ok(checked);
        }
        // Two answers of a file of a weak generation may be of two versions.
        let at_once = match file.key.generation.is_strong() {
            true => None,
            false => Some(self.fetch_past(errand, file, 0..file.key.size).await?),
        };
        let config = PageConfig {
            max_gap_bytes: 0,
            max_run_bytes: errand.request_bytes(CHECK_BYTES.min(self.0.config.max_run_bytes)),
            ..self.0.config.clone()
        };
        let runs = coalesce(&pages, |_| true, &config);
        let pieces = runs.into_iter().map(|run| {
            let at_once = at_once.as_ref();
            async move {
                let bytes = bytes_of(&run, config.page_size_bytes, file.key.size);
                let stored = match at_once {
                    Some(all) => all.slice(to_usize(bytes.start)..to_usize(bytes.end)),
                    None => self.fetch_past(errand, file, bytes.clone()).await?,
                };
                let (bytes_compared, damaged) = self.0.compare(id, run, stored.clone()).await;
                Ok::<_, UfsError>((bytes.start, stored, bytes_compared, damaged))
            }
        });
        let pieces: Vec<_> = pieces.collect();
        let mut pieces = stream::iter(pieces).buffered(CHECKS_AT_ONCE);
        while let Some((offset, stored, bytes, damaged)) = pieces.try_next().await? {
            checked.bytes += bytes;
            checked.damaged_pages += damaged;
            if whole {
                reading.add_loaded(offset, &stored, Source::Store);
            }
        }
        if whole {
            let read = ranges.iter().map(|range| reading.assemble(range).unwrap_or_default());
            checked.ranges = read.collect();
        }
        Ok(checked)
    }
}

impl Inner {
    async fn ensure(
        self: &Arc<Self>,
        errand: &Arc<Errand>,
        file: &OpenFile,
        ranges: &[Range<u64>],
    ) -> Result<Option<Unkept>, UfsError> {
        let id = file.key.id();
        for tries in 0..=TRIES {
            let pages = pages_of(ranges, self.config.page_size_bytes);
            let (held, missing): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| self.store.contains(id, *page));
            self.store.protect(id, &held, errand.id());
            if missing.is_empty() {
                return Ok(None);
            }
            if tries == TRIES {
                break;
            }
            if tries > 0 {
                tokio::time::sleep(PAUSE * 2u32.pow(tries - 1)).await;
            }
            let unkept = self.bring(errand, file, &missing).await?;
            if unkept.is_some() {
                return Ok(unkept);
            }
        }
        Ok(Some(Unkept::Full {
            capacity_bytes: self.store.capacity_bytes(),
        }))
    }

    /// Loads missing pages, a few requests at a time, each as large as the errand's pace of that moment allows.
    async fn bring(
        self: &Arc<Self>,
        errand: &Arc<Errand>,
        file: &OpenFile,
        missing: &[PageIndex],
    ) -> Result<Option<Unkept>, UfsError> {
        if !file.key.generation.is_strong() {
            let flight = self.whole_file(file)?;
            return self.kept(errand, file, flight).await;
        }
        let id = file.key.id();
        let config = PageConfig {
            max_gap_bytes: self.config.max_gap_bytes.min(MAX_GAP_BYTES),
            ..self.config.clone()
        };
        let runs = coalesce(missing, |page| !self.store.contains(id, *page), &config);
        let (mut runs, mut unkept) = (VecDeque::from(runs), None);
        let mut underway = FuturesUnordered::new();
        loop {
            // Where one part finds no room, the others are not asked for in vain.
            while underway.len() < RUNS_AT_ONCE
                && unkept.is_none()
                && let Some(run) = self.next_run(errand, &mut runs)
            {
                underway.push(self.bring_run(errand, file, run));
            }
            match underway.try_next().await? {
                Some(more) => unkept = unkept.or(more),
                None => return Ok(unkept),
            }
        }
    }

    /// What is asked for next, as much as the errand's pace allows at once.
    fn next_run(&self, errand: &Errand, runs: &mut VecDeque<Range<PageIndex>>) -> Option<Range<PageIndex>> {
        let mut run = runs.pop_front()?;
        let most_pages = errand.request_bytes(self.config.max_run_bytes) / self.config.page_size_bytes;
        let end = PageIndex(run.start.0.saturating_add(most_pages.max(1)));
        if end < run.end {
            runs.push_front(end..run.end);
            run.end = end;
        }
        Some(run)
    }

    /// Brings pages that follow one another, as far as they are neither held nor on their way.
    async fn bring_run(
        self: &Arc<Self>,
        errand: &Arc<Errand>,
        file: &OpenFile,
        run: Range<PageIndex>,
    ) -> Result<Option<Unkept>, UfsError> {
        let (id, haste) = (file.key.id(), Haste::of(file));
        let flights = self.flights.board(|boarding| {
            let mut flights: Vec<Flight<_>> = Vec::new();
            let mut absent: Vec<Range<PageIndex>> = Vec::new();
            for page in run.start.0..run.end.0 {
                let page = PageIndex(page);
                if let Some(flight) = boarding.bound_for(&(id, page)) {
                    haste.hurry(&flight);
                    flights.push(flight);
                } else if !self.store.contains(id, page) {
                    match absent.last_mut() {
                        Some(last) if last.end == page => last.end.0 += 1,
                        _ => absent.push(page..PageIndex(page.0 + 1)),
                    }
                }
            }
            flights.dedup_by(|a, b| a.is(b));
            for run in absent {
                let wanted = self.wanted_run(file, &run, haste).demanded();
                flights.push(self.begin(boarding, file, wanted));
            }
            flights
        });
        let mut unkept = None;
        for flight in flights {
            unkept = unkept.or(self.kept(errand, file, flight).await?);
        }
        Ok(unkept)
    }

    /// The load of a whole file.
    fn whole_file(self: &Arc<Self>, file: &OpenFile) -> Result<Flight<Landed>, UfsError> {
        self.check_whole(file)?;
        let (first, haste) = ((file.key.id(), PageIndex(0)), Haste::of(file));
        Ok(self.flights.board(|boarding| match boarding.bound_for(&first) {
            Some(flight) => {
                haste.hurry(&flight);
                flight
            }
            None => {
                let wanted = Wanted::new(vec![first], 0..file.key.size, file, haste).demanded();
                self.begin(boarding, file, wanted)
            }
        }))
    }

    /// Waits for a load, and keeps what it brought where it is another's, and did not do so.
    async fn kept(&self, errand: &Errand, file: &OpenFile, flight: Flight<Landed>) -> Result<Option<Unkept>, UfsError> {
        let underway = self.keeping.begin(&file.key);
        let Some(run) = landed(flight, file).await? else {
            return Ok(None);
        };
        let kept = match run.kept {
            Some(kept) => kept,
            None => {
                let by = (errand.id(), underway);
                self.keep_demanded(&file.key, &run, by, None).await
            }
        };
        Ok(kept.err())
    }

    /// Compares held pages with what storage has of all of `run`; how many bytes were compared, and how many pages were found
    /// damaged. These are dropped.
    async fn compare(&self, id: FileId, run: Range<PageIndex>, stored: Bytes) -> (u64, u64) {
        let (store, page_size) = (Arc::clone(&self.store), to_usize(self.config.page_size_bytes));
        let compare = move || {
            let pages: Vec<_> = (run.start.0..run.end.0).map(PageIndex).collect();
            let (held, mut damaged) = store.check(id, &pages);
            let mut compared = 0;
            for (first, bytes) in held {
                let from = to_usize(first.0 - run.start.0).saturating_mul(page_size);
                for (number, page) in bytes.chunks(page_size).enumerate() {
                    let at = from + number * page_size;
                    compared += to_u64(page.len());
                    if stored.get(at..at + page.len()) != Some(page) {
                        let page = PageIndex(first.0 + to_u64(number));
                        tracing::warn!(file = %id, page = page.0, "a cached page is not what storage has; it is dropped");
                        store.remove_pages(id, page..PageIndex(page.0 + 1));
                        damaged += 1;
                    }
                }
            }
            (compared, damaged)
        };
        self.unblocked(compare).await.unwrap_or_default()
    }
}
