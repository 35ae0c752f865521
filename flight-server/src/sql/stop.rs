//! The end of a query whose operator does not come up for air.
//!
//! A query ends where an operator gives its thread back. DataFusion has leaves counted, so that they pause after so many batches,
//! but a join makes thousands of batches of one that it took, and where a filter above drops them all, nobody pauses for
//! hours: so what joins give is counted too. Where nothing passes the condition of a join, it gives nothing at all: a nested loop
//! join goes through all pairs of rows in one go, a hash join through all those that a batch has with the rows of its key. So
//! the condition of a join is wrapped in one that looks at a flag first, and fails once the answer was let go of.
//!
//! What a join takes and gives looks at the flag as well. It may run on a thread that nobody waits for, as below an exchange,
//! which goes on until its plan is gone.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
    replace_children_if_necessary,
};
use futures::StreamExt;

/// Whether anybody still wants the answer. Clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

/// Stops the query when it is dropped.
#[derive(Debug)]
pub(super) struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Stop {
    /// What is to be dropped for the query to end.
    pub(super) fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }

    /// The plan, with operators that end when they are stopped.
    ///
    /// # Errors
    /// None of a plan that was sound.
    pub(super) fn guard(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.guard_here(plan, &|_| false)
    }

    /// The same of a plan of which parts run elsewhere, which are left as they are.
    ///
    /// # Errors
    /// None of a plan that was sound.
    pub(super) fn guard_here(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        is_elsewhere: &dyn Fn(&dyn ExecutionPlan) -> bool,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if is_elsewhere(plan.as_ref()) {
            return Ok(plan);
        }
        let is_join = plan.children().len() > 1;
        let children = plan.children().into_iter().map(|child| {
            let child = self.guard_here(Arc::clone(child), is_elsewhere)?;
            let as_it_is = !is_join || is_elsewhere(child.as_ref()) || child.is::<Paced>();
            Ok(if as_it_is { child } else { Paced::of(child, self) })
        });
        let children = children.collect::<Result<Vec<_>>>()?;
        let plan = replace_children_if_necessary(plan, children)?;
        Ok(if is_join {
            Paced::of(self.stoppable(plan)?, self)
        } else {
            plan
        })
    }

    /// Whether it is over.
    pub(super) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The end of whatever asks once it is over.
    ///
    /// # Errors
    /// Where it is over.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_stopped() {
            return Err(DataFusionError::Execution(
                "nobody wants the answer any more".to_owned(),
            ));
        }
        Ok(())
    }

    /// An operator whose condition fails when it is stopped.
    fn stoppable(&self, operator: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(join) = operator.downcast_ref::<NestedLoopJoinExec>() {
            let condition = join.filter().map(|of| self.filter(of));
            let join = NestedLoopJoinExecBuilder::from(join).with_filter(condition);
            return Ok(Arc::new(join.build()?));
        }
        match operator.downcast_ref::<HashJoinExec>() {
            Some(join) if join.filter().is_some() => {
                let condition = join.filter().map(|of| self.filter(of));
                let join = HashJoinExecBuilder::from(join).with_filter(condition);
                Ok(Arc::new(join.build()?))
            }
            _ => Ok(operator),
        }
    }

    fn filter(&self, of: &JoinFilter) -> JoinFilter {
        let condition = Stoppable {
            inner: Arc::clone(of.expression()),
            stop: self.clone(),
        };
        JoinFilter::new(
            Arc::new(condition),
            of.column_indices().to_vec(),
            Arc::clone(of.schema()),
        )
    }
}

/// Stands for an operator: it has its children, its metrics and its name. It gives its thread back now and then, and ends
/// with an error once its query was stopped. A recursive query resets its operators between iterations and hands them its
/// table, so both reach the operator it stands for.
#[derive(Debug)]
struct Paced {
    inner: Arc<dyn ExecutionPlan>,
    stop: Stop,
}

impl Paced {
    fn of(inner: Arc<dyn ExecutionPlan>, stop: &Stop) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self {
            inner,
            stop: stop.clone(),
        })
    }
}

impl DisplayAs for Paced {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for Paced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = replace_children_if_necessary(Arc::clone(&self.inner), children)?;
        Ok(Self::of(inner, &self.stop))
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::of(Arc::clone(&self.inner).reset_state()?, &self.stop))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        let inner = self.inner.with_new_state(state)?;
        Some(Self::of(inner, &self.stop))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.inner.execute(partition, context)?;
        let (schema, stop) = (rows.schema(), self.stop.clone());
        let rows = rows.map(move |batch| stop.check().and(batch));
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.inner.statistics_from_inputs(inputs, args)
    }
}

/// A condition that fails once its query was stopped.
#[derive(Debug)]
struct Stoppable {
    inner: Arc<dyn PhysicalExpr>,
    stop: Stop,
}

impl PartialEq for Stoppable {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner) && Arc::ptr_eq(&self.stop.0, &other.stop.0)
    }
}

