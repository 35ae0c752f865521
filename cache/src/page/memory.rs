//! Pages in this process's memory, within the byte budget: for workers without a disk.
//!
//! Why each page is copied when it is put: it arrives as a slice of a run of up to 16 MiB, and one page kept would keep
//! all of the run. The copy is a small part of what fetching the page cost, and makes the budget true.
//!
//! Lock order: the one lock here is never held while the budget is asked, since the budget asks back.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

use super::PageStore;
use crate::budget::{Budget, Purpose, Reservation, Yielding};
use crate::counters::{self, Tier};
use crate::key::{FileId, FileKey, PageIndex, Source, to_u64, to_usize};
use crate::policy::{Offer, ScopedPolicy};
use crate::retention::Retentions;
use crate::unkept::Unkept;

/// What one page takes besides its bytes: keys, entries and the policy's records. An estimate, on the safe side.
const PAGE_OVERHEAD_BYTES: u64 = 256;

/// Pages in memory. Cheap to clone; clones are one store.
#[derive(Clone)]
pub struct MemoryPages(Arc<Inner>);

struct Inner {
    page_size_bytes: usize,
    budget: Budget,
    retentions: Retentions,
    state: Mutex<State>,
}

struct State {
    policy: ScopedPolicy<Key>,
    by_file: HashMap<FileId, OfFile>,
    bytes: u64,
}

/// The pages of one file version.
struct OfFile {
    file: FileKey,
    since: SystemTime,
    pages: HashMap<PageIndex, Page>,
}

type Key = (FileId, PageIndex);

struct Page {
    bytes: Bytes,
    _reservation: Reservation,
}

impl MemoryPages {
    /// Room for so many bytes of `budget`, with what keeping them takes, in pages of `page_size_bytes`. 0 keeps nothing.
    #[must_use]
    pub(crate) fn new(page_size_bytes: u64, capacity_bytes: u64, budget: Budget, retentions: Retentions) -> Self {
        Self(Arc::new(Inner {
            page_size_bytes: to_usize(page_size_bytes.max(1)),
            budget,
            retentions,
            state: Mutex::new(State {
                policy: ScopedPolicy::new(capacity_bytes),
                by_file: HashMap::new(),
                bytes: 0,
            }),
        }))
    }

    fn put_page(&self, file: &FileKey, key: Key, bytes: &Bytes, by: Option<u64>) -> Result<(), Unkept> {
        let weight = to_u64(bytes.len()) + PAGE_OVERHEAD_BYTES;
        let terms = self.0.retentions.of(&file.uri);
        let offer = Offer {
            quota: terms.quota,
            demanded_by: by,
            pinned: terms.pinned_raw,
        };
        let evicted = {
            let mut state = self.0.state.lock();
            if state.policy.contains(&key) {
                if by.is_some() {
                    state.policy.protect(key, by);
                }
                return Ok(());
            }
            let decision = state.policy.offer(key, weight, offer);
            let evicted = state.take_out(&decision.evicted, "capacity");
            if let Some(refused) = decision.refused {
                return Err(refused);
            }
            evicted
        };
        drop(evicted);
        let reservation = self.0.budget.take(weight, Purpose::Pages);
        let copy = Bytes::copy_from_slice(bytes);
        let page = |reservation| Page {
            bytes: copy,
            _reservation: reservation,
        };
        let mut state = self.0.state.lock();
        match reservation {
            // It may have been evicted again in between, for others.
            Some(reservation) if state.policy.contains(&key) => {
                state.insert(file, key, page(reservation));
                Ok(())
            }
            _ => {
                state.policy.remove(&key);
                Err(Unkept::Memory)
            }
        }
    }
}

impl MemoryPages {
    /// Drops those of these pages that are held, and says how many bytes that was.
    fn remove(&self, keys: &[Key]) -> u64 {
        let removed = {
            let mut state = self.0.state.lock();
            for key in keys {
                state.policy.remove(key);
            }
            state.take_out(keys, "removed")
        };
        removed.iter().map(|page| to_u64(page.bytes.len())).sum()
    }
}

impl PageStore for MemoryPages {
    fn get(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        let mut state = self.0.state.lock();
        let State { policy, by_file, .. } = &mut *state;
        let Some(of_file) = by_file.get(&file) else {
            return Vec::new();
        };
        let found = pages
            .iter()
            .filter_map(|page| Some((*page, of_file.pages.get(page)?.bytes.clone())));
        found.inspect(|(page, _)| policy.touch((file, *page))).collect()
    }

