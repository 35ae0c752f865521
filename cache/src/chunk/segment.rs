//! Shared memory for one chunk: written once, sealed, mapped for reading.
//!
//! ```text
//! arrays on the heap -- write --> memfd -- seal --> mapping, read-only --> the same arrays over the mapping
//! ```
//! A segment is a file in memory (`memfd`) that holds the buffers of one chunk, each at a multiple of 64 bytes but for texts with
//! offsets, of which those of several strides follow each other. Once
//! sealed, nobody can write, grow or shrink it, this process included, so its descriptor can be handed to a client that
//! maps it too. It lives until the last array over it is gone; its bytes of the budget are given back then.
//!
//! Why written and not copied into a mapping: the kernel fills each page as it takes it, without zeroing it first and
//! without a page fault for each.
//!
//! Why one segment a chunk and not large ones that chunks share: the memory of a sealed segment cannot be punched or used
//! again, so a chunk that is evicted would stay until its last neighbour goes. The price is a descriptor and a mapping a
//! chunk; where the system has no more of them, chunks are not kept.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::live::LiveSegments;
use super::runs::{Flat, RUN_STRIDES, Run, Whole, texts};
use crate::budget::Reservation;
use crate::key::to_u64;

/// Where a buffer begins within a segment, a multiple of this many bytes: what Arrow asks of memory that is shared.
pub(super) const BUFFER_ALIGNMENT_BYTES: usize = 64;

/// The next segment's id.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A sealed piece of shared memory.
#[derive(Debug)]
pub struct Segment {
    id: u64,
    file: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
    /// What it takes of the budget, given back with it, and where it is listed. Giving back and taking off are whole or not
    /// at all, so a panic of whoever drops the last array leaves nothing half done.
    held: AssertUnwindSafe<(LiveSegments, Reservation)>,
}

// SAFETY: the mapping is read-only and its file is sealed, so nothing changes behind a shared reference; the pointer is
// used by no one else, and unmapped once, by drop.
#[expect(unsafe_code, reason = "a mapping's pointer is not Send by itself")]
unsafe impl Send for Segment {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping's pointer is not Sync by itself")]
unsafe impl Sync for Segment {}

impl Segment {
    /// The arrays, moved into a segment of their own, which is listed in `live`; and the runs of them, where they lie one after
    /// the other. `reservation` is shrunk to what the segment takes, and must be at least [`Layout::bytes`] of the arrays' layout.
    ///
    /// # Errors
    /// Where the system gives no more memory, descriptors or mappings.
    pub(super) fn store(
        layout: &Layout,
        mut reservation: Reservation,
        live: &LiveSegments,
    ) -> io::Result<(Vec<ArrayRef>, Option<Vec<Whole>>)> {
        if layout.bytes == 0 {
            let arrays = layout.arrays.iter().map(|data| make_array(data.clone()));
            return Ok((arrays.collect(), None));
        }
        reservation.shrink_to(layout.bytes());
        let file = written(layout)?;
        let base = mapped(file.as_fd(), layout.bytes)?;
        let segment = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            file,
            base,
            bytes: layout.bytes,
            held: AssertUnwindSafe((live.clone(), reservation)),
        });
        live.add(&segment);
        let strides: Vec<ArrayData> = layout.arrays.iter().map(|data| segment.over(layout, data)).collect();
        let whole = |runs: &Vec<Run>| runs.iter().map(|run| segment.whole(run, &strides)).collect();
        let runs = layout.runs.as_ref().map(whole);
        Ok((strides.into_iter().map(make_array).collect(), runs))
    }

    /// Its number, which no other segment of this process has or had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The descriptor, for whoever is to map it too.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins in this process's memory.
    pub(super) fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The same array over this segment's memory.
    #[expect(unsafe_code, reason = "validating an array anew would read all of it")]
    fn over(self: &Arc<Self>, layout: &Layout, data: &ArrayData) -> ArrayData {
        let buffers = data
            .buffers()
            .iter()
            .map(|buffer| self.buffer(layout, buffer))
            .collect();
        let children = data.child_data().iter().map(|child| self.over(layout, child)).collect();
        let nulls = data.nulls().map(|nulls| {
            let bits = nulls.inner();
            NullBuffer::new(BooleanBuffer::new(
                self.buffer(layout, bits.inner()),
                bits.offset(),
                bits.len(),
            ))
        });
        let builder = ArrayData::builder(data.data_type().clone())
            .len(data.len())
            .offset(data.offset())
            .buffers(buffers)
            .child_data(children)
            .nulls(nulls);
        // SAFETY: type, length, offset and children are those of an array that was valid, and its buffers hold the same
        // bytes, at addresses that are better aligned.
        unsafe { builder.build_unchecked() }
    }

    /// A run of `strides` of this segment.
    #[expect(unsafe_code, reason = "validating an array anew would read all of it")]
    fn whole(self: &Arc<Self>, run: &Run, strides: &[ArrayData]) -> Whole {
        let strides = &strides[run.strides.clone()];
        let data_type = strides[0].data_type();
        let (validity, values) = (
            run.validity.clone().map(|bytes| self.span(bytes)),
            self.span(run.values.clone()),
        );
        if Flat::of(data_type) == Some(Flat::Texts) {
            return Whole::Texts {
                validity,
                texts: values,
            };
        }
        let nulls = validity.map(|bits| NullBuffer::new(BooleanBuffer::new(bits, 0, run.rows)));
        let builder = ArrayData::builder(data_type.clone())
            .len(run.rows)
            .add_buffer(values)
            .add_buffers(texts(strides))
            .nulls(nulls);
        // SAFETY: the values of valid arrays, one after the other and as many as there are rows; views find their texts by the
        // numbers of the run, and a bitmap has a bit for each row.
        Whole::Array(make_array(unsafe { builder.build_unchecked() }))
    }

    fn buffer(self: &Arc<Self>, layout: &Layout, of: &Buffer) -> Buffer {
        match layout.offsets.get(&identity(of)) {
            Some(&offset) => self.span(offset..offset + of.len()),
            // Only buffers without bytes are not laid out.
            None => of.clone(),
        }
    }

    /// These bytes of the layout that the mapping was made for.
    #[expect(unsafe_code, reason = "arrays over memory that Arrow did not allocate")]
    fn span(self: &Arc<Self>, bytes: Range<usize>) -> Buffer {
        // SAFETY: the range is within the mapping, which is as long as the layout, and the mapping lives as long as the owner
        // that the buffer keeps.
        unsafe {
            let start = self.base.add(bytes.start);
            Buffer::from_custom_allocation(start, bytes.len(), Arc::clone(self) as Arc<_>)
        }
    }
}

