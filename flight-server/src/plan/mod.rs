//! From a scan to endpoints: which row groups answer it, in which order, cut into runs.
//!
//! ```text
//! ScanSpec + Dataset --columns--> output, read schemas --partition values, statistics--> row groups --runs--> endpoints
//!            Dataset --splits--> placement ------------------------------------------> owners ---^
//! ```
//! Endpoints read in order give files by path and row groups ascending, or what the scan's parts say. A scan with neither filter
//! nor limit is exact in rows from the footers alone. A limit without a filter is cut here, row group by row group; with a
//! filter only the reader can count, so such a scan is one endpoint.

mod parts;
mod placed;
mod prune;
mod replicas;
mod runs;
mod splits;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use jetbridge_cache::Cache;
use jetbridge_cache::schema;
use jetbridge_catalog::membership::View;

use crate::dataset::Dataset;
use crate::error::ServiceError;
use crate::filter::{Predicate, Pruning};
use crate::request::ScanSpec;

pub use placed::{Lineage, Owners, Placed, Placements};
pub(crate) use prune::file_bounds;
pub use replicas::Replicas;
pub(crate) use runs::{MAX_RUN_FILES, read_columns};
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
    /// What was known of the cluster: the slots of the runs' owners are those of its placement.
    pub view: View,
}

/// Plans `spec` over `dataset`, runs of at most about `run_bytes` decoded bytes and of one list of owners each; where that is
/// 0, of one row group each.
///
/// # Errors
/// Unknown columns, a filter that does not fit the schema, files that the scan touches and cannot read, parts that the dataset
/// does not have, ABORTED for another snapshot than the one asked for.
pub async fn plan(
    cache: &Arc<Cache>,
    dataset: Arc<Dataset>,
    spec: &ScanSpec,
    placed: &Lineage,
    run_bytes: u64,
) -> Result<Plan, ServiceError> {
    check_snapshot(&dataset, spec)?;
    let output = output_schema(&dataset.schema, spec)?;
    let predicate = predicate(&dataset, spec)?;
    let read = read_schema(&dataset.schema, &output, predicate.as_ref());
    let columns = Columns { read, output };
    let cut = runs::Cut {
        run_bytes,
        limit: spec.limit,
        filtered: predicate.is_some(),
    };
    let pruning = predicate.as_ref().map(Predicate::pruning);
    let kept = kept(cache, &dataset, spec, pruning).await?;
    Ok(planned(dataset, columns, (kept, cut), placed))
}

/// Plans the reading of the columns `read` of a dataset, in runs of at most about `run_bytes`: the row groups that
/// `pruning` keeps; where there is none, no more of them than have `limit` rows.
///
/// # Errors
/// Files that the scan touches and cannot read.
pub(crate) async fn plan_reading(
    cache: &Arc<Cache>,
    dataset: Arc<Dataset>,
    read: SchemaRef,
    (pruning, limit, run_bytes): (Option<&Pruning>, Option<u64>, u64),
    placed: &Lineage,
) -> Result<Plan, ServiceError> {
    let cut = runs::Cut {
        run_bytes,
        limit: limit.filter(|_| pruning.is_none()),
        filtered: pruning.is_some(),
    };
    let columns = Columns {
        output: Arc::clone(&read),
        read,
    };
    let kept = prune::prune(cache, &dataset, pruning, None).await?;
    Ok(planned(dataset, columns, (kept, cut), placed))
}

/// The columns that a scan reads, and those that it gives.
struct Columns {
    read: SchemaRef,
    output: SchemaRef,
}

fn planned(
    dataset: Arc<Dataset>,
    Columns { read, output }: Columns,
    (kept, cut): (Vec<Kept>, runs::Cut),
    placed: &Lineage,
) -> Plan {
    let rows = (!cut.filtered).then(|| kept_rows(&dataset, &kept));
    let runs = runs::cut(&dataset, placed, &read, kept, &cut);
    Plan {
        bytes: runs.iter().map(|run| run.bytes).sum(),
        view: placed.view.clone(),
        rows: rows.map(|rows| cut.limit.map_or(rows, |limit| rows.min(limit))),
        dataset,
        read,
        output,
        runs,
    }
}

