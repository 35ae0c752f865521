//! The node: namespace, storage, cache and datasets of one process, without any protocol.
//!
//! ```text
//! Flight, CLI, admin --> Node { namespace (catalog) , stores (UFS) , cache , datasets , cluster , ticket keys }
//! ```
//! Architecture invariant: nothing below this module knows of Flight, and the cache never asks the catalog; what a cache
//! entry is valid for is in its key, and a change in the namespace goes from here to the cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::datatypes::SchemaRef;
use jetbridge_cache::Cache;
use jetbridge_cache::ufs::{CheckReport, Ufs, UfsContext};
use jetbridge_catalog::mount::{Mount, MountTable};
use jetbridge_catalog::namespace::Namespace;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::secret::SecretRef;
use jetbridge_catalog::uri::Scheme;
use tokio::sync::Semaphore;

use crate::cluster::pass::Pass;
use crate::cluster::{self, Cluster, Identity, Places, Role, seals, store};
use crate::config::Settings;
use crate::dataset::{Dataset, Datasets, Tree};
use crate::error::ServiceError;
use crate::jobs::Jobs;
use crate::pins::{self, Pins};
use crate::plan::{self, Lineage, Placements, Plan, Replicas};
use crate::request::ScanSpec;
use crate::retention;
use crate::sql::SqlEngine;
use crate::sql::distributed::Distribution;
use crate::statements::Statements;
use crate::ticket::TicketKeys;

/// Other nodes may have one part in this many of the byte budget at once.
const PEER_SHARE: u64 = 16;

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
    /// Who owns their splits.
    pub placements: Placements,
    /// What tickets are signed with.
    pub keys: TicketKeys,
    /// How long a ticket is valid.
    pub ticket_ttl: Duration,
    /// Decoded bytes of one endpoint, about.
    pub endpoint_bytes: u64,
    /// The byte budget.
    pub memory_bytes: u64,
    /// This node among others.
    pub cluster: Cluster,
    /// KiB of memory that other nodes may have of this one at once, free now; all of them is [`Node::peer_room_kib`].
    pub peer_room: Arc<Semaphore>,
    /// All of [`Node::peer_room`].
    pub peer_room_kib: u32,
    /// What stays in the caches.
    pub pins: Pins,
    /// Preloads and the like.
    pub jobs: Jobs,
    /// Queries.
    pub sql: SqlEngine,
    /// This node's part in queries of several nodes.
    pub distribution: Arc<Distribution>,
    /// Which of them run, and which were ended by word.
    pub statements: Arc<Statements>,
    /// When the node came up.
    pub started: Instant,
    /// Held while the cache is told what mounts and pins say, so that it hears of the last change last.
    telling: tokio::sync::Mutex<()>,
}

pub use crate::stores::Stores;