impl Drop for Segment {
    #[expect(unsafe_code, reason = "a mapping is undone by hand")]
    fn drop(&mut self) {
        self.held.0.0.remove(self.address());
        // SAFETY: mapped by us with this length, and no buffer over it is left, since each holds the segment.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Which buffers a chunk has, and where each goes in a segment. Buffers that several arrays share, as dictionaries are,
/// are laid out once.
#[derive(Debug)]
pub(super) struct Layout {
    arrays: Vec<ArrayData>,
    buffers: Vec<(usize, Buffer)>,
    offsets: HashMap<(usize, usize), usize>,
    /// What lies one after the other; none where any run does not.
    runs: Option<Vec<Run>>,
    bytes: usize,
}

impl Layout {
    /// The layout of these arrays.
    #[must_use]
    pub(super) fn new(arrays: &[ArrayRef]) -> Self {
        let mut layout = Self {
            arrays: arrays.iter().map(Array::to_data).collect(),
            buffers: Vec::new(),
            offsets: HashMap::new(),
            runs: None,
            bytes: 0,
        };
        let arrays = layout.arrays.clone();
        match arrays.first().and_then(|data| Flat::of(data.data_type())) {
            Some(flat) => {
                let runs = (0..arrays.len()).step_by(RUN_STRIDES);
                let placed: Vec<_> = runs.map(|from| layout.place_run(&arrays, from, flat)).collect();
                layout.runs = placed.into_iter().collect();
            }
            None => arrays.iter().for_each(|data| layout.place_all(data)),
        }
        layout
    }

    /// Bytes of the segment that it takes.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        to_u64(self.bytes)
    }

    /// Places the arrays of the run that begins at `from`, their buffers kind by kind; none where these do not lie one after the
    /// other then.
    fn place_run(&mut self, arrays: &[ArrayData], from: usize, flat: Flat) -> Option<Run> {
        let run = &arrays[from..arrays.len().min(from + RUN_STRIDES)];
        let bitmaps: Vec<Buffer> = match run.iter().any(|data| data.nulls().is_some()) {
            true => run.iter().map(bitmap_of).collect(),
            false => Vec::new(),
        };
        bitmaps.iter().for_each(|bitmap| self.place(bitmap));
        let firsts = run.iter().filter_map(|data| data.buffers().first());
        firsts.for_each(|buffer| self.place(buffer));
        let others = run.iter().flat_map(|data| data.buffers().iter().skip(1));
        match flat {
            Flat::Texts => {
                self.bytes = self.bytes.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
                others.for_each(|texts| self.place_at(self.bytes, texts));
            }
            _ => others.for_each(|buffer| self.place(buffer)),
        }
        let is_whole = |data: &ArrayData| data.offset() == 0 && data.nulls().is_none_or(|nulls| nulls.offset() == 0);
        let is_whole_bytes = |data: &ArrayData| data.len().is_multiple_of(8);
        let (_, before_last) = run.split_last()?;
        (run.iter().all(is_whole) && before_last.iter().all(is_whole_bytes)).then_some(())?;
        let is_right = |(bitmap, data): (&Buffer, &ArrayData)| bitmap.len() == data.len().div_ceil(8);
        let validity = match bitmaps.as_slice() {
            [] => None,
            some if some.iter().zip(run).all(is_right) => Some(self.span(some.iter())?),
            _ => return None,
        };
        let values: Option<Vec<&Buffer>> = run.iter().map(|data| flat.values_of(data)).collect();
        Some(Run {
            strides: from..from + run.len(),
            rows: run.iter().map(ArrayData::len).sum(),
            validity,
            values: self.span(values?.into_iter())?,
        })
    }

    /// Where these buffers lie, if they lie one after the other.
    fn span<'a>(&self, buffers: impl Iterator<Item = &'a Buffer>) -> Option<Range<usize>> {
        let mut span: Option<Range<usize>> = None;
        for buffer in buffers.filter(|buffer| !buffer.is_empty()) {
            let offset = *self.offsets.get(&identity(buffer))?;
            let begin = span.as_ref().map_or(offset, |span| span.start);
            if span.is_some_and(|span| span.end != offset) {
                return None;
            }
            span = Some(begin..offset + buffer.len());
        }
        Some(span.unwrap_or(0..0))
    }

