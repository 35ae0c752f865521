//! A batch as the protocol describes it: where each buffer is, in a segment or in the frame's own inline bytes.
//!
//! Buffers go by reference, but for two: a validity bitmap that does not begin where its array does is shifted, and a part of a
//! larger array that is in no segment is copied out, since the whole of it would go with every part.

use std::collections::HashSet;

use arrow::array::{Array as _, ArrayData, BooleanBufferBuilder, MutableArrayData, RecordBatch};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};

use super::leases::to_u64;
use super::wire::{Array, INLINE_ALIGNMENT_BYTES, Place, SegmentId};

/// An array that is in no segment may hold one part in this many more than it shows, and as much again as a small buffer.
const SLACK: usize = 4;
const SLACK_BYTES: usize = 256;

/// A described batch.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) columns: Vec<Array>,
    pub(super) inline: Inline,
    /// The segments that it refers to.
    pub(super) used: HashSet<SegmentId>,
    /// Bytes of the buffers that are in segments.
    pub(super) shared_bytes: u64,
}

/// The bytes that go with a frame: buffers by reference, each at a multiple of [`INLINE_ALIGNMENT_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Inline {
    pieces: Vec<Buffer>,
    bytes: usize,
}

impl Inline {
    /// All of them, padding included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        static ZEROS: [u8; INLINE_ALIGNMENT_BYTES] = [0; INLINE_ALIGNMENT_BYTES];
        let mut at = 0;
        self.pieces.iter().flat_map(move |piece| {
            let padding = padding(at);
            at += padding + piece.len();
            [&ZEROS[..padding], piece.as_slice()]
        })
    }

    fn push(&mut self, buffer: Buffer) -> Place {
        let offset = self.bytes + padding(self.bytes);
        self.bytes = offset + buffer.len();
        let place = Place(SegmentId::INLINE, to_u64(offset), to_u64(buffer.len()));
        self.pieces.push(buffer);
        place
    }
}

fn padding(at: usize) -> usize {
    at.next_multiple_of(INLINE_ALIGNMENT_BYTES) - at
}

/// Describes a batch. `find` gives the segment that a buffer is in, where the client may be referred to it, and where in it the
/// buffer begins.
pub(super) fn describe(batch: &RecordBatch, find: impl FnMut(&Buffer) -> Option<(SegmentId, u64)>) -> Described {
    let mut describer = Describer {
        find,
        out: Described::default(),
    };
    for column in batch.columns() {
        let data = column.to_data();
        let array = if describer.is_shared(&data) || is_whole(&data) {
            describer.array(&data)
        } else {
            describer.array(&copied_out(&data))
        };
        describer.out.columns.push(array);
    }
    describer.out
}

struct Describer<F> {
    find: F,
    out: Described,
}

impl<F: FnMut(&Buffer) -> Option<(SegmentId, u64)>> Describer<F> {
    /// Whether all of an array is in segments.
    fn is_shared(&mut self, data: &ArrayData) -> bool {
        let validity = data.nulls().map(NullBuffer::buffer);
        let mut buffers = validity.into_iter().chain(data.buffers());
        buffers.all(|buffer| buffer.is_empty() || (self.find)(buffer).is_some())
            && data.child_data().iter().all(|child| self.is_shared(child))
    }

    fn array(&mut self, data: &ArrayData) -> Array {
        let nulls = match data.data_type() {
            DataType::Null => data.len(),
            _ => data.null_count(),
        };
        let validity = data.nulls().filter(|nulls| nulls.null_count() > 0);
        Array {
            length: to_u64(data.len()),
            offset: to_u64(data.offset()),
            nulls: to_u64(nulls),
            validity: validity.map(|nulls| self.place(validity_at(nulls, data.offset()))),
            buffers: data.buffers().iter().map(|buffer| self.place(buffer.clone())).collect(),
            children: data.child_data().iter().map(|child| self.array(child)).collect(),
        }
    }

    fn place(&mut self, buffer: Buffer) -> Place {
        if buffer.is_empty() {
            return Place::EMPTY;
        }
        match (self.find)(&buffer) {
            Some((id, offset)) => {
                let bytes = to_u64(buffer.len());
                self.out.used.insert(id);
                self.out.shared_bytes += bytes;
                Place(id, offset, bytes)
            }
            None => self.out.inline.push(buffer),
        }
    }
}

/// The bitmap of `nulls` with its first value at bit `offset`: a part of the same buffer, where the bits lie right for that.
fn validity_at(nulls: &NullBuffer, offset: usize) -> Buffer {
    let bytes = (offset + nulls.len()).div_ceil(8);
    match nulls.offset().checked_sub(offset) {
        Some(skipped) if skipped % 8 == 0 => nulls.buffer().slice_with_length(skipped / 8, bytes),
        _ => {
            let mut shifted = BooleanBufferBuilder::new(offset + nulls.len());
            shifted.append_n(offset, false);
            shifted.append_buffer(nulls.inner());
            shifted.finish().into_inner()
        }
    }
}

