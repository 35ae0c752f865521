//! The leaf of every plan: row groups of a dataset, read from the chunk tier.
//!
//! It takes over what stands above it in a plan, as far as it can: projections of columns and of fields of structs, conditions
//! (it gives no row that fails them, so that the operator that would have looked is gone), limits, and the filters that joins,
//! aggregates and top-k queries tighten while they run. Where its partitions are, and on which node it runs, is no part of
//! what it computes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, conjunction};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType, apply_expression_roots,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use jetbridge_catalog::path::NsPath;

use super::guess;
use super::needs::{Needs, is_free};
pub use super::pieces::{ScanPartition, ScanPiece, partitioned};
use super::predicate::changes;
use super::reading::Reading;
use crate::node::Node;

/// What a scan computes, whichever its partitions: all that another node needs besides pieces.
#[derive(Debug, Clone)]
pub struct ScanShape {
    /// The dataset.
    pub dataset: NsPath,
    /// All its columns, as it advertises them.
    pub table: SchemaRef,
    /// What is given, computed from those: columns, and fields of structs.
    pub projection: ProjectionExprs,
    /// What rows must pass, over the columns of the table; filters that change while the query runs among it.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Most rows that each partition gives.
    pub fetch: Option<usize>,
}

/// Reads row groups of one dataset.
#[derive(Debug, Clone)]
pub struct DatasetScanExec {
    node: Arc<Node>,
    shape: ScanShape,
    partitions: Arc<[ScanPartition]>,
    /// Of the rows of all partitions, the predicate aside; one entry for each column of the table.
    statistics: Arc<Statistics>,
    /// The columns that are read, without the parts that nothing needs.
    read: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DatasetScanExec {
    /// A scan of these partitions, of which `statistics` are known: one entry for each column of the table, the predicate
    /// aside.
    ///
    /// # Errors
    /// Expressions that do not fit the table.
    pub fn try_new(
        node: Arc<Node>,
        shape: ScanShape,
        partitions: Vec<ScanPartition>,
        statistics: Arc<Statistics>,
    ) -> Result<Self> {
        let output = Arc::new(shape.projection.project_schema(&shape.table)?);
        let mut needs = Needs::default();
        shape.projection.iter().for_each(|given| needs.add(&given.expr));
        shape.predicate.iter().for_each(|predicate| needs.add(predicate));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(output),
            Partitioning::UnknownPartitioning(partitions.len().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            read: needs.read(&shape.table),
            node,
            partitions: partitions.into(),
            statistics,
            properties: Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative)),
            shape,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// What it computes.
    #[must_use]
    pub fn shape(&self) -> &ScanShape {
        &self.shape
    }

    /// The columns that are read, as the dataset types them.
    #[must_use]
    pub fn read_schema(&self) -> &SchemaRef {
        &self.read
    }

    /// What each partition reads.
    #[must_use]
    pub fn partitions(&self) -> &[ScanPartition] {
        &self.partitions
    }

    /// What is known of its rows, the predicate aside.
    #[must_use]
    pub fn table_statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// The same scan of other partitions.
    ///
    /// # Errors
    /// None that [`DatasetScanExec::try_new`] did not give.
    pub fn with_partitions(&self, partitions: Vec<ScanPartition>) -> Result<Self> {
        let statistics = Arc::clone(&self.statistics);
        Self::try_new(Arc::clone(&self.node), self.shape.clone(), partitions, statistics)
    }

    fn with_shape(&self, shape: ScanShape) -> Result<Self> {
        let statistics = Arc::clone(&self.statistics);
        Self::try_new(Arc::clone(&self.node), shape, self.partitions.to_vec(), statistics)
    }

    /// What is given, over the columns that are read.
    fn given(&self) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let read = self.read.fields().iter().enumerate();
        let positions: HashMap<&str, usize> = read.map(|(at, field)| (field.name().as_str(), at)).collect();
        let given = self.shape.projection.iter().map(|given| {
            let column = given.expr.downcast_ref::<Column>();
            let at = column.and_then(|column| positions.get(column.name()));
            match (column, at) {
                (Some(column), Some(&at)) => Ok(Arc::new(Column::new(column.name(), at)) as _),
                // This goes through all columns for each that it finds.
                _ => reassign_expr_columns(Arc::clone(&given.expr), &self.read),
            }
        });
        given.collect()
    }

