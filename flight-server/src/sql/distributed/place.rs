//! Whether a plan stays here, goes to one worker or is spread.
//!
//! ```text
//! nothing read, nobody to send to, a node in it that cannot be sent -> here
//! small, or one worker -> on the worker that owns most of it, which may be this node
//! else -> spread; and what reads at the head of it goes to its owner, too
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, execute_stream, replace_children_if_necessary,
};
use datafusion_distributed::{
    DistributedExec, DistributedExt, DistributedLeafExec, NetworkBoundary, NetworkBoundaryExt, NetworkCoalesceExec,
    SessionStateBuilderExt, Stage,
};
use jetbridge_catalog::path::NsPath;
use uuid::Uuid;

use super::crew::{Crew, CrewResolver};
use super::guard::counted;
use super::tasks::{self, Load};
use super::{Distribution, events};
use crate::node::Node;
use crate::sql::scan::DatasetScanExec;
use crate::sql::stop::Stop;

/// Where a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On this node.
    Here,
    /// Whole on the worker at this position of the crew.
    On(usize),
    /// On all that own some of what it reads.
    Spread,
}

/// Where a plan that reads these pieces runs. One that decodes less than `min_spread_bytes` is not spread.
pub(super) fn decide(crew: &Crew, pieces: &[Load<'_>], min_spread_bytes: u64) -> Place {
    let bytes = pieces.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if pieces.is_empty() || crew.is_empty() {
        return Place::Here;
    }
    if crew.len() > 1 && bytes >= min_spread_bytes {
        return Place::Spread;
    }
    let best = tasks::most(crew, pieces).or(crew.own()).unwrap_or(0);
    if crew.own() == Some(best) {
        Place::Here
    } else {
        Place::On(best)
    }
}

/// A plan and the session that it runs with.
pub(super) struct Placed {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) state: SessionState,
}

impl Placed {
    /// Begins to run it, until it is stopped.
    pub(super) fn begin(self, stop: &Stop) -> Result<SendableRecordBatchStream> {
        execute_stream(counted(self.plan, stop)?, self.state.task_ctx())
    }
}

/// What is placed: one query's plan and its surroundings.
pub(super) struct Placing<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) distribution: &'a Distribution,
    pub(super) crew: Arc<Crew>,
    pub(super) state: &'a SessionState,
    pub(super) min_spread_bytes: u64,
}

