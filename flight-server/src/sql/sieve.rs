//! The scan's predicate as the cache asks for it: before a row group is begun, of its pages, and before its other columns are
//! read.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::DynamicFilterTracking;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_common::physical_expr::snapshot_physical_expr;
use datafusion::physical_plan::metrics::Count;
use jetbridge_cache::Footer;
use jetbridge_cache::key::RowGroup;
use jetbridge_cache::scan::{RunBounds, Sieve, Split};
use parking_lot::Mutex;

use super::predicate::mask;
use crate::filter::{ColumnStats, Pruning, Runs};
use crate::plan::file_bounds;

/// A predicate that leaves out row groups and strides.
pub(super) struct ScanSieve {
    /// Over the columns that are read.
    predicate: Arc<dyn PhysicalExpr>,
    read: SchemaRef,
    /// Over [`ScanSieve::columns`] alone.
    narrow: Arc<dyn PhysicalExpr>,
    columns: Vec<String>,
    changes: bool,
    state: Mutex<State>,
    left_out: Count,
}

/// Columns that have one value in all of a split, and that value.
type Constants = Vec<(String, ArrayRef)>;

struct State {
    tracking: DynamicFilterTracking,
    /// Footers of the splits, and what each split is constant in; none where the predicate does not change, since planning has
    /// left out what it could then.
    files: Vec<(Arc<Footer>, Constants)>,
    /// What the predicate said of bounds when it was looked at last.
    pruning: Option<Pruning>,
    keep: Vec<Option<Vec<bool>>>,
}

impl ScanSieve {
    /// A sieve over splits, whose footers are given where the predicate changes while the query runs.
    ///
    /// # Errors
    /// A predicate that does not fit the columns read.
    pub(super) fn new(
        predicate: &Arc<dyn PhysicalExpr>,
        read: &SchemaRef,
        splits: &[Split],
        footers: Vec<Arc<Footer>>,
        left_out: Count,
    ) -> datafusion::common::Result<Self> {
        let used = collect_columns(predicate);
        let columns: Vec<usize> = (0..read.fields().len())
            .filter(|at| used.iter().any(|column| column.index() == *at))
            .collect();
        let narrow = read.project(&columns)?;
        let tracking = DynamicFilterTracking::classify(predicate);
        let files = footers
            .into_iter()
            .zip(splits.iter().map(|split| split.constants.clone()));
        let files: Vec<_> = files.collect();
        Ok(Self {
            predicate: Arc::clone(predicate),
            read: Arc::clone(read),
            narrow: reassign_expr_columns(Arc::clone(predicate), &narrow)?,
            columns: narrow.fields().iter().map(|field| field.name().clone()).collect(),
            changes: tracking.contains_dynamic_filter(),
            state: Mutex::new(State {
                tracking,
                keep: vec![None; files.len()],
                files,
                pruning: None,
            }),
            left_out,
        })
    }
}

impl Sieve for ScanSieve {
    fn wants(&self, split: usize, row_group: RowGroup) -> bool {
        if !self.changes {
            return true;
        }
        let wanted = self.state.lock().wants(self, split, row_group);
        if !wanted {
            self.left_out.add(1);
        }
        wanted
    }

    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn passes(&self, batch: &RecordBatch) -> Result<bool, ArrowError> {
        let mask = mask(&self.narrow, batch).map_err(|error| ArrowError::ComputeError(error.to_string()))?;
        Ok(mask.true_count() > 0)
    }

    fn tightens(&self) -> bool {
        self.changes && self.state.lock().tracking.watcher().is_some()
    }

    fn bounded(&self) -> &[String] {
        match self.state.lock().pruning(self) {
            Some(pruning) if !pruning.says_nothing() => &self.columns,
            _ => &[],
        }
    }

    fn wants_runs(&self, runs: &dyn RunBounds) -> Vec<bool> {
        let pruning = self.state.lock().pruning(self).cloned();
        match pruning {
            Some(pruning) => pruning.prune(&Runs(runs)),
            None => vec![true; runs.rows().len()],
        }
    }
}

impl State {
    /// What the predicate says of bounds, as it is now.
    fn pruning(&mut self, sieve: &ScanSieve) -> Option<&Pruning> {
        let changed = self.tracking.watcher().is_some_and(|watcher| watcher.changed());
        if changed || self.pruning.is_none() {
            let now = snapshot_physical_expr(Arc::clone(&sieve.predicate));
            self.pruning = now.ok().map(|now| Pruning::of(&now, &sieve.read));
            self.keep.fill(None);
        }
        self.pruning.as_ref()
    }

    fn wants(&mut self, sieve: &ScanSieve, split: usize, row_group: RowGroup) -> bool {
        self.pruning(sieve);
        let known = (self.files.get(split), &self.pruning, self.keep.get_mut(split));
        let (Some((footer, constants)), Some(pruning), Some(keep)) = known else {
            return true;
        };
        let keep = keep.get_or_insert_with(|| {
            pruning.prune(&OneFile {
                footer: footer.as_ref(),
                constants,
            })
        });
        let at = usize::try_from(row_group.0).unwrap_or(usize::MAX);
        keep.get(at).copied().unwrap_or(true)
    }
}

/// One container a row group of a file.
struct OneFile<'a> {
    footer: &'a Footer,
    constants: &'a [(String, ArrayRef)],
}

impl ColumnStats for OneFile<'_> {
    fn containers(&self) -> usize {
        self.footer.row_groups.len()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        let Some((_, value)) = self.constants.iter().find(|(name, _)| name == column) else {
            return Some(file_bounds(self.footer, column, as_type));
        };
        let value = ScalarValue::try_from_array(value, 0).ok()?;
        let values = value.to_array_of_size(self.containers()).ok()?;
        let nulls = |rows: u64| if value.is_null() { rows } else { 0 };
        let nulls = self.footer.row_groups.iter().map(|group| Some(nulls(group.rows)));
        Some((Arc::clone(&values), values, nulls.collect()))
    }

    fn rows(&self) -> UInt64Array {
        self.footer.row_groups.iter().map(|group| Some(group.rows)).collect()
    }
}
