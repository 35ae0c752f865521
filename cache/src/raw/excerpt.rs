//! A small Parquet file out of a large one: some column chunks of one row group, and a footer that describes just these.
//!
//! ```text
//! PAR1 | column chunks, byte for byte, in the order of the large file | footer, written anew | its length u32 LE | PAR1
//! ```
//! Nothing here does I/O. What the new footer says and what it leaves out:
//!
//! | part | |
//! |---|---|
//! | schema | the leaf columns that were chosen and the groups above them, annotations and field ids kept |
//! | offsets | moved; a dictionary offset that means none is left out |
//! | codecs, encodings, counts, sizes | kept |
//! | `created_by` | kept: readers work around faults of writers by it |
//! | key-value metadata | kept; `ARROW:schema` is cut to the columns, or left out where its fields are not the file's |
//! | statistics, page indexes, Bloom filters, sorting columns | left out: the reader reads all, and indexes lie elsewhere |

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use bytes::Bytes;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaDataBuilder, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor, TypePtr};

use crate::decode::SelectedColumn;
use crate::dialect::{original_schema, regrouped};
use crate::footer::{Footer, chunk_range};
use crate::key::{RowGroup, to_u64, to_usize};
use crate::pages::LARGE_PAGE_BYTES;

/// What a Parquet file begins with; the footer's writer ends it with the same.
const MAGIC: &[u8; 4] = b"PAR1";

/// What the small files of one large file share.
#[derive(Debug)]
pub(crate) struct Excerpt {
    footer: Arc<Footer>,
    /// Leaf columns, ascending.
    leaves: Vec<usize>,
    schema: SchemaDescPtr,
    key_values: Option<Vec<KeyValue>>,
}

/// A column chunk: its leaf column, and where it is in the large file.
pub(crate) type ChunkAt = (usize, Range<u64>);

impl Excerpt {
    /// The columns chosen of a file, each with the type that it is wanted in; there must be one.
    pub(crate) fn new(footer: Arc<Footer>, columns: &[(SelectedColumn, DataType)]) -> Result<Self> {
        let keep: BTreeSet<usize> = columns
            .iter()
            .flat_map(|(column, _)| column.leaves.iter().copied())
            .collect();
        let file = footer.metadata.file_metadata();
        let root = file.schema_descr().root_schema_ptr();
        let pairs = file.key_value_metadata();
        let (schema, key_values) = if keep.len() == file.schema_descr().num_columns() {
            (file.schema_descr_ptr(), pairs.cloned())
        } else {
            let part = pruned(&root, &mut 0, &keep)?.ok_or_else(|| damaged("no column is chosen"))?;
            let schema = Arc::new(SchemaDescriptor::new(part));
            (schema, pairs.map(|pairs| key_values(pairs, &root, columns)))
        };
        Ok(Self {
            leaves: keep.into_iter().collect(),
            key_values,
            schema,
            footer,
        })
    }

    /// Rows of a row group; none where there is no such row group.
    pub(crate) fn rows(&self, row_group: RowGroup) -> Option<u64> {
        let group = self.footer.row_groups.get(index(row_group))?;
        Some(group.rows)
    }

    /// Where a row group's column chunks are, in file order.
    pub(crate) fn chunks(&self, row_group: RowGroup) -> Result<Vec<ChunkAt>> {
        let group = self.group(row_group)?;
        let chunks = self.leaves.iter().map(|leaf| {
            let (start, length) = chunk_range(column(group, *leaf)?).ok_or_else(|| damaged("negative offset"))?;
            let end = start
                .checked_add(length)
                .ok_or_else(|| damaged("offset out of range"))?;
            Ok((*leaf, start..end))
        });
        let mut chunks = chunks.collect::<Result<Vec<_>>>()?;
        chunks.sort_by_key(|(_, range)| range.start);
        Ok(chunks)
    }

    /// Bytes of the small file of a row group.
    pub(crate) fn file_bytes(&self, row_group: RowGroup) -> Result<u64> {
        let chunks = self.chunks(row_group)?;
        let lengths = chunks.iter().map(|(_, range)| range.end - range.start);
        let ends = to_u64(MAGIC.len()) + to_u64(self.end(row_group, &chunks)?.len());
        Ok(lengths.fold(ends, u64::saturating_add))
    }

