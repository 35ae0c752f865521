//! Columns decoded behind all else, of row groups that somebody took as they are stored and will read again.
//!
//! Whoever decodes for itself is served soonest, and leaves no decoded column behind. Where it said that it comes again
//! ([`Reread::Foretold`]), the columns of what it took are decoded here meanwhile, one at a time, on a thread that gets what the
//! others leave of the processors. Its next read finds as many as there was time for. A reader who comes while one is being
//! decoded waits for that one; what has not begun is loaded for it as ever.
//!
//! Nothing is fetched for it, and no other scan gives way: a column whose pages are not held is left out, and so is what the
//! policy would not keep. What waits is named, not held; beyond a number of row groups, more are left out.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::loads::{Threads, claim_brought};
use super::plan::{FilePlan, Shape};
use super::{Engine, Split, chunk_key, leaf_ranges};
use crate::budget::Purpose;
use crate::decode::SelectedColumn;
use crate::key::{RowGroup, to_usize};
use crate::retention::Reread;

/// Row groups that wait, at most: at 1 KiB each, 4 MiB.
const MOST_WAITING: usize = 4096;
/// How long each waits at least. A reader that goes through its data at full speed has use for all processors, and would be a
/// fifth slower beside this; one that computes in between leaves time enough.
const PATIENCE: Duration = Duration::from_millis(500);

/// A row group whose columns are to be decoded.
#[derive(Debug)]
pub(crate) struct LaterItem {
    pub(crate) split: Arc<Split>,
    /// The columns, as the dataset types them.
    pub(crate) read: SchemaRef,
    pub(crate) row_group: RowGroup,
}

/// What waits, and the task that is at it, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Later(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Instant, LaterItem)>,
    task: Option<JoinHandle<()>>,
}

impl Engine {
    /// Has the columns of a row group decoded when there is time. Must be called on a tokio runtime.
    pub(crate) fn decode_later(self: &Arc<Self>, item: LaterItem) {
        let mut state = self.later.0.lock();
        if state.waiting.len() >= MOST_WAITING {
            return;
        }
        state.waiting.push_back((Instant::now() + PATIENCE, item));
        // One that has finished without saying so has panicked.
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.task = Some(tokio::spawn(work_off(Arc::downgrade(self))));
        }
    }

    /// What is next, and when it is due.
    fn next_item(&self) -> Option<(Instant, LaterItem)> {
        let mut state = self.later.0.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.task = None;
        }
        next
    }

    /// Decodes what is not held of a row group, column by column.
    async fn bring(self: &Arc<Self>, item: LaterItem) {
        let Some(footer) = self.footer_at_hand(&item.split.file).await else {
            return;
        };
        let shape = Arc::new(Shape::of_columns(&item.read));
        let plan = Arc::new(FilePlan::new(footer, Split::clone(&item.split), shape));
        for column in &plan.columns {
            self.bring_column(&plan, item.row_group, column).await;
        }
    }

    async fn bring_column(self: &Arc<Self>, plan: &Arc<FilePlan>, row_group: RowGroup, column: &SelectedColumn) {
        let file = &plan.split.file.key;
        if self.chunks.contains(&chunk_key(file.id(), row_group, column)) {
            return;
        }
        let ranges = leaf_ranges(&plan.footer, row_group, std::iter::once(column));
        let raw_bytes = ranges.iter().map(|(_, range)| range.end - range.start).sum();
        let Some(raw) = self.budget.take_free(raw_bytes, Purpose::Scans) else {
            return;
        };
        let mut chunks = Vec::with_capacity(ranges.len());
        for (leaf, range) in ranges {
            let Some(bytes) = self.pages.read_held(file, range).await else {
                return;
            };
            chunks.push((leaf, bytes));
        }
        let bytes = Arc::new(self.row_group_bytes(&plan.footer, row_group, chunks.into_iter()));
        let decoded_bytes = plan.decoded_bytes(to_usize(u64::from(row_group.0)), std::iter::once(column));
        let brought = (bytes, self.pages.source(), raw);
        let one = std::slice::from_ref(column);
        let claims = claim_brought(self, plan, one, brought, Threads::Behind, |_, key| {
            self.chunks.place(key, file, decoded_bytes, Reread::Foretold)
        });
        for (_, flight) in claims {
            // Why it failed is its readers' business.
            let _ = flight.landed().await;
        }
    }
}

