//! The namespace over a store: mounts that come and go, here and elsewhere, and a store that is away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::error::Kind;
use crate::meta::{EmbeddedStore, LeaseId, Watch};

fn path(text: &str) -> NsPath {
    NsPath::parse(text).unwrap()
}

fn mount(path: &str, uri: &str) -> Mount {
    let options = BTreeMap::from([
        ("freshness".to_owned(), "immutable".to_owned()),
        ("secret_access_key".to_owned(), "env:AWS_KEY".to_owned()),
    ]);
    Mount::new(self::path(path), UfsUri::parse(uri).unwrap(), options, true).unwrap()
}

async fn in_memory() -> Namespace {
    Namespace::open(Arc::new(EmbeddedStore::in_memory().unwrap()))
        .await
        .unwrap()
}

fn paths(namespace: &Namespace) -> Vec<String> {
    namespace.table().iter().map(|mount| mount.path.to_string()).collect()
}

#[tokio::test]
async fn mounts_survive_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meta.redb");
    let made = [
        mount("/", "s3://all"),
        mount("/lake", "s3://lake"),
        mount("/lake/a b%2Fc", "file:///srv"),
    ];
    {
        let namespace = Namespace::open(Arc::new(EmbeddedStore::open(&file).unwrap()))
            .await
            .unwrap();
        for mount in made.clone() {
            namespace.add(mount).await.unwrap();
        }
        namespace.add(mount("/gone", "s3://gone")).await.unwrap();
        namespace.remove(&path("/gone")).await.unwrap();
    }
    let namespace = Namespace::open(Arc::new(EmbeddedStore::open(&file).unwrap()))
        .await
        .unwrap();
    let kept: Vec<_> = namespace.table().iter().map(|mount| Mount::clone(mount)).collect();
    assert_eq!(kept, made);
    assert_eq!(namespace.locate("/lake/a b%2Fc/x").unwrap(), path("/lake/a b%2Fc/x"));
    assert_eq!(
        namespace
            .table()
            .resolve(&path("/lake/a b%2Fc/x"))
            .unwrap()
            .mount
            .uri
            .key(),
        "srv"
    );
}

#[tokio::test]
async fn changes_are_refused_with_the_contracts_kinds() {
    let namespace = in_memory().await;
    namespace.add(mount("/a", "s3://a")).await.unwrap();
    namespace.add(mount("/a/b", "s3://b")).await.unwrap();
    let kind = |error: CatalogError| error.kind();
    assert_eq!(
        kind(namespace.add(mount("/a", "s3://c")).await.unwrap_err()),
        Kind::AlreadyExists
    );
    assert_eq!(
        kind(namespace.remove(&path("/a")).await.unwrap_err()),
        Kind::FailedPrecondition
    );
    assert_eq!(kind(namespace.remove(&path("/x")).await.unwrap_err()), Kind::NotFound);
    assert_eq!(paths(&namespace), ["/a", "/a/b"]);
    assert_eq!(*namespace.remove(&path("/a/b")).await.unwrap(), mount("/a/b", "s3://b"));
    assert_eq!(*namespace.remove(&path("/a")).await.unwrap(), mount("/a", "s3://a"));
    assert!(namespace.table().is_empty());
}

#[tokio::test]
async fn a_request_keeps_the_table_that_it_took() {
    let namespace = in_memory().await;
    let before = namespace.table();
    namespace.add(mount("/a", "s3://a")).await.unwrap();
    assert!(before.is_empty());
    assert_eq!(namespace.clone().table().len(), 1);
}

#[tokio::test]
async fn what_other_nodes_do_is_followed() {
    let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory().unwrap());
    let (one, other) = (
        Namespace::open(Arc::clone(&store)).await.unwrap(),
        Namespace::open(Arc::clone(&store)).await.unwrap(),
    );
    let mut watch = store.watch(Namespace::WATCHED);
    assert_eq!(other.follow(watch.next().await).await.unwrap(), []);
    one.add(mount("/a", "s3://a")).await.unwrap();
    one.add(mount("/a/b", "s3://b")).await.unwrap();
    assert_eq!(other.follow(watch.next().await).await.unwrap(), [path("/a")]);
    assert_eq!(other.follow(watch.next().await).await.unwrap(), [path("/a/b")]);
    assert_eq!(paths(&other), ["/a", "/a/b"]);
    one.replace(mount("/a", "s3://c")).await.unwrap();
    assert_eq!(other.follow(watch.next().await).await.unwrap(), [path("/a")]);
    one.remove(&path("/a/b")).await.unwrap();
    assert_eq!(other.follow(watch.next().await).await.unwrap(), [path("/a/b")]);
    assert_eq!(paths(&other), ["/a"]);
    assert_eq!(other.table().get(&path("/a")).unwrap().uri.as_str(), "s3://c");
}