    /// What large pages of a row group can take unpacked, all together.
    pub(crate) fn large_pages_bytes(&self, row_group: RowGroup) -> Result<u64> {
        let group = self.group(row_group)?;
        let sizes = self
            .leaves
            .iter()
            .map(|leaf| Ok(column(group, *leaf)?.uncompressed_size()));
        let sizes = sizes.collect::<Result<Vec<_>>>()?;
        let sizes = sizes.into_iter().filter_map(|size| u64::try_from(size).ok());
        // Of what unpacks to less no page is large.
        Ok(sizes
            .filter(|size| *size > LARGE_PAGE_BYTES)
            .fold(0, u64::saturating_add))
    }

    /// The small file of a row group, out of its column chunks in the order of [`Excerpt::chunks`].
    pub(crate) fn assemble(&self, row_group: RowGroup, bytes: &[Bytes]) -> Result<Vec<u8>> {
        let end = self.end(row_group, &self.chunks(row_group)?)?;
        let length = MAGIC.len() + bytes.iter().map(Bytes::len).sum::<usize>() + end.len();
        let mut file = Vec::with_capacity(length);
        file.extend_from_slice(MAGIC);
        bytes.iter().for_each(|chunk| file.extend_from_slice(chunk));
        file.extend_from_slice(&end);
        Ok(file)
    }

    /// All that comes after the column chunks.
    fn end(&self, row_group: RowGroup, chunks: &[ChunkAt]) -> Result<Vec<u8>> {
        let group = self.group(row_group)?;
        let mut columns = Vec::with_capacity(chunks.len());
        let mut at = to_u64(MAGIC.len());
        for (leaf, range) in chunks {
            columns.push((*leaf, at));
            at = at.saturating_add(range.end - range.start);
        }
        columns.sort_unstable();
        let columns = columns.into_iter().zip(self.schema.columns());
        let columns = columns.map(|((leaf, at), described)| moved(column(group, leaf)?, described, at));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let uncompressed = columns.iter().map(ColumnChunkMetaData::uncompressed_size);
        let row_group = RowGroupMetaData::builder(Arc::clone(&self.schema))
            .set_num_rows(group.num_rows())
            .set_total_byte_size(uncompressed.fold(0, i64::saturating_add))
            .set_file_offset(MAGIC.len().try_into()?)
            .set_ordinal(0)
            .set_column_metadata(columns)
            .build()?;
        let file = self.footer.metadata.file_metadata();
        let file = FileMetaData::new(
            file.version(),
            group.num_rows(),
            file.created_by().map(str::to_owned),
            self.key_values.clone(),
            Arc::clone(&self.schema),
            None,
        );
        let metadata = ParquetMetaDataBuilder::new(file).add_row_group(row_group).build();
        let mut end = Vec::new();
        ParquetMetaDataWriter::new(&mut end, &metadata).finish()?;
        Ok(end)
    }

    fn group(&self, row_group: RowGroup) -> Result<&RowGroupMetaData> {
        let group = self.footer.metadata.row_groups().get(index(row_group));
        group.ok_or_else(|| damaged("the file has no such row group"))
    }
}

fn index(row_group: RowGroup) -> usize {
    to_usize(u64::from(row_group.0))
}