impl Node {
    /// Opens the node's state in the data folder, finds its cluster, mounts what the settings name, and opens no storage yet.
    /// It joins its cluster later ([`crate::cluster::follow::join`]).
    ///
    /// A mount that the settings name replaces one that was kept under the same path: the command line is the operator's
    /// latest word. Mounts made through the API stay until they are removed.
    ///
    /// # Errors
    /// A data folder that is in use or cannot be read, a metadata store that cannot be reached or is another cluster's, mounts
    /// that are not valid.
    pub async fn open(settings: &Settings, role: Role, places: Places) -> anyhow::Result<Self> {
        let cluster = open_cluster(settings, role, places).await?;
        let store = Arc::clone(cluster.store());
        let keys = seals::open(store.as_ref())
            .await
            .context("the ticket keys cannot be read")?;
        let pins = Pins::open(store.as_ref()).await.context("the pins cannot be read")?;
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
        pins::apply(&cache, &namespace.table(), &pins).await;
        let datasets = Datasets::new(
            Tree::new(Arc::clone(&namespace), Arc::clone(&stores)),
            Arc::clone(&cache),
            Arc::clone(&cluster.footers),
        );
        let distribution = Arc::new(Distribution::new(&cluster, settings.sql.spread_bytes));
        let sql = SqlEngine::open(settings.sql.clone(), cache.budget().clone(), &settings.data_dir)?;
        sql.set_spread(Arc::clone(&distribution) as _);
        let peer_room_kib = u32::try_from(settings.memory_bytes / PEER_SHARE / 1024).unwrap_or(u32::MAX);
        Ok(Self {
            distribution,
            namespace,
            stores,
            cache,
            datasets,
            placements: Placements::default(),
            keys,
            cluster,
            ticket_ttl: settings.ticket_ttl,
            endpoint_bytes: settings.endpoint_bytes,
            memory_bytes: settings.memory_bytes,
            peer_room: Arc::new(Semaphore::new(usize::try_from(peer_room_kib).unwrap_or(usize::MAX))),
            peer_room_kib,
            pins,
            jobs: Jobs::new(settings.job_history),
            sql,
            statements: Arc::default(),
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

    /// The schema of a scan's answer; the scan is checked as a plan of it is, and nothing is read.
    ///
    /// # Errors
    /// As [`Node::dataset`] and [`plan::answer_schema`]. A dataset found changed is looked at anew, once.
    pub async fn answer_schema(&self, spec: &ScanSpec) -> Result<SchemaRef, ServiceError> {
        let path = self.locate(&spec.path)?;
        match self.answer_schema_once(&path, spec).await {
            Err(error) if error.is_stale() => {
                self.datasets.refresh(&path);
                self.answer_schema_once(&path, spec).await
            }
            told => told,
        }
    }

    async fn answer_schema_once(&self, path: &NsPath, spec: &ScanSpec) -> Result<SchemaRef, ServiceError> {
        let dataset = self.datasets.get(path).await?;
        plan::answer_schema(&dataset, spec)
    }

    async fn plan_once(&self, path: &NsPath, spec: &ScanSpec) -> Result<Plan, ServiceError> {
        let dataset = self.datasets.get(path).await?;
        let lineage = self.lineage(&dataset)?;
        plan::plan(&self.cache, dataset, spec, &lineage, self.endpoint_bytes).await
    }

    /// Who owns the splits of a dataset, as the cluster is seen now.
    ///
    /// # Errors
    /// A mount's option that cannot be read, which none is that was mounted.
    pub fn lineage(&self, dataset: &Arc<Dataset>) -> Result<Lineage, ServiceError> {
        let replicas = Replicas::of_mounts(&self.namespace.table(), &dataset.path)?;
        Ok(self.placements.lineage(self.cluster.view(), dataset, &replicas))
    }

    /// The same, as if so many nodes were to hold each split.
    pub fn lineage_of(&self, dataset: &Arc<Dataset>, replicas: usize) -> Lineage {
        let replicas = Replicas::all(replicas);
        self.placements.lineage(self.cluster.view(), dataset, &replicas)
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

    /// Takes over that mounts were changed, here or by another node.
    pub async fn mounts_changed(&self, paths: &[NsPath]) {
        let table = self.namespace.table();
        for path in paths {
            match table.get(path) {
                // Another node let it in.
                Some(mount) if mount.uri.scheme() == Scheme::File => self.stores.admit(folder_of(mount)),
                Some(_) => {}
                None => self.stores.forget(path),
            }
            self.datasets.refresh(path);
        }
        if let Err(error) = self.tell_retention().await {
            tracing::warn!(
                error = crate::error::chain(&error),
                "what the mounts let keep is not known"
            );
        }
    }

    /// Takes over that pins were changed, here or by another node.
    pub async fn pins_changed(&self) {
        let _telling = self.telling.lock().await;
        pins::apply(&self.cache, &self.namespace.table(), &self.pins).await;
    }

    async fn tell_retention(&self) -> Result<(), ServiceError> {
        let _telling = self.telling.lock().await;
        let table = self.namespace.table();
        // What is pinned is so by its storage, which may have come or gone.
        pins::apply(&self.cache, &table, &self.pins).await;
        retention::apply(&self.cache, &table).await
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

/// Finds the node's cluster, or makes one.
async fn open_cluster(settings: &Settings, role: Role, places: Places) -> anyhow::Result<Cluster> {
    let pass = Pass::of(settings.cluster.key.as_ref())?;
    let identity = Identity::of_this_start(&settings.data_dir)?;
    let store = store::open(&settings.cluster.meta, &settings.data_dir, &pass)
        .await
        .context("the node has no cluster")?;
    Ok(Cluster::new(cluster::Parts {
        identity,
        role,
        places,
        weight_bytes: settings.cluster.weight_bytes,
        grace: settings.cluster.grace,
        store,
        pass,
    })?)
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
