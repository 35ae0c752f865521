//! Footers: what a file says about itself, parsed once a generation.
//!
//! A footer is found at the end of its file (`stored`), checked against the limits, parsed on the CPU pool, and kept,
//! weighed by its memory. The cache is keyed by file identity, which includes the generation, so an entry is never out of
//! date; readers that miss together parse once. One that a peer gave is kept as it is stored besides, which is several times
//! smaller: its pages are not here to read it from again, and whoever gave it may be away by then.
//!
//! Why all of a footer and not the columns asked for: planning needs every row group anyway, and a later read of other
//! columns would fetch it again. Why no page index here: it is read for the few row groups and columns that a scan finds it
//! worth for, see `scan::paged`.

mod stored;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use moka::future::Cache as MokaCache;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;

pub use self::stored::first_footer_bytes;
use self::stored::{FOOTER_HINT_BYTES, TAIL_BYTES, When};
use crate::dialect::{Dialect, Dialects};
use crate::error::ReadError;
use crate::key::{FileId, sum_of, to_u64};
use crate::limits::ReadLimits;
use crate::page::{OpenFile, PageTier};
use crate::pool::{CpuPool, guarded};
use crate::thrift::{Refused, check_footer};

/// What is known about a file without reading its data.
#[derive(Debug)]
pub struct Footer {
    /// The file's schema, as pyarrow would read it.
    pub schema: SchemaRef,
    /// Rows in the file.
    pub rows: u64,
    /// Its row groups, in file order.
    pub row_groups: Vec<RowGroupInfo>,
    pub(crate) metadata: Arc<ParquetMetaData>,
    /// Files of one schema share it.
    pub(crate) dialect: Arc<Dialect>,
    /// What of the file is read to know it.
    pub(crate) tail: Range<u64>,
    /// Bytes of memory that the footer takes, about.
    weight_bytes: u64,
}

/// One row group, as the footer describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroupInfo {
    /// Rows in it.
    pub rows: u64,
    /// Bytes of each root column's chunks in the file.
    pub stored_bytes: Vec<u64>,
    /// Bytes that each root column takes once decoded: exact for fixed widths, by size statistics for strings that have
    /// them, else the uncompressed size.
    pub decoded_bytes: Vec<u64>,
    /// The same for each leaf column.
    pub(crate) leaf_bytes: Vec<u64>,
    /// Where its columns' chunks are in the file, from the first byte of any to the end of the last.
    pub span: Range<u64>,
}

/// Bounds of one column, one value a row group, for pruning.
#[derive(Debug, Clone)]
pub struct ColumnStatistics {
    /// No value of the row group is less; null where that is not known.
    pub min: ArrayRef,
    /// No value of the row group is greater; null where that is not known.
    pub max: ArrayRef,
    /// How many values are null; null where that is not known.
    pub null_count: UInt64Array,
}

impl Footer {
    /// The position of a top-level column in the schema.
    #[must_use]
    pub fn position(&self, column: &str) -> Option<usize> {
        self.dialect.position(column)
    }

    /// The position of the first leaf column of the top-level column at `root`.
    pub(crate) fn first_leaf(&self, root: usize) -> usize {
        self.dialect.first_leaf(root)
    }

    /// Parses a footer's Thrift bytes, which end before the file's last eight.
    pub(crate) fn parse(
        bytes: &[u8],
        at: FileAt<'_>,
        limits: &ReadLimits,
        dialects: &Dialects,
    ) -> Result<Self, ReadError> {
        let schema = check_footer(bytes, limits).map_err(|refused| at.refused(refused))?;
        let known = schema.and_then(|schema| dialects.schema(schema));
        let options = known.map(|known| ParquetMetaDataOptions::new().with_schema(known));
        let metadata = ParquetMetaDataReader::decode_metadata_with_options(bytes, options.as_ref());
        let metadata = metadata.map_err(|error| at.unreadable(error))?;
        check_metadata(&metadata, at)?;
        let dialect = dialects.of(metadata.file_metadata(), schema);
        let dialect = dialect.map_err(|error| at.unreadable(error))?;
        let row_groups: Vec<_> = metadata
            .row_groups()
            .iter()
            .map(|group| describe(group, dialect.schema.as_ref()))
            .collect();
        let per_column = row_groups.len() * 24 + ROOT_BYTES;
        let weight = metadata.memory_size() + FOOTER_OVERHEAD_BYTES + per_column * dialect.schema.fields().len();
        Ok(Self {
            schema: Arc::clone(&dialect.schema),
            rows: row_groups.iter().map(|group| group.rows).sum(),
            row_groups,
            metadata: Arc::new(metadata),
            dialect,
            tail: at.tail(bytes.len()),
            weight_bytes: u64::try_from(weight).unwrap_or(u64::MAX),
        })
    }

