//! A dataset as a table of DataFusion: one version of it, as it was when the statement was planned.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result, Statistics};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;

use super::errors::carried;
use super::pieces::{partitioned, piece_bytes, pieces};
use super::scan::{DatasetScanExec, ScanShape};
use super::statistics;
use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::filter::Pruning;
use crate::node::Node;
use crate::plan::{self, Plan};

/// One version of a dataset.
#[derive(Debug)]
pub struct DatasetTable {
    node: Arc<Node>,
    dataset: Arc<Dataset>,
}

impl DatasetTable {
    /// The table of a dataset.
    #[must_use]
    pub fn new(node: &Arc<Node>, dataset: Arc<Dataset>) -> Self {
        Self {
            node: Arc::clone(node),
            dataset,
        }
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    async fn plan(
        &self,
        columns: &[usize],
        (predicate, limit): (Option<&Arc<dyn PhysicalExpr>>, Option<usize>),
        partitions: usize,
    ) -> Result<Plan, ServiceError> {
        let dataset = &self.dataset;
        let read = Arc::new(
            dataset
                .schema
                .project(columns)
                .map_err(|error| ServiceError::Internal {
                    what: error.to_string(),
                })?,
        );
        let pruning = predicate.map(|predicate| Pruning::of(predicate, &dataset.schema));
        let lineage = self.node.lineage(dataset)?;
        let run_bytes = piece_bytes(dataset, &read, partitions);
        let limit = limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX));
        let how = (pruning.as_ref(), limit, run_bytes);
        plan::plan_reading(&self.node.cache, Arc::clone(dataset), read, how, &lineage).await
    }
}

#[async_trait]
impl TableProvider for DatasetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.dataset.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            if filter.is_volatile() {
                TableProviderFilterPushDown::Unsupported
            } else {
                TableProviderFilterPushDown::Exact
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = &self.dataset.schema;
        let predicate = conjunction(filters.to_vec())
            .map(|filter| state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(table))?))
            .transpose()?;
        let given: Vec<usize> = projection.map_or_else(|| (0..table.fields().len()).collect(), Vec::clone);
        let columns = columns_read(&given, predicate.as_ref());
        let partitions = state.config().target_partitions().max(1);
        let planned = self.plan(&columns, (predicate.as_ref(), limit), partitions).await;
        let plan = Arc::new(planned.map_err(|error| self.failed(error))?);
        let known = statistics::of_plan(&self.node, &plan, &columns).await;
        let known: Statistics = known.map_err(|error| self.failed(error))?;
        let shape = ScanShape {
            dataset: self.dataset.path.clone(),
            table: Arc::clone(table),
            projection: ProjectionExprs::from_indices(&given, table),
            predicate,
            fetch: limit,
        };
        let partitions = partitioned(pieces(&self.node, &plan), partitions);
        let scan = DatasetScanExec::try_new(Arc::clone(&self.node), shape, partitions, Arc::new(known))?;
        Ok(Arc::new(scan))
    }
}

impl DatasetTable {
    fn failed(&self, error: ServiceError) -> datafusion::common::DataFusionError {
        if error.is_stale() {
            self.node.datasets.refresh(&self.dataset.path);
        }
        carried(error)
    }
}

/// The columns given, and those that the predicate needs, in the table's order.
fn columns_read(given: &[usize], predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<usize> {
    let of_predicate = predicate.map(collect_columns).unwrap_or_default();
    let mut columns: Vec<usize> = given
        .iter()
        .copied()
        .chain(of_predicate.iter().map(|column| column.index()))
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}
