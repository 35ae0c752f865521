//! One partition of a scan while it runs.
//!
//! ```text
//! pieces --Cache::scan, sifted--> strides --slices of a batch's rows--> predicate --projection--> batches
//! ```
//! Strides come by reference, as long as they lie in the chunk tier: about 2 MiB over all columns of the file. Operators like
//! batches that fit a core's cache, so they are given slices; where the predicate leaves a part of a slice, what is left of
//! several is gathered into one.
//!
//! The predicate is evaluated here, on the thread that goes on with the rows, and not by the cache: what it has just looked at
//! is still in the core's cache when the next operator does. Only what is not held decoded is sifted there before.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::try_join_all;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use jetbridge_cache::Footer;
use jetbridge_cache::ReadError;
use jetbridge_cache::retention::Reread;
use jetbridge_cache::scan::{Ahead, Charge, ScanBatch, ScanRequest, Sieve, Split, Taker};
use jetbridge_catalog::path::NsPath;

use super::errors::carried;
use super::pieces::ScanPiece;
use super::predicate::{Passing, Rows, changes};
use super::sieve::ScanSieve;
use crate::node::Node;
use crate::redeem;

/// Size of the batches that the cache is to make of columns that are not held: as strides are.
const STRIDE_BYTES: usize = 2 << 20;
/// A slice may have half as many rows again as were asked for, rather than leave a rest.
const LEEWAY: usize = 2;
/// Slices are whole words of a validity bitmap.
const SLICE_ALIGN_ROWS: usize = 64;
/// A query keeps a thread to itself for so long, as far as that is the scan's to say.
const LONGEST_TURN: Duration = Duration::from_millis(10);
/// Files of a partition beyond which no footers are held to leave out row groups while it runs.
const MAX_FOOTERS: usize = 1024;
/// Footers that are asked for at once.
const FOOTERS_AT_ONCE: usize = 64;

/// What one partition reads, and what it makes of it.
pub(super) struct Reading {
    pub(super) node: Arc<Node>,
    pub(super) dataset: NsPath,
    pub(super) pieces: Vec<ScanPiece>,
    /// The columns that are read.
    pub(super) read: SchemaRef,
    /// What is given.
    pub(super) output: SchemaRef,
    /// The columns given, over those read.
    pub(super) projection: Vec<Arc<dyn PhysicalExpr>>,
    /// Over the columns read.
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    pub(super) fetch: Option<usize>,
    pub(super) batch_rows: usize,
}

impl Reading {
    /// The rows; nothing is read before they are asked for.
    pub(super) fn start(self, metrics: &ExecutionPlanMetricsSet, partition: usize) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.output);
        let baseline = BaselineMetrics::new(metrics, partition);
        let left_out = MetricBuilder::new(metrics).counter("row_groups_left_out", partition);
        let begun = async move {
            let strides = self.strides(left_out).await?;
            Ok::<_, DataFusionError>(Giving::new(self, strides, baseline).into_stream())
        };
        let batches = stream::once(begun).flat_map(|begun| match begun {
            Ok(batches) => batches,
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }

    async fn strides(
        &self,
        left_out: datafusion::physical_plan::metrics::Count,
    ) -> Result<BoxStream<'static, std::result::Result<ScanBatch, ReadError>>> {
        let splits: Vec<Split> = self
            .pieces
            .iter()
            .flat_map(|piece| piece.splits().iter().cloned())
            .collect();
        let sieve = match &self.predicate {
            Some(predicate) => {
                let footers = self.footers(predicate, &splits).await?;
                let sieve = ScanSieve::new(predicate, &self.read, &splits, footers, left_out)?;
                Some(Arc::new(sieve) as Arc<dyn Sieve>)
            }
            None => None,
        };
        self.pieces.iter().for_each(|piece| piece.count_read(&self.node));
        let limit = self.fetch.filter(|_| self.predicate.is_none());
        Ok(self.node.cache.scan(ScanRequest {
            splits,
            read: Arc::clone(&self.read),
            output: Arc::clone(&self.read),
            filter: None,
            sieve,
            limit: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            skip: 0,
            batch_bytes: STRIDE_BYTES,
            // A table that is read once leaves nothing behind, and is not paid for as if it did: to keep all columns at their
            // first read made query 1 of TPC-H a third slower. What is read again is kept, and handed on by reference.
            taker: Taker::Computes,
            reread: Reread::Unknown,
            ahead: Ahead::Near,
        }))
    }

    /// The footers of the splits' files, where row groups may be left out by what changes while the query runs.
    async fn footers(&self, predicate: &Arc<dyn PhysicalExpr>, splits: &[Split]) -> Result<Vec<Arc<Footer>>> {
        let mut footers = Vec::new();
        if !changes(predicate) || splits.len() > MAX_FOOTERS {
            return Ok(footers);
        }
        for some in splits.chunks(FOOTERS_AT_ONCE) {
            let read = try_join_all(some.iter().map(|split| self.node.cache.footer(&split.file))).await;
            footers.extend(read.map_err(|error| self.failed(error))?);
        }
        Ok(footers)
    }

    fn failed(&self, error: ReadError) -> DataFusionError {
        carried(redeem::failed(&self.node, &self.dataset, error))
    }
}