/// The same values in memory of their own; as they are, where Arrow cannot copy them.
fn copied_out(data: &ArrayData) -> ArrayData {
    let mut copy = MutableArrayData::new(vec![data], false, data.len());
    match copy.try_extend(0, 0, data.len()) {
        Ok(()) => copy.freeze(),
        Err(_) => data.clone(),
    }
}

/// Whether an array holds about what it shows. Views are compacted where batches are cut.
fn is_whole(data: &ArrayData) -> bool {
    let rows = data.len();
    let nulls = data
        .nulls()
        .is_none_or(|nulls| about(nulls.buffer().len(), rows.div_ceil(8)));
    let buffers = data.buffers();
    nulls
        && match data.data_type() {
            DataType::Utf8 | DataType::Binary => {
                about(len_of(buffers, 1), range::<i32>(data)) && about_rows::<i32>(data)
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                about(len_of(buffers, 1), range::<i64>(data)) && about_rows::<i64>(data)
            }
            DataType::List(_) | DataType::Map(_, _) => child_is_whole(data, range::<i32>(data)),
            DataType::LargeList(_) => child_is_whole(data, range::<i64>(data)),
            DataType::FixedSizeList(_, size) => child_is_whole(data, rows * size.as_usize()),
            DataType::Struct(_) => data
                .child_data()
                .iter()
                .all(|child| about(child.len(), rows) && is_whole(child)),
            DataType::Boolean => about(len_of(buffers, 0), rows.div_ceil(8)),
            DataType::Dictionary(keys, _) => about(len_of(buffers, 0), rows * keys.primitive_width().unwrap_or(8)),
            DataType::FixedSizeBinary(width) => about(len_of(buffers, 0), rows * width.as_usize()),
            other => match other.primitive_width() {
                Some(width) => about(len_of(buffers, 0), rows * width),
                None => true,
            },
        }
}

fn about(held: usize, shown: usize) -> bool {
    held <= shown + shown / SLACK + SLACK_BYTES
}

fn about_rows<O: ArrowNativeType>(data: &ArrayData) -> bool {
    about(len_of(data.buffers(), 0), (data.len() + 1) * size_of::<O>())
}

fn child_is_whole(data: &ArrayData, shown: usize) -> bool {
    data.child_data()
        .iter()
        .all(|child| about(child.len(), shown) && is_whole(child))
}

fn len_of(buffers: &[Buffer], at: usize) -> usize {
    buffers.get(at).map_or(0, Buffer::len)
}

/// How many elements the offsets of an array span.
fn range<O: ArrowNativeType>(data: &ArrayData) -> usize {
    let Some(offsets) = data.buffers().first().map(|buffer| buffer.typed_data::<O>()) else {
        return 0;
    };
    let at = |index: usize| offsets.get(index).map_or(0, |offset| offset.as_usize());
    at(data.offset() + data.len()).saturating_sub(at(data.offset()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn inline_of(array: ArrayRef) -> (Described, Vec<u8>) {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap();
        let described = describe(&batch, |_| None);
        let bytes = described.inline.pieces().flatten().copied().collect();
        (described, bytes)
    }

    #[test]
    fn what_is_in_no_segment_is_inline_and_aligned() {
        let array = Int64Array::from((0..100).map(|i| (i % 3 > 0).then_some(i)).collect::<Vec<_>>());
        let (described, bytes) = inline_of(Arc::new(array.clone()));
        let column = &described.columns[0];
        assert_eq!((column.length, column.offset, column.nulls), (100, 0, 34));
        assert_eq!(column.validity, Some(Place(SegmentId::INLINE, 0, 13)));
        assert_eq!(column.buffers, [Place(SegmentId::INLINE, 64, 800)]);
        assert_eq!(bytes.len(), described.inline.bytes());
        assert_eq!(bytes[64..], *array.to_data().buffers()[0].as_slice());
    }

    #[test]
    fn a_part_of_a_large_array_does_not_bring_all_of_it() {
        let texts: ArrayRef = Arc::new((0..10_000).map(|i| Some(format!("text {i}"))).collect::<StringArray>());
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..10_000).map(|i| Some(vec![Some(i); 3])),
        ));
        let numbers: ArrayRef = Arc::new((0..10_000).collect::<Int64Array>());
        for array in [texts, lists, numbers] {
            assert!(inline_of(Arc::clone(&array)).1.len() > 40_000);
            assert!(inline_of(array.slice(5_000, 100)).1.len() < 3_000);
        }
    }

    #[test]
    fn validity_begins_where_the_values_do() {
        let bits: Vec<Option<bool>> = (0..200).map(|i| (i % 5 > 0).then_some(i % 2 == 0)).collect();
        let array = BooleanArray::from(bits.clone());
        for from in [0, 1, 8, 64, 77] {
            let nulls = array.slice(from, 100).nulls().unwrap().clone();
            for offset in [0, 3, 8, from] {
                let bitmap = validity_at(&nulls, offset);
                for row in 0..100 {
                    let bit = arrow::util::bit_util::get_bit(&bitmap, offset + row);
                    assert_eq!(bit, bits[from + row].is_some(), "{from} {offset} {row}");
                }
            }
        }
    }
}
