//! Reads and listings over a store in memory that counts and fails.

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::super::testing::{Fault, TestStore};
use super::*;

const CONTENT: &[u8] = b"0123456789";

async fn filled(key: &str, objects: &[(&str, &[u8])]) -> (Ufs, Arc<TestStore>) {
    let store = TestStore::new(Arc::new(InMemory::new()));
    for (path, content) in objects {
        store
            .put(&Path::parse(path).unwrap(), content.to_vec().into())
            .await
            .unwrap();
    }
    let limits = context().limits;
    let dynamic: Arc<dyn ObjectStore> = store.clone();
    (
        Ufs::from_store_with(spec("memory", "m", key, &[]), dynamic, limits),
        store,
    )
}

async fn one() -> (Ufs, Arc<TestStore>, FileKey) {
    let (ufs, store) = filled("top", &[("top/f", CONTENT)]).await;
    let info = ufs.head("f").await.unwrap().unwrap();
    let key = ufs.key_of(&info);
    (ufs, store, key)
}

/// The same, where no answer is waited for long.
async fn one_in_haste() -> (Ufs, Arc<TestStore>, FileKey) {
    let (_, store, key) = one().await;
    let dynamic: Arc<dyn ObjectStore> = store.clone();
    let ufs = Ufs::from_store_with(spec("memory", "m", "top", &[]), dynamic, hasty().limits);
    (ufs, store, key)
}

#[tokio::test]
async fn names_are_taken_as_they_are() {
    let objects: Vec<_> = NAMES
        .iter()
        .map(|name| (format!("top/{name}"), name.as_bytes()))
        .collect();
    let objects: Vec<_> = objects
        .iter()
        .map(|(path, content)| (path.as_str(), *content))
        .collect();
    let (ufs, _) = filled("top", &objects).await;
    let mut expected: Vec<_> = NAMES.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(paths(&ufs, "").await, expected);
    for name in NAMES {
        assert_eq!(read_whole(&ufs, name).await, name.as_bytes());
    }
}

#[tokio::test]
async fn listings_are_relative_to_the_mount_and_keep_to_whole_segments() {
    let (ufs, _) = filled(
        "top",
        &[
            ("top/a/1", b"x"),
            ("top/ab/2", b"x"),
            ("topping/3", b"x"),
            ("top/4", b"x"),
        ],
    )
    .await;
    assert_eq!(paths(&ufs, "").await, ["4", "a/1", "ab/2"]);
    assert_eq!(paths(&ufs, "a").await, ["a/1"]);
    assert_eq!(paths(&ufs, "none").await, Vec::<String>::new());
    let all = [
        ("4".to_owned(), true),
        ("a".to_owned(), false),
        ("ab".to_owned(), false),
    ];
    assert_eq!(names(&ufs, "").await, all);
    assert_eq!(names(&ufs, "a").await, [("1".to_owned(), true)]);
    assert_eq!(ufs.head("a").await.unwrap(), None);
    assert_eq!(ufs.head("").await.unwrap(), None);
    assert_eq!(ufs.head("../x").await.unwrap_err().kind(), UfsErrorKind::Other);
}

#[tokio::test]
async fn a_mount_can_be_a_single_object() {
    let (ufs, _) = filled("top/f", &[("top/f", CONTENT)]).await;
    let info = ufs.head("").await.unwrap().unwrap();
    assert_eq!(ufs.key_of(&info).uri.as_ref(), "memory://m/top/f");
    assert_eq!(ufs.get_range("", &ufs.key_of(&info), 2..4).await.unwrap(), "23");
}

#[tokio::test]
async fn reads_name_the_generation() {
    let (ufs, store, key) = one().await;
    assert_eq!(ufs.get_range("f", &key, 2..5).await.unwrap(), "234");
    let read = store.reads().pop().unwrap();
    assert_eq!(
        (read.range, read.if_match.as_deref()),
        (Some(2..5), key.generation.etag())
    );
    assert_eq!(ufs.get_range("f", &key, 3..3).await.unwrap(), "");
    assert_eq!(store.reads().len(), 1);
    ufs.get_range("f", &key, 5..11).await.unwrap_err();
    assert_eq!(store.reads().len(), 1);
}

#[tokio::test]
async fn an_overwritten_object_is_stale_and_both_generations_are_told() {
    let (ufs, store, key) = one().await;
    store.fail_next(Fault::Replaced(Bytes::from_static(b"abcdefghij")));
    let error = ufs.get_range("f", &key, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::Stale);
    let now = ufs.head("f").await.unwrap().unwrap().generation;
    assert_eq!(error.generations(), Some((&key.generation, Some(&now))));
}

#[tokio::test]
async fn a_server_that_ignores_if_match_is_caught() {
    let (ufs, store, key) = one().await;
    store.fail_next(Fault::OtherEtag("99".to_owned()));
    assert_eq!(kind(ufs.get_range("f", &key, 0..10).await), UfsErrorKind::Stale);
}

