//! Rows of numbers, laid out row after row.
//!
//! A batch of a shuffled clump takes its rows from all over the clump. Column by column, each value is a cache miss of its own;
//! row after row, all values of a row lie in one or two cache lines. So the columns that have one width and no null are
//! transposed once, when the clump has come, and back when a batch is made: both go through memory in order, and only whole rows
//! are fetched from anywhere.
//!
//! A packed row has its widest values first, so that each lies at a multiple of its width. Decimals are packed as the doubles
//! that they become for torch, half as wide.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::double::doubles;

/// Rows that are transposed at a time: few enough to stay in the nearest cache, whatever their width.
const BLOCK_ROWS: usize = 256;

/// The columns of a clump that are packed.
#[derive(Debug)]
pub(super) struct Packed {
    columns: Vec<PackedColumn>,
    /// Bytes from one row to the next.
    stride: usize,
    bytes: Buffer,
}

#[derive(Debug)]
struct PackedColumn {
    /// Its number among the scan's columns.
    number: usize,
    data_type: DataType,
    /// Bytes of a value: 1, 2, 4, 8 or 16.
    width: usize,
    /// Where its value lies in a row, in bytes.
    offset: usize,
}

impl Packed {
    /// Packs the columns of these pieces that can be; none where no column can.
    pub(super) fn new(schema: &Schema, pieces: &[RecordBatch]) -> Option<Self> {
        let (columns, stride) = layout(schema, pieces);
        if columns.is_empty() {
            return None;
        }
        let rows: usize = pieces.iter().map(RecordBatch::num_rows).sum();
        let mut bytes = MutableBuffer::from_len_zeroed(rows * stride);
        let mut rest = bytes.as_slice_mut();
        for piece in pieces {
            let (packed, behind) = rest.split_at_mut(piece.num_rows() * stride);
            pack(&columns, stride, piece, packed);
            rest = behind;
        }
        Some(Self {
            columns,
            stride,
            bytes: bytes.into(),
        })
    }

    /// Whether a column is packed.
    pub(super) fn has(&self, number: usize) -> bool {
        self.columns.iter().any(|column| column.number == number)
    }

    /// The packed columns' values of these rows, in this order, with the numbers of the columns.
    ///
    /// # Errors
    /// None that is known: the arrays are made of what arrays were made of.
    pub(super) fn take(&self, rows: &[u32]) -> Result<Vec<(usize, ArrayRef)>, ArrowError> {
        let mut values: Vec<MutableBuffer> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            values.push(MutableBuffer::from_len_zeroed(rows.len() * column.width));
        }
        let mut block = vec![0; BLOCK_ROWS * self.stride];
        for (number, some) in rows.chunks(BLOCK_ROWS).enumerate() {
            for (&row, place) in some.iter().zip(block.chunks_exact_mut(self.stride)) {
                let start = row.as_usize() * self.stride;
                place.copy_from_slice(&self.bytes.as_slice()[start..start + self.stride]);
            }
            for (column, values) in self.columns.iter().zip(&mut values) {
                let start = number * BLOCK_ROWS * column.width;
                let values = &mut values.as_slice_mut()[start..start + some.len() * column.width];
                column.unpack(&block, self.stride, values);
            }
        }
        let arrays = self.columns.iter().zip(values);
        let arrays = arrays.map(|(column, values)| Ok((column.number, column.array(values, rows.len())?)));
        arrays.collect()
    }
}

/// The columns that are packed, and the bytes of a row.
fn layout(schema: &Schema, pieces: &[RecordBatch]) -> (Vec<PackedColumn>, usize) {
    let mut columns: Vec<PackedColumn> = Vec::new();
    for (number, field) in schema.fields().iter().enumerate() {
        let width = field.data_type().primitive_width();
        let Some(width) = width.filter(|width| matches!(width, 1 | 2 | 4 | 8 | 16)) else {
            continue;
        };
        if pieces.iter().all(|piece| piece.column(number).null_count() == 0) {
            columns.push(PackedColumn {
                number,
                data_type: field.data_type().clone(),
                width,
                offset: 0,
            });
        }
    }
    columns.sort_by_key(|column| Reverse(column.width));
    let mut end = 0;
    for column in &mut columns {
        column.offset = end;
        end += column.width;
    }
    let widest = columns.first().map_or(1, |column| column.width);
    (columns, end.next_multiple_of(widest))
}