/// Decodes for as long as anything waits and the engine is there.
async fn work_off(engine: Weak<Engine>) {
    let next = || engine.upgrade()?.next_item();
    while let Some((due, item)) = next() {
        sleep_until(due).await;
        let Some(engine) = engine.upgrade() else {
            return;
        };
        engine.bring(item).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use futures::TryStreamExt;

    use super::*;
    use crate::Cache;
    use crate::key::Source;
    use crate::raw::Raw;
    use crate::scan::ScanRequest;
    use crate::tests::{cache, collect, joined, mount, open, request, split, write};

    const ROWS: i64 = 3_000;

    async fn whole(folder: &Path, cache: &Cache) -> ScanRequest {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("row {row}"))));
        write(&folder.join("a.parquet"), &[("n", numbers), ("text", texts)], 1_000);
        let file = open(&mount(folder), "a.parquet").await;
        let footer = cache.footer(&file).await.unwrap();
        request(vec![split(&file, &footer)], &footer.schema)
    }

    /// Takes all row groups as they are stored, as a reader that comes again or as one of whom nothing is known.
    async fn take(cache: &Cache, once: &ScanRequest, reread: Reread) {
        let request = ScanRequest { reread, ..once.clone() };
        let Raw::Files(scan) = cache.raw(&request, u64::MAX).await.unwrap() else {
            panic!("stored bytes can say it");
        };
        let (files, _pause) = scan.files();
        assert_eq!(files.try_collect::<Vec<_>>().await.unwrap().len(), 3);
    }

    /// Until nothing waits.
    async fn settled(cache: &Cache) {
        let is_done = || cache.engine.later.0.lock().task.is_none();
        let done = tokio::time::timeout(Duration::from_secs(60), async {
            while !is_done() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        done.await.expect("it hangs");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_taken_to_be_read_again_is_decoded_without_asking_storage() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache();
        let once = whole(folder.path(), &cache).await;
        take(&cache, &once, Reread::Unknown).await;
        settled(&cache).await;
        assert_eq!(cache.usage().decoded_bytes, 0, "nobody said that it comes again");
        let fetched_bytes = cache.engine.pages.fetched_bytes();
        for _ in 0..2 {
            take(&cache, &once, Reread::Foretold).await;
            settled(&cache).await;
            let key = |row_group, column: &SelectedColumn| chunk_key(once.splits[0].file.key.id(), row_group, column);
            let footer = cache.footer(&once.splits[0].file).await.unwrap();
            for (at, row_group) in [0, 1, 2].map(RowGroup).into_iter().enumerate() {
                for root in 0..2 {
                    let column = SelectedColumn::new(&footer, root, footer.schema.field(root).data_type());
                    assert!(
                        cache.engine.chunks.contains(&key(row_group, &column)),
                        "{at}, column {root}"
                    );
                }
            }
        }
        assert_eq!(cache.engine.pages.fetched_bytes(), fetched_bytes);
        let schema = Arc::clone(&once.output);
        let kept = collect(&cache, once.clone()).await.unwrap();
        assert!(kept.iter().all(|batch| batch.source == Source::Memory));
        let decoded = collect(&self::cache(), once).await.unwrap();
        assert_eq!(joined(&schema, &kept), joined(&schema, &decoded));
        assert_eq!(cache.engine.budget.used_bytes(Purpose::Scans), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_held_or_not_there_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache();
        let once = whole(folder.path(), &cache).await;
        take(&cache, &once, Reread::Unknown).await;
        let item = |read: &Schema, row_group| LaterItem {
            split: Arc::new(once.splits[0].clone()),
            read: Arc::new(read.clone()),
            row_group: RowGroup(row_group),
        };
        let lacks = Schema::new(vec![Field::new("other", DataType::Int64, true)]);
        cache.engine.decode_later(item(&lacks, 0));
        cache.engine.decode_later(item(&once.read, 7));
        settled(&cache).await;
        cache.engine.pages.remove_file(once.splits[0].file.key.id()).await;
        let fetched_bytes = cache.engine.pages.fetched_bytes();
        (0..3).for_each(|row_group| cache.engine.decode_later(item(&once.read, row_group)));
        settled(&cache).await;
        assert_eq!(cache.usage().decoded_bytes, 0);
        assert_eq!(cache.engine.pages.fetched_bytes(), fetched_bytes);
    }

    #[tokio::test]
    async fn no_more_waits_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache();
        let once = whole(folder.path(), &cache).await;
        // Of one thread, whose task does not begin before this one waits.
        for _ in 0..MOST_WAITING + 10 {
            cache.engine.decode_later(LaterItem {
                split: Arc::new(once.splits[0].clone()),
                read: Arc::clone(&once.read),
                row_group: RowGroup(0),
            });
        }
        assert_eq!(cache.engine.later.0.lock().waiting.len(), MOST_WAITING);
        settled(&cache).await;
    }
}
