//! What is held of a file, looked at and taken without loading anything.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::loading::Run;
use super::reading::Reading;
use super::runs::{bytes_of, span_of};
use super::tier::{Inner, arrived};
use super::{OpenFile, PageTier};
use crate::counters;
use crate::key::{FileId, FileKey, PageIndex};

/// Pages that are held so close to each other are told of as one range.
const CLOSE_PAGES: u64 = 16;

impl PageTier {
    /// Whether every page of a range of a file version is held.
    #[must_use]
    pub fn holds(&self, file: &OpenFile, range: &Range<u64>) -> bool {
        let pages = span_of(range, self.0.config.page_size_bytes);
        self.0.store.held_pages(file.key.id(), pages.clone()) == pages.end.0 - pages.start.0
    }

    /// Whether every page of a range of a file version is held, or came and waits to be kept.
    pub(crate) fn is_at_hand(&self, file: &FileKey, range: &Range<u64>) -> bool {
        let (id, pages) = (file.id(), span_of(range, self.0.config.page_size_bytes));
        let mut absent = (pages.start.0..pages.end.0)
            .map(PageIndex)
            .filter(|page| !self.0.store.contains(id, *page));
        absent.all(|page| !self.0.arrived(id, &[page]).is_empty())
    }

    /// How many bytes of pages of a file version are held now.
    #[must_use]
    pub fn held_bytes(&self, file: FileId) -> u64 {
        self.0.store.held_bytes(file)
    }

    /// How many bytes of a range of a file version are held as pages now.
    #[must_use]
    pub fn held_in(&self, file: &FileKey, range: &Range<u64>) -> u64 {
        let (id, store, size) = (file.id(), &self.0.store, self.0.config.page_size_bytes);
        let pages = span_of(range, size);
        if pages.is_empty() {
            return 0;
        }
        // Whole pages, without what of the first and the last is not of the range.
        let held = store.held_pages(id, pages.clone()).saturating_mul(size);
        let (first, last) = (pages.start, PageIndex(pages.end.0 - 1));
        let before = range.start - first.0 * size;
        let behind = (last.0 + 1) * size - range.end;
        let of_page = |page: PageIndex, bytes: u64| if store.contains(id, page) { bytes } else { 0 };
        held.saturating_sub(of_page(first, before))
            .saturating_sub(of_page(last, behind))
    }

    /// Where in a file version pages are held: nothing outside of these ranges is, and their first and last pages are. What
    /// lies close to each other is one range.
    #[must_use]
    pub fn held_ranges(&self, file: &FileKey) -> Vec<Range<u64>> {
        let (id, store, size) = (file.id(), &self.0.store, self.0.config.page_size_bytes);
        let mut found: Vec<Range<u64>> = Vec::new();
        // What is still to be looked at, the last first.
        let mut open = vec![0..file.size.div_ceil(size)];
        while let Some(pages) = open.pop() {
            let all = pages.end - pages.start;
            let held = store.held_pages(id, PageIndex(pages.start)..PageIndex(pages.end));
            if held == 0 {
                continue;
            }
            if held < all && all > CLOSE_PAGES {
                let middle = pages.start + all / 2;
                open.extend([middle..pages.end, pages.start..middle]);
                continue;
            }
            let is_held = |page: &u64| held == all || store.contains(id, PageIndex(*page));
            let (Some(first), Some(last)) = (pages.clone().find(is_held), pages.rev().find(is_held)) else {
                continue;
            };
            match found.last_mut().filter(|before| first - before.end <= CLOSE_PAGES) {
                Some(before) => before.end = last + 1,
                None => found.push(first..last + 1),
            }
        }
        let of_file = |pages: Range<u64>| bytes_of(&(PageIndex(pages.start)..PageIndex(pages.end)), size, file.size);
        found.into_iter().map(of_file).collect()
    }

    /// A range of a file version, where all of it is held; nothing is fetched. For peers that ask.
    pub async fn read_held(&self, file: &FileKey, range: Range<u64>) -> Option<Bytes> {
        if range.is_empty() || range.end > file.size {
            return None;
        }
        let ranges = [range];
        let mut reading = Reading::new(file, self.0.config.page_size_bytes, &ranges);
        let mut missing = reading.missing();
        if !self.0.holds_all(reading.id, &missing) {
            for run in self.0.arrived(reading.id, &missing) {
                reading.add_loaded(run.offset, &run.bytes, self.0.store.source());
            }
            missing = reading.missing();
            if !self.0.holds_all(reading.id, &missing) {
                return None;
            }
        }
        let held = self.0.take_held(reading.id, missing).await;
        let hits = reading.add_held(held, self.0.store.source());
        counters::read_bytes(self.0.store.source(), hits.bytes);
        reading.assemble(&ranges[0])
    }
}

impl Inner {
    /// What came of these pages, and waits to be kept.
    fn arrived(&self, id: FileId, pages: &[PageIndex]) -> Vec<Arc<Run>> {
        let mut runs: Vec<Arc<Run>> = self.flights.board(|boarding| {
            let flights = pages.iter().filter_map(|page| boarding.bound_for(&(id, *page)));
            flights.filter_map(|flight| arrived(&flight)).collect()
        });
        runs.dedup_by(|a, b| Arc::ptr_eq(a, b));
        runs
    }

    fn holds_all(&self, id: FileId, pages: &[PageIndex]) -> bool {
        pages.iter().all(|page| self.store.contains(id, *page))
    }
}