    /// Parses the footer of a file of which all bytes are there.
    pub(crate) fn of_whole(file: &Bytes, path: &str, limits: &ReadLimits) -> Result<Self, ReadError> {
        let size = to_u64(file.len());
        let at = FileAt { path, size };
        let start = stored::start_of(file, at, limits.footer_bytes)?;
        let bytes = file.get(to_usize(start)?..to_usize(size.saturating_sub(TAIL_BYTES))?);
        Self::parse(bytes.unwrap_or_default(), at, limits, &Dialects::default())
    }

    /// Bounds of a top-level column for each row group, as values of `as_type`.
    ///
    /// None where the column is nested or unknown, or its bounds cannot be had in that type. Columns of floats have no
    /// bounds: Parquet's leave NaN out, and a filter that NaN satisfies must not be pruned by them.
    pub fn statistics(&self, column: &str, as_type: &DataType) -> Option<ColumnStatistics> {
        let root = self.position(column)?;
        let field = self.schema.field(root);
        if field.data_type().is_nested() {
            return None;
        }
        let descriptor = self.metadata.file_metadata().schema_descr();
        bounds_of(
            self.metadata.row_groups(),
            (self.first_leaf(root), field, descriptor),
            as_type,
        )
    }
}

/// The bounds that row groups have of a leaf column, which is a top-level column of this type, as values of `as_type`.
pub(crate) fn bounds_of(
    groups: &[RowGroupMetaData],
    (leaf, field, descriptor): (usize, &Field, &SchemaDescriptor),
    as_type: &DataType,
) -> Option<ColumnStatistics> {
    let plain = plain_type(field.data_type());
    let bounds_field = field.clone().with_data_type(plain);
    let converter = StatisticsConverter::from_column_index(leaf, &bounds_field, descriptor).ok()?;
    let null_count = converter
        .with_missing_null_counts_as_zero(false)
        .row_group_null_counts(groups)
        .ok()?;
    let converter = StatisticsConverter::from_column_index(leaf, &bounds_field, descriptor).ok()?;
    let bounded = groups.iter().all(|group| bounds_hold(group.column(leaf)));
    let unknown = || Some(new_null_array(as_type, groups.len()));
    let (min, max) = if bounded {
        let exact = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let as_asked = |bounds: ArrayRef| cast_with_options(&bounds, as_type, &exact).ok();
        (
            as_asked(converter.row_group_mins(groups).ok()?)?,
            as_asked(converter.row_group_maxes(groups).ok()?)?,
        )
    } else {
        (unknown()?, unknown()?)
    };
    Some(ColumnStatistics { min, max, null_count })
}

/// Footers up to this size are parsed where they were read; schemas that nest deeply enough to need the pool's stacks are
/// refused by the limits before they are parsed.
const INLINE_FOOTER_BYTES: usize = 16 << 10;

/// Most bytes of footers that peers gave, as they are stored.
const GIVEN_BYTES: u64 = 64 << 20;
/// Memory of one of them besides its bytes, about.
const GIVEN_OVERHEAD_BYTES: usize = 256;

/// The footers of files that were read lately.
#[derive(Debug)]
pub(crate) struct FooterCache {
    footers: MokaCache<FileId, Arc<Footer>>,
    /// Those that peers gave, from their first byte to the end of the file.
    given: MokaCache<FileId, Bytes>,
    dialects: Arc<Dialects>,
    limits: ReadLimits,
}

impl FooterCache {
    /// Keeps footers of up to `capacity_bytes` of memory.
    pub(crate) fn new(capacity_bytes: u64, limits: ReadLimits) -> Self {
        let weigh = |_: &FileId, footer: &Arc<Footer>| u32::try_from(footer.weight_bytes).unwrap_or(u32::MAX);
        let weigh_given = |_: &FileId, footer: &Bytes| {
            let bytes = footer.len().saturating_add(GIVEN_OVERHEAD_BYTES);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            footers: MokaCache::builder().max_capacity(capacity_bytes).weigher(weigh).build(),
            given: MokaCache::builder()
                .max_capacity(GIVEN_BYTES)
                .weigher(weigh_given)
                .build(),
            dialects: Arc::default(),
            limits,
        }
    }

