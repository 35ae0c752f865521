//! The namespace: the mount table, kept in the metadata store and at hand in memory.
//!
//! Each mount is one record in the store: the key is `mounts` and the mount's path (`mounts/lake/trips`), the
//! value is the mount's JSON. A change is written to the store first and then seen in memory; a change that the
//! store refuses is not seen. Lookups only touch memory, so known mounts keep serving while the store is away.
//!
//! Lock order: `changes`, held over the whole of a change, then `table`, held only to swap or to clone it and
//! never across an await.
//!
//! Why a change runs as a task of its own: a client that hangs up drops the future of its request, and a change
//! that stopped between store and memory would come to light at the next restart only.
//!
//! Why a record that cannot be read stops the opening: without it its files would silently be those of the
//! mount around it.

use std::future::Future;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::error::CatalogError;
use crate::meta::{Entry, Expect, MetaError, MetaStore};
use crate::mount::{Mount, MountError, MountTable};
use crate::path::NsPath;
use crate::uri::UfsUri;

/// What stands before the path in the key of a mount's record.
const KEY_PREFIX: &str = "mounts";

/// The one tree of all mounts. Clones share it.
#[derive(Debug, Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn MetaStore>,
    changes: Mutex<()>,
    table: RwLock<Arc<MountTable>>,
}

impl Namespace {
    /// Reads the mounts from a store.
    ///
    /// # Errors
    /// [`CatalogError::Meta`]; [`CatalogError::Record`] when a record is not a mount that stands at its key.
    pub async fn open(store: Arc<dyn MetaStore>) -> Result<Self, CatalogError> {
        let table = RwLock::new(Arc::new(read_table(store.as_ref()).await?));
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                changes: Mutex::new(()),
                table,
            }),
        })
    }

    /// The mounts as they are now. A request takes one table and uses it to its end.
    pub fn table(&self) -> Arc<MountTable> {
        Arc::clone(&self.shared.table.read())
    }

    /// Adds a mount. Dropping the future does not stop the change.
    ///
    /// # Errors
    /// [`CatalogError::Mount`] when there is one at this path already, or too many, or the mount is not valid;
    /// [`CatalogError::Meta`] when the store fails.
    pub async fn add(&self, mount: Mount) -> Result<(), CatalogError> {
        let shared = Arc::clone(&self.shared);
        detached(async move { shared.add(mount).await }).await
    }

    /// Puts a mount in the place of the one at its path. Dropping the future does not stop the change.
    ///
    /// # Errors
    /// [`CatalogError::Mount`] when there is none at this path, or the mount is not valid; [`CatalogError::Meta`] when the
    /// store fails.
    pub async fn replace(&self, mount: Mount) -> Result<(), CatalogError> {
        let shared = Arc::clone(&self.shared);
        detached(async move { shared.replace(mount).await }).await
    }

    /// Removes the mount at a path, and gives it back. Dropping the future does not stop the change.
    ///
    /// # Errors
    /// [`CatalogError::Mount`] when there is none, or there are mounts below it; [`CatalogError::Meta`] when
    /// the store fails.
    pub async fn remove(&self, path: &NsPath) -> Result<Arc<Mount>, CatalogError> {
        let shared = Arc::clone(&self.shared);
        let path = path.clone();
        detached(async move { shared.remove(&path).await }).await
    }

    /// Reads a name as users give it: a path of the namespace, or the URI of something that is mounted.
    ///
    /// The one door for names: what comes out is canonical. It need not exist.
    ///
    /// # Errors
    /// [`CatalogError::Path`], [`CatalogError::Uri`]; [`CatalogError::UriNotMounted`] when no path shows it.
    pub fn locate(&self, text: &str) -> Result<NsPath, CatalogError> {
        if text.starts_with('/') || !text.contains("://") {
            return Ok(NsPath::parse(text)?);
        }
        let uri = UfsUri::parse(text)?;
        self.table()
            .resolve_uri(&uri)
            .ok_or_else(|| CatalogError::UriNotMounted {
                uri: without_query(&uri),
            })
    }
}

