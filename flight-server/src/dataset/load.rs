//! From a namespace path to a [`Dataset`]: list, lay out, read the footers, merge the schemas.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, future, stream};
use jetbridge_cache::Cache;
use jetbridge_cache::Footer;
use jetbridge_cache::ReadError;
use jetbridge_cache::key::FileKey;
use jetbridge_cache::page::{Errand, OpenFile, Peers};
use jetbridge_cache::schema;
use jetbridge_catalog::dataset::{Layout, PartitionColumn, PartitionValue, is_hidden, is_parquet, layout};
use jetbridge_catalog::path::NsPath;
use tokio_util::task::AbortOnDropHandle;

use super::{DataFile, Dataset, FileSummary, Fingerprint, Listed, Tree, partition_field};
use crate::cluster::footers::{FILES_TOGETHER, FooterHolders};
use crate::cluster::peers::Reach;
use crate::error::ServiceError;

/// Footers read at once for one dataset; the mount's own limit on requests holds besides.
const FOOTERS_AT_ONCE: usize = 64;
/// The same where other nodes read them. The more files are waited for at once, the more go into one call to a node.
const FOOTERS_ASKED_AT_ONCE: usize = 1024;

/// The files of a dataset, in reading order, with the values of their partition folders.
pub(super) struct Files {
    pub(super) columns: Vec<PartitionColumn>,
    pub(super) files: Vec<(Listed, Vec<PartitionValue>)>,
}

/// Lists the data files of `path`, which may be a file or a folder.
pub(super) async fn list(tree: &Tree, path: &NsPath) -> Result<Files, ServiceError> {
    let looks_like_file = path.name().is_some_and(is_parquet);
    if looks_like_file && let Some(file) = tree.file(path).await? {
        return Ok(single(file));
    }
    let mut listed = tree.files(path).await?;
    listed.retain(|file| is_data(path, file));
    if listed.is_empty() {
        return match tree.file(path).await? {
            Some(file) if !looks_like_file => Ok(single(file)),
            _ => Err(ServiceError::NoDataset { path: path.clone() }),
        };
    }
    laid_out(path, listed)
}

/// The data files of `path` as they are listed, in no order.
pub(super) async fn listing(
    tree: &Tree,
    path: &NsPath,
) -> Result<BoxStream<'static, Result<Listed, ServiceError>>, ServiceError> {
    let looks_like_file = path.name().is_some_and(is_parquet);
    if looks_like_file && let Some(file) = tree.file(path).await? {
        return Ok(stream::iter([Ok(file)]).boxed());
    }
    let listed = tree.list(path)?;
    let path = path.clone();
    let is_meant = move |file: &Result<Listed, ServiceError>| file.as_ref().map_or(true, |file| is_data(&path, file));
    Ok(listed.filter(move |file| future::ready(is_meant(file))).boxed())
}

/// The files of one listing in reading order, with what their folders say.
pub(super) fn laid_out(path: &NsPath, listed: Vec<Listed>) -> Result<Files, ServiceError> {
    let layout = {
        let paths: Vec<&str> = listed.iter().filter_map(|file| relative(path, file)).collect();
        layout(&paths).map_err(|source| ServiceError::Layout {
            path: path.clone(),
            source,
        })?
    };
    Ok(in_order(listed, layout))
}

/// Whether a file below `path` is one of data.
fn is_data(path: &NsPath, file: &Listed) -> bool {
    relative(path, file).is_some_and(|rel| !is_hidden(rel) && is_parquet(rel))
}

/// Reads the footers of `files` and merges their schemas; at a pace where one is given. Whoever drops it stops that: what storage
/// was asked for comes and is kept, and of others who wait for the same footer one reads on.
pub(super) async fn load(
    cache: &Arc<Cache>,
    holders: &Arc<FooterHolders>,
    path: &NsPath,
    files: Files,
    pace: Option<&Arc<Errand>>,
) -> Result<Dataset, ServiceError> {
    let Files { columns, files } = files;
    let mut schemas = Schemas::default();
    let mut loaded = Vec::with_capacity(files.len());
    let cache = Arc::clone(cache);
    let at_once = match holders.are_there() {
        true => FOOTERS_ASKED_AT_ONCE,
        false => FOOTERS_AT_ONCE,
    };
    let pace = pace.cloned();
    let mut footers = stream::iter(opened(holders, files, pace.as_ref()))
        .map(move |file| {
            let cache = Arc::clone(&cache);
            let reading = OpenFile {
                peers: file.peers,
                errand: pace.clone(),
                ..file.open.clone()
            };
            let footer = AbortOnDropHandle::new(tokio::spawn(async move { cache.footer(&reading).await }));
            let (path, open, values) = (file.path, file.open, file.values);
            async move { (path, open, values, footer.await) }
        })
        .buffered(at_once);
    while let Some((file, open, values, footer)) = footers.next().await {
        let footer = footer.map_err(|_| ServiceError::Internal {
            what: format!("reading the footer of {file}"),
        })?;
        let summary = footer.map(|footer| summarize(&footer, &mut schemas)).map_err(Arc::new);
        loaded.push(DataFile {
            path: file,
            open,
            values,
            summary,
        });
    }
    let schema = merged(path, &columns, &loaded)?;
    Ok(Dataset {
        path: path.clone(),
        schema,
        partitions: columns,
        files: loaded,
        fingerprint: Fingerprint::default(),
    })
}