    /// The footer of this generation of a file; those who ask while it is being read wait for the one read. What is read for an
    /// errand that has a pace is read at that, and nobody waits for it who does not want to: a reader begins a read of their
    /// own, which finds that one's loads on their way and makes them urgent.
    pub(crate) async fn get(
        &self,
        file: &OpenFile,
        pages: &PageTier,
        pool: &CpuPool,
    ) -> Result<Arc<Footer>, ReadError> {
        let is_stopped = || file.errand.as_ref().is_some_and(|errand| errand.is_stopped());
        loop {
            match self.get_or_read(file, pages, pool).await {
                // The errand that read it was stopped, and it was another's.
                Err(error) if error.is_stopped() && !is_stopped() => {}
                footer => return footer,
            }
        }
    }

    /// The footer of a file version, where it is parsed already.
    pub(crate) async fn at_hand(&self, file: FileId) -> Option<Arc<Footer>> {
        self.footers.get(&file).await
    }

    async fn get_or_read(&self, file: &OpenFile, pages: &PageTier, pool: &CpuPool) -> Result<Arc<Footer>, ReadError> {
        let id = file.key.id();
        let is_paced = file.errand.as_ref().is_some_and(|errand| errand.is_paced());
        let footer = if is_paced {
            // It never is the one who reads while others wait, so it looks and reads before it says that it has something.
            if let Some(footer) = self.footers.get(&id).await {
                return Ok(footer);
            }
            let found = stored::find(file, (pages, &self.given), &self.limits, When::AtItsPace).await?;
            self.footers.try_get_with(id, self.keep(file, found, pool)).await
        } else {
            self.footers.try_get_with(id, self.read(file, pages, pool)).await
        };
        footer.map_err(|error: Arc<ReadError>| error.as_ref().clone())
    }

    async fn read(&self, file: &OpenFile, pages: &PageTier, pool: &CpuPool) -> Result<Arc<Footer>, ReadError> {
        let found = stored::find(file, (pages, &self.given), &self.limits, When::Now).await?;
        self.keep(file, found, pool).await
    }

    /// Parses what was found, and keeps it as it is stored where a peer gave it.
    async fn keep(
        &self,
        file: &OpenFile,
        (found, is_given): (Bytes, bool),
        pool: &CpuPool,
    ) -> Result<Arc<Footer>, ReadError> {
        let footer = self.parsed(file, &found, pool).await?;
        if is_given {
            // What came may be a part of something larger.
            let own = Bytes::copy_from_slice(&found);
            self.given.insert(file.key.id(), own).await;
        }
        Ok(footer)
    }

    /// See [`crate::Cache::stored_footer`].
    pub(crate) async fn stored(
        &self,
        file: &OpenFile,
        (pages, pool): (&PageTier, &CpuPool),
        most_bytes: u64,
    ) -> Result<Bytes, ReadError> {
        let found = stored::for_peer(file, pages, most_bytes.min(self.limits.footer_bytes)).await?;
        let id = file.key.id();
        // It is not waited for those who read it too: they may wait for a node that waits for this one. What is wrong with it,
        // whoever asked finds out from the same bytes.
        if !self.footers.contains_key(&id)
            && let Ok(footer) = self.parsed(file, &found, pool).await
        {
            self.footers.insert(id, footer).await;
        }
        Ok(found)
    }

    /// See [`crate::Cache::held_footer`].
    pub(crate) async fn stored_here(
        &self,
        file: &OpenFile,
        pages: &PageTier,
        most_bytes: u64,
    ) -> Result<Option<Bytes>, ReadError> {
        stored::held(file, pages, most_bytes.min(self.limits.footer_bytes)).await
    }

