//! The store against a map of what was put, in one thread and in several.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use super::*;

const PAGES: u64 = 70;

fn file(n: u64) -> FileKey {
    key(
        &format!("m{n}"),
        [PAGES * PAGE, 30 * PAGE + 1, PAGE, 300][to_usize(n % 4)] + n,
    )
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, Range<u64>),
    Get(u64, Vec<u64>),
    RemoveFile(u64),
    RemovePages(u64, Range<u64>),
    SetCapacity(u64),
    Restart(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..PAGES, 0..25u64).prop_map(|(first, pages)| first..first + pages);
    let capacity = || prop_oneof![Just(0), Just(PAGE), Just(64 << 10), Just(300 << 10), Just(64 * MIB)];
    let step = prop_oneof![
        8 => (0..6u64, range()).prop_map(|(file, pages)| Step::Put(file, pages)),
        6 => (0..6u64, prop::collection::btree_set(0..PAGES + 3, 0..30))
            .prop_map(|(file, pages)| Step::Get(file, pages.into_iter().collect())),
        1 => (0..6u64).prop_map(Step::RemoveFile),
        2 => (0..6u64, range()).prop_map(|(file, pages)| Step::RemovePages(file, pages)),
        1 => capacity().prop_map(Step::SetCapacity),
        1 => capacity().prop_map(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// What may be held: everything that was put and not removed; and whether all of it must be.
struct Model {
    may_hold: HashSet<(u64, u64)>,
    nothing_evicted: bool,
}

impl Model {
    fn run(steps: &[Step]) {
        let mut rig = Rig::with_folders(&[64 * MIB, 64 * MIB]);
        let mut store = rig.open();
        let mut model = Self {
            may_hold: HashSet::new(),
            nothing_evicted: true,
        };
        for step in steps {
            match step {
                Step::SetCapacity(capacity) => {
                    store.set_capacity(0, *capacity);
                    model.nothing_evicted &= *capacity == 64 * MIB;
                }
                Step::Restart(capacity) => {
                    drop(store);
                    rig.config.folders[0].capacity_bytes = *capacity;
                    model.nothing_evicted &= *capacity == 64 * MIB;
                    store = rig.open();
                }
                step => model.step(&store, step),
            }
            check_account(&store);
            model.check(&store);
            assert_eq!(checksum_failures(&store), 0);
        }
        store
            .folders()
            .iter()
            .for_each(|folder| check_disk(&folder.path, folder.held_bytes));
    }

    fn step(&mut self, store: &DiskPages, step: &Step) {
        match step {
            Step::Put(n, range) => {
                let key = file(*n);
                put_pages(store, &key, range.clone());
                self.may_hold.extend(
                    range
                        .clone()
                        .filter(|page| page * PAGE < key.size)
                        .map(|page| (*n, page)),
                );
            }
            Step::Get(n, asked) => {
                let key = file(*n);
                let got = got(
                    store,
                    key.id(),
                    &asked.iter().map(|page| PageIndex(*page)).collect::<Vec<_>>(),
                );
                for (page, bytes) in asked.iter().zip(got) {
                    assert_eq!(bytes.is_some(), store.contains(key.id(), PageIndex(*page)));
                    if let Some(bytes) = bytes {
                        assert!(bytes == page_content(&key, *page, PAGE), "wrong bytes");
                    }
                }
            }
            Step::RemoveFile(n) => {
                let held = store.held(file(*n).id()).bytes;
                assert_eq!(store.remove_file(file(*n).id()), held);
                self.may_hold.retain(|(file, _)| file != n);
            }
            Step::RemovePages(n, range) => {
                store.remove_pages(file(*n).id(), PageIndex(range.start)..PageIndex(range.end));
                self.may_hold.retain(|(file, page)| file != n || !range.contains(page));
            }
            Step::SetCapacity(_) | Step::Restart(_) => {}
        }
    }

    fn check(&self, store: &DiskPages) {
        for n in 0..6 {
            for page in 0..PAGES + 3 {
                let holds = store.contains(file(n).id(), PageIndex(page));
                let may_hold = self.may_hold.contains(&(n, page));
                assert!(
                    may_hold || !holds,
                    "page {page} of file {n} is held and was never put, or was removed"
                );
                assert!(
                    holds || !may_hold || !self.nothing_evicted,
                    "page {page} of file {n} was lost"
                );
            }
        }
    }
}

#[test]
fn the_store_is_a_map_that_may_forget() {
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    // A failed case is printed, shrunk, as the list of its steps.
    TestRunner::new(config)
        .run(&steps(), |steps| {
            Model::run(&steps);
            Ok(())
        })
        .unwrap();
}

/// Threads that put, read, evict and remove the same files: right bytes or none, and no page is called damaged because
/// it was dropped in that moment.
#[test]
fn threads_at_odds_read_right_bytes_or_none() {
    let seed = seed("threads");
    let rig = Rig::with_folders(&[MIB, MIB / 2]);
    for round in 0..4 {
        let store = rig.open();
        let counts: Vec<(usize, usize)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|n| (n, &store))
                .map(|(n, store)| scope.spawn(move || quarrel(store, seed + round * 100 + n)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (hits, misses) = counts
            .iter()
            .fold((0, 0), |(h, m), (hits, misses)| (h + hits, m + misses));
        assert!(hits > 1000 && misses > 1000, "{hits} hits, {misses} misses");
        println!("round {round}: {hits} hits, {misses} misses");
        assert_eq!(checksum_failures(&store), 0);
        check_account(&store);
        store
            .folders()
            .iter()
            .for_each(|folder| check_disk(&folder.path, folder.held_bytes));
        let before = store.bytes();
        drop(store);
        let store = rig.open();
        assert_eq!(store.bytes(), before);
        (0..6).for_each(|n| drop(served(&store, &file(n), 0..PAGES)));
        assert_eq!(checksum_failures(&store), 0);
    }
}

fn quarrel(store: &DiskPages, seed: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let (mut hits, mut asked) = (0, 0);
    for _ in 0..600 {
        let key = file(random.next(6));
        let first = random.next(PAGES);
        let range = first..first + 1 + random.next(20);
        match random.next(24) {
            0 => drop(store.remove_file(key.id())),
            1 => drop(store.remove_pages(key.id(), PageIndex(range.start)..PageIndex(range.end))),
            2 => store.set_capacity(to_usize(random.next(2)), (1 + random.next(4)) * MIB / 4),
            3 => assert!(store.files().len() <= 6 && store.bytes() < 4 * MIB),
            4..=10 => put_pages(store, &key, range),
            _ => {
                asked += range.clone().count();
                hits += served(store, &key, range).len();
            }
        }
    }
    store.set_capacity(0, MIB);
    store.set_capacity(1, MIB / 2);
    (hits, asked - hits)
}
