//! Queries that are no more than a scan: some columns of one dataset, perhaps of rows that pass a simple condition.
//!
//! Such a query need not run here: a plan of the scan sends its reader to the nodes that own the rows. What is let through as a
//! condition is what the two ways of evaluating it agree on, as [`pushdown`](jetbridge_client::datafusion::pushdown) has it.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use jetbridge_client::datafusion::pushdown::Filter;

use super::table::DatasetTable;
use crate::dataset::Dataset;
use crate::filter::Predicate;
use crate::request::ScanSpec;

/// The scan that an optimized plan is, and of which dataset, if it is no more than that.
pub(super) fn scan_of(plan: &LogicalPlan) -> Option<(ScanSpec, Arc<Dataset>)> {
    let (plan, limit) = without_limit(plan)?;
    let (plan, names) = without_projection(plan)?;
    let LogicalPlan::TableScan(scan) = plan else {
        return None;
    };
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<DatasetTable>()?;
    let dataset = table.dataset();
    let limit = match (limit, scan.fetch) {
        (Some(limit), Some(fetch)) => Some(limit.min(fetch)),
        (limit, fetch) => limit.or(fetch),
    };
    let schema = &dataset.schema;
    let filter = filter_of(scan, schema)?;
    if let Some(sql) = &filter {
        // Whoever plans the scan must read it as it was meant.
        Predicate::parse(sql, schema).ok()?;
    }
    let columns = names.unwrap_or_else(|| {
        let fields = scan.projected_schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    });
    if columns.is_empty() || !are_plain(&columns, schema) {
        return None;
    }
    let spec = ScanSpec {
        path: dataset.path.to_string(),
        columns: Some(columns),
        filter,
        limit: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
        ..ScanSpec::default()
    };
    Some((spec, Arc::clone(dataset)))
}

/// Whether all of these are columns of the table, each named once.
fn are_plain(columns: &[String], schema: &Schema) -> bool {
    let mut left: HashSet<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    // A name with a dot in it may be taken for a field of a struct.
    columns
        .iter()
        .all(|name| !name.contains('.') && left.remove(name.as_str()))
}

fn without_limit(plan: &LogicalPlan) -> Option<(&LogicalPlan, Option<usize>)> {
    let LogicalPlan::Limit(limit) = plan else {
        return Some((plan, None));
    };
    let literal = |expr: &Option<Box<Expr>>| match expr.as_deref() {
        None => Some(None),
        Some(Expr::Literal(value, _)) => match value {
            datafusion::common::ScalarValue::Int64(count) => Some(count.and_then(|count| usize::try_from(count).ok())),
            _ => None,
        },
        Some(_) => None,
    };
    let skip = literal(&limit.skip)?.unwrap_or(0);
    let fetch = literal(&limit.fetch)?;
    (skip == 0).then_some((limit.input.as_ref(), fetch))
}

/// The plan below a projection that only picks columns under their own names.
fn without_projection(plan: &LogicalPlan) -> Option<(&LogicalPlan, Option<Vec<String>>)> {
    let LogicalPlan::Projection(projection) = plan else {
        return Some((plan, None));
    };
    let name = |expr: &Expr| match expr {
        Expr::Column(column) => Some(column.name.clone()),
        _ => None,
    };
    let names = projection.expr.iter().map(name).collect::<Option<Vec<_>>>()?;
    Some((projection.input.as_ref(), Some(names)))
}

/// The scan's conditions as text; none inside where it has none.
fn filter_of(scan: &TableScan, schema: &Schema) -> Option<Option<String>> {
    let filter = Filter::of(&scan.filters, schema);
    filter.is_exact.then_some(filter.sql)
}
