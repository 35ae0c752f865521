//! What to decode of one file, and how its columns become those of the answer.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};

use super::{RowFilter, ScanRequest, Sieve, Split, Taker};
use crate::adapt::{Adapter, Origin};
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::footer::{Footer, RowGroupInfo};
use crate::key::{sum_of, to_u64, to_usize};
use crate::retention::Reread;
use crate::schema::Positions;

/// What all units of a scan share.
pub(crate) struct Shape {
    pub(crate) read: SchemaRef,
    pub(crate) output: SchemaRef,
    /// Positions of the output's columns among those read.
    pub(crate) output_columns: Vec<usize>,
    pub(crate) filter: Option<Arc<dyn RowFilter>>,
    pub(crate) sieve: Option<Arc<dyn Sieve>>,
    pub(crate) batch_bytes: usize,
    /// Whether strides are to be those of chunks, whatever the size of batches.
    pub(crate) as_chunks: bool,
    pub(crate) taker: Taker,
    pub(crate) reread: Reread,
}

impl Shape {
    pub(crate) fn new(request: &ScanRequest) -> Result<Self, ReadError> {
        let mut positions = Positions::of(&request.read);
        let mut position = |name: &String| {
            let found = positions.find(name);
            found.ok_or_else(|| ReadError::internal(format!("output column {name:?} is not read")))
        };
        Ok(Self {
            read: Arc::clone(&request.read),
            output: Arc::clone(&request.output),
            output_columns: request
                .output
                .fields()
                .iter()
                .map(|field| position(field.name()))
                .collect::<Result<_, _>>()?,
            filter: request.filter.clone(),
            sieve: request.sieve.clone(),
            batch_bytes: request.batch_bytes.max(1),
            as_chunks: false,
            taker: request.taker,
            reread: request.reread,
        })
    }

    /// Columns that are loaded, of which no batch is made.
    pub(crate) fn of_columns(read: &Schema) -> Self {
        let read = Arc::new(read.clone());
        Self {
            output: Arc::clone(&read),
            read,
            output_columns: Vec::new(),
            filter: None,
            sieve: None,
            batch_bytes: 1,
            as_chunks: true,
            taker: Taker::Computes,
            reread: Reread::Unknown,
        }
    }

    /// All of these columns, in batches as long as strides are.
    pub(crate) fn of_batches(read: Schema, taker: Taker) -> Self {
        let read = Arc::new(read);
        Self {
            output_columns: (0..read.fields().len()).collect(),
            output: Arc::clone(&read),
            read,
            filter: None,
            sieve: None,
            batch_bytes: usize::MAX,
            as_chunks: true,
            taker,
            reread: Reread::Unknown,
        }
    }
}

/// How one split's file is read.
pub(crate) struct FilePlan {
    pub(crate) footer: Arc<Footer>,
    pub(crate) split: Split,
    pub(crate) shape: Arc<Shape>,
    /// The columns to decode.
    pub(crate) columns: Vec<SelectedColumn>,
    pub(crate) adapter: Adapter,
}

impl FilePlan {
    pub(crate) fn new(footer: Arc<Footer>, split: Split, shape: Arc<Shape>) -> Self {
        let (columns, origins) = taken(&footer, &split.constants, &shape.read);
        let adapter = Adapter::new(Arc::clone(&shape.read), origins);
        Self {
            footer,
            split,
            shape,
            columns,
            adapter,
        }
    }

    pub(crate) fn group(&self, row_group: usize) -> Option<&RowGroupInfo> {
        self.footer.row_groups.get(row_group)
    }

    /// Bytes that these columns of a row group take decoded, about.
    pub(crate) fn decoded_bytes<'a>(&self, row_group: usize, columns: impl Iterator<Item = &'a SelectedColumn>) -> u64 {
        let Some(group) = self.group(row_group) else { return 0 };
        let leaves = columns.flat_map(|column| &column.leaves);
        sum_of(leaves.filter_map(|leaf| group.leaf_bytes.get(*leaf)))
    }
}

