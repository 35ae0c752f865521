//! Bytes in, arrays out: decodes columns of one row group, stride by stride.
//!
//! Nothing here reads storage. The bytes of the column chunks are all given when a [`ColumnDecoder`] is opened; each
//! call then decodes one stride of rows, so that the first batch of a huge row group leaves before the rest is decoded.
//! What comes out is canonical: not sliced, no null buffer where nothing is null, views holding little that they do not
//! show.
//!
//! A stride that turns out to be too long (more bytes of text than 32-bit offsets count, or far more than foretold) is
//! decoded again in shorter ones: the footer's sizes are a hint, and some writers give none. Two encodings make much of
//! little, so that a file of a few KB can be gigabytes of text: with a dictionary, no stride is longer than so many of its
//! longest words as fit the limit; with shared prefixes, strides begin short and grow as their size allows.
//!
//! Why not the crate's readers over a whole file: they fetch as they decode, by ranges of their own choosing and
//! without pinning the file's version.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericByteViewArray, GenericListArray, MapArray, OffsetSizeTrait,
    RecordBatch, StructArray,
};
use arrow::datatypes::{ByteViewType, DataType, FieldRef};
use arrow::error::ArrowError;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowGroups, RowSelection, RowSelector};
use parquet::column::page::{PageIterator, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use xxhash_rust::xxh3::xxh3_64;

use crate::dialect::leaves_of;
use crate::footer::Footer;
use crate::key::{to_u64, to_usize};
use crate::pages::{ChunkBytes, PageDecoder, PageLimit};

/// One root column of a file, and which of its leaf columns are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelectedColumn {
    /// Position in the file's schema.
    pub(crate) root: usize,
    /// Positions of the leaf columns, ascending.
    pub(crate) leaves: Vec<usize>,
}

impl SelectedColumn {
    /// The leaves of the file's column at `root` that it takes to give `wanted`.
    pub(crate) fn new(footer: &Footer, root: usize, wanted: &DataType) -> Self {
        Self::of(
            footer.schema.field(root).data_type(),
            (root, footer.first_leaf(root)),
            wanted,
        )
    }

    /// The same of a column of type `have`, at this position, whose first leaf is at that one.
    fn of(have: &DataType, (root, first): (usize, usize), wanted: &DataType) -> Self {
        let mut leaves = Vec::new();
        select(have, wanted, first, &mut leaves);
        Self { root, leaves }
    }

    /// Tells selections of one column apart.
    pub(crate) fn leaves_hash(&self) -> u64 {
        let bytes: Vec<u8> = self
            .leaves
            .iter()
            .flat_map(|leaf| u64::try_from(*leaf).unwrap_or(u64::MAX).to_le_bytes())
            .collect();
        xxh3_64(&bytes)
    }
}

/// What decoders of one row group share.
pub(crate) struct RowGroupBytes {
    /// The file's footer.
    pub(crate) footer: Arc<Footer>,
    /// Position of the row group.
    pub(crate) row_group: usize,
    /// The column chunks that were read, by leaf column.
    pub(crate) chunks: HashMap<usize, ChunkBytes>,
    /// Largest page after decompression.
    pub(crate) page_limit: Arc<PageLimit>,
}

/// Decodes some root columns of a row group side by side.
pub(crate) struct ColumnDecoder {
    source: Arc<RowGroupBytes>,
    columns: Vec<SelectedColumn>,
    reader: ParquetRecordBatchReader,
    stride_rows: usize,
    /// What strides may grow to.
    longest_stride_rows: usize,
    /// The rows to decode, where these are not the first ones: then rows are counted among them alone.
    wanted: Option<Vec<Range<usize>>>,
    rows_done: usize,
    rows: usize,
}

/// A stride whose arrays take more than this is followed by shorter ones.
pub(crate) const STRIDE_BYTES_LIMIT: usize = 64 << 20;
/// By how much a stride that was too long is shortened.
const SHORTEN: usize = 8;
/// Rows of the first stride where values share prefixes, and by how much the next may be longer.
const WARY_STRIDE_ROWS: usize = 64;
const GROW: usize = 4;
/// Strides are whole words of a validity bitmap where they are long enough.
const STRIDE_ALIGN_ROWS: usize = 64;