/// Transposes the columns of a piece into rows.
fn pack(columns: &[PackedColumn], stride: usize, piece: &RecordBatch, packed: &mut [u8]) {
    let values: Vec<(&PackedColumn, Buffer)> = columns
        .iter()
        .map(|column| (column, values(piece.column(column.number), column.width)))
        .collect();
    for (number, block) in packed.chunks_mut(BLOCK_ROWS * stride).enumerate() {
        let rows = block.len() / stride;
        for (column, values) in &values {
            let start = number * BLOCK_ROWS * column.width;
            column.pack(&values[start..start + rows * column.width], stride, block);
        }
    }
}

/// The values of an array, as they lie.
fn values(array: &ArrayRef, width: usize) -> Buffer {
    let data = array.to_data();
    let buffer = data.buffers().first().cloned().unwrap_or_default();
    buffer.slice_with_length(data.offset() * width, data.len() * width)
}

impl PackedColumn {
    fn pack(&self, values: &[u8], stride: usize, rows: &mut [u8]) {
        match self.width {
            1 => scatter::<1>(values, self.offset, stride, rows),
            2 => scatter::<2>(values, self.offset, stride, rows),
            4 => scatter::<4>(values, self.offset, stride, rows),
            8 => scatter::<8>(values, self.offset, stride, rows),
            _ => scatter::<16>(values, self.offset, stride, rows),
        }
    }

    fn unpack(&self, rows: &[u8], stride: usize, values: &mut [u8]) {
        match self.width {
            1 => collect::<1>(rows, self.offset, stride, values),
            2 => collect::<2>(rows, self.offset, stride, values),
            4 => collect::<4>(rows, self.offset, stride, values),
            8 => collect::<8>(rows, self.offset, stride, values),
            _ => collect::<16>(rows, self.offset, stride, values),
        }
    }

    fn array(&self, values: MutableBuffer, rows: usize) -> Result<ArrayRef, ArrowError> {
        let data = ArrayData::builder(self.data_type.clone())
            .len(rows)
            .add_buffer(values.into())
            .build()?;
        Ok(make_array(data))
    }
}

/// Values into their places in rows. The width is known when this is compiled, so that a value is moved by one instruction.
fn scatter<const WIDTH: usize>(values: &[u8], offset: usize, stride: usize, rows: &mut [u8]) {
    let (values, _) = values.as_chunks::<WIDTH>();
    for (value, row) in values.iter().zip(rows.chunks_exact_mut(stride)) {
        row[offset..offset + WIDTH].copy_from_slice(value);
    }
}

/// Values out of their places in rows.
fn collect<const WIDTH: usize>(rows: &[u8], offset: usize, stride: usize, values: &mut [u8]) {
    let (values, _) = values.as_chunks_mut::<WIDTH>();
    for (value, row) in values.iter_mut().zip(rows.chunks_exact(stride)) {
        value.copy_from_slice(&row[offset..offset + WIDTH]);
    }
}

/// A schema whose decimals are doubles.
pub(super) fn as_doubles(schema: &SchemaRef) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| match field.data_type().is_decimal() {
            true => Arc::new(Field::clone(field).with_data_type(DataType::Float64)),
            false => Arc::clone(field),
        });
    let fields: Vec<_> = fields.collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A piece with the types of `schema`, which are its own or wider ones, as of [`as_doubles`].
///
/// # Errors
/// None that is known: every decimal has a double, and every key a wider one.
pub(super) fn retyped(piece: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = piece.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match field.data_type() {
        same if same == column.data_type() => Ok(Arc::clone(column)),
        DataType::Float64 => doubles(column),
        wider => cast(column, wider),
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(piece.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
