//! What the cache holds of the namespace: told, freed, and dropped when the data has changed.
//!
//! The cache knows files by their URIs; what is held of a path are the files whose URI the mounts place below it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jetbridge_cache::key::FileKey;
use jetbridge_cache::{Cache, HeldColumn, HeldFile};
use jetbridge_catalog::mount::MountTable;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::uri::UfsUri;

use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::node::Node;

/// A held file version and its place in the namespace.
#[derive(Debug)]
pub struct Placed {
    /// Where the namespace has the file.
    pub path: NsPath,
    /// What is held.
    pub file: HeldFile,
}

/// What the cache holds of a path.
#[derive(Debug)]
pub struct Contents {
    /// What was asked about.
    pub path: NsPath,
    /// The dataset that the path reads as; none where it is not one.
    pub dataset: Option<Arc<Dataset>>,
    /// What is held, generations that have been overwritten too, by path.
    pub held: Vec<Placed>,
    /// Of what pages are on their way to be held.
    pub arriving: Vec<FileKey>,
}

impl Contents {
    /// Whether a held file is what the dataset has now; also where there is no dataset to compare with.
    #[must_use]
    pub fn is_current(&self, placed: &Placed) -> bool {
        let Some(dataset) = &self.dataset else { return true };
        let found = dataset.files.binary_search_by(|file| file.path.cmp(&placed.path));
        found.is_ok_and(|at| dataset.files[at].open.key == placed.file.key)
    }
}

/// What the cache holds of a path.
///
/// # Errors
/// NOT_FOUND for a path without storage; storage errors.
pub async fn of(node: &Node, path: &NsPath) -> Result<Contents, ServiceError> {
    let dataset = match node.datasets.get(path).await {
        Ok(dataset) => Some(dataset),
        // What is no dataset, or cannot be read as one now, may still be cached in part.
        Err(_) => {
            node.datasets.tree().place(path).await?;
            None
        }
    };
    let table = node.namespace.table();
    // In this order: what arrives meanwhile is in both, and not in none.
    let arriving = arriving_below(&node.cache, &table, path);
    Ok(Contents {
        path: path.clone(),
        dataset,
        held: held_below(&node.cache, &table, path),
        arriving: arriving.into_iter().map(|(_, key)| key).collect(),
    })
}

/// What is held of each column of a dataset, summed over its files.
///
/// # Errors
/// As the files' footers.
pub async fn columns(cache: &Cache, dataset: &Dataset) -> Result<Vec<HeldColumn>, ServiceError> {
    let mut sums: Vec<HeldColumn> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for file in &dataset.files {
        for column in cache.held_columns(&file.open).await? {
            let at = *places.entry(column.name.clone()).or_insert(sums.len());
            match sums.get_mut(at) {
                None => sums.push(column),
                Some(sum) => {
                    sum.bytes += column.bytes;
                    sum.raw_bytes += column.raw_bytes;
                    sum.decoded_bytes += column.decoded_bytes;
                }
            }
        }
    }
    Ok(sums)
}

/// Drops what is held of files that a dataset no longer has, or has in another generation.
pub async fn drop_outdated(cache: &Arc<Cache>, table: Arc<MountTable>, dataset: &Arc<Dataset>) {
    let (held_by, current) = (Arc::clone(cache), Arc::clone(dataset));
    // A cache may hold millions of files. Looking at each is no work for a thread that answers others.
    let looking = tokio::task::spawn_blocking(move || outdated(&held_by, &table, &current));
    // It is not waited for to its end only where the process ends.
    for (path, key) in looking.await.unwrap_or_default() {
        tracing::debug!(%path, generation = %key.generation, "dropped an outdated file");
        cache.remove_file(key.id()).await;
    }
}

/// What is held, or about to be, below a dataset's path and is none of its files.
fn outdated(cache: &Cache, table: &MountTable, dataset: &Dataset) -> Vec<(NsPath, FileKey)> {
    let current: HashSet<_> = dataset.files.iter().map(|file| file.open.key.id()).collect();
    // In this order: what arrives meanwhile is in both, and not in none.
    let arriving = cache.arriving_files().into_iter();
    let others = arriving.filter(|key| !current.contains(&key.id()));
    let others = others.chain(cache.other_files(&current));
    others
        .filter_map(|key| Some((place_below(&key, table, &dataset.path)?, key)))
        .collect()
}

fn arriving_below(cache: &Cache, table: &MountTable, path: &NsPath) -> Vec<(NsPath, FileKey)> {
    let arriving = cache.arriving_files().into_iter();
    let placed = arriving.filter_map(|key| Some((place_below(&key, table, path)?, key)));
    placed.collect()
}

/// Where the mounts place a file, if that is below `path`.
fn place_below(key: &FileKey, table: &MountTable, path: &NsPath) -> Option<NsPath> {
    let at = table.resolve_uri(&UfsUri::parse(&key.uri).ok()?)?;
    at.strip_prefix(path).is_some().then_some(at)
}

fn held_below(cache: &Cache, table: &MountTable, path: &NsPath) -> Vec<Placed> {
    let placed = cache.held_files().into_iter().filter_map(|file| {
        let path = place_below(&file.key, table, path)?;
        Some(Placed { path, file })
    });
    let mut placed: Vec<_> = placed.collect();
    placed.sort_by(|a, b| a.path.cmp(&b.path));
    placed
}
