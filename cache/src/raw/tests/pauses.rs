//! What a read of stored bytes holds: its share among the scans that are open, row groups ahead, no footers; and nothing while
//! it is paused.

use std::time::Duration;

use super::*;
use crate::tests::kept;

const GROUPS: usize = ROWS.div_ceil(GROUP_ROWS);

/// A folder whose `a.parquet` has some row groups.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &table(), WriterVersion::PARQUET_1_0, true);
    folder
}

async fn scan_of(cache: &Cache, folder: &tempfile::TempDir) -> RawScan {
    whole_scan(planned(cache, folder.path(), &["n", "text"], UNBOUNDED).await)
}

fn open(cache: &Cache) -> usize {
    cache.engine.open_scans.load(Ordering::Relaxed)
}

/// Waits until something is so: tasks that were told to stop are gone a moment later.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "not so: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_its_share_among_all_scans_that_are_open() {
    let folder = folder();
    let cache = Cache::open(CacheConfig {
        memory_bytes: 256 << 20,
        ..CacheConfig::default()
    });
    let cache = cache.unwrap();
    let mut scans = Vec::new();
    for number in 1..=12 {
        let scan = scan_of(&cache, &folder).await;
        assert_eq!((open(&cache), scan.ahead_bytes), (number, cache.engine.ahead_bytes()));
        let permits = to_usize(u64::from(permits(scan.ahead_bytes)));
        assert_eq!(scan.room.available_permits(), permits);
        scans.push(scan);
    }
    let shares: Vec<u64> = scans.iter().map(|scan| scan.ahead_bytes).collect();
    assert!(shares[11] * 4 <= shares[0], "{shares:?}");
    let (files, pause) = scans.remove(0).files();
    assert_eq!(open(&cache), 12);
    drop(files);
    assert_eq!(open(&cache), 11, "whoever can still pause it keeps nothing of it");
    assert!(!pause.pause());
    drop(scans);
    assert_eq!(open(&cache), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_are_held_while_their_files_are_read_and_no_longer() {
    let folder = folder();
    let cache = cache();
    let file = open_file(&mount(folder.path()), "a.parquet").await;
    let footer = cache.footer(&file).await.unwrap();
    let whole = request(vec![split(&file, &footer)], &footer.schema);
    let before = Arc::strong_count(&footer);
    let scan = whole_scan(cache.raw(&whole, UNBOUNDED).await.unwrap());
    assert_eq!(scan.groups().len(), GROUPS);
    assert!(Arc::strong_count(&footer) <= before, "the row groups hold it");
    // An excerpt has the footer, and nothing else has.
    let part = Arc::clone(&scan.groups()[0].part);
    let excerpt = || part.excerpt.lock().clone();
    assert_eq!(excerpt().strong_count(), 0);
    let (mut files, pause) = scan.files();
    files.next().await.unwrap().unwrap();
    let of_first = excerpt();
    assert!(of_first.strong_count() > 0);
    files.next().await.unwrap().unwrap();
    assert!(excerpt().ptr_eq(&of_first), "row groups of one file share it");
    assert!(pause.pause());
    until("it is let go of", || of_first.strong_count() == 0).await;
    assert!(files.next().await.unwrap().is_ok());
    assert!(excerpt().strong_count() > 0);
    assert!(!excerpt().ptr_eq(&of_first), "it was made anew");
    assert!(files.next().await.unwrap().is_ok());
    assert!(files.next().await.is_none());
    until("nothing is held at the end", || excerpt().strong_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_read_holds_what_was_taken_and_goes_on_where_it_was() {
    let folder = folder();
    let cache = Cache::open(CacheConfig {
        memory_bytes: 8 << 20,
        ..CacheConfig::default()
    });
    let cache = cache.unwrap();
    let mut expected = Vec::new();
    let scan = scan_of(&cache, &folder).await;
    for group in scan.groups() {
        let file = scan.read(group).await.unwrap();
        expected.push((group.row_group, Bytes::copy_from_slice(&file.bytes)));
    }
    let used = || cache.engine.budget.used_bytes(Purpose::Scans);
    let (mut files, pause) = scan.files();
    assert!(!pause.pause(), "nothing has begun");
    let (mut given, mut given_bytes) = (Vec::new(), 0);
    while let Some(file) = files.next().await {
        let (group, file) = file.unwrap();
        given_bytes += to_u64(file.bytes.len());
        given.push((group.row_group, file.bytes));
        assert_eq!(pause.pause(), given.len() < GROUPS, "one is read ahead");
        assert!(!pause.pause(), "there is nothing left to let go of");
        until("what was taken is all that is held", || used() == given_bytes).await;
    }
    assert!(files.next().await.is_none(), "the end stays the end");
    assert_eq!(given, expected);
    drop(given);
    until("nothing is held", || used() == 0).await;
}

/// On one thread, so that no task runs while the first poll goes on.
#[tokio::test]
async fn whoever_waits_is_not_paused() {
    let folder = folder();
    let cache = cache();
    let (mut files, pause) = scan_of(&cache, &folder).await.files();
    let mut first = std::pin::pin!(files.next());
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(!pause.pause());
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_larger_than_the_share_go_one_by_one() {
    let folder = folder();
    let cache = Cache::open(CacheConfig {
        read_ahead_bytes: 1 << 10,
        ..CacheConfig::default()
    });
    let (mut files, pause) = scan_of(&cache.unwrap(), &folder).await.files();
    for at in 0..GROUPS {
        let first = files.next().await.unwrap().unwrap();
        assert_eq!(first.1.bytes.len(), usize::try_from(first.0.bytes).unwrap());
        let next = tokio::time::timeout(Duration::from_millis(20), files.next()).await;
        assert_eq!(next.is_err(), at + 1 < GROUPS, "the first fills the room");
        assert!(!pause.pause(), "it is waited for, or there is none");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_an_error() {
    let folder = folder();
    let cache = cache();
    let (mut files, pause) = scan_of(&cache, &folder).await.files();
    // The file is so small that all of it came with its footer.
    let path = folder.path().join("a.parquet");
    let file = open_file(&mount(folder.path()), "a.parquet").await;
    kept(&cache).await;
    cache.remove_file(file.key.id()).await;
    std::fs::remove_file(path).unwrap();
    assert!(files.next().await.unwrap().is_err());
    assert!(files.next().await.is_none());
    assert!(!pause.pause(), "nothing is left");
}

/// Storage may be far away: one at a time, each would be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_are_read_ahead_as_there_is_room_for() {
    let folder = folder();
    let cache = cache();
    let scan = scan_of(&cache, &folder).await;
    let all_bytes: u64 = scan.groups().iter().map(|group| group.bytes).sum();
    let used = || cache.engine.budget.used_bytes(Purpose::Scans);
    let (mut files, pause) = scan.files();
    let first = files.next().await.unwrap().unwrap();
    until("all of them are there", || used() == all_bytes).await;
    assert!(pause.pause());
    until("what was taken is all that is held", || used() == first.0.bytes).await;
}