    fn place_all(&mut self, data: &ArrayData) {
        data.nulls().into_iter().for_each(|nulls| self.place(nulls.buffer()));
        data.buffers().iter().for_each(|buffer| self.place(buffer));
        data.child_data().iter().for_each(|child| self.place_all(child));
    }

    fn place(&mut self, buffer: &Buffer) {
        self.place_at(self.bytes.next_multiple_of(BUFFER_ALIGNMENT_BYTES), buffer);
    }

    fn place_at(&mut self, offset: usize, buffer: &Buffer) {
        if buffer.is_empty() || self.offsets.contains_key(&identity(buffer)) {
            return;
        }
        self.offsets.insert(identity(buffer), offset);
        self.buffers.push((offset, buffer.clone()));
        self.bytes = offset + buffer.len();
    }
}

/// The validity of an array, of one without nulls too.
fn bitmap_of(data: &ArrayData) -> Buffer {
    match data.nulls() {
        Some(nulls) => nulls.buffer().clone(),
        None => BooleanBuffer::new_set(data.len()).into_inner(),
    }
}

/// What makes two buffers the same bytes, while both live.
pub(super) fn identity(buffer: &Buffer) -> (usize, usize) {
    (buffer.as_ptr() as usize, buffer.len())
}

/// A sealed file in memory with the buffers at their places.
fn written(layout: &Layout) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("jetbridge-chunk", flags)?);
    for (offset, buffer) in &layout.buffers {
        file.write_all_at(buffer, u64::try_from(*offset).map_err(io::Error::other)?)?;
    }
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

