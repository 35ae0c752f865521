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
//!
//! Texts with offsets take one thing more: the offsets of each stride begin at 0, and those of a run go on. A run of all of
//! them has them in a segment beside, made when it is first asked for and where memory is free; of fewer, they are made for
//! each reader. Why not always: they are 4 bytes a row, a tenth of a table with many short texts, and most are never asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, ByteView, GenericByteViewArray, Int32Array, Int64Array, OffsetSizeTrait,
    make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use parking_lot::Mutex;

use super::live::LiveSegments;
use super::segment::{BUFFER_ALIGNMENT_BYTES, Layout, Segment, identity};
use crate::budget::{Budget, Purpose};
use crate::key::to_u64;

/// Most strides of a run: 32 MiB of all columns, where strides have the 2 MiB that they aim at.
pub(crate) const RUN_STRIDES: usize = 16;
/// A text that is no longer is in its view.
const INLINE_BYTES: u32 = 12;

/// How the rows of a column that is not nested lie in its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flat {
    /// One buffer of bits.
    Bits,
    /// One of values of so many bytes.
    Values(usize),
    /// One of views, and those of their texts.
    Views,
    /// One of offsets, and one of texts.
    Texts,
}

/// Strides that lie one after the other: where in their segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) strides: Range<usize>,
    pub(super) rows: usize,
    /// Of all of them, where any has a null.
    pub(super) validity: Option<Range<usize>>,
    /// Bits, values or views; the texts, where these have offsets.
    pub(super) values: Range<usize>,
}

/// A run in the memory of its segment.
#[derive(Debug)]
pub(super) enum Whole {
    Array(ArrayRef),
    /// All that an array takes, but for its offsets.
    Texts {
        validity: Option<Buffer>,
        texts: Buffer,
    },
}

/// The runs of a chunk.
#[derive(Debug)]
pub(super) struct Runs {
    wholes: Vec<Whole>,
    /// Runs of texts as arrays, once they were asked for.
    made: Mutex<Option<Arc<[ArrayRef]>>>,
    budget: Budget,
    live: LiveSegments,
}

impl Flat {
    /// None for other types.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bits,
            DataType::Utf8View | DataType::BinaryView => Self::Views,
            DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => Self::Texts,
            DataType::FixedSizeBinary(bytes) => Self::Values(usize::try_from(*bytes).ok()?),
            other => Self::Values(other.primitive_width()?),
        })
    }

    /// The buffer of an array that lies before that of the next stride, if it is as long as its rows take.
    pub(super) fn values_of(self, data: &ArrayData) -> Option<&Buffer> {
        let (buffer, bytes) = match self {
            Self::Bits => (data.buffers().first()?, data.len().div_ceil(8)),
            Self::Values(width) => (data.buffers().first()?, data.len().checked_mul(width)?),
            Self::Views => (data.buffers().first()?, data.len().checked_mul(size_of::<u128>())?),
            Self::Texts => (data.buffers().get(1)?, text_bytes(data)?),
        };
        (buffer.len() == bytes).then_some(buffer)
    }
}

/// Bytes of the texts of an array with offsets; none where the first is not at 0.
fn text_bytes(data: &ArrayData) -> Option<usize> {
    match data.data_type() {
        DataType::LargeUtf8 | DataType::LargeBinary => last_offset::<i64>(data),
        _ => last_offset::<i32>(data),
    }
}

fn last_offset<O: OffsetSizeTrait>(data: &ArrayData) -> Option<usize> {
    let offsets = data.buffers().first()?.typed_data::<O>();
    let last = offsets.get(data.len())?.as_usize();
    (offsets.first()?.as_usize() == 0).then_some(last)
}

impl Runs {
    pub(super) fn new(wholes: Vec<Whole>, budget: Budget, live: LiveSegments) -> Self {
        Self {
            wholes,
            made: Mutex::default(),
            budget,
            live,
        }
    }

    fn whole(&self, strides: &[ArrayRef]) -> Option<Arc<[ArrayRef]>> {
        let arrays: Option<Arc<[ArrayRef]>> = self.wholes.iter().map(Whole::array).collect();
        let made = || self.made.lock().clone();
        if let Some(arrays) = arrays.or_else(made) {
            return Some(arrays);
        }
        // Without the lock: of two who make them at the same time, one makes them in vain.
        let arrays: Arc<[ArrayRef]> = self.with_offsets(strides)?.into();
        Some(Arc::clone(self.made.lock().get_or_insert(arrays)))
    }

    /// Runs of texts as arrays, their offsets in a segment.
    fn with_offsets(&self, strides: &[ArrayRef]) -> Option<Vec<ArrayRef>> {
        let runs = || strides.chunks(RUN_STRIDES);
        let width = match strides.first()?.data_type() {
            DataType::LargeUtf8 | DataType::LargeBinary => size_of::<i64>(),
            _ => size_of::<i32>(),
        };
        // What they take at most, before anything is made: where memory is short, it always is for a while.
        let bytes = runs().map(|run| ((rows(run) + 1) * width).next_multiple_of(BUFFER_ALIGNMENT_BYTES));
        let room = self.budget.take_free(to_u64(bytes.sum()), Purpose::Chunks)?;
        let offsets: Option<Vec<ArrayRef>> = runs().map(offsets_of).collect();
        // Where the system has no more memory files, each reader is given strides.
        let (offsets, _) = Segment::store(&Layout::new(&offsets?), room, &self.live).ok()?;
        let wholes = self.wholes.iter().zip(runs()).zip(offsets);
        wholes
            .map(|((whole, run), offsets)| whole.texts(run, 0..run.len(), &offsets))
            .collect()
    }
}

