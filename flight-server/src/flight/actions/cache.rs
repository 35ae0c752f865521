//! `cache.*`: of all nodes together, unless `scope` is `node`.

use jetbridge_cache::key::FileKey;
use jetbridge_catalog::path::NsPath;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::everywhere::{self, Scope};
use crate::contents::{self, Contents, Placed};
use crate::error::ServiceError;
use crate::node::Node;
use crate::pins;

/// Body of `cache.stat`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatBody {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<By>,
    #[serde(default)]
    scope: Scope,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    File,
    Column,
}

/// Answer of `cache.stat`. Shares are parts of 1 of `bytes`.
#[derive(Debug, Serialize)]
pub(super) struct Stat {
    path: NsPath,
    /// Files of the dataset, or those that are held where the path is none.
    files: usize,
    rows: u64,
    /// Bytes of the files.
    bytes: u64,
    raw_bytes: u64,
    raw_share: f64,
    decoded_bytes: u64,
    /// Held of generations that have been overwritten since.
    outdated_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_file: Option<Vec<FileStat>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_column: Option<Vec<ColumnStat>>,
}

#[derive(Debug, Serialize)]
struct FileStat {
    path: NsPath,
    generation: String,
    current: bool,
    rows: u64,
    bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ColumnStat {
    column: String,
    rows: u64,
    bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
}

pub(super) async fn stat(node: &Node, body: StatBody) -> Result<Value, ServiceError> {
    let own = held_here(node, &body).await?;
    match body.scope {
        Scope::Node => told(&own),
        Scope::Cluster => everywhere::summed(node, "cache.stat", &body, &own).await,
    }
}

fn told(answer: &impl Serialize) -> Result<Value, ServiceError> {
    serde_json::to_value(answer).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })
}

async fn held_here(node: &Node, body: &StatBody) -> Result<Stat, ServiceError> {
    let contents = contents::of(node, &node.locate(&body.path)?).await?;
    let files = by_file(&contents);
    let (current, outdated): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.current);
    let sum = |of: fn(&FileStat) -> u64| current.iter().map(|file| of(file)).sum::<u64>();
    let (rows, bytes, raw_bytes) = (sum(|f| f.rows), sum(|f| f.bytes), sum(|f| f.raw_bytes));
    let by_column = match (body.by, &contents.dataset) {
        (Some(By::Column), Some(dataset)) => {
            let columns = contents::columns(&node.cache, dataset).await?;
            let stat = |column: jetbridge_cache::HeldColumn| ColumnStat {
                column: column.name,
                rows,
                bytes: column.bytes,
                raw_bytes: column.raw_bytes,
                decoded_bytes: column.decoded_bytes,
            };
            Some(columns.into_iter().map(stat).collect())
        }
        (Some(By::Column), None) => {
            let reason = format!("{} is no dataset, so it has no columns", contents.path);
            return Err(ServiceError::invalid(reason));
        }
        (Some(By::File) | None, _) => None,
    };
    Ok(Stat {
        files: current.len(),
        rows,
        bytes,
        raw_bytes,
        raw_share: share(raw_bytes, bytes),
        decoded_bytes: sum(|f| f.decoded_bytes),
        outdated_bytes: outdated.iter().map(|file| file.raw_bytes + file.decoded_bytes).sum(),
        by_column,
        path: contents.path,
        by_file: matches!(body.by, Some(By::File)).then_some(files),
    })
}

/// The files of the dataset, held or not, and what is held besides.
fn by_file(contents: &Contents) -> Vec<FileStat> {
    let mut held: std::collections::HashMap<_, _> = contents
        .held
        .iter()
        .map(|placed| (placed.file.key.id(), placed))
        .collect();
    let listed = contents.dataset.iter().flat_map(|dataset| &dataset.files);
    let mut files: Vec<_> = listed
        .map(|file| {
            let found = held.remove(&file.open.key.id());
            let groups = file.summary.iter().flat_map(|summary| summary.row_groups.iter());
            FileStat {
                path: file.path.clone(),
                generation: file.open.key.generation.to_string(),
                current: true,
                rows: groups.map(|group| group.rows).sum(),
                bytes: file.open.key.size,
                raw_bytes: found.map_or(0, |placed| placed.file.raw_bytes),
                decoded_bytes: found.map_or(0, |placed| placed.file.decoded_bytes),
            }
        })
        .collect();
    files.extend(held.into_values().map(|placed| FileStat {
        path: placed.path.clone(),
        generation: placed.file.key.generation.to_string(),
        current: contents.is_current(placed),
        rows: 0,
        bytes: placed.file.key.size,
        raw_bytes: placed.file.raw_bytes,
        decoded_bytes: placed.file.decoded_bytes,
    }));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Parts of a whole, for people: exact to well below what anybody reads.
fn share(part: u64, whole: u64) -> f64 {
    const PARTS: u64 = 1_000_000;
    let parts = u128::from(part) * u128::from(PARTS) / u128::from(whole.max(1));
    u32::try_from(parts).map_or(1.0, |parts| f64::from(parts) / 1e6)
}

/// Body of `cache.free`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreeBody {
    path: String,
    /// Only this generation, as `cache.stat` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    scope: Scope,
}

/// Answer of `cache.free`: what was let go of, or would be.
#[derive(Debug, Serialize)]
pub(super) struct Freed {
    path: NsPath,
    files: usize,
    bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
    dry_run: bool,
}

pub(super) async fn free(node: &Node, body: FreeBody) -> Result<Value, ServiceError> {
    let own = freed_here(node, &body).await?;
    match body.scope {
        Scope::Node => told(&own),
        Scope::Cluster => everywhere::summed(node, "cache.free", &body, &own).await,
    }
}

async fn freed_here(node: &Node, body: &FreeBody) -> Result<Freed, ServiceError> {
    let path = node.locate(&body.path)?;
    pins::check_free(node, &path).await?;
    let contents = contents::of(node, &path).await?;
    let is_meant = |key: &FileKey| {
        let generation = key.generation.to_string();
        body.generation.as_ref().is_none_or(|wanted| *wanted == generation)
    };
    let is_chosen = |placed: &&Placed| is_meant(&placed.file.key);
    let chosen: Vec<_> = contents.held.iter().filter(is_chosen).collect();
    let (raw, decoded) = (
        chosen.iter().map(|placed| placed.file.raw_bytes).sum::<u64>(),
        chosen.iter().map(|placed| placed.file.decoded_bytes).sum::<u64>(),
    );
    if !body.dry_run {
        let held = chosen.iter().map(|placed| &placed.file.key);
        let arriving = contents.arriving.iter().filter(|key| is_meant(key));
        for key in held.chain(arriving) {
            node.cache.remove_file(key.id()).await;
        }
    }
    Ok(Freed {
        files: chosen.len(),
        bytes: raw + decoded,
        raw_bytes: raw,
        decoded_bytes: decoded,
        dry_run: body.dry_run,
        path: contents.path.clone(),
    })
}
