//! `dataset.*` and `namespace.*`

use std::sync::Arc;

use arrow::datatypes::Field;
use chrono::{DateTime, SecondsFormat};
use jetbridge_cache::ufs::ObjectInfo;
use jetbridge_catalog::dataset::is_parquet;
use jetbridge_catalog::error::CatalogError;
use jetbridge_catalog::path::NsPath;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::PathBody;
use crate::dataset::{Dataset, EntryKind, FileSummary, Place};
use crate::error::ServiceError;
use crate::node::Node;
use crate::request::ScanSpec;
use crate::sql;
use crate::units;

/// Entries that `namespace.list` gives unless asked for fewer, and the most that it gives.
const MAX_ENTRIES: usize = 10_000;

/// Answer of `dataset.refresh`.
#[derive(Debug, Serialize)]
pub(super) struct Refreshed {
    path: NsPath,
}

pub(super) async fn refresh(node: &Node, body: PathBody) -> Result<Refreshed, ServiceError> {
    let path = node.locate(&body.path)?;
    node.datasets.tree().freshness(&path)?;
    node.datasets.refresh(&path);
    let told = node.cluster.refresh_everywhere(&path).await;
    told.map_err(CatalogError::from)?;
    Ok(Refreshed { path })
}

/// Body of `dataset.find`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FindBody {
    /// A folder with dots for slashes; that of datasets at the top of the namespace where none is given.
    #[serde(default = "public")]
    schema: String,
    /// A dataset's name, path or mounted URI.
    table: String,
}

fn public() -> String {
    sql::PUBLIC.to_owned()
}

/// Answer of `dataset.find`.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    path: NsPath,
}

pub(super) async fn find(node: &Arc<Node>, body: &FindBody) -> Result<Found, ServiceError> {
    let path = node.sql.find(node, &body.schema, &body.table).await?;
    Ok(Found { path })
}

/// Body of `dataset.units`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitsBody {
    path: String,
    #[serde(default)]
    columns: Option<Vec<String>>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    count: bool,
    #[serde(default)]
    snapshot: Option<String>,
    #[serde(default)]
    after: usize,
    #[serde(default)]
    limit: Option<usize>,
}

pub(super) async fn units(node: &Arc<Node>, body: UnitsBody) -> Result<units::Page, ServiceError> {
    if body.limit == Some(0) {
        return Err(ServiceError::invalid("\"limit\" must be 1 unit or more"));
    }
    let asked = units::Asked {
        scan: ScanSpec {
            path: body.path,
            columns: body.columns,
            filter: body.filter,
            snapshot: body.snapshot,
            ..ScanSpec::default()
        },
        count: body.count,
        after: body.after,
        limit: body.limit.unwrap_or(usize::MAX),
    };
    units::page(node, &asked).await
}

/// Body of `namespace.list`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListBody {
    path: String,
    #[serde(default)]
    limit: Option<usize>,
}

/// Answer of `namespace.list`.
#[derive(Debug, Serialize)]
pub(super) struct Entries {
    path: NsPath,
    entries: Vec<Listed>,
    /// Whether there are more entries than were asked for.
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    kind: &'static str,
    #[serde(flatten)]
    object: Option<Object>,
}

#[derive(Debug, Serialize)]
struct Object {
    size: u64,
    modified: Option<String>,
    generation: String,
}

impl Object {
    fn of(info: &ObjectInfo) -> Self {
        let modified = DateTime::from_timestamp_nanos(info.modified_ns);
        Self {
            size: info.size,
            modified: (info.modified_ns > 0).then(|| modified.to_rfc3339_opts(SecondsFormat::Millis, true)),
            generation: info.generation.to_string(),
        }
    }
}