#[expect(unsafe_code, reason = "mapping memory is a raw system call")]
fn mapped(file: BorrowedFd<'_>, bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, at an address of the kernel's choice, of a file that is this long and cannot shrink.
    let base = unsafe {
        mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ,
            MapFlags::SHARED | MapFlags::POPULATE,
            file,
            0,
        )?
    };
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, DictionaryArray, Int32Array, Int64Array, ListArray, NullArray, StringArray, StringViewArray,
        StructArray,
    };
    use arrow::datatypes::{DataType, Field, Int32Type};
    use rustix::fs::fcntl_get_seals;

    use super::*;
    use crate::budget::{Budget, Purpose};

    fn stored(budget: &Budget, arrays: &[ArrayRef]) -> Vec<ArrayRef> {
        let layout = Layout::new(arrays);
        let reservation = budget.take(layout.bytes() + 100, Purpose::Chunks).unwrap();
        Segment::store(&layout, reservation, &LiveSegments::default())
            .unwrap()
            .0
    }

    fn kinds() -> Vec<ArrayRef> {
        let texts = ["a", "a text that is longer than twelve bytes", ""];
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        let keys = Int32Array::from(vec![Some(0), None, Some(1)]);
        let item = Arc::new(Field::new("i", DataType::Int64, true));
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4]).slice(1, 3)),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]).slice(1, 3)),
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(StringViewArray::from(texts.to_vec())),
            Arc::new(DictionaryArray::<Int32Type>::new(keys, values)),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
                Some(vec![Some(1), None]),
                None,
                Some(vec![]),
            ])),
            Arc::new(StructArray::from(vec![(
                item,
                Arc::new(Int64Array::from(vec![7, 8, 9])) as ArrayRef,
            )])),
            Arc::new(NullArray::new(3)),
            Arc::new(Int64Array::from(Vec::<i64>::new())),
        ]
    }

    #[test]
    fn arrays_come_back_equal_aligned_and_outlive_each_other() {
        let budget = Budget::new(1 << 20);
        for array in kinds() {
            let before = array.to_data();
            let kept = stored(&budget, &[Arc::clone(&array), array.slice(0, 0)]).swap_remove(0);
            drop(array);
            let after = kept.to_data();
            assert_eq!(after, before);
            after.validate_full().unwrap();
            for buffer in after.buffers().iter().filter(|buffer| !buffer.is_empty()) {
                assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGNMENT_BYTES, 0);
            }
        }
    }

    #[test]
    fn the_budget_is_held_as_long_as_an_array_is() {
        let budget = Budget::new(1 << 20);
        let arrays: Vec<ArrayRef> = (0..2)
            .map(|_| Arc::new(Int64Array::from(vec![5; 1_000])) as ArrayRef)
            .collect();
        let mut kept = stored(&budget, &arrays);
        assert_eq!(budget.used_bytes(Purpose::Chunks), 16_000);
        let part = kept.pop().unwrap().slice(10, 20);
        drop(kept);
        assert_eq!(budget.used_bytes(Purpose::Chunks), 16_000);
        assert_eq!(part.len(), 20);
        drop(part);
        assert_eq!(budget.used_bytes(Purpose::Chunks), 0);
    }

    #[test]
    fn a_segment_is_found_by_any_buffer_in_it_as_long_as_it_lives() {
        let (budget, live) = (Budget::new(1 << 20), LiveSegments::default());
        let arrays: Vec<ArrayRef> = (0..2)
            .map(|_| Arc::new(Int64Array::from(vec![5; 100])) as ArrayRef)
            .collect();
        let store = |array: &ArrayRef| {
            let layout = Layout::new(std::slice::from_ref(array));
            let reservation = budget.take(layout.bytes(), Purpose::Chunks).unwrap();
            Segment::store(&layout, reservation, &live).unwrap().0.swap_remove(0)
        };
        let kept: Vec<ArrayRef> = arrays.iter().map(store).collect();
        let data: Vec<ArrayData> = kept.iter().map(|array| array.to_data()).collect();
        let found: Vec<_> = data.iter().map(|data| live.of(&data.buffers()[0]).unwrap()).collect();
        assert_ne!(found[0].0.id(), found[1].0.id());
        assert_eq!((found[0].1, found[0].0.bytes()), (0, 800));
        let part = data[1].buffers()[0].slice_with_length(16, 8);
        assert_eq!(
            live.of(&part).map(|(segment, offset)| (segment.id(), offset)),
            Some((found[1].0.id(), 16))
        );
        for other in [arrays[0].to_data().buffers()[0].clone(), part.slice(8)] {
            assert!(live.of(&other).is_none());
        }
        drop((kept, data, found));
        assert_eq!(
            (live.len(), budget.used_bytes(Purpose::Chunks)),
            (1, 800),
            "the part is left"
        );
        drop(part);
        assert_eq!((live.len(), budget.used_bytes(Purpose::Chunks)), (0, 0));
    }

    #[test]
    fn shared_buffers_are_laid_out_once() {
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(10_000)]));
        let stride = || {
            let keys = Int32Array::from(vec![0; 10]);
            Arc::new(DictionaryArray::<Int32Type>::new(keys, Arc::clone(&values))) as ArrayRef
        };
        assert!(Layout::new(&[stride(), stride(), stride()]).bytes() < 11_000);
    }

    #[test]
    fn nobody_can_write_to_a_segment() {
        let budget = Budget::new(1 << 20);
        let layout = Layout::new(&[Arc::new(Int64Array::from(vec![1; 100])) as ArrayRef]);
        let file = written(&layout).unwrap();
        let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        assert!(fcntl_get_seals(&file).unwrap().contains(all));
        let file = File::from(file);
        file.write_at(&[0], 0).unwrap_err();
        file.set_len(1).unwrap_err();
        drop(budget);
    }
}
