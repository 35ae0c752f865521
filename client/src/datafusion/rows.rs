//! The rows of one partition, as DataFusion takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_plan::RecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder};
use futures::{Stream, StreamExt};

use super::carried;
use crate::reader::Reader;

/// What a reader gives, in slices of a session's batch size. Dropped, it ends the reader, and that its streams.
///
/// Its metrics, besides the usual ones: `received_bytes` over sockets, `failovers`, and `endpoints_read` with the label `place`
/// for each place that served.
pub(super) struct Rows {
    reader: Reader,
    /// What is being done, for errors.
    doing: String,
    schema: SchemaRef,
    batch_rows: usize,
    /// What is left of the last piece.
    rest: Option<RecordBatch>,
    baseline: BaselineMetrics,
    metrics: ExecutionPlanMetricsSet,
    partition: usize,
    /// Whether the reader's figures are counted already.
    is_tallied: bool,
}

impl Rows {
    pub(super) fn new(
        reader: Reader,
        doing: String,
        batch_rows: usize,
        (metrics, partition): (&ExecutionPlanMetricsSet, usize),
    ) -> Self {
        Self {
            schema: reader.schema(),
            reader,
            doing,
            batch_rows: batch_rows.max(1),
            rest: None,
            baseline: BaselineMetrics::new(metrics, partition),
            metrics: metrics.clone(),
            partition,
            is_tallied: false,
        }
    }

    fn poll_rows(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        loop {
            if let Some(rows) = self.rest.take() {
                return Poll::Ready(Some(Ok(self.slice(rows))));
            }
            let piece = match ready!(self.reader.poll_next_unpin(context)) {
                Some(Ok(piece)) => piece.batch,
                Some(Err(error)) => return Poll::Ready(Some(Err(carried(self.doing.as_str(), error)))),
                None => return Poll::Ready(None),
            };
            if piece.num_rows() > 0 {
                self.rest = Some(self.advertised(piece)?);
            }
        }
    }

    /// The first rows; the others are left for the next time.
    fn slice(&mut self, rows: RecordBatch) -> RecordBatch {
        if rows.num_rows() <= self.batch_rows {
            return rows;
        }
        self.rest = Some(rows.slice(self.batch_rows, rows.num_rows() - self.batch_rows));
        rows.slice(0, self.batch_rows)
    }

    /// The batch with the schema that was planned, to the bit.
    fn advertised(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if Arc::ptr_eq(batch.schema_ref(), &self.schema) || *batch.schema_ref() == self.schema {
            return Ok(batch);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }

    /// Counts what the reader did, at its end or where it is left.
    fn tally(&mut self) {
        if std::mem::replace(&mut self.is_tallied, true) {
            return;
        }
        let stats = self.reader.stats();
        let counts = [("received_bytes", stats.received_bytes), ("failovers", stats.failovers)];
        for (name, count) in counts {
            let metric = MetricBuilder::new(&self.metrics).counter(name, self.partition);
            metric.add(to_usize(count));
        }
        for (place, endpoints) in stats.served_by {
            let served = MetricBuilder::new(&self.metrics).with_new_label("place", place);
            served
                .counter("endpoints_read", self.partition)
                .add(to_usize(endpoints));
        }
    }
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let rows = self.poll_rows(context);
        if let Poll::Ready(None | Some(Err(_))) = &rows {
            self.tally();
        }
        self.baseline.record_poll(rows)
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.tally();
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
