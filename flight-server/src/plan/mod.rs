//! From a scan to endpoints: which row groups answer it, in which order, cut into runs.
//!
//! ```text
//! ScanSpec + Dataset --columns--> output, read schemas --partition values, statistics--> row groups --runs--> endpoints
//! ```
//! Endpoints read in order give files by path and row groups ascending. A scan with neither filter nor limit is exact in
//! rows from the footers alone. A limit without a filter is cut here, row group by row group; with a filter only the
//! reader can count, so such a scan is one endpoint.

mod prune;
mod runs;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use jetbridge_cache::Cache;
use jetbridge_cache::schema;

use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::filter::Predicate;
use crate::request::ScanSpec;

pub use runs::{Run, RunFile};

/// A planned scan of one version of a dataset.
#[derive(Debug)]
pub struct Plan {
    /// The snapshot it reads.
    pub dataset: Arc<Dataset>,
    /// The columns that are read: those of the answer and those that the filter needs.
    pub read: SchemaRef,
    /// The columns of the answer, in the order asked for.
    pub output: SchemaRef,
    /// What each endpoint reads; never empty: an answer without rows is one run without files.
    pub runs: Vec<Run>,
    /// Rows of the answer; `None` where only reading tells.
    pub rows: Option<u64>,
    /// Decoded bytes that will be read, as estimated from the footers.
    pub bytes: u64,
}

/// Plans `spec` over `dataset`, runs of at most about `run_bytes` decoded bytes each.
///
/// # Errors
/// Unknown columns, a filter that does not fit the schema, files that the scan touches and cannot read.
pub async fn plan(
    cache: &Arc<Cache>,
    dataset: Arc<Dataset>,
    spec: &ScanSpec,
    run_bytes: u64,
) -> Result<Plan, ServiceError> {
    let output = output_schema(&dataset.schema, spec)?;
    let predicate = spec
        .filter
        .as_deref()
        .map(|sql| Predicate::parse(sql, &dataset.schema))
        .transpose()?;
    let read = read_schema(&dataset.schema, &output, predicate.as_ref());
    let kept = prune::prune(cache, &dataset, predicate.as_ref()).await?;
    let rows = predicate.is_none().then(|| kept_rows(&dataset, &kept));
    let runs = runs::cut(
        &dataset,
        &read,
        kept,
        &runs::Cut {
            run_bytes,
            limit: spec.limit,
            filtered: predicate.is_some(),
        },
    );
    Ok(Plan {
        bytes: runs.iter().map(|run| run.bytes).sum(),
        rows: rows.map(|rows| spec.limit.map_or(rows, |limit| rows.min(limit))),
        dataset,
        read,
        output,
        runs,
    })
}

/// The schema of a scan's answer.
///
/// # Errors
/// A column that the dataset does not have.
pub fn output_schema(dataset: &Schema, spec: &ScanSpec) -> Result<SchemaRef, ServiceError> {
    match &spec.columns {
        None => Ok(Arc::new(dataset.clone())),
        Some(columns) => Ok(schema::project(dataset, columns)?),
    }
}

/// Row groups of a file that a scan reads.
#[derive(Debug)]
struct Kept {
    file: usize,
    row_groups: Vec<u32>,
}

/// The answer's columns, then the filter's that are not among them or are there only in part.
fn read_schema(dataset: &Schema, output: &SchemaRef, predicate: Option<&Predicate>) -> SchemaRef {
    let Some(predicate) = predicate else {
        return Arc::clone(output);
    };
    let mut fields: Vec<_> = output.fields().iter().cloned().collect();
    for column in predicate.columns() {
        let Ok(whole) = dataset.field_with_name(&column) else {
            continue;
        };
        match fields.iter_mut().find(|field| *field.name() == column) {
            Some(part) if part.as_ref() != whole => *part = Arc::new(whole.clone()),
            Some(_) => {}
            None => fields.push(Arc::new(whole.clone())),
        }
    }
    Arc::new(Schema::new_with_metadata(fields, output.metadata().clone()))
}

fn kept_rows(dataset: &Dataset, kept: &[Kept]) -> u64 {
    kept.iter()
        .flat_map(|kept| runs::row_groups(dataset, kept).map(|(_, info)| info.rows))
        .sum()
}
