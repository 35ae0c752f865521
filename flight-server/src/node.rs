//! The node: namespace, storage, cache and datasets of one process, without any protocol.
//!
//! ```text
//! Flight, CLI, admin --> Node { namespace (catalog) , stores (UFS) , cache , datasets , ticket keys }
//! ```
//! Architecture invariant: nothing below this module knows of Flight, and the cache never asks the catalog; what a cache
//! entry is valid for is in its key, and a change in the namespace goes from here to the cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jetbridge_cache::Cache;
use jetbridge_cache::ufs::{CheckReport, Ufs, UfsContext};
use jetbridge_catalog::meta::{EmbeddedStore, Expect, MetaError, MetaStore};
use jetbridge_catalog::mount::{Mount, MountTable};
use jetbridge_catalog::namespace::Namespace;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::secret::SecretRef;
use jetbridge_catalog::uri::Scheme;

use crate::config::Settings;
use crate::dataset::{Dataset, Datasets, Tree};
use crate::error::ServiceError;
use crate::plan::{self, Plan};
use crate::request::ScanSpec;
use crate::retention;
use crate::ticket::TicketKeys;

/// File of the embedded metadata store in the data folder.
const META_FILE: &str = "meta.redb";

/// Key of the cluster's id in the metadata store.
const CLUSTER_ID_KEY: &str = "cluster/id";

/// File of the keys that tickets are signed with, in the data folder.
const TICKET_KEYS_FILE: &str = "ticket.keys";

/// Everything that answers requests.
#[derive(Debug)]
pub struct Node {
    /// The mounts.
    pub namespace: Arc<Namespace>,
    /// Their storage.
    pub stores: Arc<Stores>,
    /// Pages, footers, decoded chunks.
    pub cache: Arc<Cache>,
    /// Snapshots of datasets.
    pub datasets: Datasets,
    /// What tickets are signed with.
    pub keys: TicketKeys,
    /// How long a ticket is valid.
    pub ticket_ttl: Duration,
    /// Decoded bytes of one endpoint, about.
    pub endpoint_bytes: u64,
    /// The byte budget.
    pub memory_bytes: u64,
    /// The id of the cluster, made at the first start: tickets of another cluster are refused.
    pub cluster_id: String,
    /// When the node came up.
    pub started: Instant,
    /// Held while the cache is told what the mounts say, so that it hears of the last change last.
    telling: tokio::sync::Mutex<()>,
}

pub use crate::stores::Stores;

impl Node {
    /// Opens the node's state in the data folder, mounts what the settings name, and opens no storage yet.
    ///
    /// A mount that the settings name replaces one that was kept under the same path: the command line is the operator's
    /// latest word. Mounts made through the API stay until they are removed.
    ///
    /// # Errors
    /// A data folder that is in use or cannot be read, mounts that are not valid.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let store: Arc<dyn MetaStore> = Arc::new(
            EmbeddedStore::open(settings.data_dir.join(META_FILE)).context("the metadata store cannot be opened")?,
        );
        let cluster_id = cluster_id(store.as_ref())
            .await
            .context("the cluster's id cannot be read")?;
        let namespace = Arc::new(Namespace::open(store).await.context("the mounts cannot be read")?);
        for mount in &settings.mounts {
            declare(&namespace, mount)
                .await
                .with_context(|| format!("cannot mount {}", mount.path))?;
        }
        let stores = Arc::new(Stores::new(ufs_context(settings, &namespace.table())));
        for mount in namespace.table().iter() {
            if let Err(error) = stores.get(mount) {
                refuse_or_warn(settings, mount, &error)?;
            }
        }
        let cache = Arc::new(Cache::open(settings.cache_config())?);
        retention::apply(&cache, &namespace.table()).await?;
        let datasets = Datasets::new(
            Tree::new(Arc::clone(&namespace), Arc::clone(&stores)),
            Arc::clone(&cache),
        );
        let keys =
            TicketKeys::open(&settings.data_dir.join(TICKET_KEYS_FILE)).context("the ticket keys cannot be read")?;
        Ok(Self {
            namespace,
            stores,
            cache,
            datasets,
            keys,
            ticket_ttl: settings.ticket_ttl,
            endpoint_bytes: settings.endpoint_bytes,
            memory_bytes: settings.memory_bytes,
            cluster_id,
            started: Instant::now(),
            telling: tokio::sync::Mutex::default(),
        })
    }

    /// The namespace path that a user's text names: a path, or a mounted URI.
    ///
    /// # Errors
    /// A text that is neither.
    pub fn locate(&self, text: &str) -> Result<NsPath, ServiceError> {
        Ok(self.namespace.locate(text)?)
    }

    /// The dataset that a user's text names.
    ///
    /// # Errors
    /// As [`Node::locate`] and [`Datasets::get`].
    pub async fn dataset(&self, text: &str) -> Result<Arc<Dataset>, ServiceError> {
        self.datasets.get(&self.locate(text)?).await
    }

    /// Plans a scan.
    ///
    /// # Errors
    /// As [`Node::dataset`] and [`plan::plan`]. A dataset found changed is looked at anew, once.
    pub async fn plan(&self, spec: &ScanSpec) -> Result<Plan, ServiceError> {
        let path = self.locate(&spec.path)?;
        match self.plan_once(&path, spec).await {
            Err(error) if error.is_stale() => {
                self.datasets.refresh(&path);
                self.plan_once(&path, spec).await
            }
            planned => planned,
        }
    }

    async fn plan_once(&self, path: &NsPath, spec: &ScanSpec) -> Result<Plan, ServiceError> {
        plan::plan(&self.cache, self.datasets.get(path).await?, spec, self.endpoint_bytes).await
    }

    /// Adds a mount after its storage answered: credentials, listing, a range read.
    ///
    /// # Errors
    /// A path that is taken, options that are wrong, a storage that does not answer.
    pub async fn add_mount(&self, mount: Mount) -> Result<(), ServiceError> {
        if self.namespace.table().get(&mount.path).is_none() {
            self.stores.probe(&mount)?.check().await?;
        }
        let path = mount.path.clone();
        self.namespace.add(mount).await?;
        self.datasets.refresh(&path);
        self.tell_retention().await
    }

    /// Removes a mount; what was read from it stays in the cache until it is evicted, and is never served again unless the
    /// same storage is mounted again.
    ///
    /// # Errors
    /// No such mount, mounts below it.
    pub async fn remove_mount(&self, path: &NsPath) -> Result<(), ServiceError> {
        self.namespace.remove(path).await?;
        self.stores.forget(path);
        self.datasets.refresh(path);
        self.tell_retention().await
    }

    async fn tell_retention(&self) -> Result<(), ServiceError> {
        let _telling = self.telling.lock().await;
        retention::apply(&self.cache, &self.namespace.table()).await
    }

    /// Tries the storage of a mount.
    ///
    /// # Errors
    /// No such mount; the storage's.
    pub async fn check_mount(&self, path: &NsPath) -> Result<CheckReport, ServiceError> {
        let mount = self
            .namespace
            .table()
            .get(path)
            .cloned()
            .ok_or_else(|| ServiceError::no_such_path(path))?;
        Ok(self.stores.get(&mount)?.check().await?)
    }

    /// The storage and the path in it that a namespace path stands for.
    ///
    /// # Errors
    /// NOT_FOUND where no mount covers it.
    pub fn resolve(&self, path: &NsPath) -> Result<(Ufs, String), ServiceError> {
        let table = self.namespace.table();
        let resolved = table.resolve(path).ok_or_else(|| ServiceError::no_such_path(path))?;
        Ok((self.stores.get(&resolved.mount)?, resolved.relative))
    }
}

