//! A planned scan, as the other library has it: a leaf, whatever we made of it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, RecordBatchStream, SendableRecordBatchStream,
    displayable,
};
use futures::{Stream, StreamExt};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::home::{Guest, Home, closed};

/// The client's scan, or that and a filter over it.
#[derive(Debug)]
pub(super) struct Scan {
    home: Home,
    plan: Guest<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    /// What `EXPLAIN` shows.
    name: String,
}

/// The rows of one partition.
struct Rows {
    schema: SchemaRef,
    reading: Guest<Reading>,
}

struct Reading {
    rows: SendableRecordBatchStream,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Scan {
    pub(super) fn new(home: &Home, plan: Arc<dyn ExecutionPlan>) -> Self {
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        Self {
            home: home.clone(),
            properties: Arc::clone(plan.properties()),
            name: shown.lines().map(str::trim).collect::<Vec<_>>().join(" <- "),
            plan: home.keep(plan),
        }
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &str {
        &self.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.plan.with(|plan| plan.execute(partition, context))?;
        Ok(Box::pin(Rows {
            schema: rows.schema(),
            reading: self.home.keep(Reading {
                rows,
                closing: Box::pin(self.home.closing()),
            }),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.plan.get().ok()?.metrics()
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let plan = self.plan.get()?;
        StatisticsContext::new().compute(plan.as_ref(), args)
    }
}

impl Reading {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if self.closing.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(closed())));
        }
        self.rows.poll_next_unpin(context)
    }
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.reading.with_mut(|reading| reading.poll(context));
        polled.unwrap_or_else(|error| Poll::Ready(Some(Err(error))))
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
