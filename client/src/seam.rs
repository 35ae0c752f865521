//! Where a stream that broke is gone on with.
//!
//! Another place need not cut the same rows into the same batches: what one has in memory goes out by the strides that it is kept
//! in, what another reads from storage as it is decoded, and clients differ in the largest message that they take. The order of
//! the rows of an endpoint is the same everywhere and always. So rows are counted, not batches, and a batch that lies across the
//! seam is cut.

use arrow::array::RecordBatch;

/// How far an endpoint is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seam {
    handed_on: u64,
    to_skip: u64,
}

impl Seam {
    /// An endpoint of which the first `rows` rows are not wanted.
    pub(crate) fn after(rows: u64) -> Self {
        Self {
            handed_on: rows,
            to_skip: rows,
        }
    }

    /// The endpoint is read anew from its begin.
    pub(crate) fn restart(&mut self) {
        self.to_skip = self.handed_on;
    }

    /// Rows before the next one that is wanted.
    pub(crate) fn handed_on(&self) -> u64 {
        self.handed_on
    }

    /// What of the next batch is wanted, if anything.
    pub(crate) fn pass(&mut self, batch: RecordBatch) -> Option<RecordBatch> {
        let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        let skipped = self.to_skip.min(rows);
        self.to_skip -= skipped;
        self.handed_on += rows - skipped;
        if skipped == rows {
            return None;
        }
        // At most `rows`, which was a usize.
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Some(if skipped == 0 {
            batch
        } else {
            batch.slice(skipped, batch.num_rows() - skipped)
        })
    }

    /// Whether a stream that ended had all of the rows that were skipped; if not, it was of something else.
    pub(crate) fn is_whole(&self) -> bool {
        self.to_skip == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;

    /// The numbers from 0 to `rows`, cut into batches of these sizes, the last again and again.
    fn stream(rows: usize, sizes: &[usize]) -> Vec<RecordBatch> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let (mut at, mut batches) = (0, Vec::new());
        let mut sizes = sizes.iter().copied().chain(std::iter::repeat(7));
        while at < rows {
            let size = sizes.next().unwrap().min(rows - at);
            let numbers: Int64Array = (at..at + size).map(|n| i64::try_from(n).unwrap()).collect();
            batches.push(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)]).unwrap());
            at += size;
        }
        batches
    }

    proptest! {
        /// "no row twice, none lost", however the tries cut and wherever they break.
        #[test]
        fn rows_come_once_and_in_order(
            rows in 0_usize..200,
            begin in 0_usize..50,
            tries in prop::collection::vec((prop::collection::vec(0_usize..40, 0..8), 0_usize..12), 0..6),
        ) {
            let mut seam = Seam::after(u64::try_from(begin.min(rows)).unwrap());
            let mut read = Vec::new();
            let mut take = |seam: &mut Seam, batches: Vec<RecordBatch>| {
                for batch in batches.into_iter().filter_map(|batch| seam.pass(batch)) {
                    read.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
                }
            };
            for (sizes, breaks_after) in tries {
                seam.restart();
                let batches = stream(rows, &sizes);
                let some = batches.into_iter().take(breaks_after).collect();
                take(&mut seam, some);
            }
            seam.restart();
            take(&mut seam, stream(rows, &[]));
            prop_assert!(seam.is_whole());
            prop_assert_eq!(usize::try_from(seam.handed_on()).unwrap(), rows);
            let expected: Vec<i64> = (begin.min(rows)..rows).map(|n| i64::try_from(n).unwrap()).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_stream_that_is_shorter_than_what_was_read_is_told() {
        let mut seam = Seam::after(10);
        for batch in stream(9, &[]) {
            assert!(seam.pass(batch).is_none());
        }
        assert!(!seam.is_whole());
    }
}
