//! From rows that were read to batches that are sent: filter, projection, size.
//!
//! Batches that are as long as asked for pass by reference. Those far longer are sliced; the few rows that a filter
//! leaves of each stride are gathered until they make a batch, at the price of one copy of those rows.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::error::ArrowError;

use super::plan::Shape;
use crate::decode::{canonical, shown_bytes};
use crate::pool::guarded;

/// Filters, projects and cuts the batches of one row group.
pub(crate) struct Output {
    shape: Arc<Shape>,
    /// Bytes that a batch shall have, about.
    wanted_bytes: usize,
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
}

/// What was wrong with a batch.
pub(crate) enum OutputError {
    Filter(ArrowError),
    Batch(ArrowError),
}

/// A batch of this many times the bytes asked for is cut.
const CUT_ABOVE: usize = 2;
/// Cuts are whole words of a validity bitmap.
const CUT_ALIGN_ROWS: usize = 64;

impl Output {
    pub(crate) fn new(shape: Arc<Shape>, wanted_bytes: usize) -> Self {
        Self {
            shape,
            wanted_bytes,
            gathered: Vec::new(),
            gathered_bytes: 0,
        }
    }

    /// Takes a batch of the columns read, and gives those that are ready.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, OutputError> {
        let Some(kept) = self.keep(batch)? else {
            return Ok(Vec::new());
        };
        let bytes = batch_bytes(&kept);
        let small = self.shape.filter.is_some() && bytes < self.wanted_bytes / 2;
        if !small && self.gathered.is_empty() {
            return pieces(kept, bytes, self.wanted_bytes).map_err(OutputError::Batch);
        }
        self.gathered_bytes += bytes;
        self.gathered.push(kept);
        if self.gathered_bytes < self.wanted_bytes {
            Ok(Vec::new())
        } else {
            self.flush()
        }
    }

    /// Gives what was gathered so far.
    pub(crate) fn flush(&mut self) -> Result<Vec<RecordBatch>, OutputError> {
        self.gathered_bytes = 0;
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.is_empty() {
            return Ok(Vec::new());
        }
        let whole = concat_batches(&self.shape.output, &gathered).map_err(OutputError::Batch)?;
        let bytes = batch_bytes(&whole);
        pieces(whole, bytes, self.wanted_bytes).map_err(OutputError::Batch)
    }

    /// The rows that the filter keeps, of the columns given; none where it keeps no row.
    fn keep(&self, batch: RecordBatch) -> Result<Option<RecordBatch>, OutputError> {
        let mask = match &self.shape.filter {
            Some(filter) => {
                // Its panic is the filter's fault, and must not be taken for damage of the file.
                let evaluated = guarded(|| filter.evaluate(&batch));
                let evaluated = evaluated.unwrap_or_else(|panic| Err(ArrowError::ComputeError(panic.to_string())));
                Some(evaluated.map_err(OutputError::Filter)?)
            }
            None => None,
        };
        let rows = batch.num_rows();
        let columns = self
            .shape
            .output_columns
            .iter()
            .map(|at| Arc::clone(batch.column(*at)))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let given = RecordBatch::try_new_with_options(Arc::clone(&self.shape.output), columns, &options);
        let given = given.map_err(OutputError::Batch)?;
        let Some(mask) = mask else {
            return Ok((rows > 0).then_some(given));
        };
        if mask.len() != rows {
            let message = format!("it gave {} values for {rows} rows", mask.len());
            return Err(OutputError::Filter(ArrowError::ComputeError(message)));
        }
        let kept = match mask.true_count() {
            0 => return Ok(None),
            all if all == rows => given,
            some if given.num_columns() == 0 => count_only(&self.shape, some).map_err(OutputError::Batch)?,
            _ => filter_record_batch(&given, &mask)
                .and_then(|kept| tidy(&kept))
                .map_err(OutputError::Batch)?,
        };
        Ok(Some(kept))
    }
}

fn count_only(shape: &Shape, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(&shape.output), Vec::new(), &options)
}

/// Bytes that the columns of a batch show.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(shown_bytes).sum()
}

/// Cuts a batch of `bytes` into pieces of about `wanted`.
pub(crate) fn pieces(batch: RecordBatch, bytes: usize, wanted: usize) -> Result<Vec<RecordBatch>, ArrowError> {
    let rows = batch.num_rows();
    if bytes <= wanted.saturating_mul(CUT_ABOVE) || rows <= 1 {
        return Ok(vec![batch]);
    }
    let each = rows.div_ceil(bytes.div_ceil(wanted));
    let each = if each > CUT_ALIGN_ROWS {
        each.next_multiple_of(CUT_ALIGN_ROWS)
    } else {
        each
    };
    (0..rows)
        .step_by(each)
        .map(|from| tidy(&batch.slice(from, each.min(rows - from))))
        .collect()
}

/// Compacts the views of a batch that shows a part of what it was, and unslices its arrays.
///
/// # Errors
/// Arrays that cannot be rebuilt; none that came out of a scan.
pub fn tidy(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}
