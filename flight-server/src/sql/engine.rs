//! From a statement to a plan, and to its answer.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use jetbridge_cache::budget::Budget;
use jetbridge_catalog::path::NsPath;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::catalog::{self, Names};
use super::errors::of_datafusion;
use super::limits::{Admission, Deadline, SqlLimits};
use super::pool::{QueryPool, SharedPool};
use super::{
    Answer, Described, Planned, Query, Spread, TableEntry, Text, answer, bare, parameters, session, star, substrait,
    text,
};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan;

/// Stack of a thread that plans and runs queries: plans are walked level by level.
const STACK_BYTES: usize = 16 << 20;
/// More threads than cores, since an operator may keep one to itself for seconds: others must go on meanwhile.
const THREADS_PER_CORE: usize = 2;
/// The folder of spill files, in the data folder.
const SPILL_FOLDER: &str = "sql-spill";
/// Spill files may take one part in this many of what is free on their disk at start.
const SPILL_SHARE: u64 = 4;
/// The same where that is not known.
const SPILL_BYTES: u64 = 8 << 30;

/// Plans and runs queries, within bounds that all of them share. One a node: `node.sql`.
pub struct SqlEngine {
    limits: SqlLimits,
    admission: Admission,
    memory: Arc<SharedPool>,
    /// Spill files and what else is not a query's own.
    base: RuntimeEnv,
    names: Names,
    spread: OnceLock<Arc<dyn Spread>>,
    partitions: usize,
    /// Some until the engine is dropped.
    threads: Option<Runtime>,
    handle: Handle,
}