/// The rows of a chunk in arrays of several strides each, put together as they are asked for.
#[derive(Debug)]
pub(crate) struct ChunkRuns {
    runs: Arc<Runs>,
    strides: Arc<[ArrayRef]>,
    /// Strides of an array, where a run has no fewer left.
    each: usize,
    /// All runs, where an array is one.
    whole: Option<Arc<[ArrayRef]>>,
    next: usize,
}

impl ChunkRuns {
    pub(super) fn new(runs: Arc<Runs>, strides: Arc<[ArrayRef]>, each: usize) -> Option<Self> {
        let whole = if each >= RUN_STRIDES {
            Some(runs.whole(&strides)?)
        } else {
            None
        };
        Some(Self {
            runs,
            strides,
            each: each.clamp(1, RUN_STRIDES),
            whole,
            next: 0,
        })
    }
}

impl Iterator for ChunkRuns {
    type Item = ArrayRef;

    fn next(&mut self) -> Option<ArrayRef> {
        let (number, from) = (self.next / RUN_STRIDES, self.next % RUN_STRIDES);
        let run = self
            .strides
            .chunks(RUN_STRIDES)
            .nth(number)
            .filter(|run| from < run.len())?;
        let to = run.len().min(from + self.each);
        let several = match &self.whole {
            Some(whole) => whole.get(number).cloned(),
            None => self.runs.wholes.get(number).and_then(|whole| whole.part(run, from..to)),
        };
        // What cannot be put together comes one by one.
        let (array, strides) = match several {
            Some(array) => (array, to - from),
            None => (Arc::clone(run.get(from)?), 1),
        };
        self.next += strides;
        Some(array)
    }
}

impl Whole {
    fn array(&self) -> Option<ArrayRef> {
        match self {
            Self::Array(array) => Some(Arc::clone(array)),
            Self::Texts { .. } => None,
        }
    }

    /// Some strides of `run`, which this is.
    fn part(&self, run: &[ArrayRef], strides: Range<usize>) -> Option<ArrayRef> {
        let some = &run[strides.clone()];
        match self {
            _ if some.len() == 1 => some.first().cloned(),
            Self::Array(whole) => Some(part(whole, rows(&run[..strides.start]), some)),
            Self::Texts { .. } => self.texts(run, strides, &offsets_of(some)?),
        }
    }

    /// The texts of some strides of `run` with these offsets.
    #[expect(unsafe_code, reason = "validating texts anew would read all of them")]
    fn texts(&self, run: &[ArrayRef], strides: Range<usize>, offsets: &ArrayRef) -> Option<ArrayRef> {
        let Self::Texts { validity, texts } = self else {
            return None;
        };
        let (before, some) = run[..strides.end].split_at(strides.start);
        let bytes = |strides: &[ArrayRef]| {
            strides
                .iter()
                .map(|stride| text_bytes(&stride.to_data()))
                .sum::<Option<usize>>()
        };
        let (from, rows) = (rows(before), rows(some));
        let validity = validity
            .clone()
            .map(|bits| NullBuffer::new(BooleanBuffer::new(bits, from, rows)));
        let builder = ArrayData::builder(some.first()?.data_type().clone())
            .len(rows)
            .add_buffer(offsets.to_data().buffers().first()?.clone())
            .add_buffer(texts.slice_with_length(bytes(before)?, bytes(some)?))
            .nulls(validity);
        // SAFETY: these are the texts of valid arrays, one after the other, with offsets that go on from one to the next, and a
        // bit of validity for each.
        Some(make_array(unsafe { builder.build_unchecked() }))
    }
}

fn rows(strides: &[ArrayRef]) -> usize {
    strides.iter().map(|stride| stride.len()).sum()
}

/// The offsets of these strides' texts, one after the other.
fn offsets_of(strides: &[ArrayRef]) -> Option<ArrayRef> {
    Some(match strides.first()?.data_type() {
        DataType::LargeUtf8 | DataType::LargeBinary => Arc::new(Int64Array::new(going_on::<i64>(strides)?, None)),
        _ => Arc::new(Int32Array::new(going_on::<i32>(strides)?, None)),
    })
}