fn column(group: &RowGroupMetaData, leaf: usize) -> Result<&ColumnChunkMetaData> {
    let column = group.columns().get(leaf);
    column.ok_or_else(|| damaged("the row group lacks a column"))
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// What is said of a column chunk that now begins at byte `at`.
fn moved(column: &ColumnChunkMetaData, described: &ColumnDescPtr, at: u64) -> Result<ColumnChunkMetaData> {
    let start = i64::try_from(at)?;
    let data = column.data_page_offset();
    let dictionary = column
        .dictionary_page_offset()
        .filter(|begins| *begins > 0 && *begins < data);
    ColumnChunkMetaData::builder(Arc::clone(described))
        .set_encodings(column.encodings().collect())
        .set_compression_codec(column.compression_codec())
        .set_num_values(column.num_values())
        .set_total_compressed_size(column.compressed_size())
        .set_total_uncompressed_size(column.uncompressed_size())
        .set_unencoded_byte_array_data_bytes(column.unencoded_byte_array_data_bytes())
        .set_dictionary_page_offset(dictionary.map(|_| start))
        .set_data_page_offset(dictionary.map_or(start, |begins| start.saturating_add(data - begins)))
        .build()
}

/// A part of a schema with the leaves of `keep` alone; none where it has none of them.
fn pruned(node: &TypePtr, next_leaf: &mut usize, keep: &BTreeSet<usize>) -> Result<Option<TypePtr>> {
    if node.is_primitive() {
        let leaf = *next_leaf;
        *next_leaf += 1;
        return Ok(keep.contains(&leaf).then(|| Arc::clone(node)));
    }
    let mut fields = Vec::with_capacity(node.get_fields().len());
    for field in node.get_fields() {
        fields.extend(pruned(field, next_leaf, keep)?);
    }
    if fields.is_empty() {
        return Ok(None);
    }
    regrouped(node, fields).map(Some)
}

/// The file's metadata, its Arrow schema cut to the columns.
fn key_values(pairs: &[KeyValue], root: &TypePtr, columns: &[(SelectedColumn, DataType)]) -> Vec<KeyValue> {
    let (arrow, mut kept): (Vec<_>, Vec<_>) = pairs
        .iter()
        .cloned()
        .partition(|pair| pair.key == ARROW_SCHEMA_META_KEY);
    if !arrow.is_empty()
        && let Some(schema) = original_schema(pairs).and_then(|schema| cut_schema(&schema, root, columns))
    {
        kept.push(KeyValue::new(
            ARROW_SCHEMA_META_KEY.to_owned(),
            encode_arrow_schema(&schema),
        ));
    }
    kept
}

/// The embedded schema of the columns in the order of the file; none where its fields are not those of the file.
fn cut_schema(schema: &Schema, root: &TypePtr, columns: &[(SelectedColumn, DataType)]) -> Option<Schema> {
    let fields = root.get_fields();
    let same_names = schema
        .fields()
        .iter()
        .zip(fields)
        .all(|(origin, field)| origin.name() == field.name());
    if schema.fields().len() != fields.len() || !same_names {
        return None;
    }
    let mut columns: Vec<_> = columns.iter().collect();
    columns.sort_by_key(|(column, _)| column.root);
    let cut = columns
        .into_iter()
        .map(|(column, wanted)| Some(cut(schema.fields().get(column.root)?, wanted)));
    let metadata = schema.metadata().clone();
    Some(Schema::new_with_metadata(cut.collect::<Option<Fields>>()?, metadata))
}

/// The writer's field without the parts of its structs that are not wanted.
fn cut(origin: &FieldRef, wanted: &DataType) -> FieldRef {
    let data_type = match (origin.data_type(), wanted) {
        (DataType::Struct(fields), DataType::Struct(parts)) => {
            let kept = fields.iter().filter_map(|field| {
                let (_, part) = parts.find(field.name())?;
                Some(cut(field, part.data_type()))
            });
            DataType::Struct(kept.collect())
        }
        (DataType::List(item), _) => DataType::List(cut_item(item, wanted)),
        (DataType::LargeList(item), _) => DataType::LargeList(cut_item(item, wanted)),
        (DataType::ListView(item), _) => DataType::ListView(cut_item(item, wanted)),
        (DataType::LargeListView(item), _) => DataType::LargeListView(cut_item(item, wanted)),
        (DataType::FixedSizeList(item, size), _) => DataType::FixedSizeList(cut_item(item, wanted), *size),
        (DataType::Map(entries, sorted), DataType::Map(parts, _)) => {
            DataType::Map(cut_entries(entries, parts), *sorted)
        }
        (other, _) => other.clone(),
    };
    Arc::new(origin.as_ref().clone().with_data_type(data_type))
}

fn cut_item(item: &FieldRef, wanted: &DataType) -> FieldRef {
    match wanted {
        DataType::List(part)
        | DataType::LargeList(part)
        | DataType::ListView(part)
        | DataType::LargeListView(part)
        | DataType::FixedSizeList(part, _) => cut(item, part.data_type()),
        _ => Arc::clone(item),
    }
}

/// Keys and values go by position, since their names are the writer's taste.
fn cut_entries(entries: &FieldRef, parts: &Field) -> FieldRef {
    let (DataType::Struct(pair), DataType::Struct(wanted)) = (entries.data_type(), parts.data_type()) else {
        return Arc::clone(entries);
    };
    let cut = pair
        .iter()
        .zip(wanted)
        .map(|(field, part)| cut(field, part.data_type()));
    let data_type = DataType::Struct(cut.collect());
    Arc::new(entries.as_ref().clone().with_data_type(data_type))
}
