//! Neighbouring strides as one array.
//!
//! A chunk is cut into strides, so that all columns of a row group together make batches of a size that a message likes. Who
//! reads few of them, or maps the memory, wants fewer and longer arrays: what a batch costs does not depend on its rows. So
//! the strides of flat columns lie one after the other in their segment, and a run of them is one array, without a copy.
//!
//! ```text
//! a run of 3 strides:  validity 0, 1, 2 | values 0, 1, 2 | texts 0, 1, 2
//! ```
//! Views say by a number in which buffer a text is. The numbers are those of the run; a stride has empty buffers in place of
//! its neighbours'.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, ByteView, GenericByteViewArray, make_array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};

use super::segment::identity;

/// Most strides of a run: about what a reader who maps the memory likes to be handed at once, 32 MiB of all columns.
pub(crate) const RUN_STRIDES: usize = 16;
/// A text that is no longer is in its view.
const INLINE_BYTES: u32 = 12;

/// Strides that lie one after the other: where in their segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) strides: Range<usize>,
    pub(super) rows: usize,
    /// Of all of them, where any has a null.
    pub(super) validity: Option<Range<usize>>,
    pub(super) values: Range<usize>,
}

/// Bytes of the first buffer of an array of this type, whose other buffers, if any, are texts that the first refers to. None
/// for other types.
pub(super) fn value_bytes(data_type: &DataType, rows: usize) -> Option<usize> {
    let width = match data_type {
        DataType::Boolean => return Some(rows.div_ceil(8)),
        DataType::Utf8View | DataType::BinaryView => size_of::<u128>(),
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).ok()?,
        // Its keys mean nothing without its values.
        DataType::Dictionary(..) => return None,
        other => other.primitive_width()?,
    };
    rows.checked_mul(width)
}

/// Strides whose views number the buffers of their run.
pub(super) fn renumbered(mut strides: Vec<ArrayRef>) -> Vec<ArrayRef> {
    for run in strides.chunks_mut(RUN_STRIDES) {
        match run.first().map(|stride| stride.data_type()) {
            Some(DataType::Utf8View) => renumber::<StringViewType>(run),
            Some(DataType::BinaryView) => renumber::<BinaryViewType>(run),
            _ => {}
        }
    }
    strides
}

fn renumber<T: ByteViewType>(run: &mut [ArrayRef]) {
    // Strides share the buffers of dictionaries.
    let mut known: HashMap<(usize, usize), usize> = HashMap::new();
    for stride in run {
        let array = stride.as_byte_view::<T>();
        let number = |buffer| {
            let next = known.len();
            *known.entry(identity(buffer)).or_insert(next)
        };
        let numbers: Vec<usize> = array.data_buffers().iter().map(number).collect();
        if numbers.iter().copied().eq(0..numbers.len()) {
            continue;
        }
        let views: Vec<u128> = array.views().iter().map(|view| moved(*view, &numbers)).collect();
        let mut buffers = vec![Buffer::from_vec(Vec::<u8>::new()); numbers.iter().max().map_or(0, |last| last + 1)];
        for (buffer, number) in array.data_buffers().iter().zip(numbers) {
            buffers[number] = buffer.clone();
        }
        *stride = Arc::new(trusted::<T>(array, views.into(), buffers));
    }
}

/// A view whose text is in the buffer that `numbers` has for it.
fn moved(view: u128, numbers: &[usize]) -> u128 {
    let mut parts = ByteView::from(view);
    if parts.length <= INLINE_BYTES {
        return view;
    }
    let number = usize::try_from(parts.buffer_index)
        .ok()
        .and_then(|own| numbers.get(own));
    if let Some(number) = number.and_then(|number| u32::try_from(*number).ok()) {
        parts.buffer_index = number;
    }
    parts.as_u128()
}

/// The array with these views of the same texts, and the same nulls.
#[expect(unsafe_code, reason = "validating views anew would read all texts")]
fn trusted<T: ByteViewType>(
    of: &GenericByteViewArray<T>,
    views: ScalarBuffer<u128>,
    buffers: Vec<Buffer>,
) -> GenericByteViewArray<T> {
    // SAFETY: the views are those of a valid array, and each finds the same text under its number.
    unsafe { GenericByteViewArray::new_unchecked(views, buffers, of.nulls().cloned()) }
}

