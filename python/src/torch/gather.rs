//! A batch's rows, taken out of the clumps that have them.
//!
//! Rows that follow each other in one piece are a slice of it, without a copy; those of several pieces are put together with
//! one copy; rows in a random order are gathered, numbers out of packed rows (`pack`).

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::pack::{self, Packed};

/// The rows of a clump's units, one after another.
#[derive(Debug)]
pub(super) struct ClumpRows {
    schema: SchemaRef,
    /// As they came, but for the columns that are packed.
    pieces: Vec<RecordBatch>,
    /// Rows up to the end of each piece.
    ends: Vec<u64>,
    /// Which row stands at each place, and the columns that this is easier with; none where rows stand as they came.
    shuffled: Option<(Vec<u32>, Option<Packed>)>,
}

impl ClumpRows {
    /// Rows that stand as they came, or in an order: for each place the row that stands there.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn new(
        schema: SchemaRef,
        pieces: Vec<RecordBatch>,
        order: Option<Vec<u32>>,
    ) -> Result<Self, ArrowError> {
        let mut rows = 0;
        let ends = pieces.iter().map(|piece| {
            rows += to_u64(piece.num_rows());
            rows
        });
        let ends = ends.collect();
        let mut schema = with_wide_keys(&schema);
        if order.is_some() {
            schema = pack::as_doubles(&schema);
        }
        let pieces = pieces.iter().map(|piece| pack::retyped(piece, &schema));
        let mut pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        let Some(order) = order else {
            return Ok(Self {
                schema,
                pieces,
                ends,
                shuffled: None,
            });
        };
        let packed = Packed::new(&schema, &pieces);
        if let Some(packed) = &packed {
            let rest: Vec<usize> = (0..schema.fields().len())
                .filter(|&number| !packed.has(number))
                .collect();
            for piece in &mut pieces {
                *piece = piece.project(&rest)?;
            }
        }
        Ok(Self {
            schema,
            pieces,
            ends,
            shuffled: Some((order, packed)),
        })
    }

    /// The piece that has a row, and the row's number in it.
    fn find(&self, row: u64) -> (usize, usize) {
        let piece = self.ends.partition_point(|&end| end <= row);
        let start = piece.checked_sub(1).and_then(|before| self.ends.get(before));
        (piece, to_usize(row - start.copied().unwrap_or(0)))
    }

    /// Adds the slices of the pieces that have these rows.
    fn slice(&self, rows: Range<u64>, parts: &mut Vec<RecordBatch>) {
        let mut row = rows.start;
        while row < rows.end {
            let (piece, start) = self.find(row);
            let Some(piece) = self.pieces.get(piece) else { break };
            let some = to_usize(rows.end - row).min(piece.num_rows() - start);
            parts.push(piece.slice(start, some));
            row += to_u64(some);
        }
    }

    /// The rows of these numbers, in this order.
    fn picked(&self, order: &[u32], packed: Option<&Packed>) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        if let Some(packed) = packed {
            for (number, array) in packed.take(order)? {
                columns[number] = Some(array);
            }
        }
        if columns.iter().any(Option::is_none) {
            let indices: Vec<(usize, usize)> = order.iter().map(|&row| self.find(u64::from(row))).collect();
            let pieces: Vec<&RecordBatch> = self.pieces.iter().collect();
            let mut rest = interleaved(&pieces, &indices)?.into_iter();
            for column in columns.iter_mut().filter(|column| column.is_none()) {
                *column = rest.next();
            }
        }
        assembled(&self.schema, columns.into_iter().flatten().collect(), order.len())
    }
}

/// Some places of a clump.
pub(super) type Places = (Arc<ClumpRows>, Range<u64>);

/// The rows at these places, in their order, and whether they lie where they came.
///
/// # Errors
/// Columns that cannot be put together, which those of one scan can.
pub(super) fn gather(places: &[Places]) -> Result<(RecordBatch, bool), ArrowError> {
    let mut parts = Vec::new();
    let mut is_in_place = true;
    for (clump, places) in places {
        match &clump.shuffled {
            None => clump.slice(places.clone(), &mut parts),
            Some((order, packed)) => {
                let order = order.get(to_usize(places.start)..to_usize(places.end));
                parts.push(clump.picked(order.unwrap_or_default(), packed.as_ref())?);
                is_in_place = false;
            }
        }
    }
    match parts.as_slice() {
        [one] => Ok((one.clone(), is_in_place)),
        _ => {
            let schema = places.first().map(|(clump, _)| Arc::clone(&clump.schema));
            concat_batches(&schema.unwrap_or_else(|| Arc::new(Schema::empty())), &parts).map(|batch| (batch, false))
        }
    }
}

/// Rows by their clump and their number in it, as they came.
///
/// # Errors
/// As [`gather`].
pub(super) fn pick(clumps: &[Arc<ClumpRows>], rows: &[(usize, u64)]) -> Result<RecordBatch, ArrowError> {
    let mut first_pieces = Vec::with_capacity(clumps.len());
    let mut pieces: Vec<&RecordBatch> = Vec::new();
    for clump in clumps {
        first_pieces.push(pieces.len());
        pieces.extend(&clump.pieces);
    }
    let indices = rows.iter().filter_map(|&(clump, row)| {
        let (piece, row) = clumps.get(clump)?.find(row);
        Some((first_pieces.get(clump)? + piece, row))
    });
    let indices: Vec<_> = indices.collect();
    let schema = clumps
        .first()
        .map_or_else(|| Arc::new(Schema::empty()), |clump| Arc::clone(&clump.schema));
    assembled(&schema, interleaved(&pieces, &indices)?, indices.len())
}

/// The columns of rows by their piece and their number in it.
fn interleaved(pieces: &[&RecordBatch], indices: &[(usize, usize)]) -> Result<Vec<ArrayRef>, ArrowError> {
    let count = pieces.first().map_or(0, |piece| piece.num_columns());
    let columns = (0..count).map(|column| {
        let arrays: Vec<&dyn Array> = pieces.iter().map(|piece| piece.column(column).as_ref()).collect();
        interleave(&arrays, indices)
    });
    columns.collect()
}

/// A schema whose dictionaries have keys of 32 bits at the least: those of several files have more values together than narrower
/// keys can number.
fn with_wide_keys(schema: &SchemaRef) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(widened).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn widened(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Dictionary(keys, values) if keys.primitive_width().is_some_and(|bytes| bytes < 4) => {
            DataType::Dictionary(Box::new(DataType::Int32), values.clone())
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(widened).collect()),
        DataType::List(item) => DataType::List(widened(item)),
        DataType::LargeList(item) => DataType::LargeList(widened(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(widened(item), *size),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn assembled(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

pub(super) fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