    fn contains(&self, file: FileId, page: PageIndex) -> bool {
        let state = self.0.state.lock();
        state.by_file.get(&file).is_some_and(|of| of.pages.contains_key(&page))
    }

    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes, by: Option<u64>) -> Result<(), Unkept> {
        let id = file.id();
        let mut kept = Ok(());
        for (number, start) in (0..run.len()).step_by(self.0.page_size_bytes).enumerate() {
            let end = (start + self.0.page_size_bytes).min(run.len());
            let page = PageIndex(first.0 + to_u64(number));
            kept = kept.and(self.put_page(file, (id, page), &run.slice(start..end), by));
        }
        kept
    }

    fn protect(&self, file: FileId, pages: &[PageIndex], by: u64) {
        let mut state = self.0.state.lock();
        for page in pages {
            state.policy.protect((file, *page), Some(by));
        }
    }

    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        let state = self.0.state.lock();
        let Some(of_file) = state.by_file.get(&file) else {
            return (Vec::new(), 0);
        };
        let found = pages
            .iter()
            .filter_map(|page| Some((*page, of_file.pages.get(page)?.bytes.clone())));
        (found.collect(), 0)
    }

    fn remove_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        let keys: Vec<Key> = (pages.start.0..pages.end.0)
            .map(|page| (file, PageIndex(page)))
            .collect();
        self.remove(&keys)
    }

    fn set_pins(&self) {
        let mut state = self.0.state.lock();
        let State { policy, by_file, .. } = &mut *state;
        // What is on its way has no file here yet; it is pinned as it came.
        policy.set_pins(|(file, _)| Some(self.0.retentions.of(&by_file.get(file)?.file.uri).pinned_raw));
    }

    fn pinned_bytes(&self) -> u64 {
        self.0.state.lock().policy.pinned_bytes()
    }

    fn capacity_bytes(&self) -> u64 {
        let page = to_u64(self.0.page_size_bytes);
        let capacity = self.0.state.lock().policy.capacity_bytes();
        let share = u128::from(capacity) * u128::from(page) / u128::from(page + PAGE_OVERHEAD_BYTES);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    fn remove_file(&self, file: FileId) -> u64 {
        let keys: Vec<Key> = {
            let state = self.0.state.lock();
            let pages = state.by_file.get(&file).into_iter().flat_map(|of| of.pages.keys());
            pages.map(|page| (file, *page)).collect()
        };
        self.remove(&keys)
    }

    fn held_bytes(&self, file: FileId) -> u64 {
        let state = self.0.state.lock();
        let pages = state.by_file.get(&file).into_iter().flat_map(|of| of.pages.values());
        pages.map(|page| to_u64(page.bytes.len())).sum()
    }

    fn held_since(&self, file: FileId) -> Option<SystemTime> {
        self.0.state.lock().by_file.get(&file).map(|of| of.since)
    }

    fn rescope(&self) {
        let evicted = {
            let mut state = self.0.state.lock();
            let State { policy, by_file, .. } = &mut *state;
            let keys = policy.set_quotas(|(file, _)| self.0.retentions.of(&by_file.get(file)?.file.uri).quota);
            state.take_out(&keys, "quota")
        };
        drop(evicted);
    }

    fn files(&self) -> Vec<FileKey> {
        self.0.state.lock().by_file.values().map(|of| of.file.clone()).collect()
    }

    fn bytes(&self) -> u64 {
        self.0.state.lock().bytes
    }

    fn source(&self) -> Source {
        Source::Memory
    }

    fn blocks(&self) -> bool {
        false
    }
}

impl Yielding for MemoryPages {
    fn give_way(&self, bytes: u64) {
        let evicted = {
            let mut state = self.0.state.lock();
            let keys = state.policy.evict(bytes);
            state.take_out(&keys, "budget")
        };
        drop(evicted);
    }
}

impl State {
    fn insert(&mut self, file: &FileKey, key: Key, page: Page) {
        self.bytes += to_u64(page.bytes.len());
        let of_file = self.by_file.entry(key.0).or_insert_with(|| OfFile {
            file: file.clone(),
            since: SystemTime::now(),
            pages: HashMap::new(),
        });
        of_file.pages.insert(key.1, page);
    }

    /// The pages of keys that the policy has dropped, to be dropped without the lock.
    fn take_out(&mut self, keys: &[Key], reason: &'static str) -> Vec<Page> {
        let mut taken = Vec::with_capacity(keys.len());
        for (file, page) in keys {
            let Some(of_file) = self.by_file.get_mut(file) else {
                continue;
            };
            taken.extend(of_file.pages.remove(page));
            if of_file.pages.is_empty() {
                self.by_file.remove(file);
            }
        }
        self.bytes -= taken.iter().map(|page| to_u64(page.bytes.len())).sum::<u64>();
        counters::evictions(Tier::Page, reason, taken.len());
        taken
    }
}