    /// Statistics of one partition, or of all, before the projection.
    fn of_rows(&self, partition: Option<usize>) -> Result<Statistics> {
        let mut statistics = Statistics::clone(&self.statistics);
        if let Some(at) = partition {
            let rows = self.partitions.get(at).map_or(0, ScanPartition::rows);
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            let all: u64 = self.partitions.iter().map(ScanPartition::rows).sum();
            if u64::try_from(rows).ok() != Some(all) {
                statistics = statistics.to_inexact();
            }
            statistics.num_rows = statistics.num_rows.map(|_| rows);
        }
        let Some(predicate) = &self.shape.predicate else {
            return Ok(statistics);
        };
        // What changes later is not counted on.
        let fixed: Vec<Arc<dyn PhysicalExpr>> = datafusion::physical_expr::split_conjunction(predicate)
            .into_iter()
            .filter(|part| !changes(part))
            .cloned()
            .collect();
        if fixed.is_empty() {
            return Ok(statistics.to_inexact());
        }
        guess::passing(conjunction(fixed), statistics, &self.shape.table)
    }
}

impl DisplayAs for DatasetScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = self.partitions.iter().flat_map(|partition| &partition.pieces);
        let row_groups: usize = pieces.clone().map(ScanPiece::row_groups).sum();
        write!(f, "DatasetScanExec: {}, columns=[", self.shape.dataset)?;
        for (at, given) in self.shape.projection.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{given}")?;
        }
        write!(
            f,
            "], partitions={}, pieces={}, row_groups={row_groups}",
            self.partitions.len(),
            pieces.count()
        )?;
        if let Some(predicate) = &self.shape.predicate {
            write!(f, ", predicate={predicate}")?;
        }
        match self.shape.fetch {
            Some(fetch) => write!(f, ", limit={fetch}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for DatasetScanExec {
    fn name(&self) -> &'static str {
        "DatasetScanExec"
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let given = self.shape.projection.iter().map(|given| &given.expr);
        apply_expression_roots(given.chain(&self.shape.predicate), f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let pieces = self
            .partitions
            .get(partition)
            .map(|partition| partition.pieces.as_slice());
        let reading = Reading {
            node: Arc::clone(&self.node),
            dataset: self.shape.dataset.clone(),
            pieces: pieces.unwrap_or_default().to_vec(),
            read: Arc::clone(&self.read),
            output: self.schema(),
            projection: self.given()?,
            predicate: self
                .shape
                .predicate
                .clone()
                .map(|predicate| reassign_expr_columns(predicate, &self.read))
                .transpose()?,
            fetch: self.shape.fetch,
            batch_rows: context.session_config().batch_size(),
        };
        Ok(reading.start(&self.metrics, partition))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let rows = self.of_rows(args.partition())?;
        let given = self.shape.projection.project_statistics(rows, &self.schema())?;
        let partitions = match args.partition() {
            Some(_) => 1,
            None => self.partitions.len(),
        };
        Ok(Arc::new(given.with_fetch(self.shape.fetch, 0, partitions)?))
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        let shape = ScanShape {
            fetch: limit,
            ..self.shape.clone()
        };
        self.with_shape(shape).ok().map(|scan| Arc::new(scan) as _)
    }

    fn fetch(&self) -> Option<usize> {
        self.shape.fetch
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let above = projection.projection_expr();
        if !above.iter().all(|given| is_free(&given.expr)) {
            return Ok(None);
        }
        let shape = ScanShape {
            projection: self.shape.projection.try_merge(above)?,
            ..self.shape.clone()
        };
        Ok(Some(Arc::new(self.with_shape(shape)?)))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let mut taken: Vec<Arc<dyn PhysicalExpr>> = self.shape.predicate.iter().cloned().collect();
        let (had, mut answers) = (taken.len(), Vec::new());
        for parent in child_pushdown_result.parent_filters {
            // A limit counts rows after the conditions that were there before it.
            let fits = !is_volatile(&parent.filter) && self.shape.fetch.is_none();
            answers.push(if fits { PushedDown::Yes } else { PushedDown::No });
            if fits {
                taken.push(self.shape.projection.unproject_expr(&parent.filter)?);
            }
        }
        let answer = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if taken.len() == had {
            return Ok(answer);
        }
        let shape = ScanShape {
            predicate: Some(conjunction(taken)),
            ..self.shape.clone()
        };
        Ok(answer.with_updated_node(Arc::new(self.with_shape(shape)?)))
    }
}