impl Placing<'_> {
    /// The plan as it is to run; none where it stays as it is.
    pub(super) async fn place(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Placed>> {
        if let Some(analyze) = plan.downcast_ref::<AnalyzeExec>() {
            let Some(input) = self.placed(analyze.input()).await? else {
                return Ok(None);
            };
            let whole = replace_children_if_necessary(Arc::clone(plan), vec![input])?;
            let state = self.session(whole)?;
            let plan = planned(&state).await?;
            return Ok(Some(Placed { plan, state }));
        }
        let placed = self.placed(plan).await?;
        placed
            .map(|plan| {
                let state = self.session(Arc::clone(&plan))?;
                Ok(Placed { plan, state })
            })
            .transpose()
    }

    async fn placed(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let pieces = owned_pieces(plan)?;
        let loads: Vec<Load<'_>> = pieces.iter().map(|(owners, bytes)| (&owners[..], *bytes)).collect();
        if !travels(plan)? {
            return Ok(None);
        }
        match decide(&self.crew, &loads, self.min_spread_bytes) {
            Place::Here => Ok(None),
            Place::On(_) => Ok(Some(remote(Arc::clone(plan))?)),
            Place::Spread => self.spread(plan).await,
        }
    }

    async fn spread(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let spread = planned(&self.session(Arc::clone(plan))?).await?;
        let Some(distributed) = spread.downcast_ref::<DistributedExec>() else {
            // One task each was enough for all of its stages.
            let here = self.reads_elsewhere(&head_pieces(plan)?).is_none();
            return if here {
                Ok(None)
            } else {
                remote(Arc::clone(plan)).map(Some)
            };
        };
        let head = match distributed.children().first() {
            Some(head) => Arc::clone(head),
            None => return internal_err!("a distributed plan has no head"),
        };
        if self.reads_elsewhere(&head_pieces(&head)?).is_some() {
            return remote(head).map(Some);
        }
        Ok(Some(spread))
    }

    /// The worker that owns most of these pieces, if that is not this node.
    fn reads_elsewhere(&self, pieces: &[(Arc<[String]>, u64)]) -> Option<usize> {
        if pieces.is_empty() {
            return None;
        }
        let loads: Vec<Load<'_>> = pieces.iter().map(|(owners, bytes)| (&owners[..], *bytes)).collect();
        let best = tasks::most(&self.crew, &loads).or(self.crew.own()).unwrap_or(0);
        (self.crew.own() != Some(best)).then_some(best)
    }

    /// A session in which planning gives `plan`, spread, and in which it can run.
    fn session(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SessionState> {
        let distribution = self.distribution;
        let mut builder = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_query_planner(Arc::new(Given(plan)))
            .with_distributed_worker_resolver(CrewResolver(Arc::clone(&self.crew)))
            .with_distributed_channel_resolver(distribution.channels.clone())
            .with_distributed_user_codec(super::codec::ScanCodec::new(Arc::clone(self.node)))
            .with_distributed_desired_task_count_handler(events::Wanted(Arc::clone(&self.crew)))
            .with_distributed_scale_up_leaf_node_handler(events::Share(Arc::clone(&self.crew)))
            .with_distributed_route_tasks_handler(events::Route(Arc::clone(&self.crew)))
            // A union's parts run where their data is, each on several workers, rather than each on one.
            .with_distributed_children_isolator_unions(false)?
            .with_distributed_passthrough_headers(super::session::headers(self.state))?
            .with_distributed_planner();
        if let Some(own) = self.crew.own().and_then(|own| self.crew.workers().get(own)) {
            let local = distribution.worker(self.node).to_local_worker_context(own.url.clone());
            builder = builder.with_distributed_local_worker_context(local);
        }
        Ok(builder.build())
    }
}

/// What a session's planner gives; it was told what.
async fn planned(state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    let nothing = LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::new(datafusion::common::DFSchema::empty()),
    });
    state.query_planner().create_physical_plan(&nothing, state).await
}

/// A planner that has its plan already. The one that cuts plans into stages only takes them from another.
#[derive(Debug)]
struct Given(Arc<dyn ExecutionPlan>);

#[async_trait]
impl datafusion::execution::context::QueryPlanner for Given {
    async fn create_physical_plan(&self, _: &LogicalPlan, _: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.0))
    }
}

/// A plan that runs `plan` in one task of a worker. The planner of stages would take the boundary for useless.
fn remote(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let stages = stages_of(&plan)?;
    let plan = unshared(plan)?;
    let plan = if plan.output_partitioning().partition_count() > 1 {
        Arc::new(CoalescePartitionsExec::new(plan))
    } else {
        plan
    };
    let boundary = NetworkCoalesceExec::try_new(plan, 1, 1)?;
    let Stage::Local(mut stage) = boundary.input_stage().clone() else {
        return internal_err!("a stage that was just made is elsewhere");
    };
    stage.query_id = Uuid::new_v4();
    stage.num = stages + 1;
    let boundary: Arc<dyn ExecutionPlan> = boundary.with_input_stage(Stage::Local(stage))?;
    // A stage is only shown below a node of another.
    let head = Arc::new(CoalescePartitionsExec::new(boundary));
    Ok(Arc::new(DistributedExec::new(head).with_metrics_collection(true)))
}

