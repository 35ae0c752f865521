//! What the page tier promises: the object's bytes, of one version, with as few requests as there can be.

mod errands;
mod moment;
mod peers;
mod stuck;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use futures::future;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use proptest::prelude::*;

use self::stuck::Stuck;
use super::*;
use crate::key::{FileKey, Generation, to_usize};
use crate::retention::Retentions;
use crate::ufs::UfsErrorKind;
use crate::ufs::testing::{Fault, TestStore};

struct Fixture {
    tier: PageTier,
    file: OpenFile,
    store: Arc<TestStore>,
    content: Vec<u8>,
}

fn config() -> PageConfig {
    PageConfig {
        page_size_bytes: 100,
        max_gap_bytes: 200,
        max_run_bytes: 1_000,
        ..PageConfig::default()
    }
}

fn content(size: u64, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 251) % 251).unwrap() ^ seed)
        .collect()
}

async fn fixture(size: u64, pages: Arc<dyn PageStore>, config: PageConfig) -> Fixture {
    let store = TestStore::new(Arc::new(InMemory::new()));
    let content = content(size, 0);
    store.put(&Path::from("f"), content.clone().into()).await.unwrap();
    let ufs = store.mounted();
    let key = ufs.key_of(&ufs.head("f").await.unwrap().unwrap());
    Fixture {
        tier: PageTier::new(pages, config, Retentions::default()).unwrap(),
        file: OpenFile {
            ufs,
            path: "f".to_owned(),
            key,
            peers: None,
            errand: None,
        },
        store,
        content,
    }
}

async fn in_memory(size: u64) -> Fixture {
    fixture(size, in_memory_pages(1 << 20), config()).await
}

impl Fixture {
    fn expected(&self, range: &Range<u64>) -> &[u8] {
        &self.content[to_usize(range.start)..to_usize(range.end)]
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Source {
        let (read, source) = self.tier.read(&self.file, ranges).await.unwrap();
        assert_eq!(read.len(), ranges.len());
        for (bytes, range) in read.iter().zip(ranges) {
            assert_eq!(bytes, self.expected(range), "{range:?}");
        }
        source
    }

    fn fetched(&self) -> Vec<Range<u64>> {
        self.store.reads().into_iter().filter_map(|read| read.range).collect()
    }
}

fn in_memory_pages(capacity_bytes: u64) -> Arc<dyn PageStore> {
    pages_of_size(config().page_size_bytes, capacity_bytes)
}

fn pages_of_size(page_size_bytes: u64, capacity_bytes: u64) -> Arc<dyn PageStore> {
    let budget = crate::budget::Budget::new(u64::MAX / 2);
    Arc::new(MemoryPages::new(
        page_size_bytes,
        capacity_bytes,
        budget,
        Retentions::default(),
    ))
}

/// A store that keeps nothing, but may say that it holds everything.
struct Forgetful {
    boasts: bool,
}

impl PageStore for Forgetful {
    fn get(&self, _: FileId, _: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        Vec::new()
    }

    fn contains(&self, _: FileId, _: PageIndex) -> bool {
        self.boasts
    }

    fn put(&self, _: &FileKey, _: PageIndex, _: &Bytes, _: Option<u64>) -> Result<(), Unkept> {
        Err(Unkept::Full { capacity_bytes: 0 })
    }

    fn protect(&self, _: FileId, _: &[PageIndex], _: u64) {}

    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        (self.get(file, pages), 0)
    }

    fn remove_pages(&self, _: FileId, _: Range<PageIndex>) -> u64 {
        0
    }

    fn set_pins(&self) {}

    fn pinned_bytes(&self) -> u64 {
        0
    }

    fn capacity_bytes(&self) -> u64 {
        0
    }

    fn remove_file(&self, _: FileId) -> u64 {
        0
    }

    fn held_bytes(&self, _: FileId) -> u64 {
        0
    }

    fn held_since(&self, _: FileId) -> Option<SystemTime> {
        None
    }

    fn rescope(&self) {}

    fn files(&self, _: &HashSet<FileId>) -> Vec<FileKey> {
        Vec::new()
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn source(&self) -> Source {
        Source::Memory
    }

    fn blocks(&self) -> bool {
        // So that one poll of a reader takes it to its load.
        false
    }
}

/// A store that hands back pages that are too short.
#[derive(Default)]
struct Damaging(Mutex<std::collections::HashMap<(FileId, PageIndex), Bytes>>);

impl PageStore for Damaging {
    fn get(&self, file: FileId, pages: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        let held = self.0.lock();
        let found = pages
            .iter()
            .filter_map(|page| Some((*page, held.get(&(file, *page))?.slice(1..))));
        found.collect()
    }