impl Eq for Stoppable {}

impl Hash for Stoppable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Stoppable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl PhysicalExpr for Stoppable {
    fn data_type(&self, input_schema: &Schema) -> Result<DataType> {
        self.inner.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        self.inner.nullable(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.stop.check()?;
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [inner] = <[_; 1]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("a condition has one expression".to_owned()))?;
        Ok(Arc::new(Self {
            inner,
            stop: self.stop.clone(),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::compute::concat_batches;
    use datafusion::physical_plan::{collect, displayable, execute_stream};
    use datafusion::prelude::{SessionConfig, SessionContext};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// More pairs than any machine goes through, of which nothing passes the condition of a join.
    const JOINED: &str = "select count(*) from generate_series(1, 2000000) a(x), generate_series(1, 2000000) b(y) \
                          where x + y < 0";
    /// The same, where nothing passes a filter above joins that give all pairs.
    const FILTERED: &str = "select count(*) from (select x, y, random() as z from generate_series(1, 2000000) a(x), \
                            generate_series(1, 2000000) b(y)) where z < 0";

    /// More pairs of one key than any machine goes through, of which nothing passes the condition of the join.
    const KEYED: &str = "select count(*) from generate_series(1, 2000000) a(x) join generate_series(1, 2000000) b(y) \
                         on x % 2 = y % 2 where x + y < 0";
    /// The same, which all pass.
    const GIVING: &str = "select x + y as s from generate_series(1, 2000000) a(x) join generate_series(1, 2000000) b(y) \
                          on x % 2 = y % 2";

    async fn ends_when_stopped(sql: &str, operator: &str) {
        let context = SessionContext::new();
        let planned = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let shown = displayable(planned.as_ref()).indent(false).to_string();
        assert!(shown.contains(operator), "{shown}");
        let stop = Stop::default();
        let running = AbortOnDropHandle::new(tokio::spawn(collect(stop.guard(planned).unwrap(), context.task_ctx())));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!running.is_finished());
        drop(stop.on_drop());
        running.abort();
        let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
        let ended = ended.expect("it goes on");
        assert!(
            ended.is_err() || ended.is_ok_and(|rows| rows.is_err()),
            "it has no rows to give"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_join_that_gives_nothing_ends_when_it_is_stopped() {
        ends_when_stopped(JOINED, "NestedLoopJoin").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_join_by_key_whose_pairs_all_fail_ends_when_it_is_stopped() {
        ends_when_stopped(KEYED, "HashJoin").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_join_that_nobody_lets_go_of_gives_nothing_more_once_it_is_stopped() {
        let (context, stop) = (SessionContext::new(), Stop::default());
        let planned = context.sql(GIVING).await.unwrap().create_physical_plan().await.unwrap();
        let mut rows = execute_stream(stop.guard(planned).unwrap(), context.task_ctx()).unwrap();
        assert!(rows.next().await.unwrap().unwrap().num_rows() > 0);
        drop(stop.on_drop());
        let ended = async {
            loop {
                if let Err(error) = rows.next().await.expect("it ended as if that were all") {
                    return error.to_string();
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), ended).await;
        assert!(error.expect("it goes on").contains("nobody wants"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_filter_that_drops_all_that_a_join_gives_ends_when_it_is_stopped() {
        ends_when_stopped(FILTERED, "CrossJoin").await;
    }
    /// What a recursive query gives of these terms after the first, whose join is such an operator.
    async fn recursive(terms: &str, operator: &str, partitions: usize, guard: Option<&Stop>) -> RecordBatch {
        let sql = format!("with recursive r as (select 1 as n {terms}) select n from r order by n");
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
        let planned = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        let shown = displayable(planned.as_ref()).indent(false).to_string();
        assert!(shown.contains(operator), "{shown}");
        let planned = match guard {
            Some(stop) => stop.guard(planned).unwrap(),
            None => planned,
        };
        let rows = collect(planned, context.task_ctx()).await.unwrap();
        concat_batches(&rows[0].schema(), &rows).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_recursive_query_joins_anew_in_each_iteration() {
        let joins = [
            (
                "select e.y as n from r join (select x, x + 1 as y from generate_series(1, 20) g(x)) e on r.n = e.x",
                "HashJoin",
            ),
            (
                "select r.n + 1 as n from r join generate_series(1, 4) e(x) on r.n < e.x",
                "NestedLoopJoin",
            ),
        ];
        for (join, operator) in joins {
            for union in ["union all", "union"] {
                for partitions in [1, 4] {
                    let terms = format!("{union} {join}");
                    let stop = Stop::default();
                    let guarded = recursive(&terms, operator, partitions, Some(&stop)).await;
                    let plain = recursive(&terms, operator, partitions, None).await;
                    assert!(plain.num_rows() > 3, "{terms}: {plain:?}");
                    assert_eq!(guarded, plain, "{terms}, {partitions} partitions");
                }
            }
        }
    }
}
