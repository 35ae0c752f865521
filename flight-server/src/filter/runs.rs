//! What a condition says about runs of rows within a row group, by the file's page index.

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use jetbridge_cache::key::RowGroup;
use jetbridge_cache::scan::{RunBounds, Sieve};

use super::{ColumnStats, Pruning};

/// Leaves out the pages of a scan in which no row can pass its filter. Which row groups are read was settled when the scan
/// was planned, and which rows pass is the filter's to say.
#[derive(Debug)]
pub(crate) struct PageSieve(Pruning);

impl PageSieve {
    /// None of a condition that says nothing about bounds.
    pub(crate) fn of(pruning: &Pruning) -> Option<Self> {
        (!pruning.says_nothing()).then(|| Self(pruning.clone()))
    }
}

impl Sieve for PageSieve {
    fn wants(&self, _: usize, _: RowGroup) -> bool {
        true
    }

    fn columns(&self) -> &[String] {
        &[]
    }

    fn passes(&self, _: &RecordBatch) -> Result<bool, ArrowError> {
        Ok(true)
    }

    fn tightens(&self) -> bool {
        false
    }

    fn bounded(&self) -> &[String] {
        self.0.columns()
    }

    fn wants_runs(&self, runs: &dyn RunBounds) -> Vec<bool> {
        self.0.prune(&Runs(runs))
    }
}

/// One container a run.
pub(crate) struct Runs<'a>(pub(crate) &'a dyn RunBounds);

impl ColumnStats for Runs<'_> {
    fn containers(&self) -> usize {
        self.0.rows().len()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        let known = self.0.bounds(column, as_type)?;
        Some((known.min, known.max, known.null_count))
    }

    fn rows(&self) -> UInt64Array {
        self.0.rows()
    }
}
