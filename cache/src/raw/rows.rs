//! The rows of a small file, for whoever is sent it: what a scan of the row group gives, value by value and type by type.
//!
//! ```text
//! file -> footer, checked against the limits -> column chunks -> decoder, one stride at a time -> the schema asked for
//! ```
//! Nothing here does I/O, and nothing is written anew: footers, pages, strides and types are those of a scan, so that a file
//! that a scan refuses is refused here, and one that it reads is read alike. All columns of a stride are decoded together, and
//! no stride before it is asked for.

use std::fmt;
use std::sync::Arc;
use std::vec;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;

use crate::adapt::{Adapter, Origin};
use crate::budget::Budget;
use crate::decode::{ColumnDecoder, RowGroupBytes, SelectedColumn};
use crate::footer::{Footer, RowGroupInfo};
use crate::key::{RowGroup, sum_of, to_usize};
use crate::limits::ReadLimits;
use crate::pages::{ChunkBytes, PageLimit};
use crate::scan::{BATCH_BYTES, STRIDE_ALIGN_ROWS, batch_bytes, leaf_ranges, pieces, request_stride, taken};

/// What errors call the file, which has no name where it is read.
const NAME: &str = "a row group as it is stored";

/// The rows of a row group that came as a small file, as batches of the usual size.
///
/// It ends after its first error. The bytes are a stranger's: what they claim is checked against [`ReadLimits`] and the memory
/// that there is for it before it is believed, but the decoders of the Parquet crate may panic on them. To catch that is the
/// caller's; nothing follows then.
pub struct RawRows {
    /// None once there is nothing more to decode. It is out while it decodes.
    decoder: Option<ColumnDecoder>,
    /// Takes the columns in the order in which they are decoded.
    adapter: Adapter,
    /// Batches of the stride that was decoded last.
    ready: vec::IntoIter<RecordBatch>,
    expected_bytes: u64,
}

impl fmt::Debug for RawRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRows")
            .field("expected_bytes", &self.expected_bytes)
            .finish_non_exhaustive()
    }
}

impl RawRows {
    /// The rows of `file`, a whole Parquet file of one row group, as the columns of `output`: each from `constants` where its
    /// name is there, which have one value and that for all rows; else from the file's column of that name, cast where the
    /// type is another; else nulls.
    ///
    /// Pages of more than 4 MiB, which is much larger than pages are, may take `memory_bytes` unpacked: those that are there at
    /// once, all together.
    ///
    /// # Errors
    /// A file that is damaged, goes over the limits, has another number of row groups, or none of the columns; later on, also a
    /// page that there is no memory for.
    pub fn open(
        file: Bytes,
        output: &SchemaRef,
        constants: &[(String, ArrayRef)],
        memory_bytes: u64,
    ) -> Result<Self, ArrowError> {
        let footer = Footer::of_whole(&file, NAME, &ReadLimits::default());
        let footer = footer.map_err(|error| damaged(error.to_string()))?;
        let [group] = footer.row_groups.as_slice() else {
            let count = footer.row_groups.len();
            return Err(damaged(format!("{NAME}: the file has {count} row groups")));
        };
        let (columns, origins) = taken(&footer, constants, output);
        if columns.is_empty() {
            return Err(damaged(format!("{NAME}: the file has none of the columns")));
        }
        let leaves = columns.iter().flat_map(|column| &column.leaves);
        let expected_bytes = sum_of(leaves.filter_map(|leaf| group.leaf_bytes.get(*leaf)));
        let stride_rows = stride_rows(group, expected_bytes);
        let origins = as_decoded(&columns, origins);
        let bytes = row_group_bytes(&file, Arc::new(footer), &columns, memory_bytes)?;
        let decoder = ColumnDecoder::open(Arc::new(bytes), columns, stride_rows, None)?;
        Ok(Self {
            decoder: Some(decoder),
            adapter: Adapter::new(Arc::clone(output), origins),
            ready: Vec::new().into_iter(),
            expected_bytes,
        })
    }

    /// Bytes that all rows take decoded, as the footer foretells: exact for columns of a fixed width, and little more than a
    /// hint for others.
    #[must_use]
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// The batches of the next stride; none at the end.
    fn stride(&mut self) -> Result<Option<Vec<RecordBatch>>, ArrowError> {
        let Some(mut decoder) = self.decoder.take() else {
            return Ok(None);
        };
        let Some(arrays) = decoder.next()? else {
            return Ok(None);
        };
        let rows = arrays.first().map_or(0, |array| array.len());
        let batch = self.adapter.batch(&arrays, rows).map_err(|misfit| {
            let (column, wanted, reason) = (misfit.column, misfit.wanted, misfit.reason);
            ArrowError::CastError(format!(
                "{NAME}: column {column:?} cannot be read as {wanted}: {reason}"
            ))
        })?;
        let bytes = batch_bytes(&batch);
        let batches = pieces(batch, bytes, BATCH_BYTES)?;
        self.decoder = Some(decoder);
        Ok(Some(batches))
    }
}

impl Iterator for RawRows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.ready.next() {
                return Some(Ok(batch));
            }
            match self.stride() {
                Ok(Some(batches)) => self.ready = batches.into_iter(),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn damaged(reason: String) -> ArrowError {
    ArrowError::ParquetError(reason)
}

/// Rows of a stride, as a scan has them that finds none of the columns decoded.
fn stride_rows(group: &RowGroupInfo, decoded_bytes: u64) -> usize {
    let all = to_usize(group.rows).checked_next_multiple_of(STRIDE_ALIGN_ROWS);
    request_stride(group, decoded_bytes, BATCH_BYTES).min(all.unwrap_or(usize::MAX))
}

/// The same origins, by positions among the columns as a decoder gives them: in the order of the file.
fn as_decoded(columns: &[SelectedColumn], origins: Vec<Origin>) -> Vec<Origin> {
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|&at| columns[at].root);
    let mut places = vec![0; columns.len()];
    for (place, at) in order.into_iter().enumerate() {
        places[at] = place;
    }
    let moved = origins.into_iter().map(|origin| match origin {
        Origin::Decoded(at) => Origin::Decoded(places[at]),
        other => other,
    });
    moved.collect()
}

/// The column chunks, where the footer has them in the file.
fn row_group_bytes(
    file: &Bytes,
    footer: Arc<Footer>,
    columns: &[SelectedColumn],
    memory_bytes: u64,
) -> Result<RowGroupBytes, ArrowError> {
    let ranges = leaf_ranges(&footer, RowGroup(0), columns.iter());
    let chunks = ranges.into_iter().map(|(leaf, range)| {
        let bytes = file.get(to_usize(range.start)..to_usize(range.end));
        let bytes = bytes.ok_or_else(|| damaged(format!("{NAME}: a column lies outside of the file")))?;
        Ok((leaf, ChunkBytes::Whole(file.slice_ref(bytes))))
    });
    // Large pages are taken from a budget of their own: what the whole process has is not known here.
    let page_limit = PageLimit::new(ReadLimits::default().page_bytes, Budget::new(memory_bytes));
    Ok(RowGroupBytes {
        row_group: 0,
        chunks: chunks.collect::<Result<_, ArrowError>>()?,
        page_limit: Arc::new(page_limit),
        footer,
    })
}