/// The id under [`CLUSTER_ID_KEY`]; of several nodes that start at once, the first to write decides.
async fn cluster_id(store: &dyn MetaStore) -> anyhow::Result<String> {
    if store.get(CLUSTER_ID_KEY).await?.is_none() {
        let id = uuid::Uuid::new_v4().to_string();
        match store.put(CLUSTER_ID_KEY, id.into_bytes(), Expect::Absent).await {
            Ok(_) | Err(MetaError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let entry = store.get(CLUSTER_ID_KEY).await?.context("it was removed just now")?;
    Ok(String::from_utf8(entry.value)?)
}

/// Mounts what the settings name, in place of what is kept there.
async fn declare(namespace: &Namespace, mount: &Mount) -> anyhow::Result<()> {
    match namespace.table().get(&mount.path) {
        Some(kept) if kept.as_ref() == mount => {}
        Some(_) => namespace.replace(mount.clone()).await?,
        None => namespace.add(mount.clone()).await?,
    }
    Ok(())
}

/// A mount of the command line must be right; one that was kept must not stop a start.
fn refuse_or_warn(settings: &Settings, mount: &Mount, error: &jetbridge_cache::ufs::UfsError) -> anyhow::Result<()> {
    if settings.mounts.iter().any(|declared| declared.path == mount.path) {
        anyhow::bail!("cannot mount {}: {}", mount.path, crate::error::chain(error));
    }
    tracing::warn!(mount = %mount.path, error = crate::error::chain(error), "this mount cannot be opened now; reads of it will fail");
    Ok(())
}

/// Folders that `file://` mounts may lie in: those given, those named on the command line, and those of mounts that were
/// admitted before and not removed since.
fn ufs_context(settings: &Settings, table: &MountTable) -> UfsContext {
    let admitted = table
        .iter()
        .filter(|mount| mount.uri.scheme() == Scheme::File)
        .map(|mount| folder_of(mount));
    UfsContext {
        file_roots: settings.file_roots.iter().cloned().chain(admitted).collect(),
        resolve_secret: Arc::new(resolve_secret),
        limits: settings.store_limits(),
    }
}

fn folder_of(mount: &Mount) -> PathBuf {
    Path::new("/").join(mount.uri.key())
}

fn resolve_secret(reference: &str) -> Result<String, String> {
    let reference: SecretRef = reference.parse().map_err(|error| format!("{error}"))?;
    let secret = reference.resolve().map_err(|error| crate::error::chain(&error))?;
    Ok(secret.expose().to_owned())
}
