//! Which metadata store a node has, and whether it is that of its cluster.
//!
//! A cluster has an id, made by whoever came first. A node writes down which cluster it joined: a store that holds another
//! one later, or none, was emptied or is somebody else's, and the node refuses to go on with it. A cluster has a check value of
//! its key as well, by which a node with another cluster's key is refused before it can do anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_catalog::meta::{CLUSTER_ID_KEY, EmbeddedStore, EtcdSettings, EtcdStore, Expect, MetaError, MetaStore};
use rustix::fs::Mode;

use super::pass::Pass;
use super::remote::RemoteStore;
use crate::config::MetaPlace;

/// File of the embedded metadata store in the data folder.
const META_FILE: &str = "meta.redb";
/// File in the data folder that names the cluster that the node belongs to.
const CLUSTER_FILE: &str = "cluster.id";
/// Key of the check value of the cluster's key.
const CHECK_KEY: &str = "cluster/check";
/// How long a node that starts waits for a store that cannot be reached: the others may be starting, too.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Why a node has no metadata store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store says so.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The store was not to be reached for a while.
    #[error("the metadata store at {place} could not be reached within {} s", START_PATIENCE.as_secs())]
    Away {
        /// Where it was looked for.
        place: String,
        /// The last failure.
        source: MetaError,
    },
    /// The store holds another cluster than that which this node belongs to.
    #[error(
        "the metadata store holds {}, but this node belongs to the cluster {expected}: was the store emptied, or is it another's? \
         To make the node forget its cluster, remove {}",
        found.as_deref().map_or_else(|| "no cluster".to_owned(), |found| format!("the cluster {found}")),
        path.display()
    )]
    OtherCluster {
        /// The id that this node knows.
        expected: String,
        /// The id that the store has.
        found: Option<String>,
        /// The file in which this node knows it.
        path: PathBuf,
    },
    /// The nodes of this cluster have another key.
    #[error("this node's cluster key is not that of the cluster; give all nodes the same --cluster-key")]
    OtherKey,
    /// The file that names the node's cluster cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A node's metadata store.
#[derive(Debug)]
pub struct OpenStore {
    /// Bound to the cluster.
    pub store: Arc<dyn MetaStore>,
    /// The id of the cluster.
    pub cluster_id: String,
    /// The store that this node has for others, if it is here.
    pub served: Option<Arc<dyn MetaStore>>,
}

/// Opens the store that the settings name, makes the cluster if there is none, and sees that it is the right one.
///
/// # Errors
/// A store that cannot be opened or reached, another cluster's, another key.
pub async fn open(place: &MetaPlace, data_dir: &Path, pass: &Pass) -> Result<OpenStore, StoreError> {
    let (store, served) = connect(place, data_dir, pass).await?;
    let known = read_known(data_dir)?;
    let started = Instant::now();
    let cluster_id = loop {
        match join(store.as_ref(), known.as_deref(), data_dir, pass).await {
            Err(StoreError::Meta(source @ MetaError::Unavailable { .. })) => {
                if started.elapsed() > START_PATIENCE {
                    let place = described(place);
                    return Err(StoreError::Away { place, source });
                }
                tracing::warn!(error = crate::error::chain(&source), "waiting for the metadata store");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            joined => break joined?,
        }
    };
    if known.is_none() {
        let path = data_dir.join(CLUSTER_FILE);
        fs::write(&path, &cluster_id).map_err(|source| StoreError::File { path, source })?;
    }
    Ok(OpenStore {
        store: store.bound(&cluster_id),
        cluster_id,
        served,
    })
}

type Connected = (Arc<dyn MetaStore>, Option<Arc<dyn MetaStore>>);

async fn connect(place: &MetaPlace, data_dir: &Path, pass: &Pass) -> Result<Connected, StoreError> {
    Ok(match place {
        MetaPlace::Embedded => {
            let path = data_dir.join(META_FILE);
            let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::open(&path)?);
            make_private(&path).map_err(|source| StoreError::File { path, source })?;
            (Arc::clone(&store), Some(store))
        }
        MetaPlace::Coordinator(uri) => (Arc::new(RemoteStore::new(uri, pass.clone())?), None),
        MetaPlace::Etcd { endpoints, name } => {
            let settings = EtcdSettings::new(endpoints.clone(), name);
            (Arc::new(EtcdStore::open(settings)?), None)
        }
    })
}

/// It holds the keys that tickets are sealed with.
fn make_private(path: &Path) -> io::Result<()> {
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    Ok(())
}

/// The id of the cluster, which is made here if the store is new to clusters and this node to all.
async fn join(store: &dyn MetaStore, known: Option<&str>, data_dir: &Path, pass: &Pass) -> Result<String, StoreError> {
    let mut found = id_in(store).await?;
    if found.is_none() && known.is_none() {
        let made = uuid::Uuid::new_v4().to_string();
        put_first(store, CLUSTER_ID_KEY, &made).await?;
        found = id_in(store).await?;
    }
    match (found, known) {
        (Some(found), None) => check_key(store, found, pass).await,
        (Some(found), Some(known)) if found == known => check_key(store, found, pass).await,
        (found, known) => Err(StoreError::OtherCluster {
            expected: known.unwrap_or_default().to_owned(),
            found,
            path: data_dir.join(CLUSTER_FILE),
        }),
    }
}

async fn check_key(store: &dyn MetaStore, cluster_id: String, pass: &Pass) -> Result<String, StoreError> {
    put_first(store, CHECK_KEY, pass.check_value()).await?;
    let check = store.get(CHECK_KEY).await?;
    if check.is_some_and(|check| check.value == pass.check_value().as_bytes()) {
        Ok(cluster_id)
    } else {
        Err(StoreError::OtherKey)
    }
}

async fn id_in(store: &dyn MetaStore) -> Result<Option<String>, MetaError> {
    let entry = store.get(CLUSTER_ID_KEY).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Puts what is not there yet; of several nodes that start at once, the first to write decides.
async fn put_first(store: &dyn MetaStore, key: &str, value: &str) -> Result<(), MetaError> {
    match store.put(key, value.as_bytes().to_vec(), Expect::Absent).await {
        Ok(_) | Err(MetaError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_known(data_dir: &Path) -> Result<Option<String>, StoreError> {
    let path = data_dir.join(CLUSTER_FILE);
    match fs::read_to_string(&path) {
        Ok(id) => Ok(Some(id.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { path, source }),
    }
}

fn described(place: &MetaPlace) -> String {
    match place {
        MetaPlace::Embedded => "this node".to_owned(),
        MetaPlace::Coordinator(uri) => uri.clone(),
        MetaPlace::Etcd { endpoints, .. } => endpoints.join(","),
    }
}