impl fmt::Debug for SqlEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlEngine")
            .field("limits", &self.limits)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl Drop for SqlEngine {
    /// A runtime must not be waited for where nobody may block.
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A statement that was planned logically.
struct Prepared {
    state: SessionState,
    plan: LogicalPlan,
    parameters: arrow::datatypes::SchemaRef,
    /// Whether all of them have their values.
    is_bound: bool,
}

impl SqlEngine {
    /// An engine with these bounds, whose memory is the budget's, and whose spill files lie in the data folder. What an
    /// earlier process left of these is removed.
    ///
    /// # Errors
    /// A spill folder that cannot be emptied; threads that cannot be started.
    pub fn open(limits: SqlLimits, budget: Budget, data_dir: &Path) -> anyhow::Result<Self> {
        let partitions = std::thread::available_parallelism().map_or(1, usize::from);
        let threads =
            query_threads(partitions * THREADS_PER_CORE).context("the threads of queries cannot be started")?;
        Ok(Self {
            base: runtime_env(&data_dir.join(SPILL_FOLDER))?,
            admission: Admission::new(&limits),
            memory: SharedPool::new(limits.memory_bytes, budget),
            names: Names::default(),
            spread: OnceLock::new(),
            partitions,
            handle: threads.handle().clone(),
            threads: Some(threads),
            limits,
        })
    }

    /// The bounds of all queries.
    #[must_use]
    pub fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// The threads that queries are planned and run on.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Queries that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.admission.running()
    }

    /// Queries that wait for their turn now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Bytes that queries hold now.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Has each plan handed to `spread` before it runs. Only the first call counts.
    pub fn set_spread(&self, spread: Arc<dyn Spread>) {
        let _ = self.spread.set(spread);
    }

    /// The session of a query as [`SqlEngine::run`] makes them, without a table, for plans that came from elsewhere: its memory
    /// is bounded as a query's is.
    #[must_use]
    pub fn runtime(&self) -> Arc<RuntimeEnv> {
        let pool: Arc<dyn MemoryPool> =
            Arc::new(QueryPool::new(self.limits.query_memory_bytes, Arc::clone(&self.memory)));
        let mut runtime = self.base.clone();
        runtime.memory_pool = pool;
        Arc::new(runtime)
    }

    /// Bytes that a sort sets aside for putting together what it spilled, for a plan that came from elsewhere.
    pub(super) fn merge_bytes(&self) -> usize {
        session::merge_bytes(self.limits.query_memory_bytes, self.partitions)
    }

    /// What a query would give; nothing of it runs.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with line and column for what does not parse, for unknown columns and types that do not fit; NOT_FOUND
    /// for an unknown table; UNIMPLEMENTED for a statement that changes anything, and for parts of a Substrait plan that are not
    /// read here; DEADLINE_EXCEEDED, CANCELLED.
    pub async fn describe(&self, node: &Arc<Node>, query: &Query) -> Result<Described, ServiceError> {
        let deadline = self.deadline(query);
        let preparing = self.prepare(node, query);
        let described = self.on_threads(async { describe(&preparing.await?) });
        deadline.hold(described).await?
    }

    /// Runs a query. The future is done when the query was planned and begun, after a wait for its turn if need be.
    ///
    /// # Errors
    /// As [`SqlEngine::describe`]; UNAVAILABLE where too many queries wait; RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED, in the
    /// stream too.
    pub async fn run(&self, node: &Arc<Node>, query: &Query) -> Result<Answer, ServiceError> {
        let deadline = self.deadline(query);
        let turn = self.admission.enter(&deadline).await?;
        let planned = deadline.hold(self.physical_plan(node, query)).await??;
        answer::begin(&self.handle, planned, deadline, turn)
    }

    /// The physical plan that [`SqlEngine::run`] would run, after whoever spreads it, the session that made it, and the schema
    /// of the answer.
    ///
    /// # Errors
    /// As [`SqlEngine::describe`].
    pub async fn physical_plan(&self, node: &Arc<Node>, query: &Query) -> Result<Planned, ServiceError> {
        let preparing = self.prepare(node, query);
        let (options, spread, node) = (query.options.clone(), self.spread.get().cloned(), Arc::clone(node));
        let planning = async move {
            let prepared = preparing.await?;
            if !prepared.is_bound {
                let count = prepared.parameters.fields().len();
                return Err(ServiceError::invalid(format!(
                    "the statement has {count} parameters, and no values were given"
                )));
            }
            let schema = advertised(&prepared.plan);
            let plan = prepared.state.create_physical_plan(&prepared.plan).await;
            let planned = Planned {
                plan: plan.map_err(|error| of_datafusion(&error))?,
                context: SessionContext::new_with_state(prepared.state),
                statement: prepared.plan,
                schema,
                options,
            };
            match spread {
                Some(spread) => spread.spread(&node, planned).await,
                None => Ok(planned),
            }
        };
        self.on_threads(planning).await
    }

    /// Runs a plan under the bounds of all queries, in its turn.
    ///
    /// # Errors
    /// As [`SqlEngine::run`].
    pub async fn run_plan(&self, planned: Planned, query: &Query) -> Result<Answer, ServiceError> {
        let deadline = self.deadline(query);
        let turn = self.admission.enter(&deadline).await?;
        answer::begin(&self.handle, planned, deadline, turn)
    }

    /// The schemas that hold a dataset, by name.
    ///
    /// # Errors
    /// None of a single mount: what cannot be listed is left out, with a line in the log.
    pub async fn schemas(&self, node: &Arc<Node>) -> Result<Vec<String>, ServiceError> {
        Ok(catalog::schemas(node).await)
    }

    /// The tables of one schema, or of all, by schema and name.
    ///
    /// # Errors
    /// As [`SqlEngine::schemas`].
    pub async fn tables(&self, node: &Arc<Node>, schema: Option<&str>) -> Result<Vec<TableEntry>, ServiceError> {
        let tables = catalog::list(node, schema).await;
        Ok(tables.into_iter().map(|(entry, _)| entry).collect())
    }

    /// The dataset that a table's name means, as in a statement: `schema` is a folder with dots for slashes, `table` a dataset's
    /// name, path or mounted URI.
    ///
    /// # Errors
    /// NOT_FOUND, without a search for what may have been meant; those of the storage and of files that are not one table.
    pub async fn find(&self, node: &Arc<Node>, schema: &str, table: &str) -> Result<NsPath, ServiceError> {
        let name = catalog::TableName {
            schema: schema.to_owned(),
            table: table.to_owned(),
        };
        match self.names.look(node, &name).await? {
            Some(dataset) => Ok(dataset.path.clone()),
            None => Err(ServiceError::NoSuchTable {
                name: name.to_string(),
                hint: String::new(),
            }),
        }
    }

    fn deadline(&self, query: &Query) -> Deadline {
        let asked = query.options.timeout.unwrap_or(Duration::MAX);
        Deadline::new(asked.min(self.limits.timeout), query.cancel.clone())
    }

    /// Parses a statement or reads its plan, finds its tables, plans it logically.
    fn prepare(
        &self,
        node: &Arc<Node>,
        query: &Query,
    ) -> impl Future<Output = Result<Prepared, ServiceError>> + Send + 'static {
        let (node, query, names) = (Arc::clone(node), query.clone(), self.names.clone());
        let (runtime, partitions) = (self.runtime(), self.partitions);
        let memory_bytes = self.limits.query_memory_bytes;
        async move {
            session::check_options(&query.options)?;
            let with = session::Bounds {
                options: &query.options,
                runtime,
                partitions,
                memory_bytes,
            };
            let (state, plan) = match &query.text {
                Text::Sql(sql) => {
                    let statement = text::statement(sql)?;
                    let state = session::open(&node, &names, &statement, with).await?;
                    let plan = star::plan(&state, statement).await;
                    (state, plan.map_err(|error| of_datafusion(&error))?)
                }
                Text::Substrait(bytes) => {
                    let state = session::without_tables(&node, with)?;
                    let plan = substrait::plan(&node, &names, &state, &query.options, bytes).await?;
                    (state, plan)
                }
            };
            check_reads(&plan)?;
            let parameters = parameters::of_plan(&plan)?;
            let plan = match &query.parameters {
                Some(values) => parameters::bind(plan, &parameters, values)?,
                None => plan,
            };
            Ok(Prepared {
                state,
                plan,
                is_bound: query.parameters.is_some() || parameters.fields().is_empty(),
                parameters,
            })
        }
    }

    /// Does work on the threads of queries, as long as somebody waits for it.
    async fn on_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let task = AbortOnDropHandle::new(self.handle.spawn(work));
        task.await.unwrap_or_else(|_| {
            Err(ServiceError::Internal {
                what: "a query: the planner panicked".to_owned(),
            })
        })
    }
}