    /// Parses what was found at the end of a file.
    async fn parsed(&self, file: &OpenFile, found: &Bytes, pool: &CpuPool) -> Result<Arc<Footer>, ReadError> {
        let bytes = found.slice(..found.len().saturating_sub(to_usize(TAIL_BYTES)?));
        // Handing a small footer to another thread takes longer than parsing it.
        let small = bytes.len() <= INLINE_FOOTER_BYTES;
        let (limits, path, size) = (self.limits.clone(), namespace_path(file), file.key.size);
        let dialects = Arc::clone(&self.dialects);
        let parse = move || Footer::parse(&bytes, FileAt { path: &path, size }, &limits, &dialects);
        let parsed = if small { guarded(parse) } else { pool.run(parse).await };
        parsed
            .unwrap_or_else(|panic| {
                Err(ReadError::corrupt(
                    &namespace_path(file),
                    None,
                    format!("the footer breaks the parser, which {panic}"),
                ))
            })
            .map(Arc::new)
    }

    /// What files may ask for.
    pub(crate) fn limits(&self) -> &ReadLimits {
        &self.limits
    }

    /// The footer of this generation of a file, where it is kept.
    pub(crate) async fn held(&self, file: &OpenFile) -> Option<Arc<Footer>> {
        self.footers.get(&file.key.id()).await
    }

    /// Bytes that the kept footers take.
    pub(crate) fn bytes(&self) -> u64 {
        self.footers.weighted_size() + self.given.weighted_size()
    }
}

/// A file's name and length, for errors and bounds.
#[derive(Clone, Copy)]
pub(crate) struct FileAt<'a> {
    pub(crate) path: &'a str,
    pub(crate) size: u64,
}

impl FileAt<'_> {
    /// What is read for a footer of `length`: the first read from the file's end, and more where that is too short.
    fn tail(self, length: usize) -> Range<u64> {
        let footer = self.size.saturating_sub(TAIL_BYTES.saturating_add(to_u64(length)));
        footer.min(self.size.saturating_sub(FOOTER_HINT_BYTES))..self.size
    }

    fn corrupt(self, reason: impl Into<String>) -> ReadError {
        ReadError::corrupt(self.path, None, reason)
    }

    fn unreadable(self, reason: impl fmt::Display) -> ReadError {
        self.corrupt(format!("the footer cannot be read: {reason}"))
    }

    fn refused(self, refused: Refused) -> ReadError {
        match refused {
            Refused::Malformed(reason) => self.unreadable(reason),
            Refused::Over { what, value, limit } => ReadError::LimitExceeded {
                path: self.path.to_owned(),
                row_group: None,
                what,
                value,
                limit,
            },
        }
    }
}

/// Where a file is in the namespace: its mount, then its path below it.
pub(crate) fn namespace_path(file: &OpenFile) -> String {
    format!("{}/{}", file.ufs.mount().trim_end_matches('/'), file.path)
}

/// Memory of a footer besides the metadata itself: schema, dialect, cache entry.
const FOOTER_OVERHEAD_BYTES: usize = 4096;
/// What finding one column takes.
const ROOT_BYTES: usize = 2 * size_of::<usize>();

pub(crate) fn to_usize(value: u64) -> Result<usize, ReadError> {
    usize::try_from(value).map_err(|_| ReadError::internal("a length does not fit this machine"))
}

/// What decoding relies on later, checked once.
fn check_metadata(metadata: &ParquetMetaData, at: FileAt<'_>) -> Result<(), ReadError> {
    let mut rows = 0_i64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let fault = |reason: String| ReadError::corrupt(at.path, u32::try_from(index).ok(), reason);
        if group.num_rows() < 0 {
            return Err(fault(format!("it claims {} rows", group.num_rows())));
        }
        rows = rows.saturating_add(group.num_rows());
        for column in group.columns() {
            check_column(column, at.size)
                .map_err(|reason| fault(format!("column {}: {reason}", column.column_path())))?;
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        let claimed = metadata.file_metadata().num_rows();
        return Err(at.corrupt(format!("the footer claims {claimed} rows, its row groups {rows}")));
    }
    Ok(())
}

fn check_column(column: &ColumnChunkMetaData, file_size: u64) -> Result<(), String> {
    if let Some(elsewhere) = column.file_path() {
        return Err(format!(
            "its data is in another file ({elsewhere:?}), which is not supported"
        ));
    }
    let (start, length) = chunk_range(column).ok_or("negative offset or length")?;
    let end = start.checked_add(length).ok_or("its end is out of range")?;
    if end > file_size {
        return Err(format!("its data ends at byte {end} of a file of {file_size}"));
    }
    if column.num_values() < 0 || column.uncompressed_size() < 0 {
        return Err("negative number of values or uncompressed size".to_owned());
    }
    Ok(())
}

