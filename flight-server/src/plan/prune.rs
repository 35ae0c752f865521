//! Which files and row groups can hold rows that a filter passes.
//!
//! Partition values first, since they cost nothing; then the row groups' statistics of what is left, all files in one
//! evaluation of the condition: one call over 10,000 row groups costs a fraction of 10,000 calls over one.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use futures::future::try_join_all;
use jetbridge_cache::Cache;
use jetbridge_cache::Footer;

use super::Kept;
use crate::dataset::{DataFile, Dataset, partition_array};
use crate::error::ServiceError;
use crate::filter::{ColumnStats, Pruning};

/// Footers fetched at once when the cache has let go of some.
const FOOTERS_AT_ONCE: usize = 64;

/// The row groups of `dataset` that `pruning` keeps, in reading order; files without any are left out, and so are all but
/// those `among` which is asked.
pub(super) async fn prune(
    cache: &Arc<Cache>,
    dataset: &Dataset,
    pruning: Option<&Pruning>,
    among: Option<&BTreeSet<usize>>,
) -> Result<Vec<Kept>, ServiceError> {
    let pruning = pruning.filter(|pruning| !pruning.says_nothing());
    let mut touched = match pruning {
        Some(pruning) => by_partition(dataset, pruning),
        None => (0..dataset.files.len()).collect(),
    };
    if let Some(among) = among {
        touched.retain(|file| among.contains(file));
    }
    for &file in &touched {
        if let Err(source) = &dataset.files[file].summary {
            return Err(ServiceError::Read(Arc::clone(source)));
        }
    }
    let kept = match pruning {
        Some(pruning) => by_statistics(cache, dataset, pruning, touched).await?,
        None => touched.into_iter().map(|file| all_of(dataset, file)).collect(),
    };
    Ok(kept.into_iter().filter(|kept| !kept.row_groups.is_empty()).collect())
}

fn all_of(dataset: &Dataset, file: usize) -> Kept {
    let groups = dataset.files[file]
        .summary
        .as_ref()
        .map_or(0, |summary| summary.row_groups.len());
    Kept {
        file,
        row_groups: (0u32..).take(groups).collect(),
    }
}

fn by_partition(dataset: &Dataset, pruning: &Pruning) -> Vec<usize> {
    let all = 0..dataset.files.len();
    if dataset.partitions.is_empty() {
        return all.collect();
    }
    let keep = pruning.prune(&PartitionStats { dataset });
    all.zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect()
}

async fn by_statistics(
    cache: &Arc<Cache>,
    dataset: &Dataset,
    pruning: &Pruning,
    touched: Vec<usize>,
) -> Result<Vec<Kept>, ServiceError> {
    let mut footers: Vec<Arc<Footer>> = Vec::with_capacity(touched.len());
    for some in touched.chunks(FOOTERS_AT_ONCE) {
        footers.extend(try_join_all(some.iter().map(|&file| cache.footer(&dataset.files[file].open))).await?);
    }
    let files: Vec<_> = touched.iter().map(|&file| &dataset.files[file]).zip(&footers).collect();
    let mut keep = pruning.prune(&FooterStats { dataset, files: &files }).into_iter();
    let kept = touched.iter().zip(&footers).map(|(&file, footer)| Kept {
        file,
        row_groups: (0u32..)
            .zip(keep.by_ref().take(footer.row_groups.len()))
            .filter_map(|(group, keep)| keep.then_some(group))
            .collect(),
    });
    Ok(kept.collect())
}

/// One container a file; only partition columns are known.
struct PartitionStats<'a> {
    dataset: &'a Dataset,
}

impl ColumnStats for PartitionStats<'_> {
    fn containers(&self) -> usize {
        self.dataset.files.len()
    }

    fn bounds(&self, column: &str, _as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        let (position, partition) = self.dataset.partition(column)?;
        let values = partition_array(
            partition.kind,
            self.dataset.files.iter().map(|file| &file.values[position]),
        );
        let nulls = null_counts(&values, self.dataset.files.iter().map(rows_of));
        Some((Arc::clone(&values), values, nulls))
    }

    fn rows(&self) -> UInt64Array {
        self.dataset.files.iter().map(rows_of).collect()
    }
}

/// One container a row group, over all files.
struct FooterStats<'a> {
    dataset: &'a Dataset,
    files: &'a [(&'a DataFile, &'a Arc<Footer>)],
}

impl ColumnStats for FooterStats<'_> {
    fn containers(&self) -> usize {
        self.files.iter().map(|(_, footer)| footer.row_groups.len()).sum()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        if let Some((position, partition)) = self.dataset.partition(column) {
            let values = self
                .files
                .iter()
                .flat_map(|(file, footer)| footer.row_groups.iter().map(move |_| &file.values[position]));
            let values = partition_array(partition.kind, values);
            let nulls = null_counts(&values, group_rows(self.files).map(Some));
            return Some((Arc::clone(&values), values, nulls));
        }
        let parts: Vec<_> = self
            .files
            .iter()
            .map(|(_, footer)| file_bounds(footer, column, as_type))
            .collect();
        let mins: Vec<_> = parts.iter().map(|(min, _, _)| min.as_ref()).collect();
        let maxes: Vec<_> = parts.iter().map(|(_, max, _)| max.as_ref()).collect();
        let nulls = parts.iter().flat_map(|(_, _, nulls)| nulls.iter()).collect();
        Some((concat(&mins).ok()?, concat(&maxes).ok()?, nulls))
    }

    fn rows(&self) -> UInt64Array {
        group_rows(self.files).map(Some).collect()
    }
}

/// What a footer says of a column of a dataset, one value a row group.
pub(crate) fn file_bounds(footer: &Footer, column: &str, as_type: &DataType) -> (ArrayRef, ArrayRef, UInt64Array) {
    if let Some(known) = footer.statistics(column, as_type) {
        return (known.min, known.max, known.null_count);
    }
    let unknown = new_null_array(as_type, footer.row_groups.len());
    let missing = footer.position(column).is_none();
    // A column that the file lacks reads as null in every row; one without statistics may hold anything.
    let nulls = footer
        .row_groups
        .iter()
        .map(|group| missing.then_some(group.rows))
        .collect();
    (Arc::clone(&unknown), unknown, nulls)
}

fn null_counts(values: &ArrayRef, rows: impl Iterator<Item = Option<u64>>) -> UInt64Array {
    rows.enumerate()
        .map(|(container, rows)| if values.is_null(container) { rows } else { Some(0) })
        .collect()
}

/// Unknown for a file whose footer cannot be read: one of no rows would be pruned, and its error with it.
fn rows_of(file: &DataFile) -> Option<u64> {
    let summary = file.summary.as_ref().ok()?;
    Some(summary.row_groups.iter().map(|group| group.rows).sum())
}

fn group_rows<'a>(files: &'a [(&'a DataFile, &'a Arc<Footer>)]) -> impl Iterator<Item = u64> + 'a {
    files
        .iter()
        .flat_map(|(_, footer)| footer.row_groups.iter().map(|group| group.rows))
}
