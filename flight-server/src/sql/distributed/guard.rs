//! A panic in a task is an error of its query, and its end the task's.
//!
//! The streams of a task are each pulled by a thread of their own that says nothing when it dies, so that whoever reads
//! them would take the rows that came before for all of them. So what a task runs is watched here, below its exchange,
//! which has watchers itself.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, replace_children_if_necessary,
};
use datafusion_distributed::{BroadcastExec, NetworkBoundaryExt};
use futures::FutureExt;
use futures::stream::{self, StreamExt};

use crate::error::ServiceError;
use crate::sql::errors::carried;
use crate::sql::stop::Stop;

/// A task's plan, watched.
///
/// # Errors
/// None that making the plan did not give.
pub(super) fn watched(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let is_exchange = plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>();
    let below = plan.children().first().map(|below| Arc::clone(below));
    match below.filter(|_| is_exchange) {
        Some(below) => replace_children_if_necessary(plan, vec![StandIn::of(below)]),
        None => Ok(StandIn::of(plan)),
    }
}

/// The part of a plan that runs on this node, with operators that end when they are stopped. What other nodes run is left as
/// it is, since it has to be sent.
///
/// That a task was let go of is not enough to end it: an exchange within it pulls its input by a thread of its own, for as long
/// as the plan is there, which is kept until the worker's cache of tasks takes notice.
///
/// # Errors
/// None that making the plan did not give.
pub(super) fn counted(plan: Arc<dyn ExecutionPlan>, stop: &Stop) -> Result<Arc<dyn ExecutionPlan>> {
    stop.guard_here(plan, &|operator| operator.is_network_boundary())
}

/// Stands for a node: it has its children, its metrics and its name, and makes a panic an error.
#[derive(Debug)]
struct StandIn(Arc<dyn ExecutionPlan>);

impl StandIn {
    fn of(inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self(inner))
    }
}

impl DisplayAs for StandIn {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(format, f)
    }
}

impl ExecutionPlan for StandIn {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.0.children()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = replace_children_if_necessary(Arc::clone(&self.0), children)?;
        Ok(Self::of(inner))
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::of(Arc::clone(&self.0).reset_state()?))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        self.0.with_new_state(state).map(Self::of)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(without_panics(self.0.execute(partition, context)?))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.0.metrics()
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.0.statistics_from_inputs(inputs, args)
    }
}

fn without_panics(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let watched = stream::unfold(Some(rows), |rows| async {
        let mut rows = rows?;
        match AssertUnwindSafe(rows.next()).catch_unwind().await {
            Ok(next) => Some((next?, Some(rows))),
            Err(panic) => Some((Err(died(panic.as_ref())), None)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, watched))
}

fn died(panic: &(dyn Any + Send)) -> DataFusionError {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    carried(ServiceError::Internal {
        what: format!("a task of the query panicked: {}", words.unwrap_or("it says no more")),
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_expr::EquivalenceProperties;
    use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
    use datafusion::physical_plan::{Partitioning, collect};

    use super::*;

    /// Panics when its first row is asked for.
    #[derive(Debug)]
    struct Panics(Arc<PlanProperties>);

    impl DisplayAs for Panics {
        fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Panics")
        }
    }

    impl ExecutionPlan for Panics {
        fn name(&self) -> &'static str {
            "Panics"
        }

        fn properties(&self) -> &Arc<PlanProperties> {
            &self.0
        }

        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            Vec::new()
        }

        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
        ) -> Result<TreeNodeRecursion> {
            Ok(TreeNodeRecursion::Continue)
        }

        fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
            Ok(self)
        }

        fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
            let rows = stream::once(async { panic!("an index is out of bounds") });
            Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
        }
    }

    fn panics() -> Arc<dyn ExecutionPlan> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(Schema::empty())),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(Panics(Arc::new(properties)))
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_never_an_end() {
        for plan in [
            watched(panics()).unwrap(),
            watched(Arc::new(BroadcastExec::new(panics(), 2))).unwrap(),
        ] {
            let error = collect(plan, Arc::default()).await.unwrap_err().to_string();
            assert!(error.contains("an index is out of bounds"), "{error}");
        }
    }

    #[test]
    fn an_exchange_stays_at_the_head() {
        let plan = watched(Arc::new(BroadcastExec::new(panics(), 2))).unwrap();
        assert!(plan.is::<BroadcastExec>());
        assert_eq!(plan.children()[0].name(), "Panics");
        assert!(plan.children()[0].is::<StandIn>());
    }
}