/// A plan whose stage at the head reads all of its scans in one task. Of a scan that was shared among tasks, that task would
/// get the first one's part alone.
fn unshared(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let unshared = plan.transform_down(|node| {
        if node.is_network_boundary() {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        let original = node
            .downcast_ref::<DistributedLeafExec>()
            .map(|leaf| Arc::clone(leaf.original()));
        Ok(match original {
            Some(original) => Transformed::yes(original),
            None => Transformed::no(node),
        })
    })?;
    Ok(unshared.data)
}

/// The greatest number of a stage in a plan; 0 without any.
fn stages_of(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut most = 0;
    plan.apply(|node| {
        if let Some(boundary) = node.as_network_boundary() {
            most = most.max(boundary.input_stage().num());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(most)
}

/// Whether all of a plan can be sent to another node: it reads datasets, or nothing.
fn travels(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let bound_to_here = plan.exists(|node| {
        // What a subquery gives is written into the expressions of this very process.
        let is_subquery = node.name() == "ScalarSubqueryExec";
        Ok(is_subquery || (node.children().is_empty() && !is_known_leaf(node.as_ref())))
    })?;
    Ok(!bound_to_here)
}

/// Whether a leaf reads nothing but datasets and what the query itself says.
pub(super) fn is_known_leaf(node: &dyn ExecutionPlan) -> bool {
    let from_query = |source: &DataSourceExec| source.data_source().downcast_ref::<MemorySourceConfig>().is_some();
    node.is::<DatasetScanExec>()
        || node.is::<EmptyExec>()
        || node.is::<PlaceholderRowExec>()
        || node.downcast_ref::<DataSourceExec>().is_some_and(from_query)
}

/// The datasets that a plan reads.
pub(super) fn datasets(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<NsPath>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        let scan = node.downcast_ref::<DatasetScanExec>();
        found.extend(scan.map(|scan| scan.shape().dataset.clone()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The pieces of all scans of a plan: owners and bytes.
fn owned_pieces(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<(Arc<[String]>, u64)>> {
    pieces_until(plan, false)
}

/// The same of the stage at the head of a plan.
pub(super) fn head_pieces(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<(Arc<[String]>, u64)>> {
    pieces_until(plan, true)
}

fn pieces_until(plan: &Arc<dyn ExecutionPlan>, boundary: bool) -> Result<Vec<(Arc<[String]>, u64)>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        if boundary && node.is_network_boundary() {
            return Ok(TreeNodeRecursion::Jump);
        }
        let original = node
            .downcast_ref::<DistributedLeafExec>()
            .map(DistributedLeafExec::original);
        let scan = original.unwrap_or(node).downcast_ref::<DatasetScanExec>();
        if let Some(scan) = scan {
            let pieces = scan.partitions().iter().flat_map(|partition| &partition.pieces);
            found.extend(pieces.map(|piece| (Arc::clone(&piece.owners), piece.bytes)));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Schema;

    use super::super::crew::tests::crew;
    use super::*;
    use crate::sql::catalog::Names;
    use crate::sql::scan::ScanPartition;
    use crate::sql::session::{self, Bounds};
    use crate::sql::tests::{Lake, table};
    use crate::sql::{SessionOptions, star, text};

    fn owners(id: &str) -> Vec<String> {
        vec![id.to_owned()]
    }

    /// The plan of a statement whose scans have one partition each, of which three workers own some.
    async fn over_one_partition(lake: &Lake, sql: &str) -> (SessionState, Arc<dyn ExecutionPlan>) {
        let (options, statement) = (SessionOptions::default(), text::statement(sql).unwrap());
        let bounds = Bounds {
            options: &options,
            runtime: lake.node.sql.runtime(),
            partitions: 1,
            memory_bytes: 1 << 30,
        };
        let state = session::open(&lake.node, &Names::default(), &statement, bounds)
            .await
            .unwrap();
        let logical = star::plan(&state, statement).await.unwrap();
        let plan = state.create_physical_plan(&logical).await.unwrap();
        let owned = plan.transform_up(|node| {
            let Some(scan) = node.downcast_ref::<DatasetScanExec>() else {
                return Ok(Transformed::no(node));
            };
            assert_eq!(scan.partitions().len(), 1);
            let pieces = ["a", "b", "c"].map(|id| {
                let mut piece = scan.partitions()[0].pieces[0].clone();
                piece.owners = owners(id).into();
                piece
            });
            let scan = scan.with_partitions(vec![ScanPartition {
                pieces: pieces.to_vec(),
            }])?;
            Ok(Transformed::yes(Arc::new(scan) as Arc<dyn ExecutionPlan>))
        });
        (state, owned.unwrap().data)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plan_that_counts_on_one_partition_is_not_cut() {
        let rows = table(vec![("n", Arc::new(Int64Array::from_iter_values(0..100)) as _)]);
        let lake = Lake::of(&[("t/0.parquet", rows)]).await;
        for sql in [
            "SELECT count(*) FROM lake.t a JOIN lake.t b ON a.n = b.n",
            "SELECT a.n, s.c FROM lake.t a JOIN (SELECT n % 3 AS g, count(*) AS c FROM lake.t GROUP BY 1) s ON a.n = s.g",
            "SELECT a.n FROM lake.t a JOIN (SELECT n FROM lake.t ORDER BY n DESC LIMIT 2) b ON a.n = b.n",
            "SELECT max(n + 1) FROM (SELECT n FROM lake.t LIMIT 7)",
            "SELECT max(n + 1) FROM lake.t",
        ] {
            let (state, plan) = over_one_partition(&lake, sql).await;
            let placing = Placing {
                node: &lake.node,
                distribution: &lake.node.distribution,
                crew: Arc::new(crew(&["a", "b", "c"])),
                state: &state,
                min_spread_bytes: 0,
            };
            let placed = placing.place(&plan).await.unwrap().expect("it stays here");
            let mut tasks = Vec::new();
            let walked = placed.plan.apply(|node| {
                let boundary = node.as_network_boundary();
                tasks.extend(boundary.map(|boundary| boundary.input_stage().task_count()));
                Ok(TreeNodeRecursion::Continue)
            });
            walked.unwrap();
            assert_eq!(tasks, [1], "{sql}");
        }
    }

    #[test]
    fn what_goes_to_one_worker_has_its_scans_whole() {
        let empty = || -> Arc<dyn ExecutionPlan> { Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) };
        let original = empty();
        let shared = DistributedLeafExec::try_new(Arc::clone(&original), [empty(), empty()]).unwrap();
        let sent = remote(Arc::new(shared)).unwrap();
        assert!(!sent.exists(|node| Ok(node.is::<DistributedLeafExec>())).unwrap());
        assert!(sent.exists(|node| Ok(Arc::ptr_eq(node, &original))).unwrap());
    }

    #[test]
    fn a_small_plan_runs_where_most_of_its_data_is() {
        let (a, b) = (owners("a"), owners("b"));
        let pieces: Vec<Load<'_>> = vec![(&a, 10), (&b, 20), (&a, 9)];
        let three = crew(&["a", "b", "c"]);
        assert_eq!(decide(&three, &pieces, 40), Place::On(1));
        assert_eq!(decide(&three, &pieces, 39), Place::Spread);
        assert_eq!(decide(&three, &[], 0), Place::Here, "nothing is read");
        assert_eq!(decide(&crew(&[]), &pieces, 0), Place::Here, "nobody is there");
    }

    #[test]
    fn with_one_worker_nothing_is_spread_and_without_a_cache_nothing_read_here() {
        let a = owners("a");
        let pieces: Vec<Load<'_>> = vec![(&a, 1 << 40)];
        let one = crew(&["a"]);
        assert_eq!(decide(&one, &pieces, 0), Place::On(0));
        let here = Crew::new(one.workers().to_vec(), "a");
        assert_eq!(decide(&here, &pieces, 0), Place::Here);
        let gone = owners("gone");
        assert_eq!(decide(&one, &[(&gone, 1)], 0), Place::On(0));
        assert_eq!(decide(&here, &[(&gone, 1)], 0), Place::Here);
    }
}