impl ColumnDecoder {
    /// Opens `columns`, whose bytes must all be in `source`, for these rows, ascending; for all where none.
    pub(crate) fn open(
        source: Arc<RowGroupBytes>,
        mut columns: Vec<SelectedColumn>,
        stride_rows: usize,
        wanted: Option<&[Range<usize>]>,
    ) -> Result<Self, ArrowError> {
        columns.sort_by_key(|column| column.root);
        let rows = usize::try_from(
            source
                .footer
                .row_groups
                .get(source.row_group)
                .map_or(0, |group| group.rows),
        )
        .map_err(|_| ArrowError::ParquetError("more rows than this machine can count".to_owned()))?;
        let mut chunks = Chunks::open(&source, &columns)?;
        let longest_stride_rows = chunks.safe_stride(stride_rows.max(1))?;
        let stride_rows = if chunks.shares_prefixes() {
            longest_stride_rows.min(WARY_STRIDE_ROWS)
        } else {
            longest_stride_rows
        };
        let rows = wanted.map_or(rows, |wanted| wanted.iter().map(Range::len).sum());
        let reader = open_reader(&chunks, &columns, stride_rows, (wanted, 0..rows))?;
        Ok(Self {
            source,
            columns,
            reader,
            stride_rows,
            longest_stride_rows,
            wanted: wanted.map(<[_]>::to_vec),
            rows_done: 0,
            rows,
        })
    }

    /// The next stride: one array a column. None once all rows are decoded.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<ArrayRef>>, ArrowError> {
        if self.rows_done == self.rows {
            return Ok(None);
        }
        match self.reader.next() {
            Some(Ok(batch)) => self.take(&batch).map(Some),
            Some(Err(error)) if self.stride_rows > 1 && is_overflow(&error) => {
                self.longest_stride_rows = (self.stride_rows / SHORTEN).max(1);
                self.go_on(self.longest_stride_rows)?;
                self.next()
            }
            Some(Err(error)) => Err(error),
            None => Err(ArrowError::ParquetError(format!(
                "the data ends after {} of {} rows",
                self.rows_done, self.rows
            ))),
        }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        self.rows_done += batch.num_rows();
        if self.rows_done > self.rows || batch.num_columns() != self.columns.len() {
            return Err(ArrowError::ParquetError(format!(
                "the data has more than {} rows",
                self.rows
            )));
        }
        let arrays = batch.columns().iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
        let bytes: usize = arrays.iter().map(|array| array.get_array_memory_size()).sum();
        if self.rows_done == self.rows {
            return Ok(arrays);
        }
        let too_long = bytes / STRIDE_BYTES_LIMIT;
        if too_long > 1 && self.stride_rows > 1 {
            self.longest_stride_rows = (self.stride_rows / too_long.next_power_of_two()).max(1);
            self.go_on(self.longest_stride_rows)?;
        } else if self.stride_rows < self.longest_stride_rows && bytes <= STRIDE_BYTES_LIMIT / GROW {
            self.go_on(self.longest_stride_rows.min(self.stride_rows * GROW))?;
        }
        Ok(arrays)
    }

    /// Goes on from the row reached, in strides of another length.
    fn go_on(&mut self, stride_rows: usize) -> Result<(), ArrowError> {
        self.stride_rows = stride_rows;
        let chunks = Chunks::open(&self.source, &self.columns)?;
        let rows = (self.wanted.as_deref(), self.rows_done..self.rows);
        self.reader = open_reader(&chunks, &self.columns, stride_rows, rows)?;
        Ok(())
    }
}

fn is_overflow(error: &ArrowError) -> bool {
    error.to_string().contains("overflow")
}

fn open_reader(
    chunks: &Chunks<'_>,
    columns: &[SelectedColumn],
    stride_rows: usize,
    (wanted, rows): (Option<&[Range<usize>]>, Range<usize>),
) -> Result<ParquetRecordBatchReader, ArrowError> {
    let leaves: Vec<usize> = columns
        .iter()
        .flat_map(|column| column.leaves.iter().copied())
        .collect();
    let levels = chunks.source.footer.dialect.levels(&leaves)?;
    let from_start = || {
        RowSelection::from(vec![
            RowSelector::skip(rows.start),
            RowSelector::select(rows.end - rows.start),
        ])
    };
    let selection = match wanted {
        Some(wanted) => Some(RowSelection::from_consecutive_ranges(
            behind(wanted, rows.start).into_iter(),
            chunks.num_rows(),
        )),
        None => (rows.start > 0).then(from_start),
    };
    Ok(ParquetRecordBatchReader::try_new_with_row_groups(
        &levels,
        chunks,
        stride_rows.min(rows.end.max(1)),
        selection,
    )?)
}

/// What is left of ranges without their first `rows` rows.
fn behind(ranges: &[Range<usize>], mut rows: usize) -> Vec<Range<usize>> {
    let left = ranges.iter().map(|range| {
        let skipped = rows.min(range.len());
        rows -= skipped;
        range.start + skipped..range.end
    });
    left.filter(|range| !range.is_empty()).collect()
}

/// The column chunks of one reader, each given once.
struct Chunks<'a> {
    source: &'a RowGroupBytes,
    pages: Mutex<HashMap<usize, PageDecoder>>,
}

