//! What a task runs with on a worker, and what it may not do.
//!
//! All tasks of one query share one budget on each worker, which is that of a query on one node; they are known by the
//! query's id, which comes in a header of every call.
//!
//! A plan from the wire is read before it runs: it may read datasets, by tickets, and what the query itself says. A
//! plan that reads or writes anything else is refused, whoever sent it.

use std::str::FromStr;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion_distributed::{
    DistributedExt, NetworkBoundaryExt, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerQueryContext,
    WorkerSessionBuilder,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::channels::Channels;
use super::codec::ScanCodec;
use super::guard::{counted, watched};
use super::place::is_known_leaf;
use super::queries::Queries;
use crate::node::Node;
use crate::sql::functions;
use crate::sql::stop::Stop;

/// The header with the query's id.
const QUERY: HeaderName = HeaderName::from_static("x-jetbridge-query");
/// The header with the most rows of a batch.
const BATCH_ROWS: HeaderName = HeaderName::from_static("x-jetbridge-batch-rows");
/// The header of a task that is no task; see [`super::door`].
pub(super) const SWEEP: HeaderName = HeaderName::from_static("x-jetbridge-sweep");
/// A header that says more than this is not believed.
const MAX_BATCH_ROWS: usize = 1 << 20;
/// What a query's session tells its tasks on other nodes.
pub(super) fn headers(state: &SessionState) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(state.session_id()) {
        headers.insert(QUERY, id);
    }
    headers.insert(BATCH_ROWS, HeaderValue::from(state.config().batch_size()));
    headers
}

/// Makes the sessions of tasks.
pub(super) struct TaskSessions {
    node: Weak<Node>,
    channels: Channels,
    queries: Queries,
}

impl TaskSessions {
    pub(super) fn new(node: &Arc<Node>, channels: Channels, queries: Queries) -> Self {
        Self {
            node: Arc::downgrade(node),
            channels,
            queries,
        }
    }
}

#[async_trait]
impl WorkerSessionBuilder for TaskSessions {
    async fn build_session_state(&self, context: WorkerQueryContext) -> Result<SessionState, DataFusionError> {
        if context.headers.contains_key(&SWEEP) {
            return exec_err!("there is no task");
        }
        let node = self
            .node
            .upgrade()
            .ok_or_else(|| exec_datafusion_err!("this node stops"))?;
        let told = told(&context.headers);
        let id = query_of(&told).unwrap_or_default();
        let (runtime, stop) = self.queries.of(id, || node.sql.runtime());
        let mut builder = context.builder;
        let config = builder.config().get_or_insert_default();
        // The session is there for as long as its task is.
        config.set_extension(Arc::new(self.queries.count_task()));
        config.set_extension(Arc::new(stop));
        config.options_mut().execution.sort_spill_reservation_bytes = node.sql.merge_bytes();
        if let Some(rows) = number(&told, &BATCH_ROWS).filter(|rows| (1..=MAX_BATCH_ROWS).contains(rows)) {
            *config = std::mem::take(config).with_batch_size(rows);
        }
        let mut state = builder
            .with_runtime_env(runtime)
            .with_distributed_user_codec(ScanCodec::new(Arc::clone(&node)))
            .with_distributed_channel_resolver(self.channels.clone())
            .with_distributed_passthrough_headers(told)?
            .with_distributed_worker_plan_rewrite_handler(only_what_may_run)
            .build();
        functions::bound(&mut state, node.sql.limits().query_memory_bytes)?;
        Ok(state)
    }
}

/// The headers of ours among those of a call, to be passed on to the tasks below.
fn told(headers: &HeaderMap) -> HeaderMap {
    let ours = [QUERY, BATCH_ROWS];
    let found = ours
        .into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(&name)?.clone())));
    found.collect()
}

/// The id of the query that a call is of.
pub(super) fn query_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(&QUERY)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<usize> {
    usize::from_str(headers.get(name)?.to_str().ok()?).ok()
}

/// Lets a plan pass that reads no more than datasets and what the query itself says, and writes nothing. It is watched
/// from here on, and ends with its query.
fn only_what_may_run(event: WorkerPlanRewriteEvent<'_>) -> Result<WorkerPlanRewriteEventResponse> {
    let mut refused = None;
    event.plan.exists(|node| {
        let is_leaf = node.children().is_empty() && !node.is_network_boundary();
        if node.is::<DataSinkExec>() || (is_leaf && !is_known_leaf(node.as_ref())) {
            refused = Some(node.name().to_owned());
        }
        Ok(refused.is_some())
    })?;
    match refused {
        Some(name) => exec_err!("a task may read datasets and nothing else; this one has {name}"),
        None => {
            let stop = event.session_config.get_extension::<Stop>().unwrap_or_default();
            let plan = watched(counted(event.plan, &stop)?)?;
            Ok(WorkerPlanRewriteEventResponse::new(plan))
        }
    }
}
