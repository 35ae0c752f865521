//! Whether an answer is warm, and what becomes of it where its reader decodes for itself.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;

use super::{cache, collect, mount, open, request, split, write};
use crate::Cache;
use crate::key::Source;
use crate::retention::Reread;
use crate::scan::{ScanBatch, ScanRequest};
use crate::schema::project;

const ROWS: i64 = 20_000;

/// A file of one column that takes nearly all of it and of one that takes hardly any.
fn write_two(folder: &Path) {
    let mixed = |row: i64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
    let large: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(mixed)));
    let small: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| 7)));
    write(&folder.join("a.parquet"), &[("large", large), ("small", small)], 10_000);
}

async fn asking(cache: &Cache, folder: &Path, columns: &[&str]) -> ScanRequest {
    let file = open(&mount(folder), "a.parquet").await;
    let footer = cache.footer(&file).await.unwrap();
    let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
    let schema = project(&footer.schema, &columns).unwrap();
    request(vec![split(&file, &footer)], &schema)
}

async fn is_warm(cache: &Cache, request: &ScanRequest) -> bool {
    cache.warmth(request).await.unwrap().is_warm()
}

#[tokio::test(flavor = "multi_thread")]
async fn to_ask_is_no_touch_and_to_pass_is_one() {
    let folder = tempfile::tempdir().unwrap();
    write_two(folder.path());
    let cache = cache();
    let both = asking(&cache, folder.path(), &["large", "small"]).await;
    for _ in 0..3 {
        assert!(!is_warm(&cache, &both).await);
    }
    cache.warmth(&both).await.unwrap().pass();
    assert!(is_warm(&cache, &both).await, "a scan would keep it");
    assert_eq!(cache.usage().decoded_bytes, 0, "and nothing is kept yet");
    collect(&cache, both.clone()).await.unwrap();
    assert!(cache.usage().decoded_bytes > 0);
    assert!(is_warm(&cache, &both).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_will_read_again_it_keeps_at_once_and_it_is_warm_then() {
    let folder = tempfile::tempdir().unwrap();
    write_two(folder.path());
    let cache = cache();
    let once = asking(&cache, folder.path(), &["large", "small"]).await;
    let first = ScanRequest {
        reread: Reread::Foretold,
        ..once.clone()
    };
    assert!(!is_warm(&cache, &first).await, "stored bytes are there sooner");
    let decoded = collect(&cache, first.clone()).await.unwrap();
    assert!(is_warm(&cache, &first).await && is_warm(&cache, &once).await);
    assert!(cache.usage().decoded_bytes >= 2 * 8 * u64::try_from(ROWS).unwrap());
    let kept = collect(&cache, once).await.unwrap();
    let batches = |given: &[ScanBatch]| given.iter().map(|one| one.batch.clone()).collect::<Vec<_>>();
    let whole = |given: &[ScanBatch]| concat_batches(&given[0].batch.schema(), &batches(given)).unwrap();
    assert_eq!(whole(&decoded), whole(&kept));
    assert!(kept.iter().all(|one| one.source == Source::Memory));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_stored_bytes_decide() {
    let folder = tempfile::tempdir().unwrap();
    write_two(folder.path());
    let cache = cache();
    let both = asking(&cache, folder.path(), &["small", "large"]).await;
    let small = asking(&cache, folder.path(), &["small"]).await;
    let large = asking(&cache, folder.path(), &["large"]).await;
    for _ in 0..2 {
        collect(&cache, small.clone()).await.unwrap();
    }
    assert!(is_warm(&cache, &small).await);
    assert!(
        !is_warm(&cache, &both).await,
        "half of the columns, and few of the bytes"
    );
    for _ in 0..2 {
        collect(&cache, large.clone()).await.unwrap();
    }
    assert!(is_warm(&cache, &both).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_nothing_is_warm() {
    let folder = tempfile::tempdir().unwrap();
    write_two(folder.path());
    let cache = cache();
    let mut one = asking(&cache, folder.path(), &["large"]).await;
    let year: ArrayRef = Arc::new(Int64Array::from(vec![2024]));
    one.splits[0].constants = vec![("large".to_owned(), year)];
    assert!(is_warm(&cache, &one).await, "a constant is in no file");
    one.read = Arc::new(Schema::empty());
    assert!(is_warm(&cache, &one).await);
}