/// A file of which the footer is to be read.
struct Opened {
    path: NsPath,
    values: Vec<PartitionValue>,
    /// As it is opened from now on.
    open: OpenFile,
    /// Whom to ask while all of them are read.
    peers: Option<Arc<dyn Peers>>,
}

/// Opens the files of a dataset, of which other nodes are asked for many together.
fn opened(
    holders: &Arc<FooterHolders>,
    files: Vec<(Listed, Vec<PartitionValue>)>,
    pace: Option<&Arc<Errand>>,
) -> Vec<Opened> {
    let later = holders.of(Vec::new(), Reach::Owner);
    let open = |(listed, values): (Listed, Vec<PartitionValue>)| Opened {
        open: open_file(&listed, &later),
        path: listed.path,
        values,
        peers: None,
    };
    let mut opened: Vec<Opened> = files.into_iter().map(open).collect();
    if holders.are_there() {
        for together in opened.chunks_mut(FILES_TOGETHER) {
            let keys = together.iter().map(|file| file.open.key.clone()).collect();
            let peers = match pace {
                Some(pace) => holders.at_pace(keys, pace),
                None => holders.of(keys, Reach::Owner),
            };
            for file in together {
                file.peers = Some(Arc::clone(&peers));
            }
        }
    }
    opened
}

/// The file as the cache opens it: its canonical URI, size and generation.
fn open_file(listed: &Listed, peers: &Arc<dyn Peers>) -> OpenFile {
    let key = FileKey {
        uri: listed.ufs.uri_of(&listed.info.path).into(),
        generation: listed.info.generation.clone(),
        size: listed.info.size,
    };
    OpenFile {
        ufs: listed.ufs.clone(),
        path: listed.info.path.clone(),
        key,
        peers: Some(Arc::clone(peers)),
        errand: None,
    }
}

fn single(file: Listed) -> Files {
    Files {
        columns: Vec::new(),
        files: vec![(file, Vec::new())],
    }
}

fn relative<'a>(path: &NsPath, file: &'a Listed) -> Option<&'a str> {
    file.path.strip_prefix(path)
}

fn in_order(listed: Vec<Listed>, layout: Layout) -> Files {
    let mut listed: Vec<Option<Listed>> = listed.into_iter().map(Some).collect();
    let files = layout
        .files
        .into_iter()
        .filter_map(|file| Some((listed.get_mut(file.index)?.take()?, file.values)))
        .collect();
    Files {
        columns: layout.columns,
        files,
    }
}

/// Keeps of a footer what plans need; equal schemas are kept once.
fn summarize(footer: &Footer, schemas: &mut Schemas) -> FileSummary {
    FileSummary {
        schema: schemas.known(&footer.schema),
        row_groups: footer.row_groups.clone().into(),
    }
}

/// The schemas of the files of a dataset, each once.
#[derive(Default)]
struct Schemas {
    all: HashSet<SchemaRef>,
    /// The last one as it came and as it is kept: files that follow one another mostly share theirs, and to look one up reads all
    /// of it.
    last: Option<(SchemaRef, SchemaRef)>,
}

impl Schemas {
    /// The one that is kept of those that are equal to it.
    fn known(&mut self, schema: &SchemaRef) -> SchemaRef {
        if let Some((came, known)) = &self.last
            && Arc::ptr_eq(came, schema)
        {
            return Arc::clone(known);
        }
        let known = match self.all.get(schema) {
            Some(known) => Arc::clone(known),
            None => {
                self.all.insert(Arc::clone(schema));
                Arc::clone(schema)
            }
        };
        self.last = Some((Arc::clone(schema), Arc::clone(&known)));
        known
    }
}

/// The schema of all readable files, with partition columns last; a file's own column of a partition's name gives way.
fn merged(path: &NsPath, columns: &[PartitionColumn], files: &[DataFile]) -> Result<SchemaRef, ServiceError> {
    let mut seen: HashSet<*const Schema> = HashSet::new();
    let distinct = files.iter().filter_map(|file| {
        let schema = &file.summary.as_ref().ok()?.schema;
        seen.insert(Arc::as_ptr(schema))
            .then(|| (file.path.as_ref(), schema.as_ref()))
    });
    let mut distinct = distinct.peekable();
    if distinct.peek().is_none() {
        return Err(
            first_error(files).map_or_else(|| ServiceError::NoDataset { path: path.clone() }, ServiceError::Read)
        );
    }
    let merged = schema::merge(distinct).map_err(|source| ServiceError::Merge {
        path: path.clone(),
        source,
    })?;
    if columns.is_empty() {
        return Ok(merged);
    }
    let own = merged
        .fields()
        .iter()
        .filter(|field| columns.iter().all(|column| column.name != *field.name()));
    let fields: Vec<Arc<Field>> = own
        .cloned()
        .chain(columns.iter().map(|column| Arc::new(partition_field(column))))
        .collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, merged.metadata().clone())))
}

fn first_error(files: &[DataFile]) -> Option<Arc<ReadError>> {
    files.iter().find_map(|file| file.summary.as_ref().err().cloned())
}