impl Shared {
    async fn add(&self, mount: Mount) -> Result<(), CatalogError> {
        let _change = self.changes.lock().await;
        let path = mount.path.clone();
        let value = serde_json::to_vec(&mount).map_err(|source| record_error(key_of(&path), source))?;
        let table = self.table.read().with(mount)?;
        match self.store.put(&key_of(&path), value, Expect::Absent).await {
            Ok(_) => self.see(table),
            // Another node was first: show what it did.
            Err(MetaError::Conflict { .. }) => {
                self.see(read_table(self.store.as_ref()).await?);
                return Err(MountError::AlreadyMounted { path }.into());
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!(%path, "mount added");
        Ok(())
    }

    async fn replace(&self, mount: Mount) -> Result<(), CatalogError> {
        let _change = self.changes.lock().await;
        let key = key_of(&mount.path);
        let value = serde_json::to_vec(&mount).map_err(|source| record_error(key.clone(), source))?;
        let path = mount.path.clone();
        let table = self.table.read().replacing(mount)?;
        self.store.put(&key, value, Expect::Any).await?;
        self.see(table);
        tracing::info!(%path, "mount replaced");
        Ok(())
    }

    async fn remove(&self, path: &NsPath) -> Result<Arc<Mount>, CatalogError> {
        let _change = self.changes.lock().await;
        let table = self.table.read().without(path)?;
        let key = key_of(path);
        let Some(entry) = self.store.get(&key).await? else {
            // Another node was first: show what it did.
            self.see(read_table(self.store.as_ref()).await?);
            return Err(MountError::NotMounted { path: path.clone() }.into());
        };
        let mount = read_record(&key, &entry)?;
        self.store.delete(&key, Expect::Revision(entry.revision)).await?;
        self.see(table);
        tracing::info!(%path, "mount removed");
        Ok(Arc::new(mount))
    }

    fn see(&self, table: MountTable) {
        *self.table.write() = Arc::new(table);
    }
}

async fn detached<T, F>(change: F) -> Result<T, CatalogError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CatalogError>> + Send + 'static,
{
    tokio::spawn(change)
        .await
        .map_err(|source| CatalogError::Internal { source: source.into() })?
}

async fn read_table(store: &dyn MetaStore) -> Result<MountTable, CatalogError> {
    let mut table = MountTable::default();
    for (key, entry) in store.list(&format!("{KEY_PREFIX}/")).await? {
        let mount = read_record(&key, &entry)?;
        table = table.with(mount)?;
    }
    Ok(table)
}

fn read_record(key: &str, entry: &Entry) -> Result<Mount, CatalogError> {
    let mount: Mount = serde_json::from_slice(&entry.value).map_err(|source| record_error(key.to_owned(), source))?;
    if key_of(&mount.path) != key {
        let misplaced = MisplacedRecord { path: mount.path };
        return Err(CatalogError::Record {
            key: key.to_owned(),
            source: misplaced.into(),
        });
    }
    Ok(mount)
}

fn key_of(path: &NsPath) -> String {
    format!("{KEY_PREFIX}{path}")
}

fn record_error(key: String, source: serde_json::Error) -> CatalogError {
    CatalogError::Record {
        key,
        source: source.into(),
    }
}

/// A record says that it belongs to another key.
#[derive(Debug, thiserror::Error)]
#[error("it is the record of the mount at {path}")]
struct MisplacedRecord {
    path: NsPath,
}

/// A URI for a message. What follows a question mark may be a signature.
fn without_query(uri: &UfsUri) -> String {
    uri.as_str().split('?').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::error::Kind;
    use crate::meta::EmbeddedStore;

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

        async fn put(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<u64, MetaError> {
            self.check()?;
            self.entered.add_permits(1);
            self.may_change.acquire().await.unwrap().forget();
            self.store.put(key, value, expect).await
        }

        async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
            self.check()?;
            self.store.delete(key, expect).await
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
}
