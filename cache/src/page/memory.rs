//! Pages in this process's memory, within the byte budget: for workers without a disk.
//!
//! Why each page is copied when it is put: it arrives as a slice of a run of up to 16 MiB, and one page kept would keep
//! all of the run. The copy is a small part of what fetching the page cost, and makes the budget true.
//!
//! Lock order: the one lock here is never held while the budget is asked, since the budget asks back.

use std::collections::{HashMap, HashSet};
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
        let (refused, evicted) = {
            let mut state = self.0.state.lock();
            if state.policy.contains(&key) {
                state.protect(key, by);
                return Ok(());
            }
            let decision = state.policy.offer(key, weight, offer);
            (decision.refused, state.take_out(&decision.evicted, "capacity"))
        };
        drop(evicted);
        if let Some(refused) = refused {
            return Err(refused);
        }
        let reservation = self.0.budget.take(weight, Purpose::Pages);
        let copy = Bytes::copy_from_slice(bytes);
        let mut state = self.0.state.lock();
        // It may have been evicted in between, and put again by another: what is held stays, and is counted once.
        if state.holds(&key) {
            state.protect(key, by);
            return Ok(());
        }
        match reservation {
            // It may have been evicted in between, for others.
            Some(reservation) if state.policy.contains(&key) => {
                let page = Page {
                    bytes: copy,
                    _reservation: reservation,
                };
                state.insert(file, key, page);
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
        self.0.state.lock().holds(&(file, page))
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

    fn held_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        let state = self.0.state.lock();
        let Some(of) = state.by_file.get(&file) else { return 0 };
        // Of a large file there may be few.
        match to_u64(of.pages.len()) < pages.end.0.saturating_sub(pages.start.0) {
            true => to_u64(of.pages.keys().filter(|page| pages.contains(*page)).count()),
            false => {
                let asked = (pages.start.0..pages.end.0).map(PageIndex);
                to_u64(asked.filter(|page| of.pages.contains_key(page)).count())
            }
        }
    }

    fn remove_pages(&self, file: FileId, pages: Range<PageIndex>) -> u64 {
        let keys: Vec<Key> = (pages.start.0..pages.end.0)
            .map(|page| (file, PageIndex(page)))
            .collect();
        self.remove(&keys)
    }

    fn set_pins(&self) {
        let evicted = {
            let mut state = self.0.state.lock();
            let State { policy, by_file, .. } = &mut *state;
            // What is on its way has no file here yet; it is pinned as it came.
            let is_pinned = |(file, _): &Key| Some(self.0.retentions.of(&by_file.get(file)?.file.uri).pinned_raw);
            let keys = policy.set_pins(is_pinned);
            state.take_out(&keys, "unpinned")
        };
        drop(evicted);
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

    fn files(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        let state = self.0.state.lock();
        let others = state.by_file.iter().filter(|(file, _)| !besides.contains(*file));
        others.map(|(_, of)| of.file.clone()).collect()
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
    fn holds(&self, (file, page): &Key) -> bool {
        self.by_file.get(file).is_some_and(|of| of.pages.contains_key(page))
    }

    /// Protects anew what an errand demands that is there already.
    fn protect(&mut self, key: Key, by: Option<u64>) {
        if by.is_some() {
            self.policy.protect(key, by);
        }
    }

    /// Holds a page that is not held.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Generation;

    const PAGE_BYTES: u64 = 100;
    const PAGE_WEIGHT: u64 = PAGE_BYTES + PAGE_OVERHEAD_BYTES;

    fn file(name: &str) -> FileKey {
        FileKey {
            uri: name.into(),
            generation: Generation::parse("etag:x").unwrap(),
            size: 1_000 * PAGE_BYTES,
        }
    }

    fn pages(capacity_bytes: u64, budget: &Budget) -> MemoryPages {
        MemoryPages::new(PAGE_BYTES, capacity_bytes, budget.clone(), Retentions::default())
    }

    fn put(pages: &MemoryPages, file: &FileKey, page: u64) -> Result<(), Unkept> {
        let bytes = Bytes::from(vec![7; to_usize(PAGE_BYTES)]);
        pages.put(file, PageIndex(page), &bytes, None)
    }

    /// What holds whenever nobody is within a call: what is counted, decided and reserved is what is held.
    fn check(pages: &MemoryPages, budget: &Budget) {
        let state = pages.0.state.lock();
        let held = state.by_file.values().flat_map(|of| of.pages.values());
        let (count, bytes) = held.fold((0, 0), |(count, bytes), page| {
            (count + 1, bytes + to_u64(page.bytes.len()))
        });
        assert_eq!(state.bytes, bytes, "bytes counted");
        assert_eq!(state.policy.bytes(), count * PAGE_WEIGHT, "bytes that the policy knows");
        assert_eq!(budget.used_bytes(Purpose::Pages), count * PAGE_WEIGHT, "bytes reserved");
        assert!(state.by_file.values().all(|of| !of.pages.is_empty()));
    }

    /// Holds the whole budget until it is asked for it. Then all pages are evicted, what is on its way too, and another puts
    /// page 0; and where it `stays`, nothing of the budget is left for whoever asked.
    struct Meanwhile {
        pages: MemoryPages,
        budget: Budget,
        held: Mutex<Option<Reservation>>,
        stays: bool,
    }

    impl Yielding for Meanwhile {
        fn give_way(&self, _: u64) {
            let held = self.held.lock().take();
            if held.is_none() {
                return;
            }
            drop(held);
            self.pages.give_way(u64::MAX);
            put(&self.pages, &file("a"), 0).unwrap();
            if self.stays {
                let rest = self.budget.capacity_bytes() - PAGE_WEIGHT;
                *self.held.lock() = self.budget.take_free(rest, Purpose::Scans);
            }
        }
    }

    #[test]
    fn a_page_that_is_put_again_before_it_came_is_held_and_counted_once() {
        for stays in [false, true] {
            let budget = Budget::new(3 * PAGE_WEIGHT);
            let pages = pages(1 << 20, &budget);
            let meanwhile = Meanwhile {
                pages: pages.clone(),
                held: Mutex::new(budget.take_free(3 * PAGE_WEIGHT, Purpose::Scans)),
                budget: budget.clone(),
                stays,
            };
            budget.register(Arc::new(meanwhile));
            assert_eq!(put(&pages, &file("a"), 0), Ok(()));
            assert_eq!(pages.bytes(), PAGE_BYTES);
            check(&pages, &budget);
            // The policy knows of it, and can let it go.
            pages.give_way(u64::MAX);
            assert_eq!(pages.bytes(), 0);
            check(&pages, &budget);
        }
    }

    /// Numbers that look random, from a seed.
    struct Random(u64);

    impl Random {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % below
        }
    }

    /// Puts, drops and lets go of the same few pages as others do.
    fn quarrel(pages: &MemoryPages, budget: &Budget, seed: u64) {
        let mut random = Random(seed);
        for _ in 0..2_000 {
            let (file, page) = (file(["a", "b"][to_usize(random.next(2))]), random.next(4));
            match random.next(12) {
                0 => drop(pages.remove_file(file.id())),
                1 => drop(pages.remove_pages(file.id(), PageIndex(page)..PageIndex(page + 2))),
                2 => pages.give_way(random.next(3) * PAGE_WEIGHT),
                3 => pages.rescope(),
                4 => drop(budget.take(2 * PAGE_WEIGHT, Purpose::Scans)),
                5 => drop(pages.get(file.id(), &[PageIndex(page)])),
                _ => drop(put(pages, &file, page)),
            }
        }
    }

    #[test]
    fn threads_at_odds_leave_the_account_right() {
        let seed = std::env::var("JETBRIDGE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("threads at odds over pages in memory: JETBRIDGE_SEED={seed}");
        let budget = Budget::new(5 * PAGE_WEIGHT);
        let pages = pages(6 * PAGE_WEIGHT, &budget);
        budget.register(Arc::new(pages.clone()));
        for round in 0..10 {
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (pages, budget) = (&pages, &budget);
                    scope.spawn(move || quarrel(pages, budget, seed.wrapping_add(round * 4 + thread)));
                }
            });
            check(&pages, &budget);
        }
        pages.give_way(u64::MAX);
        assert_eq!((pages.bytes(), budget.used_bytes(Purpose::Pages)), (0, 0));
    }
}