#[tokio::test]
async fn a_short_or_broken_body_is_resumed_where_it_ended() {
    for fault in [Fault::Short(4), Fault::Broken(4)] {
        let (ufs, store, key) = one().await;
        store.fail_next(fault);
        assert_eq!(ufs.get_range("f", &key, 1..9).await.unwrap(), "12345678");
        let ranges: Vec<_> = store.reads().into_iter().filter_map(|read| read.range).collect();
        assert_eq!(ranges, [1..9, 5..9]);
        assert!(
            store
                .reads()
                .iter()
                .all(|read| read.if_match.as_deref() == key.generation.etag())
        );
    }
}

#[tokio::test]
async fn a_body_that_changes_midway_is_stale_and_never_a_mixture() {
    let (ufs, store, key) = one().await;
    store.fail_next(Fault::BrokenAndReplaced(4, Bytes::from_static(b"abcdefghij")));
    assert_eq!(kind(ufs.get_range("f", &key, 0..10).await), UfsErrorKind::Stale);
}

#[tokio::test]
async fn a_store_that_never_sends_the_rest_is_given_up_with_its_tries() {
    let (ufs, store, key) = one_in_haste().await;
    (0..50).for_each(|_| store.fail_next(Fault::Short(0)));
    let error = ufs.get_range("f", &key, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::Unavailable);
    assert!(
        error.to_string().contains("after 0 of 10 bytes") && error.to_string().contains("tries"),
        "{error}"
    );
}

#[tokio::test]
async fn silence_is_a_timeout_in_time() {
    let (ufs, store, key) = one_in_haste().await;
    store.hold();
    let started = std::time::Instant::now();
    let error = ufs.get_range("f", &key, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::Timeout);
    // The time that was waited, and not the one that a single request has.
    assert!(error.to_string().contains("no answer within 1 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    store.release();
}

#[tokio::test]
async fn a_deleted_object_is_not_found() {
    let (ufs, store, key) = one().await;
    store.delete(&Path::from("top/f")).await.unwrap();
    assert_eq!(kind(ufs.get_range("f", &key, 0..10).await), UfsErrorKind::NotFound);
    assert_eq!(ufs.head("f").await.unwrap(), None);
}

#[tokio::test]
async fn a_weak_generation_is_read_whole_or_not_at_all() {
    let (ufs, store, key) = one().await;
    let weak = FileKey {
        generation: Generation::from_parts(None, None, 5, 10),
        ..key
    };
    assert_eq!(kind(ufs.get_range("f", &weak, 0..5).await), UfsErrorKind::Other);
    assert_eq!(store.reads(), []);
    // The store has an ETag and the key has none: not the same version.
    assert_eq!(kind(ufs.get_range("f", &weak, 0..10).await), UfsErrorKind::Stale);
    assert_eq!(store.reads()[0].range, None);
}

#[tokio::test]
async fn requests_at_once_are_limited() {
    let store = TestStore::new(Arc::new(InMemory::new()));
    store.put(&Path::from("f"), CONTENT.to_vec().into()).await.unwrap();
    let dynamic: Arc<dyn ObjectStore> = store.clone();
    let limits = UfsLimits {
        concurrency: 3,
        ..UfsLimits::default()
    };
    let ufs = Ufs::from_store_with(spec("memory", "m", "", &[]), dynamic, limits);
    let key = ufs.key_of(&ufs.head("f").await.unwrap().unwrap());
    store.hold();
    let mut reads: Vec<_> = (0..10).map(|_| Box::pin(ufs.get_range("f", &key, 0..10))).collect();
    for read in &mut reads {
        assert!(futures::poll!(read).is_pending());
    }
    assert_eq!(store.reads().len(), 3);
    store.release();
    futures::future::try_join_all(reads).await.unwrap();
    assert_eq!(store.reads().len(), 10);
}

#[tokio::test]
async fn memory_mounts_of_one_name_share_a_store() {
    memory::store("shared")
        .put(&Path::from("d/f"), CONTENT.to_vec().into())
        .await
        .unwrap();
    let ufs = open(spec("memory", "shared", "d", &[])).unwrap();
    assert_eq!(read_whole(&ufs, "f").await, CONTENT);
    let report = ufs.check().await.unwrap();
    assert_eq!(
        (report.object.as_deref(), report.bytes_read, report.strong_generation),
        (Some("f"), 10, Some(true))
    );
    assert_eq!(report.warnings, Vec::<String>::new());
    let empty = open(spec("memory", "nothing here", "", &[]))
        .unwrap()
        .check()
        .await
        .unwrap();
    assert_eq!((empty.object, empty.warnings.len()), (None, 1));
}
