//! A table of the client's, as the other library has it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::home::{Guest, Home};
use super::scan::Scan;

/// A dataset. It needs no Python object to live on.
#[derive(Debug)]
pub(super) struct Table {
    home: Home,
    table: Guest<Arc<dyn TableProvider>>,
    schema: SchemaRef,
}

impl Table {
    pub(super) fn new(home: &Home, table: Arc<dyn TableProvider>) -> Self {
        Self {
            home: home.clone(),
            schema: table.schema(),
            table: home.keep(table),
        }
    }
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.table.with(|table| table.supports_filters_pushdown(filters))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = self.table.get()?;
        let plan = self.home.wait(table.scan(state, projection, filters, limit)).await?;
        Ok(Arc::new(Scan::new(&self.home, plan)))
    }
}
