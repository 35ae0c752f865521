//! Scans that are paused wherever it may be give the rows that they give otherwise, and hold nothing meanwhile.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::kernels::cmp::neq;
use arrow::compute::kernels::numeric::rem;
use arrow::error::ArrowError;
use futures::StreamExt;
use proptest::prelude::*;

use super::{collect, joined, mount, open, request, split, write};
use crate::budget::{Budget, Purpose};
use crate::page::OpenFile;
use crate::scan::{RowFilter, ScanBatch, ScanRequest, Taker};
use crate::{Cache, CacheConfig, Footer};

const GROUP_ROWS: usize = 3_000;
/// Row groups are cut into batches of some hundred rows.
const BATCH_BYTES: usize = 8 << 10;

/// Keeps the rows whose number is no multiple of this.
struct NoMultipleOf(i64);

impl RowFilter for NoMultipleOf {
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let rest = rem(batch.column(0), &Int64Array::new_scalar(self.0))?;
        neq(&rest, &Int64Array::new_scalar(0))
    }
}

struct Files {
    cache: Cache,
    files: Vec<(OpenFile, Arc<Footer>)>,
    _folder: tempfile::TempDir,
}

/// Two files, of some row groups each.
async fn files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let mut next = 0;
    for (name, rows) in [("a.parquet", 10_000), ("b.parquet", 7_000)] {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(next..next + rows));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            (next..next + rows).map(|row| format!("row {row}")),
        ));
        write(&folder.path().join(name), &[("n", numbers), ("s", texts)], GROUP_ROWS);
        next += rows;
    }
    let cache = Cache::open(CacheConfig::default()).unwrap();
    let mount = mount(folder.path());
    let mut files = Vec::new();
    for name in ["a.parquet", "b.parquet"] {
        let file = open(&mount, name).await;
        let footer = cache.footer(&file).await.unwrap();
        files.push((file, footer));
    }
    Files {
        cache,
        files,
        _folder: folder,
    }
}

impl Files {
    fn request(&self, filter: Option<i64>, limit: Option<u64>) -> ScanRequest {
        let splits = self.files.iter().map(|(file, footer)| split(file, footer)).collect();
        ScanRequest {
            filter: filter.map(|of| Arc::new(NoMultipleOf(of)) as Arc<dyn RowFilter>),
            sieve: None,
            limit,
            batch_bytes: BATCH_BYTES,
            taker: Taker::Sends,
            ..request(splits, &self.files[0].1.schema)
        }
    }

    /// Reads, with a pause after each batch that `pauses` says, over and over.
    async fn read_with_pauses(&self, request: ScanRequest, pauses: &[bool]) -> Vec<ScanBatch> {
        let (mut batches, pause) = self.cache.pausable_scan(request);
        let mut taken = Vec::new();
        while let Some(batch) = batches.next().await {
            taken.push(batch.unwrap());
            if pauses[taken.len() % pauses.len()] {
                assert!(pause.pause());
                assert!(!pause.pause(), "there is nothing left to let go of");
            }
        }
        assert!(batches.next().await.is_none(), "the end stays the end");
        taken
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_rows_are_the_same(
        pauses in prop::collection::vec(any::<bool>(), 1..9),
        filter in prop::option::of(2i64..4_000),
        limit in prop::option::of(0u64..18_000),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let files = files().await;
            let schema = Arc::clone(&files.files[0].1.schema);
            // The second time the row groups are decoded to be kept, and the third time handed out.
            for _ in 0..3 {
                let plain = collect(&files.cache, files.request(filter, limit)).await.unwrap();
                let paused = files.read_with_pauses(files.request(filter, limit), &pauses).await;
                assert_eq!(joined(&schema, &paused), joined(&schema, &plain));
            }
        });
    }
}

/// Waits until scans hold no more than so many bytes: tasks that were told to stop are gone a moment later.
async fn comes_down_to(budget: &Budget, most_bytes: u64) {
    let coming = async {
        while budget.used_bytes(Purpose::Scans) > most_bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(60), coming).await;
    assert!(came.is_ok(), "{} bytes", budget.used_bytes(Purpose::Scans));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_scan_holds_no_more_than_what_was_taken() {
    let files = files().await;
    let budget = &files.cache.engine.budget;
    let (mut batches, pause) = files.cache.pausable_scan(files.request(None, None));
    let first = batches.next().await.unwrap().unwrap();
    assert!(pause.pause());
    let taken = u64::try_from(crate::scan::batch_bytes(&first.batch)).unwrap();
    comes_down_to(budget, taken).await;
    assert!(budget.used_bytes(Purpose::Scans) > 0);
    drop(first);
    comes_down_to(budget, 0).await;
    assert!(batches.next().await.unwrap().is_ok());
}

/// On one thread, so that no task runs while the first poll goes on.
#[tokio::test]
async fn whoever_waits_is_not_paused() {
    let files = files().await;
    let (mut batches, pause) = files.cache.pausable_scan(files.request(None, None));
    assert!(!pause.pause(), "nothing has begun");
    let mut first = std::pin::pin!(batches.next());
    // The first poll cannot have a batch yet: it starts the tasks that make them.
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(!pause.pause());
    assert!(first.await.unwrap().is_ok());
}