/// A partition that was begun.
struct Giving {
    reading: Reading,
    strides: Pin<Box<dyn Stream<Item = std::result::Result<ScanBatch, ReadError>> + Send>>,
    passing: Option<Passing>,
    /// Parts of slices, on their way to be a batch.
    gathered: BatchCoalescer,
    ready: VecDeque<RecordBatch>,
    /// Of the stride whose slices these are.
    charge: Option<Charge>,
    /// When the thread was last given to others.
    since: Instant,
    /// Rows that may still be given.
    left: usize,
    metrics: BaselineMetrics,
}

impl Giving {
    fn new(
        reading: Reading,
        strides: BoxStream<'static, std::result::Result<ScanBatch, ReadError>>,
        metrics: BaselineMetrics,
    ) -> Self {
        Self {
            passing: reading.predicate.as_ref().map(Passing::new),
            gathered: BatchCoalescer::new(Arc::clone(&reading.output), reading.batch_rows),
            ready: VecDeque::new(),
            charge: None,
            since: Instant::now(),
            left: reading.fetch.unwrap_or(usize::MAX),
            strides,
            metrics,
            reading,
        }
    }

    fn into_stream(self) -> BoxStream<'static, Result<RecordBatch>> {
        let batches = stream::unfold(Some(self), |giving| async {
            let mut giving = giving?;
            match giving.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(giving))),
                Ok(None) => None,
                // Nothing follows an error.
                Err(error) => Some((Err(error), None)),
            }
        });
        batches.boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(self.give(batch)));
            }
            self.yield_in_turn().await;
            // All of its slices were given. The next stride may need the whole window that it is a part of.
            self.charge = None;
            match self.strides.next().await {
                Some(stride) => {
                    let stride = stride.map_err(|error| self.reading.failed(error))?;
                    let time = self.metrics.elapsed_compute().clone();
                    let _timer = time.timer();
                    self.charge = Some(stride.charge);
                    for slice in slices(&stride.batch, self.reading.batch_rows) {
                        self.take(slice)?;
                    }
                }
                None => {
                    self.gathered.finish_buffered_batch()?;
                    match self.gathered.next_completed_batch() {
                        Some(batch) => self.ready.push_back(batch),
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// Lets others have the thread, which operators above may have kept to themselves since the last rows were asked for: a
    /// join that finds no match gives no sign of itself, and could not be ended.
    async fn yield_in_turn(&mut self) {
        if self.since.elapsed() > LONGEST_TURN {
            tokio::task::yield_now().await;
            self.since = Instant::now();
        }
    }

    /// What of a batch may still be given.
    fn give(&mut self, batch: RecordBatch) -> RecordBatch {
        let batch = if batch.num_rows() > self.left {
            batch.slice(0, self.left)
        } else {
            batch
        };
        self.left -= batch.num_rows();
        self.metrics.record_output(batch.num_rows());
        batch
    }

    fn take(&mut self, slice: RecordBatch) -> Result<()> {
        let rows = match &mut self.passing {
            Some(passing) => passing.of(slice)?,
            None => Rows::All(slice),
        };
        match rows {
            Rows::None => {}
            Rows::All(batch) => self.ready.push_back(self.project(&batch)?),
            Rows::Some(_, mask) if self.reading.output.fields().is_empty() => {
                let options = RecordBatchOptions::new().with_row_count(Some(mask.true_count()));
                let output = Arc::clone(&self.reading.output);
                self.ready
                    .push_back(RecordBatch::try_new_with_options(output, Vec::new(), &options)?);
            }
            Rows::Some(batch, mask) => {
                let batch = self.project(&batch)?;
                self.gathered.push_batch_with_filter(batch, &mask)?;
                while let Some(batch) = self.gathered.next_completed_batch() {
                    self.ready.push_back(batch);
                }
            }
        }
        Ok(())
    }

    fn project(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let columns = self
            .reading
            .projection
            .iter()
            .map(|given| given.evaluate(batch)?.into_array(rows))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let output = Arc::clone(&self.reading.output);
        Ok(RecordBatch::try_new_with_options(output, columns, &options)?)
    }
}

/// A stride in slices of about `rows` rows, none of them a small rest.
fn slices(stride: &RecordBatch, rows: usize) -> impl Iterator<Item = RecordBatch> {
    let total = stride.num_rows();
    let each = if total <= rows + rows / LEEWAY {
        total.max(1)
    } else {
        total
            .div_ceil(total.div_ceil(rows.max(1)))
            .next_multiple_of(SLICE_ALIGN_ROWS)
    };
    (0..total).step_by(each).map(move |from| {
        if each >= total {
            stride.clone()
        } else {
            stride.slice(from, each.min(total - from))
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn slices_are_of_like_length() {
        let of = |total: usize, rows: usize| {
            let values: Vec<i64> = vec![0; total];
            let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap();
            slices(&batch, rows).map(|slice| slice.num_rows()).collect::<Vec<_>>()
        };
        assert_eq!(of(100, 8192), [100]);
        assert_eq!(of(12_000, 8192), [12_000]);
        assert_eq!(of(14_000, 8192), [7_040, 6_960]);
        assert_eq!(of(131_072, 8192), [8192; 16]);
    }
}