/// First byte and length of a column chunk.
///
/// A dictionary offset of zero means none: old writers of C++ put it there for columns without dictionary.
pub(crate) fn chunk_range(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let data = column.data_page_offset();
    let start = column
        .dictionary_page_offset()
        .filter(|at| *at > 0 && *at < data)
        .unwrap_or(data);
    Some((
        u64::try_from(start).ok()?,
        u64::try_from(column.compressed_size()).ok()?,
    ))
}

fn describe(group: &RowGroupMetaData, schema: &Schema) -> RowGroupInfo {
    let mut leaf_bytes = Vec::with_capacity(group.num_columns());
    let mut decoded_bytes = Vec::with_capacity(schema.fields().len());
    let mut stored_bytes = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let first = leaf_bytes.len();
        describe_leaves(field.data_type(), group, &mut leaf_bytes);
        decoded_bytes.push(sum_of(&leaf_bytes[first..]));
        let leaves = group.columns().get(first..leaf_bytes.len()).unwrap_or_default();
        let stored = leaves
            .iter()
            .map(|column| u64::try_from(column.compressed_size()).unwrap_or(0));
        stored_bytes.push(stored.sum());
    }
    let chunks = group.columns().iter().filter_map(chunk_range);
    let spans = chunks.map(|(start, length)| start..start.saturating_add(length));
    let span = spans.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
    RowGroupInfo {
        rows: u64::try_from(group.num_rows()).unwrap_or(0),
        stored_bytes,
        decoded_bytes,
        leaf_bytes,
        span: span.unwrap_or_default(),
    }
}

fn describe_leaves(data_type: &DataType, group: &RowGroupMetaData, out: &mut Vec<u64>) {
    match data_type {
        DataType::Struct(fields) => fields
            .iter()
            .for_each(|field| describe_leaves(field.data_type(), group, out)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => describe_leaves(item.data_type(), group, out),
        leaf => out.push(
            group
                .columns()
                .get(out.len())
                .map_or(0, |column| decoded_size(leaf, column, group.num_rows())),
        ),
    }
}

fn decoded_size(data_type: &DataType, column: &ColumnChunkMetaData, rows: i64) -> u64 {
    // Each row has a value, a null at least; a footer that says less is not believed.
    let values = u64::try_from(column.num_values().max(rows)).unwrap_or(0);
    let text = || {
        let known = column
            .unencoded_byte_array_data_bytes()
            .unwrap_or_else(|| column.uncompressed_size());
        u64::try_from(known).unwrap_or(0)
    };
    let width = |bytes: usize| values.saturating_mul(u64::try_from(bytes).unwrap_or(0));
    match data_type {
        DataType::Null => 0,
        DataType::Boolean => values.div_ceil(8),
        DataType::FixedSizeBinary(size) => values.saturating_mul(u64::from(size.unsigned_abs())),
        DataType::Utf8View | DataType::BinaryView => text().saturating_add(width(16)),
        DataType::LargeUtf8 | DataType::LargeBinary => text().saturating_add(width(8)),
        DataType::Dictionary(keys, _) => {
            let stored = u64::try_from(column.uncompressed_size()).unwrap_or(0);
            stored.saturating_add(width(keys.primitive_width().unwrap_or(4)))
        }
        fixed => fixed
            .primitive_width()
            .map_or_else(|| text().saturating_add(width(4)), width),
    }
}

/// Statistics speak of values, not of how a column is laid out.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

/// Whether a column chunk's minimum and maximum mean what a filter takes them to mean.
fn bounds_hold(column: &ColumnChunkMetaData) -> bool {
    let physical = column.column_type();
    if matches!(
        physical,
        PhysicalType::FLOAT | PhysicalType::DOUBLE | PhysicalType::INT96
    ) {
        return false;
    }
    let half = matches!(
        column.column_descr().logical_type_ref(),
        Some(parquet::basic::LogicalType::Float16)
    );
    let signed = column.column_descr().sort_order() == parquet::basic::SortOrder::SIGNED;
    let undefined = column.column_descr().sort_order() == parquet::basic::SortOrder::UNDEFINED;
    // The first format had one kind of bounds, compared as signed bytes whatever the column held.
    let old = column.statistics().is_some_and(Statistics::is_min_max_deprecated);
    !half && !undefined && (signed || !old)
}