/// A row group that a scan reads.
#[derive(Debug, Clone, Copy)]
pub struct RowGroupFound {
    /// Position of its file in the dataset's files.
    pub file: usize,
    /// Which one of the file's row groups it is.
    pub row_group: u32,
    /// Its rows, before any filter.
    pub rows: u64,
    /// Decoded bytes of the columns read, as estimated from the footer.
    pub bytes: u64,
}

/// The row groups that `spec` reads, in the order in which it does.
///
/// # Errors
/// As [`plan`].
pub async fn row_groups(
    cache: &Arc<Cache>,
    dataset: &Dataset,
    spec: &ScanSpec,
) -> Result<Vec<RowGroupFound>, ServiceError> {
    check_snapshot(dataset, spec)?;
    let output = output_schema(&dataset.schema, spec)?;
    let predicate = predicate(dataset, spec)?;
    let kept = kept(cache, dataset, spec, predicate.as_ref().map(Predicate::pruning)).await?;
    let found = kept.iter().flat_map(|kept| {
        let columns = read_columns(&dataset.files[kept.file], &output);
        runs::row_groups(dataset, kept).map(move |(row_group, info)| RowGroupFound {
            file: kept.file,
            row_group,
            rows: info.rows,
            bytes: runs::decoded_bytes(info, &columns),
        })
    });
    Ok(found.collect())
}

/// The schema of a scan's answer, where the scan could be planned as far as that is known without reading.
///
/// # Errors
/// As [`plan`], but for files that have to be read for it.
pub fn answer_schema(dataset: &Dataset, spec: &ScanSpec) -> Result<SchemaRef, ServiceError> {
    check_snapshot(dataset, spec)?;
    let output = output_schema(&dataset.schema, spec)?;
    predicate(dataset, spec)?;
    if let Some(parts) = &spec.parts {
        parts::named(dataset, parts)?;
    }
    Ok(output)
}

/// The columns of a scan's answer, whatever else it asks for.
///
/// # Errors
/// A column that the dataset does not have.
pub fn output_schema(dataset: &Schema, spec: &ScanSpec) -> Result<SchemaRef, ServiceError> {
    match &spec.columns {
        None => Ok(Arc::new(dataset.clone())),
        Some(columns) => Ok(schema::project(dataset, columns)?),
    }
}

/// The row groups that `spec` is to read, in the order to read them.
async fn kept(
    cache: &Arc<Cache>,
    dataset: &Dataset,
    spec: &ScanSpec,
    pruning: Option<&Pruning>,
) -> Result<Vec<Kept>, ServiceError> {
    let Some(parts) = &spec.parts else {
        return prune::prune(cache, dataset, pruning, None).await;
    };
    let named = parts::named(dataset, parts)?;
    if pruning.is_none() {
        return Ok(named);
    }
    let files = named.iter().map(|kept| kept.file).collect();
    let possible = prune::prune(cache, dataset, pruning, Some(&files)).await?;
    Ok(parts::in_both(named, &possible))
}

fn predicate(dataset: &Dataset, spec: &ScanSpec) -> Result<Option<Predicate>, ServiceError> {
    let parsed = spec.filter.as_deref().map(|sql| Predicate::parse(sql, &dataset.schema));
    Ok(parsed.transpose()?)
}

fn check_snapshot(dataset: &Dataset, spec: &ScanSpec) -> Result<(), ServiceError> {
    match &spec.snapshot {
        Some(asked) if asked != dataset.fingerprint() => Err(ServiceError::OtherSnapshot {
            path: dataset.path.clone(),
            asked: asked.clone(),
            found: dataset.fingerprint().to_owned(),
        }),
        _ => Ok(()),
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