fn describe(prepared: &Prepared) -> Result<Described, ServiceError> {
    let schema = advertised(&prepared.plan);
    // What the optimizer refuses would be refused when the query runs.
    let optimized = match prepared.is_bound {
        true => prepared.state.optimize(&prepared.plan),
        false => Ok(prepared.plan.clone()),
    };
    let optimized = optimized.map_err(|error| of_datafusion(&error))?;
    let scan = bare::scan_of(&optimized).filter(|(spec, dataset)| {
        let scanned = plan::output_schema(&dataset.schema, spec);
        scanned.is_ok_and(|scanned| scanned == schema)
    });
    Ok(Described {
        schema,
        parameters: Arc::clone(&prepared.parameters),
        scan: scan.map(|(spec, _)| spec),
    })
}

/// The schema of the answer: that of the plan before it was optimized, which depends on the statement and its tables alone.
fn advertised(plan: &LogicalPlan) -> arrow::datatypes::SchemaRef {
    Arc::clone(plan.schema().inner())
}

/// Refuses what the text hid from a first look: a change inside a query.
fn check_reads(plan: &LogicalPlan) -> Result<(), ServiceError> {
    let options = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    options
        .verify_plan(plan)
        .map_err(|_| text::reads_only("a statement within the query"))
}

/// Spill files in a folder of their own, and no stores: DataFusion reads nothing by itself.
fn runtime_env(spill: &Path) -> anyhow::Result<RuntimeEnv> {
    match std::fs::remove_dir_all(spill) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot empty {}", spill.display())),
    }
    std::fs::create_dir_all(spill).with_context(|| format!("cannot create {}", spill.display()))?;
    let space = rustix::fs::statvfs(spill).map_or(SPILL_BYTES, |disk| disk.f_bavail * disk.f_frsize / SPILL_SHARE);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]))
        .with_max_temp_directory_size(space);
    let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build()?;
    let local = Url::parse("file:///")?;
    // It is there by default, and an error says that it is not.
    let _ = runtime.deregister_object_store(&local);
    Ok(runtime)
}

/// So many threads for queries.
///
/// One that rests hands over what it has yet to free. Tasks of other nodes are in a moka cache, which hands a value to all that
/// wait for it by a list of its own. Whoever comes just too late to wait puts the value there once more, and takes it out again; what
/// a thread took out is its own garbage until there is much of it, and moka does not look after that here. So a thread with
/// nothing more to do would keep a task, and its memory.
fn query_threads(count: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(count)
        .thread_name("sql")
        .thread_stack_size(STACK_BYTES)
        .on_thread_park(|| crossbeam_epoch::pin().flush())
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::time::Instant;

    use moka::future::Cache;

    use super::*;

    /// Of ten thousand values that three threads want at once, some are wanted just too late.
    #[test]
    fn what_a_thread_at_rest_took_out_of_a_cache_is_freed() {
        let threads = query_threads(4).unwrap();
        let cache: Cache<u32, Arc<()>> = Cache::new(1_000);
        let want = |key| {
            let cache = cache.clone();
            threads.spawn(async move { cache.get_with(key, async { Arc::default() }).await })
        };
        for key in 0..10_000 {
            let left = threads.block_on(async {
                let wanted = [want(key), want(key), want(key)];
                let mut left = Weak::new();
                for value in wanted {
                    left = Arc::downgrade(&value.await.unwrap());
                }
                cache.invalidate(&key).await;
                cache.run_pending_tasks().await;
                left
            });
            let until = Instant::now() + Duration::from_secs(20);
            while left.strong_count() > 0 {
                assert!(Instant::now() < until, "a thread keeps value {key}");
                crossbeam_epoch::pin().flush();
                std::thread::yield_now();
            }
        }
    }
}