/// The columns of a file that are decoded to give those of `read`, and where each of these comes from, by positions among
/// them. Constants go before columns of the file.
pub(crate) fn taken(
    footer: &Footer,
    constants: &[(String, ArrayRef)],
    read: &Schema,
) -> (Vec<SelectedColumn>, Vec<Origin>) {
    let mut columns = Vec::new();
    let origins = read.fields().iter().map(|field| {
        if let Some(value) = constant(constants, field.name()) {
            return Origin::Constant(value);
        }
        match footer.position(field.name()) {
            Some(root) => {
                columns.push(SelectedColumn::new(footer, root, field.data_type()));
                Origin::Decoded(columns.len() - 1)
            }
            None => Origin::Missing,
        }
    });
    let origins = origins.collect();
    (columns, origins)
}

fn constant(constants: &[(String, ArrayRef)], name: &str) -> Option<ArrayRef> {
    let mut constants = constants.iter();
    let (_, value) = constants.find(|(constant, _)| constant == name)?;
    Some(Arc::clone(value))
}

/// Bytes of one stride over all columns of a row group, for chunks.
const CHUNK_STRIDE_BYTES: u64 = 2 << 20;
/// Fewest rows of a chunk's stride, so that narrow projections of wide tables do not become a great many tiny batches.
const CHUNK_STRIDE_ROWS: u64 = 8 << 10;
/// Most rows of any stride.
const STRIDE_ROWS_LIMIT: u64 = 1 << 20;
/// Strides are whole words of a validity bitmap, so that slices of them begin at a byte; those of chunks are 64 bytes of it, so
/// that one stride's buffers end where the next one's may begin.
const STRIDE_ALIGN: u64 = 64;
const CHUNK_STRIDE_ALIGN: u64 = 512;
/// Bytes of one stride over all columns at most, by the footer's sizes.
const STRIDE_BYTES_LIMIT: u64 = 32 << 20;

/// Rows of a stride such that all columns of the row group have about [`CHUNK_STRIDE_BYTES`]: the same for every
/// projection, so that chunks put together at different times fit each other.
pub(crate) fn chunk_stride(group: &RowGroupInfo) -> usize {
    let bytes = sum_of(&group.decoded_bytes);
    let rows = stride(group.rows, bytes, CHUNK_STRIDE_BYTES, CHUNK_STRIDE_ROWS);
    to_usize(aligned(aligned(rows, CHUNK_STRIDE_ALIGN), STRIDE_ALIGN))
}

/// Rows of a stride such that the columns asked for, which take `bytes`, make batches of `batch_bytes`.
pub(crate) fn request_stride(group: &RowGroupInfo, bytes: u64, batch_bytes: usize) -> usize {
    let rows = stride(group.rows, bytes, to_u64(batch_bytes), STRIDE_ALIGN);
    to_usize(aligned(rows, STRIDE_ALIGN))
}

fn stride(rows: u64, bytes: u64, target_bytes: u64, fewest: u64) -> u64 {
    let row_bytes = bytes.div_ceil(rows.max(1)).max(1);
    let aimed = (target_bytes / row_bytes).clamp(fewest, STRIDE_ROWS_LIMIT);
    let safe = (STRIDE_BYTES_LIMIT / row_bytes).max(1);
    aimed.min(safe)
}

/// As many rows as are whole multiples of `align`, if there are any.
fn aligned(rows: u64, align: u64) -> u64 {
    if rows > align { rows / align * align } else { rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(rows: u64, bytes: u64) -> RowGroupInfo {
        RowGroupInfo {
            rows,
            stored_bytes: vec![bytes],
            decoded_bytes: vec![bytes],
            leaf_bytes: vec![bytes],
            span: 0..bytes,
        }
    }

    #[test]
    fn strides_follow_the_width_of_rows() {
        assert_eq!(chunk_stride(&group(100_000, 20_000_000)), 10_240);
        // A thousand doubles a row: the floor of rows gives way to the bound in bytes.
        assert_eq!(chunk_stride(&group(10_000, 80_000_000)), 4_096);
        // One value of 100 MiB a row.
        assert_eq!(chunk_stride(&group(4, 400 << 20)), 1);
        assert_eq!(chunk_stride(&group(0, 0)), 1 << 20);
        assert_eq!(
            request_stride(&group(1_000_000, 8_000_000), 8_000_000, 2 << 20),
            262_144
        );
    }
}
