//! Leaving out what a scan's reader would throw away: row groups before they are begun, and columns that no row needs.
//!
//! ```text
//!   row group --wants?--> columns of the sieve --passes?, stride by stride--> the other columns, of those strides alone
//! ```
//! A sieve may let through too much, never too little: whoever reads looks at each row again. So it is asked only where that
//! saves something. Where all columns of a row group are held decoded, handing them out costs less than to look at them
//! here, and nothing is sifted.
//!
//! Why not the filter of the request: it decides which rows are given, has all columns of the request to do so, and its
//! answer is one for all time. A sieve's may change while the scan runs, as that of a join whose other side grows does.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use super::assemble::Step;
use super::charge::Memory;
use super::loads::HeldBytes;
use super::plan::{FilePlan, Shape};
use super::unit::{Extent, Given, Unit};
use crate::error::ReadError;
use crate::footer::ColumnStatistics;
use crate::key::{RowGroup, Source};
use crate::pool::guarded;

/// Says which parts of a scan are not worth reading.
pub trait Sieve: Send + Sync {
    /// Whether a row group of the split at this position of the request may hold a row that is wanted. Asked just before
    /// it would be read; what is not wanted is neither read nor given.
    fn wants(&self, split: usize, row_group: RowGroup) -> bool;

    /// The columns, by name among those read, that [`Sieve::passes`] looks at. None: it is never asked.
    fn columns(&self) -> &[String];

    /// Whether a stride may hold a row that is wanted; `batch` has the columns of [`Sieve::columns`], in the order of those
    /// read.
    ///
    /// # Errors
    /// Where it cannot be found out; the stride is then read.
    fn passes(&self, batch: &RecordBatch) -> Result<bool, ArrowError>;

    /// Whether it is likely to want less later than now, so that little is to be read ahead.
    fn tightens(&self) -> bool;

    /// The columns, by name among those read, whose bounds [`Sieve::wants_runs`] asks for. None: it is never asked.
    fn bounded(&self) -> &[String];

    /// For each of some runs of rows of a row group, whether it may hold a row that is wanted. Asked before any column is read;
    /// what is not wanted need neither be read nor given.
    fn wants_runs(&self, runs: &dyn RunBounds) -> Vec<bool>;
}

/// What is known of runs of rows of a row group before they are read.
pub trait RunBounds {
    /// How many rows each run has.
    fn rows(&self) -> UInt64Array;

    /// The bounds of a column in each run, as values of `as_type`; none where nothing is known of it.
    fn bounds(&self, column: &str, as_type: &DataType) -> Option<ColumnStatistics>;
}

/// What sifting a row group left.
pub(crate) enum Sifted {
    /// Nothing was sifted.
    Not,
    /// No row is wanted.
    Nothing,
    /// Rows of these runs may be.
    Some(Given),
}

impl Unit {
    /// Reads the columns of the sieve, of the rows that are left, and asks it which strides may be wanted.
    pub(crate) async fn sift(&self, memory: &Arc<Memory>, left: Given) -> Result<Sifted, ReadError> {
        let Some(narrow) = self.narrowed() else {
            return Ok(Sifted::Not);
        };
        let Some(sieve) = self.plan.shape.sieve.clone() else {
            return Ok(Sifted::Not);
        };
        let (runs, layouts) = (left.runs.clone(), left.layouts.clone());
        let (mut assembler, source) = narrow.open(Extent::Whole, memory, left).await?;
        let mut sifted = Strides::default();
        loop {
            let (next, Step { batches, done }) = narrow.step(assembler).await?;
            for batch in batches {
                let sieve = Arc::clone(&sieve);
                let (batch, wanted) = self.sifted(move || (passes(sieve.as_ref(), &batch), batch)).await?;
                sifted.push(&batch, wanted, self.window_bytes);
            }
            if done {
                break;
            }
            assembler = next;
        }
        if sifted.runs.is_empty() {
            return Ok(Sifted::Nothing);
        }
        let given = sifted.given(&self.plan, &narrow.plan.shape.read, source);
        Ok(Sifted::Some(match runs {
            Some(runs) => Given {
                runs: Some(given.runs.map_or_else(|| runs.clone(), |among| rows_of(&runs, &among))),
                layouts,
                ..given
            },
            None => given,
        }))
    }

    async fn sifted(
        &self,
        work: impl FnOnce() -> (bool, RecordBatch) + Send + 'static,
    ) -> Result<(RecordBatch, bool), ReadError> {
        let done = self.engine.pool.run(work).await;
        let (wanted, batch) = done.map_err(|panic| ReadError::internal(panic.to_string()))?;
        Ok((batch, wanted))
    }

