//! Queries of several nodes: plans cut into stages by datafusion-distributed, each scan task sent to the node that owns
//! its data.
//!
//! ```text
//! plan --place--> here | whole on one worker | spread --tasks--> workers --batches--> workers, this node
//!                           '--- crew: workers that serve now, run this build and were not lost to this query
//! ```
//! | module | part |
//! |---|---|
//! | [`crew`] | the workers of one query, and where they are |
//! | [`builds`] | which nodes understand the plans of this one |
//! | `place` | whether a plan stays here, goes to one worker or is spread |
//! | [`tasks`] | which piece of a scan goes to which task, and which task to which worker |
//! | [`codec`] | a scan on the wire: sealed tickets and a predicate |
//! | [`channels`] | connections to workers: kept, metered, with the cluster's pass |
//! | [`door`] | the service that runs tasks for other nodes, for nodes of the cluster alone |
//! | `session` | what a task runs with on a worker, and what it may not do |
//! | `queries` | the queries that have tasks here: their budgets, their ends |
//! | `guard` | a panic in a task is an error of its query, and its end the task's |
//! | [`lost`] | how an error says that a worker was lost |
//! | `retry` | a query begins anew while none of its rows went out |
//! | `explain` | a plan in words: where each scan task runs, and what of it is cached there |
//!
//! # Small plans
//! A plan that decodes less than [`MIN_SPREAD_BYTES`] runs on one node: the owner of most of it. Exchanging its rows
//! would take longer than reading them.
//!
//! # Losses
//! A query that loses a worker before its first row went out begins anew without that worker; a scan then reads from
//! replicas, or through another node. Later on it ends with UNAVAILABLE. An answer that breaks off is never taken for
//! whole: the end of every stream between nodes must say that it is one.
//!
//! Architecture invariant: what goes over the wire of a scan is sealed tickets, so a plan cannot name data that no node
//! of the cluster gave out.

pub mod builds;
pub mod channels;
pub mod codec;
pub mod crew;
pub mod door;
mod events;
mod explain;
mod guard;
pub mod lost;
mod place;
mod queries;
mod retry;
mod session;
pub mod tasks;

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::common::Result as PlanResult;
use datafusion::common::display::{PlanType, StringifiedPlan};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Explain, ExplainFormat, LogicalPlan};
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::Worker;
use futures::StreamExt;
use jetbridge_catalog::path::NsPath;

use self::builds::Builds;
use self::channels::Channels;
use self::crew::Crew;
use self::door::WorkerDoor;
use self::place::{Placed, Placing};
use self::queries::{Entered, Lasts, Queries};
use self::retry::{Begin, Failed, Retried};
use self::session::TaskSessions;
use super::errors::of_datafusion;
use super::stop::Stop;
use super::{Planned, Spread};
use crate::cluster::Cluster;
use crate::error::ServiceError;
use crate::node::Node;

/// A plan that decodes less than this runs on one node, where `sql_spread_bytes` says nothing else. Rows of that size
/// are read from memory in some tens of milliseconds, which is what a stage's calls and a second reading of its rows
/// cost.
pub const MIN_SPREAD_BYTES: u64 = 16 << 20;

/// Partitions of a plan that may be spread, at least, on a machine of one core as well: one over a single partition needs no
/// exchange to have all rows in one place, and so cannot be cut.
const LEAST_PARTITIONS: usize = 2;

/// What a node needs to run queries with others, and for them.
pub struct Distribution {
    channels: Channels,
    builds: Builds,
    queries: Queries,
    worker: OnceLock<Worker>,
    min_spread_bytes: u64,
}

impl Distribution {
    /// A node's part in the queries of its cluster. Plans that decode less than `min_spread_bytes` run on one node.
    #[must_use]
    pub fn new(cluster: &Cluster, min_spread_bytes: u64) -> Self {
        Self {
            channels: Channels::new(cluster.pass.clone(), cluster.directory()),
            builds: Builds::default(),
            queries: Queries::default(),
            worker: OnceLock::new(),
            min_spread_bytes,
        }
    }

    /// The service that runs tasks of other nodes' queries.
    #[must_use]
    pub fn door(&self, node: &Arc<Node>) -> WorkerDoor {
        let threads = node.sql.handle().clone();
        WorkerDoor::new(
            self.worker(node).clone(),
            node.cluster.pass.clone(),
            threads,
            self.queries.clone(),
        )
    }

    /// A plan as it is to run on the cluster `without` some workers; none where it stays as it is. The crew is that of
    /// the plan.
    async fn place(
        &self,
        node: &Arc<Node>,
        state: &SessionState,
        plan: &Arc<dyn ExecutionPlan>,
        without: &[String],
    ) -> PlanResult<(Option<Placed>, Arc<Crew>)> {
        let view = node.cluster.view();
        let crew = self
            .builds
            .crew(&view, node.cluster.id(), without, &self.channels)
            .await;
        let crew = Arc::new(crew);
        let placing = Placing {
            node,
            distribution: self,
            crew: Arc::clone(&crew),
            state,
            min_spread_bytes: self.min_spread_bytes,
        };
        Ok((placing.place(plan).await?, crew))
    }

