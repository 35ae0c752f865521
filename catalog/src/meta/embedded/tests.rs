//! The embedded store against its contract, restarts, damaged files and a model.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::disk::{ENTRIES, FORMAT, FORMAT_KEY, FORMAT_WITHOUT_LEASES, HEADER};
use super::*;
use crate::meta::{MAX_VALUE_BYTES, conformance};

/// Tells the test below, started as a child, which file to open.
const CHILD_VARIABLE: &str = "JETBRIDGE_TEST_OPEN_STORE";

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meta.redb");
    (folder, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_it_keeps_the_contract() {
    conformance::suite(Arc::new(EmbeddedStore::in_memory().unwrap()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_file_it_keeps_the_contract() {
    let (_folder, file) = folder();
    conformance::suite(Arc::new(EmbeddedStore::open(file).unwrap()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_on_it_see_the_same() {
    let store = EmbeddedStore::in_memory().unwrap();
    conformance::two_handles(Arc::new(store.clone()), Arc::new(store))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_file_without_leases_is_read_and_becomes_one_with() {
    let (_folder, file) = folder();
    let database = redb::Database::create(&file).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut header = write.open_table(HEADER).unwrap();
        header.insert(FORMAT_KEY, FORMAT_WITHOUT_LEASES).unwrap();
        header.insert("revision", 7).unwrap();
        let mut entries = write.open_table(ENTRIES).unwrap();
        entries.insert("mounts/lake", (7, b"kept".as_slice())).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let store = EmbeddedStore::open(&file).unwrap();
    let found = store.get("mounts/lake").await.unwrap().unwrap();
    assert_eq!((found.value.as_slice(), found.revision), (b"kept".as_slice(), 7));
    assert_eq!(store.put("a", vec![1], Expect::Absent).await.unwrap(), 8);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.revoke(lease).await.unwrap();
    drop(store);
    let read = EmbeddedStore::open(&file).unwrap();
    let format = read.disk.header(FORMAT_KEY).unwrap();
    assert_eq!(format, Some(FORMAT));
}

#[tokio::test]
async fn after_a_reopen_leases_have_their_whole_time_again_and_then_end() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let short = store.grant(Duration::from_secs(3)).await.unwrap();
    let long = store.grant(Duration::from_secs(60)).await.unwrap();
    for (key, lease) in [("short", short), ("long", long)] {
        store
            .put_leased(key, vec![1], Expect::Absent, Some(lease))
            .await
            .unwrap();
    }
    drop(store);
    let opened = std::time::Instant::now();
    let store = EmbeddedStore::open(&file).unwrap();
    let mut watch = store.watch("");
    assert!(matches!(watch.next().await, WatchEvent::Reset { entries, .. } if entries.len() == 2));
    store.keep_alive(long).await.unwrap();
    assert!(matches!(watch.next().await, WatchEvent::Delete { key, .. } if key == "short"));
    assert!(opened.elapsed() >= Duration::from_secs(3));
    assert!(matches!(store.keep_alive(short).await, Err(MetaError::Lease { .. })));
    let next = store.grant(Duration::from_secs(60)).await.unwrap();
    assert!(next != short && next != long, "no name of a lease is used twice");
    store.revoke(long).await.unwrap();
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_watch_that_is_not_read_costs_no_memory_and_begins_anew() {
    let store = EmbeddedStore::in_memory().unwrap();
    let mut watch = store.watch("");
    assert!(matches!(watch.next().await, WatchEvent::Reset { .. }));
    let values = 40;
    for i in 0..values {
        let value = vec![i; MAX_VALUE_BYTES];
        store.put("big", value, Expect::Any).await.unwrap();
    }
    let (mut resets, mut puts, mut last) = (0, 0, 0);
    while last < u64::from(values) {
        match watch.next().await {
            WatchEvent::Reset { revision, .. } => (resets, last) = (resets + 1, revision),
            WatchEvent::Put { entry, .. } => (puts, last) = (puts + 1, entry.revision),
            event => panic!("{event:?}"),
        }
    }
    assert!(resets >= 1, "{puts} puts were kept for it");
}

#[tokio::test]
async fn a_watch_outlives_the_store_and_does_not_hold_its_file() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let mut watch = store.watch("");
    assert!(matches!(watch.next().await, WatchEvent::Reset { .. }));
    drop(store);
    assert!(matches!(
        watch.next().await,
        WatchEvent::Away(MetaError::Unavailable { .. })
    ));
    EmbeddedStore::open(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_takes_too_long_fails_in_time() {
    let store = EmbeddedStore::in_memory()
        .unwrap()
        .with_time_limit(Duration::from_secs(2));
    let other = store.disk.database().begin_write().unwrap();
    let error = store.put("a", vec![1], Expect::Any).await.unwrap_err();
    assert!(
        matches!(error, MetaError::Unavailable { operation: "put", .. }),
        "{error:?}"
    );
    drop(other);
    store.put("b", vec![1], Expect::Any).await.unwrap();
}

#[tokio::test]
async fn what_was_put_is_there_after_a_reopen_and_revisions_go_on() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let first = store.put("a", vec![1], Expect::Absent).await.unwrap();
    let second = store.put("b", vec![2], Expect::Absent).await.unwrap();
    store.delete("b", Expect::Revision(second)).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&file).unwrap();
    let entry = Entry {
        value: vec![1],
        revision: first,
    };
    assert_eq!(store.list("").await.unwrap(), [("a".to_owned(), entry)]);
    assert!(store.put("b", vec![3], Expect::Absent).await.unwrap() > second);
}

#[tokio::test]
async fn a_second_handle_is_refused_until_the_last_clone_is_gone() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let clone = store.clone();
    drop(store);
    let error = EmbeddedStore::open(&file).unwrap_err();
    assert!(
        matches!(&error, MetaError::InUse { path } if *path == file),
        "{error:?}"
    );
    assert!(error.to_string().contains("meta.redb"), "{error}");
    clone.put("a", vec![1], Expect::Any).await.unwrap();
    drop(clone);
    assert!(EmbeddedStore::open(&file).is_ok());
}

#[test]
fn a_second_process_is_refused() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let child = || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            "--ignored",
            "--nocapture",
            "meta::embedded::tests::child_opens_the_store",
        ]);
        let output = child.env(CHILD_VARIABLE, &file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("1 passed"), "{text}");
        text
    };
    assert!(child().contains("child: InUse"));
    drop(store);
    assert!(child().contains("child: opened"));
}

#[test]
#[ignore = "is run as a child by the test above"]
fn child_opens_the_store() {
    let Some(file) = std::env::var_os(CHILD_VARIABLE) else {
        return;
    };
    match EmbeddedStore::open(PathBuf::from(file)) {
        Ok(_) => println!("child: opened"),
        Err(error) => println!("child: {error:?}"),
    }
}

#[test]
fn another_format_is_refused() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    let write = store.disk.database().begin_write().unwrap();
    write
        .open_table(HEADER)
        .unwrap()
        .insert(FORMAT_KEY, FORMAT + 1)
        .unwrap();
    write.commit().unwrap();
    drop(store);
    let error = EmbeddedStore::open(&file).unwrap_err();
    assert!(
        matches!(error, MetaError::Format { found: 3, known: 2, .. }),
        "{error:?}"
    );
}

#[test]
fn what_cannot_be_a_store_is_refused_with_its_name() {
    let (folder, file) = folder();
    std::fs::write(&file, b"not a database").unwrap();
    let missing = folder.path().join("none").join("meta.redb");
    for path in [file.clone(), missing, folder.path().to_owned()] {
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert!(
            matches!(&error, MetaError::Open { path: named, .. } if *named == path),
            "{error:?}"
        );
        assert!(error.source().is_some());
    }
    assert_eq!(
        std::fs::read(&file).unwrap(),
        b"not a database",
        "a file that is not ours is left as it is"
    );
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_repaired_and_never_panics() {
    let (_folder, file) = folder();
    let store = EmbeddedStore::open(&file).unwrap();
    for i in 0..20 {
        store
            .put(&format!("key/{i}"), vec![7; 3000], Expect::Absent)
            .await
            .unwrap();
    }
    let whole = store.list("").await.unwrap();
    drop(store);
    let bytes = std::fs::read(&file).unwrap();
    for cut in [1, 64, 511, 4096, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        assert_damage_is_noticed(&file, &whole).await;
    }
    for position in (0..bytes.len()).step_by(bytes.len() / 97) {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x10;
        std::fs::write(&file, &flipped).unwrap();
        assert_damage_is_noticed(&file, &whole).await;
    }
}

async fn assert_damage_is_noticed(file: &Path, whole: &[(String, Entry)]) {
    match EmbeddedStore::open(file) {
        Ok(store) => assert_eq!(store.list("").await.unwrap(), whole),
        Err(error) => assert!(
            matches!(error, MetaError::Open { .. } | MetaError::Format { .. }),
            "{error:?}"
        ),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(&'static str, u8, Guess),
    Delete(&'static str, Guess),
    List(&'static str),
    Reopen,
}

/// What a step expects of its key: the revisions are only known when it runs.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Any,
    Absent,
    Current,
    Stale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop::sample::select(vec!["a", "a/", "a/b", "a/c", "a0", "b"]);
    let guess = || prop::sample::select(vec![Guess::Any, Guess::Absent, Guess::Current, Guess::Stale]);
    let step = prop_oneof![
        6 => (key(), any::<u8>(), guess()).prop_map(|(key, value, guess)| Step::Put(key, value, guess)),
        3 => (key(), guess()).prop_map(|(key, guess)| Step::Delete(key, guess)),
        2 => prop::sample::select(vec!["", "a", "a/", "c"]).prop_map(Step::List),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

/// The store must answer every step as a plain map does.
async fn compare_with_a_map(file: &Path, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut store = EmbeddedStore::open(file).unwrap();
    let mut map: BTreeMap<&str, Entry> = BTreeMap::new();
    let mut last = 0;
    for step in steps {
        match step {
            Step::Put(key, value, guess) => {
                let (expect, holds) = expectation(map.get(key), guess);
                let put = store.put(key, vec![value], expect).await;
                prop_assert_eq!(put.is_ok(), holds, "{:?}", put);
                if let Ok(revision) = put {
                    prop_assert!(revision > last);
                    last = revision;
                    map.insert(
                        key,
                        Entry {
                            value: vec![value],
                            revision,
                        },
                    );
                }
            }
            Step::Delete(key, guess) => {
                let (expect, holds) = expectation(map.get(key), guess);
                prop_assert_eq!(store.delete(key, expect).await.is_ok(), holds);
                if holds {
                    map.remove(key);
                }
            }
            Step::List(prefix) => {
                let listed = map.iter().filter(|(key, _)| key.starts_with(prefix));
                let listed: Vec<_> = listed.map(|(key, entry)| ((*key).to_owned(), entry.clone())).collect();
                prop_assert_eq!(store.list(prefix).await.unwrap(), listed);
            }
            Step::Reopen => {
                drop(store);
                store = EmbeddedStore::open(file).unwrap();
            }
        }
    }
    for key in ["a", "a/", "a/b", "a/c", "a0", "b"] {
        let found = store.get(key).await.unwrap();
        prop_assert_eq!(found.as_ref(), map.get(key));
    }
    Ok(())
}

fn expectation(found: Option<&Entry>, guess: Guess) -> (Expect, bool) {
    match guess {
        Guess::Any => (Expect::Any, true),
        Guess::Absent => (Expect::Absent, found.is_none()),
        Guess::Current => (
            Expect::Revision(found.map_or(0, |entry| entry.revision)),
            found.is_some(),
        ),
        Guess::Stale => (Expect::Revision(u64::MAX), false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_behaves_as_a_map_does(steps in steps()) {
        let (_folder, file) = folder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(compare_with_a_map(&file, steps))?;
    }
}
