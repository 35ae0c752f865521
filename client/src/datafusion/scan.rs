//! The leaf of a plan that reads a server: endpoints in partitions, as the server planned them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, exec_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};

use super::rows::Rows;
use super::shares::{first_location, shares, sharing};
use crate::calls::Client;
use crate::plan::{Endpoint, Plan};
use crate::reader::ReadOptions;
use crate::scan::Scan;

/// Locations that are named where a plan is shown.
const SHOWN_LOCATIONS: usize = 8;
/// Bytes of a batch, about, where the server hands over its memory.
const BATCH_BYTES: u64 = 2 << 20;

/// Reads the endpoints of a planned scan. A partition reads those of one worker, or of several that are its own; together they
/// hold no more rows that nobody has taken than one read of the client does.
///
/// Its tickets are kept valid from when it is executed. A plan that is kept longer than a ticket lives before that fails with
/// UNAUTHENTICATED; plan the query anew then.
#[derive(Debug, Clone)]
pub struct RemoteScanExec {
    client: Client,
    scan: Scan,
    plan: Arc<Plan>,
    /// The endpoints of each partition.
    shares: Arc<[Vec<usize>]>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RemoteScanExec {
    /// The scan that was planned, in `partitions` at most.
    pub(super) fn new(client: &Client, scan: Scan, plan: Plan, partitions: usize) -> Self {
        let shares = shares(&plan.endpoints, partitions);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&plan.schema)),
            Partitioning::UnknownPartitioning(shares.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            client: client.clone(),
            scan,
            plan: Arc::new(plan),
            shares: shares.into(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What the server was asked for.
    #[must_use]
    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    /// What it planned.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The endpoints of each partition, by their numbers in the plan.
    #[must_use]
    pub fn partitions(&self) -> &[Vec<usize>] {
        &self.shares
    }

    fn read_options(&self, partition: usize, share: &[usize]) -> ReadOptions {
        let options = self.client.options();
        let partitions = u64::try_from(self.shares.len()).unwrap_or(u64::MAX).max(1);
        let sharing = sharing(&self.plan.endpoints, &self.shares, partition).max(1);
        ReadOptions {
            endpoints: Some(share.to_vec()),
            budget_bytes: Some(options.budget_bytes / partitions),
            streams_per_worker: Some((options.streams_per_worker / sharing).max(1)),
            // The engine takes a piece of a batch for as large as all of it.
            batch_bytes: Some(BATCH_BYTES),
            ..ReadOptions::default()
        }
    }

    /// Rows and bytes of some endpoints, where the server told of each; `is_all`: of all of them.
    fn of_endpoints(&self, endpoints: &[&Endpoint], is_all: bool) -> Statistics {
        let sum = |of: fn(&Endpoint) -> Option<u64>| endpoints.iter().map(|endpoint| of(endpoint)).sum::<Option<u64>>();
        let read = sum(|endpoint| endpoint.about.rows);
        let rows = match (self.plan.rows, read) {
            (Some(rows), _) if is_all => Precision::Exact(to_usize(rows)),
            // An endpoint tells what it reads, which is what it gives only where nothing is left out.
            (Some(_), Some(read)) if self.scan.limit.is_none() => Precision::Exact(to_usize(read)),
            (_, Some(read)) => Precision::Inexact(to_usize(self.scan.limit.map_or(read, |limit| limit.min(read)))),
            (_, None) => Precision::Absent,
        };
        let bytes = sum(|endpoint| endpoint.about.bytes);
        Statistics {
            num_rows: rows,
            total_byte_size: bytes.map_or(Precision::Absent, |bytes| Precision::Inexact(to_usize(bytes))),
            column_statistics: Statistics::unknown_column(&self.plan.schema),
        }
    }
}

impl DisplayAs for RemoteScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = &self.plan.endpoints;
        let locations: BTreeSet<&str> = endpoints.iter().map(first_location).collect();
        let shown: Vec<&str> = locations.iter().copied().take(SHOWN_LOCATIONS).collect();
        let names: Vec<&str> = self
            .plan
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        write!(
            f,
            "RemoteScanExec: {}, columns=[{}], partitions={}, endpoints={}, locations={} [{}{}]",
            self.scan.path,
            names.join(", "),
            self.shares.len(),
            endpoints.len(),
            locations.len(),
            shown.join(", "),
            if shown.len() < locations.len() { ", ..." } else { "" }
        )?;
        if let Some(filter) = &self.scan.filter {
            write!(f, ", filter={filter}")?;
        }
        match self.scan.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for RemoteScanExec {
    fn name(&self) -> &'static str {
        "RemoteScanExec"
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
        let Some(share) = self.shares.get(partition) else {
            return exec_err!("{} has no partition {partition}", self.name());
        };
        let mut reader = self.client.read(&self.plan, self.read_options(partition, share));
        let doing = format!("reading {}", self.scan.path);
        // An operator above may wait for another side of a join first.
        reader.hold().map_err(|error| super::carried(doing.as_str(), error))?;
        let batch_rows = context.session_config().batch_size();
        Ok(Box::pin(Rows::new(
            reader,
            doing,
            batch_rows,
            (&self.metrics, partition),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let endpoints = &self.plan.endpoints;
        let of_share = |share: &Vec<usize>| share.iter().filter_map(|endpoint| endpoints.get(*endpoint)).collect();
        let of: Vec<&Endpoint> = match args.partition() {
            None => endpoints.iter().collect(),
            Some(partition) => self.shares.get(partition).map(of_share).unwrap_or_default(),
        };
        Ok(Arc::new(self.of_endpoints(&of, of.len() == endpoints.len())))
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