impl<'a> Chunks<'a> {
    fn open(source: &'a RowGroupBytes, columns: &[SelectedColumn]) -> ParquetResult<Self> {
        let leaves = columns.iter().flat_map(|column| column.leaves.iter().copied());
        let pages = leaves.map(|leaf| Ok((leaf, source.pages(leaf)?)));
        Ok(Self {
            source,
            pages: Mutex::new(pages.collect::<ParquetResult<_>>()?),
        })
    }

    /// Rows of which all columns together have no more than about [`STRIDE_BYTES_LIMIT`], by the words of their dictionaries;
    /// at most `asked`.
    fn safe_stride(&mut self, asked: usize) -> ParquetResult<usize> {
        let columns = self.pages.get_mut();
        let fits = to_u64(STRIDE_BYTES_LIMIT / asked / columns.len().max(1));
        let mut row_bytes = 0_usize;
        for pages in columns.values_mut() {
            row_bytes = row_bytes.saturating_add(to_usize(pages.longest_word(fits)?));
        }
        let stride = asked.min((STRIDE_BYTES_LIMIT / row_bytes.max(1)).max(1));
        Ok(if stride > STRIDE_ALIGN_ROWS {
            stride / STRIDE_ALIGN_ROWS * STRIDE_ALIGN_ROWS
        } else {
            stride
        })
    }

    fn shares_prefixes(&mut self) -> bool {
        self.pages.get_mut().values().any(PageDecoder::shares_prefixes)
    }
}

impl RowGroups for Chunks<'_> {
    fn num_rows(&self) -> usize {
        usize::try_from(self.source.group().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> ParquetResult<Box<dyn PageIterator>> {
        let pages = self.pages.lock().remove(&leaf);
        let pages = pages.ok_or_else(|| ParquetError::General(format!("leaf column {leaf} was not read")))?;
        Ok(Box::new(OneChunk(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.source.group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.source.footer.metadata
    }
}

impl RowGroupBytes {
    /// Whether only pages of some rows were read: others cannot be decoded.
    pub(crate) fn is_partial(&self) -> bool {
        self.chunks.values().any(|chunk| matches!(chunk, ChunkBytes::Parts(_)))
    }

    fn group(&self) -> &RowGroupMetaData {
        self.footer.metadata.row_group(self.row_group)
    }

    fn pages(&self, leaf: usize) -> ParquetResult<PageDecoder> {
        let bytes = self.chunks.get(&leaf).cloned();
        let bytes = bytes.ok_or_else(|| ParquetError::General(format!("leaf column {leaf} was not read")))?;
        let column = self.group().columns().get(leaf);
        let column = column.ok_or_else(|| ParquetError::General(format!("there is no leaf column {leaf}")))?;
        Ok(PageDecoder::new(bytes, column, Arc::clone(&self.page_limit)))
    }
}

/// The pages of one column chunk, as the iterator over row groups that the decoder asks for.
struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = ParquetResult<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

/// Adds to `leaves` those of `have`, whose first leaf is `first`, that it takes to give `wanted`.
fn select(have: &DataType, wanted: &DataType, first: usize, leaves: &mut Vec<usize>) {
    match (have, wanted) {
        (DataType::Struct(fields), DataType::Struct(parts)) => {
            let before = leaves.len();
            let mut at = first;
            for field in fields {
                if let Some((_, part)) = parts.find(field.name()) {
                    select(field.data_type(), part.data_type(), at, leaves);
                }
                at += leaves_of(field.data_type());
            }
            if leaves.len() == before {
                // No part exists in this file; one leaf is still needed to know which structs are null.
                leaves.push(first);
            }
        }
        (DataType::Map(entries, _), DataType::Map(wanted, _)) => select_map(entries, wanted, first, leaves),
        _ => match (list_item(have), list_item(wanted)) {
            (Some(item), Some(part)) => select(item.data_type(), part.data_type(), first, leaves),
            _ => leaves.extend(first..first + leaves_of(have)),
        },
    }
}

/// Keys are always read: the decoder needs them to find the values.
fn select_map(entries: &FieldRef, wanted: &FieldRef, first: usize, leaves: &mut Vec<usize>) {
    let (DataType::Struct(have), DataType::Struct(parts)) = (entries.data_type(), wanted.data_type()) else {
        return leaves.extend(first..first + leaves_of(entries.data_type()));
    };
    let mut at = first;
    for (position, field) in have.iter().enumerate() {
        match parts.get(position) {
            Some(part) if position > 0 => select(field.data_type(), part.data_type(), at, leaves),
            _ => leaves.extend(at..at + leaves_of(field.data_type())),
        }
        at += leaves_of(field.data_type());
    }
}

fn list_item(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(item),
        _ => None,
    }
}

/// The same values with nothing beside them: views that drag along much more than they show are compacted.
pub(crate) fn canonical(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_views(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    match array.data_type() {
        DataType::Utf8View => Ok(compact(array, array.as_string_view())),
        DataType::BinaryView => Ok(compact(array, array.as_binary_view())),
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let columns = array.columns().iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
            let nulls = array.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns,
                nulls,
                array.len(),
            )?))
        }
        DataType::List(item) => canonical_list::<i32>(array, item),
        DataType::LargeList(item) => canonical_list::<i64>(array, item),
        DataType::FixedSizeList(item, size) => {
            let list = array.as_fixed_size_list();
            let values = canonical(list.values())?;
            Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(item),
                *size,
                values,
                list.nulls().cloned(),
            )?))
        }
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let pairs: ArrayRef = Arc::new(map.entries().clone());
            let pairs = canonical(&pairs)?.as_struct().clone();
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(
                Arc::clone(entries),
                offsets,
                pairs,
                nulls,
                *sorted,
            )?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

