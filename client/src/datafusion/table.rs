//! A dataset as a table: what a query needs of it becomes one JSON scan, which the server plans.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result as DataFusionResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExecBuilder;
use serde::Deserialize;
use serde_json::json;

use super::carried;
use super::pushdown::{self, Filter};
use super::scan::RemoteScanExec;
use crate::calls::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::scan::Scan;

/// A dataset of a server, with the schema that it had when it was opened. Each scan of it is planned by the server anew, and reads
/// the files that are there then.
#[derive(Debug, Clone)]
pub struct RemoteTable {
    client: Client,
    path: String,
    schema: SchemaRef,
}

/// The server's answer to `dataset.find`.
#[derive(Debug, Deserialize)]
struct Found {
    path: String,
}

impl RemoteTable {
    /// The dataset at a path of the namespace, or at a mounted URI.
    ///
    /// # Errors
    /// NOT_FOUND where there is none; the server's.
    pub async fn open(client: &Client, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let schema = client.schema(&Scan::of(path.as_str())).await?;
        Ok(Self {
            client: client.clone(),
            path,
            schema,
        })
    }

    /// The dataset of a name, which the server looks up as in its own SQL.
    ///
    /// # Errors
    /// As of [`RemoteTable::open`].
    pub async fn named(client: &Client, schema: &str, table: &str) -> Result<Self> {
        let body = json!({ "schema": schema, "table": table });
        let answer = client.action("dataset.find", &body).await?.into_iter().next();
        let found: Found = serde_json::from_value(answer.unwrap_or_default()).map_err(Error::protocol)?;
        Self::open(client, found.path).await
    }

    /// Where the dataset is: a path of the namespace, or a mounted URI.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The scan of these columns, planned.
    async fn planned(&self, read: &[usize], filter: Filter<'_>, limit: Option<usize>) -> DataFusionResult<Planned> {
        let expected = self.schema.project(read)?;
        let fields = expected.fields().iter();
        let is_all = read.iter().copied().eq(0..self.schema.fields().len());
        // Rows that pass a filter can be counted by one endpoint only, which one worker would read alone. Without the limit all
        // workers look, and the operator above ends them when it has enough.
        let limit = limit.filter(|_| filter.sql.is_none() && filter.left.is_empty());
        let scan = Scan {
            columns: (!is_all).then(|| fields.map(|field| field.name().clone()).collect()),
            filter: filter.sql,
            limit: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            ..Scan::of(self.path.as_str())
        };
        let doing = || format!("planning a scan of {}", self.path);
        let plan = self.client.plan(&scan).await.map_err(|error| carried(doing(), error))?;
        if *plan.schema != expected {
            return Err(carried(doing(), changed(&expected, &plan.schema)));
        }
        Ok(Planned { scan, plan })
    }
}

/// A scan, and what the server made of it.
struct Planned {
    scan: Scan,
    plan: crate::plan::Plan,
}

#[async_trait]
impl TableProvider for RemoteTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(pushdown::support(filters, &self.schema))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let filter = Filter::of(filters, &self.schema);
        let given: Vec<usize> = projection.map_or_else(|| (0..self.schema.fields().len()).collect(), Vec::clone);
        let mut read = given.clone();
        for condition in &filter.left {
            for column in condition.column_refs() {
                let index = self.schema.index_of(&column.name)?;
                if !read.contains(&index) {
                    read.push(index);
                }
            }
        }
        let left: Vec<Expr> = filter.left.iter().copied().cloned().collect();
        let Planned { scan, plan } = self.planned(&read, filter, limit).await?;
        let scan = RemoteScanExec::new(&self.client, scan, plan, state.config().target_partitions());
        filtered(state, Arc::new(scan), left, given.len())
    }
}

/// The rows that pass what was left to do here, and of these the first so many columns.
fn filtered(
    state: &dyn Session,
    scan: Arc<dyn ExecutionPlan>,
    left: Vec<Expr>,
    columns: usize,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let Some(condition) = conjunction(left) else {
        return Ok(scan);
    };
    let predicate = state.create_physical_expr(condition, &DFSchema::try_from(scan.schema())?)?;
    let filter = FilterExecBuilder::new(predicate, scan).with_batch_size(state.config().batch_size());
    let filter = filter.apply_projection(Some((0..columns).collect()))?;
    Ok(Arc::new(filter.build()?))
}

fn changed(expected: &Schema, found: &Schema) -> Error {
    let column = expected
        .fields()
        .iter()
        .zip(found.fields())
        .find(|(one, other)| one != other);
    let what = match column {
        Some((field, _)) => format!("its column {:?} is another one now", field.name()),
        None => "it has another schema now".to_owned(),
    };
    let words = format!("STALE: the dataset changed since the table was looked up: {what}; plan the query anew");
    Error::new(ErrorKind::Stale, words)
}