    /// The same row group with the columns of the sieve alone, where others are not held and may be spared.
    fn narrowed(&self) -> Option<Self> {
        let plan = &self.plan;
        let sieve = plan.shape.sieve.as_ref()?;
        let names = sieve.columns();
        let whole = self.plan.group(self.row_group_index())?.rows == u64::try_from(self.rows).ok()?;
        let (absent, _) = self.absent_and_held();
        let is_sifted = |name: &str| names.iter().any(|sifted| sifted == name);
        let spared = absent
            .iter()
            .any(|column| !is_sifted(plan.footer.schema.field(column.root).name()));
        if names.is_empty() || !whole || !spared {
            return None;
        }
        let read = plan.shape.read.fields().iter().filter(|field| is_sifted(field.name()));
        let read = Schema::new(read.cloned().collect::<Vec<Arc<Field>>>());
        let shape = Shape::of_batches(read, plan.shape.taker);
        let plan = FilePlan::new(Arc::clone(&plan.footer), plan.split.clone(), Arc::new(shape));
        if plan.columns.is_empty() {
            // They are constants of the file or missing in it: its row groups are judged by statistics.
            return None;
        }
        Some(Self {
            engine: Arc::clone(&self.engine),
            plan: Arc::new(plan),
            row_group: self.row_group,
            rows: self.rows,
            parts: self.parts,
            window_bytes: self.window_bytes,
            ready_bytes: self.ready_bytes,
            turn: self.turn.clone(),
        })
    }
}

/// A sieve that fails, or panics, lets everything through.
fn passes(sieve: &dyn Sieve, batch: &RecordBatch) -> bool {
    !matches!(guarded(|| sieve.passes(batch)), Ok(Ok(false)))
}

/// Strides that were sifted, in order.
#[derive(Default)]
struct Strides {
    rows: usize,
    /// Rows that may be wanted; neighbours are one.
    runs: Vec<Range<usize>>,
    /// The columns of the sieve, of those rows; none where they are too large to be kept, and are read again.
    columns: Vec<Vec<ArrayRef>>,
    held: HeldBytes,
    is_too_large: bool,
}

impl Strides {
    /// Takes in a stride. Its columns are kept as long as all together take no more than `most_bytes`.
    fn push(&mut self, batch: &RecordBatch, wanted: bool, most_bytes: u64) {
        let rows = self.rows..self.rows + batch.num_rows();
        self.rows = rows.end;
        if !wanted {
            return;
        }
        match self.runs.last_mut().filter(|last| last.end == rows.start) {
            Some(last) => last.end = rows.end,
            None => self.runs.push(rows),
        }
        if self.is_too_large {
            return;
        }
        self.columns.resize_with(batch.num_columns(), Vec::new);
        for (strides, column) in self.columns.iter_mut().zip(batch.columns()) {
            strides.push(Arc::clone(column));
            self.held.add(&column.to_data());
        }
        if self.held.bytes > most_bytes {
            self.is_too_large = true;
            self.columns.clear();
        }
    }

    /// What the columns of `plan` among those sifted, `read`, need not be read again for.
    fn given(self, plan: &FilePlan, read: &Schema, source: Source) -> Given {
        let mut columns = HashMap::new();
        for (field, strides) in read.fields().iter().zip(self.columns) {
            let of_field =
                |column: &crate::decode::SelectedColumn| plan.footer.schema.field(column.root).name() == field.name();
            columns.extend(plan.columns.iter().position(of_field).map(|at| (at, strides)));
        }
        let whole = self.runs.first().is_some_and(|run| *run == (0..self.rows));
        Given {
            columns,
            runs: (!whole).then_some(self.runs),
            layouts: None,
            source: Some(source),
        }
    }
}

/// The rows that are meant by ranges that count the rows of `runs` alone; both ascending.
fn rows_of(runs: &[Range<usize>], among: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut rows, mut before) = (Vec::new(), 0);
    for run in runs {
        let end = before + run.len();
        let first = among.partition_point(|part| part.end <= before);
        let within = among[first..].iter().take_while(|part| part.start < end);
        rows.extend(within.map(|part| {
            let (from, to) = (part.start.max(before), part.end.min(end));
            run.start + (from - before)..run.start + (to - before)
        }));
        before = end;
    }
    rows
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn what_was_sifted_is_kept_as_far_as_there_is_room() {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let batch = RecordBatch::try_from_iter([("a", values)]).unwrap();
        let mut strides = Strides::default();
        strides.push(&batch, true, 2_000);
        strides.push(&batch, false, 2_000);
        assert_eq!((strides.columns[0].len(), strides.held.bytes), (1, 800));
        // The same buffers again are no more.
        strides.push(&batch, true, 2_000);
        assert_eq!((strides.columns[0].len(), strides.held.bytes), (2, 800));
        strides.push(&batch, true, 799);
        strides.push(&batch, true, 2_000);
        assert!(strides.columns.is_empty());
        assert_eq!(strides.runs, [0..100, 200..500], "the rows are still known");
    }

    #[test]
    fn rows_are_counted_among_those_that_were_read() {
        let runs = [10..20, 30..35, 100..110];
        assert_eq!(rows_of(&runs, &[0..25]), runs);
        assert_eq!(
            rows_of(&runs, &[2..4, 9..16, 24..25]),
            [12..14, 19..20, 30..35, 100..101, 109..110]
        );
        assert!(rows_of(&runs, &[]).is_empty());
    }
}
