//! From a namespace path to a [`Dataset`]: list, lay out, read the footers, merge the schemas.
//!
//! What is not known yet is read as it is listed, so that footers are on their way before storage has told all names. Where a
//! version is known, all is listed first: mostly nothing has changed, and no footer is to be read.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, future, stream};
use jetbridge_cache::Cache;
use jetbridge_cache::Footer;
use jetbridge_cache::ReadError;
use jetbridge_cache::key::FileKey;
use jetbridge_cache::page::{Errand, OpenFile, Peers};
use jetbridge_cache::schema;
use jetbridge_catalog::dataset::{Layout, PartitionColumn, PartitionValue, is_hidden, is_parquet, layout};
use jetbridge_catalog::path::NsPath;
use tokio_util::task::AbortOnDropHandle;

use super::listing::MAX_LISTED_FILES;
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
    match listed.is_empty() {
        true => list_one(tree, path).await,
        false => laid_out(path, listed),
    }
}

/// The file `path` of a name that no data file has, below which there is nothing.
async fn list_one(tree: &Tree, path: &NsPath) -> Result<Files, ServiceError> {
    let looks_like_file = path.name().is_some_and(is_parquet);
    match tree.file(path).await? {
        Some(file) if !looks_like_file => Ok(single(file)),
        _ => Err(ServiceError::NoDataset { path: path.clone() }),
    }
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
    let (columns, files) = arranged(path, listed, |file| &file.path)?;
    Ok(Files { columns, files })
}

/// What was found of files, in the reading order of these, with what their folders say: the columns, and each file's values.
type Arranged<T> = (Vec<PartitionColumn>, Vec<(T, Vec<PartitionValue>)>);

fn arranged<T>(path: &NsPath, found: Vec<T>, path_of: impl Fn(&T) -> &NsPath) -> Result<Arranged<T>, ServiceError> {
    let Layout { columns, files } = {
        let paths: Vec<&str> = found
            .iter()
            .filter_map(|file| path_of(file).strip_prefix(path))
            .collect();
        layout(&paths).map_err(|source| ServiceError::Layout {
            path: path.clone(),
            source,
        })?
    };
    let mut found: Vec<Option<T>> = found.into_iter().map(Some).collect();
    let files = files
        .into_iter()
        .filter_map(|file| Some((found.get_mut(file.index)?.take()?, file.values)))
        .collect();
    Ok((columns, files))
}

/// Whether a file below `path` is one of data.
fn is_data(path: &NsPath, file: &Listed) -> bool {
    let relative = file.path.strip_prefix(path);
    relative.is_some_and(|relative| !is_hidden(relative) && is_parquet(relative))
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
    let (listed, mut values): (Vec<_>, VecDeque<_>) = files.into_iter().unzip();
    let mut footers = stream::iter(opened(holders, listed, pace))
        .map(|file| read(cache, file, pace))
        .buffered(at_once(holders));
    while let Some((file, footer)) = footers.next().await {
        loaded.push(DataFile {
            path: file.path,
            open: file.open,
            values: values.pop_front().unwrap_or_default(),
            summary: summary(footer?, &mut schemas),
        });
    }
    of_files(path, columns, loaded)
}

/// The dataset at `path` from the storage as it is now, of which nothing is known: footers are read while it is listed.
pub(super) async fn listed_and_loaded(
    cache: &Arc<Cache>,
    holders: &Arc<FooterHolders>,
    tree: &Tree,
    path: &NsPath,
) -> Result<Dataset, ServiceError> {
    let groups = listing(tree, path).await?.ready_chunks(FILES_TOGETHER);
    let files = groups.flat_map(|group| {
        let group: Result<Vec<Listed>, ServiceError> = group.into_iter().collect();
        let files = group.map(|group| opened(holders, group, None));
        stream::iter(files.map_or_else(|error| vec![Err(error)], |files| files.into_iter().map(Ok).collect()))
    });
    let mut footers = files
        .map_ok(|file| read(cache, file, None).map(Ok))
        .try_buffer_unordered(at_once(holders));
    let (mut schemas, mut found) = (Schemas::default(), Vec::new());
    while let Some((file, footer)) = footers.try_next().await? {
        if found.len() == MAX_LISTED_FILES {
            return Err(ServiceError::TooManyFiles {
                path: path.clone(),
                limit: MAX_LISTED_FILES,
            });
        }
        found.push((file.path, file.open, summary(footer?, &mut schemas)));
    }
    let (columns, files) = match &found[..] {
        [] => return load(cache, holders, path, list_one(tree, path).await?, None).await,
        [(only, ..)] if only == path => (Vec::new(), found.into_iter().map(|file| (file, Vec::new())).collect()),
        _ => arranged(path, found, |(file, ..)| file)?,
    };
    let loaded = files.into_iter().map(|((path, open, summary), values)| DataFile {
        path,
        open,
        values,
        summary,
    });
    of_files(path, columns, loaded.collect())
}

/// The dataset of files whose footers were read.
fn of_files(path: &NsPath, columns: Vec<PartitionColumn>, files: Vec<DataFile>) -> Result<Dataset, ServiceError> {
    let schema = merged(path, &columns, &files)?;
    Ok(Dataset {
        path: path.clone(),
        schema,
        partitions: columns,
        files,
        fingerprint: Fingerprint::default(),
    })
}

/// How many footers are read at once.
fn at_once(holders: &FooterHolders) -> usize {
    match holders.are_there() {
        true => FOOTERS_ASKED_AT_ONCE,
        false => FOOTERS_AT_ONCE,
    }
}

/// A file, and its footer or why that cannot be read.
type Read = (Opened, Result<Result<Arc<Footer>, ReadError>, ServiceError>);

/// Begins to read a footer.
fn read(cache: &Arc<Cache>, file: Opened, pace: Option<&Arc<Errand>>) -> impl Future<Output = Read> + use<> {
    let cache = Arc::clone(cache);
    let reading = OpenFile {
        peers: file.peers.clone(),
        errand: pace.cloned(),
        ..file.open.clone()
    };
    let footer = AbortOnDropHandle::new(tokio::spawn(async move { cache.footer(&reading).await }));
    async move {
        let footer = footer.await.map_err(|_| ServiceError::Internal {
            what: format!("reading the footer of {}", file.path),
        });
        (file, footer)
    }
}

fn summary(footer: Result<Arc<Footer>, ReadError>, schemas: &mut Schemas) -> Result<FileSummary, Arc<ReadError>> {
    footer.map(|footer| summarize(&footer, schemas)).map_err(Arc::new)
}

/// A file of which the footer is to be read.
struct Opened {
    path: NsPath,
    /// As it is opened from now on.
    open: OpenFile,
    /// Whom to ask while all of them are read.
    peers: Option<Arc<dyn Peers>>,
}

/// Opens the files of a dataset, of which other nodes are asked for many together.
fn opened(holders: &Arc<FooterHolders>, files: Vec<Listed>, pace: Option<&Arc<Errand>>) -> Vec<Opened> {
    let later = holders.of(Vec::new(), Reach::Owner);
    let open = |listed: Listed| Opened {
        open: open_file(&listed, &later),
        path: listed.path,
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