    /// EXPLAIN with its plan as it would run: stages, tasks, their workers, and what is cached there.
    async fn explain(&self, node: &Arc<Node>, planned: Planned, explain: &Explain) -> PlanResult<Planned> {
        let Some(explained) = planned.plan.downcast_ref::<ExplainExec>() else {
            return Ok(planned);
        };
        let state = planned.context.state();
        let plan = state.create_physical_plan(&explain.plan).await?;
        let (placed, crew) = self.place(node, &state, &plan, &[]).await?;
        let plan = placed.map_or(plan, |placed| placed.plan);
        let lines = explain::lines(node, &crew, &plan).await?;
        let mut plans = explained.stringified_plans().to_vec();
        for shown in &mut plans {
            if shown.plan_type == PlanType::FinalPhysicalPlan {
                *shown = StringifiedPlan::new(PlanType::FinalPhysicalPlan, lines.clone());
            }
        }
        let explained = ExplainExec::new(explained.schema(), plans, explained.verbose());
        Ok(Planned {
            plan: Arc::new(explained),
            ..planned
        })
    }

    fn worker(&self, node: &Arc<Node>) -> &Worker {
        self.worker.get_or_init(|| {
            let sessions = TaskSessions::new(node, self.channels.clone(), self.queries.clone());
            Worker::from_session_builder(sessions).with_version(builds::own())
        })
    }
}

/// Has plans made in such a way that they can be cut into stages, where there is somebody to run them.
pub(super) fn prepare(config: &mut SessionConfig, node: &Node) {
    let view = node.cluster.view();
    let has_others = view.members.keys().any(|id| id.as_str() != node.cluster.id());
    if has_others {
        let options = config.options_mut();
        // What such a subquery gives is kept in the process that ran it.
        options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        options.execution.target_partitions = options.execution.target_partitions.max(LEAST_PARTITIONS);
    }
}

#[async_trait]
impl Spread for Distribution {
    async fn spread(&self, node: &Arc<Node>, planned: Planned) -> Result<Planned, ServiceError> {
        let spread = match &planned.statement {
            LogicalPlan::Explain(explain) if explain.explain_format == ExplainFormat::Indent => {
                let explain = explain.clone();
                self.explain(node, planned, &explain).await
            }
            _ => self.survivor(node, planned).await,
        };
        spread.map_err(|error| of_datafusion(&error))
    }
}

impl Distribution {
    /// A plan that begins anew, without the lost, as long as none of its rows went out.
    async fn survivor(&self, node: &Arc<Node>, planned: Planned) -> PlanResult<Planned> {
        let state = planned.context.state();
        let (Some(placed), _) = self.place(node, &state, &planned.plan, &[]).await? else {
            return Ok(planned);
        };
        let failed = looked_at_anew(node, place::datasets(&planned.plan)?);
        let (first, statement) = (Arc::clone(&placed.plan), planned.statement.clone());
        let (node, again) = (Arc::clone(node), parking_lot::Mutex::new(Some(placed)));
        let begin: Begin = Arc::new(move |without| {
            let placed = again.lock().take().filter(|_| without.is_empty());
            let (node, state, statement) = (Arc::clone(&node), state.clone(), statement.clone());
            Box::pin(async move {
                let entered = node.distribution.queries.enter(state.session_id(), Lasts::Query);
                let stop = entered.as_ref().map(|entered| entered.with_budget(state.runtime_env()));
                let stop = stop.unwrap_or_default();
                let rows = match placed {
                    Some(placed) => placed.begin(&stop)?,
                    None => begun(&node, &state, &statement, (&without, &stop)).await?,
                };
                Ok(until_gone(rows, entered))
            })
        });
        Ok(Planned {
            plan: Arc::new(Retried::new(first, begin, failed)),
            ..planned
        })
    }
}

/// Looks at datasets anew once a node found that their data changed.
fn looked_at_anew(node: &Arc<Node>, datasets: Vec<NsPath>) -> Failed {
    let node = Arc::clone(node);
    Arc::new(move |error| {
        if of_datafusion(error).is_stale() {
            datasets.iter().for_each(|path| node.datasets.refresh(path));
        }
    })
}

/// Plans a statement anew, and begins to run it without some workers.
async fn begun(
    node: &Arc<Node>,
    state: &SessionState,
    statement: &LogicalPlan,
    (without, stop): (&[String], &Stop),
) -> PlanResult<SendableRecordBatchStream> {
    let plan = state.create_physical_plan(statement).await?;
    let (placed, _) = node.distribution.place(node, state, &plan, without).await?;
    match placed {
        Some(placed) => placed.begin(stop),
        None => execute_stream(stop.guard(plan)?, state.task_ctx()),
    }
}

/// Rows of a query that has entered for as long as somebody takes them.
fn until_gone(rows: SendableRecordBatchStream, entered: Option<Entered>) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let rows = rows.inspect(move |_| {
        let _still_there = &entered;
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distribution")
            .field("channels", &self.channels)
            .field("builds", &self.builds)
            .field("min_spread_bytes", &self.min_spread_bytes)
            .finish_non_exhaustive()
    }
}