pub(super) async fn list(node: &Node, body: ListBody) -> Result<Entries, ServiceError> {
    let path = node.locate(&body.path)?;
    let limit = body.limit.unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES);
    if let Place::File(file) = node.datasets.tree().place(&path).await? {
        let name = path.name().unwrap_or_default().to_owned();
        let entries = vec![Listed {
            name,
            kind: "file",
            object: Some(Object::of(&file.info)),
        }];
        return Ok(Entries {
            path,
            entries,
            truncated: false,
        });
    }
    let found = node.datasets.tree().entries(&path).await?;
    let truncated = found.len() > limit;
    let entries = found.into_iter().take(limit).map(|entry| {
        let (kind, object) = match entry.kind {
            EntryKind::Folder => ("folder", None),
            EntryKind::Mount => ("mount", None),
            EntryKind::File(info) => ("file", Some(Object::of(&info))),
        };
        Listed {
            name: entry.name,
            kind,
            object,
        }
    });
    Ok(Entries {
        entries: entries.collect(),
        path,
        truncated,
    })
}

/// Answer of `namespace.stat`.
#[derive(Debug, Serialize)]
pub(super) struct Stat {
    path: NsPath,
    kind: &'static str,
    uri: Option<String>,
    mount: Option<NsPath>,
    #[serde(flatten)]
    object: Option<Object>,
    dataset: Option<DatasetStat>,
    /// Why the path does not read as a dataset, where it holds data files.
    dataset_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct DatasetStat {
    rows: u64,
    files: usize,
    row_groups: usize,
    /// Bytes of the files.
    bytes: u64,
    schema: Vec<Column>,
    partition_columns: Vec<String>,
    unreadable_files: usize,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    r#type: String,
    nullable: bool,
}

pub(super) async fn stat(node: &Node, body: &PathBody) -> Result<Stat, ServiceError> {
    let path = node.locate(&body.path)?;
    let place = node.datasets.tree().place(&path).await?;
    let table = node.namespace.table();
    let (kind, object) = match &place {
        Place::File(file) => ("file", Some(Object::of(&file.info))),
        Place::Folder if table.get(&path).is_some() => ("mount", None),
        Place::Folder => ("folder", None),
    };
    let resolved = table.resolve(&path);
    let uri = match &resolved {
        Some(resolved) if resolved.relative.is_empty() => Some(resolved.mount.uri.to_string()),
        Some(resolved) => resolved
            .mount
            .uri
            .join(&resolved.relative)
            .ok()
            .map(|uri| uri.to_string()),
        None => None,
    };
    let is_data = kind != "file" || path.name().is_some_and(is_parquet);
    let (dataset, dataset_error) = if is_data {
        dataset_stat(node, &path).await?
    } else {
        (None, None)
    };
    Ok(Stat {
        kind,
        uri,
        mount: resolved.map(|resolved| resolved.mount.path.clone()),
        object,
        dataset,
        dataset_error,
        path,
    })
}

/// The dataset at `path`, or why it is none; only a storage that fails is an error here.
async fn dataset_stat(node: &Node, path: &NsPath) -> Result<(Option<DatasetStat>, Option<String>), ServiceError> {
    match node.datasets.get(path).await {
        Ok(dataset) => Ok((Some(describe(&dataset)), None)),
        Err(error) => match error.code() {
            Code::NotFound => Ok((None, None)),
            Code::FailedPrecondition | Code::DataLoss | Code::ResourceExhausted => {
                Ok((None, Some(crate::error::chain(&error))))
            }
            _ => Err(error),
        },
    }
}

fn describe(dataset: &Dataset) -> DatasetStat {
    let summaries: Vec<&FileSummary> = dataset
        .files
        .iter()
        .filter_map(|file| file.summary.as_ref().ok())
        .collect();
    let row_groups = || summaries.iter().flat_map(|summary| summary.row_groups.iter());
    DatasetStat {
        rows: row_groups().map(|group| group.rows).sum(),
        files: dataset.files.len(),
        row_groups: row_groups().count(),
        bytes: dataset.files.iter().map(|file| file.open.key.size).sum(),
        schema: dataset.schema.fields().iter().map(|field| column(field)).collect(),
        partition_columns: dataset.partitions.iter().map(|column| column.name.clone()).collect(),
        unreadable_files: dataset.files.len() - summaries.len(),
    }
}

fn column(field: &Field) -> Column {
    Column {
        name: field.name().clone(),
        r#type: field.data_type().to_string(),
        nullable: field.is_nullable(),
    }
}
