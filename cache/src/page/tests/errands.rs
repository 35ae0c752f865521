//! Reads that nobody waits for: paced, stopped, and kept because somebody said so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::peers::with_peer;
use super::{Fixture, Stuck, config, content, fixture, in_memory, in_memory_pages, pages_of_size};
use crate::key::{FileKey, Generation, PageIndex, to_u64};
use crate::page::{Errand, OpenFile, PageConfig, PageStore};
use crate::retention::{Keep, Retention, Rule};
use crate::ufs::UfsErrorKind;
use crate::unkept::Unkept;

/// Whoever does not come by then hangs.
const SOON: Duration = Duration::from_secs(20);

impl Fixture {
    fn for_errand(&self, errand: &Arc<Errand>) -> OpenFile {
        OpenFile {
            errand: Some(Arc::clone(errand)),
            ..self.file.clone()
        }
    }

    async fn ensure(&self, errand: &Arc<Errand>, range: std::ops::Range<u64>) -> Option<Unkept> {
        let ensured = self.tier.ensure(errand, &self.file, std::slice::from_ref(&range));
        tokio::time::timeout(SOON, ensured).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn what_is_ensured_is_held_and_asked_for_once() {
    let f = in_memory(2_550).await;
    let errand = Errand::new(true);
    f.read(&[300..500]).await;
    assert_eq!(f.ensure(&errand, 150..2_550).await, None);
    assert!(f.tier.holds(&f.file, &(100..2_550)) && !f.tier.holds(&f.file, &(0..100)));
    let mut fetched = f.fetched();
    fetched.sort_by_key(|range| range.start);
    assert_eq!(fetched, [100..300, 300..500, 500..1_500, 1_500..2_500, 2_500..2_550]);
    assert_eq!((errand.fetched_bytes(), errand.store_requests()), (2_250, 4));
    assert_eq!(f.ensure(&errand, 100..2_550).await, None);
    assert_eq!(f.store.reads().len(), 5);
}

#[tokio::test]
async fn what_strangers_fill_gives_way_to_what_is_ensured() {
    let pages = pages_of_size(100, 20 * (100 + 256));
    let f = fixture(10_000, pages, config()).await;
    f.read(&[0..2_000]).await;
    f.read(&[5_000..6_000]).await;
    assert!(!f.tier.holds(&f.file, &(5_000..6_000)), "strangers are refused");
    let errand = Errand::new(true);
    assert_eq!(f.ensure(&errand, 5_000..7_000).await, None);
    assert!(f.tier.holds(&f.file, &(5_000..7_000)));
    // A part that is larger than all there is keeps what came first, and says so.
    let (first, other) = (Errand::new(true), Errand::new(true));
    assert_eq!(f.ensure(&first, 0..1_500).await, None);
    assert!(matches!(f.ensure(&first, 0..4_000).await, Some(Unkept::Full { .. })));
    assert!(f.tier.holds(&f.file, &(0..1_500)));
    assert_eq!(f.ensure(&other, 8_000..10_000).await, None);
}

#[tokio::test]
async fn without_keeping_nothing_is_kept() {
    let f = in_memory(1_000).await;
    let errand = Errand::new(false);
    let file = f.for_errand(&errand);
    let (read, _) = f.tier.read(&file, &[0..1_000]).await.unwrap();
    assert_eq!((read[0].as_ref(), f.tier.bytes()), (f.content.as_slice(), 0));
    let errand = Errand::new(true);
    f.tier.read(&f.for_errand(&errand), &[0..1_000]).await.unwrap();
    assert_eq!(f.tier.bytes(), 1_000);
}

/// A reader's bytes are not kept while too many wait for the disk; an errand's wait for it.
#[expect(clippy::await_holding_lock, reason = "the lock is what a disk that hangs is here")]
#[tokio::test(flavor = "multi_thread")]
async fn what_an_errand_brings_is_kept_before_it_lands() {
    let stuck = Arc::new(Stuck::default());
    let closed = stuck.gate.lock();
    let narrow = PageConfig {
        max_inflight_bytes: 8 << 10,
        max_unwritten_bytes: 2 << 10,
        ..config()
    };
    let f = fixture(10_000, Arc::clone(&stuck) as Arc<dyn PageStore>, narrow).await;
    let errand = Errand::new(true);
    let (file, ranges) = (f.for_errand(&errand), [0..10_000]);
    let mut reading = Box::pin(f.tier.read(&file, &ranges));
    assert!(futures::poll!(&mut reading).is_pending());
    f.store.wait_for_reads(4).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(futures::poll!(&mut reading).is_pending(), "nothing is kept yet");
    assert!(f.store.reads().len() < 10, "what waits for the disk is bounded");
    drop(closed);
    assert_eq!(reading.await.unwrap().0[0], f.content);
    assert_eq!(stuck.bytes(), 10_000);
}

#[tokio::test]
async fn a_stopped_errand_drops_its_requests_and_asks_no_more() {
    let f = in_memory(10_000).await;
    f.store.hold();
    let errand = Errand::new(true);
    let file = f.for_errand(&errand);
    let ranges = [0..10_000];
    let mut reading = Box::pin(f.tier.read(&file, &ranges));
    assert!(futures::poll!(&mut reading).is_pending());
    f.store.wait_for_reads(10).await;
    let stopped_at = Instant::now();
    errand.stop();
    assert_eq!(reading.await.unwrap_err().kind(), UfsErrorKind::Stopped);
    f.store.wait_for_dropped(10).await;
    println!("stopped within {:?}", stopped_at.elapsed());
    f.store.release();
    let after = f.tier.read(&file, &ranges).await.unwrap_err();
    assert_eq!((after.kind(), f.store.reads().len()), (UfsErrorKind::Stopped, 10));
    let ensured = f.tier.ensure(&errand, &f.file, &ranges).await.unwrap_err();
    assert_eq!(ensured.kind(), UfsErrorKind::Stopped);
    let errand = Errand::new(true);
    assert_eq!(f.ensure(&errand, 0..10_000).await, None);
}

#[tokio::test]
async fn readers_who_joined_a_stopped_errand_load_again() {
    let f = in_memory(1_000).await;
    f.store.hold();
    let errands = [Errand::new(true), Errand::new(false)];
    for errand in &errands {
        let (file, other) = (f.for_errand(errand), f.for_errand(&Errand::new(true)));
        let ranges = [0..1_000];
        let before = f.store.reads().len();
        let mut reading = Box::pin(f.tier.read(&file, &ranges));
        assert!(futures::poll!(&mut reading).is_pending());
        f.store.wait_for_reads(before + 1).await;
        let mut readers: Vec<_> = (0..10).map(|_| Box::pin(f.tier.read(&f.file, &ranges))).collect();
        let mut of_another = Box::pin(f.tier.read(&other, &ranges));
        for reader in &mut readers {
            assert!(futures::poll!(reader).is_pending());
        }
        assert!(futures::poll!(&mut of_another).is_pending());
        errand.stop();
        f.store.wait_for_dropped(1).await;
        let all = futures::future::join(futures::future::try_join_all(readers), of_another);
        let released = async {
            f.store.wait_for_reads(before + 2).await;
            f.store.release();
        };
        let ((read, of_another), ()) = tokio::time::timeout(SOON, futures::future::join(all, released))
            .await
            .unwrap();
        for (bytes, _) in read.unwrap() {
            assert_eq!(bytes[0], f.content);
        }
        assert_eq!(of_another.unwrap().0[0], f.content);
        assert_eq!(reading.await.unwrap_err().kind(), UfsErrorKind::Stopped);
        assert_eq!(f.store.reads().len(), before + 2, "one load for all who were left");
        f.tier.remove_file(f.file.key.id()).await;
        f.store.hold();
    }
}

fn large_pages() -> PageConfig {
    PageConfig {
        page_size_bytes: 4 << 10,
        ..PageConfig::default()
    }
}

#[tokio::test]
async fn requests_keep_to_the_rate() {
    let f = fixture(1 << 20, pages_of_size(4 << 10, 1 << 30), large_pages()).await;
    let errand = Errand::new(true);
    errand.set_rate(Some(2 << 20));
    let began = Instant::now();
    assert_eq!(f.ensure(&errand, 0..1 << 20).await, None);
    let took = began.elapsed();
    println!("1 MiB at 2 MiB/s in {took:?}, {} requests", errand.store_requests());
    // Two requests of half a MiB, of which the first waits for nothing; none of the time was saved up but the credit.
    assert!(took >= Duration::from_millis(190), "{took:?}");
    assert_eq!(errand.store_requests(), 2);
}

#[tokio::test]
async fn readers_wait_for_no_pace() {
    let f = fixture(1 << 20, pages_of_size(4 << 10, 1 << 30), large_pages()).await;
    let errand = Errand::new(true);
    errand.set_rate(Some(1));
    let (file, ranges) = (f.for_errand(&errand), [0..1 << 20]);
    let mut reading = Box::pin(f.tier.read(&file, &ranges));
    assert!(futures::poll!(&mut reading).is_pending());
    f.store.wait_for_reads(1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(f.store.reads().len(), 1, "the others wait for a day");
    let read = tokio::time::timeout(SOON, f.tier.read(&f.file, &ranges)).await.unwrap();
    assert_eq!(read.unwrap().0[0], f.content);
    // What was asked for once is not asked for again, and the errand has it by now too.
    assert_eq!(reading.await.unwrap().0[0], f.content);
    assert_eq!(f.store.reads().len(), 16);
}

#[tokio::test]
async fn loads_that_wait_for_their_pace_take_no_room_from_readers() {
    let narrow = PageConfig {
        max_inflight_bytes: 128 << 10,
        ..large_pages()
    };
    let f = fixture(4 << 20, pages_of_size(4 << 10, 1 << 30), narrow).await;
    let errand = Errand::new(true);
    errand.set_rate(Some(1));
    let (file, ranges) = (f.for_errand(&errand), [0..2 << 20]);
    let mut reading = Box::pin(f.tier.read(&file, &ranges));
    assert!(futures::poll!(&mut reading).is_pending());
    f.store.wait_for_reads(1).await;
    let other = [3 << 20..4 << 20];
    let read = tokio::time::timeout(SOON, f.tier.read(&f.file, &other)).await.unwrap();
    assert_eq!(read.unwrap().0[0], f.content[3 << 20..]);
}

#[tokio::test]
async fn peers_are_asked_without_a_pace() {
    let (f, _peer) = with_peer(|content, range| {
        let (start, end) = (
            usize::try_from(range.start).unwrap(),
            usize::try_from(range.end).unwrap(),
        );
        Some(Bytes::copy_from_slice(&content[start..end]))
    })
    .await;
    let errand = Errand::new(true);
    errand.set_rate(Some(1));
    assert_eq!(f.ensure(&errand, 0..2_550).await, None);
    assert_eq!(
        (errand.peer_bytes(), errand.fetched_bytes(), errand.store_requests()),
        (2_550, 0, 0)
    );
    assert!(f.tier.holds(&f.file, &(0..2_550)));
}

#[tokio::test]
async fn what_a_rule_keeps_nothing_of_is_not_asked_for() {
    let f = in_memory(1_000).await;
    let never = Retention {
        uri: "memory://m".to_owned(),
        rules: vec![Rule::new("**", Keep::Never).unwrap()],
        ..Retention::default()
    };
    f.tier.0.retentions.set(vec![never]);
    assert_eq!(f.ensure(&Errand::new(true), 0..1_000).await, Some(Unkept::Rule));
    assert_eq!(f.store.reads(), []);
}

#[tokio::test]
async fn a_page_that_is_not_what_storage_has_is_dropped() {
    let pages = in_memory_pages(1 << 20);
    let f = fixture(2_550, Arc::clone(&pages), config()).await;
    let errand = Errand::new(true);
    assert_eq!(f.ensure(&errand, 0..2_000).await, None);
    let check = |whole| f.tier.check(&errand, &f.file, &[150..2_550], whole);
    let checked = check(false).await.unwrap();
    assert_eq!((checked.bytes, checked.damaged_pages), (1_900, 0));
    // The tier writes no page twice, so that the wrong one has to come first.
    pages.remove_pages(f.file.key.id(), PageIndex(7)..PageIndex(8));
    pages
        .put(&f.file.key, PageIndex(7), &Bytes::from(vec![0; 100]), None)
        .unwrap();
    let checked = check(true).await.unwrap();
    assert_eq!((checked.bytes, checked.damaged_pages), (1_900, 1));
    assert_eq!(checked.ranges[0], f.content[150..2_550]);
    assert!(!f.tier.holds(&f.file, &(700..800)));
    assert_eq!(f.ensure(&errand, 0..2_000).await, None);
    assert_eq!(check(false).await.unwrap().damaged_pages, 0);
    assert_eq!(
        f.tier.fetched_bytes(),
        2_100,
        "what is compared is no part of what was fetched to be read"
    );
    let changed = content(2_550, 0xff);
    f.store.fail_next(crate::ufs::testing::Fault::Replaced(changed.into()));
    assert_eq!(check(false).await.unwrap_err().kind(), UfsErrorKind::Stale);
}

#[tokio::test]
async fn a_weak_generation_is_ensured_and_checked_whole() {
    let mut f = in_memory(1_000).await;
    f.store.hide_etags();
    f.file.key = f.file.ufs.key_of(&f.file.ufs.head("f").await.unwrap().unwrap());
    assert!(!f.file.key.generation.is_strong());
    let errand = Errand::new(true);
    assert_eq!(f.ensure(&errand, 200..300).await, None);
    assert_eq!(f.tier.held_bytes(f.file.key.id()), 1_000);
    let checked = f.tier.check(&errand, &f.file, &[0..1_000], false).await.unwrap();
    assert_eq!((checked.bytes, checked.damaged_pages), (1_000, 0));
    assert_eq!(f.store.reads().len(), 2);
    let key = FileKey {
        generation: Generation::from_parts(None, None, 1, to_u64(usize::MAX)),
        ..f.file.key.clone()
    };
    let too_large = OpenFile {
        key: FileKey { size: 2 << 30, ..key },
        ..f.file.clone()
    };
    let error = f.tier.ensure(&errand, &too_large, &[0..1]).await.unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::Other);
}

/// Pages that readers ask for while an errand brings them, in every order: nothing is asked for twice.
#[tokio::test(flavor = "multi_thread")]
async fn readers_and_errands_share_their_loads() {
    for _ in 0..50 {
        let f = fixture(100_000, in_memory_pages(1 << 20), config()).await;
        let errand = Errand::new(true);
        let ranges = [0..100_000];
        let both = futures::future::join(f.ensure(&errand, 0..100_000), f.tier.read(&f.file, &ranges));
        let (unkept, read) = both.await;
        assert_eq!((unkept, read.unwrap().0[0].as_ref()), (None, f.content.as_slice()));
        let asked: u64 = f.fetched().iter().map(|range| range.end - range.start).sum();
        assert_eq!(asked, 100_000);
        assert!(f.tier.holds(&f.file, &ranges[0]));
    }
}

#[tokio::test]
async fn what_is_compared_is_asked_for_in_requests_no_larger_than_others() {
    let f = in_memory(2_550).await;
    let errand = Errand::new(true);
    assert_eq!(f.ensure(&errand, 0..2_550).await, None);
    let before = f.fetched().len();
    let checked = f.tier.check(&errand, &f.file, &[0..2_550], false).await.unwrap();
    assert_eq!((checked.bytes, checked.damaged_pages), (2_550, 0));
    let mut asked = f.fetched().split_off(before);
    asked.sort_by_key(|range| range.start);
    assert_eq!(asked, [0..1_000, 1_000..2_000, 2_000..2_550]);
}

#[tokio::test]
async fn where_pages_are_held_is_told_in_ranges() {
    let f = in_memory(10_050).await;
    assert_eq!(f.tier.held_ranges(&f.file.key), []);
    let errand = Errand::new(true);
    for range in [250..420, 1_000..1_001, 6_000..6_300, 10_001..10_050] {
        assert_eq!(f.ensure(&errand, range).await, None);
    }
    // Pages 2 to 4 and page 10 are close to each other, and the last page is a short one.
    let ranges = f.tier.held_ranges(&f.file.key);
    assert_eq!(ranges, [200..1_100, 6_000..6_300, 10_000..10_050]);
    assert_eq!(f.ensure(&errand, 0..10_050).await, None);
    assert_eq!(f.tier.held_ranges(&f.file.key), [0..10_050]);
}