#[tokio::test]
async fn late_news_of_what_was_done_here_undoes_nothing() {
    let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory().unwrap());
    let namespace = Namespace::open(Arc::clone(&store)).await.unwrap();
    let mut watch = store.watch(Namespace::WATCHED);
    let empty = watch.next().await;
    namespace.add(mount("/a", "s3://a")).await.unwrap();
    let added = watch.next().await;
    // The listing is from before the mount.
    assert_eq!(namespace.follow(empty).await.unwrap(), []);
    assert_eq!(paths(&namespace), ["/a"]);
    namespace.remove(&path("/a")).await.unwrap();
    assert_eq!(namespace.follow(added).await.unwrap(), []);
    assert_eq!(namespace.follow(watch.next().await).await.unwrap(), []);
    assert!(namespace.table().is_empty());
    namespace.add(mount("/a", "s3://a")).await.unwrap();
    assert_eq!(paths(&namespace), ["/a"]);
}

#[tokio::test]
async fn a_reset_shows_all_that_can_be_read() {
    let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory().unwrap());
    let namespace = Namespace::open(Arc::clone(&store)).await.unwrap();
    namespace.add(mount("/gone", "s3://g")).await.unwrap();
    let entry = |mount: Mount| Entry {
        value: serde_json::to_vec(&mount).unwrap(),
        revision: 100,
    };
    let bad = Entry {
        value: b"nonsense".to_vec(),
        revision: 100,
    };
    let event = WatchEvent::Reset {
        entries: vec![
            ("mounts/a".to_owned(), entry(mount("/a", "s3://a"))),
            ("mounts/b".to_owned(), bad),
            ("mounts/c".to_owned(), entry(mount("/c", "s3://c"))),
        ],
        revision: 100,
    };
    assert_eq!(namespace.follow(event).await.unwrap_err().kind(), Kind::Internal);
    assert_eq!(paths(&namespace), ["/a", "/c"]);
}

