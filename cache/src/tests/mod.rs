//! The crate's parts together: files on disk, through all tiers, to batches.

mod footers;
mod hostile;
mod paged;
mod pauses;
mod preload;
mod scans;
mod sieves;
mod speed;
pub(crate) mod types;
mod warmth;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::key::RowGroup;
use crate::page::OpenFile;
use crate::retention::Reread;
use crate::scan::{Ahead, ScanBatch, ScanRequest, Split, Taker};
use crate::ufs::{StoreSpec, Ufs, UfsContext, UfsLimits};
use crate::{Cache, CacheConfig, Footer, ReadError};

/// A folder mounted at `/t`.
pub(crate) fn mount(folder: &Path) -> Ufs {
    let context = UfsContext {
        file_roots: vec![folder.to_owned()],
        resolve_secret: Arc::new(|name: &str| Err(format!("no secret {name}"))),
        limits: UfsLimits::default(),
    };
    let spec = StoreSpec {
        mount: "/t".to_owned(),
        scheme: "file".to_owned(),
        authority: String::new(),
        key: folder.to_str().unwrap().trim_start_matches('/').to_owned(),
        options: std::collections::BTreeMap::new(),
    };
    Ufs::open(spec, &context).unwrap()
}

/// Opens a file of a mounted folder in its present generation.
pub(crate) async fn open(ufs: &Ufs, path: &str) -> OpenFile {
    let info = ufs.head(path).await.unwrap().expect("the file exists");
    OpenFile {
        ufs: ufs.clone(),
        path: path.to_owned(),
        key: ufs.key_of(&info),
        peers: None,
        errand: None,
    }
}

pub(crate) fn cache() -> Cache {
    Cache::open(CacheConfig::default()).unwrap()
}

/// Waits until all that was read is kept, or refused: what a reader began is kept a moment after its rows were given.
pub(crate) async fn kept(cache: &Cache) {
    cache.settle().await;
}

/// Whoever maps memory, and takes batches of any length.
pub(crate) const MAPS: Taker = Taker::Maps { batch_bytes: 32 << 20 };

/// All row groups of a file.
pub(crate) fn split(file: &OpenFile, footer: &Footer) -> Split {
    let row_groups = (0..u32::try_from(footer.row_groups.len()).unwrap())
        .map(RowGroup)
        .collect();
    Split {
        file: file.clone(),
        path: format!("/t/{}", file.path),
        row_groups,
        constants: Vec::new(),
    }
}

/// A request for all rows of these columns.
pub(crate) fn request(splits: Vec<Split>, schema: &SchemaRef) -> ScanRequest {
    ScanRequest {
        splits,
        read: Arc::clone(schema),
        output: Arc::clone(schema),
        filter: None,
        sieve: None,
        limit: None,
        skip: 0,
        batch_bytes: 2 << 20,
        taker: Taker::Sends,
        reread: Reread::Unknown,
        ahead: Ahead::Far,
    }
}

pub(crate) async fn collect(cache: &Cache, request: ScanRequest) -> Result<Vec<ScanBatch>, ReadError> {
    cache.scan(request).try_collect().await
}

/// Reads a whole file, in its own schema.
pub(crate) async fn read_all(cache: &Cache, file: &OpenFile) -> Result<RecordBatch, ReadError> {
    let footer = cache.footer(file).await?;
    let schema = Arc::clone(&footer.schema);
    let batches = collect(cache, request(vec![split(file, &footer)], &schema)).await?;
    Ok(joined(&schema, &batches))
}

pub(crate) fn joined(schema: &SchemaRef, batches: &[ScanBatch]) -> RecordBatch {
    concat_batches(schema, batches.iter().map(|given| &given.batch)).unwrap()
}

/// Writes columns as a Parquet file with row groups of `group_rows`.
pub(crate) fn write(path: &Path, columns: &[(&str, ArrayRef)], group_rows: usize) {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| nullable(name, array.data_type()))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn nullable(name: &str, data_type: &DataType) -> Field {
    Field::new(name, data_type.clone(), true)
}
