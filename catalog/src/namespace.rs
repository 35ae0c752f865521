//! The namespace: the mount table, kept in the metadata store and at hand in memory.
//!
//! Each mount is one record in the store: the key is `mounts` and the mount's path (`mounts/lake/trips`), the
//! value is the mount's JSON. A change is written to the store first and then seen in memory; a change that the
//! store refuses is not seen. Lookups only touch memory, so known mounts keep serving while the store is away.
//!
//! Other nodes change the same records: what a watch of the store tells is taken over by [`Namespace::follow`]. Such news may
//! be older than what this node has just done itself, so each record is known with its revision, and older ones are passed
//! over: a mount that was answered for is never gone again for a moment.
//!
//! Lock order: `changes`, held over the whole of a change, then `table`, held only to swap or to clone it and
//! never across an await.
//!
//! Why a change runs as a task of its own: a client that hangs up drops the future of its request, and a change
//! that stopped between store and memory would come to light at the next restart only.
//!
//! Why a record that cannot be read stops the opening: without it its files would silently be those of the
//! mount around it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Mutex, MutexGuard};

use crate::error::CatalogError;
use crate::meta::{Entry, Expect, MetaError, MetaStore, WatchEvent};
use crate::mount::{Mount, MountError, MountTable};
use crate::path::NsPath;
use crate::uri::UfsUri;

/// How long a change waits for those before it.
const TURN_LIMIT: Duration = Duration::from_secs(1);

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
    /// The revision up to which each path's record is known, removed ones among them until the watch tells of that.
    changes: Mutex<BTreeMap<NsPath, u64>>,
    table: RwLock<Arc<MountTable>>,
}

impl Namespace {
    /// Reads the mounts from a store.
    ///
    /// # Errors
    /// [`CatalogError::Meta`]; [`CatalogError::Record`] when a record is not a mount that stands at its key.
    pub async fn open(store: Arc<dyn MetaStore>) -> Result<Self, CatalogError> {
        let (table, revisions) = read_table(store.as_ref()).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                changes: Mutex::new(revisions),
                table: RwLock::new(Arc::new(table)),
            }),
        })
    }

    /// What a watch of the mounts' records must ask for: all keys that begin with this.
    pub const WATCHED: &str = "mounts/";

    /// Takes over what a watch of [`Namespace::WATCHED`] tells. Gives the paths whose mounts have changed by it.
    ///
    /// # Errors
    /// [`CatalogError::Record`] for a record that is no mount; those are left out, and all others are taken over.
    pub async fn follow(&self, event: WatchEvent) -> Result<Vec<NsPath>, CatalogError> {
        self.shared.follow(event).await
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
        let mut known = self.turn().await?;
        let path = mount.path.clone();
        let value = serde_json::to_vec(&mount).map_err(|source| record_error(key_of(&path), source))?;
        let table = self.table.read().with(mount)?;
        match self.store.put(&key_of(&path), value, Expect::Absent).await {
            Ok(revision) => {
                known.insert(path.clone(), revision);
                self.see(table);
            }
            // Another node was first: show what it did.
            Err(MetaError::Conflict { .. }) => {
                self.look_again(&mut known).await?;
                return Err(MountError::AlreadyMounted { path }.into());
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!(%path, "mount added");
        Ok(())
    }

    async fn replace(&self, mount: Mount) -> Result<(), CatalogError> {
        let mut known = self.turn().await?;
        let key = key_of(&mount.path);
        let value = serde_json::to_vec(&mount).map_err(|source| record_error(key.clone(), source))?;
        let path = mount.path.clone();
        let table = self.table.read().replacing(mount)?;
        known.insert(path.clone(), self.store.put(&key, value, Expect::Any).await?);
        self.see(table);
        tracing::info!(%path, "mount replaced");
        Ok(())
    }

    async fn remove(&self, path: &NsPath) -> Result<Arc<Mount>, CatalogError> {
        let mut known = self.turn().await?;
        let table = self.table.read().without(path)?;
        let key = key_of(path);
        let Some(entry) = self.store.get(&key).await? else {
            // Another node was first: show what it did.
            self.look_again(&mut known).await?;
            return Err(MountError::NotMounted { path: path.clone() }.into());
        };
        let mount = read_record(&key, &entry)?;
        self.store.delete(&key, Expect::Revision(entry.revision)).await?;
        // Until the watch tells of the removal, it may still tell of what was removed.
        known.insert(path.clone(), entry.revision);
        self.see(table);
        tracing::info!(%path, "mount removed");
        Ok(Arc::new(mount))
    }

    /// This change's turn. One that waits for long does so because the store is silent, and would wait for it itself then.
    async fn turn(&self) -> Result<MutexGuard<'_, BTreeMap<NsPath, u64>>, CatalogError> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.changes.lock()).await;
        turn.map_err(|_| MetaError::slow("change a mount", TURN_LIMIT).into())
    }

    async fn look_again(&self, known: &mut BTreeMap<NsPath, u64>) -> Result<(), CatalogError> {
        let (table, revisions) = read_table(self.store.as_ref()).await?;
        *known = revisions;
        self.see(table);
        Ok(())
    }

    async fn follow(&self, event: WatchEvent) -> Result<Vec<NsPath>, CatalogError> {
        let mut known = self.changes.lock().await;
        let mut news = News::new(&self.table.read(), &mut known);
        let outcome = match event {
            WatchEvent::Put { key, entry } => news.put(&key, &entry),
            WatchEvent::Delete { key, revision } => {
                news.deleted(&key, revision);
                Ok(())
            }
            WatchEvent::Reset { entries, revision } => news.reset(&entries, revision),
            WatchEvent::Away(_) | WatchEvent::Foreign(_) => Ok(()),
        };
        let (table, changed) = news.outcome()?;
        if !changed.is_empty() {
            self.see(table);
        }
        outcome.map(|()| changed)
    }

    fn see(&self, table: MountTable) {
        *self.table.write() = Arc::new(table);
    }
}

