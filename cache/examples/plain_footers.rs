//! Lists a folder and reads the footer of every Parquet file in it, with plain `object_store` and `parquet`: what
//! planning a dataset costs at the least. `make bench` sets Jetbridge's own planning against it.
//!
//! Usage: `plain_footers FOLDER CONCURRENCY`. Prints one JSON object: files, rows, seconds.

use std::{path::Path, process::ExitCode, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use parquet::{
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The tail that is fetched first, in bytes: the same guess that the cache makes.
const FOOTER_HINT_BYTES: u64 = 64 * 1024;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("plain_footers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<String, Failure> {
    let [folder, concurrency] = words else {
        return Err("usage: plain_footers FOLDER CONCURRENCY".into());
    };
    let concurrency: usize = concurrency.parse()?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(Path::new(folder))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Instant::now();
    let (files, rows) = runtime.block_on(count_rows(store, concurrency))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(format!(
        "{{\"files\": {files}, \"rows\": {rows}, \"seconds\": {seconds}}}"
    ))
}

async fn count_rows(store: Arc<dyn ObjectStore>, concurrency: usize) -> Result<(u64, i64), Failure> {
    let objects: Vec<ObjectMeta> = store.list(None).try_collect().await?;
    let wanted = objects
        .into_iter()
        .filter(|object| object.location.as_ref().ends_with(".parquet"));
    futures::stream::iter(wanted)
        // A task each, so that parsing uses every core, as it does in the server.
        .map(|object| {
            let store = store.clone();
            async move { tokio::spawn(async move { footer(&*store, &object).await }).await? }
        })
        .buffer_unordered(concurrency)
        .try_fold((0, 0), |(files, rows), metadata| async move {
            Ok((files + 1, rows + metadata.file_metadata().num_rows()))
        })
        .await
}

async fn footer(store: &dyn ObjectStore, object: &ObjectMeta) -> Result<ParquetMetaData, Failure> {
    let mut reader = ParquetMetaDataReader::new();
    let bytes = tail(store, object, FOOTER_HINT_BYTES).await?;
    match reader.try_parse_sized(&bytes, object.size) {
        Ok(()) => {}
        Err(ParquetError::NeedMoreData(needed)) => {
            let bytes = tail(store, object, u64::try_from(needed)?).await?;
            reader.try_parse_sized(&bytes, object.size)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(reader.finish()?)
}

async fn tail(store: &dyn ObjectStore, object: &ObjectMeta, bytes: u64) -> Result<Bytes, Failure> {
    let range = object.size.saturating_sub(bytes)..object.size;
    Ok(store.get_range(&object.location, range).await?)
}