    fn contains(&self, file: FileId, page: PageIndex) -> bool {
        self.0.lock().contains_key(&(file, page))
    }

    fn put(&self, file: &FileKey, first: PageIndex, run: &Bytes, _: Option<u64>) -> Result<(), Unkept> {
        self.0.lock().insert((file.id(), first), run.clone());
        Ok(())
    }

    fn protect(&self, _: FileId, _: &[PageIndex], _: u64) {}

    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        (self.get(file, pages), 0)
    }

    fn remove_pages(&self, _: FileId, _: Range<PageIndex>) -> u64 {
        0
    }

    fn set_pins(&self) {}

    fn pinned_bytes(&self) -> u64 {
        0
    }

    fn capacity_bytes(&self) -> u64 {
        0
    }

    fn remove_file(&self, _: FileId) -> u64 {
        0
    }

    fn held_bytes(&self, _: FileId) -> u64 {
        0
    }

    fn held_since(&self, _: FileId) -> Option<SystemTime> {
        None
    }

    fn rescope(&self) {}

    fn files(&self, _: &HashSet<FileId>) -> Vec<FileKey> {
        Vec::new()
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn source(&self) -> Source {
        Source::Disk
    }

    fn blocks(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn what_was_read_once_is_not_asked_for_again() {
    let f = in_memory(2_550).await;
    assert_eq!(f.read(&[2_500..2_550, 0..10, 7..7]).await, Source::Store);
    assert_eq!(f.fetched(), [0..100, 2_500..2_550]);
    assert_eq!(f.read(&[5..100, 2_549..2_550]).await, Source::Memory);
    assert_eq!(f.read(&[]).await, Source::Memory);
    assert_eq!(f.store.reads().len(), 2);
    assert_eq!(f.read(&[0..2_550]).await, Source::Store);
    assert_eq!(f.fetched()[2..], [100..1_100, 1_100..2_100, 2_100..2_500]);
    assert_eq!(f.read(&[0..2_550]).await, Source::Memory);
    assert_eq!(f.store.reads().len(), 5);
    assert!(f.tier.bytes() >= 2_550);
}

#[tokio::test]
async fn near_ranges_are_one_request_whose_pages_are_all_kept() {
    let f = in_memory(2_000).await;
    f.read(&[0..500, 650..1_200]).await;
    assert_eq!(f.fetched(), [0..1_000, 1_000..1_200]);
    assert_eq!(f.read(&[500..600]).await, Source::Memory);
}

#[tokio::test]
async fn a_range_within_a_run_is_a_slice_of_it() {
    let f = fixture(2_000, Arc::new(Forgetful { boasts: false }), config()).await;
    let (read, _) = f.tier.read(&f.file, &[10..900, 20..30]).await.unwrap();
    assert_eq!(read[1].as_ptr(), read[0][10..].as_ptr());
}

#[tokio::test]
async fn ranges_outside_the_file_are_refused() {
    let f = in_memory(100).await;
    for range in [0..101, 101..101] {
        assert_eq!(
            f.tier.read(&f.file, &[range]).await.unwrap_err().kind(),
            UfsErrorKind::Other
        );
    }
    assert_eq!(f.store.reads(), []);
    f.read(&[100..100, 0..100]).await;
}

#[tokio::test]
async fn a_hundred_readers_make_one_request() {
    for pages in [
        in_memory_pages(1 << 20),
        Arc::new(Forgetful { boasts: false }),
        Arc::new(Forgetful { boasts: true }),
    ] {
        let f = fixture(1_000, pages, config()).await;
        f.store.hold();
        let ranges = [0..1_000];
        let mut readers: Vec<_> = (0..100).map(|_| Box::pin(f.tier.read(&f.file, &ranges))).collect();
        for reader in &mut readers {
            assert!(futures::poll!(reader).is_pending());
        }
        f.store.wait_for_reads(1).await;
        f.store.release();
        for (bytes, source) in future::try_join_all(readers).await.unwrap() {
            assert_eq!((bytes[0].as_ref(), source), (f.content.as_slice(), Source::Store));
        }
        assert_eq!(f.store.reads().len(), 1);
    }
}

#[tokio::test]
async fn overlapping_readers_ask_only_for_what_nobody_asked_for() {
    let f = in_memory(1_000).await;
    f.store.hold();
    let (first_ranges, second_ranges) = ([0..500], [300..800]);
    let mut first = Box::pin(f.tier.read(&f.file, &first_ranges));
    let mut second = Box::pin(f.tier.read(&f.file, &second_ranges));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    f.store.wait_for_reads(2).await;
    f.store.release();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(
        (first.0[0].as_ref(), second.0[0].as_ref()),
        (f.expected(&(0..500)), f.expected(&(300..800)))
    );
    let mut fetched = f.fetched();
    fetched.sort_by_key(|range| range.start);
    assert_eq!(fetched, [0..500, 500..800]);
}

#[tokio::test]
async fn a_load_outlives_the_reader_that_began_it() {
    let f = in_memory(1_000).await;
    f.store.hold();
    let ranges = [0..1_000];
    let mut first = Box::pin(f.tier.read(&f.file, &ranges));
    assert!(futures::poll!(&mut first).is_pending());
    f.store.wait_for_reads(1).await;
    let mut second = Box::pin(f.tier.read(&f.file, &ranges));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    f.store.release();
    assert_eq!(second.await.unwrap().0[0], f.content);
    assert_eq!(f.store.reads().len(), 1);
    assert_eq!(f.read(&ranges).await, Source::Memory);
}

#[tokio::test]
async fn an_error_is_told_to_all_who_wait_and_then_forgotten() {
    let f = in_memory(1_000).await;
    f.store.hold();
    f.store.fail_next(Fault::Unreachable);
    let ranges = [0..1_000];
    let mut readers: Vec<_> = (0..10).map(|_| Box::pin(f.tier.read(&f.file, &ranges))).collect();
    for reader in &mut readers {
        assert!(futures::poll!(reader).is_pending());
    }
    f.store.release();
    for outcome in future::join_all(readers).await {
        outcome.unwrap_err();
    }
    assert_eq!(f.store.reads().len(), 1);
    assert_eq!(f.read(&ranges).await, Source::Store);
}

#[tokio::test]
async fn a_short_body_is_completed_before_any_page_is_kept() {
    let f = in_memory(1_000).await;
    f.store.fail_next(Fault::Short(250));
    f.read(&[0..1_000]).await;
    assert_eq!(f.fetched(), [0..1_000, 250..1_000]);
    f.read(&[0..1_000]).await;
}

#[tokio::test]
async fn a_change_midway_is_stale_and_the_new_version_reads_whole() {
    let f = in_memory(1_000).await;
    let changed = Bytes::from(content(1_000, 0xff));
    f.store.fail_next(Fault::BrokenAndReplaced(400, changed.clone()));
    let error = f.tier.read(&f.file, &[0..1_000]).await.unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::Stale);
    let key = f.file.ufs.key_of(&f.file.ufs.head("f").await.unwrap().unwrap());
    let file = OpenFile { key, ..f.file.clone() };
    assert_eq!(f.tier.read(&file, &[0..1_000]).await.unwrap().0[0], changed);
    // Nothing of the old version was kept under the new one's name, nor the other way round.
    assert_eq!(
        f.tier.read(&f.file, &[0..1]).await.unwrap_err().kind(),
        UfsErrorKind::Stale
    );
}

#[tokio::test]
async fn a_page_of_a_wrong_length_is_a_miss() {
    let f = fixture(1_000, Arc::new(Damaging::default()), config()).await;
    f.read(&[0..1_000]).await;
    assert_eq!(f.read(&[0..1_000]).await, Source::Store);
}

#[tokio::test]
async fn a_weak_generation_is_read_whole_in_one_request_and_within_a_limit() {
    let limited = PageConfig {
        max_whole_file_bytes: 999,
        ..config()
    };
    let f = fixture(1_000, in_memory_pages(1 << 20), limited).await;
    let key = FileKey {
        generation: Generation::from_parts(None, None, 1, 1_000),
        ..f.file.key.clone()
    };
    let weak = OpenFile { key, ..f.file.clone() };
    let error = f.tier.read(&weak, &[0..1]).await.unwrap_err();
    assert!(error.to_string().contains("999"), "{error}");
    assert_eq!(f.store.reads(), []);
}

#[tokio::test]
async fn a_store_without_etags_is_read_whole_and_once() {
    let mut f = in_memory(1_000).await;
    f.store.hide_etags();
    f.file.key = f.file.ufs.key_of(&f.file.ufs.head("f").await.unwrap().unwrap());
    assert!(!f.file.key.generation.is_strong());
    f.store.hold();
    let ranges = [10..20, 900..910];
    let mut readers: Vec<_> = (0..10).map(|_| Box::pin(f.tier.read(&f.file, &ranges))).collect();
    for reader in &mut readers {
        assert!(futures::poll!(reader).is_pending());
    }
    f.store.release();
    for (read, source) in future::try_join_all(readers).await.unwrap() {
        assert_eq!((read[1].as_ref(), source), (f.expected(&(900..910)), Source::Store));
    }
    assert_eq!(f.read(&[0..1_000]).await, Source::Memory);
    let asked = f.store.reads();
    assert_eq!(
        (asked.len(), asked[0].range.clone(), asked[0].if_match.clone()),
        (1, None, None)
    );
}

#[tokio::test]
async fn removed_files_are_read_again() {
    let f = in_memory(1_000).await;
    f.read(&[0..1_000]).await;
    f.tier.remove_file(f.file.key.id()).await;
    assert_eq!(f.tier.bytes(), 0);
    assert_eq!(f.read(&[0..1_000]).await, Source::Store);
}

/// Whoever lets go of a file must know of it while nothing of it is held yet.
#[tokio::test]
async fn what_arrives_after_a_removal_is_not_kept() {
    let f = in_memory(1_000).await;
    f.store.hold();
    let ranges = [0..1_000];
    let mut reading = Box::pin(f.tier.read(&f.file, &ranges));
    assert!(futures::poll!(&mut reading).is_pending());
    assert_eq!(
        (f.tier.arriving(), f.tier.files(&HashSet::new())),
        (vec![f.file.key.clone()], vec![])
    );
    f.tier.remove_file(f.file.key.id()).await;
    f.store.release();
    assert_eq!(reading.await.unwrap().0[0], f.content);
    while !f.tier.arriving().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(f.tier.bytes(), 0);
}

#[tokio::test]
async fn memory_stays_within_its_bytes() {
    let f = fixture(100_000, in_memory_pages(20_000), config()).await;
    for start in (0..100_000).step_by(1_000) {
        f.read(&[start..start + 1_000]).await;
        assert!(f.tier.bytes() <= 20_000);
    }
}

#[tokio::test]
async fn loads_in_flight_wait_for_room() {
    let narrow = PageConfig {
        max_inflight_bytes: 2_048,
        max_run_bytes: 1_000,
        ..config()
    };
    let f = fixture(10_000, in_memory_pages(1 << 20), narrow).await;
    f.store.hold();
    let ranges = [0..10_000];
    let mut reader = Box::pin(f.tier.read(&f.file, &ranges));
    assert!(futures::poll!(&mut reader).is_pending());
    f.store.wait_for_reads(2).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(f.store.reads().len(), 2);
    f.store.release();
    assert_eq!(reader.await.unwrap().0[0], f.content);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any ranges, in any order, over a memory that is too small or forgets all: the object's bytes.
    #[test]
    fn reads_give_the_bytes_of_the_object(
        size in 1_u64..5_000,
        page in 1_u64..700,
        gap in 0_u64..2_000,
        run in 1_u64..3_000,
        capacity in prop_oneof![Just(0_u64), Just(2_000), Just(1 << 20)],
        reads in prop::collection::vec(prop::collection::vec((any::<u64>(), any::<u64>()), 0..6), 1..12),
    ) {
        let config = PageConfig {
            page_size_bytes: page, max_gap_bytes: gap, max_run_bytes: run, ..PageConfig::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let f = fixture(size, pages_of_size(page, capacity), config).await;
            let place = |(a, b): &(u64, u64)| {
                let (a, b) = (a % (size + 1), b % (size + 1));
                a.min(b)..a.max(b)
            };
            let reads: Vec<Vec<_>> = reads.iter().map(|ranges| ranges.iter().map(place).collect()).collect();
            future::join_all(reads.iter().map(|ranges| f.read(ranges))).await;
            for ranges in &reads {
                f.read(ranges).await;
            }
        });
    }
}