/// What a watch tells, beside what is known.
struct News<'a> {
    mounts: BTreeMap<NsPath, Arc<Mount>>,
    known: &'a mut BTreeMap<NsPath, u64>,
    changed: Vec<NsPath>,
}

impl<'a> News<'a> {
    fn new(table: &MountTable, known: &'a mut BTreeMap<NsPath, u64>) -> Self {
        Self {
            mounts: table
                .iter()
                .map(|mount| (mount.path.clone(), Arc::clone(mount)))
                .collect(),
            known,
            changed: Vec::new(),
        }
    }

    fn put(&mut self, key: &str, entry: &Entry) -> Result<(), CatalogError> {
        let mount = read_record(key, entry)?;
        let path = mount.path.clone();
        if self.known.get(&path).is_some_and(|known| *known >= entry.revision) {
            return Ok(());
        }
        self.known.insert(path.clone(), entry.revision);
        let before = self.mounts.insert(path.clone(), Arc::new(mount));
        if before.as_ref() != self.mounts.get(&path) {
            self.changed.push(path);
        }
        Ok(())
    }

    fn deleted(&mut self, key: &str, revision: u64) {
        let path = self.known.keys().find(|path| key_of(path) == key).cloned();
        if let Some(path) = path.filter(|path| self.known.get(path).is_some_and(|known| *known <= revision)) {
            self.known.remove(&path);
            if self.mounts.remove(&path).is_some() {
                self.changed.push(path);
            }
        }
    }

    /// Takes over all that can be read, and tells of the first that cannot.
    fn reset(&mut self, entries: &[(String, Entry)], revision: u64) -> Result<(), CatalogError> {
        let outcomes: Vec<_> = entries.iter().map(|(key, entry)| self.put(key, entry)).collect();
        let is_there = |path: &NsPath| entries.iter().any(|(key, _)| *key == key_of(path));
        let gone: Vec<_> = self.known.keys().filter(|path| !is_there(path)).map(key_of).collect();
        gone.iter().for_each(|key| self.deleted(key, revision));
        outcomes.into_iter().collect()
    }

    fn outcome(self) -> Result<(MountTable, Vec<NsPath>), CatalogError> {
        let mut table = MountTable::default();
        for mount in self.mounts.into_values() {
            table = table.with(Mount::clone(&mount))?;
        }
        Ok((table, self.changed))
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

async fn read_table(store: &dyn MetaStore) -> Result<(MountTable, BTreeMap<NsPath, u64>), CatalogError> {
    let mut table = MountTable::default();
    let mut revisions = BTreeMap::new();
    for (key, entry) in store.list(Namespace::WATCHED).await? {
        let mount = read_record(&key, &entry)?;
        revisions.insert(mount.path.clone(), entry.revision);
        table = table.with(mount)?;
    }
    Ok((table, revisions))
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
mod tests;