fn going_on<O: OffsetSizeTrait>(strides: &[ArrayRef]) -> Option<ScalarBuffer<O>> {
    let mut offsets: Vec<O> = Vec::with_capacity(rows(strides) + 1);
    let mut bytes = 0usize;
    for stride in strides {
        let data = stride.to_data();
        let base = O::from_usize(bytes)?;
        bytes = bytes.checked_add(last_offset::<O>(&data)?)?;
        // The last one is the largest: where it fits, all do.
        O::from_usize(bytes)?;
        let own = data.buffers().first()?.typed_data::<O>();
        offsets.extend(own.get(..data.len())?.iter().map(|offset| base + *offset));
    }
    offsets.push(O::from_usize(bytes)?);
    Some(offsets.into())
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

/// The rows of `strides` of an array, in which they begin at `from`.
fn part(whole: &ArrayRef, from: usize, strides: &[ArrayRef]) -> ArrayRef {
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
        BinaryViewArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, LargeBinaryArray, ListArray, StringArray,
        StringViewArray, StringViewBuilder,
    };
    use arrow::compute::concat;
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::super::Chunk;
    use super::*;

    /// As few rows as strides of chunks have where they are whole.
    const STRIDE_ROWS: usize = 512;
    const KINDS: [&str; 8] = [
        "numbers", "truths", "bytes", "texts", "words", "views", "strings", "large",
    ];

    fn chunk(strides: Vec<ArrayRef>) -> (Chunk, LiveSegments) {
        in_budget(strides, &Budget::new(1 << 30))
    }

    fn in_budget(strides: Vec<ArrayRef>, budget: &Budget) -> (Chunk, LiveSegments) {
        let live = LiveSegments::default();
        let layout = Layout::new(&renumbered(strides));
        let reservation = budget.take(layout.bytes(), Purpose::Chunks).unwrap();
        let (strides, runs) = Segment::store(&layout, reservation, &live).unwrap();
        let runs = runs.map(|wholes| Arc::new(Runs::new(wholes, budget.clone(), live.clone())));
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
        let valid = |row: &usize| null_every.is_none_or(|every| !row.is_multiple_of(every));
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
            "strings" => Arc::new(given.map(|row| row.map(text)).collect::<StringArray>()),
            "large" => Arc::new(LargeBinaryArray::from_iter(given.map(|row| row.map(text)))),
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
            let runs: Vec<ArrayRef> = kept.in_runs(each).expect("strides lie one after the other").collect();
            let mut from = 0;
            for run in &runs {
                prop_assert_eq!(run, &all.slice(from, run.len()));
                prop_assert_eq!(run.len(), (rows - from).min(each * STRIDE_ROWS));
                from += run.len();
                let data = run.to_data();
                data.validate_full().unwrap();
                prop_assert_eq!(data.null_count() > 0, data.nulls().is_some());
                let buffers = data.buffers().iter().chain(data.nulls().map(|nulls| nulls.buffer()));
                // Offsets of parts of a run are made for the reader, all else is where it was.
                let made = usize::from(each < RUN_STRIDES && matches!(kind, "strings" | "large"));
                let copies = buffers.filter(|buffer| !buffer.is_empty() && live.of(buffer).is_none()).count();
                prop_assert!(copies <= made, "{copies} copies");
                if run.len() < all.len() && matches!(kind, "texts" | "views") {
                    let shown: usize = data.buffers()[1..].iter().map(Buffer::len).sum();
                    let others: usize = kept.strides.iter().map(held).sum();
                    prop_assert!(shown < others || others == 0, "texts of other runs come along");
                }
            }
            prop_assert_eq!(from, rows);
        }
    }

    #[test]
    fn offsets_of_runs_are_made_once_where_memory_is_free_and_go_with_the_chunk() {
        let budget = Budget::new(1 << 20);
        let texts = |from| stride("strings", from..from + STRIDE_ROWS, None, &words());
        let (kept, live) = in_budget(vec![texts(0), texts(STRIDE_ROWS)], &budget);
        let held = |budget: &Budget| budget.used_bytes(Purpose::Chunks);
        let before = held(&budget);
        let full = budget.take_free((1 << 20) - before, Purpose::Scans).unwrap();
        assert!(kept.in_runs(RUN_STRIDES).is_none(), "no memory is free");
        drop(full);
        let runs: Vec<ArrayRef> = kept.in_runs(RUN_STRIDES).unwrap().collect();
        let offset_bytes = u64::try_from((2 * STRIDE_ROWS + 1) * 4).unwrap();
        assert_eq!(held(&budget), before + offset_bytes);
        let again: Vec<ArrayRef> = kept.in_runs(RUN_STRIDES).unwrap().collect();
        assert!(runs[0].to_data().ptr_eq(&again[0].to_data()));
        assert_eq!((held(&budget), live.len()), (before + offset_bytes, 2));
        drop(kept);
        assert_eq!(live.len(), 2, "arrays keep them");
        drop((runs, again));
        assert_eq!((held(&budget), live.len()), (0, 0));
    }

    fn held(stride: &ArrayRef) -> usize {
        stride.to_data().buffers()[1..].iter().map(Buffer::len).sum()
    }

    #[test]
    fn what_does_not_lie_one_after_the_other_is_no_run() {
        let numbers = |rows: usize| Arc::new(Int64Array::from(vec![1; rows])) as ArrayRef;
        let (whole, _) = chunk(vec![numbers(512), numbers(512), numbers(3)]);
        assert_eq!(whole.in_runs(RUN_STRIDES).unwrap().count(), 1);
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
