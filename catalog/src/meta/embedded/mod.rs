//! A metadata store in one file of this machine: the default, with nothing to install.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | the store's handles |
//! | `disk.rs` | the file, its format, and each operation as a transaction |
//! | `leases.rs` | when leases end, and the thread that ends them |
//! | `history.rs` | the last changes, for those who watch |
//!
//! States: a file is opened by one process, which holds a lock on it until the last handle is gone; every other
//! opening is refused at once. Every change is on disk before it is answered.
//!
//! Lock order: `leases`, held over a whole change, then `history`, held only to add or to copy changes. redb has one
//! writer at a time, and readers do not wait. All calls run on Tokio's blocking threads, as each may touch the disk. A
//! dropped future does not stop its call.
//!
//! Why leases end by the clock of this process: the wall clock jumps. After a restart each lease has its whole time
//! again, so that its holder, which may not have noticed the restart, finds what it put.
//!
//! Why redb and not a file of JSON: crash safety and compare-and-set are its business, and it is pure Rust. Why
//! not SQLite: a C library for a few tables.

mod disk;
mod history;
mod leases;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use self::disk::{Disk, Fault};
use self::history::{Change, Cursor, Since};
use super::watch::{Source, spawn};
use super::{
    CLUSTER_ID_KEY, DEFAULT_TIME_LIMIT, Entry, Expect, LeaseId, MetaError, MetaStore, Watch, WatchEvent, check_cluster,
    check_key, check_ttl, check_value,
};

/// A [`MetaStore`] in one file, or in memory. Clones are one handle.
#[derive(Clone)]
pub struct EmbeddedStore {
    disk: Arc<Disk>,
    cluster: Option<Arc<str>>,
    limit: Duration,
}

impl EmbeddedStore {
    /// Opens the file, or makes it where there is none; its folder must exist. Blocks while the file is read
    /// and checked. A file of format 1 becomes one of format 2, which older versions of this program refuse.
    ///
    /// # Errors
    /// [`MetaError::InUse`] when it is open already, here or in another process; [`MetaError::Format`];
    /// [`MetaError::Open`] when it cannot be read, is damaged, or is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MetaError> {
        Ok(Self::on(Disk::open(path.as_ref())?))
    }

    /// A store that is gone when its last handle is, for tests and for trying things out.
    ///
    /// # Errors
    /// [`MetaError::Open`], in practice never.
    pub fn in_memory() -> Result<Self, MetaError> {
        Ok(Self::on(Disk::in_memory()?))
    }

    /// The same handle with another limit of time on each operation; [`DEFAULT_TIME_LIMIT`] is the default.
    #[must_use]
    pub fn with_time_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn on(disk: Arc<Disk>) -> Self {
        Self {
            disk,
            cluster: None,
            limit: DEFAULT_TIME_LIMIT,
        }
    }

    /// Runs one operation where it may block, for as long as it may last.
    async fn run<T, F>(&self, operation: &'static str, work: F) -> Result<T, MetaError>
    where
        T: Send + 'static,
        F: FnOnce(&Disk, Option<&str>) -> Result<T, Fault> + Send + 'static,
    {
        let (disk, cluster) = (Arc::clone(&self.disk), self.cluster.clone());
        let work = tokio::task::spawn_blocking(move || work(&disk, cluster.as_deref()));
        let done = tokio::time::timeout(self.limit, work).await;
        finish(operation, done.map_err(|_| MetaError::slow(operation, self.limit))?)
    }
}

fn finish<T>(operation: &'static str, done: Result<Result<T, Fault>, tokio::task::JoinError>) -> Result<T, MetaError> {
    match done {
        Ok(done) => done.map_err(|fault| fault.into_error(operation)),
        Err(error) => Err(MetaError::Store {
            operation,
            source: error.into(),
        }),
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("path", &self.disk.path())
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run("get", move |disk, cluster| disk.get(cluster, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError> {
        let prefix = prefix.to_owned();
        self.run("list", move |disk, cluster| disk.list(cluster, &prefix)).await
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError> {
        check_key(key)?;
        check_value(&value)?;
        let key = key.to_owned();
        self.run("put", move |disk, cluster| {
            disk.put(cluster, (key, value), expect, lease)
        })
        .await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run("delete", move |disk, cluster| disk.delete(cluster, &key, expect))
            .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        check_ttl(ttl)?;
        self.run("grant a lease", move |disk, cluster| disk.grant(cluster, ttl))
            .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.run("keep a lease alive", move |disk, cluster| {
            disk.keep_alive(cluster, lease)
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.run("revoke a lease", move |disk, cluster| disk.revoke(cluster, lease))
            .await
    }

    fn watch(&self, prefix: &str) -> Watch {
        spawn(Watched {
            disk: Arc::downgrade(&self.disk),
            news: self.disk.history().news(),
            cursor: Cursor::default(),
            cluster: self.cluster.clone(),
            prefix: prefix.to_owned(),
            limit: self.limit,
        })
    }

    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore> {
        Arc::new(Self {
            cluster: Some(cluster.into()),
            ..self.clone()
        })
    }
}

/// A watch of this store. It does not hold the file: that is closed with the last handle.
struct Watched {
    disk: Weak<Disk>,
    news: Receiver<()>,
    cursor: Cursor,
    cluster: Option<Arc<str>>,
    prefix: String,
    limit: Duration,
}

impl Watched {
    fn disk(&self) -> Result<Arc<Disk>, MetaError> {
        self.disk.upgrade().ok_or_else(|| MetaError::Unavailable {
            operation: "watch",
            source: "the store was closed".into(),
        })
    }

    /// What a change means to this watch; `None` when it is not about its prefix.
    fn event(&self, change: &Change) -> Result<Option<WatchEvent>, MetaError> {
        if change.key == CLUSTER_ID_KEY {
            check_cluster(self.cluster.as_deref(), change.value.as_deref())?;
        }
        Ok(change.key.starts_with(&self.prefix).then(|| change.event()))
    }
}

#[async_trait]
impl Source for Watched {
    async fn reset(&mut self) -> Result<WatchEvent, MetaError> {
        let (disk, cluster, prefix) = (self.disk()?, self.cluster.clone(), self.prefix.clone());
        let read = tokio::task::spawn_blocking(move || disk.snapshot(cluster.as_deref(), &prefix));
        let read = tokio::time::timeout(self.limit, read).await;
        let (reset, cursor) = finish("watch", read.map_err(|_| MetaError::slow("watch", self.limit))?)?;
        self.cursor = cursor;
        Ok(reset)
    }

    async fn changes(&mut self) -> Result<Option<Vec<WatchEvent>>, MetaError> {
        loop {
            self.news.mark_unchanged();
            match self.disk()?.history().since(&mut self.cursor) {
                Since::Forgotten => return Ok(None),
                Since::Changes(changes) if !changes.is_empty() => {
                    let events = changes.iter().filter_map(|change| self.event(change).transpose());
                    return events.collect::<Result<_, _>>().map(Some);
                }
                Since::Changes(_) => {}
            }
            // The sender goes with the store, and then there is no more disk.
            let _ = self.news.changed().await;
        }
    }
}