/// So many strides of `run`, whose array is `whole`, from one of them on.
pub(super) fn part(whole: &ArrayRef, run: &[ArrayRef], strides: Range<usize>) -> ArrayRef {
    if strides.len() == run.len() {
        return Arc::clone(whole);
    }
    let rows = |strides: &[ArrayRef]| strides.iter().map(|stride| stride.len()).sum::<usize>();
    let (from, strides) = (rows(&run[..strides.start]), &run[strides]);
    if let [only] = strides {
        return Arc::clone(only);
    }
    let part = whole.slice(from, rows(strides));
    match part.data_type() {
        DataType::Utf8View => shown::<StringViewType>(&part, strides),
        DataType::BinaryView => shown::<BinaryViewType>(&part, strides),
        // Data drops a bitmap in which nothing is null.
        _ => make_array(part.to_data()),
    }
}

/// The part without the texts of other strides.
fn shown<T: ByteViewType>(part: &ArrayRef, strides: &[ArrayRef]) -> ArrayRef {
    let strides: Vec<ArrayData> = strides.iter().map(|stride| stride.to_data()).collect();
    let part = part.as_byte_view::<T>();
    let array = trusted::<T>(part, part.views().clone(), texts(&strides).collect());
    make_array(array.to_data())
}

/// The buffers of texts that strides of one run have together, by their numbers.
pub(super) fn texts(strides: &[ArrayData]) -> impl Iterator<Item = Buffer> {
    let numbers = strides.iter().map(|stride| stride.buffers().len()).max().unwrap_or(1);
    (1..numbers).map(move |number| {
        let mut own = strides.iter().filter_map(|stride| stride.buffers().get(number));
        let filled = own.find(|buffer| !buffer.is_empty());
        filled.cloned().unwrap_or_else(|| Buffer::from_vec(Vec::<u8>::new()))
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryViewArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, ListArray,
        StringViewArray, StringViewBuilder,
    };
    use arrow::compute::concat;
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::super::live::LiveSegments;
    use super::super::segment::{Layout, Segment};
    use super::super::{Chunk, RUN_STRIDES};
    use super::*;
    use crate::budget::{Budget, Purpose};

    /// As few rows as strides of chunks have where they are whole.
    const STRIDE_ROWS: usize = 512;
    const KINDS: [&str; 6] = ["numbers", "truths", "bytes", "texts", "words", "views"];

    fn chunk(strides: Vec<ArrayRef>) -> (Chunk, LiveSegments) {
        let live = LiveSegments::default();
        let layout = Layout::new(&renumbered(strides));
        let reservation = Budget::new(1 << 30).take(layout.bytes(), Purpose::Chunks).unwrap();
        let (strides, runs) = Segment::store(&layout, reservation, &live).unwrap();
        let runs = runs.map(Arc::from);
        (
            Chunk {
                runs,
                ..Chunk::new(strides, layout.bytes())
            },
            live,
        )
    }

    fn text(row: usize) -> String {
        // As long as fits a view, longer, and nothing.
        ["", "short", "a text that is longer than twelve bytes"][row % 3].to_owned() + &"x".repeat(row % 5)
    }

    /// A stride of values that follow from its rows' numbers; every `null_every`th is null.
    fn stride(kind: &str, rows: Range<usize>, null_every: Option<usize>, words: &StringViewArray) -> ArrayRef {
        let valid = |row: &usize| null_every.is_none_or(|every| row % every != 0);
        let given = rows.map(|row| valid(&row).then_some(row));
        match kind {
            "numbers" => Arc::new(
                given
                    .map(|row| row.and_then(|row| i64::try_from(row).ok()))
                    .collect::<Int64Array>(),
            ),
            "truths" => Arc::new(given.map(|row| row.map(|row| row % 7 == 0)).collect::<BooleanArray>()),
            "bytes" => {
                let values = given.map(|row| row.map(|row| row.to_le_bytes()));
                Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 8).unwrap())
            }
            "texts" => Arc::new(given.map(|row| row.map(text)).collect::<StringViewArray>()),
            // Several buffers a stride.
            "views" => Arc::new(BinaryViewArray::from_iter(given.map(|row| row.map(text)))),
            // All strides have the dictionary's buffer, and some have one of their own as well.
            "words" => {
                let mut builder = StringViewBuilder::new();
                let block = builder.append_block(words.data_buffers()[0].clone());
                for row in given {
                    match row {
                        None => builder.append_null(),
                        Some(row) if row % 1_000 == 999 => builder.append_value(text(row) + " of its own"),
                        Some(row) => {
                            let view = ByteView::from(words.views()[row % words.len()]);
                            builder.try_append_view(block, view.offset, view.length).unwrap();
                        }
                    }
                }
                Arc::new(builder.finish())
            }
            other => unreachable!("{other}"),
        }
    }

    fn words() -> StringViewArray {
        (0..9)
            .map(|word| Some(format!("word number {word} of the dictionary")))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn runs_are_their_strides_without_a_copy(
            kind in proptest::sample::select(&KINDS[..]),
            whole in 0usize..40,
            rest in 1usize..=STRIDE_ROWS,
            // Where this is large, most strides have no null, and one in their midst has.
            null_every in proptest::option::of(prop_oneof![Just(3usize), Just(2_000), Just(1_000_000)]),
            power in 0u32..=4,
        ) {
            let dictionary = words();
            let rows = whole * STRIDE_ROWS + rest;
            let begins = (0..rows).step_by(STRIDE_ROWS);
            let strides: Vec<ArrayRef> = begins
                .map(|from| stride(kind, from..rows.min(from + STRIDE_ROWS), null_every, &dictionary))
                .collect();
            let all = concat(&strides.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
            let (kept, live) = chunk(strides.clone());
            for (kept, stride) in kept.strides.iter().zip(&strides) {
                kept.to_data().validate_full().unwrap();
                prop_assert_eq!(kept, stride);
                prop_assert_eq!(kept.null_count() > 0, kept.nulls().is_some());
            }
            let each = 1 << power;
            let runs = kept.in_runs(each).expect("strides lie one after the other");
            let mut from = 0;
            for run in &runs {
                prop_assert_eq!(run, &all.slice(from, run.len()));
                prop_assert_eq!(run.len(), (rows - from).min(each * STRIDE_ROWS));
                from += run.len();
                let data = run.to_data();
                data.validate_full().unwrap();
                prop_assert_eq!(data.null_count() > 0, data.nulls().is_some());
                let buffers = data.buffers().iter().chain(data.nulls().map(|nulls| nulls.buffer()));
                for buffer in buffers.filter(|buffer| !buffer.is_empty()) {
                    prop_assert!(live.of(buffer).is_some(), "a copy");
                }
                if run.len() < all.len() && matches!(kind, "texts" | "views") {
                    let shown: usize = data.buffers()[1..].iter().map(Buffer::len).sum();
                    let others: usize = kept.strides.iter().map(|stride| held(stride)).sum();
                    prop_assert!(shown < others || others == 0, "texts of other runs come along");
                }
            }
            prop_assert_eq!(from, rows);
        }
    }

    fn held(stride: &ArrayRef) -> usize {
        stride.to_data().buffers()[1..].iter().map(Buffer::len).sum()
    }

    #[test]
    fn what_does_not_lie_one_after_the_other_is_no_run() {
        let numbers = |rows: usize| Arc::new(Int64Array::from(vec![1; rows])) as ArrayRef;
        let (whole, _) = chunk(vec![numbers(512), numbers(512), numbers(3)]);
        assert_eq!(whole.in_runs(RUN_STRIDES).unwrap().len(), 1);
        // The second one begins behind padding.
        let (padded, _) = chunk(vec![numbers(513), numbers(512)]);
        assert!(padded.in_runs(RUN_STRIDES).is_none());
        // Both are the same memory.
        let twice = numbers(512);
        assert!(chunk(vec![Arc::clone(&twice), twice]).0.in_runs(RUN_STRIDES).is_none());
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]);
        assert!(chunk(vec![Arc::new(lists)]).0.in_runs(RUN_STRIDES).is_none());
        let keys = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0; 512]), Arc::new(words()));
        assert!(chunk(vec![Arc::new(keys)]).0.in_runs(RUN_STRIDES).is_none());
        assert!(chunk(vec![numbers(0)]).0.in_runs(RUN_STRIDES).is_none());
    }
}