#[tokio::test]
async fn names_come_in_through_one_door() {
    let namespace = in_memory().await;
    namespace.add(mount("/lake", "s3://lake/data")).await.unwrap();
    namespace.add(mount("/lake/x", "s3://nested")).await.unwrap();
    for (text, canonical) in [
        ("/lake//trips/", "/lake/trips"),
        ("/nothing/here", "/nothing/here"),
        ("/a://b", "/a:/b"),
        ("s3a://lake/data/trips/", "/lake/trips"),
        ("s3://nested", "/lake/x"),
        ("s3://lake/data/a?b#c", "/lake/a?b#c"),
    ] {
        assert_eq!(namespace.locate(text).unwrap().as_str(), canonical, "{text}");
    }
    for (text, kind) in [
        ("lake", Kind::InvalidArgument),
        ("", Kind::InvalidArgument),
        ("/lake/%2e%2e/etc", Kind::InvalidArgument),
        ("s3://lake/data/../x", Kind::InvalidArgument),
        ("ftp://lake/data", Kind::InvalidArgument),
        ("s3://lake", Kind::NotFound),
        ("s3://lake/data/x/shadowed", Kind::NotFound),
    ] {
        assert_eq!(namespace.locate(text).unwrap_err().kind(), kind, "{text}");
    }
    let error = namespace.locate("az://container/blob?sig=hunter2").unwrap_err();
    assert!(
        error.to_string().starts_with("az://container/blob is not mounted"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn what_another_node_did_first_is_shown() {
    let store = Arc::new(EmbeddedStore::in_memory().unwrap());
    let one = Namespace::open(Arc::clone(&store) as _).await.unwrap();
    let two = Namespace::open(Arc::clone(&store) as _).await.unwrap();
    one.add(mount("/a", "s3://one")).await.unwrap();
    let error = two.add(mount("/a", "s3://two")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(two.table().get(&path("/a")).unwrap().uri.as_str(), "s3://one");
    one.remove(&path("/a")).await.unwrap();
    assert_eq!(two.remove(&path("/a")).await.unwrap_err().kind(), Kind::NotFound);
    assert!(two.table().is_empty());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_the_opening() {
    let misplaced = serde_json::to_vec(&mount("/b", "s3://b")).unwrap();
    let plain = br#"{"path":"/a","uri":"s3://a","options":{"password":"hunter2"}}"#;
    for value in [b"{".to_vec(), b"{}".to_vec(), misplaced, plain.to_vec()] {
        let store = Arc::new(EmbeddedStore::in_memory().unwrap());
        store.put("mounts/a", value, Expect::Absent).await.unwrap();
        let error = Namespace::open(store).await.unwrap_err();
        assert!(
            matches!(&error, CatalogError::Record { key, .. } if key == "mounts/a"),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn records_of_others_are_left_alone() {
    let store = Arc::new(EmbeddedStore::in_memory().unwrap());
    store.put("mountsmore", vec![1], Expect::Absent).await.unwrap();
    store.put("jobs/1", vec![1], Expect::Absent).await.unwrap();
    assert!(Namespace::open(store).await.unwrap().table().is_empty());
}

/// A store that can be taken away, and that can be made to wait before it changes anything.
#[derive(Debug)]
struct Unsteady {
    store: EmbeddedStore,
    away: AtomicBool,
    entered: Semaphore,
    may_change: Semaphore,
}

impl Unsteady {
    fn new() -> Arc<Self> {
        let store = EmbeddedStore::in_memory().unwrap();
        let (entered, may_change) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Self {
            store,
            away: AtomicBool::new(false),
            entered,
            may_change,
        })
    }

    fn check(&self) -> Result<(), MetaError> {
        let away = MetaError::Store {
            operation: "answer",
            source: "the store is away".into(),
        };
        if self.away.load(Ordering::SeqCst) {
            Err(away)
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl MetaStore for Unsteady {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.check()?;
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError> {
        self.check()?;
        self.store.list(prefix).await
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError> {
        self.check()?;
        self.entered.add_permits(1);
        self.may_change.acquire().await.unwrap().forget();
        self.store.put_leased(key, value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        self.check()?;
        self.store.delete(key, expect).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.store.revoke(lease).await
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.store.watch(prefix)
    }

    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore> {
        self.store.bound(cluster)
    }
}

#[tokio::test]
async fn with_the_store_away_lookups_serve_and_changes_are_unavailable() {
    let store = Unsteady::new();
    let namespace = Namespace::open(Arc::clone(&store) as _).await.unwrap();
    store.may_change.add_permits(2);
    namespace.add(mount("/a", "s3://a")).await.unwrap();
    store.away.store(true, Ordering::SeqCst);
    assert_eq!(
        namespace.add(mount("/b", "s3://b")).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert_eq!(
        namespace.remove(&path("/a")).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert_eq!(namespace.locate("s3://a/x").unwrap(), path("/a/x"));
    assert_eq!(paths(&namespace), ["/a"]);
    store.away.store(false, Ordering::SeqCst);
    namespace.add(mount("/b", "s3://b")).await.unwrap();
    assert_eq!(paths(&namespace), ["/a", "/b"]);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_split_a_change() {
    let store = Unsteady::new();
    let namespace = Namespace::open(Arc::clone(&store) as _).await.unwrap();
    let request = tokio::spawn({
        let namespace = namespace.clone();
        async move { namespace.add(mount("/a", "s3://a")).await }
    });
    store.entered.acquire().await.unwrap().forget();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert!(
        namespace.table().is_empty(),
        "what the store does not have yet is not seen"
    );
    store.may_change.add_permits(1);
    // The next change waits for the one under way, and then finds it made.
    let error = namespace.add(mount("/a", "s3://other")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(namespace.table().get(&path("/a")).unwrap().uri.as_str(), "s3://a");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_are_all_made() {
    let namespace = in_memory().await;
    let add = |i: usize| {
        let namespace = namespace.clone();
        tokio::spawn(async move { namespace.add(mount(&format!("/m{i}"), "s3://a")).await })
    };
    let tasks: Vec<_> = (0..16).map(|i| add(i % 8)).collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!((made, namespace.table().len()), (8, 8));
}
