//! How many rows will pass a condition, as far as their statistics tell.
//!
//! DataFusion's operator that filters rows knows how to guess it; so it is set over rows of which nothing is there but what
//! is known of them, and asked.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};

/// The statistics of those rows of `schema` that pass `condition`.
///
/// # Errors
/// A condition that does not fit the schema.
pub(super) fn passing(
    condition: Arc<dyn PhysicalExpr>,
    statistics: Statistics,
    schema: &SchemaRef,
) -> Result<Statistics> {
    let filter = FilterExec::try_new(condition, Known::rows(statistics, schema))?;
    let guessed = StatisticsContext::new().compute(&filter, &StatisticsArgs::new())?;
    Ok(Arc::unwrap_or_clone(guessed).to_inexact())
}

/// Rows of which nothing is there but their statistics.
#[derive(Debug)]
struct Known {
    statistics: Arc<Statistics>,
    properties: Arc<PlanProperties>,
}

impl Known {
    fn rows(statistics: Statistics, schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(Self {
            statistics: Arc::new(statistics),
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for Known {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

impl ExecutionPlan for Known {
    fn name(&self) -> &'static str {
        "Known"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("rows of which only the statistics are known cannot be read")
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&self.statistics))
    }
}
