//! Reads Parquet files of a folder within one process, without a wire, and prints how long it took: cold, from raw pages,
//! and from decoded chunks, which are handed out by reference.
//!
//! `cargo run --release --workspace --example hand_out -- FOLDER [COLUMN...]` prints a line of JSON for each read:
//! `{"state": "decoded", "seconds": 0.004, "rows": 6001215, "bytes": 1321205760}`, where bytes are those that the batches
//! show. Nothing of the values is touched.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{Schema, SchemaRef};
use futures::TryStreamExt;
use jetbridge_cache::key::RowGroup;
use jetbridge_cache::page::OpenFile;
use jetbridge_cache::retention::Reread;
use jetbridge_cache::scan::{Ahead, ScanRequest, Split, Taker};
use jetbridge_cache::ufs::{StoreSpec, Ufs, UfsContext, UfsLimits};
use jetbridge_cache::{Cache, CacheConfig};

/// Room for all of it twice over, at the scale that the benchmark uses.
const MEMORY_BYTES: u64 = 8 << 30;
/// What the server uses.
const BATCH_BYTES: usize = 2 << 20;
/// The first read fetches, the second decodes and keeps; the others have what is kept.
const STATES: [&str; 7] = ["cold", "raw", "decoded", "decoded", "decoded", "decoded", "decoded"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: hand_out FOLDER [COLUMN...]")?);
    let columns: Vec<String> = arguments.collect();
    let cache = Cache::open(CacheConfig {
        memory_bytes: MEMORY_BYTES,
        ..CacheConfig::default()
    })?;
    let files = open_files(&cache, &folder.canonicalize()?).await?;
    let schema = projected(&files.first().ok_or("no Parquet file there")?.1, &columns)?;
    for state in STATES {
        let started = Instant::now();
        let (rows, bytes) = read(&cache, &files, &schema).await?;
        let seconds = started.elapsed().as_secs_f64();
        println!(r#"{{"state": "{state}", "seconds": {seconds:.6}, "rows": {rows}, "bytes": {bytes}}}"#);
    }
    Ok(())
}

/// The files, with their schemas and how many row groups they have.
type Files = Vec<(OpenFile, SchemaRef, usize)>;

async fn open_files(cache: &Cache, folder: &Path) -> Result<Files, Box<dyn Error>> {
    let key = folder
        .to_str()
        .ok_or("the folder's path is not UTF-8")?
        .trim_start_matches('/');
    let spec = StoreSpec {
        mount: "/data".to_owned(),
        scheme: "file".to_owned(),
        authority: String::new(),
        key: key.to_owned(),
        options: Default::default(),
    };
    let context = UfsContext {
        file_roots: vec![folder.to_owned()],
        resolve_secret: Arc::new(|_| Err("no secrets here".to_owned())),
        limits: UfsLimits::default(),
    };
    let ufs = Ufs::open(spec, &context)?;
    let mut objects: Vec<_> = ufs.list("").try_collect().await?;
    objects.retain(|object| object.path.ends_with(".parquet"));
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    let mut files = Vec::new();
    for object in objects {
        let file = OpenFile {
            key: ufs.key_of(&object),
            path: object.path,
            ufs: ufs.clone(),
            peers: None,
            errand: None,
        };
        let footer = cache.footer(&file).await?;
        files.push((file, Arc::clone(&footer.schema), footer.row_groups.len()));
    }
    Ok(files)
}

fn projected(schema: &Schema, columns: &[String]) -> Result<SchemaRef, Box<dyn Error>> {
    if columns.is_empty() {
        return Ok(Arc::new(schema.clone()));
    }
    let indices = columns.iter().map(|column| schema.index_of(column));
    let indices = indices.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(schema.project(&indices)?))
}

async fn read(cache: &Cache, files: &Files, schema: &SchemaRef) -> Result<(usize, usize), Box<dyn Error>> {
    let splits = files.iter().map(|(file, _, groups)| Split {
        file: file.clone(),
        path: file.path.clone(),
        row_groups: (0..u32::try_from(*groups).unwrap_or(u32::MAX)).map(RowGroup).collect(),
        constants: Vec::new(),
    });
    let mut batches = cache.scan(ScanRequest {
        splits: splits.collect(),
        read: Arc::clone(schema),
        output: Arc::clone(schema),
        filter: None,
        sieve: None,
        limit: None,
        skip: 0,
        batch_bytes: BATCH_BYTES,
        taker: Taker::Sends,
        reread: Reread::Unknown,
        ahead: Ahead::Far,
    });
    let (mut rows, mut bytes) = (0, 0);
    while let Some(given) = batches.try_next().await? {
        rows += given.batch.num_rows();
        bytes += given.batch.get_array_memory_size();
    }
    Ok((rows, bytes))
}