fn canonical_list<O: OffsetSizeTrait>(array: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = array.as_list::<O>();
    let values = canonical(list.values())?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(
        Arc::clone(item),
        offsets,
        values,
        nulls,
    )?))
}

/// Bytes that an array shows, which for a slice is less than it holds.
pub(crate) fn shown_bytes(array: &ArrayRef) -> usize {
    let held = || array.get_array_memory_size();
    if matches!(array.data_type(), DataType::Utf8View | DataType::BinaryView) {
        // Its buffers may be parts of longer ones.
        let (data, bitmap) = (
            array.to_data(),
            array.nulls().map_or(0, |nulls| nulls.len().div_ceil(8)),
        );
        let texts: usize = data.buffers().iter().skip(1).map(|buffer| buffer.len()).sum();
        array.len() * size_of::<u128>() + texts + bitmap
    } else if has_views(array.data_type()) {
        // Slices of views are compacted where they are made, so those show what they hold.
        held()
    } else {
        array.to_data().get_slice_memory_size().unwrap_or_else(|_| held())
    }
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        DataType::Map(entries, _) => has_views(entries.data_type()),
        nested => list_item(nested).is_some_and(|item| has_views(item.data_type())),
    }
}

/// Bytes that a view array may hold beyond those it shows before it is compacted: one in this many.
const VIEW_SLACK: usize = 4;

fn compact<T: ByteViewType + ?Sized>(array: &ArrayRef, views: &GenericByteViewArray<T>) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if held == 0 {
        return Arc::clone(array);
    }
    let shown = views.total_buffer_bytes_used();
    // A dictionary whose few values are shown many times holds less than it shows, and stays as it is.
    if held <= shown + shown / VIEW_SLACK {
        Arc::clone(array)
    } else {
        Arc::new(views.gc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;
    use arrow::datatypes::{Field, Fields};

    fn leaf(name: &str) -> Field {
        Field::new(name, DataType::Int32, true)
    }

    fn structure(fields: Vec<Field>) -> DataType {
        DataType::Struct(Fields::from(fields))
    }

    fn selected(have: &DataType, wanted: &DataType) -> Vec<usize> {
        SelectedColumn::of(have, (1, 1), wanted).leaves
    }

    #[test]
    fn only_the_leaves_that_are_wanted_are_selected() {
        let have = structure(vec![
            leaf("x"),
            Field::new("in", structure(vec![leaf("y"), leaf("z")]), true),
        ]);
        let wanted = structure(vec![Field::new("in", structure(vec![leaf("z")]), true)]);
        assert_eq!(selected(&have, &wanted), [3]);
        assert_eq!(selected(&have, &have), [1, 2, 3]);
        assert_eq!(selected(&have, &structure(vec![leaf("new")])), [1]);
        let list = |inner: DataType| DataType::List(Arc::new(Field::new("element", inner, true)));
        assert_eq!(selected(&list(have.clone()), &list(wanted.clone())), [3]);
        let map = |value: DataType| {
            let entries = structure(vec![leaf("key"), Field::new("value", value, true)]);
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
        };
        assert_eq!(selected(&map(have), &map(wanted)), [1, 4]);
    }

    #[test]
    fn views_that_drag_are_compacted_and_others_stay() {
        let long: Vec<String> = (0..100)
            .map(|i| format!("a text of more than twelve bytes {i}"))
            .collect();
        let whole: ArrayRef = Arc::new(StringViewArray::from_iter_values(&long));
        let same = canonical(&whole).unwrap();
        assert!(Arc::ptr_eq(&whole, &same));
        let slice = whole.slice(3, 2);
        let small = canonical(&slice).unwrap();
        assert_eq!(small.as_ref(), slice.as_ref());
        assert!(small.get_array_memory_size() < 400, "{}", small.get_array_memory_size());
    }
}
